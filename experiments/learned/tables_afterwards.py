"""Is there a better way of choosing whom to train? Found after the figures of tables.py were known, and told as such.

    python experiments/learned/tables_afterwards.py --data FOLDER

The ways of WAYS in the groups of tables.py, beside the same random choices, and on five further tasks of TransNAS-Bench
that none of them was chosen by. Pieces are kept under --out. Writes tables_afterwards.json and the table of results.md
beside this file.
"""

import json
import time

from table_files import FURTHER, TABLES, load
from tables import arguments, frozen, interval, lines_of, mean, piece, rounded, settings_of, with_table

from zennas.learn.choosing import medoids
from zennas.provenance import provenance
from zennas.run_folder import write_atomically

NUMS = (8, 12, 16)
WAYS = {
    "as frozen": frozen,
    "medoids, half by S": lambda first: {"prior_share": 0.5, "filling": medoids},
    "medoids, a quarter by S": lambda first: {"prior_share": 0.25, "filling": medoids},
    "medoids alone": lambda first: {"prior_share": 0.0, "filling": medoids},
}


def compute(options):
    """{table: {way: {K: piece}}}; what --out has of the same settings is not computed again."""
    plan = [(name, way, num) for name in [*TABLES, *FURTHER] for way in WAYS for num in NUMS]
    pieces, loaded, began, computed = {}, {}, time.monotonic(), 0
    for number, (name, way, num) in enumerate(plan, start=1):
        path = options.out / f"{name}-{way.replace(' ', '_').replace(',', '')}-{num}.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if kept.get("settings") != settings_of(options):
            if name not in loaded:
                loaded = {name: load(name, options.data)}
            figures = piece(loaded[name], name, num, options, choose=WAYS[way])
            kept = {"settings": settings_of(options), "piece": figures}
            write_atomically(path, json.dumps(kept) + "\n")
            computed += 1
            left = (time.monotonic() - began) / computed * (len(plan) - number)
            print(f"{number} of {len(plan)}: {name}, {way}, K = {num}; about {left / 60:.0f} minutes left", flush=True)
        pieces.setdefault(name, {}).setdefault(way, {})[str(num)] = kept["piece"]
    return pieces


def slim(figures):
    """What is published of a piece: the choice beside a random one."""
    if not figures["draws"]:
        return figures
    ways = {
        way: {key: figure["mean"] for key, figure in figures["ways"][way].items()}
        for way in ("learned", "random", "chance")
    }
    return {"draws": figures["draws"], "different": figures["different"], "ways": ways} | {
        key: figures[key] for key in ("less_random", "less_chance")
    }


def as_table(pieces, num="12"):
    """tau less random (of those that neither trained) and regrets, table by table."""
    head = [
        "table",
        "way",
        "tau",
        "less random",
        "of those neither trained: less random",
        "best predicted",
        "best of K + 4",
    ]
    rows = []
    for name, ways in pieces.items():
        for way, nums in ways.items():
            at = nums[num]
            learned, better = at["ways"]["learned"], at["less_random"]
            cells = [name, way, mean(learned["tau"]), interval(better.get("tau")), interval(better.get("tau_neither"))]
            rows.append([*cells, mean(learned["regret_std"]), mean(learned["with_more_std"], ".3f")])
    return lines_of(head, rows)


def as_num_table(pieces):
    """tau less random / of those neither trained, on average over the tables, by K and way."""
    rows = []
    for group, names in (("of tables.py", TABLES), ("further", FURTHER)):
        for way in WAYS:
            cells = [f"{len(names)} {group}", way]
            for num in map(str, NUMS):
                better = [at["less_random"] for name in names if (at := pieces[name][way][num])["draws"]]
                means = [
                    sum(each[key]["better"] for each in better if key in each) / sum(key in each for each in better)
                    for key in ("tau", "tau_neither", "regret_std", "with_more_std")
                ]
                worst = min(each["tau"]["better"] for each in better)
                cells.append(f"{means[0]:+.3f} ({worst:+.3f}) / {means[1]:+.3f} / {means[2]:+.3f} / {means[3]:+.3f}")
            rows.append(cells)
    return lines_of(["tables", "way", *(f"K = {num}" for num in NUMS)], rows)


def main():
    options = arguments(__doc__, out="runs/learned/tables_afterwards").parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pieces = compute(options)
    published = {
        "made_by": provenance(seed=options.seed).model_dump(),
        "settings": settings_of(options),
        "pieces": {
            name: {way: {num: slim(figures) for num, figures in nums.items()} for way, nums in ways.items()}
            for name, ways in pieces.items()
        },
    }
    write_atomically(options.results / "tables_afterwards.json", json.dumps(rounded(published)) + "\n")
    print(as_table(pieces), as_num_table(pieces), sep="\n")
    notes = options.results / "results.md"
    if notes.is_file():
        text = with_table(notes.read_text(encoding="utf-8"), "### Found afterwards", as_num_table(pieces))
        write_atomically(notes, with_table(text, "#### At K = 12", as_table(pieces)))


if __name__ == "__main__":
    main()
