"""report.html: what a training came to, as one page that needs no network, drawn from result.json and metrics.jsonl alone."""

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
    GRID,
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
    panels,
    span,
    table,
)
from zennas.progress import duration
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.train.verify import FAR

POINT, MEAN = Look(LINE, "●", opacity=0.55, size_px=4), Look("#1e293b", "━")
TRAINED, UNTRAINED = Look("#0f766e", "■"), Look(LINE, "■")
SETS = ("#0f766e", "#7c3aed", "#b45309", "#2563c9", "#be185d", "#4d7c0f")  # a colour for each set, in turn
NUM_MEANS = 40  # windows that a curve is averaged over; a narrower one only repeats the noise
MAX_SKIPPED = 10  # skipped steps that are told one by one

CURVES = {  # of the entries of kind "train", from above: what stands at the axis, and the format of a value
    "loss": ("Loss", ".4f"),
    "gradient": ("Gradient norm", ".3f"),
    "lr": ("Learning rate", ".3g"),
    "images_per_s": ("Images/s", ".0f"),
}
RUNNING = {  # running values of a loss: what they are. One that is not listed is shown by its name
    "t": "t is the running mean of the cosines between faces and their own centres: near 0 at first, it rises as the "
    "network learns, and hard negatives weigh more with it",
    "mean": "mean is the running mean of the lengths of the embeddings, which stand for the quality of the images",
    "std": "std is the running standard deviation of those lengths",
}


def write_report(path, result, metrics):
    """Writes the page of a training to `path`, whole or not at all; its folder must exist.

    result: what result.json holds. metrics: the entries of metrics.jsonl, in order.
    """
    write_atomically(path, page(result, metrics))


def page(result, metrics):
    """The HTML of a training; arguments as in `write_report`."""
    plan, latency, checker = result["plan"], result["latency"], result["export"]["checker"]
    candidate = Candidate.parse(result["candidate"], "result.json: candidate")
    warning = latency["warning"] and f"Its latency is not to be trusted: {latency['warning']}"
    refused = [f"The challenge's checker would refuse the file: {problem}" for problem in checker]
    entries = _train_entries(metrics)
    sections = f"""<section><h2>Accuracy</h2>
<p>The share of pairs of images that are told right, same person or not, by a threshold that is chosen on the other nine
folds; behind ± stands the standard deviation over the ten folds. TAR is the share of same-person pairs that are accepted
where {FAR:g} of the others are.</p>
{_accuracy_table(result["accuracy"])}
{_accuracy_course(result, metrics)}</section>
<section><h2>How the training went</h2>
{_skipped(metrics)}{_curves(entries, plan, metrics)}
{_running(entries)}</section>
<section><h2>Latency of the trained network</h2>{notices([latency["stand_in"], warning], "note")}
{_latency(latency)}</section>
<section><h2>The exported file</h2>{notices(refused, "note")}
{_export(result)}</section>
<section><h2>The plan as given</h2>
<p>All of it, with the defaults of what was not said, as the <code>train:</code> part of an experiment takes it.</p>
<pre>{html.escape(yaml.safe_dump(plan, sort_keys=False, allow_unicode=True))}</pre></section>
{MEANING}"""
    record = Provenance.parse(result["made_by"], "result.json: made_by")
    again = f"""<p>What it takes to train it again. The same command, seed, data, machine and versions give
the same weights on a processor; on a GPU sums are taken in no fixed order, and the last digits differ.</p>
{definitions(origin(record, [(latency["machine"], latency["protocol"])]))}"""
    return document(
        sections, again, kind="train", title=result["experiment"], subtitle=f"{candidate.text} for {result['track']}",
        banner=notices([latency["stand_in"], warning, *refused], "banner"), facts=_facts(result, candidate), style=STYLE,
    )  # fmt: skip


# --- the facts at the top


