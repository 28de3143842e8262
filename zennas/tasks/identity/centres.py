"""Optimizers of class centres: they read and write the sampled rows alone.

torch.optim would make a gradient of all rows and decay the momentum of those that no image was compared with: at two
million identities that is most of the memory and most of the time of a step, and it moves centres that were not looked
at.
"""

import inspect

import torch

from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.track import lookup
from zennas.train_plan import TRUST, OptimizerPlan

# Rows worked on at a time: on a processor 2 MB of 512-d float32, which its cache holds; on a GPU enough to keep it
# busy.
BLOCK_ROWS = {"cpu": 1024, "cuda": 1 << 17}


# R sampled rows (class centres of this rank, or their sub-centres), D embedding size
def sgd(weight_RD, grad_RD, state, *, lr, ratio, momentum=0.9, weight_decay=5e-4):
    """Stochastic gradient descent as in torch.optim.SGD, without Nesterov. Changes all its tensors in place."""
    state["momentum"].mul_(momentum).add_(grad_RD).add_(weight_RD, alpha=weight_decay)
    weight_RD.sub_(state["momentum"], alpha=lr)


def adamw(weight_RD, grad_RD, state, *, lr, ratio, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.1):
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) whose bias correction counts the steps of each row."""
    state["steps"].add_(1)
    state["mean"].lerp_(grad_RD, 1 - beta1)
    state["square"].mul_(beta2).addcmul_(grad_RD, grad_RD, value=1 - beta2)
    mean_RD = state["mean"] / (1 - beta1 ** state["steps"])
    root_RD = (state["square"] / (1 - beta2 ** state["steps"])).sqrt_().add_(eps)
    weight_RD.mul_(1 - lr * weight_decay).addcdiv_(mean_RD, root_RD, value=-lr)


def lars(weight_RD, grad_RD, state, *, lr, ratio, momentum=0.9, weight_decay=5e-4, trust=TRUST):
    """LARS (You et al. 2017, arXiv:1708.03888, eq. 6) with one ratio for all sampled rows of all ranks."""
    rate = lr * trust * ratio
    state["momentum"].mul_(momentum).add_(grad_RD, alpha=rate).add_(weight_RD, alpha=rate * weight_decay)
    weight_RD.sub_(state["momentum"])


# name -> (function, {state: whether it has D numbers a row rather than one})
CENTRE_OPTIMIZERS = {
    "sgd": (sgd, {"momentum": True}),
    "adamw": (adamw, {"mean": True, "square": True, "steps": False}),
    "lars": (lars, {"momentum": True}),
}


def centre_knobs(plan: OptimizerPlan) -> dict[str, float]:
    """What the class centres' optimizer of the same name takes of the plan."""
    knobs = {"weight_decay": plan.weight_decay}
    return knobs if plan.name == "adamw" else knobs | {"momentum": plan.momentum}


class CentreOptimizer:
    """The rule by which class centres move, with its state of every centre of this rank."""

    def __init__(
        self,
        name: str,
        knobs: dict | None = None,
        *,
        num_rows: int,
        embedding_size: int,
        device: str | torch.device = "cpu",
    ):
        self.name = name
        self.function, kinds = lookup(CENTRE_OPTIMIZERS, name, "optimizer")
        allowed = set(inspect.signature(self.function).parameters) - {"weight_RD", "grad_RD", "state", "lr", "ratio"}
        self.knobs = dict(knobs or {})
        if unknown := set(self.knobs) - allowed:
            raise UserError(
                f"optimizer '{name}': knob '{min(unknown)}' is not known; known: {', '.join(sorted(allowed))}"
            )
        self.state = {
            kind: torch.zeros(num_rows, embedding_size if wide else 1, device=device) for kind, wide in kinds.items()
        }

    def step(
        self,
        centre_ND: torch.Tensor,
        unit_RD: torch.Tensor,
        grad_RD: torch.Tensor,
        *,
        row_R: torch.Tensor | None,
        lr: float,
        ranks: Ranks,
    ) -> None:
        """Move the rows `row_R` of centre_ND (None: all of them).

        unit_RD: what they were divided by their lengths; grad_RD: the gradient of those, which is turned into the
        gradient of the centres here, in place, a block at a time.
        """
        blocks = blocks_of(len(unit_RD), unit_RD.device)
        if is_lars := self.function is lars:
            squares = torch.zeros(2, dtype=torch.float64, device=grad_RD.device)
            for block in blocks:
                weight_RD = centre_ND[block if row_R is None else row_R[block]]
                _through_normalise(grad_RD[block], unit_RD[block], weight_RD)
                squares += torch.stack([part.square().sum() for part in (weight_RD, grad_RD[block])])
            ratio = _ratio(ranks.sum_(squares), self.knobs)
        for block in blocks:
            rows = block if row_R is None else row_R[block]
            weight_RD, state = centre_ND[rows], {kind: values[rows] for kind, values in self.state.items()}
            if not is_lars:
                _through_normalise(grad_RD[block], unit_RD[block], weight_RD)
            self.function(weight_RD, grad_RD[block], state, lr=lr, ratio=ratio if is_lars else None, **self.knobs)
            if row_R is not None:  # a slice was changed in place
                for kind, values in state.items():
                    self.state[kind].index_copy_(0, rows, values)
                centre_ND.index_copy_(0, rows, weight_RD)


def blocks_of(num_rows: int, device: torch.device) -> list[slice]:
    """Slices that cover so many rows, each as large as suits the device."""
    size = BLOCK_ROWS[device.type]
    return [slice(start, min(start + size, num_rows)) for start in range(0, num_rows, size)]


def _through_normalise(grad_RD, unit_RD, weight_RD):
    """The gradient of w, in place, from that of w / |w|: what lies along w does not turn it."""
    along_R1 = (grad_RD * unit_RD).sum(1, keepdim=True)
    grad_RD.addcmul_(unit_RD, along_R1, value=-1.0).mul_(inverse_norm(weight_RD))


def inverse_norm(weight_RD: torch.Tensor) -> torch.Tensor:
    """1 / |w| of each row, [R, 1]; a centre of length zero has no direction, and a cosine of zero with everything."""
    return torch.linalg.vector_norm(weight_RD, dim=1, keepdim=True).clamp_(min=1e-12).reciprocal_()


def _ratio(squares, knobs):
    """|w| / (|g| + weight decay |w|) over the sampled rows of all ranks."""
    weight, grad = squares.sqrt().tolist()
    decay = knobs.get("weight_decay", inspect.signature(lars).parameters["weight_decay"].default)
    return weight / (grad + decay * weight) if weight and grad else 1.0
