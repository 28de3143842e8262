from types import SimpleNamespace

import pytest

from zennas.search.finals import MISJUDGED_PCT, PROMISED_PCT, SHORT_PCT, _falls_short, _outdone
from zennas.space.candidate import Candidate

MISJUDGED, JUDGED_WELL = 2 * MISJUDGED_PCT, MISJUDGED_PCT / 2


def after_a_correction(best, optimum, *, proves=True):
    """A search whose best scored candidate and whose proven optimum within the budget are these; None where there is
    none."""
    funnel = SimpleNamespace(optimum=optimum and SimpleNamespace(score=optimum)) if proves else None
    population = SimpleNamespace(best=best and (best, "a candidate"))
    return SimpleNamespace(funnel=funnel, batches=SimpleNamespace(population=population))


@pytest.mark.parametrize("off_pct", [-MISJUDGED, JUDGED_WELL, MISJUDGED])
@pytest.mark.parametrize(("hurried", "short_pct"), [(False, SHORT_PCT), (True, PROMISED_PCT)])
def test_the_search_goes_on_where_what_is_scored_falls_short_of_the_optimum(hurried, short_pct, off_pct):
    """Whatever was misjudged; where the minutes are short, only if the promised gap is not kept."""
    for share, again in ((-0.1, False), (0.9, False), (1.1, True)):
        searched = after_a_correction(800.0 * (1 - share * short_pct / 100), 800.0)
        assert _falls_short(searched, off_pct, hurried=hurried) is again


@pytest.mark.parametrize("searched", [after_a_correction(5.0, None), after_a_correction(5.0, 5.0, proves=False)])
def test_without_a_proof_the_search_goes_on_where_a_prediction_was_far_off(searched):
    assert _falls_short(searched, -MISJUDGED, hurried=False)
    assert not _falls_short(searched, JUDGED_WELL, hurried=False)


def test_the_search_goes_on_where_nothing_scored_is_within_the_budget_any_more():
    assert _falls_short(after_a_correction(None, 800.0), JUDGED_WELL, hurried=False)


def test_a_finalist_that_fits_is_told_why_it_did_not_win(candidate, make_entry):
    alike = candidate.model_copy(update={"stem": 2 * candidate.stem})  # one gene of several doubled
    wider = candidate.model_copy(update={"widths": tuple(4 * width for width in candidate.widths)})
    winners = [make_entry(wider)]
    assert _outdone(make_entry(alike), winners, min_distance=0.3) == "fits, but the winners score higher"
    winners.append(make_entry(candidate))
    assert _outdone(make_entry(alike), winners, min_distance=0.3) == "fits, but is too like winner-2"


@pytest.fixture
def candidate():
    return Candidate(block="ir_se", stem=16, widths=(32, 64), depths=(1, 2))
