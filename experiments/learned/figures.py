"""What the trainings of faces.py say: pieces 2 to 4 of protocol.md (5: race.py). Nothing here trains.

    python experiments/learned/figures.py twelve     # twelve.json: whom of sealed.json to train first
    python experiments/learned/figures.py keep       # trainings.json: every epoch of all that is done
    python experiments/learned/figures.py length     # length.json: AUC after every epoch, orders, slopes
    python experiments/learned/figures.py predict    # predictions.json, before the others are trained
    python experiments/learned/figures.py sealed     # sealed-results.json, and what carries over

--runs is --out of faces.py, where it was given; trainings that are not there are taken from trainings.json. Each writes
its JSON beside this file and prints its tables.
"""

import argparse
import json
import math
import pathlib
import sys

import numpy as np

from zennas.learn.choosing import first_to_train
from zennas.learn.model import fit, left_out, order_of
from zennas.provenance import provenance
from zennas.score.learned import width_prior
from zennas.space.cost import cost
from zennas.track import load_space
from zennas.train.journal import read_metrics

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
import faces  # noqa: E402

SPACE = load_space("ir_se_tiny")
SHORT = faces.LENGTHS[0]  # epochs
NUM_RESAMPLES = 2000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(COMMANDS))
    add_runs(parser)
    options = parser.parse_args()
    COMMANDS[options.what](options)


def add_runs(parser):
    """The options that say which trainings are meant."""
    parser.add_argument("--runs", type=existing, default=faces.RUNS, help="--out of faces.py")
    parser.add_argument("--precision", default="bf16", help="of the trainings, as faces.py was asked")


def existing(text):
    """The folder of an option."""
    if not pathlib.Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return pathlib.Path(text)


def write(name, values, options, *, by="figures.py"):
    made_by = provenance(seed=0, command=f"python experiments/learned/{by} {options.what}")
    path = HERE / name
    path.write_text(json.dumps({"made_by": made_by.model_dump(), **values}, indent=1) + "\n", encoding="utf-8")


def judged(run, options):
    """{measure: AUC} of a training that is done, or None."""
    return faces.judged(run, options.runs, options.precision)


def curve(run, options, group="AUC"):
    """[AUC after each epoch] of a training, on a group of people; NaN where a stop fell into the judging."""
    folder = faces.folder_of(run, options.runs)
    if not (folder / faces.DONE).is_file():
        entry = faces.kept().get(faces.key_of(run, options.precision), {})
        return [math.nan if value is None else value for value in entry.get(group, [None] * run[1])]
    entries = read_metrics(folder)
    by_epoch = {entry["epoch"]: entry[group] for entry in entries if entry["kind"] == "auc"}
    return [by_epoch.get(epoch, math.nan) for epoch in range(1, run[1] + 1)]


def rounded(value):
    """Five digits, as JSON has them: None for NaN."""
    return None if math.isnan(value) else round(value, 5)


def genes_of(texts):
    return np.array([faces.candidate_of(text).genes for text in texts])


def length(options):
    """Piece 2."""
    runs = faces.of_length()
    texts = list(dict.fromkeys(text for text, *_ in runs))
    blocks_N = np.log(genes_of(texts)[:, list(SPACE.layout.depths)].sum(1))
    before = {row["text"]: row["trainings"]["0"]["AUC"] for row in truth_of_old()}
    rows, by_length = [], {}
    for epochs in faces.LENGTHS:
        curves = {text: curve((text, epochs, 0), options) for text in texts if judged((text, epochs, 0), options)}
        by_length[epochs] = curves
        for text, values in curves.items():
            rows.append({"text": text, "epochs": epochs, "auc_by_epoch": [rounded(value) for value in values]})
    done = {epochs: [text for text in texts if text in by_length[epochs]] for epochs in faces.LENGTHS}
    longest = max((epochs for epochs in faces.LENGTHS if len(done[epochs]) >= 8), default=faces.LENGTHS[0])
    slopes, orders = {}, []
    for epochs in faces.LENGTHS:
        if len(done[epochs]) < 6:
            continue
        auc_N = np.array([by_length[epochs][text][-1] for text in done[epochs]])
        at = [texts.index(text) for text in done[epochs]]
        slopes[epochs] = slope_of(blocks_N[at], auc_N)
        both = [text for text in done[epochs] if text in done[longest]]
        truth_N = np.array([by_length[longest][text][-1] for text in both])
        for epoch in range(1, epochs + 1):
            values = np.array([by_length[epochs][text][epoch - 1] for text in both])
            known = np.isfinite(values)
            order = order_of(values[known], truth_N[known])
            orders.append({"epochs": epochs, "after": epoch, **order._asdict(), "num": int(known.sum())})
    again = [by_length[SHORT][text][-1] - before[text] for text in done[SHORT]]
    write(
        "length.json",
        {
            "longest": longest,
            "num_done": {str(epochs): len(texts) for epochs, texts in done.items()},
            "slope_on_ln_blocks": {str(epochs): value for epochs, value in slopes.items()},
            "orders": orders,
            "trainings": rows,
            "same_training_as_in_truth_json": {"mean": float(np.mean(again)), "std": float(np.std(again))},
        },
        options,
    )
    print(json.dumps(slopes, indent=1))
    for entry in orders:
        if entry["after"] in (1, 2, 4, 6, 8, 12, 16, 20, 24, 36, 48, 60, 72):
            print(
                f"{entry['epochs']:>3} epochs, after {entry['after']:>2}: tau {entry['tau']:.2f} "
                f"({entry['low']:.2f} to {entry['high']:.2f}) with {longest}"
            )


