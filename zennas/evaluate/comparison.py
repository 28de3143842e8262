"""The metrics of all networks side by side: who is best at what, in sentences and as a table."""

import html
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from zennas.evaluate.assessment import Metric
from zennas.evaluate.curves import asked_far
from zennas.evaluate.results import Result
from zennas.page import number, table

FEW_PAIRS = 10  # a threshold that fewer different pairs set is told to be one
NUM_NAMED = 4  # networks that a sentence names one by one, beside the best
NONE = number(None)


class Row(NamedTuple):
    """One metric of one set, of all networks that have it."""

    set: str
    subset: str
    name: str
    metrics: dict[str, Metric]  # by network

    @property
    def headline(self) -> bool:
        return any(metric.headline for metric in self.metrics.values())

    @property
    def lower(self) -> bool:
        return any(metric.better == "lower" for metric in self.metrics.values())

    @property
    def values(self) -> dict[str, float]:
        """{model: value} of those that have a number, the best first."""
        known = {
            model: metric.value
            for model, metric in self.metrics.items()
            if metric.value is not None and np.isfinite(metric.value)
        }
        return dict(sorted(known.items(), key=lambda item: item[1], reverse=not self.lower))


def rows_of(by_set: dict[str, dict[str, Result]]) -> list[Row]:
    """Every metric that any network has, in the order of the sets and of their metrics."""
    metrics_of = {}
    for name, results in by_set.items():
        for model, result in results.items():
            for metric in result.metrics:
                metrics_of.setdefault((name, metric.subset, metric.name), {})[model] = metric
    rows = [Row(*key, metrics) for key, metrics in metrics_of.items()]
    order = {key: place for place, key in enumerate(dict.fromkeys((row.set, row.subset) for row in rows))}
    return sorted(rows, key=lambda row: (list(by_set).index(row.set), order[row.set, row.subset]))


def percent(share: float | None) -> str:
    """The share in per cent, or a dash where there is none.

    >>> percent(0.98765), percent(None)
    ('98.77', '–')
    """
    return number(None if share is None else 100 * share, ".2f")


def listed(names: Sequence[str], num_named: int) -> str:
    """Names for a sentence, those beyond the first few counted.

    >>> listed(["a", "b", "c"], 3), listed(["a", "b", "c"], 1)
    ('a, b and c', 'a and 2 more')
    """
    names = [*names[:num_named], f"{len(names) - num_named} more"] if len(names) > num_named else list(names)
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1]))) if names else ""


def headlines(rows: list[Row], models: list[str], over: set[str]) -> str:
    """The numbers that the sets are known for in a sentence each, as a list in HTML.

    models: the names of all networks. over: of those that take longer than the budget allows.
    """
    shown = ""
    for name in dict.fromkeys(row.set for row in rows):
        of_set = [row for row in rows if row.set == name]
        for row in known_for(of_set):
            what = " ".join(filter(None, (row.subset, row.name))) + (" (lower is better)" if row.lower else "")
            shown += f"<li><b>{html.escape(row.set)}</b>, {html.escape(what)}: {_sentence(row, models, over)}</li>"
    return f"<ul class='headlines'>{shown}</ul>" if shown else "<p class='empty'>Nothing was evaluated.</p>"


def known_for(rows: list[Row]) -> list[Row]:
    """Of the rows of one set those that it is known for; its first one where none is."""
    return [row for row in rows if row.headline] or rows[:1]


