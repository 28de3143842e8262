"""What `zennas tune` prints."""

from rich.console import Console
from rich.table import Table

from zennas.tune.options import Options
from zennas.tune.outcome import REPORT, TRIALS, backbone_text, confirmation, next_command
from zennas.tune.run import Tuned
from zennas.tune.trials import BROKEN

NOTHING_FOUND = 1  # exit code: no trial was run to its end


def show(tuned: Tuned, options: Options, console: Console) -> int:
    """Print what was found, and the commands to type next; 1 where no trial was run to its end."""
    if tuned.best is None:
        console.print(f"no trial was run to its end; see {tuned.out / TRIALS}", style="yellow", soft_wrap=True)
        return NOTHING_FOUND
    summary = tuned.summary
    best, recipe = summary["best"], summary["recipe"]
    table = Table(
        title=f"{summary['experiment']}: reward after {summary['epochs']} epochs, per cent", title_justify="left"
    )
    for name in ("", "reward", *(name for name in best if name.startswith("tpr@")), "images", "identities", "backbone"):
        table.add_column(name.replace("tpr@", "TPR@"), justify="left" if name in ("", "backbone") else "right")
    for name, row in (("the recipe as it stands", recipe), (f"best, trial {best['trial']}", best)):
        if row is not None:
            tprs = [f"{100 * value:.2f}" for key, value in row.items() if key.startswith("tpr@")]
            counts = [f"{row[key]:,}" for key in ("num_images", "num_identities")]
            table.add_row(name, f"{100 * row['reward']:.2f}", *tprs, *counts, backbone_text(row["candidate"]))
    console.print(table)
    for line in (*confirmation(summary), *summary["few_pairs"]):
        console.print(line, markup=False, soft_wrap=True)
    if failed := summary["states"][BROKEN]:
        console.print(f"{failed} trial(s) failed: see {TRIALS}", style="yellow", markup=False, soft_wrap=True)
    train = next_command(options.track, options.data.resolve(), tuned.out, summary)
    console.print(
        f"\nNext:\n  open {tuned.out / REPORT}\n  {train}",
        markup=False,
        soft_wrap=True,
    )
    return 0