def slope_of(blocks_N, auc_N):
    """The slope of AUC on ln blocks, in standard deviations of the AUC per e-fold, with 95 % of resamples; and the same
    of AUC itself, in points."""
    rng, values = np.random.default_rng(0), []
    for _ in range(NUM_RESAMPLES):
        draw = rng.integers(len(auc_N), size=len(auc_N))
        if np.ptp(blocks_N[draw]) > 0 and np.ptp(auc_N[draw]) > 0:
            values.append(np.polyfit(blocks_N[draw], auc_N[draw], 1)[0] / auc_N[draw].std())
    slope = float(np.polyfit(blocks_N, auc_N, 1)[0])
    low, high = np.percentile(values, [2.5, 97.5])
    return {
        "std_per_e_fold": slope / float(auc_N.std()),
        "low": float(low),
        "high": float(high),
        "points_per_e_fold": 100 * slope,
        "mean_auc": float(auc_N.mean()),
        "std_auc": float(auc_N.std()),
    }


def truth_of_old():
    return json.loads((faces.OLD / "truth.json").read_text(encoding="utf-8"))["candidates"]


def old_pool():
    """(log genes, AUC) of the old 44, the mean of their seeds."""
    rows = truth_of_old()
    auc_N = [np.mean([training["AUC"] for training in row["trainings"].values()]) for row in rows]
    return np.log(genes_of([row["text"] for row in rows])), np.array(auc_N)


def sealed_texts():
    rows = json.loads((HERE / "sealed.json").read_text(encoding="utf-8"))["candidates"]
    return [row["text"] for row in rows]


def twelve(options):
    """twelve.json: whom of the sealed candidates to train first, by `whom to train` of the protocol."""
    texts = sealed_texts()
    genes_NG = genes_of(texts)
    rows = first_to_train(np.log(genes_NG), width_prior(genes_NG, SPACE))
    write("twelve.json", {"texts": [texts[row] for row in rows]}, options)


def predict(options):
    """Piece 3, before the others are trained: what each way foretells of all 40; nothing here looks at more than the
    twelve."""
    texts, twelve = sealed_texts(), json.loads((HERE / "twelve.json").read_text(encoding="utf-8"))["texts"]
    genes_NG = genes_of(texts)
    old_line = fit(*old_pool())
    known = {text: judged((text, SHORT, 0), options) for text in twelve}
    if missing := [text for text, value in known.items() if value is None]:
        raise SystemExit(f"{len(missing)} of the twelve are not trained yet: {missing}")
    strangers = [text for text in texts if text not in twelve and judged((text, SHORT, 0), options)]
    if strangers:
        raise SystemExit(f"{len(strangers)} of the others are trained already: no prediction any more")
    new_line = fit(np.log(genes_of(twelve)), np.array([known[text]["AUC"] for text in twelve]))
    blocks_N = genes_NG[:, list(SPACE.layout.depths)].sum(1)
    ways = {
        "S": width_prior(genes_NG, SPACE),
        "fewer blocks": -blocks_N.astype(float),
        "parameters": np.array([float(cost(faces.candidate_of(text), SPACE.shape).params) for text in texts]),
        "ridge of the old 44": old_line.predict(np.log(genes_NG))[0],
        "ridge of twelve": new_line.predict(np.log(genes_NG))[0],
    }
    write(
        "predictions.json",
        {
            "texts": texts,
            "twelve": twelve,
            "auc_of_the_twelve": [known[text]["AUC"] for text in twelve],
            "ways": {name: [float(value) for value in values] for name, values in ways.items()},
        },
        options,
    )


