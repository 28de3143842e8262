"""A set as a network sees it: its embeddings, kept between evaluations, and what of them cannot be used."""

# N images, D embedding size

import collections
import itertools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zennas.data.images import CorruptImageError
from zennas.embed.embeddings import BATCH, Sidecar, kept_path, precompute, sidecar_of
from zennas.embed.model import Model
from zennas.evaluate.sets import EvaluationSet
from zennas.records import NAMED, UserError, some

SHORTEST = 1e-12  # an embedding that is shorter has no direction
ROWS = 8192  # looked at at a time


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
    return Embedded(
        embedding_ND, len(not_finite) + len(short), _notices(embedding_ND, the_set, corrupt, not_finite, short)
    )


def _notices(embedding_ND, the_set, corrupt, not_finite, short):
    notices, where = [], the_set.images.where
    if corrupt.num_corrupt:
        notices.append(
            f"{corrupt.num_corrupt} images cannot be read and are like nobody: "
            f"{some(corrupt.corrupt, corrupt.num_corrupt)}"
        )
    if corrupt.unreadable:
        named = some([where(image) for image in corrupt.unreadable[: NAMED + 1]])
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
    groups = _equal_rows(embedding_ND)
    if groups:
        alike = [" = ".join(where(image) for image in group[:2]) for group in groups]
        notices.append(
            f"{sum(len(group) for group in groups)} images have the same embedding as another one "
            f"(the same picture twice, or a network that gave up): {some(alike, len(groups))}"
        )
        label_N = the_set.column.get("label_N")
        torn = [group for group in groups if label_N is not None and len(set(label_N[group].tolist())) > 1]
        if torn:
            mixed = [" = ".join(where(image) for image in group[:2]) for group in torn]
            notices.append(f"of these, {len(torn)} groups have more than one label: {some(mixed, len(torn))}")
    return notices


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
