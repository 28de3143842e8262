"""Are TARs over all pairs and over given pairs found sooner than a plain loop and scikit-learn find them?

    python experiments/benchmarks/plain_loops.py

All pairs, one thread, in turn in one process, the least processor time of several rounds (others may use the machine):
  strongest   a loop over 1024 rows at a time: products by numpy in float32, same pairs and those below the diagonal
              masked, what is above the floor kept, the floor raised by np.partition when twice the need is kept
  histogram   the same products, every pair counted by np.bincount in 2^20 bins: its thresholds are those of a bin
  sklearn     roc_curve of all pairs, whose products a loop has put into one array: up to 3,000 embeddings
  ours        all_to_all, with its curve, histogram and hardest pairs, which the loops do not give
Both loops find TARs alone. Ours has to agree with the first to 1e-5 in the threshold (its float32), and to the TAR of
one pair in ten thousand. Given pairs: six FARs as IJB's tables have them, against roc_curve; the TARs have to be equal.
Writes plain_loops.json beside this file.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch
from all_to_all import faces
from sklearn.metrics import roc_curve

from zennas.evaluate.judges import ALL_FARS, IJB_FARS
from zennas.metrics.all_to_all import all_to_all
from zennas.metrics.templates import tars_at_nearest_fars
from zennas.metrics.verification import num_allowed, tars_at_fars
from zennas.provenance import provenance
from zennas.run_folder import write_atomically

FARS = {"default": ALL_FARS, **{f"{far:g}": (far,) for far in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-8)}}
ROWS, BINS, SKLEARN_ROWS = 1024, 2**20, 3000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 3000, 10_000, 20_000, 50_000])
    parser.add_argument("--pairs", type=int, nargs="*", default=[1000, 20_000, 200_000, 1_000_000, 2_000_000])
    parser.add_argument("--fars", nargs="*", choices=list(FARS), default=list(FARS))
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    result = {"what": "seconds of one core: the least processor time of the rounds", "all_pairs": [], "given_pairs": []}
    for num_rows in options.rows:
        embedding_ND, label_N = faces(num_rows, options)
        ours(embedding_ND[:2500], label_N[:2500], [1e-3])  # the first call makes its kernels
        for name in options.fars:
            result["all_pairs"].append(all_pairs(embedding_ND, label_N, name))
            print(result["all_pairs"][-1], flush=True)
            keep(options, result)
    for num_pairs in options.pairs:
        result["given_pairs"].append(given_pairs(num_pairs, options.seed))
        print(result["given_pairs"][-1], flush=True)
        keep(options, result)


def keep(options, result):
    made_by = provenance(seed=options.seed).model_dump()
    write_atomically(options.out, json.dumps(result | {"made_by": made_by}, indent=1) + "\n")


def timed(rounds, ways):
    """{way: (least seconds of the processor, result)}, the ways in turn."""
    least_s, result = dict.fromkeys(ways, float("inf")), {}
    for _ in range(rounds):
        for name, way in ways.items():
            start_s = time.process_time()
            result[name] = way()
            least_s[name] = min(least_s[name], time.process_time() - start_s)
    return {name: (least_s[name], result[name]) for name in ways}


def all_pairs(embedding_ND, label_N, name):
    fars, num_rows = FARS[name], len(label_N)
    ways = {
        "ours": lambda: ours(embedding_ND, label_N, fars),
        "strongest": lambda: strongest(embedding_ND, label_N, fars),
        "histogram": lambda: histogram(embedding_ND, label_N, fars),
    }
    if num_rows <= SKLEARN_ROWS:
        ways["sklearn"] = lambda: by_sklearn(embedding_ND, label_N, fars)
    timings = timed(5 if num_rows <= 3000 else 2 if num_rows <= 10_000 else 1, ways)
    np.testing.assert_allclose(timings["ours"][1], timings["strongest"][1], rtol=0, atol=1e-4)
    np.testing.assert_allclose(*(np.array(timings[way][1])[:, 0] for way in ("ours", "strongest")), rtol=0, atol=1e-5)
    seconds = {f"{way}_s": round(timings[way][0], 5) for way in ways}
    loops_s = min(timings[way][0] for way in ("strongest", "histogram"))
    return {"rows": num_rows, "fars": name, **seconds, "times_the_loop": round(timings["ours"][0] / loops_s, 2)}


def ours(embedding_ND, label_N, fars):
    return [(point.threshold, point.tar) for point in all_to_all(embedding_ND, label_N, fars).points]


def blocks(embedding_ND, label_N, nothing):
    """(products of rows and all from them on with `nothing` on and below the diagonal, which of them are same)."""
    unit_ND = embedding_ND / np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    for row in range(0, len(unit_ND), ROWS):
        end = min(row + ROWS, len(unit_ND))
        product_RC = unit_ND[row:end] @ unit_ND[row:].T
        product_RC[np.tril_indices(end - row)] = nothing
        yield product_RC, label_N[row:end, None] == label_N[row:]


def counts(label_N):
    """(same pairs, different pairs)"""
    count_C = np.unique(label_N, return_counts=True)[1].astype(np.int64)
    num_same = int((count_C * (count_C - 1) // 2).sum())
    return num_same, len(label_N) * (len(label_N) - 1) // 2 - num_same


def strongest(embedding_ND, label_N, fars):
    _, num_different = counts(label_N)
    need = max(num_allowed(far, num_different) for far in fars) + 1
    floor, held, num_held, same = np.float32(-2), [], 0, []
    for product_RC, same_RC in blocks(embedding_ND, label_N, -3):
        same.append(product_RC[same_RC])
        product_RC[same_RC] = -3
        held.append(product_RC[product_RC > floor])
        num_held += len(held[-1])
        if num_held > 2 * need + 1_000_000:
            kept = np.partition(np.concatenate(held), num_held - need)[-need:]
            floor, held, num_held = kept.min(), [kept], need
    same = np.concatenate(same)
    same, falling = same[same > -2], np.sort(np.concatenate(held))[::-1]
    thresholds = [falling[num_allowed(far, num_different)] for far in fars]
    return [(threshold, np.mean(same > threshold)) for threshold in thresholds]


def histogram(embedding_ND, label_N, fars):
    num_same, num_different = counts(label_N)
    different_B, same_B = np.zeros(BINS + 2, np.int64), np.zeros(BINS + 2, np.int64)
    for product_RC, same_RC in blocks(embedding_ND, label_N, -1):
        product_RC += 1
        product_RC *= BINS / 2
        bin_RC = product_RC.astype(np.int32)
        same_B += np.bincount(bin_RC[same_RC], minlength=BINS + 2)
        bin_RC[same_RC] = 0
        different_B += np.bincount(bin_RC.ravel(), minlength=BINS + 2)
    different_B[0] = same_B[0] = 0
    falling_B, rising_B = np.cumsum(different_B[::-1]), np.cumsum(same_B[::-1])
    places = [np.searchsorted(falling_B, num_allowed(far, num_different), "right") for far in fars]
    return [((BINS + 1 - place) * 2 / BINS - 1, rising_B[max(place - 1, 0)] / num_same) for place in places]


def by_sklearn(embedding_ND, label_N, fars):
    parts = [(product_RC, same_RC, product_RC > -2) for product_RC, same_RC in blocks(embedding_ND, label_N, -3)]
    similarity_P = np.concatenate([product_RC[pair_RC] for product_RC, _, pair_RC in parts])
    same_P = np.concatenate([same_RC[pair_RC] for _, same_RC, pair_RC in parts])
    far_K, tar_K, threshold_K = roc_curve(same_P, similarity_P)
    places = [np.searchsorted(far_K, far, side="right") - 1 for far in fars]
    return [(threshold_K[place], tar_K[place]) for place in places]


def given_pairs(num_pairs, seed):
    """A hundredth of the pairs are same ones, as in IJB-C's list about one in 800 is."""
    rng = np.random.default_rng(seed)
    same_P = rng.random(num_pairs) < 0.01
    similarity_P = rng.normal(size=num_pairs) * 0.1 + 0.5 * same_P

    def by_curve():
        far_K, tar_K, _ = roc_curve(same_P, similarity_P)
        return [float(tar_K[len(far_K) - 1 - np.argmin(np.abs(far_K - far)[::-1])]) for far in IJB_FARS]

    timings = timed(
        5,
        {
            "nearest": lambda: tars_at_nearest_fars(similarity_P, same_P, IJB_FARS),
            "strict": lambda: tars_at_fars(similarity_P, same_P, IJB_FARS),
            "sklearn": by_curve,
        },
    )
    assert timings["nearest"][1] == timings["sklearn"][1]
    seconds = {f"{way}_s": round(least_s, 5) for way, (least_s, _) in timings.items()}
    return {"pairs": num_pairs, **seconds, "times_sklearn": round(timings["nearest"][0] / timings["sklearn"][0], 2)}


if __name__ == "__main__":
    main()
