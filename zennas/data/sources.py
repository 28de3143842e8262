"""Where labelled images lie: RecordIO, tar shards or a folder of folders, behind one Source with random access."""

import collections
import contextlib
import hashlib
import os
import pathlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from zennas.data import recordio
from zennas.data.image_set import ImageSet, changed_at
from zennas.data.images import CorruptImageError, UnreadableImageError
from zennas.data.index import Index, Names, file_key, kept_index, load_index
from zennas.data.labels import Relabelled, relabelled
from zennas.data.shards import IMAGE_SUFFIXES, list_members
from zennas.records import UserError, some, suggestion

ACCEPTED = (
    "accepted are a folder with train.rec (or a .rec file), a .tar file or a folder of .tar files, "
    f"and a folder with one sub-folder of images ({', '.join(IMAGE_SUFFIXES)}) per identity"
)
MAX_OPEN_FILES = 256  # per process; shards beyond it take turns


class Source:
    """Labelled images with random access; opened by `open_source`.

    It may be forked, pickled (to the same machine) and shared by threads. It has:
    - path
    - num_images, num_identities, num_empty_identities (those with no image)
    - label_N: int32, memory-mapped
    - identity_names: a sequence, or None where identities are numbers
    - fingerprint: of the content, the same wherever the data lies
    """

    def __init__(self, path, folder):
        self.path, self.folder = pathlib.Path(path), folder
        self._index = load_index(folder)
        self._kind = KINDS[self._index.kind]
        self._files = collections.OrderedDict()
        self.label_N = self._index.label_N
        self.num_images = len(self.label_N)
        self.num_identities = self._index.num_identities
        self.num_empty_identities = self._index.num_empty
        self.identity_names = self._index.identities
        self.fingerprint = self._index.fingerprint

    def __reduce__(self):
        return Source, (self.path, self.folder)

    def read(self, index: int) -> bytes:
        """The encoded bytes of image `index`; CorruptImageError where they cannot be had."""
        try:
            return self._kind.read(self, self._index, index)
        except OSError as error:
            raise UnreadableImageError(f"cannot be read: {error.strerror}") from None

    def where(self, index: int) -> str:
        """Where image `index` lies, for people: 'train.rec, record 17'."""
        return self._kind.where(self._index, index)

    def name(self, index: int) -> str | None:
        """The path or member name of image `index`, or None in a source without names."""
        return self._index.names[index] if self._index.names is not None else None

    def record(self, index: int) -> int | None:
        """The number of image `index` in RecordIO, as `where` says it, or None in a source of another kind."""
        return int(self._index.places["record"][index]) if "record" in self._index.places else None

    @property
    def images(self) -> ImageSet:
        """All of it as an ImageSet, with the source's own fingerprint: the same wherever the data lies."""
        return ImageSet(self.num_images, self.read, self.where, self.fingerprint)

    def some(self, index_M: np.ndarray) -> ImageSet:
        """The ImageSet of the images at these places; its fingerprint changes with any file that does."""
        index_M = np.asarray(index_M, np.int64)
        if self._index.kind == "folders":
            files = (pathlib.Path(self._index.files[0], self.name(int(index))) for index in index_M)
        else:
            files = self._index.files
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update(index_M.tobytes())
        digest.update("\n".join(map(changed_at, files)).encode())
        return ImageSet(
            len(index_M),
            lambda image: self.read(int(index_M[image])),
            lambda image: self.where(int(index_M[image])),
            digest.hexdigest()[:16],
        )

    def descriptor(self, path: str) -> BinaryIO:
        """An open file that `os.pread` may read; hold the returned object meanwhile.

        Of more than MAX_OPEN_FILES, the one that was not asked for the longest is closed.
        """
        file = self._files.get(path)
        if file is None:
            if len(self._files) >= MAX_OPEN_FILES:
                self._files.popitem(last=False)  # closes as soon as no thread holds it
            file = self._files[path] = open(path, "rb", buffering=0)  # noqa: SIM115
        else:
            with contextlib.suppress(KeyError):  # another thread has just let go of it
                self._files.move_to_end(path)
        return file