def _facts(result, candidate):
    plan, training, latency = result["plan"], result["training"], result["latency"]
    loss, distill = plan["loss"], plan["distill"]
    sampled = f", {_share(loss['sampling_rate'])} % of the centres a step" if loss["sampling_rate"] < 1 else ""
    teacher = f"{result['teacher']}: {distill['name']}, weight {distill['weight']:g}" if result["teacher"] else "none"
    knobs = "".join(f", {name} {value}" for name, value in loss["knobs"].items())
    rate = training["images_per_s"]
    return [
        ("Accuracy", "; ".join(_told(name, one) for name, one in result["accuracy"].items()) or "not measured"),
        ("Latency", f"{number(latency['measured_ms'], '.2f')} ms, {_verdict(latency)}"),
        ("Winner", f"{candidate.text}: {result['params'] / 1e6:.2f} M parameters, {result['macs'] / 1e9:.2f} GMACs"),
        ("Track", result["track"]),
        ("Data", f"{result['data']}: {training['num_images']:,} images of {training['num_identities']:,} identities"),
        ("Loss", f"{loss['name']}{knobs}{sampled}"),
        ("Teacher", teacher),
        ("Work", f"{training['steps']:,} steps of {plan['batch']:,} images, {training['epochs']:g} epochs"),
        ("Time", f"{duration(training['seconds'])}, {number(rate, ',.1f')} images/s"),
        ("Device", f"{training['device']}, {training['num_ranks']} rank(s)"),
        ("Skipped steps", f"{training['skipped_steps']:,}"),
        ("Corrupt images", f"{training['corrupt_images']:,}"),
    ]


def _told(name, found):
    student, before, teacher = found["student"], found["untrained"], found["teacher"]
    said = f"{name} {_share(student['accuracy'])} %"
    beside = [f"untrained {_share(before)} %"] if before is not None else []
    beside += [f"teacher {_share(teacher['accuracy'])} %"] if teacher else []
    return f"{said} ({', '.join(beside)})" if beside else said


def _verdict(latency):
    word = "within" if latency["within_budget"] else "over"
    return f"{word} the budget of {number(latency['budget_ms'], '.2f')} ms"


def _share(share):
    return number(None if share is None else 100 * share, ".2f")


# --- accuracy


def _accuracy_table(accuracy):
    if not accuracy:
        return "<p class='empty'>No set of pairs was given: how well this network recognises was not measured.</p>"
    rows, wanting = "", [key for key in ("untrained", "teacher") if all(one[key] is None for one in accuracy.values())]
    for name, one in accuracy.items():
        student, before, teacher = one["student"], one["untrained"], one["teacher"] or {}
        corrupt = student["num_corrupt"]
        note = f"<small>{corrupt:,} images cannot be read: their pairs count as unlike</small>" if corrupt else ""
        rows += (
            f"<tr><th>{html.escape(name)}{note}</th><td>{student['num_pairs']:,}</td><td>{_share(before)}</td>"
            f"<td><b>{_share(student['accuracy'])}</b> <i>± {_share(student['accuracy_std'])}</i></td>"
            f"<td>{_share(teacher.get('accuracy'))} <i>± {_share(teacher.get('accuracy_std'))}</i></td>"
            f"<td>{_gap(student['accuracy'], teacher.get('accuracy'))}</td>"
            f"<td>{_share(student['tar'])}</td><td>{_share(teacher.get('tar'))}</td>"
            f"<td>{number(student['threshold'], '.3f')}</td></tr>"
        )
    names = ("Set", "Pairs", "Untrained, %", "Student, %", "Teacher, %", "Student − teacher", "TAR, %")
    names += ("of teacher, %", "Threshold")
    said = f"<p class='empty'>Not measured: {' and '.join(wanting)}.</p>" if wanting else ""
    return table(names, rows) + said


def _gap(student, teacher):
    return number(None if None in (student, teacher) else 100 * (student - teacher), "+.2f")


