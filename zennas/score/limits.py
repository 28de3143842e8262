"""What one candidate may take of a worker: time and memory. One that wants more fails alone, and the others go on."""

import contextlib
import faulthandler
import pathlib
import signal
import sys
import threading
from collections.abc import Iterator

try:
    import resource
except ImportError:  # not a Unix
    resource = None

AGAIN_S = 1.0  # an alarm that some library swallowed rings again
GRACE = 1.5  # of the time: what hangs in native code hears no alarm, and takes its process with it


class TooLongError(Exception):
    """A candidate took longer than it may."""


@contextlib.contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Raises TooLongError in the block that takes longer; ends the process where it does not hear in the grace time.

    Works in a process's main thread alone, where Ray runs its tasks; elsewhere, and with None, there is no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def ring(number, frame):
        raise TooLongError(f"took longer than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    watched = _watch(GRACE * seconds + AGAIN_S)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if watched:
            faulthandler.cancel_dump_traceback_later()


def _watch(seconds):
    """End this process after so long, from a thread that needs no interpreter; whether that is possible here."""
    try:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__)
    except (OSError, RuntimeError, ValueError, AttributeError):  # no standard error to write to
        return False
    return True


@contextlib.contextmanager
def memory_limit(more_bytes: int | None) -> Iterator[None]:
    """In the block this process may take so many bytes more than it has: an allocation beyond raises MemoryError.

    So nobody is killed. Linux counts what is allocated, touched or not. Elsewhere, and with None, there is no limit.
    """
    status = pathlib.Path("/proc/self/status")
    if more_bytes is None or resource is None or not status.is_file():
        yield
        return
    data_kb = next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmData"))
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = 1024 * data_kb + int(more_bytes)
    resource.setrlimit(resource.RLIMIT_DATA, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))
