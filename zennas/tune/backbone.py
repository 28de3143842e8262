"""Depth against width: the candidates that cost what a given one costs."""

from typing import Any

import numpy as np

from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.space import Space

STEPS = 256  # multipliers tried between two ends; far more than there are different depths or widths


def equal_macs(base: Candidate, space: Space, plan: Any) -> tuple[Candidate, ...]:
    """Candidates with the multiply-accumulates of `base`, within plan.macs_tolerance_pct, the shallowest first; `base`
    is one.

    Every depth of `base` is multiplied by one factor from plan.depth (a BackboneSpace) and rounded; then stem and
    widths by another, so that the multiply-accumulates come out, as far as the steps of the space let them. Those that
    the space does not hold are left out. Equal multiply-accumulates are not equal latency: measure what you choose.
    Source: the backbone space of Comprehensive Search (arXiv:2208.13600), depth and width of a MobileNet at equal
    FLOPs; that depth is drawn and width follows is our way to keep them equal.
    UserError where `base` is not in the space, or nothing else comes out.
    """
    if reason := space.violation(base):
        raise UserError(
            f"{base.text}: {reason}: not in space {space.name}, in which depth and width are to be searched"
        )
    factors = np.geomspace(plan.depth.low, plan.depth.high, STEPS)
    shapes = {base.depths: base}
    for depths in {tuple(max(1, round(depth * factor)) for depth in base.depths) for factor in factors}:
        if depths in shapes:
            continue
        nearest = min(_widths(base, space, depths), key=lambda candidate: abs(_off_pct(candidate, base, space)))
        if space.contains(nearest) and abs(_off_pct(nearest, base, space)) <= plan.macs_tolerance_pct:
            shapes[depths] = nearest
    if len(shapes) == 1:
        raise UserError(
            f"space {space.name}: no other depth than that of {base.text} keeps its multiply-accumulates within "
            f"{plan.macs_tolerance_pct:g} %; widen tune.backbone or the space, or search the others alone (--only)"
        )
    return tuple(sorted(shapes.values(), key=lambda candidate: (candidate.num_blocks, candidate.depths)))


def _widths(base, space, depths):
    """The base with other depths and every multiple of its widths that the space has, each once."""
    seen = {}
    for factor in np.geomspace(1 / 4, 4, STEPS):
        stem = space.stem.nearest(base.stem * factor)
        widths = tuple(span.nearest(width * factor) for span, width in zip(space.widths, base.widths, strict=True))
        seen[stem, widths] = None
    return [base.model_copy(update={"stem": stem, "widths": widths, "depths": depths}) for stem, widths in seen]


def _off_pct(candidate, base, space):
    """How far its multiply-accumulates are from those of the base, in per cent of these."""
    return 100 * (cost(candidate, space.shape).macs / cost(base, space.shape).macs - 1)
