"""How fast is each level of the funnel, does the score rank as the reference does, and do two workers do twice as much?

    python experiments/benchmarks/funnel.py --out experiments/benchmarks/funnel.json

Candidates of space ir_se whose predicted latency is within 2 per cent of a budget (IR-SE-50's by default), one thread
each:
  reference    the algorithm as it is defined: two forwards that differ by 0.01, fresh Gaussians, 112 px, batch 16
  alone        our score of one candidate, at the search's settings
  families     our score of the batches that the search proposes, many of which share a trunk
  closed form  all candidates at once
Kendall's tau is that between the reference and our score of the same candidates; beside it that with the reference
code, which does the same work but adds running variances (0.81 + 0.19 of the batch's) in place of the batch's own.
Workers score the same batches through Ray, once one of them and once two; bare are as many processes without Ray. What
is done is kept in --out and not done again, for the reference takes its time.
"""

import argparse
import collections
import json
import multiprocessing
import pathlib
import statistics
import time

import numpy as np
import torch
from scipy import stats
from torch import nn

from zennas.latency.budget import choose_protocol
from zennas.latency.table import LatencyTable
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.score.baselines import reference_zen
from zennas.score.scores import score_batch, score_candidate
from zennas.search.funnel import Funnel, Niches
from zennas.search.workers import Workers
from zennas.space import network as networks
from zennas.track import ScorePlan, load_experiment

CODE = ScorePlan(name="zen_reference", image_px=112, batch=16)
NEAR_PCT = 2.0
NUM_BATCHES, NUM_FIRST = 24, 48  # of proposals: for families, for workers


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--like", default="IR-SE-50", help="the baseline whose latency all have")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment, track, space = load_experiment("webface-sfr")
    table = LatencyTable(choose_protocol(track)[0])
    table.ensure(table.parts_for(space))
    plan, budget_ms = experiment.search, table.predict(space.baselines[arguments.like], space.shape)
    result = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}

    def keep(**more):
        result.update(more, made_by=provenance(seed=plan.seed).model_dump())
        write_atomically(arguments.out, json.dumps(result, indent=1) + "\n")
        print(json.dumps(more, indent=1), flush=True)

    candidates = drawn(space, table, budget_ms, arguments.candidates)
    if "alone" not in result:
        keep(
            what=f"{len(candidates)} candidates within {NEAR_PCT} % of {budget_ms:.1f} ms",
            alone=timed(candidates, plan.score, space.shape),
        )
    if "reference" not in result:
        keep(reference=timed(candidates, CODE, space.shape, score=by_definition))
    if "reference_code" not in result:
        keep(reference_code=timed(candidates, CODE, space.shape))
    funnel = Funnel(space, plan, table.part_ms)
    funnel.set_budget(budget_ms, margin_pct=plan.margin_pct)
    if "families" not in result:
        keep(families=families(funnel, plan), closed_form=closed_form(funnel, candidates, plan))
    if "workers" not in result:
        keep(workers={str(num): through_ray(funnel, plan, num) for num in (1, 2)})
    if "bare" not in result:
        keep(bare={str(num): bare(funnel, plan, num) for num in (1, 2)})
    reference = result["reference"]
    for name in ("alone", "families", "closed_form"):
        result[name]["times_the_reference"] = round(result[name]["per_second"] / reference["per_second"], 1)
    ours = result["alone"]["scores"]
    keep(
        kendall_tau=round(float(stats.kendalltau(reference["scores"], ours).statistic), 4),
        kendall_tau_with_the_code=round(float(stats.kendalltau(result["reference_code"]["scores"], ours).statistic), 4),
        **{
            f"one_to_two_{kind}": round(result[kind]["2"]["per_second"] / result[kind]["1"]["per_second"], 3)
            for kind in ("workers", "bare")
        },
    )


