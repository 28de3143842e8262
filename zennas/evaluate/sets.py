"""What `--set` names: [PROTOCOL:]WHERE, opened, everything in it checked before any network is asked."""

# N images, P pairs

import csv
import hashlib
import pathlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd

from zennas.data.gallery_set import open_gallery_set
from zennas.data.image_set import ImageSet
from zennas.data.lists import choices, list_and_images, read_list, truths
from zennas.data.named_images import in_folder
from zennas.data.sources import open_source
from zennas.records import UserError, some
from zennas.tasks.face.align import aligned
from zennas.tasks.face.pairs import open_pairs as open_pair_set

RACES = ("african", "caucasian", "indian", "asian")
MFR_SUBSETS = ("mask", "children", *RACES)
SCENES = ("controlled", "wild")
GALLERY = "gallery"
LARGEST = 2**53  # whole numbers up to here are exact as float64


class EvaluationSet(NamedTuple):
    """Images, and what a protocol has to know of them."""

    name: str
    images: ImageSet
    column: dict  # name -> array, as the protocol's judge reads it
    notices: tuple | list = ()  # what is odd about it
    single_shot: bool = False  # of a gallery one image of each person is drawn


def open_pairs(where: str, progress: Callable[[int, int], None] | None = None) -> EvaluationSet:
    """SET.bin, or PAIRS@SOURCE: columns first_P, second_P, same_P, fold_P."""
    pairs = open_pair_set(where, progress=progress)
    _, faces = list_and_images(where)
    name = f"{pairs.name}@{pathlib.Path(faces).absolute().stem}" if faces else pairs.name
    column = {name: getattr(pairs, name) for name in ("first_P", "second_P", "same_P", "fold_P")}
    return EvaluationSet(name, pairs.images, column, _pair_oddities(pairs))


def open_ijb(where: str, progress: Callable[[int, int], None] | None = None) -> EvaluationSet:
    """A folder of IJB-B or IJB-C as insightface ships them: loose_crop/ and meta/;
    faces are aligned by the landmarks there.

    Columns template_N, media_N, score_N (the detector's), first_P, second_P (template numbers), same_P.
    """
    folder = pathlib.Path(where)
    points_path, media_path, pairs_path = (
        _one_file(folder / "meta", pattern)
        for pattern in ("*_name_5pts_score.txt", "*_face_tid_mid.txt", "*_template_pair_label.txt")
    )
    points = _columns(points_path, 12)
    media = _columns(media_path, 3)
    if list(points[0]) != list(media[0]):
        raise UserError(
            f"{media_path} has {len(media)} images and {points_path.name} {len(points)}, or in another order; "
            "line by line they must be the same images"
        )
    pairs = _columns(pairs_path, 3)
    images = in_folder(points_path, points[0].to_numpy(), folder / "loose_crop")
    numbers = _numbers(points.drop(columns=0), points_path)
    template_N, media_N = _numbers(media.drop(columns=0), media_path, whole=True).T
    first_P, second_P, same_P = _numbers(pairs, pairs_path, whole=True).T
    if len(bad := np.flatnonzero((same_P != 0) & (same_P != 1))):
        raise UserError(f"{pairs_path}, line {pairs.index[bad[0]] + 1}: given {same_P[bad[0]]}, allowed: 1 (same) or 0")
    if len(missing := np.setdiff1d([first_P, second_P], template_N)):
        raise UserError(
            f"{pairs_path}: names {len(missing)} templates that {media_path.name} does not have: {some(missing)}"
        )
    landmarks = hashlib.sha256(numbers.tobytes()).hexdigest()[:16]
    images = aligned(images, numbers[:, :10].reshape(-1, 5, 2), f"{images.fingerprint}-{landmarks}")
    column = {"template_N": template_N, "media_N": media_N, "score_N": numbers[:, 10]}
    column |= {"first_P": first_P, "second_P": second_P, "same_P": same_P.astype(bool)}
    return EvaluationSet(folder.absolute().name, images, column)


