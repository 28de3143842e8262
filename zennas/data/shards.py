"""Tar shards, read in place: an index of where each image lies in them. Nothing is extracted, no link is followed."""

import array
import pathlib
import tarfile
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zennas.data.index import CollectedNames, Names
from zennas.records import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".pgm", ".ppm")
MAX_CLS_BYTES = 32  # a class number with its newline
SAY_EVERY = 10_000  # members


class Members(NamedTuple):
    """The images of a set of shards."""

    shard_N: np.ndarray
    offset_N: np.ndarray  # of the image's first byte in its shard
    size_N: np.ndarray
    names: Names
    label_N: np.ndarray
    identities: Names | None  # None: labels are the numbers in the .cls members


def list_members(paths: Sequence[pathlib.Path | str], *, progress: Callable[[int, int], None] | None = None) -> Members:
    """The Members of tar files, in the order of `paths` and of the files.

    An image's label is the number in the member `KEY.cls` beside it (WebDataset), else its folder's name, sorted.
    Directories, links and files that are no images are passed over. progress(done, total) counts bytes. UserError for a
    file that is no plain tar, is cut short, or labels only some of its images.
    """
    columns = {name: array.array("q") for name in ("shard", "offset", "size", "folder")}
    class_of, folder_number, names = array.array("q"), {}, CollectedNames()
    total, done = sum(pathlib.Path(path).stat().st_size for path in paths), 0
    for shard, path in enumerate(paths):
        classes, pending = {}, []  # of this shard: a sample's members lie in one shard
        for number, (name, offset, size, read) in enumerate(_regular_members(path)):
            head, _, base = name.removeprefix("./").rpartition("/")
            key, _, suffix = base.partition(".")
            if suffix == "cls":
                classes[head, key] = _class_number(path, name, size, read)
            elif base.lower().endswith(IMAGE_SUFFIXES):
                pending.append((head, key))
                folder = head.rpartition("/")[2]
                values = (shard, offset, size, folder_number.setdefault(folder, len(folder_number)))
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
                names.append(name)
            if progress and number % SAY_EVERY == 0:
                progress(done + offset, total)
        class_of.extend(classes.get(key, -1) for key in pending)
        done += pathlib.Path(path).stat().st_size
    shard_N, offset_N, size_N, folder_N = (np.array(column, np.int64) for column in columns.values())
    label_N, names, identities = np.array(class_of, np.int64), names.names(), None
    if not len(label_N):
        raise UserError(f"{paths[0]}: no image among the members; expected names ending in {', '.join(IMAGE_SUFFIXES)}")
    if (label_N < 0).any():
        without = int(np.argmax(label_N < 0))
        where = f"{paths[shard_N[without]]}, member {names[without]}"
        if (label_N >= 0).any():
            raise UserError(f"{where}: has no .cls member beside it, while other images have; label all or none")
        if "" in folder_number:
            raise UserError(
                f"{where}: has neither a .cls member nor a folder to name its identity (Name/Name_0001.jpg)"
            )
        order = sorted(folder_number)
        rank = np.empty(len(order), np.int64)
        rank[[folder_number[name] for name in order]] = np.arange(len(order))
        label_N, identities = rank[folder_N], Names.of(order)
    return Members(shard_N, offset_N, size_N, names, label_N, identities)


def _regular_members(path):
    """(name, offset of the data, size, function that reads it) of the plain files in a tar."""
    size = pathlib.Path(path).stat().st_size
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # tarfile keeps every member; millions are gigabytes
                if not member.isreg() or member.issparse():
                    continue
                if member.offset_data + member.size > size:
                    raise UserError(f"{path}, member {member.name}: the file ends inside it; it was cut short")
                yield member.name, member.offset_data, member.size, lambda: tar.extractfile(member).read()  # noqa: B023
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"{path}: not a plain tar file, or cut short ({error}); a compressed one must be unpacked"
        ) from None


def _class_number(path, name, size, read):
    text = read().strip() if size <= MAX_CLS_BYTES else b""
    if not text.isdigit() or int(text) >= 2**31:
        raise UserError(f"{path}, member {name}: expected an identity's number from 0, got {text!r} ({size} bytes)")
    return int(text)
