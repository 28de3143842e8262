"""Options: what a user asks of a search."""

import dataclasses
import pathlib

from zennas.space.space import Space
from zennas.track import Experiment, SearchPlan, Track


@dataclasses.dataclass(frozen=True)
class Options:
    """What a user asks for."""

    experiment: Experiment
    track: Track
    space: Space
    plan: SearchPlan
    out: pathlib.Path
    backend: str | None = None
    budget_ms: float | None = None
    detector: pathlib.Path | None = None
    num_workers: int = 1
    address: str | None = None
    storage: str | None = None
    resume: bool = False
    fresh: bool = False

    def settings(self, protocol):
        """What makes this run this run: a resumed one must agree in all of it."""
        plan = self.plan.model_dump(mode="json", exclude={"minutes", "candidates"})
        return {
            "experiment": self.experiment.name,
            "track": self.track.model_dump(mode="json"),
            "space": self.space.model_dump(mode="json"),
            "protocol": protocol.model_dump(mode="json"),
            "budget_ms": self.budget_ms,
            "detector": str(self.detector) if self.detector else None,
            **plan,
        }
