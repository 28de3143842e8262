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
from zennas.tune.proposal import KNOBS, SHAPE, THRESHOLDS

STATES = {
    "finished": Look("#0f766e", "●", "circle", 8),
    "stopped early": Look("#b45309", "○", "circle-open", 7),
    "failed": Look("#be123c", "✕", "x", 8),
}
RECIPE, BEST = Look("#7c3aed", "◆", "diamond", 11), Look(INK, "━")
COLUMNS = 4  # of the panels of knobs
WHAT = {
    "tau_inter": "tau_inter, cosine of two centres",
    "tau_intra": "tau_intra, cosine to the centre",
    "m1": "m1, factor of the angle",
    "m2_rad": "m2, radians",
    "m3": "m3, cosine",
    "s_p": "s_p, scale of the own class",
    "s_n": "s_n, scale of the others",
    SHAPE: "blocks, at equal MACs",
}


def write_report(
    path: pathlib.Path, summary: dict[str, Any], rows: pd.DataFrame, curves: dict[int, list[tuple[int, float]]]
) -> None:
    """Writes the page to `path`, whole or not at all.

    summary: what run.json holds. rows: the DataFrame of trials.csv. curves: trial -> [(epoch, reward)].
    """
    write_atomically(path, page(summary, rows, curves))


def page(summary: dict[str, Any], rows: pd.DataFrame, curves: dict[int, list[tuple[int, float]]]) -> str:
    """The HTML of a search; arguments as in `write_report`."""
    record = Provenance(**summary["made_by"])
    failed = [f"Trial {row.trial} failed: {row.error}" for row in rows[rows["state"] == "failed"].itertuples()]
    fprs = ", ".join(f"{fpr:g}" for fpr in summary["reward"]["fprs"])
    weights = ", ".join(f"{weight:g}" for weight in summary["reward"]["weights"])
    sections = f"""<section><h2>The best against the recipe as it stands</h2>
<p>The reward is the TPR at FPR {fprs}, weighted {weights}, over all pairs of {summary["held_out"]["num_images"]:,}
images of
{summary["held_out"]["num_identities"]:,} people that no trial trains on, after {summary["epochs"]} epochs, in per
cent.</p>
{notices(summary["few_pairs"], "note")}{_comparison(summary)}{_confirmation(summary)}</section>
<section><h2>Reward over trials</h2>
<p>In the order in which they began; the line is the best so far of those that were run to their end, the dashes the
recipe.
What was stopped early stands at its last reward, after fewer epochs.</p>
{legend({"the recipe": RECIPE, **STATES})}{_course(summary, rows)}</section>
<section><h2>How they learned</h2>
<p>Every line is a trial, after each of its epochs. One that ends early was among the worse of those that came as
far.</p>
{_curves(rows, curves)}</section>
<section><h2>Reward over each knob</h2>
<p>All knobs move at once, so a cloud without a slope does not say that a knob is worth nothing. Dashes: the recipe's
reward.</p>
{_knobs(summary, rows)}</section>
<section><h2>All trials</h2>{notices(failed, "note")}{_trials(rows)}</section>
<section><h2>What the numbers mean, and what they do not</h2><ul>
<li><b>The best of many was lucky, too.</b> Its reward here is the largest of {summary["trials"]}, and part of that is
chance.
What it gives with other seeds, on people by whom nothing was chosen, is the figure to quote.</li>
<li><b>A trial is a short training.</b> What wins after {summary["epochs"]} epochs need not win after twenty.</li>
<li><b>Equal multiply-accumulates are not equal latency.</b> Measure the winner: <code>zennas train</code> does.</li>
<li><b>Thresholds belong to one network's embeddings.</b> Another model's cosines lie elsewhere.</li></ul></section>"""
    again = f"<p>What it takes to run it again.</p>{definitions(origin(record, []))}"
    return document(
        sections,
        again,
        kind="tune",
        title=summary["experiment"],
        subtitle="Cleaning thresholds, margin loss, depth against width: searched together",
        banner=notices(failed[:1], "banner"),
        facts=_facts(summary),
        style=STYLE,
    )


