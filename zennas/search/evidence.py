"""Other scores of finalists and baselines; none needs labels.

Zen-Score says next to nothing about which of two networks of equal cost is the better one, and no other score here has
said it on every table (experiments/equal-latency). So they order nothing, unless a plan asks for it.
"""

from zennas.search.measured import Measured
from zennas.search.stages import Searched
from zennas.track import EvidencePlan


def gather(searched: Searched, entries: list[Measured]) -> dict:
    """{key: {score's name: value, None where it failed}} of measured networks, by the rows of the plan's `evidence`:
    all of them where they are asked for (--evidence), else the one that ranks winners, if any, of finalists alone.

    Kept in run.json, so that none is computed twice. Scored by the run's workers, with nothing measured beside them.
    """
    plan, known = searched.plan.evidence, dict(searched.ledger.state.get("evidence", {}))
    names = plan.names if searched.evidence else [name for name in plan.names if name == plan.rank_by]
    asked = [entry for entry in entries if searched.evidence or not entry.is_baseline]
    todo = {entry.key: [name for name in names if name not in known.get(entry.key, {})] for entry in asked}
    asked = [entry for entry in asked if todo[entry.key]]
    if not asked:
        return known
    searched.progress.begin("asking the other scores about the networks")
    count = searched.progress.counting("networks")
    handles = [
        [
            searched.workers.submit(
                [entry.candidate], plan.of(name), shape=searched.space.shape, seed=searched.plan.seed
            )
            for name in todo[entry.key]
        ]
        for entry in asked
    ]
    for index, (entry, of_entry) in enumerate(zip(asked, handles, strict=True)):
        values = dict(known.get(entry.key, {}))
        for name, handle in zip(todo[entry.key], of_entry, strict=True):
            (scored,) = searched.workers.results(handle, 1)
            values[name] = None if scored.value is None else round(scored.value, 5)
            if scored.error is not None:
                searched.progress.say(f"warning: {entry.name}: no {name}: {scored.error}", style="yellow")
        known[entry.key] = {name: values[name] for name in plan.names if name in values}
        count(index + 1, len(asked))
    searched.progress.end()
    searched.ledger.save(evidence=known)
    return known


def ranked(winners: list[Measured], evidence: dict, plan: EvidencePlan) -> list[Measured]:
    """The winners (best score first), those that score alike in the order of the plan's evidence.

    Alike: within plan.near_pct of the best. One whose evidence is missing comes last among them.
    """
    if not winners or plan.rank_by is None:
        return winners
    best = winners[0].score_mean
    least = best - abs(best) * plan.near_pct / 100
    alike = [entry for entry in winners if entry.score_mean >= least]

    def evidence_of(entry):
        value = evidence.get(entry.key, {}).get(plan.rank_by)
        return float("-inf") if value is None else value

    return [*sorted(alike, key=evidence_of, reverse=True), *(entry for entry in winners if entry not in alike)]
