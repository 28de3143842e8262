"""Does a line through a few trained networks order the others of equal cost? On tables that others published: piece 1
of protocol.md.

    python experiments/learned/tables.py --data FOLDER

FOLDER (or the variable ZENNAS_DATA, with nas/truth below it) holds the CSV files that table_files.py reads. Whom to
train and the model are those of zennas/learn; nothing is trained, the table is looked up. Each piece, a table and a K,
is kept under --out and not computed again. Writes tables.json, the tables of results.md beside this file, and
tables.html to --out (tables.png is a picture of it).
"""

# N networks of a group, K trained, D draws

import argparse
import functools
import json
import math
import os
import pathlib
import re
import time
import zlib

import numpy as np
from table_files import TABLES, ZEN, load

from zennas.learn.choosing import fill_space, train_few
from zennas.learn.model import fit, kendall
from zennas.provenance import provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__).parent
NUMS = (8, 12, 16, 24)
GROUP = 50  # networks of a group
LEAST_LEFT = 8  # networks that must remain to be ordered, where a window holds fewer than GROUP
REACH = 3  # times the window that the nearest may lie apart, where the nearest are the group
MORE = 4  # best predicted, trained after the K
NUM_RANDOM = 20  # random choices in each group, whose mean is "random"
NUM_RESAMPLES = 2000
# figure: whether more is better
FIGURES = {
    "tau": True,  # of the networks that were not trained
    "tau_neither": True,  # of those that neither this choice nor the random one trained
    "regret": False,  # best of the group less the best predicted, points
    "regret_std": False,  # the same in standard deviations of the group
    "with_more": False,  # best of the group less the best of K and the MORE best predicted
    "with_more_std": False,
}


# --- groups of equal cost


def groups_of(table, num, *, draws, seed, name):
    """[(rows of a group, which of them fills the space first or None)] of networks of equal cost."""
    rng, everyone = np.random.default_rng([seed, zlib.crc32(name.encode())]), np.arange(len(table.cost_N))
    if table.window is None:
        return [(everyone, int(rng.integers(len(everyone)))) for _ in range(draws)]
    order_N = np.argsort(table.cost_N, kind="stable")
    ln_cost_N, reach = np.log(table.cost_N[order_N]), math.log1p(table.window)
    if table.nearest:
        near = [order_N[np.argsort(np.abs(ln_cost_N - middle), kind="stable")[:GROUP]] for middle in ln_cost_N]
        apart_N = [
            np.abs(np.log(table.cost_N[rows]) - middle).max() for rows, middle in zip(near, ln_cost_N, strict=True)
        ]
        middles = np.flatnonzero(np.array(apart_N) <= math.log1p(REACH * table.window))
        return [(near[middle], None) for middle in rng.choice(middles, draws)]
    low_N, high_N = (
        np.searchsorted(ln_cost_N, ln_cost_N + sign * (reach + 1e-12), side)
        for sign, side in ((-1, "left"), (1, "right"))
    )
    least = GROUP if (high_N - low_N).max() >= GROUP else num + LEAST_LEFT
    middles = np.flatnonzero(high_N - low_N >= least)
    if not len(middles):
        return []
    groups = []
    for middle in rng.choice(middles, draws):
        rows = order_N[low_N[middle] : high_N[middle]]
        groups.append((rng.permutation(rows)[:GROUP], None))
    return groups


# --- what a choice is worth in a group


def judged(predicted_N, truth_N, trained, num_more, rng):
    """Figures of an order, of which these rows were trained. Equal predictions are one choice of all of them."""
    best, spread = truth_N.max(), truth_N.std()
    left_N = np.ones(len(truth_N), bool)
    left_N[trained] = False
    top_N = np.isclose(predicted_N, predicted_N.max(), rtol=0, atol=1e-9 * max(1.0, np.ptp(predicted_N)))
    order = np.lexsort((rng.random(len(truth_N)), -predicted_N))
    more = [row for row in order if left_N[row]][:num_more]
    regret, with_more = best - truth_N[top_N].mean(), best - truth_N[[*trained, *more]].max()
    return {
        "tau": kendall(predicted_N[left_N], truth_N[left_N]),
        "regret": regret,
        "regret_std": regret / spread,
        "with_more": with_more,
        "with_more_std": with_more / spread,
    }


