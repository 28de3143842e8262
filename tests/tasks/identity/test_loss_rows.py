"""The table of losses and its knobs, and BoundaryFace's labels by hand."""

import inspect
import math

import pytest
import torch

from zennas.records import UserError
from zennas.tasks.identity import losses
from zennas.tasks.identity.losses import KNOBS, LOSSES, applies, call, knobs_of, unsharded_loss

each_loss = pytest.mark.parametrize("name", LOSSES)
START = 7  # the epoch from which BoundaryFace relabels


# ---- BoundaryFace ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["boundaryface_f1", "boundaryface"])
def test_only_from_the_start_epoch_a_label_beyond_the_boundary_is_the_other_class(name):
    cosine_BC, label_B = torch.tensor([[0.1, 0.9, 0.2]]), torch.tensor([0])  # cos(acos(0.9) + 0.5) = 0.58 > 0.1
    as_given, _ = unsharded_loss("arcface", cosine_BC, label_B, None, knobs={"scale": 32.0})
    as_other, _ = unsharded_loss("arcface", cosine_BC, label_B + 1, None, knobs={"scale": 32.0})
    early, _ = unsharded_loss(name, cosine_BC, label_B, None, epoch=START - 0.01)
    late, _ = unsharded_loss(name, cosine_BC, label_B, None, epoch=START)
    assert torch.equal(early, as_given)
    assert torch.equal(late, as_other)  # without a penalty either: 0.2 < 0.58
    assert late < early


def test_labels_are_mended_below_zero_too():
    """Where the published code takes the zero at the own class for the hardest other one."""
    target_B, hardest_B = torch.tensor([-0.9, -0.5]), torch.tensor([-0.1, -0.1])  # cos(acos(-0.1) + 0.5) = -0.56
    assert losses.crosses_boundary(target_B, hardest_B).tolist() == [True, False]


def test_the_penalty_is_how_far_the_hardest_intrudes():
    target_B, hardest_B = torch.tensor([0.8, 0.8], requires_grad=True), torch.tensor([0.6, 0.4], requires_grad=True)
    penalty_B = losses.boundary_penalty(target_B, hardest_B)
    penalty_B.sum().backward()
    boundary = math.cos(math.acos(0.8) + 0.5)  # 0.41
    assert penalty_B.tolist() == pytest.approx([math.pi * (0.6 - boundary), 0], rel=1e-5)
    assert hardest_B.grad.tolist() == pytest.approx([math.pi, 0])
    assert target_B.grad.tolist() == pytest.approx([-math.pi * math.sin(math.acos(0.8) + 0.5) / 0.6, 0], rel=1e-5)


def test_one_class_alone_has_no_other():
    for name in LOSSES:
        loss, _ = unsharded_loss(
            name, torch.tensor([[0.3]]), torch.tensor([0]), torch.ones(1), count_C=torch.ones(1), epoch=START
        )
        assert loss.item() == 0, name


# ---- the table and its knobs -----------------------------------------------------------------------------------------


def functions(name):
    row = LOSSES[name]
    return [one for one in (row.target, row.negatives, row.update, row.relabel, row.penalty) if one]


@each_loss
def test_a_row_keeps_the_contract(name):
    row, knobs = LOSSES[name], knobs_of(name)
    first = {row.target: "own_B norm_B state", row.negatives: "cosine_BC state", row.update: "buffers target_B norm_B"}
    first |= dict.fromkeys((row.relabel, row.penalty), "target_B hardest_B")
    for function in functions(name):
        parameters = inspect.signature(function).parameters.values()
        assert [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY] == first[
            function
        ].split()
        for one in parameters:  # two functions of a row never differ in a default
            assert one.kind is not one.KEYWORD_ONLY or knobs[one.name] == one.default
        assert function.__doc__
    assert knobs_of(name, knobs) == knobs  # every default is allowed
    assert knobs.keys() <= KNOBS.keys()
    assert (row.start_epoch is not None) == bool(row.relabel or row.penalty)
    assert applies(knobs, 1e9) == bool(row.relabel or row.penalty) and not applies(knobs, 0)


def test_every_knob_belongs_to_a_loss():
    assert {knob for name in LOSSES for knob in knobs_of(name)} == KNOBS.keys()


def test_every_loss_has_subcentres():
    assert all("subcentres" in knobs_of(name) for name in LOSSES)
    assert knobs_of("subcenter_arcface")["subcentres"] == 3 and knobs_of("arcface")["subcentres"] == 1


def test_knobs_are_taken_and_typed():
    knobs = knobs_of("mv_arc_softmax", {"scale": 16, "fixed": True, "subcentres": 2})
    assert (knobs["scale"], knobs["fixed"], knobs["subcentres"], knobs["t"]) == (16.0, True, 2, 0.2)
    assert isinstance(knobs["scale"], float)
    assert call(lambda a, *, scale, t=0.0: (a, scale, t), knobs, "x") == ("x", 16.0, 0.2)


@pytest.mark.parametrize(
    "name, given, says",
    [
        ("arcfase", None, "web.yaml: loss 'arcfase' is not known; did you mean 'arcface'? known: adaface, arcface"),
        ("arcface", {"margin": 0.5}, "web.yaml: knob 'margin' of arcface is not known; did you mean 'margin_rad'?"),
        ("cosface", {"margin": -0.1}, "web.yaml: margin of cosface: given -0.1, allowed: a difference of cosines"),
        ("arcface", {"margin_rad": 28.6}, "given 28.6, allowed: radians"),
        ("arcface", {"scale": 0}, "given 0, allowed: a number above 0"),
        ("arcface", {"scale": math.nan}, "given nan"),
        ("arcface", {"scale": math.inf}, "given inf"),
        ("arcface", {"scale": "64"}, "given '64'"),
        ("arcface", {"scale": True}, "given True"),
        ("arcface", {"scale": None}, "given None"),
        ("arcface", {"easy_margin": 1}, "given 1, allowed: true or false"),
        ("subcenter_arcface", {"subcentres": 0}, "given 0, allowed: an integer from 1 on"),
        ("subcenter_arcface", {"subcentres": 2.0}, "given 2.0, allowed: an integer"),
        ("curricularface", {"t_alpha": 0}, "given 0, allowed: a share"),
        ("boundaryface", {"penalty_weight": -1}, "given -1, allowed: a number from 0 on"),
        ("boundaryface", {"start_epoch": -1}, "given -1"),
        ("softmax", {"start_epoch": 1}, "knob 'start_epoch' of softmax is not known"),
    ],
)
def test_what_is_wrong_is_said(name, given, says):
    with pytest.raises(UserError) as error:
        knobs_of(name, given, where="web.yaml")
    assert says in str(error.value)


def test_balance_needs_counts():
    with pytest.raises(UserError, match="balanced_softmax: needs the number of images of each class"):
        unsharded_loss("balanced_softmax", torch.zeros(1, 2), torch.tensor([0]), None)


def test_a_knob_without_a_row_of_its_own_takes_what_its_default_is(monkeypatch):
    monkeypatch.delitem(KNOBS, "margin")
    assert knobs_of("cosface", {"margin": 0.3})["margin"] == 0.3
    for value in ("wide", math.inf, True):
        with pytest.raises(UserError, match=r"margin of cosface: given .*, allowed: a finite number"):
            knobs_of("cosface", {"margin": value})
