"""From two searches to mAP: which network is best at one latency, and what a teacher brings (protocol.md).

    python -m zennas.learn --data PEOPLE --track reid-smoke --out runs/reid/learn-mgn
    python -m zennas.search --track reid-smoke --score learned:runs/reid/learn-mgn \\
        --out runs/reid/search-mgn
    # both again: reid-smoke-single, learn-single, search-single
    python experiments/reid/race.py choose      # race.json, of both searches' winners; run it on a quiet machine
    python experiments/reid/race.py train --people PEOPLE --teacher TEACHER.onnx \\
        --judge market=LIST.csv@IMAGES --judge pku=LIST.csv@IMAGES
    python experiments/reid/race.py judge       # results.json, race.html under --out (race.png is a picture of it)

A training that is done, judged and kept in trainings.json is never run again; the same command goes on where it
stopped, also after a kill.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import plotly.graph_objects as go

from zennas import page
from zennas.latency.budget import choose_protocol, export_candidate
from zennas.latency.protocol import measure
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.track import load_experiment, load_space

HERE = pathlib.Path(__file__).parent
RUNS = pathlib.Path("runs/reid")
RACE, TRAININGS, RESULTS = (HERE / name for name in ("race.json", "trainings.json", "results.json"))
KINDS = {"mgn": "reid-smoke", "single": "reid-smoke-single"}  # their experiments
NUM_SEEDS, ROUNDS, NEAR = 3, 48, 1.03
# Of a hand-made network's widths, from narrow to wide, in steps that move few of them at a time.
SCALES, STEP = np.geomspace(0.1, 1.0, 47), 4
WHOLE, LOCAL = ("triplet.vectors=[whole]",), ("triplet.vectors=[whole,stripes]",)

# row: (network of race.json, recipe, changes of it, whether it has a teacher)
ROWS = {
    "mgn": ("mgn", "mgn", WHOLE, False),
    "single": ("single", "single", (), False),
    "osnet": ("osnet", "single", (), False),
    "mobilenetv2": ("mobilenetv2", "single", (), False),
    "mgn, teacher": ("mgn", "mgn", WHOLE, True),
    "mgn, local triplets": ("mgn", "mgn", LOCAL, False),
    "single, teacher": ("single", "single", (), True),
}
# Found afterwards, of one seed: what the goals left open. The same form.
AFTERWARDS = {
    **{
        f"{network}, learning rate {rate}": (network, "single", (f"optimizer.lr={rate}",), False)
        for rate in (0.001, 0.01)
        for network in ("osnet", "mobilenetv2")
    },
    "mgn, 144 epochs": ("mgn", "mgn", (*WHOLE, "epochs=144", "verify_epochs=200"), False),
    "mgn, teacher, 144 epochs": ("mgn", "mgn", (*WHOLE, "epochs=144", "verify_epochs=200"), True),
}
# what: (row, row it is compared with, or several: the best of them)
GOALS = {
    "MGN ahead of one branch": ("mgn", ("single",)),
    "a teacher ahead of none": ("mgn, teacher", ("mgn",)),
    "a teacher ahead of none, one branch": ("single, teacher", ("single",)),
    "one branch, searched, ahead of the hand-made": ("single", ("osnet", "mobilenetv2")),
    "MGN, searched, ahead of the hand-made": ("mgn", ("osnet", "mobilenetv2")),
    "triplets on local vectors": ("mgn, local triplets", ("mgn",)),
}
# what: (row, rows, as above; points of mAP that protocol.md predicts)
OPEN = {
    "one branch, searched, ahead of the hand-made at any of three learning rates": (
        "single",
        ("osnet", "mobilenetv2", *(row for row in AFTERWARDS if "learning rate" in row)),
        "over +10",
    ),
    "a teacher ahead of none in 144 epochs": ("mgn, teacher, 144 epochs", ("mgn, 144 epochs",), "+3"),
    "144 epochs ahead of 48": ("mgn, 144 epochs", ("mgn",), "+3"),
}
SEVERAL = page.Look("#0f766e", "●", "circle", 7)
ALONE = page.Look("#b45309", "○", "circle-open", 10)
MEAN = page.Look(page.INK, "|", "line-ns-open", 20)
ROW_PX = 36
MEASURES = {"map": "mAP", "rank_1": "rank-1", "minp": "mINP"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "train", "judge"])
    parser.add_argument("--out", type=pathlib.Path, default=RUNS)
    parser.add_argument("--people", type=pathlib.Path, help="train: people to train on, as zennas train takes them")
    parser.add_argument("--teacher", help="train: ONNX file")
    parser.add_argument(
        "--judge", action="append", default=[], metavar="NAME=LIST@IMAGES", help="train: people who judge"
    )
    parser.add_argument("--at-once", type=int, default=2, help="train: trainings side by side, of one thread each")
    options = parser.parse_args()
    {"choose": choose, "train": train, "judge": judge}[options.what](options)


# --- who runs


def choose(options):
    """race.json: the two searches' winners, and two hand-made networks that get at least their time."""
    experiment, track, _ = load_experiment(KINDS["single"])
    protocol, _ = choose_protocol(track)
    space = load_space(experiment.space)
    searched = {kind: winner_of(options.out / f"search-{kind}") for kind in KINDS}
    ms = in_rounds(list(searched.values()), protocol, space.shape)
    slower, faster = max(ms), min(ms)
    print(f"searched: {dict(zip(searched, ms, strict=True))} ms", flush=True)
    if slower > NEAR * faster:
        raise SystemExit(
            f"{slower:.3f} ms is over {100 * NEAR - 100:.0f} % more than {faster:.3f}: search the slower one's space "
            f"again, its --budget-ms times {faster / slower:.3f}"
        )
    target = list(searched.values())[ms.index(slower)]
    by_hand = {}
    for name, text in (("osnet", "OSNet x0.25"), ("mobilenetv2", "MobileNetV2 x0.25")):
        by_hand[name] = narrowest(published(space.baselines[text]), target, protocol, space.shape)
    networks = searched | by_hand
    measured = dict(zip(networks, in_rounds(list(networks.values()), protocol, space.shape), strict=True))
    rows = {name: row_of(candidate, measured[name], space.shape) for name, candidate in networks.items()}
    write(RACE, {"protocol": protocol.model_dump(mode="json"), "networks": rows})
    for name, row in rows.items():
        print(f"{name}: {row['text']}, {row['measured_ms']} ms, {row['mmacs']} MMACs, {row['mparams']} M parameters")


