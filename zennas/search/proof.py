"""How far a run's networks are from the proven optimum, and the closed form from the measured scores."""

import numpy as np

from zennas.search.measured import Measured, SpentCost
from zennas.search.stages import Searched


def optimum_of(searched: Searched) -> dict | None:
    """What a run says of the optimum of its whole space, as run.json has it; None where nothing was proven.

    All its numbers come from the closed form and the table. `bound` is what no candidate within the budget exceeds by
    the relaxation alone, `closed_form` what the optimum itself has.
    """
    return _plain(searched, searched.funnel and searched.funnel.optimum)


def optima_of(searched: Searched) -> list[dict]:
    """What a run says of each of its bands, as run.json has it: its ends, its optimum as `optimum_of`, and why that is
    not proven; [] without bands.
    """
    if searched.bands.ends is None:
        return []
    return [
        {
            "band": band.name,
            "text": band.text,
            "least_effectiveness": round(max(0.0, band.least), 6),
            "optimum": _plain(searched, proven.optimum),
            "why_not": proven.why_not,
        }
        for band, proven in zip(searched.bands.bands, searched.funnel.proven, strict=True)
    ]


def _plain(searched, optimum):
    if optimum is None:
        return None
    factor = searched.predictor.factor_of(optimum.candidate)
    return {
        "candidate": optimum.candidate.plain(),
        "text": optimum.candidate.text,
        "closed_form": round(optimum.score, 4),
        "bound": round(optimum.bound, 4),
        "predicted_ms": round(optimum.costs[0] * factor, 4),
        "num_boxes": optimum.num_boxes,
    }


def with_gap(searched: Searched, entry: Measured) -> Measured:
    """A measured network, with its band, its closed form, its distance from that band's optimum (points and per cent of
    the score) and what it costs of the run's other budgets.

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
    place = searched.bands.of_candidate(candidate)
    if (optimum := searched.funnel.proven[place].optimum) is not None:
        below = optimum.score - float(closed)
        gap, gap_pct = round(below, 4), round(100 * below / optimum.score, 4)
    name = searched.bands.bands[place].name
    band = {"band": name} if name else {}
    return entry.changed(closed_form=round(float(closed), 4), gap=gap, gap_pct=gap_pct, **band)


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
