"""report.html of a learning run: what a doubling of each width and depth is worth, and what can be believed of it."""

import html
import pathlib
from typing import TYPE_CHECKING

import plotly.graph_objects as go

from zennas.learn.choosing import BY_INTERVAL, BY_PRIOR, FILLS
from zennas.page import (
    INK,
    LINE,
    Look,
    definitions,
    document,
    drawn,
    legend,
    notices,
    number,
    origin,
    span,
    table,
)
from zennas.run_folder import write_atomically
from zennas.space.learned import REGION

if TYPE_CHECKING:
    from zennas.learn.outcome import Learned

WIDTH, DEPTH, UNSURE = Look("#0f766e", "●"), Look("#7c3aed", "◆", "diamond"), Look("#94a3b8", "○", "circle-open")
CHOSEN = {
    FILLS: Look("#0f766e", "●", "circle", 9),
    BY_PRIOR: Look("#b45309", "◆", "diamond", 9),
    BY_INTERVAL: Look("#be123c", "▲", "triangle-up", 9),
}


def write_report(path: pathlib.Path, learned: "Learned") -> None:
    """Write the page of a Learned, whole or not at all."""
    write_atomically(path, page(learned))


def page(learned: "Learned") -> str:
    """The HTML of a Learned."""
    failed = [f"{row.text} failed: {row.error}" for row in learned.rows if row.error]
    measure = html.escape(learned.measure)
    nothing = [learned.verdict] if learned.tells_nothing else []
    sections = f"""<section><h2>What can be believed</h2>
<p>{html.escape(learned.verdict)}</p>{_noise(learned)}</section>
<section><h2>What a doubling is worth</h2>
<p>Points of {measure} that the line gives to twice the channels, or twice the blocks, of one gene, all others held.
Bars are intervals of 95 %; one that crosses zero may be worth nothing, or the other sign. The networks have one
latency, so what one gene gains costs another: a network is better where it spends its time on what lies to the
right.</p>
{legend({"width": WIDTH, "depth": DEPTH, "its sign is not known": UNSURE})}{_doublings(learned)}</section>
<section><h2>Predicted against measured</h2>
<p>Each trained candidate, predicted by the line through all the others (leave-one-out), against what was measured. On
the dashes both are equal. A line joins two seeds of one candidate.</p>
{legend({name: look for name, look in CHOSEN.items() if any(row.chosen == name for row in learned.trained)})}
{_against(learned)}</section>
<section><h2>The learned winner, and what else there is at this latency</h2>
<p>What the line expects of each. One that stands outside what was trained is not believed: its figure is a guess.</p>
{_rivals(learned)}</section>
<section><h2>All that was trained</h2>{notices(failed, "note")}{_trained(learned)}</section>
<section><h2>What the numbers mean, and what they do not</h2><ul>
<li><b>A short training is not a long one.</b> What is ahead after {learned.epochs} epochs may have learned faster, and
not more. Train the finalists by the full recipe.</li>
<li><b>It holds for these data, this recipe, this latency and this space.</b> Another of them wants another run.</li>
<li><b>It holds among what was trained:</b> {html.escape(REGION)}. A line in logs is highest at a corner of the space,
and there nothing was measured.</li>
<li><b>The best of the trained was lucky, too.</b> Its measure is the largest of {len(learned.trained)}.</li></ul>
</section>"""
    again = f"<p>What it takes to run it again.</p>{definitions(origin(learned.made_by, []))}"
    return document(
        sections,
        again,
        kind="learn",
        title=learned.experiment,
        subtitle="What each width and depth is worth, learned from a few trainings",
        banner=notices([*nothing, *failed[:1]], "banner"),
        facts=_facts(learned),
        has_pictures=False,
    )


def _facts(learned):
    score, latencies = learned.score, [row.measured_ms for row in learned.trained]
    facts = [
        ("Trained", f"{len(learned.trained)} candidates, {learned.epochs} epochs each"),
        (
            "Latency",
            f"{min(latencies):.4g} to {max(latencies):.4g} ms, measured whole; budget {learned.budget_ms:.4g} ms",
        ),
        ("Measure", f"{learned.measure}, on what no candidate was trained on"),
        ("Order", f"tau {score.tau_text}, each predicted from the others"),
    ]
    return [*facts, *((name.replace("_", "-"), _counted(group)) for name, group in learned.described.items() if group)]


def _counted(group):
    """A group of the task's in words: what it counts of it, as `num_images`, or the sentences themselves.

    >>> _counted({"num_images": 1200, "same_pairs": 30})
    '1,200 images, 30 same pairs'
    """
    if not isinstance(group, dict):
        return "; ".join(group)
    return ", ".join(f"{count:,} {name.removeprefix('num_').replace('_', ' ')}" for name, count in group.items())


def _unit(learned):
    return f" {learned.unit}" if learned.unit else ""


