"""report.html: what a search found, as one page that needs no network, drawn from the run's records alone."""

import dataclasses
import html
import math
import pathlib
import urllib.parse

import pandas as pd

from zennas.latency.protocol import ms_text
from zennas.page import (
    FADED,
    LINE,
    definitions,
    document,
    notices,
    number,
    origin,
    table,
)
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically
from zennas.score.branches import WHY_ONCE
from zennas.score.learned import LEARNED
from zennas.score.scores import WORTH
from zennas.search.figures import ROLES, bars, course, drawings, pareto, prediction
from zennas.search.measured import Measured
from zennas.space.shape import Shape


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
    shape: Shape  # what goes into the networks, and what comes out
    score_label: str = "Zen-Score"
    score_name: str = "zen"  # its row of SCORES
    # A measured network's key -> other score's name -> its value, None where it failed.
    evidence: dict[str, dict[str, float | None]] = dataclasses.field(default_factory=dict)
    rank_by: str | None = None  # the one of them that ranked winners that score alike
    optimum: dict | None = None  # as run.json has it, where one was proven
    optima: list[dict] = dataclasses.field(default_factory=list)  # of the bands, as run.json has them


SCORE_MEANING = """<li><b>A Zen-Score is not an accuracy.</b> It measures how strongly the untrained network's features
answer to its input. Among networks of equal size it says little about which will be better once trained; only training
does.</li>
<li><b>It compares within one space and one setting.</b> Another block, image size, batch or number of repeats shifts
it, and a difference smaller than its standard deviation is none.</li>
<li><b>It favours depth.</b> It always asks for more and thinner blocks, and does not know that a network too deep for
its width will not train. The limits of the space stand for that: where a winner touches them, they chose it.</li>"""
LEARNED_MEANING = """<li><b>What is learned is expected, not measured.</b> A line through a few short trainings says
what each gene is worth; behind ± stands how sure the line is. Only training the winners says how good they are.</li>
<li><b>It holds for one set of data, one recipe and one latency.</b> Another length of training can turn it.</li>
<li><b>It holds among what was trained.</b> The search stays in there; the best lies at the edge, as that of every
line does.</li>"""


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
<p>Networks that were measured whole, against the budget of {ms_text(summary.budget_ms)}. Behind ± stand the standard
deviation of a score over its repeats, and the distance between the quartiles of a latency's runs. "Below optimum" is
the distance to the best candidate that {"the network's band" if summary.optima else "the space"} holds within the
budget, proven under the closed form of the score and the latency table.</p>{_bands(summary)}
{_table(measured, summary.score_label)}</section>
{_ways(measured)}{_evidence(summary, measured)}
<section><h2>Score against latency</h2>{note}
<p>Up is a higher score, left is faster. Scored candidates stand at their predicted latency, the networks of the table
at their measured one; the line joins the candidates that no other beats in both.</p>
{pareto(summary, scored, measured)}</section>
<section><h2>How the search went</h2>
<p>Above: every scored candidate at the time it was scored, and the best so far of those predicted to be within the
budget. Below: candidates per second. A line that still climbs at the end asks for a longer run.</p>
{course(summary, scored)}
{bars("What became of the candidates that were looked at", summary.counters)}
{bars("Why candidates failed", scored["reason"].value_counts().to_dict())}</section>
<section><h2>Predicted against measured latency</h2>{note}
<p>Each network's latency as summed from the latency table, against the same network measured whole. The mark is the run
that the track's rule counts, the bar the middle half of all runs. Below: how far the prediction is off; above zero, the
network is faster than predicted. {_error_sentence(**summary.prediction_error)}</p>
{prediction(measured)}</section>
<section><h2>The winners, stage by stage</h2>
<p>Every bar is a block, from the image on the left to the output on the right, and as high as it has channels; all
networks are drawn to the same scale. Below each: blocks × channels @ side of the map they give.</p>
{drawings(summary, measured)}</section>
<section><h2>What the numbers mean, and what they do not</h2>
<p>Five things to know before concluding anything from this page.</p><ul>
{LEARNED_MEANING if summary.score_name == LEARNED else SCORE_MEANING}
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


