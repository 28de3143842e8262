"""How many scorers does a driver keep busy, and what takes over where it does not?

    python experiments/cluster/scaling.py --out experiments/cluster/scaling.json

Measures, on the machine where it runs and for space ir_se at the budget of experiments/webface-sfr:
  propose, take    what the driver spends on a batch: choosing it; rows, table, population when it comes back
  ray              what Ray takes of the driver for a task with such a batch on its way there and back
  dispatch         tasks that do nothing, as many a second as one driver and one node can start and end: Ray's own limit
  here score            a batch on one core
and then plays clusters of up to 1,000 scorers with these times: one driver, in-order results, two batches in flight per
scorer, as the search has it. What is played is what was measured on one machine: no network, no node that is slower
than another.
"""

import argparse
import collections
import heapq
import json
import pathlib
import statistics
import tempfile
import time

import numpy as np
import plotly.graph_objects as go
import ray
import torch

from zennas import page
from zennas.latency.budget import choose_protocol
from zennas.latency.table import LatencyTable
from zennas.provenance import Provenance, provenance
from zennas.run_folder import write_atomically
from zennas.score.scores import Scored, score_batch
from zennas.search.batches import Batches
from zennas.search.funnel import Funnel
from zennas.search.ledger import open_ledger
from zennas.search.workers import Workers
from zennas.track import load_experiment

BUDGET_MS = 333.0
SIZES = (96, 288, 576, 1152, 2304)  # whole families
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)
SCORED_BATCHES = 6
EMPTY_TASKS = 2000
SPREAD = 0.15  # of the scoring times of batches, where fewer than three were measured


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    experiment, track, space = load_experiment("webface-sfr")
    table = LatencyTable(choose_protocol(track)[0])
    table.ensure(
        table.parts_for(space), progress=lambda done, num: done % 100 or print(f"{done} of {num} parts measured")
    )
    found = {"measured": {}, "played": []}
    with tempfile.TemporaryDirectory() as folder:
        for size in SIZES:
            plan = experiment.search.model_copy(update={"batch_size": size})
            found["measured"][size] = driver_times(space, plan, table, pathlib.Path(folder) / str(size))
            print(size, found["measured"][size], flush=True)
    found["score_s"] = scorer_times(space, experiment.search, table)
    found |= ray_times(found["measured"])
    found["played"] = [played(found, size, num) for size in SIZES for num in WORKERS]
    found["made_by"] = provenance(seed=0).model_dump()
    write_atomically(arguments.out, json.dumps(found, indent=1) + "\n")
    write_atomically(arguments.out.with_suffix(".md"), as_text(found))
    write_atomically(arguments.out.with_suffix(".html"), as_page(found))


class AtOnce:
    """Workers that have scored everything the moment they are asked, by the closed form: what is left is the driver's
    time.
    """

    num_workers = 1

    def __init__(self, space, funnel):
        self.space, self.funnel, self.seconds = space, funnel, 0.0

    def submit(self, candidates, plan, *, shape, seed, repeats=None):
        start = time.perf_counter()
        values = self.funnel.score.of(self.space, np.array([candidate.genes for candidate in candidates]))
        self.seconds += time.perf_counter() - start
        return [Scored(float(value), 0.0, 0.001) for value in values]

    def ready(self, job):
        return True

    def results(self, job, num):
        return job


def driver_times(space, plan, table, folder):
    """{propose_s, take_s} of a batch of plan.batch_size."""
    funnel = Funnel(space, plan, table.part_ms)
    funnel.set_budget(BUDGET_MS, margin_pct=plan.margin_pct)
    batches = Batches(
        space,
        plan,
        open_ledger(folder, {}, seed=0),
        lag=4,
        refusal=lambda one: None,
        fit=lambda ms_N, genes_NG: ms_N <= BUDGET_MS,
        predicted_ms=lambda one: table.predict(one, space.shape),
        funnel=funnel,
    )
    proposing, propose = [], funnel.propose

    def timed(*arguments, **keywords):
        start = time.perf_counter()
        proposals = propose(*arguments, **keywords)
        proposing.append(time.perf_counter() - start)
        return proposals

    funnel.propose = timed
    workers = AtOnce(space, funnel)
    batches.run(workers, num_scored=4 * plan.batch_size)  # the first batches find an empty population
    num, proposing[:], workers.seconds, start = 8, [], 0.0, time.perf_counter()
    batches.run(workers, num_scored=(4 + num) * plan.batch_size)
    spent_s = time.perf_counter() - start - workers.seconds
    return {"propose_s": round(sum(proposing) / num, 5), "take_s": round((spent_s - sum(proposing)) / num, 5)}


