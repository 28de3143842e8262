"""Proposals: what is drawn, what it makes of a recipe, and plans that make no sense."""

import pytest

from zennas.records import UserError
from zennas.tasks.face.losses import knobs_of
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.face.tune_plan import FaceTunePlan
from zennas.train.request import changed_plan
from zennas.tune.proposal import KNOBS, LOSS, MARGIN, Proposal, spans, suggest
from zennas.tune_plan import Span


class Drawer:
    """A trial of Optuna's that draws the lower or the upper end."""

    def __init__(self, end):
        self.end, self.log = end, {}

    def suggest_float(self, name, low, high, *, log=False):
        self.log[name] = log
        return (low, high)[self.end]

    suggest_int = suggest_float


@pytest.mark.parametrize("end", [0, 1])
def test_every_corner_is_a_recipe(end):
    found = suggest(FaceTunePlan(), 5, drawer := Drawer(end))
    assert tuple(found) == KNOBS and found["shape"] == (0, 4)[end]
    assert [name for name, log in drawer.log.items() if log] == ["s_p", "s_n"]
    plan = changed_plan(FacePlan(), Proposal(**found).changes)
    assert plan.loss.name == LOSS and plan.loss.knobs == {name: found[name] for name in MARGIN}
    assert knobs_of(plan.loss.name, plan.loss.knobs)["s_p"] == found["s_p"]


def test_what_is_not_searched_is_not_drawn():
    plan = FaceTunePlan.parse(
        {"cleaning": {"tau_inter": None, "tau_intra": 0.25}, "margin": None, "backbone": None}, "a test"
    )
    assert suggest(plan, 1, Drawer(0)) == {"tau_intra": 0.25}
    assert spans(plan, 1) == {"tau_intra": 0.25}
    fixed = FaceTunePlan.parse({"margin": {"m1": 1.0}, "cleaning": None, "backbone": None}, "a test")
    assert suggest(fixed, 1, Drawer(0))["m1"] == 1.0 and isinstance(spans(fixed, 1)["m3"], Span)


def test_the_recipe_is_the_proposal_that_changes_nothing():
    plan = FacePlan.parse({"loss": {"name": "curricularface", "knobs": {"scale": 32.0}}}, "a test")
    assert changed_plan(plan, Proposal().changes) == plan
    assert (Proposal().key, Proposal().plain) == ("recipe", {})


def test_equal_proposals_share_a_key_and_others_do_not():
    keys = [Proposal(**knobs).key for knobs in ({"m1": 1.0}, {"m1": 1.0}, {"m1": 1.1}, {"m3": 1.0}, {"shape": 0}, {})]
    assert keys[0] == keys[1] and len(set(keys)) == 5


@pytest.mark.parametrize(
    "values, says",
    [
        ({"trials": 0}, "trials: given 0"),
        ({"margin": {"m1": {"low": 2, "high": 1}}}, "low below high"),
        ({"margin": {"s_p": {"low": 0, "high": 1, "log": True}}}, "both above 0"),
        ({"reward": {"fprs": [0.1]}}, "as many weights as different fprs"),
        ({"reward": {"fprs": [0.1, 0.1], "weights": [1, 1]}}, "as many weights as different fprs"),
        ({"reward": {"held_out_share": 0.6, "test_share": 0.5}}, "somebody must be trained on"),
        ({"epochs": 2, "asha": {"grace_epochs": 3}}, "grace_epochs 3 must not exceed epochs 2"),
        ({"asha": {"reduction": 1}}, "asha.reduction"),
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
