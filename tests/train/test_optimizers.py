"""Optimizers against torch's own and their formulas, schedules against torch's schedulers."""

import inspect
import math

import numpy as np
import pytest
import torch
from torch import nn

from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.identity import centres
from zennas.tasks.identity.centres import CENTRE_OPTIMIZERS, CentreOptimizer, centre_knobs
from zennas.train.optimizers import OPTIMIZERS, SCHEDULES, Lars, learning_rate, optimizer_of
from zennas.train_plan import ONLY_OF, TRUST, OptimizerPlan, SchedulePlan

ROWS, SIZE, STEPS = 21, 8, 4
# The same float32 operations in another order, a few times over.
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
each_centre_optimizer = pytest.mark.parametrize("name", CENTRE_OPTIMIZERS)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- class centres ---------------------------------------------------------------------------------------------------


def moved(name, knobs, *, row_R=None, lr=0.1, num_steps=STEPS):
    """(centres, optimizer) after some steps with gradients of the unit centres that a seed draws."""
    centre_ND = normals(ROWS, SIZE)
    optimizer = CentreOptimizer(name, knobs, num_rows=ROWS, embedding_size=SIZE)
    for step in range(num_steps):
        grad_ND, here = normals(ROWS, SIZE, seed=step + 1), slice(None) if row_R is None else row_R
        unit_RD = nn.functional.normalize(centre_ND)[here]
        optimizer.step(centre_ND, unit_RD, grad_ND[here].clone(), row_R=row_R, lr=lr, ranks=Ranks())
    return centre_ND, optimizer


def moved_by_torch(make, *, num_steps=STEPS):
    """The same centres, by autograd through their normalisation and an optimizer of torch."""
    centre_ND = nn.Parameter(normals(ROWS, SIZE))
    optimizer = make([centre_ND])
    for step in range(num_steps):
        optimizer.zero_grad()
        (nn.functional.normalize(centre_ND) * normals(ROWS, SIZE, seed=step + 1)).sum().backward()
        optimizer.step()
    return centre_ND.detach()


TORCH = {
    "sgd": (
        {"momentum": 0.8, "weight_decay": 0.01},
        lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.8, weight_decay=0.01),
    ),
    "adamw": (
        {"beta1": 0.8, "beta2": 0.95, "weight_decay": 0.01},
        lambda weights: torch.optim.AdamW(weights, lr=0.1, betas=(0.8, 0.95), weight_decay=0.01),
    ),
    # Lars itself is held to its formula below.
    "lars": (
        {"momentum": 0.8, "weight_decay": 0.01, "trust": 0.1},
        lambda weights: Lars(weights, lr=0.1, momentum=0.8, weight_decay=0.01, trust=0.1),
    ),
}


@each_centre_optimizer
@pytest.mark.parametrize("all_rows_by_number", [False, True])
def test_all_centres_move_as_torch_moves_them(name, all_rows_by_number, monkeypatch):
    monkeypatch.setitem(centres.BLOCK_ROWS, "cpu", 4)  # 21 rows are six blocks, the last of one row
    knobs, make = TORCH[name]
    row_R = torch.arange(ROWS) if all_rows_by_number else None
    torch.testing.assert_close(moved(name, knobs, row_R=row_R)[0], moved_by_torch(make), **CLOSE)


@each_centre_optimizer
def test_centres_that_are_not_sampled_do_not_move(name):
    row_R = torch.tensor([1, 4, 5, 20])
    others = torch.ones(ROWS, dtype=torch.bool)
    others[row_R] = False
    centre_ND, optimizer = moved(
        name, {}, row_R=torch.arange(ROWS), num_steps=2
    )  # with a momentum that could move them
    before_ND, before = centre_ND.clone(), {kind: values.clone() for kind, values in optimizer.state.items()}
    optimizer.step(
        centre_ND,
        nn.functional.normalize(centre_ND[row_R]),
        normals(4, SIZE, seed=9),
        row_R=row_R,
        lr=0.1,
        ranks=Ranks(),
    )
    assert torch.equal(centre_ND[others], before_ND[others])
    assert not (centre_ND[row_R] == before_ND[row_R]).all(1).any()
    for kind, values in optimizer.state.items():
        assert torch.equal(values[others], before[kind][others])
        assert not (values[row_R] == before[kind][row_R]).all(1).any()


@each_centre_optimizer
def test_knobs_of_a_recipe_are_those_of_its_centres(name):
    CentreOptimizer(name, centre_knobs(OptimizerPlan(name=name)), num_rows=2, embedding_size=2)
    with pytest.raises(UserError, match=r"knob 'warmth' is not known; known: .*weight_decay"):
        CentreOptimizer(name, {"warmth": 1.0}, num_rows=2, embedding_size=2)


