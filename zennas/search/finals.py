"""The finals: the best candidates of each band are scored again, measured whole, and become winners or do not.

Nobody becomes a winner on a prediction. Where a measurement shows that the table misjudged its candidate, the table is
corrected, and the search goes on where what it has scored falls short of what is now within the budget.
"""

import collections
import os

import numpy as np

from zennas.latency.budget import export_candidate
from zennas.latency.protocol import ms_text
from zennas.records import first_line
from zennas.run_folder import write_atomically
from zennas.search.evidence import gather, ranked
from zennas.search.forecast import finalist_seconds, is_hurried, side_by_side
from zennas.search.loop import correct, evolve
from zennas.search.measured import Measured, score_seed
from zennas.search.scored import Row
from zennas.search.stages import Searched
from zennas.search.winners import diverse_best, export_all, measure_finalist, measured_correction, metadata
from zennas.space.space import distance

# A prediction further off than this corrects the table, as does every finalist over the budget. Two measurements of one
# network, some minutes apart, differ by 1 to 4 %: less would follow the noise.
MISJUDGED_PCT = 2.0
# Below the proven optimum, after a correction: from here on the search goes on, where there is time or where there is
# none left.
SHORT_PCT, PROMISED_PCT = 0.3, 0.5
MAX_ROUNDS = 3  # of searching again
AGAIN_SHARE = 0.15  # of the search time (or of its candidates) that a round gets
LEAST_AGAIN_S = 5.0
RESCORED_PER_SLOT = 6
UNKNOWN = "is faster than all that was trained: what was learned says nothing of it"


def hold_finals(searched: Searched) -> list[Measured]:
    """Fill the slots of winners one by one; the winners, in their order.

    A slot takes the best candidate of its band that differs enough from those in the slots before it of the same band,
    and stays empty where none is within the budget. Begun again after a correction, unless the minutes are short, and
    by a resumed run: what was scored again or measured before is not done twice.
    """
    rounds, measured, slots, exports = 0, 0, [], {}
    while len(slots) < searched.plan.num_winners:
        row = _next_finalist(searched, slots)
        if row is None:
            slots.append(None)
            continue
        if row.key in searched.ledger.measured:
            slots.append(row.candidate)
            continue
        # Each band behind this one keeps a measurement for itself.
        num_behind = searched.plan.num_winners - len(slots) - 1 if searched.bands.ends else 0
        if measured >= max(1, searched.plan.max_finalists - num_behind):
            slots.append(None)
            continue
        measured += 1
        if row.candidate not in exports:
            # As many as take no longer than one: where the first is over the budget, the next ones are others.
            num = min(side_by_side(searched), searched.plan.max_finalists - measured + 1)
            exports |= _export_ahead(searched, slots, exports, num=num)
        entry = _measure(searched, row, exports[row.candidate])
        if entry is None:
            continue
        if any(map(_misjudged, entry.latencies)):
            factor = measured_correction(searched.ledger.finalists, searched.budget.budget_ms)
            correct(searched, factor, of_bands=_factors_of_bands(searched, entry), why="misjudged")
            factor = searched.predictor.factor_of(entry.candidate)
            searched.progress.say(
                f"the table misjudged {_named(searched, entry)} by {entry.latency.off_pct:+.1f} %: corrected to x "
                f"{factor:.4f}"
            )
            for limit in searched.predictor.limits:
                if (latency := entry.by_device.get(limit.device)) is not None:
                    searched.progress.say(
                        f"that of {limit.device} by {latency.off_pct:+.1f} %: corrected to x {limit.factor:.4f}"
                    )
            off_pct = max((latency.off_pct for latency in entry.latencies), key=abs)
            again = _falls_short(searched, off_pct, hurried=is_hurried(searched))
            # The promised gap is worth one short round more than the minutes.
            if again and rounds < MAX_ROUNDS and (rounds == 0 or searched.clock.left_s >= 0):
                rounds += 1
                _search_again(searched)
            if again or not is_hurried(searched):
                slots = []
    for candidate, exported in exports.items():  # those that a correction made nobody ask for
        if candidate.key not in searched.ledger.measured and not isinstance(exported, Exception):
            exported.path.unlink(missing_ok=True)
    return crown(searched)


