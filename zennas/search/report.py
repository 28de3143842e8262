"""report.html: what a search found, as one page that needs no network, drawn from the run's records alone."""

import dataclasses
import html
import math
import pathlib
import urllib.parse

import numpy as np
import pandas as pd

from zennas.page import (
    BUDGET,
    FADED,
    GRID,
    LINE,
    Look,
    definitions,
    document,
    drawn,
    legend,
    notices,
    number,
    origin,
    panels,
    span,
    table,
)
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically
from zennas.score.scores import WORTH
from zennas.search.measured import Measured
from zennas.space.shape import px_text

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


@dataclasses.dataclass(frozen=True)
class RunSummary:
    """All that the report shows of one search."""

    title: str  # the experiment's name
    subtitle: str  # the track's title
    facts: list[tuple[str, str]]  # what the run did, in order
    budget_ms: float
    stand_in: str | None  # a sentence where the CPU stands in for the track's GPU
    scored: pd.DataFrame  # a row per scored candidate, in order; columns as in _scored; predicted_ms is corrected
    entries: list[Measured]  # all that was measured whole
    counters: dict[str, int]  # what became of the candidates that were looked at
    corrections: list[dict]  # {"after_batch", "factor"} of the latency table, in order
    prediction_error: dict  # {"num", "mean_abs_pct", "max_abs_pct"} over whole networks
    provenance: Provenance
    map_hw: tuple[tuple[int, int], ...]  # height and width of the maps behind the stem and each stage
    score_label: str = "Zen-Score"
    score_name: str = "zen"  # its row of SCORES
    # A measured network's key -> other score's name -> its value, None where it failed.
    evidence: dict[str, dict[str, float | None]] = dataclasses.field(default_factory=dict)
    rank_by: str | None = None  # the one of them that ranked winners that score alike
    optimum: dict | None = None  # as run.json has it, where one was proven


def write_report(path: pathlib.Path, summary: RunSummary) -> None:
    """Writes the page of a RunSummary to `path`, whole or not at all; its folder must exist."""
    write_atomically(path, page(summary))


def page(summary: RunSummary) -> str:
    """The HTML of a RunSummary."""
    scored, measured = _scored(summary), _measured(summary)
    stand_ins = [summary.stand_in, *measured["stand_in"]]
    note = notices(stand_ins, "note")
    made_by = origin(summary.provenance, list(zip(measured["machine"], measured["protocol"], strict=True)))
    sections = f"""<section><h2>Winners beside the hand-made networks</h2>{note}
<p>Networks that were measured whole, against the budget of {summary.budget_ms:.1f} ms. Behind ± stand the standard
deviation of a score over its repeats, and the distance between the quartiles of a latency's runs. "Below optimum" is
the distance
to the best candidate that the space holds within the budget, proven under the closed form of the score and the latency
table.</p>
{_table(measured, summary.score_label)}</section>
{_evidence(summary, measured)}
<section><h2>Score against latency</h2>{note}
<p>Up is a higher score, left is faster. Scored candidates stand at their predicted latency, the networks of the table
at their measured one; the line joins the candidates that no other beats in both.</p>
{_pareto(summary, scored, measured)}</section>
<section><h2>How the search went</h2>
<p>Above: every scored candidate at the time it was scored, and the best so far of those predicted to be within the
budget. Below: candidates per second. A line that still climbs at the end asks for a longer run.</p>
{_course(summary, scored)}
{_bars("What became of the candidates that were looked at", summary.counters)}
{_bars("Why candidates failed", scored["reason"].value_counts().head(10).to_dict())}</section>
<section><h2>Predicted against measured latency</h2>{note}
<p>Each network's latency as summed from the latency table, against the same network measured whole. The mark is the run
that the track's rule counts, the bar the middle half of all runs. Below: how far the prediction is off; above zero, the
network is faster than predicted. {_error_sentence(**summary.prediction_error)}</p>
{_prediction(measured)}</section>
<section><h2>The winners, stage by stage</h2>
<p>Every bar is a block, from the image on the left to the output on the right, and as high as it has channels; all
networks are drawn to the same scale. Below each: blocks × channels @ side of the map they give.</p>
{_drawings(summary, measured)}</section>
<section><h2>What the numbers mean, and what they do not</h2>
<p>Five things to know before concluding anything from this page.</p><ul>
<li><b>A Zen-Score is not an accuracy.</b> It measures how strongly the untrained network's features answer to its
input. Among networks of equal size it says little about which will be better once trained; only training does.</li>
<li><b>It compares within one space and one setting.</b> Another block, image size, batch or number of repeats shifts
it, and a difference smaller than its standard deviation is none.</li>
<li><b>It favours depth.</b> It always asks for more and thinner blocks, and does not know that a network too deep for
its width will not train. The limits of the space stand for that: where a winner touches them, they chose it.</li>
<li><b>A latency here is of untrained weights,</b> with denormal numbers flushed to zero where the protocol says so. The
same network can be several times slower with other weights: measure it again once trained, where it counts.</li>
<li><b>Predicted is not measured.</b> While searching, a latency is a sum over a table of measured blocks. The networks
of the first table were timed whole; those timings alone decide whether a winner is within the budget.</li></ul>
</section>"""
    again = f"""<p>What it takes to make the run again. The same command, seed, machine and
versions give the same scores; latencies, and with them the winners, vary by their noise.</p>
{definitions(made_by)}"""
    return document(
        sections,
        again,
        kind="search",
        title=summary.title,
        subtitle=summary.subtitle,
        banner=notices(stand_ins, "banner"),
        facts=summary.facts,
        style=STYLE,
    )


