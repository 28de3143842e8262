"""The finals: the best and most different candidates are scored again, measured whole, and become winners or do not.

Nobody becomes a winner on a prediction. Where a measurement shows that the table misjudged its candidate, the table is
corrected, and the search goes on where what it has scored falls short of what is now within the budget.
"""

import os
import time

from zennas.latency.budget import export_candidate
from zennas.records import UserError, first_line
from zennas.run_folder import write_atomically
from zennas.search.evidence import gather, ranked
from zennas.search.forecast import finalist_seconds
from zennas.search.winners import measure_whole, measured_correction, metadata
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


def settle_finals(run):
    """Fill the slots of winners one by one; the winners' entries, best first.

    A slot takes the best candidate that differs enough from those in the slots before it. Begun again after a
    correction, unless the minutes are short, and by a resumed run: what was scored again or measured before is not done
    twice.
    """
    rounds, measured, slots = 0, 0, []
    while len(slots) < run.plan.num_winners:
        row = _next_finalist(run, slots)
        if row is None:
            break
        if row.key in run.ledger.measured:
            slots.append(row.candidate)
            continue
        if measured >= run.plan.max_finalists:
            break
        measured += 1
        entry = _measure(run, row)
        if entry is None:
            continue
        if any(map(_misjudged, entry.latencies)):
            run.correct(measured_correction(run.ledger.finalists, run.budget.budget_ms), why="misjudged")
            run.progress.say(
                f"the table misjudged {entry.key} by {entry.latency.off_pct:+.1f} %: corrected to x {run.factor:.4f}"
            )
            for budget in run.others:
                if (latency := entry.by_device.get(budget.device)) is not None:
                    run.progress.say(
                        f"that of {budget.device} by {latency.off_pct:+.1f} %: corrected to x {budget.factor:.4f}"
                    )
            again = _falls_short(run, max((latency.off_pct for latency in entry.latencies), key=abs))
            # The promised gap is worth one short round more than the minutes.
            if again and rounds < MAX_ROUNDS and (rounds == 0 or not run.out_of_time):
                rounds += 1
                _search_again(run)
            if again or not run.hurried:
                slots = []
    return crown(run)


def _misjudged(latency):
    """Whether a device's table was so far from its measurement of a finalist that it is corrected."""
    return abs(latency.off_pct) > MISJUDGED_PCT or not latency.within_budget


def crown(run):
    """The winners among all finalists measured so far, best first; role, name, verdict and file of every one
    settled."""
    winners = []
    for entry in sorted(run.ledger.finalists, key=lambda entry: (-entry.score_mean, entry.key)):
        differs = all(distance(entry.candidate, winner.candidate) >= run.plan.min_distance for winner in winners)
        if entry.keeps_budgets and differs and len(winners) < run.plan.num_winners:
            winners.append(entry)
    winners = ranked(winners, gather(run, [*winners, *run.ledger.baselines]), run.plan.evidence)
    for entry in run.ledger.finalists:
        if entry not in winners:
            (run.out / f"{entry.key}.onnx").unlink(missing_ok=True)
            verdict = entry.over or _outdone(entry, winners, min_distance=run.plan.min_distance)
            _settle(run, entry, role="finalist", name=entry.key, verdict=verdict, onnx=None)
    # Under their keys first: a winner of an earlier round may hold the name that another gets now.
    for entry in winners:
        path, before = run.out / f"{entry.key}.onnx", run.out / (entry.onnx or "none")
        if not path.exists() and before.exists():
            os.replace(before, path)
    crowned = []
    for rank, entry in enumerate(winners, start=1):
        path = run.out / f"{entry.key}.onnx"
        if not path.exists():
            candidate = entry.candidate
            exported = export_candidate(
                candidate,
                image_px=run.space.image_px,
                embedding_size=run.space.embedding_size,
                metadata=metadata(candidate, run.ledger.state["made_by"]),
                precision=run.protocol.precision,
            )
            write_atomically(path, exported.onnx_bytes)
        os.replace(path, run.out / f"winner-{rank}.onnx")
        crowned.append(
            _settle(run, entry, role="winner", name=f"winner-{rank}", verdict=None, onnx=f"winner-{rank}.onnx")
        )
    for path in run.out.glob("winner-*"):  # of an earlier round that had more
        if path.suffix in (".onnx", ".yaml") and path.stem not in {entry.name for entry in crowned}:
            path.unlink()
    return crowned


