"""How good a network became on its sets, epoch by epoch: the figure of a report."""

import html
from typing import NamedTuple

import pandas as pd

from zennas.page import GRID, INK, Look, drawn, legend, panels, span

SETS = ("#0f766e", "#7c3aed", "#b45309", "#2563c9", "#be185d", "#4d7c0f")  # a colour for each set, in turn


class Measure(NamedTuple):
    """A number of a Judgement's record, in [0, 1]."""

    name: str
    title: str  # of the axis
    std: str | None = None  # the number that is its standard deviation
    std_text: str = ""  # that, in words


def course(result: dict, metrics: list[dict], *, measure: Measure) -> str:
    """HTML: a measure on every set over the epochs, a colour for each set; "" where nothing was verified.

    result: what result.json holds; metrics: the entries of metrics.jsonl.
    """
    accuracy = result["accuracy"]
    courses = {name: [] for name in accuracy}
    for entry in metrics:
        kind, _, name = entry["kind"].partition("/")
        if kind == "verify":
            courses.setdefault(name, []).append(entry)
    if not courses:
        return ""
    figure, looks, seen, epochs = panels([1.0]), {}, [], result["training"]["epochs"]
    value = [name for name in (measure.name, measure.std) if name]
    for index, (name, entries) in enumerate(courses.items()):
        judged = accuracy.get(name, {"student": None, "untrained": None, "teacher": None})
        colour, name = SETS[index % len(SETS)], html.escape(name)
        looks[name] = Look(colour, "━")
        rows = pd.DataFrame(entries).reindex(columns=["step", "epoch", *value]).astype(float)
        if judged["untrained"] is not None and not (rows["step"] == 0).any():
            begun = {"step": 0.0, "epoch": 0.0, measure.name: judged["untrained"]}
            rows = pd.concat([pd.DataFrame([begun]), rows])
        pct = 100 * rows[measure.name]
        epochs = max([epochs, *rows["epoch"].dropna()])
        if measure.std is None:
            seen += [*pct]
        else:
            std = 100 * rows[measure.std].fillna(0.0)
            seen += [*(pct - std), *(pct + std)]
            band = {"x": rows["epoch"], "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
            figure.add_scatter(y=pct - std, **band)
            figure.add_scatter(y=pct + std, fill="tonexty", fillcolor=_faint(colour), **band)
        figure.add_scatter(
            x=rows["epoch"],
            y=pct,
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 5},
            hovertemplate=f"{name}<br>%{{y:.2f}} % after %{{x:.2f}} epochs<extra></extra>",
        )
        if judged["teacher"]:
            seen.append(100 * judged["teacher"][measure.name])
            figure.add_hline(y=seen[-1], line={"color": colour, "width": 1.5, "dash": "dash"})
        if judged["student"]:
            seen.append(100 * judged["student"][measure.name])
            figure.add_scatter(
                x=[result["training"]["epochs"]],
                y=[seen[-1]],
                mode="markers",
                marker={"symbol": "star", "size": 13, "color": colour, "line": {"color": "white", "width": 1}},
                hovertemplate=f"{name}<br>%{{y:.2f}} % as handed on<extra></extra>",
            )
    looks |= {"as handed on": Look(INK, "★")} | ({measure.std_text: Look(GRID, "■")} if measure.std else {})
    looks |= {"teacher": Look(INK, "┅")} if any(row["teacher"] for row in accuracy.values()) else {}
    figure.update_xaxes(title="Epochs", range=span(0, epochs, pad=0.02))
    figure.update_yaxes(title=f"{measure.title}, %", range=span(*seen))
    return legend(looks) + drawn(figure, measure.name, height_px=420)


def _faint(colour):
    return f"rgba({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))}, .10)"
