"""What `zennas tune` prints."""

from rich.console import Console
from rich.table import Table

from zennas.tasks.table import tuning_of
from zennas.tune.options import Options
from zennas.tune.outcome import REPORT, TRIALS, backbone_text, confirmation, next_command
from zennas.tune.request import handed_on
from zennas.tune.run import Tuned
from zennas.tune.trials import BROKEN

NOTHING_FOUND = 1  # exit code: no trial was run to its end


def show(tuned: Tuned, options: Options, console: Console) -> int:
    """Print what was found, and the commands to type next; 1 where no trial was run to its end."""
    if tuned.best is None:
        console.print(f"no trial was run to its end; see {tuned.out / TRIALS}", style="yellow", soft_wrap=True)
        return NOTHING_FOUND
    summary = tuned.summary
    best, recipe, tuning = summary["best"], summary["recipe"], tuning_of(tuned.task)
    unit, counts = tuning.unit, tuning.page.counts
    named = f", {unit.name}" if unit.name else ""
    table = Table(
        title=f"{summary['experiment']}: reward after {summary['epochs']} epochs{named}", title_justify="left"
    )
    titles = {name: title for name in best if (title := tuning.title(name))}
    for name in ("", "reward", *titles.values(), *(name.removeprefix("num_") for name in counts), "backbone"):
        table.add_column(name, justify="left" if name in ("", "backbone") else "right")
    for name, row in (("the recipe as it stands", recipe), (f"best, trial {best['trial']}", best)):
        if row is not None:
            numbers = [f"{unit.times * row[key]:.2f}" for key in ("reward", *titles)]
            table.add_row(name, *numbers, *(f"{row[key]:,}" for key in counts), backbone_text(row["candidate"]))
    console.print(table)
    for line in (*confirmation(summary, tuning), *tuning.page.notes(summary)):
        console.print(line, markup=False, soft_wrap=True)
    if failed := summary["states"][BROKEN]:
        console.print(f"{failed} trial(s) failed: see {TRIALS}", style="yellow", markup=False, soft_wrap=True)
    train = next_command(handed_on(options), tuned.out, summary, tuning)
    console.print(
        f"\nNext:\n  open {tuned.out / REPORT}\n  {train}",
        markup=False,
        soft_wrap=True,
    )
    return 0
