"""report.html: what a training came to, as one page that needs no network, drawn from result.json and metrics.jsonl
alone.
"""

import html
import math
import urllib.parse

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import yaml

from zennas.page import (
    BUDGET,
    FADED,
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
)
from zennas.progress import duration
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.space.shape import height_and_width
from zennas.tasks.task import Page

POINT, MEAN = Look(LINE, "●", opacity=0.55, size_px=4), Look("#1e293b", "━")
TRAINED, UNTRAINED, RUN = Look("#0f766e", "■"), Look(LINE, "■"), Look("#1e293b", "•")
NUM_MEANS = 40  # windows that a curve is averaged over; a narrower one only repeats the noise
MAX_SKIPPED = 10  # skipped steps that are told one by one

CURVES = {  # of the entries of kind "train", from above: what stands at the axis, and the format of a value
    "loss": ("Loss", ".4f"),
    "gradient": ("Gradient norm", ".3f"),
    "lr": ("Learning rate", ".3g"),
    "images_per_s": ("Images/s", ".0f"),
}
SMOOTHED, FROM_ZERO = ("loss", "gradient", "images_per_s"), ("lr", "images_per_s")


def write_report(path, result: dict, metrics: list[dict], shown: Page) -> None:
    """Writes the page of a training to `path`, whole or not at all; its folder must exist.

    result: what result.json holds. metrics: the entries of metrics.jsonl, in order. shown: what its task has to show.
    """
    write_atomically(path, page(result, metrics, shown))


def page(result: dict, metrics: list[dict], shown: Page) -> str:
    """The HTML of a training; arguments as in `write_report`."""
    plan, latency, checker = result["plan"], result["latency"], result["export"]["checker"]
    candidate = Candidate.parse(result["candidate"], "result.json: candidate")
    warning = latency["warning"] and f"Its latency is not to be trusted: {latency['warning']}"
    over = None if latency["within_budget"] else f"The trained network takes {_verdict(latency)}"
    refused = [f"The challenge's checker would refuse the file: {problem}" for problem in checker]
    entries = _train_entries(metrics)
    sections = f"""<section>{shown.accuracy(result, metrics)}</section>
<section><h2>How the training went</h2>
{_skipped(metrics)}{_curves(entries, plan, metrics)}
{_running(entries, shown.running)}</section>
<section><h2>Latency of the trained network</h2>{notices([over, latency["stand_in"], warning], "note")}
{_latency(latency)}</section>
<section><h2>The exported file</h2>{notices(refused, "note")}
{_export(result)}</section>
<section><h2>The plan as given</h2>
<p>All of it, with the defaults of what was not said, as the <code>train:</code> part of an experiment takes it.</p>
<pre>{html.escape(_as_yaml(plan))}</pre></section>
{_meaning(shown)}"""
    record = Provenance.parse(result["made_by"], "result.json: made_by")
    again = f"""<p>What it takes to train it again. The same command, seed, data, machine and versions give
the same weights on a processor; on a GPU sums are taken in no fixed order, and the last digits differ.</p>
{definitions(origin(record, [(latency["machine"], latency["protocol"])]))}"""
    return document(
        sections,
        again,
        kind="train",
        title=result["experiment"],
        subtitle=f"{candidate.text} for {result['track']}",
        banner=notices([over, latency["stand_in"], warning, *refused], "banner"),
        facts=_facts(result, candidate, shown),
        style=STYLE,
    )


# --- the facts at the top


def _facts(result, candidate, shown):
    plan, training, latency = result["plan"], result["training"], result["latency"]
    rate, gone = training["images_per_s"], training.get("gone", 0)
    return [
        ("Accuracy", shown.summary(result) or "not measured"),
        ("Latency", _verdict(latency)),
        ("Winner", f"{candidate.text}: {result['params'] / 1e6:.2f} M parameters, {result['macs'] / 1e9:.2f} GMACs"),
        ("Track", result["track"]),
        *([("From", f"the weights of {result['from']}: 'untrained' is said of them")] if "from" in result else []),
        *shown.facts(result),
        ("Work", f"{training['steps']:,} steps of {plan['batch']:,} images, {training['epochs']:g} epochs"),
        ("Time", f"{duration(training['seconds'])}, {number(rate, ',.1f')} images/s"),
        ("Device", f"{training['device']}, {training['num_ranks']} rank(s)"),
        ("Skipped", f"{training['skipped_steps']:,} step(s) without a finite loss and gradient"),
        ("Corrupt", f"{training['corrupt_images']:,} image(s) that could not be read"),
        *([("Left", f"{gone:,} without one that can be read: others stood in")] if gone else []),
        *(("Note", notice) for notice in training.get("data_notices", ())),
    ]


