"""How far a run's networks are from the proven optimum, and the closed form from the measured scores."""

import numpy as np

from zennas.search.measured import Measured, SpentCost
from zennas.search.stages import Searched


def optimum_of(searched: Searched) -> dict | None:
    """What a run says of its optimum, as run.json has it; None where nothing was proven.

    All its numbers come from the closed form and the table. `bound` is what no candidate within the budget exceeds by
    the relaxation alone, `closed_form` what the optimum itself has.
    """
    if searched.funnel is None or searched.funnel.optimum is None:
        return None
    optimum = searched.funnel.optimum
    return {
        "candidate": optimum.candidate.plain(),
        "text": optimum.candidate.text,
        "closed_form": round(optimum.score, 4),
        "bound": round(optimum.bound, 4),
        "predicted_ms": round(optimum.costs[0] * searched.predictor.factor, 4),
        "num_boxes": optimum.num_boxes,
    }


def with_gap(searched: Searched, entry: Measured) -> Measured:
    """A measured network, with its closed form, its distance from the optimum (points and per cent of the
    score) and what it costs of the run's other budgets.

    The distance is below zero where a network was measured faster than the table says, so that it fits although its
    prediction does not.
    """
    candidate = entry.candidate
    if candidate.kind == searched.space.kind:
        costs = {
            limit.name: SpentCost(cost=round(limit.of(candidate, searched.space), 4), most=limit.most)
            for limit in searched.predictor.limits
        }
        entry = entry.changed(other_costs=costs)
    if searched.funnel is None or candidate.kind != searched.space.kind:
        return entry.changed(closed_form=None, gap=None, gap_pct=None)
    (closed,) = searched.funnel.score.of(searched.space, np.array([candidate.genes]))
    gap = gap_pct = None
    if searched.funnel.optimum is not None:
        below = searched.funnel.optimum.score - float(closed)
        gap, gap_pct = round(below, 4), round(100 * below / searched.funnel.optimum.score, 4)
    return entry.changed(closed_form=round(float(closed), 4), gap=gap, gap_pct=gap_pct)


def closed_form_error(searched: Searched) -> dict | None:
    """{num, mean_abs_pct, max_abs_pct} of the closed form against all measured scores; None without scores."""
    rows = searched.ledger.rows
    place_N = rows.ranked()
    if searched.funnel is None or not len(place_N):
        return None
    closed_N = searched.funnel.score.of(searched.space, rows.genes_NG[place_N])
    error_N = 100 * np.abs(closed_N / rows.score_N[place_N] - 1)
    return {
        "num": len(place_N),
        "mean_abs_pct": round(float(error_N.mean()), 3),
        "max_abs_pct": round(float(error_N.max()), 3),
    }
