import random
from types import SimpleNamespace

import numpy as np
import pytest

from tests.search.test_evolution import every_candidate
from tests.space.test_learned import learned_in
from zennas.search.bands import Bands
from zennas.search.finals import (
    MISJUDGED_PCT,
    PROMISED_PCT,
    SHORT_PCT,
    UNKNOWN,
    _factors_of_bands,
    _falls_short,
    _next_finalist,
    _outdone,
    crown,
)
from zennas.search.ledger import open_ledger
from zennas.search.predictor import Predictor
from zennas.space.candidate import Candidate
from zennas.space.space import distance, effectiveness
from zennas.track import ScorePlan, SearchPlan

MISJUDGED, JUDGED_WELL = 2 * MISJUDGED_PCT, MISJUDGED_PCT / 2


def after_a_correction(best, optimum, *, proves=True):
    """A search whose best scored candidate and whose proven optimum within the budget are these; None where there is
    none."""
    return of_bands([best], [optimum], proves=proves)


def of_bands(bests, optima, *, proves=True):
    """As `after_a_correction`, of each band."""
    proven = [SimpleNamespace(optimum=optimum and SimpleNamespace(score=optimum)) for optimum in optima]
    funnel = SimpleNamespace(optimum=proven[0].optimum, proven=proven) if proves else None
    bests = [best and (best, "a candidate") for best in bests]
    population = SimpleNamespace(best=next(filter(None, bests), None), bests=bests)
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


@pytest.mark.parametrize(
    ("bests", "optima", "again"),
    [
        ([800.0, 400.0], [800.0, 400.0], False),
        ([800.0, 396.0], [800.0, 400.0], True),  # one per cent below the optimum of the second
        ([800.0, None], [800.0, 400.0], True),  # nothing of it is within the budget any more
        ([800.0, None], [800.0, None], False),  # it holds nothing
    ],
)
def test_the_search_goes_on_for_every_band(bests, optima, again):
    assert _falls_short(of_bands(bests, optima), JUDGED_WELL, hurried=False) is again


def test_the_search_goes_on_where_nothing_scored_is_within_the_budget_any_more():
    assert _falls_short(after_a_correction(None, 800.0), JUDGED_WELL, hurried=False)


def test_a_finalist_that_fits_is_told_why_it_did_not_win(space, candidate, make_entry):
    alike = candidate.model_copy(update={"stem": 2 * candidate.stem})  # one gene of several doubled
    wider = candidate.model_copy(update={"widths": tuple(4 * width for width in candidate.widths)})
    winners = [make_entry(wider)]
    how = {"bands": Bands(space), "min_distance": 0.3}
    assert _outdone(make_entry(alike), winners, **how) == "fits, but the winners score higher"
    winners.append(make_entry(candidate))
    assert _outdone(make_entry(alike), winners, **how) == "fits, but is too like winner-2"
    how["bands"] = Bands(space, {"deep": None, "wide": (effectiveness(alike) + effectiveness(candidate)) / 2})
    assert _outdone(make_entry(alike), winners[1:], **how) == "fits, but the winners of band wide score higher"


@pytest.fixture
def candidate():
    return Candidate(block="ir_se", stem=16, widths=(32, 64), depths=(1, 2))


# --- winners of bands

SHARES = {"deep": None, "middle": 0.5, "wide": 0.25}


@pytest.fixture
def at_the_end(space, tmp_path, make_row, make_entry):
    """at_the_end(...) -> a search whose candidates are scored and whose finalists are measured. measured: (candidate,
    score, ms) of each, with a budget of 2 ms; their files are there.
    """

    def made(*, bands, measured=(), rows=(), rescored=None, is_empty=(), **changes):
        ledger = open_ledger(tmp_path / "run", {}, seed=0)
        ledger.rows.extend(list(rows))
        for candidate, score, ms in measured:
            ledger.add_measured(make_entry(candidate, score=score, ms=ms, onnx=f"{candidate.key}.onnx"))
            (tmp_path / "run" / f"{candidate.key}.onnx").write_text(candidate.text)
        ledger.save(rescored=rescored or {})
        said = []
        return SimpleNamespace(
            space=space,
            bands=bands,
            plan=SearchPlan(num_winners=3, min_distance=0.2, **changes),
            ledger=ledger,
            folder=tmp_path / "run",
            evidence=False,
            predictor=SimpleNamespace(fits=lambda ms_N, genes_NG: ms_N <= 2.0),
            funnel=SimpleNamespace(proven=[SimpleNamespace(is_empty=place in is_empty) for place in range(3)]),
            budget=SimpleNamespace(budget_ms=2.0),
            progress=SimpleNamespace(say=lambda text, style=None: said.append(text)),
            said=said,
        )

    return made


