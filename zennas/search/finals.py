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
from zennas.search.winners import correction, keeps_budgets, measured_entry, metadata
from zennas.space.candidate import Candidate
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
        off_pct, devices = _off_pct(entry["latency"]), [entry["latency"], *entry["elsewhere"].values()]
        if any(map(_misjudged, devices)):
            run.correct(correction(run.finalists, run.budget.budget_ms), why="misjudged")
            run.progress.say(f"the table misjudged {entry['key']} by {off_pct:+.1f} %: corrected to x {run.factor:.4f}")
            for budget in run.others:
                if (there := entry["elsewhere"].get(budget.device)) is not None:
                    run.progress.say(
                        f"that of {budget.device} by {_off_pct(there):+.1f} %: corrected to x {budget.factor:.4f}"
                    )
            again = _falls_short(run, max(map(_off_pct, devices), key=abs))
            # The promised gap is worth one short round more than the minutes.
            if again and rounds < MAX_ROUNDS and (rounds == 0 or not run.out_of_time):
                rounds += 1
                _search_again(run)
            if again or not run.hurried:
                slots = []
    return crown(run)


def _off_pct(latency):
    return 100 * (latency["measured_ms"] / latency["predicted_ms"] - 1)


def _misjudged(latency):
    """Whether a device's table was so far from its measurement of a finalist that it is corrected."""
    return abs(_off_pct(latency)) > MISJUDGED_PCT or not latency["within_budget"]


def crown(run):
    """The winners among all finalists measured so far, best first; role, name, verdict and file of every one
    settled."""
    winners = []
    for entry in sorted(run.finalists, key=lambda entry: (-entry["score_mean"], entry["key"])):
        candidate = Candidate(**entry["candidate"])
        differs = all(
            distance(candidate, Candidate(**other["candidate"])) >= run.plan.min_distance for other in winners
        )
        if keeps_budgets(entry) and differs and len(winners) < run.plan.num_winners:
            winners.append(entry)
    winners = ranked(winners, gather(run, [*winners, *run.baselines]), run.plan.evidence)
    for entry in run.finalists:
        if entry not in winners:
            (run.out / f"{entry['key']}.onnx").unlink(missing_ok=True)
            verdict = _over(entry) or _outdone(run, entry, winners)
            _settle(run, entry, role="finalist", name=entry["key"], verdict=verdict, onnx=None)
    # Under their keys first: a winner of an earlier round may hold the name that another gets now.
    for entry in winners:
        path, before = run.out / f"{entry['key']}.onnx", run.out / (entry["onnx"] or "none")
        if not path.exists() and before.exists():
            os.replace(before, path)
    crowned = []
    for rank, entry in enumerate(winners, start=1):
        path = run.out / f"{entry['key']}.onnx"
        if not path.exists():
            candidate = Candidate(**entry["candidate"])
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
        if path.suffix in (".onnx", ".yaml") and path.stem not in {entry["name"] for entry in crowned}:
            path.unlink()
    return crowned


def _over(entry):
    """Which budgets a measured network does not keep; None where it keeps all."""
    devices = {"": entry["latency"]} | {f" of {name}": one for name, one in entry.get("elsewhere", {}).items()}
    over_pct = {name: 100 * (one["measured_ms"] / one["budget_ms"] - 1) for name, one in devices.items()}
    return ", ".join(f"over budget{name} by {pct:.1f} %" for name, pct in over_pct.items() if pct > 0) or None


def _outdone(run, entry, winners):
    """Why a finalist within the budget is no winner."""
    candidate = Candidate(**entry["candidate"])
    for rank, winner in enumerate(winners, start=1):
        if distance(candidate, Candidate(**winner["candidate"])) < run.plan.min_distance:
            return f"fits, but is too like winner-{rank}"
    return "fits, but the winners score higher"


def _settle(run, entry, **changes):
    """The entry with its changes, in the ledger too if there are any."""
    if any(entry[name] != value for name, value in changes.items()):
        entry = entry | changes
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
    """The entry of a row's candidate, measured whole; None where it could not be, which is noted as its failure."""
    score = run.ledger.state["rescored"][row.key]
    run.progress.begin(f"measuring finalist {row.key} whole")
    run.progress.update({run.plan.score.label: f"{score[0]:.2f}"})
    path = run.out / f"{row.key}.onnx"
    try:
        entry = measured_entry(run, row.candidate, role="finalist", name=row.key, score=score, path=path)
    except BaseException as error:
        path.unlink(missing_ok=True)
        if isinstance(error, UserError) or not isinstance(error, Exception):
            raise
        run.fail(row, stage="measure", error=f"{type(error).__name__}: {first_line(error)}")
        return None
    finally:
        run.progress.end()
    run.ledger.add_measured(entry)
    latency = entry["latency"]
    run.progress.say(
        f"finalist {row.key}: {run.plan.score.label} {entry['score_mean']:.2f}, {latency['measured_ms']:.2f} ms "
        f"measured, "
        f"{latency['predicted_ms']:.2f} predicted, budget {latency['budget_ms']:.2f}"
    )
    for name, there in entry["elsewhere"].items():
        run.progress.say(
            f"finalist {row.key} on {name}: {there['measured_ms']:.2f} ms measured, {there['predicted_ms']:.2f} "
            f"predicted, "
            f"budget {there['budget_ms']:.2f}"
        )
    for one in (latency, *entry["elsewhere"].values()):
        if one["warning"]:
            run.progress.say(f"warning: {one['warning']}", style="yellow")
    return entry


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
