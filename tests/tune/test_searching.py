"""Whole searches through Ray Tune: what they leave behind, trials that fail, kill -9, Ctrl-C."""

import json
import os
import signal

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.pages import figure, numbers
from tests.train.conftest import ran, untrained, words_of
from zennas.train.options import Options
from zennas.train.request import check
from zennas.tune.__main__ import main

pytestmark = pytest.mark.slow


def entries_of(out):
    """{trial's folder: the epochs it wrote down}"""
    paths = sorted((out / "trials").glob("*/metrics.jsonl"))
    lines = {path.parent.name: map(json.loads, path.read_text().splitlines()) for path in paths}
    return {name: [one["epoch"] for one in entries if one["kind"] == "reward"] for name, entries in lines.items()}


def test_a_search_of_everything(asked, material, tmp_path):
    """Cleaning by a network, margin and shape; the best confirmed; and what is told is what a training takes."""
    words = ["--only", "cleaning", "--embeddings-from", untrained(material, tmp_path / "model"), "--json"]
    ended = asked(*words)
    assert ended.code == 0, ended.said
    out, summary = tmp_path / "run", json.loads(ended.stdout)
    rows = pd.read_csv(out / "trials.csv")
    assert list(rows["trial"]) == [0, 1, 2, 3] and rows["state"][0] == "finished"
    assert set(rows["state"]) <= {"finished", "stopped early"}
    assert rows.loc[0, ["tau_intra", "m1", "shape"]].isna().all() and rows["epochs"][0] == 3
    searched = rows[rows["trial"] > 0]
    assert searched["tau_intra"].between(0, 0.5).all() and searched["s_p"].between(16, 64).all()
    assert (searched["tau_inter"] == 0.99).all()  # a number in the plan is not searched
    finished = rows[rows["state"] == "finished"]
    assert summary["best"]["reward"] == pytest.approx(finished["reward"].max()) and summary["trials"] == 4
    assert {row["seed"] for rows in summary["confirmed"]["rows"].values() for row in rows} == {1}
    assert all(row["test"] is not None for row in summary["confirmed"]["rows"]["recipe"])
    assert json.loads((out / "run.json").read_text())["summary"] == summary
    traces, _ = figure((out / "report.html").read_text(), "course")
    marks = [one for one in traces if one["mode"] == "markers"]
    shown = [pair for one in marks for pair in zip(numbers(one["x"]), numbers(one["y"]), strict=True)]
    assert np.allclose(sorted(shown), rows[["trial", "reward"]] * [1, 100])
    assert not list((out / "trials").glob("*/checkpoints"))
    best = yaml.safe_load((out / "best.yaml").read_text())
    labels = out / "best-labels.npz" if "labels" in best else None
    asked_for = Options(
        track=material.experiment, data=material.faces, winner=out / "best.yaml", set=best["set"], labels=labels
    )
    assert check(asked_for).candidate.plain() == summary["best"]["candidate"]
    again = asked(*words)
    assert json.loads(again.stdout) == summary and "this search is done" in again.stderr
    other = asked(*words, "--epochs", "2")
    assert other.code == 2 and "holds a run with other settings" in other.stderr


def test_a_trial_that_fails_is_one_and_the_others_go_on(material, tmp_path):
    """Next to no image is as like its centre as 0.999: nobody is left to train on, but in the recipe."""
    values = yaml.safe_load(material.experiment.read_text())
    values["tune"] |= {"cleaning": {"tau_inter": None, "tau_intra": {"low": 0.999, "high": 0.9999999}}, "margin": None}
    values["tune"] |= {"backbone": None, "trials": 3, "confirm_seeds": 0}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    words = [*words_of(material, track=tmp_path / "experiment.yaml"), "--workers", 2]
    words += ["--embeddings-from", untrained(material, tmp_path / "model", bias=1.0), "--out", tmp_path / "run"]
    ended = ran(*words, command=main)
    rows = pd.read_csv(tmp_path / "run" / "trials.csv")
    assert ended.code == 0 and list(rows["state"]) == ["finished", "failed", "failed"], ended.said
    error = rows["error"][1]
    assert (
        error.startswith("UserError: ") and f"trial 1 failed: {error}" in ended.said and "Traceback" not in ended.said
    )
    assert error in (tmp_path / "run" / "report.html").read_text()


def test_a_killed_search_goes_on_and_runs_nothing_twice(start, arguments, asked, tmp_path):
    words = arguments("--trials", "5", "--epochs", "6")
    child = start(*words)
    out = tmp_path / "run"
    child.until(lambda: sum("trial" in line and "reward" in line for line in child.log.read_text().splitlines()) >= 2)
    child.signal(signal.SIGKILL)
    assert child.end() == -signal.SIGKILL
    ended_before = {
        path.parent.name: path.parent.joinpath("metrics.jsonl").read_bytes() for path in out.glob("trials/*/ended")
    }
    assert ended_before and not (out / "trials.csv").exists()
    ended = asked("--trials", "5", "--epochs", "6", "--resume")
    assert ended.code == 0, ended.said
    rows = pd.read_csv(out / "trials.csv")
    assert list(rows["trial"]) == list(range(5)) and rows["reward"].notna().all()
    for name, before in ended_before.items():
        assert (out / "trials" / name / "metrics.jsonl").read_bytes() == before, name
    for name, epochs in entries_of(out).items():
        assert epochs == list(range(1, len(epochs) + 1)), name
    assert np.isclose(rows["reward"][0], json.loads((out / "run.json").read_text())["summary"]["recipe"]["reward"])


def test_ctrl_c_ends_it_with_130(start, arguments, tmp_path):
    child = start(*arguments("--trials", "30", "--epochs", "8"))
    child.until(lambda: "trial 0" in child.log.read_text())
    os.kill(child.process.pid, signal.SIGINT)
    assert child.end(30) == 130
    said = child.log.read_text()
    assert "stopped; finished trials are kept in" in said and "Traceback" not in said