@each_centre_optimizer
def test_a_centre_of_length_zero_stays_finite(name):
    centre_ND = torch.zeros(2, 3)
    optimizer = CentreOptimizer(name, num_rows=2, embedding_size=3)
    optimizer.step(centre_ND, torch.zeros(2, 3), torch.zeros(2, 3), row_R=None, lr=0.1, ranks=Ranks())
    assert centre_ND.isfinite().all()


# --- the backbone ----------------------------------------------------------------------------------------------------


def test_lars_is_its_formula():
    """In float64 numpy: v = m v + lr trust |w| / (|g| + d |w|) (g + d w); w = w - v. Biases without the ratio."""
    weights = [nn.Parameter(normals(5, 4)), nn.Parameter(normals(5, seed=1))]
    by_hand = [weight.detach().double().numpy().copy() for weight in weights]
    velocity = [np.zeros_like(weight) for weight in by_hand]
    optimizer = Lars(weights, lr=0.3, momentum=0.9, weight_decay=0.02, trust=0.01)
    for step in range(STEPS):
        for number, weight in enumerate(weights):
            weight.grad = normals(*weight.shape, seed=10 * step + number)
            grad, old = weight.grad.double().numpy(), by_hand[number]
            length = np.sqrt((old**2).sum())
            trust = 0.01 * length / (np.sqrt((grad**2).sum()) + 0.02 * length) if old.ndim > 1 else 1.0
            velocity[number] = 0.9 * velocity[number] + 0.3 * trust * (grad + 0.02 * old)
            by_hand[number] = old - velocity[number]
        optimizer.step()
    for weight, expected in zip(weights, by_hand, strict=True):
        np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-5)  # float32


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("decay_norms", [False, True])
def test_weight_decay_alone_shrinks_what_it_should(name, decay_norms):
    network = nn.Sequential(nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3), nn.PReLU(3))
    plan = OptimizerPlan(name=name, lr=0.5, weight_decay=0.1, decay_norms=decay_norms)
    optimizer = optimizer_of([network], plan)
    for weight in network.parameters():
        weight.grad = torch.zeros_like(weight)
    before = [weight.detach().norm().item() for weight in network.parameters() if weight.norm() > 0]
    optimizer.step()
    after = [weight.detach().norm().item() for weight in network.parameters() if weight.norm() > 0]
    shrinks = [new < old for new, old in zip(after, before, strict=True)]
    assert shrinks == [True, decay_norms, decay_norms]  # weight, scale of the norm, slopes


# --- schedules -------------------------------------------------------------------------------------------------------

EPOCHS, STEPS_PER_EPOCH = 10, 4
schedulers = torch.optim.lr_scheduler
SCHEDULERS = {
    "polynomial": ({"power": 2.0}, lambda one: schedulers.PolynomialLR(one, EPOCHS * STEPS_PER_EPOCH, power=2.0)),
    "cosine": (
        {"final_share": 0.05},
        lambda one: schedulers.CosineAnnealingLR(one, EPOCHS * STEPS_PER_EPOCH, eta_min=0.05 * 0.4),
    ),
    "step": (
        {"milestones": [3, 7.5], "factor": 0.2},
        lambda one: schedulers.MultiStepLR(one, [3 * STEPS_PER_EPOCH, 30], gamma=0.2),
    ),
    "constant": ({}, lambda one: schedulers.ConstantLR(one, factor=1.0)),
}


# values unlike their defaults
OTHER_VALUES = {"momentum": 0.5, "power": 2.0, "milestones": (1.0, 4.0), "factor": 0.5, "final_share": 0.3}
OTHER_VALUES |= {"milestone_steps": (2, 5)}
each_value = pytest.mark.parametrize(
    ("part", "value"), [(part, value) for part, only in ONLY_OF.items() for value in only]
)


def moves_something(part, name, value):
    """Whether training differs with this value of the plan, as the code that reads it has it."""
    found = []
    for changes in ({}, {value: OTHER_VALUES[value]}):
        if part == "optimizer":
            plan = OptimizerPlan().model_copy(update={"name": name, **changes})
            found.append((optimizer_of([nn.Linear(2, 2)], plan).defaults, centre_knobs(plan)))
        else:
            start = {"name": name, "milestones": (3.0,)}  # some, so that factor has something to do
            plan = FacePlan().model_copy(update={"schedule": SchedulePlan().model_copy(update=start | changes)})
            found.append([learning_rate(step, plan, steps_per_epoch=1, num_steps=9) for step in range(9)])
    return found[0] != found[1]


