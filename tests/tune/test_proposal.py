"""Proposals: what is drawn, how they are called, and plans that make no sense."""

import pickle
from typing import ClassVar

import pytest

from zennas.records import Record, UserError
from zennas.tasks.face.tune_plan import FaceTunePlan
from zennas.tune.proposal import Proposal, factors_of, knobs_of, spans, suggest
from zennas.tune_plan import Span, TunePlan


class Rates(Record):
    """Two knobs."""

    lr: Span | float = Span(low=0.001, high=0.1, log=True)
    decay: Span | float | None = 0.25


class Plan(TunePlan):
    """What a task adds to a plan."""

    FACTORS: ClassVar[dict[str, tuple[str, ...]]] = {"rates": ("lr", "decay")}

    rates: Rates | None = Rates()


class Drawer:
    """A trial of Optuna's that draws the lower or the upper end."""

    def __init__(self, end):
        self.end, self.log = end, {}

    def suggest_float(self, name, low, high, *, log=False):
        self.log[name] = log
        return (low, high)[self.end]

    suggest_int = suggest_float


@pytest.mark.parametrize("end", [0, 1])
def test_every_knob_is_drawn_from_its_span(end):
    assert suggest(Plan(), 5, drawer := Drawer(end)) == {"lr": (0.001, 0.1)[end], "decay": 0.25, "shape": (0, 4)[end]}
    assert drawer.log == {"lr": True, "shape": False}


def test_what_is_not_searched_is_not_drawn():
    plan = Plan(rates={"lr": 0.5, "decay": None}, backbone=None)
    assert spans(plan, 1) == suggest(plan, 1, Drawer(0)) == {"lr": 0.5}
    assert spans(Plan(rates=None), 3) == {"shape": range(3)}
    assert spans(TunePlan(), 3) == {"shape": range(3)}


def test_a_plan_has_its_own_factors_and_the_backbone():
    assert factors_of(Plan()) == {"rates": ("lr", "decay"), "backbone": ("shape",)}
    assert knobs_of(Plan(rates=None)) == ("lr", "decay", "shape")  # what is not searched is a column of no values


def test_the_recipe_is_the_proposal_that_changes_nothing():
    assert (Proposal().key, Proposal().plain) == ("recipe", {})
    assert Proposal.of(Plan(), {"lr": None}) == Proposal()


def test_equal_proposals_share_a_key_and_others_do_not():
    plan = FaceTunePlan()
    given = ({"m1": 1.0, "m3": 0.5}, {"m3": 0.5, "m1": 1.0}, {"m1": 1.1}, {"m3": 1.0}, {"shape": 0}, {})
    first, again, *rest = (Proposal.of(plan, knobs) for knobs in given)
    assert first == again and hash(first) == hash(again) and first.key == again.key
    assert len({first.key, *(proposal.key for proposal in rest)}) == 5
    assert pickle.loads(pickle.dumps(first)) == first


@pytest.mark.parametrize(
    "knobs, key",
    [
        ({"tau_intra": 0.2}, "23a91a7071dd"),
        ({"m1": 1.0, "m2_rad": 1e-06, "m3": 0.0, "s_p": 32.0, "s_n": 123.456789}, "b1e579b71a46"),
        ({"tau_inter": 0.99, "tau_intra": -0.5, "m1": 4.3e-05, "shape": 2}, "d7af24d31488"),
    ],
)
def test_folders_of_searches_of_before_keep_their_names(knobs, key):
    """Keys that zennas 0.2 gave to these knobs, when they were fields of a record."""
    assert Proposal.of(FaceTunePlan(), knobs).key == key


@pytest.mark.parametrize(
    "values, says",
    [
        ({"trials": 0}, "trials: given 0"),
        ({"epochs": 2, "asha": {"grace_epochs": 3}}, "grace_epochs 3 must not exceed epochs 2"),
        ({"asha": {"reduction": 1}}, "asha.reduction"),
        ({"rates": {"lr": {"low": 2, "high": 1}}}, "low below high"),
        ({"rates": {"lr": {"low": 0, "high": 1, "log": True}}}, "both above 0"),
        ({"rates": {"l": 1}}, "'rates.l' is not known"),
    ],
)
def test_plans_that_make_no_sense_are_refused(values, says):
    with pytest.raises(UserError) as error:
        Plan.parse(values, "experiment.yaml: tune")
    assert says in str(error.value)
