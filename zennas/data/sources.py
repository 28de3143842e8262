"""Where labelled images lie: RecordIO, tar shards or a folder of folders, behind one Source with random access."""

import collections
import contextlib
import functools
import hashlib
import json
import os
import pathlib
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import numpy as np

from zennas.data import recordio
from zennas.data.content import MOST_IMAGES, digest_of_bytes, digest_of_span, look_into
from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError, UnreadableImageError
from zennas.data.index import Index, Names, changes, file_key, kept_index, load_index
from zennas.data.labels import Relabelled, relabelled
from zennas.data.layouts import accepted, is_there, layout_at, read_crop, state_of
from zennas.data.left_out import BESIDE, LeftOut, is_hidden, is_of_a_run, line_of
from zennas.data.listing import below, walk
from zennas.data.people import people_of
from zennas.data.shards import list_members
from zennas.data.sightings import NO_CAMERA, TRAIN
from zennas.names import unshown
from zennas.records import UserError, read_lines, some, suggestion

ACCEPTED = accepted("a RecordIO folder (train.rec)", "tar shards", "a folder with one sub-folder per identity")
MAX_OPEN_FILES = 256  # per process; shards beyond it take turns


class _OpenFiles:
    """Files that stay open, as many as MAX_OPEN_FILES."""

    def __init__(self):
        self._files = collections.OrderedDict()

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


class Source(_OpenFiles):
    """Labelled images with random access; opened by `open_source`.

    It may be forked, pickled (to the same machine) and shared by threads. It has:
    - path
    - num_images, num_identities, num_empty_identities (those with no image)
    - label_N: int32, memory-mapped
    - camera_N: int64, which camera took each image, below zero where none is known; or None where it is known of none
    - content_N: uint64, memory-mapped, of content.py: what the bytes of each image are; 0 where it was not looked at
    - identity_names: a sequence, or None where identities are numbers
    - fingerprint: of the content, the same wherever the data lies
    - left_out: what of the data is not used, as LeftOut.plain
    - notices: sentences on that, and on how the data was read
    """

    def __init__(self, path, folder, beside):
        """folder: of its index. beside: LeftOut.plain of what lies beside its files."""
        super().__init__()
        self.path, self.folder, self._beside = pathlib.Path(path), folder, beside
        self._index = load_index(folder)
        self._kind = KINDS[self._index.kind]
        self.label_N, self.camera_N = self._index.label_N, self._index.places.get("camera")
        self.content_N = self._index.content_N
        self.num_images = len(self.label_N)
        self.num_identities = self._index.num_identities
        self.num_empty_identities = self._index.num_empty
        self.identity_names = self._index.identities
        self.fingerprint = self._index.fingerprint
        self.left_out = self._index.left_out | beside
        self.notices = [*filter(None, [line_of(self.left_out)]), *self._index.notices]

    def __reduce__(self):
        return Source, (self.path, self.folder, self._beside)

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
        """The ImageSet of the images at these places; its fingerprint changes with any image of the source."""
        index_M = np.asarray(index_M, np.int64)
        digest = hashlib.sha256(self.fingerprint.encode())
        digest.update(index_M.tobytes())
        return ImageSet(
            len(index_M),
            lambda image: self.read(int(index_M[image])),
            lambda image: self.where(int(index_M[image])),
            digest.hexdigest()[:16],
        )


AnySource = Source | Relabelled  # what `open_source` gives


