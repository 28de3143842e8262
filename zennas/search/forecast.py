"""How long the stages of a run take: what is left for the search, and what the run says of it at its beginning."""

from zennas.progress import duration
from zennas.search.funnel import knows
from zennas.search.stages import Prepared

EXPORT_S = 5.0  # building, exporting and proving one network; measured 1 s (IR-18) to 8 s ([3,25,88,3])
FINALIST_S = 14.0  # the same for a finalist, with six candidates scored again; measured 12 to 20 s at 120 blocks
PUBLISH_S = 5.0
PART_S = 0.45  # one part of the latency table
EVIDENCE_S = 0.018  # one other score of one block, on a core; measured 0.016 to 0.018 from 24 to 120 blocks
# Of the minutes that the search itself gets, however slow the device is. Members of one trunk are scored thirty
# times as fast.
MIN_SEARCH_SHARE, MIN_TRUNKS_SHARE = 0.2, 0.12


def search_seconds(prepared: Prepared) -> float | None:
    """What is left of the minutes for the search, once the finals have theirs; None when candidates are counted."""
    if prepared.plan.candidates is not None:
        return None
    return left_for_search(prepared, finals_seconds(prepared))


def left_for_search(prepared: Prepared, rest_s: float) -> float:
    """What the search gets of the minutes when everything else that is to come takes `rest_s`."""
    share = MIN_TRUNKS_SHARE if knows(prepared.space, prepared.plan) else MIN_SEARCH_SHARE
    least_s = 60 * prepared.plan.minutes * share - prepared.ledger.state["search_s"]
    return max(least_s, prepared.clock.left_s - rest_s)


def finalist_seconds(prepared: Prepared) -> float:
    """What one finalist is expected to take: scored again with others of its slot, exported, measured whole."""
    return FINALIST_S + prepared.protocol.num_runs * prepared.budget.budget_ms / 1000


def finals_seconds(prepared: Prepared) -> float:
    """What the finals are expected to take: a network measured whole per winner, and one that is over the budget; then
    what the other scores say of winners and baselines.
    """
    plan, space = prepared.plan, prepared.space
    blocks = [baseline.num_blocks for baseline in space.baselines.values()]
    deepest = min(space.limits.max_blocks, sum(span.high for span in space.depths))
    blocks += [deepest] * plan.num_winners  # Zen-Score asks for all there are
    evidence_s = EVIDENCE_S * sum(blocks) * len(plan.evidence.names) / prepared.workers.num_workers
    return finalist_seconds(prepared) * (plan.num_winners + 1) + evidence_s + PUBLISH_S


def is_hurried(prepared: Prepared) -> bool:
    """Whether finals from the beginning would take longer than the minutes."""
    return prepared.clock.left_s < finals_seconds(prepared)


def say_how_long(prepared: Prepared) -> None:
    """Say what the run is expected to take from here, stage by stage."""
    plan, space = prepared.plan, prepared.space
    table_s = PART_S * len(prepared.predictor.table.missing_for(space))
    todo = sum(baseline.key not in prepared.ledger.measured for baseline in space.baselines.values())
    # Hand-made networks take less than the budget, most of them much less.
    baselines_s = todo * (EXPORT_S + prepared.protocol.num_runs * prepared.budget.budget_ms / 2000)
    parts = {"latency table": table_s, "baselines": baselines_s, "finals": finals_seconds(prepared)}
    if plan.candidates is None:
        parts["search"] = left_for_search(prepared, sum(parts.values()))
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds > 0)
    total = duration(sum(parts.values())) + (f" and {plan.candidates} candidates" if plan.candidates else "")
    prepared.progress.say(f"   time  about {total} from here: {listed}")