def best_of_random(truth_N, num):
    """The expected best of `num` drawn at random, each once.

    >>> round(best_of_random(np.array([1.0, 2.0, 3.0]), 2), 3)
    2.667
    """
    size = len(truth_N)
    chance_N = [math.comb(place, num - 1) / math.comb(size, num) for place in range(size)]
    return float(np.sort(truth_N) @ chance_N)


def frozen(first):
    """How protocol.md chooses: half fill the space, each the farthest from those before it, half are S's."""
    return {"prior_share": 0.5, "filling": functools.partial(fill_space, first=first)}


def one_draw(table, rows, num, rng, *, first=None, choose=frozen):
    """{way: its figures} in one group: the learned choice, random choices, and what is known without any training."""
    feature_NF, truth_N, prior_N = table.feature_NF[rows], table.truth_N[rows], table.known["S"][rows]
    trained = train_few(feature_NF, prior_N, truth_N.item, num, **choose(first))
    learned_N = trained.line.predict(feature_NF)[0]
    learned, at_random = judged(learned_N, truth_N, trained.rows, MORE, rng), []
    for _ in range(NUM_RANDOM):
        chosen = rng.choice(len(rows), num, replace=False)
        random_N = fit(feature_NF[chosen], truth_N[chosen]).predict(feature_NF)[0]
        neither_N = np.ones(len(rows), bool)
        neither_N[chosen] = neither_N[trained.rows] = False
        both = [kendall(value_N[neither_N], truth_N[neither_N]) for value_N in (learned_N, random_N)]
        both = both if neither_N.sum() >= LEAST_LEFT else [math.nan] * 2
        figures = judged(random_N, truth_N, list(chosen), MORE, rng)
        at_random.append({**figures, "learned_neither": both[0], "tau_neither": both[1]})
    mean = {key: mean_of([draw[key] for draw in at_random]) for key in at_random[0]}
    learned["tau_neither"] = mean.pop("learned_neither")
    best, spread = truth_N.max(), truth_N.std()
    regrets = {"regret": best - truth_N.mean(), "with_more": best - best_of_random(truth_N, num + MORE)}
    ways = {
        "learned": learned,
        "random": mean,
        "chance": {**regrets, **{f"{key}_std": value / spread for key, value in regrets.items()}},
    }
    for name, value_N in table.known.items():
        ways[name] = judged(value_N[rows], truth_N, [], num + MORE, rng)
        left = np.setdiff1d(np.arange(len(rows)), trained.rows)
        ways[name]["tau_left"] = kendall(value_N[rows][left], truth_N[left])
    return ways


def mean_of(values):
    """The mean of those that are numbers; NaN where none is."""
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def piece(table, name, num, options, *, choose=frozen):
    """What all draws say of a table and a K."""
    groups = groups_of(table, num, draws=options.draws, seed=options.seed, name=name)
    draws = []
    for number, (rows, first) in enumerate(groups):
        rng = np.random.default_rng([options.seed, zlib.crc32(name.encode()), num, number])
        draws.append(one_draw(table, rows, num, rng, first=first, choose=choose))
    if not draws:
        return {"draws": 0}
    different = {tuple(sorted(rows.tolist())) if first is None else first for rows, first in groups}
    sizes = [len(rows) for rows, _ in groups]
    return {
        "draws": len(draws),
        "different": len(different),
        "networks": [min(sizes), float(np.mean(sizes)), max(sizes)],
        "ways": {
            way: {key: over_draws([draw[way][key] for draw in draws]) for key in figures}
            for way, figures in draws[0].items()
        },
        "less_random": less(draws, "random", FIGURES),
        "less_chance": less(draws, "chance", ("regret", "regret_std", "with_more", "with_more_std")),
    }