@pytest.fixture
def banded(space):
    """(Bands of the tiny space, its candidates by band.)"""
    candidates = random.Random(0).sample(every_candidate(space), 300)
    deepest = max(map(effectiveness, candidates))
    bands = Bands(space, {name: share and share * deepest for name, share in SHARES.items()})
    return bands, [[one for one in candidates if bands.of_candidate(one) == place] for place in range(3)]


def test_the_winners_are_the_best_of_each_band_in_their_order(at_the_end, banded):
    """Whatever another band's score, and whatever was measured over the budget."""
    bands, (deep, middle, wide) = banded
    measured = [(deep[0], 3.0, 1.9), (deep[1], 9.0, 2.1), (middle[0], 5.0, 1.0), (middle[1], 5.5, 1.9)]
    measured += [(wide[0], 8.0, 1.9), (wide[1], 7.0, 1.9)]
    searched = at_the_end(bands=bands, measured=random.Random(1).sample(measured, len(measured)))
    winners = crown(searched)
    assert [entry.candidate for entry in winners] == [deep[0], middle[1], wide[0]]
    assert [entry.name for entry in winners] == ["winner-1", "winner-2", "winner-3"]
    for entry in winners:
        assert (searched.folder / entry.onnx).read_text() == entry.candidate.text
    verdicts = {entry.key: entry.verdict for entry in searched.ledger.finalists if entry.role == "finalist"}
    assert verdicts[deep[1].key] == "over budget by 5.0 %" and "band middle" in verdicts[middle[0].key]
    assert searched.said == [] and crown(searched) == winners  # a resumed run crowns the same


@pytest.mark.parametrize(("is_empty", "why"), [((1,), "it holds nothing"), ((), "nothing of it was measured")])
def test_a_band_without_a_winner_is_said_and_the_others_are_handed_out(at_the_end, banded, is_empty, why):
    bands, (deep, _, wide) = banded
    searched = at_the_end(bands=bands, measured=[(wide[0], 8.0, 1.9), (deep[0], 3.0, 1.9)], is_empty=is_empty)
    assert [entry.candidate for entry in crown(searched)] == [deep[0], wide[0]]
    (line,) = searched.said
    assert line == f"no winner of band {bands.bands[1].text}: {why} within the budget"


def test_without_bands_the_winners_are_the_best_that_differ(at_the_end, banded, space):
    _, (deep, middle, wide) = banded
    measured = [(one, float(score), 1.0) for score, one in enumerate([*wide[:8], *middle[:8], *deep[:8]])]
    winners = crown(at_the_end(bands=Bands(space), measured=measured))
    assert [entry.score_mean for entry in winners] == sorted((entry.score_mean for entry in winners), reverse=True)
    assert winners[0].candidate == deep[7] and len(winners) == 3
    pairs = [(one, two) for one in winners for two in winners if one is not two]
    assert all(distance(one.candidate, two.candidate) >= 0.2 for one, two in pairs)


def learned_at(space, least_share):
    """The plan of a learned score whose fastest trained candidate takes this share of the budget."""
    learned, _, _ = learned_in(space, seed=0)
    return ScorePlan(name="learned", learned=learned.model_copy(update={"least_share": least_share}))


