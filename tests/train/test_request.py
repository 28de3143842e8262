"""From --set to a FacePlan: what was given and nothing else, and what goes with the row that it belonged to."""

import pytest
import torch

from tests.embed.public_networks import IResNet, seeded_state
from tests.train.conftest import untrained
from zennas.embed.checkpoint import load_network
from zennas.embed.named import open_named
from zennas.export.onnx_file import export
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
    both = "--set optimizer.name=adamw, --set optimizer.momentum=0.7"
    with pytest.raises(UserError, match=f"^{both}: allowed: momentum is for sgd, lars; adamw has none"):
        changed("optimizer.name=adamw", "optimizer.momentum=0.7")
    with pytest.raises(UserError, match=r"^--set schedule.power=2: allowed: power is for polynomial; step has none"):
        changed("schedule.power=2")


IN_STEPS = {
    "steps": 900,
    "verify_steps": 50,
    "schedule": {"name": "step", "warmup_steps": 10, "milestone_steps": [200, 400]},
}


def test_a_length_takes_the_place_of_the_one_in_the_other_unit():
    plan = changed("steps=900", "schedule.warmup_steps=10", "schedule.milestone_steps=[200, 400]", "verify_steps=50")
    assert (plan.epochs, plan.steps, plan.verify_epochs, plan.verify_steps) == (None, 900, None, 50)
    assert (plan.schedule.warmup_epochs, plan.schedule.milestones) == (0, ())
    assert plan.num_steps(7) == 900 and plan.verify_every(7) == 50 and plan.schedule.num_warmup(7) == 10
    assert [plan.schedule.num_drops(step, 7) for step in (0, 199, 200, 399, 400)] == [0, 0, 1, 1, 2]
    back = changed_plan(plan, ["epochs=9", "schedule={name: step, milestones: [2, 4]}", "verify_epochs=0.5"])
    assert (back.epochs, back.steps, back.verify_epochs, back.verify_steps) == (9, None, 0.5, None)
    assert changed_plan(plan, ["schedule.milestones=[1]"]).schedule.milestone_steps == ()
    assert changed("steps=null") == changed()


def test_a_plan_in_steps_can_be_read_again():
    plan = FacePlan.parse(IN_STEPS, "here")
    assert FacePlan.parse(plan.model_dump(mode="json"), "again") == plan
    assert changed_plan(plan, []) == plan == changed_plan(plan, ["epochs=3", "epochs=null", "steps=900"])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"epochs": 3, "steps": 7}, "^here: allowed: either epochs or steps; given both, 3 and 7"),
        ({"epochs": None}, "^here: allowed: either epochs or steps; given neither"),
        ({"verify_epochs": None}, "^here: allowed: either verify_epochs or verify_steps; given neither"),
        ({"verify_epochs": 0.5, "verify_steps": 7}, "either verify_epochs or verify_steps; given both, 0.5 and 7"),
        ({"schedule": {"warmup_epochs": 1, "warmup_steps": 7}}, "schedule: .* either warmup_epochs or warmup_steps; g"),
        ({"schedule": {"warmup_epochs": 1, "warmup_steps": 0}}, "warmup_epochs or warmup_steps; given both, 1 and 0"),
        (
            {"schedule": {"name": "step", "milestones": [1, 2], "milestone_steps": [5]}},
            r"either milestones or milestone_steps; given both, \[1.0, 2.0\] and \[5\]",
        ),
        ({"schedule": {"name": "step"}}, r"a step schedule needs milestones \(epochs\) or milestone_steps"),
        ({"schedule": {"name": "step", "milestone_steps": [5, 5]}}, r"milestone_steps must rise; given \[5, 5\]"),
        ({"schedule": {"milestone_steps": [5]}}, "milestone_steps is for step; polynomial has none, leave it out"),
        ({"steps": 7, "schedule": {"warmup_steps": 7}}, "schedule.warmup_steps 7 must be less than steps 7"),
        ({"steps": 0}, "steps: given 0, allowed: greater than or equal to 1"),
        ({"steps": 1.5}, "steps: given 1.5, allowed: a valid integer"),
    ],
)
def test_lengths_that_cannot_be_are_refused(values, says):
    with pytest.raises(UserError, match=says):
        FacePlan.parse(values, "here")


def test_a_run_in_epochs_is_what_it_was_before_there_were_steps():
    """A run.json of before must still be gone on with: no key is new. Of one in steps they are the run's."""
    old, new = FacePlan.parse(RECIPE, "here").of_the_run(), FacePlan.parse(IN_STEPS, "here").of_the_run()
    assert old["epochs"] == 9 and not {"steps", "verify_epochs", "verify_steps"} & set(old)
    assert set(old["schedule"]) == {"name", "warmup_epochs", "power", "milestones", "factor", "final_share"}
    assert (new["epochs"], new["steps"]) == (None, 900)
    assert (new["schedule"]["warmup_steps"], new["schedule"]["milestone_steps"]) == (10, [200, 400])
    for change in ("steps=901", "schedule.warmup_steps=9", "schedule.milestone_steps=[200]"):
        assert changed_plan(FacePlan.parse(IN_STEPS, "here"), [change]).of_the_run() != new
    assert changed_plan(FacePlan.parse(IN_STEPS, "here"), ["verify_steps=3"]).of_the_run() == new


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
    request = options(*recipe, teacher=weights)
    assert task_of(request.task).open_teacher(request, Ranks()).normalisation == "0..255 as they are"
    # A file that zennas wrote knows better.
    assert opened("", *recipe).fingerprint == plain.fingerprint
    network = load_network(folder)
    (tmp_path / "ours.onnx").write_bytes(export(network, network.shape, metadata={"zennas": "{}"}).onnx_bytes)
    request = options(*recipe, teacher=tmp_path / "ours.onnx")
    assert task_of(request.task).open_teacher(request, Ranks()).normalisation == "(x - 127.5) / 127.5"
    (tmp_path / "foreign.onnx").write_bytes(export(network, network.shape).onnx_bytes)
    request = options(*recipe, teacher=tmp_path / "foreign.onnx")
    assert task_of(request.task).open_teacher(request, Ranks()).normalisation == "0..255 as they are"
    assert opened(",normalise=none", *recipe).normalisation == "0..255 as they are"
    assert opened(",normalise=imagenet", *recipe).fingerprint == imagenet.fingerprint
    with pytest.raises(UserError, match=r"--teacher .*,px=64: takes images of 32 x 32 itself; leave px out"):
        opened(",px=64")
    for says, error in (
        ("none,normalise=imagenet", "--teacher none: no such file or folder"),
        (f"{folder},normalize=imagenet", "--teacher .*: 'normalize' is not known; did you mean 'normalise'"),
    ):
        with pytest.raises(UserError, match=error):
            options(teacher=says)
