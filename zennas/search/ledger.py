"""The ledger of a run: everything that was computed, on disk under --out as soon as it is known, from which a run resumes.

run.json         settings, budget, events, what was re-scored; rewritten whole
scored.parquet/  one part per few seconds, one row per scored candidate, in the order of the proposals
measured.jsonl   one line per network measured whole
"""

import collections
import dataclasses
import json
import os
import pathlib
from typing import NamedTuple

import pandas
import pyarrow
import pyarrow.parquet

from zennas.records import UserError
from zennas.run_folder import explaining, open_run, save_run
from zennas.space.candidate import Candidate


class Row(NamedTuple):
    """One scored candidate."""

    batch: int
    key: str
    text: str
    block: str
    stem: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    score: float | None
    std: float
    seconds: float
    predicted_ms: float  # by the table, before correction
    params: int
    macs: int
    num_blocks: int
    elapsed_s: float  # search time when the result came in
    stage: str | None  # where it failed
    error: str | None

    @property
    def candidate(self):
        return Candidate(block=self.block, stem=self.stem, widths=tuple(self.widths), depths=tuple(self.depths))


SCHEMA = pyarrow.schema(
    [
        ("batch", pyarrow.int32()),
        ("key", pyarrow.string()),
        ("text", pyarrow.string()),
        ("block", pyarrow.string()),
        ("stem", pyarrow.int32()),
        ("widths", pyarrow.list_(pyarrow.int32())),
        ("depths", pyarrow.list_(pyarrow.int32())),
        ("score", pyarrow.float64()),
        ("std", pyarrow.float64()),
        ("seconds", pyarrow.float64()),
        ("predicted_ms", pyarrow.float64()),
        ("params", pyarrow.int64()),
        ("macs", pyarrow.int64()),
        ("num_blocks", pyarrow.int32()),
        ("elapsed_s", pyarrow.float64()),
        ("stage", pyarrow.string()),
        ("error", pyarrow.string()),
    ]
)


@dataclasses.dataclass
class Ledger:
    """An open run folder. Rows are buffered until `flush`; everything else is written at once."""

    folder: pathlib.Path
    state: dict  # what run.json holds
    rows: list
    measured: dict  # key -> entry
    unwritten: list = dataclasses.field(default_factory=list)
    torn: bool = False  # whether measured.jsonl ends in half a line, of a process that was killed while it wrote

    @property
    def scored_folder(self):
        return self.folder / "scored.parquet"

    def append(self, rows):
        """Take rows in; `flush` writes them."""
        self.rows += rows
        self.unwritten += rows

    def flush(self):
        """Write the buffered rows as one more part; a part is there whole or not at all."""
        if not self.unwritten:
            return
        with explaining(self.folder):
            self.scored_folder.mkdir(parents=True, exist_ok=True)
            table = pyarrow.Table.from_pylist([row._asdict() for row in self.unwritten], schema=SCHEMA)
            made_by = json.dumps({"made_by": self.state["made_by"], "counters": self.state["counters"]})
            part = self.scored_folder / f"part-{self.unwritten[0].batch:07d}.parquet"
            temporary = self.scored_folder / f".{part.name}.tmp"
            pyarrow.parquet.write_table(table.replace_schema_metadata({"zennas": made_by}), temporary)
            os.replace(temporary, part)
        self.unwritten = []

    def save(self, **changes):
        """Change entries of run.json and write it."""
        self.state.update(changes)
        save_run(self.folder, self.state)

    def event(self, **values):
        """Note something that changes the proposals after it."""
        self.save(events=[*self.state["events"], values])

    def add_measured(self, entry):
        """Keep an entry for good; the newest of a key counts."""
        self.measured[entry["key"]] = entry
        with explaining(self.folder), open(self.folder / "measured.jsonl", "a", encoding="utf-8") as file:
            file.write("\n" * self.torn + json.dumps(entry) + "\n")
        self.torn = False

    @property
    def run_id(self):
        """What tells this run from any other in a shared store."""
        return f"{self.state['made_by']['date']} {self.folder.resolve()}"

    @property
    def counters(self):
        return collections.Counter(self.state["counters"])

    def frame(self, *, factor=1.0):
        """The scored candidates as a DataFrame, predicted_ms corrected by `factor`."""
        frame = pandas.DataFrame(self.rows, columns=Row._fields)
        return frame.assign(
            predicted_ms=frame["predicted_ms"].astype(float) * factor, score=frame["score"].astype(float)
        )


def open_ledger(folder, settings, *, resume=False, fresh=False, seed=None):
    """The Ledger of a run folder: the one that is there if it is of the same `settings`, else a new one.

    resume: it must be there. fresh: what is there is moved aside to FOLDER.old-N, never deleted.
    UserError where the folder holds another run, something else, or cannot be written.
    """
    start = {
        "budget": None,
        "events": [],
        "rescored": {},
        "counters": {},
        "search_s": 0.0,
        "total_s": 0.0,
        "wall_s": {},
        "finished": False,
    }
    state, there = open_run(folder, settings, start=start, resume=resume, fresh=fresh, seed=seed)
    return _loaded(pathlib.Path(folder), state) if there else Ledger(pathlib.Path(folder), state, [], {})


def _loaded(folder, state):
    rows = []
    for part in sorted((folder / "scored.parquet").glob("part-*.parquet")):
        try:
            table = pyarrow.parquet.read_table(part)
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise UserError(f"{part}: cannot be read ({error}); move it away to score its candidates again") from None
        rows += [Row(**values) for values in table.to_pylist()]
        state["counters"] = json.loads(table.schema.metadata[b"zennas"])["counters"]
    measured = {}
    path = folder / "measured.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    for line in text.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # torn
            continue
        measured[entry["key"]] = entry
    if rows:  # a process that was killed had no time to write down what it spent
        state["search_s"] = max(state["search_s"], rows[-1].elapsed_s)
        state["total_s"] = max(state["total_s"], state["search_s"])
    failed = {event["key"]: event for event in state["events"] if event["why"] == "failed"}
    for index, row in enumerate(rows):
        if row.key in failed:
            rows[index] = row._replace(score=None, stage=failed[row.key]["stage"], error=failed[row.key]["error"])
    return Ledger(folder, state, rows, measured, torn=bool(text) and not text.endswith("\n"))
