"""Which label-free score ranks networks of equal latency? Every row of SCORES on NAS-Bench-201, CIFAR-10.

    python experiments/equal-latency/nb201.py --table nb201_cifar10_acc_and_latency.csv

The table holds 15,625 architectures: the accuracies of their trainings and their latencies on 27 devices. The first 800
of a random order were worked on; the next --test are reported, and nobody looked at them before. Values go to --out as
they come; what is there is not computed again. Writes nb201.json, nb201.html and the figures of nb201.md beside this
file.
"""

# N architectures, P = N x N pairs of them, K scores, R resamples

import argparse
import csv
import json
import pathlib
import re
import time

import numpy as np
import plotly.graph_objects as go
import torch
from nb201_networks import IMAGE_PX, is_connected, macs_of, network_of
from scipy.stats import kendalltau, spearmanr
from torch import nn

from zennas import page
from zennas.provenance import Provenance, provenance
from zennas.records import SPACES, data_root
from zennas.run_folder import write_atomically
from zennas.score.aggregate import WEIGHTS, equal_cost_terms, rank_aggregate
from zennas.score.scores import SCORES
from zennas.space.cost import cost
from zennas.space.shape import Shape
from zennas.space.space import Space

HERE = pathlib.Path(__file__).parent
# of the random order; weights were chosen on the first 350 of them, 25 of the last 100 served to try the program
NUM_DEV = 800
NUM_BINS, CLOSE = 20, 0.03
BATCH = 16
IMAGES = Shape(channels=3, height=IMAGE_PX, width=IMAGE_PX, embedding_size=1)
# As long as all the others together: on fewer networks.
SLOW = ("zen", "zen_reference", "vkdnw")
PROXIES = ("naswot", "swap", "meco", "near", "synflow", "az_expressivity", "az_progressivity", "az_trainability")
AZ_NAS = ("az_expressivity", "az_progressivity", "az_trainability", "macs")
FIVE = ("az_expressivity", "az_trainability", "params", "naswot", "meco")


# --- the values of every score


def read_table(path):
    """(architectures, accuracy of each training, accuracy_N, {device: latency_N in ms})."""
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    devices = [name for name in rows[0] if name.startswith("lat_ms_")]
    latencies = {name.removeprefix("lat_ms_"): np.array([float(row[name]) for row in rows]) for name in devices}
    runs = [[float(one) for one in row["acc_runs"].split(";")] for row in rows]
    return [row["arch_str"] for row in rows], runs, np.array([float(row["acc_mean"]) for row in rows]), latencies


def compute(architectures, indices, names, path):
    """{index: {score: [value or None where the network is refused, seconds of one core]}}; the file grows line by
    line."""
    known = {}
    if path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            known.setdefault(row.pop("index"), {}).update(row)
    with open(path, "a", encoding="utf-8") as file:
        for done, (index, wanted) in enumerate(zip(indices, names, strict=True)):
            missing = [name for name in wanted if name not in known.get(index, {})]
            if not missing:
                continue
            row = values_of(architectures[index], missing, seed=index)
            known.setdefault(index, {}).update(row)
            file.write(json.dumps({"index": int(index), **row}) + "\n")
            file.flush()
            if done % 20 == 0:
                print(f"{done} of {len(indices)}", flush=True)
    return known


def values_of(architecture, names, *, seed):
    """{score: [value or None, seconds]} of one architecture."""
    row = {}
    for name in names:
        network, generator = network_of(architecture), torch.Generator().manual_seed(int(seed))
        start = time.process_time()
        try:
            if name == "macs":  # the table's row is a candidate's
                value = macs_of(network)
            elif name == "convolutions":
                value = sum(isinstance(part, nn.Conv2d) for part in network.modules())
            elif name == "equal_cost":
                value = equal_cost_terms(network, IMAGES, BATCH, generator)._asdict()
            else:
                value = SCORES[name](network, IMAGES, BATCH, generator)
        except (FloatingPointError, RuntimeError) as error:
            if "input" not in str(error) and not isinstance(error, FloatingPointError):
                raise
            value = None
        row[name] = [value, round(time.process_time() - start, 4)]
    return row


# --- what they are worth


