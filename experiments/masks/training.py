"""What training on masked faces does: a small network with 0, 5, 15 and 25 % of its images masked, three seeds of each.

    python experiments/masks/training.py --faces lfw_aligned_112.tar --folds FOLDER --out runs/masks

FOLDER holds LFW's people.txt and pairs.txt. As experiments/lfw-smoke: the people of folds 1 to 7 are trained on, the
pairs of folds 8 to 10 (1,800) are the test; its recipe, but for EPOCHS and `data.mask.ratio`. Every network is then
asked about the same pairs three times: no face masked, one of the two, both. The masks of the test are of a seed that
no training has. Every training is run by `python -m zennas.train`, in --out; what is done is not done again. Writes
results.json and results.md beside this file.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

import torch
from masked_pairs import judged, masked_copies, unit_embeddings

from zennas.embed.model import open_model
from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.tasks.face.pairs import folds_of_people, open_pairs

HERE = pathlib.Path(__file__).parent
SMOKE = HERE.parent / "lfw-smoke"
RATIOS, SEEDS = (0.0, 0.15, 0.05, 0.25), (0, 1, 2)
TRAIN_FOLDS, TEST_FOLDS = range(7), range(7, 10)
EPOCHS = 5  # lfw-smoke's recipe has 12: twelve trainings of those take two hours of a core
TEST_SEED = 1000  # of the masks of the test
SETS = {"unmasked": "neither masked", "one masked": "one of the two masked", "both masked": "both masked"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=pathlib.Path, required=True, help="aligned LFW, a .tar or a folder")
    parser.add_argument("--folds", type=pathlib.Path, required=True, help="folder of people.txt and pairs.txt")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/masks"))
    parser.add_argument("--epochs", type=float, default=EPOCHS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    identities, pairs_path = split(options)
    pairs = open_pairs(f"{pairs_path}@{options.faces}")
    copies, rows = None, {}
    for seed in SEEDS:
        for ratio in RATIOS:
            folder, kept = folder_of(ratio, seed, options), folder_of(ratio, seed, options) / "masked.json"
            train(ratio, seed, identities, options)
            if not kept.is_file():
                copies = copies or masked_copies(pairs.images, seed=TEST_SEED)
                write_atomically(kept, json.dumps(asked(folder, pairs, copies)))
            rows.setdefault(ratio, {})[seed] = json.loads(kept.read_text(encoding="utf-8"))
            print(f"{ratio:.0%}, seed {seed}: {rows[ratio][seed]}", flush=True)
            publish(rows, options)


def split(options):
    """(file of the identities to train on, pairs file of the test folds), as experiments/lfw-smoke has them."""
    people = folds_of_people(options.folds / "people.txt")
    lines = (options.folds / "pairs.txt").read_text(encoding="utf-8").splitlines()
    per_kind = int(lines[0].split("\t")[1])
    test = [line for fold in TEST_FOLDS for line in lines[1 + fold * 2 * per_kind : 1 + (fold + 1) * 2 * per_kind]]
    identities, pairs = options.out / "train-identities.txt", options.out / "lfw-folds-8-10.txt"
    write_atomically(identities, "\n".join(name for fold in TRAIN_FOLDS for name in people[fold]) + "\n")
    write_atomically(pairs, "\n".join([f"{len(TEST_FOLDS)}\t{per_kind}", *test]) + "\n")
    return identities, pairs


def folder_of(ratio, seed, options):
    return options.out / f"ratio-{round(100 * ratio):02d}-seed-{seed}"


def train(ratio, seed, identities, options):
    """Train with this ratio and seed, unless that is done."""
    folder = folder_of(ratio, seed, options)
    if (folder / "result.json").is_file():
        return
    changes = [f"seed={seed}", f"epochs={options.epochs:g}", "verify_epochs=100", f"data.mask.ratio={ratio}"]
    command = [sys.executable, "-m", "zennas.train", "--track", "lfw-smoke", "--winner", str(SMOKE / "winner-1.yaml")]
    command += ["--data", str(options.faces), "--identities", str(identities), "--any-size", "--out", str(folder)]
    command += [word for change in changes for word in ("--set", change)]
    start, log = time.monotonic(), folder.with_suffix(".log")
    with open(log, "a", encoding="utf-8") as file:
        threads = str(len(os.sched_getaffinity(0)))
        done = subprocess.run(
            command, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": threads}, check=False
        )
    if done.returncode != 0:
        raise SystemExit(f"{folder}: exit code {done.returncode}; see {log}")
    print(f"{folder.name}: trained in {time.monotonic() - start:.0f} s", flush=True)


def asked(folder, pairs, copies):
    """What the trained network makes of the pairs: {set: its numbers}."""
    model = open_model(folder, mean=(127.5,) * 3, std=(127.5,) * 3, device=torch.device("cpu"), trusted=True)

    def embed_batch(image_BHW3):
        return model(image_BHW3).embedding_BD

    plain_ND = unit_embeddings(pairs.images, embed_batch, model.input_hw)
    masked_ND = unit_embeddings(copies.images, embed_batch, model.input_hw)
    training = json.loads((folder / "result.json").read_text(encoding="utf-8"))["training"]
    return {
        "unmasked": judged(plain_ND, plain_ND, pairs),
        "one masked": judged(masked_ND, plain_ND, pairs),
        "both masked": judged(masked_ND, masked_ND, pairs),
        "images_per_s": training["images_per_s"],
    }


def publish(rows, options):
    """results.json and results.md of what there is so far."""
    found = {
        "made_by": provenance().model_dump(),
        "epochs": options.epochs,
        "num_pairs": 1800,
        "runs": {
            f"{ratio:g}": {str(seed): row for seed, row in seeds.items()} for ratio, seeds in sorted(rows.items())
        },
    }
    write_atomically(HERE / "results.json", json.dumps(found, indent=1) + "\n")
    write_atomically(HERE / "results.md", as_table(rows, options))


def as_table(rows, options):
    """Accuracy, and its difference to training without masks, seed by seed."""
    lines = [
        f"Accuracy in % on the 1,800 pairs of LFW's folds 8 to 10, {options.epochs:g} epochs on folds 1 to 7: mean ± "
        f"standard",
        "deviation over the seeds; behind it, against ratio 0 with the same seed.",
        "",
        "| masked in training | seeds | " + " | ".join(SETS.values()) + " |",
        "|---" * (2 + len(SETS)) + "|",
    ]
    for ratio, seeds in sorted(rows.items()):
        cells = []
        for name in SETS:
            value = [100 * row[name]["accuracy"] for row in seeds.values()]
            cell = f"{statistics.mean(value):.2f}" + (f" ± {statistics.stdev(value):.2f}" if len(value) > 1 else "")
            both = [seed for seed in seeds if seed in rows.get(0.0, {})]
            if ratio and both:
                gain = [100 * (seeds[seed][name]["accuracy"] - rows[0.0][seed][name]["accuracy"]) for seed in both]
                cell += f" ({statistics.mean(gain):+.2f}" + (
                    f" ± {statistics.stdev(gain):.2f})" if len(gain) > 1 else ")"
                )
            cells.append(cell)
        lines.append(f"| {100 * ratio:g} % | {len(seeds)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
