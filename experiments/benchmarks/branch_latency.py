"""How far is a latency by adding parts off where networks have branches? Random whole networks of three spaces,
predicted by the table and measured.

    python experiments/benchmarks/branch_latency.py --out experiments/benchmarks/branch_latency.json

Ten networks of each of mgn (384 x 128), mgn_edge and reid_single (256 x 128), one processor thread, ONNX Runtime. Every
block is priced at the size of the maps that it sees, and branches are added up. They take a quarter of a budget up to
all of it: half of MGN-R50's time, as in track reid-mgn, and 15 ms a crop, as in track reid-edge. They are measured at
batch 1, and the same ones at batch 16.

A third of them corrects the table, as finalists do in a search, and the others judge; beside it stands a prediction
from multiply-accumulates alone. A reference network is measured again behind every one: how much its times differ says
what the machine's own noise was.

Takes 25 minutes. All that is measured is kept: the same command goes on where it stopped (a fresh folder in
$ZENNAS_CACHE measures all of it anew). Writes a JSON.
"""

import argparse
import json
import math
import pathlib
import statistics

from zennas.latency.budget import export_candidate, keep_network, kept_network, measure_network
from zennas.latency.predicted import SEED, measure_some
from zennas.latency.protocol import measure
from zennas.latency.table import LatencyTable
from zennas.progress import Progress, console_for
from zennas.provenance import provenance
from zennas.search.winners import correction
from zennas.space.cost import cost
from zennas.space.families.table import tree_of
from zennas.track import load_space, load_track

NOISE_OF = "RepVGG-A0"  # the baseline that is measured again and again, of space reid_single
BUDGETS_MS = {"mgn": None, "mgn_edge": 15.0, "reid_single": 15.0}  # None: half of MGN-R50, as the table has it
BATCHES = (1, 16)
# Of whole networks, and of the parts of a table, at each batch: sixteen images at once last sixteen times as long.
REFERENCE_RUNS = 20
RUNS, TABLE_RUNS = {1: 50, 16: 10}, {1: 8, 16: 4}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=10, help="of each space")
    parser.add_argument("--backend", default="onnxruntime-cpu")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    progress = Progress(console_for(json_output=False))
    rows, references = [], []
    for name, budget_ms in BUDGETS_MS.items():
        chosen = None
        for batch in BATCHES:
            protocol = protocol_at(batch, arguments.backend)
            whole = load_space(name)
            space = whole.model_copy(update={"baselines": {}})  # they would widen the range
            table = LatencyTable(protocol)
            progress.begin(f"{name}: latency table at batch {batch}")
            parts = table.parts_for(space)
            table.ensure(parts, num_runs=TABLE_RUNS[batch], progress=progress.counting("blocks"))
            progress.end()
            if chosen is None:
                half_ms = table.predict(whole.baselines["MGN-R50"], whole.shape) / 2 if budget_ms is None else None
                of_ms = budget_ms or half_ms
                progress.begin(f"{name}: networks whole at batch {batch}")
                count = progress.counting("networks")
                chosen = measure_some(space, table, protocol, arguments.networks, budget_ms=of_ms, counting=count)
                progress.end()
            for at, candidate in enumerate(chosen):
                progress.begin(f"{name}: network {at + 1} at batch {batch}")
                progress.update({})
                if kept_network(candidate, protocol, space.shape) is None:
                    keep_network(candidate, measure_network(candidate, protocol, space.shape), space.shape)
                taken = kept_network(candidate, protocol, space.shape)
                progress.end()
                rows.append(row_of(name, batch, candidate, space.shape, taken, table))
                references.append(reference_ms(arguments.backend))
    result = result_of(rows, references, arguments)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1))


