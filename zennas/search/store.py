"""The Optuna study of a run: what people look at, what islands tell each other, the state that outlives a driver.

It shows what is worth looking at - the population and the front, everything measured, the failures - and at most
MAX_TRIALS of it, so that optuna-dashboard stays quick. Trials are written whole, by a thread of their own, off the hot
path: a shared store takes 20 of them a second (SQLite) to 60 (PostgreSQL). A candidate is at most one trial as scored
and one as measured.

The run's state (settings, budget, latency table, what was measured, corrections) is kept as system attributes of the
study.
"""

import collections
import contextlib
import datetime
import functools
import json
import logging
import os
import pathlib
import queue
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from zennas.records import UserError
from zennas.search.islands import BEAT_S, Drivers, claim, driverless, take_back, turn
from zennas.search.measured import Measured
from zennas.search.scored import Row
from zennas.search.storage import PATIENCE_S, created, first_cause, open_storage, passes, patiently, shown
from zennas.space.blocks import BLOCKS
from zennas.space.space import Space

MAX_TRIALS = 2000
MAX_FAILED_TRIALS, MAX_MEASURED_TRIALS = 200, 100  # of them, kept free for these
RUN_ATTRIBUTE = "zennas:run"
STATE_PREFIX = "zennas:state:"
EXCHANGE_S = 5.0  # between two looks at what other islands found