class Pairs:
    """The pairs of some architectures that a tau is about: weight_P of each, and which of the two is more accurate."""

    def __init__(self, accuracy_N, weight_P):
        sign_P = np.sign(accuracy_N[:, None] - accuracy_N[None])
        # A pair of equal accuracy says nothing; the upper half alone, or every pair would count twice.
        self.weight_P = np.triu(weight_P * (sign_P != 0), 1)
        self.weight_P = self.weight_P / self.weight_P.sum()
        self.sign_P = sign_P.astype(np.int8)
        self.num = int((self.weight_P > 0).sum())

    def tau(self, value_N, resamples_RN=None):
        """Weighted share of pairs ordered rightly less that ordered wrongly; a tie of the values is neither.

        With resamples (how often each architecture was drawn): (tau, the 2.5 % and 97.5 % points over them).
        """
        with np.errstate(invalid="ignore"):  # -inf less -inf
            order_P = np.nan_to_num(np.sign(value_N[:, None] - value_N[None]))
        agreed_P = self.weight_P * self.sign_P * order_P
        tau = float(agreed_P.sum())
        if resamples_RN is None:
            return tau
        over_R = ((resamples_RN @ agreed_P) * resamples_RN).sum(1) / (
            (resamples_RN @ self.weight_P) * resamples_RN
        ).sum(1)
        return [tau, *(float(one) for one in np.quantile(over_R, [0.025, 0.975]))]


def equal_bins(value_N, num_bins):
    """Pairs whose values fall into the same of `num_bins` quantile bins, as a matrix of 0 and 1."""
    edges = np.quantile(value_N, np.linspace(0, 1, num_bins + 1)[1:-1])
    bin_N = np.searchsorted(edges, value_N, side="right")
    return (bin_N[:, None] == bin_N[None]).astype(float)


def pairs_of(accuracy_N, latencies, macs_N):
    """{name: Pairs}: of all; of equal latency on each device and on all; within 3 % of each other; of equal MACs."""
    every = np.ones((len(accuracy_N), len(accuracy_N)))
    devices = {device: Pairs(accuracy_N, equal_bins(ms_N, NUM_BINS)) for device, ms_N in latencies.items()}
    close = [
        Pairs(accuracy_N, np.abs(np.log(ms_N[:, None] / ms_N[None])) < np.log1p(CLOSE)).weight_P
        for ms_N in latencies.values()
    ]
    return {
        "overall": Pairs(accuracy_N, every),
        "latency": Pairs(accuracy_N, sum(pairs.weight_P for pairs in devices.values())),
        "close": Pairs(accuracy_N, sum(close)),
        "macs": Pairs(accuracy_N, macs_N[:, None] == macs_N[None]),
    }, devices


def judged(values, accuracy_N, latencies, macs_N, *, seed, num_resamples=500):
    """{score: its figures} for {score: value_N}, -inf where a network was refused, None where it was not computed."""
    found = {}
    for subset, names in _by_subset(values).items():
        keep_N = np.array(subset)
        kinds, devices = pairs_of(
            accuracy_N[keep_N], {name: ms_N[keep_N] for name, ms_N in latencies.items()}, macs_N[keep_N]
        )
        draws = np.random.default_rng(seed).multinomial(keep_N.sum(), [1 / keep_N.sum()] * keep_N.sum(), num_resamples)
        for name in names:
            value_N = values[name][keep_N].astype(float)
            per_device = {device: pairs.tau(value_N) for device, pairs in devices.items()}
            found[name] = {
                "networks": int(keep_N.sum()),
                "refused": int(np.isneginf(value_N).sum()),
                "spearman": float(spearmanr(np.nan_to_num(value_N, neginf=-1e300), accuracy_N[keep_N]).statistic),
                **{kind: pairs.tau(value_N, draws.astype(float)) for kind, pairs in kinds.items()},
                "devices": per_device,
            }
    return found


def _by_subset(values):
    """{which networks have a value: [scores]}."""
    subsets = {}
    for name, value_N in values.items():
        subsets.setdefault(tuple(one is not None for one in value_N), []).append(name)
    return subsets


