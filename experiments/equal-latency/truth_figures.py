"""What the trainings of the truth table say: how well each candidate knows people it never saw, and which score
foretold it.

Used by truth.py; nothing here trains.
"""

# N candidates, T trainings, R resamples

import html
import json
import statistics

import numpy as np
import plotly.graph_objects as go
import torch
from nb201 import Pairs
from scipy.stats import kendalltau, mannwhitneyu

from zennas import page
from zennas.data.sources import open_source
from zennas.embed.model import open_model
from zennas.embed.named import RGB_NORMALISATIONS
from zennas.evaluate.embedded import embedded
from zennas.evaluate.judges import similarities
from zennas.evaluate.sets import EvaluationSet, open_pairs
from zennas.metrics.likeness import unit_rows
from zennas.metrics.verification import tar_at_far, ten_fold_accuracy
from zennas.provenance import Provenance
from zennas.score.scores import SCORES, score_candidate
from zennas.space.candidate import Candidate
from zennas.track import ScorePlan

FARS = (1e-1, 1e-2, 1e-3)
MEASURES = ("AUC", *(f"TAR@{far:g}" for far in FARS), "pairs")
SAID = {"AUC": "AUC", **{f"TAR@{far:g}": f"TAR at FAR {far:g}" for far in FARS}, "pairs": "accuracy of the 1,800 pairs"}
# Of a person. One has 530, with which 9 of 10 same pairs would be his, and every figure a figure of how well he is
# known.
MOST_IMAGES = 4
# As experiments/equal-latency/nb201.py, and four draws of each: the figures are the scores', not chance's.
DRAWN = {"image_px": 32, "batch": 16, "repeats": 4}
NUM_RESAMPLES = 2000
# What is known of a candidate without any score.
PLAIN = ("latency", "blocks", "mean width", "blocks of stage 1", "blocks of stage 3")
COUNTED = {*PLAIN, "params", "macs", "convolutions"}
COLOURS = {"score": "#0f766e", "plain": "#94a3b8"}


class HeldOut:
    """The people that none was trained on: some images of each, and the pairs of their folds."""

    def __init__(self, faces, identities, pairs):
        source = open_source(faces, identities=identities)
        label_N, order_N = np.asarray(source.label_N), np.random.default_rng(0).permutation(source.num_images)
        taken = [order_N[label_N[order_N] == label][:MOST_IMAGES] for label in range(source.num_identities)]
        self.place_N = np.sort(np.concatenate(taken))
        label_N = label_N[self.place_N]
        self.same_P = (label_N[:, None] == label_N)[np.triu_indices(len(label_N), 1)]
        self.images = EvaluationSet("held-out people", source.images, {})
        self.pairs = open_pairs(f"{pairs}@{faces}")
        self.num_people = source.num_identities

    def judged(self, onnx_path):
        """{measure: share} of a trained network."""
        mean, std = RGB_NORMALISATIONS["insightface"]
        model = open_model(onnx_path, mean=mean, std=std)
        column = self.pairs.column
        embedding_ND = embedded(self.pairs, model, flip=False).embedding_ND
        similarity_P = similarities(embedding_ND, column["first_P"], column["second_P"])
        accuracy = ten_fold_accuracy(similarity_P, column["same_P"], fold_P=column["fold_P"]).mean
        some_ND = unit_rows("held-out people", embedded(self.images, model, flip=False).embedding_ND[self.place_N])
        all_P = (some_ND @ some_ND.T)[np.triu_indices(len(some_ND), 1)]
        tars = {f"TAR@{far:g}": tar_at_far(all_P, self.same_P, far) for far in FARS}
        return {"AUC": auc(all_P, self.same_P), **tars, "pairs": accuracy}


def auc(similarity_P, same_P):
    """The chance that a same pair is more alike than a different one.

    >>> auc(np.array([0.9, 0.2, 0.5, 0.2]), np.array([True, True, False, False]))
    0.625
    """
    same_S, different_D = similarity_P[same_P], similarity_P[~same_P]
    return float(mannwhitneyu(same_S, different_D).statistic) / (len(same_S) * len(different_D))


def values_of(entry, space):
    """{score or plain figure: value} of a candidate of candidates.json."""
    candidate, shape = Candidate(**entry["candidate"]), space.shape
    found = {
        "latency": entry["measured_ms"],
        "blocks": candidate.num_blocks,
        "mean width": float(np.exp(np.average(np.log(candidate.widths), weights=candidate.depths))),
        "blocks of stage 1": candidate.depths[0],
        "blocks of stage 3": candidate.depths[-1],
    }
    for name in SCORES:
        plan = ScorePlan(name=name, image_px=DRAWN["image_px"], batch=DRAWN["batch"])
        found[name] = score_candidate(candidate, plan, shape, seed=0, repeats=DRAWN["repeats"])[0]
    return found


