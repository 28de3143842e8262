"""The figures of report.html, each drawn from a RunSummary and the tables that report.py makes of it."""

import html
import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from zennas.page import BUDGET, GRID, LINE, Look, drawn, legend, number, panels, span
from zennas.records import UserError
from zennas.space.families.table import layout_of, tree_of
from zennas.space.shape import px_text

if TYPE_CHECKING:
    from zennas.search.report import RunSummary

MAX_BARS = 20  # all further ones are one bar
MAX_POINTS = 5000  # of the scored cloud: more only slow the browser; the front is always kept whole
LABEL_GAP_PX = 17  # between the middles of two labels of 12 px type

ROLES = {
    "winner": Look("#0f766e", "★", "star", 15),
    "finalist": Look("#7c3aed", "○", "circle-open", 9),
    "baseline": Look("#b45309", "◆", "diamond", 10),
}
SCORED, FRONT = Look(LINE, "●", opacity=0.45), Look("#1e293b", "━")
OPTIMUM = Look("#7c3aed", "☆", "star-open", 14)
STAGES = ("#8b95a5", "#93c5fd", "#4f9cf0", "#2563c9", "#1e3a8a", "#6d5bd0", "#a78bda")  # the stem, then each stage
COSTS = "%{customdata[0]}<br>key %{customdata[1]}<br>%{customdata[2]:.4s} MACs, %{customdata[3]:.4s} parameters<br>"


def pareto(summary: "RunSummary", scored: pd.DataFrame, measured: pd.DataFrame) -> str:
    """Score against latency, in HTML: the scored, their front, what was measured whole, the budget, the optimum."""
    rows = scored.dropna(subset=["score", "predicted_ms"])
    if rows.empty and measured.empty:
        return "<p class='empty'>No network has both a score and a latency.</p>"
    rows = rows.sort_values(["predicted_ms", "score"], ascending=[True, False])
    front = rows[rows["score"] > rows["score"].cummax().shift(fill_value=-math.inf)]
    proven = [(f"proven optimum of band {each['band']}", each["optimum"]) for each in summary.optima if each["optimum"]]
    proven = proven or ([("proven optimum", summary.optimum)] if summary.optimum else [])
    proven_ms = [optimum["predicted_ms"] for _, optimum in proven]
    span_ms = span(*rows["predicted_ms"], *measured["measured_ms"], summary.budget_ms, *proven_ms)
    figure, hover = panels([1.0]), COSTS + f"{summary.score_label} %{{y:.2f}}, %{{x:.1f}} ms"
    _dots(figure, rows, "predicted_ms", "score", look=SCORED, hover=hover)
    _dots(figure, front, "predicted_ms", "score", look=FRONT, hover=hover, mode="lines+markers")
    _dots_by_role(figure, measured, "measured_ms", "score", hover=hover + " measured")
    for name, optimum in proven:
        figure.add_scatter(
            x=[optimum["predicted_ms"]],
            y=[optimum["closed_form"]],
            mode="markers",
            marker={"color": OPTIMUM.colour, "symbol": OPTIMUM.symbol, "size": OPTIMUM.size_px, "line": {"width": 2}},
            hovertemplate=f"{html.escape(name)}<br>{html.escape(optimum['text'])}<br>closed form %{{y:.2f}}, "
            "%{x:.1f} ms<extra></extra>",
        )
    side = "left" if summary.budget_ms > sum(span_ms) / 2 else "right"
    figure.add_vline(
        x=summary.budget_ms,
        line={"color": BUDGET.colour, "width": 2},
        annotation_text=f"budget {summary.budget_ms:.1f} ms",
        annotation_position=f"top {side}",
        annotation_yanchor="bottom",
        annotation_font_color=BUDGET.colour,
    )
    figure.update_xaxes(title="Latency, ms", range=span_ms)
    scores = span(*rows["score"], *measured["score"], *(optimum["closed_form"] for _, optimum in proven))
    figure.update_yaxes(title=summary.score_label, range=scores)
    _add_names(figure, measured, "measured_ms", "score", height_px=560)
    looks = {"scored, at predicted latency": SCORED, "front of the scored": FRONT, "budget": BUDGET}
    looks |= {"proven optimum, by the closed form": OPTIMUM} if proven else {}
    looks |= {f"{role}, measured": look for role, look in _looks(measured).items()}
    return legend(looks) + drawn(figure, "pareto", height_px=560)


