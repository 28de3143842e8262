"""GallerySet: queries, and the gallery in which the people they show are looked for."""

# N images, queries and gallery together

import collections
import functools
import os
import pathlib
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from zennas.data.image_set import ImageSet
from zennas.data.layouts import LAYOUTS, accepted, layout_at, read_crop, state_of
from zennas.data.left_out import line_of
from zennas.data.lists import choices, list_and_images, read_list
from zennas.data.sightings import DISTRACTOR, GALLERY, JUNK, NO_CAMERA, QUERY, person_and_camera
from zennas.metrics.retrieval import Labels
from zennas.records import UserError, some

NOBODY = {str(JUNK), str(DISTRACTOR)}  # in the names of files: not told apart, whatever labels they have
CAMERALESS = "no cameras are given: images by a query's own camera are right answers, too"


class GallerySet(NamedTuple):
    """Images, each a query or of the gallery."""

    name: str
    images: ImageSet
    label_N: np.ndarray  # int64; JUNK below zero; queries and gallery count alike
    camera_N: np.ndarray | None  # int64
    is_query_N: np.ndarray  # bool
    image_N: np.ndarray  # int64: equal where an image stands there twice
    notices: list[str]
    single_shot: bool = False  # whether the gallery is to have one image of each person, drawn
    cameras: Sequence[str] = ()  # what the set calls them, by their numbers; nothing where it has numbers alone


def open_gallery_set(where: str, progress: Callable[[int, int], None] | None = None) -> GallerySet:
    """The GallerySet that a user names: LIST.csv@IMAGES, a table with columns image, label, role (query, gallery) and
    perhaps camera, or the place of a set of people as Market-1501, CUHK03 and MSMT17 have them.

    A label of -1 is junk. Without a column camera nothing is passed over by its camera. UserError where it is neither,
    no query or no gallery is there, or no query has a right answer: then the line says why.
    """
    path, images = list_and_images(where)
    the_set = (
        _of_table(pathlib.Path(path), pathlib.Path(images), progress) if images else _of_layout(pathlib.Path(path))
    )
    return _checked(where, the_set)


def _of_layout(path: pathlib.Path) -> GallerySet:
    layout = layout_at(path)
    if layout is None:
        fault = "is no set of people" if os.path.exists(path) else "no such file or folder"
        raise UserError(f"{path}: {fault}; {accepted('LIST.csv@IMAGES')}")
    sightings = layout.read(path, (QUERY, GALLERY))
    label_N = np.where(sightings.label_N == DISTRACTOR, len(sightings.people), sightings.label_N)
    image_N, _ = pd.factorize(np.array(sightings.path_N, object))
    images = ImageSet(
        len(sightings.path_N),
        functools.partial(_read, sightings.root, sightings.path_N),
        sightings.path_N.__getitem__,
        state_of(path, sightings)[:16],
    )
    notices = [*sightings.notices, *filter(None, [line_of(sightings.left_out)])]
    is_query_N = sightings.role_N == QUERY
    if layout is LAYOUTS["table"]:  # the others take labels from the names
        names = [*sightings.people, *map(str, (DISTRACTOR, JUNK))]  # by their numbers, those below zero from the end
        notices += numbered_anew(sightings.path_N, [names[label] for label in sightings.label_N], is_query_N)
    camera_N = sightings.camera_N if (sightings.camera_N != NO_CAMERA).any() else None
    return GallerySet(
        path.absolute().name,
        images,
        label_N,
        camera_N,
        is_query_N,
        image_N.astype(np.int64),
        notices if camera_N is not None else [*notices, CAMERALESS],
        sightings.single_shot,
        sightings.cameras,
    )


def _read(root, path_N, image):
    return read_crop(root, path_N[image])


def _of_table(path: pathlib.Path, images: pathlib.Path, progress: Callable[[int, int], None] | None) -> GallerySet:
    listed = read_list(path, images, required=("role",), optional=("camera",), progress=progress)
    camera_N, cameras, notices = None, (), listed.notices
    if "camera" in listed.column:
        if len(empty := np.flatnonzero(listed.column["camera"] == "")):
            raise UserError(
                f"{path}, line {listed.line_N[empty[0]]}: no camera ({len(empty)} such lines); "
                "name that of every image, or leave the column out"
            )
        camera_N, cameras = pd.factorize(listed.column["camera"], sort=True)
    else:
        notices = [*notices, CAMERALESS]
    role_N = choices(listed, "role", (QUERY, GALLERY), path)
    for role in (QUERY, GALLERY):
        if not (role_N == role).any():
            raise UserError(f"{path}: no image has the role '{role}'; each is '{QUERY}' or '{GALLERY}'")
    label_N = listed.label_N
    junk = listed.label_names == str(JUNK)
    if junk.any():
        label_N = np.where(junk[label_N], JUNK, label_N)
    is_query_N = role_N == QUERY
    odd = numbered_anew(listed.path_N, listed.label_names[listed.label_N], is_query_N)
    return GallerySet(
        path.stem, listed.images, label_N, camera_N, is_query_N, listed.image_N, [*notices, *odd], cameras=cameras
    )


