import json
import math
import statistics

import pytest
import scipy.stats

from tests.pages import figure, numbers
from tests.shapes import FACE, square
from zennas.latency import predicted
from zennas.latency.budget import keep_network, kept_networks, measure_network
from zennas.latency.predicted import measure_some, page, predict_kept, sentence
from zennas.latency.protocol import Measurement
from zennas.latency.table import LatencyTable
from zennas.provenance import machine_name, versions
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.track import Protocol, load_experiment

CPU = Protocol(backend="onnxruntime-cpu", num_runs=5, kth_fastest=2)
SIZES = {"shape": square(32, 64)}


@pytest.fixture
def space(tiny):
    return load_experiment(str(tiny))[2]


@pytest.fixture
def latency_table(space):
    """A table of the space on a machine where a million multiply-accumulates take a millisecond."""
    bare = LatencyTable(CPU, rows={})
    return LatencyTable(CPU, rows={part: part.macs * 1e-6 for part in bare.missing_for(space)})


def taken(*raw_ms, **changes):
    record = {
        "machine": machine_name(),
        "date": "2026-01-02T03:04:05+00:00",
        "versions": versions(),
        "load_average": 0.5,
    }
    return Measurement(raw_ms=raw_ms, **({"protocol": CPU} | record | changes))


def candidate(width, depth, block="ir_se"):
    return Candidate(block=block, stem=16, widths=(16, width), depths=(1, depth))


@pytest.fixture
def kept(cache, latency_table):
    """{candidate: measured ms}: four networks that took a little more or less than predicted."""
    found = {}
    for one, factor in (
        (candidate(64, 4), 1.1),
        (candidate(16, 1), 0.9),
        (candidate(32, 2), 1.25),
        (candidate(48, 3), 1.0),
    ):
        ms = latency_table.predict(one, **SIZES) * factor
        keep_network(one, taken(ms * 3, ms, ms * 0.99, ms * 1.01, ms * 1.02), **SIZES)
        found[one] = ms
    return found


def test_the_error_is_that_of_every_network(kept, space, latency_table):
    found = predict_kept(space, latency_table, CPU, title="a title")
    assert [network.candidate for network in found.networks] == [one.text for one in sorted(kept, key=kept.get)]
    off = {one: 100 * (latency_table.predict(one, **SIZES) / ms - 1) for one, ms in kept.items()}
    # 0.99, 1, 1.01, 1.02 and 3 times: the second fastest is the one that counts.
    assert {network.candidate: network.measured_ms for network in found.networks} == pytest.approx(
        {one.text: ms for one, ms in kept.items()}
    )
    rounding = 1e-2  # predicted to 0.1 us, errors to a thousandth of a per cent
    assert {network.candidate: network.off_pct for network in found.networks} == pytest.approx(
        {one.text: value for one, value in off.items()}, abs=rounding
    )
    assert found.mean_abs_pct == pytest.approx(statistics.fmean(map(abs, off.values())), abs=rounding)
    assert found.max_abs_pct == pytest.approx(20.0, abs=rounding)  # 1 / 1.25
    assert found.bias_pct == pytest.approx(statistics.fmean(off.values()), abs=rounding)
    factor = (1.1 * 0.9 * 1.25 * 1.0) ** (1 / 4)
    scaled = [100 * abs(factor / one - 1) for one in (1.1, 0.9, 1.25, 1.0)]
    assert found.scaled_mean_abs_pct == pytest.approx(statistics.fmean(scaled), abs=rounding)
    macs = [cost(one, **SIZES).macs for one in kept]
    factor = math.exp(statistics.fmean(math.log(ms / mac) for ms, mac in zip(kept.values(), macs, strict=True)))
    alone = [100 * abs(mac * factor / ms - 1) for ms, mac in zip(kept.values(), macs, strict=True)]
    assert found.macs_mean_abs_pct == pytest.approx(statistics.fmean(alone), abs=rounding)
    ranks = scipy.stats.kendalltau([latency_table.predict(one, **SIZES) for one in kept], list(kept.values())).statistic
    assert found.tau == pytest.approx(ranks)
    assert f"{found.mean_abs_pct:.2f} %" in sentence(found) and "over 4 whole networks" in sentence(found)


def test_only_networks_of_this_machine_rule_version_and_size_count(kept, space, latency_table):
    keep_network(candidate(16, 5), taken(1.0, machine="another"), **SIZES)
    keep_network(
        candidate(16, 5), taken(1.0, versions=versions() | {"onnxruntime": "1", "onnxruntime-gpu": "1"}), **SIZES
    )
    keep_network(candidate(24, 5), taken(1.0, protocol=CPU.with_runs(9)), **SIZES)
    keep_network(candidate(16, 5), taken(1.0), FACE)
    assert {one for one, _ in kept_networks(CPU, **SIZES)} == set(kept)
    assert [one for one, _ in kept_networks(CPU, FACE)] == [candidate(16, 5)]


