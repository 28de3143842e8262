import gc
import json
import statistics
import time

import hypothesis
import hypothesis.strategies as st
import pytest

from tests.shapes import square
from zennas.latency import protocol as protocols
from zennas.latency.backends import BACKENDS, Backend
from zennas.latency.budget import export_candidate
from zennas.latency.protocol import FEW_RUNS, SPREAD_WARNING_PCT, Measurement, measure, measure_calmly
from zennas.provenance import machine_name, versions
from zennas.space.candidate import Candidate
from zennas.track import Protocol

SMALL = Candidate(block="ir_se", stem=8, widths=(8, 16), depths=(1, 1))


def taken(raw_ms, *, kth_fastest=1):
    protocol = Protocol(backend="onnxruntime-cpu", num_runs=len(raw_ms), kth_fastest=kth_fastest)
    return Measurement(
        raw_ms=tuple(raw_ms), protocol=protocol, machine="a-machine", date="2026-01-01", versions={}, load_average=0.25
    )


@pytest.fixture(autouse=True)
def runs_long_enough(monkeypatch):
    """The given runs are few, and count as if they had lasted long enough."""
    monkeypatch.setattr(protocols, "SHORT_MS", 0.0)


@pytest.fixture
def scripted(monkeypatch):
    """The Protocol of a backend whose model is the function that is timed."""
    backend = Backend(lambda model, *_: model, "cpu", ("numpy",), ("float32",))
    monkeypatch.setitem(BACKENDS, "scripted", backend)
    return Protocol(backend="scripted", num_runs=5, kth_fastest=2)


@hypothesis.given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=60), st.data())
def test_the_value_is_the_kth_fastest(raw_ms, data):
    k = data.draw(st.integers(1, len(raw_ms)))
    value = taken(raw_ms, kth_fastest=k).measured_ms
    assert sum(ms < value for ms in raw_ms) < k <= sum(ms <= value for ms in raw_ms)


def test_the_spread_is_the_distance_of_the_quartiles():
    measurement = taken([5.0, 1.0, 3.0, 2.0, 4.0])  # quartiles 2 and 4, median 3
    assert measurement.median_ms == 3.0
    assert measurement.spread_pct == pytest.approx(100 * (4 - 2) / 3)
    assert taken([7.0]).spread_pct == 0.0


@pytest.mark.parametrize("wide_ms", [10.0 * (1 + SPREAD_WARNING_PCT / 100) ** 2, 100.0])
def test_a_wide_spread_is_warned_of(wide_ms):
    assert taken([10.0] * 20).warning is None
    warning = taken([10.0, wide_ms] * 10).warning
    assert f"{taken([10.0, wide_ms] * 10).spread_pct:.1f} %" in warning and "0.2" in warning  # the load


def test_a_measurement_is_a_record_of_all_that_was_taken():
    protocol = Protocol(backend="onnxruntime-cpu", num_runs=7, kth_fastest=2)
    exported = export_candidate(SMALL, square(16, 8), protocol)
    counted = []
    measurement = measure(exported.onnx_bytes, protocol, progress=lambda done, total: counted.append((done, total)))
    assert len(measurement.raw_ms) == 7 and min(measurement.raw_ms) > 0
    second_of_seven = statistics.quantiles(measurement.raw_ms, n=6, method="inclusive")[0]
    assert measurement.measured_ms == pytest.approx(second_of_seven)
    assert (measurement.protocol, measurement.machine) == (protocol, machine_name())
    assert measurement.versions == versions() and {"python", "torch", "numpy"} < set(measurement.versions)
    assert any(name.startswith("onnxruntime") for name in measurement.versions)
    assert counted == [(done, 7) for done in range(1, 8)]
    assert Measurement.parse(json.loads(measurement.model_dump_json()), "a file") == measurement


def test_the_clock_is_around_finished_work(scripted):
    measurement = measure(lambda: time.sleep(0.02), scripted)
    assert min(measurement.raw_ms) >= 20 and measurement.measured_ms < 40  # a sleep may last longer, never shorter


def test_what_is_done_between_runs_is_not_timed(scripted):
    order = []
    measurement = measure(
        lambda: order.append("run"),
        scripted,
        between_runs=lambda: (order.append("between"), time.sleep(0.02)),
        progress=lambda done, total: time.sleep(0.02),
    )
    assert order == ["between", "run"] * 5
    assert measurement.measured_ms < 5  # a call that appends takes microseconds


def test_warm_up_runs_are_not_recorded(scripted):
    runs = []
    protocol = scripted.model_copy(update={"warmup_runs": 3})
    measurement = measure(lambda: runs.append(time.sleep(0.02 if len(runs) < 3 else 0)), protocol)
    assert len(runs) == 3 + 5 and len(measurement.raw_ms) == 5
    assert measurement.measured_ms < 10


def test_the_garbage_collector_is_back_even_after_a_failure(scripted):
    def fail():
        assert not gc.isenabled()
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="the device is gone"):
        measure(fail, scripted)
    assert gc.isenabled()


@pytest.mark.parametrize(
    "spreads, taken_from, num_taken",
    [((0,), 0, 1), ((30, 0), 1, 2), ((30, 20, 40), 1, 3), ((20, 30, 40), 0, 3), ((30, 0, 0), 1, 2)],
)
def test_the_calmest_of_several_attempts_counts(monkeypatch, spreads, taken_from, num_taken):
    attempts = [taken([10.0 - spread / 20, 10.0, 10.0 + spread / 20]) for spread in spreads]
    waiting = iter(attempts)
    # Noise cannot be ordered from a machine: the measurements are given, the choice among them is real.
    monkeypatch.setattr(protocols, "measure", lambda model, protocol, **_: next(waiting))
    assert measure_calmly("model", attempts[0].protocol, attempts=3) is attempts[taken_from]
    assert len(attempts) - len(list(waiting)) == num_taken