def compute(entries, runs, folder_of, held_out, space, path):
    """[entry with its `values` and its `trainings` {seed: {measure: share}}]; what the file at `path` has is not done
    again.
    """
    torch.set_num_threads(1)
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"values": {}, "trainings": {}}
    for entry in entries:
        if set(known["values"].get(entry["text"], {})) != {*PLAIN, *SCORES}:
            known["values"][entry["text"]] = values_of(entry, space)
            path.write_text(json.dumps(known), encoding="utf-8")
    for number, (entry, seed) in enumerate(runs, start=1):
        name = f"{entry['text']}-{seed}"
        if name not in known["trainings"]:
            known["trainings"][name] = held_out.judged(folder_of(entry, seed) / "model.onnx")
            path.write_text(json.dumps(known), encoding="utf-8")
            print(f"judged {number} of {len(runs)}: {name}", flush=True)
    return [
        {
            **entry,
            "values": known["values"][entry["text"]],
            "trainings": {str(seed): known["trainings"][f"{one['text']}-{seed}"] for one, seed in runs if one is entry},
        }
        for entry in entries
    ]


# --- what they are worth


def figures(rows):
    """What the published table says beside the candidates: noise, reliability, each score's tau with each measure."""
    twice = [row for row in rows if len(row["trainings"]) > 1]
    measures = {}
    for measure in MEASURES:
        mean_N = truth_of(rows, measure)
        first_N, second_N = (np.array([row["trainings"][seed][measure] for row in twice]) for seed in ("0", "1"))
        noise = float(np.sqrt(np.mean((first_N - second_N) ** 2) / 2))
        draws_RN = resamples(len(twice))
        measures[measure] = {
            "mean": float(mean_N.mean()),
            "between_candidates_std": float(mean_N.std(ddof=1)),
            "between_seeds_std": noise,
            # The share of the variance between single trainings that is the candidates' own.
            "reliability": float(max(0.0, 1 - noise**2 / variance_of_one(rows, measure))),
            "one_seed_for_the_other": Pairs(second_N, np.ones((len(twice),) * 2)).tau(first_N, draws_RN),
        }
    names, draws_RN = list(rows[0]["values"]), resamples(len(rows))
    taus = {
        name: {
            measure: Pairs(truth_of(rows, measure), np.ones((len(rows),) * 2)).tau(
                np.array([row["values"][name] for row in rows], float), draws_RN
            )
            for measure in MEASURES
        }
        for name in names
    }
    return {
        "num": len(rows),
        "num_twice": len(twice),
        "measures": measures,
        "tau": taus,
        "beyond": beyond(rows),
        "beyond_params": beyond(rows, counts=("macs", "blocks", "params")),
    }


def beyond(rows, *, counts=("macs", "blocks")):
    """{score: tau of what is left of it and of each measure's truth when these counts have explained what they can}."""
    column = {
        "macs": [np.log(row["values"]["macs"]) for row in rows],
        "blocks": [row["values"]["blocks"] for row in rows],
        "params": [np.log(row["values"]["params"]) for row in rows],
    }
    counted = np.stack([np.ones(len(rows)), *(column[name] for name in counts)], 1)

    def left_of(value_N):
        return value_N - counted @ np.linalg.lstsq(counted, value_N, rcond=None)[0]

    return {
        name: {
            measure: float(
                kendalltau(
                    left_of(np.array([row["values"][name] for row in rows], float)), left_of(truth_of(rows, measure))
                ).statistic
            )
            for measure in MEASURES
        }
        for name in rows[0]["values"]
        if name not in (*counts, "convolutions")
    }


def truth_of(rows, measure):
    """The mean over a candidate's trainings, in candidates' order."""
    return np.array([statistics.fmean(one[measure] for one in row["trainings"].values()) for row in rows])


def variance_of_one(rows, measure):
    """The variance between candidates of a single training: that of seed 0."""
    return float(np.var([row["trainings"]["0"][measure] for row in rows], ddof=1))


def resamples(num):
    """[resample, candidate]: how often each was drawn."""
    return np.random.default_rng(0).multinomial(num, [1 / num] * num, NUM_RESAMPLES).astype(float)


def most_reliable(found):
    """The measure that says most of a candidate and least of its seed; scores were not asked."""
    return max(MEASURES, key=lambda measure: found["measures"][measure]["reliability"])


def sorted_scores(found):
    """Names of the scores and plain figures, best tau with the most reliable measure first."""
    by = most_reliable(found)
    return sorted(found["tau"], key=lambda name: -found["tau"][name][by][0])


# --- what is written


