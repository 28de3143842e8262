"""How a training is asked to stop: what Ctrl-C and SIGTERM do to the step under way."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

from zennas.ranks import Ranks
from zennas.signals import asked_at, handling

GRACE_S = 20.0  # that what waits for other ranks still has after a signal; torchrun kills after 30


class Stopping:
    """Whether this rank is asked to stop, and what may be stopped at once."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.at: float | None = None  # time.monotonic() of the first signal that was answered
        self.between_steps = False  # nothing is half done: what is asked to stop may stop at once
        self.saving = False
        self._waiting_since: float | None = None

    @property
    def asked(self) -> bool:
        """Whether a signal was answered: the step under way is the last one."""
        return self.at is not None

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Ctrl-C and SIGTERM end the step under way, or at once what is between two, and a checkpoint is written; a
        second one ends at once.

        Of several ranks none can write a checkpoint alone. One that waits GRACE_S for what does not come, for another
        rank or for its own batch, ends without: the last checkpoint holds.
        """
        ended = threading.Event()

        def ask(number, frame):
            at_once, self.at = self.asked or self.between_steps, self.at or time.monotonic()
            # No more than that: the handler may interrupt the process in the middle of a line on the terminal.
            if at_once:
                raise KeyboardInterrupt

        if self.ranks.num_ranks > 1:
            threading.Thread(target=self._insist, args=(ended,), daemon=True).start()
        try:
            with handling(ask):
                yield
        finally:
            ended.set()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What may wait for this rank's batch, or in one call of torch for other ranks: their gradients meet in the
        backward pass."""
        self._waiting_since = time.monotonic()
        try:
            yield
        finally:
            self._waiting_since = None

    def _insist(self, ended):
        """Ask a second time where the first does not help. While torch waits, no handler runs, so the first signal may
        be one that only `always_answered` has heard.
        """
        while not ended.wait(1.0):
            asked, since = self.at or asked_at(), self.ranks.waiting_since or self._waiting_since
            if asked and since and not self.saving and time.monotonic() - max(asked, since) > GRACE_S:
                os.kill(os.getpid(), signal.SIGTERM)
                return