def _accuracy_course(result, metrics):
    """Accuracy over epochs, a colour for each set."""
    accuracy = result["accuracy"]
    courses = {name: [] for name in accuracy}
    for entry in metrics:
        kind, _, name = entry["kind"].partition("/")
        if kind == "verify":
            courses.setdefault(name, []).append(entry)
    if not courses:
        return ""
    figure, looks, seen, end = panels([1.0]), {}, [], _number_or(result["training"]["epochs"], 0.0)
    for index, (name, entries) in enumerate(courses.items()):
        found = accuracy.get(name, {"student": None, "untrained": None, "teacher": None})
        look = Look(SETS[index % len(SETS)], "━")
        looks[html.escape(name)] = look
        rows = pd.DataFrame(entries).reindex(columns=["step", "epoch", "accuracy", "accuracy_std"]).astype(float)
        if found["untrained"] is not None and not (rows["step"] == 0).any():
            rows = pd.concat([pd.DataFrame([{"step": 0, "epoch": 0, "accuracy": found["untrained"]}]), rows])
        pct, std = 100 * rows["accuracy"], 100 * rows["accuracy_std"].fillna(0)
        hover = f"{html.escape(html.escape(name))}<br>%{{y:.2f}} %% after %{{x:.2f}} epochs<extra></extra>".replace(
            "%%", "%"
        )
        shade = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "x": rows["epoch"], "row": 1, "col": 1}
        figure.add_scatter(y=pct - std, **shade)
        figure.add_scatter(y=pct + std, fill="tonexty", fillcolor=_faint(look.colour), **shade)
        figure.add_scatter(
            x=rows["epoch"], y=pct, mode="lines+markers", line={"color": look.colour, "width": 2},
            marker={"size": 5}, hovertemplate=hover, row=1, col=1,
        )  # fmt: skip
        seen += [*(pct - std), *(pct + std)]
        if teacher := found["teacher"]:
            figure.add_hline(y=100 * teacher["accuracy"], line={"color": look.colour, "width": 1.5, "dash": "dash"})
            seen.append(100 * teacher["accuracy"])
        if student := found["student"]:
            marker = {"symbol": "star", "size": 13, "color": look.colour, "line": {"color": "white", "width": 1}}
            figure.add_scatter(
                x=[end], y=[100 * student["accuracy"]], mode="markers", marker=marker, hovertemplate=hover
            )
            seen.append(100 * student["accuracy"])
        end = max([end, *rows["epoch"].dropna()])
    looks |= {
        "the weights that are handed on": Look(INK, "★"),
        "± a standard deviation over the folds": Look(GRID, "■"),
    }
    looks |= {"teacher": Look(INK, "┅")} if any(one["teacher"] for one in accuracy.values()) else {}
    figure.update_xaxes(title="Epochs", range=span(0, end, pad=0.02))
    figure.update_yaxes(title="Accuracy, %", range=span(*seen))
    return legend(looks) + drawn(figure, "accuracy", height_px=420)


def _faint(colour):
    return f"rgba({', '.join(str(int(colour[at : at + 2], 16)) for at in (1, 3, 5))}, .10)"


def _number_or(value, otherwise):
    return value if value is not None and math.isfinite(value) else otherwise


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
    told = "".join(f"<li>{html.escape(str(entry.get('why', 'no reason')))}</li>" for entry in skipped[:MAX_SKIPPED])
    return (
        f"<p>Steps whose loss or gradient was not finite; they moved no weight:</p><ul class='small'>{told}{more}</ul>"
    )