def drawn(space, table, budget_ms, num):
    """So many candidates of the space near the budget."""
    rng, found = np.random.default_rng(0), []
    while len(found) < num:
        one = space.sample(rng)
        # Few drawn at random are that small; a smaller neighbour in depth is.
        while (ms := table.predict(one, space.shape)) > budget_ms * (1 + NEAR_PCT / 100) and max(one.depths) > 1:
            depths = tuple(max(1, depth - max(1, depth // 8)) for depth in one.depths)
            one = one.model_copy(update={"depths": depths})
        if abs(ms / budget_ms - 1) < NEAR_PCT / 100 and one not in found and space.contains(one):
            found.append(one)
    return found


def by_definition(candidate, plan, shape, *, seed):
    """(score, 0.0) of a candidate as the paper defines it: the reference code's way, each norm's variance that of the
    batch.
    """
    generator = torch.Generator().manual_seed(seed)
    network = networks.initialise(
        networks.plain(networks.plain_paths(candidate, shape.channels)[0]), generator=generator
    )
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.momentum = 1.0  # a running variance that is the last batch's
    return reference_zen(network, plan.shape(shape), plan.batch, generator), 0.0


def timed(candidates, plan, shape, *, score=score_candidate):
    """Scores one after the other, and how many a second."""
    score(candidates[0], plan, shape, seed=0)
    start, scores = time.perf_counter(), []
    for candidate in candidates:
        scores.append(round(score(candidate, plan, shape, seed=0)[0], 4))
    seconds = time.perf_counter() - start
    return {
        "per_second": round(len(candidates) / seconds, 3),
        "seconds_each": round(seconds / len(candidates), 5),
        "scores": scores,
    }


def proposals(funnel, plan, num, values_of, counters):
    """So many batches as a search proposes them, where values_of(batch) are the scores."""
    population, seen = Niches(plan.population, funnel.bands), set()
    for batch in range(num):
        some = funnel.propose(population, batch=batch, most=plan.batch_size, seen=seen, counters=counters)
        for one, value in zip(some, values_of(some), strict=True):
            population.add(value, one)
        yield some


def families(funnel, plan):
    """Proposing and scoring as a search does, in one process: candidates a second of each."""
    counters, scoring_s = collections.Counter(), []

    def values_of(some):
        start = time.perf_counter()
        scored = score_batch(some, plan.score, funnel.space.shape, seed=0)
        scoring_s.append(time.perf_counter() - start)
        return [one.value for one in scored]

    start = time.perf_counter()
    num = sum(map(len, proposals(funnel, plan, NUM_BATCHES, values_of, counters)))
    proposing_s = time.perf_counter() - start - sum(scoring_s)
    return {
        "per_second": round(num / sum(scoring_s), 2),
        "candidates": num,
        "proposing_s_each": round(proposing_s / num, 5),
        "screened_per_second": round(counters["screened"] / proposing_s),
    }


def closed_form(funnel, candidates, plan):
    """Candidates a second, and its error against the score (8 repeats)."""
    genes_NG = np.array([candidate.genes for candidate in candidates])
    many_NG = np.repeat(genes_NG, 1_000_000 // len(genes_NG), 0)
    start = time.perf_counter()
    funnel.score.of(funnel.space, many_NG)
    seconds = time.perf_counter() - start
    some = candidates[:40]
    measured = [score_candidate(one, plan.score, funnel.space.shape, seed=0, repeats=8)[0] for one in some]
    errors = [100 * abs(a / b - 1) for a, b in zip(funnel.score.of(funnel.space, genes_NG[:40]), measured, strict=True)]
    return {
        "per_second": round(len(many_NG) / seconds),
        "mean_error_pct": round(statistics.fmean(errors), 3),
        "max_error_pct": round(max(errors), 3),
    }


def first_batches(funnel, plan):
    """The batches that a search would begin with if the closed form were the score."""

    def values_of(some):
        return funnel.score.of(funnel.space, np.array([one.genes for one in some])).tolist()

    return list(proposals(funnel, plan, NUM_FIRST, values_of, collections.Counter()))


def bare(funnel, plan, num_processes):
    """Candidates a second when so many processes score them, and nothing is between: what the machine can do."""
    batches = first_batches(funnel, plan)
    with multiprocessing.get_context("spawn").Pool(num_processes, torch.set_num_threads, (1,)) as pool:
        pool.map(_score, [(batches[0], plan.score, funnel.space.shape)] * 2 * num_processes, chunksize=1)
        start = time.perf_counter()
        pool.map(_score, [(batch, plan.score, funnel.space.shape) for batch in batches], chunksize=1)
        seconds = time.perf_counter() - start
    return {"candidates": sum(map(len, batches)), "per_second": round(sum(map(len, batches)) / seconds, 2)}


def _score(given):
    batch, plan, shape = given
    return [scored.value for scored in score_batch(batch, plan, shape, seed=0)]


def through_ray(funnel, plan, num_workers):
    """Candidates a second when so many workers score the batches that a search would begin with."""
    batches = first_batches(funnel, plan)
    workers = Workers(num_workers)
    try:
        workers.warm_up()
        how = {"shape": funnel.space.shape, "seed": 0}
        for handle in [workers.submit(batches[0], plan.score, **how) for _ in range(2 * num_workers)]:
            workers.results(handle, len(batches[0]))
        start = time.perf_counter()
        handles = [workers.submit(batch, plan.score, **how) for batch in batches]
        for handle, batch in zip(handles, batches, strict=True):
            assert all(isinstance(scored.value, float) for scored in workers.results(handle, len(batch)))
        seconds = time.perf_counter() - start
    finally:
        workers.close()
    num = sum(map(len, batches))
    return {"candidates": num, "per_second": round(num / seconds, 2)}


if __name__ == "__main__":
    main()
