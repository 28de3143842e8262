"""The stages of a search, each a frozen value that is made from the one before:

    Checked -> Opened -> Prepared -> Searched -> Settled

A stage has all that the stages before it have, and what it adds. What changes while a search runs is owned by an object
of its own, which a stage only names: the Ledger, the Store, the Workers, the Clock, the Predictor, the Funnel, the
Batches, the Front. run.py tells the whole way.
"""

import dataclasses
import pathlib
from typing import Any, TypeVar

from zennas.latency.budget import LocalBudget
from zennas.progress import Progress
from zennas.search.bands import Bands
from zennas.search.batches import Batches
from zennas.search.clock import Clock
from zennas.search.cost_limits import CostLimit
from zennas.search.front import Front
from zennas.search.funnel import Funnel
from zennas.search.ledger import Ledger
from zennas.search.measured import Measured
from zennas.search.predictor import Predictor
from zennas.search.resources import Resources
from zennas.search.store import Store
from zennas.search.workers import Workers
from zennas.space.candidate import Candidate
from zennas.space.space import Space
from zennas.track import Experiment, Protocol, SearchPlan, Track

# What may change from one start of a run to the next.
NOT_OF_THE_RUN = {"minutes", "candidates", "candidate_timeout_s", "candidate_memory_gb", "scorers_per_gpu"}


def trained_folder(out: pathlib.Path) -> pathlib.Path:
    """Where the best winner of the search in `out` is trained."""
    return out.with_name(f"{out.name}-trained")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checked:
    """What a user asks for, its names resolved; nothing is touched yet."""

    experiment: Experiment
    track: Track
    space: Space
    plan: SearchPlan
    out: pathlib.Path
    backend: str | None = None
    images: pathlib.Path | None = None  # what networks see while they are timed; None: the track's input
    batch: int | None = None  # images at once while a network is timed; None: the track's
    budget_ms: float | None = None
    detector: pathlib.Path | None = None
    evidence: bool = False  # ask every score of the plan's evidence, not only the one that decides
    num_workers: int | None = None  # None: one per processor core, here or in the cluster
    address: str | None = None
    device: str | None = None  # the tag of the nodes to measure on; None: those of any
    storage: str | None = None  # as open_storage takes it, password and all
    table: str | None = None  # where the scored candidates go; None: under `out`
    num_islands: int = 1
    resume: bool = False
    fresh: bool = False

    @property
    def baselines(self) -> dict[str, Candidate]:
        """{name: hand-made network of the space} that the score can judge: a learned one knows one block alone."""
        learned = self.plan.score.learned
        return {
            name: candidate
            for name, candidate in self.space.baselines.items()
            if learned is None or candidate.kind == learned.kind
        }

    @property
    def trained_out(self) -> pathlib.Path:
        """The folder of a training that follows."""
        return trained_folder(self.out)

    @property
    def num_asked(self) -> int | None:
        """What one island scores of the candidates that were asked for; None where the clock decides."""
        asked = self.plan.candidates
        return asked if asked is None else -(-asked // self.num_islands)

    def settings(self, protocol: Protocol, *, devices: tuple[str, ...] = ()) -> dict[str, Any]:
        """What makes this run this run: a resumed one must agree in all of it. devices: the further ones on which
        finalists are measured.
        """
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
            **({"also measured on": sorted(devices)} if devices else {}),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened(Checked):
    """A run whose folder, island and ledger are this process's; see opening.py."""

    folder: pathlib.Path  # of this island; `out` where there is one
    island: int
    protocol: Protocol
    stand_in: str | None  # a sentence where another kind of device stands in for the track's
    devices: tuple[str, ...]  # further latency devices that the cluster has
    first_limits: tuple[CostLimit, ...]  # beside the latency; without those devices, whose tables are not known yet
    ledger: Ledger
    clock: Clock
    store: Store | None  # opened already where --storage is given
    workers: Workers | None  # connected already where --address is given
    resources: Resources
    progress: Progress

    @property
    def share(self) -> tuple[int, int]:
        """(This island, how many there are.)"""
        return self.island, self.num_islands


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared(Opened):
    """A run that has what a search needs: budget, latency table, measured baselines; see prepare.py."""

    store: Store
    workers: Workers
    machine: str  # what the machine is called that measures the latency
    budget: LocalBudget
    predictor: Predictor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched(Prepared):
    """A search that has begun, and that the finals may go on with; see loop.py."""

    funnel: Funnel | None  # None where the score has no closed form
    batches: Batches
    front: Front

    @property
    def bands(self) -> Bands:
        """The bands of effectiveness that its winners are of."""
        return self.funnel.bands if self.funnel else Bands(self.space)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settled:
    """What a search found; see run.py."""

    experiment: str  # its name
    plan: SearchPlan
    winners: tuple[Measured, ...]  # best first
    baselines: tuple[Measured, ...]
    # A sentence where another kind of device stands in; None where an earlier run had found it all.
    stand_in: str | None
    out: pathlib.Path  # as it was asked for
    folder: pathlib.Path  # of this island: winner-1.yaml, report.html and the rest lie there
    island: int
    num_islands: int
    study: str  # the URL of the Optuna study, without a password
    needs_password: bool

    def plain(self) -> list[dict[str, Any]]:
        """The winners as winners.json has them."""
        return [entry.plain() for entry in self.winners]


Stage = TypeVar("Stage", bound=Checked)


def onwards(stage: Checked, kind: type[Stage], **added: Any) -> Stage:
    """The stage of this kind that follows: all that `stage` has, and what is added."""
    return kind(**(vars(stage) | added))
