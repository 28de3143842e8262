"""The work of `zennas clean`: rounds of cleaning, a network trained between two of them."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import pydantic

from zennas.clean.options import Options
from zennas.clean.request import Request, check
from zennas.clean.rounds import clean, look_at
from zennas.clean.summary import Summary
from zennas.progress import Progress, silent
from zennas.records import Record

TRACK = "webface-sfr"  # whose recipe trains between rounds, where no other is named


@dataclasses.dataclass(frozen=True)
class Training:
    """A training between two rounds."""

    options: Any  # of `train`
    network: Any  # what `train` returned


class Cleaned(Record):
    """What `clean` returns: what was decided, in numbers; the same as run.json keeps."""

    summary: Summary
    out: pathlib.Path
    # Of this call, for `show`: what earlier calls trained is not read again.
    trainings: tuple[Training, ...] = pydantic.Field((), exclude=True, repr=False)

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        return self.summary.plain()


class LookPage(Record):
    """What `clean` returns of --look."""

    page: pathlib.Path


def run(options: Options, *, progress: Progress | None = None) -> Cleaned | LookPage:
    """Clean the data, or write the page of one identity."""
    progress = progress or silent()
    request = check(options)
    if options.look is not None:
        return LookPage(page=look_at(request, options.look))
    trainings: list[Training] = []
    train_next = _trainer(options, request, trainings, progress) if options.rounds > 1 else None
    try:
        summary = clean(request, progress=progress, train_next=train_next, taken_back=options.take_back)
    except KeyboardInterrupt:
        progress.end()
        progress.say(f"stopped; what was computed is kept in {request.out}: give the same command again to go on")
        raise
    return Cleaned(summary=summary, out=request.out, trainings=tuple(trainings))


def _trainer(
    options: Options, request: Request, trainings: list[Training], progress: Progress
) -> Callable[[pathlib.Path, pathlib.Path], str]:
    """train_next(labels, out) of `clean`: the track's recipe on the labels. Each Training joins `trainings`.

    A training that cannot be is refused before the first round.
    """
    from zennas.tasks.table import task_of
    from zennas.train import run as train
    from zennas.train.options import Options as TrainOptions

    # What a network takes of a budget is nothing to a cleaning.
    asked = TrainOptions.of(
        data=request.data,
        faces=request.faces,
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
        own = Progress(progress.console)  # a training has a log of its own
        try:
            trained = train.run(this_round, progress=own)
        finally:
            own.close()
        trainings.append(Training(this_round, trained))
        if trained.result is not None:
            accuracy = task_of(trained.request.task).page.summary(trained.result)
            progress.say(" ".join(filter(None, (f"trained: {trained.onnx}", accuracy))))
        return str(out)

    return train_next


__all__ = ["Cleaned", "LookPage", "Training", "check", "run"]