class Store:
    """An open study; once begun, also the thread that writes to it."""

    def __init__(
        self,
        space: Space,
        storage: str,
        name: str,
        *,
        label: str = "Zen-Score",
        num_islands: int = 1,
        say: Callable[[str], None] | None = None,
    ):
        """label: the name of the first objective, the score. say(text): told what happens to the store."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self.space, self.shown, self.num_islands, self.say = (
            space,
            shown(storage),
            num_islands,
            say or (lambda text: None),
        )
        self.seconds, self.longest_s, self.num_writes = 0.0, 0.0, 0  # spent by the thread; its longest write; how many
        self.error, self.lost, self.claim, self._turn, self.island = None, None, None, None, 0
        self._down_since = None
        self._known, self._num_failed, self._inbox, self._thread = set(), 0, collections.deque(), None
        self._queue, self._gave_up, self._seen_claims = queue.Queue(), threading.Event(), {}
        with _answering(self.shown), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # set_metric_names is experimental, and the only way to name objectives
            self.storage = created(lambda: open_storage(storage, num_islands=num_islands))
            self.study = created(
                lambda: optuna.create_study(
                    storage=self.storage, study_name=name, directions=["maximize", "minimize"], load_if_exists=True
                )
            )
            self._key = self.storage.get_study_id_from_name(name)
            if not self.study.metric_names:
                self.study.set_metric_names([label, "latency (ms)"])
            # Optuna allows no other choices than a study began with; a block may have been added to the house since.
            self.blocks = list(BLOCKS)
            self._read_trials()

    # --- who works on it ------------------------------------------------------------------------------------------

    def take_island(self) -> int:
        """Take an island for this driver; its number. See islands.py. UserError where none is free."""
        with _answering(self.shown), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drivers = Drivers(self.storage, self.study.study_name)
            drivers.name_objective()
            ask = functools.partial(claim, drivers, self.num_islands, say=self.say, token=uuid.uuid4().hex)
            self.claim = patiently(ask, say=self.say)
        self.island = self.claim.island
        threading.Thread(target=self._live, name="zennas-life", daemon=True).start()
        return self.island

    def _live(self):
        """Give signs of life, in a thread of its own: a long write must not look like a death."""
        while not self._gave_up.wait(BEAT_S):
            for held in (self.claim, self._turn):
                try:
                    if held is not None:
                        held.beat()
                except UserError as error:
                    self.lost = self.lost or error
                except Exception:  # noqa: BLE001 - the store does not answer: the next sign of life may reach it
                    continue

    def check(self) -> None:
        """UserError where another driver has taken the island over: two drivers must not write as one."""
        if self.lost is not None:
            raise self.lost

    def leads(self) -> bool:
        """Whether this driver does what is done once for all islands: it is the first of those that live."""
        if self.claim is None:
            return True
        self.check()
        with _answering(self.shown):
            patiently(lambda: take_back(self.claim.drivers, self._seen_claims, say=self.say), say=self.say)
            return patiently(self.claim.is_first, say=self.say)

    def driverless(self) -> list[int]:
        """The islands that no driver works on and that are not finished."""
        with _answering(self.shown):
            return (
                patiently(lambda: driverless(self.claim.drivers, self.num_islands), say=self.say) if self.claim else []
            )

    @contextlib.contextmanager
    def turn(self, what: str) -> Iterator[None]:
        """Inside the block, this driver alone of all islands does `what`; the others wait.

        What they wrote before is known inside.
        """
        if self.num_islands == 1:
            yield
            return
        with _answering(self.shown):
            asked = {"seen": self._seen_claims, "token": uuid.uuid4().hex}
            wait = functools.partial(turn, self.claim.drivers, what, say=self.say, **asked)
            self._turn = held = patiently(wait, say=self.say)
            patiently(self._read_trials, say=self.say)
        try:
            yield
        finally:
            self._turn = None
            with _answering(self.shown):
                patiently(lambda: held.release(finished=False, num_scored=0), say=self.say)

    # --- state ----------------------------------------------------------------------------------------------------

    def kept(self, name: str) -> Any:
        """What was kept under a name, or None."""
        return self.kept_under(name).get("")

    def kept_under(self, prefix: str) -> dict[str, Any]:
        """{rest of the name: value} of all that was kept under names with this prefix."""
        with _answering(self.shown):
            attributes = patiently(lambda: self.storage.get_study_system_attrs(self._key), say=self.say)
        start = STATE_PREFIX + prefix
        return {
            name.removeprefix(start): json.loads(text) for name, text in attributes.items() if name.startswith(start)
        }

    def keep(self, name: str, value: Any) -> None:
        """Keep a value (JSON) under a name. The thread writes the values in the order of the calls."""
        self._queue.put(lambda: self.storage.set_study_system_attr(self._key, STATE_PREFIX + name, json.dumps(value)))

    def keep_now(self, name: str, value: Any) -> None:
        """Keep a value before this returns."""
        text = json.dumps(value)
        with _answering(self.shown):
            patiently(
                lambda: self.storage.set_study_system_attr(self._key, STATE_PREFIX + name, text),
                say=self.say,
            )

    @property
    def owner(self) -> str | None:
        """The run that the study belongs to, or None."""
        with _answering(self.shown):
            return self.study.user_attrs.get(RUN_ATTRIBUTE)

    def begin(self, run_id: str, *, note: str | None = None) -> None:
        """Take the study for a run, and start to write. UserError where the study is another run's."""
        if (owner := self.owner) not in (None, run_id):
            raise UserError(
                f"--storage {self.shown}: the study '{self.study.study_name}' there belongs to another run ({owner}); "
                "choose another --out (its name is the study's name) or another --storage"
            )
        if owner is None:
            with _answering(self.shown):
                self.study.set_user_attr(RUN_ATTRIBUTE, run_id)
        if note is not None:
            self.write_note(note)
        self._thread = threading.Thread(target=self._work, name="zennas-store", daemon=True)
        self._thread.start()

    # --- what people look at --------------------------------------------------------------------------------------

    def write_note(self, markdown: str) -> None:
        """The study's note in the dashboard."""
        from optuna_dashboard import save_note

        with warnings.catch_warnings(), _answering(self.shown):
            warnings.simplefilter("ignore")
            patiently(lambda: save_note(self.study, markdown), say=self.say)

    def describe(self, attributes: dict[str, Any]) -> None:
        """Show these as attributes of the study."""
        for name, value in attributes.items():
            self._queue.put(lambda name=name, value=value: self.study.set_user_attr(name, value))

    def add_scored(self, row: Row, *, latency_ms: float, budget_ms: float) -> None:
        """Queue a scored candidate (a Row) that is on the front or in the population; once per key."""
        attributes = {"key": row.key, "role": "scored", "seconds": row.seconds, "island": row.island}
        attributes |= {"table_ms": row.predicted_ms} | _costs(row)
        self._add(row.candidate, [row.score, latency_ms], budget_ms, attributes)

    def add_failed(self, row: Row) -> None:
        """Queue a failed candidate with its stage and error."""
        if self._num_failed < MAX_FAILED_TRIALS and f"{row.key} failed" not in self._known:
            self._num_failed += 1
            attributes = {"key": f"{row.key} failed", "role": "failed", "stage": row.stage, "error": row.error}
            self._add(row.candidate, None, None, attributes)

    def add_measured(self, entry: Measured) -> None:
        """Queue a network that was measured whole; it stands beside its scored trial."""
        latency, role = entry.latency, "baseline" if entry.is_baseline else "measured"
        attributes = {"key": f"{entry.key} {role}", "role": role, "name": entry.name} | _costs(entry)
        attributes |= {name: getattr(latency, name) for name in ("measured_ms", "predicted_ms", "spread_pct")}
        attributes |= {"band": entry.band, "below optimum": entry.gap}
        self._add(entry.candidate, [entry.score_mean, latency.measured_ms], latency.budget_ms, attributes)

    def show_files(self, paths: list[pathlib.Path]) -> None:
        """Make these files, the winners' networks, the study's only artifacts.

        Each is a hard link where the disk allows it.
        """
        self._queue.put(lambda: self._attach(paths))

    # --- what islands tell each other -----------------------------------------------------------------------------

    def arrivals(self) -> list[tuple]:
        """The elites that came in since the last call, this island's too: [(genes, score, the table's ms, island)]."""
        return [self._inbox.popleft() for _ in range(len(self._inbox))]

    # --- the thread -----------------------------------------------------------------------------------------------

    def drain(self, seconds: float | None = None) -> bool:
        """Wait until all that is queued is written, at most so many seconds. Whether it is written."""
        end = time.monotonic() + seconds if seconds is not None else None
        with self._queue.all_tasks_done:
            while self._queue.unfinished_tasks:
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._queue.all_tasks_done.wait(left)
        return True

    def close(
        self, *, note: str | None = None, finished: bool | None = False, num_scored: int = 0, seconds: float = 60.0
    ) -> Exception | None:
        """Wait until all that is queued is written, at most `seconds`, and give the island back.

        The first error of the thread, or None.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(seconds)
            if self._thread.is_alive():
                self.error = self.error or TimeoutError("the store did not answer")
        self._gave_up.set()
        # Where this fails the next driver takes the island back, as it does after a kill.
        with contextlib.suppress(UserError):
            if self.error is None and note:
                self.write_note(note)
            if not isinstance(self.error, TimeoutError) and self.claim is not None:
                with _answering(self.shown):
                    self.claim.release(finished=finished, num_scored=num_scored)
        return self.error

    def _work(self):
        exchanged = time.monotonic()
        while True:
            try:
                write = self._queue.get(timeout=1.0)
            except queue.Empty:
                write = False
            if write is None:
                return
            if write:
                self._do(write)
                self._queue.task_done()
            if self.num_islands > 1 and time.monotonic() - exchanged > EXCHANGE_S:
                self._do(self._read_trials)
                exchanged = time.monotonic()

    def _do(self, write):
        start = time.perf_counter()
        # One patience for all that is queued while the store is away, not one for each.
        down_s = time.monotonic() - self._down_since if self._down_since is not None else 0.0
        try:
            patiently(write, say=self.say, gave_up=self._gave_up, patience_s=max(0.0, PATIENCE_S - down_s))
            self._down_since = None
        except Exception as error:  # noqa: BLE001 - any storage's own; told by the run, and the ledger has it all
            self.error = self.error or error
            if passes(error) and self._down_since is None:
                self._down_since = time.monotonic() - PATIENCE_S
        spent_s = time.perf_counter() - start
        self.seconds, self.longest_s = self.seconds + spent_s, max(self.longest_s, spent_s)
        self.num_writes += 1

    def _add(self, candidate, values, budget_ms, attributes):
        if attributes["key"] in self._known:
            return
        if attributes["role"] == "scored" and len(self._known) >= MAX_TRIALS - MAX_FAILED_TRIALS - MAX_MEASURED_TRIALS:
            return
        self._known.add(attributes["key"])
        asked = []

        def write():
            # After a lost connection nobody knows whether the trial was written: look before it is written again.
            if asked and any(trial.user_attrs.get("key") == attributes["key"] for trial in self._trials()):
                return
            asked.append(True)
            self._write(candidate, values, budget_ms, attributes)

        self._queue.put(write)

    def _write(self, candidate, values, budget_ms, attributes):
        values = None if values is None else [round(float(value), 4) for value in values]
        trial = create_trial(
            state=TrialState.FAIL if values is None else TrialState.COMPLETE,
            values=values,
            **self._as_parameters(candidate),
            user_attrs={name: value for name, value in attributes.items() if value is not None}
            | {"candidate": candidate.text},
            # The list form, positive where broken: the one that Optuna and the dashboard's plots honour.
            system_attrs={} if values is None else {"constraints": [values[1] - budget_ms]},
        )
        if attributes.get("seconds"):  # so that the dashboard's timeline shows it
            trial.datetime_start = trial.datetime_start - datetime.timedelta(seconds=attributes["seconds"])
        self.study.add_trial(trial)

    def _attach(self, paths):
        """Attach the files. Where a driver was killed in between, the study's list tells what is attached."""
        prefix, shown_now = "artifacts:", {}
        for name, text in self.storage.get_study_system_attrs(self._key).items():
            if name.startswith(prefix) and json.loads(text):
                shown_now[name] = json.loads(text)["filename"]
        for path in paths:
            folder, link = path.parent / "artifacts", path.with_name(f".{path.name}.link")
            folder.mkdir(exist_ok=True)
            artifact_id = upload_artifact(
                artifact_store=FileSystemArtifactStore(folder),
                file_path=str(path),
                study_or_trial=self.study,
                mimetype="application/octet-stream",
            )
            with contextlib.suppress(OSError):
                os.link(folder / artifact_id, link)
                os.replace(link, path)
        for name in shown_now:
            self.storage.set_study_system_attr(self._key, name, json.dumps(None))
            for folder in {path.parent / "artifacts" for path in paths}:
                (folder / name.removeprefix(prefix)).unlink(missing_ok=True)

    def _trials(self):
        return self.study.get_trials(deepcopy=False)

    def _read_trials(self):
        """Read the study. The elites of other islands go to the inbox."""
        for trial in self._trials():
            if "block" in trial.distributions:
                self.blocks = list(trial.distributions["block"].choices)
            key = trial.user_attrs.get("key")
            if key in self._known:
                continue
            self._known.add(key)
            self._num_failed += trial.state == TrialState.FAIL
            if trial.user_attrs.get("role") == "scored" and trial.user_attrs.get("table_ms"):
                genes = tuple(trial.params[name] for name in self.space.genes)
                island = trial.user_attrs.get("island", 0)
                self._inbox.append((genes, trial.values[0], trial.user_attrs["table_ms"], island))

    def _as_parameters(self, candidate):
        """What a trial says of a candidate: its block, and those of its genes that the space has. A baseline of another
        kind may have other genes, and others than the space's values; its text, an attribute, says all of them."""
        params, distributions = {"block": candidate.block}, {"block": CategoricalDistribution(self.blocks)}
        if len(candidate.genes) == len(self.space.genes):
            for (name, span), value in zip(self.space.genes.items(), candidate.genes, strict=True):
                if value in span.values():
                    params[name] = value
                    distributions[name] = IntDistribution(span.low, span.high, step=span.step)
        return {"params": params, "distributions": distributions}


class _answering:
    """Turns a store that is locked, missing or unwritable into one clear message."""

    def __init__(self, storage):
        self.storage = storage

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        slips = (TypeError, AttributeError, NameError, AssertionError)  # ours, not the store's
        if error is None or isinstance(error, (UserError, *slips)) or not isinstance(error, Exception):
            return
        first_line = first_cause(error)
        hint = (
            "allowed: postgresql://USER@HOST/DATABASE (pip install 'zennas[postgres]'), grpc://HOST:PORT, "
            "journal:FILE in a folder that is there, sqlite:///FILE; see that it is there and can be written"
        )
        if "password" in first_line:
            hint = "a password goes into ~/.pgpass (HOST:PORT:DATABASE:USER:PASSWORD), or the whole URL into @FILE"
        if "locked" in first_line:
            hint = "another process holds it; try again when it is done"
        elif "full" in first_line or "No space" in first_line:
            hint = "what was computed before is kept; make room, then give the same command again"
        raise UserError(f"--storage {self.storage}: cannot be used: {first_line}; {hint}") from None


def _costs(values):
    return {name: getattr(values, name) for name in ("params", "macs", "num_blocks")}
