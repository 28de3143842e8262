"""How well similarities tell same from different: ten-fold accuracy and TAR at a FAR. Pure functions over arrays.

P pairs; similarity_P is larger where two faces are more alike
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zennas.records import UserError


class Accuracy(NamedTuple):
    """Shares of pairs answered rightly; std is over the folds (of the population, as insightface's)."""

    mean: float
    std: float
    threshold: float  # the folds' mean; a pair counts as same from it on


def ten_fold_accuracy(
    similarity_P: np.ndarray, same_P: np.ndarray, *, fold_P: np.ndarray | None = None, num_folds: int = 10
) -> Accuracy:
    """The Accuracy of each fold at the threshold that is best on the others.

    fold_P: the fold of each pair; without it, num_folds contiguous ones that are not shuffled. Pairs may be all same or
    all different: the accuracy is then that of a threshold below or above everything. UserError for fewer pairs than
    folds, fewer than two folds, or a similarity that is not finite.
    Source: LFW's protocol (Huang et al. 2007) as insightface's verification.py has it. We differ: the threshold is the
    best of all, half-way between two similarities, not the best on a grid of squared distances in steps of 0.01; of
    equally good ones the strictest, as there.

    >>> ten_fold_accuracy([.9, .1, .8, .2], [True, False, True, False], num_folds=2)
    Accuracy(mean=1.0, std=0.0, threshold=0.5)
    """
    similarity_P, same_P = checked(similarity_P, same_P)
    if fold_P is None:
        if not 2 <= num_folds <= len(same_P):
            raise UserError(
                f"{len(same_P)} pairs in {num_folds} folds: two folds or more, none of them empty, are needed"
            )
        fold_P = contiguous_folds(len(same_P), num_folds)
    fold_P = np.asarray(fold_P)
    if fold_P.shape != same_P.shape or len(np.unique(fold_P)) < 2:
        raise UserError(
            f"{len(np.unique(fold_P))} folds given for {len(same_P)} pairs: two or more are needed, one per pair"
        )
    accuracies, thresholds = [], []
    for fold in np.unique(fold_P):
        held_out_P = fold_P == fold
        threshold = best_threshold(similarity_P[~held_out_P], same_P[~held_out_P])
        accuracies.append(float(np.mean((similarity_P[held_out_P] >= threshold) == same_P[held_out_P])))
        thresholds.append(threshold)
    return Accuracy(float(np.mean(accuracies)), float(np.std(accuracies)), float(np.mean(thresholds)))


def grid_accuracy(similarity_P: np.ndarray, same_P: np.ndarray, fold_P: np.ndarray) -> Accuracy:
    """The Accuracy as insightface's verification.py counts it, for comparison with what is published: the threshold of
    each fold is the best on the others among squared distances 0, 0.01, ... 3.99, of equally good ones the smallest; a
    pair counts as same below it. similarity_P: cosines, so that the squared distance of unit embeddings is 2 - 2
    cosine. The Accuracy's threshold is a cosine too. UserErrors as ten_fold_accuracy.
    """
    similarity_P, same_P = checked(similarity_P, same_P)
    distance_P, grid_T = 2 - 2 * similarity_P, np.arange(0, 4, 0.01)
    fold_P = np.asarray(fold_P)
    folds = np.unique(fold_P)
    if fold_P.shape != same_P.shape or len(folds) < 2:
        raise UserError(f"{len(folds)} folds given for {len(same_P)} pairs: two or more are needed, one per pair")
    right_TF = np.empty((len(grid_T), len(folds)))
    for place, fold in enumerate(folds):
        inside_P = fold_P == fold
        same, different = (np.sort(distance_P[inside_P & (same_P == kind)]) for kind in (True, False))
        right_TF[:, place] = np.searchsorted(same, grid_T) + len(different) - np.searchsorted(different, grid_T)
    others_TF = right_TF.sum(axis=1, keepdims=True) - right_TF
    size_F = np.array([(fold_P == fold).sum() for fold in folds])
    chosen_F = np.argmax(others_TF / (size_F.sum() - size_F), axis=0)
    accuracy_F = right_TF[chosen_F, np.arange(len(folds))] / size_F
    return Accuracy(float(accuracy_F.mean()), float(accuracy_F.std()), float(1 - grid_T[chosen_F].mean() / 2))


def best_threshold(similarity_P: np.ndarray, same_P: np.ndarray) -> float:
    """The threshold from which on calling pairs the same is right most often; the strictest of equally good ones.

    >>> best_threshold(np.array([.2, .4, .6]), np.array([False, False, True]))
    0.5
    """
    order = np.argsort(similarity_P)
    value_P, same_P = similarity_P[order], same_P[order]
    # With a threshold before place i, the pairs from i on count as same.
    right = np.append(0, np.cumsum(~same_P)) + same_P.sum() - np.append(0, np.cumsum(same_P))
    possible = np.append(True, np.append(value_P[1:] > value_P[:-1], True))  # equal values cannot be told apart
    place = len(right) - 1 - int(np.argmax(np.where(possible, right, -1)[::-1]))
    if place == 0:
        return float(value_P[0])
    if place == len(value_P):
        # The next number, and of zero the least normal one: ONNX Runtime may have denormals flushed in this process.
        return float(max(np.nextafter(value_P[-1], np.inf), value_P[-1] + np.finfo(np.float64).tiny))
    below, above = value_P[place - 1], value_P[place]
    middle = below + (above - below) / 2
    return float(middle if middle > below else above)  # of two neighbouring floats


def contiguous_folds(num_pairs: int, num_folds: int) -> np.ndarray:
    """The fold of each pair: num_folds contiguous ones, the first ones larger by one where it does not come out even.

    >>> contiguous_folds(5, 2).tolist()
    [0, 0, 0, 1, 1]
    """
    small, num_larger = divmod(num_pairs, num_folds)
    return np.repeat(np.arange(num_folds), small + (np.arange(num_folds) < num_larger))


def tar_at_far(similarity_P: np.ndarray, same_P: np.ndarray, far: float) -> float:
    """The share of same pairs accepted at the lowest threshold that accepts at most `far` of the different pairs.

    NaN where there are no same pairs or no different ones. Where far times the number of different pairs is below one,
    none of those is accepted. Nothing is interpolated. Pairs of equal similarity are accepted together, or none of
    them is.

    >>> tar_at_far([.9, .6, .3, .7, .2, .1, .0], [True] * 3 + [False] * 4, 0.25)
    1.0
    """
    return tars_at_fars(similarity_P, same_P, [far])[0]


def tars_at_fars(similarity_P: np.ndarray, same_P: np.ndarray, fars: Sequence[float]) -> list[float]:
    """tar_at_far of each FAR, in the time of one."""
    similarity_P, same_P = checked(similarity_P, same_P, fars=fars)
    if same_P.all() or not same_P.any():
        return [math.nan] * len(fars)
    same = similarity_P[same_P]
    thresholds = thresholds_at_fars(similarity_P, same_P, fars)
    return [float(np.mean(same > threshold)) for threshold in thresholds]


def thresholds_at_fars(similarity_P: np.ndarray, same_P: np.ndarray, fars: Sequence[float]) -> list[float]:
    """The similarity above which pairs are accepted at each FAR: that of the strongest different pair which must not
    be.

    -inf where all may be accepted or there is no different pair.
    """
    different = np.asarray(similarity_P, np.float64)[~np.asarray(same_P, bool)]
    place_of = {far: len(different) - 1 - num_allowed(far, len(different)) for far in fars}
    if places := sorted({place for place in place_of.values() if place >= 0}):
        different.partition(places)  # these places alone are sorted, which takes a fraction of the time
    return [float(different[place_of[far]]) if place_of[far] >= 0 else -math.inf for far in fars]


def num_allowed(far: float, num_different: int) -> int:
    """How many different pairs a FAR lets be accepted.

    >>> num_allowed(0.29, 100)  # though 0.29 * 100 is 28.999999999999996
    29
    """
    return min(math.floor(far * num_different * (1 + 1e-12)), num_different)


def roc(similarity_P: np.ndarray, same_P: np.ndarray, *, num_points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """(far_K, tar_K): at most num_points of the curve, evenly spread over the logarithm of FARs from 1/different to 1,
    tar_at_far at each. UserError where there are no same pairs or no different ones.

    >>> far_K, tar_K = roc([.9, .6, .3, .7, .2, .1, .0], [True] * 3 + [False] * 4, num_points=3)
    >>> far_K.round(2).tolist(), tar_K.round(2).tolist()
    ([0.25, 0.5, 1.0], [1.0, 1.0, 1.0])
    """
    similarity_P, same_P = checked(similarity_P, same_P)
    same, different = np.sort(similarity_P[same_P]), np.sort(similarity_P[~same_P])[::-1]
    if not len(same) or not len(different):
        raise UserError(f"{len(same)} same and {len(different)} different pairs: a ROC curve needs both")
    num_K = np.unique(np.geomspace(1, len(different), num_points).round().astype(int))  # accepted different pairs
    bar_K = np.append(different, -np.inf)[num_K]
    return num_K / len(different), 1 - np.searchsorted(same, bar_K, side="right") / len(same)


def checked(
    similarity_P: np.ndarray, same_P: np.ndarray, *, fars: Sequence[float] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """(similarity_P as float64, same_P as bool); UserError for shapes that do not match, similarities that are not
    finite, and `fars` that are no shares."""
    similarity_P, same_P = np.asarray(similarity_P, np.float64), np.asarray(same_P, bool)
    if similarity_P.shape != same_P.shape or similarity_P.ndim != 1:
        raise UserError(
            f"similarities of shape {similarity_P.shape} for pairs of shape {same_P.shape}: expected one each"
        )
    if not (finite_P := np.isfinite(similarity_P)).all():
        bad = np.flatnonzero(~finite_P)
        raise UserError(
            f"pair {bad[0]}: similarity {similarity_P[bad[0]]} is not finite ({len(bad)} of {len(same_P)} are not)"
        )
    if no_shares := [far for far in fars if not 0 <= far <= 1]:
        raise UserError(f"far {no_shares[0]}: allowed: a share in [0, 1]")
    return similarity_P, same_P