AnySource = Source | Relabelled  # what `open_source` gives


def open_source(
    path: pathlib.Path | str,
    *,
    identities: pathlib.Path | str | None = None,
    labels: pathlib.Path | str | None = None,
    progress: Callable | None = None,
) -> AnySource:
    """The Source of what lies at `path`: RecordIO, tar shards or an image folder. Its index is built once and kept.

    identities: a text file with one identity per line (folder name, or number where the source has no names); only
    their images are in the Source, and they are numbered from 0 in the order that they have in the whole source.
    labels: a file of labels.write_labels, which says all of that image by image, so it goes without identities.
    progress(done, total) is called while the index is built. UserError where nothing lies there that is accepted, or
    what lies there is damaged.
    """
    path = pathlib.Path(path)
    if labels is not None and identities is not None:
        raise UserError(f"{identities} and {labels}: identities and labels exclude each other; labels leave out images")
    if not os.path.exists(path):
        raise UserError(f"{path}: no such file or folder; {ACCEPTED}")
    kind, files, key = _what_lies_at(path)
    folder = kept_index(f"{kind}\n{key}", lambda: KINDS[kind].build(files, progress), what=path)
    if identities is not None:
        wanted = _wanted_names(identities)
        key = f"{folder.name}\n" + "\n".join(sorted(wanted))
        whole = folder
        folder = kept_index(key, lambda: _restricted(load_index(whole), wanted, identities, path), what=path)
    source = Source(path, folder)
    return source if labels is None else relabelled(source, labels)


def _what_lies_at(path):
    """(kind, files, cache key)."""
    if path.is_file():
        if path.suffix not in (".rec", ".tar"):
            raise UserError(f"{path}: is a file of no known layout; {ACCEPTED}")
        kind, files = ("records" if path.suffix == ".rec" else "tars"), [path]
    elif (path / "train.rec").is_file():
        kind, files = "records", [path / "train.rec"]
    elif files := sorted(path.glob("*.tar")):
        kind = "tars"
    else:
        return _image_folder(path)
    beside = [files[0].with_suffix(".idx"), files[0].with_name("property")] if kind == "records" else []
    return kind, files, file_key([*files, *(file for file in beside if file.is_file())])


def _image_folder(path):
    """As `_what_lies_at`. A folder's time of change tells when a file was added or taken away: no file is listed."""
    folders = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    if not folders:
        raise UserError(f"{path}: holds no train.rec, no .tar file and no sub-folder; {ACCEPTED}")
    return "folders", [path, *folders], file_key(path / name for name in folders)


def _build_records(files, progress):
    record_N, offset_N, label_N, num_classes = recordio.index_records(files[0], progress=progress)
    if not len(label_N):
        raise UserError(f"{files[0]}: holds no image")
    identities = None
    if num_classes is None:
        label_N, identities, num_classes = _dense(label_N)
    return Index.of(
        "records",
        [os.path.abspath(files[0])],
        label_N,
        places={"record": record_N, "offset": offset_N},
        identities=identities,
        num_identities=num_classes,
    )


def _build_tars(files, progress):
    members = list_members(files, progress=progress)
    label_N, identities = members.label_N, members.identities
    if identities is None:
        label_N, identities, num_identities = _dense(label_N)
    else:
        num_identities = len(identities)
    return Index.of(
        "tars",
        [os.path.abspath(file) for file in files],
        label_N,
        places={"shard": members.shard_N, "offset": members.offset_N, "size": members.size_N},
        names=members.names,
        identities=identities,
        num_identities=num_identities,
    )


