"""What a few trained candidates say of the others: a Bayesian ridge regression on the logs of their genes.

A line in the logs has one coefficient per gene, learns each one's sign from the data, and its interval widens away from
what was trained. It is additive over genes, so the best candidate within a budget can be proven (search/optimum.py).
Sources: MacKay 1992 (the evidence that sets the two precisions), Tipping 2001; scikit-learn's BayesianRidge.
"""

# N trained candidates, F features (log genes), M candidates asked about, R resamples

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2
from sklearn.linear_model import BayesianRidge

from zennas.learn_plan import LEAST_TRAINED
from zennas.records import Record, UserError

SAME = 1e-12  # standard deviation of a feature up to which it does not vary: rounding alone
NUM_RESAMPLES = 2000
INTERVAL = (2.5, 97.5)  # per cent


class Fitted(NamedTuple):
    """A line through what was trained. Features are as given; `centre_F` and `scale_F` standardise them."""

    centre_F: np.ndarray
    scale_F: np.ndarray  # standard deviation among the trained; 1 where a feature does not vary
    intercept: float
    coefficient_F: np.ndarray  # per standard deviation
    covariance_FF: np.ndarray  # of the coefficients
    noise_std: float  # of one training about the line
    radius: float  # of the farthest of the trained from the centre, in standard deviations of all features together

    def predict(self, feature_MF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean_M, std_M): what is expected of candidates, and how sure the line itself is of it, without the noise of
        a single training."""
        unit_MF = self.standardised(feature_MF)
        variance_M = np.einsum("mf,fg,mg->m", unit_MF, self.covariance_FF, unit_MF)
        return self.intercept + unit_MF @ self.coefficient_F, np.sqrt(np.maximum(variance_M, 0.0))

    def standardised(self, feature_MF: np.ndarray) -> np.ndarray:
        """The features of candidates, in standard deviations of the trained from their centre."""
        return (np.asarray(feature_MF, float) - self.centre_F) / self.scale_F

    def distances(self, feature_MF: np.ndarray) -> np.ndarray:
        """How far candidates are from the centre of the trained; `radius` is the most of those."""
        return np.linalg.norm(self.standardised(feature_MF), axis=1)


def two_dimensional(feature_NF: np.ndarray) -> np.ndarray:
    """The features as numbers: one row for each candidate, all finite. UserError otherwise."""
    feature_NF = np.asarray(feature_NF, float)
    if feature_NF.ndim != 2:
        raise UserError(f"features are rows of candidates by columns; given shape {feature_NF.shape}")
    if not np.isfinite(feature_NF).all():
        row, column = np.argwhere(~np.isfinite(feature_NF))[0]
        raise UserError(f"candidate {row}, feature {column}: {feature_NF[row, column]} is no number (ln of nothing?)")
    return feature_NF


def fit(feature_NF: np.ndarray, truth_N: np.ndarray) -> Fitted:
    """The line through trained candidates. truth_N: what was measured of each, more is better.

    A feature that does not vary among them has a coefficient of 0, and no interval. UserError for fewer than
    LEAST_TRAINED candidates, where all measured the same or have the same features, and for what is not finite.

    >>> line = fit(np.log([[8, 4], [16, 2], [32, 4], [16, 1], [64, 2]]), np.array([0.4, 0.6, 0.7, 0.65, 0.9]))
    >>> mean_M, std_M = line.predict(np.log([[64, 1], [8, 8]]))
    >>> mean_M.round(2).tolist()
    [0.95, 0.35]
    """
    feature_NF, truth_N = two_dimensional(feature_NF), np.asarray(truth_N, float)
    if truth_N.shape != feature_NF.shape[:1]:
        raise UserError(f"{len(feature_NF)} candidates by their features, measures of shape {truth_N.shape}")
    if not np.isfinite(truth_N).all():
        raise UserError(f"trained candidate {np.argmin(np.isfinite(truth_N))} has no measure: {truth_N.tolist()}")
    if len(truth_N) < LEAST_TRAINED:
        raise UserError(f"{len(truth_N)} trained candidates; a line through them takes at least {LEAST_TRAINED}")
    centre_F, std_F = feature_NF.mean(0), feature_NF.std(0)
    varies_F = std_F > SAME
    if not varies_F.any():
        raise UserError(f"all {len(truth_N)} trained candidates have the same features: none can be told apart")
    scale_F = np.where(varies_F, std_F, 1.0)
    unit_NF = np.where(varies_F, (feature_NF - centre_F) / scale_F, 0.0)
    # In standard deviations of the truth: the precisions' priors are of that size.
    middle, spread = float(truth_N.mean()), float(truth_N.std())
    if not spread > 0:
        raise UserError(f"all {len(truth_N)} trained candidates measured {middle:g}: there is no order to learn")
    ridge = BayesianRidge(fit_intercept=False).fit(unit_NF[:, varies_F], (truth_N - middle) / spread)
    coefficient_F, covariance_FF = np.zeros(len(centre_F)), np.zeros((len(centre_F), len(centre_F)))
    coefficient_F[varies_F] = spread * ridge.coef_
    covariance_FF[np.ix_(varies_F, varies_F)] = spread**2 * ridge.sigma_
    return Fitted(
        centre_F,
        scale_F,
        middle,
        coefficient_F,
        covariance_FF,
        spread / math.sqrt(ridge.alpha_),
        float(np.linalg.norm(unit_NF, axis=1).max()),
    )


class Order(NamedTuple):
    """How well an order agrees with the truth: Kendall's tau-b, and the interval of 95 % of resamples."""

    tau: float
    low: float
    high: float


