"""A gallery of a million synthetic vectors: time and memory to enrol, to make the index, to ask, to add and to delete;
a query by cells against exact search in the same process; the recall.

    python experiments/benchmarks/gallery.py --folder runs/gallery --out experiments/benchmarks/gallery.json

No network and no pictures: vectors of 512 numbers, 20 of each person, cosine of two of them 0.61 on average. Queries
are new vectors of people who are there. Each size runs in a process of its own; memory is the most that it holds beside
its files (RssAnon). Sizes at which a gallery would be compared whole are put into cells here, too, to see from which
size on that pays.

It goes on where it was stopped: vectors and index that lie in --folder are kept, a size that is done stands in --out.
What takes time was timed where it happened, so a row of which parts were made by an earlier run lacks those times.
A million vectors take 2 GB of disk.
"""

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import numpy as np

from zennas.embed.cells import use_threads
from zennas.gallery import search as searching
from zennas.gallery.store import Gallery, New, Settings, Writer
from zennas.provenance import num_cores, provenance

SIZE, EACH, NOISE = 512, 20, 0.035
BLOCK = 10_000  # vectors that are drawn and enrolled together
ASKED, AT = 200, 10  # queries one by one, and the length of their lists
TOGETHER = 64  # queries of one call
ADDED, DELETED = 0.01, 0.001  # shares of a gallery


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/gallery-benchmark"))
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.one, options.folder / str(options.one))))
        return
    rows = []
    if options.out and options.out.is_file():
        rows = json.loads(options.out.read_text(encoding="utf-8"))["rows"]
    for size in options.sizes:
        if any(row["vectors"] == size for row in rows):
            print(f"{size:,} vectors stand in {options.out}", file=sys.stderr)
            continue
        command = [sys.executable, __file__, "--one", str(size), "--folder", str(options.folder)]
        ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        rows = sorted([*rows, json.loads(ended.stdout.splitlines()[-1])], key=lambda row: row["vectors"])
        print(json.dumps(rows, indent=1), flush=True)
        if options.out:
            content = {
                "what": "a gallery of synthetic vectors: seconds, milliseconds a query, gigabytes, recall",
                "numbers": SIZE,
                "cores": num_cores(),
                "rows": rows,
                "made_by": provenance(seed=0).model_dump(),
            }
            temporary = options.out.with_suffix(".tmp")
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
            temporary.replace(options.out)