def sealed(options):
    """Pieces 3 and 4."""
    if missing := [run for run in faces.of_sealed() if judged(run, options) is None]:
        raise SystemExit(f"{len(missing)} of the sealed trainings are not done yet: faces.py sealed trains them")
    foretold = json.loads((HERE / "predictions.json").read_text(encoding="utf-8"))
    texts, twelve = foretold["texts"], foretold["twelve"]
    trained = {
        text: {seed: aucs["AUC"] for seed in (0, 1) if (aucs := judged((text, SHORT, seed), options))} for text in texts
    }
    rest = [text for text in texts if text not in twelve and trained[text]]
    at = [texts.index(text) for text in rest]
    truth_N = np.array([np.mean(list(trained[text].values())) for text in rest])
    taus = {name: order_of(np.array(values)[at], truth_N)._asdict() for name, values in foretold["ways"].items()}
    differences = paired(
        {name: np.array(values)[at] for name, values in foretold["ways"].items()}, truth_N, "ridge of twelve"
    )
    pairs = [tuple(values.values()) for values in trained.values() if len(values) == 2]
    done = [text for text in texts if trained[text]]
    (old_NF, old_auc_N), new_NF = old_pool(), np.log(genes_of(done))
    new_auc_N = np.array([np.mean(list(trained[text].values())) for text in done])
    old_line, new_line = fit(old_NF, old_auc_N), fit(new_NF, new_auc_N)
    names = SPACE.layout.names
    write(
        "sealed-results.json",
        {
            "num_judged": len(rest),
            "tau": taus,
            "ridge_of_twelve_less": differences,
            "between_seeds_std": math.sqrt(float(np.mean([(a - b) ** 2 / 2 for a, b in pairs]))) if pairs else None,
            "num_twice": len(pairs),
            "between_candidates_std": float(np.std(new_auc_N, ddof=1)),
            "left_out_of_all": order_of(left_out(new_NF, new_auc_N), new_auc_N)._asdict(),
            "carries_over": {
                "learned at 0.87 ms, judged at 1.5 ms": order_of(old_line.predict(new_NF)[0], new_auc_N)._asdict(),
                "learned at 1.5 ms, judged at 0.87 ms": order_of(new_line.predict(old_NF)[0], old_auc_N)._asdict(),
            },
            "coefficients_per_doubling_points": {
                which: {
                    name: round(100 * math.log(2) * float(coefficient / scale), 3)
                    for name, coefficient, scale in zip(names, line.coefficient_F, line.scale_F, strict=True)
                }
                for which, line in (("0.87 ms", old_line), ("1.5 ms", new_line))
            },
            "trained": trained,
        },
        options,
    )
    print(json.dumps({"judged": len(rest), "tau": taus, "less": differences}, indent=1))


def paired(ways, truth_N, best):
    """{way: [tau of `best` less that of the way, 95 % of resamples]}."""
    from scipy.stats import kendalltau

    rng, num = np.random.default_rng(0), len(truth_N)
    draws = rng.integers(num, size=(NUM_RESAMPLES, num))

    def tau(values, draw):
        return kendalltau(values[draw], truth_N[draw]).statistic

    ahead = {}
    for name, values in ways.items():
        if name != best:
            differences = [tau(ways[best], draw) - tau(values, draw) for draw in draws]
            whole = tau(ways[best], np.arange(num)) - tau(values, np.arange(num))
            ahead[name] = [float(whole), *(float(end) for end in np.nanpercentile(differences, [2.5, 97.5]))]
    return ahead


def keep(options):
    """trainings.json: every training that is done, beside those that it holds already."""
    known = faces.kept()
    for done in sorted(options.runs.glob(f"*/{faces.DONE}")):
        text, epochs, seed = done.parent.name.rsplit("-", 2)
        run = (text, int(epochs), int(seed))
        known[faces.key_of(run, options.precision)] = {
            group: [rounded(value) for value in curve(run, options, group)] for group in faces.GROUPS
        } | {"seconds": round(json.loads(done.read_text(encoding="utf-8"))["seconds"])}
    write(faces.KEPT, {"trainings": known}, options)
    print(f"{len(known)} trainings are kept in {HERE / faces.KEPT}")


COMMANDS = {"twelve": twelve, "keep": keep, "length": length, "predict": predict, "sealed": sealed}


if __name__ == "__main__":
    main()
