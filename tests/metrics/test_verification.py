"""Accuracy and TAR against loops that try everything, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zennas.metrics.verification import (
    best_threshold,
    contiguous_folds,
    tar_at_far,
    tars_at_fars,
    ten_fold_accuracy,
    thresholds_at_fars,
)
from zennas.records import UserError

# Few values, so that many are equal.
pairs = st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=40).map(
    lambda rows: (np.array([row[0] / 4 for row in rows]), np.array([row[1] for row in rows]))
)


def naive_best(similarity, same):
    """(accuracy, set of pairs called same) of the strictest of the best thresholds, tried one by one."""
    best = None
    for threshold in sorted({*similarity, max(similarity) + 1}, reverse=True):
        accuracy = sum((one >= threshold) == truth for one, truth in zip(similarity, same, strict=True)) / len(same)
        if best is None or accuracy > best[0]:
            best = accuracy, [bool(one >= threshold) for one in similarity]
    return best


@settings(max_examples=300, deadline=None)
@given(pairs)
def test_no_threshold_is_better(both):
    similarity, same = both
    threshold = best_threshold(similarity, same)
    accuracy, called_same = naive_best(similarity, same)
    assert np.mean((similarity >= threshold) == same) == pytest.approx(accuracy, abs=1e-12)  # sums in another order
    assert (similarity >= threshold).tolist() == called_same


@settings(max_examples=200, deadline=None)
@given(pairs, st.integers(0, 64).map(lambda one: one / 64))  # floats: none where denormals are flushed
def test_tar_is_the_most_that_the_far_allows(both, far):
    similarity, same = both
    tar = tar_at_far(similarity, same, far)
    if same.all() or not same.any():
        assert math.isnan(tar)
        return
    allowed = [
        np.mean(similarity[same] >= threshold)
        for threshold in [*np.unique(similarity), 2]
        if np.mean(similarity[~same] >= threshold) <= far + 1e-12
    ]
    assert tar == max(allowed)


def test_many_fars_at_once_are_as_one_by_one():
    rng = np.random.default_rng(0)
    same = rng.random(3000) < 0.3
    similarity = (rng.normal(size=3000) + same).round(2)  # many are equal
    fars = [0.1, 0.0, 1.0, 1e-4, 0.1, 1e-2]
    assert tars_at_fars(similarity, same, fars) == [tar_at_far(similarity, same, far) for far in fars]
    falling = [*sorted(similarity[~same], reverse=True), -math.inf]
    expected = [falling[math.floor(far * (len(falling) - 1))] for far in fars]
    assert thresholds_at_fars(similarity, same, fars) == expected
    assert thresholds_at_fars(similarity, np.ones(3000, bool), fars) == [-math.inf] * 6


def test_folds_by_hand():
    """Two folds: the first alone would choose 0.45 (and errs once in the second), the second 0.75 (and errs once)."""
    similarity, same = [0.8, 0.6, 0.3, 0.2, 0.9, 0.85, 0.65, 0.1], [1, 1, 0, 0, 1, 1, 0, 0]
    accuracy = ten_fold_accuracy(similarity, np.array(same, bool), num_folds=2)
    assert accuracy == pytest.approx((0.75, 0.0, (0.45 + 0.75) / 2))
    interleaved = ten_fold_accuracy(similarity, np.array(same, bool), fold_P=[0, 1] * 4)
    # Fold 0 is {.8+ .3- .9+ .65-}, split by .725; fold 1 is {.6+ .2- .85+ .1-}, split by .4.
    # .4 errs on .65 in fold 0; .725 errs on .6 in fold 1.
    assert interleaved == pytest.approx((0.75, 0.0, (0.4 + 0.725) / 2))


def test_ten_folds_are_cut_in_order():
    assert contiguous_folds(6000, 10).tolist() == sorted(list(range(10)) * 600)
    assert np.bincount(contiguous_folds(23, 10)).tolist() == [3, 3, 3, 2, 2, 2, 2, 2, 2, 2]


def test_perfect_chance_and_one_sided():
    same = np.arange(100) % 2 == 0
    assert ten_fold_accuracy(same * 1.0, same)[:2] == (1.0, 0.0)
    assert ten_fold_accuracy(np.ones(100), same).mean == 0.5
    for all_same in (True, False):  # small_lfw.bin has no different pairs
        one_sided = np.full(100, all_same)
        accuracy = ten_fold_accuracy(np.linspace(0, 1, 100), one_sided)
        # The fold at an end lies outside what the others showed: its threshold was the extreme of the rest.
        assert 0.9 <= accuracy.mean <= 1.0 and math.isfinite(accuracy.threshold)
        assert math.isnan(tar_at_far(np.linspace(0, 1, 100), one_sided, 0.1))


def test_neighbouring_floats_are_told_apart():
    high = np.nextafter(0.5, 1)
    assert best_threshold(np.array([0.5, high]), np.array([False, True])) == high


@pytest.mark.parametrize(
    ("similarity", "same", "options", "says"),
    [
        ([0.1] * 9, [True] * 9, {}, "9 pairs in 10 folds"),
        ([0.1] * 20, [True] * 20, {"num_folds": 1}, "20 pairs in 1 folds"),
        ([0.1, np.nan], [True] * 2, {"num_folds": 2}, "pair 1: similarity nan"),
        ([0.1, 0.2], [True] * 3, {}, "expected one each"),
        ([0.1, 0.2], [True] * 2, {"fold_P": [3, 3]}, "1 folds given"),
    ],
)
def test_what_cannot_be_judged_is_said(similarity, same, options, says):
    with pytest.raises(UserError, match=says):
        ten_fold_accuracy(similarity, same, **options)
    with pytest.raises(UserError, match=r"far 1\.5"):
        tar_at_far([0.1, 0.2], [True, False], 1.5)