def measured(num, folder):
    """One row: a gallery of `num` vectors."""
    use_threads(num_cores())
    searching.FLAT = 0  # cells at any size
    row = {"vectors": num, "people": -(-num // EACH)}
    row["held_before_gb"] = gigabytes(anonymous())  # by Python and its libraries; part of every peak
    with Writer.begin(folder, settings()) as writer:
        row |= enrolled(writer, num)
        if writer.cells is None:
            with most_anonymous() as most:
                start = time.perf_counter()
                searching.settle(writer)
                row["index_s"] = round(time.perf_counter() - start, 1)
            row["index_peak_gb"] = gigabytes(most[0])
        cells = writer.cells
    row |= {"cells": cells.cells, "probes": cells.probes, "recall_stated": round(cells.recall, 4)}
    row["disk_gb"] = {path.name: gigabytes(path.stat().st_size) for path in sorted(folder.iterdir())}
    row |= asked(folder, num)
    return row | changed(folder, num)


def settings():
    return Settings(
        holds="faces",
        network="none",
        model="none",
        fingerprint="synthetic",
        embedding_size=SIZE,
        input=(112, 112),
        flip=False,
        made_by={},
    )


def drawn(people, seed):
    """A vector of each of these people; who they are does not depend on the seed."""
    rows_BD = np.empty((len(people), SIZE), np.float32)
    for person in np.unique(people):
        rows_BD[people == person] = np.random.default_rng(int(person)).normal(size=SIZE)
    rows_BD /= np.linalg.norm(rows_BD, axis=1, keepdims=True)
    rows_BD += NOISE * np.random.default_rng([seed, 1]).normal(size=rows_BD.shape).astype(np.float32)
    return rows_BD / np.linalg.norm(rows_BD, axis=1, keepdims=True)


def add(writer, first, stop):
    source = writer.source("synthetic", detected=False)
    people = np.arange(first, stop) // EACH
    new = [New(f"{at}.png", f"person {at // EACH}", at.to_bytes(16, "big")) for at in range(first, stop)]
    rows_BD = drawn(people, seed=first)
    start = time.perf_counter()
    writer.append(rows_BD, new, source)
    return time.perf_counter() - start


def enrolled(writer, num):
    """Append what is missing, block by block; the time without that of drawing them."""
    seconds, begun = 0.0, writer.num_vectors
    with most_anonymous() as most:
        for first in range(begun, num, BLOCK):
            seconds += add(writer, first, min(first + BLOCK, num))
            print(f"{min(first + BLOCK, num):,} of {num:,} vectors", file=sys.stderr, flush=True)
    if begun:
        return {}
    return {"append_s": round(seconds, 1), "append_peak_gb": gigabytes(most[0])}


def asked(folder, num):
    """Queries one by one and many at once, by cells and exactly; what the lists have in common."""
    people = np.random.default_rng(0).integers(0, num // EACH, ASKED)
    unit_QD = drawn(people, seed=10**9)
    with most_anonymous() as most:
        times, number_QK = {"cells": [], "exact": []}, {}
        with Gallery.open(folder) as gallery:
            for way, ask in (("cells", searching.search), ("exact", searching.exact)):
                ask(gallery, unit_QD[:1], AT)  # files are in the cache of the system from here on
                found = []
                for unit_D in unit_QD:
                    start = time.perf_counter()
                    found.append(ask(gallery, unit_D[None], AT)[0][0])
                    times[way].append(1e3 * (time.perf_counter() - start))
                start = time.perf_counter()
                ask(gallery, unit_QD[:TOGETHER], AT)
                times[f"{way} together"] = 1e3 * (time.perf_counter() - start) / TOGETHER
                number_QK[way] = np.array(found)
    shared = [len(set(one) & set(other)) / AT for one, other in zip(*number_QK.values(), strict=True)]
    return {
        "query_ms": {way: round(float(np.median(spent)), 3) for way, spent in times.items()},
        "query_ms_quartiles": {
            way: [round(float(part), 3) for part in np.percentile(times[way], [25, 75])] for way in number_QK
        },
        "times_exact": round(float(np.median(times["exact"]) / np.median(times["cells"])), 2),
        f"recall_at_{AT}": round(float(np.mean(shared)), 4),
        "same_first": round(float((number_QK["cells"][:, 0] == number_QK["exact"][:, 0]).mean()), 4),
        "right_person_first": {
            way: round(float((found[:, 0] // EACH == people).mean()), 4) for way, found in number_QK.items()
        },
        "query_peak_gb": gigabytes(most[0]),
    }


def changed(folder, num):
    """A hundredth is added, a thousandth deleted; then all of it is taken back, so that the row can be made again."""
    more, fewer = max(1, round(ADDED * num)), max(1, round(DELETED * num))
    with Writer.begin(folder) as writer:
        first = writer.num_vectors
        start = time.perf_counter()
        add(writer, first, first + more)
        searching.settle(writer)
        added_s = time.perf_counter() - start
        start = time.perf_counter()
        writer.delete(range(first, first + fewer))
        searching.settle(writer)
        deleted_s = time.perf_counter() - start
        writer.delete(range(first + fewer, first + more))
    return {
        "add": {"vectors": more, "seconds": round(added_s, 2)},
        "delete": {"vectors": fewer, "seconds": round(deleted_s, 2)},
    }


def gigabytes(num):
    return round(num / 1e9, 3)


@contextlib.contextmanager
def most_anonymous():
    """[the most bytes that this process held in the block beside what it maps from files]."""
    most, ended = [anonymous()], threading.Event()

    def watch():
        while not ended.wait(0.05):
            most[0] = max(most[0], anonymous())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield most
    finally:
        ended.set()
        thread.join()
        most[0] = max(most[0], anonymous())


def anonymous():
    status = pathlib.Path(f"/proc/{os.getpid()}/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
