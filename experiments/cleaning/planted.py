"""Cleaning against known truth: how much of planted noise is found, at which thresholds, in which order, against what
baselines?

    python experiments/cleaning/planted.py --faces lfw_aligned_112.tar \
        --embeddings-from mobilefacenet_foamliu.onnx,normalise=imagenet

Real faces, embedded by a real network: the people of LFW with 4 images or more, at most 40 of each. Planted, by a seed:
5 to 40 % of the images get the name of somebody else (flips); 5 % more are of people who are nowhere else (outliers,
LFW's people of one image); a tenth of the people are cut in two (split); a twentieth get a second person into their
folder who has none of his own (merged); 3 % of the images stand in another folder, too, re-encoded, shifted and
brightened (duplicates). LFW has mistakes of its own, which count against precision here.

Writes planted.json and planted.md beside this file, and planted.html (of which planted.png is a picture) to --out; what
was computed is kept there and not done again.
"""

import argparse
import json
import pathlib
import tempfile
from typing import NamedTuple

import cv2
import numpy as np
import plotly.graph_objects as go
import torch
from sklearn.cluster import KMeans

from zennas import page
from zennas.clean.centres import mean_centres, unit_rows
from zennas.clean.plan import CleanPlan
from zennas.clean.state import DUPLICATE, FAR, NEARER, State
from zennas.clean.steps import Bench, clean_round
from zennas.data.images import decode
from zennas.data.sources import open_source
from zennas.embed.embeddings import of_source
from zennas.embed.named import open_named
from zennas.page import Look, definitions, document, drawn, legend, origin
from zennas.pool import Pool
from zennas.provenance import Provenance, provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__).parent
COMMAND = (
    "python experiments/cleaning/planted.py --faces lfw_aligned_112.tar --embeddings-from "
    "mobilefacenet_foamliu.onnx,..."
)
FLIPS = (0.05, 0.1, 0.2, 0.4)
SEEDS = (0, 1, 2)
OUTLIERS, SPLIT, MERGED, DUPLICATES = 0.05, 0.1, 0.05, 0.03
MIN_IMAGES, MAX_IMAGES = 4, 40
SWEEPS = {
    "tau_intra": (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5),
    "tau_merge": (0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85),
    "tau_other": (0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6),
    "tau_duplicate": (0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.99),
}
MEAN_SWEEP = (*SWEEPS["tau_intra"], 0.55, 0.6, 0.65, 0.7)  # the plain mean wants a higher one
KIND_OF = {
    "tau_intra": "all wrong images",
    "tau_merge": "split",
    "tau_other": "flips, by its reason",
    "tau_duplicate": "duplicates, by its reason",
}
SUB_CENTRES, SUB_DROP_DEGREES = 3, 75.0  # sub-center ArcFace's (Deng et al. 2020)
LOOKS = dict(
    zip(FLIPS, (Look("#0f766e", "━"), Look("#2563eb", "━"), Look("#b45309", "━"), Look("#be123c", "━")), strict=True)
)


class Planted(NamedTuple):
    """Rows of unit length, the labels as they are said to be, who it is, and what was done to each image."""

    unit_ND: np.ndarray
    label_N: np.ndarray
    true_N: np.ndarray
    kind_N: np.ndarray  # "", flip, outlier, merged, duplicate
    home_N: np.ndarray  # where a flipped image belongs: the number of its own identity, -1 for all others
    half_of: dict  # number of the second half of a person -> number of the first


def main():
    options = arguments()
    source = open_source(options.faces)
    model = open_named(options.embeddings_from, option="--embeddings-from").model
    row_ND = unit_rows(np.load(of_source(model, source), mmap_mode="r"))
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in SEEDS:
        copies = copied(options, source, model, seed)
        for rate in FLIPS:
            kept = options.out / f"{rate:g}-{seed}.json"
            if not kept.is_file():
                made = plant(row_ND, np.asarray(source.label_N), copies, rate=rate, seed=seed)
                write_atomically(kept, json.dumps(judged(made, rate, seed)))
            rows += json.loads(kept.read_text(encoding="utf-8"))
            print(f"done: {rate:.0%} flips, seed {seed}", flush=True)
    publish(rows, options.out)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=pathlib.Path, required=True, help="aligned LFW")
    parser.add_argument("--embeddings-from", required=True, help="as zennas clean takes it")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/cleaning-planted"))
    return parser.parse_args()