def ceiling(runs, indices, latencies, macs_N, *, seed):
    """The figures of one training's accuracy as a score for another's: no score can be expected to do better."""
    at = [place for place, index in enumerate(indices) if len(runs[index]) > 1]
    first_N, second_N = (np.array([runs[indices[place]][which] for place in at]) for which in (0, 1))
    latencies = {name: ms_N[at] for name, ms_N in latencies.items()}
    return judged({"another seed": first_N.astype(object)}, second_N, latencies, macs_N[at], seed=seed)["another seed"]


def latency_alone(accuracy_N, latencies, macs_N):
    """What a device's own latency says, on average over the devices: of all pairs, and within its bins."""
    kinds, devices = pairs_of(accuracy_N, latencies, macs_N)
    return {
        "overall": float(np.mean([kinds["overall"].tau(ms_N) for ms_N in latencies.values()])),
        "latency": float(np.mean([devices[device].tau(ms_N) for device, ms_N in latencies.items()])),
    }


def columns_of(known, indices):
    """{score: value_N as objects} of what was computed, the terms of equal_cost and the rank aggregates among them."""
    names = dict.fromkeys(name for index in indices for name in known[index])
    columns = {}
    for name in names:
        cells = [known[index].get(name) for index in indices]
        columns[name] = np.array(
            [None if cell is None else -np.inf if cell[0] is None else cell[0] for cell in cells], object
        )
    terms = columns.pop("equal_cost")
    for term in WEIGHTS:
        columns[f"  {term}"] = np.array([one if one == -np.inf else one[term] for one in terms], object)
    for left_out in (None, *WEIGHTS):
        weights = {name: weight for name, weight in WEIGHTS.items() if name != left_out}
        total = sum(weight * columns[f"  {name}"].astype(float) for name, weight in weights.items())
        columns["equal_cost" if left_out is None else f"  without {left_out}"] = total.astype(object)
    for name, parts in (
        ("ranks: AZ-NAS", AZ_NAS),
        ("ranks: expressivity, trainability, params, NASWOT, MeCo", FIVE),
        ("ranks: the terms of equal_cost", [f"  {term}" for term in WEIGHTS]),
    ):
        columns[name] = rank_aggregate([columns[part].astype(float) for part in parts]).astype(object)
    return columns


# --- and on the networks that we look for


def on_ir_se(*, seed, number=60, macs=(38e6, 42e6)):
    """Kendall's tau of each score with what tells candidates of ir_se_tiny of equal MACs apart, and with itself drawn
    again.

    No accuracy: whether a score says more of such networks than their depth or their size.
    """
    space = Space.load(data_root() / SPACES / "ir_se_tiny.yaml")
    generator, candidates = np.random.default_rng(seed), {}
    while len(candidates) < number:
        one = space.sample(generator)
        size = cost(one, space.shape)
        if macs[0] < size.macs < macs[1]:
            candidates[one] = size.params

    def drawn(name, which):
        return [
            SCORES[name](candidate, IMAGES, BATCH, torch.Generator().manual_seed(which)) for candidate in candidates
        ]

    beside = {
        "blocks": [candidate.num_blocks for candidate in candidates],
        "params": list(candidates.values()),
        "blocks of stage 1": [candidate.depths[0] for candidate in candidates],
        "blocks of stage 3": [candidate.depths[2] for candidate in candidates],
        "zen": drawn("zen", 0),
    }
    found = {}
    for name in (*PROXIES, "vkdnw", "zen", "equal_cost"):
        values = drawn(name, 0)
        found[name] = {other: float(kendalltau(values, beside[other]).statistic) for other in beside}
        found[name]["itself"] = float(kendalltau(values, drawn(name, 1)).statistic)
    return found


# --- what is written


