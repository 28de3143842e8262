"""The page that every report is: one HTML file that needs no network, its look, and the pieces that reports share."""

import html
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs
from plotly.subplots import make_subplots

from zennas.provenance import Provenance


class Look(NamedTuple):
    """One colour and one mark for one kind of thing, the same on the whole page."""

    colour: str
    glyph: str  # in text
    symbol: str = "circle"  # the same in plotly's words
    size_px: int = 5
    opacity: float = 1.0


INK, FADED, LINE, GRID = "#334155", "#64748b", "#94a3b8", "#e2e8f0"
BUDGET = Look("#be123c", "┃")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def document(
    sections: str,
    origin: str,
    *,
    kind: str,
    title: str,
    subtitle: str,
    banner: str,
    facts: Iterable[tuple[str, object]],
    style: str = "",
    has_pictures: bool = False,
    has_plots: bool = True,
) -> str:
    """The HTML of a page. It loads nothing, and its Content-Security-Policy forbids that anything be loaded.

    sections, origin: HTML, the latter of the footer.
    banner: HTML of `notices`.
    kind: what was done, one word.
    title, subtitle, facts (pairs of texts): as text, not HTML.
    style: CSS beside the page's own.
    has_pictures: whether pictures are part of it, as data URIs.
    has_plots: whether figures of plotly are part of it, whose script takes 5 MB.
    """
    pictures = " img-src data:;" if has_pictures else ""
    plots = f"<script>{get_plotlyjs()}</script>" if has_plots else ""
    title, kicker = html.escape(title), f"zennas {kind}"
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none';{pictures} script-src 'unsafe-inline'; style-src 'unsafe-inline'">
<title>{title} · {kicker}</title><style>{STYLE}{style}</style>{plots}</head><body>
<header><p class="kicker">{kicker}</p><h1>{title}</h1><p class="subtitle">{html.escape(subtitle)}</p>
{banner}{definitions(facts)}</header>
{sections}
<footer><h2>Where this page comes from</h2>{origin}</footer></body></html>
"""


def notices(texts: Iterable[str | None], kind: str) -> str:
    """What a reader must not miss, each text once; kind: "banner", at the top, or "note", in a section."""
    return "".join(f"<p class='{kind}'>⚠ {html.escape(text)}</p>" for text in dict.fromkeys(filter(None, texts)))


def origin(record: Provenance, timings: Collection[tuple[str, Mapping[str, object]]]) -> list[tuple[str, object]]:
    """The pairs of text that say who made a page: its Provenance, and the (machine, protocol) of each timing."""
    pairs: list[tuple[str, object]] = [
        ("Command", record.command),
        ("Seed", "none" if record.seed is None else record.seed),
    ]
    pairs += [("Machine", record.machine), ("Date", record.date), ("zennas", record.zennas)]
    pairs.append(("Versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())))
    protocols = [", ".join(f"{key} {value}" for key, value in protocol.items()) for _, protocol in timings]
    pairs += [("Timed on", machine) for machine in dict.fromkeys(machine for machine, _ in timings)]
    return pairs + [("Protocol", protocol) for protocol in dict.fromkeys(protocols)]


def definitions(pairs: Iterable[tuple[str, object]]) -> str:
    """A list of (name, value)."""
    row = "<div><dt>{}</dt><dd>{}</dd></div>"
    return f"<dl>{''.join(row.format(html.escape(name), html.escape(str(value))) for name, value in pairs)}</dl>"


def table(names: Iterable[str], rows: str) -> str:
    """A table that scrolls on a narrow screen. rows: HTML."""
    head = "".join(f"<th>{name}</th>" for name in names)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def legend(looks: Mapping[str, Look]) -> str:
    """What the marks of a figure stand for: {name: Look}. The names are HTML."""
    # In HTML, not plotly's: it wraps on a phone without covering the plot.
    items = (f"<span><b style='color:{look.colour}'>{look.glyph}</b> {name}</span>" for name, look in looks.items())
    return f"<p class='legend'>{''.join(items)}</p>"


def panels(heights: Sequence[float]) -> go.Figure:
    """A figure of one column whose panels share their horizontal axis; heights: the share of each."""
    return make_subplots(rows=len(heights), cols=1, shared_xaxes=True, row_heights=heights, vertical_spacing=0.05)


def drawn(figure: go.Figure, name: str, *, height_px: int) -> str:
    """The HTML of a figure, in the page's look; `name` is its own on the page."""
    axis = {"gridcolor": GRID, "linecolor": LINE, "zeroline": False, "automargin": True, "title_standoff": 8}
    figure.update_xaxes(axis, showline=True, ticks="outside", tickcolor=LINE)
    figure.update_yaxes(axis)
    figure.update_layout(
        template=go.layout.Template(),
        height=height_px,
        showlegend=False,
        margin={"l": 12, "r": 16, "t": 28, "b": 12},
        font={"family": FONT, "size": 12, "color": INK},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"bgcolor": "white", "bordercolor": LINE, "font": {"color": INK, "family": FONT}},
    )
    return figure.to_html(
        full_html=False,
        include_plotlyjs=False,
        div_id=name,
        default_height=f"{height_px}px",
        config={"displayModeBar": False, "responsive": True},
        # A finger on a plot must scroll the page, not zoom.
        post_script="if (matchMedia('(pointer: coarse)').matches) Plotly.relayout('{plot_id}', {dragmode: false})",
    )


