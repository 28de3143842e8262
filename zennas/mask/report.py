"""report.html of a masking: how many, which kinds, which poses, and faces before and after."""

import html
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zennas.data.images import CorruptImageError, data_uri, decode, resized
from zennas.data.sources import AnySource, open_source
from zennas.mask.options import Options
from zennas.names import text_path
from zennas.page import INK, definitions, document, drawn, notices, origin, table
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically

if TYPE_CHECKING:
    from zennas.mask.run import Masked

NUM_SHOWN, SHOWN_PX = 24, 112
BIN_DEG = 5
COLOUR = "#0f766e"
STYLE = """
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)); gap: 14px; }
.faces figure { margin: 0; } .faces img { width: 112px; height: 112px; margin-right: 4px; }
.faces img { object-fit: contain; } figcaption { font-size: 12px; color: #64748b; overflow-wrap: anywhere; }
"""


def rows_of(path: pathlib.Path, columns: Sequence[str], *, where: pc.Expression | None = None) -> pa.Table:
    """These columns of masks.parquet, of the rows `where` alone: the whole, of 42 million images,
    does not fit into memory.
    """
    return pq.read_table(text_path(path), columns=columns, filters=where)


def write_report(
    path: pathlib.Path,
    summary: "Masked",
    rows: pathlib.Path,
    source: AnySource,
    options: Options,
    made_by: dict[str, Any],
    *,
    warnings: Sequence[str] = (),
) -> None:
    """Writes the page of a masking to `path`, whole or not at all. rows: the path of masks.parquet; the records lie
    beside. warnings: what its reader must not miss."""
    masked = rows_of(rows, ["image", "kind", "yaw_deg", "pitch_deg", "roll_deg"], where=pc.field("masked"))
    why = rows_of(rows, ["why"], where=pc.field("why").is_valid())["why"]
    sections = f"""<section><h2>What became of the images</h2>
{_counts(summary)}</section>
<section><h2>Poses of the masked faces</h2>
<p>How far a face looks to the side, up or down, and is tilted, in degrees, as fitted to its landmarks.</p>
{_poses(masked)}</section>
<section><h2>Before and after</h2>
<p>Masked images, evenly over the data.</p>{_faces(masked, rows, source, options)}</section>
<section><h2>Passed over</h2>{_passed_over(why, options)}</section>"""
    record = Provenance.parse(made_by, "run.json: made_by")
    again = f"<p>The same command and data give the same images.</p>{definitions(origin(record, []))}"
    facts = [
        ("Data", f"{options.data}: {summary.num_images:,} images of {source.num_identities:,} identities"),
        ("Masked", f"{summary.num_masked:,} ({summary.num_masked / max(1, summary.num_images):.1%})"),
        ("Asked for", f"{options.ratio:.0%}, drawn image by image, seed {options.seed}"),
        ("Passed over", f"{summary.num_passed_over:,} of {summary.num_chosen:,} that were to be masked"),
        ("Damaged, left out", f"{summary.num_damaged:,}"),
    ]
    page = document(
        sections,
        again,
        kind="mask",
        title=str(options.data.name),
        subtitle="faces with rendered masks",
        banner=notices(warnings, "banner"),
        facts=facts,
        style=STYLE,
        has_pictures=True,
    )
    write_atomically(path, page)


def _counts(summary):
    rows = "".join(
        f"<tr><th>{html.escape(kind)}</th><td>{num:,}</td><td>{num / max(1, summary.num_masked):.1%}</td></tr>"
        for kind, num in summary.kinds.items()
    )
    return table(("Kind of mask", "Images", "of the masked"), rows) if rows else "<p class='empty'>None was masked.</p>"


def _poses(masked):
    if not masked.num_rows:
        return "<p class='empty'>None was masked.</p>"
    figure = go.Figure()
    for name, colour in (("yaw_deg", COLOUR), ("pitch_deg", "#b45309"), ("roll_deg", "#7c3aed")):
        value = masked[name].to_numpy()
        edges = np.arange(-92.5, 93, BIN_DEG)
        count, _ = np.histogram(value, edges)
        keep = np.flatnonzero(count)
        span = slice(keep[0], keep[-1] + 1) if len(keep) else slice(0, 0)
        middle = (edges[:-1] + edges[1:]) / 2
        figure.add_scatter(
            x=middle[span], y=count[span], mode="lines+markers", name=name, line={"color": colour, "shape": "hvh"}
        )
    figure.update_xaxes(title={"text": "degrees", "font": {"color": INK}})
    figure.update_yaxes(title={"text": "faces"})
    legend = "<p class='legend'><span><b style='color:#0f766e'>━</b> yaw (to the side)</span>"
    legend += (
        "<span><b style='color:#b45309'>━</b> pitch (up)</span><span><b style='color:#7c3aed'>━</b> roll "
        "(tilted)</span></p>"
    )
    return legend + drawn(figure, "poses", height_px=300)


def _faces(masked, rows, source, options):
    """Figures of images before and after, evenly over those that were masked."""
    if not masked.num_rows:
        return "<p class='empty'>None was masked.</p>"
    written_N = rows_of(rows, ["written"])["written"].to_numpy()
    records, figures = open_source(options.out), []
    for place in np.unique(np.linspace(0, masked.num_rows - 1, NUM_SHOWN).astype(int)):
        row = masked.slice(int(place), 1).to_pylist()[0]
        image = row["image"]
        try:
            pair = [decode(source.read(image)), decode(records.read(int(np.count_nonzero(written_N[:image]))))]
        except CorruptImageError:
            continue
        shown = "".join(f'<img alt="" src="{data_uri(_fitted(image_HW3))}">' for image_HW3 in pair)
        caption = html.escape(f"{row['kind']}, yaw {row['yaw_deg']:.0f}°, {source.name(image) or source.where(image)}")
        figures.append(f"<figure>{shown}<figcaption>{caption}</figcaption></figure>")
    return f"<div class='faces'>{''.join(figures)}</div>"


def _fitted(image_HW3):
    """Shrunk to the thumbnail's side, its aspect kept."""
    scale = 2 * SHOWN_PX / max(image_HW3.shape[:2])
    return (
        resized(image_HW3, tuple(max(1, round(side * scale)) for side in image_HW3.shape[:2]))
        if scale < 1
        else image_HW3
    )


def _passed_over(why, options):
    if not len(why):
        return "<p class='empty'>None: every image that was to be masked is.</p>"
    reasons = {}
    for entry in pc.value_counts(why).to_pylist():
        kind = entry["values"].partition(":")[0]
        reasons[kind] = reasons.get(kind, 0) + entry["counts"]
    rows = "".join(f"<tr><th>{html.escape(kind)}</th><td>{num:,}</td></tr>" for kind, num in sorted(reasons.items()))
    fate = (
        "none of them was written"
        if options.only_masked
        else "its bytes were written as they were, but for damaged records"
    )
    return table(("Why", "Images"), rows) + f"<p>Each is listed in passed-over.csv; {fate}.</p>"