def people_of(label_N):
    """The images of the people that take part, at most MAX_IMAGES of each."""
    count_C = np.bincount(label_N)
    return np.concatenate(
        [np.flatnonzero(label_N == one)[:MAX_IMAGES] for one in np.flatnonzero(count_C >= MIN_IMAGES)]
    )


def copied(options, source, model, seed):
    """(image_K, unit_KD): images that are duplicated, and the embeddings of their copies."""
    path = options.out / f"copies-{seed}.npz"
    if not path.is_file():
        rng = np.random.default_rng([seed, 7])
        image_M = people_of(np.asarray(source.label_N))
        image_K = np.sort(rng.choice(image_M, round(DUPLICATES * len(image_M)), replace=False))
        faces = [retouched(decode(source.read(int(image))), rng) for image in image_K]
        image_BHW3 = torch.from_numpy(np.stack(faces))
        row_KD = (model(image_BHW3).embedding_BD + model(image_BHW3.flip(2)).embedding_BD).numpy()
        np.savez(path, image_K=image_K, unit_KD=unit_rows(row_KD))
    with np.load(path) as file:
        return file["image_K"], file["unit_KD"]


def retouched(image_HW3, rng):
    """What happens to a picture on its way through the web: shifted by up to 2 px, brightened by up to a tenth,
    re-encoded.
    """
    shift_23 = np.array([[1, 0, rng.uniform(-2, 2)], [0, 1, rng.uniform(-2, 2)]])
    image_HW3 = cv2.warpAffine(image_HW3, shift_23, image_HW3.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    image_HW3 = np.clip(image_HW3 * rng.uniform(0.9, 1.1), 0, 255).astype(np.uint8)
    _, encoded = cv2.imencode(".jpg", image_HW3, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 90))])
    return cv2.imdecode(encoded, cv2.IMREAD_COLOR)  # both ways in one order of channels


def plant(row_ND, person_N, copies, *, rate, seed):
    """The Planted noise at this rate of flips."""
    rng = np.random.default_rng([seed, round(100 * rate)])
    image_M = people_of(person_N)
    true_M, label_M = person_N[image_M], person_N[image_M].copy()
    people = rng.permutation(np.unique(true_M))
    num_split, num_merged = round(SPLIT * len(people)), round(MERGED * len(people))
    half_of = {int(person_N.max()) + 1 + place: int(one) for place, one in enumerate(people[:num_split])}
    for number, one in half_of.items():
        label_M[np.flatnonzero(true_M == one)[1::2]] = number
    kind_M = np.full(len(label_M), "", "U9")
    hosts, guests = people[num_split : num_split + 2 * num_merged].reshape(2, -1)
    count_C = np.bincount(true_M, minlength=len(person_N))
    for one, other in zip(hosts, guests, strict=True):
        host, guest = (one, other) if count_C[one] >= count_C[other] else (other, one)
        label_M[true_M == guest], kind_M[true_M == guest] = host, "merged"
    free_M = np.flatnonzero(kind_M == "")
    own_M = label_M.copy()
    for image in rng.choice(free_M, round(rate * len(label_M)), replace=False):
        other_M = np.flatnonzero((label_M != label_M[image]) & (true_M != true_M[image]) & (kind_M == ""))
        label_M[image], kind_M[image] = label_M[rng.choice(other_M)], "flip"
    unit_MD = row_ND[image_M]
    # Copies go where neither the picture nor its person is.
    image_K, unit_KD = copies
    place_K = np.searchsorted(image_M, image_K)
    label_K = [rng.choice(label_M[(label_M != label_M[at]) & (true_M != true_M[at])]) for at in place_K]
    count_N = np.bincount(person_N)
    alone_M = np.flatnonzero(count_N[person_N] == 1)
    alone_M = rng.choice(alone_M, round(OUTLIERS * len(label_M)), replace=False)
    label_N = np.concatenate([label_M, label_K, rng.choice(label_M, len(alone_M))]).astype(np.int64)
    _, label_dense_N = np.unique(label_N, return_inverse=True)
    dense = dict(zip(label_N.tolist(), label_dense_N.tolist(), strict=True))
    # The two halves of a person become one, under the lower number.
    own_M = np.array([half_of.get(own, own) for own in own_M.tolist()])
    home = [*zip(own_M.tolist(), kind_M, strict=True), *[(-1, "")] * (len(image_K) + len(alone_M))]
    return Planted(
        np.concatenate([unit_MD, unit_KD, row_ND[alone_M]]),
        label_dense_N.astype(np.int32),
        np.concatenate([true_M, true_M[place_K], person_N[alone_M]]),
        np.concatenate([kind_M, np.full(len(image_K), "duplicate", "U9"), np.full(len(alone_M), "outlier", "U9")]),
        np.array([dense[own] if kind == "flip" and own in dense else -1 for own, kind in home]),
        {dense[half]: dense[first] for half, first in half_of.items() if half in dense and first in dense},
    )