@pytest.mark.parametrize(
    "times_ms, taken_from, num_taken",
    [((10.0,), 0, 1), ((12.4,), 0, 1), ((26.0, 10.0), 1, 2), ((26.0, 21.0, 24.0), 1, 3), ((26.0, 30.0, 10.0), 2, 3)],
)
def test_what_took_far_longer_than_predicted_is_measured_again(monkeypatch, times_ms, taken_from, num_taken):
    """A core shared with another program slows all runs alike, and the spread says nothing."""
    attempts = [taken([ms, ms, ms]) for ms in times_ms]
    waiting = iter(attempts)
    monkeypatch.setattr(protocols, "measure", lambda model, protocol, **_: next(waiting))
    assert measure_calmly("model", attempts[0].protocol, expected_ms=10.0) is attempts[taken_from]
    assert len(attempts) - len(list(waiting)) == num_taken


@pytest.mark.parametrize(
    "times_ms, runs, fastest, num_taken",
    [((1.0, 0.4, 0.5, 0.3, 0.6, 0.2, 9.0), 10, 5, 6), ((50.0, 9.0), 10, 0, 1), ((9.0, 8.0, 6.0, 1.0), 10, 2, 3)],
    ids=["six at most", "long enough", "until 200 ms"],
)
def test_runs_that_are_over_in_a_moment_are_taken_again(monkeypatch, times_ms, runs, fastest, num_taken):
    """Ten runs of a millisecond fall into one burst of other work, and no spread tells."""
    monkeypatch.setattr(protocols, "SHORT_MS", 200.0)
    attempts = [taken([ms] * runs) for ms in times_ms]
    waiting = iter(attempts)
    monkeypatch.setattr(protocols, "measure", lambda model, protocol, **_: next(waiting))
    assert measure_calmly("model", attempts[0].protocol) is attempts[fastest]
    assert len(attempts) - len(list(waiting)) == num_taken


@pytest.mark.parametrize("budget_ms, num_taken", [(10.0, 1), (8.5, 2)])
def test_noise_is_waited_out_where_it_may_have_decided(monkeypatch, budget_ms, num_taken):
    """Other work only adds time: what kept a budget beside it keeps it without it."""
    attempts = [taken([9.0, 10.0, 11.0]), taken([8.0, 8.0, 8.0])]
    waiting = iter(attempts)
    monkeypatch.setattr(protocols, "measure", lambda model, protocol, **_: next(waiting))
    protocol = attempts[0].protocol
    measurement = measure_calmly("model", protocol, decided=lambda given: given.measured_ms <= budget_ms)
    assert measurement is attempts[num_taken - 1] and len(attempts) - len(list(waiting)) == num_taken


@pytest.mark.parametrize(
    "times_ms, measured_ms, num_taken",
    [((10.4,), 10.4, 1), ((11.0, 10.1), 10.1, 2), ((11.0, 10.9, 11.1), 10.9, 3), ((11.0, 10.2, 9.0), 10.2, 2)],
)
def test_a_few_runs_that_are_a_little_slower_than_predicted_are_taken_again(
    monkeypatch, times_ms, measured_ms, num_taken
):
    """A finalist is not out, and the table not corrected, by seconds in which another program ran."""
    few = [taken([ms] * 6).model_copy(update={"protocol": Protocol(backend="a", num_runs=6)}) for ms in times_ms]
    waiting = iter(few)
    monkeypatch.setattr(protocols, "measure", lambda model, protocol, **_: next(waiting))
    measurement = measure_calmly("model", Protocol(backend="a"), expected_ms=10.0, enough=lambda few: True)
    assert measurement.measured_ms == measured_ms and len(few) - len(list(waiting)) == num_taken


@pytest.mark.parametrize("is_enough", [True, False])
def test_a_few_runs_are_taken_where_they_say_enough(scripted, is_enough):
    """The first six are shown as a Measurement of six; a rule of no more than six runs is never cut short."""
    runs, shown = [], []

    def enough(few):
        shown.append(few)
        return is_enough

    protocol = scripted.model_copy(update={"num_runs": 20, "kth_fastest": 4})
    measurement = measure_calmly(lambda: runs.append(1), protocol, enough=enough, attempts=1)
    (few,) = shown
    assert len(few.raw_ms) == FEW_RUNS and few.protocol == protocol.with_runs(FEW_RUNS)
    assert few.protocol.kth_fastest == 2  # the same quantile: a fifth
    assert len(runs) == len(measurement.raw_ms) == (FEW_RUNS if is_enough else 20)
    assert measurement.protocol == (few.protocol if is_enough else protocol)
    short = scripted.model_copy(update={"num_runs": FEW_RUNS})
    assert len(measure(lambda: None, short, enough=enough).raw_ms) == FEW_RUNS and len(shown) == 1


def test_a_few_noisy_runs_are_not_taken_again(monkeypatch):
    """What is far from a budget is far from it whatever the spread."""
    noisy = taken([1.0] * 3 + [9.0] * 3).model_copy(update={"protocol": Protocol(backend="a", num_runs=6)})
    assert noisy.warning is not None
    waiting = iter([noisy])
    monkeypatch.setattr(protocols, "measure", lambda model, protocol, **_: next(waiting))
    assert measure_calmly("model", Protocol(backend="a"), enough=lambda few: True) is noisy
