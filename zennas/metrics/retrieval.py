"""How well a gallery is searched: re-identification, 1:N identification. Pure functions over arrays.

Q queries (P probes in 1:N) against G images of I identities in a gallery; B a block of queries; D embedding size
R right answers to one query; W identities that are wrong answers to it

Similarities are those of `likeness`, where a tie is a tie. Of equal ones the wrong answers come first, everywhere.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zennas.metrics.likeness import blocks, both_unit, one_each, similarity
from zennas.metrics.verification import num_allowed
from zennas.records import UserError, some

CURVE_RANKS = 50  # a CMC curve goes on to here at least


class Reidentification(NamedTuple):
    """Shares are over the queries that can be answered; NaN where none can."""

    mean_ap: float
    mean_inp: float  # mINP: how much of the list must be read to have seen all right answers
    cmc: np.ndarray  # float64; place k - 1: the share whose first right answer is within rank k
    at_rank: dict[int, float]  # the same at the ranks asked for
    ap_Q: np.ndarray  # float64; NaN where unanswerable
    inp_Q: np.ndarray  # float64; the number of right answers by the rank of the last; NaN where unanswerable
    first_rank_Q: np.ndarray  # int64, from 1; 0 where unanswerable
    num_queries: int  # all of them
    unanswerable: np.ndarray  # int64: the queries without a right answer in the gallery
    missing: np.ndarray  # int64: those of them whose identity the gallery does not have, not even as their junk
    listed_QL: np.ndarray  # int64: the first L gallery images of each query, by rank, junk left out; -1 beyond the last
    right_QL: np.ndarray  # bool: whether each of them is a right answer


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
    query_camera_Q: np.ndarray | None,
    gallery_GD: np.ndarray,
    gallery_label_G: np.ndarray,
    gallery_camera_G: np.ndarray | None,
    *,
    images: tuple[np.ndarray, np.ndarray] | None = None,
    ranks: Sequence[int] = (1, 5, 10),
    rerank: Callable | None = None,
    num_listed: int = 0,
    progress: Callable | None = None,
) -> Reidentification:
    """The Reidentification of queries in a gallery: mean average precision and CMC, by cosine.

    Embeddings of any length; rows of zeros are similar to nothing (0). Labels are integers. Gallery images with a label
    below zero are junk for all queries, and re-ranking does not see them; those that show a query's identity through
    the query's camera are junk for that query. Both are passed over as if they were not there. Any other label is an
    identity, so that Market-1501's distractors, 0, are wrong answers. Cameras: both or neither; with None for both
    nothing is junk by its camera. images: (image_Q, image_G), integers that say which image each is: where a query lies
    in the gallery too, its own image is junk for it. Without them it would find itself. Wrong answers come before right
    ones of equal similarity. A query without a right answer is listed and not part of any mean. rerank: (query_QD,
    gallery_GD), both of unit rows -> (start, stop) -> distance_BG of these queries, as reciprocal_distances.
    num_listed: L, how many images of each ranked list come back. progress(done, total) counts queries.
    UserError for counts that do not match, an empty gallery, or embeddings that are not finite.
    Source: the protocol of Market-1501 (Zheng et al. 2015), with the plain average precision; mINP of Ye et al. 2021,
    arXiv:2001.04193, eq. 2. There is evaluation code that averages the precisions before and after each right answer
    instead (trapezoids), and so comes out a little different; scikit-learn's equals ours where no two similarities are
    equal.

    >>> found = reidentify([[1, 0]], [7], [1], [[2, 0], [1, 1], [1, 2], [0, 1]], [7, 3, 7, 7], [1, 2, 2, 3])
    >>> found.first_rank_Q.tolist(), round(found.mean_ap, 4)  # the first is junk; then wrong, right, right
    ([2], 0.5833)
    """
    query_label_Q = _labels("query", query_QD, query_label_Q)
    gallery_label_G = _labels("gallery", gallery_GD, gallery_label_G)
    query_QD, gallery_GD = both_unit("query", query_QD, "gallery", gallery_GD)
    labels = Labels.checked(query_label_Q, query_camera_Q, gallery_label_G, gallery_camera_G, images=images)
    gallery_GD = gallery_GD[labels.kept_G]
    num_curve = max(CURVE_RANKS, *_checked_ranks(ranks))
    num_queries = len(query_QD)
    distances = rerank(query_QD, gallery_GD) if rerank else None
    (ap_Q, inp_Q), first_rank_Q = np.full((2, num_queries), math.nan), np.zeros(num_queries, np.int64)
    listed_QL, right_QL = np.full((num_queries, num_listed), -1), np.zeros((num_queries, num_listed), bool)
    image_G = np.flatnonzero(labels.kept_G)
    for start, stop in blocks(num_queries, len(gallery_GD)):
        if distances is None:
            similarity_BG = similarity(query_QD[start:stop], gallery_GD)
        else:
            similarity_BG = -_checked_distances(distances(start, stop), (stop - start, len(gallery_GD)))
        for query, similarity_G in enumerate(similarity_BG, start):
            right_G, wrong_G = labels.answers(query)
            if right_G.any():
                rank_R = _ranks_of(similarity_G[right_G], similarity_G[wrong_G])
                ap_Q[query], first_rank_Q[query] = average_precision(rank_R), rank_R[0]
                inp_Q[query] = len(rank_R) / rank_R[-1]
            if num_listed:
                first_L = _first(similarity_G, right_G, wrong_G, num_listed)
                listed_QL[query, : len(first_L)] = image_G[first_L]
                right_QL[query, : len(first_L)] = right_G[first_L]
        if progress:
            progress(stop, num_queries)
    answered_Q = first_rank_Q > 0
    cmc = _cmc(first_rank_Q[answered_Q], num_curve)
    unanswerable = np.flatnonzero(~answered_Q)
    return Reidentification(
        mean_ap=float(ap_Q[answered_Q].mean()) if answered_Q.any() else math.nan,
        mean_inp=float(inp_Q[answered_Q].mean()) if answered_Q.any() else math.nan,
        cmc=cmc,
        at_rank={rank: float(cmc[rank - 1]) for rank in ranks},
        ap_Q=ap_Q,
        inp_Q=inp_Q,
        first_rank_Q=first_rank_Q,
        num_queries=num_queries,
        unanswerable=unanswerable,
        missing=unanswerable[~labels.known_Q[unanswerable]],
        listed_QL=listed_QL,
        right_QL=right_QL,
    )


class Labels(NamedTuple):
    """Who is shown in queries and gallery, and by which camera; G: without the gallery's junk."""

    query_label_Q: np.ndarray
    query_camera_Q: np.ndarray | None
    label_G: np.ndarray
    camera_G: np.ndarray | None
    kept_G: np.ndarray  # bool, of the whole gallery: what is no junk
    itself: dict[int, np.ndarray]  # query -> where its own image lies in the gallery

    @classmethod
    def checked(
        cls,
        query_label_Q: np.ndarray,
        query_camera_Q: np.ndarray | None,
        gallery_label_G: np.ndarray,
        gallery_camera_G: np.ndarray | None,
        *,
        images: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> "Labels":
        """The Labels; arguments and UserErrors as in `reidentify`."""
        query_label_Q = _labels("query", query_label_Q, query_label_Q)
        gallery_label_G = _labels("gallery", gallery_label_G, gallery_label_G)
        if (query_camera_Q is None) != (gallery_camera_G is None):
            raise UserError("cameras are given for one of query and gallery: allowed: for both, or None for both")
        kept_G = gallery_label_G >= 0
        if not kept_G.any():
            raise UserError(
                f"gallery: all {len(kept_G)} labels are below zero, which is junk: nothing is left to search"
            )
        if query_camera_Q is not None and gallery_camera_G is not None:
            query_camera_Q = one_each("query", "camera", query_camera_Q, query_label_Q)
            gallery_camera_G = one_each("gallery", "camera", gallery_camera_G, kept_G)[kept_G]
        itself = _itself(images, query_label_Q, kept_G, "query")
        return cls(query_label_Q, query_camera_Q, gallery_label_G[kept_G], gallery_camera_G, kept_G, itself)

    @property
    def known_Q(self) -> np.ndarray:
        """Whether the gallery has the query's identity, in junk for that query too."""
        return np.isin(self.query_label_Q, self.label_G)

    def answers(self, query: int) -> tuple[np.ndarray, np.ndarray]:
        """(right_G, wrong_G), bool; what is junk for the query is neither."""
        right_G = self.label_G == self.query_label_Q[query]
        wrong_G = ~right_G
        if self.query_camera_Q is not None:
            right_G &= self.camera_G != self.query_camera_Q[query]
        if query in self.itself:
            right_G[self.itself[query]] = wrong_G[self.itself[query]] = False
        return right_G, wrong_G

    @property
    def answerable_Q(self) -> np.ndarray:
        """Whether a query has a right answer, as `reidentify` finds it; no embedding is asked."""
        return np.array([self.answers(query)[0].any() for query in range(len(self.query_label_Q))])


class SingleShot(NamedTuple):
    """What is expected where the gallery has one image of each identity, drawn at random; NaN where none can be
    answered."""

    mean_ap: float
    cmc: np.ndarray  # float64; place k - 1: the share of draws whose right answer is within rank k
    at_rank: dict[int, float]
    num_queries: int
    unanswerable: np.ndarray  # int64


def single_shot(
    query_QD: np.ndarray,
    query_label_Q: np.ndarray,
    query_camera_Q: np.ndarray | None,
    gallery_GD: np.ndarray,
    gallery_label_G: np.ndarray,
    gallery_camera_G: np.ndarray | None,
    *,
    ranks: Sequence[int] = (1, 5, 10),
    progress: Callable | None = None,
) -> SingleShot:
    """The SingleShot of queries by one camera in a gallery of the others: CUHK03's first protocol.

    Arguments as in `reidentify`. Of the images that a query's own camera did not take, one of each identity is drawn,
    each equally likely. What others publish is the mean over ten or twenty such draws. Here it is the mean over all
    draws: the right answer's rank is 1 and the number of wrong identities whose image comes before it, each with a
    probability of its own, so that the number has a Poisson binomial distribution.
    Source: Li et al. 2014 (DeepReID); the gallery is of the other camera, as there.

    >>> cameras = [1], [2, 2, 2]  # of 3 there is one image in two before the right one
    >>> single_shot([[1, 0]], [7], cameras[0], [[4, 3], [1, 0], [0, 1]], [7, 3, 3], cameras[1]).at_rank[1]
    0.5
    """
    query_label_Q = _labels("query", query_QD, query_label_Q)
    gallery_label_G = _labels("gallery", gallery_GD, gallery_label_G)
    query_QD, gallery_GD = both_unit("query", query_QD, "gallery", gallery_GD)
    labels = Labels.checked(query_label_Q, query_camera_Q, gallery_label_G, gallery_camera_G)
    if labels.query_camera_Q is None or labels.camera_G is None:
        raise UserError("no cameras are given: an image of each person by another camera cannot be drawn without them")
    gallery_GD = gallery_GD[labels.kept_G]
    num_ranks = max(CURVE_RANKS, *_checked_ranks(ranks))
    cmc_QK, ap_Q = np.full((len(query_QD), num_ranks), math.nan), np.full(len(query_QD), math.nan)
    for start, stop in blocks(len(query_QD), len(gallery_GD)):
        similarity_BG = similarity(query_QD[start:stop], gallery_GD)
        for query, similarity_G in enumerate(similarity_BG, start):
            other_G = labels.camera_G != labels.query_camera_Q[query]
            right_G = other_G & (labels.label_G == query_label_Q[query])
            if right_G.any():
                wrong_G = other_G & ~right_G
                chance_RK = _rank_chances(similarity_G[right_G], similarity_G[wrong_G], labels.label_G[wrong_G])
                ap_Q[query] = np.mean(chance_RK @ (1 / np.arange(1, chance_RK.shape[1] + 1)))
                within_K = np.cumsum(chance_RK.mean(axis=0))[:num_ranks]
                cmc_QK[query] = np.append(within_K, np.ones(num_ranks - len(within_K)))
        if progress:
            progress(stop, len(query_QD))
    answered_Q = np.isfinite(ap_Q)
    cmc = cmc_QK[answered_Q].mean(axis=0) if answered_Q.any() else np.full(num_ranks, math.nan)
    return SingleShot(
        mean_ap=float(ap_Q[answered_Q].mean()) if answered_Q.any() else math.nan,
        cmc=np.minimum(cmc, 1.0),
        at_rank={rank: float(min(cmc[rank - 1], 1.0)) for rank in ranks},
        num_queries=len(query_QD),
        unanswerable=np.flatnonzero(~answered_Q),
    )


def _rank_chances(right_R, wrong, label):
    """chance_RK: how likely each right answer has rank k, k up to the number of wrong identities and one."""
    identity_W, identity = np.unique(label, return_inverse=True)
    size_W = np.bincount(identity, minlength=len(identity_W))
    chance_RK = np.zeros((len(right_R), len(identity_W) + 1))
    for right, chance_K in zip(right_R, chance_RK, strict=True):
        before_W = np.bincount(identity[wrong >= right], minlength=len(identity_W)) / size_W
        chance_K[0] = 1.0
        for before in before_W[before_W > 0]:  # one identity more: it comes before the right answer, or it does not
            chance_K[1:] = chance_K[1:] * (1 - before) + chance_K[:-1] * before
            chance_K[0] *= 1 - before
    return chance_RK


def _checked_distances(distance_BG, shape):
    distance_BG = np.asarray(distance_BG)
    if distance_BG.shape != shape or not np.isfinite(distance_BG).all():
        raise UserError(f"rerank gave distances of shape {distance_BG.shape}; expected {shape}, finite")
    return distance_BG


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
    probe_PD, gallery_GD = both_unit("probe", probe_PD, "gallery", gallery_GD)
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
    for start, stop in blocks(num_probes, len(gallery_GD)):
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


def _itself(images, query_Q, kept_G, name):
    """{query: places in the kept part of the gallery of the same image} of the queries that lie there."""
    if images is None:
        return {}
    image_Q = one_each(name, "image", images[0], query_Q)
    image_G = one_each("gallery", "image", images[1], kept_G)[kept_G]
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


def _labels(name, embedding_ND, label_N):
    label_N = one_each(name, "label", label_N, embedding_ND)
    if len(label_N) and label_N.dtype.kind not in "iu":
        raise UserError(f"{name}: labels of type {label_N.dtype}; expected integers")
    return label_N.astype(np.int64)


def _checked_ranks(ranks):
    if not len(ranks) or any(int(rank) != rank or rank < 1 for rank in ranks):
        raise UserError(f"ranks {list(ranks)}: allowed: whole numbers from 1 on, one at least")
    return ranks


def _ranks_of(right_R, wrong):
    """The ranks of the right answers in ascending order, by their similarities and those of the wrong ones."""
    right_R = np.sort(right_R)
    # A wrong one stands before all right ones that are not more similar, so many; counted once for all right ones.
    num_beaten = np.bincount(np.searchsorted(right_R, wrong, side="right"), minlength=len(right_R) + 1)
    num_wrong_R = len(wrong) - np.cumsum(num_beaten)[:-1]
    return (num_wrong_R + np.arange(len(right_R), 0, -1))[::-1]


def _first(similarity_G, right_G, wrong_G, num):
    """The places of the first `num` answers, wrong ones before right ones of equal similarity."""
    answer_A = np.flatnonzero(right_G | wrong_G)
    if len(answer_A) > num:
        least = np.partition(similarity_G[answer_A], -num)[-num]
        answer_A = answer_A[similarity_G[answer_A] >= least]
    order = np.lexsort((right_G[answer_A], -similarity_G[answer_A]))
    return answer_A[order][:num]


def _cmc(rank_Q, num_ranks):
    """Place k - 1: the share of queries whose rank is k at most; NaN without queries."""
    if not len(rank_Q):
        return np.full(num_ranks, math.nan)
    return np.searchsorted(np.sort(rank_Q), np.arange(1, num_ranks + 1), side="right") / len(rank_Q)