def scorer_times(space, plan, table):
    """Seconds a candidate, of batches of families that a search proposes, on one core."""
    funnel = Funnel(space, plan, table.part_ms)
    funnel.set_budget(BUDGET_MS, margin_pct=plan.margin_pct)
    from zennas.search.funnel import Niches

    population, seen, found = Niches(plan.population, funnel.bands), set(), []
    for batch in range(SCORED_BATCHES):
        candidates = funnel.propose(
            population, batch=batch, most=plan.batch_size, seen=seen, counters=collections.Counter()
        )
        start = time.perf_counter()
        scored = score_batch(candidates, plan.score, space.shape, seed=0)
        found.append((time.perf_counter() - start) / len(candidates))
        for candidate, one in zip(candidates, scored, strict=True):
            population.add(one.value, candidate)
    print("score", found, flush=True)
    return [round(seconds, 6) for seconds in found[1:]]  # the first begins with the baselines, one by one


def ray_times(sizes):
    """Ray's share of the driver for a task of so many candidates, and its limit of empty tasks."""
    workers = Workers(2)
    space = load_experiment("webface-sfr")[2]
    rng = np.random.default_rng(0)

    @ray.remote(num_cpus=1)
    def nothing(candidates):
        return [Scored(1.0, 0.0, 0.001)] * len(candidates)

    ray.get([nothing.remote([]) for _ in range(100)])
    found = {}
    for size in sizes:
        candidates = [space.sample(rng) for _ in range(size)]
        before = time.process_time()
        ray.get([nothing.remote(candidates) for _ in range(20)])
        found[size] = round((time.process_time() - before) / 20, 5)
    start = time.perf_counter()
    ray.get([nothing.remote([]) for _ in range(EMPTY_TASKS)])
    dispatch = EMPTY_TASKS / (time.perf_counter() - start)
    workers.close()
    return {"ray_s": found, "dispatch_per_s": round(dispatch, 1)}


def played(found, size, num_workers, *, num_batches=None):
    """A search of some batches with so many scorers: candidates a second, and how busy driver and scorers are."""
    rng, times = np.random.default_rng(0), found["measured"][size]
    mean_s = statistics.fmean(found["score_s"]) * size
    cv = max(SPREAD, statistics.stdev(found["score_s"]) / statistics.fmean(found["score_s"]))
    sigma = np.sqrt(np.log(1 + cv**2))
    lag, num_batches = 2 * num_workers, num_batches or 12 * num_workers + 200
    # What the driver spends on a batch, half of Ray's share on the way there, half on the way back; never faster than
    # Ray starts.
    send_s = max(times["propose_s"] + found["ray_s"][size] / 2, 1 / found["dispatch_per_s"])
    take_s = times["take_s"] + found["ray_s"][size] / 2
    free_at, done_at = [0.0] * num_workers, collections.deque()
    heapq.heapify(free_at)
    now = first_s = 0.0
    sent = taken = 0
    while sent < num_batches:  # to the last one that is sent: after it the driver has less to do
        if sent - taken < lag:
            now, sent = now + send_s, sent + 1
            takes_s = float(rng.lognormal(np.log(mean_s) - sigma**2 / 2, sigma))
            start = max(now, heapq.heappop(free_at))
            heapq.heappush(free_at, start + takes_s)
            done_at.append(start + takes_s)
            continue
        now, taken = max(now, done_at.popleft()) + take_s, taken + 1
        if taken == lag:
            first_s = now  # from here on all are at work
    rate = size * (taken - lag) / (now - first_s)
    return {
        "batch_size": size,
        "workers": num_workers,
        "per_s": round(rate, 1),
        "driver_busy": round(rate / size * (send_s + take_s), 3),
        "workers_busy": round(rate / size * mean_s / num_workers, 3),
        "candidates_in_flight": lag * size,
    }


