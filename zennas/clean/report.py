"""report.html: what a cleaning decided, one page that needs no network, with thumbnails of what it rests on."""

import contextlib
import html
import pathlib
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from zennas.clean.state import DUPLICATE, FAR, KEPT, NEARER, REASONS, TAKEN_BACK, State
from zennas.clean.summary import Summary
from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError, decode
from zennas.page import (
    BUDGET,
    FADED,
    GRID,
    INK,
    Look,
    definitions,
    document,
    drawn,
    legend,
    notices,
    number,
    origin,
    table,
)
from zennas.provenance import Provenance
from zennas.run_folder import write_atomically

THUMBNAIL_PX = 72
STANDING = 1.5  # by which an image is higher than wide that stands
NUM_TRIED = 16
LOOKS = {
    KEPT: Look("#0f766e", "■"),
    REASONS[FAR]: Look("#be123c", "■"),
    REASONS[NEARER]: Look("#b45309", "■"),
    REASONS[DUPLICATE]: Look("#7c3aed", "■"),
}
NEAR_THE_THRESHOLD = "kept, nearest to the threshold"
BEFORE, AFTER = Look("#94a3b8", "■"), Look("#0f766e", "■")
MEANING = {
    NEAR_THE_THRESHOLD: "The next to go if the threshold were higher. Faces that plainly belong say "
    "that it is high enough.",
    REASONS[FAR]: "First those least like their identity's centre, then those just below the threshold.",
    REASONS[NEARER]: "First the clearest cases, then the closest calls. Beside it, whom it is nearer to.",
    REASONS[DUPLICATE]: "The same picture in two identities. Beside it, the one that stays.",
}


def write_report(
    path: pathlib.Path, summary: Summary, images: ImageSet, names: list[str], label_N: np.ndarray, state: State
) -> None:
    """Writes the page to `path`, whole or not at all.

    summary: what run.json holds. images: the ImageSet of the data. names: of its identities. label_N: whom they were
    said to show. state: the State.
    """
    write_atomically(path, page(summary, images, names, label_N, state))


def page(summary: Summary, images: ImageSet, names: list[str], label_N: np.ndarray, state: State) -> str:
    """The HTML of a cleaning; arguments as in `write_report`."""
    gallery = Gallery(images, names, label_N, state)
    noted = list(dict.fromkeys(notice for entry in summary.rounds for notice in entry.notices))
    examples = "".join(
        f"<h3>{html.escape(kind.capitalize())}</h3><p>{MEANING[kind]}</p>{gallery.cards(numbers, kind)}"
        for kind, numbers in summary.examples.items()
        if numbers
    )
    sections = f"""<section><h2>What became of the images</h2>{_counts(summary)}</section>
<section><h2>Images kept against the threshold</h2>
<p>Of the images that tau_intra decides on, how many are more like their identity's centre than each cosine. The line is
tau_intra. Where the curve is flat, little hangs on the threshold.</p>{_curve(summary)}
<h3>How like their identity's centre images are</h3>{legend(LOOKS)}{_histogram(summary)}</section>
<section><h2>Images of an identity, before and
after</h2>{legend({"before": BEFORE, "after": AFTER})}{_sizes(summary)}</section>
<section><h2>What was decided on, as pictures</h2>
<p>Below a picture: the cosine to its own identity's centre, then to the nearest other one's.</p>
{examples or "<p class='empty'>Nothing was left out.</p>"}</section>
<section><h2>Identities that became one</h2>{_merged(summary, gallery)}</section>
<section><h2>Rounds</h2>{_rounds(summary)}</section>
<section><h2>What the numbers mean, and what they do not</h2><ul>
<li><b>Nothing is deleted.</b> <code>decisions.parquet</code> has a row for every image; <code>--take-back
image:NAME</code> keeps
an image, <code>--take-back identity:NAME</code> undoes what an identity was merged with, <code>--look NAME</code> shows
all
images of one.</li>
<li><b>Thresholds belong to one network's embeddings.</b> Another network's cosines lie elsewhere: look at the
pictures.</li>
<li><b>A hard image looks like a wrong one.</b> Profiles, children and old photographs lie far from their centre,
too.</li>
<li><b>A network cleans as it was taught.</b> What it cannot tell apart, twins and people it saw few of, it merges or
throws
out.</li></ul></section>"""
    taken = summary.taken_back
    facts = [
        (
            "Images",
            f"{summary.images.before:,} before, {summary.images.before - summary.images.dropped:,} after",
        ),
        ("Identities", f"{summary.identities.before:,} before, {summary.identities.after:,} after"),
        ("Network", ", then ".join(summary.embeddings_from)),
        ("Plan", ", ".join(f"{name} {value}" for name, value in summary.plan)),
    ]
    if taken.images or taken.identities:
        facts.append(("Taken back", f"{taken.images:,} images, {taken.identities:,} identities"))
    return document(
        sections,
        f"<p>What it takes to run it again.</p>{definitions(origin(summary.made_by, []))}",
        kind="clean",
        title=summary.data,
        subtitle="Identities merged, cleaned between each other and within",
        banner=notices(noted, "banner"),
        facts=facts,
        style=STYLE,
        has_pictures=True,
    )


