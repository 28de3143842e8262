"""The Clock of a run: the minutes that it may take in all, earlier starts included, and where its wall time goes."""

import contextlib
import time
from collections.abc import Iterator

from zennas.search.ledger import Ledger


class Clock:
    """Counts from `begun` (time.monotonic) on top of what earlier starts of the run have spent."""

    def __init__(self, ledger: Ledger, *, begun: float, minutes: float | None):
        """minutes: of the whole run; None where candidates are counted instead."""
        self._ledger, self._begun, self._before_s = ledger, begun, ledger.state["total_s"]
        self._deadline = float("inf") if minutes is None else begun + 60 * minutes - self._before_s
        self._inner_s = 0.0  # of accounts that were opened inside the one that is open

    @property
    def total_s(self) -> float:
        """What the run has taken so far, earlier starts included."""
        return self._before_s + time.monotonic() - self._begun

    @property
    def left_s(self) -> float:
        """Until the minutes are over; below zero afterwards."""
        return self._deadline - time.monotonic()

    @contextlib.contextmanager
    def timed(self, account: str) -> Iterator[None]:
        """Add the seconds spent inside, less those of accounts opened inside, to the wall time of run.json."""
        begun, outer_s, self._inner_s = time.monotonic(), self._inner_s, 0.0
        try:
            yield
        finally:
            spent_s, before_s = time.monotonic() - begun, self._ledger.state["wall_s"].get(account, 0.0)
            self._ledger.set_wall(account, before_s + spent_s - self._inner_s)
            self._inner_s = outer_s + spent_s
