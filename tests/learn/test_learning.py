"""Whole runs with the real Ray, ONNX Runtime and trainings: learned, killed and gone on with, searched by, crowned."""

import json
import math
import signal

import pandas as pd
import pytest

from tests.train.conftest import ran
from zennas.run.__main__ import main as run_main
from zennas.score.learned import load_learned
from zennas.search.__main__ import main as search_main
from zennas.space.candidate import Candidate

pytestmark = pytest.mark.slow


def done_in(out):
    """{name of a training that is done: its journal}"""
    folders = [path.parent for path in out.glob("trials/*/ended")]
    return {folder.name: (folder / "metrics.jsonl").read_bytes() for folder in folders}


def test_a_killed_run_goes_on_and_then_a_search_maximises_what_was_learned(start, arguments, asked, material, tmp_path):
    out = tmp_path / "run"
    child = start(*arguments())
    child.until(lambda: len(list(out.glob("trials/*/ended"))) >= 2, timeout_s=240)
    child.signal(signal.SIGKILL)
    assert child.end() == -signal.SIGKILL
    before, measured = done_in(out), (out / "latency" / "measured.jsonl").read_text()
    assert before and not (out / "model.json").exists()
    ended = asked("--resume", "--json")
    assert ended.code in (0, 1), ended.said  # 1: seeds of trainings of seconds may differ as much as candidates
    assert (out / "latency" / "measured.jsonl").read_text() == measured  # nothing is measured twice
    assert before.items() <= done_in(out).items()  # and nothing trained twice
    learned, rows = json.loads(ended.stdout), pd.read_csv(out / "trainings.csv")
    assert len(rows) == 6 and rows["AUC"].between(0, 100).all() and rows["seed 1"].notna().sum() == 1
    assert (rows["ms"].max() / rows["ms"].min()) <= 1.3 / 0.7
    score = load_learned(out)
    assert score.num_trained == 6 and learned["score"]["intercept"] == pytest.approx(score.intercept)
    assert all(score.is_within(Candidate(**row["candidate"])) for row in learned["rows"])
    assert "What a doubling is worth" in (out / "report.html").read_text()
    again = asked("--json")
    assert json.loads(again.stdout) == learned and "this run is done" in again.stderr
    other = asked("--epochs", "2")
    assert other.code == 2 and "holds a run with other settings" in other.stderr

    words = ["--track", material.experiment, "--budget-ms", material.budget_ms, "--candidates", "60"]
    words += ["--out", tmp_path / "found"]
    found = ran(*words, "--score", f"learned:{out}", command=search_main)
    assert found.code == 0, found.said
    winners = json.loads((tmp_path / "found" / "winners.json").read_text())
    for winner in winners:
        candidate = Candidate(**winner["candidate"])
        mean, std = score.of_candidate(candidate)
        assert winner["score_mean"] == pytest.approx(mean, abs=1e-3) and score.is_within(candidate)
        assert winner["score"]["learned"]["num_trained"] == 6 and math.isfinite(std)
    assert "learned AUC" in found.said and "not what was measured" in found.said


def test_the_whole_way_in_one_command(material, tmp_path):
    words = [material.experiment, "--data", material.faces, "--learn", "--trainings", "5"]
    words += ["--budget-ms", material.budget_ms]
    words += ["--candidates", "40", "--set", "epochs=1", "--out", tmp_path / "all", "--json"]
    ended = ran(*words, command=run_main)
    assert ended.code in (0, 1), (
        ended.said
    )  # 1: over the budget with trained weights, on a machine that tests other things
    result = json.loads(ended.stdout)
    crowned = json.loads((tmp_path / "all-trained" / "crowned.json").read_text())
    assert result["crowned"] == crowned and crowned["judged_on"] == "test" and crowned["measure"] == "AUC"
    accepted = [row for row in crowned["finalists"] if row["accepted"]] or crowned["finalists"]
    assert crowned["finalists"][0]["measured"] == max(row["measured"] for row in accepted)
    assert {row["name"] for row in crowned["finalists"]} == {winner["name"] for winner in result["winners"]}
    assert result["trained"]["candidate"] == crowned["finalists"][0]["candidate"]
    assert f"crowned: {crowned['finalists'][0]['name']}" in ended.said
    # Whoever judges is left out of the full trainings, too.
    num_people = result["learned"]["described"]["held_out"]["num_identities"]
    assert result["trained"]["training"]["num_identities"] <= 16 - num_people
