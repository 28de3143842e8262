"""The search itself: the table corrected by the baselines, the optimum proven, then batch after batch to the end."""

import time

from zennas.latency.budget import keep_network
from zennas.latency.protocol import Measurement
from zennas.progress import duration
from zennas.search.batches import Batches
from zennas.search.cost_limits import CostLimit
from zennas.search.forecast import search_seconds
from zennas.search.front import Front
from zennas.search.funnel import Funnel, knows
from zennas.search.ledger import Ledger
from zennas.search.scored import Row
from zennas.search.stages import Prepared, Searched, onwards
from zennas.search.storage import PATIENCE_S
from zennas.search.winners import correction, kept_baseline
from zennas.space.shape import height_and_width, px_text


def search(prepared: Prepared) -> Searched:
    """Begin a search or take up one that was stopped, and go on until its time is over or its candidates are scored."""
    searched = begin(prepared)
    evolve(searched, seconds=search_seconds(searched), num_scored=searched.num_asked)
    with searched.clock.timed("waiting for the study"):
        searched.store.drain(PATIENCE_S)  # nothing of ours beside the measurements
    searched.store.check()
    return searched


def begin(prepared: Prepared) -> Searched:
    """The search as its ledger has it: corrected by the baselines, or as it was corrected before. UserError where the
    budget is possible for no candidate.
    """
    space, plan, ledger, predictor = prepared.space, prepared.plan, prepared.ledger, prepared.predictor
    funnel = None
    if knows(space, plan):
        prepared.progress.begin(f"closed form of the score at {px_text(height_and_width(plan.score.image_px))} px")
        with prepared.clock.timed("proving the optimum"):
            funnel = Funnel(space, plan, predictor.table.part_ms, limits=predictor.limits, share=prepared.share)
        prepared.progress.end()
    if corrections := ledger.corrections:
        factor, factors = corrections[-1]["factor"], corrections[-1].get("factors", {})
        predictor.correct(factor, [limit.corrected(factors.get(limit.device, 1.0)) for limit in predictor.limits])
    else:
        factor = correction(_calibration(prepared), prepared.budget.budget_ms)
        _correct_table(prepared, factor, why="baselines", after_batch=-1)
    _prove(prepared, funnel)
    predictor.check()
    front = Front(ledger.rows)
    batches = Batches(
        space,
        plan,
        ledger,
        lag=prepared.workers.num_workers * plan.batches_in_flight,
        refusal=predictor.refusal,
        fit=predictor.fits,
        predicted_ms=predictor.table_ms,
        funnel=funnel,
        share=prepared.share,
    )
    return onwards(prepared, Searched, funnel=funnel, batches=batches, front=front)


def correct(searched: Searched, factor: float, *, why: str) -> None:
    """Correct the table's predictions from here on; the population is chosen again under the new one."""
    _correct_table(searched, factor, why=why, after_batch=searched.batches.next_index - 1)
    _prove(searched, searched.funnel)
    searched.batches.rebuild()


def _correct_table(prepared, factor, *, why, after_batch):
    """Correct the predictions, here and on the further devices, and write down that it was done after this batch."""
    ledger, predictor = prepared.ledger, prepared.predictor
    predictor.correct(factor, [_corrected(limit, ledger) for limit in predictor.limits])
    ledger.event(
        why=why,
        factor=factor,
        factors={limit.device: limit.factor for limit in predictor.limits if limit.is_measured},
        after_batch=after_batch,
        elapsed_s=round(ledger.state["search_s"], 2),
    )


def _corrected(limit: CostLimit, ledger: Ledger) -> CostLimit:
    """The limit on a further device, its table corrected by what was measured there, finalists before baselines."""
    for entries in (ledger.finalists, ledger.baselines):
        latencies = [entry.by_device[limit.device] for entry in entries if limit.device in entry.by_device]
        if timed := [(latency.measured_ms, latency.table_ms) for latency in latencies if latency.table_ms]:
            return limit.corrected(correction(timed, limit.most))
    return limit


