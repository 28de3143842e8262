"""A small winner trained on real faces: does it learn, does a teacher help, does balancing help on the long tail?

    python experiments/lfw-smoke/smoke.py --faces lfw_aligned_112.tar --folds FOLDER --teacher mobilefacenet.onnx

FOLDER holds LFW's people.txt and pairs.txt. The people of folds 1 to 7 are trained on, the pairs of folds 8 to 10
(1,800) are the test: no identity is in both. Every variant is trained with every seed by `python -m zennas.train`, in
--out; what is done is not done again. Writes results.json, results.md and curves.html beside this file.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import statistics
import subprocess
import sys

import plotly.graph_objects as go

from zennas import page
from zennas.provenance import Provenance, provenance
from zennas.run_folder import write_atomically
from zennas.tasks.face.pairs import folds_of_people

HERE = pathlib.Path(__file__).parent
TRAIN_FOLDS, TEST_FOLDS = range(7), range(7, 10)
# What differs from experiment.yaml. Margin and scale are the recipe's for all three.
VARIANTS = {
    "Balanced Curricular": [],
    "CurricularFace": ["loss.name=curricularface", "loss.knobs={scale: 32.0, margin_rad: 0.3}"],
    "ArcFace": ["loss.name=arcface", "loss.knobs={scale: 32.0, margin_rad: 0.3}"],
    "Balanced Curricular + teacher": [],
}
TAUGHT = "Balanced Curricular + teacher"
COLOURS = dict(zip(VARIANTS, ("#0f766e", "#7c3aed", "#b45309", "#be123c"), strict=True))


def main():
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    identities, pairs = split(options)
    runs = [(variant, seed) for seed in options.seeds for variant in VARIANTS]
    # The teacher's embeddings are made once, by the first run that asks for them.
    runs.sort(key=lambda run: run[0] != TAUGHT or run[1] != options.seeds[0])
    with concurrent.futures.ThreadPoolExecutor(options.at_once) as pool:
        for run in pool.map(lambda run: train(*run, identities, pairs, options), runs):
            print(f"done: {run}", flush=True)
    publish(runs, options)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=pathlib.Path, required=True, help="aligned LFW, a .tar or a folder")
    parser.add_argument("--folds", type=pathlib.Path, required=True, help="folder of people.txt and pairs.txt")
    parser.add_argument("--teacher", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/lfw-smoke-trained"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=1, help="trainings side by side, the cores shared among them")
    parser.add_argument("--set", action="append", default=[], help="passed on to zennas.train")
    return parser.parse_args()


def split(options):
    """(file of the identities to train on, pairs file of the test folds)."""
    people = folds_of_people(options.folds / "people.txt")
    train = [name for fold in TRAIN_FOLDS for name in people[fold]]
    lines = (options.folds / "pairs.txt").read_text(encoding="utf-8").splitlines()
    per_kind = int(lines[0].split("\t")[1])
    folds = [lines[1 + start : 1 + start + 2 * per_kind] for start in range(0, len(lines) - 1, 2 * per_kind)]
    test = [line for fold in TEST_FOLDS for line in folds[fold]]
    tested = {word for line in test for word in line.split("\t") if not word.isdigit()}
    assert not tested & set(train), "an identity is in both"
    identities, pairs = options.out / "train-identities.txt", options.out / "lfw-folds-8-10.txt"
    write_atomically(identities, "\n".join(train) + "\n")
    write_atomically(pairs, "\n".join([f"{len(TEST_FOLDS)}\t{per_kind}", *test]) + "\n")
    return identities, pairs


def folder_of(variant, seed, options):
    name = variant.lower().replace(" + ", "-").replace(" ", "-")
    return options.out / f"{name}-{seed}"


def train(variant, seed, identities, pairs, options):
    """Train one variant with one seed, unless that is done."""
    if (folder_of(variant, seed, options) / "result.json").is_file():
        return variant, seed
    changes = [f"seed={seed}", *VARIANTS[variant], *options.set]
    command = [sys.executable, "-m", "zennas.train", "--track", "lfw-smoke", "--winner", str(HERE / "winner-1.yaml")]
    command += ["--data", str(options.faces), "--identities", str(identities), "--verify", f"{pairs}@{options.faces}"]
    # Trainings side by side are no place to measure a latency; the search has measured this winner's.
    command += ["--any-size", "--out", str(folder_of(variant, seed, options))]
    command += [word for change in changes for word in ("--set", change)]
    if variant == TAUGHT:
        command += ["--teacher", str(options.teacher)]
    threads = str(max(1, len(os.sched_getaffinity(0)) // options.at_once))
    log = folder_of(variant, seed, options).with_suffix(".log")
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run(
            command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": threads}, check=False
        )
    if done.returncode != 0:
        raise SystemExit(f"{variant}, seed {seed}: exit code {done.returncode}; see {log}")
    return variant, seed


def publish(runs, options):
    """results.json, results.md and curves.html from what the trainings left."""
    rows, curves = {}, {}
    for variant, seed in runs:
        folder = folder_of(variant, seed, options)
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        ((_, accuracy),) = result["accuracy"].items()
        entries = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        course = [(entry["epoch"], entry["accuracy"]) for entry in entries if entry["kind"].startswith("verify/")]
        rows.setdefault(variant, {})[seed] = {
            "untrained": accuracy["untrained"],
            "trained": accuracy["student"]["accuracy"],
            "tar_at_far_1e-3": accuracy["student"]["tar"],
            "teacher": accuracy["teacher"]["accuracy"] if accuracy["teacher"] else None,
            "images_per_s": result["training"]["images_per_s"],
            "seconds": result["training"]["seconds"],
        }
        curves[variant, seed] = course
    some = json.loads((folder_of(*runs[0], options) / "result.json").read_text(encoding="utf-8"))
    found = {
        "made_by": provenance().model_dump(),
        "candidate": some["candidate"],
        "macs": some["macs"],
        "params": some["params"],
        "num_images": some["training"]["num_images"],
        "num_identities": some["training"]["num_identities"],
        "epochs": some["training"]["epochs"],
        "runs": {variant: {str(seed): row for seed, row in sorted(rows[variant].items())} for variant in VARIANTS},
        "differences": differences(rows),
    }
    write_atomically(HERE / "results.json", json.dumps(found, indent=1) + "\n")
    write_atomically(HERE / "results.md", as_table(found))
    write_atomically(HERE / "curves.html", as_page(found, curves))
    print(as_table(found))


def differences(rows):
    """{comparison: points of accuracy per seed, mean, standard deviation}: the same seed on both sides."""
    found = {}
    for one, other in (
        (TAUGHT, "Balanced Curricular"),
        ("Balanced Curricular", "CurricularFace"),
        ("Balanced Curricular", "ArcFace"),
    ):
        points = [100 * (rows[one][seed]["trained"] - rows[other][seed]["trained"]) for seed in sorted(rows[one])]
        found[f"{one} against {other}"] = {
            "points": [round(point, 2) for point in points],
            "mean": round(statistics.mean(points), 2),
            "std": round(statistics.stdev(points), 2) if len(points) > 1 else None,
        }
    return found


def as_table(found):
    """results.md."""
    lines = [
        "| trained with | "
        + " | ".join(f"seed {seed}" for seed in found["runs"][TAUGHT])
        + " | mean ± std | TAR@FAR 1e-3 |",
        "|---" * (len(found["runs"][TAUGHT]) + 3) + "|",
    ]
    untrained = [row["untrained"] for row in found["runs"]["ArcFace"].values()]
    tables = {"nothing (untrained)": (untrained, None)}
    for variant, rows in found["runs"].items():
        trained = [row["trained"] for row in rows.values()]
        tables[variant] = trained, statistics.mean(row["tar_at_far_1e-3"] for row in rows.values())
    for name, (shares, tar) in tables.items():
        percent = [100 * share for share in shares]
        std = f"{statistics.stdev(percent):.2f}" if len(percent) > 1 else "-"
        cells = [f"{one:.2f}" for one in percent] + [f"{statistics.mean(percent):.2f} ± {std}"]
        lines.append(f"| {name} | " + " | ".join([*cells, "" if tar is None else f"{100 * tar:.1f}"]) + " |")
    teacher = next(iter(found["runs"][TAUGHT].values()))["teacher"]
    lines.append(f"| the teacher itself | {100 * teacher:.2f} |" + " |" * (len(untrained) + 1))
    lines += ["", "Differences in points of accuracy, the same seed on both sides:", ""]
    for name, row in found["differences"].items():
        points, std = ", ".join(f"{one:+.2f}" for one in row["points"]), page.number(row["std"], ".2f")
        lines.append(f"- {name}: {row['mean']:+.2f} ± {std} ({points})")
    return "\n".join(lines) + "\n"


def as_page(found, curves):
    """curves.html: accuracy over epochs, a line per training."""
    figure = go.Figure()
    for (variant, seed), course in curves.items():
        epochs, shares = zip(*course, strict=True)
        figure.add_scatter(
            x=epochs,
            y=[100 * share for share in shares],
            mode="lines+markers",
            line={"color": COLOURS[variant], "width": 1.5},
            marker={"size": 4},
            hovertemplate=f"{variant}, seed {seed}<br>epoch %{{x:.1f}}: %{{y:.2f}} %<extra></extra>",
        )
    teacher = next(iter(found["runs"][TAUGHT].values()))["teacher"]
    figure.add_hline(
        y=100 * teacher, line={"color": page.INK, "dash": "dash", "width": 1}, annotation_text="the teacher"
    )
    figure.update_xaxes(title="Epoch")
    figure.update_yaxes(title="Accuracy on 1,800 pairs, %")
    looks = {variant: page.Look(colour, "━") for variant, colour in COLOURS.items()}
    facts = [
        ("network", f"{found['macs'] / 1e6:.0f} MMACs, {found['params'] / 1e6:.2f} M parameters, 56 px"),
        ("trained on", f"{found['num_images']:,} images of {found['num_identities']:,} people: LFW's folds 1 to 7"),
        ("tested on", "the 1,800 pairs of folds 8 to 10; no identity is in both"),
        ("each line", "one training; three seeds a colour"),
    ]
    drawn = page.legend(looks) + page.drawn(figure, "accuracy", height_px=520)
    sections = f"<section><h2>Accuracy while training</h2>{drawn}</section>"
    return page.document(
        sections,
        page.definitions(page.origin(Provenance(**found["made_by"]), [])),
        kind="experiment",
        title="lfw-smoke",
        subtitle="A small winner on real faces: with and without a teacher, and on the long tail",
        banner="",
        facts=facts,
    )


if __name__ == "__main__":
    main()
