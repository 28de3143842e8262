"""The line through a few trained candidates, beside plain numpy, plain loops and simulated truths."""

import math

import numpy as np
import pytest
from scipy.stats import kendalltau

from zennas.learn.model import fit, kendall, left_out, noise_of, order_of
from zennas.records import UserError


def trainings(num=16, seed=0, noise=0.3):
    """(log genes, what training gave): one gene matters, one counts against, one says nothing, one does not vary."""
    rng = np.random.default_rng(seed)
    feature_NF = np.column_stack([rng.uniform(2, 5, num), rng.uniform(0, 2, num), rng.uniform(1, 3, num), np.ones(num)])
    return feature_NF, 90 + feature_NF @ [1.0, -0.8, 0.0, 5.0] + noise * rng.standard_normal(num)


def plain_ridge(unit_NF, target_N):
    """(coefficient_F, covariance_FF, noise variance) at the fixed point of MacKay's evidence, by plain iteration."""
    gram_FF, weights, noise = unit_NF.T @ unit_NF, 1.0, float(target_N.var())
    for _ in range(500):
        covariance_FF = np.linalg.inv(gram_FF / noise + weights * np.eye(len(gram_FF)))
        coefficient_F = covariance_FF @ unit_NF.T @ target_N / noise
        told = len(gram_FF) - weights * np.trace(covariance_FF)  # how many coefficients the data decide
        weights = told / (coefficient_F @ coefficient_F)
        noise = float(((target_N - unit_NF @ coefficient_F) ** 2).sum() / (len(target_N) - told))
    return coefficient_F, covariance_FF, noise


@pytest.mark.parametrize("seed", range(4))
def test_the_line_is_the_plain_ridge_with_the_same_precisions(seed):
    feature_NF, truth_N = trainings(seed=seed)
    line = fit(feature_NF, truth_N)
    varying_NF = feature_NF[:, :3]
    unit_NF = (varying_NF - varying_NF.mean(0)) / varying_NF.std(0)
    coefficient_F, covariance_FF, noise = plain_ridge(unit_NF, truth_N - truth_N.mean())
    # scikit-learn stops once a step moves the coefficients by less than 1e-3 of the truth's spread.
    assert line.coefficient_F[:3] == pytest.approx(coefficient_F, abs=3e-3 * truth_N.std())
    assert np.sqrt(np.diag(line.covariance_FF)[:3]) == pytest.approx(np.sqrt(np.diag(covariance_FF)), rel=0.03)
    assert line.noise_std == pytest.approx(math.sqrt(noise), rel=0.03)
    assert line.coefficient_F[3] == 0 and not line.covariance_FF[3].any() and not line.covariance_FF[:, 3].any()
    asked_MF = feature_NF[:5] + np.array([0.3, -0.2, 0.1, 0.0])
    mean_M, std_M = line.predict(asked_MF)
    asked_unit_MF = (asked_MF[:, :3] - varying_NF.mean(0)) / varying_NF.std(0)
    assert mean_M == pytest.approx(truth_N.mean() + asked_unit_MF @ line.coefficient_F[:3])
    by_hand = [row @ line.covariance_FF[:3, :3] @ row for row in asked_unit_MF]
    assert std_M**2 == pytest.approx(np.array(by_hand))


def test_units_of_features_and_truth_change_nothing_else():
    feature_NF, truth_N = trainings()
    line = fit(feature_NF, truth_N)
    again = fit(feature_NF * [1.0, 10.0, 0.1, 1.0] + 3.0, truth_N / 100 - 7)
    assert again.coefficient_F == pytest.approx(line.coefficient_F / 100, rel=1e-6)
    assert again.noise_std == pytest.approx(line.noise_std / 100) and again.radius == pytest.approx(line.radius)


def test_intervals_cover_the_truth_as_often_as_they_say():
    """500 simulated pools of 12: a share of 95 % of coefficients within 1.96 standard deviations, give or take 4 points
    (the precisions are themselves estimated)."""
    inside = []
    for seed in range(500):
        feature_NF, truth_N = trainings(12, seed)
        line = fit(feature_NF, truth_N)
        error_F = line.coefficient_F[:3] / line.scale_F[:3] - np.array([1.0, -0.8, 0.0])
        inside.extend(np.abs(error_F) < 1.96 * np.sqrt(np.diag(line.covariance_FF)[:3]) / line.scale_F[:3])
    assert 0.88 < np.mean(inside) < 0.99


def test_the_interval_widens_away_from_what_was_trained_and_the_radius_is_that_of_the_farthest():
    feature_NF, truth_N = trainings()
    line = fit(feature_NF, truth_N)
    away_MF = line.centre_F + np.arange(4.0)[:, None] * line.scale_F
    std_M = line.predict(away_MF)[1]
    assert std_M[0] == 0 and (np.diff(std_M) > 0).all()
    assert line.distances(feature_NF).max() == pytest.approx(line.radius)


