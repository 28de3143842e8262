"""What `zennas latency` prints."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.latency.comparison import Comparison, Ratio
from zennas.latency.options import Options
from zennas.latency.predicted import sentence
from zennas.latency.run import Measured, OneTable, Predicted, Result, Tables, gmacs_per_s
from zennas.latency.tables import KnownTable, Row
from zennas.provenance import machine_name
from zennas.space.shape import px_text


def show(result: Result, options: Options, console: Console) -> int:
    """Print what the command returned; the exit code."""
    if isinstance(result, Measured):
        _print_measured(result, console)
    elif isinstance(result, Predicted):
        _print_line(sentence(result.prediction), console)
        _print_line(f"page: {result.page}", console)
    elif isinstance(result, Tables) and result.kept_in is not None:
        for table in result.tables:
            _print_line(f"{table.name}: {len(table.rows)} parts, kept in {result.kept_in}", console)
    elif isinstance(result, Tables):
        _print_tables(result.tables, console)
    elif isinstance(result, OneTable):
        _print_table(result.table, console)
    elif isinstance(result, Comparison):
        _print_comparison(result, console)
    return 0


def _print_measured(measured: Measured, console: Console) -> None:
    for name, measurement in measured.networks:
        precision = measurement.protocol.precision
        _print_line(
            f"{name}: {measurement.measured_ms:.3f} ms (median {measurement.median_ms:.3f}, "
            f"spread {measurement.spread_pct:.1f} %{'' if precision == 'float32' else f', {precision}'})",
            console,
        )
        if measurement.warning:
            _print_line(f"warning: {measurement.warning}", console, style="yellow")


def _print_line(text: str, console: Console, *, style: str = "") -> None:
    """One line, whole, however narrow the terminal."""
    console.print(Text(text, style=style), soft_wrap=True)


def _grid(names: Sequence[str], *, num_left: int = 1, whole: Sequence[str] = ()) -> Table:
    """An empty table for the terminal; the first columns are of text, and no cell of theirs or of `whole` is broken."""
    grid = Table()
    for index, name in enumerate(names):
        left = index < num_left
        grid.add_column(name, justify="left" if left else "right", no_wrap=left or name in whole)
    return grid


def _print_tables(known: Sequence[KnownTable], console: Console) -> None:
    if not known:
        console.print("no latency table is known here: zennas latency --table fills one")
        return
    columns = ("", "machine", "backend", "threads", "batch", "version", "parts", "taken until", "from")
    grid = _grid(columns, num_left=3, whole=columns[-2:])  # a long name of a machine squeezes the others
    for table in known:
        assert table.protocol is not None  # their names say it
        rule, mark = table.protocol, "*" if table.machine == machine_name() else ""
        backend = " ".join(
            [
                rule.backend,
                *([] if rule.precision == "float32" else [rule.precision]),
                *["denormals"][rule.flush_denormals :],
            ]
        )
        counts = (str(rule.threads), str(rule.batch), table.runtime or "-", str(len(table.rows)), table.dates[1] or "-")
        grid.add_row(mark, table.machine, backend, *counts, "+".join(table.origins))
    console.print(grid)
    console.print("* this machine's. A table's whole name, where its machine alone may mean several:", markup=False)
    for table in known:
        console.print(f"  {table.name}", markup=False, soft_wrap=True)


Place = tuple[str, tuple[int, int], int]  # kind, (height, width), stride


def _by_kind_and_size(stage: tuple[Place, list[Row]]) -> tuple[str, int, int, int]:
    (kind, (height, width), stride), _ = stage
    return kind, -height, -width, -stride


def _print_table(table: KnownTable, console: Console) -> None:
    first, last = table.dates
    console.print(
        f"{table.name}: {len(table.rows)} parts" + (f", taken {first} to {last}" if first else ""), markup=False
    )
    stages: dict[Place, list[Row]] = {}
    for row in table.rows.values():
        stages.setdefault((row.part.kind, row.part.in_hw, row.part.stride), []).append(row)
    grid = _grid(("part", "channels", "ms", "spread", "GMAC/s"), num_left=2)
    for (kind, hw, stride), rows in sorted(stages.items(), key=_by_kind_and_size):
        place = _place(kind, px_text(hw), stride)
        for row in sorted(rows, key=lambda row: row.part):
            spread = "-" if row.spread_pct is None else f"{row.spread_pct:.1f} %"
            channels = f"{row.part.in_channels} -> {row.part.out_channels}"
            grid.add_row(place, channels, f"{row.ms:.4f}", spread, f"{gmacs_per_s(row):.1f}")
            place = ""
        grid.add_section()
    console.print(grid)


def _place(kind: str, px: int | str, stride: int) -> str:
    return f"{kind} at {px} px" + (f", stride {stride}" if stride > 1 else "")


def _print_comparison(comparison: Comparison, console: Console) -> None:
    console.print(f"one:   {comparison.one}\nother: {comparison.other}", markup=False)
    if comparison.parts is None:
        console.print("they have no part in common")
    else:
        grid = _grid(("part", "number", "other / one", "least", "most"))
        for stage in comparison.stages:
            grid.add_row(_place(stage.kind, stage.in_px, stage.stride), *_ratio_cells(stage.ratio))
        grid.add_section()
        grid.add_row("all", *_ratio_cells(comparison.parts))
        console.print(grid)
    console.print(f"parts only in one: {comparison.num_only_one}, only in the other: {comparison.num_only_other}")
    if (agreement := comparison.agreement) is None:
        console.print(
            f"too few candidates of space {comparison.space} can be predicted from both; fill each on its machine with "
            f"--table --space {comparison.space}"
        )
        return
    tau, near = ("-" if value is None else f"{value:.3f}" for value in (agreement.tau, agreement.tau_near))
    ratio = agreement.ratio
    for line in (
        f"over {agreement.num} candidates of space {comparison.space}:",
        f"  the other takes {ratio.mean:.3f} times as long ({ratio.low:.3f} to {ratio.high:.3f}); "
        f"one times that factor is off by {agreement.mean_abs_pct:.2f} % on average, {agreement.max_abs_pct:.2f} % "
        f"at most",
        f"  they rank alike with Kendall's tau {tau}; "
        f"over the {agreement.num_near_pairs:,} pairs within 10 % of each other {near}",
    ):
        console.print(line, markup=False, soft_wrap=True)


def _ratio_cells(ratio: Ratio) -> tuple[str, str, str, str]:
    return str(ratio.num), f"{ratio.mean:.3f}", f"{ratio.low:.3f}", f"{ratio.high:.3f}"
