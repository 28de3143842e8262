"""How long the stages of a run take: what is left for the search, and what the run says of it at its beginning.

The seconds below were measured where IR-100 takes NOMINAL_MS_PER_GMAC on one core. Another machine's are scaled by its
own speed as soon as that is known, and by how long its table and its baselines took once those are measured.
"""

import math

from zennas.latency.protocol import FEW_RUNS
from zennas.latency.table import STACK
from zennas.progress import duration
from zennas.search.funnel import knows
from zennas.search.stages import Prepared
from zennas.search.winners import FAR_PCT, kept_baseline
from zennas.space.cost import cost, part_cost

NOMINAL_MS_PER_GMAC = 20.4
# Of a core, while the other one does the same:
PART_S, PART_MPARAM_S = 0.18, 0.05  # one network of the latency table, without its runs; and for a million weights
EXPORT_S, EXPORT_BLOCK_S, EXPORT_MPARAM_S = 0.1, 0.09, 0.1  # exporting a network; and for a block, a million weights
SCORE_BLOCK_S = 0.008  # one block's score with the repeats of the finals
# Of all cores:
OPEN_BLOCK_S = 0.012  # opening a file to be timed, for each block
PUBLISH_S = 6.0
RESCORED = 6  # networks that are scored again for each finalist
# Finalists that turn out to be over the budget: the table is off by 2 to 4 % in a band, each time by its own.
OVER_OF_ONE, OVER_OF_BANDS = 1, 2
EVIDENCE_S = 0.018  # one other score of one block, on a core; measured 0.016 to 0.018 from 24 to 120 blocks
PART_OVERHEAD = 1.2  # a part's milliseconds per multiply-accumulate, in those of a network: its caches are cold
AGAIN = 0.25  # of a table's time, for the parts that are doubted and measured twice more: of one in eight
# Of the minutes that the search itself gets, however slow the device is. Members of one trunk are scored thirty
# times as fast.
MIN_SEARCH_SHARE, MIN_TRUNKS_SHARE = 0.2, 0.12
LEAST_PACE, MOST_PACE = 0.5, 3.0
WORTH_SAYING = 0.1  # a forecast that changes by less is not said again


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
    blocks, rescored_s = _deepest(prepared), RESCORED * SCORE_BLOCK_S * _deepest(prepared)
    busy_s = OPEN_BLOCK_S * blocks + (_finalist_export_s(prepared) + rescored_s) / side_by_side(prepared)
    return busy_s * _pace(prepared) + prepared.protocol.num_runs * prepared.budget.budget_ms / 1000


def finals_seconds(prepared: Prepared) -> float:
    """What the finals are expected to take: a network measured whole per winner, and those that are over the budget,
    each followed by another that is exported alone; then what other scores say, where they are asked, and the page.
    """
    plan, blocks = prepared.plan, _deepest(prepared) * prepared.plan.num_winners
    names = [name for name in plan.evidence.names if prepared.evidence or name == plan.evidence.rank_by]
    blocks += sum(each.num_blocks for each in prepared.baselines.values()) if prepared.evidence else 0
    scores_s = EVIDENCE_S * blocks * len(names) / side_by_side(prepared)
    num_over = OVER_OF_BANDS if plan.bands else OVER_OF_ONE
    alone_s = num_over * _finalist_export_s(prepared) * (1 - 1 / side_by_side(prepared))
    finalists_s = finalist_seconds(prepared) * (plan.num_winners + num_over)
    return finalists_s + (alone_s + scores_s + PUBLISH_S) * _pace(prepared)


def is_hurried(prepared: Prepared) -> bool:
    """Whether finals from the beginning would take longer than the minutes."""
    return prepared.clock.left_s < finals_seconds(prepared)


def knows_the_machine(prepared: Prepared) -> bool:
    """Whether anything that was measured says how fast the machine is."""
    return _ms_per_mac(prepared) is not None


def say_how_long(prepared: Prepared) -> None:
    """Say what the run is expected to take from here, stage by stage, and note it in run.json. Said again, it is a
    correction, and says so where it is worth it.
    """
    plan, ledger = prepared.plan, prepared.ledger
    parts = {
        "latency table": table_seconds(prepared),
        "baselines": baselines_seconds(prepared),
        "finals": finals_seconds(prepared),
    }
    if plan.candidates is None:
        parts["search"] = left_for_search(prepared, sum(parts.values()))
    here_s, ahead_s = prepared.clock.total_s, sum(parts.values())
    earlier = ledger.state.get("promised", [])
    ledger.save(promised=[*earlier, {"at_s": round(here_s, 1), "total_s": round(here_s + ahead_s, 1)}])
    before_s = earlier[-1]["total_s"] if earlier else None
    if before_s is not None and abs(here_s + ahead_s - before_s) <= WORTH_SAYING * before_s:
        return
    listed = ", ".join(f"{name} {duration(seconds)}" for name, seconds in parts.items() if seconds > 0.5)
    total = duration(ahead_s) + (f" and {plan.candidates} candidates" if plan.candidates else "")
    text = f"about {total} from here: {listed}"
    if before_s is not None:
        text += f"; {duration(here_s + ahead_s)} in all, corrected from {duration(before_s)} by what was measured"
    prepared.progress.say(f"   time  {text}")


