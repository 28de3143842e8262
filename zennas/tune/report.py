"""report.html: what a comprehensive search found, one page that needs no network, drawn from its summary and trials
alone.
"""

import html
import math
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from zennas.page import FADED, INK, Look, definitions, document, drawn, legend, notices, number, origin, span, table
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically
from zennas.tasks.judging import Unit
from zennas.tasks.tuning import Tuning
from zennas.tune.proposal import SHAPE

STATES = {
    "finished": Look("#0f766e", "●", "circle", 8),
    "stopped early": Look("#b45309", "○", "circle-open", 7),
    "failed": Look("#be123c", "✕", "x", 8),
}
RECIPE, BEST = Look("#7c3aed", "◆", "diamond", 11), Look(INK, "━")
COLUMNS = 4  # of the panels of knobs
BLOCKS = "blocks, at equal MACs"  # the axis of SHAPE


def write_report(
    path: pathlib.Path,
    summary: dict[str, Any],
    rows: pd.DataFrame,
    curves: dict[int, list[tuple[int, float]]],
    tuning: Tuning,
) -> None:
    """Writes the page to `path`, whole or not at all.

    summary: what run.json holds. rows: the DataFrame of trials.csv. curves: trial -> [(epoch, reward)].
    tuning: the task's, whose words it is told in.
    """
    write_atomically(path, page(summary, rows, curves, tuning))


def page(
    summary: dict[str, Any], rows: pd.DataFrame, curves: dict[int, list[tuple[int, float]]], tuning: Tuning
) -> str:
    """The HTML of a search; arguments as in `write_report`."""
    words = tuning.page
    record = Provenance(**summary["made_by"])
    failed = [f"Trial {row.trial} failed: {row.error}" for row in rows[rows["state"] == "failed"].itertuples()]
    meaning = "".join(f"\n<li>{text}</li>" for text in words.meaning)
    sections = f"""<section><h2>The best against the recipe as it stands</h2>
<p>{words.reward(summary)}</p>
{notices(words.notes(summary), "note")}{_comparison(summary, tuning)}{_confirmation(summary, tuning)}</section>
<section><h2>Reward over trials</h2>
<p>In the order in which they began; the line is the best so far of those that were run to their end, the dashes the
recipe.
What was stopped early stands at its last reward, after fewer epochs.</p>
{legend({"the recipe": RECIPE, **STATES})}{_course(summary, rows, tuning.unit)}</section>
<section><h2>How they learned</h2>
<p>Every line is a trial, after each of its epochs. One that ends early was among the worse of those that came as
far.</p>
{_curves(rows, curves, tuning.unit)}</section>
<section><h2>Reward over each knob</h2>
<p>All knobs move at once, so a cloud without a slope does not say that a knob is worth nothing. Dashes: the recipe's
reward.</p>
{_knobs(summary, rows, tuning)}</section>
<section><h2>All trials</h2>{notices(failed, "note")}{_trials(rows, tuning)}</section>
<section><h2>What the numbers mean, and what they do not</h2><ul>
<li><b>The best of many was lucky, too.</b> Its reward here is the largest of {summary["trials"]}, and part of that is
chance.
What it gives with other seeds, on {words.unchosen}, is the figure to quote.</li>
<li><b>A trial is a short training.</b> What wins after {summary["epochs"]} epochs need not win after twenty.</li>
<li><b>Equal multiply-accumulates are not equal latency.</b> Measure the winner: <code>zennas train</code> does.</li>\
{meaning}</ul></section>"""
    again = f"<p>What it takes to run it again.</p>{definitions(origin(record, []))}"
    return document(
        sections,
        again,
        kind="tune",
        title=summary["experiment"],
        subtitle=words.subtitle,
        banner=notices(failed[:1], "banner"),
        facts=_facts(summary, words),
        style=STYLE,
    )


def _facts(summary, words):
    states = ", ".join(f"{count} {state}" for state, count in summary["states"].items() if count)
    return [("Trials", f"{summary['trials']}: {states}"), *words.facts(summary)]