def judged(made, rate, seed):
    """The rows of one planting: each sweep of a threshold, both orders, the baselines."""
    common = {"rate": rate, "seed": seed, "images": len(made.label_N), "wrong": int((made.kind_N != "").sum())}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "rows.npy"
        np.save(path, made.unit_ND)

        def run(**plan):
            with tempfile.TemporaryDirectory(dir=folder) as parts:
                bench = Bench(path, CleanPlan(**plan), Pool(), pathlib.Path(parts))
                return clean_round(State.of(made.label_N), bench)

        for order in ("inter-intra", "intra-inter"):
            for name, values in SWEEPS.items():
                for value in values:
                    found = measured(made, run(order=order, **{name: value}))
                    rows.append(common | {"way": order, "threshold": name, "value": value} | found)
            # Where the order shows: an image that is left out as far from its identity cannot be given to its own.
            state = run(order=order, move=True)
            home_N = state.label_N == made.home_N
            rows.append(
                common
                | {
                    "way": order,
                    "threshold": "move",
                    "value": True,
                    "home": float(home_N[made.kind_N == "flip"].mean()),
                }
            )
    rows += [common | row for row in of_plain_mean(made)]
    dropped_N = sub_centre_angle(made) > np.radians(SUB_DROP_DEGREES)
    rows.append(
        common | {"way": "sub-centres", "threshold": "degrees", "value": SUB_DROP_DEGREES} | of_dropped(made, dropped_N)
    )
    return rows


def measured(made, state):
    """Precision and recall of each kind of noise."""
    dropped_N = state.label_N < 0
    found = of_dropped(made, dropped_N)
    merges = set(zip(state.merges.one_P.tolist(), state.merges.other_P.tolist(), strict=True))
    halves = {tuple(sorted(pair)) for pair in made.half_of.items()}
    # A chain may join two halves without a pair of its own.
    joined = sum(len(set(state.label_N[np.isin(made.label_N, pair) & ~dropped_N].tolist())) == 1 for pair in halves)
    found["split"] = {"recall": joined / max(1, len(halves)), "precision": len(merges & halves) / max(1, len(merges))}
    for name, reason in (("flips", NEARER), ("duplicates", DUPLICATE), ("outliers", FAR)):
        given_N = state.reason_N == reason
        right = {"flips": ("flip",), "duplicates": ("duplicate",), "outliers": ("outlier", "merged", "flip")}[name]
        # Of a duplicated picture either copy may be the one that goes, where both are in wrong places.
        are_right_N = np.isin(made.kind_N, right) | (
            np.isin(state.twin_N, np.flatnonzero(made.kind_N == "duplicate")) & given_N
        )
        found[f"{name}, by its reason"] = {
            "recall": float(given_N[np.isin(made.kind_N, right[:1])].mean()),
            "precision": float(are_right_N[given_N].mean()) if given_N.any() else 1.0,
        }
    return found