def limit(found, size):
    """(candidates a second that a driver can handle, scorers that give it so many)."""
    times = found["measured"][size]
    driver_s = max(times["propose_s"] + found["ray_s"][size] / 2, 1 / found["dispatch_per_s"])
    driver_s += times["take_s"] + found["ray_s"][size] / 2
    return size / driver_s, size / driver_s * statistics.fmean(found["score_s"])


def as_text(found):
    made_by, rate = found["made_by"], 1 / statistics.fmean(found["score_s"])
    lines = [
        "# One driver and its scorers",
        "",
        f"Measured on {made_by['machine']} (zennas {made_by['zennas']}, {made_by['date'][:10]}); larger clusters are "
        "played with these times, not run.",
        "",
        f"A scorer: {rate:.0f} candidates a second, in families (space ir_se near {BUDGET_MS:.0f} ms). Ray starts "
        f"and ends "
        f"{found['dispatch_per_s']:.0f} empty tasks a second here.",
        "",
        "| batch | propose, ms | take in, ms | Ray, ms | driver's limit, candidates/s | reached with | batches/s "
        "there |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for size in SIZES:
        times, (most, scorers) = found["measured"][size], limit(found, size)
        lines.append(
            f"| {size} | {1e3 * times['propose_s']:.0f} | {1e3 * times['take_s']:.0f} | "
            f"{1e3 * found['ray_s'][size]:.1f} | "
            f"{most:,.0f} | {scorers:.0f} scorers | {most / size:.1f} |"
        )
    lines += ["", "Played, candidates a second (share of the scorers' time that is used):", ""]
    lines += ["| scorers | " + " | ".join(f"batch {size}" for size in SIZES) + " |", "|---:|" + "---:|" * len(SIZES)]
    for num in WORKERS:
        row = [
            next(one for one in found["played"] if (one["batch_size"], one["workers"]) == (size, num)) for size in SIZES
        ]
        lines.append(
            f"| {num} | " + " | ".join(f"{one['per_s']:,.0f} ({100 * one['workers_busy']:.0f} %)" for one in row) + " |"
        )
    return "\n".join(lines) + "\n"


def as_page(found):
    colours = ("#94a3b8", "#64748b", "#0f766e", "#b45309", "#be123c")
    looks = {f"batches of {size}": page.Look(colour, "━") for size, colour in zip(SIZES, colours, strict=True)}
    looks["all scorers always busy"] = page.Look("#1e293b", "┅")
    figure, rate = go.Figure(), 1 / statistics.fmean(found["score_s"])
    for size, colour in zip(SIZES, colours, strict=True):
        rows = [row for row in found["played"] if row["batch_size"] == size]
        figure.add_scatter(
            x=[row["workers"] for row in rows],
            y=[row["per_s"] for row in rows],
            mode="lines+markers",
            line={"color": colour},
            hovertemplate="%{x} scorers: %{y:,.0f}/s<extra></extra>",
        )
    figure.add_scatter(
        x=list(WORKERS),
        y=[num * rate for num in WORKERS],
        mode="lines",
        line={"color": "#1e293b", "dash": "dash"},
        hoverinfo="skip",
    )
    figure.update_xaxes(type="log", title="Scorers")
    figure.update_yaxes(type="log", title="Candidates a second, one driver")
    drawn = page.drawn(figure, "scaling", height_px=480)
    sections = f"<section><h2>Where a driver is full</h2>{page.legend(looks)}{drawn}</section>"
    most, scorers = limit(found, 576)
    facts = [
        ("a scorer", f"{rate:.0f} candidates a second"),
        ("a driver", f"{most:,.0f} candidates a second with batches of 576: as many as {scorers:.0f} scorers give"),
        ("Ray", f"{found['dispatch_per_s']:.0f} empty tasks a second"),
    ]
    return page.document(
        sections,
        page.definitions(page.origin(Provenance(**found["made_by"]), [])),
        kind="simulation",
        title="One driver and its scorers",
        subtitle="larger clusters are played with measured times, not run",
        banner="",
        facts=facts,
    )


if __name__ == "__main__":
    main()
