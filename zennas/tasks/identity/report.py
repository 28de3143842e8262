"""What reports and terminal show of any network for identities: how good it is on each set, and its teacher.

An entry of a set is {"student": the record of a Judgement, "untrained": its measure or None, "teacher": a record or
None}.
"""

import html
from collections.abc import Callable, Iterable, Mapping

from rich.table import Table

from zennas.page import notices, number, table
from zennas.tasks.identity.course import Measure
from zennas.tasks.identity.distill import DISTILLATIONS

Columns = Mapping[str, Callable[[dict], str]]  # title -> what the entry of a set has to say

NONE = number(None)
# Running values of losses over class centres: what they are. One that is not listed is shown by its name alone.
RUNNING_OF_CENTRES = {
    "t": "The running mean of the cosines between images and their own centres, t, begins at 0 and rises as the "
    "network learns; hard negatives gain weight with it.",
    "mean": "The mean is of the lengths of the embeddings, which stand for the quality of the images.",
    "std": "The deviation (std) is of those lengths.",
}


def taught(request, teacher=None) -> str:
    """The teacher of a training's request, how it teaches, and what its images go through (`teacher`: its Model)."""
    plan = request.plan.distill
    fed = f"; its images: {teacher.normalisation}" if teacher is not None else ""
    return teacher_text(request.teacher, plan.name, plan.weight) + fed


def teacher_text(teacher: object, name: str, weight: float | None) -> str:
    """A teacher, and how it teaches: the name of a distillation and its weight (None: the one of its row).

    >>> teacher_text("r200.onnx", "angular", None), teacher_text(None, "angular", None)
    ('r200.onnx: angular, weight 9', 'none')
    """
    if not teacher:
        return "none"
    weight = DISTILLATIONS[name].weight if weight is None else weight
    return f"{teacher}: {name}, weight {weight:g}"


def pct_on_page(share: float | None) -> str:
    """A share in per cent, in a cell of a page."""
    return number(None if share is None else 100 * share, ".2f")


def pct_on_terminal(share: float | None) -> str:
    """The same on the terminal: nothing where there is none."""
    return "" if share is None else f"{100 * share:.2f}"


def summary_line(accuracy: Mapping[str, dict], measure: Measure, *, word: str = "") -> str:
    """A measure on every set, in a line. word: what stands before it."""
    return "; ".join(_told(f"{name} {word}".strip(), row, measure.name) for name, row in accuracy.items())


def _told(name, row, measure):
    text = f"{name} {pct_on_page(row['student'][measure])} %"
    beside = [f"untrained {pct_on_page(row['untrained'])} %"] if row["untrained"] is not None else []
    beside += [f"teacher {pct_on_page(row['teacher'][measure])} %"] if row["teacher"] else []
    return f"{text} ({', '.join(beside)})" if beside else text


def sets_on_page(accuracy: Mapping[str, dict], columns: Columns, notes: Iterable[str]) -> str:
    """HTML: a row for each set, below the notes. A column that is empty for all sets is left out."""
    cells = {name: [cell(row) for row in accuracy.values()] for name, cell in columns.items()}
    cells = {name: column for name, column in cells.items() if set(column) != {NONE}}
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
        for name, row in zip(accuracy, zip(*cells.values(), strict=True), strict=True)
    )
    return notices(notes, "note") + table(("Set", *cells), rows)


def sets_on_terminal(title: str, accuracy: Mapping[str, dict], columns: Columns) -> Table | None:
    """A row for each set, as the terminal shows it; None where there are none."""
    if not accuracy:
        return None
    shown = Table(title=title, title_justify="left")
    for name in ("set", *columns):
        shown.add_column(name, justify="left" if name == "set" else "right")
    for name, row in accuracy.items():
        shown.add_row(name, *(cell(row) for cell in columns.values()))
    return shown