def as_tables(found, rows):
    """{heading of truth.md: table}."""
    by = most_reliable(found)
    measures = [by, *(measure for measure in MEASURES if measure != by)]
    noise = [
        "| measure | mean, % | between candidates | between seeds | reliability | tau, one seed for another |",
        "|---" * 6 + "|",
    ]
    for measure in measures:
        one = found["measures"][measure]
        noise.append(
            f"| {SAID[measure]} | {100 * one['mean']:.2f} | {100 * one['between_candidates_std']:.2f} | "
            f"{100 * one['between_seeds_std']:.2f} | {one['reliability']:.2f} | "
            f"{interval(one['one_seed_for_the_other'])} |"
        )
    head = [
        SAID[by],
        f"{by}, MACs and blocks taken out",
        "parameters too",
        *(SAID[measure] for measure in measures[1:]),
    ]
    taus = ["| score | " + " | ".join(head) + " |", "|---|" + "---:|" * len(head)]
    for name in sorted_scores(found):
        said = f"*{name}*" if name in COUNTED else name
        cells = [interval(found["tau"][name][measure]) for measure in measures]
        left = [found[which].get(name, {}).get(by) for which in ("beyond", "beyond_params")]
        cells[1:1] = [page.number(one, ".2f") for one in left]
        taus.append(f"| {said} | " + " | ".join(cells) + " |")
    order = np.argsort(-truth_of(rows, by))
    head = ["candidate", "ms", "MMACs", "blocks", f"{by}, %", "second seed", "pairs, %", "zen", "equal_cost"]
    table = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    for place in order:
        row = rows[place]
        values, trainings = row["values"], row["trainings"]
        second = f"{100 * trainings['1'][by]:.2f}" if "1" in trainings else ""
        cells = [
            row["text"].removeprefix("ir_se-"),
            f"{row['measured_ms']:.3f}",
            f"{values['macs'] / 1e6:.1f}",
            str(values["blocks"]),
        ]
        cells += [f"{100 * trainings['0'][by]:.2f}", second, f"{100 * trainings['0']['pairs']:.2f}"]
        cells += [f"{values['zen']:.1f}", f"{values['equal_cost']:.2f}"]
        table.append("| " + " | ".join(cells) + " |")
    return {
        heading: "\n".join(lines) + "\n"
        for heading, lines in (("Noise", noise), ("Scores", taus), ("Candidates", table))
    }


def interval(tau):
    """tau (low to high)."""
    return "{:.2f} ({:.2f} to {:.2f})".format(*tau)


def as_page(published):
    """truth.html: each score's tau with its interval, and the candidates under five of them."""
    found, rows = published["found"], published["candidates"]
    by = most_reliable(found)
    names = sorted_scores(found)[::-1]
    tau_3 = np.array([found["tau"][name][by] for name in names]).T
    dots = go.Figure()
    colours = [COLOURS["plain" if name in COUNTED else "score"] for name in names]
    dots.add_scatter(
        x=tau_3[0],
        y=list(range(len(names))),
        mode="markers",
        marker={"color": colours, "size": 8},
        error_x={"array": tau_3[2] - tau_3[0], "arrayminus": tau_3[0] - tau_3[1], "color": page.LINE, "width": 0},
    )
    dots.add_vline(x=0, line={"color": page.LINE, "width": 1})
    dots.add_vline(
        x=found["measures"][by]["one_seed_for_the_other"][0], line={"color": page.INK, "dash": "dot", "width": 1}
    )
    dots.update_xaxes(
        title=f"Kendall tau with {SAID[by]}; 95 % intervals; dotted: another training of the same network"
    )
    dots.update_yaxes(tickvals=list(range(len(names))), ticktext=names)
    clouds = []
    best = next(name for name in sorted_scores(found) if name not in COUNTED)
    for name in dict.fromkeys(("zen", "equal_cost", best, "params", "blocks")):
        clouds.append(page.drawn(cloud(rows, name, by), f"cloud {name}", height_px=340))
    looks = {"a score": page.Look(COLOURS["score"], "●"), "what anyone can count": page.Look(COLOURS["plain"], "●")}
    sections = [
        ("What each score is worth here", page.legend(looks) + page.drawn(dots, "tau", height_px=80 + 24 * len(names))),
        (f"{SAID[by]}, candidate by candidate", "".join(clouds)),
    ]
    latencies, noise = [row["measured_ms"] for row in rows], found["measures"][by]
    among = f"{min(latencies):.2f} to {max(latencies):.2f} ms; {found['num_twice']} trained twice"
    spread = (
        f"{100 * noise['between_seeds_std']:.2f} between seeds, {100 * noise['between_candidates_std']:.2f} between"
    )
    facts = [
        ("candidates", f"{found['num']} of ir_se_tiny, {among}"),
        (
            "judged",
            f"{published['num_people']:,} people in {published['num_images']:,} images, none of them trained on",
        ),
        ("noise", f"{spread} candidates, in points of {by}"),
    ]
    return page.document(
        "".join(f"<section><h2>{html.escape(title)}</h2>{body}</section>" for title, body in sections),
        page.definitions(page.origin(Provenance(**published["made_by"]), [])),
        kind="experiment",
        title="A truth table of IR-SE networks",
        subtitle="Networks of equal measured latency, trained on faces",
        banner="",
        facts=facts,
        has_pictures=True,
    )


def cloud(rows, name, by):
    """A figure: the measure of every training against a score, two trainings of a candidate joined."""
    figure = go.Figure()
    for row in rows:
        y = [100 * one[by] for one in row["trainings"].values()]
        figure.add_scatter(
            x=[row["values"][name]] * len(y),
            y=y,
            mode="lines+markers",
            text=[row["text"]] * len(y),
            hoverinfo="text+x+y",
            marker={"color": COLOURS["plain" if name in COUNTED else "score"], "size": 6},
            line={"color": page.LINE, "width": 1},
        )
    figure.update_xaxes(title=name)
    figure.update_yaxes(title=f"{by}, %")
    return figure
