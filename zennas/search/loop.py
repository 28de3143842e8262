"""The search itself: the table corrected by the baselines, the optimum proven, then batch after batch to the end."""

import time
from collections.abc import Mapping

from zennas.latency.budget import keep_network
from zennas.latency.protocol import Measurement, ms_text
from zennas.progress import duration
from zennas.search.bands import Bands
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
            known = {"limits": predictor.limits, "share": prepared.share, "ends": ledger.state.get("bands")}
            funnel = Funnel(space, plan, predictor.table.part_ms, **known)
        prepared.progress.end()
    if corrections := ledger.corrections:
        factor, factors = corrections[-1]["factor"], corrections[-1].get("factors", {})
        limits = [limit.corrected(factors.get(limit.device, 1.0)) for limit in predictor.limits]
        of_bands = {"bands": funnel and funnel.bands, "of_bands": corrections[-1].get("of_bands")}
        predictor.correct(factor, limits, **of_bands)
    else:
        factor = correction(_calibration(prepared), prepared.budget.budget_ms)
        _correct_table(prepared, factor, why="baselines", after_batch=-1)
    _prove(prepared, funnel)
    predictor.check()
    front = Front(ledger.rows, funnel.bands if funnel else Bands(space))
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


def correct(searched: Searched, factor: float, *, of_bands: Mapping[str, float], why: str) -> None:
    """Correct the table's predictions from here on; the population is chosen again under the new one. of_bands: the
    factors of bands that have one of their own.
    """
    after_batch = searched.batches.next_index - 1
    _correct_table(searched, factor, why=why, after_batch=after_batch, bands=searched.bands, of_bands=of_bands)
    _prove(searched, searched.funnel)
    searched.batches.rebuild()


def _correct_table(prepared, factor, *, why, after_batch, bands=None, of_bands=None):
    """Correct the predictions, here and on the further devices, and write down that it was done after this batch."""
    ledger, predictor = prepared.ledger, prepared.predictor
    limits = [_corrected(limit, ledger) for limit in predictor.limits]
    predictor.correct(factor, limits, bands=bands, of_bands=of_bands)
    ledger.event(
        why=why,
        factor=factor,
        **({"of_bands": of_bands} if of_bands else {}),
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
    """Prove the optimum of every band under the corrected budget, where there is a closed form of the score, and say
    those that are others than before.
    """
    if funnel is None:
        return
    before, predictor, progress = funnel.proven, prepared.predictor, prepared.progress
    progress.begin("proving the optimum")
    with prepared.clock.timed("proving the optimum"):
        budget_ms = prepared.budget.budget_ms
        funnel.set_budget(
            budget_ms / predictor.factor,
            of_bands={name: budget_ms / factor for name, factor in predictor.of_bands.items()},
            margin_pct=prepared.plan.margin_pct,
            limits=predictor.limits,
        )
    progress.end()
    if funnel.bands.ends != prepared.ledger.state.get("bands"):
        prepared.ledger.save(bands=funnel.bands.ends)
    for place, (band, proven) in enumerate(zip(funnel.bands.bands, funnel.proven, strict=True)):
        optimum, name = proven.optimum, f"{band.text}: " if band.name else ""
        if optimum is None:
            progress.say(f"optimum  {name}not proven: {proven.why_not or 'no candidate is within the limits'}")
        elif len(before) <= place or not (known := before[place].optimum) or known.candidate != optimum.candidate:
            where = "of this band" if band.name else "in the space"
            progress.say(
                f"optimum  {name}{optimum.candidate.text}: closed form {optimum.score:.2f} at "
                f"{ms_text(optimum.costs[0] * predictor.factor_of(optimum.candidate))}; "
                f"nothing else {where} has more within the budget, as table and closed form have it"
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
    latency_ms = row.predicted_ms * searched.predictor.factor_of(row.candidate)
    searched.store.add_scored(row, latency_ms=latency_ms, budget_ms=searched.budget.budget_ms)


def _state_of(searched):
    """{name: text} that the progress display shows of a search."""
    counters = searched.ledger.counters
    rejected = {
        name.removeprefix("rejected: "): count for name, count in counters.items() if name.startswith("rejected")
    }
    state = {name: counters[name] for name in ("screened", "seen") if counters[name]}
    state |= {"scored": counters["scored"], "failed": counters["failed"]}
    state |= {f"rejected ({why})": count for why, count in sorted(rejected.items())}
    bests = _bests_of(searched)
    return state | ({"best": bests} if bests else {})


def _bests_of(searched):
    """The best score so far, of each band by its name."""
    population = searched.batches.population
    if len(searched.bands.bands) == 1:
        return f"{population.best[0]:.2f}" if population.best else ""
    named = zip(searched.bands.bands, population.bests, strict=True)
    return " ".join(f"{band.name} {best[0]:.2f}" for band, best in named if best)
