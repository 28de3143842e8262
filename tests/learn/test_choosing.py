"""Whom to train: that the choices are what they say, on any pool, and that few trainings find what is best."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zennas.learn.choosing import (
    DIFFERENT,
    fill_space,
    first_by_prior,
    first_to_train,
    medoids,
    next_to_train,
    standardised,
    train_few,
)
from zennas.learn.model import fit
from zennas.records import UserError

# Pools of 1 to 20 candidates with 1 to 3 features of few values, so that many have the same.
POOLS = st.integers(1, 3).flatmap(
    lambda num: st.lists(
        st.lists(st.sampled_from([0.0, 0.7, 1.4, 3.0]), min_size=num, max_size=num), min_size=1, max_size=20
    )
)


def pool(num, seed=0):
    """(log genes of so many candidates, two widths and a depth; what training would give)."""
    rng = np.random.default_rng(seed)
    feature_NF = np.log(rng.integers([8, 8, 1], [65, 129, 9], (num, 3)))
    return feature_NF, feature_NF @ [0.2, 1.0, -0.6] + 0.05 * rng.standard_normal(num)


@given(POOLS, st.integers(0, 24))
@settings(deadline=None)
def test_choices_are_different_rows_and_as_many_as_asked_for(rows, num):
    feature_NF, prior_N = np.array(rows), np.array(rows).sum(1)
    for chosen in (
        fill_space(feature_NF, num),
        first_by_prior(feature_NF, prior_N, num),
        first_to_train(feature_NF, prior_N, num),
        first_to_train(feature_NF, None, num),
        medoids(feature_NF, num),
        first_to_train(feature_NF, prior_N, num, prior_share=0.25, filling=medoids),
    ):
        assert len(chosen) == len(set(chosen)) == min(num, len(rows)) and set(chosen) <= set(range(len(rows)))


@given(POOLS)
@settings(deadline=None)
def test_each_that_fills_is_the_farthest_from_those_before(rows):
    """Beside a plain loop over all distances."""
    unit_NF = standardised(np.array(rows))
    chosen = fill_space(np.array(rows), len(rows))
    assert np.isclose(np.linalg.norm(unit_NF[chosen[0]]), np.linalg.norm(unit_NF, axis=1).min())
    for place in range(1, len(rows)):
        nearest = [min(np.linalg.norm(row - unit_NF[before]) for before in chosen[:place]) for row in unit_NF]
        assert np.isclose(nearest[chosen[place]], max(nearest))


def test_filling_begins_where_it_is_told_and_knows_no_units():
    feature_NF, _ = pool(30)
    assert fill_space(feature_NF, 5, first=7)[0] == 7
    assert fill_space(feature_NF * [1.0, 1e3, 1e-3] + 5.0, 12) == fill_space(feature_NF, 12)
    beside_NF = np.column_stack([feature_NF, np.full(30, np.log(3))])  # a gene that does not vary
    assert fill_space(beside_NF, 12) == fill_space(feature_NF, 12)


def distance_to(unit_NF, rows):
    """What k-medoids makes least: the sum over all of the distance to the nearest of these rows."""
    return np.linalg.norm(unit_NF[:, None] - unit_NF[list(rows)], axis=2).min(1).sum()


@given(POOLS, st.integers(1, 5))
@settings(deadline=None, max_examples=50)
def test_no_exchange_of_one_medoid_brings_the_others_nearer(rows, num):
    unit_NF = standardised(np.array(rows))
    chosen = medoids(np.array(rows), num)
    best = distance_to(unit_NF, chosen)
    for place in range(len(chosen)):
        for row in range(len(rows)):
            assert distance_to(unit_NF, [*chosen[:place], row, *chosen[place + 1 :]]) >= best - 1e-6


def test_medoids_of_clusters_are_their_middles_and_lie_within_those_that_fill():
    rng = np.random.default_rng(0)
    middle_KF = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    feature_NF = np.concatenate([middle_KF, *(middle_KF + rng.normal(0, 1, (4, 2)) for _ in range(10))])
    chosen = medoids(feature_NF, 4)
    assert {tuple(np.round(row / 10)) for row in feature_NF[chosen]} == {(0, 0), (1, 0), (0, 1), (1, 1)}
    every = min(distance_to(standardised(feature_NF), rows) for rows in itertools.combinations(range(20), 4))
    assert distance_to(standardised(feature_NF), chosen) <= every + 1e-9
    pool_NF, _ = pool(50)
    reach = [
        np.linalg.norm(standardised(pool_NF)[rows], axis=1).max()
        for rows in (medoids(pool_NF, 8), fill_space(pool_NF, 8))
    ]
    assert reach[0] < reach[1]


def test_the_share_of_the_prior_is_what_it_is_told():
    feature_NF, _ = pool(40)
    prior_N = feature_NF.sum(1)
    rows = first_to_train(feature_NF, prior_N, 12, prior_share=0.25, filling=medoids)
    assert rows[:9] == medoids(feature_NF, 9) and rows[9:] == first_by_prior(feature_NF, prior_N, 3, beside=rows[:9])


def test_the_prior_chooses_its_first_among_different_ones():
    feature_NF, _ = pool(40)
    prior_N, unit_NF = feature_NF[:, :2].sum(1), standardised(feature_NF)
    filling = fill_space(feature_NF, 4)
    chosen = first_by_prior(feature_NF, prior_N, 4, beside=filling)
    assert list(prior_N[chosen]) == sorted(prior_N[chosen], reverse=True) and not set(chosen) & set(filling)
    for place, row in enumerate(chosen):
        before = [*filling, *chosen[:place]]
        assert np.linalg.norm(unit_NF[before] - unit_NF[row], axis=1).min() >= DIFFERENT
        for passed_by in set(range(40)) - set(before):  # whoever has more of the prior is too like one before
            if prior_N[passed_by] > prior_N[row]:
                assert np.linalg.norm(unit_NF[before] - unit_NF[passed_by], axis=1).min() < DIFFERENT


def test_where_too_few_differ_less_is_asked_for():
    feature_NF = np.array([[0.0], [0.0], [0.0], [10.0]])
    assert first_by_prior(feature_NF, np.array([4.0, 3.0, 2.0, 1.0]), 3) == [0, 1, 2]
    assert first_by_prior(feature_NF, np.array([4.0, 3.0, 2.0, 1.0]), 2) == [0, 3]


@pytest.mark.parametrize("prior", [np.ones(3), np.array([1.0, np.nan, 0.0, 0.0])])
def test_a_prior_that_does_not_fit_is_refused(prior):
    with pytest.raises(UserError, match="a finite prior for each of 4 candidates"):
        first_by_prior(np.arange(4.0)[:, None], prior, 2)


def test_the_next_is_where_the_interval_reaches_highest():
    class Said:
        def predict(self, feature_NF):
            return feature_NF[:, 0], feature_NF[:, 1]

    feature_NF = np.array([[3.0, 0.0], [1.0, 2.0], [2.9, 0.01], [0.0, 0.0]])  # 3, 4.92, 2.92, 0
    assert [next_to_train(Said(), feature_NF, trained) for trained in ([], [1], [0, 1], [0, 1, 2])] == [1, 0, 2, 3]
    assert next_to_train(Said(), feature_NF, [0, 1, 2, 3]) is None
    assert next_to_train(Said(), np.empty((0, 2)), []) is None


# --- the whole way


def test_train_few_trains_each_once_in_the_order_of_its_rows():
    feature_NF, truth_N = pool(50)
    asked = []

    def train(row):
        asked.append(row)
        return truth_N[row]

    trained = train_few(feature_NF, feature_NF[:, :2].sum(1), train, 16)
    assert asked == trained.rows and len(set(asked)) == 16 and trained.truth_K.tolist() == truth_N[asked].tolist()
    assert asked[:12] == first_to_train(feature_NF, feature_NF[:, :2].sum(1), 12)
    for place in range(12, 16):  # each beside the line of those before it
        line = fit(feature_NF[asked[:place]], truth_N[asked[:place]])
        assert asked[place] == next_to_train(line, feature_NF, asked[:place])
    again = train_few(feature_NF, feature_NF[:, :2].sum(1), truth_N.__getitem__, 12)
    assert again.rows == asked[:12]


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(3))
def test_the_best_is_found_whatever_the_sign_of_the_prior(seed, sign):
    feature_NF, truth_N = pool(60, seed)
    trained = train_few(feature_NF, sign * feature_NF[:, 1], truth_N.__getitem__, 16)
    winner = np.argmax(trained.line.predict(feature_NF)[0])
    assert truth_N[winner] > truth_N.max() - 0.25  # noise of 0.05 each, a spread of 0.9


@pytest.mark.parametrize("num", [3, 11])
def test_a_number_that_cannot_be_trained_is_refused(num):
    feature_NF, truth_N = pool(10)
    with pytest.raises(UserError, match=f"{num} candidates to train; possible are 4 to 10"):
        train_few(feature_NF, None, truth_N.__getitem__, num)