def main():
    options = arguments()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    architectures, runs, accuracy_N, latencies = read_table(options.table)
    order = np.random.default_rng(options.seed).permutation(len(architectures))
    dev, test = order[: options.dev], order[NUM_DEV : NUM_DEV + options.test]
    few = ("params", "macs", "convolutions", *PROXIES, "equal_cost")
    plan = [(index, few) for index in test]
    plan += [(index, SLOW) for index in test[: options.slow]]
    plan += [(index, few) for index in dev]
    known = compute(architectures, *zip(*plan, strict=True), options.out / "nb201.jsonl")
    figures = {}
    for part, indices in (("test", test), ("dev", dev)):
        columns = columns_of(known, indices)
        macs_N = columns["macs"].astype(float)
        of_part = {name: ms_N[indices] for name, ms_N in latencies.items()}
        figures[part] = judged(columns, accuracy_N[indices], of_part, macs_N, seed=options.seed)
        if part == "test":
            drawn = {name: columns[name] for name in ("zen", "equal_cost")}
            noise = ceiling(runs, indices, of_part, macs_N, seed=options.seed)
            alone = latency_alone(accuracy_N[indices], of_part, macs_N)
    found = {
        "made_by": provenance(seed=options.seed).model_dump(),
        "networks": {"test": len(test), "dev": len(dev), "slow": options.slow},
        "disconnected": {
            "test": sum(not is_connected(architectures[index]) for index in test),
            "all": sum(not is_connected(architecture) for architecture in architectures),
        },
        "image_px": IMAGE_PX,
        "batch": BATCH,
        "bins": NUM_BINS,
        "weights": WEIGHTS,
        "seconds": seconds_of(known, test),
        "ceiling": noise,
        "latency_as_score": alone,
        "ir_se_tiny": on_ir_se(seed=options.seed),
        "test": figures["test"],
        "dev": figures["dev"],
    }
    write_atomically(HERE / "nb201.json", json.dumps(found, indent=1) + "\n")
    write_atomically(HERE / "nb201.html", as_page(found, drawn, accuracy_N[test]))
    notes = HERE / "nb201.md"
    if notes.is_file():
        text = notes.read_text(encoding="utf-8")
        for heading, table in (("Figures", as_table(found)), ("On IR-SE networks of equal MACs", as_ir_table(found))):
            text = with_table(text, heading, table)
        write_atomically(notes, text)
    print(as_table(found), as_ir_table(found), sep="\n")


def with_table(text, heading, table):
    """Markdown with the table that follows a heading replaced."""
    return re.sub(rf"(?s)(## {heading}\n\n).*?(?=\n[^|\n]|\Z)", lambda match: match[1] + table, text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=pathlib.Path, required=True, help="nb201_cifar10_acc_and_latency.csv")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/equal-latency"))
    parser.add_argument("--test", type=int, default=1000)
    parser.add_argument("--slow", type=int, default=300, help=f"networks of the test for {', '.join(SLOW)}")
    parser.add_argument("--dev", type=int, default=350)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def seconds_of(known, indices):
    """{score: mean seconds of one core for one network}, of those that were timed: None where several scores shared a
    pass.
    """
    cells = {}
    for name, (_, seconds) in (pair for index in indices for pair in known[index].items()):
        cells.setdefault(name, []).extend([] if seconds is None else [seconds])
    return {name: float(np.mean(timed)) for name, timed in cells.items() if timed}


def rows_of(found):
    """[(score, its figures)] of the test, best within latency bins first: of the scores, of the sets, of equal_cost's
    parts.
    """
    rows = sorted(found["test"].items(), key=lambda row: -row[1]["latency"][0])
    scores = [row for row in rows if not row[0].startswith((" ", "ranks"))]
    return scores, [row for row in rows if row[0].startswith("ranks")], [row for row in rows if row[0].startswith(" ")]


def as_table(found):
    """The figures of nb201.md."""
    head = (
        "score",
        "networks",
        "tau, overall",
        "Spearman",
        "tau, equal latency",
        "worst, best device",
        "tau, within 3 %",
    )
    lines = ["| " + " | ".join([*head, "tau, equal MACs", "refused", "s"]) + " |", "|---|" + "---:|" * 9]

    def line(name, one):
        tau = {kind: "{:.3f} ({:.3f} to {:.3f})".format(*one[kind]) for kind in ("overall", "latency", "close", "macs")}
        ends = f"{min(one['devices'].values()):.3f}, {max(one['devices'].values()):.3f}"
        cells = [
            name.replace("  ", "– "),
            f"{one['networks']:,}",
            tau["overall"],
            f"{one['spearman']:.3f}",
            tau["latency"],
            ends,
        ]
        cells += [tau["close"], tau["macs"], str(one["refused"]), page.number(found["seconds"].get(name), ".2f")]
        return "| " + " | ".join(cells) + " |"

    lines += [line(name, one) for group in rows_of(found) for name, one in group]
    lines.append(line("another training of the same network", found["ceiling"]))
    alone = found["latency_as_score"]
    lines.append(f"| the device's own latency | | {alone['overall']:.3f} | | {alone['latency']:.3f} | | | | | |")
    return "\n".join(lines) + "\n"