def _noise(learned):
    if learned.noise is None:
        return "<p class='empty'>No candidate was trained twice, so how much of the spread is chance is not known.</p>"
    noise = learned.noise
    return (
        f"<p>Between seeds of one candidate {noise.between_seeds_std:.2f}, between candidates "
        f"{noise.between_candidates_std:.2f} points (standard deviations). {100 * noise.reliability:.0f} % of what "
        f"differs between single trainings is the candidates' own ({100 * noise.low:.0f} to {100 * noise.high:.0f} %)."
        "</p>"
    )


def _doublings(learned):
    worth = learned.score.doubling
    figure = go.Figure()
    for name, (mean, low, high) in reversed(worth.items()):
        look = DEPTH if name.endswith("depth") else WIDTH
        look = look if low > 0 or high < 0 else UNSURE
        figure.add_scatter(
            x=[mean],
            y=[named(name)],
            mode="markers",
            marker={"color": look.colour, "size": 11, "symbol": look.symbol},
            error_x={"type": "data", "array": [high - mean], "arrayminus": [mean - low], "color": look.colour},
            hovertemplate=f"{named(name)}: %{{x:+.3f}} ({low:+.3f} to {high:+.3f})<extra></extra>",
        )
    figure.add_vline(x=0, line={"color": LINE, "width": 1})
    figure.update_xaxes(title=f"points of {learned.measure} for a doubling")
    figure.update_layout(showlegend=False, margin={"l": 130})
    return drawn(figure, "doublings", height_px=110 + 42 * len(worth))


def named(gene: str) -> str:
    """A gene in words.

    >>> named("stage2_depth"), named("stem_width")
    ('blocks of stage 2', 'width of the stem')
    """
    place, _, what = gene.partition("_")
    what = "blocks" if what == "depth" else "width"
    return f"{what} of the stem" if place == "stem" else f"{what} of stage {place.removeprefix('stage')}"


def _against(learned):
    rows = [row for row in learned.trained if row.left_out is not None]
    if not rows:
        return "<p class='empty'>Too few were trained for each to be predicted from the others.</p>"
    figure = go.Figure()
    for name, look in CHOSEN.items():
        for row in (row for row in rows if row.chosen == name):
            values = list(row.rewards.values())
            figure.add_scatter(
                x=[row.left_out] * len(values),
                y=values,
                mode="markers+lines",
                marker={"color": look.colour, "symbol": look.symbol, "size": look.size_px},
                line={"color": look.colour, "width": 1},
                hovertemplate=f"{row.text}<br>predicted %{{x:.2f}}, measured %{{y:.2f}}<extra></extra>",
            )
    both = [*(row.left_out for row in rows), *(value for row in rows for value in row.rewards.values())]
    low, high = span(*both)
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line={"color": INK, "dash": "dash", "width": 1})
    figure.update_xaxes(title=f"{learned.measure} predicted from the others{_unit(learned)}", range=[low, high])
    figure.update_yaxes(title=f"{learned.measure} measured{_unit(learned)}", range=[low, high])
    figure.update_layout(showlegend=False)
    return drawn(figure, "against", height_px=520)


def _rivals(learned):
    body = ""
    for rival in learned.rivals:
        cells = [
            _text(rival.candidate.text),
            number(rival.predicted_ms, ".4g"),
            f"{number(rival.expected, '.2f')} ± {number(rival.expected_std, '.2f')}",
            "yes" if rival.within else "no: not believed",
        ]
        body += _row(f"{rival.name}<small>{rival.how}</small>", cells)
    names = ("Network", "Candidate", "ms, predicted", f"{learned.measure} expected", "Among the trained")
    without = notices([f"{name}: none; {why}." for name, why in learned.missing.items()], "note")
    return table(names, body) + without


def _trained(learned):
    body = ""
    for row in learned.trained:
        seeds = ", ".join(f"{value:.2f}" for value in row.rewards.values()) if len(row.rewards) > 1 else ""
        cells = [
            _text(row.text),
            number(row.measured_ms, ".4g"),
            seeds,
            number(row.expected, ".2f"),
            number(row.left_out, ".2f"),
            number(row.zen, ".1f"),
            _text(row.chosen),
        ]
        body += _row(f"{row.reward:.2f}", cells)
    names = (
        learned.measure,
        "Candidate",
        "ms",
        "Two seeds",
        "Expected",
        "Predicted from the others",
        "Zen-Score",
        "Chosen",
    )
    return table(names, body)


def _row(first, cells):
    """A row of a table; a cell that is HTML of its own stays as it is."""
    return (
        f"<tr><th>{first}</th>{''.join(cell if cell.startswith('<td') else f'<td>{cell}</td>' for cell in cells)}</tr>"
    )


def _text(text):
    return f"<td class='text'>{html.escape(text)}</td>"
