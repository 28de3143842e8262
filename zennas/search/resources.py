"""What a search holds while it runs, and how it gives it back: in one order, however the search ends."""

import contextlib
import pathlib

from zennas.progress import Progress
from zennas.run_folder import lock_folder
from zennas.search.clock import Clock
from zennas.search.ledger import Ledger
from zennas.search.store import Store
from zennas.search.workers import Workers

CLOSE_S = 120.0  # that the end of a run waits for a store that does not answer
LAST_WRITES_S = 1.0  # the same after Ctrl-C: ray job stop kills after three
FAILED_WRITES_S = 10.0  # the same after an error


class Resources:
    """The lock on the run's folder, the Ledger, the Store and the Workers, each from the moment on that it is held.

    A context manager: at its end everything known is written down, and what is held is given back, also where the run
    never came so far as to hold all of it.
    """

    def __init__(self, out: pathlib.Path, progress: Progress):
        """out: where the run is asked to be."""
        self._out, self._progress = out, progress
        self._lock = self._ledger = self._clock = self._store = self._workers = self._note = None

    @property
    def folder(self) -> pathlib.Path:
        """Where everything computed is kept: the ledger's folder, once there is one."""
        return self._out if self._ledger is None else self._ledger.folder

    def lock(self, folder: pathlib.Path) -> None:
        """Hold the folder, unless one is held already. UserError where another run is under way there."""
        if self._lock is None:
            self._lock = lock_folder(folder)

    def hold_ledger(self, ledger: Ledger) -> Ledger:
        self._ledger = ledger
        return ledger

    def hold_clock(self, clock: Clock) -> Clock:
        """From here on the ledger is told at the end what the run has taken."""
        self._clock = clock
        return clock

    def hold_store(self, store: Store) -> Store:
        self._store = store
        return store

    def hold_workers(self, workers: Workers) -> Workers:
        self._workers = workers
        return workers

    def leave_note(self, note: str) -> None:
        """The study's note, in markdown, once everything else is written to it."""
        self._note = note

    def __enter__(self) -> "Resources":
        return self

    def __exit__(self, kind, error, trace) -> None:
        interrupted = isinstance(error, KeyboardInterrupt)
        if interrupted:
            self._progress.end()
            self._progress.say("stopping: writing down what is done, ending Ray")
        self._close(seconds=CLOSE_S if error is None else LAST_WRITES_S if interrupted else FAILED_WRITES_S)

    def _close(self, *, seconds):
        try:
            if self._clock is not None:  # while the store still takes it, too
                self._ledger.save(total_s=self._clock.total_s)
            self._close_store(seconds)
            if self._workers is not None:
                with self._timed("stopping Ray"):
                    self._workers.close()
            if self._clock is not None:
                self._ledger.keep_no_more()  # the store is closed
                self._ledger.save(total_s=self._clock.total_s)
        finally:
            if self._lock is not None:
                self._lock.release()

    def _close_store(self, seconds):
        if self._store is None:
            return
        if self._ledger is None:
            self._store.close(finished=None)
            return
        finished = self._ledger.state["finished"]
        with self._timed("waiting for the study"):
            # What went wrong may have been the disk of the store, which then is not worth waiting for.
            num_scored = int(self._ledger.own_N.sum())
            error = self._store.close(note=self._note, finished=finished, num_scored=num_scored, seconds=seconds)
        if error:
            self._progress.say(
                f"warning: the study is incomplete: {error}; {self._ledger.folder} has it all", style="yellow"
            )
        self._ledger.set_wall("writing the study, beside the search", self._store.seconds)
        self._ledger.note_store(num_writes=self._store.num_writes, longest_s=self._store.longest_s)

    def _timed(self, account):
        return contextlib.nullcontext() if self._clock is None else self._clock.timed(account)
