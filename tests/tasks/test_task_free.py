"""A task that shares nothing with the first goes the whole way of a training: the loop knows no task.

Non-square pictures of one channel, a head without rows, a plan with a knob of its own, a judge of errors.
"""

import json
import signal
import textwrap

import pytest
import torch
import yaml

from tests.conftest import TINY_EXPERIMENT, TINY_SPACE, TINY_TRACK
from tests.tasks import toy
from tests.train.test_checkpoints import Pressing
from zennas.progress import silent
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.tasks.table import TASKS, learning_of, task_of, tuning_of
from zennas.train import prepare
from zennas.train.checkpoints import checkpoints_in
from zennas.train.journal import read_metrics
from zennas.train.loop import Training
from zennas.train.options import Options
from zennas.train.rank import train_on
from zennas.train.request import check
from zennas.tune.request import tune_plan

HW = (24, 40)
RECIPE = {
    "epochs": 4,
    "batch": 16,
    "beta": 0.5,
    "optimizer": {"name": "adamw", "lr": 0.02, "lr_batch": 16, "weight_decay": 0.0},
    "data": {"workers": 0},
}
WINNER = "{block: ir_se, stem: 8, widths: [8, 16], depths: [1, 1]}\n"


@pytest.fixture(autouse=True)
def with_the_toy(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", toy.ROW)


@pytest.fixture
def options(tmp_path):
    """options(*changes, out=...) -> the Options of a toy training."""
    space = textwrap.dedent(TINY_SPACE).replace("image_px: 32", f"image_px: {list(HW)}\nchannels: 1")
    for name, text in (("space", space), ("track", textwrap.dedent(TINY_TRACK)), ("winner", WINNER)):
        (tmp_path / f"{name}.yaml").write_text(text)
    experiment = yaml.safe_load(TINY_EXPERIMENT) | {"task": "toy", "train": RECIPE}
    experiment |= {"space": str(tmp_path / "space.yaml"), "track": str(tmp_path / "track.yaml")}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    data, held_out = (toy.draw(tmp_path / f"{name}.npz", 96, HW, seed=seed) for seed, name in enumerate(("a", "b")))

    def made(*changes, out="run", **others):
        given = {"data": data, "winner": tmp_path / "winner.yaml", "any_size": True, "verify": (str(held_out),)}
        asked = given | others | {"out": tmp_path / out, "set": changes}
        return check(Options.of(track=tmp_path / "experiment.yaml", **asked))

    return made


def training(options, *, progress=None):
    task, ranks, progress = task_of(options.task), Ranks(), progress or silent()
    options.out.mkdir(parents=True, exist_ok=True)
    data = task.open_data(options, progress)
    return Training(
        prepare.prepare(options, data, None, ranks, progress, sets=prepare.open_sets(options, ranks)), ranks, progress
    )


def tensors(one):
    """Every number that the next step depends on."""
    found = {name: value.clone() for name, value in one.student.state_dict().items()} | {"seen": one.head.seen}
    for place, state in enumerate(one.optimizer.state_dict()["state"].values()):
        found |= {f"optimizer.{place}.{name}": value for name, value in state.items()}
    return found


def same(one, other):
    one, other = tensors(one), tensors(other)
    return set(one) == set(other) and all(
        torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one
    )


def test_it_goes_the_whole_way(options):
    asked = options()
    result = train_on(asked, Ranks(), silent())
    held_out = result["accuracy"]["b"]
    # Levels are uniform with deviation one, so that guessing their mean is off by 0.87.
    assert held_out["student"]["num_pictures"] == 96 and held_out["teacher"] is None
    assert held_out["student"]["error"] < 0.45 < held_out["untrained"]
    assert result["training"]["num_pictures"] == 96 and "num_identities" not in result["training"]
    assert result["plan"]["beta"] == 0.5 and "loss" not in result["plan"]
    assert result == json.loads((asked.out / "result.json").read_text())
    assert {path.name for path in asked.out.iterdir()} >= {"model.onnx", "network.pt", "report.html", "metrics.jsonl"}
    page = (asked.out / "report.html").read_text()
    assert "How far off" in page and "Pictures that the head has seen." in page and "pairs of images" not in page
    entries = read_metrics(asked.out)
    losses = [entry["loss"] for entry in entries if entry["kind"] == "train"]
    assert len(losses) == 24 and sum(losses[-6:]) < sum(losses[:6])
    assert [entry["seen"] for entry in entries if entry["kind"] == "train"] == [16.0 * step for step in range(1, 25)]
    assert all(0 < entry["off"] < 2 for entry in entries if entry["kind"] == "train")  # what the head gives beside it
    course = [entry for entry in entries if entry["kind"] == "verify/b"]
    assert [entry["step"] for entry in course] == [0, 6, 12, 18, 24] and "accuracy" not in course[0]
    settings = json.loads((asked.out / "run.json").read_text())["settings"]
    assert settings["task"] == "toy" and settings["num_pictures"] == 96
    assert train_on(asked, Ranks(), silent()) == result  # done: nothing is trained again


def test_a_stopped_training_ends_as_an_unbroken_one(options):
    changes = ("accumulate=2", "data.workers=1")
    whole = training(options(*changes, out="whole"))
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        training(options(*changes), progress=Pressing(9, signal.SIGINT)).run()
    resumed = training(options(*changes))
    resumed.run()
    assert 0 < resumed.first_step < 24 and same(whole, resumed)
    (kept, *_) = reversed(checkpoints_in(resumed.out / "checkpoints"))
    assert "num_identities" not in torch.load(kept / "common.pt", weights_only=True)


def test_a_step_without_finite_numbers_changes_nothing(options, monkeypatch):
    real, calls = toy.seen, [0]

    def seen(*arguments):
        calls[0] += 1
        image_BCHW = real(*arguments)
        return image_BCHW.fill_(torch.nan) if calls[0] == 3 else image_BCHW

    one = training(options("epochs=1", "verify_epochs=9", verify=()))
    monkeypatch.setattr(toy, "seen", seen)
    trained = one.run()
    assert trained.num_skipped == 1 and one.head.seen == 5 * 16


def test_its_plan_is_checked_and_its_knob_set(options):
    assert options("beta=2").plan.beta == 2.0
    with pytest.raises(UserError, match=r"--set beta=11: train.beta: given 11, allowed: at most 10"):
        options("beta=11")
    with pytest.raises(UserError, match=r"key 'loss' is not known; .*known: .*beta"):
        options("loss.name=arcface")
    with pytest.raises(UserError, match="no learning from a teacher"):
        train_on(options(teacher=options().data), Ranks(), silent())


def test_a_task_whose_recipes_are_not_searched_says_so(options, monkeypatch):
    monkeypatch.setitem(TASKS, "toy", toy.ROW._replace(tuning=""))
    for ask in (lambda: tune_plan(options().asked_track), lambda: tuning_of("toy")):
        with pytest.raises(UserError, match="task 'toy': its recipes are not searched; those of face, reid are"):
            ask()


def test_a_task_of_which_nothing_is_learned_says_so(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", toy.ROW._replace(learning=""))
    with pytest.raises(UserError, match="'toy': nothing is learned from its trainings; from those of face, reid it is"):
        learning_of("toy")