@pytest.mark.parametrize(
    ("feature_NF", "truth_N", "message"),
    [
        (np.eye(3), np.arange(3.0), "3 trained candidates; a line through them takes at least 4"),
        (np.eye(4), np.ones(4), "all 4 trained candidates measured 1: there is no order"),
        (np.ones((4, 2)), np.arange(4.0), "all 4 trained candidates have the same features"),
        (np.eye(4), np.array([1.0, np.nan, 2.0, 3.0]), "trained candidate 1 has no measure"),
        (
            np.array([[0.0, -np.inf], [1.0, 2.0], [1.0, 3.0], [2.0, 4.0]]),
            np.arange(4.0),
            "candidate 0, feature 1: -inf is no number",
        ),
        (np.arange(4.0), np.arange(4.0), r"rows of candidates by columns; given shape \(4,\)"),
        (np.eye(5), np.arange(4.0), r"5 candidates by their features, measures of shape \(4,\)"),
    ],
)
def test_what_no_line_goes_through_is_refused(feature_NF, truth_N, message):
    with pytest.raises(UserError, match=message):
        fit(feature_NF, truth_N)


# --- how well an order agrees


def test_an_order_is_kendalls_tau_b_with_its_interval():
    rng = np.random.default_rng(0)
    first_N = rng.integers(0, 6, 40).astype(float)  # with ties
    second_N = first_N + 2 * rng.standard_normal(40)
    order = order_of(first_N, second_N)
    assert order.tau == kendall(first_N, second_N) == pytest.approx(kendalltau(first_N, second_N).statistic)
    draws_RN = np.random.default_rng(7).integers(40, size=(300, 40))
    taus_R = [kendalltau(first_N[draw_N], second_N[draw_N]).statistic for draw_N in draws_RN]
    assert (order.low, order.high) == pytest.approx(np.percentile(taus_R, [2.5, 97.5]), abs=0.04)  # other resamples
    assert order.low < order.tau < order.high and order == order_of(first_N, second_N)
    assert order_of(second_N, second_N) == pytest.approx((1.0, 1.0, 1.0))
    assert all(math.isnan(number) for number in order_of(np.ones(5), np.arange(5.0)))


def test_an_interval_covers_the_tau_of_all():
    """Of 200 samples of 30 from a pair of Gaussians of correlation 0.6, whose tau is 2/pi asin(0.6)."""
    rng, inside = np.random.default_rng(1), []
    for _ in range(200):
        first_N, own_N = rng.standard_normal((2, 30))
        order = order_of(first_N, 0.6 * first_N + 0.8 * own_N)
        inside.append(order.low < 2 / math.pi * math.asin(0.6) < order.high)
    assert np.mean(inside) > 0.85  # 0.95 expected, give or take 0.015


def test_left_out_predicts_each_from_the_others_alone():
    feature_NF, truth_N = trainings(9)
    predicted_N = left_out(feature_NF, truth_N)
    for row in range(9):
        rest = [other for other in range(9) if other != row]
        assert predicted_N[row] == fit(feature_NF[rest], truth_N[rest]).predict(feature_NF[row : row + 1])[0][0]
    changed_N = truth_N + 1e3 * (np.arange(9) == 4)
    assert left_out(feature_NF, changed_N)[4] == predicted_N[4]


# --- noise


@pytest.mark.parametrize(("seeds_std", "says_nothing"), [(0.1, False), (1.0, None), (3.0, True)])
def test_noise_is_that_of_the_simulated_trainings(seeds_std, says_nothing):
    """Truths of standard deviation 1, 400 of them trained twice: reliability to 0.08, four times its standard error."""
    rng = np.random.default_rng(2)
    own_N, first_N, second_N = (std * rng.standard_normal(400) for std in (1.0, seeds_std, seeds_std))
    noise = noise_of(own_N + first_N, list(zip(own_N + first_N, own_N + second_N, strict=True)))
    assert noise.between_seeds_std == pytest.approx(seeds_std, rel=0.15)
    assert noise.reliability == pytest.approx(1 / (1 + seeds_std**2), abs=0.15 if says_nothing else 0.08)
    assert noise.low <= noise.reliability <= noise.high
    if says_nothing is not None:
        assert noise.tells_nothing == says_nothing


def test_the_interval_of_two_pairs_covers_and_is_wide():
    """300 runs of 16 trainings, two of them twice, reliability 0.8: the interval of the seeds' variance is 95 %."""
    rng, covered, widths = np.random.default_rng(3), [], []
    for _ in range(300):
        own_N, first_N, second_N = (std * rng.standard_normal(16) for std in (2.0, 1.0, 1.0))
        twice = [(own_N[row] + first_N[row], own_N[row] + second_N[row]) for row in (0, 1)]
        noise = noise_of(own_N + first_N, twice)
        covered.append(noise.low <= 0.8 <= noise.high)
        widths.append(noise.high - noise.low)
    assert np.mean(covered) > 0.9 and np.median(widths) > 0.5


def test_noise_without_a_pair_is_unknown_and_of_equal_trainings_none():
    assert noise_of(np.arange(5.0), []) is None
    equal = noise_of(np.arange(5.0), [(1.0, 1.0), (3.0, 3.0)])
    assert (equal.between_seeds_std, equal.reliability) == (0.0, 1.0) and not equal.tells_nothing
    assert noise_of(np.ones(5), [(1.0, 1.0)]).reliability == 0.0
