"""Time and memory of a step of the sampled head, from 10^4 to 2 x 10^6 identities, beside the bare products and a dense
FC.

    python experiments/benchmarks/partial_fc.py

Per number of identities, each in a process of its own:
  bare     the sampled matrix products and the softmax alone, of the same sizes, into memory that is there:
           cosines = faces x centres, softmax, its two products back. No sampling, no margin, no optimizer.
  ours     a whole step of zennas.tasks.identity.partial_fc: sampling, margins, loss, both gradients, momentum, decay.
  dense    torch's nn.Linear over all identities, cross-entropy, SGD with momentum, as a plain loop has it.
Times are medians of the steps after the first ones, bare and ours in turn. Memory is the peak of the process above what
it had before the head was made, so it counts the allocator's slack too. Writes partial_fc.json and partial_fc.html
beside this file.
"""

import argparse
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
import plotly.graph_objects as go
import torch

from zennas import page
from zennas.provenance import Provenance, num_cores, provenance
from zennas.ranks import Ranks
from zennas.run_folder import write_atomically
from zennas.tasks.identity.partial_fc import PartialFC

HERE = pathlib.Path(__file__)
EMBEDDING = 512
SIZES = [10_000, 30_000, 100_000, 300_000, 1_000_000, 2_000_000]
WARM_UP = 3


def main():
    options = arguments()
    if options.one is not None:
        print(json.dumps(one(options)))
        return
    rows = []
    for identities in SIZES:
        for kind in ("ours", "dense"):
            if kind == "dense" and dense_bytes(identities, options.batch) > options.dense_gib * 2**30:
                print(
                    f"dense at {identities:,}: {dense_bytes(identities, options.batch) / 2**30:.0f} GiB, left out",
                    flush=True,
                )
                continue
            command = [
                sys.executable,
                str(HERE),
                "--one",
                str(identities),
                "--kind",
                kind,
                "--batch",
                str(options.batch),
            ]
            command += ["--rate", str(options.rate), "--loss", options.loss, "--steps", str(options.steps)]
            command += ["--device", options.device]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
            print(rows[-1], flush=True)
    found = {
        "made_by": provenance(seed=0).model_dump(),
        "device": options.device,
        "batch": options.batch,
        "rate": options.rate,
        "loss": options.loss,
        "embedding_size": EMBEDDING,
        "threads": num_cores(),
        "rows": rows,
    }
    suffix = "" if options.device == "cpu" else f"-{options.device}"
    write_atomically(HERE.with_name(f"partial_fc{suffix}.json"), json.dumps(found, indent=1) + "\n")
    write_atomically(HERE.with_name(f"partial_fc{suffix}.html"), as_page(found))


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--batch", type=int, default=1024, help="faces of all ranks, which each compares with its centres"
    )
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--loss", default="balanced_curricular")
    parser.add_argument("--steps", type=int, default=9)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dense-gib", type=float, default=14.0, help="leave the dense FC out where it needs more")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    return parser.parse_args()


def dense_bytes(identities, batch):
    """Weights, gradient and momentum of a dense FC, and three matrices of logits."""
    return 4 * (3 * identities * EMBEDDING + 3 * identities * batch)


def one(options):
    """A row: the figures of one kind at one number of identities."""
    device = torch.device(options.device)
    torch.manual_seed(0)
    if device.type == "cpu":
        torch.set_num_threads(num_cores())
    face_BD = torch.randn(options.batch, EMBEDDING, device=device)
    label_B = torch.randint(options.one, (options.batch,), device=device)
    row = {"kind": options.kind, "identities": options.one}
    return row | (sampled(options, face_BD, label_B) if options.kind == "ours" else dense(options, face_BD, label_B))


def sampled(options, face_BD, label_B):
    device = face_BD.device
    count_C = np.ones(options.one, dtype=np.int64)

    def head_of(num_identities):
        return PartialFC(
            num_identities,
            EMBEDDING,
            loss=options.loss,
            sampling_rate=options.rate,
            count_C=count_C[:num_identities],
            ranks=Ranks(device=device),
            compile=True,
        )

    # What compiling leaves in memory is not the head's: a small one is compiled first.
    step(head_of(min(options.one, 5000)), face_BD, label_B % min(options.one, 5000))
    before = memory(device)
    head = head_of(options.one)
    for _ in range(WARM_UP):
        step(head, face_BD, label_B)
    peak = peak_memory(device) - before
    # The bare products' memory is counted beside ours, not measured: it comes after the peak was read.
    num = head.num_sampled
    unit_SD = torch.nn.functional.normalize(torch.randn(num, EMBEDDING, device=device))
    buffers = [
        torch.empty(shape, device=device)
        for shape in ((len(face_BD), num), (len(face_BD), num), face_BD.shape, unit_SD.shape)
    ]
    times = {"bare_s": [], "ours_s": []}
    for turn in range(WARM_UP + options.steps):
        seconds = (
            timed(lambda: bare(face_BD, unit_SD, *buffers), device),
            timed(lambda: step(head, face_BD, label_B), device),
        )
        if turn >= WARM_UP:
            for name, value in zip(times, seconds, strict=True):
                times[name].append(value)
    ratios = [ours / bare for ours, bare in zip(times["ours_s"], times["bare_s"], strict=True)]
    centres = 4 * options.one * EMBEDDING
    working = 4 * (2 * num * EMBEDDING + 2 * num * len(face_BD))  # sampled centres, their gradient, products, softmax
    return {
        "sampled": num,
        **{name: round(statistics.median(values), 5) for name, values in times.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(value, 3) for value in statistics.quantiles(ratios, n=4)[::2]],
        "memory_mib": round(peak / 2**20, 1),
        "needed_mib": round((2 * centres + working) / 2**20, 1),
        "memory_ratio": round(peak / (2 * centres + working), 3),
    }