def _curves(entries, plan, metrics):
    if entries.empty:
        return "<p class='empty'>No step was written down.</p>"
    labels = {name: label for name, (label, _) in CURVES.items()}
    figure, window = _panelled(entries, labels, {name: form for name, (_, form) in CURVES.items()})
    looks = {"as written down, each the mean of its steps": POINT}
    looks |= {f"mean over {window} of them": MEAN} if window > 1 else {}
    row = list(CURVES).index("gradient") + 1
    largest = entries["gradient"].max()
    if (clip := plan["optimizer"]["clip_norm"]) and largest > 0.5 * clip:
        figure.add_hline(y=clip, row=row, col=1, line={"color": BUDGET.colour, "width": 1, "dash": "dot"})
        looks["clipped above"] = Look(BUDGET.colour, "┅")
    if largest > 30 * entries["gradient"].median() > 0:  # a single spike would flatten all the rest
        figure.update_yaxes(type="log", row=row)
    if skipped := [entry["step"] for entry in metrics if entry["kind"] == "skipped"]:
        low = entries["loss"].min()
        figure.add_scatter(
            x=skipped, y=[_number_or(low, 0.0)] * len(skipped), mode="markers", row=1, col=1,
            marker={"symbol": "x", "size": 7, "color": BUDGET.colour},
            hovertemplate="step %{x:,} skipped<extra></extra>",
        )  # fmt: skip
        looks["skipped"] = Look(BUDGET.colour, "✖")
    return legend(looks) + drawn(figure, "course", height_px=720)


def _running(entries):
    names = [name for name in entries.columns if name not in ("step", "epoch", *CURVES) and entries[name].notna().any()]
    if not names:
        return ""
    figure, _ = _panelled(entries, {name: html.escape(name) for name in names}, dict.fromkeys(names, ".4g"))
    said = "; ".join(RUNNING[name] for name in names if name in RUNNING)
    said = f"<p>{said[:1].upper()}{said[1:]}.</p>" if said else ""
    height_px = 100 + 150 * len(names)
    return f"<h3>Running values of the loss</h3>{said}{drawn(figure, 'running', height_px=height_px)}"


