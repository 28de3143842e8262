"""The work of `zennas clean`: rounds of cleaning, a network trained between two of them."""

import pathlib
from collections.abc import Callable
from typing import Any

from zennas.clean.options import Options
from zennas.clean.request import Request, check
from zennas.clean.rounds import clean, look_at
from zennas.clean.summary import Summary
from zennas.progress import Progress, silent
from zennas.records import Record

TRACK = "webface-sfr"  # whose recipe trains between rounds, where no other is named


class Cleaned(Record):
    """What `clean` returns: what was decided, in numbers; the same as run.json keeps."""

    summary: Summary
    out: pathlib.Path

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        return self.summary.plain()


class Look(Record):
    """What `clean` returns of --look."""

    page: pathlib.Path


def run(options: Options, *, progress: Progress | None = None) -> Cleaned | Look:
    """Clean the data, or write the page of one identity."""
    progress = progress or silent()
    request = check(options)
    if options.look is not None:
        return Look(page=look_at(request, options.look))
    train_next = _trainer(options, request, progress) if options.rounds > 1 else None
    try:
        summary = clean(request, progress=progress, train_next=train_next, taken_back=options.take_back)
    except KeyboardInterrupt:
        progress.end()
        progress.say(f"stopped; what was computed is kept in {request.out}: give the same command again to go on")
        raise
    return Cleaned(summary=summary, out=request.out)


def _trainer(options: Options, request: Request, progress: Progress) -> Callable[[pathlib.Path, pathlib.Path], str]:
    """train_next(labels, out) of `clean`: the track's recipe on the labels. A training that cannot be is refused before
    the first round.
    """
    from zennas.train import run as train
    from zennas.train.options import Options as TrainOptions
    from zennas.train.show import show

    # What a network takes of a budget is nothing to a cleaning.
    asked = TrainOptions.of(
        data=request.data,
        track=options.track or TRACK,
        winner=options.winner,
        out=request.out,
        set=options.set,
        device=request.device,
        any_size=True,
    )
    train.check(asked)

    def train_next(labels: pathlib.Path, out: pathlib.Path) -> str:
        this_round = asked.model_copy(update={"labels": labels, "out": out})
        # A Progress of its own: a training closes its log at its end.
        trained = train.run(this_round, progress=Progress(progress.console))
        show(trained, this_round, progress.console)
        return str(out)

    return train_next


__all__ = ["Cleaned", "Look", "check", "run"]