def look_page(
    chosen: int, images: ImageSet, names: list[str], label_N: np.ndarray, state: State, made_by: Provenance
) -> str:
    """The HTML of all images of one identity: those under its name before, and those that count as it now.

    chosen: its number. made_by: a Provenance.
    """
    gallery = Gallery(images, names, label_N, state)
    given, after = (np.flatnonzero(column == chosen).tolist() for column in (label_N, state.label_N))
    before = set(given)
    came = [image for image in after if image not in before]
    caption = "<p>Below a picture: the cosine to its own identity's centre, then to the nearest other one's.</p>"
    sections = f"<section><h2>Under this name in the data</h2>{caption}{gallery.cards(given, 'given')}</section>"
    if came:
        sections += f"<section><h2>Count as it now</h2>{gallery.cards(came, 'given')}</section>"
    return document(
        sections,
        definitions(origin(made_by, [])),
        kind="clean",
        title=names[chosen],
        subtitle="One identity, image by image",
        banner="",
        facts=[("Images", f"{len(given):,} before, {len(after):,} after")],
        style=STYLE,
        has_pictures=True,
    )


def _thumbnail_size(images):
    """(height, width) of the thumbnails: twice as high as wide where the first image that can be read stands, as whole
    people do."""
    for image in range(min(images.num_images, NUM_TRIED) if images.cut is None else 0):
        with contextlib.suppress(CorruptImageError):
            height, width = decode(images.read(image)).shape[:2]
            return (2 * THUMBNAIL_PX if height >= STANDING * width else THUMBNAIL_PX), THUMBNAIL_PX
    return THUMBNAIL_PX, THUMBNAIL_PX


class Gallery:
    """Images of the data as cards of a page."""

    def __init__(self, images: ImageSet, names: list[str], label_N: np.ndarray, state: State):
        self.images, self.names, self.label_N, self.state = images, names, label_N, state
        self.size = _thumbnail_size(images)

    def cards(self, numbers: Sequence[int], kind: str) -> str:
        """The HTML of a card for each image."""
        return f"<div class='cards'>{''.join(self._card(image, kind) for image in numbers)}</div>"

    def picture(self, image: int) -> str:
        """The HTML of one picture."""
        uri, where = self.images.thumbnail(image, self.size), html.escape(self.images.where(image))
        return f"<img src='{uri}' alt='{where}' title='{where}'>" if uri else "<span class='missing'>no picture</span>"

    def _card(self, image, kind):
        state = self.state
        other_name, beside = None, ""
        if kind == REASONS[DUPLICATE] and state.twin_N[image] >= 0:
            beside, other_name = self.picture(int(state.twin_N[image])), self.name(self.label_N[state.twin_N[image]])
        elif kind == REASONS[NEARER]:
            other_name = self.name(state.nearest_N[image])
            # Of the other identity, the image most like its centre.
            theirs_M = np.flatnonzero((state.label_N == state.nearest_N[image]) & np.isfinite(state.own_N))
            beside = self.picture(int(theirs_M[state.own_N[theirs_M].argmax()])) if len(theirs_M) else ""
        cosines = f"{number(float(state.own_N[image]), '.2f')}, {number(float(state.other_N[image]), '.2f')}"
        lines = [self.name(self.label_N[image])] + ([f"→ {other_name}"] if other_name else [])
        if kind == "given":
            reason = REASONS[state.reason_N[image]]
            whose = f" → {self.name(state.label_N[image])}" if reason and state.label_N[image] >= 0 else ""
            lines = [(reason or "kept") + whose, self.images.where(image)]
        small = "".join(f"<small>{html.escape(line)}</small>" for line in lines)
        gone = " class='gone'" if state.label_N[image] < 0 and kind == "given" else ""
        return (
            f"<figure{gone}><div>{self.picture(image)}{beside}</div><figcaption>{cosines}{small}</figcaption></figure>"
        )

    def name(self, label: int) -> str:
        """What an identity is called; a label below 0 is nobody's."""
        return self.names[int(label)] if label >= 0 else "nobody"


def _counts(summary):
    total = max(1, summary.images.before)
    kept = summary.images.kept - summary.reasons[REASONS[TAKEN_BACK]]
    rows = [("kept as they are", kept), *summary.reasons.items()]
    body = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{count:,}</td><td>{100 * count / total:.2f}</td></tr>"
        for name, count in rows
    )
    alone, largest = summary.of_one_image, summary.largest
    more = definitions(
        [
            (
                "Of one image",
                f"{alone.before:,} identities before, {alone.after:,} after",
            ),
            ("Largest", f"{largest.before:,} images before, {largest.after:,} after"),
        ]
    )
    return table(["", "Images", "Per cent"], body) + more