def _comparison(summary, tuning):
    best, recipe = summary["best"], summary["recipe"]
    rows = {"The recipe as it stands": recipe}
    if best is not None:
        rows[f"Best: trial {best['trial']}"] = best
    rows = {name: row for name, row in rows.items() if row is not None}
    if not rows:
        return "<p class='empty'>No trial was run to its end.</p>"
    titles, counts = _titles(next(iter(rows.values())), tuning), tuning.page.counts
    names = ["", "Reward", *titles.values(), *map(_column, counts), "MMACs", "Backbone and knobs"]
    body = ""
    for name, row in rows.items():
        cells = [number(tuning.unit.times * row[key], ".2f") for key in ("reward", *titles)]
        cells += [*(f"{row[name]:,}" for name in counts), f"{row['macs'] / 1e6:.1f}"]
        candidate = row["candidate"]
        text = f"{candidate['stem']}; widths {candidate['widths']}, depths {candidate['depths']}"
        knobs = ", ".join(f"{knob} {value:g}" for knob, value in row["knobs"].items() if knob != SHAPE)
        cells = "".join(f"<td>{cell}</td>" for cell in cells)
        body += f"<tr><th>{name}</th>{cells}<td class='text'>{html.escape(text)}<br>{html.escape(knobs)}</td></tr>"
    return table(names, body)


def _titles(names, tuning):
    """{number: title} of those among the names that stand beside the reward."""
    return {name: title for name in names if (title := tuning.title(name))}


def _column(name):
    """
    >>> _column("num_images")
    'Images'
    """
    return name.removeprefix("num_").capitalize()


def _confirmation(summary, tuning):
    confirmed, unit = summary["confirmed"], tuning.unit
    if not confirmed or summary["best"]["trial"] == 0:
        return ""
    body = ""
    for name, rows in confirmed["rows"].items():
        cells = []
        for group in ("held_out", "test"):
            rewards = [row[group] for row in rows if row[group] is not None]
            cells.append(", ".join(f"{unit.times * reward:.2f}" for reward in rewards) or "–")
            cells.append(spread(confirmed["differences"].get(name, {}).get(group, []), times=unit.times))
        what = {"recipe": "The recipe as it stands", "best": "The best"}.get(name, f"Its {name} alone")
        body += f"<tr><th>{what}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    seeds = ", ".join(str(row["seed"]) for row in confirmed["rows"]["recipe"])
    names = ["", "Held out", "Above the recipe", "Test", "Above the recipe"]
    named = f" in {unit.name}" if unit.name else ""
    return f"""<h3>Trained again with other seeds</h3><p>Reward{named} with seeds {seeds}, and how much
above the recipe: mean and standard deviation of the differences, the same seed on both sides. {tuning.page.tested}</p>\
{table(names, body)}"""


def spread(shares: Sequence[float], *, times: float = 100) -> str:
    """Mean and standard deviation of differences, in points, or so many `times` them.

    >>> spread([0.03, 0.07]), spread([-0.01]), spread([])
    ('+5.00 ± 2.83', '-1.00', '–')
    """
    points = [times * share for share in shares]
    deviation = f" ± {statistics.stdev(points):.2f}" if len(points) > 1 else ""
    return f"{statistics.mean(points):+.2f}{deviation}" if points else "–"


def _axis(unit: Unit) -> str:
    return f"Reward, {unit.sign}" if unit.sign else "Reward"


def _course(summary, rows, unit):
    figure = go.Figure()
    finished = rows[rows["state"] == "finished"].sort_values("trial")
    if len(finished):
        best = unit.times * finished["reward"].cummax()
        figure.add_scatter(
            x=finished["trial"],
            y=best,
            mode="lines",
            line={"color": BEST.colour, "width": 1.5, "shape": "hv"},
            hoverinfo="skip",
        )
    _marks(figure, rows, "trial", unit)
    _dashes(figure, summary, unit)
    figure.update_xaxes(title="Trial", dtick=max(1, math.ceil(len(rows) / 20)))
    figure.update_yaxes(title=_axis(unit))
    return drawn(figure, "course", height_px=380)


def _curves(rows, curves, unit):
    figure = go.Figure()
    for row in rows.itertuples():
        look, points = RECIPE if row.trial == 0 else STATES[row.state], curves.get(row.trial)
        if points:
            epochs, rewards = zip(*points, strict=True)
            figure.add_scatter(
                x=epochs,
                y=[unit.times * reward for reward in rewards],
                mode="lines+markers",
                opacity=1.0 if row.trial == 0 else 0.6,
                line={"color": look.colour, "width": 2.5 if row.trial == 0 else 1.2},
                marker={"size": 4},
                hovertemplate=f"trial {row.trial}, {row.state}<br>epoch %{{x}}: %{{y:.2f}} {unit.sign}<extra></extra>",
            )
    figure.update_xaxes(title="Epoch", dtick=1)
    figure.update_yaxes(title=_axis(unit))
    return drawn(figure, "curves", height_px=380)