def winner_of(folder):
    """The Candidate that a search put first."""
    return Candidate.load(folder / "winner-1.yaml")


PUBLISHED = {
    "osnet": (64, (256, 384, 512)),
    "mobilenetv2": (32, (24, 32, 64, 96, 160, 320)),
}


def published(candidate):
    """A narrow hand-made network at its published widths."""
    stem, widths = PUBLISHED[candidate.block]
    return candidate.model_copy(update={"stem": stem, "widths": widths})


def narrowest(candidate, target, protocol, shape):
    """The narrowest of a network's scaled forms that takes at least the target's time, beside which it is measured."""
    scaled = list(dict.fromkeys(scaled_by(candidate, factor) for factor in SCALES))
    low, high = 0, len(scaled) - 1  # time grows with width, up to noise: halve, then look at what lies next
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if ratio(scaled[middle], target, protocol, shape) >= 1 else (middle + 1, high)
    return scaled[low]


def scaled_by(candidate, factor):
    stem, *widths = (max(STEP, STEP * round(width * factor / STEP)) for width in (candidate.stem, *candidate.widths))
    return candidate.model_copy(update={"stem": stem, "widths": tuple(widths)})


def ratio(candidate, target, protocol, shape):
    """A candidate's time over the target's, measured in turns."""
    own, other = in_rounds([candidate, target], protocol, shape)
    print(f"{candidate.text}: {own / other:.3f} of the target", flush=True)
    return own / other


def in_rounds(candidates, protocol, shape):
    """[ms of each]: the median of ROUNDS measurements by the track's rule, all candidates in each round."""
    files = [export_candidate(candidate, shape, protocol).onnx_bytes for candidate in candidates]
    ms_RN = np.array([[measure(file, protocol).measured_ms for file in files] for _ in range(ROUNDS)])
    return [round(float(value), 4) for value in np.median(ms_RN, 0)]


def row_of(candidate, ms, shape):
    its = cost(candidate, shape)
    return {
        "text": candidate.text,
        "candidate": candidate.plain(),
        "measured_ms": ms,
        "mmacs": round(its.macs / 1e6, 2),
        "mparams": round(its.params / 1e6, 3),
    }


# --- trainings


class FailedError(Exception):
    """A training or a judgement that ended with another exit code than 0."""


