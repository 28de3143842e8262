"""The hardest pairs of a report, as pictures: each picture stands in the page once, however many pairs show it."""

import html
import re
from collections.abc import Sequence

from zennas.evaluate.assessment import Pair
from zennas.evaluate.results import Result
from zennas.page import FADED, GRID, number

# (model, set) -> {number of an image, as text: data URI}: of the images of its pairs that could be read.
Thumbnails = dict[tuple[str, str], dict[str, str]]
NUM_SHOWN = 12  # pairs of each kind, of one network on one set
PICTURE = re.compile(r"data:image/(?:jpeg|png|webp);base64,[A-Za-z0-9+/]+={0,2}")
KINDS = {
    True: ("Same, and least alike", "same pair"),
    False: ("Different, and most alike", "different pair"),
}


def hardest(pairs: Sequence[Pair]) -> dict[bool, list[tuple[Pair, list[str]]]]:
    """{same: [(pair, subsets)]}: the hardest first, at most NUM_SHOWN of each kind.

    pairs: of one network on one set. A pair that is hard in several subsets is one pair.
    """
    by_kind, known = {True: {}, False: {}}, [pair for pair in pairs if pair.similarity is not None]
    for pair in sorted(known, key=lambda pair: pair.similarity):
        images = frozenset((pair.first, pair.second))
        by_kind[pair.same].setdefault(images, (pair, []))[1].append(pair.subset)
    alike = list(by_kind[False].values())[::-1]  # of different pairs the most similar are the hard ones
    return {True: list(by_kind[True].values())[:NUM_SHOWN], False: alike[:NUM_SHOWN]}


def pictures(results: Sequence[Result], thumbnails: Thumbnails, classes: dict[str, str]) -> str:
    """The HTML of the hardest pairs of each network on one set, or "" where there are none.

    results: those on this set. thumbnails: of all. classes: {picture: CSS class} of the page so far; grows.
    """
    shown, num_pairs = "", 0
    for result in results:
        by_kind = hardest(result.pairs)
        blocks = "".join(_kind(same, pairs, result, thumbnails, classes) for same, pairs in by_kind.items() if pairs)
        if not blocks:
            continue
        similarities = ", ".join(
            f"{KINDS[same][1]} {number(pairs[0][0].similarity, '.3f')}" for same, pairs in by_kind.items() if pairs
        )
        is_open = "" if num_pairs else " open"
        num_pairs += 1
        shown += (
            f"<details{is_open}><summary>{html.escape(result.model)} <i>hardest {similarities}</i></summary>"
            f"{blocks}</details>"
        )
    return shown


def style(classes: dict[str, str]) -> str:
    """CSS of all pictures that `pictures` met."""
    return STYLE + "".join(f".{name}{{background-image:url({picture})}}" for picture, name in classes.items())


def _kind(same, pairs, result, thumbnails, classes):
    pictures_of = thumbnails.get((result.model, result.set)) or {}
    cards = "".join(_card(pair, subsets, result.where, pictures_of, classes) for pair, subsets in pairs)
    return f"<h4>{KINDS[same][0]}</h4><div class='pairs'>{cards}</div>"


def _card(pair, subsets, where, pictures_of, classes):
    boxes, places = "", []
    for image in (pair.first, pair.second):
        place = where.get(str(image)) or f"image {image}"
        places.append(html.escape(place))
        boxes += box(pictures_of.get(str(image)), place, classes)
    among = html.escape(", ".join(dict.fromkeys(filter(None, subsets))))
    return (
        f"<figure><div class='two'>{boxes}</div><figcaption><b>{number(pair.similarity, '.3f')}</b> {among}"
        f"<small>{places[0]}</small><small>{places[1]}</small></figcaption></figure>"
    )


def box(picture: str | None, place: str, classes: dict[str, str]) -> str:
    """The HTML of one picture, or of its absence; `place` says where it lies, `classes` grows."""
    # What is not plainly a picture could carry anything into the style sheet.
    if not isinstance(picture, str) or not PICTURE.fullmatch(picture):
        return "<span class='picture missing'>no picture</span>"
    name = classes.setdefault(picture, f"picture-{len(classes)}")
    return f"<span class='picture {name}' role='img' aria-label='{html.escape(place)}'></span>"


STYLE = f"""
h4 {{ margin: 12px 0 6px; font-size: 13px; color: {FADED}; font-weight: 600; }} summary i {{ color: {FADED}; font-size:
13px; }}
.pairs {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(160px, 1fr)); gap: 14px 16px; }}
.pairs figure {{ margin: 0; }} .pairs figcaption {{ font-size: 13px; margin-top: 4px; overflow-wrap: anywhere; }}
.pairs small {{ font-size: 11px; color: {FADED}; line-height: 1.35; }}
.two {{ display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }}
.picture {{ aspect-ratio: 1; border-radius: 4px; background: {GRID} center / contain no-repeat; print-color-adjust:
exact; }}
.missing {{ display: grid; place-items: center; font-size: 11px; color: {FADED}; border: 1px dashed {FADED}; background:
none; }}
"""