def _panelled(entries, labels, forms):
    """(figure with a panel for each column of `labels` over the steps, entries that its mean is over)."""
    figure = panels([1 / len(labels)] * len(labels))
    window = max(1, len(entries) // NUM_MEANS)
    for row, (name, label) in enumerate(labels.items(), start=1):
        value = entries[name]
        hover = f"step %{{x:,}}<br>{label} %{{y:{forms[name]}}}<extra></extra>"
        smooth = name in ("loss", "gradient") and window > 1
        marks = {"mode": "markers", "marker": {"color": POINT.colour, "size": 3, "opacity": POINT.opacity}}
        line = {"mode": "lines", "line": {"color": MEAN.colour, "width": 1.8}}
        single = {"mode": "lines+markers", "marker": {"color": MEAN.colour, "size": 3}, "line": line["line"]}
        figure.add_scatter(
            x=entries["step"], y=value, hovertemplate=hover, row=row, col=1, **(marks if smooth else single)
        )
        if smooth:
            means = value.rolling(window, center=True, min_periods=1).mean()
            figure.add_scatter(x=entries["step"], y=means, hoverinfo="skip", row=row, col=1, **line)
        figure.update_yaxes(title=label, row=row)
    figure.update_xaxes(title="Steps", row=len(labels))
    return figure, window


# --- what was made


def _latency(latency):
    measured_ms, untrained_ms, budget_ms = (latency[key] for key in ("measured_ms", "untrained_ms", "budget_ms"))
    figure, bars = go.Figure(), {"untrained": (untrained_ms, UNTRAINED), "trained": (measured_ms, TRAINED)}
    for name, (value_ms, look) in bars.items():
        figure.add_bar(
            x=[value_ms], y=[name], orientation="h", marker_color=look.colour, width=0.55, opacity=0.75,
            hovertemplate="%{y}: %{x:.2f} ms<extra></extra>",
        )  # fmt: skip
    raw_ms = [value for value in latency["raw_ms"] or [] if value is not None and math.isfinite(value)]
    jitter = np.random.default_rng(0).uniform(-0.2, 0.2, len(raw_ms))
    figure.add_scatter(
        x=raw_ms, y=1 + jitter, mode="markers", marker={"color": "#1e293b", "size": 4, "opacity": 0.5},
        hovertemplate="a run: %{x:.2f} ms<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=budget_ms, line={"color": BUDGET.colour, "width": 2})
    most_ms = max([_number_or(one, 0.0) for one in (measured_ms, untrained_ms, budget_ms)] + raw_ms)
    figure.update_xaxes(title="Latency, ms", range=[0, 1.06 * most_ms or 1.0])
    looks = {
        "trained": TRAINED,
        "untrained": UNTRAINED,
        "each run of the trained": Look("#1e293b", "•"),
        "budget": BUDGET,
    }
    share = 100 * measured_ms / budget_ms if None not in (measured_ms, budget_ms) and budget_ms else None
    ratio = measured_ms / untrained_ms if None not in (measured_ms, untrained_ms) and untrained_ms else None
    facts = [
        ("Counted", f"{number(measured_ms, '.2f')} ms, {number(share)} % of the budget"),
        ("Budget", f"{number(budget_ms, '.2f')} ms: {latency['origin']}"),
        ("All runs", f"{len(raw_ms)}, median {number(latency['median_ms'], '.2f')} ms"),
        ("Spread", f"{number(latency['spread_pct'])} % of the median between the quartiles"),
        (
            "Untrained",
            f"{number(untrained_ms, '.2f')} ms in the same minute; trained is {number(ratio, '.3f')} times it",
        ),
    ]
    lead = f"<p>The trained network is <b>{html.escape(_verdict(latency))}</b>.</p>"
    return lead + legend(looks) + drawn(figure, "latency", height_px=230) + definitions(facts)


def _export(result):
    proof = result["export"]
    off, largest = proof["max_abs_difference"], proof["max_abs_output"]
    facts = [
        ("Size", f"{number(result['megabytes'], '.2f')} MB, {result['num_blocks']} blocks"),
        ("Image", f"{result['image_px']} × {result['image_px']} px in, {result['embedding_size']} numbers out"),
        (
            "Proof",
            f"ONNX Runtime and PyTorch differ by {number(off, '.2g')} where outputs reach {number(largest, '.2g')}",
        ),
        ("Checker", f"{len(proof['checker'])} problem(s)" if proof["checker"] else "no problem"),
        ("Zeroed", f"{proof['zeroed_weights']:,} weights that were too small to be normal numbers after a product"),
    ]
    link = urllib.parse.quote(result["onnx"])
    return f"<p><a href='{link}'>{html.escape(result['onnx'])}</a></p>{definitions(facts)}"


MEANING = """<section><h2>What the numbers mean, and what they do not</h2>
<p>Seven things to know before concluding anything from this page.</p><ul>
<li><b>An accuracy on few pairs is coarse.</b> Two networks whose accuracies differ by less than the standard deviation over
the folds have not been told apart on that set; and that deviation is of ten folds of one training, not of several.</li>
<li><b>One training is one seed.</b> Another seed gives another accuracy. A gain of one way of training over another needs
several seeds of both.</li>
<li><b>A small TAR rests on very few pairs.</b> At a rate of one false accept in 1,000, a set with 3,000 pairs of different
people has its threshold set by three of them.</li>
<li><b>The sets are not the challenge.</b> They are small, public and easy; who is in them may also be in the training data,
where nobody has taken the overlap out.</li>
<li><b>The teacher has seen other data,</b> as a rule more of it, and is not held to the budget. The distance to it is what is
left to gain at most by distillation, not a fault of the student.</li>
<li><b>The latency is this machine's,</b> by the track's rule, with the trained weights. The budget is carried here by one
network that was timed on both machines; another network may gain or lose on the way.</li>
<li><b>A falling loss is no accuracy.</b> Margins, scale and sampled centres all move it: losses of different kinds or sampling
rates are not to be compared, and Curricular's rises with its t while the network gets better.</li></ul></section>"""

STYLE = f"""
dt {{ flex: 0 0 110px; }} ul.small {{ font-size: 13px; color: {FADED}; }}
pre {{ font: 12px/1.5 ui-monospace, Menlo, monospace; columns: 2 380px; margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }}
"""
