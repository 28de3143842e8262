"""Who answers Ctrl-C and SIGTERM.

Python lets the main thread alone set a handler, and runs it there between two steps of its own. A command may run in
another thread, of a service or a notebook: there whoever owns the process answers. The main thread may be in one long
call of a library: `always_answered`.
"""

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

STOP = (signal.SIGINT, signal.SIGTERM)
SIGACTION_BYTES = 1024  # more than any system's struct sigaction has; Linux's has 152
SOON_S, AT_ONCE_S = 5.0, 3.0  # that a first signal is answered in without a word, and that a second one leaves at most
_heard_at: list[float] = []  # by time.monotonic(), in the block of always_answered


def asked_at() -> float | None:
    """time.monotonic() of the first signal that `always_answered` heard; None before one, and outside of its block."""
    return _heard_at[0] if _heard_at else None


@contextlib.contextmanager
def handling(answer: Callable[[int, Any], None] | None, numbers: Sequence[int] = STOP) -> Iterator[None]:
    """In the block these signals are answered by answer(number, frame); behind it, as before.

    None: the block may change the handlers, as a library does; behind it they are what they were.
    """
    if threading.current_thread() is not threading.main_thread():
        with _kept(numbers) if answer is None else contextlib.nullcontext():
            yield
        return
    # What was set by another language than Python is None, and cannot be put back.
    before = {number: handler for number in numbers if (handler := signal.getsignal(number)) is not None}
    try:
        if answer is not None:
            for number in before:
                signal.signal(number, answer)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _kept(numbers):
    """Behind the block the system has the handlers of before: a library in C sets them from any thread, as Ray does."""
    libc = ctypes.CDLL(None)
    kept = {number: ctypes.create_string_buffer(SIGACTION_BYTES) for number in numbers}
    for number, action in kept.items():
        libc.sigaction(number, None, action)
    try:
        yield
    finally:
        for number, action in kept.items():
            libc.sigaction(number, action, None)


@contextlib.contextmanager
def always_answered(exit_code: int) -> Iterator[None]:
    """In the block no signal waits for the main thread, which is deaf in one long call of a library: Python runs its
    handlers between two steps of its own.

    A first one that does not help soon is told what it waits for. A second one ends the process with this exit code,
    where the handlers do not.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(reader, exit_code), daemon=True)
    listener.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.write(writer, b"\0")
        listener.join()
        _heard_at.clear()
        os.close(reader)
        os.close(writer)


def _listen(reader, exit_code):
    """Read the numbers of signals, down to a zero."""
    heard, wait_s = 0, None
    while True:
        if select.select([reader], [], [], wait_s)[0]:
            (number,) = os.read(reader, 1)
            if number == 0:
                return
            if number in STOP:
                heard += 1
                _heard_at.append(time.monotonic())
                wait_s = {1: SOON_S, 2: AT_ONCE_S}.get(heard, wait_s)
        elif heard == 1:
            wait_s = None
            what = "what is under way is finished first; a second Ctrl-C or SIGTERM ends at once"
            print(f"asked to stop: {what}", file=sys.stderr, flush=True)
        else:
            os._exit(exit_code)
