"""What `zennas gallery` prints."""

import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.gallery.options import Options
from zennas.gallery.outcome import Enrolled, Outcome, Ranked
from zennas.gallery.page import searching_in_words

FAILED = 1  # exit code: a picture that was asked about cannot be used, the others were
MOST_LISTS, MOST_HITS = 20, 100  # that are printed: to lay out a table of millions takes minutes; --json has all
MOST_LOOKED = 40  # pictures of --look that are printed; --json has all


def show(outcome: Outcome, options: Options, console: Console) -> int:
    """Print what was done and found; 1 where a picture of --query cannot be used."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    if options.delete:
        say(f"{outcome.num_deleted:,} pictures deleted")
    if outcome.enrolled is not None:
        say(_enrolled(outcome.enrolled))
    for ranked in outcome.ranked[:MOST_LISTS]:
        console.print(_table(ranked))
    if len(outcome.ranked) > MOST_LISTS:
        say(f"and {len(outcome.ranked) - MOST_LISTS:,} more lists; --json has all")
    for failure in outcome.failures:
        say(f"{failure.image}: cannot be used: {failure.why}", "yellow")
    for kept in outcome.look[:MOST_LOOKED]:
        camera = f"  camera {kept.camera}" if kept.camera else ""
        say(f"  {kept.identity}  {kept.image}{camera}  ({kept.source})")
    if len(outcome.look) > MOST_LOOKED:
        say(f"  and {len(outcome.look) - MOST_LOOKED:,} more; --json has all")
    gallery = outcome.gallery
    cameras = f" by {gallery.num_cameras:,} cameras" if gallery.num_cameras else ""
    say(
        f"{options.folder}: {gallery.num_images:,} pictures of {gallery.num_identities:,} identities{cameras} "
        f"({gallery.holds}), by {gallery.network} ({gallery.embedding_size} numbers)"
    )
    say(f"search  {searching_in_words(gallery.searching)}")
    written = [shlex.join(["open", outcome.page])] if outcome.page else []
    written += [f"{outcome.table}: all pictures, a line each"] if outcome.table else []
    if written:
        say("Next:\n  " + "\n  ".join(written))
    return FAILED if outcome.failures else 0


def _enrolled(enrolled: Enrolled) -> str:
    counts = {
        "there already": enrolled.num_there,
        "in place of what had their name": enrolled.num_replaced,
        "that cannot be used": enrolled.num_unusable,
    }
    more = "".join(f"; {num:,} {what}" for what, num in counts.items() if num)
    return f"{enrolled.num_added:,} of {enrolled.num_given:,} pictures enrolled{more}"


def _table(ranked: Ranked) -> Table:
    table = Table(title=Text(", ".join(ranked.query)), title_justify="left")
    for name in ("rank", "cosine"):
        table.add_column(name, justify="right")
    has_cameras = any(hit.camera for hit in ranked.hits)
    for name in ("identity", *(["camera"] if has_cameras else []), "picture"):
        table.add_column(name)
    for hit in ranked.hits[:MOST_HITS]:
        camera = [Text(hit.camera or "")] if has_cameras else []
        table.add_row(f"{hit.rank}", f"{hit.cosine:.3f}", Text(hit.identity), *camera, Text(hit.image))
    if len(ranked.hits) > MOST_HITS:
        table.caption = f"and {len(ranked.hits) - MOST_HITS:,} more; --json has all"
    if not ranked.hits:
        table.caption = "nothing is as alike as that"
    return table
