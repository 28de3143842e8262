"""tables.html: what tables.py found, as a picture of two figures."""

import plotly.graph_objects as go
from plotly.subplots import make_subplots
from table_files import ZEN

from zennas import page
from zennas.provenance import Provenance

LOOKS = {
    "learned": page.Look("#0f766e", "●", "circle", 10),
    "random": page.Look("#334155", "○", "circle-open", 9),
    "S": page.Look("#b45309", "◆", "diamond", 8),
    "fewer blocks": page.Look("#7c3aed", "▲", "triangle-up", 8),
    "parameters": page.Look("#2563eb", "■", "square", 7),
    ZEN: page.Look("#be123c", "✕", "x", 8),
}
WORDS = {"learned": "learned choice", "random": "the same model, chosen at random (mean)"}


def as_page(published):
    """The HTML: tau at K = 12 of everything, and of the learned choice and a random one by K."""
    pieces, tables = published["pieces"], published["tables"]
    names = [name for name in tables if pieces[name]["12"]["draws"]]
    sections = [
        ("Tau of the networks that were not trained, K = 12", _at_twelve(pieces, tables, names)),
        ("By the number of trained networks", _by_num(pieces, tables, names)),
    ]
    settings = published["settings"]
    facts = [
        ("groups", f"{settings['draws']} of each table, of up to {settings['group']} networks of equal cost"),
        ("learned choice", "half fill the space, half are S's, beyond twelve one by one; Bayesian ridge on log genes"),
        ("bars", "one standard deviation over the groups"),
    ]
    return page.document(
        "".join(f"<section><h2>{title}</h2>{body}</section>" for title, body in sections),
        page.definitions(page.origin(Provenance(**published["made_by"]), [])),
        kind="experiment",
        title="Learning the order from a few",
        subtitle="Tables of trained networks that others published",
        banner="",
        facts=facts,
    )


def _at_twelve(pieces, tables, names):
    figure = go.Figure()
    for place, name in enumerate(reversed(names)):
        ways = pieces[name]["12"]["ways"]
        shown = [way for way in LOOKS if ways.get(way, {}).get("tau", {}).get("mean") is not None]
        for step, way in enumerate(shown):
            tau, look = ways[way]["tau"], LOOKS[way]
            figure.add_scatter(
                x=[tau["mean"]],
                y=[place + 0.3 - 0.6 * step / max(1, len(shown) - 1)],
                mode="markers",
                marker={"color": look.colour, "symbol": look.symbol, "size": look.size_px},
                error_x={"array": [tau["std"]], "color": look.colour, "thickness": 1, "width": 0},
            )
        if place:
            figure.add_hline(y=place - 0.5, line={"color": page.GRID, "width": 1})
    figure.add_vline(x=0, line={"color": page.LINE, "width": 1})
    figure.update_xaxes(title="Kendall's tau with the published accuracy")
    titles = [tables[name]["title"] for name in reversed(names)]
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=titles, showgrid=False)
    looks = {WORDS.get(way, way): look for way, look in LOOKS.items()}
    return page.legend(looks) + page.drawn(figure, "tau", height_px=80 + 88 * len(names))


def _by_num(pieces, tables, names):
    num_columns = 4
    num_rows = -(-len(names) // num_columns)
    figure = make_subplots(rows=num_rows, cols=num_columns, subplot_titles=names, shared_yaxes="all")
    for place, name in enumerate(names):
        nums = {int(num): at["ways"] for num, at in pieces[name].items() if at["draws"]}
        for way in ("random", "learned"):
            look = LOOKS[way]
            taus = [ways[way]["tau"] for ways in nums.values()]
            figure.add_scatter(
                x=list(nums),
                y=[tau["mean"] for tau in taus],
                mode="lines+markers",
                line={"color": look.colour, "width": 2 if way == "learned" else 1},
                marker={"symbol": look.symbol, "size": look.size_px - 2},
                error_y={"array": [tau["std"] for tau in taus], "color": look.colour, "thickness": 0.8, "width": 0},
                row=place // num_columns + 1,
                col=place % num_columns + 1,
            )
    figure.update_annotations(font_size=11)
    figure.update_xaxes(tickvals=[8, 12, 16, 24])
    return page.drawn(figure, "nums", height_px=60 + 260 * num_rows)