def _factors_of_bands(searched, entry):
    """{band: factor}: that of a misjudged entry's band by all that was measured of it; the others that were measured
    keep theirs, so that their finalists stay what they are.
    """
    if searched.bands.ends is None:
        return {}
    finalists = collections.defaultdict(list)
    for finalist in searched.ledger.finalists:
        finalists[searched.bands.band_of(finalist.candidate).name].append(finalist)
    name = searched.bands.band_of(entry.candidate).name
    kept = {name: searched.predictor.factor_of(those[0].candidate) for name, those in finalists.items()}
    return kept | {name: measured_correction(finalists[name], searched.budget.budget_ms)}


def _export_ahead(searched, slots, exports, *, num):
    """{candidate: Exported} of the next finalists, at most `num`, if all that are measured keep the budget: scored
    again and exported side by side, before any is measured.
    """
    presumed, ahead = list(slots), []
    while len(presumed) < searched.plan.num_winners and len(ahead) < num:
        row = _next_finalist(searched, presumed)
        presumed.append(row and row.candidate)
        if row is not None and row.key not in searched.ledger.measured and row.candidate not in exports:
            ahead.append(row.candidate)
    searched.progress.begin(f"exporting {len(ahead)} finalist(s)")
    searched.progress.update({})
    exported = export_all(searched, {candidate: searched.folder / f"{candidate.key}.onnx" for candidate in ahead})
    searched.progress.end()
    return exported


def _misjudged(latency):
    """Whether the table of a device was so far from the measurement that it is corrected."""
    return abs(latency.off_pct) > MISJUDGED_PCT or not latency.within_budget


def take_from_islands(searched: Searched) -> None:
    """Before the finals: take in the elites, the measurements and the tables of other islands."""
    if searched.num_islands == 1:
        return
    ledger, store = searched.ledger, searched.store
    searched.batches.take_arrivals(store.arrivals())
    searched.batches.take_rows(ledger.refresh())
    for values in store.kept_under("measured:").values():
        entry = Measured.parse(values, "the store")
        own = ledger.measured.get(entry.key)
        if own is None or own.plain() != values:
            # Its file as the store names it is in the folder of another island.
            ledger.take_measured(entry.changed(onnx=own and own.onnx))
    for island in store.driverless():
        searched.progress.say(
            f"warning: nobody works on island {island}: its share of the space is searched no further; the same "
            "command goes on with it",
            style="yellow",
        )


def crown(searched: Searched) -> list[Measured]:
    """The winners among all finalists measured so far: one of each band in turn, the best that keeps the budgets; best
    first where there are no bands. Of a learned score those come first that are as slow as what was trained.

    Role, name, verdict and file of every finalist are settled.
    """

    def order(entry):
        return not _is_known(searched, entry), -entry.score_mean, entry.key

    best_first = sorted(searched.ledger.finalists, key=order)
    winners, bands = [], searched.bands
    for band in bands.slots(searched.plan.num_winners):
        others = [winner for winner in winners if bands.of_candidate(winner.candidate) == band]
        open_to = (
            entry
            for entry in best_first
            if entry.keeps_budgets and entry not in winners and bands.of_candidate(entry.candidate) == band
            if all(distance(entry.candidate, other.candidate) >= searched.plan.min_distance for other in others)
        )
        if (entry := next(open_to, None)) is not None:
            winners.append(entry)
    evidence = gather(searched, [*winners, *searched.ledger.baselines])
    if bands.ends is None:  # else their order is that of the bands
        winners = ranked(winners, evidence, searched.plan.evidence)
    for entry in searched.ledger.finalists:
        if entry not in winners:
            (searched.folder / f"{entry.key}.onnx").unlink(missing_ok=True)
            outdone = _outdone(entry, winners, bands=bands, min_distance=searched.plan.min_distance)
            verdict = entry.over or (outdone if _is_known(searched, entry) else "fits, but " + UNKNOWN)
            _settle(searched, entry, role="finalist", name=entry.key, verdict=verdict, onnx=None)
    # Under their keys first: a winner of an earlier round may hold the name that another gets now.
    for entry in winners:
        path, before = searched.folder / f"{entry.key}.onnx", searched.folder / (entry.onnx or "none")
        if not path.exists() and before.exists():
            os.replace(before, path)
    _say_what_is_missing(searched, winners)
    for rank, entry in enumerate(winners, start=1):
        if not _is_known(searched, entry):
            searched.progress.say(f"warning: winner-{rank} {UNKNOWN}", style="yellow")
    crowned = []
    for rank, entry in enumerate(winners, start=1):
        path = searched.folder / f"{entry.key}.onnx"
        if not path.exists():
            candidate = entry.candidate
            exported = export_candidate(
                candidate,
                searched.space.shape,
                searched.protocol,
                metadata=metadata(candidate, searched.ledger.state["made_by"]),
            )
            write_atomically(path, exported.onnx_bytes)
        os.replace(path, searched.folder / f"winner-{rank}.onnx")
        crowned.append(
            _settle(searched, entry, role="winner", name=f"winner-{rank}", verdict=None, onnx=f"winner-{rank}.onnx")
        )
    for path in searched.folder.glob("winner-*"):  # of an earlier round that had more
        if path.suffix in (".onnx", ".yaml") and path.stem not in {entry.name for entry in crowned}:
            path.unlink()
    return crowned


