"""The winners of a learned search, all trained by the full recipe: the one that measures best is crowned."""

import json
import pathlib
from typing import Any

import torch

from zennas.embed.checkpoint import load_network
from zennas.embed.model import usable_device
from zennas.learn.outcome import Learned
from zennas.learn.request import Request as LearnRequest
from zennas.progress import Progress
from zennas.records import Record
from zennas.run_folder import write_atomically
from zennas.search.measured import Measured
from zennas.space.candidate import Candidate
from zennas.tasks.table import learning_of
from zennas.train.run import TrainedNetwork
from zennas.trials.trial import REWARD

CROWNED = "crowned.json"


class Finalist(Record):
    """A winner of the search, trained by the full recipe and judged on people whom nobody was trained on."""

    name: str  # of the winner: winner-1
    candidate: Candidate
    folder: str  # of its training
    measured_ms: float  # with the trained weights
    accepted: bool  # by budget and checker
    expected: float  # by the learned line, after a short training
    measured: float  # after the full recipe; in the unit of Crowned


class Crowned(Record):
    """What a learned search came to; crowned.json."""

    measure: str
    unit: str
    judged_on: str  # "test": nothing was chosen by them; "held-out": the line was learned on them, too
    finalists: tuple[Finalist, ...]  # those that are accepted first, best measure first

    @property
    def best(self) -> Finalist:
        """The crowned one."""
        return self.finalists[0]


def crown(
    request: LearnRequest, learned: Learned, trained: list[tuple[Measured, TrainedNetwork]], progress: Progress
) -> Crowned:
    """Judge every trained winner on the people of the test, or, where there are none, on those held out; crowned.json
    beside their folders."""
    learning = learning_of(request.task)
    progress.begin("judging the finalists")
    source = learning.open_source(request, progress)
    groups = learning.split(request, source)
    judged_on, group = ("held-out", groups.held_out) if groups.test is None else ("test", groups.test)
    device, finalists = torch.device(usable_device(request.device)), []
    for entry, network in trained:
        assert network.result is not None
        weights = load_network(network.out / "network.pt").to(device)
        numbers = learning.judge(request, source, weights, group, device=device, autocast=None)
        finalists.append(
            Finalist(
                name=entry.name,
                candidate=entry.candidate,
                folder=str(network.out),
                measured_ms=network.result["latency"]["measured_ms"],
                accepted=network.accepted,
                expected=entry.score_mean,
                measured=learning.unit.times * numbers[REWARD],
            )
        )
    progress.end()
    finalists.sort(key=lambda finalist: (not finalist.accepted, -finalist.measured))
    crowned = Crowned(measure=learned.measure, unit=learned.unit, judged_on=judged_on, finalists=tuple(finalists))
    content: dict[str, Any] = crowned.model_dump(mode="json")
    write_atomically(pathlib.Path(finalists[0].folder).parent / CROWNED, json.dumps(content, indent=1) + "\n")
    return crowned
