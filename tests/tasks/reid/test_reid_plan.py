"""What a recipe for people may say."""

import pytest

from zennas.records import UserError
from zennas.tasks.reid.plan import ReidPlan
from zennas.tasks.reid.preparing import check_plan
from zennas.train.request import changed_plan


def test_the_papers_recipe_is_the_default():
    """Eleven terms alike, 16 people with 4 images each, margin 1.2, flips, a rate of 0.01 (Wang et al. 2018)."""
    plan = ReidPlan()
    assert (plan.batch, plan.data.images_per_person, plan.data.augment) == (64, 4, {"flip": {"p": 0.5}})
    assert (plan.softmax.name, plan.softmax.vectors, plan.softmax.weight) == ("softmax", ("wide", "stripes"), 1)
    assert (plan.triplet.name, plan.triplet.vectors, plan.triplet.weight) == ("batch_hard", ("whole",), 1)
    assert plan.centre is plan.margin is None and (plan.optimizer.lr, plan.optimizer.lr_batch) == (0.01, 64)


def test_terms_come_and_go_by_changes():
    plan = changed_plan(ReidPlan(), ["centre.weight=0.01", "triplet=null", "margin.name=arcface"])
    assert plan.triplet is None and plan.centre.weight == 0.01 and plan.margin.name == "arcface"
    check_plan(plan, "a test")
    # Knobs of another row are left behind, as everywhere.
    plan = changed_plan(ReidPlan.parse({"triplet": {"knobs": {"margin": 0.3}}}, "x"), ["triplet.name=circle"])
    assert plan.triplet.knobs == {} and plan.triplet.vectors == ("whole",)


@pytest.mark.parametrize(
    "values, says",
    [
        ({"softmax": None, "triplet": None}, "nothing would tell people apart"),
        ({"batch": 62}, "a multiple of 4 from 8 on; given 62"),
        ({"batch": 4}, "allowed: a batch of two people or more"),
        ({"data": {"images_per_person": None}}, "triplet needs data.images_per_person"),
        ({"data": {"images_per_person": 1}}, "images_per_person"),
        ({"triplet": {"vectors": []}}, "one at least"),
        ({"triplet": {"vectors": ["whole", "whole"]}}, "different ones"),
        ({"triplet": {"vectors": ["local"]}}, "triplet.vectors"),
        ({"softmax": {"weight": 0}}, "softmax.weight"),
        ({"tripplet": {}}, "'tripplet' is not known"),
    ],
)
def test_plans_that_make_no_sense_are_refused(values, says):
    with pytest.raises(UserError) as error:
        ReidPlan.parse(values, "experiment.yaml: train")
    assert says in str(error.value)


@pytest.mark.parametrize(
    "change, says",
    [
        ("softmax.name=soft", "train.softmax: loss 'soft' is not known"),
        ("triplet.knobs={margin: -1}", "train.triplet: margin of batch_hard: given -1"),
        ("margin.name=batch_hard", "train.margin: loss 'batch_hard' is not known"),
        ("centre.knobs={alpha: 1}", "train.centre.knobs: given"),
        ("distill.name=l3", "train.distill"),
        ("data.augment={flop: {}}", "train.data.augment"),
    ],
)
def test_names_that_no_table_knows_are_refused(change, says):
    with pytest.raises(UserError) as error:
        check_plan(changed_plan(ReidPlan(), [change]), "recipe")
    assert str(error.value).startswith("recipe: ") and says in str(error.value)
