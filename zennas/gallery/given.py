"""What is enrolled and what is looked for: pictures with a name each, and an identity where they are to be enrolled."""

import collections
import contextlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zennas.data.image_set import ImageSet
from zennas.data.layouts import crops_of, is_file_of_crops, layout_at, read_crop, role_at
from zennas.data.left_out import LeftOut, line_of
from zennas.data.listing import below, walk
from zennas.data.lists import list_and_images, read_list
from zennas.data.named_images import find_images, in_folder, is_plain_folder
from zennas.data.own_people import is_own_folder, is_table
from zennas.data.sightings import DISTRACTOR, GALLERY, JUNK, QUERY, Sightings, camera_in
from zennas.data.sources import open_source
from zennas.gallery.store import Entry
from zennas.names import unshown
from zennas.records import UserError
from zennas.tasks.face.crops import AUTO, DETECT, detected, set_of_crops
from zennas.tasks.face.detect import Detector

Counting = Callable[[int, int], None]
UNKNOWN = "0000"  # as Market-1501 calls people whom it does not tell apart
NOBODY_WELL = "images that show nobody well (-1, junk)"
OF_NO_GALLERY = "images of another role than the gallery's"


class Given(NamedTuple):
    """Pictures to enrol."""

    images: ImageSet
    name: Callable[[int], str]  # by which `find_images` finds it at the source
    identity: Callable[[int], str]
    source: str  # absolute: where they lie
    notices: list[str]
    camera: Callable[[int], str] = lambda image: ""  # which took it; "" where that is not known
    of_people: bool = False  # whether it is a set of people seen by cameras


def to_enrol(text: str, *, counting: Counting | None = None) -> Given:
    """The Given of an --enrol: a source, a set of people seen by cameras (its gallery, or the part whose folder is
    named), a folder of pictures, LIST@IMAGES, or a list beside its images. UserError where it is none of these, or
    holds no picture.
    """
    path, images = list_and_images(text)
    folder = pathlib.Path(path)
    if images or is_table(folder):
        return _of_list(folder, pathlib.Path(images) if images else folder.parent, counting)
    place, role = role_at(folder) or (folder, GALLERY)
    if is_own_folder(place):
        return _of_source(place / role, counting, has_cameras=True)
    if layout := layout_at(place):
        return _of_sightings(layout.read(place, (role,)))
    left_out = LeftOut()
    if names := _of_one_folder(folder, left_out):
        return Given(
            in_folder(folder, names, folder),
            names.__getitem__,
            lambda image: os.path.splitext(names[image])[0],
            _absolute(folder),
            [*filter(None, [line_of(left_out.plain())])],
        )
    return _of_source(folder, counting)


def _of_source(folder, counting, *, has_cameras=False):
    """has_cameras: whether the names of images say which camera took them, as in a user's own query/ and gallery/."""
    source = open_source(folder, progress=counting)

    def name(image):
        return str(source.record(image)) if source.name(image) is None else source.name(image)

    def identity(image):
        label = int(source.label_N[image])
        return str(label) if source.identity_names is None else source.identity_names[label]

    def camera(image):
        return _camera_in(name(image)) if has_cameras else ""

    return Given(source.images, name, identity, _absolute(folder), source.notices, camera, of_people=has_cameras)


def _camera_in(name):
    camera = camera_in(name)
    return "" if camera is None else str(camera)


def _of_sightings(sightings: Sightings) -> Given:
    """All but the junk, by their paths below the root of the set."""
    kept_M = np.flatnonzero(sightings.label_N != JUNK)
    left_out = LeftOut()
    for crop in np.flatnonzero(sightings.label_N == JUNK):
        left_out.add(NOBODY_WELL, sightings.path_N[crop])
    path_M = [sightings.path_N[crop] for crop in kept_M]
    label_M = sightings.label_N[kept_M]
    notices = [*sightings.notices, *filter(None, map(line_of, (sightings.left_out, left_out.plain())))]
    if num := int((label_M == DISTRACTOR).sum()):
        notices.append(
            f"{num:,} pictures are of people whom the set does not tell apart: all are enrolled as {UNKNOWN}"
        )
    return Given(
        crops_of(sightings.root, path_M),
        path_M.__getitem__,
        lambda image: UNKNOWN if label_M[image] == DISTRACTOR else sightings.people[label_M[image]],
        _absolute(sightings.root),
        notices,
        lambda image: sightings.camera_name(int(kept_M[image])),
        of_people=True,
    )


def _absolute(path):
    return str(path.absolute())


