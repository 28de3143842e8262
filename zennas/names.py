"""Names of any bytes: files of other systems have names that are no text here, and they are shown, kept and given back.

Python has such a byte as a lone surrogate (os.fsdecode), which no file in UTF-8, no page and no console takes.
"""

import contextlib
import functools
import os
import pathlib
import re
import sys

ESCAPED = re.compile(r"\\u(dc[89a-f][0-9a-f])")  # a byte that is no text, as `shown` has it


def shown(name: object) -> str:
    """A name as text that any file and page takes: what is no text in it, as a \\udcXX for each byte.

    >>> shown("\\udcbc\\udcd7 Zoë")
    '\\\\udcbc\\\\udcd7 Zoë'
    """
    return str(name).encode("utf-8", "backslashreplace").decode("utf-8")


def printable(name: object) -> str:
    """A name on one line of a message: what no terminal prints, escaped.

    >>> printable("Zoë\\x1b[2J")
    'Zoë\\\\x1b[2J'
    """
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in shown(name))


def unshown(text: str) -> str:
    """The name of which `shown` made this text, so that what zennas writes can be given to it.

    >>> unshown(shown("\\udcbc\\udcd7 Zoë")) == "\\udcbc\\udcd7 Zoë"
    True
    """
    return ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)


def text_path(path: os.PathLike | str) -> str:
    """A path to the same file or folder for a library that takes text alone, such as ONNX Runtime and TensorBoard.

    A path that is no text leads through a descriptor of its folder, or of a file whose own name is none, that stays
    open as long as this process (Linux: where else names must be text).
    """
    path = pathlib.Path(path)
    if shown(path) == str(path):
        return str(path)
    through = path if shown(path.name) != path.name else path.parent
    status = os.stat(through)
    descriptor = f"/proc/self/fd/{_opened(through, status.st_dev, status.st_ino)}"
    return descriptor if through == path else f"{descriptor}/{path.name}"


@functools.cache
def _opened(path, device, inode):
    """Opened once, and anew where another file or folder has taken its place."""
    return os.open(path, os.O_RDONLY)


def print_any_name() -> None:
    """Let standard output and error print what they have no letters for, escaped: names of any bytes, in any locale."""
    for stream in (sys.stdout, sys.stderr):
        if getattr(stream, "errors", None) != "backslashreplace" and hasattr(stream, "reconfigure"):
            # Closed, or not what it was when it was opened: whoever made it so reads it.
            with contextlib.suppress(OSError, ValueError):
                stream.reconfigure(errors="backslashreplace")
