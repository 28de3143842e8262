"""A search of a recipe for people: what it leaves behind, and terms that the recipe does not have."""

import json

import pandas as pd
import pytest
import yaml

from tests.tasks.reid.conftest import write_experiment
from tests.train.conftest import drawn_faces, ran, write_folder
from zennas.tasks.table import tuning_of
from zennas.train.options import Options
from zennas.train.request import check
from zennas.tune.__main__ import main
from zennas.tune.outcome import best_changes

TUNE = {"trials": 3, "epochs": 2, "confirm_seeds": 1, "backbone": {"macs_tolerance_pct": 20}}
GROUPS = {"held_out_share": 0.25, "test_share": 0.25}
# A recipe that hardly learns, so that others are better.
POOR = {
    "batch": 8,
    "softmax": {"vectors": ["wide"], "name": "label_smoothing", "knobs": {"smoothing": 0.95}},
    "triplet": {"name": "batch_hard", "weight": 0.01, "knobs": {"margin": 0.0}},
}


@pytest.fixture
def searched(tmp_path, monkeypatch):
    """searched(*words, **train) -> `zennas tune` of a recipe, changed by `train`, on twelve people, to its end."""
    monkeypatch.chdir(tmp_path)
    write_folder(tmp_path / "people", drawn_faces(12, 8, seed=0))
    (tmp_path / "wide.yaml").write_text("{block: ir_se, stem: 16, widths: [16, 32], depths: [1, 2]}\n")

    def made(*words, **train):
        path = write_experiment(tmp_path, **POOR | train)
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"tune": TUNE | {"reward": GROUPS}}))
        given = ["--track", path, "--winner", "wide.yaml", "--data", "people", "--workers", 2, "--out", "run"]
        return ran(*given, *words, "--device", "cpu", command=main)

    return made


@pytest.mark.slow
def test_a_search_of_a_recipe_for_people(searched, tmp_path):
    ended = searched("--set", "optimizer.lr=0.03", "--set", "softmax.knobs={smoothing: 0.9}", "--seed", 3)
    assert ended.code == 0, ended.said
    rows = pd.read_csv("run/trials.csv")
    assert list(rows["trial"]) == [0, 1, 2] and set(rows["state"]) <= {"finished", "stopped early"}
    assert (rows["reward"] == rows["map"]).all() and rows["rank_1"].between(0, 1).all()
    assert rows.loc[0, ["margin", "triplet_weight", "smoothing", "shape"]].isna().all()
    assert rows["margin"][1:].between(0.1, 2).all() and rows["smoothing"][1:].between(0, 0.3).all()
    summary = json.loads((tmp_path / "run" / "run.json").read_text())["summary"]
    assert summary["best"]["reward"] == rows[rows["state"] == "finished"]["reward"].max()
    assert (summary["held_out"]["num_identities"], summary["test"]["num_identities"]) == (3, 3)
    # What the user changed holds for the best as well, but for what the best has otherwise.
    best = yaml.safe_load((tmp_path / "run" / "best.yaml").read_text())
    assert best["set"][0] == "optimizer.lr=0.03"
    plan = check(Options.of(track="experiment.yaml", data="people", winner="run/best.yaml", set=best["set"])).plan
    assert plan.optimizer.lr == 0.03
    if summary["best"]["trial"] > 0:  # not the recipe itself
        knobs = summary["best"]["knobs"]
        assert plan.triplet.knobs == {"margin": knobs["margin"]} and plan.triplet.weight == knobs["triplet_weight"]
        assert plan.softmax.knobs == {"smoothing": knobs["smoothing"]}
    for place in (ended.said, (tmp_path / "run" / "best.yaml").read_text()):
        assert "--set optimizer.lr=0.03" in place
    page = (tmp_path / "run" / "report.html").read_text()
    for text in (
        "Loss of distances, label smoothing, depth against width",
        "mean average precision over 24 images of\n3 people",
    ):
        assert text in page, text


@pytest.mark.parametrize("name", ["triplet", "softmax"])
def test_a_term_that_the_recipe_does_not_have(searched, tmp_path, name):
    train = {name: None} | ({"margin": {"name": "cosface"}} if name == "softmax" else {})
    ended = searched(**train)
    assert ended.code == 2 and f"tune.{name}: is searched, and the recipe has no such term" in ended.said
    other = {"triplet": "softmax", "softmax": "triplet"}[name]
    assert f"leave it out: --only {other} --only backbone" in ended.said and not (tmp_path / "run").exists()


def test_what_a_user_changed_stays_but_for_what_was_found():
    given = ["optimizer.lr=0.1", "triplet.weight=3", "triplet={}"]
    found = best_changes(given, {"margin": 0.5, "triplet_weight": 2.0}, tuning_of("reid"))
    assert found == [
        *("optimizer.lr=0.1", "triplet={}"),
        *("triplet.knobs.margin=0.5", "triplet.weight=2.0"),
    ]
    assert best_changes(given, {}, tuning_of("reid")) == given
