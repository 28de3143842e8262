"""What `search --then-train` and `zennas run` say before the search begins, and what they hand on to the training."""

import json
import types

import numpy as np
import pytest
import torch

from tests.train.conftest import ran
from zennas.data.images import as_jpeg
from zennas.run import run as run_room
from zennas.run.__main__ import main as run_main
from zennas.search import run as search_room
from zennas.search import show
from zennas.search.__main__ import main as search_main
from zennas.search.stages import Settled
from zennas.train import run as train_room

WINNER = "{block: ir_se, stem: 8, widths: [8, 16], depths: [1, 1]}\n"
RESULT = {"experiment": "tiny"}


def winners(*names):
    return [types.SimpleNamespace(name=name, mirrored=None, plain=lambda name=name: {"name": name}) for name in names]


@pytest.fixture
def begun(monkeypatch):
    """The Checked of every search that began; it finds what `begun.winners` says."""
    begun = types.SimpleNamespace(searches=[], trainings=[], winners=[])

    def search(checked, progress):
        begun.searches.append(checked)
        checked.out.mkdir()
        for winner in begun.winners:
            (checked.out / f"{winner.name}.yaml").write_text(WINNER)
        return Settled(
            experiment=checked.experiment.name,
            plan=checked.plan,
            winners=tuple(begun.winners),
            baselines=(),
            stand_in=None,
            out=checked.out,
            folder=checked.out,
            island=0,
            num_islands=1,
            study="sqlite:///study.db",
            needs_password=False,
        )

    def train(request, progress, **ranks):
        begun.trainings.append((request, {name: value for name, value in ranks.items() if value is not None}))
        return RESULT

    monkeypatch.setattr(search_room, "search_to_the_end", search)
    monkeypatch.setattr(show, "print_winners", lambda *_: None)
    monkeypatch.setattr(train_room, "launch", train)
    monkeypatch.setattr(run_room, "show_network", lambda *_: 0)
    return begun


@pytest.fixture
def both(tiny, tmp_path):
    """both(*more, data=...) -> what `search --then-train` and `zennas run` left behind, each as (name, Ended)."""
    for identity in ("a", "b"):
        (tmp_path / "faces" / identity).mkdir(parents=True)
        (tmp_path / "faces" / identity / "1.jpg").write_bytes(as_jpeg(np.full((32, 32, 3), 127, np.uint8)))

    def made(*more, data=None, which=("search", "run")):
        data = data or tmp_path / "faces"
        words = {
            "search": (search_main, ["--track", tiny, "--then-train", data]),
            "run": (run_main, [tiny, "--data", data]),
        }
        for name in which:
            main, start = words[name]
            yield name, ran(*start, "--out", tmp_path / name, *more, command=main)

    return made


# what -> (words of `zennas run`, what it says), given a folder
WRONG = {
    "teacher": (["--teacher", "none"], "--teacher none: no such file or folder"),
    "identities": (["--identities", "none"], "--identities none: no such file or folder"),
    "device": (["--device", "gpu"], "--device: given 'gpu', allowed: cpu, cuda"),
    "verify": (["--verify", "none.bin"], "--verify none.bin: none.bin: cannot be read"),
    "pairs": (["--verify", "none.txt@."], "--verify none.txt@.: none.txt: cannot be read"),
    "source of pairs": (["--verify", f"{__file__}@none"], "none: cannot be read"),
    "ranks": (["--ray", "0"], "--ray"),
    "no value": (["--set", "epochs"], "--set epochs: expected KEY=VALUE"),
    "value": (["--set", "epochs=-1"], "--set epochs=-1: given -1"),
    "loss": (["--set", "loss.name=arcfaec"], "did you mean 'arcface'"),
    "knob": (["--set", "loss.knobs={margn_rad: 0.2}"], "did you mean 'margin_rad'"),
    "augmentation": (["--set", "data.augment={flap: {}}"], "did you mean 'flip'"),
    "distillation": (["--set", "distill.name=l3"], "l3"),
    "distillation of none": (["--set", "distill.weight=2"], "--set distill.weight=2: is about a teacher"),
    "value of another row": (["--set", "schedule.factor=0.5"], "factor is for step; polynomial has none, leave it out"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_slip_of_the_training_is_said_before_the_search(begun, both, what):
    more, says = WRONG[what]
    for _, ended in both(*more, which=["run"]):
        assert ended.code == 2 and says in ended.stderr and begun.searches == [], ended.said


def test_missing_faces_are_said_before_the_search(begun, both, tmp_path):
    for name, ended in both(data=tmp_path / "none"):
        assert ended.code == 2 and "none: no such file or folder" in ended.stderr, name
    assert begun.searches == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_said_before_the_search_but_on_ray(begun, both):
    ((_, ended),) = both("--device", "cuda", which=["run"])
    assert ended.code == 2 and "--device cuda: torch finds no GPU" in ended.stderr and begun.searches == []
    begun.winners = winners("winner-1")
    ((_, ended),) = both("--device", "cuda", "--ray", 2, which=["run"])  # the cluster may have them
    assert ended.code == 0, ended.said
    assert begun.trainings[0][1] == {"num_ray_workers": 2}


def test_no_winner_is_json_too(begun, both):
    for name, ended in both("--json"):
        assert ended.code == 1 and json.loads(ended.stdout) == {"winners": [], "trained": None}, name
    assert begun.trainings == []


def test_the_best_winner_is_trained(begun, both, tmp_path):
    begun.winners = winners("winner-1", "winner-2")
    for name, ended in both("--json", "--budget-ms", 3):
        assert ended.code == 0, ended.said
        assert json.loads(ended.stdout) == {
            "winners": [winner.plain() for winner in begun.winners],
            "trained": RESULT,
        }
        options, ranks = begun.trainings.pop()
        assert (options.out, options.data) == (tmp_path / f"{name}-trained", tmp_path / "faces")
        assert (options.candidate.text, options.budget_ms, options.fresh, ranks) == ("ir_se-8-8x1-16x1", 3, False, {})


def test_what_the_training_needs_is_handed_on(begun, both):
    begun.winners = winners("winner-1")
    words = ["--set", "epochs=3", "--device", "cpu", "--ray", 2, "--address", "auto", "--verify", __file__]
    ((_, ended),) = both(*words, which=["run"])
    assert ended.code == 0, ended.said
    ((options, ranks),) = begun.trainings
    assert (options.plan.epochs, options.device, options.verify) == (3, "cpu", (__file__,))
    assert ranks == {"num_ray_workers": 2, "address": "auto"}


def test_fresh_begins_both_anew(begun, both):
    begun.winners = winners("winner-1")
    ((_, ended),) = both("--fresh", which=["search"])
    assert ended.code == 0, ended.said
    assert begun.searches[0].fresh and begun.trainings[0][0].fresh
