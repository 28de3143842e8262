"""A user's own people: folders train/, query/ and gallery/ with one sub-folder per person, or a table."""

import os
import pathlib
from collections.abc import Iterator, Sequence

from zennas.data.left_out import DEEPER, LOOSE, LeftOut
from zennas.data.listing import leads_out, walk
from zennas.data.sightings import (
    GALLERY,
    JUNK,
    NO_CAMERA,
    QUERY,
    ROLES,
    TRAIN,
    Sightings,
    camera_in,
    check_roles,
)
from zennas.data.tables import read_table
from zennas.records import UserError, shortened, some


def is_own_folder(path: pathlib.Path) -> bool:
    """Whether a folder holds query/ and gallery/, each with folders of people or nothing."""
    return all((path / role).is_dir() for role in (QUERY, GALLERY))


def read_own_folder(path: pathlib.Path, roles: Sequence[str]) -> Sightings:
    """The Sightings of these roles: ROLE/PERSON/IMAGE, the camera in the image's name: c3_0001.jpg, 17_cam3.png.

    To train, no camera needs to be known. UserError where one is missing of a query or a gallery image, or a role has
    no image.
    """
    left_out = LeftOut()
    rows = [row for role in roles for row in _rows(path, role, left_out)]
    nameless = [name for name, _, camera, role in rows if camera == NO_CAMERA and role != TRAIN]
    if nameless:
        raise UserError(
            f"{path}: {len(nameless)} images have no camera in their name: {some(nameless)}; expected as c3_0001.jpg "
            "or 17_cam3.png, or give a table with a column camera"
        )
    sightings = Sightings.of(path, rows, left_out)
    return check_roles(sightings, roles, {role: f"{path / role}" for role in roles})


def _rows(root: pathlib.Path, role: str, left_out: LeftOut) -> Iterator[tuple[str, str, int, str]]:
    if not (root / role).is_dir():
        return
    for listed in walk(root / role, left_out):
        for name in listed.names:
            path = f"{role}/{listed.folder}/{name}" if listed.folder else f"{role}/{name}"
            if not listed.folder or "/" in listed.folder:
                left_out.add(DEEPER if listed.folder else LOOSE, path)
            else:
                camera = camera_in(name)
                yield path, listed.folder, NO_CAMERA if camera is None else camera, role


def is_table(path: pathlib.Path) -> bool:
    """Whether a path is a table's."""
    return path.suffix.lower() in (".csv", ".tsv") and path.is_file()


def read_people_table(path: pathlib.Path, roles: Sequence[str]) -> Sightings:
    """The Sightings of these roles in a table with columns image, label, and perhaps camera and role; paths are
    relative to its folder.

    Without a column role all rows train. Label -1 is junk. Cameras are numbered in the order of their names. UserError
    for what is wrong in the table, files that are not there, or a role without a row.
    """
    line_N, column = read_table(path, required=("image", "label"), optional=("camera", "role"))
    role_N = [role.lower() for role in column.get("role", [TRAIN] * len(line_N))]
    for line, role in zip(line_N, role_N, strict=True):
        if role not in ROLES:
            raise UserError(f"{path}, line {line}: role: given {shortened(role, 120)!r}, allowed: {', '.join(ROLES)}")
    names = sorted(set(column.get("camera", [])))
    cameras = {name: number for number, name in enumerate(names)}
    camera_N = [cameras[name] if name else NO_CAMERA for name in column.get("camera", [""] * len(line_N))]
    wanted = [
        (name, JUNK if label == str(JUNK) else label, camera, role)
        for name, label, camera, role in zip(column["image"], column["label"], camera_N, role_N, strict=True)
        if role in roles
    ]
    nowhere = [name for name, _, camera, role in wanted if camera == NO_CAMERA and role != TRAIN]
    if "camera" in column and nowhere:
        raise UserError(f"{path}: {len(nowhere)} images have no camera: {some(nowhere)}")
    if outside := [name for name, *_ in wanted if leads_out(name)]:
        raise UserError(f"{path}: {len(outside)} paths lead out of {path.parent}: {some(outside)}")
    if missing := [name for name, *_ in wanted if not os.path.isfile(path.parent / name)]:
        raise UserError(f"{path}: {len(missing)} of {len(wanted)} images are not in {path.parent}: {some(missing)}")
    both = {label for label, role in zip(column["label"], role_N, strict=True) if role == TRAIN}
    both &= {label for label, role in zip(column["label"], role_N, strict=True) if role != TRAIN}
    notices = []
    if both := sorted(both - {str(JUNK)}):
        notices = [
            f"{len(both)} people train and are looked for, too: {some(both)}; where the labels of the test begin at 0 "
            "again, they are others: give them other names"
        ]
    sightings = Sightings.of(path.parent, wanted, LeftOut(), notices)._replace(cameras=names)
    return check_roles(sightings, roles, dict.fromkeys(roles, f"{path}"))