def open_source(
    path: pathlib.Path | str,
    *,
    identities: pathlib.Path | str | None = None,
    labels: pathlib.Path | str | None = None,
    loose: bool = False,
    progress: Callable | None = None,
) -> AnySource:
    """The Source of what lies at `path`: RecordIO, tar shards or an image folder. Its index is built once and kept.

    identities: a text file with one identity per line (folder name, or number where the source has no names); only
    their images are in the Source, and they are numbered from 0 in the order that they have in the whole source.
    labels: a file of labels.write_labels, which says all of that image by image, so it goes without identities.
    loose: of a plain folder every image is used: where one lies in no identity's folder, its own folder stands for one.
    progress(done, total) is called while the index is built. UserError where nothing lies there that is accepted, or
    what lies there is damaged.
    """
    path = pathlib.Path(path)
    if labels is not None and identities is not None:
        raise UserError(f"{identities} and {labels}: identities and labels exclude each other; labels leave out images")
    if not is_there(path):
        raise UserError(f"{path}: no such file or folder; {ACCEPTED}")
    kind, files, key, beside = _what_lies_at(path, progress)
    build = KINDS[kind].build
    if loose and kind == "folders":
        key, build = f"loose\n{key}", functools.partial(build, loose=True)
    folder = kept_index(f"{kind}\n{key}", lambda: build(files, progress), what=path)
    if identities is not None:
        wanted = _wanted_names(identities)
        key = f"{folder.name}\n" + "\n".join(sorted(wanted))
        whole = folder
        folder = kept_index(key, lambda: _restricted(load_index(whole), wanted, identities, path), what=path)
    source = Source(path, folder, beside.plain())
    return source if labels is None else relabelled(source, labels)


def _what_lies_at(path, progress):
    """(kind, files, cache key, LeftOut of what lies beside them)."""
    left_out = LeftOut()
    if layout := layout_at(path):
        return "sightings", [path], state_of(path, layout.read(path, (TRAIN,))), left_out
    if path.is_file():
        if path.suffix.lower() not in (".rec", ".tar"):
            raise UserError(f"{path}: is a file of no known layout; {ACCEPTED}")
        kind, files = ("records" if path.suffix.lower() == ".rec" else "tars"), [path]
    else:
        names = sorted(name for name in _names_in(path) if not is_hidden(name))
        tars = [name for name in names if name.lower().endswith(".tar")]
        if "train.rec" in names:
            kind, files = "records", [path / "train.rec"]
            beside = [name for name in names if name.lower().endswith((".rec", ".tar")) and name != "train.rec"]
        elif tars:
            kind, files = "tars", [path / name for name in tars]
            beside = [name for name in names if name not in tars]
        else:
            return "folders", [path], _folder_key(path, progress), left_out
        for name in beside:
            if not is_of_a_run(name, names):
                left_out.add(BESIDE, name)
    parts = [files[0].with_suffix(".idx"), files[0].with_name("property")] if kind == "records" else []
    return kind, files, file_key([*files, *(file for file in parts if file.is_file())]), left_out