def open_mfr(where: str, progress: Callable[[int, int], None] | None = None) -> EvaluationSet:
    """LIST.csv@IMAGES with columns image, label, subset (mask, children, african, caucasian, indian, asian), masked."""
    path, images = _list_and_images(where, "mfr")
    listed = read_list(path, images, required=("subset",), optional=("masked",), progress=progress)
    subset_N = choices(listed, "subset", MFR_SUBSETS, path)
    masked_N = _masked(listed, path)
    if (subset_N == "mask").any() and not masked_N[subset_N == "mask"].any():
        raise UserError(f"{path}: subset mask has no image with masked = 1; who wears one stands in column 'masked'")
    column = {"label_N": listed.label_N, "subset_N": subset_N, "masked_N": masked_N}
    return EvaluationSet(path.stem, listed.images, column, listed.notices)


def open_webface(where: str, progress: Callable[[int, int], None] | None = None) -> EvaluationSet:
    """LIST.csv@IMAGES with columns image, label, masked, and perhaps scene (controlled, wild) of the masked ones."""
    path, images = _list_and_images(where, "webface")
    listed = read_list(path, images, required=("masked",), optional=("scene",), progress=progress)
    column = {"label_N": listed.label_N, "masked_N": _masked(listed, path)}
    if column["masked_N"].all():
        raise UserError(f"{path}: every image is masked; the standard faces, that all comparisons need, are missing")
    if "scene" in listed.column:
        column["scene_N"] = choices(listed, "scene", (*SCENES, ""), path)
    return EvaluationSet(path.stem, listed.images, column, listed.notices)


def open_reid(where: str, progress: Callable[[int, int], None] | None = None) -> EvaluationSet:
    """LIST.csv@IMAGES with columns image, label, camera, role (query, gallery), or a set of people as Market-1501,
    CUHK03 and MSMT17 lie on disk; a label of -1 is junk.
    """
    the_set = open_gallery_set(where, progress)
    column = {"label_N": the_set.label_N, "first_N": the_set.is_query_N, "image_N": the_set.image_N}
    if the_set.camera_N is not None:
        column["camera_N"] = the_set.camera_N
    if the_set.single_shot:  # there, all images are in both roles
        return EvaluationSet(the_set.name, the_set.images, column, the_set.notices, single_shot=True)
    role_N = np.where(the_set.is_query_N, "query", GALLERY)
    notices = [*_in_both_roles(the_set, role_N, "query"), *the_set.notices]
    return EvaluationSet(the_set.name, the_set.images, column, notices)


def open_identification(where: str, progress: Callable[[int, int], None] | None = None) -> EvaluationSet:
    """LIST.csv@IMAGES with columns image, label, role (probe, gallery)."""
    path, images = _list_and_images(where, "identification")
    listed = read_list(path, images, required=("role",), progress=progress)
    role_N = _roles(listed, path, "probe")
    column = {"label_N": listed.label_N, "first_N": role_N == "probe", "image_N": listed.image_N}
    return EvaluationSet(path.stem, listed.images, column, [*_in_both_roles(listed, role_N, "probe"), *listed.notices])


def open_all(where: str, progress: Callable[[int, int], None] | None = None) -> EvaluationSet:
    """LIST.csv@IMAGES with columns image and label, or any source of faces whose identities are the labels."""
    if list_and_images(where)[1]:
        path, images = _list_and_images(where, "all")
        listed = read_list(path, images, progress=progress)
        return EvaluationSet(path.stem, listed.images, {"label_N": listed.label_N}, listed.notices)
    source = open_source(where, progress=progress)
    label_N = np.asarray(source.label_N, np.int64)
    return EvaluationSet(
        source.path.absolute().stem, source.some(np.arange(source.num_images)), {"label_N": label_N}, source.notices
    )


