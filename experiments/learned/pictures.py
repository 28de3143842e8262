"""length.html, sealed.html and race.html: what figures.py and race.py found, drawn from their JSON alone.

    python experiments/learned/pictures.py --out FOLDER

The pictures of results.md (length.png, sealed.png, race.png) are pictures of these pages.
"""

import argparse
import json
import pathlib

import numpy as np
from plotly.subplots import make_subplots

from zennas import page
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically

HERE = pathlib.Path(__file__).parent
COLOURS = ("#0f766e", "#b45309", "#7c3aed", "#be123c")
GREY = "#94a3b8"
SHADE = 0.15  # of an interval
BELOW_ENDS = 2.0  # points: the first epochs lie far below


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("runs/learned/pictures"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for source, name, draw in PICTURES:
        if (HERE / source).is_file():
            figures = read(source)
            write_atomically(options.out / name, as_page(figures, *draw(figures)))
            print(options.out / name)


def read(name):
    return json.loads((HERE / name).read_text(encoding="utf-8"))


def as_page(figures, title, looks, figure):
    """The HTML of a figure under a title. looks: {name: Look} of its legend."""
    return page.document(
        f"<section>{page.legend(looks)}{page.drawn(figure, 'figure', height_px=460)}</section>",
        page.definitions(page.origin(Provenance(**figures["made_by"]), [])),
        kind="experiment",
        title=title,
        subtitle="Small networks for faces, trained for a short time",
        banner="",
        facts=[],
    )


def dots(figure, x, y, colour, *, column=1, mode="markers", **more):
    marker = {"color": colour, "size": 7}
    figure.add_scatter(
        x=x, y=y, mode=mode, marker=marker, line={"color": colour, "width": 1}, row=1, col=column, **more
    )


def whiskers(order, key):
    """The error bars of a figure that has an interval."""
    return {"array": [order["high"] - order[key]], "arrayminus": [order[key] - order["low"]], "width": 4}


def draw_length(figures):
    """The AUC of every training by epoch, how well the order after an epoch agrees with the longest's, and what depth
    is worth by length."""
    figure = make_subplots(cols=3, horizontal_spacing=0.07)
    lengths = sorted({row["epochs"] for row in figures["trainings"]})
    colour_of = dict(zip(lengths, COLOURS, strict=False))
    for row in figures["trainings"]:
        auc = 100 * np.array(row["auc_by_epoch"], float)
        dots(figure, np.arange(1, len(auc) + 1), auc, colour_of[row["epochs"]], mode="lines")
    for epochs in lengths:
        orders = [order for order in figures["orders"] if order["epochs"] == epochs]
        after = [order["after"] for order in orders]
        dots(figure, after, [order["tau"] for order in orders], colour_of[epochs], column=2, mode="lines+markers")
        interval = [*(order["low"] for order in orders), *(order["high"] for order in reversed(orders))]
        figure.add_scatter(
            x=after + after[::-1],
            y=interval,
            mode="lines",
            line={"width": 0},
            fill="toself",
            fillcolor=colour_of[epochs],
            opacity=SHADE,
            row=1,
            col=2,
        )
    for epochs, slope in figures["slope_on_ln_blocks"].items():
        error = whiskers(slope, "std_per_e_fold")
        dots(figure, [f"{epochs} epochs"], [slope["std_per_e_fold"]], colour_of[int(epochs)], column=3, error_y=error)
    for column in (2, 3):
        figure.add_hline(y=0, line={"color": page.LINE, "width": 1}, row=1, col=column)
    figure.update_xaxes(title="epoch", type="log", col=1)
    figure.update_xaxes(title="after epoch", type="log", col=2)
    ends = [100 * row["auc_by_epoch"][-1] for row in figures["trainings"]]
    best = [100 * max(filter(None, row["auc_by_epoch"])) for row in figures["trainings"]]
    figure.update_yaxes(title="AUC (%)", range=[min(ends) - BELOW_ENDS, max(best) + 0.2], col=1)
    figure.update_yaxes(title=f"tau with the order after {figures['longest']} epochs", range=[-1, 1.05], col=2)
    figure.update_yaxes(title="AUC for 2.7 times the blocks, in its standard deviations", col=3)
    looks = {f"{epochs} epochs in all": page.Look(colour_of[epochs], "●") for epochs in lengths}
    return "How long a training tells the order", looks, figure


def draw_sealed(figures):
    """What each way foretold of the sealed candidates, and what became of them."""
    figure = make_subplots(cols=2, horizontal_spacing=0.2)
    predictions = read("predictions.json")
    expected_of = zip(predictions["texts"], predictions["ways"]["ridge of twelve"], strict=True)
    for text, expected in expected_of:
        values = [100 * value for value in figures["trained"][text].values()]
        colour = GREY if text in predictions["twelve"] else COLOURS[0]
        dots(figure, [100 * expected] * len(values), values, colour, mode="lines+markers", hovertext=text)
    for name, order in sorted(figures["tau"].items(), key=lambda entry: entry[1]["tau"]):
        dots(figure, [order["tau"]], [name], COLOURS[0], column=2, error_x=whiskers(order, "tau"))
    figure.add_vline(x=0, line={"color": page.LINE, "width": 1}, row=1, col=2)
    figure.update_xaxes(title="AUC expected by the line through twelve (%)", col=1)
    figure.update_yaxes(title="AUC after 8 epochs (%)", col=1)
    figure.update_xaxes(title=f"tau with the truth, {figures['num_judged']} candidates", col=2)
    looks = {"the twelve": page.Look(GREY, "●"), "the others; two seeds joined": page.Look(COLOURS[0], "●")}
    return "Sealed candidates", looks, figure


def draw_race(figures):
    """Each network's trainings, and how they came there."""
    figure = make_subplots(cols=2, horizontal_spacing=0.2)
    looks = {}
    for (name, curves), colour in zip(figures["curves"].items(), COLOURS, strict=False):
        values = [100 * value for value in figures["auc"][name].values()]
        dots(figure, values, [name] * len(values), colour)
        figure.add_scatter(
            x=[np.mean(values)],
            y=[name],
            mode="markers",
            marker={"color": colour, "symbol": "line-ns", "size": 26, "line": {"color": colour, "width": 2}},
            row=1,
            col=1,
        )
        for auc in curves:
            dots(figure, np.arange(1, len(auc) + 1), 100 * np.array(auc), colour, column=2, mode="lines")
        looks[name] = page.Look(colour, "●")
    figure.update_xaxes(title="AUC after the last epoch (%), people of fold 10", col=1)
    figure.update_yaxes(autorange="reversed", col=1)
    figure.update_xaxes(title="epoch", col=2)
    figure.update_yaxes(title="AUC (%), people of fold 10", col=2)
    return "The race: one latency, four ways to choose", looks, figure


PICTURES = (
    ("length.json", "length.html", draw_length),
    ("sealed-results.json", "sealed.html", draw_sealed),
    ("race-results.json", "race.html", draw_race),
)


if __name__ == "__main__":
    main()
