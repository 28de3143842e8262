"""A run with several latency devices: the finalists are measured on every one that the cluster owns, and keep all
budgets.
"""

import json

import pytest

from tests.search.conftest import write_tiny
from zennas.search.measured import DeviceLatency

FAST, SLOW = 0.5, 1.5  # of a budget of 1 ms


@pytest.mark.parametrize(
    ("ms", "ms_of", "over"),
    [
        (FAST, {}, None),
        (FAST, {"phone": FAST}, None),
        (FAST, {"phone": SLOW}, "over budget of phone by 50.0 %"),
        (SLOW, {"phone": FAST}, "over budget by 50.0 %"),
        (SLOW, {"phone": SLOW}, "over budget by 50.0 %, over budget of phone by 50.0 %"),
    ],
)
def test_a_network_keeps_the_budget_of_every_device(space, make_entry, ms, ms_of, over):
    def on_device(ms):
        values = make_entry(space.cheapest(), ms=ms, budget_ms=1.0).latency.model_dump()
        return DeviceLatency(**{name: values[name] for name in DeviceLatency.model_fields})

    by_device = {name: on_device(ms) for name, ms in ms_of.items()}
    entry = make_entry(space.cheapest(), ms=ms, budget_ms=1.0, by_device=by_device)
    assert entry.keeps_budgets == (over is None) and entry.over == over


@pytest.mark.slow
def test_finalists_are_measured_on_every_device_of_the_cluster(start, cluster, tmp_path, finished):
    out = tmp_path / "run"
    tags = '{"latency_device": 1, "latency_device:phone": 1}'
    cluster.head("--num-cpus", 2, "--resources", tags)
    arguments = ["--track", write_tiny(tmp_path / "tiny"), "--out", out, "--candidates", 60, "--budget-ms", 1000]
    ended = start("search", *arguments, "--also", "phone=900", "--address", cluster.address).end(240)
    assert ended.code == 0 and "Traceback" not in ended.said, ended.said
    assert "at most 900 ms on phone, measured there" in ended.said and " on phone: " in ended.said
    events = json.loads((out / "run.json").read_text())["events"]
    factor = [event["factors"]["phone"] for event in events if "factors" in event][-1]
    for winner in json.loads((out / "winners.json").read_text()):
        there = winner["elsewhere"]["phone"]
        assert there["within_budget"] and 0 < there["measured_ms"] < 900 and len(there["raw_ms"]) == 10
        cost = winner["other_costs"]["ms on phone"]["cost"]  # by the table as it is corrected in the end
        assert cost == pytest.approx(there["table_ms"] * factor, rel=1e-3)
    assert "ms on phone, measured there" in (out / "report.html").read_text()