def number(value: float | None, form: str = ".1f") -> str:
    """The number in that format, or a dash where there is none.

    >>> number(2.345, ".2f"), number(None), number(float("nan"))
    ('2.35', '–', '–')
    """
    return f"{value:{form}}" if value is not None and math.isfinite(value) else "–"


def span(*values: float, pad: float = 0.06) -> list[float]:
    """[low, high] of the finite values with room around them, or of 0 to 1 where there are none."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = pad * (high - low) or max(abs(low) * pad, 0.5)
    return [low - room, high + room]


STYLE = f"""
:root {{ color-scheme: light; }} * {{ box-sizing: border-box; }}
body {{ max-width: 1220px; margin: 0 auto; padding: 36px 20px 48px; background: #f8fafc; color: {INK}; }}
body {{ font: 15px/1.55 {FONT}; }} a {{ color: inherit; }} i {{ font-style: normal; font-weight: 400; }}
h1, h2, h3 {{ color: #0f172a; line-height: 1.25; margin: 0; }} h1 {{ font-size: 30px; }} h2 {{ font-size: 20px; }}
h3 {{ font-size: 15px; margin: 22px 0 8px; }} i, small, dt, thead, .kicker, .empty {{ color: {FADED}; }}
p {{ margin: 6px 0 12px; max-width: 860px; }} .subtitle {{ font-size: 17px; }}
section {{ background: white; border: 1px solid {GRID}; border-radius: 10px; padding: 22px 24px; margin: 22px 0; }}
.banner, .note {{ max-width: none; background: #fef3c7; color: #78350f; border-left: 4px solid #d97706; }}
.banner {{ font-weight: 600; padding: 12px 16px; }} .note {{ font-size: 13px; padding: 6px 12px; }}
dl {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 0 32px; }}
dl div {{ display: flex; gap: 12px; border-bottom: 1px solid {GRID}; padding: 5px 0; }}
dt {{ flex: 0 0 100px; }} dd {{ margin: 0; overflow-wrap: anywhere; }} .scroll {{ overflow-x: auto; }}
table {{ border-collapse: collapse; width: 100%; font-size: 14px; font-variant-numeric: tabular-nums; }}
th, td {{ padding: 7px 8px; text-align: right; border-bottom: 1px solid {GRID}; background: white; }}
th, td {{ white-space: nowrap; }} thead th {{ font-weight: 500; }} th:first-child, td.text {{ text-align: left; }}
th:first-child {{ position: sticky; left: 0; }}
td.over {{ color: {BUDGET.colour}; font-weight: 600; }} td.text {{ font: 12px/1.5 ui-monospace, Menlo, monospace; }}
small {{ display: block; font-weight: 400; font-size: 12px; white-space: normal; }}
.legend {{ display: flex; flex-wrap: wrap; gap: 2px 18px; margin: 10px 0 4px; max-width: none; font-size: 13px; }}
@media (max-width: 600px) {{ body {{ padding: 20px 10px; }} section {{ padding: 16px 12px; }}
  td.text {{ white-space: normal; min-width: 165px; }} }}
"""
