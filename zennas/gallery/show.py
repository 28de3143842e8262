"""What `zennas gallery` prints."""

import shlex

from rich.console import Console
from rich.table import Table
from rich.text import Text

from zennas.gallery.options import Options
from zennas.gallery.outcome import Enrolled, Outcome, Ranked
from zennas.gallery.page import searching_in_words

FAILED = 1  # exit code: a picture that was asked about cannot be used, the others were
MOST_LOOKED = 40  # pictures of --look that are printed; --json has all


def show(outcome: Outcome, options: Options, console: Console) -> int:
    """Print what was done and found; 1 where a picture of --query cannot be used."""

    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style=style), soft_wrap=True)

    if options.delete:
        say(f"{outcome.num_deleted:,} pictures deleted")
    if outcome.enrolled is not None:
        say(_enrolled(outcome.enrolled))
    for ranked in outcome.ranked:
        console.print(_table(ranked))
    for failure in outcome.failures:
        say(f"{failure.image}: cannot be used: {failure.why}", "yellow")
    for kept in outcome.look[:MOST_LOOKED]:
        say(f"  {kept.identity}  {kept.image}  ({kept.source})")
    if len(outcome.look) > MOST_LOOKED:
        say(f"  and {len(outcome.look) - MOST_LOOKED:,} more; --json has all")
    gallery = outcome.gallery
    say(
        f"{options.folder}: {gallery.num_images:,} pictures of {gallery.num_identities:,} identities "
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
    for name in ("identity", "picture"):
        table.add_column(name)
    for hit in ranked.hits:
        table.add_row(f"{hit.rank}", f"{hit.cosine:.3f}", Text(hit.identity), Text(hit.image))
    if not ranked.hits:
        table.caption = "nothing is as alike as that"
    return table
