"""A set as a network sees it: its embeddings, kept between evaluations, and what of them cannot be used."""

# N images, D embedding size

import collections
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zennas.data.images import CorruptImageError
from zennas.data.outlines import odd_outlines
from zennas.embed.embeddings import BATCH, Sidecar, kept_path, precompute, sidecar_of
from zennas.embed.model import Model
from zennas.evaluate.sets import EvaluationSet
from zennas.records import NAMED, UserError, some

SHORTEST = 1e-12  # an embedding that is shorter has no direction
ROWS = 8192  # looked at at a time
# Groups of equal embeddings whose pictures are compared, and images of each: a second of reading at most.
COMPARED, COMPARED_OF_EACH = 256, 8


class Embedded(NamedTuple):
    """embedding_ND (float32; rows of zeros for images that cannot be used), how many those are,
    and sentences about them.
    """

    embedding_ND: np.ndarray
    num_unusable: int
    notices: list


def embedded(
    the_set: EvaluationSet, model: Model, *, flip: bool, progress: Callable[[int, int], None] | None = None
) -> Embedded:
    """The Embedded set. Asked of the model once: $ZENNAS_CACHE/embeddings keeps it, by model, images and flip.

    UserError where no image at all can be used.
    """
    path = kept_path(f"{model.fingerprint} {the_set.images.fingerprint} {the_set.images.num_images} {flip}", ".npy")
    batch = BATCH[model.device.type]
    precompute(model, the_set.images, path, flip=flip, dtype=np.float32, batch=batch, strict=False, progress=progress)
    embedding_ND = np.load(path, mmap_mode="c")  # what is written to it stays in memory
    return usable(embedding_ND, the_set, corrupt=Sidecar.load(sidecar_of(path)), model=model)


def usable(embedding_ND: np.ndarray, the_set: EvaluationSet, *, corrupt: Sidecar, model: Model) -> Embedded:
    """The Embedded of raw rows: those that are not finite or too short for a direction become zeros,
    counted and named."""
    not_finite, short = [], []
    for start in range(0, len(embedding_ND), ROWS):
        rows_BD = embedding_ND[start : start + ROWS]
        finite_B = np.isfinite(rows_BD).all(axis=1)
        length_B = np.linalg.norm(np.where(finite_B[:, None], rows_BD, 0), axis=1)
        not_finite += (start + np.flatnonzero(~finite_B)).tolist()
        short += (start + np.flatnonzero(finite_B & (length_B < SHORTEST))).tolist()
    if len(not_finite) + len(short) == len(embedding_ND):
        num, num_unread = len(embedding_ND), corrupt.num_corrupt + len(corrupt.unreadable)
        message = f"{the_set.name}: none of its {num} images can be used"
        if num_unread < num:
            of_whom = " of the others" if num_unread else ""
            message += f": {model.where} gives no embedding{of_whom} that is finite and not zero"
        if num_unread:
            message += f"; {num_unread} cannot be read" + (
                f", the first: {corrupt.corrupt[0]}" if corrupt.corrupt else ""
            )
        raise UserError(message)
    if not_finite or short:
        embedding_ND[[*not_finite, *short]] = 0.0
    notices = odd_outlines(the_set.images, model.input_hw) + _notices(embedding_ND, the_set, corrupt, not_finite, short)
    return Embedded(embedding_ND, len(not_finite) + len(short), notices)


