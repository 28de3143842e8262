"""Who answers Ctrl-C and SIGTERM.

Python lets the main thread alone set a handler. A command may run in another thread, of a service or a notebook: there
whoever owns the process answers.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

STOP = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def handling(answer: Callable[[int, Any], None] | None, numbers: Sequence[int] = STOP) -> Iterator[None]:
    """In the block these signals are answered by answer(number, frame); behind it, as before.

    None: the block may change the handlers, as a library does; behind it they are what they were.
    """
    if threading.current_thread() is not threading.main_thread():
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