def _scored(summary):
    numbers = ["score", "predicted_ms", "params", "macs", "batch", "elapsed_s"]
    rows = summary.scored.reindex(columns=["key", "text", *numbers, "stage", "error"])
    rows[numbers] = rows[numbers].astype(float).replace([math.inf, -math.inf], math.nan)
    reason = rows["stage"].astype(object).fillna("?") + ": " + rows["error"].astype(object).fillna("no score")
    failed = rows["error"].notna() | rows["score"].isna()
    return rows.assign(hover=[html.escape(str(text)) for text in rows["text"]], reason=reason.where(failed))


def _measured(summary):
    """The measured networks as flat rows, winners first; NaN where a number is missing."""
    entries = sorted(summary.entries, key=lambda entry: list(ROLES).index(entry.role))
    numbers = ["score_mean", "score_std", "params", "macs", "num_blocks", "megabytes", "gap", "gap_pct"]
    timings = ["measured_ms", "predicted_ms", "budget_ms", "spread_pct"]
    texts, notes = ["role", "name", "key", "onnx", "verdict"], ["within_budget", "warning", "stand_in", "machine"]
    rows = []
    for entry in entries:
        row = {name: getattr(entry, name) for name in (*texts, *numbers)}
        row |= {name: getattr(entry.latency, name) for name in (*notes, *timings)}
        row |= {"raw_ms": entry.latency.raw_ms, "protocol": entry.latency.protocol.model_dump(exclude_unset=True)}
        row["hover"] = f"<b>{html.escape(entry.name)}</b><br>{html.escape(entry.candidate.text)}"
        rows.append(row | {"candidate": entry.candidate})
    numbers += timings
    columns = [*texts, *notes, "candidate", "hover", "raw_ms", "protocol", *numbers]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    frame[numbers] = frame[numbers].astype(float)
    return frame.rename(columns={"score_mean": "score"})


def _table(measured, label):
    has_winner = (measured["role"] == "winner").any()
    lead = "" if has_winner else "<p class='empty'>No winner: no new network was measured within the budget.</p>"
    if measured.empty:
        return lead
    names = ("Network", "Candidate", label, "below optimum", "Latency, ms", "of budget")
    names += ("GMACs", "Params, M", "Blocks", "MB")
    rows = ""
    for row in measured.itertuples():
        look, name, share_pct = ROLES[row.role], html.escape(row.name), 100 * row.measured_ms / row.budget_ms
        name = f"<a href='{urllib.parse.quote(row.onnx)}'>{name}</a>" if row.onnx else name
        notes = "".join(f"<small>{html.escape(note)}</small>" for note in (row.verdict, row.warning) if note)
        rows += (
            f"<tr class='{row.role}'><th><b style='color:{look.colour}'>{look.glyph}</b> {name}{notes}</th>"
            f"<td class='text'>{html.escape(row.candidate.text)}<small>{html.escape(row.key)}</small></td>"
            f"<td>{number(row.score, '.2f')} <i>± {number(row.score_std, '.2f')}</i></td>"
            f"<td>{_distance(row)}</td>"
            f"<td>{number(row.measured_ms, '.2f')} <i>± {number(row.spread_pct)} %</i></td>"
            f"<td{'' if row.within_budget else ' class=over'}>{number(share_pct)} %</td>"
            f"<td>{number(row.macs / 1e9, '.2f')}</td><td>{number(row.params / 1e6, '.2f')}</td>"
            f"<td>{number(row.num_blocks, '.0f')}</td><td>{number(row.megabytes)}</td></tr>"
        )
    return lead + table(names, rows)


