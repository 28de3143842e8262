"""What a user knows of photographs by their names: landmarks, and who is shown."""

import csv
import os
import pathlib
import re
from typing import NamedTuple

import numpy as np

from zennas.data.named_images import from_its_folder
from zennas.data.sources import AnySource
from zennas.records import UserError, read_lines, shortened, some

NUM_COORDINATES = 10  # x and y of five landmarks
MOST_NAME_BYTES = 250  # of an identity: a system's folders have names of up to 255, and a name may get a few more
FURTHEST_PX = 1e6  # from the corner of a photograph: no photograph is so large
MOST_HEAD_LINES = 2  # CelebA: how many, then the names of the columns


class NamedLines(NamedTuple):
    """Lines of a file that name photographs."""

    path: pathlib.Path
    names: list[str]
    values: list[list[str]]  # what stands behind each name


class Known(NamedTuple):
    """What a file says of the images of a data set, by their number; and the sentence that says what it leaves open."""

    of_image: dict[int, list[str]]
    notices: list[str]


def named_lines(path: pathlib.Path, *, num_values: int, expected: str) -> NamedLines:
    """The NamedLines of a text file: a name and so many values on a line, parted by commas, tabs or spaces. Up to
    MOST_HEAD_LINES before the first such line are its head. UserError where a line is of another form.
    """
    names, values = [], []
    for place, (number, line) in enumerate(read_lines(path)):
        fields = _fields(line, num_values)
        if fields is not None and not (place < MOST_HEAD_LINES and not names and _is_head(fields, num_values)):
            names.append(from_its_folder(fields[0]))
            values.append(fields[1:])
        elif place >= MOST_HEAD_LINES or names:
            raise UserError(f"{path}, line {number}: expected {expected}, got '{line.strip()[:80]}'")
    if not names:
        raise UserError(f"{path}: holds no line of {expected}")
    return NamedLines(pathlib.Path(path), names, values)


def _fields(line, num_values):
    """[name, values] of a line; None where it is of another form. A name may hold spaces."""
    if "," in line:
        fields = [field.strip() for field in next(csv.reader([line]))]
    elif "\t" in line:
        fields = [field.strip() for field in line.split("\t")]
    else:
        fields = line.strip().rsplit(maxsplit=num_values)
    return fields if len(fields) == num_values + 1 and all(fields) else None


def _is_head(fields, num_values):
    """Whether fields name columns: numbers are expected and are none, or the words are those of a head."""
    if num_values == NUM_COORDINATES:
        return not any(_is_number(field) for field in fields[1:])
    return bool(re.fullmatch(r"(?i)(image|file|photo)?[_ ]?(id|name|file|path|image)?", fields[0]))


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True


def known(source: AnySource, listed: NamedLines, *, what: str) -> Known:
    """What NamedLines say of the images of a source.

    A name is looked for as a path, then without its suffix, then by its last part where that is one image's alone;
    records are called by their numbers. UserError where no name is there, or one has two lines that
    differ.
    """
    number_of = _numbers(source)
    of_image, missing = {}, []
    for name, values in zip(listed.names, listed.values, strict=True):
        number = next((number_of[key] for key in _keys(name) if number_of.get(key) is not None), None)
        if number is None:
            missing.append(name)
        elif of_image.setdefault(number, values) != values:
            both = shortened(f"{' '.join(of_image[number])} and {' '.join(values)}", 160)
            raise UserError(f"{listed.path}: {name}: has two lines that differ: {both}; give it one")
    if not of_image:
        raise UserError(
            f"{listed.path}: none of its {len(listed.names):,} names is an image of {source.path}: "
            f"{some(missing)}; a name there: {source.name(0) or source.record(0)}"
        )
    notices = []
    if missing:
        notices.append(f"{listed.path.name}: {len(missing):,} names are no image of {source.path}: {some(missing)}")
    if num_without := source.num_images - len(of_image):
        notices.append(f"{num_without:,} of {source.num_images:,} photographs have no {what} in {listed.path.name}")
    return Known(of_image, notices)


def _keys(name):
    base = name.rpartition("/")[2]
    return name, os.path.splitext(name)[0], base, os.path.splitext(base)[0]


def _numbers(source):
    """{key of a name: number of the image}; None where several images have it."""
    if source.name(0) is None:
        return {str(source.record(image)): image for image in range(source.num_images)}
    number_of = {}
    for image in range(source.num_images):
        for key in set(_keys(source.name(image).removeprefix("./"))):
            number_of[key] = image if key not in number_of else None
    # A whole path is its image's, whoever else ends so.
    return number_of | {source.name(image).removeprefix("./"): image for image in range(source.num_images)}


def known_landmarks(source: AnySource, path: pathlib.Path) -> tuple[np.ndarray, list[str]]:
    """(points_N52, NaN where a photograph has no line; notices) of a file of landmarks."""
    listed = named_lines(path, num_values=NUM_COORDINATES, expected="a name and ten numbers")
    known_lines = known(source, listed, what="landmarks")
    points_N52 = np.full((source.num_images, 5, 2), np.nan)
    for image, values in known_lines.of_image.items():
        # NaN and infinity are words for numbers, and no place in a photograph.
        if not all(_is_number(value) and abs(float(value)) <= FURTHEST_PX for value in values):
            name = source.name(image) or source.where(image)
            raise UserError(
                f"{path}: {name}: expected ten numbers of pixels, got {shortened(' '.join(values), 80)}; a photograph "
                "without a line is looked at"
            )
        points_N52[image] = np.array(values, np.float64).reshape(5, 2)
    return points_N52, known_lines.notices


def known_identities(source: AnySource, path: pathlib.Path) -> tuple[np.ndarray, list[str], list[str]]:
    """(label_N, -1 where a photograph has no line; names of the identities, numbers in their order; notices)."""
    known_lines = known(source, named_lines(path, num_values=1, expected="a name and its identity"), what="identity")
    names = sorted({value for (value,) in known_lines.of_image.values()}, key=_as_numbers)
    if too_long := [name for name in names if len(os.fsencode(name)) > MOST_NAME_BYTES]:
        raise UserError(
            f"{path}: {len(too_long):,} identities have names of more than {MOST_NAME_BYTES} bytes, which no folder "
            f"can have: {shortened(too_long[0], 80)}"
        )
    label_of = {name: label for label, name in enumerate(names)}
    label_N = np.full(source.num_images, -1, np.int64)
    for image, (value,) in known_lines.of_image.items():
        label_N[image] = label_of[value]
    return label_N, names, known_lines.notices


def _as_numbers(name):
    return (0, int(name), name) if name.isdecimal() else (1, 0, name)
