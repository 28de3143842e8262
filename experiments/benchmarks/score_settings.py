"""Do fewer pixels, a smaller batch and the derivative rank candidates as the expensive ways do, and what do they save?

    python experiments/benchmarks/score_settings.py --out experiments/benchmarks/score_settings.json

Candidates of about equal predicted cost (multiply-accumulates within 10 per cent of IR-SE-100's), scored in every
setting on one thread. Each setting is compared with the derivative at the real 112 px, eight repeats. The baseline for
speed is the reference way: two forwards, fresh Gaussians, 112 px, batch 16.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch
from scipy import stats

from zennas.provenance import provenance
from zennas.score.scores import score_candidate
from zennas.space.cost import cost
from zennas.track import ScorePlan, load_space

REFERENCE = ScorePlan(name="zen_reference", image_px=112, batch=16)
TRUTH = ScorePlan(image_px=112, batch=4, repeats=8)
SETTINGS = [
    ScorePlan(image_px=px, batch=batch) for px, batch in ((112, 2), (64, 2), (32, 4), (32, 2), (32, 1), (16, 4))
]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=24)
    parser.add_argument("--timed", type=int, default=6, help="of them, scored in the reference way, which is slow")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    space, rng, candidates = load_space("ir_se"), np.random.default_rng(arguments.seed), []
    like = cost(space.baselines["IR-SE-100"], space.shape).macs
    while len(candidates) < arguments.candidates:
        candidate = space.sample(rng)
        if abs(cost(candidate, space.shape).macs / like - 1) < 0.1:
            candidates.append(candidate)

    truth, _ = scored(candidates, TRUTH, space.shape)
    rows = []
    for plan in SETTINGS:
        values, seconds = scored(candidates, plan, space.shape)
        rows.append(
            {
                "image_px": plan.image_px,
                "batch": plan.batch,
                "kendall_tau": round(float(stats.kendalltau(truth, values).statistic), 4),
                "seconds_per_candidate": round(seconds, 4),
            }
        )
        print(rows[-1], flush=True)
    _, reference_s = scored(candidates[: arguments.timed], REFERENCE, space.shape)
    for row in rows:
        row["times_faster_than_reference"] = round(reference_s / row["seconds_per_candidate"], 1)
    result = {
        "what": "Kendall tau against the derivative at 112 px (8 repeats), and time on one thread",
        "candidates": len(candidates),
        "spread_of_true_scores": [round(min(truth), 1), round(max(truth), 1)],
        "reference_seconds_per_candidate": round(reference_s, 3),
        "settings": rows,
        "made_by": provenance(seed=arguments.seed).model_dump(),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


def scored(candidates, plan, shape):
    """(scores, seconds per candidate), the first one computed twice so that no set-up is timed."""
    score_candidate(candidates[0], plan.model_copy(update={"repeats": 1}), shape, seed=0)
    start = time.perf_counter()
    values = [score_candidate(candidate, plan, shape, seed=0)[0] for candidate in candidates]
    return values, (time.perf_counter() - start) / len(candidates)


if __name__ == "__main__":
    main()
