"""How good a network is so far: mean average precision and CMC on sets of queries and galleries."""

# N images, M of them, D embedding size

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zennas.data.gallery_set import open_gallery_set
from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError, decode
from zennas.data.layouts import layout_at
from zennas.data.lists import list_and_images
from zennas.data.sources import open_source
from zennas.metrics.retrieval import Reidentification, SingleShot, reidentify, single_shot
from zennas.records import Record, UserError
from zennas.tasks.identity.embedding import embed, in_eval
from zennas.tasks.task import Judgement

MEASURES = ("mean_ap", "rank_1")  # that the curves of a training follow; the first says how good it is
RANKS = (1, 5, 10)


class Verification(Record):
    """Shares, in [0, 1], on one set; of the queries that can be answered."""

    set: str
    mean_ap: float
    rank_1: float
    rank_5: float
    rank_10: float
    num_queries: int
    num_unanswerable: int  # without a right answer in the gallery: in no mean
    num_corrupt: int


class PeopleSet(NamedTuple):
    """Images, each a query or of the gallery."""

    name: str
    images: ImageSet
    label_N: np.ndarray  # below zero: junk
    camera_N: np.ndarray | None
    is_query_N: np.ndarray | None = None  # None: each image is asked for among all others
    image_N: np.ndarray | None = None  # equal where an image stands there twice; None: nowhere
    single_shot: bool = False  # of the gallery one image of each person is drawn
    notices: Sequence[str] = ()  # what is odd about it


def is_gallery_set(text: str) -> bool:
    """Whether a --verify names queries and a gallery: LIST.csv@IMAGES, or a set of people such as Market-1501."""
    return bool(list_and_images(text)[1]) or layout_at(text) is not None


def open_set(text: str) -> PeopleSet:
    """The PeopleSet that --verify names: queries and gallery as open_gallery_set takes them; or any other source of
    people, each of whose images is asked for among all others.

    UserError where it is neither, its first image is none, or no image that is asked for has a right answer. This is
    checked before training.
    """
    try:
        people = _of_gallery(text) if is_gallery_set(text) else _of_source(text)
    except UserError as error:
        raise UserError(f"--verify {error}") from None
    try:
        decode(people.images.read(0))
    except CorruptImageError as error:
        raise UserError(f"{people.name}: {people.images.where(0)}: {error}") from None
    return people


def _of_gallery(text):
    given = open_gallery_set(text)
    columns = given.label_N, given.camera_N, given.is_query_N, given.image_N
    return PeopleSet(given.name, given.images, *columns, given.single_shot, given.notices)


def _of_source(text):
    source = open_source(text)
    images = source.some(np.arange(source.num_images))
    label_N, camera_N = np.asarray(source.label_N), cameras_of(source)
    if not answerable(label_N, camera_N).any():
        raise UserError(
            f"{text}: none of the {len(label_N):,} images has a right answer among the others: "
            f"{why_unanswerable(label_N, camera_N)}"
        )
    if len(np.unique(label_N)) < 2:
        raise UserError(f"{text}: all {len(label_N):,} images have one label, so that every answer is right")
    return PeopleSet(source.path.absolute().name, images, label_N, camera_N)


def cameras_of(source, index_M: np.ndarray | None = None) -> np.ndarray | None:
    """camera_M of these images (None: of all), where a source knows the cameras of all of them; else None."""
    camera_N = getattr(source, "camera_N", None)
    if camera_N is None:
        return None
    camera_M = np.asarray(camera_N if index_M is None else camera_N[index_M])
    return None if (camera_M < 0).any() else camera_M


def ranked(embedding_ND: np.ndarray, people: PeopleSet) -> Reidentification | SingleShot:
    """The Reidentification of queries in their gallery; without is_query_N of every image among all others.

    UserError where an embedding is not finite.
    """
    everybody, camera_N = np.arange(len(people.label_N)), people.camera_N
    query_Q = gallery_G = everybody
    if people.is_query_N is not None:
        query_Q, gallery_G = np.flatnonzero(people.is_query_N), np.flatnonzero(~people.is_query_N)
    sides = [
        part
        for index in (query_Q, gallery_G)
        for part in (embedding_ND[index], people.label_N[index], None if camera_N is None else camera_N[index])
    ]
    if people.single_shot:
        return single_shot(*sides, ranks=RANKS)
    image_N = everybody if people.image_N is None else people.image_N
    return reidentify(*sides, images=(image_N[query_Q], image_N[gallery_G]), ranks=RANKS)


def answerable(label_M: np.ndarray, camera_M: np.ndarray | None) -> np.ndarray:
    """bool_M: whether there is another image of the same person, by another camera where cameras are known.

    >>> answerable(np.array([1, 1, 2]), None).tolist(), answerable(np.array([1, 1, 2]), np.array([3, 3, 4])).tolist()
    ([True, True, False], [False, False, False])
    """
    _, person_M, count = np.unique(label_M, return_inverse=True, return_counts=True)
    if camera_M is None:
        return count[person_M] > 1
    _, seen_M, count_seen = np.unique(np.stack([label_M, camera_M]), axis=1, return_inverse=True, return_counts=True)
    return count[person_M] > count_seen[seen_M.ravel()]


def why_unanswerable(label_N: np.ndarray, camera_N: np.ndarray | None) -> str:
    """Why no image has a right answer among the others, in words.

    >>> why_unanswerable(np.array([1, 1, 2]), np.array([0, 0, 0]))
    'all images are of one camera, and those of the own camera do not count'
    """
    if camera_N is not None and len(np.unique(camera_N)) == 1:
        return "all images are of one camera, and those of the own camera do not count"
    if len(np.unique(label_N)) == len(label_N):
        return "nobody has two images; do the labels of queries and gallery begin anew in each?"
    return "nobody has images of two cameras" if camera_N is not None else "nobody who is asked for is in the gallery"


def judge(request, network, people: PeopleSet, *, device, autocast=None) -> Judgement:
    """The Verification of a network on one set, mirrored images added, as a Judgement."""
    return _judged(people, in_eval(network, device, autocast=autocast), image_px=request.space.shape.hw)


def judge_teacher(teacher, people: PeopleSet, progress) -> Judgement:
    """The same of a teacher, at its own size."""
    progress.begin(f"the teacher on {people.name}")
    count = progress.counting("images")
    judgement = _judged(people, lambda x: teacher(x).embedding_BD, image_px=teacher.input_hw, progress=count)
    progress.end()
    return judgement


def _judged(people, embed_batch, **how):
    embedding_ND, corrupt = embed(people.images, embed_batch, **how)
    embedding_ND = embedding_ND.numpy()
    if not np.isfinite(embedding_ND).all():
        raise UserError(f"{people.name}: the network gives embeddings that are not finite")
    found = ranked(embedding_ND, people)
    num = found.num_queries - len(found.unanswerable)
    if not num:
        raise UserError(
            f"{people.name}: none of {found.num_queries:,} queries has a right answer: "
            f"{why_unanswerable(people.label_N, people.camera_N)}"
        )
    result = Verification(
        set=people.name,
        mean_ap=found.mean_ap,
        **{f"rank_{rank}": share for rank, share in found.at_rank.items()},
        num_queries=found.num_queries,
        num_unanswerable=len(found.unanswerable),
        num_corrupt=len(corrupt),
    )
    unanswerable = f", {result.num_unanswerable:,} without a right answer" if result.num_unanswerable else ""
    text = f"mAP {100 * result.mean_ap:.2f} %, rank 1 {100 * result.rank_1:.2f} % ({num:,} queries{unanswerable})"
    return Judgement(result, text)
