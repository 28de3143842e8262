"""Measured: a network that was measured whole; a line of measured.jsonl, an entry of winners.json.

A Measured is made from the plain values that the file holds. What an older file lacks gets its default here, and is
left out again where the Measured is written: an old entry that is read and written stays as it was, byte for byte.
"""

import json
from typing import Any, Literal

import pydantic

from zennas.export.onnx_file import Proof
from zennas.latency.budget import JudgedLatency
from zennas.provenance import Provenance
from zennas.records import Record
from zennas.score.branches import WayScores
from zennas.space.candidate import Candidate
from zennas.track import Protocol, ScorePlan


class LatencyEntry(JudgedLatency):
    """A network's latency on the run's own device, beside the budget and what the latency table predicted."""

    predicted_ms: float  # by the table, corrected as far as it was corrected by then
    table_ms: float  # by the table as it was measured

    @property
    def off_pct(self) -> float:
        """By how much the measurement is above the prediction, in per cent of the prediction."""
        return 100 * (self.measured_ms / self.predicted_ms - 1)


class DeviceLatency(Record):
    """A network's latency on a further device of the cluster, beside the budget that the run has there."""

    measured_ms: float
    predicted_ms: float | None  # None where the table of that device lacks the network's blocks
    table_ms: float | None
    budget_ms: float
    within_budget: bool
    warning: str | None
    raw_ms: tuple[float, ...]
    protocol: Protocol
    machine: str
    date: str
    versions: dict[str, str]
    load_average: float

    @property
    def off_pct(self) -> float:
        """As LatencyEntry has it; of a network that the table knows."""
        return 100 * (self.measured_ms / self.predicted_ms - 1)


class ExportEntry(Proof):
    """The proof that the exported file answers as the network does, and what the track's checker would refuse in it."""

    checker: tuple[str, ...] = ()


class SpentCost(Record):
    """What a network costs of one of the run's further limits."""

    cost: float
    most: float


class MirroredLatency(Record):
    """What an embedding costs that is made of an image and its mirror image, both in one batch; milliseconds."""

    measured_ms: float
    spread_pct: float
    times: float  # the same for the image alone
    raw_ms: tuple[float, ...]
    protocol: Protocol
    machine: str
    date: str
    load_average: float


def score_seed(seed: int, *, is_baseline: bool) -> int:
    """The seed of the random numbers by which a network is scored that is measured whole, of a search's own seed:
    finalists are scored anew, so that none of them is here by its luck."""
    return seed if is_baseline else seed + 1


class Measured(Record):
    """A network that was measured whole: its score, its latency on every device, and what became of it."""

    role: Literal["winner", "finalist", "baseline"]
    name: str
    key: str  # the candidate's
    candidate: Candidate
    score_mean: float
    score_std: float
    score: ScorePlan
    params: int
    macs: int
    num_blocks: int
    megabytes: float
    latency: LatencyEntry
    by_device: dict[str, DeviceLatency] = pydantic.Field({}, alias="elsewhere")  # further devices of the cluster
    export: ExportEntry
    onnx: str | None  # the name of its file in the run's folder
    verdict: str | None  # why it is no winner
    made_by: Provenance
    # What is known once the search is over; see proof.py.
    other_costs: dict[str, SpentCost] = {}
    closed_form: float | None = None
    gap: float | None = None  # below the proven optimum of its band, in points of the score
    gap_pct: float | None = None
    mirrored: MirroredLatency | None = None  # where the track prices it
    ways: WayScores | None = None  # the score of each way through a network of several, on the score's own images
    band: str | None = None  # of effectiveness; None where the run has none, or the network other blocks

    @property
    def is_baseline(self) -> bool:
        return self.role == "baseline"

    @property
    def latencies(self) -> tuple[LatencyEntry | DeviceLatency, ...]:
        """On the run's own device, then on the further ones."""
        return (self.latency, *self.by_device.values())

    @property
    def keeps_budgets(self) -> bool:
        """Whether it keeps the budget of every device on which it was measured."""
        return all(latency.within_budget for latency in self.latencies)

    @property
    def over(self) -> str | None:
        """Which budgets it does not keep, and by how much; None where it keeps all."""
        devices = {"": self.latency} | {f" of {name}": latency for name, latency in self.by_device.items()}
        over_pct = {name: 100 * (latency.measured_ms / latency.budget_ms - 1) for name, latency in devices.items()}
        return ", ".join(f"over budget{name} by {pct:.1f} %" for name, pct in over_pct.items() if pct > 0) or None

    @property
    def gap_text(self) -> str:
        """How far it is below the proven optimum of its band, in points and per cent of the score.

        '-' where nothing is known, or where it is over the budget that the optimum keeps.
        """
        if self.gap is None or not self.latency.within_budget:
            return "-"
        return f"{self.gap:.2f} ({self.gap_pct:.2f} %)"

    def changed(self, **changes: Any) -> "Measured":
        """The same network with other values of these fields."""
        return self.model_copy(update=changes)

    def plain(self) -> dict:
        """The mapping that the files hold: their keys, in their order, without what an older file lacked."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)


def parse_lines(text: str, where: str) -> tuple[dict[str, Measured], bool]:
    """({key: Measured} of the lines of a measured.jsonl, the newest of a key; whether its last line is torn).

    A process that was killed while it wrote leaves half a line, which is left out. UserError where a whole line holds
    something else.
    """
    measured = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        entry = Measured.parse(values, f"{where}, line {number}")
        measured[entry.key] = entry
    return measured, bool(text) and not text.endswith("\n")
