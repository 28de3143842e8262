"""The ledger of a run: all that was computed, on disk as soon as it is known. A run resumes from it.

run.json         settings, budget, events, what was re-scored; rewritten whole
scored.parquet/  one file per batch or second, one row per scored candidate; elsewhere with --table
measured.jsonl   one line per network measured whole

Where a store keeps the run's state too (`keep`), a driver on another machine begins from there.
"""

import collections
import dataclasses
import json
import pathlib
import types
import uuid
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas
import pyarrow

from zennas.records import UserError
from zennas.run_folder import explaining, open_run, save_run
from zennas.search.measured import Measured, parse_lines
from zennas.search.scored import ParquetFolder, Row, Rows, TornFileError

SHARED = ("format", "settings", "made_by", "run")  # entries of run.json that the store keeps once for all islands


@dataclasses.dataclass
class Ledger:
    """An open run folder. Rows are buffered until `flush`; everything else is written at once."""

    folder: pathlib.Path
    _state: dict  # what run.json holds
    rows: Rows
    measured: dict[str, Measured]  # by key; the newest of each
    parquet: ParquetFolder  # of the rows
    unwritten: list = dataclasses.field(default_factory=list)
    known_files: set = dataclasses.field(default_factory=set)
    foreign: set = dataclasses.field(default_factory=set)  # keys that came from other islands by the store
    newer: bool = False  # whether the store holds a later state: another driver went on elsewhere
    torn: bool = False  # whether measured.jsonl ends in half a line, of a process that was killed while it wrote
    keep: Callable[[str, Any], None] | None = None  # keep(name, value): into the store

    @property
    def state(self) -> Mapping[str, Any]:
        """What run.json holds, to be read; the methods of the ledger change it."""
        return types.MappingProxyType(self._state)

    @property
    def island(self) -> int:
        return self.parquet.island

    @property
    def own_N(self) -> np.ndarray:
        """Which rows are this island's."""
        return self.rows.column("island") == self.island

    def append(self, rows: list[Row]) -> None:
        """Take in rows of this island; `flush` writes them."""
        self.rows.extend(rows)
        self.unwritten += rows

    def take_foreign(self, rows: list[Row]) -> None:
        """Take in rows that other islands have written."""
        self.rows.extend(rows)
        self.foreign |= {row.key for row in rows}

    def flush(self) -> None:
        """Write the buffered rows as one more file; it is there whole or not at all."""
        if not self.unwritten:
            return
        metadata = {name: self.state.get(name) for name in ("made_by", "counters", "run")}
        self.known_files.add(self.parquet.write(self.unwritten, metadata=metadata))
        self.unwritten = []

    def refresh(self) -> int:
        """Read what other islands have written meanwhile. The number of those rows."""
        before = len(self.rows)
        for name in self.parquet.names():
            if name not in self.known_files and not self.parquet.is_of(name):
                try:
                    table = self.read(name)[0]
                except TornFileError:  # where moving a file is copying it; whole at the next look
                    continue
                self.known_files.add(name)
                new_N = [key not in self.foreign for key in table["key"].to_pylist()]
                self.rows.extend_from(table.filter(new_N))
        return len(self.rows) - before

    def read(self, name: str) -> tuple[pyarrow.Table, dict]:
        """(pyarrow Table, its metadata) of a file. UserError where the file is another run's."""
        table, metadata = self.parquet.read(name)
        if metadata.get("run") not in (None, self.state.get("run")):
            made_by = metadata["made_by"]
            raise UserError(
                f"{self.parquet.where}: holds candidates of another run ({made_by['command']}, {made_by['date']}), and "
                "what two runs scored is not to be told apart; choose another --table, or give the --storage and "
                "--out of that run"
            )
        return table, metadata

    def save(self, **changes: Any) -> None:
        """Change entries of run.json and write it."""
        self._state.update(changes)
        if self.keep:
            self._state["saves"] = self.state.get("saves", 0) + 1  # so that of two folders the later one is known
            self.keep(f"island:{self.island}", {name: self.state[name] for name in self.state if name not in SHARED})
        save_run(self.folder, self._state)

    def go_on(self) -> None:
        """The run has something to do again. Written with the next `save`, as all that follows here."""
        self._state["finished"] = False

    def note_storage(self, url: str) -> None:
        """Where the run's study is, without a password."""
        self._state["storage"] = url

    def note_store(self, *, num_writes: int, longest_s: float) -> None:
        """How often the store was written to, and how long that took at most."""
        self._state["store"] = {"writes": num_writes, "longest_s": round(longest_s, 3)}

    def set_search_s(self, search_s: float) -> None:
        """The seconds of searching so far, earlier starts of the run included."""
        self._state["search_s"] = search_s

    def set_counters(self, counters: Mapping[str, int]) -> None:
        """What became of the candidates that were looked at; counts of 0 are left out."""
        self._state["counters"] = {name: count for name, count in counters.items() if count}

    def set_wall(self, account: str, seconds: float) -> None:
        """The wall time of an account so far."""
        self._state["wall_s"][account] = round(seconds, 3)

    @property
    def corrections(self) -> list[dict[str, Any]]:
        """The events that corrected the latency table, in order."""
        return [event for event in self._state["events"] if "factor" in event]

    def take_up(self) -> None:
        """Take up where a process ended that may have been killed, and had no time to write down what it knew."""
        own_N = self.own_N
        if own_N.any():
            self._state["search_s"] = max(self._state["search_s"], float(self.rows.column("elapsed_s")[own_N].max()))
            self._state["total_s"] = max(self._state["total_s"], self._state["search_s"])
        for event in self._state["events"]:
            if event["why"] == "failed":
                self.rows.fail(event["key"], stage=event["stage"], error=event["error"])

    def event(self, **values: Any) -> None:
        """Write down something that changes the proposals after it."""
        self.save(events=[*self.state["events"], values])

    @property
    def finalists(self) -> list[Measured]:
        """What was measured whole, without the baselines."""
        return [entry for entry in self.measured.values() if not entry.is_baseline]

    @property
    def baselines(self) -> list[Measured]:
        return [entry for entry in self.measured.values() if entry.is_baseline]

    def add_measured(self, entry: Measured) -> None:
        """Keep what was measured for good; the newest of a key counts."""
        self.take_measured(entry)
        if self.keep:
            self.keep(f"measured:{entry.key}", entry.plain())

    def take_measured(self, entry: Measured) -> None:
        """Keep what the store has already."""
        self.measured[entry.key] = entry
        with explaining(self.folder), open(self.folder / "measured.jsonl", "a", encoding="utf-8") as file:
            file.write("\n" * self.torn + json.dumps(entry.plain()) + "\n")
        self.torn = False

    def keep_in(self, store: Any) -> None:
        """Keep the run's state in the store, too, from now on. What the store lacks is written at once."""
        self.keep = store.keep
        if store.kept("run") is None:
            store.keep_now("run", {name: self.state.get(name) for name in SHARED})
        kept = store.kept_under("measured:")
        for entry in self.measured.values():
            if entry.key not in kept:  # what the store has may be newer
                self.keep(f"measured:{entry.key}", entry.plain())

    def keep_no_more(self) -> None:
        """Keep the run's state in its folder alone, from now on."""
        self.keep = None

    @property
    def run_id(self) -> str:
        """The name of the run in a shared store, unlike that of any other run."""
        return self.state.get("run") or f"{self.state['made_by']['date']} {self.folder.resolve()}"

    @property
    def counters(self) -> collections.Counter:
        return collections.Counter(self.state["counters"])

    def frame(self, *, factor: float | np.ndarray = 1.0) -> pandas.DataFrame:
        """The scored candidates as a DataFrame, predicted_ms corrected by `factor`, one for all or one for each."""
        frame = self.rows.frame()
        return frame.assign(predicted_ms=frame["predicted_ms"] * factor)


