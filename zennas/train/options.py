"""Options: what a user asks of a training."""

import dataclasses
import pathlib

from zennas.space.candidate import Candidate
from zennas.space.space import Space
from zennas.tasks.table import FIRST
from zennas.tasks.task import Data
from zennas.track import Track
from zennas.train_plan import TrainPlan

PATHS = ("data", "out", "identities", "labels", "teacher", "start")  # fields that say where something lies


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user asks for. It travels to other processes and machines, so it holds values only."""

    name: str  # of the experiment
    asked_track: str  # as the user gave it: a name or a path
    track: Track
    space: Space
    plan: TrainPlan  # of the task
    candidate: Candidate
    data: pathlib.Path
    out: pathlib.Path
    identities: pathlib.Path | None = None
    labels: pathlib.Path | None = None  # a file of data/labels.py: what every image counts as, or that it is left out
    teacher: pathlib.Path | None = None
    start: pathlib.Path | None = None  # a checkpoint to begin from where the folder has none of its own
    verify: tuple[str, ...] = ()  # SET.bin, or PAIRS.txt@SOURCE
    device: str | None = None
    backend: str | None = None
    budget_ms: float | None = None
    any_size: bool = False  # a network that need not keep the track's budget: a teacher
    resume: bool = False
    fresh: bool = False
    command: str = ""
    task: str = FIRST  # a row of TASKS: what the network is for

    def measured_with(self):
        """What the result of a trained network depends on beside its training: where it differs, that alone is made
        again.
        """
        return {
            "budget_ms": self.budget_ms,
            "backend": self.backend,
            "verify": list(self.verify),
            "any_size": self.any_size,
        }

    def settings(self, data: Data, teacher_print: str | None) -> dict:
        """What makes this run this run: a resumed one must agree in all of it. Data and teacher may have moved; what
        they hold must be the same (teacher_print: the teacher's fingerprint, or None)."""
        task = {} if self.task == FIRST else {"task": self.task}
        return {
            "experiment": self.name,
            "track": self.track.name,
            "candidate": self.candidate.plain(),
            **self.space.shape.plain(),
            "data": data.fingerprint,
            **data.counts,
            "teacher": teacher_print,
            **task,
            **self.plan.of_the_run(),
        }