def _curve(summary):
    edges = np.linspace(-1, 1, len(summary.kept_at))
    total = max(1, summary.images.before)
    figure = go.Figure(
        go.Scatter(
            x=edges,
            y=[100 * count / total for count in summary.kept_at],
            mode="lines",
            line={"color": INK, "width": 2},
            hovertemplate="above %{x:.2f}: %{y:.2f} % of all images<extra></extra>",
        )
    )
    if (threshold := summary.plan.tau_intra) is not None:
        figure.add_vline(
            x=threshold,
            line={"color": BUDGET.colour, "width": 2},
            annotation_text=f"tau_intra {threshold:g}",
            annotation_position="bottom right",
        )
    figure.update_xaxes(title="cosine to the identity's centre", range=[-0.4, 1])
    figure.update_yaxes(title="images kept, per cent of all", range=[0, 102])
    return drawn(figure, "kept-at", height_px=320)


def _histogram(summary):
    figure, counts = go.Figure(), summary.own_cosine
    middle = np.linspace(-1, 1, 2 * len(counts[KEPT]) + 1)[1::2]
    for name, look in LOOKS.items():
        if any(counts.get(name, [])):
            figure.add_bar(
                x=middle,
                y=np.sqrt(counts[name]),
                name=name,
                marker={"color": look.colour},
                customdata=counts[name],
                hovertemplate=f"{name}: %{{customdata}} images at %{{x:.2f}}<extra></extra>",
            )
    figure.update_layout(barmode="stack", bargap=0)
    figure.update_xaxes(title="cosine to the identity's centre", range=[-0.4, 1])
    figure.update_yaxes(title="images, drawn as square roots", showticklabels=False)
    return drawn(figure, "own-cosine", height_px=280)


def _sizes(summary):
    figure = go.Figure()
    for name, look in (("before", BEFORE), ("after", AFTER)):
        rows = getattr(summary.sizes, name)
        figure.add_bar(
            x=[f"{least}" if least == most else f"{least}-{most}" for least, most, _ in rows],
            y=[count for *_, count in rows],
            name=name,
            marker={"color": look.colour},
            hovertemplate=f"{name}: %{{y}} identities of %{{x}} images<extra></extra>",
        )
    figure.update_xaxes(title="images of an identity", type="category")
    figure.update_yaxes(title="identities", type="log")
    return drawn(figure, "sizes", height_px=280)


def _merged(summary, gallery):
    if not summary.merged:
        return "<p class='empty'>No two identities were found to be one person.</p>"
    rows = ""
    for pair in summary.merged:
        cells = "".join(
            f"<div>{''.join(map(gallery.picture, images))}<small>{html.escape(gallery.name(label))}</small></div>"
            for label, images in zip(pair.numbers, pair.images, strict=True)
        )
        rows += f"<div class='merge'><b>{pair.cosine:.3f}</b>{cells}</div>"
    return (
        "<p>The cosine of the two centres; the least alike pairs first, where mistakes would be, then the most "
        "alike. Of each "
        f"up to three images.</p><div class='merges'>{rows}</div>"
    )


def _rounds(summary):
    names = list(summary.rounds[0].counts) if summary.rounds else []
    body = ""
    for entry in summary.rounds:
        cells = [
            html.escape(entry.embeddings_from.rsplit("/", 1)[-1]),
            f"{entry.kept:,}",
            f"{entry.identities:,}",
        ]
        cells += [f"{entry.counts[name]:,}" for name in names]
        body += f"<tr><th>{entry.number}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
    return table(["", "Embeddings from", "Images kept", "Identities", *(name.capitalize() for name in names)], body)


STYLE = f"""
.cards {{ display: flex; flex-wrap: wrap; gap: 12px 14px; margin: 8px 0 14px; }} figure {{ margin: 0; max-width: 160px;
}}
.cards img, .merges img {{ height: auto; }} .missing {{ height: {THUMBNAIL_PX}px; }}
.cards img, .merges img, .missing {{ width: {THUMBNAIL_PX}px; border-radius: 4px;
margin-right: 3px; }}
.missing {{ display: inline-grid; place-items: center; font-size: 10px; color: {FADED}; background: {GRID}; }}
figcaption {{ font-size: 12px; font-variant-numeric: tabular-nums; }} figcaption small {{ font-size: 11px; color:
{FADED};
  overflow-wrap: anywhere; line-height: 1.3; }} figure.gone img {{ opacity: 0.45; outline: 2px solid {BUDGET.colour}; }}
.merges {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(520px, 100%)); gap: 10px; }}
@media (min-width: 1100px) {{ .merges {{ grid-template-columns: 1fr 1fr; }} }}
.merge {{ display: flex; gap: 14px; align-items: center; }} .merge small {{ color: {FADED}; font-size: 11px; }}
"""
