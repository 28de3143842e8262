"""The page of ranked lists: names and cosines, and pictures where they are asked for."""

import html
import pathlib

from zennas.data.images import CorruptImageError, data_uri
from zennas.gallery.enrol import digest_of
from zennas.gallery.find import Found
from zennas.gallery.given import pictures_of
from zennas.gallery.outcome import Hit, Ranked, Searching, Summary
from zennas.gallery.store import Entry, Gallery
from zennas.page import FADED, GRID, INK, definitions, document, number, origin
from zennas.provenance import provenance
from zennas.run_folder import explaining, write_atomically

LONGER_PX = 128  # side of a picture on the page
MOST_SHOWN = 2000  # pictures of a page; lists behind have names alone


def write_page(path: pathlib.Path, found: Found, summary: Summary, gallery: Gallery, *, pictures: bool = False) -> None:
    """Write the ranked lists of a search as one HTML file that loads nothing.

    pictures: with those that were asked about and those that were found, read from where they were enrolled from; one
    that is not there any more, or is another one by now, is told to be missing. UserError where it cannot be written.
    """
    shown_pictures = _Pictures(found, gallery) if pictures else None
    sections = "".join(
        _section(place, one, found.entries[place], found.image_of[place], shown_pictures)
        for place, one in enumerate(found.ranked)
    )
    cameras = f" by {summary.num_cameras:,} cameras" if summary.num_cameras else ""
    plural = "list" if len(found.ranked) == 1 else "lists"
    content = document(
        sections,
        definitions(origin(provenance(), [])),
        kind="gallery",
        title=f"{len(found.ranked):,} ranked {plural}",
        subtitle=f"{summary.num_images:,} pictures of {summary.num_identities:,} identities{cameras}, {summary.folder}",
        banner="".join(
            f"<p class='note'>⚠ {html.escape(failure.image)} cannot be used: {html.escape(failure.why)}</p>"
            for failure in found.failures
        ),
        facts=[
            ("Network", f"{summary.network} ({summary.fingerprint})"),
            ("Search", searching_in_words(summary.searching)),
            ("Cosine", "how alike two pictures are, 1 at most. How much is enough differs by network"),
        ],
        style=STYLE,
        has_pictures=pictures,
        has_plots=False,
    )
    with explaining(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)


def searching_in_words(searching: Searching) -> str:
    """How a gallery is searched, and what that may miss.

    >>> searching_in_words(Searching(way="exact", num_compared=1200))
    'exact: all 1,200 pictures are compared'
    """
    if searching.way == "exact":
        return f"exact: all {searching.num_compared:,} pictures are compared"
    behind = f", and {searching.num_compared:,} newer pictures" if searching.num_compared else ""
    return (
        f"the {searching.probes:,} nearest of {searching.cells:,} cells{behind}: finds {searching.recall:.1%} of the "
        f"nearest {searching.recall_at}, by {searching.recall_asked:,} pictures of the gallery against exact search"
    )


class _Pictures:
    """HTML of the pictures of a page."""

    def __init__(self, found, gallery):
        height, width = gallery.settings.input
        self._size = tuple(max(1, round(side * LONGER_PX / max(height, width))) for side in (height, width))
        height, width = self._size
        self._missing = f"<span class='missing' style='width:{width}px;height:{height}px'>no picture</span>"
        self._queries = found.images
        wanted = {entry.number: entry for entries in found.entries for entry in entries}
        self._found = pictures_of(list(wanted.values())[:MOST_SHOWN])

    def of_query(self, image: int) -> str:
        return self._shown(self._queries, image, None)

    def of_entry(self, entry: Entry) -> str:
        images = self._found.get(entry.number)
        return self._missing if images is None else self._shown(images, 0, entry.digest)

    def _shown(self, images, image, digest):
        try:
            if digest is not None and digest_of(images.read(image)) != digest:
                return self._missing
            return f"<img alt='' src='{data_uri(images.pixels(image, self._size))}'>"
        except CorruptImageError:
            return self._missing


def _camera(hit: Hit) -> str:
    return "" if hit.camera is None else f", <span class='camera'>camera {html.escape(hit.camera)}</span>"


def _section(place: int, ranked: Ranked, entries: list[Entry], images: list[int], pictures: _Pictures | None) -> str:
    asked = "".join(pictures.of_query(image) for image in images) if pictures else ""
    hits = "".join(
        f"<figure>{pictures.of_entry(entry) if pictures else ''}"
        f"<figcaption><b>{hit.rank}. {html.escape(hit.identity)}</b>cosine {number(hit.cosine, '.3f')}{_camera(hit)}"
        f"<small title='{html.escape(f'{hit.image}, in {hit.source}')}'>"
        f"{html.escape(hit.image.rpartition('/')[2])}</small></figcaption></figure>"
        for hit, entry in zip(ranked.hits, entries, strict=True)
    )
    title = ", ".join(ranked.query)
    but = (
        f"<p class='empty'>without camera {html.escape(', '.join(ranked.not_cameras))}</p>"
        if ranked.not_cameras
        else ""
    )
    return (
        f"<section id='list-{place + 1}'><h2>{html.escape(title)}</h2>{but}<div class='asked'>{asked}</div>"
        f"<div class='hits'>{hits or '<p class=empty>nothing is as alike as that</p>'}</div></section>"
    )


STYLE = f"""
h2 {{ font-size: 15px; overflow-wrap: anywhere; }} .asked img {{ border: 3px solid {INK}; margin: 10px 8px 4px 0; }}
.hits {{ display: grid; gap: 16px 14px; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr));
  margin-top: 12px; }}
.hits figure {{ margin: 0; }} .hits figcaption {{ font-size: 13px; overflow-wrap: anywhere; margin-top: 4px; }}
.hits b {{ display: block; }} .hits small {{ display: block; }} .camera {{ white-space: nowrap; }}
img {{ border-radius: 4px; display: block; }} .asked {{ display: flex; flex-wrap: wrap; }}
.missing {{ display: grid; place-items: center; border: 1px dashed {GRID};
  color: {FADED}; font-size: 11px; }}
"""