def _say_what_is_missing(searched, winners):
    """Say which bands have no winner, and why."""
    bands = searched.bands
    for place, band in enumerate(bands.bands if bands.ends else ()):
        if place not in [bands.of_candidate(entry.candidate) for entry in winners]:
            why = "it holds nothing" if searched.funnel.proven[place].is_empty else "nothing of it was measured"
            searched.progress.say(f"no winner of band {band.text}: {why} within the budget", style="yellow")


def _named(searched, entry):
    """The key of a network, and its band where there are some."""
    name = searched.bands.band_of(entry.candidate).name
    return f"{entry.key} ({name})" if name else entry.key


def _outdone(entry, winners, *, bands, min_distance):
    """Why a finalist within the budget is no winner: others of its band are."""
    band = bands.band_of(entry.candidate)
    for rank, winner in enumerate(winners, start=1):
        if bands.band_of(winner.candidate) == band and distance(entry.candidate, winner.candidate) < min_distance:
            return f"fits, but is too like winner-{rank}"
    return f"fits, but the winners {f'of band {band.name} ' if band.name else ''}score higher"


def _settle(searched, entry, **changes):
    """Change what was measured, in the ledger too; nothing is written where nothing changes."""
    if any(getattr(entry, name) != value for name, value in changes.items()):
        entry = entry.changed(**changes)
        searched.ledger.add_measured(entry)
    return entry


def _next_finalist(searched, slots):
    """The row for the next slot: the best by its re-scored mean, of the best of its band that differ from `slots`."""
    while True:
        pool = _diverse_best(searched, slots, num=RESCORED_PER_SLOT)
        rescored = _rescored(searched, pool)
        pool = [row for row in pool if row.key in rescored]
        if pool:
            return max(pool, key=lambda row: (rescored[row.key][0], row.key))
        if not _diverse_best(searched, slots, num=1):
            return None


def _diverse_best(searched, slots, *, num):
    """The best `num` scored candidates of the next slot's band that fit and differ enough from those in `slots`: by
    measurement where they were measured, by prediction where not. Without the baselines themselves, which the search
    starts from: a winner is new.
    """
    rows, bands = searched.ledger.rows, searched.bands
    band_N, band = bands.of(rows.genes_NG), bands.slots(len(slots) + 1)[-1]
    taken = [candidate for candidate in slots if candidate is not None and bands.of_candidate(candidate) == band]
    fits_N = searched.predictor.fits(rows.column("predicted_ms"), rows.genes_NG)
    if (learned := searched.plan.score.learned) is None:
        known_N = np.ones(len(rows), bool)
    else:
        ms_N = rows.column("predicted_ms") * searched.predictor.factors_of(rows.genes_NG)
        known_N = learned.is_known_at(ms_N, searched.budget.budget_ms)
    for entry in searched.ledger.measured.values():
        at_N = rows.column("key") == entry.key.encode()
        fits_N[at_N], known_N[at_N] = not entry.is_baseline and entry.keeps_budgets, _is_known(searched, entry)
    fits_N &= band_N == band
    how = {"num": num, "min_distance": searched.plan.min_distance}
    found = diverse_best(rows, taken, fits_N=fits_N & known_N, **how)
    return found or diverse_best(rows, taken, fits_N=fits_N & ~known_N, **how)


def _is_known(searched, entry):
    """Whether what was measured has a latency at which its score means something."""
    learned = searched.plan.score.learned
    return learned is None or learned.is_known_at(entry.latency.measured_ms, searched.budget.budget_ms)


