"""How far a run's networks are from the proven optimum, and how far the closed form is from the score: what the run
reports.
"""

import numpy as np

from zennas.search.measured import Measured, SpentCost
from zennas.space.space import genes_of


def optimum_of(run):
    """What a run says of its optimum, as winners.json has it; None where nothing was proven.

    The optimum is that of the closed form under the latency table: every number of it is theirs. `bound` is what no
    candidate within the budget exceeds by the relaxation alone, `closed_form` what the optimum itself has.
    """
    if run.funnel is None or run.funnel.optimum is None:
        return None
    optimum = run.funnel.optimum
    return {
        "candidate": optimum.candidate.plain(),
        "text": optimum.candidate.text,
        "closed_form": round(optimum.score, 4),
        "bound": round(optimum.bound, 4),
        "predicted_ms": round(optimum.costs[0] * run.factor, 4),
        "num_boxes": optimum.num_boxes,
    }


def with_gap(run, entry: Measured) -> Measured:
    """A measured network, with its closed form, its distance from the optimum (points and per cent of the
    score) and what it costs of the run's other budgets.

    The distance is below zero where a network was measured faster than the table says, so that it fits although its
    prediction does not.
    """
    candidate = entry.candidate
    if candidate.block == run.space.block:
        costs = {
            limit.name: SpentCost(cost=round(limit.of(candidate, run.space), 4), most=limit.most)
            for limit in run.others
        }
        entry = entry.changed(other_costs=costs)
    if run.funnel is None or candidate.block != run.space.block:
        return entry.changed(closed_form=None, gap=None, gap_pct=None)
    (closed,) = run.funnel.score.of(run.space, np.array([genes_of(candidate)]))
    gap = gap_pct = None
    if run.funnel.optimum is not None:
        below = run.funnel.optimum.score - float(closed)
        gap, gap_pct = round(below, 4), round(100 * below / run.funnel.optimum.score, 4)
    return entry.changed(closed_form=round(float(closed), 4), gap=gap, gap_pct=gap_pct)


def closed_form_error(run):
    """{num, mean_abs_pct, max_abs_pct} of the closed form against the measured score, over all that was scored; None
    without.
    """
    rows = run.ledger.rows
    place_N = rows.ranked()
    if run.funnel is None or not len(place_N):
        return None
    closed_N = run.funnel.score.of(run.space, rows.genes_NG[place_N])
    error_N = 100 * np.abs(closed_N / rows.score_N[place_N] - 1)
    return {
        "num": len(place_N),
        "mean_abs_pct": round(float(error_N.mean()), 3),
        "max_abs_pct": round(float(error_N.max()), 3),
    }
