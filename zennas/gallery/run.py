"""The whole path of a call: read `run` first."""

import csv
import pathlib
from typing import NamedTuple

from zennas.embed.cells import threads
from zennas.embed.model import usable_device
from zennas.gallery.enrol import enrol, settled
from zennas.gallery.find import find, said_of
from zennas.gallery.options import Options
from zennas.gallery.outcome import Kept, Outcome, Ranked, Searching, Summary, Unusable
from zennas.gallery.page import write_page
from zennas.gallery.search import num_compared
from zennas.gallery.store import KINDS, Gallery, Writer
from zennas.names import shown
from zennas.progress import Progress, silent
from zennas.provenance import num_cores
from zennas.records import UserError
from zennas.run_folder import explaining


class Request(NamedTuple):
    """A call as it is done."""

    options: Options
    folder: pathlib.Path  # absolute
    device: str


def check(options: Options) -> Request:
    """The Request of these options; UserError for what cannot be used, before anything is opened."""
    if not options.query:
        of_lists = {
            "--together": options.together,
            "--identities": options.identities,
            "--exact": options.exact,
            "--at-least": options.at_least is not None,
            "--not-camera": options.not_camera is not None,
            "--page": options.page is not None,
            "--top": options.top != Options.model_fields["top"].default,
        }
        for name in (name for name, is_given in of_lists.items() if is_given):
            raise UserError(f"{name}: is of ranked lists; give --query PICTURE, too")
    if options.pictures and options.page is None:
        raise UserError("--pictures: are shown on the page of --page FILE; give it, too")
    if not (options.enrol or options.query) and (options.model or options.faces != "auto"):
        name = "--model" if options.model else "--faces"
        raise UserError(f"{name}: is of the pictures that --enrol and --query name; give one of them, too")
    if not options.enrol and (options.holds or options.flip):
        raise UserError(f"{'--holds' if options.holds else '--flip'}: is of a new gallery, which --enrol makes")
    for option, texts in (("--delete", options.delete), ("--look", (options.look,) if options.look else ())):
        for kind, _, name in (text.partition(":") for text in texts):
            if kind not in KINDS or not name:
                raise UserError(f"{option}: given '{kind}', allowed: image:NAME or identity:NAME")
    return Request(options, options.folder.absolute(), usable_device(options.device))


def run(options: Options, *, progress: Progress | None = None) -> Outcome:
    """The Outcome of a call: what was done, in the order of its options, what was found, and what the gallery holds.

    UserError for what was given and cannot be used.
    """
    request, progress = check(options), progress or silent()
    try:
        with threads(num_cores()):
            return _done(request, progress)
    except KeyboardInterrupt:
        progress.end()
        progress.say("stopped; what was enrolled is kept: give the same command again to go on")
        raise


def _done(request: Request, progress: Progress) -> Outcome:
    options = request.options
    num_deleted = 0
    named, enrolled = None, None
    if options.delete or (options.rebuild and not options.enrol):
        with Writer.begin(request.folder) as writer:
            num_deleted = _delete(writer, options.delete)
            settled(writer, progress, rebuild=options.rebuild and not options.enrol)
    if options.enrol:
        named, enrolled = enrol(options, request.folder, request.device, progress)
    with Gallery.open(request.folder) as gallery:
        ranked: tuple[Ranked, ...] = ()
        failures: tuple[Unusable, ...] = ()
        if options.query:
            found = find(options, gallery, named, device=request.device, progress=progress)
            ranked, failures = found.ranked, found.failures
            if options.page is not None:
                write_page(
                    options.page, found, summary_of(gallery, whole=options.exact), gallery, pictures=options.pictures
                )
        looked = gallery.named(options.look, option="--look") if options.look else []
        if options.table is not None:
            _write_table(options.table, gallery)
        return Outcome(
            gallery=summary_of(gallery, whole=options.exact),
            num_deleted=num_deleted,
            enrolled=enrolled,
            ranked=ranked,
            failures=failures,
            look=tuple(Kept(**said_of(entry)) for entry in looked),
            page=shown(options.page) if options.page else None,
            table=shown(options.table) if options.table else None,
        )


def _delete(writer: Writer, texts: tuple[str, ...]) -> int:
    """How many pictures were deleted: all that the texts name, or none where one of them is not there."""
    numbers = {entry.number for text in texts for entry in writer.named(text, option="--delete")}
    if numbers:
        writer.delete(sorted(numbers))
    return len(numbers)


def summary_of(gallery: Gallery, *, whole: bool = False) -> Summary:
    """What a gallery holds, and how it is searched: whole, where all is compared."""
    settings, cells = gallery.settings, gallery.cells
    searching = Searching(way="exact", num_compared=gallery.num_images)
    if cells is not None and not whole:
        searching = Searching(
            way="cells",
            num_compared=num_compared(gallery),
            cells=cells.cells,
            probes=cells.probes,
            recall=cells.recall,
            recall_at=cells.at,
            recall_asked=cells.asked,
        )
    return Summary(
        folder=shown(gallery.folder),
        holds=settings.holds,
        network=settings.network,
        fingerprint=settings.fingerprint,
        embedding_size=settings.embedding_size,
        flip=settings.flip,
        num_images=gallery.num_images,
        num_identities=gallery.num_identities,
        num_cameras=len(gallery.cameras),
        num_deleted=len(gallery.deleted_M),
        sources=tuple(gallery.sources),
        searching=searching,
    )


def _write_table(path: pathlib.Path, gallery: Gallery) -> None:
    """All pictures, a line each, as they are read: none is held."""
    temporary = path.with_name(f".{path.name}.tmp")
    with explaining(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["image", "label", "camera", "source"])
            writer.writerows((entry.name, entry.identity, entry.camera, entry.source) for entry in gallery.entries())
        temporary.replace(path)
