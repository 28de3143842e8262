"""The index of a data set: flat arrays in a cache folder, memory-mapped by every process that reads the data.

Arrays instead of objects because forty-two million Python objects are gigabytes in each worker, and are copied there as
soon as their reference counts are touched.
"""

import array
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable
from typing import NamedTuple

import filelock
import numpy as np

from zennas.records import UserError
from zennas.run_folder import cache_folder

FORMAT = 2  # raised when an older index could not be read any more


class Names:
    """A sequence of names in two arrays: all their bytes, and where each one ends."""

    def __init__(self, byte_M, end_N):
        self.byte_M, self.end_N = byte_M, end_N

    def __len__(self):
        return len(self.end_N)

    def __getitem__(self, index):
        if not 0 <= index < len(self.end_N):
            raise IndexError(index)
        start = int(self.end_N[index - 1]) if index else 0
        return os.fsdecode(self.byte_M[start : int(self.end_N[index])].tobytes())

    @classmethod
    def of(cls, names: Iterable[str]) -> "Names":
        """The Names of any iterable of strings.

        >>> list(Names.of(["Ada", "", "Grace"]))
        ['Ada', '', 'Grace']
        """
        collected = CollectedNames()
        for name in names:
            collected.append(name)
        return collected.names()

    def taken(self, which_M: np.ndarray) -> "Names":
        """The Names at these places."""
        return Names.of(self[int(index)] for index in which_M)


class CollectedNames:
    """Names while their number is not known."""

    def __init__(self):
        self.text, self.end = bytearray(), array.array("q")

    def append(self, name: str) -> None:
        self.text += _bytes_of(name)
        self.end.append(len(self.text))

    def names(self) -> Names:
        """The Names so far."""
        return Names(np.frombuffer(bytes(self.text), np.uint8), np.array(self.end, np.int64))


def _bytes_of(name):
    try:
        return os.fsencode(name)
    except UnicodeEncodeError:  # a member of a tar, on a system whose own names are ASCII
        return name.encode(errors="surrogateescape")


class Index(NamedTuple):
    """What there is to know of a data set; `label_N` int32 and the places are as long as it has images."""

    kind: str  # a row of sources.KINDS
    files: list[str]  # absolute paths that the places refer to
    label_N: np.ndarray
    places: dict[str, np.ndarray]  # record and offset; or shard, offset and size
    names: Names | None  # of the images: member or path, where they have one
    identities: Names | None  # names of the identities; None where those are their numbers
    num_identities: int
    num_empty: int  # identities with no image
    fingerprint: str  # of what is in the data, wherever it lies: of labels, places and names, and of the images' bytes
    content_N: np.ndarray  # uint64, of content.py: the images' bytes
    left_out: dict[str, list]  # as LeftOut.plain
    notices: list[str]  # sentences on how the data was read

    @classmethod
    def of(
        cls,
        kind: str,
        files: list[str],
        label_N: np.ndarray,
        *,
        places: dict[str, np.ndarray],
        names: Names | None = None,
        identities: Names | None = None,
        num_identities: int,
        content_N: np.ndarray,
        left_out: dict[str, list] | None = None,
        notices: Iterable[str] = (),
    ) -> "Index":
        """An Index whose counts and fingerprint are computed."""
        digest = hashlib.sha256(f"{kind} {num_identities}".encode())
        columns = [label_N.astype(np.int32), *(places[name].astype(np.int64) for name in sorted(places))]
        columns += [part for text in (names, identities) if text is not None for part in (text.byte_M, text.end_N)]
        for column in columns:
            digest.update(np.ascontiguousarray(column).data)
        num_empty = num_identities - int(np.count_nonzero(np.bincount(label_N, minlength=num_identities)))
        label_N = label_N.astype(np.int32)
        return cls(
            kind,
            files,
            label_N,
            places,
            names,
            identities,
            num_identities,
            num_empty,
            f"{digest.hexdigest()[:16]}-{hashlib.sha256(np.ascontiguousarray(content_N).data).hexdigest()[:16]}",
            content_N,
            left_out or {},
            list(notices),
        )


def kept_index(key: str, build: Callable[[], Index], *, what: pathlib.Path | str) -> pathlib.Path:
    """The folder of the Index that `build()` makes, built once per `key` (a string) on this machine.

    It lies in $ZENNAS_CACHE or ~/.cache/zennas, under faces/; other processes wait meanwhile. `what` names the data in
    the UserError of a cache that cannot be written.
    """
    cache = cache_folder("faces")  # so called in ~/.cache/zennas since 0.1.0, whatever the images show
    folder = cache / hashlib.sha256(f"{FORMAT} {key}".encode(errors="surrogateescape")).hexdigest()[:20]
    if (folder / "index.json").is_file():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(cache / f"{folder.name}.lock"):
            if not (folder / "index.json").is_file():
                _write(folder, build())
    except OSError as error:
        raise UserError(
            f"{what}: its index cannot be kept in {cache}: {error.strerror or error}; set ZENNAS_CACHE to a folder "
            f"with room"
        ) from None
    return folder


def load_index(folder: pathlib.Path | str) -> Index:
    """The Index in a cache folder, its arrays memory-mapped."""
    folder = pathlib.Path(folder)
    meta = json.loads((folder / "index.json").read_text(encoding="utf-8"))

    def column(name):
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    def names(name):
        return Names(column(f"{name}_bytes"), column(f"{name}_ends")) if meta.pop(f"has_{name}") else None

    columns = meta.pop("places")
    return Index(
        label_N=column("label"),
        content_N=column("content"),
        places={name: column(name) for name in columns},
        names=names("names"),
        identities=names("identities"),
        **meta,
    )


def file_key(paths: Iterable[pathlib.Path | str]) -> str:
    """What tells files from others and from themselves when they change: absolute path, and what `changes` says."""
    return "\n".join(f"{os.path.abspath(path)}\t{changes(os.stat(path))}" for path in paths)


def changes(stat: os.stat_result) -> str:
    """What changes with a file: its size and its times.

    The time of the last change of its status is the one that no copy brings along and no program sets: cp -p, rsync and
    touch -d change it too. After a chmod or a new hard link an index is made anew, and is the same.
    """
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"


def _write(folder, index):
    """Write an index folder that is there whole or not at all."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    temporary.mkdir()
    columns = {"label": index.label_N, "content": index.content_N, **index.places}
    for name, text in (("names", index.names), ("identities", index.identities)):
        if text is not None:
            columns |= {f"{name}_bytes": text.byte_M, f"{name}_ends": text.end_N}
    for name, column in columns.items():
        np.save(temporary / f"{name}.npy", column)
    meta = {
        "kind": index.kind,
        "files": index.files,
        "num_identities": index.num_identities,
        "num_empty": index.num_empty,
        "fingerprint": index.fingerprint,
        "left_out": index.left_out,
        "notices": index.notices,
        "places": list(index.places),
        "has_names": index.names is not None,
        "has_identities": index.identities is not None,
    }
    (temporary / "index.json").write_text(json.dumps(meta), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(temporary, folder)
