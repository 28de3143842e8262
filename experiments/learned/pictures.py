"""The pictures of results.md, sections 2 to 4: from length.json and sealed-results.json alone.

python experiments/learned/pictures.py
"""

import json
import pathlib

import matplotlib.pyplot as plt
import numpy as np

HERE = pathlib.Path(__file__).parent


def main():
    for name, draw in (("length", draw_length), ("sealed-results", draw_sealed)):
        path = HERE / f"{name}.json"
        if path.is_file():
            draw(json.loads(path.read_text(encoding="utf-8")))


def draw_length(found):
    """length.png: the AUC of every training by epoch, how well the order after an epoch agrees with the longest's, and
    what depth is worth by length."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(14, 4), layout="constrained")
    lengths = sorted({row["epochs"] for row in found["trainings"]})
    colours = {epochs: f"C{place}" for place, epochs in enumerate(lengths)}
    for row in found["trainings"]:
        values = 100 * np.array(row["auc_by_epoch"])
        left.plot(np.arange(1, len(values) + 1), values, color=colours[row["epochs"]], lw=0.8, alpha=0.8)
    left.set_xscale("log")
    left.set_xlabel("epoch")
    left.set_ylabel("AUC (%)")
    for epochs in lengths:
        some = [order for order in found["orders"] if order["epochs"] == epochs]
        after = [order["after"] for order in some]
        middle.plot(after, [order["tau"] for order in some], color=colours[epochs], label=f"{epochs} epochs in all")
        ends = ([order[end] for order in some] for end in ("low", "high"))
        middle.fill_between(after, *ends, color=colours[epochs], alpha=0.12, lw=0)
    middle.axhline(0, color="grey", lw=0.6)
    middle.set_xscale("log")
    middle.set_ylim(-1, 1.05)
    middle.set_xlabel("after epoch")
    middle.set_ylabel(f"tau with the order after {found['longest']} epochs")
    middle.legend(frameon=False, loc="lower right")
    slopes = found["slope_on_ln_blocks"]
    for place, (epochs, slope) in enumerate(slopes.items()):
        low, value, high = (slope[key] for key in ("low", "std_per_e_fold", "high"))
        colour = colours[int(epochs)]
        right.errorbar([place], [value], [[value - low], [high - value]], fmt="o", color=colour, capsize=4)
    right.axhline(0, color="grey", lw=0.6)
    right.set_xticks(range(len(slopes)), [f"{epochs} epochs" for epochs in slopes])
    right.set_xlim(-0.5, len(slopes) - 0.5)
    right.set_ylabel("AUC for 2.7 times the blocks, in its standard deviations")
    finish(figure, (left, middle, right), "length.png")


def draw_sealed(found):
    """sealed.png: what each way foretold of the sealed candidates, and what became of them."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    foretold = json.loads((HERE / "predictions.json").read_text(encoding="utf-8"))
    twelve = set(foretold["twelve"])
    for text, expected in zip(foretold["texts"], foretold["ways"]["ridge of twelve"], strict=True):
        values = [100 * value for value in found["trained"][text].values()]
        if values:
            colour = "silver" if text in twelve else "C0"
            left.plot([100 * expected] * len(values), values, "o-", color=colour, markersize=4, lw=0.8)
    left.set_xlabel("AUC expected by the line through twelve (%); grey: the twelve")
    left.set_ylabel("AUC after 8 epochs (%)")
    taus = sorted(found["tau"].items(), key=lambda entry: entry[1]["tau"])
    for place, (_, order) in enumerate(taus):
        low, value, high = order["low"], order["tau"], order["high"]
        right.errorbar([value], [place], xerr=[[value - low], [high - value]], fmt="o", color="C0", capsize=4)
    right.axvline(0, color="grey", lw=0.6)
    right.set_yticks(range(len(taus)), [name for name, _ in taus])
    right.set_xlabel(f"tau with the truth, {found['num_judged']} candidates")
    finish(figure, (left, right), "sealed.png")


def finish(figure, all_axes, name):
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.savefig(HERE / name, dpi=110)
    print(HERE / name)


if __name__ == "__main__":
    main()
