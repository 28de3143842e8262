"""MSMT17's lists: list_train.txt, list_val.txt, list_query.txt, list_gallery.txt, each line a path and a number."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from zennas.data.image_set import changed_at
from zennas.data.left_out import LeftOut
from zennas.data.listing import leads_out
from zennas.data.sightings import GALLERY, QUERY, TRAIN, Sightings, check_roles
from zennas.records import UserError, read_lines

LISTS = {TRAIN: ("list_train.txt", "list_val.txt"), QUERY: ("list_query.txt",), GALLERY: ("list_gallery.txt",)}
FOLDERS = {TRAIN: ("train", "mask_train_v2"), QUERY: ("test", "mask_test_v2"), GALLERY: ("test", "mask_test_v2")}
MISSING = "images that a list names and that are not there"


class Line(NamedTuple):
    """A line of a list."""

    path: str
    number: int  # of the person, in its lists
    where: str  # for errors


def is_msmt17(path: pathlib.Path) -> bool:
    """Whether a folder holds MSMT17's lists, and a folder for their images."""
    has_list = any((path / name).is_file() for names in LISTS.values() for name in names)
    return has_list and any((path / name).is_dir() for names in FOLDERS.values() for name in names)


def read_msmt17(path: pathlib.Path, roles: Sequence[str]) -> Sightings:
    """The Sightings of these roles, by the lists of MSMT17 (V1: train, test; V2: mask_train_v2, mask_test_v2).

    Training is list_train and list_val together, as it is published (32,621 images of 1,041 people). The numbers of the
    test begin at 0 again, so its people are called test-0000 and never meet those of the training. The camera is the
    third part of a name. UserError where a line is no path and number, a number stands for two people, or a role has no
    image.
    Source: Wei et al. 2018, arXiv:1711.08565.
    """
    left_out, rows = LeftOut(), []
    for part, prefix in (((TRAIN,), ""), ((QUERY, GALLERY), "test-")):
        first_of: dict[int, Line] = {}
        for role in [role for role in part if role in roles]:
            folder = next((name for name in FOLDERS[role] if (path / name).is_dir()), None)
            if folder is None:
                raise UserError(
                    f"{path}: holds neither {' nor '.join(FOLDERS[role])}, where the images of its lists lie"
                )
            for line in _lines(path, role):
                _check_number(line, first_of)
                if changed_at(path / folder / line.path) == "missing":
                    left_out.add(MISSING, f"{folder}/{line.path}")
                else:
                    rows.append((f"{folder}/{line.path}", f"{prefix}{line.number:04d}", _camera(line), role))
    sightings = Sightings.of(path, rows, left_out)
    return check_roles(sightings, roles, {role: f"{path / LISTS[role][0]}" for role in roles})


def _lines(path: pathlib.Path, role: str) -> Iterator[Line]:
    lists = [path / name for name in LISTS[role] if (path / name).is_file()]
    if not lists:
        raise UserError(f"{path}: holds no {LISTS[role][0]}")
    for file in lists:
        for line in read_lines(file):
            name, _, number = line.text.strip().rpartition(" ")
            where = f"{file}, line {line.number}"
            if not name or not number.isdecimal():
                raise UserError(
                    f"{where}: given {line.text.strip()[:120]!r}, expected a path and the number of a person"
                )
            if leads_out(name):
                raise UserError(f"{where}: {name[:120]} leads out of the folder of the lists")
            yield Line(name.strip(), int(number), where)


def _check_number(line: Line, first_of: dict[int, Line]) -> None:
    """UserError where a number stands for two people: then lists were numbered apart, and must not be compared."""
    first = first_of.setdefault(line.number, line)
    (what, here), (_, there) = _person(line), _person(first)
    if here != there:
        raise UserError(
            f"{line.where}: person {line.number} is of {what}{here} here and of {there} at {first.where}: "
            "labels that begin at 0 again in another list; all lists of a test must number the same people alike"
        )


def _person(line: Line) -> tuple[str, str]:
    """Who an image shows, by its folder; where it lies in none, by the first part of its name, as in 0000_000_01_."""
    folder, _, name = line.path.rpartition("/")
    return ("folder ", folder) if folder else ("", name.partition("_")[0])


def _camera(line: Line) -> int:
    parts = line.path.rpartition("/")[2].split("_")
    if len(parts) < 3 or not parts[2].isdecimal():
        raise UserError(
            f"{line.where}: {line.path}: no camera in its name; expected it third, as in 0000_000_01_...jpg"
        )
    return int(parts[2])