def _knobs(summary, rows, tuning):
    titles, unit = tuning.page.knobs | {SHAPE: BLOCKS}, tuning.unit
    searched = [name for name in titles if name in rows and rows[name].notna().any()]
    if not searched:
        return "<p class='empty'>Nothing was searched.</p>"
    num_rows = math.ceil(len(searched) / COLUMNS)
    figure = make_subplots(
        rows=num_rows, cols=COLUMNS, shared_yaxes=True, horizontal_spacing=0.025, vertical_spacing=0.35 / num_rows
    )
    shown = (
        rows.assign(**{SHAPE: rows["candidate"].map(_num_blocks).where(rows[SHAPE].notna())}) if SHAPE in rows else rows
    )
    for place, name in enumerate(searched):
        row, column = divmod(place, COLUMNS)
        _marks(figure, shown[shown[name].notna()], name, unit, row=row + 1, col=column + 1)
        values = shown[name].dropna()
        figure.update_xaxes(title=titles[name], range=span(values.min(), values.max()), row=row + 1, col=column + 1)
        _dashes(figure, summary, unit, row=row + 1, col=column + 1)
    figure.update_yaxes(title=_axis(unit), col=1)
    return legend(STATES) + drawn(figure, "knobs", height_px=260 * num_rows)


def _num_blocks(text):
    """
    >>> _num_blocks("ir_se-16-24x1-48x2")
    3
    """
    return sum(int(stage.split("x")[1]) for stage in text.split("-")[2:]) if isinstance(text, str) else None


def _marks(figure, rows, x, unit, **where):
    """The trials as marks, by state, the recipe apart."""
    groups = {name: (rows[(rows["state"] == name) & (rows["trial"] > 0)], look) for name, look in STATES.items()}
    groups["the recipe"] = rows[rows["trial"] == 0], RECIPE
    for name, (trials, look) in groups.items():
        trials = trials[trials["reward"].notna()] if "reward" in trials else trials[:0]
        if len(trials):
            figure.add_scatter(
                x=trials[x],
                y=unit.times * trials["reward"],
                mode="markers",
                customdata=trials[["trial", "epochs"]],
                marker={"color": look.colour, "symbol": look.symbol, "size": look.size_px},
                hovertemplate=f"trial %{{customdata[0]}}, {name}, %{{customdata[1]}} ep.<br>%{{x}}: %{{y:.2f}} "
                f"{unit.sign}<extra></extra>",
                **where,
            )


def _dashes(figure, summary, unit, **where):
    if summary["recipe"]:
        line = {"color": RECIPE.colour, "dash": "dash", "width": 1}
        figure.add_hline(y=unit.times * summary["recipe"]["reward"], line=line, **where)


def _trials(rows, tuning):
    words, titles = tuning.page, _titles(rows, tuning)
    knobs = [name for name in words.knobs if name in rows and rows[name].notna().any()]
    further = [name for knob in knobs for name in words.counts_of.get(knob, ())]
    counts = [name for name in dict.fromkeys([*words.counts, *further]) if name in rows]
    body = ""
    ordered = rows.sort_values("reward", ascending=False, na_position="last") if "reward" in rows else rows
    for _, row in ordered.iterrows():
        cells = [
            row["state"],
            row["epochs"],
            *(number(_float(row.get(name), tuning.unit.times), ".2f") for name in ("reward", *titles)),
        ]
        cells += [number(_float(row[name]), ".3g") for name in knobs]
        cells += [number(_float(row[name]), ",.0f") for name in counts]
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        text = html.escape(str(row["candidate"] or "–"))
        body += f"<tr><td>{row['trial']}</td>{cells}<td class='text'>{text}</td></tr>"
    names = ["Trial", "State", "Epochs", "Reward", *titles.values(), *knobs, *map(_column, counts)]
    return table([*names, "Backbone"], body)


def _float(value, times=1):
    return None if value is None else times * float(value)


STYLE = f"""section ul {{ max-width: 860px; }} .empty {{ color: {FADED}; }}
tbody th {{ font-weight: 400; }} td.text {{ white-space: normal; min-width: 230px; text-align: left; }}"""
