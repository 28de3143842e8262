"""Options: what a user asks of a search."""

import dataclasses
import pathlib

from zennas.space.space import Space
from zennas.track import Experiment, SearchPlan, Track

# What may change from one start of a run to the next.
NOT_OF_THE_RUN = {"minutes", "candidates", "candidate_timeout_s", "candidate_memory_gb", "scorers_per_gpu"}


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
    num_workers: int | None = None  # None: one per processor core, here or in the cluster
    address: str | None = None
    device: str | None = None  # the tag of the nodes to measure on; None: those of any
    storage: str | None = None  # as open_storage takes it, password and all
    table: str | None = None  # where the scored candidates go; None: under `out`
    num_islands: int = 1
    resume: bool = False
    fresh: bool = False

    def settings(self, protocol, *, elsewhere=()):
        """What makes this run this run: a resumed one must agree in all of it. elsewhere: the devices that finalists
        are measured on, too."""
        plan = self.plan.model_dump(mode="json", exclude=NOT_OF_THE_RUN)
        return {
            "experiment": self.experiment.name,
            "track": self.track.model_dump(mode="json"),
            "space": self.space.model_dump(mode="json"),
            "protocol": protocol.model_dump(mode="json"),
            "budget_ms": self.budget_ms,
            "detector": str(self.detector) if self.detector else None,
            **plan,
            **({"islands": self.num_islands} if self.num_islands > 1 else {}),  # whose a candidate is depends on it
            **({"also measured on": sorted(elsewhere)} if elsewhere else {}),
        }