def open_ledger(
    folder: str | pathlib.Path,
    settings: dict[str, Any],
    *,
    resume: bool = False,
    fresh: bool = False,
    seed: int | None = None,
    table: str | None = None,
    island: int = 0,
    kept: dict[str, Any] | None = None,
) -> Ledger:
    """The Ledger of a run folder: the one that is there if it is of the same `settings`, else a new one.

    resume: it must be there. fresh: what is there is moved aside to FOLDER.old-N, never deleted.
    table: where the scored candidates are, a folder or a URL of fsspec; default scored.parquet in the folder.
    kept: what a store kept of the run, {name: value}: a folder that holds no run, or an older state of it, begins from
    that. UserError where the folder holds another run, something else, or cannot be written.
    """
    folder = pathlib.Path(folder)
    start = {
        "run": uuid.uuid4().hex,
        "budget": None,
        "events": [],
        "rescored": {},
        "counters": {},
        "search_s": 0.0,
        "total_s": 0.0,
        "wall_s": {},
        "finished": False,
    }
    parquet = ParquetFolder(table or folder / "scored.parquet", island=island)
    apart = table is not None and not parquet.is_in(folder)  # what is in the folder of the run comes and goes with it
    if apart:
        parquet.make_folder()
    if fresh and apart and (names := parquet.names()):
        raise UserError(
            f"--fresh: {parquet.where} holds {len(names)} parts of an earlier run, and nothing is deleted here; choose "
            "another --table"
        )
    before = (kept["run"] | kept.get(f"island:{island}", {})) if kept and kept.get("run") else None
    state, was_there = open_run(folder, settings, start=start, resume=resume, fresh=fresh, seed=seed, before=before)
    newer = False
    if was_there and before is not None:
        if before.get("run") != state.get("run"):
            raise UserError(
                f"the study '{folder.name}' in the store is of another run ({before['made_by']['command']}, "
                f"{before['made_by']['date']}) than the one in {folder}; choose another --out: its name is the study's"
            )
        newer = before.get("saves", 0) > state.get("saves", 0)
    if newer:
        state.update(before)
        save_run(folder, state)
    ledger = Ledger(folder, state, Rows(), {}, parquet, newer=newer)
    if was_there or table is not None:
        _load_rows(ledger)
    if was_there:
        _load_measured(ledger)
    kept = {name: values for name, values in (kept or {}).items() if name.startswith("measured:")}
    entries = [Measured.parse(values, f"the store, {name}") for name, values in kept.items()]
    for entry in sorted(entries, key=lambda entry: entry.latency.date):  # a store gives them in any order
        if newer or entry.key not in ledger.measured:
            ledger.take_measured(entry.changed(onnx=None))  # a file of that name here may be another network's
    return ledger


def _load_rows(ledger):
    for name in ledger.parquet.names():
        table, metadata = ledger.read(name)
        ledger.known_files.add(name)
        ledger.rows.extend_from(table)
        if ledger.parquet.is_of(name):
            ledger.set_counters(metadata["counters"])
    ledger.take_up()


def _load_measured(ledger):
    path = ledger.folder / "measured.jsonl"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    entries, ledger.torn = parse_lines(text, path)
    ledger.measured.update(entries)