def _facts(summary):
    states, held, test = summary["states"], summary["held_out"], summary["test"]
    facts = [
        (
            "Trials",
            f"{summary['trials']}: " + ", ".join(f"{count} {state}" for state, count in states.items() if count),
        ),
        ("Reward on", f"{held['same_pairs']:,} pairs of one person, {held['different_pairs']:,} of two"),
    ]
    if test:
        facts.append(("Test on", f"{test['same_pairs']:,} pairs of one person, {test['different_pairs']:,} of two"))
    return facts


def _comparison(summary):
    best, recipe = summary["best"], summary["recipe"]
    rows = {"The recipe as it stands": recipe}
    if best is not None:
        rows[f"Best: trial {best['trial']}"] = best
    rows = {name: row for name, row in rows.items() if row is not None}
    if not rows:
        return "<p class='empty'>No trial was run to its end.</p>"
    tprs = [key for key in next(iter(rows.values())) if key.startswith("tpr@")]
    names = ["", "Reward", *(f"TPR@{key[4:]}" for key in tprs), "Images", "Identities", "MMACs", "Backbone and knobs"]
    body = ""
    for name, row in rows.items():
        cells = [number(100 * row[key], ".2f") for key in ("reward", *tprs)]
        cells += [f"{row['num_images']:,}", f"{row['num_identities']:,}", f"{row['macs'] / 1e6:.1f}"]
        candidate = row["candidate"]
        text = f"{candidate['stem']}; widths {candidate['widths']}, depths {candidate['depths']}"
        knobs = ", ".join(f"{knob} {value:g}" for knob, value in row["knobs"].items() if knob != SHAPE)
        cells = "".join(f"<td>{cell}</td>" for cell in cells)
        body += f"<tr><th>{name}</th>{cells}<td class='text'>{html.escape(text)}<br>{html.escape(knobs)}</td></tr>"
    return table(names, body)


def _confirmation(summary):
    confirmed = summary["confirmed"]
    if not confirmed or summary["best"]["trial"] == 0:
        return ""
    body = ""
    for name, rows in confirmed["rows"].items():
        cells = []
        for group in ("held_out", "test"):
            rewards = [row[group] for row in rows if row[group] is not None]
            cells.append(", ".join(f"{100 * reward:.2f}" for reward in rewards) or "–")
            cells.append(spread(confirmed["differences"].get(name, {}).get(group, [])))
        what = {"recipe": "The recipe as it stands", "best": "The best"}.get(name, f"Its {name} alone")
        body += f"<tr><th>{what}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    seeds = ", ".join(str(row["seed"]) for row in confirmed["rows"]["recipe"])
    names = ["", "Held out", "Above the recipe", "Test", "Above the recipe"]
    return f"""<h3>Trained again with other seeds</h3><p>Reward in per cent with seeds {seeds}, and how much
above the recipe: mean and standard deviation of the differences, the same seed on both sides. The people of the test
were asked
when the search was over; nothing was chosen by them.</p>{table(names, body)}"""


def spread(shares: Sequence[float]) -> str:
    """Mean and standard deviation of differences, in points.

    >>> spread([0.03, 0.07]), spread([-0.01]), spread([])
    ('+5.00 ± 2.83', '-1.00', '–')
    """
    points = [100 * share for share in shares]
    deviation = f" ± {statistics.stdev(points):.2f}" if len(points) > 1 else ""
    return f"{statistics.mean(points):+.2f}{deviation}" if points else "–"


def _course(summary, rows):
    figure = go.Figure()
    finished = rows[rows["state"] == "finished"].sort_values("trial")
    if len(finished):
        best = 100 * finished["reward"].cummax()
        figure.add_scatter(
            x=finished["trial"],
            y=best,
            mode="lines",
            line={"color": BEST.colour, "width": 1.5, "shape": "hv"},
            hoverinfo="skip",
        )
    _marks(figure, rows, "trial")
    _dashes(figure, summary)
    figure.update_xaxes(title="Trial", dtick=max(1, math.ceil(len(rows) / 20)))
    figure.update_yaxes(title="Reward, %")
    return drawn(figure, "course", height_px=380)