def _notices(embedding_ND, the_set, corrupt, not_finite, short):
    notices, where = [], the_set.images.where
    if corrupt.num_corrupt:
        notices.append(
            f"{corrupt.num_corrupt} images cannot be read and are like nobody: "
            f"{some(corrupt.corrupt, corrupt.num_corrupt)}"
        )
    if corrupt.unreadable:
        named = some([where(image) for image in corrupt.unreadable[:NAMED]], len(corrupt.unreadable))
        notices.append(
            f"{len(corrupt.unreadable)} images could not be read this time (asked for again the next time) "
            f"and are like nobody: {named}"
        )
    if (num := len(not_finite) - corrupt.num_corrupt - len(corrupt.unreadable)) > 0:
        bad = itertools.islice((where(image) for image in not_finite if _can_be_read(the_set.images, image)), NAMED)
        notices.append(f"{num} embeddings are not finite and count as like nobody: {some(list(bad), num)}")
    if short:
        notices.append(
            f"{len(short)} embeddings are zero and count as like nobody: "
            f"{some([where(image) for image in short], len(short))}"
        )
    return notices + _equals(_equal_rows(embedding_ND), the_set)


def _equals(groups, the_set):
    """Sentences about images whose embeddings are equal: pictures that stand there twice, and a network that tells
    different ones not apart. An image that a list has in several lines is one, and was said to be when it was read."""
    where, notices = the_set.images.where, []
    groups = [group for group in groups if len({where(image) for image in group}) > 1]
    kinds = {
        "images are the same picture as another one, under another name": [],
        "different pictures have the same embedding, as of a network that gave up": [],
        "further images have the same embedding as another one (not looked at)": [],
    }
    same, different, further = kinds.values()
    for place, group in enumerate(groups):
        kind = further if place >= COMPARED else same if _same_picture(the_set.images, group) else different
        kind.append(group)
    for text, of_kind in kinds.items():
        if of_kind:
            notices.append(f"{sum(map(len, of_kind))} {text}: {_named(of_kind, where)}")
            notices += _torn(of_kind, the_set, "label_N", "have more than one label")
    if same:
        notices += _torn(same, the_set, "first_N", "of one picture are searched for and in the gallery at once")
    return notices


def _same_picture(images, group):
    """Whether the first few images of a group are the same, byte by byte."""
    try:
        return len({images.read(image) for image in group[:COMPARED_OF_EACH]}) == 1
    except CorruptImageError:
        return False


def _torn(groups, the_set, column, what):
    """A sentence about groups in which a column of the set has several values, or none."""
    value_N = the_set.column.get(column)
    torn = [group for group in groups if value_N is not None and len(set(value_N[group].tolist())) > 1]
    return [f"of these, {len(torn)} groups {what}: {_named(torn, the_set.images.where)}"] if torn else []


def _named(groups, where):
    """The first two images of the first few groups."""
    return some([" = ".join(where(image) for image in group[:2]) for group in groups[: NAMED + 1]], len(groups))


def _can_be_read(images, image):
    try:
        images.pixels(image, 8)
    except CorruptImageError:
        return False
    return True


def _equal_rows(embedding_ND):
    """Lists of images whose embeddings are equal, bit by bit; zeros aside."""
    size = embedding_ND.shape[1]
    odd_D = np.random.default_rng(0).integers(0, 2**63, size, dtype=np.uint64) * 2 + 1
    hash_N = np.empty(len(embedding_ND), np.uint64)
    for start in range(0, len(embedding_ND), ROWS):
        bits_BD = np.ascontiguousarray(embedding_ND[start : start + ROWS]).view(np.uint32)
        hash_N[start : start + ROWS] = (bits_BD * odd_D).sum(axis=1)  # modulo 2^64; rows of zeros have 0
    order = np.argsort(hash_N, kind="stable")
    equal = np.diff(hash_N[order]) == 0
    order = order[np.append(False, equal) | np.append(equal, False)]
    groups = np.split(order, np.flatnonzero(np.diff(hash_N[order])) + 1)
    groups_of_equals = []
    for group in (group.tolist() for group in groups):
        alike = collections.defaultdict(list)  # hashes may be equal by chance
        for image in group:
            alike[embedding_ND[image].tobytes()].append(image)
        groups_of_equals += [images for images in alike.values() if len(images) > 1 and embedding_ND[images[0]].any()]
    return sorted(groups_of_equals)
