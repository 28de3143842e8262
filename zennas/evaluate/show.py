"""What `zennas evaluate` prints."""

import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.evaluate.assessment import Metric
from zennas.evaluate.comparison import FEW_PAIRS, by_chance
from zennas.evaluate.options import Options
from zennas.evaluate.results import EvaluatedSet, Evaluation
from zennas.evaluate.run import REPORT, TABLE
from zennas.latency.budget import LocalBudget

FAILED = 1  # exit code: a network could not be evaluated on a set; the others were


def show(evaluation: Evaluation, options: Options, console: Console) -> int:
    """Print a table for each set; 1 where a network could not be evaluated on one."""
    for entry in evaluation.sets:
        console.print(_table(entry, evaluation))
    if budget := evaluation.budget:
        console.print(Text(f"latency, by the rule of {evaluation.track}"))
        console.print(Text(f"budget {budget.budget_ms:.2f} ms: {budget.origin}"), soft_wrap=True)
        console.print(_latency_table(evaluation, budget))
    page = shlex.join(["open", str(options.out / REPORT)])
    console.print(
        f"\nNext:\n  {page}\n  {options.out / TABLE}: every number in a line",
        markup=False,
        soft_wrap=True,
    )
    return FAILED if evaluation.failures else 0


def _table(entry: EvaluatedSet, evaluation: Evaluation) -> Table:
    """A set's numbers in rows, a column for each model."""
    flipped = ", flipped ones added" if entry.flip else ""
    title = f"{entry.name} ({entry.protocol}, {entry.num_images:,} images{flipped})"
    table = Table(title=Text(title), title_justify="left")  # a name with brackets is no markup
    table.add_column("in per cent")
    results = evaluation.on(entry.name)
    for result in results:
        table.add_column(Text(result.model), justify="right")
    one_to_many = entry.protocol in ("reid", "identification")
    for what in ("queries", "strangers") if one_to_many else ("same pairs", "different"):
        table.add_column(what, justify="right")
    notes: dict[str, int] = {}
    for row in zip(*(result.metrics for result in results), strict=True):
        first = row[0]
        name = " ".join(filter(None, (first.subset, first.name)))
        name += " (lower is better)" if first.better == "lower" else ""
        marks = [notes.setdefault(note, len(notes) + 1) for note in dict.fromkeys(map(_footnote, row)) if note]
        cells = (*map(_cell, row), _count(first.num_same), _count(first.num_different))
        style = "bold" if first.headline else None
        table.add_row(Text(" ".join([name, *(f"[{mark}]" for mark in marks)])), *cells, style=style)
    table.caption = Text("\n".join(f"[{mark}] {note}" for note, mark in notes.items()))
    table.caption_justify = "left"
    return table


def _footnote(metric: Metric) -> str | None:
    """What to keep in mind of a number, or why there is none."""
    if metric.note:
        return metric.note
    return f"fewer than {FEW_PAIRS} different ones set the threshold" if by_chance(metric) else None


def _cell(metric: Metric) -> str:
    if metric.value is None:
        return "-"
    std = f" ±{100 * metric.std:.2f}" if metric.std is not None else ""
    return f"{100 * metric.value:.2f}{std}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _latency_table(evaluation: Evaluation, budget: LocalBudget) -> Table:
    table = Table()
    for name in ("model", "ms", "budget", "spread"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in evaluation.models:
        latency = model.latency
        cells = (
            (
                f"{latency.measured_ms:.2f}",
                f"{100 * latency.measured_ms / budget.budget_ms:.1f} %",
                f"{latency.spread_pct:.1f} %",
            )
            if latency
            else ("-", "-", "-")
        )
        table.add_row(Text(model.name), *cells)
    return table
