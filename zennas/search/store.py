"""The Optuna study that a person looks at: the only file that imports optuna.

It shows what is worth looking at - the population and the front, everything measured, the failures - and at most MAX_TRIALS of
it, so that optuna-dashboard stays quick. Trials are written whole, by a thread of their own, off the hot path: a shared store
takes 20 of them a second (SQLite) to 60 (PostgreSQL).
"""

import contextlib
import datetime
import logging
import os
import queue
import threading
import time
import warnings

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from zennas.records import UserError
from zennas.space.blocks import BLOCKS
from zennas.space.space import genes_of

MAX_TRIALS = 2000
MAX_FAILED_TRIALS, MAX_MEASURED_TRIALS = 200, 100  # of them, kept free for these
RUN_ATTRIBUTE = "zennas:run"


class Store:
    """An open study and the thread that writes to it."""

    def __init__(self, space, storage, name, *, run_id, note, label="Zen-Score"):
        """label: what the first objective, the score, is called."""
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        self.space = space
        self.seconds = 0.0  # spent writing, by the thread
        self.error = None
        self._known = set()
        self._num_failed = 0
        with _explaining(storage), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # set_metric_names is experimental, and the only way to name objectives
            self.study = optuna.create_study(
                storage=storage, study_name=name, directions=["maximize", "minimize"], load_if_exists=True
            )
            owner = self.study.user_attrs.get(RUN_ATTRIBUTE)
            if owner not in (None, run_id):
                raise UserError(
                    f"--storage {storage}: the study '{name}' there belongs to another run ({owner}); "
                    "choose another --out (its name is the study's name) or another --storage"
                )
            if owner is None:
                self.study.set_user_attr(RUN_ATTRIBUTE, run_id)
                self.study.set_metric_names([label, "latency (ms)"])
            # Optuna allows no other choices than a study began with; a block may have been added to the house since.
            self.blocks = list(BLOCKS)
            for trial in self.study.get_trials(deepcopy=False):
                if "block" in trial.distributions:
                    self.blocks = list(trial.distributions["block"].choices)
                if not trial.state.is_finished():  # a process was killed while it attached a file; it is written again
                    reason = {"stage": "attaching a file", "error": "the process was killed; see the newer trial"}
                    for attribute, text in reason.items():
                        self.study._storage.set_trial_user_attr(trial._trial_id, attribute, text)
                    self.study.tell(trial.number, state=TrialState.FAIL)
                    continue
                self._known.add(trial.user_attrs.get("key"))
                self._num_failed += trial.state == TrialState.FAIL
        self.write_note(note)
        self._queue = queue.Queue()
        self._thread = threading.Thread(target=self._work, name="zennas-store", daemon=True)
        self._thread.start()

    def write_note(self, markdown):
        """The study's note in the dashboard."""
        from optuna_dashboard import save_note

        with warnings.catch_warnings(), _explaining("the study"):
            warnings.simplefilter("ignore")
            save_note(self.study, markdown)

    def describe(self, attributes):
        """Show these as attributes of the study."""
        with _explaining("the study"):
            for name, value in attributes.items():
                self.study.set_user_attr(name, value)

    def add_scored(self, row, *, latency_ms, budget_ms):
        """Queue a scored candidate (a ledger Row) that is on the front or in the population; once per key."""
        self._add(
            row.candidate,
            [row.score, latency_ms],
            budget_ms,
            {"key": row.key, "role": "scored", "seconds": row.seconds} | _costs(row._asdict()),
        )

    def add_failed(self, row):
        """Queue a failed candidate with its stage and error."""
        if self._num_failed < MAX_FAILED_TRIALS and f"{row.key} failed" not in self._known:
            self._num_failed += 1
            self._add(
                row.candidate,
                None,
                None,
                {"key": f"{row.key} failed", "role": "failed", "stage": row.stage, "error": row.error},
            )

    def add_entry(self, entry, candidate, *, onnx=None):
        """Queue a network that was measured whole; it stands beside its scored trial, under its own role."""
        latency = entry["latency"]
        attributes = {"key": f"{entry['key']} {entry['role']}", "role": entry["role"], "name": entry["name"]} | _costs(
            entry
        )
        attributes |= {
            name: latency[name] for name in ("measured_ms", "predicted_ms", "spread_pct") if latency[name] is not None
        }
        if entry["verdict"]:
            attributes["verdict"] = entry["verdict"]
        self._add(candidate, [entry["score_mean"], latency["measured_ms"]], latency["budget_ms"], attributes, onnx=onnx)

    def _add(self, candidate, values, budget_ms, attributes, *, onnx=None):
        if attributes["key"] in self._known:
            return
        if attributes["role"] == "scored" and len(self._known) >= MAX_TRIALS - MAX_FAILED_TRIALS - MAX_MEASURED_TRIALS:
            return
        self._known.add(attributes["key"])
        self._queue.put((candidate, values, budget_ms, attributes, onnx))

    def drain(self):
        """Wait until everything queued so far is written."""
        self._queue.join()

    def _work(self):
        while (item := self._queue.get()) is not None:
            start = time.perf_counter()
            try:
                self._write(*item)
            except Exception as error:  # noqa: BLE001 - any storage backend's own; reported by close(), the ledger has it all
                self.error = self.error or error
            self.seconds += time.perf_counter() - start
            self._queue.task_done()

    def _write(self, candidate, values, budget_ms, attributes, onnx):
        names = ["block", *self.space.genes]
        values = None if values is None else [round(float(value), 4) for value in values]
        finished = TrialState.FAIL if values is None else TrialState.COMPLETE
        trial = create_trial(
            # A finished trial takes no artifact any more: a trial with one is told its values afterwards.
            state=TrialState.RUNNING if onnx else finished,
            values=None if onnx else values,
            params=dict(zip(names, (candidate.block, *genes_of(candidate)), strict=True)),
            distributions=self._distributions(),
            user_attrs={name: value for name, value in attributes.items() if value is not None}
            | {"candidate": candidate.text},
            # The list form, positive where broken: the one that Optuna and the dashboard's plots honour.
            system_attrs={} if values is None else {"constraints": [values[1] - budget_ms]},
        )
        if attributes.get("seconds"):  # so that the dashboard's timeline shows it
            trial.datetime_start = trial.datetime_start - datetime.timedelta(seconds=attributes["seconds"])
        self.study.add_trial(trial)
        if onnx:
            self._attach(attributes["key"], onnx, values)

    def _attach(self, key, onnx, values):
        """The ONNX file as an artifact of its trial. The file becomes a hard link to the artifact, where links are possible."""
        folder = onnx.parent / "artifacts"
        folder.mkdir(exist_ok=True)
        trial = next(
            one for one in self.study.get_trials(states=[TrialState.RUNNING]) if one.user_attrs.get("key") == key
        )
        artifact_id = upload_artifact(
            artifact_store=FileSystemArtifactStore(folder),
            file_path=str(onnx),
            study_or_trial=trial,
            storage=self.study._storage,
            mimetype="application/octet-stream",
        )
        link = onnx.with_name(f".{onnx.name}.link")
        with contextlib.suppress(OSError):
            os.link(folder / artifact_id, link)
            os.replace(link, onnx)
        self.study.tell(trial.number, values)

    def _distributions(self):
        spans = {name: IntDistribution(span.low, span.high, step=span.step) for name, span in self.space.genes.items()}
        return {"block": CategoricalDistribution(self.blocks), **spans}

    def close(self, *, note=None):
        """Wait until everything queued is written. Gives back the first error of the thread, or None."""
        self._queue.put(None)
        self._thread.join()
        if note and self.error is None:
            self.write_note(note)
        return self.error


class _explaining:
    """Turns a store that is locked, missing or unwritable into one clear message."""

    def __init__(self, storage):
        self.storage = storage

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if error is None or isinstance(error, UserError) or not isinstance(error, Exception):
            return
        first_line = str(error.__cause__ or error).strip().splitlines()[0]
        hint = (
            "another process holds it; try again when it is done"
            if "locked" in first_line
            else (
                "the default is a SQLite file under --out; for PostgreSQL install psycopg and write postgresql://USER@HOST/DATABASE"
            )
        )
        raise UserError(f"--storage {self.storage}: cannot be used: {first_line}; {hint}") from None


def _costs(values):
    return {name: values[name] for name in ("params", "macs", "num_blocks")}