def course(summary: "RunSummary", scored: pd.DataFrame) -> str:
    """How the search went, in HTML: scores and the best so far over time; candidates per second."""
    timed = scored.dropna(subset=["elapsed_s"]).sort_values("elapsed_s", kind="stable")
    if timed.empty:
        return "<p class='empty'>No candidate was scored.</p>"
    end_s = max(timed["elapsed_s"].max(), 1e-3)
    rows = timed.dropna(subset=["score"])
    best = rows[rows["predicted_ms"] <= summary.budget_ms].assign(best=lambda feasible: feasible["score"].cummax())
    best = pd.concat([best, best.tail(1).assign(elapsed_s=end_s)])
    # Results come in batches: in bins of fewer than three one would see the batches, not the rate.
    counts, edges_s = np.histogram(
        timed["elapsed_s"], bins=max(1, min(60, timed["batch"].nunique() // 3)), range=(0, end_s)
    )
    rates = counts / np.diff(edges_s)
    figure, looks = panels([0.72, 0.28]), {"scored": SCORED, "best within the budget": FRONT}
    hover = f"%{{customdata[0]}}<br>{summary.score_label} %{{y:.2f}} after %{{x:.1f}} s"
    _dots(figure, rows, "elapsed_s", "score", look=SCORED, hover=hover)
    _dots(figure, best, "elapsed_s", "best", look=FRONT, hover=hover, mode="lines")
    figure.add_scatter(
        x=edges_s,
        y=[*rates, rates[-1]],
        row=2,
        col=1,
        mode="lines",
        fill="tozeroy",
        fillcolor=GRID,
        line={"color": SCORED.colour, "shape": "hv"},
        hovertemplate="%{y:.1f} per second<extra></extra>",
    )
    for correction in summary.corrections:
        at_s = timed["elapsed_s"][timed["batch"] <= correction["after_batch"]].max()
        at_s = 0.0 if math.isnan(at_s) else float(at_s)
        figure.add_vline(x=at_s, row="all", col=1, line={"color": BUDGET.colour, "width": 1, "dash": "dot"})
        looks[f"latencies corrected × {correction['factor']:.3f} after {at_s:.0f} s"] = Look(BUDGET.colour, "┊")
    figure.update_xaxes(range=span(0, end_s, pad=0.02))
    figure.update_xaxes(title="Seconds since the start of the search", row=2)
    figure.update_yaxes(title=summary.score_label, range=span(*rows["score"]), row=1)
    figure.update_yaxes(title="Per second", rangemode="tozero", row=2)
    return legend(looks) + drawn(figure, "course", height_px=520)


def prediction(measured: pd.DataFrame) -> str:
    """Predicted against measured latency of whole networks, in HTML, and how far the prediction is off."""
    rows = measured.dropna(subset=["predicted_ms", "measured_ms"])
    if rows.empty:
        return "<p class='empty'>No network has both a predicted and a measured latency.</p>"
    rows = rows.assign(error_pct=100 * (rows["predicted_ms"] / rows["measured_ms"] - 1))
    figure, span_ms = panels([0.66, 0.34]), span(*rows["predicted_ms"], *rows["measured_ms"])
    equal = {"mode": "lines", "line": {"color": SCORED.colour, "dash": "dash"}, "hoverinfo": "skip", "col": 1}
    figure.add_scatter(x=span_ms, y=span_ms, row=1, **equal)
    figure.add_scatter(x=span_ms, y=[0, 0], row=2, **equal)
    middles_ms = [np.percentile(row.raw_ms or [row.measured_ms], (25, 75)) for row in rows.itertuples()]
    for row, middle_ms in zip(rows.itertuples(), middles_ms, strict=True):
        bar = {"x": [row.predicted_ms] * 2, "mode": "lines", "opacity": 0.45, "hoverinfo": "skip", "col": 1}
        bar["line"] = {"color": ROLES[row.role].colour, "width": 3}
        figure.add_scatter(y=middle_ms, row=1, **bar)
        figure.add_scatter(y=100 * (row.predicted_ms / middle_ms - 1), row=2, **bar)
    hover = "%{customdata[0]}<br>predicted %{x:.1f} ms, "
    _dots_by_role(figure, rows, "predicted_ms", "measured_ms", hover=hover + "measured %{y:.1f} ms")
    _dots_by_role(figure, rows, "predicted_ms", "error_pct", hover=hover + "off by %{y:+.2f} %", row=2)
    figure.update_xaxes(range=span_ms)
    figure.update_xaxes(title="Predicted latency, ms", row=2)
    figure.update_yaxes(title="Measured, ms", range=span(*span_ms, *np.concatenate(middles_ms)), row=1)
    figure.update_yaxes(title="Off by, %", row=2)
    _add_names(figure, rows, "predicted_ms", "measured_ms", height_px=560)
    looks = _looks(rows) | {"predicted = measured": Look(SCORED.colour, "┅")}
    return legend(looks) + drawn(figure, "prediction", height_px=560)


def drawings(summary: "RunSummary", measured: pd.DataFrame) -> str:
    """The winners and one hand-made network, block by block, in HTML."""
    baselines = measured[measured["role"] == "baseline"]
    against = pd.concat([baselines[baselines["name"] == "IR-SE-100"], baselines]).head(1)
    shown = [*measured[measured["role"] == "winner"].itertuples(), *against.itertuples()]
    lengths = [
        1 + sum(row.candidate.depths[stage] for stage in way.stages)
        for row in shown
        for way in tree_of(row.candidate).ways
    ]
    num_bars = max(lengths, default=1)
    top = max((max(row.candidate.stem, *row.candidate.widths) for row in shown), default=1)
    drawings = "".join(_drawing(row, num_bars=num_bars, top=top, shape=summary.shape) for row in shown)
    return drawings or "<p class='empty'>No winner and no hand-made network to draw.</p>"


def _drawing(row, *, num_bars, top, shape):
    candidate, look = row.candidate, ROLES[row.role]
    ways = tree_of(candidate).ways
    drawn = "".join(
        (f"<p>{html.escape(way.name)}{f' × {way.times}' * (way.times > 1)}</p>" if len(ways) > 1 else "")
        + _way(candidate, way, num_bars=num_bars, top=top, shape=shape)
        for way in ways
    )
    return (
        f"<h3><b style='color:{look.colour}'>{look.glyph}</b> {html.escape(row.name)} "
        f"<i>{candidate.num_blocks} blocks, {number(row.macs / 1e9, '.2f')} GMACs</i></h3>{drawn}"
    )


def _way(candidate, way, *, num_bars, top, shape):
    """One way through a network, from the image to its last map."""
    paths, looks, at = "", {}, 0
    widths = (candidate.stem, *(candidate.widths[stage] for stage in way.stages))
    depths = (1, *(candidate.depths[stage] for stage in way.stages))
    for index, (width, depth, px) in enumerate(zip(widths, depths, _sides(candidate, way, shape), strict=True)):
        colour = STAGES[1 + (index - 1) % (len(STAGES) - 1)] if index else STAGES[0]
        text = f"{f'stage {index}' if index else 'stem'}: {depth} × {width} @ {px} px"
        marks = "".join(f"M{bar} {top}v-{width}h.8v{width}z" for bar in range(at, at + depth))
        paths += f"<path d='{marks}' fill='{colour}'><title>{text}</title></path>"
        looks[text] = Look(colour, "■")
        at += depth
    return (
        f"<div class='drawing'><div><span>{top}</span><span>0</span></div>"
        f"<svg viewBox='0 0 {num_bars} {top}' preserveAspectRatio='none'>{paths}</svg></div>{legend(looks)}"
    )


def _sides(candidate, way, shape):
    """The sides of the maps behind the stem and each stage of a way, as people read them."""
    try:
        layout = layout_of(candidate, shape).along(way)
    except UserError:  # of a run whose blocks this zennas lacks
        return ["?"] * (1 + len(way.stages))
    stages = [layout.stages[stage][0] for stage in way.stages]
    return [px_text(hw) for hw in (stages[0].in_hw, *(place.out_hw for place in stages))]


def bars(title: str, counts: dict[str, int]) -> str:
    """Counts as bars under a title, in HTML; nothing where there are none."""
    names, shown = list(counts), dict(counts)
    if further := names[MAX_BARS:]:
        shown = {name: counts[name] for name in names[:MAX_BARS]}
        shown[f"{len(further):,} more"] = sum(counts[name] for name in further)
    most, row = max([1, *shown.values()]), "<div>{}</div><div>{:,}</div><div><span style='width:{:.2f}%'></span></div>"
    rows = "".join(row.format(html.escape(name), num, 100 * num / most) for name, num in shown.items())
    return f"<h3>{title}</h3><div class='bars'>{rows}</div>" if counts else ""


def _looks(measured):
    return {role: look for role, look in ROLES.items() if (measured["role"] == role).any()}


def _dots(figure, rows, x, y, *, look, hover, mode="markers", row=1):
    if look is SCORED and len(rows) > MAX_POINTS:
        rows = rows.sample(MAX_POINTS, random_state=0)
    marker = {"color": look.colour, "symbol": look.symbol, "opacity": look.opacity}
    figure.add_scatter(
        x=rows[x],
        y=rows[y],
        mode=mode,
        marker=marker | {"size": look.size_px if mode == "markers" else 4},
        line={"color": look.colour, "width": 1.5, "shape": "hv"},
        hovertemplate=hover + "<extra></extra>",
        customdata=rows[["hover", "key", "macs", "params"]].to_numpy(object),
        row=row,
        col=1,
    )


def _dots_by_role(figure, measured, x, y, *, hover, row=1):
    for role, look in reversed(_looks(measured).items()):  # winners last, so that they lie on top
        _dots(figure, measured[measured["role"] == role], x, y, look=look, hover=hover, row=row)


def _add_names(figure, measured, x, y, *, height_px):
    """Writes the names of winners and baselines into the first panel, each at a height of its own.

    Only the height of a plot is known here, its width is the reader's: names that share no height overlap at no width.
    Their heights are the nearest possible to their points', by isotonic regression (pool adjacent violators).
    """
    rows = measured[measured["role"] != "finalist"].dropna(subset=[x, y]).sort_values(y, ascending=False)
    axis = figure.layout.yaxis
    panel_px = (height_px - 80) * (axis.domain[1] - axis.domain[0])  # 80: margins, ticks and title
    wanted_px = panel_px * (axis.range[1] - rows[y].to_numpy()) / (axis.range[1] - axis.range[0])
    pools = []  # (mean of wanted height - own place in the stack, how many names)
    for place, want_px in enumerate(wanted_px):
        mean_px, num = want_px - place * LABEL_GAP_PX, 1
        while pools and pools[-1][0] > mean_px:
            above_px, num_above = pools.pop()
            mean_px, num = (above_px * num_above + mean_px * num) / (num_above + num), num_above + num
        pools.append((mean_px, num))
    free_px = np.repeat([mean_px for mean_px, _ in pools], [num for _, num in pools])
    slots_px = np.clip(free_px, 10, max(10, panel_px - len(rows) * LABEL_GAP_PX)) + np.arange(len(rows)) * LABEL_GAP_PX
    for row, want_px, slot_px in zip(rows.itertuples(), wanted_px, slots_px, strict=True):
        on_left = getattr(row, x) > sum(figure.layout.xaxis.range) / 2  # towards the middle, where there is room
        colour = ROLES[row.role].colour
        figure.add_annotation(
            x=getattr(row, x),
            y=getattr(row, y),
            xref="x",
            yref="y",
            text=html.escape(row.name),
            ax=-36 if on_left else 36,
            ay=slot_px - want_px,
            xanchor="right" if on_left else "left",
            borderpad=0,
            font={"color": colour},
            bgcolor="rgba(255,255,255,.75)",
            arrowcolor=colour,
            arrowhead=0,
            arrowwidth=1,
            standoff=6,
        )
