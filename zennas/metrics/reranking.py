"""A ranked list made better by the other images: k-reciprocal re-ranking, and queries expanded by their neighbours.

Q queries against G gallery images; N = Q + G images, the queries first; B a block of them; D embedding size
K nearest neighbours, of which an image itself is the first; H about half as many; E entries of all codes
"""

import math
import numbers
from collections.abc import Callable

import numpy as np

from zennas.metrics import likeness
from zennas.metrics.likeness import blocks, both_unit, similarity, unit_rows
from zennas.records import UserError


def reciprocal_distances(
    query_QD: np.ndarray,
    gallery_GD: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    progress: Callable | None = None,
) -> Callable[[int, int], np.ndarray]:
    """(start, stop) -> distance_BG (float32) of these queries, by which to rank again: images that have the same
    neighbours come nearer to each other.

    What reidentify takes as `rerank`. d(i, j), among all N images, is the squared Euclidean distance of the unit rows,
    2 - 2 cosine (0 of an image to itself), divided by the largest one of i to any image: in [0, 1], and not symmetric.
    1. R(i, k): those of the k nearest of i, and i itself, that have i among their own k nearest.
    2. R*(i): R(i, k1), with R(c, k1/2) of every member c for which more than 2/3 of R(c, k1/2) lie in R(i, k1).
    3. V(i): exp(-d(i, j)) for j in R*(i), else 0, divided by the sum; then the mean of V over i and its k2 - 1 nearest.
    4. J(q, g) = 1 - sum min(V(q), V(g)) / sum max(V(q), V(g)); the result is (1 - lambda_value) J + lambda_value d.
    Of images at equal distances the first ones are the nearer ones. An image of zeros has a cosine of 0 with every
    other. The authors' code holds several matrices of N * N. Here V is sparse and all distances are made in blocks:
    memory holds the unit rows, V and a block; the products are still N * N * D. UserError for k1 or k2 below 1, or a
    lambda_value outside [0, 1]. progress(done, total): images.
    Source: Zhong et al. 2017, arXiv:1701.08398. Its authors' code, too, takes the first k1 + 1 of i's row, i itself
    among them, and the first k2, i again among them; d's scaling and "more than" are theirs. k1 / 2 is rounded as in
    torchreid and fast-reid (of two and a half, two); the authors' MATLAB takes one less where k1 is 3, 7, 11, ... All
    three rank distances in single precision, where two neighbours at nearly the same distance may change places.
    """
    num_queries, num_gallery = len(query_QD), len(gallery_GD)
    if not (_is_count(k1) and _is_count(k2) and _is_number(lambda_value) and 0 <= lambda_value <= 1):
        raise UserError(
            f"k1 {k1!r}, k2 {k2!r}, lambda_value {lambda_value!r}: allowed: k1 and k2 whole numbers from 1 on, "
            "lambda_value in [0, 1]"
        )
    unit_ND = np.concatenate(both_unit("query", query_QD, "gallery", gallery_GD))
    neighbour_NK, farthest_N = _neighbours(unit_ND, max(k1 + 1, k2), progress)
    codes = [
        (near, _weights(unit_ND, image, near, farthest_N[image]))
        for image, near in enumerate(_expanded(neighbour_NK, k1))
    ]
    codes = [_mean_code([codes[near] for near in near_K]) for near_K in neighbour_NK[:, :k2]]

    # By image of which a code speaks: the gallery images whose codes speak of it, and how loudly.
    gallery_E = np.repeat(np.arange(num_gallery, dtype=np.int32), [len(near) for near, _ in codes[num_queries:]])
    about_E = np.concatenate([near for near, _ in codes[num_queries:]])
    order = np.argsort(about_E, kind="stable")
    gallery_E, weight_E = gallery_E[order], np.concatenate([weight for _, weight in codes[num_queries:]])[order]
    bound = np.searchsorted(about_E[order], np.arange(len(unit_ND) + 1))
    codes = codes[:num_queries]

    def distances(start, stop):
        distance_BG = similarity(unit_ND[start:stop], unit_ND[num_queries:])
        for query, distance_G in enumerate(distance_BG, start):
            spans = [slice(bound[near], bound[near + 1]) for near in codes[query][0]]
            least = [np.minimum(weight, weight_E[span]) for weight, span in zip(codes[query][1], spans, strict=True)]
            shared = np.concatenate([gallery_E[span] for span in spans])
            common_G = np.bincount(shared, np.concatenate(least), minlength=num_gallery)
            jaccard_G = 1 - common_G / (2 - common_G)  # each code sums to 1
            d_G = np.maximum(2 - 2 * distance_G.astype(np.float64), 0) / farthest_N[query]
            distance_G[:] = (1 - lambda_value) * jaccard_G + lambda_value * d_G
        return distance_BG

    return distances


