"""The ranked lists of the hardest queries, as pictures: a query, and what the gallery gave first."""

import html
from collections.abc import Sequence

from zennas.evaluate.assessment import RankedList
from zennas.evaluate.pictures import Thumbnails, box
from zennas.evaluate.results import Result
from zennas.page import number


def ranked_lists(results: Sequence[Result], thumbnails: Thumbnails, classes: dict[str, str]) -> str:
    """The HTML of the ranked lists of each network on one set, or "" where there are none or no pictures of them.

    Arguments as in `pictures.pictures`.
    """
    shown = ""
    for result in results:
        pictures = thumbnails.get((result.model, result.set)) or {}
        lists = [ranked for ranked in result.lists if str(ranked.query) in pictures]
        if lists:
            is_open = "" if shown else " open"
            rows = "".join(_row(ranked, result, pictures, classes) for ranked in lists)
            shown += f"<details{is_open}><summary>{html.escape(result.model)}</summary>{rows}</details>"
    return shown


def _row(ranked: RankedList, result: Result, pictures: dict[str, str], classes: dict[str, str]) -> str:
    def shown(image):
        place = result.where.get(str(image)) or f"image {image}"
        return box(pictures.get(str(image)), place, classes)

    answers = "".join(
        f"<span class='{'right' if right else 'wrong'}' title='{rank}: {'right' if right else 'wrong'}'>"
        f"{shown(image)}</span>"
        for rank, (image, right) in enumerate(zip(ranked.images, ranked.right, strict=True), 1)
    )
    where = html.escape(result.where.get(str(ranked.query)) or f"image {ranked.query}")
    told = f"average precision {number(100 * ranked.average_precision, '.1f')} %, first right at {ranked.first_rank}"
    return (
        f"<figure class='ranked'><div><span class='query'>{shown(ranked.query)}</span>{answers}</div>"
        f"<figcaption>{told} <small>{where}</small></figcaption></figure>"
    )


STYLE = """
.ranked { margin: 10px 0; } .ranked div { display: flex; flex-wrap: wrap; gap: 4px; }
.ranked figcaption { font-size: 13px; } .ranked .picture { aspect-ratio: 1 / 2; }
.ranked span span { display: block; width: 48px; } .ranked .query { margin-right: 10px; }
.ranked .right { border-bottom: 4px solid #059669; } .ranked .wrong { border-bottom: 4px dashed #dc2626; }
"""