def step(head, face_BD, label_B):
    embedding_BD = face_BD.clone().requires_grad_()
    head.begin(label_B)
    head(embedding_BD, label_B).backward()
    head.step(0.1)


def bare(face_BD, unit_SD, cosine_BS, share_BS, grad_BD, grad_SD):
    torch.mm(face_BD, unit_SD.t(), out=cosine_BS)
    torch.softmax(cosine_BS, 1, out=share_BS)
    torch.mm(share_BS, unit_SD, out=grad_BD)
    torch.mm(share_BS.t(), face_BD, out=grad_SD)


def dense(options, face_BD, label_B):
    device = face_BD.device
    torch.nn.Linear(EMBEDDING, 100, device=device)(face_BD).sum().backward()
    before = memory(device)
    layer = torch.nn.Linear(EMBEDDING, options.one, bias=False, device=device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)

    def dense_step():
        embedding_BD = face_BD.clone().requires_grad_()
        torch.nn.functional.cross_entropy(layer(embedding_BD), label_B).backward()
        optimizer.step()
        optimizer.zero_grad()

    times = [timed(dense_step, device) for _ in range(WARM_UP + options.steps)][WARM_UP:]
    return {
        "dense_s": round(statistics.median(times), 5),
        "memory_mib": round((peak_memory(device) - before) / 2**20, 1),
    }


def timed(function, device):
    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def memory(device):
    """Bytes in use, and the peak begun anew where that can be."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def peak_memory(device):
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else memory(device)


def as_page(found):
    """partial_fc.html: time and memory over the number of identities."""
    ours = [row for row in found["rows"] if row["kind"] == "ours"]
    dense_rows = [row for row in found["rows"] if row["kind"] == "dense"]
    looks = {
        "ours, a whole step": page.Look("#0f766e", "━"),
        "the bare sampled products and softmax": page.Look("#1e293b", "┅"),
        "a dense FC": page.Look("#be123c", "━"),
    }
    lines = {
        "time": [(ours, "ours_s", 0), (ours, "bare_s", 1), (dense_rows, "dense_s", 2)],
        "memory": [(ours, "memory_mib", 0), (ours, "needed_mib", 1), (dense_rows, "memory_mib", 2)],
    }
    figures = {}
    for name, title in (("time", "Seconds a step"), ("memory", "MiB")):
        figures[name] = go.Figure()
        for rows, key, number in lines[name]:
            colour = list(looks.values())[number].colour
            figures[name].add_scatter(
                x=[row["identities"] for row in rows],
                y=[row[key] for row in rows],
                mode="lines+markers",
                line={"color": colour, "dash": "dash" if number == 1 else "solid"},
                hovertemplate="%{x:,}: %{y:.4g}<extra></extra>",
            )
        figures[name].update_xaxes(type="log", title="Identities")
        figures[name].update_yaxes(type="log", title=title)
    rows = "".join(
        f"<tr><th>{row['identities']:,}</th><td>{row['sampled']:,}</td><td>{row['bare_s']:.3f}</td><td>{row['ours_s']:.3f}</td>"
        f"<td>{row['ratio']:.2f}</td><td>{row['memory_mib']:,.0f}</td><td>{row['memory_ratio']:.2f}</td></tr>"
        for row in ours
    )
    names = ("Identities", "Sampled", "Bare, s", "Ours, s", "Ratio", "Memory, MiB", "of what is needed")
    sections = (
        f"<section><h2>Time of a "
        f"step</h2>{page.legend(looks)}{page.drawn(figures['time'], 'time', height_px=420)}</section>"
        f"<section><h2>Memory</h2><p>Dashed: centres, momentum, and the bare products' working set.</p>"
        f"{page.drawn(figures['memory'], 'memory', height_px=420)}</section>"
        f"<section><h2>Figures</h2>{page.table(names, rows)}</section>"
    )
    facts = [
        ("batch", f"{found['batch']} faces of {found['embedding_size']} numbers"),
        ("sampled", f"{100 * found['rate']:g} % of the identities"),
        ("loss", found["loss"]),
        ("machine", f"{found['made_by']['machine']}, {found['device']}, {found['threads']} threads"),
    ]
    return page.document(
        sections,
        page.definitions(page.origin(Provenance(**found["made_by"]), [])),
        kind="benchmark",
        title="Partial FC",
        subtitle="What a step costs from ten thousand to two million identities",
        banner="",
        facts=facts,
    )


if __name__ == "__main__":
    main()