def train(options):
    """trainings.json: every row and seed, seed by seed, then what was asked afterwards; the hand-made networks last."""
    if not (options.people and options.teacher and options.judge):
        raise SystemExit("train: --people, --teacher and --judge are needed")
    options.out.mkdir(parents=True, exist_ok=True)
    wanted = [(row, seed) for seed in range(NUM_SEEDS) for row in ROWS] + [(row, 0) for row in AFTERWARDS]
    todo = [(row, seed) for row, seed in wanted if f"{row} {seed}" not in kept()]
    todo.sort(key=lambda run: (ROWS | AFTERWARDS)[run[0]][0] in PUBLISHED)  # by channel: four times as long, so last
    print(f"{len(wanted) - len(todo)} of {len(wanted)} trainings are done", flush=True)
    began, failed = time.monotonic(), []
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        running = {pool.submit(trained, *run, options): run for run in todo}
        for number, done in enumerate(concurrent.futures.as_completed(running), start=1):
            row, seed = running[done]
            try:
                entry = done.result()
            except FailedError as error:
                failed.append(str(error))
                print(f"{number} of {len(todo)}: {row}, seed {seed} failed: {error}", flush=True)
                continue
            write(TRAININGS, {"trainings": kept() | {f"{row} {seed}": entry}})
            minutes = (time.monotonic() - began) / 60
            figures = ", ".join(f"{name} {100 * values['map']:.2f}" for name, values in entry["judged"].items())
            left = f"about {minutes / number * (len(todo) - number):.0f} minutes left"
            print(f"{number} of {len(todo)}: {row}, seed {seed}: {figures}; {left}", flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} failed; the same command runs them again")


def kept():
    """{"ROW SEED": its figures} of trainings.json."""
    return json.loads(TRAININGS.read_text(encoding="utf-8"))["trainings"] if TRAININGS.is_file() else {}


def trained(name, seed, options):
    """{"judged": {"SET" or "SET, mirrored": {measure: value}}, ...} of a training, by the commands of a user."""
    network, recipe, changes, taught = (ROWS | AFTERWARDS)[name]
    row = json.loads(RACE.read_text(encoding="utf-8"))["networks"][network]
    folder = options.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}"
    winner = options.out / f"{network}.yaml"
    winner.write_text(json.dumps(row["candidate"]), encoding="utf-8")
    command = ["train", "--data", options.people, "--track", KINDS[recipe], "--winner", winner, "--out", folder]
    command += ["--teacher", options.teacher] if taught else []
    command += ["--any-size"] if network in PUBLISHED else []  # a hand-made one may take more than the budget
    for change in (*changes, f"seed={seed}"):
        command += ["--set", change]
    zennas(command, folder, ends_with=(0, 1))  # 1: over the budget, as measured while others train
    judged = {}
    for mirrored in (False, True):
        out = pathlib.Path(f"{folder}-judged{'-mirrored' * mirrored}")
        sets = [word for name_and_set in options.judge for word in ("--set", f"reid:{name_and_set.split('=', 1)[1]}")]
        flip = "--flip" if mirrored else "--no-flip"
        zennas(["evaluate", "--model", folder, *sets, flip, "--out", out], folder)
        results = json.loads((out / "results.json").read_text(encoding="utf-8"))
        for name_and_set, one in zip(options.judge, results["results"], strict=True):
            name = name_and_set.split("=", 1)[0] + ", mirrored" * mirrored
            judged[name] = metrics_of(one["metrics"])
    return {"text": row["text"], "judged": judged}


def metrics_of(metrics):
    """{measure: value} of plain ranking; what is re-ranked or expanded is of a subset."""
    plain = {metric["name"]: metric["value"] for metric in metrics if not metric["subset"]}
    return {measure: round(plain[name], 6) for measure, name in MEASURES.items()}


