"""What a rebuilt house must not change: the same commands on two versions of zennas, results compared to the digit.

    python experiments/equalities/equalities.py --before b024d7a

checks out that commit beside this one and runs both on the same machine, with the same small data drawn here:

    costs      parameters and multiply-accumulates of the baselines of every space, at the space's own image
    training   metrics.jsonl of two epochs of the recipe of lfw-smoke, one rank, two, and with a teacher
    search     every candidate that a search of fixed seed proposes, in order, and its score; closed form and not
    going_on   what the old version began, the new one ends: a search, a training, a cleaning, an evaluation

Times are left out of the comparison, and so is what follows from a measured latency: both searches are given one table
of block latencies and are compared up to the first measurement. Prints a line a check; the exit code is 1 where one
differs. --out keeps both sides' files, and writes results.json beside this file with --publish.
"""

import argparse
import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np
import pandas as pd

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
TIMES = {"images_per_s", "time", "seconds", "wall_time", "date"}
NUM_IDENTITIES, IMAGES_EACH, IMAGE_PX = 24, 16, 112
WINNER = "{block: ir_se, stem: 16, widths: [24, 48, 96], depths: [1, 1, 1]}\n"
TRAIN = [
    "--track",
    "lfw-smoke",
    "--epochs",
    "2",
    "--batch",
    "64",
    "--any-size",
    "--device",
    "cpu",
    "--budget-ms",
    "1000",
]
TRAIN += ["--set", "compile=false", "--set", "data.workers=0"]
# The tiny space of a search of seconds; no baselines, which would be measured and correct the table.
SPACE = """
name: tiny
block: ir_se
image_px: 32
embedding_size: 64
stem: {low: 8, high: 32, step: 8}
widths: [{low: 8, high: 32, step: 8}, {low: 16, high: 64, step: 8}]
depths: [{low: 1, high: 4}, {low: 1, high: 6}]
limits: {max_blocks: 9, max_effectiveness: 0.5}
"""
EXPERIMENT = """
name: tiny
space: SPACE
track: lfw-smoke
search: {population: 16, batch_size: 8, num_winners: 1, max_finalists: 1, table_runs: 3, min_distance: 0.0,
         score: {image_px: 16, batch: 2, repeats: 1, final_repeats: 2},
         evidence: {names: [effectiveness], rank_by: null}}
"""
COSTS = """
import json
from zennas.records import SPACES, names
from zennas.space.cost import cost
from zennas.track import load_space
spaces = {name: load_space(name) for name in names(SPACES)}
def of(space, candidate):
    if hasattr(space, "shape"):
        return cost(candidate, space.shape)
    return cost(candidate, image_px=space.image_px, embedding_size=space.embedding_size)
print(json.dumps({f"{name} {label}": [of(space, one).params, of(space, one).macs]
                  for name, space in spaces.items() for label, one in space.baselines.items()}))
"""


class Version:
    """A version of zennas: a checkout, and a folder for what its commands write."""

    def __init__(self, name, tree, folder):
        self.name, self.tree, self.folder = name, tree, folder
        folder.mkdir(parents=True, exist_ok=True)

    def environment(self):
        own = {"PYTHONPATH": str(self.tree), "ZENNAS_CACHE": str(self.folder / "cache"), "COLUMNS": "120"}
        # One thread a process: the order of sums, and so the last bit, is then the same.
        return os.environ | own | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "ZENNAS_HOME": str(self.tree)}

    def start(self, *words):
        """The command under way."""
        log = open(self.folder / "log.txt", "a")  # noqa: SIM115 - the process writes to it
        return subprocess.Popen(
            [sys.executable, *map(str, words)],
            cwd=self.folder,
            env=self.environment(),
            text=True,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )

    def run(self, *words, allowed=(0,)):
        """Standard output of `python WORDS`; RuntimeError where it ends with another code than `allowed`."""
        process = self.start(*words)
        output, _ = process.communicate(timeout=1200)
        if process.returncode not in allowed:
            log = (self.folder / "log.txt").read_text()[-3000:]
            raise RuntimeError(
                f"{self.name}: {' '.join(map(str, words))} ended with {process.returncode}\n{output}\n{log}"
            )
        return output

    def zennas(self, room, *words, **keywords):
        return self.run("-m", f"zennas.{room}", *words, **keywords)


