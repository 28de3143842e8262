"""CUHK03's cuhk-03.mat, read as it lies: detected and labelled boxes, the classic splits and the new protocol.

The only file that speaks to h5py: MATLAB's 7.3 files are HDF5, their cells are references, their axes are turned.
"""

import functools
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import h5py
import numpy as np
import scipy.io
from scipy.io.matlab import MatReadError

from zennas.data.images import CorruptImageError, UnreadableImageError, encode
from zennas.data.left_out import LeftOut
from zennas.data.sightings import GALLERY, QUERY, TRAIN, Sightings, check_roles
from zennas.records import UserError, first_line

FILE, CONFIG = "cuhk-03.mat", "cuhk03_new_protocol_config_{}.mat"
BOXES = {"detected": "detected", "labeled": "labeled", "labelled": "labeled"}  # as people write them -> in the file
NUM_SPLITS = 20
COLUMNS_EACH = 5  # columns 1 to 5 are of a pair's first camera, 6 to 10 of its second
PART = re.compile(rf"({'|'.join(BOXES)})(?:-classic-(\d+))?")
ALLOWED = f"detected, labelled, detected-classic-1 to -{NUM_SPLITS}, labelled-classic-1 to -{NUM_SPLITS}"
NAME = re.compile(r"(\d)_(\d{3})_([12])_(\d{2})\.png")


class Part(NamedTuple):
    """What of the file is meant."""

    file: pathlib.Path
    boxes: str  # a key of the file
    split: int | None  # a classic one, from 1; None: the new protocol


def is_cuhk03(path: pathlib.Path) -> bool:
    """Whether a path is of CUHK03: a folder with cuhk-03.mat, that file, or FOLDER/detected and the like."""
    return _file_of(path) is not None


def _file_of(path: pathlib.Path) -> pathlib.Path | None:
    candidates = [path, path / FILE, path.parent]  # the last of FILE/detected
    if PART.fullmatch(path.name) or not path.exists():
        candidates.append(path.parent / FILE)
    return next((file for file in candidates if file.name == FILE and file.is_file()), None)


def read_cuhk03(path: pathlib.Path, roles: Sequence[str]) -> Sightings:
    """The Sightings of these roles in CUHK03. path: the folder of cuhk-03.mat, then which boxes and protocol: detected,
    labelled (the new protocol: 767 people train, 700 are looked for) or labelled-classic-1 to -20 (1,367 and 100).

    In a classic split every image of the hundred people is a query, and the gallery has one image of each person by the
    other camera. UserError where neither file nor protocol is there, or a role has no image.
    Source: Li et al. 2014 (DeepReID); the new protocol: Zhong et al. 2017, arXiv:1701.08398.

    An image is called as in the new protocol's lists, GROUP_PERSON_CAMERA_COLUMN.png, each counted from 1.
    """
    part = _part(path)
    left_out = LeftOut()
    with _opened(part.file) as file:
        if missing := [key for key in (part.boxes, "testsets") if key not in file]:
            raise UserError(f"{part.file}: is not CUHK03's: it holds no {' and no '.join(missing)}")
        rows = _classic(file, part, roles) if part.split is not None else _new_protocol(file, part, roles)
        try:
            listed = [(f"{part.boxes}/{name}", person, camera, role) for name, person, camera, role in rows]
        except UserError:
            raise
        except Exception as error:  # noqa: BLE001 - h5py raises whatever it likes for a damaged file
            raise UserError(f"{part.file}: is damaged, or is not CUHK03's: {first_line(error)}") from None
    sightings = Sightings.of(part.file, listed, left_out, single_shot=part.split is not None)
    return check_roles(sightings, roles, dict.fromkeys(roles, f"{path}"))


def _part(path: pathlib.Path) -> Part:
    file = _file_of(path)
    assert file is not None, path
    match = PART.fullmatch(path.name)
    if match is None or (match[2] is not None and not 1 <= int(match[2]) <= NUM_SPLITS):
        given = "nothing" if path in (file, file.parent) else repr(path.name)
        raise UserError(
            f"{file}: say which boxes and protocol, as {file.parent / 'labelled'}: given {given}, allowed: {ALLOWED}"
        )
    return Part(file, BOXES[match[1]], int(match[2]) if match[2] else None)


def files_of(path: pathlib.Path) -> list[pathlib.Path]:
    """The files on which the Sightings at this path rest."""
    part = _part(path)
    return [part.file] if part.split is not None else [part.file, _config(part)]


