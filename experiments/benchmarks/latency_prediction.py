"""How far is a prediction from the truth? Random candidates, predicted by the table and measured whole by the track's
rule.

    python experiments/benchmarks/latency_prediction.py --images FACES --out
    experiments/benchmarks/latency_prediction.json

--images: aligned faces of people, as --images of a search takes them. The networks are timed on these, while the table
sees what it always sees, the synthetic face; beside it stands the table of Gaussian noise, as protocols had it before
they named their input. Without --images networks see what the table sees.

The candidates are those of `python -m zennas.latency --predicted --measure 30`, from a quarter of the budget up to all
of it; here a third of them corrects the table, and the others judge. The baseline is a prediction from
multiply-accumulates alone, scaled by the same third. Takes ten to twenty minutes for 30 candidates; measurements are
kept, so that a stopped run goes on (a fresh folder in $ZENNAS_CACHE measures all of them anew). Writes a JSON.
"""

import argparse
import json
import pathlib
import statistics

from zennas.latency.budget import choose_protocol, kept_network, local_budget, reference_here
from zennas.latency.inputs import NOISE
from zennas.latency.predicted import SEED, measure_some
from zennas.latency.table import LatencyTable
from zennas.progress import Progress, console_for
from zennas.provenance import provenance
from zennas.search.winners import correction
from zennas.space.cost import cost
from zennas.track import load_experiment


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--track", default="webface-sfr")
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--images", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()

    progress = Progress(console_for(json_output=False))
    experiment, track, space = load_experiment(arguments.track)
    sizes = {"shape": space.shape}
    protocol, stand_in = choose_protocol(track)
    budget_ms = local_budget(track, reference_here(track, protocol, progress), stand_in).budget_ms
    tables = {name: LatencyTable(protocol.model_copy(update={"input": name})) for name in (protocol.input, NOISE)}
    for name, table in tables.items():
        progress.begin(f"latency table of {name}")
        count = progress.counting("blocks")
        table.ensure(table.parts_for(space), num_runs=experiment.search.table_runs, progress=count)
    table = tables[protocol.input]
    if arguments.images is not None:
        protocol, _ = choose_protocol(track, images=arguments.images)

    progress.begin("measuring candidates whole")
    chosen = measure_some(
        space, table, protocol, arguments.candidates, budget_ms=budget_ms, counting=progress.counting("candidates")
    )
    taken = [kept_network(candidate, protocol, **sizes) for candidate in chosen]
    rows = [judged_row(*each, tables, table, sizes) for each in zip(chosen, taken, strict=True)]
    progress.end()

    # The correction of a search comes from networks measured whole; here from the first third, judged on the others.
    third = len(rows) // 3
    factor = correction([(row["measured_ms"], row["table_ms"]) for row in rows[:third]], budget_ms)
    noise_factor = correction([(row["measured_ms"], row["noise_table_ms"]) for row in rows[:third]], budget_ms)
    ms_per_mac = statistics.median(row["measured_ms"] / row["macs"] for row in rows[:third])
    judged = rows[third:]
    result = {
        "what": "error of predicted against measured latency over whole networks, per cent",
        "networks_see": protocol.input.partition(":")[0],
        "tables_see": list(tables),
        "budget_ms": budget_ms,
        "candidates": len(rows),
        "table_as_it_is": errors(rows, lambda row: row["table_ms"]),
        "table_of_noise": errors(rows, lambda row: row["noise_table_ms"]),
        f"table_corrected_x_{factor}_by_the_first_{third}_on_the_others": errors(
            judged, lambda row: row["table_ms"] * factor
        ),
        "table_of_noise_corrected_on_the_others": errors(judged, lambda row: row["noise_table_ms"] * noise_factor),
        "baseline_macs_alone_on_the_others": errors(judged, lambda row: row["macs"] * ms_per_mac),
        "rows": rows,
        "made_by": provenance(seed=SEED).model_dump(),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in result.items() if name != "rows"}, indent=1))


def judged_row(candidate, taken, tables, table, sizes):
    return {
        "candidate": candidate.text,
        "table_ms": round(table.predict(candidate, **sizes), 3),
        "noise_table_ms": round(tables[NOISE].predict(candidate, **sizes), 3),
        "measured_ms": taken.measured_ms,
        "spread_pct": round(taken.spread_pct, 2),
        "macs": cost(candidate, **sizes).macs,
    }


def errors(rows, predicted):
    """{mean, worst, bias} of a prediction, in per cent of the measurement."""
    signed = [100 * (predicted(row) / row["measured_ms"] - 1) for row in rows]
    return {
        "mean_abs_pct": round(statistics.fmean(map(abs, signed)), 2),
        "max_abs_pct": round(max(map(abs, signed)), 2),
        "bias_pct": round(statistics.fmean(signed), 2),
    }


if __name__ == "__main__":
    main()