def draw_faces(folder):
    """A folder of folders, one an identity: a pattern of its own under a light that every image has of its own."""
    rng = np.random.default_rng(0)
    for identity in range(NUM_IDENTITIES):
        pattern_HW3 = cv2.resize(rng.uniform(0, 1, (6, 6, 3)), (IMAGE_PX, IMAGE_PX), interpolation=cv2.INTER_CUBIC)
        place = folder / f"person-{identity:02d}"
        place.mkdir(parents=True)
        for number in range(IMAGES_EACH):
            light_HW3 = cv2.resize(rng.uniform(0, 1, (2, 2, 3)), (IMAGE_PX, IMAGE_PX))
            noise_HW3 = rng.normal(0, 0.05, pattern_HW3.shape)
            image_HW3 = np.clip(0.5 * pattern_HW3 + 0.4 * light_HW3 + noise_HW3, 0, 1)
            cv2.imwrite(str(place / f"{number:02d}.png"), np.round(255 * image_HW3).astype(np.uint8))


def write_pairs(faces, path):
    """InsightFace's .bin of 120 pairs of these faces, half of them of one person."""
    rng, encoded, same = np.random.default_rng(1), [], []
    people = sorted(faces.iterdir())
    for number in range(120):
        is_same = number % 2 == 0
        first, second = rng.choice(len(people), 2, replace=False)
        a, b = rng.choice(IMAGES_EACH, 2, replace=False)
        pair = (people[first] / f"{a:02d}.png", people[first if is_same else second] / f"{b:02d}.png")
        encoded += [file.read_bytes() for file in pair]
        same.append(is_same)
    path.write_bytes(pickle.dumps((encoded, same)))


# --- the checks: each gives {what: value} of a version, equal in both ------------------------------------------------


def training_words(shared):
    """The words of a training, but for where it writes."""
    return ["--winner", shared / "winner.yaml", "--data", shared / "faces", "--verify", shared / "pairs.bin", *TRAIN]


def search_words(shared, score):
    """The words of a search of fixed seed, but for where it writes and how much it scores."""
    words = ["--track", shared / "experiment.yaml", "--score", score]
    return [*words, "--workers", 2, "--seed", 7, "--budget-ms", 2]


def costs(version, shared):
    return json.loads(version.run("-c", COSTS))


def training(version, shared):
    values = {}
    given = training_words(shared)
    version.zennas("train", *given, "--out", "one")
    values["one rank"] = metrics(version.folder / "one")
    teacher = ["--teacher", "one/model.onnx", "--set", "distill.teacher.mean=[127.5,127.5,127.5]"]
    teacher += ["--set", "distill.teacher.std=[127.5,127.5,127.5]"]
    version.zennas("train", *given, *teacher, "--out", "taught")
    values["with a teacher"] = metrics(version.folder / "taught")
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "zennas.train"]
    version.run(*two, *given, "--out", "two")
    values["two ranks"] = metrics(version.folder / "two")
    return values


