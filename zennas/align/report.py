"""report.html of an alignment: how many, why not, how the faces look, and sheets of them by their verdict."""

import html
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zennas.align.options import Options
from zennas.align.parts import ACCEPTED, COORDINATES, DOUBTFUL, REFUSED, Aligning
from zennas.data.images import CorruptImageError, data_uri, decode, resized
from zennas.data.parts import Span
from zennas.names import text_path
from zennas.page import definitions, document, notices, origin, table
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically
from zennas.space.shape import px_text

if TYPE_CHECKING:
    from zennas.align.run import Aligned

NUM_SHOWN, SHOWN_PX = 48, 112
MEASURES = {
    "score": "score of the detector",
    "face_px": "side of the face in the photograph, pixels",
    "yaw_deg": "yaw, degrees",
    "pitch_deg": "pitch, degrees",
    "roll_deg": "roll, degrees",
    "sharpness": "sharpness",
}
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
MARK_RGB = (16, 185, 129)
STYLE = """
.faces { display: grid; grid-template-columns: repeat(auto-fill, minmax(118px, 1fr)); gap: 12px; margin-top: 12px; }
.faces.both { grid-template-columns: repeat(auto-fill, minmax(236px, 1fr)); }
.faces figure { margin: 0; } .faces img { height: 112px; max-width: 232px; object-fit: contain; margin-right: 4px; }
figcaption { font-size: 12px; color: #64748b; overflow-wrap: anywhere; }
"""


def write_report(
    path: pathlib.Path,
    summary: "Aligned",
    aligning: Aligning,
    spans: Sequence[Span],
    options: Options,
    made_by: dict[str, Any],
    *,
    warnings: Sequence[str] = (),
) -> None:
    """Writes the page of an alignment to `path`, whole or not at all; faces.parquet lies beside, the parts are still
    there. warnings: what its reader must not miss."""
    rows = path.with_name("faces.parquet")  # of tens of millions of faces: never read whole
    sections = f"""<section><h2>What became of the photographs</h2>{_counts(summary)}</section>
<section><h2>How the faces are</h2>{_measures(rows)}</section>
<section><h2>Accepted</h2>{_sheet(rows, ACCEPTED, aligning, spans)}</section>
<section><h2>Doubtful</h2><p>{"Left out." if options.only_accepted else "Written, too."} All are in passed-over.csv.</p>
{_sheet(rows, DOUBTFUL, aligning, spans)}</section>
<section><h2>Refused</h2>{_sheet(rows, REFUSED, aligning, spans)}</section>"""
    record = Provenance.parse(made_by, "run.json: made_by")
    facts = [
        ("Data", f"{options.data}: {summary.num_photographs:,} photographs of {summary.num_identities:,} identities"),
        ("Written", f"{summary.num_written:,} faces of {px_text(aligning.height_width)} pixels, {summary.format}"),
        *(("Note", notice) for notice in summary.data_notices),
    ]
    page = document(
        sections,
        f"<p>The same command and data give the same faces.</p>{definitions(origin(record, []))}",
        kind="align",
        title=str(options.data.absolute().name),
        subtitle="faces of photographs, aligned",
        banner=notices(warnings, "banner"),
        facts=facts,
        style=STYLE,
        has_pictures=True,
    )
    write_atomically(path, page)


def _counts(summary):
    counts = {ACCEPTED: summary.num_accepted, DOUBTFUL: summary.num_doubtful, REFUSED: summary.num_refused}
    verdicts = "".join(f"<tr><th>{name}</th><td>{num:,}</td></tr>" for name, num in counts.items())
    whys = "".join(f"<tr><th>{html.escape(why)}</th><td>{num:,}</td></tr>" for why, num in summary.whys.items())
    return table(("Verdict", "Faces"), verdicts) + (table(("Why", "Faces"), whys) if whys else "")


def _measures(rows):
    lines = ""
    for name, what in MEASURES.items():
        values = pq.read_table(text_path(rows), columns=[name])[name].drop_null().to_numpy()
        values = values[np.isfinite(values)]
        if len(values):
            cells = "".join(f"<td>{value:.4g}</td>" for value in np.quantile(values, SHARES))
            lines += f"<tr><th>{what}</th>{cells}</tr>"
    if not lines:
        return "<p class='empty'>No face was found.</p>"
    return table(("Share of the faces below", *(f"{share:.0%}" for share in SHARES)), lines)


def _sheet(rows, verdict, aligning, spans):
    """Faces of a verdict, evenly over the data; beside those that are not accepted, their photographs."""
    chosen = pq.read_table(text_path(rows), columns=["photograph", "face"], filters=pc.field("verdict") == verdict)
    if not chosen.num_rows:
        return "<p class='empty'>None.</p>"
    places = np.unique(np.linspace(0, chosen.num_rows - 1, NUM_SHOWN).astype(int))
    figures = "".join(_figure(chosen.slice(int(place), 1).to_pylist()[0], aligning, spans) for place in places)
    shown = (
        f"<p>{len(places):,} of {chosen.num_rows:,}, evenly over the data.</p>" if len(places) < chosen.num_rows else ""
    )
    return f"{shown}<div class='faces{'' if verdict == ACCEPTED else ' both'}'>{figures}</div>"


def _figure(key, aligning, spans):
    row, encoded = _face(key, aligning, spans)
    pictures = [] if row["verdict"] == ACCEPTED else [_photograph(row, aligning)]
    pictures.append(None if encoded is None else data_uri(_fitted(decode(encoded))))
    shown = "".join(f'<img alt="" src="{picture}">' for picture in pictures if picture)
    name = row["name"] or row["where"]
    caption = html.escape(f"{row['why']}; {name}" if row["why"] else name)
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _face(key, aligning, spans):
    """(row, bytes of the aligned face or None) out of its part; key: its photograph and face."""
    span = spans[key["photograph"] // (spans[0].last - spans[0].first)]
    rows, images = aligning.parts.rows_of(span).to_pylist(), aligning.parts.images_of(span)
    pairs = zip(rows, images, strict=True)
    return next(pair for pair in pairs if all(pair[0][name] == value for name, value in key.items()))


def _photograph(row, aligning):
    """The photograph, small, with box and landmarks; None where it cannot be had."""
    try:
        image_HW3 = decode(aligning.source.read(row["photograph"]))
    except CorruptImageError:
        return None
    small_HW3 = _fitted(image_HW3).copy()
    scale = small_HW3.shape[0] / image_HW3.shape[0]
    if row["left"] is not None:
        corner = [round(row[side] * scale) for side in ("left", "top")]
        other = [round((row[side] + row[size]) * scale) for side, size in (("left", "width"), ("top", "height"))]
        cv2.rectangle(small_HW3, corner, other, MARK_RGB, 1)
    if row["face"] is not None:
        for x, y in np.array([row[name] for name in COORDINATES]).reshape(5, 2) * scale:
            cv2.circle(small_HW3, (round(x), round(y)), 1, MARK_RGB, -1)
    return data_uri(small_HW3)


def _fitted(image_HW3):
    """Shrunk until it is not higher than the sheet's pictures, twice that for sharp screens; its aspect kept."""
    scale = min(1.0, 2 * SHOWN_PX / image_HW3.shape[0], 4 * SHOWN_PX / image_HW3.shape[1])
    return resized(image_HW3, tuple(max(1, round(side * scale)) for side in image_HW3.shape[:2]))
