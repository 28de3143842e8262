"""How much faster is a Zen-Score than the official code's way, at the settings that each of them is run at?

    python experiments/benchmarks/score_speed.py

Candidates of about IR-SE-50's multiply-accumulates, one thread, in turn in one process: the mean of the candidates,
of each the least processor time of --rounds, because others may use the machine. The official way (`zen_reference`) is
two forwards that differ by 0.01, fresh Gaussians, running variances: at 112 px and batch 16, and at 32 px, which is
what the official search runs at, with batches of 16 and of 2. Ours (`zen`): at the settings of the search, and at each
of those. Writes score_speed.json beside this file. How fast families are scored stands in funnel.json.
"""

import argparse
import json
import pathlib
import time

import numpy as np
import torch

from zennas.provenance import provenance
from zennas.run_folder import write_atomically
from zennas.score.scores import score_candidate
from zennas.space.cost import cost
from zennas.track import ScorePlan, load_space

SETTINGS = ((112, 16), (32, 16), (32, 2))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).with_suffix(".json"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    space, rng, candidates = load_space("ir_se"), np.random.default_rng(options.seed), []
    like = cost(space.baselines["IR-SE-50"], space.shape).macs
    while len(candidates) < options.candidates:
        candidate = space.sample(rng)
        # Few drawn at random are that small; a smaller neighbour in depth is.
        while cost(candidate, space.shape).macs > 1.1 * like and max(candidate.depths) > 1:
            depths = tuple(max(1, depth - max(1, depth // 8)) for depth in candidate.depths)
            candidate = candidate.model_copy(update={"depths": depths})
        if abs(cost(candidate, space.shape).macs / like - 1) < 0.1:
            candidates.append(candidate)
    search = ScorePlan()
    plans = {"ours": search}
    for px, batch in SETTINGS:
        plans[f"official {px} px, batch {batch}"] = ScorePlan(name="zen_reference", image_px=px, batch=batch)
        plans[f"ours {px} px, batch {batch}"] = ScorePlan(image_px=px, batch=batch)
    score_candidate(candidates[0], search, space.shape, seed=0)  # the first call makes its kernels
    second_s = {name: np.full(len(candidates), np.inf) for name in plans}
    for turn in range(options.rounds):
        for place, candidate in enumerate(candidates):
            for name, plan in plans.items():
                start_s = time.process_time()
                score_candidate(candidate, plan, space.shape, seed=0)
                second_s[name][place] = min(second_s[name][place], time.process_time() - start_s)
            print(f"round {turn + 1} of {options.rounds}, candidate {place + 1} of {len(candidates)}", flush=True)
    least_s = {name: float(second_N.mean()) for name, second_N in second_s.items()}
    rows = [
        {
            "image_px": px,
            "batch": batch,
            "official_s": round(official_s := least_s[f"official {px} px, batch {batch}"], 4),
            "ours_at_the_same_s": round(same_s := least_s[f"ours {px} px, batch {batch}"], 4),
            "times_faster_at_the_same": round(official_s / same_s, 1),
            "times_faster_as_searched": round(official_s / least_s["ours"], 1),
        }
        for px, batch in SETTINGS
    ]
    result = {
        "what": "processor seconds of one candidate, one thread",
        "candidates": len(candidates),
        "search": {"image_px": search.image_px, "batch": search.batch, "ours_s": round(least_s["ours"], 4)},
        "settings": rows,
        "made_by": provenance(seed=options.seed).model_dump(),
    }
    write_atomically(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
