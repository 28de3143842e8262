"""What a Predictor says of candidates of several bands, whose factors differ."""

import numpy as np
import pytest

from tests.search.test_evolution import every_candidate
from zennas.latency.budget import LocalBudget
from zennas.search.bands import Bands
from zennas.search.predictor import Predictor
from zennas.space.space import effectiveness

MARGIN_PCT = 1.0


class Table:
    """Every candidate takes a millisecond a block."""

    def predict(self, candidate, shape):
        return float(candidate.num_blocks)


def predictor_of(space, budget_ms):
    budget = LocalBudget(budget_ms=budget_ms, origin="by hand", stand_in=None, scale=None, reference_ms=None)
    return Predictor(space, Table(), budget, margin_pct=MARGIN_PCT, limits=[])


def test_each_band_is_predicted_by_its_own_factor_and_the_others_by_that_of_all(space):
    candidates = every_candidate(space)[::7]
    median = float(np.median(list(map(effectiveness, candidates))))
    bands = Bands(space, {"deep": None, "middle": median, "wide": median / 2})
    predictor = predictor_of(space, 6.0)
    predictor.correct(1.1, [], bands=bands, of_bands={"deep": 0.8, "wide": 1.5})
    factors = {"deep": 0.8, "middle": 1.1, "wide": 1.5}
    genes_NG = np.array([candidate.genes for candidate in candidates])
    table_ms_N = np.array([float(candidate.num_blocks) for candidate in candidates])
    fits_N, factor_N = predictor.fits(table_ms_N, genes_NG), predictor.factors_of(genes_NG)
    names = [bands.band_of(candidate).name for candidate in candidates]
    assert set(names) == set(factors)
    for candidate, name, fits, factor in zip(candidates, names, fits_N, factor_N, strict=True):
        assert factor == factors[name] == predictor.factor_of(candidate)
        assert predictor.predicted_ms(candidate) == candidate.num_blocks * factors[name]
        is_within = candidate.num_blocks * factors[name] <= 6.0 * (1 - MARGIN_PCT / 100)
        assert fits == is_within == (predictor.refusal(candidate) is None)
    predictor.correct(2.0, [], bands=bands)
    assert predictor.factors_of(genes_NG) == pytest.approx(2.0)
