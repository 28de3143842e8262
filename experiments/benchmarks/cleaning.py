"""Time and memory of a round of cleaning over 10^4, 10^5 and 10^6 images, what that says of 42 million, and what cells
are worth.

    python experiments/benchmarks/cleaning.py --out experiments/benchmarks/cleaning.json

Synthetic embeddings of 512 numbers (float16): 20 images an identity, cosine of two of them 0.61 on average, with flips,
outliers, people cut in two and duplicates planted, so that every step has work. Each size in a process of its own;
memory is the most that it holds beside its files (RssAnon). The baseline of the search for the nearest centre compares
all centres (FAISS's flat index), in the same process, on the same queries.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np

from zennas.clean.centres import unit_rows
from zennas.clean.decisions import decision_N
from zennas.clean.index import PROBES, CentreIndex
from zennas.clean.plan import CleanPlan
from zennas.clean.state import DUPLICATE, FAR, MERGED, NEARER, State
from zennas.clean.steps import Bench, centres_of, clean_round
from zennas.embed.cells import use_threads
from zennas.pool import Pool
from zennas.provenance import num_cores, provenance

SIZE, IMAGES_EACH, NOISE = 512, 20, 0.035
FLIPS, OUTLIERS, SPLIT, COPIES = 0.1, 0.05, 0.05, 0.01
QUERIES = 8192  # of the comparison with all centres
PAPER = 42_000_000, 2_000_000  # images and identities of WebFace42M


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=1, help="processes on Ray; 1: this one alone, with all threads")
    parser.add_argument("--folder", type=pathlib.Path, help="where embeddings lie meanwhile")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.workers, options.folder)))
        return
    rows = []
    for size in options.sizes:
        command = [sys.executable, __file__, "--one", str(size), "--workers", str(options.workers)]
        command += ["--folder", str(options.folder)] if options.folder else []
        rows.append(
            json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1])
        )
        print(json.dumps(rows[-1], indent=1), flush=True)
    content = {
        "what": "a round of cleaning on synthetic embeddings, seconds and gigabytes",
        "workers": options.workers,
        "cores": num_cores(),
        "rows": rows,
        "growth": growth(rows),
        "extrapolated": extrapolated(rows) if len(rows) > 1 else None,
        "made_by": provenance(seed=0).model_dump(),
    }
    print(json.dumps({key: content[key] for key in ("growth", "extrapolated")}, indent=1))
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


class Stages:
    """What a Pool shows its progress to: how long each stage took."""

    def __init__(self):
        self.seconds, self._name, self._start = {}, "", 0.0

    def begin(self, name):
        self._name, self._start = name.split(" ", 2)[2], time.perf_counter()

    def counting(self, what):
        return lambda done, total: None

    def end(self):
        self.seconds[self._name] = self.seconds.get(self._name, 0.0) + time.perf_counter() - self._start

    def say(self, text, **others):
        print(text, file=sys.stderr)


def measured(num, num_workers, folder):
    """One row: a round over `num` images."""
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as inside:
        inside = pathlib.Path(inside)
        label_N, truth = planted(inside / "rows.npy", num)
        stages = Stages()
        with most_anonymous() as most, Pool(num_workers, num_threads=1, progress=stages) as pool:
            start = time.perf_counter()
            bench = Bench(inside / "rows.npy", CleanPlan(), pool, inside / "parts")
            state = clean_round(State.of(label_N), bench)
            seconds = time.perf_counter() - start
        centres = centres_of(state.label_N, None, dataclasses.replace(bench, pool=Pool(), folder=inside / "ended"))
        dropped_N, wrong_N = state.label_N < 0, truth["wrong_N"]
        return {
            "images": num,
            "identities": len(np.unique(label_N)),
            "seconds": round(seconds, 1),
            "images_per_s": round(num / seconds),
            "stages_s": {name: round(spent, 2) for name, spent in stages.seconds.items()},
            "rest_s": round(seconds - sum(stages.seconds.values()), 2),
            "peak_gb": round(most[0] / 1e9, 3),
            "embeddings_gb": round((inside / "rows.npy").stat().st_size / 1e9, 3),
            "recall": round(float(dropped_N[wrong_N].mean()), 4),
            "precision": round(float(wrong_N[dropped_N].mean()), 4),
            "halves_joined": round(len(state.merges.one_P) / max(1, truth["halves"]), 4),
            "reasons": {
                name: int((state.reason_N == reason).sum())
                for name, reason in (("merged", MERGED), ("nearer", NEARER), ("duplicate", DUPLICATE), ("far", FAR))
            },
            "decided": np.bincount(decision_N(state)).tolist(),
            "cells": against_all(centres, inside / "rows.npy", label_N),
        }


def planted(path, num):
    """(label_N, truth): embeddings written to `path`, part by part."""
    rng = np.random.default_rng(num)
    num_people = num // IMAGES_EACH
    centre_CD = unit_rows(rng.normal(size=(num_people, SIZE)).astype(np.float32))
    true_N = np.sort(rng.integers(num_people, size=num))
    label_N = true_N.copy()
    row_ND = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=(num, SIZE))
    kind_N = rng.choice(4, num, p=[1 - FLIPS - OUTLIERS - COPIES, FLIPS, OUTLIERS, COPIES])
    for start in range(0, num, 50_000):
        part = slice(start, start + 50_000)
        rows_BD = centre_CD[true_N[part]] + NOISE * rng.normal(size=(len(true_N[part]), SIZE)).astype(np.float32)
        outlier_B = kind_N[part] == 2
        rows_BD[outlier_B] = rng.normal(size=(outlier_B.sum(), SIZE))
        row_ND[part] = unit_rows(rows_BD)
    # A copy is the picture before it, under another name.
    copy_M = np.flatnonzero(kind_N == 3)
    copy_M = copy_M[(copy_M > 0) & (kind_N[copy_M - 1] == 0)]
    row_ND[copy_M] = row_ND[copy_M - 1]
    row_ND.flush()
    wrong_N = np.isin(kind_N, (1, 2))
    wrong_N[copy_M] = True
    moved = np.append(np.flatnonzero(kind_N == 1), copy_M)
    label_N[moved] = (label_N[moved] + rng.integers(1, num_people, len(moved))) % num_people
    halves = rng.choice(num_people, round(SPLIT * num_people), replace=False)
    half_of = np.full(num_people, -1)
    half_of[halves] = num_people + np.arange(len(halves))
    second_N = (half_of[label_N] >= 0) & (np.arange(num) % 2 == 1)
    label_N[second_N] = half_of[label_N[second_N]]
    return label_N.astype(np.int32), {"wrong_N": wrong_N, "halves": len(halves)}


def against_all(centres, path, label_N):
    """How cells compare with comparing all: queries a second of each, and how often they name the same nearest one."""
    unit_QD = unit_rows(
        np.load(path, mmap_mode="r")[np.random.default_rng(0).choice(len(label_N), QUERIES, replace=False)]
    )
    use_threads(num_cores())
    found = {}
    for name, flat in (("all", True), ("cells", False)):
        index = CentreIndex(centres.centre_CD, centres.number_C, flat=flat)
        start = time.perf_counter()
        number_Q2, cosine_Q2 = index.nearest(unit_QD, 2)
        found[name] = QUERIES / (time.perf_counter() - start), number_Q2, cosine_Q2
    known_Q = found["all"][2][:, 0] >= CleanPlan().tau_other
    return {
        "probed": PROBES,
        "queries_per_s": round(found["cells"][0]),
        "times_all": round(found["cells"][0] / found["all"][0], 2),
        # Of the faces that are somebody's here: what strangers are nearest to is chance.
        "same_first": round(float((found["cells"][1][:, 0] == found["all"][1][:, 0])[known_Q].mean()), 4),
    }


def growth(rows):
    """By what power of the number of images time grows from each size to the next."""
    return [
        {
            "from": one["images"],
            "to": other["images"],
            "power": round(math.log(other["seconds"] / one["seconds"]) / math.log(other["images"] / one["images"]), 3),
        }
        for one, other in itertools.pairwise(rows)
    ]


def extrapolated(rows):
    """A round over WebFace42M on this machine: stages that look at each image once grow as images do; the search for
    the nearest centre as images times the root of identities (cells, and what is in the ones that are looked into, are
    both such a root).
    """
    last, (images, identities) = rows[-1], PAPER
    by_images, by_root = images / last["images"], math.sqrt(identities / last["identities"])
    found = {
        name: spent * by_images * (by_root if name in ("inter", "merge") else 1)
        for name, spent in last["stages_s"].items()
    }
    found["rest"] = last["rest_s"] * by_images
    return {
        "images": images,
        "identities": identities,
        "hours": round(sum(found.values()) / 3600, 1),
        "hours_of_stages": {name: round(spent / 3600, 2) for name, spent in found.items()},
        "peak_gb": round(last["peak_gb"] * max(by_images, identities / last["identities"]), 1),
        "embeddings_gb": round(images * SIZE * 2 / 1e9, 1),
        "cores": num_cores(),
    }


@contextlib.contextmanager
def most_anonymous():
    """[the most bytes] that this process holds beside its files, while this is entered."""
    most, ended = [0], threading.Event()

    def watch():
        while not ended.wait(0.05):
            status = pathlib.Path("/proc/self/status").read_text()
            most[0] = max(most[0], int(status.split("RssAnon:")[1].split()[0]) * 1024)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()


if __name__ == "__main__":
    main()