def _names_in(path):
    try:
        return os.listdir(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _walked(path, left_out, progress):
    """`walk`, telling progress by the folders at the top."""
    done, total = 0, len(_names_in(path))
    for listed in walk(path, left_out):
        if progress and listed.folder and "/" not in listed.folder:
            done += 1
            progress(done, total)
        yield listed


def _folder_key(path, progress):
    """What tells the images of a folder from what they were."""
    digest, left_out = hashlib.sha256(), LeftOut()
    for listed in _walked(path, left_out, progress):
        digest.update(f"{listed.folder}/\n".encode(errors="surrogateescape"))
        for name, status in zip(listed.names, listed.stats, strict=True):
            digest.update(f"{name}/{changes(status)}\n".encode(errors="surrogateescape"))
    digest.update(json.dumps(left_out.plain()).encode())
    return f"{path.absolute()}\n{digest.hexdigest()}"


def _build_records(files, progress):
    records = recordio.index_records(files[0], progress=progress)
    label_N, num_classes = records.label_N, records.num_classes
    if not len(label_N):
        raise UserError(f"{files[0]}: holds no image")
    identities = None
    if num_classes is None:
        label_N, identities, num_classes = _dense(label_N)
    return Index.of(
        "records",
        [os.path.abspath(files[0])],
        label_N,
        places={"record": records.record_N, "offset": records.offset_N},
        identities=identities,
        num_identities=num_classes,
        content_N=_content_of_records(files[0], records.offset_N, progress),
        left_out=records.left_out.plain(),
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
        content_N=_content_of_members(files, members, progress),
        left_out=members.left_out.plain(),
        notices=members.notices,
    )


def _build_folders(files, progress, *, loose=False):
    path, left_out, listed_of = files[0], LeftOut(), {}
    for listed in _walked(path, left_out, progress):
        listed_of[listed.folder] = listed.names
    people = people_of([({folder for folder, names in listed_of.items() if names}, listed_of.keys())])
    names, label = [], []
    if loose:
        people = people.with_all(path.resolve().name)
    for folder in [*people.label_of, *people.why_not]:
        paths = [below(folder, name) for name in listed_of[folder]]
        if why := people.why_not.get(folder):
            for image in paths:
                left_out.add(why, image)
        else:
            names += paths
            label += [people.label_of[folder]] * len(paths)
    if not names:
        raise UserError(
            f"{path}: holds no train.rec, no .tar file and no sub-folder with images{left_out.aside()}; {ACCEPTED}"
        )
    return Index.of(
        "folders",
        [os.path.abspath(path)],
        np.array(label, np.int64),
        places={},
        names=Names.of(names),
        identities=Names.of(people.names),
        num_identities=len(people.names),
        content_N=_content_of_files(path, names, progress),
        left_out=left_out.plain(),
        notices=people.notices,
    )


def _build_sightings(files, progress):
    layout = layout_at(files[0])
    sightings = layout.read(files[0], (TRAIN,))
    files_of_crops = functools.partial(read_crop, sightings.root)

    def digest_of(number):
        return digest_of_bytes(files_of_crops(sightings.path_N[number]))

    knows_cameras = (sightings.camera_N != NO_CAMERA).any()
    return Index.of(
        "sightings",
        [os.path.abspath(sightings.root)],
        sightings.label_N,
        places={"camera": sightings.camera_N} if knows_cameras else {},
        names=Names.of(sightings.path_N),
        identities=Names.of(sightings.people),
        num_identities=len(sightings.people),
        content_N=look_into(digest_of, len(sightings.path_N), progress=progress),
        left_out=sightings.left_out,
        notices=sightings.notices,
    )


def _content_of_records(file, offset_N, progress):
    files = _OpenFiles()

    def digest_of(number):
        opened = files.descriptor(file)  # held while it is read: another thread may let go of it
        payload = recordio.read_record(opened.fileno(), int(offset_N[number]))
        return digest_of_bytes(recordio.unpack(payload)[1])

    return look_into(digest_of, len(offset_N), most=MOST_IMAGES, progress=progress)


def _content_of_members(files, members, progress):
    opened = _OpenFiles()

    def digest_of(number):
        file = opened.descriptor(files[int(members.shard_N[number])])
        begin, size = int(members.offset_N[number]), int(members.size_N[number])
        return digest_of_span(lambda length, offset: os.pread(file.fileno(), length, begin + offset), size)

    return look_into(digest_of, len(members.label_N), most=MOST_IMAGES, progress=progress)


def _content_of_files(folder, names, progress):
    def digest_of(number):
        with open(folder / names[number], "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return digest_of_span(lambda length, offset: os.pread(file.fileno(), length, offset), size)

    return look_into(digest_of, len(names), progress=progress)


def _dense(label_N):
    """(label_N, names, number of identities): labels that are 0..C-1 stay; others are renumbered, their names kept."""
    present_C, dense_N = np.unique(label_N, return_inverse=True)
    if present_C[-1] == len(present_C) - 1:
        return label_N, None, len(present_C)
    return dense_N, Names.of(map(str, present_C.tolist())), len(present_C)


def _wanted_names(path):
    wanted = {unshown(line.text.strip()) for line in read_lines(path)}
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
        content_N=index.content_N[which],
        left_out=index.left_out,
        notices=index.notices,
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
    "sightings": Kind(
        _build_sightings,
        lambda source, index, number: read_crop(index.files[0], index.names[number]),
        lambda index, number: index.names[number],
    ),
}
