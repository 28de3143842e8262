"""Signals: who answers them, and that none is left without an answer."""

import ctypes
import hashlib
import os
import pathlib
import signal
import threading

import pytest

from tests.processes import Forked
from zennas import signals
from zennas.signals import always_answered, handling

# The main thread is in one call of a library, which ends by no signal.
DEAF = """
import hashlib, signal, threading
from zennas import signals
signals.SOON_S = signals.AT_ONCE_S = 0.2
with signals.always_answered(130), signals.handling(signal.default_int_handler):
    threading.Timer(0.2, print, ("deaf",), {"flush": True}).start()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 400_000_000)
"""


@pytest.mark.parametrize("number", signals.STOP)
def test_a_signal_in_a_long_call_is_answered(number):
    """The first one in words, the second one at once."""
    run = Forked(DEAF)
    try:
        assert run.stdout.readline() == "deaf\n"
        run.send_signal(number)
        assert run.stderr.readline().startswith("asked to stop: what is under way is finished first")
        assert run.poll() is None
        run.send_signal(number)
        assert run.wait(30) == 130
    finally:
        run.kill()


def test_a_signal_that_is_answered_needs_no_word(capfd, monkeypatch):
    monkeypatch.setattr(signals, "SOON_S", 0.2)
    before = signal.set_wakeup_fd(-1)
    with pytest.raises(KeyboardInterrupt), always_answered(130):
        os.kill(os.getpid(), signal.SIGINT)
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 1_000)
    assert signal.set_wakeup_fd(before) == -1 and capfd.readouterr() == ("", "")


def test_in_a_thread_whoever_owns_the_process_answers():
    seen, handlers = [], [signal.getsignal(number) for number in signals.STOP]

    def work():
        with always_answered(130), handling(lambda number, frame: None):
            seen.append([signal.getsignal(number) for number in signals.STOP])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [handlers]


def in_the_system(number):
    """Whether the system calls a handler at this signal, whoever set it."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    (mask,) = (line.split()[1] for line in lines if line.startswith("SigCgt"))
    return bool(int(mask, 16) >> (number - 1) & 1)


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="Linux says there who handles what")
def test_what_a_library_sets_from_a_thread_is_put_back():
    """As Ray's core does, in C, where Python does not see it."""
    library, seen, number = ctypes.CDLL(None), [], signal.SIGUSR2
    library.signal.argtypes = ctypes.c_int, ctypes.c_void_p

    def work():
        with handling(None, [number]):
            library.signal(number, ctypes.cast(library.abort, ctypes.c_void_p))
            seen.append(in_the_system(number))

    before = in_the_system(number)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (before, seen, in_the_system(number)) == (False, [True], False)
