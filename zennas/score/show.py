"""What `zennas score` prints."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.progress import console_for
from zennas.score.branches import WHY_ONCE, WayScores
from zennas.score.options import Options
from zennas.score.run import ScoredRow, Scores


def show(scores: Scores, options: Options, console: Console | None) -> int:
    """Print the table, and what failed on standard error; 1 where something did."""
    if console is not None:
        console.print(_table(scores.rows))
        print_ways({row.name: row.ways for row in scores.rows if row.ways is not None}, console)
    failed = [row for row in scores.rows if row.error]
    for row in failed:
        console_for(json_output=True).print(Text(f"{row.name}: {row.error}", style="red"), soft_wrap=True)
    return 1 if failed else 0


def print_ways(ways: Mapping[str, WayScores], console: Console) -> None:
    """The score of each way through the networks that have several, and both readings of it; nothing where none has.

    ways: {name of a network: its WayScores}.
    """
    if not ways:
        return
    table = Table(title="Scores of the ways through networks with branches", title_justify="left")
    table.add_column("network", overflow="fold")
    names = list(dict.fromkeys(name for of in ways.values() for name in of.cells))
    for name in names:
        table.add_column(name, justify="right")
    for name, of in ways.items():
        table.add_row(Text(name), *(of.cells.get(column, "-") for column in names))
    console.print(table)
    console.print(WHY_ONCE, markup=False, soft_wrap=True)


def _table(rows: tuple[ScoredRow, ...]) -> Table:
    table = Table()
    table.add_column("network", overflow="fold")
    names = list(rows[0].scores)
    for name in ("key", *names, "GMACs", "M params", "blocks", "predicted ms", "measured ms", "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        counts_ms = row.predicted_ms if row.measured_ms is None else row.measured_ms
        table.add_row(
            Text(row.name if row.name != row.text else row.text),
            row.key[:8],
            *("failed" if row.scores[name] is None else f"{row.scores[name]:,.2f}" for name in names),
            f"{row.macs / 1e9:.3f}",
            f"{row.params / 1e6:.3f}",
            str(row.num_blocks),
            "-" if row.predicted_ms is None else f"{row.predicted_ms:.2f}",
            "-" if row.measured_ms is None else f"{row.measured_ms:.2f} ±{row.spread_pct:.1f} %",
            "-" if counts_ms is None or row.budget_ms is None else f"{100 * counts_ms / row.budget_ms:.1f} %",
        )
    return table
