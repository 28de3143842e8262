"""Optimizers of the backbone, and the schedule of the learning rate."""

import math
from collections.abc import Iterable

import torch

from zennas.track import lookup
from zennas.train_plan import TRUST, OptimizerPlan, TrainPlan


class Lars(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling: each weight moves in proportion to its own length.

    Weights of one axis (norms, biases, slopes) move as in plain SGD with momentum.
    Source: You et al. 2017, arXiv:1708.03888, eq. 6.
    """

    def __init__(self, params, *, lr, momentum=0.9, weight_decay=0.0, trust=TRUST):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                grad = weight.grad.add(weight, alpha=group["weight_decay"])
                rate = group["lr"]
                if weight.ndim > 1:
                    length, pull = weight.norm(), weight.grad.norm() + group["weight_decay"] * weight.norm()
                    usable = (length > 0) & (pull > 0)
                    rate = rate * torch.where(usable, group["trust"] * length / pull.clamp(min=1e-30), 1.0)
                state = self.state[weight]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].mul_(group["momentum"]).add_(grad * rate)
                weight.sub_(state["momentum"])


def _sgd(groups, plan):
    return torch.optim.SGD(groups, lr=plan.lr, momentum=plan.momentum)


def _adamw(groups, plan):
    return torch.optim.AdamW(groups, lr=plan.lr)


def _lars(groups, plan):
    return Lars(groups, lr=plan.lr, momentum=plan.momentum)


# (parameter groups, OptimizerPlan) -> torch optimizer
OPTIMIZERS = {"sgd": _sgd, "adamw": _adamw, "lars": _lars}


def optimizer_of(modules: Iterable[torch.nn.Module], plan: OptimizerPlan) -> torch.optim.Optimizer:
    """The torch optimizer of some modules' weights; norms, biases and slopes decay only where the plan says so."""
    weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": plan.weight_decay},
        {
            "params": [weight for weight in weights if weight.ndim <= 1],
            "weight_decay": plan.weight_decay if plan.decay_norms else 0.0,
        },
    ]
    return lookup(OPTIMIZERS, plan.name, "optimizer")(groups, plan)


def _polynomial(progress, num_drops, plan):
    return plan.final_share + (1 - plan.final_share) * (1 - progress) ** plan.power


def _cosine(progress, num_drops, plan):
    return plan.final_share + (1 - plan.final_share) * (1 + math.cos(math.pi * progress)) / 2


def _step(progress, num_drops, plan):
    return plan.factor**num_drops


def _constant(progress, num_drops, plan):
    return 1.0


# (share of the way after the warm-up, milestones that are reached, SchedulePlan) -> share of the learning rate
SCHEDULES = {"polynomial": _polynomial, "cosine": _cosine, "step": _step, "constant": _constant}


def learning_rate(step: int, plan: TrainPlan, *, steps_per_epoch: int, num_steps: int) -> float:
    """The backbone's learning rate at a step (from 0) of a TrainPlan: a line up over the warm-up, then the schedule.

    >>> from zennas.train_plan import TrainPlan
    >>> plan = TrainPlan.parse({"epochs": 10, "schedule": {"warmup_epochs": 2}}, "here")
    >>> [round(learning_rate(step, plan, steps_per_epoch=1, num_steps=10), 4) for step in (0, 1, 2, 6, 9)]
    [0.05, 0.1, 0.1, 0.05, 0.0125]
    >>> schedule = {"name": "step", "warmup_steps": 2, "milestone_steps": [4, 8]}
    >>> plan = TrainPlan.parse({"steps": 10, "schedule": schedule}, "here")
    >>> [round(learning_rate(step, plan, steps_per_epoch=3, num_steps=10), 4) for step in (0, 1, 3, 4, 8)]
    [0.05, 0.1, 0.1, 0.01, 0.001]
    """
    full = plan.optimizer.lr * plan.batch / plan.optimizer.lr_batch
    warmup = plan.schedule.num_warmup(steps_per_epoch)
    if step < warmup:
        return full * (step + 1) / warmup
    progress = (step - warmup) / max(1, num_steps - warmup)
    shape = lookup(SCHEDULES, plan.schedule.name, "schedule")
    return full * shape(progress, plan.schedule.num_drops(step, steps_per_epoch), plan.schedule)
