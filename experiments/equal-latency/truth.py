"""A truth table of IR-SE networks of equal measured latency: which of them recognises faces better, once trained?

    python experiments/equal-latency/truth.py choose
    python experiments/equal-latency/truth.py train --faces lfw_aligned_112.tar --folds FOLDER --teacher
    mobilefacenet.onnx python experiments/equal-latency/truth.py publish --faces lfw_aligned_112.tar --folds FOLDER

No public table holds such networks. `choose` measures candidates of space ir_se_tiny whole and keeps those of one
latency that differ most (run it on a quiet machine); `train` trains each by experiment.yaml, a third of them with a
second seed; `publish` embeds the people that none was trained on and writes truth.json, truth.html and the tables of
truth.md beside this file. FOLDER holds LFW's people.txt and pairs.txt: the people of folds 1 to 7 are trained on.
Everything is kept under --out, in pieces: the same command goes on where it stopped.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys

import numpy as np

from zennas.latency.budget import export_candidate
from zennas.latency.protocol import measure
from zennas.provenance import provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "lfw-smoke"))
EXPERIMENT = str(HERE / "experiment.yaml")
TARGET_MS, NEAR_PCT = 0.87, 6.5  # measured; those further off are left out
NUM_CANDIDATES, NUM_MEASURED, NUM_DRAWS = 44, 480, 16_000
FIRST_ROUNDS, MORE_ROUNDS = 3, 8  # of measurements: of all, and of those that are near after the first
SECOND_SEED_EVERY = 3
PUBLISHED_BY = "python experiments/equal-latency/truth.py publish --faces lfw_aligned_112.tar --folds FOLDER"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["choose", "train", "publish"])
    parser.add_argument("--faces", type=pathlib.Path, help="aligned LFW, a .tar or a folder")
    parser.add_argument("--folds", type=pathlib.Path, help="folder of people.txt and pairs.txt")
    parser.add_argument("--teacher", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/equal-latency"))
    parser.add_argument("--threads", type=int, default=1, help="of a training")
    parser.add_argument("--target-ms", type=float, default=TARGET_MS, help="choose: the latency of all candidates")
    parser.add_argument("--candidates", type=int, default=NUM_CANDIDATES, help="choose: how many are kept")
    parser.add_argument("--measured", type=int, default=NUM_MEASURED, help="choose: how many are measured for them")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    {"choose": choose, "train": train, "publish": publish}[options.what](options)


def choose(options):
    """candidates.json: candidates of equal measured latency, as different as they come."""
    from zennas.latency.budget import choose_protocol
    from zennas.latency.table import LatencyTable
    from zennas.track import load_experiment

    _, track, space = load_experiment(EXPERIMENT)
    protocol, _ = choose_protocol(track)
    sizes = {"shape": space.shape}
    table = LatencyTable(protocol)
    table.ensure(table.parts_for(space))
    # The table's sums are of parts with cold caches; networks as small as these keep theirs warm.
    rng = np.random.default_rng(0)
    drawn = [space.sample(rng) for _ in range(NUM_DRAWS)]
    known = measure_in_rounds(drawn[:20], protocol, sizes, num=FIRST_ROUNDS)
    factor = float(np.median([median(rounds) / table.predict(one, **sizes) for one, rounds in known]))
    predicted = {one: factor * table.predict(one, **sizes) for one in drawn}
    pool = [one for one, ms in predicted.items() if abs(ms / options.target_ms - 1) < 3 * NEAR_PCT / 100]
    print(f"factor {factor:.3f}, pool {len(pool)}", flush=True)
    first = measure_in_rounds(spread_out(pool, options.measured, table, sizes), protocol, sizes, num=FIRST_ROUNDS)
    off = [100 * abs(predicted[one] / median(rounds) - 1) for one, rounds in first]
    print(f"predictions of {len(off)} off by {np.mean(off):.1f} % on average, {max(off):.1f} % at worst", flush=True)
    near = [one for one, rounds in first if abs(median(rounds) / options.target_ms - 1) < 2 * NEAR_PCT / 100]
    near = [
        (one, rounds)
        for one, rounds in measure_in_rounds(near, protocol, sizes, num=MORE_ROUNDS)
        if abs(median(rounds) / options.target_ms - 1) < NEAR_PCT / 100
    ]
    kept = {one.key for one in spread_out([one for one, _ in near], options.candidates, table, sizes)}
    entries = [
        {"text": one.text, "candidate": one.plain(), "measured_ms": median(rounds), "rounds_ms": rounds}
        for one, rounds in near
        if one.key in kept
    ]
    np.random.default_rng(1).shuffle(entries)
    print(f"{len(entries)} of {len(near)} within {NEAR_PCT} % of {options.target_ms} ms")
    (options.out / "candidates.json").write_text(json.dumps(entries, indent=1))


def measure_in_rounds(candidates, protocol, sizes, *, num):
    """[(candidate, its ms in each round)]: by the track's rule in `num` rounds over all of them.

    Below a millisecond a neighbour on the machine moves a single measurement by ten per cent; it does not stay for all
    rounds.
    """
    files = [export_candidate(candidate, sizes["shape"], protocol).onnx_bytes for candidate in candidates]
    rounds_RN = [[round(measure(file, protocol).measured_ms, 4) for file in files] for _ in range(num)]
    return list(zip(candidates, map(list, zip(*rounds_RN, strict=True)), strict=True))


def median(rounds):
    return round(float(np.median(rounds)), 4)


def spread_out(candidates, num, table, sizes):
    """`num` of the candidates, each the one farthest from those before it: in depth, in width, in where the time
    goes."""
    feature_NF = np.array([features(candidate, table, sizes) for candidate in candidates])
    feature_NF /= feature_NF.std(0)
    chosen = [int(np.argmax(feature_NF[:, 0]))]
    nearest_N = np.full(len(candidates), np.inf)
    while len(chosen) < min(num, len(candidates)):
        nearest_N = np.minimum(nearest_N, ((feature_NF - feature_NF[chosen[-1]]) ** 2).sum(1))
        chosen.append(int(np.argmax(nearest_N)))
    return [candidates[index] for index in chosen]


def features(candidate, table, sizes):
    """(log blocks, log mean width, share of the time in the first stage, share in the last)."""
    alone = [candidate.model_copy(update={"depths": tuple(1 + (stage == at) for at in range(3))}) for stage in range(3)]
    base = table.predict(candidate.model_copy(update={"depths": (1, 1, 1)}), **sizes)
    per_block = [table.predict(one, **sizes) - base for one in alone]
    share_S = np.array([depth * ms for depth, ms in zip(candidate.depths, per_block, strict=True)])
    share_S = share_S / share_S.sum()
    width = np.exp(np.average(np.log(candidate.widths), weights=candidate.depths))
    return np.log(candidate.num_blocks), np.log(width), share_S[0], share_S[2]


def runs_of(options):
    """[(entry, seed)]: first every candidate once, then a third of them again."""
    entries = json.loads((options.out / "candidates.json").read_text())
    return [(entry, 0) for entry in entries] + [(entry, 1) for entry in entries[::SECOND_SEED_EVERY]]


def folder_of(entry, seed, options):
    return options.out / f"{entry['text']}-{seed}"


def train(options):
    from smoke import split

    identities, _ = split(options)
    runs = runs_of(options)
    for number, (entry, seed) in enumerate(runs, start=1):
        folder = folder_of(entry, seed, options)
        if (folder / "result.json").is_file():
            continue
        winner = folder.with_suffix(".yaml")
        winner.write_text(json.dumps(entry["candidate"]))
        command = [sys.executable, "-m", "zennas.train", "--track", EXPERIMENT, "--winner", str(winner), "--any-size"]
        command += ["--data", str(options.faces), "--identities", str(identities), "--teacher", str(options.teacher)]
        command += ["--out", str(folder), "--set", f"seed={seed}"]
        with open(folder.with_suffix(".log"), "a", encoding="utf-8") as log:
            threads = {"OMP_NUM_THREADS": str(options.threads)}
            done = subprocess.run(command, stdout=log, stderr=log, env={**os.environ, **threads}, check=False)
        if done.returncode:
            raise SystemExit(f"{folder}: exit code {done.returncode}; see {folder.with_suffix('.log')}")
        print(f"{number} of {len(runs)}: {entry['text']}, seed {seed}", flush=True)


def publish(options):
    """truth.json, truth.html and the tables of truth.md, from the trainings that are done."""
    import truth_figures
    from nb201 import with_table
    from smoke import TEST_FOLDS, folds_of_people, split

    from zennas.track import load_experiment

    _, pairs = split(options)
    people = folds_of_people(options.folds)
    held_out_file = options.out / "held-out-identities.txt"
    write_atomically(held_out_file, "".join(f"{name}\n" for fold in TEST_FOLDS for name in people[fold]))
    _, _, space = load_experiment(EXPERIMENT)
    runs = [run for run in runs_of(options) if (folder_of(*run, options) / "result.json").is_file()]
    print(f"{len(runs)} of {len(runs_of(options))} trainings are done")
    entries = list({id(entry): entry for entry, _ in runs}.values())
    held_out = truth_figures.HeldOut(options.faces, held_out_file, pairs)
    rows = truth_figures.compute(
        entries, runs, lambda *run: folder_of(*run, options), held_out, space, options.out / "judged.json"
    )
    found = truth_figures.figures(rows)
    published = {
        "made_by": provenance(seed=0, command=PUBLISHED_BY).model_dump(),
        "num_people": held_out.num_people,
        "num_images": len(held_out.place_N),
        "num_same_pairs": int(held_out.same_P.sum()),
        "drawn": truth_figures.DRAWN,
        "found": found,
        "candidates": rows,
    }
    write_atomically(HERE / "truth.json", json.dumps(published, indent=1) + "\n")
    write_atomically(HERE / "truth.html", truth_figures.as_page(published))
    notes = HERE / "truth.md"
    for heading, table in truth_figures.as_tables(found, rows).items():
        print(f"{heading}\n{table}")
        if notes.is_file():
            write_atomically(notes, with_table(notes.read_text(encoding="utf-8"), heading, table))


if __name__ == "__main__":
    main()