def of_dropped(made, dropped_N):
    """Recall of each kind of noise by what is left out, and precision and recall of all wrong images."""
    wrong_N = made.kind_N != ""
    found = {
        "all wrong images": {
            "recall": float(dropped_N[wrong_N].mean()),
            "precision": float(wrong_N[dropped_N].mean()) if dropped_N.any() else 1.0,
            "clean lost": float(dropped_N[~wrong_N].mean()),
        }
    }
    for name, kind in (("flips", "flip"), ("outliers", "outlier"), ("merged", "merged"), ("duplicates", "duplicate")):
        found[name] = {"recall": float(dropped_N[made.kind_N == kind].mean())}
    return found


def of_plain_mean(made):
    """The rows of the plain mean as the centre, by threshold."""
    cosine_N = plain_mean(made)
    return [
        {"way": "plain mean", "threshold": "tau_intra", "value": value} | of_dropped(made, cosine_N <= value)
        for value in MEAN_SWEEP
    ]


def plain_mean(made):
    """The cosine of each image to the mean of all images under its name."""
    centre_CD, number_C = mean_centres(made.unit_ND, made.label_N)
    return np.einsum("nd,nd->n", made.unit_ND, centre_CD[np.searchsorted(number_C, made.label_N)])


def sub_centre_angle(made):
    """The angle of each image to the largest of SUB_CENTRES centres of its identity, as k-means finds them in
    embeddings.

    Sub-center ArcFace learns these centres while it trains; here the network is given, so they are found afterwards.
    """
    angle_N = np.zeros(len(made.label_N))
    for one in np.unique(made.label_N):
        image_M = np.flatnonzero(made.label_N == one)
        num = min(SUB_CENTRES, len(image_M))
        cluster_M = KMeans(num, n_init=4, random_state=0).fit(made.unit_ND[image_M]).labels_
        dominant = np.bincount(cluster_M).argmax()
        centre_D = unit_rows(made.unit_ND[image_M[cluster_M == dominant]].mean(axis=0)[None])[0]
        angle_N[image_M] = np.arccos(np.clip(made.unit_ND[image_M] @ centre_D, -1, 1))
    return angle_N


def mean_of(rows, kind, number, **where):
    """(mean, standard deviation) over seeds of a number."""
    values = [row[kind][number] for row in rows if all(row[key] == value for key, value in where.items())]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def publish(rows, out):
    """planted.json and planted.md; the page of planted.png goes to --out."""
    record = provenance(command=COMMAND)
    plan = CleanPlan().model_dump(mode="json")
    write_atomically(
        HERE / "planted.json", json.dumps({"made_by": record.model_dump(), "plan": plan, "rows": rows}) + "\n"
    )
    text = as_text(rows, plan)
    write_atomically(HERE / "planted.md", text)
    write_atomically(out / "planted.html", as_page(rows, plan, record))
    print(text)


WAYS = {
    "inter-intra": ("zennas clean: merge, inter, intra", "tau_intra"),
    "intra-inter": ("CAST's order: intra, merge, inter", "tau_intra"),
    "plain mean": ("distance to the plain mean, at 0.25", "tau_intra"),
    "plain mean, best": ("distance to the plain mean, at its best", "tau_intra"),
    "sub-centres": ("sub-centres, 75 degrees", "degrees"),
}


def best_threshold(rows, rate, way):
    """The threshold at which recall and precision of all wrong images have the largest harmonic mean."""

    def harmonic(value):
        where = {"rate": rate, "way": way, "threshold": "tau_intra", "value": value}
        recall, precision = (
            mean_of(rows, "all wrong images", number, **where)[0] for number in ("recall", "precision")
        )
        return 2 * recall * precision / (recall + precision)

    return max(MEAN_SWEEP, key=harmonic)