def test_what_was_learned_says_nothing_of_networks_faster_than_the_trained(at_the_end, banded, space):
    _, (deep, middle, wide) = banded
    measured = [(deep[0], 9.0, 1.0), (middle[0], 8.0, 1.5), (wide[0], 7.0, 1.9), (wide[9], 6.0, 1.75)]
    searched = at_the_end(bands=Bands(space), measured=measured, score=learned_at(space, 0.9))
    winners = crown(searched)
    assert [entry.candidate for entry in winners] == [wide[0], wide[9], deep[0]]  # from 0.97 times 1.8 ms on
    assert searched.said == [f"warning: winner-3 {UNKNOWN}"]
    verdicts = {entry.key: entry.verdict for entry in searched.ledger.finalists if entry.role == "finalist"}
    assert verdicts == {middle[0].key: f"fits, but {UNKNOWN}"}


@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_the_next_finalist_of_a_learned_score_is_as_slow_as_the_trained(at_the_end, banded, make_row, space, factor):
    """As it is predicted now: corrected, the second takes 1.88 ms, and the third is over the budget."""
    _, (deep, middle, wide) = banded
    values = {deep[0]: (9.0, 1.0), middle[0]: (8.0, 1.25), wide[0]: (7.0, 1.9)}
    rows = [make_row(one, score=score, predicted_ms=ms) for one, (score, ms) in values.items()]
    rescored = {row.key: [row.score, 0.1] for row in rows}
    searched = at_the_end(bands=Bands(space), rows=rows, rescored=rescored, score=learned_at(space, 0.9))
    searched.predictor.fits = lambda ms_N, genes_NG: factor * ms_N <= 2.0
    searched.predictor.factors_of = lambda genes_NG: np.full(len(genes_NG), factor)
    assert _next_finalist(searched, []).candidate == (wide[0] if factor == 1.0 else middle[0])
    searched.plan = searched.plan.model_copy(update={"score": ScorePlan()})
    assert _next_finalist(searched, []).candidate == deep[0]


def test_each_slot_takes_the_best_of_its_band(at_the_end, banded, make_row):
    bands, of_band = banded
    rng = np.random.default_rng(0)
    rows = [make_row(one, score=float(rng.random()), predicted_ms=1.0) for those in of_band for one in those]
    rescored = {row.key: [row.score, 0.1] for row in rows}
    searched = at_the_end(bands=bands, rows=rows, rescored=rescored)
    slots = []
    for place in range(3):
        row = _next_finalist(searched, slots)
        assert row.candidate in of_band[place]
        assert row.score == max(other.score for other in rows if other.candidate in of_band[place])
        slots.append(row.candidate if place != 1 else None)  # a slot may stay empty
    fourth = _next_finalist(searched, slots)  # of the first band again, and unlike its first
    assert fourth.candidate in of_band[0] and distance(fourth.candidate, slots[0]) >= 0.2


def test_a_band_of_which_nothing_fits_has_no_finalist(at_the_end, banded, make_row):
    bands, (deep, middle, _) = banded
    rows = [make_row(deep[0], predicted_ms=1.0), make_row(middle[0], predicted_ms=3.0)]
    searched = at_the_end(bands=bands, rows=rows, rescored={deep[0].key: [1.0, 0.1]})
    assert _next_finalist(searched, []).candidate == deep[0]
    assert _next_finalist(searched, [deep[0]]) is None and _next_finalist(searched, [deep[0], None]) is None


def test_a_misjudged_band_is_corrected_by_its_own_finalists_and_the_others_stay(at_the_end, banded, space):
    bands, (deep, middle, _) = banded
    searched = at_the_end(bands=bands, measured=[(deep[0], 3.0, 1.9), (middle[0], 3.0, 1.9)])
    searched.budget = SimpleNamespace(budget_ms=2.0)
    searched.predictor = Predictor(space, None, searched.budget, margin_pct=1.0, limits=[])
    searched.predictor.correct(1.25, [])
    entry = searched.ledger.measured[middle[0].key]
    slow = entry.changed(latency=entry.latency.model_copy(update={"measured_ms": 1.8, "table_ms": 1.0}))
    searched.ledger.add_measured(slow)
    assert _factors_of_bands(searched, slow) == {"deep": 1.25, "middle": pytest.approx(1.8)}
    searched.bands = Bands(space)
    assert _factors_of_bands(searched, slow) == {}