def over_draws(values):
    """Mean, standard deviation and the interval of 95 % of what the draws gave."""
    value_D = np.array([value for value in values if math.isfinite(value)])
    if not len(value_D):
        return {"mean": None, "std": None, "low": None, "high": None}
    low, high = np.percentile(value_D, (2.5, 97.5))
    return {"mean": float(value_D.mean()), "std": float(value_D.std()), "low": float(low), "high": float(high)}


def less(draws, other, figures):
    """{figure: by how much the learned choice is better than another, draw by draw}: mean, interval of the mean, and
    the share of draws in which it is worse."""
    differences = {}
    for key in figures:
        sign = 1 if FIGURES[key] else -1
        better_D = np.array([sign * (draw["learned"][key] - draw[other][key]) for draw in draws])
        better_D = better_D[np.isfinite(better_D)]
        if not len(better_D):
            continue
        means_R = np.random.default_rng(0).choice(better_D, (NUM_RESAMPLES, len(better_D))).mean(1)
        low, high = np.percentile(means_R, (2.5, 97.5))
        differences[key] = {
            "better": float(better_D.mean()),
            "low": float(low),
            "high": float(high),
            "worse_share": float((better_D < -1e-12).mean()),
        }
    return differences


# --- the pieces


def settings_of(options):
    """All that decides a piece, beside its table and K."""
    return {
        "draws": options.draws,
        "seed": options.seed,
        "group": GROUP,
        "least_left": LEAST_LEFT,
        "reach": REACH,
        "more": MORE,
        "random_choices": NUM_RANDOM,
    }


def compute(options):
    """{table: {K: piece}}; what --out has of the same settings is not computed again."""
    plan = [(name, num) for name in options.tables for num in options.num]
    pieces, loaded, began, computed = {}, {}, time.monotonic(), 0
    for number, (name, num) in enumerate(plan, start=1):
        path = options.out / f"{name}-{num}.json"
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if kept.get("settings") != settings_of(options):
            if name not in loaded:
                loaded[name] = load(name, options.data)
            kept = {"settings": settings_of(options), "piece": piece(loaded[name], name, num, options)}
            write_atomically(path, json.dumps(kept) + "\n")
            computed += 1
            left = (time.monotonic() - began) / computed * (len(plan) - number)
            print(f"{number} of {len(plan)}: {name}, K = {num}; about {left / 60:.0f} minutes left", flush=True)
        pieces.setdefault(name, {})[str(num)] = kept["piece"]
    return pieces


def main():
    parser = arguments(__doc__, out="runs/learned/tables")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), metavar="NAME")
    parser.add_argument("--num", nargs="+", type=int, default=list(NUMS), metavar="K", help="networks trained")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    pieces = compute(options)
    print(as_tau_table(pieces))
    if set(options.tables) != set(TABLES) or set(options.num) != set(NUMS):
        return  # a part of the proof is no result
    about = {name: about_table(load(name, options.data)) for name in TABLES}
    made_by = provenance(seed=options.seed).model_dump()
    published = {"made_by": made_by, "settings": settings_of(options), "tables": about, "pieces": pieces}
    write_atomically(options.results / "tables.json", json.dumps(rounded(published), indent=1) + "\n")
    from tables_page import as_page

    write_atomically(options.out / "tables.html", as_page(published))
    notes = options.results / "results.md"
    if notes.is_file():
        text = notes.read_text(encoding="utf-8")
        tables = {"Tau": as_tau_table, "Tau by the number of trained": as_num_table, "Regret": as_regret_table}
        for heading, table in tables.items():
            text = with_table(text, f"### {heading}", table(pieces))
        write_atomically(notes, text)