MIRRORED = {"ms": "measured_ms", "times": "times"}  # column behind mirrored_ -> field of a MirroredLatency


def _measured(summary):
    """The measured networks as flat rows, winners first; NaN where a number is missing."""
    entries = sorted(summary.entries, key=lambda entry: list(ROLES).index(entry.role))
    numbers = ["score_mean", "score_std", "params", "macs", "num_blocks", "megabytes", "gap", "gap_pct"]
    timings = ["measured_ms", "predicted_ms", "budget_ms", "spread_pct"]
    texts, notes = (
        ["role", "name", "key", "onnx", "verdict", "band"],
        ["within_budget", "warning", "stand_in", "machine"],
    )
    rows = []
    for entry in entries:
        row = {name: getattr(entry, name) for name in (*texts, *numbers)}
        row |= {name: getattr(entry.latency, name) for name in (*notes, *timings)} | {"ways": entry.ways}
        row |= {f"mirrored_{name}": entry.mirrored and getattr(entry.mirrored, old) for name, old in MIRRORED.items()}
        row |= {"raw_ms": entry.latency.raw_ms, "protocol": entry.latency.protocol.model_dump(exclude_unset=True)}
        row["hover"] = f"<b>{html.escape(entry.name)}</b><br>{html.escape(entry.candidate.text)}"
        rows.append(row | {"candidate": entry.candidate})
    numbers += [*timings, *(f"mirrored_{name}" for name in MIRRORED)]
    columns = [*texts, *notes, "candidate", "ways", "hover", "raw_ms", "protocol", *numbers]
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    frame[numbers] = frame[numbers].astype(float)
    return frame.rename(columns={"score_mean": "score"})


def _table(measured, label):
    has_winner = (measured["role"] == "winner").any()
    lead = "" if has_winner else "<p class='empty'>No winner: no new network was measured within the budget.</p>"
    if measured.empty:
        return lead
    has_bands = bool(measured["band"].notna().any())
    names = ("Network", "Candidate", *["Band"] * has_bands, label, "below optimum", "Latency, ms", "of budget")
    has_mirror = bool(measured["mirrored_ms"].notna().any())
    names += (*["with mirror image, ms"] * has_mirror, "GMACs", "Params, M", "Blocks", "MB")
    rows = ""
    for row in measured.itertuples():
        look, share_pct = ROLES[row.role], 100 * row.measured_ms / row.budget_ms
        name = html.escape(row.role if row.name == row.key else row.name)  # the key stands below the candidate
        name = f"<a href='{urllib.parse.quote(row.onnx)}'>{name}</a>" if row.onnx else name
        notes = "".join(f"<small>{html.escape(note)}</small>" for note in (row.verdict, row.warning) if note)
        rows += (
            f"<tr class='{row.role}'><th><b style='color:{look.colour}'>{look.glyph}</b> {name}{notes}</th>"
            f"<td class='text'>{html.escape(row.candidate.text)}<small>{html.escape(row.key)}</small></td>"
            f"{f'<td>{html.escape(row.band)}</td>' if row.band else '<td>–</td>' * has_bands}"
            f"<td>{number(row.score, '.2f')} <i>± {number(row.score_std, '.2f')}</i></td>"
            f"<td>{_distance(row)}</td>"
            f"<td>{number(row.measured_ms, '.2f')} <i>± {number(row.spread_pct)} %</i></td>"
            f"<td{'' if row.within_budget else ' class=over'}>{number(share_pct)} %</td>"
            f"{f'<td>{_mirrored(row)}</td>' * has_mirror}"
            f"<td>{number(row.macs / 1e9, '.3f')}</td><td>{number(row.params / 1e6, '.2f')}</td>"
            f"<td>{number(row.num_blocks, '.0f')}</td><td>{number(row.megabytes)}</td></tr>"
        )
    return lead + table(names, rows)


