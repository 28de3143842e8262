"""How long the stages of a run take: what is left for the search, and what the run says of it at its beginning."""

import time

from zennas.progress import duration
from zennas.search.funnel import knows

EXPORT_S = 5.0  # building, exporting and proving one network; measured 1 s (IR-18) to 8 s ([3,25,88,3])
FINALIST_S = 14.0  # the same for a finalist, with six candidates scored again; measured 12 to 20 s at 120 blocks
PUBLISH_S = 5.0
PART_S = 0.45  # one part of the latency table
EVIDENCE_S = 0.018  # one other score of one block, on a core; measured 0.016 to 0.018 from 24 to 120 blocks
# Of the minutes that the search itself gets, however slow the device is: families score thirty times as many a second.
MIN_SEARCH_SHARE, MIN_FAMILIES_SHARE = 0.2, 0.12


def search_seconds(run):
    """What is left of the minutes for the search, once the finals have theirs; None when candidates are counted."""
    if run.plan.candidates is not None:
        return None
    return left_for_search(run, finals_seconds(run))


def left_for_search(run, others_s):
    """What the search gets of the minutes when everything else that is to come takes `others_s`."""
    share = MIN_FAMILIES_SHARE if knows(run.space, run.plan) else MIN_SEARCH_SHARE
    least_s = 60 * run.plan.minutes * share - run.ledger.state["search_s"]
    return max(least_s, run.deadline - time.monotonic() - others_s)


def finalist_seconds(run):
    """What one finalist is expected to take: scored again with others of its slot, exported, measured whole."""
    return FINALIST_S + run.protocol.num_runs * run.budget.budget_ms / 1000


def finals_seconds(run):
    """What the finals are expected to take: a network measured whole per winner, and one that is over the budget; then
    what the other scores say of winners and baselines."""
    blocks = [one.num_blocks for one in run.space.baselines.values()]
    deepest = min(run.space.limits.max_blocks, sum(span.high for span in run.space.depths))
    blocks += [deepest] * run.plan.num_winners  # Zen-Score asks for all there are
    evidence_s = EVIDENCE_S * sum(blocks) * len(run.plan.evidence.names) / run.workers.num_workers
    return finalist_seconds(run) * (run.plan.num_winners + 1) + evidence_s + PUBLISH_S


def say_how_long(run):
    """What the run expects to take from here, stage by stage."""
    table_s = PART_S * len(run.table.missing_for(run.space))
    todo = sum(one.key not in run.ledger.measured for one in run.space.baselines.values())
    # Hand-made networks take less than the budget, most of them much less.
    baselines_s = todo * (EXPORT_S + run.protocol.num_runs * run.budget.budget_ms / 2000)
    parts = {"latency table": table_s, "baselines": baselines_s, "finals": finals_seconds(run)}
    if run.plan.candidates is None:
        parts["search"] = left_for_search(run, sum(parts.values()))
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds > 0)
    total = duration(sum(parts.values())) + (f" and {run.plan.candidates} candidates" if run.plan.candidates else "")
    run.progress.say(f"   time  about {total} from here: {listed}")
