"""From --set to a FacePlan: what was given and nothing else, and what goes with the row that it belonged to."""

import pytest
import torch

from tests.embed.public_networks import IResNet, seeded_state
from tests.train.conftest import untrained
from zennas.embed.named import open_named
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.table import task_of
from zennas.train.options import Options
from zennas.train.request import changed_plan, check_recipe

RECIPE = {
    "epochs": 9,
    "loss": {"knobs": {"scale": 16.0}, "sampling_rate": 0.5},
    "optimizer": {"momentum": 0.8, "lr": 0.3},
    "schedule": {"name": "step", "milestones": [2, 4], "factor": 0.5, "warmup_epochs": 1},
}


def changed(*changes):
    return changed_plan(FacePlan.parse(RECIPE, "a recipe"), changes)


def given(plan):
    return plan.model_dump(mode="json", exclude_unset=True)


def test_a_plan_carries_what_was_given():
    assert given(changed()) == RECIPE
    assert given(changed("optimizer.lr=0.5", "seed=4")) == RECIPE | {
        "optimizer": {"momentum": 0.8, "lr": 0.5},
        "seed": 4,
    }


def test_another_row_takes_only_what_it_has():
    plan = changed("schedule.name=cosine", "optimizer.name=adamw", "loss.name=cosface")
    assert given(plan) == {
        "epochs": 9,
        "loss": {"name": "cosface", "sampling_rate": 0.5},
        "optimizer": {"name": "adamw", "lr": 0.3},
        "schedule": {"name": "cosine", "warmup_epochs": 1},
    }
    assert changed("optimizer.name=lars").optimizer.momentum == 0.8  # which it has too


def test_the_same_row_keeps_all_of_it():
    """Also where the recipe leaves the name to its default."""
    plan = changed("loss.name=balanced_curricular", "optimizer.name=sgd", "schedule.name=step")
    assert plan == FacePlan.parse(RECIPE, "a recipe")


@pytest.mark.parametrize("turn", [1, -1])
def test_what_is_set_with_a_new_name_is_its_own_in_any_order(turn):
    plan = changed(
        *["loss.knobs.margin=0.3", "loss.name=cosface", "schedule.power=2", "schedule.name=polynomial"][::turn]
    )
    assert plan.loss.knobs == {"margin": 0.3}
    assert given(plan)["schedule"] == {"name": "polynomial", "power": 2, "warmup_epochs": 1}


def test_what_is_set_for_another_row_is_refused():
    with pytest.raises(UserError, match=r"--set: optimizer: .*momentum is for sgd, lars; adamw has none"):
        changed("optimizer.name=adamw", "optimizer.momentum=0.7")
    with pytest.raises(UserError, match=r"--set: schedule: .*power is for polynomial; step has none"):
        changed("schedule.power=2")


def test_of_one_key_the_last_holds():
    assert changed("epochs=3", "epochs=4").epochs == 4
    assert changed("loss={name: cosface}", "loss.knobs.margin=0.2").loss.knobs == {"margin": 0.2}


def test_distilling_without_a_teacher_is_refused(tiny, tmp_path):
    for change in ("distill.weight=2", "distill={weight: 3}"):
        with pytest.raises(UserError, match="is about a teacher, and without --teacher"):
            check_recipe(Options(track=tiny, data=tmp_path, set=["epochs=3", change]))
    plan = check_recipe(Options(track=tiny, data=tmp_path, teacher=tmp_path, set=["distill.weight=3"]))[-1]
    assert plan.distill.weight == 3


def test_a_teacher_is_named_as_any_network(options, tmp_path, material):
    folder = untrained(material, tmp_path / "teacher")

    def opened(says="", *changes):
        request = options(*changes, teacher=f"{folder}{says}")
        return task_of(request.task).open_teacher(request, Ranks())

    plain, imagenet = opened(), opened(",normalise=imagenet")
    assert imagenet.fingerprint == open_named(f"{folder},normalise=imagenet").model.fingerprint != plain.fingerprint
    weights = tmp_path / "backbone.pth"
    torch.save(seeded_state(IResNet((1, 1), stem=8, widths=(8, 16), size=64, px=32)), weights)
    request = options(teacher=f"{weights},colour=bgr")
    other = task_of(request.task).open_teacher(request, Ranks())
    assert other.fingerprint == open_named(f"{weights},colour=bgr").model.fingerprint
    # What a recipe says where nothing else does:
    assert plain.fingerprint == opened(",normalise=insightface").fingerprint
    recipe = ("distill.teacher.mean=[0, 0, 0]", "distill.teacher.std=[1, 1, 1]")
    assert opened("", *recipe).fingerprint == opened(",normalise=none").fingerprint
    assert opened(",normalise=imagenet", *recipe).fingerprint == imagenet.fingerprint
    with pytest.raises(UserError, match=r"--teacher .*,px=64: takes images of 32 x 32 itself; leave px out"):
        opened(",px=64")
    for says, error in (
        ("none,normalise=imagenet", "--teacher none: no such file or folder"),
        (f"{folder},normalize=imagenet", "--teacher .*: 'normalize' is not known; did you mean 'normalise'"),
    ):
        with pytest.raises(UserError, match=error):
            options(teacher=says)