def fail(searched: Searched, row: Row, *, stage: str, error: str) -> None:
    """A scored candidate that failed later: it stays in the ledger, out of the finals, and shows in the study."""
    searched.ledger.event(why="failed", key=row.key, stage=stage, error=error, after_batch=-1)
    searched.ledger.rows.fail(row.key, stage=stage, error=error)
    searched.batches.rebuild()
    searched.store.add_failed(row._replace(score=None, stage=stage, error=error))
    searched.progress.say(f"{row.text} failed at stage '{stage}': {error}", style="yellow")


def _rescored(searched, rows):
    """{key: [mean, std]} of these rows, scored again with more repeats. Kept, so that none is scored twice."""
    rescored = dict(searched.ledger.state["rescored"])
    todo = [row for row in rows if row.key not in rescored]
    if todo:
        searched.progress.begin("scoring finalists again, with more repeats")
        # As many tasks as workers: together, those with one trunk cost little more than one.
        workers, plan = searched.workers, searched.plan
        shares = [share for at in range(workers.num_workers) if (share := todo[at :: workers.num_workers])]
        handles = [
            workers.submit(
                [row.candidate for row in share],
                plan.score,
                shape=searched.space.shape,
                seed=score_seed(plan.seed, is_baseline=False),
                repeats=plan.score.final_repeats,
            )
            for share in shares
        ]
        count = searched.progress.counting("finalists")
        for share, handle in zip(shares, handles, strict=True):
            for row, scored in zip(share, workers.results(handle, len(share)), strict=True):
                if scored.error is None:
                    rescored[row.key] = [scored.value, scored.std]
                else:
                    fail(searched, row, stage=scored.stage, error=scored.error)
            count(min(len(todo), len(rescored)), len(todo))
        searched.progress.end()
        searched.ledger.save(rescored=rescored)
    return rescored


def _measure(searched, row, exported):
    """A row's candidate, measured whole. Where it cannot be measured: None, and it is noted as failed."""
    score = searched.ledger.state["rescored"][row.key]
    searched.progress.begin(f"measuring finalist {row.key} whole")
    searched.progress.update({searched.plan.score.label: f"{score[0]:.2f}"})
    try:
        entry = measure_finalist(searched, row.candidate, score=score, exported=exported)
    finally:
        searched.progress.end()
    if isinstance(entry, Exception):
        fail(searched, row, stage="measure", error=f"{type(entry).__name__}: {first_line(entry)}")
        return None
    searched.ledger.add_measured(entry)
    score_text = f"{searched.plan.score.label} {entry.score_mean:.2f}"
    searched.progress.say(f"finalist {_named(searched, entry)}: {score_text}, {_beside_budget(entry.latency)}")
    for name, latency in entry.by_device.items():
        searched.progress.say(f"finalist {row.key} on {name}: {_beside_budget(latency)}")
    for latency in entry.latencies:
        if latency.warning:
            searched.progress.say(f"warning: {latency.warning}", style="yellow")
    return entry


def _beside_budget(latency):
    return (
        f"{ms_text(latency.measured_ms)} measured, {ms_text(latency.predicted_ms)} predicted, "
        f"budget {ms_text(latency.budget_ms)}"
    )


def _falls_short(searched, off_pct, *, hurried):
    """Whether the best that is scored of a band lies too far below its optimum by the corrected table.

    Where no optimum is proven, a prediction that was far off says so.
    """
    if searched.batches.population.best is None:
        return True
    if searched.funnel is None or searched.funnel.optimum is None:
        return abs(off_pct) > MISJUDGED_PCT
    share = (PROMISED_PCT if hurried else SHORT_PCT) / 100
    bests, optima = searched.batches.population.bests, [proven.optimum for proven in searched.funnel.proven]
    return any(
        best is None or best[0] < optimum.score - share * abs(optimum.score)
        for best, optimum in zip(bests, optima, strict=True)
        if optimum is not None
    )


def _search_again(searched):
    if searched.plan.candidates is not None:
        more = max(1, int(AGAIN_SHARE * searched.num_asked))
        evolve(searched, num_scored=searched.batches.num_scored + more)
    else:
        left_s = searched.clock.left_s - finalist_seconds(searched)  # what it finds must be measured, too
        evolve(searched, seconds=max(LEAST_AGAIN_S, min(AGAIN_SHARE * searched.ledger.state["search_s"], left_s)))