def _calibration(prepared):
    """[(measured ms, ms by the table)] of the baselines, as this machine measured them the first time: the same table
    and the same correction in every run, so that the same seed proposes the same candidates.
    """
    timed = []
    for entry in prepared.ledger.baselines:
        candidate, latency = entry.candidate, entry.latency
        kept = kept_baseline(prepared, candidate)
        if kept is None:
            kept = Measurement(**{name: getattr(latency, name) for name in Measurement.model_fields})
            keep_network(candidate, kept, prepared.space.shape)
        timed.append((kept.measured_ms, latency.table_ms))
    return timed


def _prove(prepared, funnel):
    """Prove the optimum under the corrected budget, where there is a closed form of the score, and say it if it is
    another than before.
    """
    if funnel is None:
        return
    before, predictor, progress = funnel.optimum, prepared.predictor, prepared.progress
    progress.begin("proving the optimum")
    with prepared.clock.timed("proving the optimum"):
        most_ms = prepared.budget.budget_ms / predictor.factor
        funnel.set_budget(most_ms, margin_pct=prepared.plan.margin_pct, limits=predictor.limits)
    progress.end()
    optimum = funnel.optimum
    if optimum is None:
        progress.say(f"optimum  not proven: {funnel.why_not or 'no candidate is within the limits'}")
    elif before is None or before.candidate != optimum.candidate:
        progress.say(
            f"optimum  {optimum.candidate.text}: closed form {optimum.score:.2f} at "
            f"{optimum.costs[0] * predictor.factor:.2f} ms; "
            "nothing else in the space has more within the budget, as table and closed form have it"
        )


def evolve(searched: Searched, *, seconds: float | None = None, num_scored: int | None = None) -> None:
    """Search on, for so many seconds or until so many candidates are scored."""
    if seconds is not None and seconds <= 0:
        return
    batches, store, progress = searched.batches, searched.store, searched.progress
    progress.begin("searching")
    begun, before = time.monotonic(), batches.num_scored

    def show(batches: Batches) -> None:
        elapsed_s = max(1e-3, time.monotonic() - begun)
        rate = (batches.num_scored - before) / elapsed_s
        left_s = seconds - elapsed_s if num_scored is None else (num_scored - batches.num_scored) / max(rate, 1e-3)
        progress.update(_state_of(searched) | {"per second": f"{rate:.1f}", "left": duration(left_s)})

    def take(rows: list[Row]) -> None:
        store.check()
        batches.take_arrivals(store.arrivals())
        for row in rows:
            if row.error is not None:
                store.add_failed(row)
        for row in searched.front.take([row for row in rows if row.error is None]):
            store_scored(searched, row)
        show(batches)

    try:
        with searched.clock.timed("searching"):
            complete = batches.run(searched.workers, seconds=seconds, num_scored=num_scored, on_rows=take, on_wait=show)
    finally:
        progress.end()
    if not complete:
        progress.say("the space holds no more candidates within the budget that were not seen: all of it is searched")
    progress.say("searched: " + ", ".join(f"{name} {text}" for name, text in _state_of(searched).items()))
    searched.ledger.event(why="drained", after_batch=batches.next_index - 1)


def store_scored(searched: Searched, row: Row) -> None:
    """A scored candidate into the study, at its corrected prediction."""
    latency_ms = row.predicted_ms * searched.predictor.factor
    searched.store.add_scored(row, latency_ms=latency_ms, budget_ms=searched.budget.budget_ms)


def _state_of(searched):
    """{name: text} that the progress display shows of a search."""
    counters, best = searched.ledger.counters, searched.batches.population.best
    rejected = {
        name.removeprefix("rejected: "): count for name, count in counters.items() if name.startswith("rejected")
    }
    state = {name: counters[name] for name in ("screened", "seen") if counters[name]}
    state |= {"scored": counters["scored"], "failed": counters["failed"]}
    state |= {f"rejected ({why})": count for why, count in sorted(rejected.items())}
    return state | ({"best": f"{best[0]:.2f}"} if best else {})
