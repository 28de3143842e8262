import json
import types

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import yaml

from zennas.export.onnx_file import Proof
from zennas.provenance import provenance
from zennas.records import UserError
from zennas.search import winners as of_winners
from zennas.search.scored import Rows
from zennas.search.winners import (
    Exported,
    correction,
    diverse_best,
    export_all,
    is_far,
    keep_export,
    kept_export,
    measure_finalist,
    measure_whole,
    metadata,
    prediction_error,
    write_winners,
)
from zennas.space.candidate import Candidate, read_candidates
from zennas.space.space import distance
from zennas.track import load_track

milliseconds = st.floats(0.1, 1000)


@hypothesis.given(milliseconds, milliseconds, st.floats(0.5, 2.0), st.integers(1, 5))
def test_an_error_that_all_share_is_corrected_to_the_last_digit(ms, budget_ms, factor, num):
    timed = [(ms * (1 + index), ms * (1 + index) / factor) for index in range(num)]
    assert correction(timed, budget_ms) == pytest.approx(factor, abs=1e-4)  # it is rounded to four digits


def test_without_a_measurement_nothing_is_corrected():
    assert correction([], 10.0) == 1.0


def test_networks_near_the_budget_count_most():
    near, far = (10.0, 10.0), (20.0, 10.0)
    assert correction([near, far], 10.0) == pytest.approx(2 ** (1 / 9), abs=1e-4)  # weights 1 and exp(-3 log 2) = 1/8
    assert correction([near, far], 20.0) == pytest.approx(2 ** (8 / 9), abs=1e-4)


@hypothesis.given(st.lists(st.tuples(milliseconds, st.floats(0.5, 2)), min_size=1, max_size=6), milliseconds)
def test_a_correction_lies_among_the_errors(pairs, budget_ms):
    factor = correction([(ms * error, ms) for ms, error in pairs], budget_ms)
    errors = [error for _, error in pairs]
    assert min(errors) - 1e-4 <= factor <= max(errors) + 1e-4


@pytest.fixture
def rows(space, make_row):
    rng = np.random.default_rng(0)
    return [make_row(space.sample(rng), score=float(index % 17)) for index in range(60)]


def table(rows):
    made = Rows()
    made.extend(rows)
    return made


