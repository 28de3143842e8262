"""Options: what a user asks of a training."""

import dataclasses
import pathlib

from zennas.space.candidate import Candidate
from zennas.space.space import Space
from zennas.track import Track
from zennas.train_plan import TrainPlan

# What may change from one start of a run to the next: it moves no weight elsewhere.
NOT_OF_THE_RUN = {"checkpoint_minutes", "keep_checkpoints", "max_skipped_in_a_row", "compile", "verify_epochs"}


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user asks for. It travels to other processes and machines, so it holds values only."""

    name: str  # of the experiment
    asked_track: str  # as the user gave it: a name or a path
    track: Track
    space: Space
    plan: TrainPlan
    candidate: Candidate
    data: pathlib.Path
    out: pathlib.Path
    identities: pathlib.Path | None = None
    teacher: pathlib.Path | None = None
    verify: tuple[str, ...] = ()  # SET.bin, or PAIRS.txt@SOURCE
    device: str | None = None
    backend: str | None = None
    budget_ms: float | None = None
    any_size: bool = False  # a network that need not keep the track's budget: a teacher
    resume: bool = False
    fresh: bool = False
    command: str = ""

    def settings(self, source):
        """What makes this run this run: a resumed one must agree in all of it. Data and teacher may have moved."""
        plan = self.plan.model_dump(mode="json", exclude=NOT_OF_THE_RUN)
        plan["data"].pop("workers")
        return {
            "experiment": self.name,
            "track": self.track.name,
            "candidate": self.candidate.plain(),
            "image_px": self.space.image_px,
            "embedding_size": self.space.embedding_size,
            "data": source.fingerprint,
            "num_images": source.num_images,
            "num_identities": source.num_identities,
            "teacher": self.teacher.name if self.teacher else None,
            **plan,
        }
