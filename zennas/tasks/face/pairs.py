"""Verification sets: InsightFace's .bin files, and lists of pairs over any images."""

# P pairs of images

import collections
import hashlib
import io
import os
import pathlib
import pickle
import pickletools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zennas.data.image_set import ImageSet
from zennas.data.lists import list_and_images
from zennas.data.named_images import find_images
from zennas.data.sources import AnySource, Source, open_source
from zennas.metrics.verification import contiguous_folds
from zennas.records import UserError, some
from zennas.tasks.face.crops import set_of_crops
from zennas.tasks.face.pair_lists import (
    FORMS,
    PEOPLE,
    TWO_LINES,
    ListedPairs,
    form_of,
    list_lines,
    protocol_sets,
    read_paths,
    read_people,
    read_protocol,
    read_two_lines,
)

NUM_FOLDS = 10


class PairSet(NamedTuple):
    """Pairs of images to be told same from different. An image that stands in several pairs is one image."""

    name: str
    images: ImageSet
    first_P: np.ndarray  # int64
    second_P: np.ndarray  # int64
    same_P: np.ndarray  # bool
    fold_P: np.ndarray  # int64


def open_pairs(text: str, *, progress: Callable | None = None) -> PairSet:
    """The PairSet that a user names: SET.bin, or PAIRS@SOURCE, a list of pairs over any source of faces.

    UserError where it is neither, a file is missing, or it means two sets (CFP's Protocol).
    """
    sets = sets_of(text)
    if len(sets) > 1:
        raise UserError(f"{text}: holds {len(sets)} sets; name one of them: {' or '.join(sets)}")
    pairs_path, source = list_and_images(sets[0])
    if source:
        return read_pairs(pathlib.Path(pairs_path), pathlib.Path(source), progress=progress)
    if text.endswith((".txt", ".csv", ".tsv")):
        raise UserError(f"{text}: say where its images are: {text}@SOURCE (a folder, a .tar, a train.rec)")
    if text.endswith((".tar", ".rec")) or os.path.isdir(text):
        raise UserError(f"{text}: faces without pairs; give PAIRS@{text}, or an InsightFace SET.bin")
    return read_bin(pathlib.Path(text))


def pair_crops(images: ImageSet, text: str, faces: str, *, option: str) -> ImageSet:
    """The ImageSet of the set that a user names, as --faces says; UserError for photographs."""
    path, where = list_and_images(text)
    return set_of_crops(
        images,
        faces,
        given=f"{option} {text}",
        where=where or None,
        is_listed=True,
        then=lambda out: f"{option} {path}@{out}",
    )


def sets_of(text: str) -> list[str]:
    """The sets that a user's word means, each as a word of its own: two of CFP's Protocol, else one.

    CFP's lists go by its own folder where no other images are given.
    """
    path, images = list_and_images(text)
    folders = protocol_sets(path) if os.path.isdir(path) else []
    if not folders:
        return [text]
    return [f"{folder}@{images or folder.absolute().parent.parent.parent}" for folder in folders]


def read_bin(path: pathlib.Path | str) -> PairSet:
    """The PairSet of an InsightFace .bin: a pickle of (encoded images, two per pair; whether each pair is the same).

    Nothing in the file is run: it may name only what holds bytes and truth values. Folds are contiguous, as
    insightface's evaluation cuts them. UserError for a file that names anything else, or does not hold such a pair of
    lists.
    """
    path = pathlib.Path(path)
    try:
        data = path.read_bytes()
        _check_memo(data)
        content = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except _Refused as error:
        raise UserError(f"{path}: names {error}, which no verification set needs; it was not loaded") from None
    except Exception as error:  # noqa: BLE001 - damaged pickles fail with whatever their bytes happen to mean
        raise UserError(f"{path}: not a verification .bin, or damaged ({type(error).__name__}: {error})") from None
    if not isinstance(content, tuple | list) or len(content) != 2:
        raise UserError(f"{path}: expected (images, whether each pair is the same), got {type(content).__name__}")
    encoded, same_P = _as_list(content[0]), _as_list(content[1])
    if not same_P or len(encoded) != 2 * len(same_P):
        raise UserError(
            f"{path}: {len(encoded)} images for {len(same_P)} pairs; expected two for each, and a pair at least"
        )
    unique = {}
    image_2P = np.array([unique.setdefault(_as_bytes(image, path), len(unique)) for image in encoded])
    same_P = np.array([_as_bool(is_same, path) for is_same in same_P])
    images = list(unique)
    first_2P = {image: number for number, image in reversed(list(enumerate(image_2P.tolist())))}
    return PairSet(
        path.stem,
        ImageSet(
            len(images),
            images.__getitem__,
            lambda image: f"{path.name}, image {first_2P[image]}",
            hashlib.sha256(data).hexdigest()[:16],
        ),
        image_2P[0::2],
        image_2P[1::2],
        same_P,
        _own_folds(len(same_P)),
    )