def _config(part: Part) -> pathlib.Path:
    return part.file.with_name(CONFIG.format(part.boxes))


def _opened(file: pathlib.Path) -> Any:
    try:
        return h5py.File(file, "r")
    except OSError as error:
        raise UserError(f"{file}: is no MATLAB 7.3 file: {error}") from None


def _groups(file: Any, boxes: str) -> list[Any]:
    """The data set of references of each of the five pairs of cameras: [column, person]."""
    return [file[reference] for reference in np.ravel(file[boxes][()])]


def _classic(file: Any, part: Part, roles: Sequence[str]) -> Iterator[tuple[str, str, int, str]]:
    reference = np.ravel(file["testsets"][()])[(part.split or 1) - 1]
    tested = {(int(group), int(person)) for group, person in file[reference][()].T}
    for group, references in enumerate(_groups(file, part.boxes), 1):
        reference_CM = references[()]
        for person, of_person in enumerate(reference_CM.T, 1):
            for column, image in enumerate(of_person, 1):
                if file[image].ndim < 3:  # an empty cell
                    continue
                name, camera = _name(group, person, column)
                for role in (QUERY, GALLERY) if (group, person) in tested else (TRAIN,):
                    if role in roles:
                        yield name, f"{group}_{person:03d}", camera, role


def _new_protocol(file: Any, part: Part, roles: Sequence[str]) -> Iterator[tuple[str, str, int, str]]:
    path = _config(part)
    if not path.is_file():
        raise UserError(f"{path}: no such file; it holds the new protocol's lists, and lies beside {FILE}")
    try:
        config = scipy.io.loadmat(path, simplify_cells=True)
        names, labels = [str(name) for name in config["filelist"]], [int(label) for label in config["labels"]]
        places = {
            TRAIN: config["train_idx"],
            QUERY: config["query_idx"],
            GALLERY: config["gallery_idx"],
        }
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}; it holds the new protocol") from None
    except (KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise UserError(f"{path}: is not CUHK03's new protocol: {error}") from None
    num = min(len(names), len(labels))
    person_of: dict[int, str] = {}
    for role in roles:
        for place in np.ravel(places[role]).astype(int) - 1:  # MATLAB counts from 1
            if not 0 <= place < num:
                raise UserError(f"{path}: {role}_idx: given {place + 1}, allowed: 1 to {num}, as many as it lists")
            match = NAME.fullmatch(names[place])
            if match is None:
                raise UserError(f"{path}: filelist {place + 1}: given {names[place]!r}, expected as 1_001_1_01.png")
            person = f"{match[1]}_{match[2]}"
            if person_of.setdefault(labels[place], person) != person:
                raise UserError(f"{path}: label {labels[place]} is of {person_of[labels[place]]} and of {person}")
            yield names[place], person, int(match[3]), role


def _name(group: int, person: int, column: int) -> tuple[str, int]:
    camera = 1 if column <= COLUMNS_EACH else 2
    return f"{group}_{person:03d}_{camera}_{column:02d}.png", camera


def read_image(file: pathlib.Path | str, path: str) -> bytes:
    """The image at a path as `read_cuhk03` has them, as a PNG; CorruptImageError where it is not there."""
    boxes, _, name = path.partition("/")
    match = NAME.fullmatch(name)
    assert match, path
    try:
        opened, groups = _kept_open(os.fspath(file), os.getpid())
    except (FileNotFoundError, PermissionError) as error:
        raise UnreadableImageError(f"cannot be read: {error.strerror}") from None
    except Exception as error:  # noqa: BLE001 - h5py raises whatever it likes for a damaged file
        raise CorruptImageError(f"cannot be read: {first_line(error)}") from None
    try:
        reference = groups[boxes][int(match[1]) - 1][int(match[4]) - 1, int(match[2]) - 1]
        pixel_3WH = opened[reference][()]
    except Exception as error:  # noqa: BLE001 - h5py raises whatever it likes for a damaged file
        raise CorruptImageError(f"cannot be read: {first_line(error)}") from None
    if pixel_3WH.ndim != 3:
        raise CorruptImageError("an empty cell")
    return encode(np.ascontiguousarray(pixel_3WH.T), ".png")


@functools.lru_cache(maxsize=4)
def _kept_open(file: str, process: int) -> tuple[Any, dict[str, list[Any]]]:
    """The open file of this process, and {boxes: data sets of references}: what was forked is opened anew."""
    opened = h5py.File(file, "r")
    return opened, {boxes: _groups(opened, boxes) for boxes in set(BOXES.values()) if boxes in opened}
