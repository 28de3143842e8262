"""The work of `zennas train`: a plain function that a script can call."""

import dataclasses
import os
import pathlib
import sys
from typing import Any

from zennas.commands import WRONG_INPUT
from zennas.progress import Progress, silent
from zennas.ranks import EveryRankError
from zennas.records import UserError
from zennas.train import prepare
from zennas.train.finish import MODEL
from zennas.train.launch import is_first_process, launch
from zennas.train.options import Options
from zennas.train.request import Request
from zennas.train.request import check as check_request


@dataclasses.dataclass(frozen=True)
class TrainedNetwork:
    """What `train` returns: the result of a training, as result.json holds it."""

    result: dict[str, Any] | None  # None on every rank but the first
    request: Request

    @property
    def out(self) -> pathlib.Path:
        """The folder of the run: model.onnx, network.pt, result.json, report.html."""
        return self.request.out

    @property
    def onnx(self) -> pathlib.Path:
        """The exported network."""
        return self.out / MODEL

    @property
    def measured_ms(self) -> float | None:
        """Its latency by the track's rule, with the trained weights."""
        return None if self.result is None else float(self.result["latency"]["measured_ms"])

    @property
    def accepted(self) -> bool:
        """Whether it keeps the track's budget, where it has to, and its checker takes it."""
        if self.result is None:
            return True
        within = bool(self.result["latency"]["within_budget"]) or self.request.any_size
        return within and not self.result["export"]["checker"]

    def plain(self) -> dict[str, Any] | None:
        """What JSON says of it."""
        return self.result


def check(options: Options) -> Request:
    """The Request of these options; UserError where it cannot be trained. Nothing is opened and nothing is written."""
    request = check_request(options)
    prepare.check_fit(request)
    return request


def run(options: Options, *, progress: Progress | None = None) -> TrainedNetwork:
    """Train, export and measure. Of several ranks the first alone speaks, and has the result."""
    speaks = is_first_process()
    progress = progress if progress is not None and speaks else silent()
    try:
        return _run(check(options), options, progress)
    except EveryRankError:
        if not speaks:  # the first rank says it
            sys.exit(WRONG_INPUT)
        raise
    except UserError as error:
        raise type(error)(str(error) if speaks else f"rank {os.environ['RANK']}: {error}") from None
    finally:
        progress.close()


def _run(request: Request, options: Options, progress: Progress) -> TrainedNetwork:
    try:
        result = launch(request, progress, num_ray_workers=options.ray, address=options.address)
    except KeyboardInterrupt:
        progress.end()
        progress.say(f"stopped; checkpoints are kept in {request.out}: give the same command again to go on")
        raise
    return TrainedNetwork(result, request)
