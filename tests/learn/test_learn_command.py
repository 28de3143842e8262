"""The command: what it refuses, in one line, before anything is measured or trained."""

import pytest
import yaml

from tests.learn.conftest import IMAGES_EACH, NUM_IDENTITIES
from tests.train.conftest import drawn_faces, ran, write_folder
from zennas.run.__main__ import main as run_main
from zennas.search.__main__ import main as search_main


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
        (["--budget-ms", "inf"], "--budget-ms: given inf, allowed: a finite number"),
        (["--data", ""], "--data: given '', allowed: a path"),  # as an empty variable of a shell gives it
        (["--out", ""], "--out: given '', allowed: a path"),
        (["--held-out", ""], "--held-out: given '', allowed: a path"),
        (["--teacher", ""], "--teacher '': names no file"),
        (["--set", "batch=100000"], "batch 100000 is larger than an epoch of 64 images"),
        (["--set", "batch=1"], "at least 2"),
        (["--track", "webface-srf"], "did you mean 'webface-sfr'?"),
    ],
)
def test_what_it_cannot_use_is_said_in_one_line(asked, words, says, tmp_path):
    ended = asked(*words)
    errors = [line for line in ended.stderr.splitlines() if line.startswith("error:")]
    assert ended.code == 2 and len(errors) == 1 and says in errors[0], ended.said
    assert "Traceback" not in ended.said
    assert not (tmp_path / "run").exists()  # the corrected command begins in the same folder


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


@pytest.mark.parametrize(
    "num, each, says",
    [
        (1, IMAGES_EACH, "the 1 held-out identities have 6 pairs of one person and 0 of two"),
        (3, IMAGES_EACH, "pairs of one person and 0 of two; a reward needs both"),
        (NUM_IDENTITIES, 1, "have 0 pairs of one person"),
    ],
)
def test_data_of_too_few_people_or_images(asked, tmp_path, num, each, says):
    ended = asked("--data", write_folder(tmp_path / "few", drawn_faces(num, each, seed=0)))
    assert ended.code == 2 and says in ended.stderr and not (tmp_path / "run").exists(), ended.said


def test_data_of_files_that_are_no_images(asked, tmp_path):
    for who in range(8):
        (tmp_path / "no" / f"p{who}").mkdir(parents=True)
        for number in range(4):
            (tmp_path / "no" / f"p{who}" / f"{number}.png").write_bytes(b"no image")
    ended = asked("--data", tmp_path / "no", "--set", "batch=4")
    assert ended.code == 2 and "corrupt" in ended.stderr and not (tmp_path / "run").exists(), ended.said


def test_a_run_of_which_something_is_garbled(asked, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{gar")
    ended = asked()
    assert ended.code == 2 and "run.json: not valid JSON" in ended.stderr, ended.said


@pytest.mark.parametrize(
    "words, says",
    [
        (["--learn-from", "FACES", "--then-train", "FACES"], "--learn-from and --then-train exclude each other"),
        (["--teacher", "t.onnx"], "--teacher t.onnx: nothing is trained"),
        (["--learn-from", ""], "--learn-from: given '', allowed: a path"),
        (["--learn-from", "FACES", "--score", "naswot"], "--score naswot: the score is what is learned"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_begins(material, tmp_path, words, says):
    words = [str(material.faces) if word == "FACES" else word for word in words]
    ended = ran("--track", material.experiment, "--out", tmp_path / "no", *words, command=search_main)
    assert ended.code == 2 and says in ended.stderr and not (tmp_path / "no").exists(), ended.said


@pytest.mark.parametrize("words", [["--trainings", "8"], ["--held-out", "a.txt"], ["--test", "b.txt"]])
def test_what_is_for_learning_is_not_ignored_without_it(material, tmp_path, words):
    ended = ran(material.experiment, "--data", material.faces, "--out", tmp_path / "no", *words, command=run_main)
    assert ended.code == 2 and f"{words[0]} {words[1]}: is for --learn" in ended.stderr, ended.said
    assert not (tmp_path / "no").exists()
