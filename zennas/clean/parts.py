"""What is computed for one part of the images or identities: plain functions of files and arrays,
run here or by any worker.

Each returns a dict of arrays.
M images of the part, C identities of it, G of a bucket, F of it foreign, P pairs, D embedding size
"""

import functools
import os
from typing import Any, NamedTuple

import numpy as np

from zennas.clean.centres import centres_of, unit_rows
from zennas.clean.exact import ExactIndex
from zennas.clean.grouping import joined
from zennas.clean.index import CentreIndex

AT_ONCE = 2**24  # cosines that are held at a time
MANY = 1024  # images of a bucket from which on equal ones are put together first, which takes longer for few


class IndexFile(NamedTuple):
    """Where centres lie: a CentreIndex, or with a device (such as cuda) the centres themselves, all compared there."""

    path: str
    device: str | None = None


def _array(path):
    return _opened_array(path, os.stat(path).st_mtime_ns)


def _index(file):
    return _opened_index(file, os.stat(file.path).st_mtime_ns)


# A process opens a file once, and again where it is another one by now.
@functools.lru_cache(maxsize=4)
def _opened_array(path, changed):
    return np.load(path, mmap_mode="r")


@functools.lru_cache(maxsize=2)
def _opened_index(file, changed):
    if file.device is None:
        return CentreIndex.open(file.path)
    return ExactIndex.open(file.path, device=file.device)


def rows_of(path: str, image_M: np.ndarray) -> np.ndarray:
    """The unit rows of some images of a file of embeddings."""
    return unit_rows(_array(path)[image_M])


def usable(path: str, start: int, stop: int) -> dict[str, Any]:
    """Which rows have a direction, and how many of them equal the first one that has, bit by bit."""
    row_MD = np.asarray(_array(path)[start:stop])
    usable_M = np.isfinite(row_MD).all(axis=1) & row_MD.any(axis=1)
    first_D = next((row_D for row_D in row_MD[usable_M]), np.zeros(row_MD.shape[1], row_MD.dtype))
    return {"usable_M": usable_M, "first_D": first_D, "num_equal": int((row_MD[usable_M] == first_D).all(axis=1).sum())}


def centres(
    path: str, image_M: np.ndarray, starts_C: np.ndarray, eps: float, min_samples: int
) -> dict[str, np.ndarray]:
    """The robust centres of identities whose images stand one after another in image_M."""
    centre_CD, num_members_C = centres_of(rows_of(path, image_M), starts_C, eps=eps, min_samples=min_samples)
    return {"centre_CD": centre_CD, "num_members_C": num_members_C}


def alike(
    index: IndexFile, centre_path: str, number_C: np.ndarray, start: int, stop: int, threshold: float
) -> dict[str, np.ndarray]:
    """Pairs of identities whose centres are more alike than the threshold, the lower number first;
    one may come twice."""
    row_P, other_P, cosine_P = _index(index).alike(_array(centre_path)[start:stop], threshold)
    one_P = number_C[row_P]
    are_two_P = one_P != other_P
    one_P, other_P, cosine_P = one_P[are_two_P], other_P[are_two_P], cosine_P[are_two_P]
    return {"one_P": np.minimum(one_P, other_P), "other_P": np.maximum(one_P, other_P), "cosine_P": cosine_P}


def own(path: str, image_M: np.ndarray, centre_path: str, place_M: np.ndarray) -> dict[str, np.ndarray]:
    """Cosines of images to the centres at these places."""
    return {"own_M": _own(rows_of(path, image_M), _array(centre_path)[place_M])}


def near(
    path: str, image_M: np.ndarray, centre_path: str, place_M: np.ndarray, label_M: np.ndarray, index: IndexFile
) -> dict[str, np.ndarray]:
    """Cosines to the own centre and to the nearest other one, whose that is, and whose centre is nearest of all."""
    unit_MD = rows_of(path, image_M)
    number_M2, cosine_M2 = _index(index).nearest(unit_MD, 2)
    first_is_own_M = number_M2[:, 0] == label_M
    which_M = first_is_own_M.astype(int)
    row_M = np.arange(len(image_M))
    return {
        "own_M": _own(unit_MD, _array(centre_path)[place_M]),
        "other_M": cosine_M2[row_M, which_M].astype(np.float32),
        "nearest_M": number_M2[row_M, which_M].astype(np.int32),
        "cell_M": number_M2[:, 0].astype(np.int32),
    }


def twins(
    path: str, image_M: np.ndarray, label_M: np.ndarray, starts_B: np.ndarray, foreign_M: np.ndarray, threshold: float
) -> dict[str, np.ndarray]:
    """Groups of images of one bucket that are one picture, as pairs of an image and the first of its group.

    Buckets stand one after another in image_M. Images more alike than the threshold, and of different labels, are
    looked for between the foreign images of a bucket and all of it. In a large bucket one of those that are equal to
    the last bit stands for all: one picture may stand in every identity there is.
    """
    unit_MD, foreign_M = rows_of(path, image_M), foreign_M.copy()
    firsts, seconds = [], []
    for start, stop in zip(starts_B, [*starts_B[1:], len(image_M)], strict=True):
        place_G = np.arange(start, stop)
        first_G = np.arange(stop - start)  # of the group of each, as far as it is known
        if len(place_G) > MANY:
            place_G, same_P2 = _distinct(unit_MD, place_G)
            # What stands for a foreign image is looked at as one.
            foreign_M[same_P2[foreign_M[same_P2[:, 1]], 0]] = True
            first_G[same_P2[:, 1] - start] = same_P2[:, 0] - start
        foreign_F = place_G[foreign_M[place_G]]
        rows = max(1, AT_ONCE // len(place_G))
        for begin in range(0, len(foreign_F), rows):
            block_F = foreign_F[begin : begin + rows]
            are_alike_FG = unit_MD[block_F] @ unit_MD[place_G].T > threshold
            are_alike_FG &= label_M[block_F, None] != label_M[place_G]
            row_P, column_P = np.nonzero(are_alike_FG)
            if len(row_P):  # what a thousand copies would say a million times is said once
                known = np.arange(len(first_G))
                pairs = np.append(block_F[row_P] - start, known), np.append(place_G[column_P] - start, first_G)
                first_G = joined(len(first_G), *pairs)
        later_P = np.flatnonzero(first_G != np.arange(len(first_G)))
        firsts.append(image_M[start + first_G[later_P]])
        seconds.append(image_M[start + later_P])
    return {"one_P": np.concatenate(firsts), "other_P": np.concatenate(seconds)}


def _distinct(unit_MD, place_G):
    """(one place for each different row, [its place, the place of each other row that equals it])."""
    _, first_G, equal_G = np.unique(unit_MD[place_G], axis=0, return_index=True, return_inverse=True)
    first_G = place_G[first_G[equal_G.ravel()]]
    repeated_G = first_G != place_G
    return place_G[~repeated_G], np.stack([first_G[repeated_G], place_G[repeated_G]], axis=1)


def _own(unit_MD, centre_MD):
    return np.clip(np.einsum("md,md->m", unit_MD, centre_MD), -1, 1).astype(np.float32)
