"""The work of `zennas run`, and of `zennas search --then-train`: a search, then its best winner trained."""

import dataclasses
from typing import Any

import torch

from zennas.progress import Progress, silent
from zennas.records import UserError
from zennas.run.options import Options
from zennas.search import run as search_room
from zennas.search.measured import Measured
from zennas.search.options import Options as SearchOptions
from zennas.search.show import NO_WINNER, show
from zennas.search.stages import Checked
from zennas.train.request import check_request, request
from zennas.train.terminal import train_and_tell


@dataclasses.dataclass(frozen=True)
class Trained:
    """What `run` returns."""

    winners: tuple[Measured, ...]  # of the search, best first
    trained: dict[str, Any] | None  # the result of the training; None without a winner
    code: int  # exit code

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        return {"winners": [entry.plain() for entry in self.winners], "trained": self.trained}


@dataclasses.dataclass(frozen=True)
class Request:
    """A search, checked, and what the training after it is asked for."""

    search: SearchOptions
    checked: Checked
    training: dict[str, Any]  # as zennas.train.request takes it; the winner is not known yet
    ranks: dict[str, Any]  # as the training is launched with


def run(options: Options | SearchOptions, *, progress: Progress | None = None) -> Trained:
    """Search, then train the best winner. UserError before the search for what either cannot use."""
    progress = progress or silent()
    asked = check(options)
    settled = search_room.search_to_the_end(asked.checked, progress)
    progress.close()
    code = show(settled, asked.search, progress.console)
    if code == NO_WINNER:
        return Trained(winners=(), trained=None, code=code)
    winner, out = settled.folder / "winner-1.yaml", asked.checked.trained_out
    training = request(asked.search.track, winner=winner, out=out, **asked.training)
    result, code = train_and_tell(training, progress.console, **asked.ranks)
    return Trained(winners=settled.winners, trained=result, code=code)


def check(options: Options | SearchOptions) -> Request:
    """The search and the training that are asked for; UserError for what either cannot use. Nothing is touched."""
    if isinstance(options, SearchOptions):
        search, ranks = options, {}
        more: dict[str, Any] = {"data": options.then_train, "space": options.space}
    else:
        search = _search_of(options)
        more = {
            "data": options.data,
            "teacher": options.teacher,
            "verify": options.verify,
            "identities": options.identities,
            "changes": options.set,
            "device": options.device,
        }
        ranks = {"num_ray_workers": options.ray, "address": options.address if options.ray else None}
    training = _given({"budget_ms": search.budget_ms, "backend": search.backend, "fresh": search.fresh} | more)
    checked, ranks = search_room.check(search), _given(ranks)
    check_request(search.track, **training)
    if training.get("device") == "cuda" and not ranks and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine; give --device cpu")
    return Request(search=search, checked=checked, training=training, ranks=ranks)


def _search_of(options):
    """The options of the search, as `zennas search` takes them."""
    same = ("out", "minutes", "candidates", "budget_ms", "backend", "address")
    given = _given({name: getattr(options, name) for name in same})
    return SearchOptions.of(track=options.experiment, **given)


def _given(values):
    return {name: value for name, value in values.items() if value is not None}