def _verdict(latency):
    word = "within" if latency["within_budget"] else "over"
    return f"{number(latency['measured_ms'], '.2f')} ms, {word} the budget of {number(latency['budget_ms'], '.2f')} ms"


# --- the training


def _train_entries(metrics):
    """The entries of kind "train" as rows, numbers that are missing or not finite as NaN."""
    rows = [
        {name: value for name, value in entry.items() if name != "kind"}
        for entry in metrics
        if entry["kind"] == "train"
    ]
    frame = pd.DataFrame(rows).astype(float).replace([math.inf, -math.inf], math.nan)
    return frame.reindex(columns=list(dict.fromkeys(["step", "epoch", *CURVES, *frame.columns])))


def _skipped(metrics):
    skipped = [entry for entry in metrics if entry["kind"] == "skipped"]
    if not skipped:
        return ""
    more = f"<li>and {len(skipped) - MAX_SKIPPED:,} more</li>" if len(skipped) > MAX_SKIPPED else ""
    items = "".join(f"<li>{html.escape(str(entry.get('why', 'no reason')))}</li>" for entry in skipped[:MAX_SKIPPED])
    return (
        f"<p>Steps whose loss or gradient was not finite; they moved no weight:</p><ul class='small'>{items}{more}</ul>"
    )


def _curves(entries, plan, metrics):
    if entries.empty:
        return "<p class='empty'>No step was written down.</p>"
    labels = {name: label for name, (label, _) in CURVES.items()}
    figure, window = _panelled(entries, labels, {name: form for name, (_, form) in CURVES.items()})
    looks = {"as written down, each the mean of its steps": POINT if window > 1 else MEAN}
    looks |= {f"mean over {window} of them": MEAN} if window > 1 else {}
    row = list(CURVES).index("gradient") + 1
    largest = entries["gradient"].max()
    if (clip := plan["optimizer"]["clip_norm"]) and largest > 0.5 * clip:
        figure.add_hline(y=clip, row=row, col=1, line={"color": BUDGET.colour, "width": 1, "dash": "dot"})
        looks["clipped above"] = Look(BUDGET.colour, "┅")
    if largest > 30 * entries["gradient"].median() > 0:  # a single spike would flatten all the rest
        figure.update_yaxes(type="log", row=row)
    if skipped := [entry["step"] for entry in metrics if entry["kind"] == "skipped"]:
        figure.add_scatter(
            x=skipped,
            y=[entries["loss"].fillna(0.0).min()] * len(skipped),
            mode="markers",
            row=1,
            col=1,
            marker={"symbol": "x", "size": 7, "color": BUDGET.colour},
            hovertemplate="step %{x:,} skipped<extra></extra>",
        )
        looks["skipped"] = Look(BUDGET.colour, "✖")
    return legend(looks) + drawn(figure, "course", height_px=720)


def _running(entries, known):
    names = [name for name in entries.columns if name not in ("step", "epoch", *CURVES) and entries[name].notna().any()]
    if not names:
        return ""
    figure, _ = _panelled(entries, {name: html.escape(name) for name in names}, dict.fromkeys(names, ".4g"))
    text = " ".join(known[name] for name in names if name in known)
    text = f"<p>{text}</p>" if text else ""
    height_px = 100 + 150 * len(names)
    return f"<h3>Running values of the loss</h3>{text}{drawn(figure, 'running', height_px=height_px)}"