def _sentence(row, models, over):
    """Who is best and by how much, as HTML."""

    def told(model):
        std = row.metrics[model].std
        spread = f" ± {percent(std)}" if std is not None else ""
        return f"{percent(row.values[model])} %{spread}"

    def called(model):
        return html.escape(f"{model} (over the budget)" if model in over else model)

    order = list(row.values)
    if not order:
        notes = {metric.note for metric in row.metrics.values() if metric.note}
        return f"no number{html.escape(': ' + '; '.join(sorted(notes)) if notes else '')}."
    best = [model for model in order if row.values[model] == row.values[order[0]]]
    rest = order[len(best) :]
    few = " Fewer than ten pairs set its threshold." if by_chance(row.metrics[order[0]]) else ""
    if len(models) == 1:
        return f"<b>{told(order[0])}</b>.{few}"
    if len(order) == 1:
        sentence = f"<b>{called(order[0])}</b> alone has a number, <b>{told(order[0])}</b>"
    elif len(best) > 1:
        sentence = f"<b>{listed([called(model) for model in best], NUM_NAMED)}</b> are level at <b>{told(best[0])}</b>"
    else:
        sentence = f"<b>{called(best[0])}</b> is best with <b>{told(best[0])}</b>"
    if rest:
        sentence += "; " + listed([f"{called(model)} {told(model)}" for model in rest], NUM_NAMED)
    std = row.metrics[order[0]].std
    close = [model for model in rest if std and abs(row.values[model] - row.values[order[0]]) < std]
    near = f" The best is ahead of {listed([*map(called, close)], 3)} by less than its deviation." if close else ""
    return f"{sentence}.{near}{few}"


def by_chance(metric: Metric) -> bool:
    """Whether so few different pairs lie above the threshold that chance has set it."""
    far = asked_far(metric.name) if metric.value is not None else None
    return far is not None and metric.num_different is not None and far * metric.num_different < FEW_PAIRS * (1 - 1e-9)


# --- the table


def numbers_table(rows: list[Row], models: list[str], by_set: dict[str, dict[str, Result]]) -> str:
    """The table of all rows, a column for each network, as HTML; sets without a result are named, too."""
    shown, heading = "", None
    for row in rows:
        if heading != (row.set, row.subset):
            heading = (row.set, row.subset)
            what = " · ".join(html.escape(part) for part in heading if part)
            shown += f"<tr class='heading'><th>{what}</th><td colspan='{max(len(models), 1)}'></td></tr>"
        told = {model: (_basis(metric), html.escape(metric.note or "")) for model, metric in row.metrics.items()}
        # What is the same of all networks is said once, beside the metric's name.
        common = [texts[0] for texts in map(list, zip(*told.values(), strict=True)) if len(set(texts)) == 1]
        best = _best(row)
        cells = "".join(_cell(row.metrics.get(model), told.get(model, ()), common, model in best) for model in models)
        lower = "<i> lower is better</i>" if row.lower else ""
        base = "".join(f"<small>{text}</small>" for text in common if text)
        name = f"<b>{html.escape(row.name)}</b>" if row.headline else html.escape(row.name)
        shown += f"<tr><th>{name}{lower}{base}</th>{cells}</tr>"
    for name, results in by_set.items():
        if not results:
            cells = f"<td colspan='{max(len(models), 1)}'>not evaluated</td>"
            shown += f"<tr class='heading'><th>{html.escape(name)}</th>{cells}</tr>"
    return table(("Set and metric", *map(html.escape, models)), shown)


def _best(row):
    """The networks that are marked: none where all are level, or there is but one."""
    values = row.values
    if len(set(values.values())) < 2:
        return set()
    return {model for model, value in values.items() if value == next(iter(values.values()))}


def _cell(metric, told, common, best):
    if metric is None:
        return f"<td>{NONE}<small>not evaluated</small></td>"
    spread = f" <i>± {percent(metric.std)}</i>" if metric.std is not None else ""
    small = []
    if metric.threshold is not None and np.isfinite(metric.threshold):
        small.append(f"above {number(metric.threshold, '.3f')}")
    small += [text for text in told if text and text not in common]
    mark = " class='best'" if best else ""
    return f"<td{mark}>{percent(metric.value)}{spread}{''.join(f'<small>{text}</small>' for text in small)}</td>"


def _basis(metric):
    """What a number rests on, as HTML."""
    in_pairs = metric.name.startswith(("accuracy", "TAR", "FNMR"))
    counted = ("same", "different pairs") if in_pairs else ("queries", "strangers")
    counts = zip((metric.num_same, metric.num_different), counted, strict=True)
    basis = ", ".join(f"{num:,} {kind}" for num, kind in counts if num is not None)
    if by_chance(metric):
        num_allowed = asked_far(metric.name) * metric.num_different
        many = f"{num_allowed:.2g}" if num_allowed >= 1 else "less than one"
        basis += f"<em>⚠ fewer than ten {counted[1]} set the threshold: {many}</em>"
    return basis
