"""What `zennas evaluate` prints."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.evaluate.comparison import FEW_PAIRS, by_chance
from zennas.evaluate.judgement import Metric
from zennas.evaluate.options import Options
from zennas.evaluate.run import REPORT, TABLE, Evaluation

FAILED = 1  # exit code: a network could not be evaluated on a set; the others were


def show(evaluation: Evaluation, options: Options, console: Console) -> int:
    """Print a table for each set; 1 where a network could not be evaluated on one."""
    results: dict[str, Any] = evaluation.model_dump(mode="json")
    for entry in results["sets"]:
        console.print(_table(entry, results))
    if budget := results["budget"]:
        console.print(Text(f"latency, by the rule of {results['track']}"))
        console.print(Text(f"budget {budget['budget_ms']:.2f} ms: {budget['origin']}"), soft_wrap=True)
        console.print(_latency_table(results))
    console.print(
        f"\nNext:\n  open {options.out / REPORT}\n  {options.out / TABLE}: every number in a line",
        markup=False,
        soft_wrap=True,
    )
    return FAILED if results["failures"] else 0


def _table(entry_of_set, results):
    """A set's numbers in rows, a column for each model."""
    title = (
        f"{entry_of_set['name']} ({entry_of_set['protocol']}, {entry_of_set['num_images']:,} "
        f"images{', flipped ones added' if entry_of_set['flip'] else ''})"
    )
    table = Table(title=Text(title), title_justify="left")  # a name with brackets is no markup
    table.add_column("in per cent")
    entries = [entry for entry in results["results"] if entry["set"] == entry_of_set["name"]]
    for entry in entries:
        table.add_column(Text(entry["model"]), justify="right")
    one_to_many = entry_of_set["protocol"] in ("reid", "identification")
    for what in ("queries", "strangers") if one_to_many else ("same pairs", "different"):
        table.add_column(what, justify="right")
    notes = {}
    for row in zip(*(entry["metrics"] for entry in entries), strict=True):
        name = " ".join(filter(None, (row[0]["subset"], row[0]["name"])))
        name += " (lower is better)" if row[0]["better"] == "lower" else ""
        marks = [notes.setdefault(note, len(notes) + 1) for note in dict.fromkeys(map(_footnote, row)) if note]
        style = "bold" if row[0]["headline"] else None
        counts = (_count(row[0][key]) for key in ("num_same", "num_different"))
        table.add_row(Text(" ".join([name, *(f"[{mark}]" for mark in marks)])), *map(_cell, row), *counts, style=style)
    table.caption = Text("\n".join(f"[{mark}] {note}" for note, mark in notes.items()))
    table.caption_justify = "left"
    return table


def _footnote(metric):
    """What to keep in mind of a number, or why there is none."""
    if metric["note"]:
        return metric["note"]
    return f"fewer than {FEW_PAIRS} different ones set the threshold" if by_chance(Metric(**metric)) else None


def _cell(metric):
    if metric["value"] is None:
        return "-"
    std = f" ±{100 * metric['std']:.2f}" if metric["std"] is not None else ""
    return f"{100 * metric['value']:.2f}{std}"


def _count(value):
    return "" if value is None else f"{value:,}"


def _latency_table(results):
    budget_ms = results["budget"]["budget_ms"]
    table = Table()
    for name in ("model", "ms", "budget", "spread"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for model in results["models"]:
        latency = model["latency"]
        cells = (
            (
                f"{latency['measured_ms']:.2f}",
                f"{100 * latency['measured_ms'] / budget_ms:.1f} %",
                f"{latency['spread_pct']:.1f} %",
            )
            if latency
            else ("-", "-", "-")
        )
        table.add_row(Text(model["name"]), *cells)
    return table