def _distance(row):
    """How far a network is below the proven optimum, in points and per cent.

    A dash for a network of other blocks, or over the budget.
    """
    if row.gap is None or math.isnan(row.gap) or not row.within_budget:
        return number(None)
    return f"{number(row.gap, '.2f')} <i>{number(row.gap_pct, '.2f')} %</i>"


def _evidence(summary, measured):
    """The table of what every other score gives winners and baselines, and what each score is worth."""
    rows = measured[measured["key"].isin(summary.evidence) & measured["role"].isin(["winner", "baseline"])]
    if rows.empty:
        return ""
    names = list(dict.fromkeys(name for of in summary.evidence.values() for name in of))
    lines = []
    for row in rows.itertuples():
        values, mark = (
            summary.evidence[row.key],
            f"<b style='color:{ROLES[row.role].colour}'>{ROLES[row.role].glyph}</b>",
        )
        cells = [number(row.score, ".2f"), *(_value(values.get(name), ".4g") for name in names)]
        lines.append((f" class='{row.role}'", f"{mark} {html.escape(row.name)}", cells))
    kinds = {"overall": "worth, among all", "equal_latency": "worth, at equal latency", "faces": "worth, on faces"}
    for kind, title in kinds.items():
        worth = [
            _value(getattr(WORTH[name], kind) if name in WORTH else None, ".2f")
            for name in (summary.score_name, *names)
        ]
        lines.append(("", f"<i>{title}</i>", worth))
    body = "".join(
        f"<tr{kind}><th>{name}</th><td></td>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for kind, name, cells in lines
    )
    label, rank_by = html.escape(summary.score_label), html.escape(summary.rank_by or "")
    ranked = f"Winners whose {label} is about the same stand in the order of <b>{rank_by}</b>." if rank_by else ""
    return f"""<section><h2>What other scores say</h2>
<p>Other scores that need neither labels nor training, of the networks as they are built. The last three rows say what a
score is
worth: Kendall's tau with the trained accuracy of architectures of NAS-Bench-201 (CIFAR-10), among all and among those
of about
the same latency, and of small IR-SE networks of the same latency that were trained on faces for eight epochs; 1 is the
same
order, 0 is chance, below 0 the opposite. A column can only rank networks of about equal cost, and on faces none has yet
done so
reliably. {ranked}</p>
{table(("Network", "", summary.score_label, *names), body)}</section>"""


def _value(value, form):
    """A number, or the mark of a missing one."""
    return number(math.nan if value is None else value, form)


