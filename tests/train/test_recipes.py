"""Every recipe that ships: its names are known to their tables, and its numbers are those of the sources it cites."""

import math
import pathlib

import pytest

from zennas.records import UserError
from zennas.space.cost import cost
from zennas.tasks.face.preparing import check_plan
from zennas.tasks.table import task_of
from zennas.track import Experiment, load_experiment, load_space
from zennas.train.optimizers import learning_rate

ROOT = pathlib.Path(__file__).parent.parent.parent
NAMES = sorted(path.parent.name for path in ROOT.glob("experiments/*/experiment.yaml"))
SPACES = sorted(path.stem for path in ROOT.glob("search_spaces/*.yaml"))

# Typed in from the rules of the challenges and insightface's configs, not from our YAML: identities, images, weight
# decay.
MS1M, WEBFACE = (93_431, 5_179_510, 5e-4), (2_059_906, 42_474_557, 5e-4)
CHALLENGES = {
    "insightface-ms1m": MS1M,
    "insightface-glint360k": (360_232, 17_091_657, 1e-4),
    "insightface-unconstrained": WEBFACE,
    "webface-main": WEBFACE,
    "webface-sfr": WEBFACE,
}
each_recipe = pytest.mark.parametrize("name", NAMES)
each_challenge = pytest.mark.parametrize("name", CHALLENGES)


def text_of(name):
    return (ROOT / "experiments" / name / "experiment.yaml").read_text()


def plan_of(name):
    experiment, _, _ = load_experiment(name)
    return experiment.train


def test_every_challenge_and_the_laptop_have_a_recipe():
    faces = {*CHALLENGES, "lfw-smoke", "equal-latency", "comprehensive-search"}
    people = {"reid-mgn", "reid-edge", "reid-edge-single", "reid-smoke", "reid-smoke-single"}
    assert set(NAMES) == faces | people


@each_recipe
def test_every_name_and_knob_is_known(name):
    plan = plan_of(name)
    experiment = Experiment.load(ROOT / "experiments" / name / "experiment.yaml")
    assert "train" in experiment.model_fields_set
    task_of(experiment.task).check_plan(plan, name)
    assert plan.data.augment["flip"] == {"p": 0.5} and plan.distill.class_weight > 0
    if experiment.task != "face":
        return
    # The margin that is searched is held to a margin set by hand.
    loss = "arcface" if name == "comprehensive-search" else "balanced_curricular"
    assert plan.loss.name == loss


@pytest.mark.parametrize(
    ("part", "change", "said"),
    [
        ("loss", {"name": "balanced_curicular"}, "did you mean 'balanced_curricular'"),
        ("loss", {"knobs": {"margin": 0.5}}, "did you mean 'margin_rad'"),
        ("distill", {"name": "feature_consistancy"}, "did you mean 'feature_consistency'"),
        ("data", {"augment": {"cutuot": {}}}, "did you mean 'cutout'"),
        ("data", {"augment": {"cutout": {"size": 0.25}}}, "did you mean 'side'"),
    ],
)
def test_the_test_above_would_see_a_misspelling(part, change, said):
    plan = plan_of("webface-sfr")
    changed = plan.model_copy(update={part: getattr(plan, part).model_copy(update=change)})
    with pytest.raises(UserError, match=said) as caught:
        check_plan(changed, "webface-sfr")
    assert f"webface-sfr: train.{part}" in str(caught.value)


@each_challenge
def test_what_insightface_s_recipe_says_is_kept(name):
    """SGD 0.9, 0.1 at 1024, to zero in a straight line over 20 epochs, gradients clipped at 5."""
    plan, weight_decay = plan_of(name), CHALLENGES[name][2]
    assert (plan.epochs, plan.batch) == (20, 1024)
    optimizer = plan.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.clip_norm) == ("sgd", 0.9, 5.0)
    assert optimizer.weight_decay == weight_decay and optimizer.decay_norms
    warmup = 10 * int(plan.schedule.warmup_epochs)
    assert warmup in (0, 20)
    rates = [learning_rate(step, plan, steps_per_epoch=10, num_steps=200) for step in range(200)]
    up = [0.1 * (step + 1) / warmup for step in range(warmup)]
    down = [0.1 * (200 - step) / (200 - warmup) for step in range(warmup, 200)]
    assert rates == pytest.approx(up + down, rel=1e-9)  # the rounding of float64, much enlarged


@each_challenge
def test_the_recipe_starts_on_eight_gpus_and_on_one(name):
    plan = plan_of(name)
    assert plan.accumulate == 1 and plan.batch // 8 == 128
    on_one = plan.model_validate(plan.model_dump() | {"accumulate": 8})
    assert on_one.batch // on_one.accumulate == 128


@each_challenge
def test_the_figures_in_its_comments_follow_from_the_training_set(name):
    text, (identities, images, _) = text_of(name), CHALLENGES[name]
    embedding_size = load_space(load_experiment(name)[0].space).embedding_size
    assert f"{identities:,} identities" in text and f"{images:,} images" in text
    # float16 embeddings of every image; two digits, as in the comment.
    assert f"({float(f'{images * embedding_size * 2 / 1e9:.2g}'):g} GB in --out)" in text
    if (identities, images, 5e-4) == WEBFACE:
        assert f"{identities * embedding_size * 4 * 2 / 1e9:.1f} GB of centres and their momentum" in text
        assert f"one in {images / 2380 / 3600:.0f} hours" in text


def test_the_laptop_s_recipe_has_about_as_many_steps_as_it_says():
    """9,021 images, of 128 a step; and a scale that can tell 5,000 identities apart with probability 0.9."""
    plan = plan_of("lfw-smoke")
    assert 9021 // plan.batch * plan.epochs == 840 and "840 steps on the 9,021 images" in text_of("lfw-smoke")
    assert math.log(5000 * 0.9 / 0.1) == pytest.approx(11, abs=0.5)  # the comment's rounding
    assert plan.loss.knobs["scale"] > math.log(5000 * 0.9 / 0.1)
    assert plan.distill.teacher.mean == pytest.approx([255 * share for share in (0.485, 0.456, 0.406)])
    assert plan.distill.teacher.std == pytest.approx([255 * share for share in (0.229, 0.224, 0.225)])


def test_the_laptop_s_networks_are_small():
    space = load_space("ir_se_lfw")
    networks = [space.cheapest(), *space.baselines.values()]
    macs = [cost(network, space.shape).macs for network in networks]
    assert all(20e6 <= mac <= 100e6 for mac in macs), macs


@pytest.mark.parametrize("name", SPACES)
def test_no_space_holds_a_shortcut_that_crashes_torch_on_a_processor(name):
    """1x1 with stride 2 from 8 channels or fewer, channels_last: torch 2.13's backward pass does not come back."""
    space = load_space(name)
    assert all(span.low > 8 for span in (space.stem, *space.widths[:-1]))
