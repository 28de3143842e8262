"""Verification sets: InsightFace's .bin files, and LFW's pairs.txt over a Source."""

# P pairs of images

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
from zennas.data.sources import open_source
from zennas.metrics.verification import contiguous_folds
from zennas.records import UserError

NUM_FOLDS = 10
NAMED_IN_ERRORS = 5


class PairSet(NamedTuple):
    """Pairs of images to be told same from different. An image that stands in several pairs is one image."""

    name: str
    images: ImageSet
    first_P: np.ndarray  # int64
    second_P: np.ndarray  # int64
    same_P: np.ndarray  # bool
    fold_P: np.ndarray  # int64


def list_and_images(text: str) -> tuple[str, str]:
    """(path, images) of PATH@IMAGES; images is "" where there is none. An @ may stand in the names of files that are
    there.

    >>> list_and_images("pairs.txt@faces.tar"), list_and_images("lfw.bin")
    (('pairs.txt', 'faces.tar'), ('lfw.bin', ''))
    """
    if os.path.exists(text):
        return text, ""
    places = [place for place, letter in enumerate(text) if letter == "@"]
    place = next((place for place in places if os.path.isfile(text[:place])), next(iter(places), len(text)))
    return text[:place], text[place + 1 :]


def open_pairs(text: str, *, progress: Callable | None = None) -> PairSet:
    """The PairSet that a user names: SET.bin, or PAIRS.txt@SOURCE, pairs in LFW's format over any source of faces.

    UserError where it is neither, or a file is missing.
    """
    pairs_path, source = list_and_images(text)
    if source:
        return read_pairs(pathlib.Path(pairs_path), open_source(source, progress=progress))
    if text.endswith(".txt"):
        raise UserError(f"{text}: say where its images are: {text}@SOURCE (a folder, a .tar, a train.rec)")
    if text.endswith((".tar", ".rec")) or os.path.isdir(text):
        raise UserError(f"{text}: faces without pairs; give PAIRS.txt@{text}, or an InsightFace SET.bin")
    return read_bin(pathlib.Path(text))


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


def read_pairs(pairs_path: pathlib.Path | str, source) -> PairSet:
    """The PairSet of a pairs file in LFW's format over a Source with names.

    Its first line says folds and pairs of each kind in a fold ("10 300"; one number: a single fold); then "Name n m" is
    a pair of the same identity and "Name n Other m" of two, where (Name, n) is the image Name/Name_000n. No threshold
    can be held to a single fold: its pairs are cut into contiguous ones, as those of a .bin. UserError for lines that
    are neither, a wrong number of them, and images that are not in the source, named and counted.
    """
    pairs_path = pathlib.Path(pairs_path)
    try:
        lines = pairs_path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{pairs_path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    while lines and not lines[-1].strip():
        lines.pop()
    head = lines[0].split() if lines else []
    if not 1 <= len(head) <= 2 or not all(word.isdecimal() and int(word) for word in head):
        raise UserError(
            f"{pairs_path}, line 1: expected folds and pairs of each kind in a fold (10 300), got {lines[:1]}"
        )
    num_folds, per_kind = (1, int(head[0])) if len(head) == 1 else map(int, head)
    announced = num_folds * 2 * per_kind
    if len(lines) - 1 != announced:
        raise UserError(
            f"{pairs_path}: {len(lines) - 1} pairs; line 1 announces {num_folds} folds of 2 x {per_kind}: {announced}"
        )
    if source.identity_names is None or source.name(0) is None:
        raise UserError(
            f"{pairs_path}: pairs go by names, and {source.path} has none; use an image folder or tar shards"
        )
    pairs = [_pair(line, f"{pairs_path}, line {number}") for number, line in enumerate(lines[1:], start=2)]
    place = _places({image[0] for pair in pairs for image in pair}, source)
    wanted = dict.fromkeys(image for pair in pairs for image in pair)
    missing = [f"{name}/{name}_{number:04d}" for name, number in wanted if (name, number) not in place]
    if missing:
        named = ", ".join(missing[:NAMED_IN_ERRORS]) + (", ..." if len(missing) > NAMED_IN_ERRORS else "")
        raise UserError(f"{pairs_path}: {len(missing)} of {len(wanted)} images are not in {source.path}: {named}")
    number_of = {key: number for number, key in enumerate(wanted)}
    return PairSet(
        pairs_path.stem,
        source.some([place[key] for key in wanted]),
        np.array([number_of[first] for first, _ in pairs]),
        np.array([number_of[second] for _, second in pairs]),
        np.array([first[0] == second[0] for first, second in pairs]),
        np.arange(len(pairs)) // (2 * per_kind) if num_folds > 1 else _own_folds(len(pairs)),
    )


def _own_folds(num_pairs):
    """The fold of each pair of a set that says none."""
    return contiguous_folds(num_pairs, min(NUM_FOLDS, num_pairs))


def _pair(line, where):
    """((name, number), (name, number)) of a line."""
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) == 3:
        fields = [fields[0], fields[1], fields[0], fields[2]]
    if len(fields) != 4 or not (fields[1].strip().isdecimal() and fields[3].strip().isdecimal()):
        raise UserError(f"{where}: expected Name n m or Name n Other m, got {line[:80]!r}")
    return (fields[0], int(fields[1])), (fields[2], int(fields[3]))


def _places(names, source):
    """{(name, number): index} of the images Name_000n of these identities."""
    labels = [label for label, name in enumerate(source.identity_names) if name in names]
    place = {}
    for index in np.flatnonzero(np.isin(source.label_N, labels)):
        name, _, number = pathlib.PurePosixPath(source.name(int(index))).stem.rpartition("_")
        if name == source.identity_names[int(source.label_N[index])] and number.isdecimal():
            place[name, int(number)] = int(index)
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
