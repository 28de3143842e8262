"""The images of a folder, found folder by folder; names that are nobody's are passed by, all others counted."""

import os
import pathlib
import stat
from collections.abc import Iterator
from typing import NamedTuple

from zennas.data.left_out import DEAD_LINK, EMPTY, HIDDEN, NO_IMAGE, UNREADABLE, LeftOut, is_hidden, is_of_a_run

# What OpenCV decodes, under the names that people give it; compared in lower case.
IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".avif"),
    *(".jp2", ".pgm", ".ppm", ".pbm", ".pnm"),
)


class Listed(NamedTuple):
    """The images that lie in a folder itself."""

    folder: str  # its path below the root, parted by '/'; '' of the root
    names: list[str]  # sorted
    stats: list[os.stat_result]


def walk(root: os.PathLike | str, left_out: LeftOut) -> Iterator[Listed]:
    """Every folder below `root` and itself, sorted, in depth; also those without images.

    Links are followed, unless they lead back. What is no image is counted in left_out.
    """
    root = os.fspath(root)
    yield from _walk(root, "", (_identity(root),), left_out)


def below(folder: str, name: str) -> str:
    """The path of a name in a folder, as `Listed` has it.

    >>> below("", "Ada"), below("Ada", "1.jpg")
    ('Ada', 'Ada/1.jpg')
    """
    return f"{folder}/{name}" if folder else name


def is_image(name: str) -> bool:
    """Whether a name is an image's, by its suffix.

    >>> is_image("Zoe.JFIF"), is_image("Zoe.heic")
    (True, False)
    """
    return name.lower().endswith(IMAGE_SUFFIXES)


def is_users_image(path: pathlib.PurePath) -> bool:
    """Whether a path below a folder, or in a tar, is an image's, and no part of it a system's or hidden.

    >>> is_users_image(pathlib.PurePath("Ada/1.jpg")), is_users_image(pathlib.PurePath("__MACOSX/Ada/1.jpg"))
    (True, False)
    """
    return is_image(path.name) and not any(map(is_hidden, path.parts))


def leads_out(name: str) -> bool:
    """Whether a path is not one below the folder to which it is relative.

    >>> leads_out("a/../../b"), leads_out("a/b..png")
    (True, False)
    """
    path = pathlib.PurePath(name)
    return path.is_absolute() or ".." in path.parts


def _walk(root, folder, above, left_out):
    try:
        with os.scandir(os.path.join(root, folder)) as entries:
            entries = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        left_out.add(UNREADABLE, f"{folder}/: {error.strerror}")
        return
    names, stats, inner = [], [], []
    beside = () if folder else {entry.name for entry in entries}
    for entry in entries:
        path = below(folder, entry.name)
        if is_hidden(entry.name):
            left_out.add(HIDDEN, path)
        elif _is_folder(entry):
            inner.append(entry)
        elif not is_image(entry.name):
            if not is_of_a_run(entry.name, beside):
                left_out.add(NO_IMAGE, path)
        elif (status := _status(entry)) is None or not stat.S_ISREG(status.st_mode):
            left_out.add(DEAD_LINK if entry.is_symlink() else UNREADABLE, path)
        elif status.st_size == 0:
            left_out.add(EMPTY, path)
        else:
            names.append(entry.name)
            stats.append(status)
    yield Listed(folder, names, stats)
    for entry in inner:
        identity = _identity(entry.path)
        if entry.is_symlink() and identity in above:
            left_out.add(DEAD_LINK, below(folder, entry.name))
        else:
            yield from _walk(root, below(folder, entry.name), (*above, identity), left_out)


def _is_folder(entry):
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


def _status(entry):
    try:
        return entry.stat()
    except OSError:
        return None


def _identity(path):
    """What tells a folder from others; None where it cannot be had."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
