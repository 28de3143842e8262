"""Does a search take as long as it said? Ten runs: what each promised, and what it took.

    python experiments/benchmarks/forecast.py --work FOLDER

Five searches, each twice: on a machine that has measured nothing yet (an empty $ZENNAS_CACHE), then once more in a
folder of its own on the same machine, which by then keeps table, reference and baselines. What is promised is the first
line "time about ..." of a run plus what had passed by then; what it took is the wall time of its process, start and
imports included. FOLDER keeps every run: a stopped benchmark goes on. Other work on the machine is welcome: its load
stands beside each run. Takes about forty minutes of two cores; writes forecast.json beside this file.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

from zennas.provenance import provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__).parent
SEARCHES = {
    "webface-sfr": [],
    "webface-sfr, 1 minute": ["--minutes", "1"],
    "webface-sfr, mobilefacenet, 2 minutes": ["--space", "mobilefacenet", "--budget-ms", "40", "--minutes", "2"],
    "insightface-ms1m, stand-in, 3 minutes": ["--track", "insightface-ms1m", "--minutes", "3"],
    "lfw-smoke": ["--track", "lfw-smoke"],
}
TURNS = ("first", "second")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, default=HERE / "forecast.json")
    options = parser.parse_args()
    runs = []
    for name, words in SEARCHES.items():
        for turn in TURNS:
            folder = options.work / name.replace(", ", "-").replace(" ", "_") / turn
            runs.append({"search": name, "run": turn} | kept_or_run(folder, words))
            print(json.dumps(runs[-1]), flush=True)
    off_pct = [run["off_pct"] for run in runs]
    result = {
        "what": "wall time of a search beside its first promise; off: taken over promised, less one",
        "within_20_pct": sum(abs(off) <= 20 for off in off_pct),
        "of": len(runs),
        "mean_abs_off_pct": round(statistics.fmean(map(abs, off_pct)), 1),
        "max_abs_off_pct": max(map(abs, off_pct)),
        "runs": runs,
        "made_by": provenance().model_dump(),
    }
    write_atomically(options.out, json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1))


def kept_or_run(folder, words):
    """What one search promised and took; of the run that is kept, or a new one."""
    kept = folder / "took.json"
    if not kept.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        load, begun = os.getloadavg()[0], time.monotonic()
        command = [sys.executable, "-m", "zennas.search", *words, "--out", str(folder / "run"), "--fresh"]
        cache = {"ZENNAS_CACHE": str(folder.parent / "cache")}
        ended = subprocess.run(command, env=os.environ | cache, capture_output=True, text=True, check=False)
        if ended.returncode not in (0, 1):
            sys.exit(f"{' '.join(command)} ended with {ended.returncode}: {ended.stderr[-2000:]}")
        taken = {"taken_s": round(time.monotonic() - begun, 1), "load": [round(load, 1), round(os.getloadavg()[0], 1)]}
        write_atomically(kept, json.dumps(taken))
    taken = json.loads(kept.read_text(encoding="utf-8"))
    state = json.loads((folder / "run" / "run.json").read_text(encoding="utf-8"))
    first, *_, last = state["promised"] * 2
    # The run's own clock begins a little after the process.
    before_s = max(0.0, taken["taken_s"] - state["total_s"])
    return {
        "promised_s": round(before_s + first["total_s"], 1),
        "said_after_s": round(before_s + first["at_s"], 1),
        "corrected_s": round(before_s + last["total_s"], 1),
        **taken,
        "off_pct": round(100 * (taken["taken_s"] / (before_s + first["total_s"]) - 1), 1),
        "where_s": {name: round(seconds, 1) for name, seconds in state["wall_s"].items() if seconds >= 1},
    }


if __name__ == "__main__":
    main()
