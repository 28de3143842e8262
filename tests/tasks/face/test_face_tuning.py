"""What a search of recipes for faces proposes, hands on and says."""

import pathlib

import numpy as np
import pytest

from zennas.records import UserError
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.face.tune_plan import FaceTunePlan
from zennas.tasks.face.tuning import LOSS, MARGIN, TUNING, labels_of
from zennas.tasks.identity.losses import knobs_of as loss_knobs_of
from zennas.train.request import changed_plan
from zennas.tune.proposal import knobs_of, spans
from zennas.tune_plan import Span


@pytest.mark.parametrize("end", ["low", "high"])
def test_every_corner_is_a_recipe(end):
    knobs = {name: getattr(span, end) for name, span in spans(FaceTunePlan(), 5).items() if isinstance(span, Span)}
    assert (*knobs, "shape") == knobs_of(FaceTunePlan())
    plan = changed_plan(FacePlan(), TUNING.changes(knobs))
    assert plan.loss.name == LOSS and plan.loss.knobs == {name: knobs[name] for name in MARGIN}
    assert loss_knobs_of(plan.loss.name, plan.loss.knobs)["s_p"] == knobs["s_p"]


def test_scales_are_drawn_in_their_logarithm():
    logs = [name for name, span in spans(FaceTunePlan(), 5).items() if isinstance(span, Span) and span.log]
    assert logs == ["s_p", "s_n"]


def test_a_recipe_without_knobs_of_the_loss_is_left_as_it_is():
    plan = FacePlan.parse({"loss": {"name": "curricularface", "knobs": {"scale": 32.0}}}, "a test")
    assert changed_plan(plan, TUNING.changes({"tau_intra": 0.2, "shape": 1})) == plan


def test_labels_are_handed_on_where_thresholds_clean():
    cleaned = TUNING.best({"tau_intra": 0.2, "m1": 1.0})
    assert cleaned.content == {"labels": "best-labels.npz", "thresholds": {"tau_intra": 0.2}}
    assert cleaned.files == {"labels": "best-labels.npz"}
    assert TUNING.best({"m1": 1.0, "shape": 2}) == ({}, {})


def test_thresholds_ask_for_embeddings_that_are_there(tmp_path):
    label_N = np.array([0, 0, 1])
    assert labels_of(None, {"m1": 1.0}, label_N).label_N.tolist() == [0, 0, 1]
    with pytest.raises(UserError, match=r"gone.npy: the embeddings that thresholds ask about are not there"):
        labels_of(tmp_path / "gone.npy", {"tau_intra": 0.2}, label_N)


def test_modules_that_moved_are_where_it_says():
    for module in TUNING.moved.values():
        assert (pathlib.Path(__file__).parents[3] / f"{module.replace('.', '/')}.py").is_file()


@pytest.mark.parametrize(
    "values, says",
    [
        ({"margin": {"m1": {"low": 2, "high": 1}}}, "low below high"),
        ({"margin": {"s_p": {"low": 0, "high": 1, "log": True}}}, "both above 0"),
        ({"reward": {"fprs": [0.1]}}, "as many weights as different fprs"),
        ({"reward": {"fprs": [0.1, 0.1], "weights": [1, 1]}}, "as many weights as different fprs"),
        ({"reward": {"held_out_share": 0.6, "test_share": 0.5}}, "somebody must be trained on"),
        ({"cleaning": {"tau": 1}}, "'cleaning.tau' is not known"),
        ({"cleaning": {"tau_inter": 1.5}}, "tau_inter"),
    ],
)
def test_plans_that_make_no_sense_are_refused(values, says):
    with pytest.raises(UserError) as error:
        FaceTunePlan.parse(values, "experiment.yaml: tune")
    assert says in str(error.value)


def test_the_published_reward_is_the_default():
    """FPRs and weights of Comprehensive Search (arXiv:2208.13600)."""
    reward = FaceTunePlan().reward
    assert reward.fprs == (1e-3, 1e-4, 1e-5) and reward.weights == (0.5, 0.25, 0.25)
