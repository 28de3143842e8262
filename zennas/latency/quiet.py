"""Scorers pause while this machine measures.

Runs of one machine that know nothing of each other meet in two locks of the kernel, which end with the process that
holds them, however it ends: runs of one user, in one /tmp. Containers and users apart do not meet.
"""

# Two locks:
# gate: a measurement holds it from the moment it wants to begin; a scorer passes through it and does not hold it
# room: all scorers share it; a measurement holds it alone, so it waits for the batches that had begun

import contextlib
import os
import pathlib
import stat
import tempfile
from collections.abc import Iterator

try:
    import fcntl
except ImportError:  # not a Unix: searches of one machine do not know of each other
    fcntl = None


@contextlib.contextmanager
def scoring() -> Iterator[None]:
    """The block waits while something on this machine is measured, and is waited for by what measures next."""
    with _lock("gate", alone=True):
        pass
    with _lock("room", alone=False):
        yield


@contextlib.contextmanager
def measuring() -> Iterator[None]:
    """In the block nothing on this machine is scored, and nothing else measured."""
    with _lock("gate", alone=True), _lock("room", alone=True):
        yield


def trouble() -> str | None:
    """Why runs of this machine cannot know of each other here, in a few words; None where they can."""
    if fcntl is None:
        return "only a Unix has the locks"
    try:
        with _lock("gate", alone=False, strict=True):
            return None
    except OSError as error:
        return f"{_folder()}: {error.strerror or error}"


def _folder():
    return pathlib.Path(tempfile.gettempdir()) / f"zennas-{os.getuid()}"  # a home may be that of many machines


@contextlib.contextmanager
def _lock(name, *, alone, strict=False):
    """One of the two locks; none where it cannot be had, for no candidate should fail by that. strict: OSError then."""
    handle = None
    try:
        handle = _held(name, alone=alone) if fcntl else None
    except OSError:
        if strict:
            raise
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _held(name, *, alone):
    folder = _folder()
    folder.mkdir(mode=0o700, exist_ok=True)
    about = folder.lstat()
    # In a /tmp for all somebody else may have been there first.
    if about.st_uid != os.getuid() or not stat.S_ISDIR(about.st_mode) or about.st_mode & 0o022:
        raise PermissionError(f"{folder} is not this user's alone")
    handle = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
    except OSError:
        os.close(handle)
        raise
    return handle