def _build_folders(files, progress):
    path, *folders = files
    names, label = [], []
    for number, folder in enumerate(folders):
        files = sorted(name for name in os.listdir(path / folder) if name.lower().endswith(IMAGE_SUFFIXES))
        names += [f"{folder}/{name}" for name in files]
        label += [number] * len(files)
        if progress:
            progress(number + 1, len(folders))
    if not names:
        raise UserError(f"{path}: no image in its {len(folders)} sub-folders; {ACCEPTED}")
    return Index.of(
        "folders",
        [os.path.abspath(path)],
        np.array(label, np.int64),
        places={},
        names=Names.of(names),
        identities=Names.of(folders),
        num_identities=len(folders),
    )


def _dense(label_N):
    """(label_N, names, number of identities): labels that are 0..C-1 stay; others are renumbered, their names kept."""
    present_C, dense_N = np.unique(label_N, return_inverse=True)
    if present_C[-1] == len(present_C) - 1:
        return label_N, None, len(present_C)
    return dense_N, Names.of(map(str, present_C.tolist())), len(present_C)


def _wanted_names(path):
    try:
        lines = pathlib.Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    wanted = {line.strip() for line in lines} - {""}
    if not wanted:
        raise UserError(f"{path}: names no identity; expected one per line")
    return wanted


def _restricted(index, wanted, identities_path, path):
    """The Index of the wanted identities alone."""
    count_C = np.bincount(index.label_N, minlength=index.num_identities)
    names = index.identities if index.identities is not None else map(str, range(index.num_identities))
    kept = [(label, name) for label, name in enumerate(names) if name in wanted and count_C[label]]
    missing = sorted(wanted - {name for _, name in kept})
    if missing:
        near = (
            suggestion(missing[0], list(index.identities)) if index.identities and len(index.identities) <= 20 else ""
        )
        raise UserError(
            f"{identities_path}: {len(missing)} of {len(wanted)} identities have no image in {path}: {some(missing)}"
            + (f"; {near}" if near else "")
        )
    new_of_old = np.full(index.num_identities, -1, np.int64)
    new_of_old[[label for label, _ in kept]] = np.arange(len(kept))
    label_N = new_of_old[index.label_N]
    which = np.flatnonzero(label_N >= 0)
    return Index.of(
        index.kind,
        index.files,
        label_N[which],
        places={name: column[which] for name, column in index.places.items()},
        names=index.names.taken(which) if index.names is not None else None,
        identities=Names.of(name for _, name in kept),
        num_identities=len(kept),
    )


def _read_record(source, index, number):
    file = source.descriptor(index.files[0])
    try:
        return recordio.unpack(recordio.read_record(file.fileno(), int(index.places["offset"][number])))[1]
    except recordio.BadRecordError as error:
        raise CorruptImageError(str(error)) from None


def _read_member(source, index, number):
    file = source.descriptor(index.files[int(index.places["shard"][number])])
    size = int(index.places["size"][number])
    encoded = os.pread(file.fileno(), size, int(index.places["offset"][number]))
    if len(encoded) < size:
        raise CorruptImageError(f"{len(encoded)} of {size} bytes are there")
    return encoded


def _read_file(source, index, number):
    return pathlib.Path(index.files[0], index.names[number]).read_bytes()


class Kind(NamedTuple):
    """How one layout is indexed, read and pointed at."""

    build: Callable  # (files, progress) -> Index
    read: Callable  # (source, index, number) -> encoded bytes
    where: Callable  # (index, number) -> str


KINDS = {
    "records": Kind(
        _build_records,
        _read_record,
        lambda index, number: f"{os.path.basename(index.files[0])}, record {index.places['record'][number]}",
    ),
    "tars": Kind(
        _build_tars,
        _read_member,
        lambda index, number: (
            f"{os.path.basename(index.files[int(index.places['shard'][number])])}, member {index.names[number]}"
        ),
    ),
    "folders": Kind(_build_folders, _read_file, lambda index, number: index.names[number]),
}
