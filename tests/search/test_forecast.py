"""What a run says of its own length: from the machine's speed, and corrected by what was measured."""

import types

import pytest

from zennas.latency.table import LatencyTable
from zennas.search import forecast
from zennas.search.forecast import (
    NOMINAL_MS_PER_GMAC,
    baselines_seconds,
    finals_seconds,
    knows_the_machine,
    note_pace,
    say_how_long,
    search_seconds,
    table_seconds,
)
from zennas.space.cost import cost
from zennas.track import Protocol, SearchPlan, load_experiment


@pytest.fixture
def run(tiny, tmp_path, monkeypatch):
    """run(...) -> a Prepared as far as a forecast reads it. slowness: of the machine, in NOMINAL_MS_PER_GMAC; None: its
    reference was not measured. filled: whether its latency table is, at that speed.
    """
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path))
    _, track, space = load_experiment(str(tiny))
    macs = cost(track.budget.reference.candidate, track.budget.reference.shape).macs

    def made(*, slowness=1.0, filled=False, minutes=5.0, spent_s=0.0, evidence=False, workers=2, **state):
        table = LatencyTable(Protocol(backend="onnxruntime-cpu"), machine="a-machine")
        ms_per_mac = (slowness or 1.0) * NOMINAL_MS_PER_GMAC / 1e9
        if filled:
            table.rows.update({part: part.macs * ms_per_mac for part in table.missing_for(space)})
        reference_ms = None if slowness is None else macs * ms_per_mac
        kept = dict(state, search_s=0.0)
        said = []
        return types.SimpleNamespace(
            track=track,
            space=space,
            baselines=space.baselines,
            plan=SearchPlan(minutes=minutes),
            protocol=Protocol(backend="onnxruntime-cpu"),
            machine="a-machine",
            evidence=evidence,
            budget=types.SimpleNamespace(budget_ms=100.0, reference_ms=reference_ms),
            predictor=types.SimpleNamespace(table=table),
            ledger=types.SimpleNamespace(state=kept, measured={}, save=kept.update),
            clock=types.SimpleNamespace(total_s=spent_s, left_s=60 * minutes - spent_s),
            workers=types.SimpleNamespace(num_workers=workers, local=True),
            progress=types.SimpleNamespace(say=said.append),
            said=said,
        )

    return made


def test_a_machine_is_known_by_its_reference_or_by_its_table(run):
    assert knows_the_machine(run()) and knows_the_machine(run(slowness=None, filled=True))
    assert not knows_the_machine(run(slowness=None))


@pytest.mark.parametrize("seconds", [table_seconds, baselines_seconds, finals_seconds])
def test_a_slower_machine_takes_longer_and_more_workers_take_less(run, seconds):
    assert 0 < seconds(run()) < seconds(run(slowness=2.0)) < seconds(run(slowness=3.0))
    assert seconds(run(workers=4)) < seconds(run(workers=1))
    assert seconds(run(pace=2.0)) > seconds(run())


def test_a_table_that_is_filled_takes_nothing(run):
    assert table_seconds(run(filled=True)) == 0.0


def test_a_baseline_far_from_the_budget_takes_few_runs(run):
    prepared = run(filled=True)
    slowest = max(
        prepared.predictor.table.predict(each, prepared.space.shape) for each in prepared.space.baselines.values()
    )
    far_s = baselines_seconds(prepared)
    prepared.budget.budget_ms = slowest
    assert baselines_seconds(prepared) >= far_s + (50 - 6) * slowest / 1000 * 0.99


def test_scores_that_were_not_asked_for_take_no_time(run):
    assert finals_seconds(run(evidence=True)) > finals_seconds(run())


def test_the_first_forecast_is_a_promise_and_one_like_it_is_not_said_again(run):
    prepared = run()
    say_how_long(prepared)
    (promise,) = prepared.ledger.state["promised"]
    assert promise["at_s"] == 0.0 and promise["total_s"] == pytest.approx(300, abs=1)  # the search takes the rest
    assert len(prepared.said) == 1 and "latency table" in prepared.said[0] and "corrected" not in prepared.said[0]
    say_how_long(prepared)
    assert len(prepared.said) == 1 and len(prepared.ledger.state["promised"]) == 2


def test_a_forecast_that_changes_says_what_it_was(run):
    prepared = run(promised=[{"at_s": 1.0, "total_s": 100.0}])
    say_how_long(prepared)
    assert "5m00s in all, corrected from 1m40s" in prepared.said[0]


def test_minutes_that_do_not_suffice_are_not_promised(run):
    """The table and the finals take what they take, and the search its least share."""
    prepared = run(slowness=20.0, minutes=1.0)
    say_how_long(prepared)
    fixed_s = table_seconds(prepared) + baselines_seconds(prepared) + finals_seconds(prepared)
    promised = prepared.ledger.state["promised"][0]["total_s"]
    assert promised > 60 and promised == pytest.approx(fixed_s + search_seconds(prepared), abs=0.2)


@pytest.mark.parametrize(
    ("expected_s", "taken_s", "pace"), [(100, 150, 1.5), (100, 90, 0.9), (100, 1000, 3.0), (100, 1, 0.5), (5, 50, None)]
)
def test_what_the_table_took_scales_what_is_to_come(run, expected_s, taken_s, pace):
    prepared = run()
    note_pace(prepared, expected_s, taken_s)
    assert prepared.ledger.state.get("pace") == pace
    if pace is not None:
        timed_s = 5 * 50 * 100 / 1000  # three winners, two over the budget: what is timed does not scale
        plain_s = finals_seconds(run()) - timed_s
        assert finals_seconds(prepared) - timed_s == pytest.approx(plain_s * pace)


def test_a_baseline_that_this_machine_kept_is_not_timed(run, monkeypatch):
    before_s = baselines_seconds(run(filled=True))
    monkeypatch.setattr(forecast, "kept_baseline", lambda *_: "a Measurement")
    assert 0 < baselines_seconds(run(filled=True)) < before_s
