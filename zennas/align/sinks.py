"""SINKS: where aligned faces are written: a folder, tar shards, or RecordIO."""

import io
import os
import pathlib
import tarfile
from collections.abc import Sequence
from typing import Any

from zennas.data.left_out import is_hidden
from zennas.data.named_images import from_its_folder
from zennas.data.recordio import RecordWriter
from zennas.data.sources import AnySource
from zennas.run_folder import write_atomically

SHARD_BYTES = 2**30  # after which the next tar shard begins
IDENTITIES = "identities.txt"


class Names:
    """The path of every face under --out: that of its photograph, with the suffix .jpg. Two that differ in their
    suffix alone keep it: 1.png and 1.bmp become 1.png.jpg and 1.bmp.jpg. No two faces have one path.

    identities: names by label; every photograph goes into the folder of its own, in place of the folder it lies in.
    """

    def __init__(self, source: AnySource, identities: Sequence[str] | None):
        self.source, self.identities = source, identities
        self._folders = None if identities is None else _folders(identities)
        self._stems, self._twice, self._owners = set(), set(), {}
        for image in range(source.num_images):
            stem = os.path.splitext(self._path(image))[0]
            (self._twice if stem in self._stems else self._stems).add(stem)

    def _path(self, image):
        name = self.source.name(image)
        if name is None:
            return f"{self.source.record(image):09d}"
        # In a tar of a stranger a name may lead anywhere.
        path = "/".join(part for part in from_its_folder(name).split("/") if part != "..")
        return path if self._folders is None else path.rpartition("/")[2]

    def path(self, image: int, identity: int, face: int) -> str:
        """face: of the photograph, from 0."""
        path = self._path(image)
        stem = os.path.splitext(path)[0]
        is_twice = stem in self._twice
        if is_twice:
            stem = self._free(path)
        if face > 0:
            stem = self._free(f"{stem}-{face + 1}")
        if self._folders is not None:
            stem = f"{self._folders[identity]}/{stem}"
        elif self.source.name(image) is None:
            stem = f"{identity:07d}/{stem}"
        # Two of one whole name: of two folders whose photographs are one identity, or of a tar whose names lead out.
        while is_twice and self._owners.setdefault(stem, (image, face)) != (image, face):
            stem += "-"
        return f"{stem}.jpg"

    def _free(self, stem):
        """The stem, longer where it is a photograph's own."""
        while stem in self._stems:
            stem += "-"
        return stem


def _folders(identities):
    """A folder for each identity: of its name where a folder can have it and is read again. No two share one.

    >>> _folders(["Zoe", "..", "_", "a/b", "a_b", ".Zoe"])
    ['Zoe', '_-', '_', 'a_b-', 'a_b', '_.Zoe']
    """
    safe = [name.replace("/", "_") for name in identities]
    safe = ["_" if name in (".", "..") else f"_{name}" if is_hidden(name) else name for name in safe]
    taken = {name for name, folder in zip(identities, safe, strict=True) if name == folder}
    folders = []
    for name, folder in zip(identities, safe, strict=True):
        while folder != name and folder in taken:
            folder += "-"
        taken.add(folder)
        folders.append(folder)
    return folders


class FolderSink:
    """Files under a folder; made anew where they are there already."""

    def __init__(self, folder: pathlib.Path, names: Names, **_: Any):
        self.folder, self.names, self._made = folder, names, set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def add(self, encoded: bytes, row: dict) -> str:
        """Where a face was written."""
        path = self.names.path(row["photograph"], row["identity"], row["face"] or 0)
        parent = path.rpartition("/")[0]
        if parent not in self._made:
            (self.folder / parent).mkdir(parents=True, exist_ok=True)
            self._made.add(parent)
        (self.folder / path).write_bytes(encoded)
        return path


class TarSink:
    """Shards of about SHARD_BYTES; each is there whole or not at all."""

    def __init__(self, folder: pathlib.Path, names: Names, **_: Any):
        self.folder, self.names, self._tar, self._num = folder, names, None, 0

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._close(is_whole=kind is None)

    def _close(self, *, is_whole=True):
        if self._tar is not None:
            self._tar.close()
            temporary = pathlib.Path(self._tar.name)
            if is_whole:
                os.replace(temporary, temporary.with_name(temporary.name.removeprefix(".").removesuffix(".tmp")))
            else:
                temporary.unlink()
            self._tar = None

    def add(self, encoded: bytes, row: dict) -> str:
        """Where a face was written."""
        if self._tar is not None and self._tar.offset + len(encoded) > SHARD_BYTES:
            self._close()
        if self._tar is None:
            path = self.folder / f".faces-{self._num:06d}.tar.tmp"
            self._tar = tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape")  # noqa: SIM115
            self._num += 1
        member = tarfile.TarInfo(self.names.path(row["photograph"], row["identity"], row["face"] or 0))
        member.size = len(encoded)
        self._tar.addfile(member, io.BytesIO(encoded))
        return member.name


class RecordSink:
    """train.rec, train.idx and property; and identities.txt, whose line n is the name of identity n."""

    def __init__(self, folder: pathlib.Path, names: Names, *, num_identities: int, height_width: tuple[int, int]):
        self._writer = RecordWriter(folder, num_classes=num_identities, image_px=height_width)
        self._folder, self._num = folder, 0
        self._identities = names.identities or names.source.identity_names

    def __enter__(self):
        self._writer.__enter__()
        return self

    def __exit__(self, kind, error, trace):
        self._writer.__exit__(kind, error, trace)
        if kind is None and self._identities is not None:
            write_atomically(self._folder / IDENTITIES, "".join(f"{name}\n" for name in self._identities))

    def add(self, encoded: bytes, row: dict) -> str:
        """Where a face was written: its record's number."""
        self._writer.add(encoded, row["identity"])
        self._num += 1
        return str(self._num)


# name of --format -> (folder, names, *, num_identities, height_width)
SINKS = {"folder": FolderSink, "tar": TarSink, "recordio": RecordSink}
