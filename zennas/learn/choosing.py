"""Whom to train: those that fill the space, those that a prior puts first, then one by one where most is to be gained.

Candidates are rows of features (log genes); nothing here knows what the features are. All of a pool are equally costly.
"""

# N candidates, F features, K trained

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from zennas.learn.model import SAME, Fitted, fit, two_dimensional
from zennas.learn_plan import LEAST_TRAINED
from zennas.records import UserError

# Trained before any model is fitted; experiments/learned/results.md says what fewer and more are worth.
NUM_FIRST = 12
# In standard deviations of the features: two candidates that are nearer are one choice of the prior's, not two.
DIFFERENT = 1.0
# Why a candidate was chosen, in words.
FILLS, BY_PRIOR, BY_INTERVAL = "fills the space", "by the prior", "where most was to be gained"
# Of the normal distribution: an interval of 95 %.
WIDE = 1.96

Filling = Callable[[np.ndarray, int], list[int]]  # (feature_NF, num) -> rows


class Line(Protocol):
    """What is asked of a fitted model; see model.py."""

    def predict(self, feature_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean_N, std_N) of what it expects."""


def standardised(feature_NF: np.ndarray) -> np.ndarray:
    """The features with mean 0 and standard deviation 1 each; one that does not vary is 0."""
    feature_NF = two_dimensional(feature_NF)
    std_F = feature_NF.std(0)
    return (feature_NF - feature_NF.mean(0)) / np.where(std_F > SAME, std_F, 1.0)


def fill_space(feature_NF: np.ndarray, num: int, *, first: int | None = None, beside: Sequence[int] = ()) -> list[int]:
    """Rows of `num` candidates that fill the space: `first`, or else the one nearest to the middle, then always the one
    farthest from all before it, in standard deviations (Gonzalez 1985). All of them where there are fewer.

    beside: rows that are there already, from which the others keep their distance; they are not chosen again.

    >>> fill_space(np.array([[0.0], [4.0], [5.0], [10.0]]), 3)
    [2, 0, 3]
    """
    unit_NF = standardised(feature_NF)
    chosen: list[int] = []
    nearest_N = np.full(len(unit_NF), np.inf)
    for row in beside:
        nearest_N = np.minimum(nearest_N, np.linalg.norm(unit_NF - unit_NF[row], axis=1))
    distance_N = nearest_N.copy() if len(beside) else -np.linalg.norm(unit_NF, axis=1)
    distance_N[list(beside)] = -np.inf
    if first is not None:
        distance_N[first] = np.inf
    while len(chosen) < min(num, len(unit_NF) - len(set(beside))):
        chosen.append(int(np.argmax(distance_N)))
        nearest_N = np.minimum(nearest_N, np.linalg.norm(unit_NF - unit_NF[chosen[-1]], axis=1))
        distance_N = nearest_N.copy()
        distance_N[[*beside, *chosen]] = -np.inf
    return chosen


def first_by_prior(feature_NF: np.ndarray, prior_N: np.ndarray, num: int, *, beside: Sequence[int] = ()) -> list[int]:
    """Rows of the `num` candidates with the highest prior that differ from one another and from those `beside`, which
    are not chosen again. All the others where there are fewer.

    Where fewer differ by DIFFERENT, half of that is asked for, and so on.

    >>> first_by_prior(np.array([[0.0], [0.1], [5.0], [10.0]]), np.array([4.0, 3.0, 2.0, 1.0]), 2)
    [0, 2]
    """
    unit_NF = standardised(feature_NF)
    prior_N = np.asarray(prior_N, float)
    if prior_N.shape != unit_NF.shape[:1] or not np.isfinite(prior_N).all():
        raise UserError(f"a finite prior for each of {len(unit_NF)} candidates is needed; given shape {prior_N.shape}")
    order = [int(row) for row in np.argsort(-prior_N, kind="stable") if row not in set(beside)]
    num, least = min(num, len(order)), DIFFERENT
    taken: list[int] = []
    while len(taken) < num:
        taken = []
        for row in order:
            before_KF = unit_NF[[*beside, *taken]]
            if not len(before_KF) or np.linalg.norm(before_KF - unit_NF[row], axis=1).min() >= least:
                taken.append(row)
            if len(taken) == num:
                break
        least = least / 2 if least > 1e-3 else 0.0  # candidates with the same features do not differ at all
    return taken


def medoids(feature_NF: np.ndarray, num: int) -> list[int]:
    """Rows of `num` candidates that stand for all: those to the nearest of which the distances of all candidates, in
    standard deviations, add up to least, until no exchange of one makes them less (k-medoids, Kaufman & Rousseeuw
    1990). All of them where there are fewer. For pools of up to some thousand.

    They lie where candidates are, not at the ends of the pool as those of fill_space do.

    >>> medoids(np.array([[0.0], [4.0], [5.0], [6.0], [20.0]]), 2)
    [2, 4]
    """
    unit_NF = standardised(feature_NF)
    distance_NN = np.linalg.norm(unit_NF[:, None] - unit_NF, axis=2)
    chosen: list[int] = []
    nearest_N = np.full(len(unit_NF), np.inf)
    while len(chosen) < min(num, len(unit_NF)):
        chosen.append(_best_beside(distance_NN, nearest_N, chosen)[1])
        nearest_N = np.minimum(nearest_N, distance_NN[chosen[-1]])
    total, place = nearest_N.sum(), 0
    while chosen and place < len(chosen):  # as many places in a row that cannot be filled better
        rest = chosen[1:]
        least_N = distance_NN[rest].min(0) if rest else np.full(len(unit_NF), np.inf)
        exchanged, row = _best_beside(distance_NN, least_N, rest)
        better = exchanged < total - 1e-9 * max(1.0, total)
        total, place = (exchanged, 0) if better else (total, place + 1)
        chosen = [*rest, row if better else chosen[0]]
    return chosen


def _best_beside(distance_NN: np.ndarray, nearest_N: np.ndarray, chosen: Sequence[int]) -> tuple[float, int]:
    """(sum of all distances to the nearest, row) with the one more that makes this sum least."""
    total_N = np.minimum(nearest_N, distance_NN).sum(1)
    total_N[list(chosen)] = np.inf
    row = int(np.argmin(total_N))
    return float(total_N[row]), row


def first_to_train(
    feature_NF: np.ndarray,
    prior_N: np.ndarray | None,
    num: int = NUM_FIRST,
    *,
    prior_share: float = 0.5,
    filling: Filling = fill_space,
) -> list[int]:
    """Rows of the `num` candidates that are trained before any model is: those that fill the space (fill_space, or
    medoids), then those that the prior puts first. All fill the space where prior_N is None.

    >>> feature_NF = np.array([[0.0], [1.0], [2.0], [7.0], [8.0], [20.0]])
    >>> first_to_train(feature_NF, feature_NF[:, 0], 4, prior_share=0.25)
    [3, 5, 0, 2]
    """
    num_prior = 0 if prior_N is None else int(num * prior_share)
    rows = filling(feature_NF, num - num_prior)
    return rows if prior_N is None else [*rows, *first_by_prior(feature_NF, prior_N, num_prior, beside=rows)]


def next_to_train(line: Line, feature_NF: np.ndarray, trained: Sequence[int]) -> int | None:
    """The row of the candidate whose interval reaches highest, of those not trained; None where all are."""
    if len(feature_NF) <= len(set(trained)):
        return None
    mean_N, std_N = line.predict(two_dimensional(feature_NF))
    reach_N = mean_N + WIDE * std_N
    reach_N[list(trained)] = -np.inf
    return int(np.argmax(reach_N))


class Trained(NamedTuple):
    """Those of a pool that were trained, in the order of their training, and the line through them."""

    rows: list[int]
    truth_K: np.ndarray  # what was measured of each, more is better
    line: Fitted


def train_few(
    feature_NF: np.ndarray,
    prior_N: np.ndarray | None,
    train: Callable[[int], float],
    num: int,
    *,
    num_first: int = NUM_FIRST,
    prior_share: float = 0.5,
    filling: Filling = fill_space,
) -> Trained:
    """`num` of the candidates, chosen as above and trained one after another, and the line that orders all of them.

    train(row) trains a candidate and gives its measure (or looks it up in a table). The first num_first are chosen
    before any training, by first_to_train. UserError as `fit`, and for a pool of fewer than `num`.

    >>> feature_NF = np.log([[width, depth] for width in (8, 16, 24, 32) for depth in (1, 2, 4)])
    >>> truth_N = feature_NF @ [1, -0.5]  # a table of what training would give
    >>> trained = train_few(feature_NF, feature_NF[:, 0], truth_N.item, num=6)
    >>> trained.rows, int(np.argmax(trained.line.predict(feature_NF)[0])), int(np.argmax(truth_N))
    ([4, 0, 2, 9, 10, 11], 9, 9)
    """
    feature_NF = two_dimensional(feature_NF)
    if not LEAST_TRAINED <= num <= len(feature_NF):
        raise UserError(f"{num} candidates to train; possible are {LEAST_TRAINED} to {len(feature_NF)}, the whole pool")
    rows = first_to_train(feature_NF, prior_N, min(num, num_first), prior_share=prior_share, filling=filling)
    truth = [float(train(row)) for row in rows]
    while len(rows) < num:
        row = next_to_train(fit(feature_NF[rows], np.array(truth)), feature_NF, rows)
        assert row is not None  # num <= N
        rows.append(row)
        truth.append(float(train(row)))
    return Trained(rows, np.array(truth), fit(feature_NF[rows], np.array(truth)))
