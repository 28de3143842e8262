"""A gallery of a million synthetic vectors: time and memory to enrol, to make the index, to ask, to add and to delete;
a query by cells against exact search in the same process; the recall.

    python experiments/benchmarks/gallery.py
    python experiments/benchmarks/gallery.py --numbers 2048 --sizes 10000 100000 1000000

No network and no pictures. The vectors are drawn to lie as those of a network do: as the 1,459 of every second gallery
picture of a slice of Market-1501 by person-reidentification-retail-0287 (in brackets).
- People have 20 pictures on average, geometrically spread: many have few, some have a hundred.
- All share a direction of length 0.34 (0.35). Centres of people spread over few directions: their variances fall as
  (1 + d / 27)^-2, a participation ratio of 80 (60 of 200 people, which is a lower bound).
- Pictures of a person spread over more, (1 + d / 45)^-2, 135 (131), on the same axes, so they are confused with others;
  how far differs from picture to picture (lognormal, sigma 0.3).
- The cosine is 0.58 between pictures of a person (0.58), 0.12 between strangers (0.12).

Queries are new vectors of people who are there. Each size runs in a process of its own; memory is the most that it
holds beside its files (RssAnon). Sizes at which a gallery would be compared whole are put into cells here, too, to see
from which size on that pays.

It goes on where it was stopped: vectors and index that lie in --folder are kept, a size that is done stands in --out.
What takes time was timed where it happened, so a row of which parts were made by an earlier run lacks those times. A
million vectors of 512 numbers take 2.7 GB of disk. Writes gallery.json beside this file, and a page with a plot.
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
import plotly.graph_objects as go

from zennas import page
from zennas.embed.cells import use_threads
from zennas.gallery import search as searching
from zennas.gallery.store import Gallery, New, Settings, Writer
from zennas.provenance import Provenance, num_cores, provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__)
EACH = 20  # pictures of a person, on average
SHARED, CENTRE, WITHIN = 0.12, 0.44, 0.44  # squared lengths: of what all share, of a person, of a picture
CENTRE_FALL, WITHIN_FALL, SPREAD = 27, 45, 0.3
BLOCK = 10_000  # vectors that are drawn and enrolled together
ASKED, AT = 200, 10  # queries one by one, and the length of their lists
TOGETHER = 64  # queries of one call
ADDED, DELETED = 0.01, 0.001  # shares of a gallery


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 30_000, 100_000, 300_000, 1_000_000])
    parser.add_argument("--numbers", type=int, default=512)
    parser.add_argument("--folder", type=pathlib.Path, default=pathlib.Path("runs/gallery-benchmark"))
    parser.add_argument("--out", type=pathlib.Path, default=HERE.with_suffix(".json"))
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        folder = options.folder / f"{options.numbers}-{options.one}"
        print(json.dumps(measured(options.one, options.numbers, folder)))
        return
    rows = json.loads(options.out.read_text(encoding="utf-8"))["rows"] if options.out.is_file() else []
    for size in options.sizes:
        if any((row["numbers"], row["vectors"]) == (options.numbers, size) for row in rows):
            print(f"{size:,} vectors of {options.numbers:,} stand in {options.out}", file=sys.stderr)
            continue
        command = [sys.executable, __file__, "--one", str(size), "--numbers", str(options.numbers)]
        ended = subprocess.run(
            [*command, "--folder", str(options.folder)], check=True, stdout=subprocess.PIPE, text=True
        )
        rows = sorted(
            [*rows, json.loads(ended.stdout.splitlines()[-1])], key=lambda row: (row["numbers"], row["vectors"])
        )
        print(json.dumps(rows[-1], indent=1), flush=True)
        found = {
            "what": "a gallery of synthetic vectors: seconds, milliseconds a query, gigabytes, recall",
            "cores": num_cores(),
            "rows": rows,
            "made_by": provenance(seed=0).model_dump(),
        }
        write_atomically(options.out, json.dumps(found, indent=1) + "\n")
        write_atomically(options.out.with_suffix(".html"), as_page(found))


def measured(num, numbers, folder):
    """One row: a gallery of `num` vectors."""
    use_threads(num_cores())
    searching.FLAT = 0  # cells at any size
    people = people_of(num)
    row = {"vectors": num, "numbers": numbers, "people": int(people[-1]) + 1, "load_before": os.getloadavg()[0]}
    row["held_before_gb"] = gigabytes(anonymous())  # by Python and its libraries; part of every peak
    with Writer.begin(folder, settings(numbers)) as writer:
        row |= enrolled(writer, people)
        if writer.cells is None:
            with most_anonymous() as most:
                start = time.perf_counter()
                searching.settle(writer)
                row["index_s"] = round(time.perf_counter() - start, 1)
            row["index_peak_gb"] = gigabytes(most[0])
        cells = writer.cells
    row |= {"cells": cells.cells, "probes": cells.probes, "recall_stated": round(cells.recall, 4)}
    row["disk_gb"] = {path.name: gigabytes(path.stat().st_size) for path in sorted(folder.iterdir())}
    row |= asked(folder, people)
    return row | changed(folder, people) | {"load_after": os.getloadavg()[0]}


def settings(numbers):
    return Settings(
        holds="people",
        network="none",
        model="none",
        fingerprint="synthetic",
        embedding_size=numbers,
        input=(256, 128),
        flip=False,
        made_by={},
    )


def people_of(num):
    """Whose each vector is; the same for the first ones of a larger gallery."""
    each = np.random.default_rng(0).geometric(1 / EACH, size=num)
    return np.repeat(np.arange(num), each)[:num]


def deviations(numbers, fall, squared_length):
    variance_D = (1 + np.arange(numbers) / fall) ** -2.0
    return np.sqrt(squared_length * variance_D / variance_D.sum())


def drawn(people, numbers, seed):
    """A vector of each of these people; who they are does not depend on the seed."""
    rng = np.random.default_rng([seed, 1])
    shared_D = np.random.default_rng(0).normal(size=numbers)
    rows_BD = rng.normal(size=(len(people), numbers)).astype(np.float32)
    rows_BD *= np.exp(rng.normal(scale=SPREAD, size=(len(people), 1)) - SPREAD**2)  # their squares have a mean of 1
    rows_BD *= deviations(numbers, WITHIN_FALL, WITHIN)
    rows_BD += np.sqrt(SHARED) * shared_D / np.linalg.norm(shared_D)
    centre_D = deviations(numbers, CENTRE_FALL, CENTRE)
    for person in np.unique(people):
        rows_BD[people == person] += np.random.default_rng([int(person), 2]).normal(size=numbers) * centre_D
    return rows_BD / np.linalg.norm(rows_BD, axis=1, keepdims=True)


def add(writer, first, whose, *, seed):
    source = writer.source("synthetic", detected=False)
    new = [
        New(f"{at}.png", f"person {person}", at.to_bytes(16, "big")) for at, person in enumerate(whose.tolist(), first)
    ]
    rows_BD = drawn(whose, writer.settings.embedding_size, seed)
    start = time.perf_counter()
    writer.append(rows_BD, new, source)
    return time.perf_counter() - start


def enrolled(writer, people):
    """Append what is missing, block by block; the time without that of drawing them."""
    seconds, begun, num = 0.0, writer.num_vectors, len(people)
    with most_anonymous() as most:
        for first in range(begun, num, BLOCK):
            seconds += add(writer, first, people[first : first + BLOCK], seed=first)
            print(f"{min(first + BLOCK, num):,} of {num:,} vectors", file=sys.stderr, flush=True)
    if begun:
        return {}
    return {"append_s": round(seconds, 1), "append_peak_gb": gigabytes(most[0])}


def asked(folder, whose):
    """Queries one by one and many at once, by cells and exactly; what the lists have in common."""
    people = np.random.default_rng(0).choice(whose, ASKED)
    with most_anonymous() as most:
        times, number_QK = {"cells": [], "exact": []}, {}
        with Gallery.open(folder) as gallery:
            unit_QD = drawn(people, gallery.settings.embedding_size, seed=10**9)
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
            way: round(float((whose[found[:, 0]] == people).mean()), 4) for way, found in number_QK.items()
        },
        "query_peak_gb": gigabytes(most[0]),
    }


def changed(folder, people):
    """A hundredth is added, a thousandth deleted; then all of it is taken back, so that the row can be made again."""
    more, fewer = (max(1, round(share * len(people))) for share in (ADDED, DELETED))
    with Writer.begin(folder) as writer:
        first = writer.num_vectors
        start = time.perf_counter()
        add(writer, first, people[:more], seed=10**9 + 1)
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


def as_page(found):
    """The page: time of a query over the number of vectors, and all figures."""
    looks = {"cells": page.Look("#0f766e", "━"), "exact": page.Look("#be123c", "━")}
    sections = ""
    for numbers in sorted({row["numbers"] for row in found["rows"]}):
        rows, figure = [row for row in found["rows"] if row["numbers"] == numbers], go.Figure()
        for way, look in looks.items():
            figure.add_scatter(
                x=[row["vectors"] for row in rows],
                y=[row["query_ms"][way] for row in rows],
                mode="lines+markers",
                line={"color": look.colour},
            )
        figure.update_xaxes(type="log", title="Vectors", dtick=1)
        figure.update_yaxes(type="log", title="ms a query", dtick=1)
        plot = page.drawn(figure, f"time-{numbers}", height_px=360)
        sections += f"<section><h2>{numbers:,} numbers a vector</h2>{page.legend(looks)}{plot}</section>"
    cells = "".join(
        f"<tr><th>{row['vectors']:,} x {row['numbers']:,}</th><td>{row['probes']:,} of {row['cells']:,}</td>"
        f"<td>{row['query_ms']['cells']:.2f}</td><td>{row['query_ms']['exact']:.1f}</td>"
        f"<td>{row[f'recall_at_{AT}']:.1%}</td><td>{row.get('index_s', '')}</td>"
        f"<td>{row.get('index_peak_gb', '')}</td><td>{sum(row['disk_gb'].values()):.2f}</td></tr>"
        for row in found["rows"]
    )
    names = (
        "Vectors",
        "Cells looked into",
        "By cells, ms",
        "Exact, ms",
        "Recall at 10",
        "Index, s",
        "Peak, GB",
        "Disk, GB",
    )
    return page.document(
        sections + f"<section><h2>Figures</h2>{page.table(names, cells)}</section>",
        page.definitions(page.origin(Provenance(**found["made_by"]), [])),
        kind="benchmark",
        title="A gallery of a million",
        subtitle=found["what"],
        banner="",
        facts=[("Cores", f"{found['cores']}")],
    )


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
