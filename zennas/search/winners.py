"""From what was scored to what is handed on: choosing finalists, measuring them whole, writing the winners down."""

import json
import math
import pathlib

import numpy as np
import yaml

from zennas.export import checker_problems
from zennas.latency.backends import takes_network
from zennas.latency.budget import export_candidate, judged, timed_network
from zennas.latency.protocol import measure_calmly
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.space.cost import cost
from zennas.space.space import distances, genes_of
from zennas.track import ScorePlan

# How much more a network says about the table's error near the budget than one at half of it or twice.
NEARNESS = 3.0


def correction(entries, budget_ms):
    """The factor by which the table's sums are multiplied: measured over predicted, networks near the budget counting
    most.

    >>> correction([{"latency": {"measured_ms": 101.0, "table_ms": 100.0}}], 100.0)
    1.01
    """
    weighted = total = 0.0
    for latency in (entry["latency"] for entry in entries):
        weight = math.exp(-NEARNESS * abs(math.log(latency["measured_ms"] / budget_ms)))
        weighted += weight * math.log(latency["measured_ms"] / latency["table_ms"])
        total += weight
    return round(math.exp(weighted / total), 4) if total else 1.0


def diverse_best(rows, taken, *, num, min_distance, fits_N=None):
    """The best `num` of some Rows (by score, highest first) that fit, at least `min_distance` from every candidate in
    `taken`.
    """
    far_N = np.ones(len(rows), bool) if fits_N is None else fits_N.copy()
    for other in taken:
        far_N &= distances(rows.genes_NG, np.array(genes_of(other))) >= min_distance
    return [rows[int(at)] for at in rows.ranked(far_N)[:num]]


def metadata(candidate, made_by):
    """What an exported file says of itself."""
    return {"zennas": json.dumps(made_by), "candidate": candidate.text, "trained": "no"}


def measured_entry(run, candidate, *, role, name, score, path):
    """Export a candidate to `path`, measure it whole from that file, and say all of it in one entry.

    `score` is (mean, std). The prediction is the table's, corrected for a finalist as far as it was corrected by then,
    and uncorrected for a baseline, by which it is corrected.
    """
    space, made_by = run.space, run.ledger.state["made_by"]
    spent = cost(candidate, image_px=space.image_px, embedding_size=space.embedding_size)
    table_ms = run.table_ms(candidate)
    exported = export_candidate(
        candidate,
        image_px=space.image_px,
        embedding_size=space.embedding_size,
        metadata=metadata(candidate, made_by),
        precision=run.protocol.precision,
    )
    problems = checker_problems(exported.onnx_bytes, **run.track.limits.of_a_file)
    if problems and role != "baseline":
        raise RuntimeError(f"the track's checker would refuse it: {'; '.join(problems)}")
    write_atomically(path, exported.onnx_bytes)

    def measured(device=None):
        if takes_network(run.protocol.backend):
            network = timed_network(candidate, image_px=space.image_px, embedding_size=space.embedding_size)
            return run.workers.on_device(measure_calmly, network, run.protocol, device=device)
        return run.workers.measure_file(measure_calmly, path, run.protocol, device=device)

    measurement = measured()
    elsewhere = {
        budget.device: {
            "measured_ms": (there := measured(budget.device)).measured_ms,
            **_predicted(budget, candidate, space),
            "budget_ms": budget.most,
            "within_budget": there.measured_ms <= budget.most,
            "warning": there.warning,
            **there.model_dump(mode="json"),
        }
        for budget in run.others
        if budget.is_measured
    }
    return {
        "role": role,
        "name": name,
        "key": candidate.key,
        "candidate": candidate.plain(),
        "score_mean": round(score[0], 4),
        "score_std": round(score[1], 4),
        "score": run.plan.score.model_dump(),
        "params": spent.params,
        "macs": spent.macs,
        "num_blocks": candidate.num_blocks,
        "megabytes": round(exported.megabytes, 2),
        "latency": {
            **judged(measurement, run.budget),
            "predicted_ms": round(table_ms * run.factor, 4),
            "table_ms": round(table_ms, 4),
        },
        "elsewhere": elsewhere,
        "export": exported.proof.model_dump() | {"checker": problems},
        "onnx": path.name,
        "verdict": None,
        "made_by": made_by,
    }


def _predicted(budget, candidate, space):
    """What the table of a further device says of a candidate; nothing of a baseline of other blocks, which it lacks."""
    if candidate.block != space.block:
        return {"predicted_ms": None, "table_ms": None}
    predicted_ms = budget.of(candidate, space)
    return {"predicted_ms": round(predicted_ms, 4), "table_ms": round(predicted_ms / budget.factor, 4)}


def keeps_budgets(entry):
    """Whether a measured network keeps the budget of every device on which it was measured."""
    others = entry.get("elsewhere", {}).values()
    return entry["latency"]["within_budget"] and all(one["within_budget"] for one in others)


def prediction_error(entries):
    """{num, mean_abs_pct, max_abs_pct} of predicted against measured latency over whole networks; None where there are
    none.
    """
    latencies = [entry["latency"] for entry in entries]
    errors = [abs(100 * (latency["predicted_ms"] / latency["measured_ms"] - 1)) for latency in latencies]
    if not errors:
        return {"num": 0, "mean_abs_pct": None, "max_abs_pct": None}
    return {
        "num": len(errors),
        "mean_abs_pct": round(sum(errors) / len(errors), 2),
        "max_abs_pct": round(max(errors), 2),
    }


def write_winners(folder, winners, *, seed):
    """winners.json and one YAML per winner: a candidate as a user writes it, under comments that say where it is
    from."""
    folder = pathlib.Path(folder)
    made_by = provenance(seed=seed)
    for entry in winners:
        latency = entry["latency"]
        lines = [
            f"{entry['name']} of {made_by.command} (zennas {made_by.zennas}, seed {seed}, {made_by.machine}, "
            f"{made_by.date})",
            f"{ScorePlan(**entry['score']).label} {entry['score_mean']} (untrained; not an accuracy), "
            f"{latency['measured_ms']} ms of {latency['budget_ms']} ms",
        ]
        lines += [latency["stand_in"]] if latency["stand_in"] else []
        header = "".join(f"# {line}\n" for line in lines)
        body = yaml.safe_dump(entry["candidate"], sort_keys=False, default_flow_style=None)
        write_atomically(folder / f"{entry['name']}.yaml", header + body)
    write_atomically(folder / "winners.json", json.dumps(winners, indent=2) + "\n")
