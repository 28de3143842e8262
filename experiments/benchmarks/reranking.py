"""Re-ranking at the size of Market-1501's test, 3,368 queries among 19,732 images, beside the plain formula over whole
matrices at a size that these fit.

    python experiments/benchmarks/reranking.py

ours   zennas.metrics.reranking.reciprocal_distances, its blocks taken one by one as an evaluation does
plain  the same formula as it is read: all distances, all ranks and all codes as matrices of N x N

Both see the same drawn embeddings: people of equal numbers of images, a cosine of 0.5 between images of one of them and
of 0 between others. Each row runs in a process of its own; memory is the most that the whole process held, with Python
and its libraries. Writes reranking.json beside this file.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

from zennas.metrics.likeness import blocks
from zennas.metrics.reranking import reciprocal_distances
from zennas.provenance import num_cores, provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__)
NUMBERS, EACH = 512, 26  # numbers of an embedding; images of a person, as in Market-1501's gallery
K1, K2, LAMBDA = 20, 6, 0.3
SMALL, WHOLE = (600, 3_400), (3_368, 19_732)  # queries, gallery


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=HERE.with_suffix(".json"))
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        way, queries, gallery, path = options.one
        print(json.dumps(measured(way, int(queries), int(gallery), path)))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = {way: pathlib.Path(folder, f"{way}.npy") for way in ("ours", "plain")}
        rows = [in_own_process(way, *SMALL, path) for way, path in paths.items()]
        difference = float(np.abs(np.load(paths["ours"]) - np.load(paths["plain"])).max())
        rows.append(in_own_process("ours", *WHOLE, ""))
    found = {
        "what": "re-ranking by k-reciprocal neighbours: seconds, and gigabytes of the process",
        "numbers": NUMBERS,
        "k1": K1,
        "k2": K2,
        "lambda": LAMBDA,
        "cores": num_cores(),
        "rows": rows,
        "largest_difference": difference,  # of any distance, between the two ways
        "plain_at_whole_size_gb": gigabytes(sum(WHOLE) ** 2 * bytes_of_a_pair()),
        "made_by": provenance(seed=0).model_dump(),
    }
    write_atomically(options.out, json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))


def in_own_process(way, queries, gallery, path):
    command = [sys.executable, str(HERE), "--one", way, str(queries), str(gallery), str(path)]
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(ended.stdout.splitlines()[-1])


def measured(way, queries, gallery, path):
    query_QD, gallery_GD = drawn(queries + gallery)[:queries], drawn(queries + gallery)[queries:]
    held_before, load = held(), os.getloadavg()[0]
    wall, start = time.perf_counter(), time.process_time()
    if way == "ours":
        distances = reciprocal_distances(query_QD, gallery_GD, k1=K1, k2=K2, lambda_value=LAMBDA)
        parts = [distances(*span) if path else distances(*span)[:, :1] for span in blocks(queries, gallery)]
        distance_QG = np.concatenate(parts)
    else:
        distance_QG = plain(query_QD, gallery_GD)
    seconds, wall = time.process_time() - start, time.perf_counter() - wall
    peak = held()
    if path:
        np.save(path, distance_QG)
    return {
        "way": way,
        "queries": queries,
        "gallery": gallery,
        "cpu_s": round(seconds, 1),
        "wall_s": round(wall, 1),
        "load_before": load,
        "held_before_gb": gigabytes(held_before),
        "peak_gb": gigabytes(peak),
    }


def drawn(num):
    rng = np.random.default_rng(0)
    centre_CD = rng.normal(size=(-(-num // EACH), NUMBERS)).astype(np.float32)
    whose_N = rng.permutation(num) // EACH
    return centre_CD[whose_N] + rng.normal(size=(num, NUMBERS)).astype(np.float32)


def plain(query_QD, gallery_GD):
    """distance_QG by the formula of Zhong et al. 2017, as zennas.metrics.reranking states it."""
    unit_ND = np.concatenate([query_QD, gallery_GD])
    unit_ND /= np.linalg.norm(unit_ND, axis=1, keepdims=True)
    d_NN = np.maximum(2 - 2 * (unit_ND @ unit_ND.T), 0)
    np.fill_diagonal(d_NN, 0)
    d_NN /= d_NN.max(axis=1, keepdims=True)
    rank_NN = np.argsort(d_NN, axis=1, kind="stable")
    mutual_NN, half_NN = (reciprocal(rank_NN, k) for k in (K1, round(K1 / 2)))
    code_NN = np.zeros_like(d_NN)
    for image, own_N in enumerate(mutual_NN):
        larger_N = own_N.copy()
        for member in np.flatnonzero(own_N):
            theirs_N = half_NN[member]
            if 3 * (theirs_N & own_N).sum() > 2 * theirs_N.sum():
                larger_N |= theirs_N
        code_NN[image, larger_N] = np.exp(-d_NN[image, larger_N])
    code_NN /= code_NN.sum(axis=1, keepdims=True)
    code_NN = np.stack([code_NN[near_K].mean(axis=0) for near_K in rank_NN[:, :K2]])
    num_queries = len(query_QD)
    least_QG = np.stack([np.minimum(code_N, code_NN[num_queries:]).sum(axis=1) for code_N in code_NN[:num_queries]])
    return (1 - LAMBDA) * (1 - least_QG / (2 - least_QG)) + LAMBDA * d_NN[:num_queries, num_queries:]


def reciprocal(rank_NN, k):
    near_NN = np.zeros(rank_NN.shape, bool)
    np.put_along_axis(near_NN, rank_NN[:, : k + 1], True, axis=1)
    return near_NN & near_NN.T


def bytes_of_a_pair():
    """What the plain way holds for each pair at once, at least: distances, ranks, codes and their mean."""
    return 4 + 8 + 4 + 4


def held():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def gigabytes(num):
    return round(num / 1e9, 3)


if __name__ == "__main__":
    main()