def _panelled(entries, labels, forms):
    """(figure with a panel for each column of `labels` over the steps, how many entries its means are over)."""
    figure, window = panels([1 / len(labels)] * len(labels)), max(1, len(entries) // NUM_MEANS)
    for row, (name, label) in enumerate(labels.items(), start=1):
        smooth = name in SMOOTHED and window > 1
        look, opacity = (POINT, POINT.opacity) if smooth else (MEAN, 1.0)
        line = {"color": MEAN.colour, "width": 1.8}
        figure.add_scatter(
            x=entries["step"],
            y=entries[name],
            mode="markers" if smooth else "lines+markers",
            line=line,
            marker={"color": look.colour, "size": 3, "opacity": opacity},
            row=row,
            col=1,
            hovertemplate=f"step %{{x:,}}<br>{label} %{{y:{forms[name]}}}<extra></extra>",
        )
        if smooth:
            means = entries[name].rolling(window, center=True, min_periods=1).mean()
            figure.add_scatter(x=entries["step"], y=means, mode="lines", line=line, hoverinfo="skip", row=row, col=1)
        figure.update_yaxes(title=label, rangemode="tozero" if name in FROM_ZERO else "normal", row=row)
    figure.update_xaxes(title="Steps", row=len(labels))
    return figure, window


# --- what was made


def _latency(latency):
    measured_ms, untrained_ms, budget_ms = (latency[key] for key in ("measured_ms", "untrained_ms", "budget_ms"))
    raw_ms = latency["raw_ms"]
    figure = go.Figure()
    figure.add_bar(
        x=[untrained_ms, measured_ms],
        y=[0, 1],
        orientation="h",
        width=0.6,
        opacity=0.8,
        marker_color=[UNTRAINED.colour, TRAINED.colour],
        hovertemplate="%{x:.2f} ms<extra></extra>",
    )
    # Spread over the height of the bar, in the order in which they were taken: a machine that warms up shows.
    figure.add_scatter(
        x=raw_ms,
        y=np.linspace(1.25, 0.75, len(raw_ms)),
        mode="markers",
        opacity=0.6,
        marker={"color": RUN.colour, "size": 4},
        hovertemplate="a run: %{x:.2f} ms<extra></extra>",
    )
    figure.add_vline(x=budget_ms, line={"color": BUDGET.colour, "width": 2})
    figure.update_xaxes(
        title="Latency, ms", range=[0, 1.06 * np.nanmax([measured_ms, untrained_ms, budget_ms, *raw_ms])]
    )
    figure.update_yaxes(tickvals=[0, 1], ticktext=["untrained", "trained"], range=[-0.5, 1.5])
    looks = {"trained": TRAINED, "untrained": UNTRAINED}
    looks |= {"each run of the trained, the first on top": RUN, "budget": BUDGET}
    place = f"run {latency['protocol']['kth_fastest']} of {len(raw_ms)} from the fastest"
    facts = [
        (
            "Counted",
            f"{number(measured_ms, '.2f')} ms, {place}: {number(100 * measured_ms / budget_ms)} % of the budget",
        ),
        ("Budget", f"{number(budget_ms, '.2f')} ms: {latency['origin']}"),
        (
            "All runs",
            f"median {number(latency['median_ms'], '.2f')} ms, quartiles {number(latency['spread_pct'])} % apart",
        ),
        (
            "Untrained",
            f"{number(untrained_ms, '.2f')} ms just before; trained: × {number(measured_ms / untrained_ms, '.3f')}",
        ),
    ]
    return legend(looks) + drawn(figure, "latency", height_px=230) + definitions(facts)


def _export(result):
    proof = result["export"]
    off, largest = proof["max_abs_difference"], proof["max_abs_output"]
    height, width = height_and_width(result["image_px"])
    facts = [
        ("Size", f"{number(result['megabytes'], '.2f')} MB, {result['num_blocks']} blocks"),
        ("Image", f"{height} × {width} px in, {result['embedding_size']} numbers out"),
        (
            "Proof",
            f"ONNX Runtime and PyTorch differ by {number(off, '.2g')} where outputs reach {number(largest, '.2g')}",
        ),
        ("Checker", f"{len(proof['checker'])} problem(s)" if proof["checker"] else "no problem"),
        ("Zeroed", f"{proof['zeroed_weights']:,} weights that were too small to be normal numbers after a product"),
    ]
    link = urllib.parse.quote(result["onnx"])
    return f"<p><a href='{link}'>{html.escape(result['onnx'])}</a></p>{definitions(facts)}"


class _PlanDumper(yaml.SafeDumper):
    """YAML as the experiments are written: keys one to a line, lists within one."""

    def represent_list(self, values):
        return self.represent_sequence("tag:yaml.org,2002:seq", values, flow_style=True)


_PlanDumper.add_representer(list, _PlanDumper.represent_list)


def _as_yaml(plan):
    return yaml.dump(plan, Dumper=_PlanDumper, sort_keys=False, allow_unicode=True)


def _meaning(shown):
    items = "".join(f"<li>{item}</li>" for item in (*shown.meaning, *MEANING))
    return f"""<section><h2>What the numbers mean, and what they do not</h2>
<p>What to know before concluding anything from this page.</p><ul>{items}</ul></section>"""


MEANING = (  # of the page of any task
    """<b>One training is one seed.</b> Another seed gives another accuracy, and no deviation within a set knows of
it. That one way of training is better than another takes several seeds of both.""",
    """<b>The latency is this machine's,</b> by the track's rule, with the trained weights. Where the budget was set for
another machine, one network that was timed on both carries it here; others may gain or lose on the way.""",
)

STYLE = f"""
dt {{ flex: 0 0 115px; }} ul.small {{ font-size: 13px; color: {FADED}; }}
pre {{ font: 12px/1.5 ui-monospace, Menlo, monospace; columns: 2 380px; margin: 0; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; }}
"""