def expanded(
    query_QD: np.ndarray,
    gallery_GD: np.ndarray,
    *,
    k: int = 10,
    alpha: float = 3.0,
    progress: Callable | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """(query_QD, gallery_GD), unit rows: every image with its neighbours added, as queries and gallery are expanded.

    To the unit row of each of the N images come those of its k - 1 nearest, each weighted by its cosine to the power of
    alpha (0 where that is below zero). alpha 0 is the plain mean. Neighbours are looked for among queries and gallery
    together. UserError for a k below 1 or an alpha below 0. progress(done, total): images.
    Source: Radenovic et al. 2019, arXiv:1711.02512 (alpha query expansion), done to the gallery, too.

    >>> query_QD, _ = expanded([[1, 0]], [[0.8, 0.6], [-1, 0]], k=2, alpha=1)  # (1, 0) + 0.8 (0.8, 0.6)
    >>> [round(float(value), 4) for value in query_QD[0]]
    [0.9597, 0.2809]
    """
    if not (_is_count(k) and _is_number(alpha) and 0 <= alpha < math.inf):
        raise UserError(f"k {k!r}, alpha {alpha!r}: allowed: k a whole number from 1 on, alpha from 0 on")
    num_queries = len(query_QD)
    unit_ND = np.concatenate(both_unit("query", query_QD, "gallery", gallery_GD))
    neighbour_NK, _ = _neighbours(unit_ND, k, progress)
    sum_ND = np.empty_like(unit_ND)
    for image, near_K in enumerate(neighbour_NK):
        near_KD = unit_ND[near_K].astype(np.float64)
        weight_K = np.maximum(near_KD @ unit_ND[image], 0) ** alpha
        weight_K[0] = 1.0
        sum_ND[image] = weight_K @ near_KD
    unit_ND = unit_rows("expanded", sum_ND)
    return unit_ND[:num_queries], unit_ND[num_queries:]


def _is_count(value):
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= 1


def _is_number(value):
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _neighbours(unit_ND, num, progress):
    """(neighbour_NK, each image and its num - 1 nearest in order; farthest_N, the largest 2 - 2 cosine, 1 if all are
    equal).
    """
    num_images = len(unit_ND)
    num = min(num, num_images)
    neighbour_NK, farthest_N = np.empty((num_images, num), np.int64), np.empty(num_images)
    for start, stop in blocks(num_images, num_images):
        similarity_BN = similarity(unit_ND[start:stop], unit_ND)
        own = np.arange(stop - start), np.arange(start, stop)
        similarity_BN[own] = 1
        farthest_N[start:stop] = 2 - 2 * similarity_BN.min(axis=1).astype(np.float64)
        similarity_BN[own] = np.inf
        np.negative(similarity_BN, out=similarity_BN)
        near_BK = np.sort(np.argpartition(similarity_BN, num - 1, axis=1)[:, :num], axis=1)
        value_BK = np.take_along_axis(similarity_BN, near_BK, axis=1)
        near_BK = np.take_along_axis(near_BK, np.argsort(value_BK, axis=1, kind="stable"), axis=1)
        # Where others are as near as the last one, a partition leaves it to chance which of them are in.
        for row in np.flatnonzero(np.sum(similarity_BN <= value_BK.max(axis=1, keepdims=True), axis=1) > num):
            near_BK[row] = np.argsort(similarity_BN[row], kind="stable")[:num]
        neighbour_NK[start:stop] = near_BK
        if progress:
            progress(stop, num_images)
    # Equal float32 rows have a cosine of 1 but for rounding, which must not be scaled up to distances.
    return neighbour_NK, np.where(farthest_N > 8 * np.finfo(np.float32).eps, farthest_N, 1.0)


def _expanded(neighbour_NK, k1):
    """R* of each image in turn: its k1-reciprocal neighbours and theirs, sorted."""
    near_NK, near_NH = neighbour_NK[:, : k1 + 1], neighbour_NK[:, : round(k1 / 2) + 1]
    mutual_NK, mutual_NH = _mutual(near_NK), _mutual(near_NH)
    inside_N = np.zeros(len(neighbour_NK), bool)
    for near_K, mutual_K in zip(near_NK, mutual_NK, strict=True):
        own_C = near_K[mutual_K]
        theirs_CH, counts_CH = near_NH[own_C], mutual_NH[own_C]
        inside_N[own_C] = True
        common_C = np.sum(inside_N[theirs_CH] & counts_CH, axis=1)
        inside_N[own_C] = False
        joins_C = 3 * common_C > 2 * counts_CH.sum(axis=1)
        yield np.unique(np.concatenate([own_C, theirs_CH[joins_C][counts_CH[joins_C]]]))


def _mutual(near_NK):
    """mutual_NK: whether the image has itself among the neighbours of that neighbour."""
    rows = range(0, len(near_NK), likeness.BLOCK_ROWS)
    parts = (np.arange(row, min(row + likeness.BLOCK_ROWS, len(near_NK))) for row in rows)
    return np.concatenate([np.any(near_NK[near_NK[part]] == part[:, None, None], axis=2) for part in parts])


def _weights(unit_ND, image, near, farthest):
    d = np.maximum(2 - 2 * (unit_ND[near].astype(np.float64) @ unit_ND[image].astype(np.float64)), 0) / farthest
    d[near == image] = 0
    return np.exp(-d) / np.exp(-d).sum()


def _mean_code(codes):
    near, place = np.unique(np.concatenate([near for near, _ in codes]), return_inverse=True)
    return near, np.bincount(place.ravel(), np.concatenate([weight for _, weight in codes])) / len(codes)
