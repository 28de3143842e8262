"""Whom to train: those that fill the space, those that a prior puts first, then one by one where most is to be gained.

Candidates are rows of features (log genes); nothing here knows what the features are.
"""

# N candidates, F features, K chosen

from collections.abc import Sequence
from typing import Protocol

import numpy as np

# In standard deviations of the features: two candidates that are nearer are one choice of the prior's, not two.
DIFFERENT = 1.0
# Of the normal distribution: an interval of 95 %.
WIDE = 1.96


class Line(Protocol):
    """What is asked of a fitted model; see model.py."""

    def predict(self, feature_NF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean_N, std_N) of what it expects."""


def standardised(feature_NF: np.ndarray) -> np.ndarray:
    """The features with mean 0 and standard deviation 1 each; one that does not vary is 0."""
    std_F = feature_NF.std(0)
    return (feature_NF - feature_NF.mean(0)) / np.where(std_F > 0, std_F, 1.0)


def fill_space(feature_NF: np.ndarray, num: int) -> list[int]:
    """Rows of `num` candidates that fill the space: the one nearest to the middle, then always the one farthest from
    all before it, in standard deviations (Gonzalez 1985).

    >>> fill_space(np.array([[0.0], [4.0], [5.0], [10.0]]), 3)
    [2, 0, 1]
    """
    unit_NF = standardised(np.asarray(feature_NF, float))
    chosen: list[int] = []
    distance_N = -np.linalg.norm(unit_NF, axis=1)
    while len(chosen) < min(num, len(unit_NF)):
        chosen.append(int(np.argmax(distance_N)))
        from_last_N = np.linalg.norm(unit_NF - unit_NF[chosen[-1]], axis=1)
        distance_N = from_last_N if len(chosen) == 1 else np.minimum(distance_N, from_last_N)
        distance_N[chosen] = -np.inf
    return chosen


def first_by_prior(feature_NF: np.ndarray, prior_N: np.ndarray, num: int, *, beside: Sequence[int] = ()) -> list[int]:
    """Rows of the `num` candidates with the highest prior that differ from one another and from those `beside`.

    Where fewer differ by DIFFERENT, half of that is asked for, and so on.

    >>> first_by_prior(np.array([[0.0], [0.1], [5.0], [10.0]]), np.array([4.0, 3.0, 2.0, 1.0]), 2)
    [0, 2]
    """
    unit_NF = standardised(np.asarray(feature_NF, float))
    order = [int(row) for row in np.argsort(-np.asarray(prior_N), kind="stable") if row not in set(beside)]
    num, least = min(num, len(order)), DIFFERENT
    while True:
        taken: list[int] = []
        for row in order:
            others_KF = unit_NF[[*beside, *taken]]
            if not len(others_KF) or np.linalg.norm(others_KF - unit_NF[row], axis=1).min() >= least:
                taken.append(row)
            if len(taken) == num:
                return taken
        least = least / 2 if least > 1e-3 else -1.0


def first_to_train(feature_NF: np.ndarray, prior_N: np.ndarray, num: int) -> list[int]:
    """Rows of the `num` candidates that are trained before any model is: half fill the space, half are the prior's."""
    filling = fill_space(feature_NF, num - num // 2)
    return [*filling, *first_by_prior(feature_NF, prior_N, num // 2, beside=filling)]


def next_to_train(line: Line, feature_NF: np.ndarray, trained: Sequence[int]) -> int | None:
    """The row of the candidate whose interval reaches highest, of those not trained; None where all are."""
    mean_N, std_N = line.predict(np.asarray(feature_NF, float))
    reach_N = mean_N + WIDE * std_N
    reach_N[list(trained)] = -np.inf
    row = int(np.argmax(reach_N)) if len(reach_N) else 0
    return row if len(reach_N) and np.isfinite(reach_N[row]) else None
