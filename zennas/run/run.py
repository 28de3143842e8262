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
from zennas.search.show import NO_WINNER
from zennas.search.show import show as show_winners
from zennas.search.stages import Checked
from zennas.tasks.table import task_of
from zennas.track import load_experiment
from zennas.train import run as train_room
from zennas.train.options import Options as TrainOptions
from zennas.train.request import check_recipe
from zennas.train.show import show as show_network


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
    training: TrainOptions  # without its winner, which is not known yet


def run(options: Options | SearchOptions, *, progress: Progress | None = None) -> Trained:
    """Search, then train the best winner. UserError before the search for what either cannot use."""
    progress = progress or silent()
    asked = check(options)
    look = task_of(load_experiment(str(asked.training.track))[0].task).look
    if look is not None and asked.training.faces == "auto":  # now, and not when the search is over
        look(asked.training.data, progress)
    settled = search_room.search_to_the_end(asked.checked, progress)
    progress.close()
    code = show_winners(settled, asked.search, progress.console)
    if code == NO_WINNER:
        return Trained(winners=(), trained=None, code=code)
    training = asked.training.model_copy(update={"winner": settled.folder / "winner-1.yaml"})
    trained = train_room.run(training, progress=Progress(progress.console))
    code = show_network(trained, training, progress.console)
    return Trained(winners=settled.winners, trained=trained.result, code=code)


def check(options: Options | SearchOptions) -> Request:
    """The search and the training that are asked for; UserError for what either cannot use. Nothing is touched."""
    if isinstance(options, SearchOptions):
        search, data = options, options.then_train
        more: dict[str, Any] = {"space": options.space}
    else:
        search, data = _search_of(options), options.data
        more = {
            name: getattr(options, name)
            for name in ("faces", "teacher", "verify", "identities", "set", "device", "ray")
        }
        more["address"] = options.address if options.ray else None
    checked = search_room.check(search)
    training = TrainOptions.of(
        data=data,
        track=search.track,
        out=checked.trained_out,
        budget_ms=search.budget_ms,
        backend=search.backend,
        fresh=search.fresh,
        **more,
    )
    check_recipe(training)
    if training.device == "cuda" and training.ray is None and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU on this machine; give --device cpu")
    return Request(search=search, checked=checked, training=training)


def _search_of(options: Options) -> SearchOptions:
    """The options of the search, as `zennas search` takes them."""
    same = ("out", "minutes", "candidates", "budget_ms", "backend", "address")
    given = {name: getattr(options, name) for name in same}
    return SearchOptions.of(track=options.experiment, **given)