def row_of(name, batch, candidate, shape, taken, table):
    return {
        "space": name,
        "batch": batch,
        "candidate": candidate.text,
        "num_branches": tree_of(candidate).num_branches,
        "macs": cost(candidate, shape).macs,
        "table_ms": round(table.predict(candidate, shape), 3),
        "measured_ms": taken.measured_ms,
        "spread_pct": round(taken.spread_pct, 2),
        "load_average": taken.load_average,
    }


def reference_ms(backend, *, kept={}):  # noqa: B006 - the file is made once
    """The reference network, measured now: what it takes differs from time to time by the machine's noise alone."""
    space = load_space("reid_single")
    if "onnx" not in kept:
        kept["onnx"] = export_candidate(space.baselines[NOISE_OF], space.shape, protocol_at(1, backend)).onnx_bytes
    return measure(kept["onnx"], protocol_at(1, backend).with_runs(REFERENCE_RUNS)).measured_ms


def protocol_at(batch, backend):
    """The rule of both tracks with so many images at once."""
    asked = load_track("reid-mgn").protocol.model_copy(update={"backend": backend, "batch": batch})
    return asked.with_runs(RUNS[batch])


def result_of(rows, references, arguments):
    groups = {}
    for row in rows:
        groups.setdefault(f"{row['space']}, batch {row['batch']}", []).append(row)
    judged = {name: judged_group(group) for name, group in groups.items()}
    others = [row for group in judged.values() for row in group.pop("rows")]
    return {
        "what": "error of predicted against measured latency over whole networks, per cent",
        "networks": len(rows) // len(BATCHES),
        "table_as_it_is": errors(rows, "table_ms"),
        "at_batch": {batch: errors([row for row in rows if row["batch"] == batch], "table_ms") for batch in BATCHES},
        "corrected_by_a_third_on_the_others": errors(others, "corrected_ms"),
        "corrected_at_batch": {
            batch: errors([row for row in others if row["batch"] == batch], "corrected_ms") for batch in BATCHES
        },
        "baseline_macs_alone_on_the_others": errors(others, "by_macs_ms"),
        "groups": judged,
        "noise": noise_of(references),
        "rows": rows,
        "made_by": provenance(seed=SEED).model_dump(),
    }


def judged_group(group):
    """A group's errors as the table is, and corrected by a third of its networks on the others."""
    third = group[: max(1, len(group) // 3)]
    middle_ms = math.exp(statistics.fmean(math.log(row["measured_ms"]) for row in third))
    factor = correction([(row["measured_ms"], row["table_ms"]) for row in third], middle_ms)
    ms_per_mac = statistics.median(row["measured_ms"] / row["macs"] for row in third)
    for row in group:
        row["corrected_ms"] = round(row["table_ms"] * factor, 3)
        row["by_macs_ms"] = round(row["macs"] * ms_per_mac, 3)
    others = group[len(third) :]
    return {
        "ms": [min(row["measured_ms"] for row in group), max(row["measured_ms"] for row in group)],
        "table_as_it_is": errors(group, "table_ms"),
        "factor": factor,
        "corrected_on_the_others": errors(others, "corrected_ms"),
        "rows": others,
    }


def errors(rows, predicted):
    """{mean, worst, bias} of a prediction, in per cent of the measurement."""
    signed = [100 * (row[predicted] / row["measured_ms"] - 1) for row in rows]
    return {
        "mean_abs_pct": round(statistics.fmean(map(abs, signed)), 2),
        "max_abs_pct": round(max(map(abs, signed)), 2),
        "bias_pct": round(statistics.fmean(signed), 2),
    }


def noise_of(references):
    """How much the reference's times differ, in per cent of their median."""
    middle = statistics.median(references)
    return {
        "reference": NOISE_OF,
        "num": len(references),
        "median_ms": middle,
        "mean_abs_pct": round(statistics.fmean(100 * abs(ms / middle - 1) for ms in references), 2),
        "max_abs_pct": round(max(100 * abs(ms / middle - 1) for ms in references), 2),
        "raw_ms": references,
    }


if __name__ == "__main__":
    main()
