"""The curves of a report: true and false accepts, ranks, similarities, each of all networks on one subset of a set."""

import html
import re
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from zennas.evaluate.results import Result
from zennas.page import BUDGET, GRID, INK, LINE, Look, drawn, legend, number, panels, span

COLOURS = ("#0f766e", "#7c3aed", "#b45309", "#2563c9", "#be185d", "#4d7c0f", "#0891b2", "#9f1239", "#525252", "#c026d3")
MARKS = (("●", "circle"), ("◆", "diamond"), ("■", "square"), ("▲", "triangle-up"))
SAME, DIFFERENT = Look("#0f766e", "■", opacity=0.45), Look(LINE, "■", opacity=0.55)
ASKED, SAMPLED, OTHER_THRESHOLD = Look(INK, "○", "circle-open", 9), Look(INK, "┅"), Look(INK, "┊")
MAX_CAPTION = 46  # letters, of 12 px, that a phone has room for
SHARES = (0.0001, 0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1.0)  # ticks of a histogram


def model_looks(names: Sequence[str]) -> dict[str, Look]:
    """{name: Look}: a colour for each network, and another mark where the colours begin anew."""
    marks = (MARKS[index // len(COLOURS) % len(MARKS)] for index in range(len(names)))
    return {
        name: Look(COLOURS[index % len(COLOURS)], glyph, symbol, size_px=9)
        for index, (name, (glyph, symbol)) in enumerate(zip(names, marks, strict=True))
    }


def asked_far(name: str) -> float | None:
    """The share of false accepts that a metric is asked at, or None.

    >>> asked_far("TAR@FAR=1e-06"), asked_far("FNMR@FMR=1e-05"), asked_far("rank-1")
    (1e-06, 1e-05, None)
    """
    match = re.search(r"@(?:FAR|FMR|FPIR)\s*(?:<=|≤|=)\s*([0-9.]+(?:e[+-]?[0-9]+)?)", name, re.IGNORECASE)
    return float(match[1]) if match else None


def accepts_and_ranks(results: dict[str, Result], looks: dict[str, Look], name: str) -> str:
    """The HTML of all ROC, DET and CMC curves of one set; "" where there are none.

    results: {model: Result}. looks: {model: Look}. name: what the figures' own names on the page begin with.
    """
    shown = []
    for place, (kind, subset) in enumerate(_subsets(results, lambda result: result.curves, kinds=True)):
        of_subset = {
            model: curve
            for model, result in results.items()
            for curve in result.curves
            if (curve.kind, curve.subset) == (kind, subset)
        }
        figure = _cmc(of_subset, looks, f"{name}-{place}") if kind == "cmc" else None
        figure = figure or _roc(of_subset, results, subset, looks, f"{name}-{place}")
        shown.append((" · ".join(filter(None, (subset, {"cmc": "ranks"}.get(kind, "")))) or "all pairs", figure))
    return _folded(shown)


def histograms(results: dict[str, Result], looks: dict[str, Look], name: str) -> str:
    """The HTML of the similarities of same and different pairs on one set; arguments as in `accepts_and_ranks`."""
    shown = []
    for place, (_, subset) in enumerate(_subsets(results, lambda result: result.histograms)):
        of_subset = {
            model: histogram
            for model, result in results.items()
            for histogram in result.histograms
            if histogram.subset == subset
        }
        shown.append((subset or "all pairs", _histograms(of_subset, results, looks, f"{name}-{place}")))
    return _folded(shown)


def _subsets(results, of, *, kinds=False):
    """(kind, subset) of everything that any network has, those of the headline first."""
    pairs = [(line.kind if kinds else None, line.subset) for result in results.values() for line in of(result)]
    headline = {metric.subset for result in results.values() for metric in result.metrics if metric.headline}
    return sorted(dict.fromkeys(pairs), key=lambda pair: pair[1] not in headline)


def _folded(shown):
    """Figures by their names; of several all but the first are folded away."""
    if len(shown) <= 1:
        return "".join(figure for _, figure in shown)
    # Where a browser gives what is folded away no size, a figure in it does not know how wide it is until then.
    return "".join(
        f"<details{'' if place else ' open'} ontoggle='window.dispatchEvent(new Event(\"resize\"))'>"
        f"<summary>{html.escape(subset)}</summary>{figure}</details>"
        for place, (subset, figure) in enumerate(shown)
    )


# --- true and false accepts


def _roc(of_subset, results, subset, looks, name):
    figure, seen, sampled, asked, lowest = panels([0.5, 0.5]), [], False, False, 1.0
    for model, curve in of_subset.items():
        x_K, y_K = np.asarray(curve.x_K, float), np.asarray(curve.y_K, float)
        shown_K = (x_K > 0) & np.isfinite(y_K)
        x_K, y_K = x_K[shown_K], y_K[shown_K]
        num_exact = len(x_K) if curve.exact_up_to is None else int(np.searchsorted(x_K, curve.exact_up_to, "right"))
        sampled, seen, lowest = sampled or num_exact < len(x_K), [*seen, *(100 * y_K)], min([lowest, *x_K])
        # The sampled part begins at the last exact point: a gap would look as if something were not known there.
        _line(figure, x_K[:num_exact], y_K[:num_exact], model, looks[model], dash="solid")
        _line(figure, x_K[max(num_exact - 1, 0) :], y_K[max(num_exact - 1, 0) :], model, looks[model], dash="dot")
        points = _asked(results[model], subset)
        asked = asked or bool(points)
        _points(figure, points, model, looks[model])
    # A phone has room for six powers of ten.
    figure.update_xaxes(type="log", exponentformat="power", dtick=1 if lowest > 1e-6 else 2)
    figure.update_xaxes(title="False accepts (FAR)", row=2)
    figure.update_yaxes(title="TAR, %", range=_up_to_100(seen), row=1)
    figure.update_yaxes(title="FNMR, %", type="log", row=2, **_decades([100 - tar_pct for tar_pct in seen]))
    marks = {html.escape(model): Look(looks[model].colour, "━") for model in of_subset}
    marks |= {"at the FARs that were asked for": ASKED} if asked else {}
    marks |= {"dotted: from a sample of the different pairs": SAMPLED} if sampled else {}
    return legend(marks) + drawn(figure, name, height_px=560)


def _line(figure, x_K, y_K, model, look, *, dash):
    if not len(x_K) or (dash == "dot" and len(x_K) < 2):
        return
    line = {"mode": "lines", "line": {"color": look.colour, "width": 2, "dash": dash}}
    hover = f"{html.escape(model)}<br>%{{y:.3f}} % at a FAR of %{{x:.3g}}<extra></extra>"
    figure.add_scatter(x=x_K, y=100 * y_K, hovertemplate="TAR of " + hover, row=1, col=1, **line)
    missed_K = 100 * (1 - y_K)
    # None missed has no place on a logarithmic axis.
    missed_K[missed_K <= 0] = np.nan
    figure.add_scatter(x=x_K, y=missed_K, hovertemplate="FNMR of " + hover, row=2, col=1, **line)


def _asked(result, subset):
    """[(FAR, TAR)] of the metrics that ask for one."""
    told = [
        (asked_far(metric.name), 1 - metric.value if metric.name.startswith("FNMR") else metric.value)
        for metric in result.metrics
        if metric.subset == subset and metric.value is not None and metric.name.startswith(("TAR@", "FNMR@"))
    ]
    return [(far, tar) for far, tar in told if far]


def _points(figure, points, model, look):
    for row, places in enumerate((points, [(far, 1 - tar) for far, tar in points if tar < 1]), start=1):
        figure.add_scatter(
            x=[far for far, _ in places],
            y=[100 * share for _, share in places],
            mode="markers",
            row=row,
            col=1,
            marker={"symbol": ASKED.symbol, "size": ASKED.size_px, "color": look.colour, "line": {"width": 2}},
            hovertemplate=f"{html.escape(model)}<br>%{{y:.2f}} % at a FAR of %{{x:.3g}}<extra></extra>",
        )


def _up_to_100(seen):
    """The range of an axis of shares: a share above 100 % would look as if it could be had."""
    low, high = span(*seen, pad=0.04)
    return [max(low, -2.0), min(high, 100 + 0.04 * (100 - max(low, 0.0)))]


def _decades(seen):
    """Ticks of a logarithmic axis of per cent: powers of ten, with 2 and 5 where these would be few."""
    seen = [value for value in seen if value > 0] or [1.0]
    steps = (1,) if max(seen) > 100 * min(seen) else (1, 2, 5)
    ticks = [step * 10.0**power for power in range(-6, 3) for step in steps]
    return {"tickvals": ticks, "ticktext": [f"{tick:g}" for tick in ticks]}


def _cmc(of_subset, looks, name):
    figure, seen = panels([1.0]), []
    for model, curve in of_subset.items():
        y_K = 100 * np.asarray(curve.y_K, float)
        seen += [*y_K]
        figure.add_scatter(
            x=np.asarray(curve.x_K, float),
            y=y_K,
            mode="lines+markers",
            marker={"size": 4},
            line={"color": looks[model].colour, "width": 2},
            hovertemplate=f"{html.escape(model)}<br>%{{y:.2f}} % within rank %{{x}}<extra></extra>",
        )
    figure.update_xaxes(
        title="Rank", range=span(1, *(rank for curve in of_subset.values() for rank in curve.x_K), pad=0.02)
    )
    figure.update_yaxes(title="Right answer within it, %", range=_up_to_100(seen))
    return legend({html.escape(model): Look(looks[model].colour, "━") for model in of_subset}) + drawn(
        figure, name, height_px=360
    )


# --- similarities


def _histograms(of_subset, results, looks, name):
    figure, low, high = panels([1 / len(of_subset)] * len(of_subset)), 1.0, -1.0
    names = {True: {}, False: {}}
    for row, (model, histogram) in enumerate(of_subset.items(), start=1):
        edge_B1 = np.asarray(histogram.edge_B1, float)
        same_B, different_B = np.asarray(histogram.same_B, float), np.asarray(histogram.different_B, float)
        if len(held := np.flatnonzero(same_B + different_B)):
            low, high = min(low, edge_B1[held[0]]), max(high, edge_B1[held[-1] + 1])
        for look, share_B, kind in ((DIFFERENT, different_B, "different"), (SAME, same_B, "same")):
            figure.add_scatter(
                x=edge_B1,
                y=np.sqrt([*share_B, 0.0]),
                customdata=100 * np.array([*share_B, 0.0]),
                row=row,
                col=1,
                mode="lines",
                line={"color": look.colour, "width": 1.2, "shape": "hv"},
                fill="tozeroy",
                fillcolor=_faint(look),
                hovertemplate=f"%{{customdata:.3g}} % of the {kind} pairs from %{{x:.2f}}<extra></extra>",
            )
        top = float(np.sqrt(max([*same_B, *different_B, 1e-6]))) * 1.12
        thresholds = [
            metric
            for metric in results[model].metrics
            if metric.subset == histogram.subset and metric.threshold is not None and np.isfinite(metric.threshold)
        ]
        for metric in sorted(thresholds, key=lambda metric: metric.headline):
            low, high = min(low, metric.threshold), max(high, metric.threshold)
            names[metric.headline][metric.name] = True
            _threshold(figure, metric, top, row)
        figure.update_yaxes(
            range=[0, top],
            tickvals=(ticks := _ticks(top)),
            ticktext=[f"{100 * tick**2:g} %" for tick in ticks],
            row=row,
        )
        caption(figure, model, row, colour=looks[model].colour)
    figure.update_xaxes(range=span(low, high, pad=0.02) if low < high else [-1, 1])
    figure.update_xaxes(title="Similarity (cosine)", row=len(of_subset))
    marks = {"same": SAME, "different": DIFFERENT}
    for headline, look in ((True, Look(BUDGET.colour, "┃")), (False, OTHER_THRESHOLD)):
        marks |= {f"threshold of {html.escape(', '.join(names[headline]))}": look} if names[headline] else {}
    return legend(marks) + drawn(figure, name, height_px=90 + 150 * len(of_subset))


def _threshold(figure, metric, top, row):
    headline = metric.headline
    label = f"{html.escape(metric.name)}: accepted above {number(metric.threshold, '.3f')}<extra></extra>"
    figure.add_scatter(
        x=[metric.threshold] * 9,
        y=np.linspace(0, top, 9),
        mode="lines",
        row=row,
        col=1,
        hovertemplate=label,
        line={
            "color": BUDGET.colour if headline else INK,
            "width": 2 if headline else 1,
            "dash": "solid" if headline else "dot",
        },
    )


def _ticks(top):
    """Up to four heights that are named, not crowded."""
    ticks = []
    for share in sorted(SHARES, reverse=True):
        height = share**0.5
        if height <= top and (not ticks or ticks[-1] - height > 0.2 * top) and height > 0.15 * top:
            ticks.append(height)
    return [0.0, *reversed(ticks)]


def caption(figure: go.Figure, text: str, row: int, *, colour: str = INK) -> None:
    """Writes above a panel of a figure what it is of; a long text is cut, for it would not be wrapped."""
    text = text if len(text) <= MAX_CAPTION else text[: MAX_CAPTION - 1] + "…"
    figure.add_annotation(
        text=html.escape(text),
        xref="x domain",
        yref="y domain",
        x=0.0,
        y=1.0,
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": 12, "color": colour},
        row=row,
        col=1,
    )


def _faint(look):
    return f"rgba({', '.join(str(int(look.colour[at : at + 2], 16)) for at in (1, 3, 5))}, {look.opacity})"


STYLE = f"""
details {{ border-top: 1px solid {GRID}; padding: 8px 0; }} summary {{ cursor: pointer; font-weight: 600; padding: 2px
0; }}
"""