def _checked(where: str, the_set: GallerySet) -> GallerySet:
    """The set; UserError where no network could be judged on it."""
    is_query_N, label_N, camera_N = the_set.is_query_N, the_set.label_N, the_set.camera_N
    if (label_N[~is_query_N] == JUNK).all():
        raise UserError(f"{where}: every gallery image has the label -1, which is junk: nothing is left to search")
    labels = labels_of(the_set)
    if not labels.answerable_Q.any():
        num, num_known = int(is_query_N.sum()), int(labels.known_Q.sum())
        if camera_N is not None and len(np.unique(camera_N)) == 1:
            raise UserError(
                f"{where}: all {len(camera_N):,} images are of one camera: what a query's own camera took is passed "
                "over, so that no query has a right answer; name the cameras, or leave the column camera out of a table"
            )
        in_both = np.isin(the_set.image_N[is_query_N], the_set.image_N[~is_query_N]).any()
        alone = "by the query's own camera alone" + (", or as its own picture" if in_both else "")
        kinds = ((num - num_known, "not in the gallery"), (num_known, f"there {alone}"))
        why = ", ".join(f"the people of {count:,} are {place}" for count, place in kinds if count)
        raise UserError(
            f"{where}: none of its {num:,} queries has a right answer: {why}; are queries and gallery numbered alike?"
        )
    if len(np.unique(label_N[label_N != JUNK])) == 1:
        raise UserError(
            f"{where}: all {int((label_N != JUNK).sum()):,} images have one label, so that every answer is right "
            "whatever the network is; a label says who is shown"
        )
    return the_set._replace(notices=[*the_set.notices, *_odd_cameras(the_set)])


def _odd_cameras(the_set):
    """Sentences about cameras that one part of a set spells otherwise than another: nothing is then passed over by
    them, and figures are too good."""
    if the_set.camera_N is None or the_set.single_shot:  # there, cameras part queries and gallery
        return []
    used = [np.unique(the_set.camera_N[which_N]) for which_N in (the_set.is_query_N, ~the_set.is_query_N)]
    query, gallery = ([the_set.cameras[c] if len(the_set.cameras) else str(c) for c in cameras] for cameras in used)
    spelled = collections.defaultdict(set)
    for name in (*query, *gallery):
        spelled[_bare(name)].add(name)
    alike = [" = ".join(sorted(names)) for names in spelled.values() if len(names) > 1]
    if alike:
        return [f"cameras that are spelled in several ways count as different ones: {some(sorted(alike))}"]
    # One camera's images may be looked for among another's, as in PKU-Reid; but not by names of two kinds.
    if not set(query) & set(gallery) and not {_kind(name) for name in query} & {_kind(name) for name in gallery}:
        return [
            f"queries and gallery have no camera in common ({some(query)}; {some(gallery)}), so that nothing is passed "
            "over by its camera; are they named alike in both?"
        ]
    return []


def _kind(camera):
    """
    >>> _kind("cam12"), _kind("Gate 3")
    ('a0', 'a 0')
    """
    return re.sub(r"[^\W\d_]+", "a", re.sub(r"\d+", "0", camera))


def _bare(camera):
    """
    >>> {_bare(name) for name in ("1", "1.0", "01", "c1", "C01", "cam1", "camera_1", " 1")}
    {'1'}
    """
    name = re.sub(r"^(camera|cam|c)[\s_-]*(?=\d)", "", camera.strip().lower())
    return re.sub(r"\.0+$", "", name).lstrip("0") or "0"


def numbered_anew(path_N: Sequence[str], label_N: Sequence[str], is_query_N: np.ndarray) -> list[str]:
    """A sentence about labels that stand for one person among the queries and for another one in the gallery, going by
    the names of files or folders; nothing where those do not say who is shown.

    >>> query_N = np.array([True, True, False, False])
    >>> numbered_anew(["q/7/1.png", "q/9/1.png", "g/8/1.png", "g/7/2.png"], ["0", "1", "0", "1"], query_N)[0][:50]
    'labels stand for one person among the queries and '
    >>> numbered_anew(["q/7/1.png", "q/9/1.png", "g/9/1.png", "g/7/2.png"], ["0", "1", "1", "0"], query_N)
    []
    """
    for where, said in (("files", _person_in_name), ("folders", _person_in_folder)):
        parts = [_one_to_one(path_N, label_N, np.flatnonzero(which_N), said) for which_N in (is_query_N, ~is_query_N)]
        if None in parts:
            continue
        of_query, of_gallery = parts
        other = [label for label in of_query if label in of_gallery and of_query[label] != of_gallery[label]]
        if other and set(of_query.values()) & set(of_gallery.values()):
            first = f"{other[0]} is {of_query[other[0]]} there and {of_gallery[other[0]]} here"
            return [
                f"labels stand for one person among the queries and for another one in the gallery, by the names of "
                f"their {where} ({len(other):,} labels, the first: {first}); do they begin anew in each?"
            ]
    return []


def _one_to_one(path_N, label_N, index_M, said):
    """{label: person as the path says}; None where a label is of several persons, or a person has several labels."""
    person_of, label_of = {}, {}
    for index in index_M:
        label, person = label_N[index], said(path_N[index])
        if label == str(JUNK) or person in NOBODY:
            continue
        if person is None or person_of.setdefault(label, person) != person:
            return None
        if label_of.setdefault(person, label) != label:
            return None
    return person_of


def _person_in_name(path):
    known = person_and_camera(os.path.basename(path))
    return None if known is None else str(known[0])


def _person_in_folder(path):
    return os.path.basename(os.path.dirname(path)) or None


def labels_of(the_set: GallerySet) -> Labels:
    """The Labels by which its queries are answered."""
    query_N = the_set.is_query_N
    camera_N = the_set.camera_N
    of_query, of_gallery = (
        (the_set.label_N[which_N], None if camera_N is None else camera_N[which_N], the_set.image_N[which_N])
        for which_N in (query_N, ~query_N)
    )
    return Labels.checked(*of_query[:2], *of_gallery[:2], images=(of_query[2], of_gallery[2]))