def _pareto(summary, scored, measured):
    rows = scored.dropna(subset=["score", "predicted_ms"])
    if rows.empty and measured.empty:
        return "<p class='empty'>No network has both a score and a latency.</p>"
    rows = rows.sort_values(["predicted_ms", "score"], ascending=[True, False])
    front = rows[rows["score"] > rows["score"].cummax().shift(fill_value=-math.inf)]
    proven = [(summary.optimum["predicted_ms"], summary.optimum["closed_form"])] if summary.optimum else []
    span_ms = span(*rows["predicted_ms"], *measured["measured_ms"], summary.budget_ms, *(ms for ms, _ in proven))
    figure, hover = panels([1.0]), COSTS + f"{summary.score_label} %{{y:.2f}}, %{{x:.1f}} ms"
    _dots(figure, rows, "predicted_ms", "score", look=SCORED, hover=hover)
    _dots(figure, front, "predicted_ms", "score", look=FRONT, hover=hover, mode="lines+markers")
    _dots_by_role(figure, measured, "measured_ms", "score", hover=hover + " measured")
    for ms, score in proven:
        figure.add_scatter(
            x=[ms],
            y=[score],
            mode="markers",
            marker={"color": OPTIMUM.colour, "symbol": OPTIMUM.symbol, "size": OPTIMUM.size_px, "line": {"width": 2}},
            hovertemplate=f"proven optimum<br>{html.escape(summary.optimum['text'])}<br>closed form %{{y:.2f}}, "
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
    scores = span(*rows["score"], *measured["score"], *(score for _, score in proven))
    figure.update_yaxes(title=summary.score_label, range=scores)
    _add_names(figure, measured, "measured_ms", "score", height_px=560)
    looks = {"scored, at predicted latency": SCORED, "front of the scored": FRONT, "budget": BUDGET}
    looks |= {"proven optimum, by the closed form": OPTIMUM} if proven else {}
    looks |= {f"{role}, measured": look for role, look in _looks(measured).items()}
    return legend(looks) + drawn(figure, "pareto", height_px=560)


def _course(summary, scored):
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


def _error_sentence(*, num=0, mean_abs_pct=math.nan, max_abs_pct=math.nan):
    if not num:
        return ""
    mean, most = number(mean_abs_pct, ".2f"), number(max_abs_pct, ".2f")
    return f"Over {num} whole networks it is off by {mean} % on average and {most} % at most."


def _prediction(measured):
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


def _drawings(summary, measured):
    baselines = measured[measured["role"] == "baseline"]
    against = pd.concat([baselines[baselines["name"] == "IR-SE-100"], baselines]).head(1)
    shown = [*measured[measured["role"] == "winner"].itertuples(), *against.itertuples()]
    num_bars = max((1 + row.candidate.num_blocks for row in shown), default=1)
    top = max((max(row.candidate.stem, *row.candidate.widths) for row in shown), default=1)
    drawings = "".join(_drawing(row, num_bars=num_bars, top=top, map_hw=summary.map_hw) for row in shown)
    return drawings or "<p class='empty'>No winner and no hand-made network to draw.</p>"


def _drawing(row, *, num_bars, top, map_hw):
    paths, looks, at, look = "", {}, 0, ROLES[row.role]
    stages = zip((row.candidate.stem, *row.candidate.widths), (1, *row.candidate.depths), strict=True)
    for index, (width, depth) in enumerate(stages):
        colour = STAGES[1 + (index - 1) % (len(STAGES) - 1)] if index else STAGES[0]
        px = px_text(map_hw[index])
        text = f"{f'stage {index}' if index else 'stem'}: {depth} × {width} @ {px} px"
        bars = "".join(f"M{bar} {top}v-{width}h.8v{width}z" for bar in range(at, at + depth))
        paths += f"<path d='{bars}' fill='{colour}'><title>{text}</title></path>"
        looks[text] = Look(colour, "■")
        at += depth
    return (
        f"<h3><b style='color:{look.colour}'>{look.glyph}</b> {html.escape(row.name)} "
        f"<i>{row.candidate.num_blocks} blocks, {number(row.macs / 1e9, '.2f')} GMACs</i></h3>"
        f"<div class='drawing'><div><span>{top}</span><span>0</span></div>"
        f"<svg viewBox='0 0 {num_bars} {top}' preserveAspectRatio='none'>{paths}</svg></div>{legend(looks)}"
    )


def _bars(title, counts):
    most, row = max([1, *counts.values()]), "<div>{}</div><div>{:,}</div><div><span style='width:{:.2f}%'></span></div>"
    rows = "".join(row.format(html.escape(name), num, 100 * num / most) for name, num in counts.items())
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


STYLE = f"""
th:nth-child(2) {{ text-align: left; }} tr.winner > * {{ background: #ecfdf5; }}
.bars {{ display: grid; grid-template-columns: fit-content(60%) auto 1fr; gap: 4px 12px; font-size: 13px; }}
.bars > :nth-child(3n+2) {{ text-align: right; }} .bars > * {{ overflow-wrap: anywhere; }}
.bars span {{ display: block; height: 14px; margin-top: 3px; min-width: 1px; background: {LINE}; }}
.drawing {{ display: flex; gap: 8px; height: 110px; font-size: 11px; line-height: 1; color: {FADED}; }}
.drawing div {{ display: flex; flex-direction: column; justify-content: space-between; text-align: right; width: 4ch; }}
.drawing svg {{ flex: 1; min-width: 0; height: 100%; border-bottom: 1px solid {LINE}; }}
"""
