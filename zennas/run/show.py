"""What `zennas run` prints in the end: who was crowned, where there is a choice; the search and the trainings have said
all else."""

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from zennas.run.crowning import Crowned
from zennas.run.options import Options

if TYPE_CHECKING:
    from zennas.run.run import Trained


def show(trained: "Trained", options: Options, console: Console) -> int:
    """The exit code: 1 without a winner, and where the trained network is refused."""
    return trained.code


def show_crowned(crowned: Crowned, console: Console) -> None:
    """The finalists, best first, and which of them is crowned."""
    unit = f", {crowned.unit}" if crowned.unit else ""
    table = Table(title=f"the finalists, trained by the full recipe: {crowned.measure}{unit}", title_justify="left")
    for name in ("network", "measured", "expected", "ms"):
        table.add_column(name, justify="left" if name == "network" else "right")
    for finalist in crowned.finalists:
        refused = "" if finalist.accepted else " (over the budget, or refused by the checker)"
        numbers = f"{finalist.measured:.2f}", f"{finalist.expected:.2f}", f"{finalist.measured_ms:.4g}"
        table.add_row(finalist.name + refused, *numbers, style="bold" if finalist is crowned.best else None)
    console.print(table)
    chosen = "nothing was chosen by them" if crowned.judged_on == "test" else "the order was learned on them, too"
    console.print(
        f"crowned: {crowned.best.name}, {crowned.best.candidate.text}, in {crowned.best.folder}; measured on the "
        f"{crowned.judged_on} people: {chosen}",
        markup=False,
        soft_wrap=True,
    )