def as_text(rows, plan):
    """planted.md."""
    first = rows[0]
    lines = [
        f"{first['images']:,} images, three plantings at each rate; recall is of the wrong images of a kind that are "
        f"left out",
        "(of split people: whose halves are joined), precision of what is left out (of pairs: joined); in per cent.",
        "",
        "| flips | way | all wrong: recall | precision | clean images lost | flips | outliers | merged | duplicates | "
        "split: recall | precision |",
        "|---|---|" + "---:|" * 9,
    ]
    for rate in FLIPS:
        for way, (said, name) in WAYS.items():
            value = SUB_DROP_DEGREES if name == "degrees" else plan["tau_intra"]
            if way.endswith(", best"):
                way = way.removesuffix(", best")
                value = best_threshold(rows, rate, way)
                said += f" ({value:g})"
            where = {"rate": rate, "way": way, "threshold": name, "value": value}
            cells = [
                mean_of(rows, "all wrong images", number, **where)[0]
                for number in ("recall", "precision", "clean lost")
            ]
            cells += [
                mean_of(rows, kind, "recall", **where)[0] for kind in ("flips", "outliers", "merged", "duplicates")
            ]
            split = way in ("inter-intra", "intra-inter")
            cells += [mean_of(rows, "split", number, **where)[0] for number in ("recall", "precision")] if split else []
            said_cells = [f"{100 * cell:.1f}" for cell in cells] + ["–"] * (9 - len(cells))
            lines.append(f"| {rate:.0%} | {said} | {' | '.join(said_cells)} |")
    lines += ["", "| flips that `--move` brings home | " + " | ".join(f"{rate:.0%} flips" for rate in FLIPS) + " |"]
    lines.append("|---|" + "---:|" * len(FLIPS))
    for order in ("inter-intra", "intra-inter"):
        homes = [
            [row["home"] for row in rows if (row["rate"], row["way"], row["threshold"]) == (rate, order, "move")]
            for rate in FLIPS
        ]
        lines.append(f"| {order} | {' | '.join(f'{100 * np.mean(home):.1f}' for home in homes)} |")
    for name, values in SWEEPS.items():
        kind = KIND_OF[name]
        lines += [
            "",
            f"| {name}: {kind}, recall / precision | " + " | ".join(f"{rate:.0%} flips" for rate in FLIPS) + " |",
        ]
        lines.append("|---|" + "---:|" * len(FLIPS))
        for value in values:
            cells = []
            for rate in FLIPS:
                where = {"rate": rate, "way": "inter-intra", "threshold": name, "value": value}
                cells.append(
                    " / ".join(
                        f"{100 * mean_of(rows, kind, number, **where)[0]:.1f}" for number in ("recall", "precision")
                    )
                )
            mark = " (default)" if plan[name] == value else ""
            lines.append(f"| {value:g}{mark} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_page(rows, plan, record):
    """planted.html."""
    sections = ""
    for name, values in SWEEPS.items():
        kind = KIND_OF[name]
        figure = page.panels([1.0])
        for rate in FLIPS:
            where = {"rate": rate, "way": "inter-intra", "threshold": name}
            for number, dash in (("recall", "solid"), ("precision", "dot")):
                points = [100 * mean_of(rows, kind, number, value=value, **where)[0] for value in values]
                figure.add_trace(
                    go.Scatter(
                        x=values,
                        y=points,
                        mode="lines+markers",
                        line={"color": LOOKS[rate].colour, "dash": dash},
                        name=f"{rate:.0%} {number}",
                    )
                )
        figure.add_vline(x=plan[name], line={"color": "#334155", "width": 1})
        figure.update_xaxes(title=name)
        figure.update_yaxes(title="per cent")
        sections += (
            f"<section><h2>{name}: {kind}</h2>{legend({f'{rate:.0%} flips': look for rate, look in LOOKS.items()})}"
        )
        sections += "<p>Recall solid, precision dotted; the line is the default.</p>"
        sections += f"{drawn(figure, name, height_px=300)}</section>"
    return document(
        sections,
        definitions(origin(Provenance(**record.model_dump()), [])),
        kind="experiment",
        title="Cleaning against known truth",
        subtitle="Noise planted in LFW, embedded by MobileFaceNet",
        banner="",
        facts=[],
    )


if __name__ == "__main__":
    main()
