"""A task that shares nothing with the first is searched from end to end: the search knows no task."""

import io
import json

import numpy as np
import pandas as pd
import pytest
import yaml
from plotly.offline import get_plotlyjs
from rich.console import Console

from tests.pages import figure, numbers
from tests.tasks.test_task_free import options, with_the_toy  # noqa: F401
from zennas.records import UserError
from zennas.space.cost import cost
from zennas.train.journal import read_metrics
from zennas.trials.trial import curve, read_json
from zennas.tune.options import Options
from zennas.tune.request import check, tune_plan
from zennas.tune.run import run, to_confirm
from zennas.tune.show import show
from zennas.tune.trial import Setting, run_trial

TUNE = {
    "trials": 4,
    "epochs": 3,
    "confirm_seeds": 1,
    "loss": {"beta": {"low": 0.1, "high": 1.0}},
    "backbone": {"macs_tolerance_pct": 30},
}


@pytest.fixture
def asked(options, tmp_path):  # noqa: F811
    """asked(**options) -> the Options of a search of toys."""
    data, path, winner = options().data, tmp_path / "experiment.yaml", tmp_path / "searched.yaml"
    winner.write_text("{block: ir_se, stem: 16, widths: [16, 32], depths: [1, 2]}\n")
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"tune": TUNE}))

    def made(**given):
        values = {"track": str(path), "data": data, "winner": winner, "out": tmp_path / "tuned"}
        return Options.of(**values, workers=1, threads=1, **given)

    return made


@pytest.fixture
def setting(asked):
    request = check(asked())
    tuning, candidate = Setting(request, None, (), None).tuning, request.candidate
    source = tuning.open_source(request, None)
    return Setting(request, tuning.split(request, source), (candidate,), None)


def test_it_is_asked_for_its_own_factors(asked):
    track = asked().track
    assert tune_plan(track, only=["loss"]).backbone is None and tune_plan(track, only=["backbone"]).loss is None
    with pytest.raises(UserError, match=r"--only margin: allowed: loss, backbone$"):
        check(asked(only=("margin",)))
    with pytest.raises(UserError, match=r"--held-out .*: is not for pictures"):
        check(asked(held_out=asked().winner))
    settings = check(asked()).settings({"data": "1"})
    assert settings["task"] == "toy" and settings["data"] == "1" and settings["tune"]["loss"]["beta"]["high"] == 1.0


def test_a_trial_is_a_training_that_it_judges(setting):
    told, proposal = [], setting.proposal({"beta": 0.5})
    run_trial(setting, proposal, seed=0, report=lambda *given: told.append(given), with_test=True)
    folder = setting.folder(proposal, 0)
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert all(set(given) == {"reward", "off"} and given["reward"] == -given["off"] for _, given in told)
    assert [entry["off"] for entry in curve(folder)] == [given["off"] for _, given in told]
    facts = read_json(folder / "trial.json")
    assert (facts["num_pictures"], facts["num_kept_back"]) == (48, 48)
    assert facts["macs"] == cost(setting.request.candidate, setting.request.space.shape).macs
    assert read_json(folder / "test.json").keys() == {"reward", "off"}
    losses = [entry for entry in read_metrics(folder) if entry["kind"] == "train"]
    assert len(losses) == 3 * 48 // 16


def test_each_of_its_factors_is_confirmed_alone(setting):
    best = setting.proposal({"beta": 0.5, "shape": 0})
    rows = to_confirm(best, setting.request.tune)
    assert list(rows) == ["recipe", "best", "loss", "backbone"] and rows["loss"].plain == {"beta": 0.5}


@pytest.mark.slow
def test_it_is_searched_to_its_end(asked):
    options = asked()  # noqa: F811
    tuned = run(options)
    out, summary = options.out, tuned.summary
    rows = pd.read_csv(out / "trials.csv")
    assert list(rows["trial"]) == [0, 1, 2, 3] and rows["state"][0] == "finished"
    assert np.allclose(rows["reward"], -rows["off"]) and rows["beta"][1:].between(0.1, 1).all()
    assert np.isnan(rows["beta"][0]) and (rows["num_pictures"] == 48).all()
    finished = rows[rows["state"] == "finished"]
    assert tuned.best["reward"] == pytest.approx(finished["reward"].max()) and summary["reward"] == "minus the error"
    assert summary["held_out"] == summary["test"] == 24 and "few_pairs" not in summary
    assert all(row["test"] < 0 for row in summary["confirmed"]["rows"]["recipe"])
    assert json.loads((out / "run.json").read_text())["settings"]["task"] == "toy"
    page = (out / "report.html").read_text()
    traces, layout = figure(page, "course")
    marks = [trace for trace in traces if trace["mode"] == "markers"]
    drawn = [pair for trace in marks for pair in zip(numbers(trace["x"]), numbers(trace["y"]), strict=True)]
    assert np.allclose(sorted(drawn), rows[["trial", "reward"]]) and layout["yaxis"]["title"]["text"] == "Reward"
    words = page.replace(get_plotlyjs(), "")
    for text in (
        "The reward is minus the error, on 24 pictures.",
        "It is a toy.",
        "<th>Off by</th>",
        "beta of the loss",
    ):
        assert text in words, text
    assert "per cent" not in words and "people" not in words and "TPR" not in words
    best = yaml.safe_load((out / "best.yaml").read_text())
    assert set(best) == {"candidate", "set"} and "the rest is for --set:" in (out / "best.yaml").read_text()
    console = Console(file=io.StringIO(), width=200)
    assert show(tuned, options, console) == 0
    told = console.file.getvalue()
    assert "Off by" in told and "pictures" in told and "--labels" not in told and "zennas.train" in told
    assert run(options).summary == summary  # done: nothing is searched again