def _list_and_images(where, protocol):
    path, images = list_and_images(where)
    if not images:
        raise UserError(f"{where}: say where its images are: {protocol}:LIST.csv@IMAGES")
    return pathlib.Path(path), pathlib.Path(images)


def _masked(listed, path):
    if "masked" not in listed.column:
        return np.zeros(listed.images.num_images, bool)
    return truths(listed, "masked", path)


def _roles(listed, path, first):
    role_N = choices(listed, "role", (first, GALLERY), path)
    for role in (first, GALLERY):
        if not (role_N == role).any():
            raise UserError(f"{path}: no image has the role '{role}'")
    return role_N


def _in_both_roles(listed, role_N, first):
    """A sentence about images that are searched for and stand in the gallery, or none."""
    both = np.intersect1d(listed.image_N[role_N == first], listed.image_N[role_N == GALLERY])
    if not len(both):
        return []
    num = len(np.unique(listed.image_N[role_N == first]))
    row_of = {image: row for row, image in reversed(list(enumerate(listed.image_N.tolist())))}
    named = some([listed.images.where(row_of[image]) for image in both.tolist()])
    plural = "queries" if first == "query" else f"{first}s"
    return [
        f"{len(both)} of {num} {plural} are also in the gallery: {named}; the own image is left out of what is searched"
    ]


def _pair_oddities(pairs):
    """Sentences about pairs that say nothing of a network."""
    alike = np.flatnonzero(pairs.first_P == pairs.second_P)
    oddities = []
    if len(alike):
        named = some([pairs.images.where(int(pairs.first_P[pair])) for pair in alike])
        oddities.append(f"{len(alike)} pairs are of an image with itself: {named}")
    for same, kind in ((True, "same"), (False, "different")):
        if not (pairs.same_P == same).any():
            oddities.append(f"no pair is of {kind} people: there is no TAR at a FAR, and accuracy means little")
    return oddities


def _one_file(folder, pattern):
    try:
        paths = sorted(folder.glob(pattern))
    except OSError as error:
        raise UserError(f"{folder}: cannot be read: {error.strerror}") from None
    if len(paths) != 1:
        given = ", ".join(path.name for path in paths) or "none"
        raise UserError(
            f"{folder}/{pattern}: {given}; exactly one such file is expected, as in IJB-B and IJB-C by insightface"
        )
    return paths[0]


def _columns(path, num_columns):
    """A table without a header, parted by blanks, as text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pd.errors.ParserWarning)  # more columns than that are said below
            table = pd.read_csv(
                path,
                sep=r"\s+",
                header=None,
                dtype=str,
                keep_default_na=False,
                names=range(num_columns + 1),
                index_col=False,
                quoting=csv.QUOTE_NONE,
                encoding="utf-8",
                skip_blank_lines=False,
            )
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as a table: {error}") from None
    table = table[(table != "").any(axis=1)]  # without blank lines; the index is of all lines, for errors
    if table.empty:
        raise UserError(f"{path}: is empty; expected {num_columns} columns")
    bad_N = (table[num_columns] != "").to_numpy() | (table[num_columns - 1] == "").to_numpy()
    if len(bad := np.flatnonzero(bad_N)):
        raise UserError(
            f"{path}, line {table.index[bad[0]] + 1}: expected {num_columns} columns ({len(bad)} such lines)"
        )
    return table.drop(columns=num_columns)


def _numbers(table, path, *, whole=False):
    """A table's values as float64, or as int64 where they must be whole numbers;
    UserError naming the line of another."""
    values = table.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    bad_N = ~np.isfinite(values).all(axis=1)
    if whole:
        bad_N |= (values != np.round(values)).any(axis=1) | (np.abs(values) > LARGEST).any(axis=1)
    if len(bad := np.flatnonzero(bad_N)):
        what = "a whole number" if whole else "a number"
        raise UserError(f"{path}, line {table.index[bad[0]] + 1}: not {what} ({len(bad)} such lines)")
    return values.astype(np.int64) if whole else values
