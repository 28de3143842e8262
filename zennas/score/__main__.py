"""The command `score`: what a user does first with an idea of their own. The same as: zennas score."""

import csv as csv_module
import json
import sys
from typing import Annotated

import typer

from zennas import commands
from zennas.records import UserError

HELP = """Score candidates: Zen-Score (or others), parameters, MACs, blocks, predicted and measured latency against a
budget. The prediction is the table's own sum; a search corrects it by what it measures whole.

Candidates are YAML (one, or a list) or JSON lines, such as {block: ir_se, stem: 64, widths: [64, 128, 256, 512],
depths: [3, 13, 30, 3]}, from files or standard input ('-').

Exit codes: 0 all scored; 1 at least one candidate failed (its row says how); 2 something given cannot be used; 130
Ctrl-C.
"""


def score(
    files: Annotated[list[str] | None, typer.Argument(help="Files of candidates; '-' is standard input.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="The hand-made networks of the track's space.")
    ] = False,
    scores: Annotated[str, typer.Option("--score", help="Scores, comma-separated.")] = "zen",
    track: Annotated[str, typer.Option(help="Track (experiment) whose budget, rule and space apply.")] = "webface-sfr",
    budget_ms: Annotated[float | None, typer.Option(help="Budget in milliseconds of this machine, unscaled.")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Latency backend. [default: the track's; CPU stands in without a GPU]")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure each candidate whole, from its exported ONNX file.")
    ] = False,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Predict latency (fills this machine's table once).")
    ] = True,
    repeats: Annotated[int, typer.Option(min=1, help="Scores averaged per candidate.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the random inputs and weights.")] = 0,
    csv: Annotated[bool, typer.Option("--csv", help="A CSV table on standard output.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="A JSON list on standard output, in the order given.")
    ] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    from zennas.progress import Progress, console_for
    from zennas.space.candidate import read_candidates
    from zennas.track import load_experiment

    if csv and json_output:
        raise UserError("--csv and --json exclude each other")
    if measure and not latency:
        raise UserError("--measure and --no-latency exclude each other")
    experiment, the_track, space = load_experiment(track)
    candidates = list(space.baselines.items()) if baselines else []
    for source in files or ([] if baselines else ["-"]):
        candidates += read_candidates(source)
    names = [name.strip() for name in scores.split(",") if name.strip()]
    plan = experiment.search.score.model_copy(update={"repeats": repeats})
    progress = Progress(console_for(json_output=True))
    rows = _scored(candidates, names, plan, space=space, seed=seed, progress=progress)
    if latency:
        _add_latency(
            rows,
            [candidate for _, candidate in candidates],
            track=the_track,
            space=space,
            backend=backend,
            budget_ms=budget_ms,
            whole=measure,
            num_runs=experiment.search.table_runs,
            progress=progress,
        )
    if json_output:
        print(json.dumps(rows, indent=2))
    elif csv:
        _print_csv(rows)
    else:
        _print_table(rows)
    for row in rows:
        if row["error"]:
            progress.say(f"{row['name']}: {row['error']}", style="red")
    if any(row["error"] for row in rows):
        raise typer.Exit(1)


def _scored(candidates, names, plan, *, space, seed, progress):
    """A row per candidate: what it is, what it costs, its scores."""
    import torch

    from zennas.score.scores import SCORES, score_batch
    from zennas.space.cost import cost
    from zennas.space.network import check_block
    from zennas.track import lookup

    for name in names or [""]:
        lookup(SCORES, name, "score")
    rows = []
    progress.begin("scoring")
    count = progress.counting("candidates")
    for index, (name, candidate) in enumerate(candidates):
        try:
            check_block(candidate.block)
        except UserError as error:
            raise UserError(f"{name}: {error}") from None
        spent = cost(candidate, image_px=space.image_px, embedding_size=space.embedding_size)
        row = {
            "name": name,
            "key": candidate.key,
            "candidate": candidate.plain(),
            "text": candidate.text,
            "scores": {},
            "params": spent.params,
            "macs": spent.macs,
            "num_blocks": candidate.num_blocks,
            "megabytes": round(spent.megabytes, 2),
            "outside_space": space.violation(candidate),
            **dict.fromkeys(
                ("predicted_ms", "measured_ms", "spread_pct", "budget_ms", "within_budget", "stand_in", "error")
            ),
        }
        device = "cuda" if torch.cuda.is_available() else "cpu"
        for score_name in names:
            (scored,) = score_batch([candidate], plan.model_copy(update={"name": score_name}), seed=seed, device=device)
            row["scores"][score_name] = scored.value
            row["error"] = row["error"] or (f"score {score_name}: {scored.error}" if scored.error else None)
        rows.append(row)
        count(index + 1, len(candidates))
    progress.end()
    return rows


def _add_latency(rows, candidates, *, track, space, backend, budget_ms, whole, num_runs, progress):
    """Predicted, and where `whole` measured, latency of each row, against the track's budget here."""
    from zennas.latency.budget import choose_protocol, local_budget, measure_network, reference_here
    from zennas.latency.table import LatencyTable, parts_of

    protocol, stand_in = choose_protocol(track, backend)
    reference = reference_here(track, protocol, progress) if budget_ms is None else None
    budget = local_budget(track, reference, stand_in, budget_ms=budget_ms)
    progress.say(f"budget {budget.budget_ms:.2f} ms here: {budget.origin}")
    if stand_in:
        progress.say(stand_in, style="yellow")
    sizes = {"image_px": space.image_px, "embedding_size": space.embedding_size}
    table = LatencyTable(protocol)
    if table.missing_for(space):  # not filled yet: a few candidates need only their own parts
        progress.begin("measuring the blocks of these candidates, once for this machine")
        own = dict.fromkeys(part for candidate in candidates for part in parts_of(candidate, **sizes))
        table.ensure(own, num_runs=num_runs, progress=progress.counting("blocks"))
        progress.end()
    for row, candidate in zip(rows, candidates, strict=True):
        if not table.covers(candidate, **sizes):
            table.ensure(parts_of(candidate, **sizes), num_runs=num_runs)
        row["predicted_ms"] = round(table.predict(candidate, **sizes), 4)
        if whole:
            progress.begin(f"measuring {row['name']} whole")
            progress.update({})
            measurement = measure_network(candidate, protocol, **sizes)
            progress.end()
            row |= {"measured_ms": measurement.measured_ms, "spread_pct": round(measurement.spread_pct, 2)}
            row["latency"] = measurement.model_dump(mode="json")
            if measurement.warning:
                progress.say(f"{row['name']}: {measurement.warning}", style="yellow")
        counts_ms = row["predicted_ms"] if row["measured_ms"] is None else row["measured_ms"]
        row |= {"budget_ms": budget.budget_ms, "within_budget": counts_ms <= budget.budget_ms, "stand_in": stand_in}


def _print_csv(rows):
    flat = [{**row, **{f"score_{name}": value for name, value in row["scores"].items()}} for row in rows]
    columns = [name for name in flat[0] if name not in ("candidate", "scores", "latency")]
    writer = csv_module.DictWriter(sys.stdout, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(flat)


def _print_table(rows):
    from rich.table import Table
    from rich.text import Text

    from zennas.progress import console_for

    table = Table()
    table.add_column("network", overflow="fold")
    names = list(rows[0]["scores"])
    for name in ("key", *names, "GMACs", "M params", "blocks", "predicted ms", "measured ms", "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        counts_ms = row["predicted_ms"] if row["measured_ms"] is None else row["measured_ms"]
        table.add_row(
            Text(row["name"] if row["name"] != row["text"] else row["text"]),
            row["key"][:8],
            *("failed" if row["scores"][name] is None else f"{row['scores'][name]:,.2f}" for name in names),
            f"{row['macs'] / 1e9:.3f}",
            f"{row['params'] / 1e6:.3f}",
            str(row["num_blocks"]),
            "-" if row["predicted_ms"] is None else f"{row['predicted_ms']:.2f}",
            "-" if row["measured_ms"] is None else f"{row['measured_ms']:.2f} ±{row['spread_pct']:.1f} %",
            "-" if counts_ms is None else f"{100 * counts_ms / row['budget_ms']:.1f} %",
        )
    console_for(json_output=False).print(table)


main = commands.command(score, help=HELP)

if __name__ == "__main__":
    main()