def _curves(rows, curves):
    figure = go.Figure()
    for row in rows.itertuples():
        look, points = RECIPE if row.trial == 0 else STATES[row.state], curves.get(row.trial)
        if points:
            epochs, rewards = zip(*points, strict=True)
            figure.add_scatter(
                x=epochs,
                y=[100 * reward for reward in rewards],
                mode="lines+markers",
                opacity=1.0 if row.trial == 0 else 0.6,
                line={"color": look.colour, "width": 2.5 if row.trial == 0 else 1.2},
                marker={"size": 4},
                hovertemplate=f"trial {row.trial}, {row.state}<br>epoch %{{x}}: %{{y:.2f}} %<extra></extra>",
            )
    figure.update_xaxes(title="Epoch", dtick=1)
    figure.update_yaxes(title="Reward, %")
    return drawn(figure, "curves", height_px=380)


def _knobs(summary, rows):
    searched = [name for name in KNOBS if name in rows and rows[name].notna().any()]
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
        _marks(figure, shown[shown[name].notna()], name, row=row + 1, col=column + 1)
        values = shown[name].dropna()
        figure.update_xaxes(title=WHAT[name], range=span(values.min(), values.max()), row=row + 1, col=column + 1)
        _dashes(figure, summary, row=row + 1, col=column + 1)
    figure.update_yaxes(title="Reward, %", col=1)
    return legend(STATES) + drawn(figure, "knobs", height_px=260 * num_rows)


def _num_blocks(text):
    """
    >>> _num_blocks("ir_se-16-24x1-48x2")
    3
    """
    return sum(int(stage.split("x")[1]) for stage in text.split("-")[2:]) if isinstance(text, str) else None


def _marks(figure, rows, x, **where):
    """The trials as marks, by state, the recipe apart."""
    groups = {name: (rows[(rows["state"] == name) & (rows["trial"] > 0)], look) for name, look in STATES.items()}
    groups["the recipe"] = rows[rows["trial"] == 0], RECIPE
    for name, (trials, look) in groups.items():
        trials = trials[trials["reward"].notna()] if "reward" in trials else trials[:0]
        if len(trials):
            figure.add_scatter(
                x=trials[x],
                y=100 * trials["reward"],
                mode="markers",
                customdata=trials[["trial", "epochs"]],
                marker={"color": look.colour, "symbol": look.symbol, "size": look.size_px},
                hovertemplate=f"trial %{{customdata[0]}}, {name}, %{{customdata[1]}} ep.<br>%{{x}}: %{{y:.2f}} "
                f"%<extra></extra>",
                **where,
            )


def _dashes(figure, summary, **where):
    if summary["recipe"]:
        figure.add_hline(
            y=100 * summary["recipe"]["reward"], line={"color": RECIPE.colour, "dash": "dash", "width": 1}, **where
        )


def _trials(rows):
    tprs = [name for name in rows if name.startswith("tpr@")]
    knobs = [name for name in KNOBS if name in rows and rows[name].notna().any() and name != SHAPE]
    counts = [name for name in ("num_images", "num_identities", "num_merged", "num_dropped") if name in rows]
    if not any(name in knobs for name in THRESHOLDS):
        counts = counts[:2]
    body = ""
    ordered = rows.sort_values("reward", ascending=False, na_position="last") if "reward" in rows else rows
    for _, row in ordered.iterrows():
        cells = [
            row["state"],
            row["epochs"],
            *(number(_float(row.get(name), 100), ".2f") for name in ("reward", *tprs)),
        ]
        cells += [number(_float(row[name]), ".3g") for name in knobs]
        cells += [number(_float(row[name]), ",.0f") for name in counts]
        cells = "".join(f"<td>{html.escape(str(cell))}</td>" for cell in cells)
        text = html.escape(str(row["candidate"] or "–"))
        body += f"<tr><td>{row['trial']}</td>{cells}<td class='text'>{text}</td></tr>"
    names = ["Trial", "State", "Epochs", "Reward", *(f"TPR@{name[4:]}" for name in tprs), *knobs]
    names += [name.removeprefix("num_").capitalize() for name in counts]
    return table([*names, "Backbone"], body)


def _float(value, times=1):
    return None if value is None else times * float(value)


STYLE = f"""section ul {{ max-width: 860px; }} .empty {{ color: {FADED}; }}
tbody th {{ font-weight: 400; }} td.text {{ white-space: normal; min-width: 230px; text-align: left; }}"""