def order_of(predicted_N: np.ndarray, truth_N: np.ndarray, *, seed: int = 0) -> Order:
    """The Order of predictions against the truth; NaN where either does not vary.

    The candidates are drawn again and again with replacement. A resample in which one does not vary says nothing.
    """
    rng, num = np.random.default_rng(seed), len(truth_N)
    times_RN = np.zeros((NUM_RESAMPLES, num))  # how often each is in a resample
    np.add.at(times_RN, (np.arange(NUM_RESAMPLES)[:, None], rng.integers(num, size=(NUM_RESAMPLES, num))), 1)
    taus_R = _taus(predicted_N, truth_N, times_RN)
    low, high = np.nanpercentile(taus_R, INTERVAL) if np.isfinite(taus_R).any() else (math.nan, math.nan)
    return Order(kendall(predicted_N, truth_N), float(low), float(high))


def kendall(first_N: np.ndarray, second_N: np.ndarray) -> float:
    """Kendall's tau-b of two orders of the same candidates; NaN where either does not vary.

    >>> kendall(np.array([1.0, 2.0, 3.0]), np.array([10.0, 30.0, 20.0]))
    0.3333333333333333
    """
    return float(_taus(first_N, second_N, np.ones((1, len(first_N))))[0])


def _taus(first_N: np.ndarray, second_N: np.ndarray, times_RN: np.ndarray) -> np.ndarray:
    """tau_R of tables in which each candidate stands so many times: all pairs at once, each as often as it occurs."""
    first_NN, second_NN = (np.sign(np.subtract.outer(value_N, value_N)) for value_N in (first_N, second_N))
    agreed_R, first_R, second_R = (
        ((times_RN @ pairs_NN) * times_RN).sum(1) for pairs_NN in (first_NN * second_NN, first_NN**2, second_NN**2)
    )
    both_R = np.sqrt(first_R * second_R)
    return np.where(both_R > 0, agreed_R / np.where(both_R > 0, both_R, 1.0), np.nan)


def left_out(feature_NF: np.ndarray, truth_N: np.ndarray) -> np.ndarray:
    """predicted_N: each of the trained by the line through all the others."""
    rows = np.arange(len(truth_N))
    return np.array(
        [fit(feature_NF[rows != row], truth_N[rows != row]).predict(feature_NF[[row]])[0][0] for row in rows]
    )


class Noise(Record):
    """How much of the spread between trainings is the candidates' own."""

    between_seeds_std: float
    between_candidates_std: float  # of single trainings, the seeds' part taken out; 0 where nothing is left
    reliability: float  # share of the variance between single trainings that is the candidates' own, in [0, 1]
    low: float  # the same at the ends of the interval of the seeds' variance
    high: float

    @property
    def tells_nothing(self) -> bool:
        """Whether seeds differ as much as candidates, so that no order of these trainings can be believed."""
        return self.reliability < 0.5


def noise_of(truth_N: np.ndarray, twice: list[tuple[float, float]]) -> Noise | None:
    """The Noise of trainings. truth_N: one training of each candidate; twice: two trainings of some of them.

    The seeds' variance is that of the pairs, with as many degrees of freedom as there are pairs: with two of them the
    interval is wide, and says so. None without a pair.
    """
    if not twice:
        return None
    num = len(twice)
    seeds = sum((first - second) ** 2 / 2 for first, second in twice) / num
    total = float(np.var(truth_N, ddof=1))
    ends = [num * seeds / float(chi2.ppf(share, num)) for share in (0.025, 0.975)]
    reliability, low, high = (max(0.0, 1 - variance / total) if total > 0 else 0.0 for variance in (seeds, *ends))
    return Noise(
        between_seeds_std=math.sqrt(seeds),
        between_candidates_std=math.sqrt(max(0.0, total - seeds)),
        reliability=reliability,
        low=low,
        high=high,
    )
