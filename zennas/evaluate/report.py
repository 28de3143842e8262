"""report.html: what networks came to on sets of images, side by side, with the pictures of the hardest pairs."""

import html
import pathlib

from zennas.evaluate import curves, pictures, ranked_lists
from zennas.evaluate.comparison import headlines, known_for, listed, numbers_table, rows_of
from zennas.evaluate.curves import caption, model_looks
from zennas.evaluate.pictures import Thumbnails
from zennas.evaluate.results import Evaluation
from zennas.page import (
    BUDGET,
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
from zennas.progress import duration
from zennas.run_folder import write_atomically

NONE = number(None)
MAX_BANNERS = 8  # notices that stand at the top; all of them stand beside the sets


def write_report(path: pathlib.Path, evaluation: Evaluation, thumbnails: Thumbnails) -> None:
    """Writes the page of an evaluation to `path`, whole or not at all; its folder must exist.

    thumbnails: the pictures of its pairs. Networks that were not evaluated on every set are shown with what there is.
    """
    write_atomically(path, page(evaluation, thumbnails))


def page(evaluation: Evaluation, thumbnails: Thumbnails) -> str:
    """The HTML of an evaluation; arguments as in `write_report`."""
    models, sets = [model.name for model in evaluation.models], [entry.name for entry in evaluation.sets]
    looks = model_looks(models)
    judged = {(result.set, result.model): result for result in evaluation.results}
    by_set = {name: {model: judged[name, model] for model in models if (name, model) in judged} for name in sets}
    rows = rows_of(by_set)
    stand_ins, warnings = _stand_ins(evaluation), _latency_warnings(evaluation)
    oddities = _oddities(evaluation)
    over = {model for model, latency in evaluation.timed.items() if not latency.within_budget}
    classes: dict[str, str] = {}
    hardest = "".join(_of_set(name, pictures.pictures(evaluation.on(name), thumbnails, classes)) for name in sets)
    lists = "".join(_of_set(name, ranked_lists.ranked_lists(evaluation.on(name), thumbnails, classes)) for name in sets)
    of_sets = [(name, f"-{place}", of) for place, (name, of) in enumerate(by_set.items())]
    roc = "".join(_of_set(name, curves.accepts_and_ranks(of, looks, f"curves{end}")) for name, end, of in of_sets)
    alike = "".join(_of_set(name, curves.histograms(of, looks, f"alike{end}")) for name, end, of in of_sets)
    sections = f"""<section><h2>What came out</h2>
{headlines(rows, models, over)}</section>
<section><h2>Every number</h2>
<p>In per cent; the best of a row is marked. Below a number: the cosine above which two images count as the same.</p>
{numbers_table(rows, models, by_set)}</section>
<section><h2>Accuracy against latency</h2>{notices([*stand_ins, *warnings], "note")}
{_latency(rows, evaluation, looks)}</section>
<section><h2>True against false accepts</h2>
<p>TAR is the share of same pairs that are accepted, FAR that of different ones; FNMR is what TAR leaves. Up and to the
left
is better above, down and to the left below. A curve of ranks is the share of queries that found a right answer by
then.</p>
{roc or "<p class='empty'>There are no curves.</p>"}</section>
<section><h2>Similarities</h2>
<p>How alike same and different pairs are; each kind adds up to 100 %. Heights are drawn as square roots, so that the
thin
ends, which decide at low FARs, can be seen.</p>
{alike or "<p class='empty'>There are no histograms.</p>"}</section>
<section><h2>The hardest pairs</h2>
<p>Where a network was most wrong, or nearly: look here first for labels that are wrong. The number is the cosine; at
most
{pictures.NUM_SHOWN} pairs of each kind.</p>
{hardest or "<p class='empty'>No pairs were kept.</p>"}</section>
{_lists(lists, evaluation)}<section><h2>How it was measured</h2>
{_models(evaluation)}{_sets(evaluation, oddities)}</section>
{MEANING}"""
    timings = [(latency.machine, latency.protocol.model_dump(mode="json")) for latency in evaluation.timed.values()]
    again = f"""<p>What it takes to measure again. The same command on the same files, machine and versions gives the
same numbers, but for latencies.</p>{definitions(origin(evaluation.made_by, timings))}"""
    more = f"{len(oddities) - MAX_BANNERS:,} more notices on the data stand under “How it was measured”."
    shown = [*oddities[:MAX_BANNERS], more if len(oddities) > MAX_BANNERS else None]
    text = document(
        sections,
        again,
        kind="evaluate",
        title=_title(models),
        subtitle=f"on {listed(sets, 6) or 'no set'}",
        banner=notices([*stand_ins, *warnings, *shown], "banner"),
        facts=_facts(evaluation),
        style=STYLE + curves.STYLE + pictures.style(classes) + ranked_lists.STYLE,
        has_pictures=True,
    )
    return text


def _lists(lists, evaluation):
    """The section of ranked lists, where a network has some; without --pictures it shows nobody."""
    if not any(result.lists for result in evaluation.results):
        return ""
    told = lists or (
        "<p class='empty'>They show people, and so only where they are asked for: --pictures. results.json names the "
        "images.</p>"
    )
    return f"""<section><h2>The hardest queries</h2>
<p>The queries of least average precision, and what the gallery gave first, the images that are passed over left out.
Underlined: right answers; dashed: wrong ones.</p>
{told}</section>
"""


def _of_set(name, content):
    return f"<h3>{html.escape(name)}</h3>{content}" if content else ""


def _title(models):
    return listed(models, 3) or "No network"


# --- the top of the page


def _stand_ins(evaluation):
    budget = [evaluation.budget.stand_in] if evaluation.budget is not None else []
    latencies = evaluation.timed.values()
    return list(dict.fromkeys(filter(None, [*budget, *(latency.stand_in for latency in latencies)])))


def _latency_warnings(evaluation):
    warnings = []
    for model, latency in evaluation.timed.items():
        if not latency.within_budget:
            measured, budget = number(latency.measured_ms, ".2f"), number(latency.budget_ms, ".2f")
            warnings.append(f"{model} takes {measured} ms, over the budget of {budget} ms")
        if latency.warning:
            warnings.append(f"The latency of {model} is not to be trusted: {latency.warning}")
    return warnings


def _oddities(evaluation):
    """What is wrong with the data, each once: by set, and by network where it is not the same for all."""
    told = {}
    for result in evaluation.results:
        texts = result.notices
        if result.num_unusable and not texts:
            texts = [f"{result.num_unusable:,} image(s) cannot be used"]
        for text in texts:
            told.setdefault((result.set, text), []).append(result.model)
    fed = [model.notice for model in evaluation.models if model.notice]
    failed = [
        f"{failure.model} on {failure.set} could not be evaluated: {failure.error}" for failure in evaluation.failures
    ]
    by_set = [
        f"{name}: {text}" if len(models) == len(evaluation.on(name)) else f"{name}, {listed(models, 3)}: {text}"
        for (name, text), models in told.items()
    ]
    return fed + failed + by_set


def _facts(evaluation):
    budget = evaluation.budget
    seconds = sum(result.seconds for result in evaluation.results)
    missing = len(evaluation.models) * len(evaluation.sets) - len(evaluation.results)
    facts = [("Networks", listed([model.name for model in evaluation.models], 10))]
    facts += [("Sets", ", ".join(f"{entry.name} ({entry.num_images:,} images)" for entry in evaluation.sets))]
    facts += [("Track", evaluation.track or "none: latency was not measured")]
    facts += [("Budget", f"{number(budget.budget_ms, '.2f')} ms: {budget.origin}")] if budget else []
    facts += [("Missing", f"{missing} network(s) on a set: not evaluated, or interrupted")] if missing > 0 else []
    return [*facts, ("Time", duration(seconds))]


# --- latency


def _latency(rows, evaluation, looks):
    timed = evaluation.timed
    if not timed:
        return (
            "<p class='empty'>Latency was not measured: --track TRACK measures it, and holds it to the track's "
            "budget.</p>"
        )
    named = dict.fromkeys(row.set for row in rows)
    chosen = [row for name in named for row in known_for([row for row in rows if row.set == name])]
    chosen = [row for row in chosen if set(row.values) & set(timed)]
    untimed = [model.name for model in evaluation.models if model.latency is None]
    note = f"<p class='empty'>Not timed: {html.escape(listed(untimed, 10))}.</p>" if untimed else ""
    picture = _scatter(chosen, timed, looks, evaluation.budget) if chosen else ""
    return picture + _latency_table(timed, looks) + note


def _scatter(rows, timed, looks, budget):
    figure = panels([1 / len(rows)] * len(rows))
    for place, row in enumerate(rows, start=1):
        shown = [model for model in row.values if model in timed]
        for model in shown:
            look, std = looks[model], row.metrics[model].std
            figure.add_scatter(
                x=[timed[model].measured_ms],
                y=[100 * row.values[model]],
                mode="markers",
                row=place,
                col=1,
                error_y={"array": [100 * std], "thickness": 1, "width": 4} if std else None,
                marker={
                    "color": look.colour,
                    "symbol": look.symbol,
                    "size": 12,
                    "line": {"color": "white", "width": 1},
                },
                hovertemplate=f"{html.escape(model)}<br>%{{y:.2f}} % at %{{x:.2f}} ms<extra></extra>",
            )
        ends = [
            100 * (row.values[model] + sign * (row.metrics[model].std or 0.0)) for model in shown for sign in (-1, 1)
        ]
        low_high = span(*ends, pad=0.15)
        # Up is better in every panel.
        figure.update_yaxes(range=low_high[::-1] if row.lower else low_high, row=place)
        text = " ".join(filter(None, (row.set, row.subset, row.name))) + ", %" + (" (upside down)" if row.lower else "")
        caption(figure, text, place)
    budget_ms = (budget or next(iter(timed.values()))).budget_ms
    figure.add_vline(x=budget_ms, row="all", col=1, line={"color": BUDGET.colour, "width": 2})
    seen_ms = [*(latency.measured_ms for latency in timed.values()), budget_ms]
    figure.update_xaxes(range=[0, 1.06 * max(seen_ms)])
    figure.update_xaxes(title="Latency, ms", row=len(rows))
    marks = {html.escape(model): look for model, look in looks.items() if model in timed}
    marks |= {f"budget, {number(budget_ms, '.2f')} ms": BUDGET}
    return legend(marks) + drawn(figure, "latency", height_px=110 + 190 * len(rows))


def _latency_table(timed, looks):
    shown = ""
    for model, latency in timed.items():
        measured_ms, budget_ms = latency.measured_ms, latency.budget_ms
        share = number(100 * measured_ms / budget_ms if budget_ms else None)
        shown += (
            f"<tr><th><b style='color:{looks[model].colour}'>{looks[model].glyph}</b> {html.escape(model)}</th>"
            f"<td>{number(measured_ms, '.2f')}</td><td{'' if latency.within_budget else ' class=over'}>{share} %</td>"
            f"<td>{number(latency.median_ms, '.2f')}</td><td>{number(latency.spread_pct)} %</td></tr>"
        )
    return table(("Network", "Counted, ms", "of budget", "Median of the runs, ms", "Quartiles apart"), shown)


# --- how it was measured


def _models(evaluation):
    rows = ""
    for model in evaluation.models:
        size = "{} × {}".format(*model.input) if model.input else NONE
        rows += (
            f"<tr><th>{html.escape(model.name)}</th><td class='text'>{html.escape(model.file)}</td>"
            f"<td>{html.escape(model.kind)}</td><td>{number(model.embedding_size, 'd')}</td><td>{size}</td>"
            f"<td class='text'>{html.escape(model.normalisation or NONE)}</td>"
            f"<td>{number(model.megabytes)}</td></tr>"
        )
    shown = table(("Network", "File", "Kind", "Embedding", "Input, px", "Pixels become", "MB"), rows)
    return f"<div class='models'>{shown}</div>"


def _by_model(told):
    """What is said of each network, or once where it is the same of all."""
    return next(iter(told.values())) if len(set(told.values())) == 1 else ", ".join(map(" ".join, told.items()))


def _sets(evaluation, oddities):
    shown = ""
    for entry in evaluation.sets:
        told = {result.model: result for result in evaluation.on(entry.name)}
        mirrored = "Embeddings of an image and its mirror image are added." if entry.flip else "No mirror images."
        unusable = {model: f"{result.num_unusable:,}" for model, result in told.items()}
        seconds = {model: duration(result.seconds) for model, result in told.items()}
        facts = [("Given as", entry.given), ("Images", f"{entry.num_images:,}")]
        facts += (
            [("Not usable", _by_model(unusable)), ("Time", _by_model(seconds))]
            if told
            else [("Evaluated", "not at all")]
        )
        shown += f"<h3>{html.escape(entry.name)}</h3><p>{html.escape(entry.how)} {mirrored}</p>{definitions(facts)}"
    noted = "".join(f"<li>{html.escape(text)}</li>" for text in oddities)
    return shown + (f"<h3>What was wrong with the data</h3><ul class='small'>{noted}</ul>" if noted else "")


MEANING = """<section><h2>What the numbers mean, and what they do not</h2>
<p>Six things to know before concluding anything from this page.</p><ul>
<li><b>A TAR rests on the few pairs at its threshold.</b> At a FAR of 10<sup>-6</sup> it takes ten million different
pairs for
ten of them to set it; with fewer it moves with each wrong label. The table says where that is so.</li>
<li><b>The deviation is over the folds</b> of one set, with one training of each network. It knows nothing of another
seed,
and a difference smaller than it has not been shown.</li>
<li><b>A public set may overlap with the training data.</b> Nothing here looks for people, or animals, that are in
both.</li>
<li><b>Labels are sometimes wrong.</b> Where nearly all pairs are told right, the rest is to a good part mislabelled:
look
at the hardest pairs first. Two networks at the top of such a set differ in luck.</li>
<li><b>Images come as they are cropped.</b> Another detector or alignment than in training costs more than most
differences
between networks; so does a wrong normalisation of the pixels.</li>
<li><b>The sets are not the challenge.</b> It has images of its own. A latency is this machine's; where a budget was set
for
another one, a reference network carries it here, and others may gain or lose on the way.</li></ul></section>"""

STYLE = """
.headlines { padding-left: 18px; margin: 8px 0; } .headlines li { margin: 6px 0; }
h1, h3, p, li, summary, .legend span { overflow-wrap: anywhere; } ul.small { font-size: 13px; }
tr.heading th { white-space: normal; }
tr.heading th, tr.heading td { background: #f1f5f9; font-weight: 600; } td.best
{ background: #ecfdf5; font-weight: 700; }
td.best i { font-weight: 400; } em { display: block; font-style: normal; color: #b45309; }
.models th:nth-child(2), .models th:nth-child(6) { text-align: left; }
tbody th { font-weight: 400; } td { vertical-align: top; } thead th { vertical-align: bottom; }
"""