def metrics(out):
    """Every line of metrics.jsonl, without its times."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return timeless(lines)


def search(version, shared):
    """What is proposed and scored before the first measurement, in order."""
    values = {}
    for score, num in (("zen", 120), ("naswot", 48)):
        out = f"search-{score}"
        words = search_words(shared, score)
        version.zennas("search", *words, "--candidates", num, "--out", out, allowed=(0, 1))
        frame = pd.read_parquet(version.folder / out / "scored.parquet").sort_values("batch", kind="stable")
        events = json.loads((version.folder / out / "run.json").read_text())["events"]
        drained = next(event["after_batch"] for event in events if event["why"] == "drained")
        frame = frame[frame["batch"] <= drained]
        columns = [name for name in ("candidate", "text", "key", "score", "predicted_ms", "error") if name in frame]
        values[score] = json.loads(frame[columns].to_json(orient="values", double_precision=15))
    return values


def timeless(value):
    """A value of JSON without what times it holds."""
    if isinstance(value, dict):
        return {name: timeless(part) for name, part in value.items() if name not in TIMES}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def going_on(before, after, shared):
    """{what: None or what went wrong} of runs that the old version began and the new one goes on with."""
    verdicts = {}

    def check(what, work):
        try:
            verdicts[what] = work()
        except (RuntimeError, OSError, AssertionError, subprocess.TimeoutExpired) as error:
            verdicts[what] = str(error)[-2000:]

    def moved(name):
        """The old version's folder, where the new one finds it under the same words."""
        shutil.rmtree(after.folder / "old" / name, ignore_errors=True)
        shutil.copytree(before.folder / name, after.folder / "old" / name, symlinks=True)
        return after.folder / "old" / name

    def a_search():
        out = moved("search-zen")
        known = pd.read_parquet(out / "scored.parquet")
        again = search_words(shared, "zen")
        after.zennas("search", *again, "--candidates", 200, "--out", out, "--resume", allowed=(0, 1))
        now = pd.read_parquet(out / "scored.parquet")
        assert len(now) > len(known) and set(known["key"]) <= set(now["key"]), (len(known), len(now))
        assert not now["key"].duplicated().any(), "scored twice"

    def a_finished_search():
        out = moved("search-naswot")
        again = search_words(shared, "naswot")
        words = after.zennas("search", *again, "--candidates", 48, "--out", out, "--resume", "--json", allowed=(0, 1))
        assert json.loads(words) == json.loads((before.folder / "search-naswot" / "winners.json").read_text())

    def a_training():
        given = training_words(shared)
        given += ["--set", "checkpoint_minutes=0.001"]
        process = before.start("-m", "zennas.train", *given, "--out", "stopped")
        folder = before.folder / "stopped" / "checkpoints"
        deadline = time.monotonic() + 120
        while not list(folder.glob("step-*")) and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        out = moved("stopped")
        after.zennas("train", *given, "--out", out, "--resume")
        log = (out / "train.log").read_text()
        assert "going on from" in log, log[-500:]
        whole = {line["step"]: line for line in metrics(before.folder / "one") if line["kind"] == "train"}
        ended = {line["step"]: line for line in metrics(out) if line["kind"] == "train"}
        assert ended == whole, "not the digits of an uninterrupted training"

    def a_finished_training():
        out = moved("one")
        given = training_words(shared)
        words = after.zennas("train", *given, "--out", out, "--resume", "--json")
        assert json.loads(words) == json.loads((before.folder / "one" / "result.json").read_text())

    def a_network():
        judged = []
        for version in (before, after):
            words = ["--model", before.folder / "one", "--set", shared / "pairs.bin", "--json", "--out", "judged"]
            judged.append(timeless(json.loads(version.zennas("evaluate", *words))["results"]))
        assert judged[0] == judged[1], first_difference(*judged)

    def a_cleaning():
        given = ["--data", shared / "faces", "--embeddings", shared / "embeddings.npy"]
        before.zennas("clean", *given, "--out", "cleaned")
        out = moved("cleaned")
        after.zennas("clean", *given, "--out", out, "--resume")
        after.zennas("clean", *given, "--out", out, "--take-back", "identity:person-00")
        after.zennas("clean", *given, "--out", after.folder / "cleaned")
        tables = [pd.read_parquet(version.folder / "cleaned" / "decisions.parquet") for version in (before, after)]
        pd.testing.assert_frame_equal(*tables)

    for name, work in list(locals().items()):
        if callable(work) and name.startswith("a_"):
            check(name.replace("_", " "), work)
    return verdicts


