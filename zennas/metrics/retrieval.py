"""How well a gallery is searched: re-identification, re-ranking, 1:N identification. Pure functions over arrays.

Q queries (P probes in 1:N) against G images of I identities in a gallery; B a block of queries; D embedding size
R right answers to one query
In re-ranking: N = Q + G images, the queries first; K nearest neighbours, of which an image itself is the first

A similarity is the product of two float32 unit rows, summed in float64 and rounded to float32: equal rows are equally
similar then, wherever a block is cut, and a tie is a tie. Of equal similarities the wrong ones come first, everywhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zennas.metrics.verification import num_allowed
from zennas.records import UserError, some

CURVE_RANKS = 50  # a CMC curve goes on to here at least
BLOCK_VALUES = 2**26  # similarities held at once: 256 MiB
BLOCK_ROWS, BLOCK_COLUMNS = 4096, 8192  # what is turned into float64 at once stays small where D is large
MAX_DISTANCES = 2**30  # of re-ranking: 4 GiB of float32


class Reidentification(NamedTuple):
    """Shares are over the queries that can be answered; NaN where none can."""

    mean_ap: float
    cmc: np.ndarray  # float64; place k - 1: the share whose first right answer is within rank k
    at_rank: dict[int, float]  # the same at the ranks asked for
    ap_Q: np.ndarray  # float64; NaN where unanswerable
    first_rank_Q: np.ndarray  # int64, from 1; 0 where unanswerable
    num_queries: int  # all of them
    unanswerable: np.ndarray  # int64: the queries without a right answer in the gallery


class OpenSetPoint(NamedTuple):
    """What is found when few of the probes who are not in the gallery may be taken for somebody."""

    fpir: float  # as asked for
    threshold: float  # accepted is what lies above: the similarity of the strongest refused probe; -inf where none is
    tpir: float  # share of the mated probes that are found at rank 1, above the threshold
    num_accepted: int  # non-mated probes above the threshold


class Identification(NamedTuple):
    """Ranks are of identities. A probe is mated where its identity is in the gallery."""

    cmc: np.ndarray  # float64; place k - 1: the share of mated probes found within rank k; NaN where none is mated
    at_rank: dict[int, float]  # the same at the ranks asked for
    points: list[OpenSetPoint]  # one per FPIR
    num_mated: int
    num_non_mated: int
    rank_P: np.ndarray  # int64, from 1; 0 where not mated
    own_P: np.ndarray  # float32: similarity to the own identity's best image; NaN where not mated
    own_image_P: np.ndarray  # int64: that image; -1 where not mated
    other_P: np.ndarray  # float32: similarity to the best image of anybody else; NaN where there is nobody else
    other_image_P: np.ndarray  # int64: that image; -1 where there is nobody else


def average_precision(rank_R: np.ndarray) -> float:
    """The mean, over the right answers, of the share of right ones up to each.

    rank_R: their ranks from 1, in any order. UserError where there are none, or two have the same rank.

    >>> round(average_precision([1, 3, 4, 8, 20]), 4), round(average_precision([1, 3, 5]), 4)
    (0.6333, 0.7556)
    """
    rank_R = np.sort(np.asarray(rank_R))
    if rank_R.ndim != 1 or not len(rank_R) or rank_R[0] < 1 or (np.diff(rank_R) == 0).any():
        raise UserError(
            f"ranks {some(rank_R.ravel().tolist(), most=10)}: one right answer or more is needed, at different ranks "
            "from 1 on"
        )
    return float(np.mean(np.arange(1, len(rank_R) + 1) / rank_R))


def reidentify(
    query_QD: np.ndarray,
    query_label_Q: np.ndarray,
    query_camera_Q: np.ndarray,
    gallery_GD: np.ndarray,
    gallery_label_G: np.ndarray,
    gallery_camera_G: np.ndarray,
    *,
    images: tuple[np.ndarray, np.ndarray] | None = None,
    ranks: Sequence[int] = (1, 5, 10),
    rerank: Callable | None = None,
    progress: Callable | None = None,
) -> Reidentification:
    """The Reidentification of queries in a gallery: mean average precision and CMC, by cosine.

    Embeddings of any length; rows of zeros are similar to nothing (0). Labels are integers. Gallery images with a label
    below zero are junk for all queries, and re-ranking does not see them; those that show a query's identity through
    the query's camera are junk for that query. Both are passed over as if they were not there. Any other label is an
    identity, so that Market-1501's distractors, 0, are wrong answers. Cameras: both or neither; with None for both
    nothing is junk by its camera. images: (image_Q, image_G), integers that say which image each is: where a query lies
    in the gallery too, its own image is junk for it. Without them it would find itself. Wrong answers come before right
    ones of equal similarity. A query without a right answer is listed and not part of any
    mean. rerank: (query_QD, gallery_GD) -> distance_QG, as k_reciprocal. progress(done, total) counts queries.
    UserError for counts that do not match, an empty gallery, or embeddings that are not finite.
    Source: the protocol of Market-1501 (Zheng et al. 2015), with the plain average precision. There is evaluation code
    that averages the precisions before and after each right answer instead (trapezoids), and so comes out a little
    different; scikit-learn's equals ours where no two similarities are equal.

    >>> found = reidentify([[1, 0]], [7], [1], [[2, 0], [1, 1], [1, 2], [0, 1]], [7, 3, 7, 7], [1, 2, 2, 3])
    >>> found.first_rank_Q.tolist(), round(found.mean_ap, 4)  # the first is junk; then wrong, right, right
    ([2], 0.5833)
    """
    query_label_Q = _labels("query", query_QD, query_label_Q)
    gallery_label_G = _labels("gallery", gallery_GD, gallery_label_G)
    if (query_camera_Q is None) != (gallery_camera_G is None):
        raise UserError("cameras are given for one of query and gallery: allowed: for both, or None for both")
    query_QD, gallery_GD = _both_unit("query", query_QD, "gallery", gallery_GD)
    kept_G = gallery_label_G >= 0
    if not kept_G.any():
        raise UserError(f"gallery: all {len(kept_G)} labels are below zero, which is junk: nothing is left to search")
    gallery_GD, gallery_label_G = gallery_GD[kept_G], gallery_label_G[kept_G]
    if query_camera_Q is not None:
        query_camera_Q = _one_each("query", "camera", query_camera_Q, query_QD)
        gallery_camera_G = _one_each("gallery", "camera", gallery_camera_G, kept_G)[kept_G]
    itself = _itself(images, query_QD, kept_G, "query")
    num_curve = max(CURVE_RANKS, *_checked_ranks(ranks))
    num_queries = len(query_QD)
    if rerank:
        distance_QG = np.asarray(rerank(query_QD, gallery_GD))
        if distance_QG.shape != (num_queries, len(gallery_GD)) or not np.isfinite(distance_QG).all():
            raise UserError(
                f"rerank gave distances of shape {distance_QG.shape}; expected {(num_queries, len(gallery_GD))}, finite"
            )
    ap_Q, first_rank_Q = np.full(num_queries, math.nan), np.zeros(num_queries, np.int64)
    for start, stop in _blocks(num_queries, len(gallery_GD)):
        similarity_BG = -distance_QG[start:stop] if rerank else similarity(query_QD[start:stop], gallery_GD)
        for query, similarity_G in enumerate(similarity_BG, start):
            right_G = gallery_label_G == query_label_Q[query]
            wrong_G = ~right_G
            if query_camera_Q is not None:
                right_G &= gallery_camera_G != query_camera_Q[query]
            if query in itself:
                right_G[itself[query]] = wrong_G[itself[query]] = False
            if right_G.any():
                rank_R = _ranks_of(similarity_G[right_G], similarity_G[wrong_G])
                ap_Q[query], first_rank_Q[query] = average_precision(rank_R), rank_R[0]
        if progress:
            progress(stop, num_queries)
    answered_Q = first_rank_Q > 0
    cmc = _cmc(first_rank_Q[answered_Q], num_curve)
    return Reidentification(
        mean_ap=float(ap_Q[answered_Q].mean()) if answered_Q.any() else math.nan,
        cmc=cmc,
        at_rank={rank: float(cmc[rank - 1]) for rank in ranks},
        ap_Q=ap_Q,
        first_rank_Q=first_rank_Q,
        num_queries=num_queries,
        unanswerable=np.flatnonzero(~answered_Q),
    )


def identify(
    probe_PD: np.ndarray,
    probe_label_P: np.ndarray,
    gallery_GD: np.ndarray,
    gallery_label_G: np.ndarray,
    *,
    images: tuple[np.ndarray, np.ndarray] | None = None,
    ranks: Sequence[int] = (1, 5, 10),
    fpirs: Sequence[float] = (1e-3, 1e-2, 1e-1),
    progress: Callable | None = None,
) -> Identification:
    """The Identification of probes in a gallery (1:N), closed set and open set, by cosine.

    An identity is as similar as its best image. Closed set: the rank of each mated probe's identity; wrong identities
    come before it where equally similar. Open set: at each FPIR, the lowest threshold above which at most that share of
    the non-mated probes finds anybody; then the share of mated probes, the TPIR, whose own identity comes first and
    lies above it. Equal ones are accepted together or not at all, nothing is interpolated, as in tar_at_far; NaN
    without mated or non-mated probes. Probes may have any integer as a label; one that the gallery does not have makes
    them non-mated. images: (image_P, image_G), integers that say which image each is: where a probe lies in the gallery
    too, its own image is passed over as if it were not there; the probe is non-mated if its identity has no other. In
    the gallery labels below zero are refused: a distractor needs a number of its own, for ranks are of identities.
    progress(done, total) counts probes. UserError for that, for counts that do not match, an empty gallery, or
    embeddings that are not finite.
    TPIR is 1 - FNIR of NIST's 1:N reports.
    """
    probe_label_P = _labels("probe", probe_PD, probe_label_P)
    gallery_label_G = _labels("gallery", gallery_GD, gallery_label_G)
    if len(bad := np.flatnonzero(gallery_label_G < 0)):
        raise UserError(
            f"gallery row {bad[0]}: label {gallery_label_G[bad[0]]} ({len(bad)} below zero); allowed: identities "
            f"from 0 on, "
            "and a number of its own for each distractor"
        )
    if not all(0 <= fpir <= 1 for fpir in fpirs):
        raise UserError(f"fpirs {list(fpirs)}: allowed: shares in [0, 1]")
    num_curve = max(CURVE_RANKS, *_checked_ranks(ranks))
    probe_PD, gallery_GD = _both_unit("probe", probe_PD, "gallery", gallery_GD)
    itself = _itself(images, probe_PD, np.ones(len(gallery_GD), bool), "probe")
    image_G = np.argsort(gallery_label_G, kind="stable")  # an identity's images side by side
    place_G = np.argsort(image_G)
    gallery_GD = gallery_GD[image_G]
    identity_I, bound_I = np.unique(gallery_label_G[image_G], return_index=True)
    bound_I = np.append(bound_I, len(image_G))
    place_P = np.searchsorted(identity_I, probe_label_P)
    mated_P = identity_I[np.minimum(place_P, len(identity_I) - 1)] == probe_label_P

    num_probes = len(probe_PD)
    rank_P = np.zeros(num_probes, np.int64)
    own_P, other_P = np.full((2, num_probes), math.nan, np.float32)
    own_image_P, other_image_P = np.full((2, num_probes), -1)
    for start, stop in _blocks(num_probes, len(gallery_GD)):
        similarity_BG = similarity(probe_PD[start:stop], gallery_GD)
        for probe in range(start, stop) if itself else ():
            similarity_BG[probe - start, place_G[itself.get(probe, [])]] = -np.inf
        best_BI = np.maximum.reduceat(similarity_BG, bound_I[:-1], axis=1)
        for probe, similarity_G, best_I in zip(range(start, stop), similarity_BG, best_BI, strict=True):
            mated_P[probe] &= best_I[min(place_P[probe], len(identity_I) - 1)] > -np.inf
            if mated_P[probe]:
                own = slice(bound_I[place_P[probe]], bound_I[place_P[probe] + 1])
                own_P[probe] = best_I[place_P[probe]]
                own_image_P[probe] = image_G[own][np.argmax(similarity_G[own])]
                rank_P[probe] = np.count_nonzero(best_I >= own_P[probe])  # itself included
                similarity_G[own] = -np.inf
            nearest = np.argmax(similarity_G)
            if similarity_G[nearest] > -np.inf:
                other_P[probe], other_image_P[probe] = similarity_G[nearest], image_G[nearest]
        if progress:
            progress(stop, num_probes)
    cmc = _cmc(rank_P[mated_P], num_curve)
    other_U = np.where(other_image_P >= 0, other_P, -np.inf)[~mated_P]  # with its own image alone nobody is found
    return Identification(
        cmc=cmc,
        at_rank={rank: float(cmc[rank - 1]) for rank in ranks},
        points=[_open_set_point(rank_P[mated_P], own_P[mated_P], other_U, fpir) for fpir in fpirs],
        num_mated=int(mated_P.sum()),
        num_non_mated=int((~mated_P).sum()),
        rank_P=rank_P,
        own_P=own_P,
        own_image_P=own_image_P,
        other_P=other_P,
        other_image_P=other_image_P,
    )


def _itself(images, query_QD, kept_G, name):
    """{query: places in the kept part of the gallery of the same image} of the queries that lie there."""
    if images is None:
        return {}
    image_Q = _one_each(name, "image", images[0], query_QD)
    image_G = _one_each("gallery", "image", images[1], kept_G)[kept_G]
    order_G = np.argsort(image_G, kind="stable")
    first_Q, end_Q = (np.searchsorted(image_G[order_G], image_Q, side) for side in ("left", "right"))
    return {query: order_G[first_Q[query] : end_Q[query]] for query in np.flatnonzero(end_Q > first_Q).tolist()}


def _open_set_point(rank_M, own_M, other_U, fpir):
    """M mated probes, U others."""
    allowed = num_allowed(fpir, len(other_U))
    threshold = -math.inf if allowed == len(other_U) else float(np.sort(other_U)[::-1][allowed])
    known = len(rank_M) and len(other_U)
    tpir = float(np.mean((rank_M == 1) & (own_M > threshold))) if known else math.nan
    return OpenSetPoint(fpir, threshold if len(other_U) else math.nan, tpir, int((other_U > threshold).sum()))


def k_reciprocal(
    query_QD: np.ndarray,
    gallery_GD: np.ndarray,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    progress: Callable | None = None,
) -> np.ndarray:
    """distance_QG (float32) by which to rank again: images that have the same neighbours come nearer to each other.

    What reidentify takes as `rerank`. d(i, j), among all N images, is the squared Euclidean distance of the unit rows,
    2 - 2 cosine (0 of an image to itself), divided by the largest one of i to any image: in [0, 1], and not symmetric.
    1. R(i, k): those of the k nearest of i, and i itself, that have i among their own k nearest.
    2. R*(i): R(i, k1), with R(c, k1/2) of every member c for which more than 2/3 of R(c, k1/2) lie in R(i, k1).
    3. V(i): exp(-d(i, j)) for j in R*(i), else 0, divided by the sum; then the mean of V over i and its k2 - 1 nearest.
    4. J(q, g) = 1 - sum min(V(q), V(g)) / sum max(V(q), V(g)); the result is (1 - lambda_value) J + lambda_value d.
    Of images at equal distances the first ones are the nearer ones. An image of zeros has a cosine of 0 with every
    other. The authors' code holds several matrices of N * N; here V is sparse and the distances are made in blocks, so
    that memory holds the result, a block and the unit rows; the products are still N * N * D. A result of more than
    MAX_DISTANCES values is refused with a UserError, as are k1, k2 below 1 and a lambda_value outside [0, 1].
    progress(done, total): images.
    Source: Zhong et al. 2017, arXiv:1701.08398; d's scaling, k1 / 2 (of two and a half, two) and "more than" are those
    of the public implementations.
    """
    num_queries, num_gallery = len(query_QD), len(gallery_GD)
    if num_queries * num_gallery > MAX_DISTANCES:
        raise UserError(
            f"{num_queries} queries against {num_gallery} images: re-ranking holds a distance for each pair; "
            f"allowed: {MAX_DISTANCES} ({MAX_DISTANCES / 2**28:.1f} GiB); take fewer, or do not rank again"
        )
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise UserError(
            f"k1 {k1}, k2 {k2}, lambda_value {lambda_value}: allowed: k1 and k2 from 1 on, lambda_value in [0, 1]"
        )
    unit_ND = np.concatenate(_both_unit("query", query_QD, "gallery", gallery_GD))
    neighbour_NK, farthest_N = _neighbours(unit_ND, max(k1 + 1, k2), progress)
    codes = [
        (near, _weights(unit_ND, image, near, farthest_N[image]))
        for image, near in enumerate(_expanded(neighbour_NK, k1))
    ]
    codes = [_mean_code([codes[near] for near in near_K]) for near_K in neighbour_NK[:, :k2]]

    # By image of which a code speaks: the gallery images whose codes speak of it (E entries), and how loudly.
    gallery_E = np.repeat(np.arange(num_gallery), [len(near) for near, _ in codes[num_queries:]])
    about_E = np.concatenate([near for near, _ in codes[num_queries:]])
    order = np.argsort(about_E, kind="stable")
    gallery_E, weight_E = gallery_E[order], np.concatenate([weight for _, weight in codes[num_queries:]])[order]
    bound = np.searchsorted(about_E[order], np.arange(len(unit_ND) + 1))

    distance_QG = np.empty((num_queries, num_gallery), np.float32)
    for start, stop in _blocks(num_queries, num_gallery):
        similarity_BG = similarity(unit_ND[start:stop], unit_ND[num_queries:])
        for query, similarity_G in enumerate(similarity_BG, start):
            spans = [slice(bound[near], bound[near + 1]) for near in codes[query][0]]
            least = [np.minimum(weight, weight_E[span]) for weight, span in zip(codes[query][1], spans, strict=True)]
            shared = np.concatenate([gallery_E[span] for span in spans])
            common_G = np.bincount(shared, np.concatenate(least), minlength=num_gallery)
            jaccard_G = 1 - common_G / (2 - common_G)  # each code sums to 1
            d_G = np.maximum(2 - 2 * similarity_G.astype(np.float64), 0) / farthest_N[query]
            distance_QG[query] = (1 - lambda_value) * jaccard_G + lambda_value * d_G
    return distance_QG


def _neighbours(unit_ND, num, progress):
    """(neighbour_NK, each image and its num - 1 nearest in order; farthest_N, the largest 2 - 2 cosine, 1 if all are
    equal).
    """
    num_images = len(unit_ND)
    num = min(num, num_images)
    neighbour_NK, farthest_N = np.empty((num_images, num), np.int64), np.empty(num_images)
    for start, stop in _blocks(num_images, num_images):
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
    rows = range(0, len(near_NK), BLOCK_ROWS)
    parts = (np.arange(row, min(row + BLOCK_ROWS, len(near_NK))) for row in rows)
    return np.concatenate([np.any(near_NK[near_NK[part]] == part[:, None, None], axis=2) for part in parts])


def _weights(unit_ND, image, near, farthest):
    d = np.maximum(2 - 2 * (unit_ND[near].astype(np.float64) @ unit_ND[image].astype(np.float64)), 0) / farthest
    d[near == image] = 0
    return np.exp(-d) / np.exp(-d).sum()


def _mean_code(codes):
    near, place = np.unique(np.concatenate([near for near, _ in codes]), return_inverse=True)
    return near, np.bincount(place.ravel(), np.concatenate([weight for _, weight in codes])) / len(codes)


def similarity(first_BD: np.ndarray, second_GD: np.ndarray) -> np.ndarray:
    """similarity_BG (float32) of unit rows, summed in float64."""
    first_BD = first_BD.astype(np.float64)
    similarity_BG = np.empty((len(first_BD), len(second_GD)), np.float32)
    for start in range(0, len(second_GD), BLOCK_COLUMNS):
        part = slice(start, start + BLOCK_COLUMNS)
        similarity_BG[:, part] = first_BD @ second_GD[part].astype(np.float64).T
    return similarity_BG


def unit_rows(name: str, embedding_ND: np.ndarray) -> np.ndarray:
    """unit_ND (float32) of embeddings of any length and type of number, also of a memmap; rows of zeros stay zeros.

    UserError where `embedding_ND` is not of two axes, or a row of it is not finite; `name` says whose it is.
    """
    embedding_ND = _two_axes(name, embedding_ND)
    unit_ND = np.empty(embedding_ND.shape, np.float32)
    for start in range(0, len(embedding_ND), BLOCK_ROWS):
        row_BD = np.asarray(embedding_ND[start : start + BLOCK_ROWS], np.float64)
        if len(bad := np.flatnonzero(~np.isfinite(row_BD).all(axis=1))):
            raise UserError(f"{name} row {start + bad[0]} of {len(embedding_ND)}: the embedding is not finite")
        largest_B1 = np.abs(row_BD).max(axis=1, keepdims=True, initial=0)  # first, so that squares cannot overflow
        row_BD = row_BD / np.where(largest_B1 > 0, largest_B1, 1)
        length_B1 = np.linalg.norm(row_BD, axis=1, keepdims=True)
        unit_ND[start : start + BLOCK_ROWS] = row_BD / np.where(length_B1 > 0, length_B1, 1)
    return unit_ND


def _both_unit(first_name, first, second_name, second):
    first, second = _two_axes(first_name, first), _two_axes(second_name, second)
    if first.shape[1] != second.shape[1]:
        raise UserError(
            f"{first_name} embeddings have {first.shape[1]} numbers, {second_name} embeddings {second.shape[1]}: "
            "they must come from one network"
        )
    return unit_rows(first_name, first), unit_rows(second_name, second)


def _two_axes(name, embedding_ND):
    embedding_ND = np.asanyarray(embedding_ND)  # a memmap stays one
    if embedding_ND.ndim != 2 or not embedding_ND.size:
        raise UserError(f"{name}: embeddings of shape {embedding_ND.shape}; expected rows of numbers, one row at least")
    return embedding_ND


def _one_each(name, what, value_N, embedding_ND):
    value_N = np.asarray(value_N)
    if value_N.shape != (len(embedding_ND),):
        raise UserError(
            f"{name}: {len(embedding_ND)} embeddings, and a {what} of shape {value_N.shape}; expected one each"
        )
    return value_N


def _labels(name, embedding_ND, label_N):
    label_N = _one_each(name, "label", label_N, embedding_ND)
    if len(label_N) and label_N.dtype.kind not in "iu":
        raise UserError(f"{name}: labels of type {label_N.dtype}; expected integers")
    return label_N.astype(np.int64)


def _checked_ranks(ranks):
    if not len(ranks) or any(int(rank) != rank or rank < 1 for rank in ranks):
        raise UserError(f"ranks {list(ranks)}: allowed: whole numbers from 1 on, one at least")
    return ranks


def _blocks(num_rows, num_columns):
    """(start, stop) of blocks of rows that hold BLOCK_VALUES at most."""
    rows = max(1, min(BLOCK_ROWS, BLOCK_VALUES // num_columns))
    return ((start, min(start + rows, num_rows)) for start in range(0, num_rows, rows))


def _ranks_of(right_R, wrong):
    """The ranks of the right answers in ascending order, by their similarities and those of the wrong ones."""
    right_R = np.sort(right_R)
    # A wrong one stands before all right ones that are not more similar, so many; counted once for all right ones.
    num_beaten = np.bincount(np.searchsorted(right_R, wrong, side="right"), minlength=len(right_R) + 1)
    num_wrong_R = len(wrong) - np.cumsum(num_beaten)[:-1]
    return (num_wrong_R + np.arange(len(right_R), 0, -1))[::-1]


def _cmc(rank_Q, num_ranks):
    """Place k - 1: the share of queries whose rank is k at most; NaN without queries."""
    if not len(rank_Q):
        return np.full(num_ranks, math.nan)
    return np.searchsorted(np.sort(rank_Q), np.arange(1, num_ranks + 1), side="right") / len(rank_Q)
