from types import SimpleNamespace

import pytest

from zennas.search.finals import MISJUDGED_PCT, SHORT_PCT, _falls_short

MISJUDGED, JUDGED_WELL = 2 * MISJUDGED_PCT, MISJUDGED_PCT / 2


def after_a_correction(best, optimum, *, proves=True):
    """A run whose best scored candidate and whose proven optimum within the budget are these; None where there is none."""
    funnel = SimpleNamespace(optimum=optimum and SimpleNamespace(score=optimum)) if proves else None
    population = SimpleNamespace(best=best and (best, "a candidate"))
    return SimpleNamespace(funnel=funnel, batches=SimpleNamespace(population=population))


@pytest.mark.parametrize("off_pct", [-MISJUDGED, JUDGED_WELL, MISJUDGED])
@pytest.mark.parametrize(("below_pct", "again"), [(-0.1, False), (0.9 * SHORT_PCT, False), (1.1 * SHORT_PCT, True)])
def test_the_search_goes_on_where_what_is_scored_falls_short_of_the_optimum(below_pct, again, off_pct):
    """Whatever was misjudged: a table that was too fast leaves less than half a per cent to be found, mostly."""
    assert _falls_short(after_a_correction(800.0 * (1 - below_pct / 100), 800.0), off_pct) is again


@pytest.mark.parametrize("run", [after_a_correction(5.0, None), after_a_correction(5.0, 5.0, proves=False)])
def test_without_a_proof_the_search_goes_on_where_a_prediction_was_far_off(run):
    assert _falls_short(run, -MISJUDGED) and not _falls_short(run, JUDGED_WELL)


def test_the_search_goes_on_where_nothing_scored_is_within_the_budget_any_more():
    assert _falls_short(after_a_correction(None, 800.0), JUDGED_WELL)