@pytest.mark.parametrize("min_distance", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("num", [1, 6])
def test_the_best_that_differ_enough(rows, num, min_distance):
    taken = [rows[3].candidate, rows[30].candidate]
    chosen = diverse_best(table(rows), taken, num=num, min_distance=min_distance)
    allowed = [row for row in rows if min(distance(row.candidate, one) for one in taken) >= min_distance]
    left_out = [row.score for row in allowed if row not in chosen]
    assert len(chosen) == min(num, len(allowed)) and all(row in allowed for row in chosen)
    assert [row.score for row in chosen] == sorted((row.score for row in chosen), reverse=True)
    assert min(row.score for row in chosen) >= max(left_out)
    assert diverse_best(table(rows[::-1]), taken, num=num, min_distance=min_distance) == chosen


def test_nothing_differs_enough_from_everything(rows):
    assert diverse_best(table(rows), [rows[0].candidate], num=3, min_distance=10.0) == []


def test_the_prediction_error_is_that_of_the_corrected_prediction(space, make_entry):
    def timed(measured_ms, predicted_ms):
        entry = make_entry(space.cheapest(), ms=measured_ms)
        return entry.changed(latency=entry.latency.model_copy(update={"table_ms": 1.0, "predicted_ms": predicted_ms}))

    entries = [timed(100.0, 103.0), timed(50.0, 49.5)]
    assert prediction_error(entries) == {"num": 2, "mean_abs_pct": 2.0, "max_abs_pct": 3.0}
    assert prediction_error([]) == {"num": 0, "mean_abs_pct": None, "max_abs_pct": None}


@pytest.mark.parametrize("stand_in", [None, "stand-in: here another device"])
def test_what_is_written_loads_again_as_candidates(tmp_path, space, make_entry, stand_in):
    rng = np.random.default_rng(0)
    candidates = [space.sample(rng) for _ in range(3)]
    winners = [
        make_entry(candidate, role="winner", name=f"winner-{rank}", stand_in=stand_in)
        for rank, candidate in enumerate(candidates, start=1)
    ]
    write_winners(tmp_path, winners, seed=7)
    assert [candidate for _, candidate in read_candidates(str(tmp_path / "winners.json"))] == candidates
    assert json.loads((tmp_path / "winners.json").read_text()) == [entry.plain() for entry in winners]
    for rank, candidate in enumerate(candidates, start=1):
        path = tmp_path / f"winner-{rank}.yaml"
        assert read_candidates(str(path)) == [(str(path), candidate)]
        assert Candidate(**yaml.safe_load(path.read_text())) == candidate
        assert "block: ir_se" in path.read_text() and f"widths: {list(candidate.widths)}" in path.read_text()
        header = [line for line in path.read_text().splitlines() if line.startswith("#")]
        for word in (
            f"winner-{rank}",
            "zennas 0.",
            "seed 7",
            "not an accuracy",
            "ms of 2.0 ms",
            *([stand_in] if stand_in else []),
        ):
            assert word in "\n".join(header)
    written = ["winner-1.yaml", "winner-2.yaml", "winner-3.yaml", "winners.json"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == written


def test_the_file_of_a_winner_says_its_band_and_how_far_it_is_from_its_optimum(tmp_path, space, make_entry):
    entry = make_entry(space.cheapest(), role="winner", name="winner-1")
    write_winners(tmp_path, [entry], seed=7)
    assert "band" not in (tmp_path / "winner-1.yaml").read_text() and "band" not in entry.plain()
    write_winners(tmp_path, [entry.changed(band="wide", gap=1.5, gap_pct=0.25)], seed=7)
    text = (tmp_path / "winner-1.yaml").read_text()
    assert "# the best of band wide, 1.50 (0.25 %) below the proven optimum of the band\n" in text
    assert json.loads((tmp_path / "winners.json").read_text())[0]["band"] == "wide"
    write_winners(tmp_path, [entry.changed(band="wide")], seed=7)  # whose optimum is not proven
    assert "# the best of band wide\n" in (tmp_path / "winner-1.yaml").read_text()


def test_no_winner_is_an_empty_list(tmp_path):
    write_winners(tmp_path, [], seed=0)
    assert json.loads((tmp_path / "winners.json").read_text()) == []


def test_a_file_says_that_it_is_not_trained(space):
    told = metadata(space.cheapest(), {"zennas": "0.1.0", "seed": 0})
    assert told["trained"] == "no" and told["candidate"] == space.cheapest().text
    assert json.loads(told["zennas"])["seed"] == 0


@pytest.mark.parametrize(
    ("measured_ms", "expected_ms", "is_known"),
    [
        # A baseline: nothing is expected of it, and where it stands is all that it shows.
        (5.0, None, True),
        (20.0, None, True),
        (8.8, None, False),
        (11.4, None, False),
        (11.6, None, True),
        # A finalist is out where it is clearly over, and never in by a few runs.
        (5.0, 9.9, False),
        (10.5, 9.9, False),
        (11.0, 9.9, True),
        (20.0, 9.9, False),  # twice what was predicted: the machine may have been busy
    ],
)
def test_a_few_runs_say_enough_of_what_is_far_from_the_budget(measured_ms, expected_ms, is_known):
    few = types.SimpleNamespace(measured_ms=measured_ms)
    assert is_far(few, budget_ms=10.0, expected_ms=expected_ms) == is_known


def test_the_task_of_the_experiment_judges_the_file_of_a_finalist(space, tmp_path, monkeypatch):
    """What only the challenge of faces asks is nothing to another task."""
    asked = []

    def task_of(name):
        def problems(track, onnx_bytes):
            asked.append((name, track, onnx_bytes))
            return ["it has no wheels"]

        return types.SimpleNamespace(problems=problems)

    monkeypatch.setattr(of_winners, "task_of", task_of)
    exported = types.SimpleNamespace(onnx_bytes=b"a network", proof=None, megabytes=1.0)
    monkeypatch.setattr(of_winners, "export_candidate", lambda *_, **__: exported)
    workers = types.SimpleNamespace(at_once=lambda function, calls: [function(*call) for call in calls])
    prepared = types.SimpleNamespace(
        space=space,
        track="a track",
        experiment=types.SimpleNamespace(task="vehicle"),
        protocol=types.SimpleNamespace(precision="fp32"),
        ledger=types.SimpleNamespace(state={"made_by": {}}),
        predictor=types.SimpleNamespace(table_ms=lambda candidate: 1.0),
        workers=workers,
    )
    candidate = space.cheapest()
    made = export_all(prepared, {candidate: tmp_path / "f.onnx"})[candidate]
    assert made.path.read_bytes() == b"a network"
    with pytest.raises(RuntimeError, match="the track's checker would refuse it: it has no wheels"):
        measure_whole(prepared, candidate, role="finalist", name="f", score=(1.0, 0.0), exported=made)
    assert asked == [("vehicle", "a track", b"a network")]


@pytest.mark.parametrize("error", [RuntimeError("no such operator"), UserError("no such device"), KeyboardInterrupt()])
def test_a_finalist_that_is_not_measured_leaves_no_file_and_only_its_own_fault_is_told(space, tmp_path, error):
    """What nobody can go on with is raised."""
    candidate, prepared = space.cheapest(), types.SimpleNamespace(folder=tmp_path)
    path = tmp_path / f"{candidate.key}.onnx"

    def measured(exported):
        path.write_text("a network")
        return measure_finalist(prepared, candidate, score=(1.0, 0.0), exported=exported)

    class Exporting:
        @property
        def problems(self):
            raise error

    prepared.space, prepared.ledger = space, types.SimpleNamespace(state={"made_by": {}})
    prepared.predictor = types.SimpleNamespace(table_ms=lambda candidate: 1.0)
    if isinstance(error, RuntimeError):
        assert measured(Exporting()) is error and measured(error) is error
    else:
        with pytest.raises(type(error)):
            measured(Exporting())
    assert not path.exists()


@pytest.fixture
def prepared(space, monkeypatch, tmp_path):
    track = load_track("webface-sfr")
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    return types.SimpleNamespace(
        space=space,
        track=track,
        protocol=track.protocol,
        experiment=types.SimpleNamespace(task="face"),
        ledger=types.SimpleNamespace(state={"made_by": provenance().model_dump()}),
    )


def test_what_an_export_said_is_kept_until_what_decides_it_changes(prepared, tmp_path):
    candidate, path = prepared.space.cheapest(), tmp_path / "f.onnx"
    assert kept_export(prepared, candidate, path) is None
    exported = Exported(path, Proof(max_abs_difference=1e-6, max_abs_output=2.0, min_cosine=0.5), ("too large",), 7.25)
    keep_export(prepared, candidate, exported)
    assert kept_export(prepared, candidate, path) == exported
    prepared.protocol = prepared.protocol.model_copy(update={"input": "noise"})
    assert kept_export(prepared, candidate, path) is None
    keep_export(prepared, candidate, exported)
    prepared.ledger.state["made_by"]["versions"]["torch"] = "1.0"
    assert kept_export(prepared, candidate, path) is None


def test_where_nothing_can_be_kept_a_search_goes_on(prepared, tmp_path):
    (tmp_path / "cache").write_text("a file, no folder")
    candidate, path = prepared.space.cheapest(), tmp_path / "f.onnx"
    keep_export(prepared, candidate, Exported(path, Proof(max_abs_difference=0.0, max_abs_output=1.0), (), 1.0))
    assert kept_export(prepared, candidate, path) is None
