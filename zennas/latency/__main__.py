"""The command `latency`: measure by a track's rule, fill this machine's table. The same as: zennas latency."""

import json
import pathlib
from typing import Annotated

import typer

from zennas import commands
from zennas.records import UserError

HELP = """Measure ONNX files or candidates by a track's own rule on this machine, or fill its table of block latencies.

FILES are ONNX files (*.onnx) or files of candidates (YAML, JSON lines). Without any, the track's reference network is measured
again and kept. Every measurement is the whole record: raw times, spread, machine, versions (--json).

Exit codes: 0 done; 2 something given cannot be used; 130 stopped by Ctrl-C (a table keeps what it has).
"""


def latency(
    files: Annotated[list[str] | None, typer.Argument(help="ONNX files, or files of candidates.")] = None,
    track: Annotated[str, typer.Option(help="Track (experiment) whose rule and space apply.")] = "webface-sfr",
    backend: Annotated[
        str | None, typer.Option(help="Latency backend. [default: the track's; CPU stands in without a GPU]")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Fill the table of block latencies of the track's space.")
    ] = False,
    folder: Annotated[
        pathlib.Path | None, typer.Option(help="Where --table keeps it. [default: $ZENNAS_CACHE/measured/MACHINE]")
    ] = None,
    json_output: Annotated[
        bool, typer.Option("--json", help="A JSON list of the measurements on standard output.")
    ] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    from zennas.latency.budget import choose_protocol, keep_reference, measure_network
    from zennas.latency.table import LatencyTable
    from zennas.progress import Progress, console_for
    from zennas.track import load_experiment

    if folder is not None and not table:
        raise UserError("--folder says where --table keeps the table; give both")
    experiment, the_track, space = load_experiment(track)
    protocol, stand_in = choose_protocol(the_track, backend)
    console = console_for(json_output=json_output)
    progress = Progress(console)
    if stand_in:
        progress.say(stand_in, style="yellow")
    measured = []
    if table:
        the_table = LatencyTable(protocol, folder=folder)
        missing = the_table.missing_for(space)
        progress.begin("measuring the latency table")
        the_table.ensure(missing, num_runs=experiment.search.table_runs, progress=progress.counting("blocks"))
        progress.end()
        progress.say(f"{len(missing)} block measurements added, {len(the_table.rows)} known; kept in {the_table.path}")
    elif not files:
        reference = measure_network(the_track.budget.reference.candidate, protocol)
        keep_reference(the_track, reference)
        measured.append(("reference " + the_track.budget.reference.candidate.text, reference))
    for name, take in _things_to_measure(files or [], space):
        progress.begin(f"measuring {name}")
        progress.update({})
        measured.append((name, take(protocol)))
        progress.end()
    for name, measurement in measured:
        progress.say(
            f"{name}: {measurement.measured_ms:.3f} ms (median {measurement.median_ms:.3f}, "
            f"spread {measurement.spread_pct:.1f} %)"
        )
        if measurement.warning:
            progress.say(f"warning: {measurement.warning}", style="yellow")
    if json_output:
        values = [
            {"name": name, "measured_ms": one.measured_ms, "spread_pct": one.spread_pct, **one.model_dump(mode="json")}
            for name, one in measured
        ]
        print(json.dumps(values, indent=2))


def _things_to_measure(files, space):
    """[(name, protocol -> Measurement)] of ONNX files and of candidates in files."""
    from zennas.latency.budget import measure_network, measure_onnx_file
    from zennas.space.candidate import read_candidates

    things = []
    for file in files:
        if file.endswith(".onnx"):
            things.append((file, lambda protocol, file=file: measure_onnx_file(file, protocol)))
        else:
            for name, candidate in read_candidates(file):
                things.append(
                    (
                        name,
                        lambda protocol, candidate=candidate: measure_network(
                            candidate, protocol, image_px=space.image_px, embedding_size=space.embedding_size
                        ),
                    )
                )
    return things


main = commands.command(latency, help=HELP)

if __name__ == "__main__":
    main()
