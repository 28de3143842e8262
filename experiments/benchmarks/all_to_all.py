"""Time of a TAR over all pairs, beside that of the bare products of the same blocks, and its memory.

    python experiments/benchmarks/all_to_all.py

Embeddings lie round the centres of identities, ten images each, as far as those of a trained network do. While
all_to_all runs, the bare products of each block that it has done are timed at once, on tables and buffers of their own:
all of them in bfloat16, every sixth one in float32. Their time is taken out of that of all_to_all. So both meet the
same disturbances.
Ratios: of everything (the whole call, with the unit rows, the sample and the same pairs, to all bare products), and of
the blocks alone, in twenty parts, median and quartiles. Memory: the peak of another process, above what it held with
the embeddings. Writes all_to_all.json beside this file.
"""

import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import torch

from zennas.metrics.all_to_all import all_to_all
from zennas.metrics.blocks import paired
from zennas.provenance import num_cores, provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__)
FAR = 1e-6
IMAGES_EACH = 10
NUM_PARTS = 20
FLOAT32_EVERY = 6


def main():
    options = arguments()
    torch.set_num_threads(num_cores())
    if options.memory_of:
        print(json.dumps(memory(options.memory_of, options)))
        return
    if options.alone:
        found = json.loads(options.out.read_text()) if options.out.is_file() else {}
        found["alone"] = alone(options.alone, options)
        print(found["alone"])
        write_atomically(options.out, json.dumps(found, indent=1) + "\n")
        return
    rows = []
    for num_rows in sorted({rows for rows in (20_000, 60_000) if rows < options.rows} | {options.rows}):
        rows.append(one_size(num_rows, options))
        print(rows[-1], flush=True)
    found = {
        "made_by": provenance(seed=options.seed).model_dump(),
        "device": options.device,
        "threads": num_cores(),
        "far": FAR,
        "size": options.size,
        "images_each": IMAGES_EACH,
        "rounds": options.rounds,
        "rows": rows,
    }
    write_atomically(options.out, json.dumps(found, indent=1) + "\n")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--rows", type=int, default=200_000, help="20,000 and 60,000 are measured too where that is more"
    )
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, default=HERE.with_suffix(".json"))
    parser.add_argument("--alone", type=int, help="one call on so many rows that stay on disk, without baselines")
    parser.add_argument("--memory-of", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def faces(num_rows, options):
    """(embeddings, labels): same pairs have a similarity of about 0.5 with a spread, different ones of about 0."""
    rng = np.random.default_rng(options.seed)
    label_N = rng.integers(0, num_rows // IMAGES_EACH, num_rows)
    centre_CD = rng.standard_normal((num_rows // IMAGES_EACH, options.size), dtype=np.float32)
    noise_N1 = rng.uniform(0.7, 2.2, (num_rows, 1)).astype(np.float32)
    embedding_ND = rng.standard_normal((num_rows, options.size), dtype=np.float32)
    embedding_ND *= noise_N1
    embedding_ND += centre_CD[label_N]
    return embedding_ND, label_N


class Bare:
    """The bare products of blocks, timed as all_to_all says that it has done them."""

    def __init__(self, pairs, device):
        self.blocks, self.device = pairs.blocks, device
        unit_ND = pairs.left.table_ND.float()
        self.tables = {"bfloat16": unit_ND.bfloat16(), "float32": unit_ND}
        self.buffers = {
            name: table.new_empty(pairs.plan.rows * pairs.plan.columns) for name, table in self.tables.items()
        }
        self.seconds = {name: {} for name in self.tables}  # by the block's number
        self.at_s, self.inside_s = [], 0.0
        for name in self.tables:  # the first products make their kernels
            self.product(0, name)

    def product(self, number, name):
        row, row_end, column, column_end = self.blocks[number]
        table, shape = self.tables[name], (row_end - row, column_end - column)
        out = self.buffers[name][: shape[0] * shape[1]].view(shape)
        synchronize(self.device)
        start_s = time.perf_counter()
        torch.mm(table[row:row_end], table[column:column_end].T, out=out)
        synchronize(self.device)
        return time.perf_counter() - start_s

    def __call__(self, done, total):
        synchronize(self.device)
        start_s = time.perf_counter()
        self.at_s.append(start_s - self.inside_s)  # a clock that stands still in here
        number = (done - 1) % len(self.blocks)
        self.seconds["bfloat16"][number] = self.product(number, "bfloat16")
        if number % FLOAT32_EVERY == 0:
            self.seconds["float32"][number] = self.product(number, "float32")
        self.inside_s += time.perf_counter() - start_s

    def all_s(self, name):
        """Seconds of all blocks, from those that were timed, by their number of products."""
        cost = [(end - row) * (column_end - column) for row, end, column, column_end in self.blocks]
        return sum(self.seconds[name].values()) * sum(cost) / sum(cost[number] for number in self.seconds[name])


def one_size(num_rows, options):
    """A row: times of so many embeddings, the ratios, and the memory."""
    embedding_ND, label_N = faces(num_rows, options)
    pairs = paired(embedding_ND, label_N, device=options.device)
    all_to_all(embedding_ND[:5000], label_N[:5000], [FAR], device=options.device)  # the first call makes its kernels
    whole, parts, calls = {"bfloat16": [], "float32": []}, [], []
    for _ in range(options.rounds):
        bare = Bare(pairs, options.device)
        start_s = time.perf_counter()
        found = all_to_all(embedding_ND, label_N, [FAR], device=options.device, progress=bare)
        synchronize(options.device)
        calls.append(time.perf_counter() - start_s - bare.inside_s)
        for name, ratios in whole.items():
            ratios.append((calls[-1], bare.all_s(name)))
        size = max(len(pairs.blocks) // NUM_PARTS, 1)
        for end in range(size, len(bare.at_s), size):
            bare_s = sum(bare.seconds["bfloat16"][number] for number in range(end - size + 1, end + 1))
            parts.append((bare.at_s[end] - bare.at_s[end - size]) / bare_s)
    command = [sys.executable, str(HERE), "--memory-of", str(num_rows), "--size", str(options.size)]
    command += ["--device", options.device, "--seed", str(options.seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    point = found.points[0]
    return {
        "rows": num_rows,
        "pairs": found.num_same + found.num_different,
        "blocks": len(pairs.blocks),
        "screening": str(pairs.plan.screening).removeprefix("torch."),
        "tar": point.tar,
        "threshold": point.threshold,
        "ours_s": round(statistics.median(calls), 3),
        "ours_s_of_rounds": [round(call, 3) for call in calls],
        **{f"bare_{name}_s": round(statistics.median(bare for _, bare in both), 3) for name, both in whole.items()},
        **{
            f"ratio_to_{name}": round(statistics.median(ours / bare for ours, bare in both), 3)
            for name, both in whole.items()
        },
        "blocks_ratio_to_bfloat16": round(statistics.median(parts), 3),
        "blocks_ratio_quartiles": [round(quantile, 3) for quantile in statistics.quantiles(parts, n=4)[::2]],
        **json.loads(done.stdout.splitlines()[-1]),
        "embeddings_mib": round(embedding_ND.nbytes / 2**20, 1),
        "table_mib": round(pairs.left.table_ND.nbytes / 2**20, 1),
    }


def alone(num_rows, options):
    """A row of one call, without baselines: its embeddings stay in a file."""
    rng, part = np.random.default_rng(options.seed), 100_000
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "embeddings.npy")
        embedding_ND = np.lib.format.open_memmap(path, "w+", np.float16, (num_rows, options.size))
        label_N = rng.integers(0, num_rows // IMAGES_EACH, num_rows)
        centre_CD = rng.standard_normal((num_rows // IMAGES_EACH, options.size), dtype=np.float32)
        for start in range(0, num_rows, part):
            label_R = label_N[start : start + part]
            noise_RD = rng.standard_normal((len(label_R), options.size), dtype=np.float32)
            noise_RD *= rng.uniform(0.7, 2.2, (len(label_R), 1)).astype(np.float32)
            embedding_ND[start : start + part] = noise_RD + centre_CD[label_R]
        del embedding_ND, centre_CD, noise_RD
        embedding_ND = np.load(path, mmap_mode="r")
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, start_s, said_s = peak_bytes(options.device), time.perf_counter(), [0.0]

        def progress(done, total):
            if time.perf_counter() - said_s[0] > 60:
                said_s[0] = time.perf_counter()
                print(f"{done}/{total} blocks after {said_s[0] - start_s:.0f} s", flush=True)

        kept = pathlib.Path(folder, "state")
        found = all_to_all(embedding_ND, label_N, [FAR], device=options.device, kept=kept, progress=progress)
        return {
            "rows": num_rows,
            "pairs": found.num_same + found.num_different,
            "seconds": round(time.perf_counter() - start_s, 1),
            "memory_mib": round((peak_bytes(options.device) - before) / 2**20, 1),
            "tar": found.points[0].tar,
            "threshold": found.points[0].threshold,
            "made_by": provenance(seed=options.seed).model_dump(),
        }


def memory(num_rows, options):
    """MiB at the peak above what the process held with the embeddings."""
    embedding_ND, label_N = faces(num_rows, options)
    all_to_all(embedding_ND[:5000], label_N[:5000], [FAR], device=options.device)
    if options.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = peak_bytes("cpu")
    all_to_all(embedding_ND, label_N, [FAR], device=options.device)
    return {"memory_mib": round((peak_bytes(options.device) - before) / 2**20, 1)}


def peak_bytes(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE).group(1))


def synchronize(device):
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