def _mirrored(row):
    """What an embedding of an image and its mirror image costs, in milliseconds and times one image."""
    if math.isnan(row.mirrored_ms):
        return number(None)
    return f"{number(row.mirrored_ms, '.2f')} <i>× {number(row.mirrored_times, '.2f')}</i>"


def _ways(measured):
    """The table of what each way through networks with branches scores, and both readings of it."""
    rows = measured[measured["ways"].notna() & measured["role"].isin(["winner", "baseline"])]
    if rows.empty:
        return ""
    names = list(dict.fromkeys(name for ways in rows["ways"] for name in ways.cells))
    body = "".join(
        f"<tr class='{row.role}'><th><b style='color:{ROLES[row.role].colour}'>{ROLES[row.role].glyph}</b> "
        f"{html.escape(row.name)}</th><td></td>"
        + "".join(f"<td>{row.ways.cells.get(name, '–')}</td>" for name in names)
        + "</tr>"
        for row in rows.itertuples()
    )
    return f"""<section><h2>What each way through a network scores</h2>
<p>Networks with branches have several ways from the image to a last map, and a trunk that all ways share. Every block
once: the trunk's score, and what each branch adds to it. {WHY_ONCE} Neither reading says which network will be the
better one once trained.</p>
{table(("Network", "", *names), body)}</section>"""


def _bands(summary):
    """What the bands are, and why there are some."""
    if not summary.optima:
        return ""
    named = "; ".join(html.escape(each["text"]) for each in summary.optima)
    return f"""
<p>Each winner is the best of its band: {named}. Zen-Score asks for depth, so that without bands all winners would be
one deep network. No score tells which of these will be better once trained: train more than one of them.</p>"""


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
    kinds |= {"unseen": "worth, unseen table", "unseen_equal_macs": "worth, unseen table, at equal MACs"}
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
<p>Other scores that need neither labels nor training, of the networks as they are built. The last five rows say what a
score is worth: Kendall's tau with the trained accuracy of architectures of NAS-Bench-201 (CIFAR-10), among all and
among those of about the same latency; of small IR-SE networks of the same latency that were trained on faces for eight
epochs; and of TransNAS-Bench macro, run by another hand on a table that we had not seen, among all and at equal
multiply-accumulates. 1 is the same order, 0 is chance, below 0 the opposite. A column can only rank networks of about
equal cost, and none has done so on all three tables. {ranked}</p>
{table(("Network", "", summary.score_label, *names), body)}</section>"""


def _value(value, form):
    """A number, or the mark of a missing one."""
    return number(math.nan if value is None else value, form)


def _error_sentence(*, num=0, mean_abs_pct=math.nan, max_abs_pct=math.nan):
    if not num:
        return ""
    mean, most = number(mean_abs_pct, ".2f"), number(max_abs_pct, ".2f")
    return f"Over {num} whole networks it is off by {mean} % on average and {most} % at most."


STYLE = f"""
th:nth-child(2) {{ text-align: left; }} tr.winner > * {{ background: #ecfdf5; }}
.bars {{ display: grid; grid-template-columns: fit-content(60%) auto 1fr; gap: 4px 12px; font-size: 13px; }}
.bars > :nth-child(3n+2) {{ text-align: right; }} .bars > * {{ overflow-wrap: anywhere; }}
.bars span {{ display: block; height: 14px; margin-top: 3px; min-width: 1px; background: {LINE}; }}
.drawing {{ display: flex; gap: 8px; height: 110px; font-size: 11px; line-height: 1; color: {FADED}; }}
.drawing div {{ display: flex; flex-direction: column; justify-content: space-between; text-align: right; width: 4ch; }}
.drawing svg {{ flex: 1; min-width: 0; height: 100%; border-bottom: 1px solid {LINE}; }}
"""