def zennas(words, folder, *, ends_with=(0,)):
    """One command of the project in a process of one thread; FailedError, with where its words are, where it ends with
    another exit code."""
    log = pathlib.Path(f"{folder}.log")
    with open(log, "a", encoding="utf-8") as lines:
        command = [sys.executable, "-m", f"zennas.{words[0]}", *map(str, words[1:])]
        done = subprocess.run(
            command, stdout=lines, stderr=lines, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
    if done.returncode not in ends_with:
        raise FailedError(f"{' '.join(map(str, words))}: exit code {done.returncode}; see {log}")


# --- figures


def judge(options):
    """results.json and race.html, of the trainings that are done."""
    rows = {}
    for key, entry in kept().items():
        row, seed = key.rsplit(" ", 1)
        for name, values in entry["judged"].items():
            for what, value in values.items():
                rows.setdefault(name, {}).setdefault(what, {}).setdefault(row, {})[seed] = 100 * value
    figures = {name: {what: figures_of(of_row) for what, of_row in by.items()} for name, by in rows.items()}
    of_row = rows["market"]["map"]
    judged = all_compared(of_row)
    made_by = write(RESULTS, {"figures": figures} | judged)
    print(json.dumps(judged, indent=1))
    options.out.mkdir(parents=True, exist_ok=True)
    write_atomically(options.out / "race.html", draw(of_row, made_by))
    print(options.out / "race.html")


def all_compared(of_row):
    """{"goals", "open": {what: figures}, "spread"} of {row: {seed: mAP in per cent}}.

    A goal is judged once all its rows have several seeds. What is open has rows of one seed, which tell no spread: it
    waits until every goal is judged, and takes the spread of their rows.
    """
    spread = spread_of(of_row)
    goals = {what: compared(of_row, *both, spread) for what, both in GOALS.items() if enough(of_row, both, seeds=2)}
    comparable = {} if len(goals) < len(GOALS) else OPEN
    still_open = {
        what: opened(of_row, *both, spread) | {"predicted": predicted}
        for what, (*both, predicted) in comparable.items()
        if enough(of_row, both, seeds=1)
    }
    return {"goals": goals, "open": still_open, "spread": round(spread, 3)}


def enough(of_row, both, *, seeds):
    """Whether a row and those it is compared with were each trained with that many seeds."""
    row, others = both
    return all(len(of_row.get(name, {})) >= seeds for name in (row, *others))


def figures_of(of_row):
    return {
        row: {
            "mean": round(float(np.mean(list(values.values()))), 2),
            "by_seed": {seed: round(value, 2) for seed, value in values.items()},
        }
        for row, values in of_row.items()
    }


def spread_of(of_row):
    """Between seeds, pooled over the rows."""
    return math.sqrt(np.mean([np.var(list(values.values()), ddof=1) for values in of_row.values() if len(values) > 1]))


def compared(of_row, row, others, spread):
    """A row less the best of the others, by the means of the seeds that each has; its error is of these numbers."""
    other = max(others, key=lambda name: np.mean(list(of_row[name].values())))
    own, against = (np.array(list(of_row[name].values())) for name in (row, other))
    error = spread * math.sqrt(1 / len(own) + 1 / len(against))
    points = float(own.mean() - against.mean())
    return {
        "row": row,
        "less": other,
        "points": round(points, 2),
        "standard_error": round(error, 2),
        "outside_the_spread": bool(abs(points) > 2 * error),
    }


def opened(of_row, row, others, spread):
    """As compared, and the same of seed 0 alone, which is all that some of these rows have."""
    first = {name: {"0": of_row[name]["0"]} for name in (row, *others)}
    return compared(of_row, row, others, spread) | {"seed_0": compared(first, row, others, spread)}


def drawn_of(of_row):
    """mAP of every training: dots for each row and a line for their mean; a ring where a row has one training alone."""
    figure = go.Figure()
    for row in sorted(of_row, key=lambda row: np.mean(list(of_row[row].values()))):
        values = list(of_row[row].values())
        add_marks(figure, row, values, SEVERAL if len(values) > 1 else ALONE)
        if len(values) > 1:
            add_marks(figure, row, [np.mean(values)], MEAN)
    figure.update_layout(xaxis_title="mAP of 200 other people (%)", yaxis_automargin=True)
    return figure


def add_marks(figure, row, values, look):
    line = {"width": 2, "color": look.colour}
    marker = {"color": look.colour, "symbol": look.symbol, "size": look.size_px, "line": line}
    figure.add_scatter(x=values, y=[row] * len(values), mode="markers", marker=marker)


def draw(of_row, made_by):
    """race.html under --out."""
    looks = {"one of several seeds": SEVERAL, "their mean": MEAN, "the only training of its row, seed 0": ALONE}
    figure = page.drawn(drawn_of(of_row), "race", height_px=96 + ROW_PX * len(of_row))
    return page.document(
        f"<section>{page.legend(looks)}{figure}</section>",
        page.definitions(page.origin(made_by, [])),
        kind="experiment",
        title="Networks for people, trained",
        subtitle="mAP of every training, by the row of protocol.md",
        banner="",
        facts=[],
    )


def write(path, values):
    """Values, and by what they were made, as JSON. The Provenance."""
    made_by = provenance(command=f"python experiments/reid/race.py {sys.argv[1]}")
    write_atomically(path, json.dumps({"made_by": made_by.model_dump()} | values, indent=1) + "\n")
    return made_by


if __name__ == "__main__":
    main()