def _of_list(path, images_path, counting):
    listed = read_list(path, images_path, optional=("camera", "role"), progress=counting)
    where, is_folder = listed.images.where, is_plain_folder(images_path)
    kept_M, left_out = _kept_of_list(listed)
    if not len(kept_M):
        raise UserError(f"{path}: holds no picture to enrol{left_out.aside()}")

    def name(image):
        image = kept_M[image]
        # "a.tar, member p/1.png" and "train.rec, record 7": of a source; of a folder it is the path alone.
        return where(image) if is_folder else where(image).split(", member ", 1)[-1].split(", record ", 1)[-1]

    camera_N = listed.column.get("camera")
    return Given(
        listed.images._replace(
            num_images=len(kept_M),
            read=lambda image: listed.images.read(kept_M[image]),
            where=lambda image: where(kept_M[image]),
        ),
        name,
        lambda image: str(listed.label_names[listed.label_N[kept_M[image]]]),
        _absolute(images_path),
        [*listed.notices, *filter(None, [line_of(left_out.plain())])],
        lambda image: "" if camera_N is None else str(camera_N[kept_M[image]]),
    )


def _kept_of_list(listed):
    """(places of what is enrolled, LeftOut): of a list with roles the gallery, where any line is of it; no junk."""
    left_out, kept = LeftOut(), []
    role_N = [role.lower() for role in listed.column.get("role", [""] * len(listed.label_N))]
    for place, role in enumerate(role_N):
        if GALLERY in role_N and role != GALLERY:
            left_out.add(OF_NO_GALLERY, listed.images.where(place))
        elif listed.label_names[listed.label_N[place]] == str(JUNK):
            left_out.add(NOBODY_WELL, listed.images.where(place))
        else:
            kept.append(place)
    return kept, left_out


def _of_one_folder(folder, left_out):
    """The names of the pictures of a folder that holds them itself, and no folder with pictures; else nothing."""
    if not is_plain_folder(folder):
        return []
    names = []
    for listed in walk(folder, left_out):
        if listed.folder and listed.names:
            return []
        names += listed.names
        if not names:  # the root comes first
            return []
    return names


class Asked(NamedTuple):
    """Pictures that are asked about."""

    images: ImageSet
    camera: Callable[[int], str]  # which took it, by the set's table or the picture's name; "" where that is not known


def to_find(paths: Sequence[pathlib.Path]) -> Asked:
    """The Asked of a --query: files, those of folders, and the queries of sets of people seen by cameras. UserError
    where there is none.
    """
    crops: list[tuple[pathlib.Path, str, str]] = []  # where it lies, its name there, its camera
    for path in paths:
        if is_own_folder(path):
            path = path / QUERY
        layout = layout_at(path) if role_at(path) is None else None
        if layout:
            sightings = layout.read(path, (QUERY,))
            crops += [(sightings.root, name, sightings.camera_name(crop)) for crop, name in enumerate(sightings.path_N)]
        elif path.is_dir():
            found = [below(at.folder, name) for at in walk(path, LeftOut()) for name in at.names]
            if not found:
                raise UserError(f"--query {path}: holds no picture")
            crops += [(path, name, _camera_in(name)) for name in found]
        elif path.is_file():
            crops.append((path.parent, path.name, _camera_in(path.name)))
        else:
            raise UserError(f"--query {path}: no such file or folder")
    images = ImageSet(
        len(crops), lambda image: read_crop(*crops[image][:2]), lambda image: str(pathlib.Path(*crops[image][:2])), ""
    )
    return Asked(images, lambda image: crops[image][2])


def prepared(images: ImageSet, holds: str, faces: str, *, where: str, then: Callable[[str], str]) -> ImageSet:
    """The images as they are embedded: of people as they are; of faces as --faces says. UserError for photographs, and
    for --faces where they are people.
    """
    if holds == "people":
        if faces != AUTO:
            raise UserError(f"--faces {faces}: is of faces; pictures of people are taken as they are")
        return images
    return set_of_crops(images, faces, given="", where=where, is_listed=False, then=then)


def pictures_of(entries: Sequence[Entry]) -> dict[int, ImageSet]:
    """{number: the ImageSet of its picture alone} of entries, where they were enrolled from; without those that are not
    there any more.
    """
    found, groups = {}, collections.defaultdict(list)
    for entry in entries:
        groups[entry.source, entry.detected].append(entry)
    for (source, is_detected), group in groups.items():
        for part, images in _parts_found(source, group):
            images = detected(images, Detector()) if is_detected else images
            for place, entry in enumerate(part):
                found[entry.number] = _one_of(images, place)
    return found


def _parts_found(source, group):
    """(entries, their ImageSet): all of them at once, or one by one where some are missing."""
    place = pathlib.Path(unshown(source))
    if is_file_of_crops(place):
        return [(group, crops_of(place, [unshown(entry.name) for entry in group]))]
    for parts in ([group], [[entry] for entry in group]):
        found = []
        for part in parts:
            with contextlib.suppress(UserError):
                found.append((part, find_images(place, [unshown(entry.name) for entry in part], place)))
        if found:
            return found
    return []


def _one_of(images, place):
    return images._replace(
        num_images=1,
        read=lambda image: images.read(place),
        where=lambda image: images.where(place),
    )


def is_photograph(holds: str, faces: str) -> bool:
    """Whether faces are found in what is enrolled."""
    return holds == "faces" and faces == DETECT
