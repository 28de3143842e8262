"""The command `latency`: measure by a track's rule; build, show, compare and import tables. The same as: zennas
latency.
"""

import json
import pathlib
from typing import Annotated

import typer

from zennas import commands
from zennas.records import UserError

HELP = """Measure ONNX files or candidates by a track's own rule on this machine, and look after tables of block
latencies.

\b
zennas latency                      the track's reference network, measured again and kept
zennas latency FILE...              ONNX files (*.onnx), files of candidates (YAML, JSON lines)
zennas latency --table              fill this machine's table for the track's space
zennas latency --show               the tables known here: this machine's, shipped, imported
zennas latency --show TABLE         what is in one, stage by stage
zennas latency --compare ONE OTHER  how well one device stands in for another
zennas latency --import FILE.csv    bring a table here that another machine filled
zennas latency --predicted          the table's predictions against whole networks, as a page

TABLE is MACHINE, MACHINE/RULE or MACHINE/RULE@VERSION as --show lists them, any part that only one has, or the path
of a .csv. Every measurement is the whole record: raw times, spread, machine, versions (--json).

Exit codes: 0 done; 2 something given cannot be used; 130 stopped by Ctrl-C (what was measured is kept, and not
measured again).
"""


def latency(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE|TABLE]...", help="Files to measure; or tables to show, compare, import."),
    ] = None,
    track: Annotated[str, typer.Option(help="Track (experiment) whose rule and space apply.")] = "webface-sfr",
    space: Annotated[str | None, typer.Option(help="Search space: a name or path. [default: the experiment's]")] = None,
    backend: Annotated[
        str | None, typer.Option(help="Latency backend. [default: the track's; CPU stands in without a GPU]")
    ] = None,
    table: Annotated[bool, typer.Option("--table", help="Fill the table of block latencies of the space.")] = False,
    show: Annotated[bool, typer.Option("--show", help="Show all tables, or the one that is named.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Compare two tables, over the space's candidates too.")
    ] = False,
    import_: Annotated[bool, typer.Option("--import", help="Import a table that another machine filled.")] = False,
    predicted: Annotated[
        bool, typer.Option("--predicted", help="Compare predictions with the whole networks that are kept, on a page.")
    ] = False,
    machine: Annotated[str | None, typer.Option(help="With --import: what the other machine is called here.")] = None,
    num_measured: Annotated[
        int | None, typer.Option("--measure", min=1, help="With --predicted: first measure so many candidates whole.")
    ] = None,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="With --predicted: the page. [default: runs/EXPERIMENT-latency.html]")
    ] = None,
    folder: Annotated[
        pathlib.Path | None, typer.Option(help="Where --table keeps it. [default: $ZENNAS_CACHE/measured/MACHINE]")
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    from zennas.progress import Progress, console_for

    what = what or []
    modes = {"--table": table, "--show": show, "--compare": compare, "--import": import_, "--predicted": predicted}
    mode = _mode(modes, what, machine=machine, num_measured=num_measured, out=out, folder=folder)
    progress = Progress(console_for(json_output=json_output))
    try:
        if mode in ("--show", "--compare", "--import"):
            value = _of_tables(mode, what, track, space, backend, machine, progress)
        else:
            value = _measured(mode, what, track, space, backend, num_measured, out, folder, progress)
    finally:
        progress.close()
    if json_output:
        print(json.dumps(value, indent=2))


def _mode(modes, what, *, machine, num_measured, out, folder):
    """The one option that says what to do, or None: measure. UserError where the rest does not go with it."""
    given = [name for name, is_given in modes.items() if is_given]
    if len(given) > 1:
        raise UserError(f"{given[0]} and {given[1]} exclude each other")
    mode = given[0] if given else None
    for option, value, needed, why in (
        ("--folder", folder, "--table", "says where --table keeps the table"),
        ("--machine", machine, "--import", "names the machine of a table that --import brings here"),
        ("--measure", num_measured, "--predicted", "says how many networks --predicted measures first"),
        ("--out", out, "--predicted", "says where --predicted writes its page"),
    ):
        if value is not None and mode != needed:
            raise UserError(f"{option} {why}; give both")
    allowed = {"--show": (0, 1), "--compare": (2, 2), "--import": (1, 1), "--predicted": (0, 0)}.get(mode)
    if allowed and not allowed[0] <= len(what) <= allowed[1]:
        wanted = {"--show": "at most one table", "--compare": "two tables", "--import": "one file"}.get(mode, "no file")
        raise UserError(f"{mode} takes {wanted}; given {len(what)}: {', '.join(what) or 'none'}")
    return mode


# --- what is measured here


def _measured(mode, files, track, space, backend, num_measured, out, folder, progress):
    from zennas.latency.budget import choose_protocol, keep_reference, measure_network
    from zennas.latency.table import LatencyTable

    experiment, the_track, the_space = _loaded(track, space)
    protocol, stand_in = choose_protocol(the_track, backend)
    if stand_in:
        progress.say(stand_in, style="yellow")
    if mode in ("--table", "--predicted"):
        latency_table = LatencyTable(protocol, folder=folder)
        missing = latency_table.missing_for(the_space)
        progress.begin("measuring the latency table")
        latency_table.ensure(missing, num_runs=experiment.search.table_runs, progress=progress.counting("blocks"))
        progress.end()
        if missing or mode == "--table":
            progress.say(
                f"{len(missing)} block measurements added, {len(latency_table.rows)} known; kept in "
                f"{latency_table.path}"
            )
    if mode == "--predicted":
        out = out or pathlib.Path(f"runs/{experiment.name}-latency.html")
        return _predicted(
            experiment, the_track, the_space, latency_table, protocol, stand_in, num_measured, out, progress
        )
    taken = []
    if mode is None and not files:
        reference = measure_network(the_track.budget.reference.candidate, protocol)
        keep_reference(the_track, reference)
        taken.append(("reference " + the_track.budget.reference.candidate.text, reference))
    for name, take in _things_to_measure(files, the_space):
        progress.begin(f"measuring {name}")
        progress.update({})
        taken.append((name, take(protocol)))
        progress.end()
    for name, measurement in taken:
        precision = measurement.protocol.precision
        progress.say(
            f"{name}: {measurement.measured_ms:.3f} ms (median {measurement.median_ms:.3f}, "
            f"spread {measurement.spread_pct:.1f} %{'' if precision == 'float32' else f', {precision}'})"
        )
        if measurement.warning:
            progress.say(f"warning: {measurement.warning}", style="yellow")
    return [
        {"name": name, "measured_ms": one.measured_ms, "spread_pct": one.spread_pct, **one.model_dump(mode="json")}
        for name, one in taken
    ]


def _predicted(experiment, track, space, latency_table, protocol, stand_in, num_measured, out, progress):
    from zennas.latency.budget import local_budget, reference_here
    from zennas.latency.predicted import measure_some, page, predict_kept, sentence
    from zennas.run_folder import explaining, write_atomically

    with explaining(out.parent):  # before minutes of measuring
        out.parent.mkdir(parents=True, exist_ok=True)
    if num_measured:
        budget = local_budget(track, reference_here(track, protocol, progress), stand_in)
        progress.begin("measuring candidates whole")
        measure_some(
            space,
            latency_table,
            protocol,
            num_measured,
            budget_ms=budget.budget_ms,
            counting=progress.counting("networks"),
        )
        progress.end()
    title = f"{experiment.name}: {latency_table.path.stem} on {latency_table.machine}"
    found = predict_kept(space, latency_table, protocol, title=title, stand_in=stand_in)
    write_atomically(out, page(found))
    progress.say(sentence(found))
    progress.say(f"page: {out}")
    return found.model_dump(mode="json") | {"page": str(out)}


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


def _loaded(track, space):
    """(Experiment, Track, Space); `space` replaces the experiment's."""
    from zennas.track import load_experiment, load_space

    experiment, the_track, the_space = load_experiment(track)
    return experiment, the_track, load_space(space) if space else the_space


# --- tables


def _of_tables(mode, what, track, space, backend, machine, progress):
    from zennas.latency import tables
    from zennas.latency.backends import device_of
    from zennas.latency.comparison import compare

    _, the_track, the_space = _loaded(track, space)
    protocol = the_track.protocol  # as it is: another machine's table needs no device here
    if backend is not None:
        device_of(backend)
        protocol = protocol.model_copy(update={"backend": backend})
    if mode == "--show" and not what:
        found = tables.known_tables()
        _print_tables(found, progress.console)
        return [_plain(one) for one in found]
    if mode == "--show":
        one = tables.find_table(what[0], protocol)
        _print_table(one, progress.console)
        return _plain(one) | {"parts": [_plain_row(row) for row in one.rows.values()]}
    if mode == "--compare":
        found = compare(*(tables.find_table(name, protocol) for name in what), the_space)
        _print_comparison(found, progress.console)
        return found.model_dump(mode="json")
    path, found = tables.import_table(what[0], machine=machine, protocol=protocol)
    for one in found:
        progress.say(f"{one.name}: {len(one.rows)} parts, kept in {path}")
    return [_plain(one) for one in found]


def _plain(one):
    """What JSON says of a KnownTable."""
    keys = ("backend", "threads", "batch", "flush_denormals", "precision")
    rule = {key: getattr(one.protocol, key, None) for key in keys}
    first, last = one.dates
    return {
        "table": one.name,
        "machine": one.machine,
        **rule,
        "version": one.runtime,
        "num_parts": len(one.rows),
        "first": first,
        "last": last,
        "origins": list(one.origins),
    }


def _plain_row(row):
    return row.part._asdict() | {
        "ms": row.ms,
        "spread_pct": row.spread_pct,
        "gmacs_per_s": _gmacs_per_s(row),
        "date": row.date,
    }


def _gmacs_per_s(row):
    return round(row.part.macs / row.ms / 1e6, 3)


def _grid(names, *, num_left=1):
    """An empty table for the terminal; the first columns are of text, and shown whole."""
    from rich.table import Table

    grid = Table()
    for index, name in enumerate(names):
        grid.add_column(name, justify="left" if index < num_left else "right", no_wrap=index < num_left)
    return grid


def _print_tables(found, console):
    from zennas.provenance import machine_name

    if not found:
        console.print("no latency table is known here: zennas latency --table fills one")
        return
    grid = _grid(("", "machine", "backend", "threads", "batch", "version", "parts", "taken until", "from"), num_left=3)
    for one in found:
        rule, mark = one.protocol, "*" if one.machine == machine_name() else ""
        backend = " ".join(
            [
                rule.backend,
                *([] if rule.precision == "float32" else [rule.precision]),
                *["denormals"][rule.flush_denormals :],
            ]
        )
        counts = (str(rule.threads), str(rule.batch), one.runtime or "-", str(len(one.rows)), one.dates[1] or "-")
        grid.add_row(mark, one.machine, backend, *counts, "+".join(one.origins))
    console.print(grid)
    console.print("* this machine's. A table's whole name, where its machine alone may mean several:", markup=False)
    for one in found:
        console.print(f"  {one.name}", markup=False, soft_wrap=True)


def _print_table(one, console):
    first, last = one.dates
    console.print(f"{one.name}: {len(one.rows)} parts" + (f", taken {first} to {last}" if first else ""), markup=False)
    stages = {}
    for row in one.rows.values():
        stages.setdefault((row.part.kind, row.part.in_px, row.part.stride), []).append(row)
    grid = _grid(("part", "channels", "ms", "spread", "GMAC/s"), num_left=2)
    for (kind, px, stride), rows in sorted(stages.items(), key=lambda stage: (stage[0][0], -stage[0][1], -stage[0][2])):
        place = _place(kind, px, stride)
        for row in sorted(rows, key=lambda row: row.part):
            spread = "-" if row.spread_pct is None else f"{row.spread_pct:.1f} %"
            channels = f"{row.part.in_channels} -> {row.part.out_channels}"
            grid.add_row(place, channels, f"{row.ms:.4f}", spread, f"{_gmacs_per_s(row):.1f}")
            place = ""
        grid.add_section()
    console.print(grid)


def _place(kind, px, stride):
    return f"{kind} at {px} px" + (f", stride {stride}" if stride > 1 else "")


def _print_comparison(found, console):
    console.print(f"one:   {found.one}\nother: {found.other}", markup=False)
    if found.parts is None:
        console.print("they have no part in common")
    else:
        grid = _grid(("part", "number", "other / one", "least", "most"))
        for one in found.stages:
            grid.add_row(_place(one.kind, one.in_px, one.stride), *_ratio_cells(one.ratio))
        grid.add_section()
        grid.add_row("all", *_ratio_cells(found.parts))
        console.print(grid)
    console.print(f"parts only in one: {found.num_only_one}, only in the other: {found.num_only_other}")
    if (agreement := found.agreement) is None:
        console.print(
            f"too few candidates of space {found.space} can be predicted from both; fill each on its machine with "
            f"--table --space {found.space}"
        )
        return
    tau, near = ("-" if value is None else f"{value:.3f}" for value in (agreement.tau, agreement.tau_near))
    ratio = agreement.ratio
    for line in (
        f"over {agreement.num} candidates of space {found.space}:",
        f"  the other takes {ratio.mean:.3f} times as long ({ratio.low:.3f} to {ratio.high:.3f}); "
        f"one times that factor is off by {agreement.mean_abs_pct:.2f} % on average, {agreement.max_abs_pct:.2f} % "
        f"at most",
        f"  they rank alike with Kendall's tau {tau}; "
        f"over the {agreement.num_near_pairs:,} pairs within 10 % of each other {near}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def _ratio_cells(ratio):
    return str(ratio.num), f"{ratio.mean:.3f}", f"{ratio.low:.3f}", f"{ratio.high:.3f}"


main = commands.function_command(latency, help=HELP)

if __name__ == "__main__":
    main()
