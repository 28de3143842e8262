"""The comprehensive search on real faces: what do cleaning, a searched margin and another shape bring, found together?

    python experiments/comprehensive-search/comprehensive_search.py --faces lfw_aligned_112.tar --folds FOLDER \
        --embeddings-from mobilefacenet.onnx,normalise=imagenet

FOLDER holds LFW's people.txt. The people of folds 1 to 6 are trained on, the reward is taken on those of folds 7 and 8,
the test on those of folds 9 and 10; no identity is in two of them. LFW's labels are nearly clean, so noise is planted
in what is trained on, and there alone: images that change their identity, people cut in two, and strangers (people of
folds 9 and 10 with one image, who are then not in the test). Runs `python -m zennas.tune` in --out; what is done is not
done again. Writes results.json, results.md and trials.csv beside this file.
"""

import argparse
import collections
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pandas as pd

from zennas.run_folder import write_atomically
from zennas.tasks.face.pairs import folds_of_people
from zennas.tune.report import spread

HERE = pathlib.Path(__file__).parent
FOLDS = {"train": range(6), "held-out": range(6, 8), "test": range(8, 10)}
MOVED = 0.12  # of the images that are trained on: they get the name of somebody else
STRANGERS = 0.06  # so many more, of people who are nowhere else
MIN_CUT = 6  # images from which on a person is cut in two, every second one of them
SEED = 0
COMMAND = (
    "python experiments/comprehensive-search/comprehensive_search.py --faces lfw_aligned_112.tar --folds FOLDER ..."
)
WHAT = {"recipe": "the recipe as it stands", "best": "the best"}


def main():
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    planted = build(options)
    command = [sys.executable, "-m", "zennas.tune", "--track", "comprehensive-search"]
    command += ["--winner", str(HERE / "winner-1.yaml"), "--data", str(options.out / "faces.tar")]
    command += ["--held-out", str(options.out / "held-out.txt"), "--test", str(options.out / "test.txt")]
    command += ["--embeddings-from", options.embeddings_from, "--out", str(options.out / "tuned"), *options.more]
    subprocess.run(command, check=True)
    publish(options.out / "tuned", planted)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=pathlib.Path, required=True, help="aligned LFW, a .tar of Name/Name_0001.jpg")
    parser.add_argument("--folds", type=pathlib.Path, required=True, help="folder of people.txt")
    parser.add_argument("--embeddings-from", required=True, help="as zennas tune takes it")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/comprehensive-search"))
    parser.add_argument("more", nargs="*", help="behind --: passed on to zennas.tune")
    return parser.parse_args()


def build(options):
    """Write faces.tar, held-out.txt and test.txt under --out, unless they are there; what was planted, counted."""
    told = options.out / "planted.json"
    if told.is_file():
        return json.loads(told.read_text(encoding="utf-8"))
    people = folds_of_people(options.folds / "people.txt")
    group_of = {name: group for group, folds in FOLDS.items() for fold in folds for name in people[fold]}
    with tarfile.open(options.faces) as tar:
        images = {member.name: tar.extractfile(member).read() for member in tar if member.name.endswith(".jpg")}
    by_name = collections.defaultdict(list)
    for path in sorted(images):
        by_name[path.split("/")[-2]].append(path)
    entries, planted = relabelled(by_name, group_of, np.random.default_rng(SEED))
    with tarfile.open(options.out / ".faces.tar.tmp", "w") as tar:
        for number, (path, name) in enumerate(entries):
            member = tarfile.TarInfo(f"{name}/{number:05d}.jpg")
            member.size = len(images[path])
            tar.addfile(member, io.BytesIO(images[path]))
    (options.out / ".faces.tar.tmp").replace(options.out / "faces.tar")
    names = {
        group: sorted({name for _, name in entries if group_of.get(name) == group}) for group in ("held-out", "test")
    }
    for group, group_names in names.items():
        write_atomically(options.out / f"{group}.txt", "\n".join(group_names) + "\n")
    write_atomically(told, json.dumps(planted))
    return planted


