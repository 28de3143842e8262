"""Where does the wall time of a search go? Scoring, proving, measuring, Ray, the store: the account that a run keeps of
itself.

    python -m zennas.search --track webface-sfr --out runs/webface-sfr
    python experiments/benchmarks/wall_time.py runs/webface-sfr --out experiments/benchmarks/wall_time.json

Ray's share is its start and stop, and what the workers did not spend scoring while the search ran. The store's share is
opening the study and waiting for it at the end; what it writes beside the search, in a thread, is listed by itself.
"""

import argparse
import json
import pathlib

import pandas

from zennas.provenance import provenance


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path, help="the folder of a run")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()

    state = json.loads((arguments.run / "run.json").read_text(encoding="utf-8"))
    scored = pandas.read_parquet(arguments.run / "scored.parquet")
    wall, total_s = state["wall_s"], state["total_s"]
    searching_s = wall["searching"]
    scoring_s = scored["seconds"].sum() / state["num_workers"]
    shares = {
        "scoring": scoring_s,
        "measuring latency (table, reference, baselines)": wall["measuring"],
        "proving the optimum (closed form, branch and bound)": wall.get("proving the optimum", 0.0),
        "finals (scoring again, exporting, measuring whole, other scores)": wall["finals"],
        "ray (start, stop, and workers waiting during the search)": wall["starting Ray"]
        + wall["stopping Ray"]
        + searching_s
        - scoring_s,
        "store (opening it, waiting for it)": wall["opening the study"] + wall["waiting for the study"],
        "publishing": wall["publishing"],
    }
    shares["everything else (imports, set-up)"] = total_s - sum(shares.values())
    result = {
        "total_s": round(total_s, 1),
        "share_pct": {name: round(100 * seconds / total_s, 2) for name, seconds in shares.items()},
        "candidates_screened": state["counters"].get("screened", 0),
        "candidates_scored": len(scored),
        "candidates_per_second_while_searching": round(len(scored) / searching_s, 2),
        "workers_busy_scoring_pct": round(100 * scoring_s / searching_s, 1),
        "store_writing_beside_the_search_s": wall["writing the study, beside the search"],
        "run": state["made_by"],
        "made_by": provenance().model_dump(),
    }
    arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