def rounded(value):
    """The same with five decimals, which is more than 200 groups can tell."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return round(value, 5) if isinstance(value, float) else value


def about_table(table):
    return {
        "title": table.title,
        "networks": len(table.cost_N),
        "cost": table.cost,
        "window": table.window,
        "nearest": table.nearest,
        "features": table.features,
    }


def arguments(description, *, out):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    folder = pathlib.Path(os.environ["ZENNAS_DATA"], "nas", "truth") if "ZENNAS_DATA" in os.environ else None
    parser.add_argument("--data", type=pathlib.Path, default=folder, required=folder is None, help="folder of the CSVs")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(out), help="of the pieces")
    parser.add_argument("--results", type=pathlib.Path, default=HERE, help="folder of tables.json and results.md")
    parser.add_argument("--draws", type=int, default=200, help="groups of each table")
    parser.add_argument("--seed", type=int, default=0)
    return parser


# --- what is written


def with_table(text, heading, table):
    """Markdown with the table that follows a heading replaced."""
    return re.sub(rf"(?s)({heading}\n\n).*?(?=\n[^|\n]|\Z)", lambda match: match[1] + table, text)


def cell(figure, form=".2f", sign=1):
    """Mean, and the standard deviation over draws."""
    if figure is None or figure["mean"] is None:
        return "–"
    return f"{sign * figure['mean']:{form}} ± {figure['std']:{form}}"


def mean(figure, form=".2f"):
    return "–" if figure is None or figure["mean"] is None else f"{figure['mean']:{form}}"


def interval(figure):
    """How much better, with the interval of the mean."""
    return "{better:+.3f} ({low:+.3f} to {high:+.3f})".format(**figure) if figure else "–"


def share(figure):
    return f"{figure['worse_share']:.0%}".replace("%", " %") if figure else "–"


def lines_of(head, rows):
    return (
        "\n".join(["| " + " | ".join(row) + " |" for row in (head, ["---", *["---:"] * (len(head) - 1)], *rows)]) + "\n"
    )


def pieces_at(pieces, num):
    """[(table, piece)] at a K, of the tables that allow it."""
    return [(name, nums[num]) for name, nums in pieces.items() if nums.get(num, {}).get("draws")]


RIVALS = ("S", "fewer blocks", "parameters", ZEN)


def as_tau_table(pieces, num="12"):
    """Tau at one K, beside random choice and what is known without training."""
    head = ["table", "groups", "networks", "learned", "random choice", "learned less random", "worse in"]
    rows = []
    for name, at in pieces_at(pieces, num):
        ways, better = at["ways"], at["less_random"].get("tau")
        cells = [name, f"{at['different']}", f"{at['networks'][1]:.0f}", cell(ways["learned"]["tau"])]
        cells += [mean(ways["random"]["tau"]), interval(better), share(better)]
        cells += [interval(at["less_random"].get("tau_neither"))]
        cells += [mean(ways.get(rival, {}).get("tau")) for rival in RIVALS]
        rows.append(cells)
    return lines_of([*head, "of those neither trained: less random", *RIVALS], rows)


def as_num_table(pieces):
    """Tau at every K: learned, random choice, and of those that neither trained, how much better."""
    head = ["table", *(f"K = {num}" for num in NUMS)]
    rows = []
    for name, nums in pieces.items():
        cells = [name]
        for num in NUMS:
            at = nums.get(str(num), {})
            if not at.get("draws"):
                cells.append("–")
                continue
            ways, neither = at["ways"], at["less_random"].get("tau_neither")
            beside = f" ({neither['better']:+.2f})" if neither else ""
            cells.append(f"{mean(ways['learned']['tau'])} / {mean(ways['random']['tau'])}{beside}")
        rows.append(cells)
    return lines_of(head, rows)


def as_regret_table(pieces, num="12"):
    """Regrets at one K, in standard deviations of the group and, of the learned choice, in points."""
    ways = ("learned", "random", "S", "fewer blocks", "parameters", ZEN)
    rows = []
    for name, at in pieces_at(pieces, num):
        for what, key in (("best predicted", "regret"), (f"best of K + {MORE}", "with_more")):
            figures = at["ways"]
            points = f"{mean(figures['learned'][key])} / {mean(figures['chance'][key])}"
            cells = [mean(figures.get(way, {}).get(f"{key}_std")) for way in ways]
            cells.append(mean(figures["chance"][f"{key}_std"]))
            rows.append([name, what, points, *cells, share(at["less_chance"].get(key))])
    head = ["table", "regret of", "points: learned / by chance", "learned", "random choice, same model"]
    return lines_of([*head, "S", "fewer blocks", "parameters", ZEN, "by chance", "worse than chance in"], rows)


if __name__ == "__main__":
    main()