CHECKS = {"costs": costs, "training": training, "search": search}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", required=True, help="a commit, or the folder of a checkout")
    parser.add_argument("--only", nargs="+", default=[*CHECKS, "going_on"])
    parser.add_argument("--out", type=pathlib.Path, help="keep both sides' files here")
    parser.add_argument("--publish", action="store_true", help="write results.json beside this file")
    options = parser.parse_args()
    out = (options.out or pathlib.Path(tempfile.mkdtemp(prefix="zennas-equalities-"))).resolve()
    out.mkdir(parents=True, exist_ok=True)
    tree, added = pathlib.Path(options.before).resolve(), False
    if not tree.is_dir():
        tree, added = out / "tree", True
        if not tree.is_dir():
            subprocess.run(["git", "-C", ROOT, "worktree", "add", "--detach", tree, options.before], check=True)
    try:
        results = compare(
            Version("before", tree, out / "before"), Version("after", ROOT, out / "after"), out, options.only
        )
    finally:
        if added and options.out is None:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=False)
            shutil.rmtree(out, ignore_errors=True)
    if options.publish:
        (HERE / "results.json").write_text(json.dumps({"before": options.before, "checks": results}, indent=1) + "\n")
    sys.exit(any(verdict != "equal" for verdict in results.values()))


def compare(before, after, out, only):
    """{what: "equal", or how it differs}."""
    shared, results = out / "shared", {}
    if not (shared / "ready").exists():
        shutil.rmtree(shared, ignore_errors=True)
        draw_faces(shared / "faces")
        write_pairs(shared / "faces", shared / "pairs.bin")
        (shared / "winner.yaml").write_text(WINNER)
        (shared / "space.yaml").write_text(SPACE)
        (shared / "experiment.yaml").write_text(EXPERIMENT.replace("SPACE", str(shared / "space.yaml")))
        rng = np.random.default_rng(2)
        of_N = np.repeat(np.arange(NUM_IDENTITIES), IMAGES_EACH)
        embedding_ND = rng.normal(size=(NUM_IDENTITIES, 64))[of_N] + 0.8 * rng.normal(size=(len(of_N), 64))
        embedding_ND[::37] = rng.normal(size=embedding_ND[::37].shape)  # somebody else's
        np.save(shared / "embeddings.npy", embedding_ND.astype(np.float32))
        # One table of block latencies for both, as the old version measured it.
        before.zennas("latency", "--table", "--track", shared / "experiment.yaml")
        shutil.copytree(before.folder / "cache", after.folder / "cache", dirs_exist_ok=True)
        (shared / "ready").touch()
    for name in only:
        if name == "going_on":
            for earlier in ("training", "search"):  # it goes on with what these left
                remembered(earlier, before, shared)
            for what, problem in going_on(before, after, shared).items():
                results[f"going on: {what}"] = "equal" if problem is None else problem
                print(f"going on: {what}: {results[f'going on: {what}']}", flush=True)
            continue
        start = time.monotonic()
        values = {version.name: remembered(name, version, shared) for version in (before, after)}
        for what in {**values["before"], **values["after"]}:
            pair = [values[version.name].get(what) for version in (before, after)]
            results[f"{name}: {what}"] = "equal" if pair[0] == pair[1] else first_difference(*pair)
        wrong = {what: text for what, text in results.items() if what.startswith(f"{name}: ") and text != "equal"}
        num = sum(what.startswith(f"{name}: ") for what in results)
        print(f"{name}: {num - len(wrong)} of {num} equal, {time.monotonic() - start:.0f} s", flush=True)
        for what, text in wrong.items():
            print(f"  {what}: {text}", flush=True)
    return results


def remembered(name, version, shared):
    """The values of a check; those of the old version are kept in --out."""
    path = version.folder / f"{name}.json"
    if version.name == "before" and path.is_file():
        return json.loads(path.read_text())
    if version.name == "after":
        for run in ("one", "taught", "two", "search-zen", "search-naswot") if name != "costs" else ():
            shutil.rmtree(version.folder / run, ignore_errors=True)
    values = json.loads(json.dumps(CHECKS[name](version, shared)))
    path.write_text(json.dumps(values))
    return values


def first_difference(before, after):
    """The first place where two values differ, in words."""
    if isinstance(before, list) and isinstance(after, list):
        for number, (one, other) in enumerate(zip(before, after, strict=False)):
            if one != other:
                return f"entry {number}: before {one}, after {other}"
        return f"before {len(before)} entries, after {len(after)}"
    return f"before {str(before)[:300]}, after {str(after)[:300]}"


if __name__ == "__main__":
    main()