def relabelled(by_name, group_of, rng):
    """([(path, name it goes under)], {kind of noise: how many})."""
    train = [(path, name) for name, paths in by_name.items() if group_of.get(name) == "train" for path in paths]
    clean = [(path, name) for name, paths in by_name.items() if group_of.get(name) == "held-out" for path in paths]
    last = {name: paths for name, paths in by_name.items() if group_of.get(name) == "test"}
    alone = [paths[0] for paths in last.values() if len(paths) == 1]
    strangers = [alone[place] for place in rng.permutation(len(alone))[: round(STRANGERS * len(train))]]
    clean += [(path, name) for name, paths in last.items() for path in paths if path not in set(strangers)]
    # Somebody with many images is mistaken for somebody else more often, and has more strangers among them.
    name_N = np.array([name for _, name in train])
    moved = set(rng.permutation(len(train))[: round(MOVED * len(train))].tolist())
    found = [
        (path, str(rng.choice(name_N[name_N != name])) if at in moved else name)
        for at, (path, name) in enumerate(train)
    ]
    found += [(path, str(rng.choice(name_N))) for path in strangers]
    counts, seen, entries = collections.Counter(name for _, name in found), collections.Counter(), []
    for path, name in found:
        seen[name] += 1
        cut = counts[name] >= MIN_CUT and seen[name] % 2
        entries.append((path, f"{name}~2" if cut else name))
    planted = {
        "moved": len(moved),
        "strangers": len(strangers),
        "cut_in_two": sum(count >= MIN_CUT for count in counts.values()),
        "train_images": len(entries),
        "train_identities": len({name for _, name in entries}),
    }
    return entries + clean, planted


def publish(tuned, planted):
    """results.json, results.md and trials.csv from what the search left."""
    summary = json.loads((tuned / "run.json").read_text(encoding="utf-8"))["summary"]
    summary["made_by"]["command"] = COMMAND  # as a reader would type it: paths are of one machine
    write_atomically(HERE / "results.json", json.dumps({"planted": planted, **summary}, indent=1) + "\n")
    shutil.copy(tuned / "trials.csv", HERE / "trials.csv")
    write_atomically(HERE / "results.md", as_text(summary, planted, pd.read_csv(tuned / "trials.csv")))


def as_text(summary, planted, trials):
    """results.md."""
    tprs = [key for key in summary["best"] if key.startswith("tpr@")]
    lines = [
        f"{summary['trials']} trials of at most {summary['epochs']} epochs: "
        + ", ".join(f"{count} {state}" for state, count in summary["states"].items())
        + f"; {trials['seconds'].sum() / 60:.0f} minutes of one core. Planted: {planted['moved']} images moved, "
        f"{planted['strangers']} strangers, {planted['cut_in_two']} people cut in two, of {planted['train_images']} "
        f"images.",
        "",
        f"| one seed, per cent | reward | {' | '.join(tprs)} | images | identities | backbone |",
        "|---|" + "---:|" * (len(tprs) + 3) + "---|",
    ]
    best = summary["best"]
    for name, row in (("recipe as it stands", summary["recipe"]), (f"best, trial {best['trial']}", best)):
        cells = [f"{100 * row[key]:.2f}" for key in ("reward", *tprs)]
        cells += [str(row[key]) for key in ("num_images", "num_identities")]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['candidate']['widths']} x {row['candidate']['depths']} |")
    knobs = ", ".join(f"{name} {value:.3g}" for name, value in summary["best"]["knobs"].items() if name != "shape")
    lines += ["", f"Its knobs: {knobs}."]
    if confirmed := summary["confirmed"]:
        seeds = ", ".join(str(row["seed"]) for row in confirmed["rows"]["recipe"])
        lines += ["", f"| seeds {seeds}, reward, per cent | held out | above the recipe | test | above the recipe |"]
        lines += ["|---|---:|---:|---:|---:|"]
        for name, rows in confirmed["rows"].items():
            cells = []
            for who in ("held_out", "test"):
                cells.append(", ".join(f"{100 * row[who]:.2f}" for row in rows))
                cells.append(spread(confirmed["differences"].get(name, {}).get(who, [])))
            lines.append(f"| {WHAT.get(name, f'its {name} alone')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
