"""What `zennas learn` prints."""

from rich.console import Console
from rich.table import Table

from zennas.flags import line, spell
from zennas.learn.options import Options
from zennas.learn.outcome import REPORT, Learned
from zennas.learn.report import named
from zennas.search.options import Options as SearchOptions
from zennas.space.learned import LEARNED

NOTHING_TOLD = 1  # exit code: seeds differ as much as candidates


def show(learned: Learned, options: Options, console: Console) -> int:
    """Print what was learned and the commands to type next; 1 where nothing can be told yet."""
    table = Table(
        title=f"{learned.experiment}: points of {learned.measure} that a doubling is worth", title_justify="left"
    )
    for name in ("gene", "worth", "95 % of it"):
        table.add_column(name, justify="left" if name == "gene" else "right")
    for gene, (mean, low, high) in learned.score.doubling.items():
        table.add_row(
            named(gene), f"{mean:+.2f}", f"{low:+.2f} to {high:+.2f}", style=None if low * high > 0 else "dim"
        )
    console.print(table)
    for rival in learned.rivals:
        where = "" if rival.within else "; outside what was trained, so not believed"
        console.print(
            f"{rival.name:>16}  {rival.candidate.text}: {learned.measure} {rival.expected:.2f} "
            f"± {rival.expected_std:.2f} expected, {rival.predicted_ms:.4g} ms predicted{where}",
            markup=False,
            soft_wrap=True,
        )
    for name, why in learned.missing.items():
        console.print(f"{name:>16}  none; {why}", style="dim", markup=False, soft_wrap=True)
    console.print(learned.verdict, style="yellow" if learned.tells_nothing else None, markup=False, soft_wrap=True)
    search = spell(
        SearchOptions,
        track=options.track,
        space=options.space,
        budget_ms=options.budget_ms,
        backend=options.backend,
        images=options.images,
        address=options.address,
        device=options.latency_device,
        score=f"{LEARNED}:{learned.out}",
    )
    console.print(
        f"\nNext:\n  open {learned.out / REPORT}\n  {line('zennas.search', search)}", markup=False, soft_wrap=True
    )
    return NOTHING_TOLD if learned.tells_nothing else 0
