"""The command: what it refuses, in one line, before anything is started."""

import pytest
import yaml


@pytest.mark.parametrize(
    "words, says",
    [
        (["--trials", "0"], "trials: given 0"),
        (["--epochs", "0"], "epochs: given 0"),
        (["--seed", "-1"], "seed"),
        (["--workers", "0"], "--workers: given 0, allowed: 1 to 4096"),
        (["--threads", "0"], "--threads: given 0, allowed: 1 to 4096"),
        (["--only", "loss"], "--only loss: allowed: cleaning, margin, backbone"),
        (["--held-out", "nowhere.txt"], "--held-out nowhere.txt: no such file"),
        (["--test", "nowhere.txt"], "--test nowhere.txt: no such file"),
        (["--embeddings-from", "nowhere.onnx"], "--embeddings-from nowhere.onnx: is for tune.cleaning"),
        (["--only", "cleaning"], "give --embeddings-from MODEL, or leave it out with"),
        (
            ["--only", "cleaning", "--embeddings-from", "nowhere.onnx"],
            "error: --embeddings-from nowhere.onnx: no such file",
        ),
        (["--set", "loss.name=arcfase"], "loss 'arcfase' is not known; did you mean 'arcface'?"),
        (["--set", "schedule.warmup_epochs=3", "--set", "epochs=9"], "warmup_epochs 3 must be less than epochs 3"),
        (["--winner", "nowhere.yaml"], "--winner nowhere.yaml: no such file"),
        (["--device", "tpu"], "--device: given 'tpu'"),
        (["--resume"], "holds no run to resume"),
        (["--resume", "--fresh"], "--resume and --fresh exclude each other"),
        (["--track", "webface-srf"], "did you mean 'webface-sfr'?"),
        (["--space", "ir_se_tiny"], "not in space ir_se_tiny"),
    ],
)
def test_what_it_cannot_use_is_said_in_one_line(asked, words, says, tmp_path):
    ended = asked(*words)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert ended.code == 2 and len(errors) == 1 and says in errors[0], ended.said
    assert "Traceback" not in ended.said
    assert not (tmp_path / "run" / "ray").exists()


def test_data_that_are_not_there(asked, tmp_path):
    assert "--data" in asked("--data", tmp_path / "nothing").stderr


def test_an_experiment_with_nothing_to_search(asked, material, tmp_path):
    values = yaml.safe_load(material.experiment.read_text())
    values["tune"] |= {"cleaning": None, "margin": None, "backbone": None}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    said = asked("--track", tmp_path / "experiment.yaml").stderr
    assert "--only margin: the experiment's tune.margin is null" in said


def test_a_folder_of_something_else_is_left_alone(asked, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("mine")
    ended = asked()
    assert ended.code == 2 and "is not empty and holds no run" in ended.stderr
