"""What a search by either reading of a score of branches asks for: the proven optima within multiply-accumulates.

    python experiments/benchmarks/branch_scores.py          (two minutes on one core)

No latency is measured: multiply-accumulates of every part stand for it, so the answer is the same on every machine.
Each budget is asked twice, with the space's least depths of the branches and with one block in each of their stages.
"""

import json
import pathlib

from zennas.score.branches import MEAN, ONCE
from zennas.score.meanfield import mean_field, mean_field_sums
from zennas.search.optimum import Constraint, best
from zennas.space.parts import sums
from zennas.space.space import Range, Space

SPACE, HW, BATCH = "search_spaces/mgn_edge.yaml", (96, 32), 2
GMACS = (0.3, 1.0)
NUM_BRANCH_STAGES = 2


def shallow(space):
    """The space in which a branch may have one block in each of its stages."""
    trunk, branches = space.depths[:-NUM_BRANCH_STAGES], space.depths[-NUM_BRANCH_STAGES:]
    return space.model_copy(update={"depths": (*trunk, *(Range(low=1, high=span.high) for span in branches))})


def main():
    whole, rows = Space.load(SPACE), []
    images = whole.shape.sized(HW)
    for least, space in (("the space's", whole), ("1", shallow(whole))):
        macs = sums(space, lambda part: part.macs / 1e9)
        for aggregate in (ONCE, MEAN):
            score = mean_field_sums(space, HW, BATCH, aggregate=aggregate)
            for most in GMACS:
                found = best(space, score, [Constraint("GMACs", macs, most)])
                depths = found.candidate.depths
                both = {name: mean_field(found.candidate, images, BATCH, None, aggregate=name) for name in (ONCE, MEAN)}
                rows.append(
                    {
                        "gmacs_allowed": most,
                        "least_branch_depths": least,
                        "score": {ONCE: "zen", MEAN: "zen_mean"}[aggregate],
                        "optimum": found.candidate.text,
                        "gmacs": round(found.costs[0], 4),
                        "trunk": list(depths[:-NUM_BRANCH_STAGES]),
                        "branches": list(depths[-NUM_BRANCH_STAGES:]),
                        "zen_closed": round(both[ONCE], 2),
                        "zen_mean_closed": round(both[MEAN], 2),
                    }
                )
                print(rows[-1], flush=True)
    setting = {"space": whole.name, "score_image_px": list(HW), "score_batch": BATCH}
    path = pathlib.Path(__file__).with_suffix(".json")
    path.write_text(json.dumps(setting | {"optima": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