@each_value
def test_a_plan_takes_a_value_exactly_where_it_moves_something(part, value):
    for name in {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}[part]:
        some = {"milestones": (1.0, 4.0)} if name == "step" and value != "milestone_steps" else {}
        given = {"name": name, value: OTHER_VALUES[value]} | some
        if moves_something(part, name, value):
            assert getattr(getattr(FacePlan.parse({part: given}, "here"), part), value) == OTHER_VALUES[value]
        else:
            with pytest.raises(UserError, match=f"here: {part}: .*{value} is for .*; {name} has none, leave it out"):
                FacePlan.parse({part: given}, "here")


@each_value
def test_a_default_is_taken_everywhere(part, value):
    """A plan written out whole, as in result.json and on the report, can be read again."""
    for name in {"optimizer": OPTIMIZERS, "schedule": SCHEDULES}[part]:
        plan = FacePlan.parse({part: {"name": name} | ({"milestones": [2]} if name == "step" else {})}, "here")
        assert FacePlan.parse(plan.model_dump(mode="json"), "again") == plan


def test_something_must_be_learned():
    with pytest.raises(UserError, match="weight and class_weight not both 0"):
        FacePlan.parse({"distill": {"weight": 0, "class_weight": 0}}, "here")


def test_both_lars_trust_alike():
    one, other = (inspect.signature(one).parameters["trust"].default for one in (Lars, centres.lars))
    assert one is other is TRUST


def rates(schedule, *, batch=256, num_steps=EPOCHS * STEPS_PER_EPOCH):
    plan = FacePlan.parse(
        {"epochs": EPOCHS, "batch": batch, "optimizer": {"lr": 0.2, "lr_batch": 128}, "schedule": schedule}, "here"
    )
    return [
        learning_rate(step, plan, steps_per_epoch=STEPS_PER_EPOCH, num_steps=num_steps) for step in range(num_steps)
    ]


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_torchs(name):
    knobs, make = SCHEDULERS[name]
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)  # 0.2 at a batch of 128, of 256
    scheduler, expected = make(optimizer), []
    for _ in range(EPOCHS * STEPS_PER_EPOCH):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates({"name": name, **knobs}) == pytest.approx(expected, rel=1e-9)  # float64, recursive there


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_warm_up_is_a_line(name):
    knobs, _ = SCHEDULERS[name]
    found = rates({"name": name, "warmup_epochs": 2, **knobs})
    assert found[:8] == pytest.approx([0.05 * step for step in range(1, 9)])
    assert found[8] == pytest.approx(0.4)
    assert found[8:] == sorted(found[8:], reverse=True)
    assert all(rate > 0 for rate in found)


def test_the_rate_follows_the_batch():
    assert rates({}, batch=64) == pytest.approx([rate / 4 for rate in rates({})])
    assert math.isclose(rates({}, batch=128)[0], 0.2)


# --- in steps --------------------------------------------------------------------------------------------------------

IN_STEPS_TOO = {
    "polynomial": {"power": 2.0},
    "cosine": {"final_share": 0.05},
    "step": {"milestone_steps": [12, 30], "factor": 0.2},
    "constant": {},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("warmup_epochs", [0, 2])
def test_a_schedule_in_steps_is_that_in_epochs(name, warmup_epochs):
    num = EPOCHS * STEPS_PER_EPOCH
    schedule = {"name": name, "warmup_steps": warmup_epochs * STEPS_PER_EPOCH, **IN_STEPS_TOO[name]}
    values = {"steps": num, "batch": 256, "optimizer": {"lr": 0.2, "lr_batch": 128}, "schedule": schedule}
    plan = FacePlan.parse(values, "here")
    expected = rates({"name": name, "warmup_epochs": warmup_epochs, **SCHEDULERS[name][0]})
    for steps_per_epoch in (1, STEPS_PER_EPOCH, 1000):  # of no account
        assert plan.num_steps(steps_per_epoch) == num
        found = [learning_rate(step, plan, steps_per_epoch=steps_per_epoch, num_steps=num) for step in range(num)]
        assert found == expected


def test_the_units_may_be_mixed():
    plan = FacePlan.parse(
        {"epochs": 3, "verify_steps": 5, "schedule": {"name": "step", "warmup_steps": 4, "milestones": [2]}}, "here"
    )
    assert (plan.num_steps(10), plan.verify_every(10)) == (30, 5)
    found = [learning_rate(step, plan, steps_per_epoch=10, num_steps=30) for step in (0, 3, 19, 20)]
    assert found == pytest.approx([0.025, 0.1, 0.1, 0.01])
    plan = FacePlan.parse({"steps": 25, "schedule": {"warmup_epochs": 1}}, "here")
    assert (plan.num_steps(10), plan.verify_every(10), plan.schedule.num_warmup(10)) == (25, 10, 10)
