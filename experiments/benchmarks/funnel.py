"""How fast is each level of the funnel, does the score rank as the reference does, and do two workers do twice as much?

    python experiments/benchmarks/funnel.py --out experiments/benchmarks/funnel.json

Candidates of space ir_se whose predicted latency is within 2 per cent of a budget (IR-SE-50's by default), one thread each:
  reference    the reference algorithm: two forwards, fresh Gaussians, 112 px, batch 16
  alone        our score of one candidate, at the search's settings
  families     our score of the batches that the search proposes, the families of which share their trunks
  closed form  all candidates at once
Kendall's tau is that between the reference and our score of the same candidates. Workers score the same batches through Ray, once
one of them and once two. What is done is kept in --out and not done again, for the reference takes its time.
"""

import argparse
import collections
import json
import pathlib
import statistics
import time

import numpy as np
import torch
from scipy import stats

from zennas.latency.budget import choose_protocol
from zennas.latency.table import LatencyTable
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.score.scores import score_batch, score_candidate
from zennas.search.funnel import Funnel, Niches
from zennas.search.workers import Workers
from zennas.space.space import genes_of
from zennas.track import ScorePlan, load_experiment

REFERENCE = ScorePlan(name="zen_reference", image_px=112, batch=16)
NEAR_PCT = 2.0
NUM_BATCHES = 24  # of proposals, for families and workers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--like", default="IR-SE-50", help="the baseline whose latency all have")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment, track, space = load_experiment("webface-sfr")
    table = LatencyTable(choose_protocol(track)[0])
    table.ensure(table.missing_for(space))
    plan, budget_ms = experiment.search, table.predict(space.baselines[arguments.like])
    result = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}

    def keep(**more):
        result.update(more, made_by=provenance(seed=plan.seed).model_dump())
        write_atomically(arguments.out, json.dumps(result, indent=1) + "\n")
        print(json.dumps(more, indent=1), flush=True)

    candidates = drawn(space, table, budget_ms, arguments.candidates)
    if "alone" not in result:
        keep(
            what=f"{len(candidates)} candidates within {NEAR_PCT} % of {budget_ms:.1f} ms",
            alone=timed(candidates, plan.score),
        )
    if "reference" not in result:
        keep(reference=timed(candidates, REFERENCE))
    funnel = Funnel(space, plan, table.part_ms)
    funnel.set_budget(budget_ms, margin_pct=plan.margin_pct)
    if "families" not in result:
        keep(families=families(funnel, plan), closed_form=closed_form(funnel, candidates, plan))
    if "workers" not in result:
        keep(workers={str(num): through_ray(funnel, plan, num) for num in (1, 2)})
    reference = result["reference"]
    for name in ("alone", "families", "closed_form"):
        result[name]["times_the_reference"] = round(result[name]["per_second"] / reference["per_second"], 1)
    keep(
        kendall_tau=round(float(stats.kendalltau(reference["scores"], result["alone"]["scores"]).statistic), 4),
        one_to_two_workers=round(result["workers"]["2"]["per_second"] / result["workers"]["1"]["per_second"], 3),
    )


def drawn(space, table, budget_ms, num):
    """So many candidates of the space near the budget."""
    rng, found = np.random.default_rng(0), []
    while len(found) < num:
        one = space.sample(rng)
        # Few drawn at random are that small; a smaller neighbour in depth is.
        while (ms := table.predict(one)) > budget_ms * (1 + NEAR_PCT / 100) and max(one.depths) > 1:
            depths = tuple(max(1, depth - max(1, depth // 8)) for depth in one.depths)
            one = one.model_copy(update={"depths": depths})
        if abs(ms / budget_ms - 1) < NEAR_PCT / 100 and one not in found and space.contains(one):
            found.append(one)
    return found


def timed(candidates, plan):
    """Scores one after the other, and how many a second."""
    score_candidate(candidates[0], plan, seed=0)
    start, scores = time.perf_counter(), []
    for one in candidates:
        scores.append(round(score_candidate(one, plan, seed=0)[0], 4))
    seconds = time.perf_counter() - start
    return {
        "per_second": round(len(candidates) / seconds, 3),
        "seconds_each": round(seconds / len(candidates), 5),
        "scores": scores,
    }


def families(funnel, plan):
    """Proposing and scoring as a search does, in one process: candidates a second of each."""
    population, seen, counters = Niches(plan.population), set(), collections.Counter()
    proposing_s = scoring_s = 0.0
    num = 0
    for batch in range(NUM_BATCHES):
        start = time.perf_counter()
        some = funnel.propose(population, batch=batch, most=plan.batch_size, seen=seen, counters=counters)
        between = time.perf_counter()
        for one, scored in zip(some, score_batch(some, plan.score, seed=0), strict=True):
            population.add(scored.value, one)
        proposing_s, scoring_s, num = (
            proposing_s + between - start,
            scoring_s + time.perf_counter() - between,
            num + len(some),
        )
    return {
        "per_second": round(num / scoring_s, 2),
        "candidates": num,
        "proposing_s_each": round(proposing_s / num, 5),
        "screened_per_second": round(counters["screened"] / proposing_s),
    }


def closed_form(funnel, candidates, plan):
    """Candidates a second, and its error against the score (8 repeats)."""
    genes_NG = np.array([genes_of(one) for one in candidates])
    many_NG = np.repeat(genes_NG, 1_000_000 // len(genes_NG), 0)
    start = time.perf_counter()
    funnel.score.of(funnel.space, many_NG)
    seconds = time.perf_counter() - start
    some = candidates[:40]
    measured = [score_candidate(one, plan.score, seed=0, repeats=8)[0] for one in some]
    errors = [100 * abs(a / b - 1) for a, b in zip(funnel.score.of(funnel.space, genes_NG[:40]), measured, strict=True)]
    return {
        "per_second": round(len(many_NG) / seconds),
        "mean_error_pct": round(statistics.fmean(errors), 3),
        "max_error_pct": round(max(errors), 3),
    }


def through_ray(funnel, plan, num_workers):
    """Candidates a second when so many workers score the batches that a search would begin with."""
    population, seen, counters = Niches(plan.population), set(), collections.Counter()
    batches = [
        funnel.propose(population, batch=batch, most=plan.batch_size, seen=seen, counters=counters)
        for batch in range(NUM_BATCHES)
    ]
    workers = Workers(num_workers)
    try:
        workers.warm_up()
        for handle in [workers.submit(batches[0], plan.score, seed=0) for _ in range(2 * num_workers)]:
            workers.results(handle, len(batches[0]))
        start = time.perf_counter()
        handles = [workers.submit(batch, plan.score, seed=0) for batch in batches]
        for handle, batch in zip(handles, batches, strict=True):
            assert all(isinstance(scored.value, float) for scored in workers.results(handle, len(batch)))
        seconds = time.perf_counter() - start
    finally:
        workers.close()
    num = sum(map(len, batches))
    return {"candidates": num, "per_second": round(num / seconds, 2)}


if __name__ == "__main__":
    main()