class _Refused(Exception):  # noqa: N818
    """The name of something that a .bin has no business with."""


class _Stored:
    """Stands for a numpy array: its type's name, and its bytes. Numpy itself never sees what the file says."""

    def __init__(self, *_):
        self.code, self.raw = None, None

    def __setstate__(self, state):
        _, _, dtype, _, raw = state
        self.code, self.raw = dtype.code, raw


class _Dtype:
    """Stands for a numpy dtype."""

    def __init__(self, code, *_):
        self.code = code.decode("ascii") if isinstance(code, bytes) else str(code)

    def __setstate__(self, state):
        """Byte order and fields, of no meaning for bytes and truth values."""


def _scalar(dtype, raw):
    stored = _Stored()
    stored.code, stored.raw = dtype.code, raw
    return stored


def _encode(text, encoding="latin1"):
    if encoding not in ("latin1", "latin-1", b"latin1"):
        raise ValueError(f"encoding {encoding!r}")
    return text.encode("latin1")


# What real files name, by what stands for it here: arrays of bytes, numpy's truth values, bytes that Python 2 wrote.
_ALLOWED = {
    ("numpy", "ndarray"): _Stored,
    ("numpy", "dtype"): _Dtype,
    ("_codecs", "encode"): _encode,
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Stored for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _scalar for core in ("core", "_core")},
}


def _check_memo(data):
    """ValueError for a pickle that announces more than it holds: a few bytes could have all memory allocated."""
    for number, (operation, argument, _) in enumerate(pickletools.genops(data)):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > number:
            raise ValueError(f"remembers its value {argument} after {number} steps")


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return _ALLOWED[module, name]

    def persistent_load(self, identifier):
        raise _Refused(f"an object outside the file ({identifier!r})")


def _as_list(value):
    """A list, also of an array of truth values."""
    if isinstance(value, _Stored) and value.code in ("b1", "?", "bool") and isinstance(value.raw, bytes):
        return [byte != 0 for byte in value.raw]
    if isinstance(value, _Stored) and isinstance(value.raw, list):
        return value.raw
    return list(value) if isinstance(value, list | tuple) else []


def _as_bytes(value, path):
    if isinstance(value, _Stored) and value.code in ("u1", "i1", "uint8"):
        value = value.raw
    if not isinstance(value, bytes):
        raise UserError(f"{path}: an image is {type(value).__name__.strip('_')}, expected bytes or an array of them")
    return value


def _as_bool(value, path):
    if isinstance(value, _Stored) and value.code in ("b1", "?", "bool") and isinstance(value.raw, bytes):
        value = value.raw != b"\0"
    if value not in (0, 1) or not isinstance(value, bool | int):
        raise UserError(f"{path}: a pair is {value!r}, expected True (same) or False")
    return bool(value)


def read_pairs(
    pairs_path: pathlib.Path | str, images: AnySource | pathlib.Path | str, *, progress: Callable | None = None
) -> PairSet:
    """The PairSet of a list of pairs (pair_lists.py says which) over a Source, or a path to where the images lie.

    No threshold can be held to a single fold: pairs of a list without folds are cut into contiguous ones, as those of a
    .bin. UserError for what is no list of pairs, and for images that are not there, named and counted.
    """
    pairs_path = pathlib.Path(pairs_path)
    if pairs_path.is_dir():
        if protocol_sets(pairs_path) != [pairs_path]:
            raise UserError(f"{pairs_path}: is a folder, and not CFP's Protocol or a set of it; {FORMS}")
        listed, name = read_protocol(pairs_path), f"CFP-{pairs_path.name}"
        return _pair_set(name, listed, *_by_path(pairs_path, listed, images, progress))
    lines = list_lines(pairs_path)
    form = form_of(lines)
    if form == PEOPLE:
        source = images if not isinstance(images, pathlib.Path | str) else open_source(images, progress=progress)
        if source.name(0) is None:
            raise UserError(
                f"{pairs_path}: pairs go by names, and {source.path} has none; use an image folder or tar shards"
            )
        listed = read_people(lines, pairs_path, _people(source))
        return _pair_set(pairs_path.stem, listed, *_by_person(pairs_path, listed, source))
    listed = (read_two_lines if form == TWO_LINES else read_paths)(lines, pairs_path)
    return _pair_set(pairs_path.stem, listed, *_by_path(pairs_path, listed, images, progress))