def table_seconds(prepared: Prepared) -> float:
    """What the missing rows of the latency table are expected to take."""
    missing, runs = prepared.predictor.table.missing_for(prepared.space), prepared.plan.table_runs + 1
    macs = sum(part.macs * (1 + STACK * part.keeps_shape) for part in missing)
    mparams = sum(part_cost(*part).params * (1 + STACK * part.keeps_shape) for part in missing) / 1e6
    ready_s = PART_S * sum(1 + part.keeps_shape for part in missing) + PART_MPARAM_S * mparams
    timed_s = runs * macs * PART_OVERHEAD * (_ms_per_mac(prepared) or 0.0) / 1000
    return (1 + AGAIN) * (ready_s / side_by_side(prepared) * _pace(prepared) + timed_s)


def baselines_seconds(prepared: Prepared) -> float:
    """What the baselines that are not measured yet are expected to take."""
    todo = [each for each in prepared.baselines.values() if each.key not in prepared.ledger.measured]
    new = [
        each for each in todo if kept_baseline(prepared, each) is None
    ]  # of the others nothing is made but their score
    shape = prepared.space.shape
    busy_s = sum(_export_s(each.num_blocks, cost(each, shape).params) for each in new)
    busy_s += SCORE_BLOCK_S * sum(each.num_blocks for each in todo)
    timed_s = sum(_timed_s(prepared, each) for each in todo)
    return busy_s * _pace(prepared) / side_by_side(prepared) + timed_s


def side_by_side(prepared: Prepared) -> int:
    """How many tasks that need not be quiet are done at one time."""
    return prepared.workers.num_workers if prepared.workers.local else 1


def note_pace(prepared: Prepared, expected_s: float, taken_s: float) -> None:
    """Take note of how long the table and the baselines took, beside what was expected of them: what is to come is
    scaled by it. Where hardly anything was to be done, that says nothing.
    """
    if expected_s < 10:
        return
    pace = min(MOST_PACE, max(LEAST_PACE, taken_s / expected_s))
    prepared.ledger.save(pace=round(pace * prepared.ledger.state.get("pace", 1.0), 3))


def _timed_s(prepared, candidate):
    """Measuring a baseline whole: all runs near the budget, a few far from it, none where this machine kept it."""
    shape, protocol, table = prepared.space.shape, prepared.protocol, prepared.predictor.table
    if kept_baseline(prepared, candidate) is not None:
        return 0.0
    if table.covers(candidate, shape):
        ms = table.predict(candidate, shape)
    else:
        ms = cost(candidate, shape).macs * (_ms_per_mac(prepared) or 0.0)
    is_near = abs(math.log(max(ms, 1e-6) / prepared.budget.budget_ms)) <= math.log(1 + FAR_PCT / 100)
    runs = protocol.num_runs if is_near else min(FEW_RUNS, protocol.num_runs)
    return runs * ms / 1000 + OPEN_BLOCK_S * candidate.num_blocks * _pace(prepared)


def _ms_per_mac(prepared):
    """Of the track's reference network, where it was measured here; else of the table's rows; else None."""
    reference, rows = prepared.track.budget.reference, prepared.predictor.table.rows
    if prepared.budget.reference_ms is not None:
        return prepared.budget.reference_ms / cost(reference.candidate, reference.shape).macs
    macs = sum(part.macs for part in rows)
    return sum(rows.values()) / macs / PART_OVERHEAD if macs else None


def _pace(prepared):
    """By how much everything that is not timed takes longer than noted above."""
    ms_per_mac = _ms_per_mac(prepared)
    slowness = 1.0 if ms_per_mac is None else ms_per_mac * 1e9 / NOMINAL_MS_PER_GMAC
    return prepared.ledger.state.get("pace", 1.0) * slowness


def _export_s(num_blocks, params):
    return EXPORT_S + EXPORT_BLOCK_S * num_blocks + EXPORT_MPARAM_S * params / 1e6


def _finalist_export_s(prepared):
    """Exporting a finalist: the deepest, with the weights that the largest baseline would have at the budget."""
    ms_per_mac, space = _ms_per_mac(prepared), prepared.space
    costs = [cost(each, space.shape) for each in space.baselines.values()]
    if not costs or ms_per_mac is None:
        return _export_s(_deepest(prepared), 0)
    largest = max(costs, key=lambda each: each.macs)
    return _export_s(_deepest(prepared), largest.params * prepared.budget.budget_ms / (largest.macs * ms_per_mac))


def _deepest(prepared):
    """Blocks of the deepest network: Zen-Score asks for all there are."""
    space = prepared.space
    return min(space.limits.max_blocks or math.inf, sum(span.high for span in space.depths))
