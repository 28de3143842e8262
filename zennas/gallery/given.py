"""What is enrolled and what is looked for: pictures with a name each, and an identity where they are to be enrolled."""

import collections
import contextlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from zennas.data.image_set import ImageSet, read_file
from zennas.data.left_out import LeftOut, line_of
from zennas.data.listing import below, walk
from zennas.data.lists import read_list
from zennas.data.named_images import find_images, in_folder, is_plain_folder
from zennas.data.sources import open_source
from zennas.gallery.store import Entry
from zennas.names import unshown
from zennas.records import UserError
from zennas.tasks.face.crops import AUTO, DETECT, detected, set_of_crops
from zennas.tasks.face.detect import Detector
from zennas.tasks.face.pairs import list_and_images

Counting = Callable[[int, int], None]


class Given(NamedTuple):
    """Pictures to enrol."""

    images: ImageSet
    name: Callable[[int], str]  # by which `find_images` finds it at the source
    identity: Callable[[int], str]
    source: str  # absolute: where they lie
    notices: list[str]


def to_enrol(text: str, *, counting: Counting | None = None) -> Given:
    """The Given of an --enrol: a source, a folder of pictures, or LIST@IMAGES. UserError where it is none of these, or
    holds no picture.
    """
    path, images = list_and_images(text)
    if images:
        return _of_list(pathlib.Path(path), pathlib.Path(images), counting)
    folder = pathlib.Path(path)
    left_out = LeftOut()
    if names := _of_one_folder(folder, left_out):
        return Given(
            in_folder(folder, names, folder),
            names.__getitem__,
            lambda image: os.path.splitext(names[image])[0],
            _absolute(folder),
            [*filter(None, [line_of(left_out.plain())])],
        )
    source = open_source(folder, progress=counting)

    def name(image):
        return str(source.record(image)) if source.name(image) is None else source.name(image)

    def identity(image):
        label = int(source.label_N[image])
        return str(label) if source.identity_names is None else source.identity_names[label]

    return Given(source.images, name, identity, _absolute(folder), source.notices)


def _absolute(path):
    return str(path.absolute())


def _of_list(path, images_path, counting):
    listed = read_list(path, images_path, progress=counting)
    where, is_folder = listed.images.where, is_plain_folder(images_path)

    def name(image):
        # "a.tar, member p/1.png" and "train.rec, record 7": of a source; of a folder it is the path alone.
        return where(image) if is_folder else where(image).split(", member ", 1)[-1].split(", record ", 1)[-1]

    return Given(
        listed.images,
        name,
        lambda image: str(listed.label_names[listed.label_N[image]]),
        _absolute(images_path),
        listed.notices,
    )


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


def to_find(paths: Sequence[pathlib.Path]) -> ImageSet:
    """The ImageSet of the pictures of a --query: files, and those of folders. UserError where there is none."""
    files: list[pathlib.Path] = []
    for path in paths:
        if path.is_dir():
            found = [path / below(at.folder, name) for at in walk(path, LeftOut()) for name in at.names]
            if not found:
                raise UserError(f"--query {path}: holds no picture")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"--query {path}: no such file or folder")
    return ImageSet(len(files), lambda image: read_file(files[image]), lambda image: str(files[image]), "")


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