def _pair_set(name, listed: ListedPairs, wanted, images):
    """The PairSet of ListedPairs; wanted: the images of the ImageSet as the list has them, in its order."""
    number_of = {image: number for number, image in enumerate(wanted)}
    return PairSet(
        name,
        images,
        np.array([number_of[image] for image in listed.first_P]),
        np.array([number_of[image] for image in listed.second_P]),
        np.array(listed.same_P, bool),
        _own_folds(len(listed.same_P)) if listed.fold_P is None else np.array(listed.fold_P, np.int64),
    )


def _wanted(listed):
    """The images of a list, each once, in the order of the pairs."""
    pairs = zip(listed.first_P, listed.second_P, strict=True)
    return list(dict.fromkeys(image for pair in pairs for image in pair))


def _by_path(pairs_path, listed, images, progress):
    """(images as a list of paths has them, the ImageSet of them)."""
    wanted = _wanted(listed)
    images = images if isinstance(images, Source) else pathlib.Path(images)
    return wanted, find_images(pairs_path, wanted, images, progress=progress)


def _by_person(pairs_path, listed, source):
    """The same of LFW's lists: (Name, n) is the image Name_000n of the folder Name."""
    wanted = _wanted(listed)
    place = _places({name for name, _ in wanted}, source)
    if torn := [image for image in wanted if len(place.get(image, ())) > 1]:
        named = some([" = ".join(source.name(index) for index in place[image][:2]) for image in torn])
        raise UserError(f"{pairs_path}: {len(torn)} of {len(wanted)} images fit several in {source.path}: {named}")
    missing = [f"{name}/{name}_{number:04d}" for name, number in wanted if (name, number) not in place]
    if missing:
        raise UserError(
            f"{pairs_path}: {len(missing)} of {len(wanted)} images are not in {source.path}: {some(missing)}"
        )
    return wanted, source.some([place[image][0] for image in wanted])


def _own_folds(num_pairs):
    """The fold of each pair of a set that says none."""
    return contiguous_folds(num_pairs, min(NUM_FOLDS, num_pairs))


def _people(source):
    """The names of a source's identities, as they are called in its files."""
    if source.identity_names is None:
        return {_person(source.name(number)) for number in range(source.num_images)}
    return {name.rpartition("/")[2] for name in source.identity_names}


def _person(name):
    return pathlib.PurePosixPath(name).parent.name


def _places(people, source):
    """{(name, number): indices} of the images Name_000n, or 000n, in the folders of these people."""
    if source.identity_names is None:
        indices = range(source.num_images)
    else:
        labels = [label for label, name in enumerate(source.identity_names) if name.rpartition("/")[2] in people]
        indices = np.flatnonzero(np.isin(source.label_N, labels)).tolist()
    place = collections.defaultdict(list)
    for index in indices:
        person, stem = _person(source.name(index)), pathlib.PurePosixPath(source.name(index)).stem
        number = stem.removeprefix(f"{person}_")
        if person in people and number.isdecimal():
            place[person, int(number)].append(index)
    return place


def folds_of_people(path: pathlib.Path | str) -> list[list[str]]:
    """The names of each fold of LFW's people.txt: the number of folds, then each fold's length before its people."""
    lines = pathlib.Path(path).read_text(encoding="utf-8").splitlines()
    folds, at = [], 1
    for _ in range(int(lines[0])):
        size = int(lines[at])
        folds.append([line.split("\t")[0] for line in lines[at + 1 : at + 1 + size]])
        at += 1 + size
    return folds