def _outdone(entry, winners, *, min_distance):
    """Why a finalist within the budget is no winner."""
    for rank, winner in enumerate(winners, start=1):
        if distance(entry.candidate, winner.candidate) < min_distance:
            return f"fits, but is too like winner-{rank}"
    return "fits, but the winners score higher"


def _settle(run, entry, **changes):
    """What was measured with its changes, in the ledger too if there are any."""
    if any(getattr(entry, name) != value for name, value in changes.items()):
        entry = entry.changed(**changes)
        run.ledger.add_measured(entry)
    return entry


def _next_finalist(run, slots):
    """The row for the next slot: the best by the re-scored mean among the best that differ enough from `slots`."""
    while True:
        pool = run.diverse_best(slots, num=RESCORED_PER_SLOT)
        rescored = _rescored(run, pool)
        pool = [row for row in pool if row.key in rescored]
        if pool:
            return max(pool, key=lambda row: (rescored[row.key][0], row.key))
        if not run.diverse_best(slots, num=1):
            return None


def _rescored(run, rows):
    """{key: [mean, std]} of these rows, scored again with more repeats; kept, so that none is done twice."""
    rescored = dict(run.ledger.state["rescored"])
    todo = [row for row in rows if row.key not in rescored]
    if todo:
        run.progress.begin("scoring finalists again, with more repeats")
        # As many tasks as workers: together, those with one trunk cost little more than one.
        shares = [
            share for share in (todo[at :: run.workers.num_workers] for at in range(run.workers.num_workers)) if share
        ]
        handles = [
            run.workers.submit(
                [row.candidate for row in share],
                run.plan.score,
                seed=run.plan.seed + 1,
                repeats=run.plan.score.final_repeats,
            )
            for share in shares
        ]
        count = run.progress.counting("finalists")
        for share, handle in zip(shares, handles, strict=True):
            for row, scored in zip(share, run.workers.results(handle, len(share)), strict=True):
                if scored.error is None:
                    rescored[row.key] = [scored.value, scored.std]
                else:
                    run.fail(row, stage=scored.stage, error=scored.error)
            count(min(len(todo), len(rescored)), len(todo))
        run.progress.end()
        run.ledger.save(rescored=rescored)
    return rescored


def _measure(run, row):
    """A row's candidate, measured whole; None where it could not be, which is noted as its failure."""
    score = run.ledger.state["rescored"][row.key]
    run.progress.begin(f"measuring finalist {row.key} whole")
    run.progress.update({run.plan.score.label: f"{score[0]:.2f}"})
    path = run.out / f"{row.key}.onnx"
    try:
        entry = measure_whole(run, row.candidate, role="finalist", name=row.key, score=score, path=path)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        run.fail(row, stage="measure", error=f"{type(error).__name__}: {first_line(error)}")
        return None
    finally:
        run.progress.end()
    run.ledger.add_measured(entry)
    run.progress.say(
        f"finalist {row.key}: {run.plan.score.label} {entry.score_mean:.2f}, {_beside_budget(entry.latency)}"
    )
    for name, latency in entry.by_device.items():
        run.progress.say(f"finalist {row.key} on {name}: {_beside_budget(latency)}")
    for latency in entry.latencies:
        if latency.warning:
            run.progress.say(f"warning: {latency.warning}", style="yellow")
    return entry


def _beside_budget(latency):
    return (
        f"{latency.measured_ms:.2f} ms measured, {latency.predicted_ms:.2f} predicted, budget {latency.budget_ms:.2f}"
    )


def _falls_short(run, off_pct):
    """Whether, under the corrected table, what is scored lies too far below what could be; guessed where nothing is
    proven.
    """
    optimum, best = run.funnel and run.funnel.optimum, run.batches.population.best
    if best is None:
        return True
    if optimum is None:
        return abs(off_pct) > MISJUDGED_PCT
    short_pct = PROMISED_PCT if run.hurried else SHORT_PCT
    return best[0] < optimum.score - short_pct / 100 * abs(optimum.score)


def _search_again(run):
    if run.plan.candidates is not None:
        run.evolve(num_scored=run.batches.num_scored + max(1, int(AGAIN_SHARE * run.num_asked)))
    else:
        left_s = run.deadline - time.monotonic() - finalist_seconds(run)  # what it finds must be measured, too
        run.evolve(seconds=max(LEAST_AGAIN_S, min(AGAIN_SHARE * run.ledger.state["search_s"], left_s)))