def as_ir_table(found):
    """The second table of nb201.md."""
    others = next(iter(found["ir_se_tiny"].values()))
    lines = ["| score | " + " | ".join(others) + " |", "|---|" + "---:|" * len(others)]
    for name, one in found["ir_se_tiny"].items():
        lines.append(f"| {name} | " + " | ".join(f"{tau:.2f}" for tau in one.values()) + " |")
    return "\n".join(lines) + "\n"


def as_page(found, drawn, accuracy_N):
    """nb201.html: each score's tau over all pairs and those of equal latency, device by device, and two of them as
    clouds.
    """
    scores, sets, _ = rows_of(found)
    rows = (scores + sets)[::-1]
    names = [name.removeprefix("ranks: ") + (" (ranks)" if name.startswith("ranks") else "") for name, _ in rows]
    dots = go.Figure()
    kinds = {
        "all pairs": ("overall", "#94a3b8"),
        "pairs of equal latency": ("latency", "#0f766e"),
        "pairs of equal MACs": ("macs", "#b45309"),
    }
    for place, (kind, colour) in enumerate(kinds.values()):
        tau, low, high = np.array([one[kind] for _, one in rows]).T
        dots.add_scatter(
            x=tau,
            y=np.arange(len(rows)) + 0.22 * (1 - place),
            mode="markers",
            marker={"color": colour, "size": 8},
            error_x={"array": high - tau, "arrayminus": tau - low, "color": colour, "thickness": 1.2, "width": 0},
        )
        dots.add_vline(x=found["ceiling"][kind][0], line={"color": colour, "dash": "dot", "width": 1})
    dots.update_xaxes(title="Kendall tau with accuracy; 95 % intervals; dotted: another training of the same network")
    dots.update_yaxes(tickvals=list(range(len(rows))), ticktext=names)
    devices = list(found["ceiling"]["devices"])
    heat = go.Figure(
        go.Heatmap(
            z=[[one["devices"][device] for device in devices] for _, one in rows],
            x=devices,
            y=names,
            zmin=-0.8,
            zmax=0.8,
            colorscale="BrBG",
            texttemplate="%{z:.2f}",
            textfont={"size": 9},
            showscale=False,
        )
    )
    clouds = []
    for name, colour in (("equal_cost", "#0f766e"), ("zen", "#be123c")):
        known_N = np.array([value not in (None, -np.inf) for value in drawn[name]])
        marker = {"color": colour, "size": 4, "opacity": 0.5}
        cloud = go.Figure(go.Scatter(x=drawn[name][known_N], y=accuracy_N[known_N], mode="markers", marker=marker))
        cloud.update_yaxes(title="Accuracy, %", range=[80, 95])
        cloud.update_xaxes(title=name)
        clouds.append(page.drawn(cloud, name, height_px=340))
    looks = {label: page.Look(colour, "●") for label, (_, colour) in kinds.items()}
    sections = [
        ("What each score is worth", page.legend(looks) + page.drawn(dots, "tau", height_px=60 + 44 * len(rows))),
        ("Pairs of equal latency, device by device", page.drawn(heat, "devices", height_px=140 + 26 * len(rows))),
        ("Accuracy against two of them", "".join(clouds)),
    ]
    facts = [
        ("networks", f"{found['networks']['test']:,} of 15,625, at random; none of the {NUM_DEV} worked on"),
        ("equal latency", f"the same of {found['bins']} quantile bins of a device; the mean over 27 devices"),
        ("inputs", f"{found['batch']} random images of {found['image_px']} px; no labels, no training"),
    ]
    return page.document(
        "".join(f"<section><h2>{title}</h2>{body}</section>" for title, body in sections),
        page.definitions(page.origin(Provenance(**found["made_by"]), [])),
        kind="experiment",
        title="Scores at equal latency",
        subtitle="Label-free scores on NAS-Bench-201, CIFAR-10",
        banner="",
        facts=facts,
        has_pictures=True,
    )


if __name__ == "__main__":
    main()
