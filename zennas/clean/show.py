"""What `zennas clean` prints."""

import shlex

from rich.console import Console
from rich.table import Table

from zennas.clean.options import Options
from zennas.clean.outcome import LABELS, REPORT
from zennas.clean.run import Cleaned, LookPage
from zennas.clean.state import MERGED, NEARER, REASONS, TAKEN_BACK
from zennas.flags import line, spell
from zennas.train.options import Options as TrainOptions
from zennas.train.show import show as show_training

TRACK_OF_PEOPLE = "reid-mgn"  # what trains on people seen by cameras, where no track is named


def show(cleaned: Cleaned | LookPage, options: Options, console: Console) -> int:
    """Print what became of the images, and what to do next."""
    if isinstance(cleaned, LookPage):
        console.print(f"written: {cleaned.page}", markup=False, soft_wrap=True)
        return 0
    for training in cleaned.trainings:
        show_training(training.network, training.options, console)
    summary = cleaned.summary
    images, identities = summary.images, summary.identities
    table = Table(title=f"{options.data}: what became of {images.before:,} images", title_justify="left")
    for name in ("decision", "reason"):
        table.add_column(name)
    for name in ("images", "per cent"):
        table.add_column(name, justify="right")
    rows = [("kept", "", images.kept - summary.reasons[REASONS[TAKEN_BACK]])]
    for name, count in summary.reasons.items():
        decision = {
            REASONS[MERGED]: "merged",
            REASONS[NEARER]: "moved" if summary.plan.move else "dropped",
            REASONS[TAKEN_BACK]: "kept",
        }.get(name, "dropped")
        rows.append((decision, name, count))
    for decision, reason, count in rows:
        table.add_row(decision, reason, f"{count:,}", f"{100 * count / max(1, images.before):.2f}")
    console.print(table)
    console.print(
        f"identities: {identities.before:,} before, {identities.after:,} after; {identities.merges:,} pairs became one"
    )
    page = shlex.join(["open", str(cleaned.out / REPORT)])
    faces = {} if options.faces == "auto" else {"faces": options.faces}
    track = options.track or (TRACK_OF_PEOPLE if summary.has_cameras else None)
    labels = cleaned.out / LABELS
    train = line("zennas.train", spell(TrainOptions, data=options.data, **faces, track=track, labels=labels))
    named = {
        "data": options.data,
        **faces,
        "embeddings_from": options.embeddings_from,
        "embeddings": options.embeddings,
    }
    look = line("zennas.clean", spell(Options, **named, out=cleaned.out, look="NAME"))
    console.print(
        f"\nNext:\n  {page}\n  {train}\n  {look}",
        markup=False,
        soft_wrap=True,
    )
    return 0