def test_networks_that_the_table_knows_nothing_of_are_counted(kept, space, latency_table):
    keep_network(candidate(16, 2, block="ir_cbam"), taken(1.0, 1.0, 1.0, 1.0, 1.0), **SIZES)
    found = predict_kept(space, latency_table, CPU, title="a title")
    assert found.num_unpredicted == 1 and len(found.networks) == 4
    assert "1 kept network(s) of other blocks are left out" in page(found)


def test_without_any_network_the_way_to_some_is_told(cache, space, latency_table):
    with pytest.raises(UserError, match=r"measure some with --predicted --measure 20"):
        predict_kept(space, latency_table, CPU, title="a title")


def test_a_kept_file_that_is_broken_is_the_user_s_error(kept, cache):
    (path,) = cache.rglob("*-networks.json")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="not valid JSON; delete the file"):
        kept_networks(CPU, **SIZES)


# --- measuring some


@pytest.fixture
def measured(monkeypatch):
    """The candidates that were measured, in order; the measuring is real."""
    asked = []

    def measure(one, protocol, shape):
        asked.append(one)
        return measure_network(one, protocol, shape)

    monkeypatch.setattr(predicted, "measure_network", measure)
    return asked


def test_a_stopped_command_goes_on_where_it_stopped(cache, space, latency_table, measured):
    def interrupt(done, total):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_some(space, latency_table, CPU, 4, budget_ms=20.0, counting=interrupt)
    counted = []
    measure_some(space, latency_table, CPU, 4, budget_ms=20.0, counting=lambda *state: counted.append(state))
    assert counted == [(done, 4) for done in range(1, 5)]
    assert len(measured) == len(set(measured)) == 4  # each once
    assert {one for one, _ in kept_networks(CPU, **SIZES)} == set(measured)
    for one in measured:
        assert space.contains(one) and 5.0 <= latency_table.predict(one, **SIZES) <= 20.0
    shares = sorted(latency_table.predict(one, **SIZES) / 20.0 for one in measured)
    assert shares[-1] - shares[0] > 0.2  # spread over the budget, not all at its top
    measure_some(space, latency_table, CPU, 5, budget_ms=20.0, counting=lambda *state: None)
    assert len(measured) == 5
    assert len(predict_kept(space, latency_table, CPU, title="a title").networks) == 5


def test_a_budget_below_all_baselines_reaches_up_to_them(cache, space, latency_table, measured):
    measure_some(space, latency_table, CPU, 3, budget_ms=1e-3, counting=lambda *state: None)
    highest = max(latency_table.predict(baseline, **SIZES) for baseline in space.baselines.values())
    assert all(latency_table.predict(one, **SIZES) <= highest for one in measured) and len(measured) == 3


def test_a_budget_that_nothing_fits_is_the_user_s_error(cache, space, latency_table, measured):
    bare = space.model_copy(update={"baselines": {}})
    with pytest.raises(UserError, match=r"--measure 3: in space tiny, 0 candidates .* take between 0\.00 and 0\.01 ms"):
        measure_some(bare, latency_table, CPU, 3, budget_ms=0.01, counting=None)
    assert measured == []


# --- the page


def test_the_page_shows_every_network_where_it_is(kept, space, latency_table):
    found = predict_kept(space, latency_table, CPU, title="tiny <on> a-machine", stand_in="a stand-in")
    text = page(found)
    assert "tiny &lt;on&gt; a-machine" in text and "default-src 'none'" in text and "a stand-in" in text
    for one in found.networks:
        assert f"<td class='text'>{one.candidate}</td>" in text and f"<td>{one.off_pct:+.2f}</td>" in text
    traces, _ = figure(text, "prediction")
    dots = [trace for trace in traces if trace["mode"] == "markers"]
    assert len(dots) == 2
    for trace, values in zip(
        dots,
        ([network.measured_ms for network in found.networks], [network.off_pct for network in found.networks]),
        strict=True,
    ):
        assert numbers(trace["x"]).tolist() == [network.predicted_ms for network in found.networks]
        assert numbers(trace["y"]) == pytest.approx(values)
    bars = [trace for trace in traces if trace.get("opacity")]
    assert len(bars) == 2 * len(found.networks)
    assert json.dumps(found.model_dump(mode="json"))


def test_noise_is_told_at_the_top(cache, space, latency_table):
    keep_network(candidate(16, 1), taken(1.0, 2.0, 3.0, 4.0, 5.0), **SIZES)
    text = page(predict_kept(space, latency_table, CPU, title="a title"))
    assert "1 of 1 measurements spread too widely" in text[: text.index("<section>")]
