"""What `zennas search` prints of what it found."""

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.search.stages import Settled


def print_winners(settled: Settled, console: Console) -> None:
    """The winners beside the baselines of the same run, as a table for people."""
    table = Table(
        title=f"{settled.experiment}: winners and hand-made baselines, measured in this run",
        title_justify="left",
    )
    table.add_column("network", no_wrap=True)
    for name in (settled.score_label, "below optimum", "ms", "spread", "budget", "GMACs", "M params", "blocks", "MB"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in [*settled.winners, *sorted(settled.baselines, key=lambda entry: entry.latency.measured_ms)]:
        latency = entry.latency
        table.add_row(
            Text(entry.name),
            f"{entry.score_mean:.2f} ±{entry.score_std:.2f}",
            entry.gap_text,
            f"{latency.measured_ms:.2f}",
            f"{latency.spread_pct:.1f} %",
            f"{100 * latency.measured_ms / latency.budget_ms:.1f} %",
            f"{entry.macs / 1e9:.2f}",
            f"{entry.params / 1e6:.1f}",
            str(entry.num_blocks),
            f"{entry.megabytes:.0f}",
            style="bold" if entry.role == "winner" else None,
        )
    console.print(table)
    for entry in settled.winners:
        console.print(f"{entry.name}  {entry.candidate.text}", markup=False, soft_wrap=True)
