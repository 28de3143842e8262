"""LAYOUTS: how sets of people are laid out on disk, beside the sources of plain identities. A row is a new layout."""

import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zennas.data import cuhk03, market, msmt17, own_people
from zennas.data.image_set import ImageSet, changed_at, read_file
from zennas.data.sightings import QUERY, ROLES, Sightings


class Layout(NamedTuple):
    """One way in which crops of people lie on disk."""

    name: str  # for people, as the page has it
    is_at: Callable[[pathlib.Path], bool]
    read: Callable[[pathlib.Path, Sequence[str]], Sightings]  # (path, roles) -> Sightings


LAYOUTS = {
    "cuhk03": Layout("CUHK03", cuhk03.is_cuhk03, cuhk03.read_cuhk03),
    "market": Layout("Market-1501", market.is_market, market.read_market),
    "msmt17": Layout("MSMT17", msmt17.is_msmt17, msmt17.read_msmt17),
    "folders": Layout("a folder with query/ and gallery/", own_people.is_own_folder, own_people.read_own_folder),
    "table": Layout("a table (.csv)", own_people.is_table, own_people.read_people_table),
}
PAGE = "zennas/data/README.md"  # how each of them lies; it ships with the package


def accepted(*others: str) -> str:
    """What a place may be, as an error says it: these others, and every row of LAYOUTS."""
    *names, last = (*others, *(layout.name for layout in LAYOUTS.values()))
    return f"accepted are {', '.join(names)}, or {last}: see {PAGE}"


def layout_at(path: pathlib.Path | str) -> Layout | None:
    """The Layout of what lies at a path, or None where none of them does."""
    path = pathlib.Path(path)
    return next((layout for layout in LAYOUTS.values() if layout.is_at(path)), None)


def is_there(path: pathlib.Path | str) -> bool:
    """Whether something lies at a path; a part of a file may be named as if that were a folder (CUHK03/detected)."""
    return os.path.exists(path) or layout_at(path) is not None


def role_at(path: pathlib.Path | str) -> tuple[pathlib.Path, str] | None:
    """(the place of a set of people, role) where a path is the folder of one role; None where it is not."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return None
    if market.is_market(path):  # its root, or the folder of training or gallery
        return next(((path.parent, role) for role, folder in market.FOLDER.items() if folder == path.name), None)
    is_role = (path.name == QUERY and market.is_market(path.parent)) or (
        path.name in ROLES and own_people.is_own_folder(path.parent)
    )
    return (path.parent, path.name) if is_role else None


def crops_of(root: pathlib.Path | str, path_N: Sequence[str], fingerprint: str = "") -> ImageSet:
    """The ImageSet of crops at these paths, as Sightings have them."""
    return ImageSet(len(path_N), lambda image: read_crop(root, path_N[image]), lambda image: path_N[image], fingerprint)


def is_file_of_crops(root: pathlib.Path | str) -> bool:
    """Whether the root of Sightings is a file that holds the images itself, by names of their own."""
    return pathlib.Path(root).name == cuhk03.FILE


def read_crop(root: pathlib.Path | str, path: str) -> bytes:
    """The encoded bytes of an image of Sightings; CorruptImageError where they cannot be had."""
    root = pathlib.Path(root)
    return cuhk03.read_image(root, path) if is_file_of_crops(root) else read_file(root / path)


def state_of(path: pathlib.Path | str, sightings: Sightings) -> str:
    """What tells Sightings from what they were: paths, people, cameras, roles, and when each file changed."""
    digest = hashlib.sha256(f"{pathlib.Path(path).absolute()}\n".encode(errors="surrogateescape"))
    for column in (sightings.label_N, sightings.camera_N):
        digest.update(column.tobytes())
    for part in (sightings.people, sightings.role_N.tolist(), [str(sightings.left_out)]):
        digest.update("\n".join(part).encode(errors="surrogateescape"))
    files = cuhk03.files_of(pathlib.Path(path)) if sightings.root.is_file() else None
    for name in sightings.path_N:
        changed = "" if files else changed_at(sightings.root / name)
        digest.update(f"{name}\t{changed}\n".encode(errors="surrogateescape"))
    for file in files or ():
        digest.update(f"{file}\t{changed_at(file)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
