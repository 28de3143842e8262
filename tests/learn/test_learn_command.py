"""The command: what it refuses, in one line, before anything is measured or trained."""

import pytest
import yaml


@pytest.mark.parametrize(
    "words, says",
    [
        (["--trainings", "3"], "--trainings: given 3, allowed: 4 to 512"),
        (["--epochs", "0"], "--epochs: given 0, allowed: 1 or more"),
        (["--seed", "-1"], "--seed: given -1"),
        (["--workers", "0"], "--workers: given 0, allowed: 1 to 4096"),
        (["--held-out", "nowhere.txt"], "--held-out nowhere.txt: no such file"),
        (["--test", "nowhere.txt"], "--test nowhere.txt: no such file"),
        (["--teacher", "nowhere.onnx"], "nowhere.onnx: no such file"),
        (["--images", "nowhere"], "nowhere"),
        (["--set", "loss.name=arcfase"], "loss 'arcfase' is not known; did you mean 'arcface'?"),
        (["--set", "distill.weight=2"], "is about a teacher"),
        (["--latency-device", "phone"], "--latency-device phone: names nodes of a cluster"),
        (["--device", "tpu"], "--device: given 'tpu'"),
        (["--resume"], "holds no run to resume"),
        (["--resume", "--fresh"], "--resume and --fresh exclude each other"),
        (["--track", "webface-srf"], "did you mean 'webface-sfr'?"),
    ],
)
def test_what_it_cannot_use_is_said_in_one_line(asked, words, says, tmp_path):
    ended = asked(*words)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert ended.code == 2 and len(errors) == 1 and says in errors[0], ended.said
    assert "Traceback" not in ended.said
    assert not (tmp_path / "run" / "latency").exists()


@pytest.mark.parametrize(
    "plan, says",
    [
        ({"first": 9}, "first 9 must not exceed trainings 6"),
        ({"measure": "accuracy"}, "measure: given 'accuracy'"),
        ({"measure": "auc", "far": 0.01}, "far is for measure tar"),
        ({"held_out_share": 0.6, "test_share": 0.5}, "below 1"),
        ({"near_pct": 0}, "near_pct"),
        ({"trianings": 9}, "did you mean 'trainings'?"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_where_it_stands(asked, material, tmp_path, plan, says):
    values = yaml.safe_load(material.experiment.read_text())
    values["learn"] |= plan
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    ended = asked("--track", tmp_path / "experiment.yaml")
    assert ended.code == 2 and says in ended.stderr and "experiment.yaml" in ended.stderr, ended.said


def test_data_that_are_not_there(asked, tmp_path):
    assert "--data" in asked("--data", tmp_path / "nothing").stderr


def test_a_folder_of_something_else_is_left_alone(asked, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    ended = asked()
    assert ended.code == 2 and "is not empty and holds no run" in ended.stderr
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.txt"]
