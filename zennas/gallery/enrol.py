"""Enrolling: pictures -> entries of a gallery, each on the disk before the next batch begins."""

import collections
import concurrent.futures
import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from zennas.data.image_set import MAX_THREADS, ImageSet
from zennas.data.images import CorruptImageError
from zennas.embed.embeddings import BATCH, in_batches
from zennas.embed.model import Model
from zennas.embed.named import Named
from zennas.gallery.given import Given, is_photograph, prepared, to_enrol
from zennas.gallery.network import check_network, network_of, settings_of, unit_rows, why_not
from zennas.gallery.options import Options
from zennas.gallery.outcome import Enrolled, Unusable
from zennas.gallery.search import settle
from zennas.gallery.store import SETTINGS, Gallery, New, Settings, Writer
from zennas.names import shown
from zennas.progress import Progress
from zennas.provenance import num_cores
from zennas.records import UserError, first_line
from zennas.tasks.face.crops import ALIGNED, AUTO

LOOKED_UP = 2048  # pictures whose bytes are read at a time, to see which are there already
NAMED_UNUSABLE = 100  # of those that cannot be used; all are counted


def enrol(options: Options, folder: pathlib.Path, device: str, progress: Progress) -> tuple[Named, Enrolled]:
    """(the network, what became of the pictures) of --enrol. UserError where none of them can be used."""
    kept = _kept_settings(folder)
    if kept and options.holds not in (None, kept.holds):
        raise UserError(f"--holds {options.holds}: {options.folder} holds {kept.holds}")
    if kept and options.flip and not kept.flip:
        raise UserError(f"--flip: {options.folder} was made without; leave it out, or make another gallery")
    named = network_of(options.model, kept, folder=options.folder, device=device)
    model: Any = named.model
    if kept is None:
        assert options.model is not None  # network_of asks for it
        height, width = model.input_hw
        holds = options.holds or ("people" if height > width else "faces")
        settings = settings_of(named, options.model, holds=holds, flip=options.flip)
    else:
        settings = kept
    givens = [_opened(text, settings.holds, options.faces, progress) for text in options.enrol]
    if named.notice:
        progress.say(named.notice, style="yellow")
    with Writer.begin(folder, settings) as writer:
        check_network(writer.settings, named, folder=options.folder)  # another process may have made it meanwhile
        counts = _Counts()
        detected = is_photograph(settings.holds, options.faces)
        for text, given in zip(options.enrol, givens, strict=True):
            source = writer.source(given.source, detected=detected)
            progress.begin(f"enrolling {text}")
            try:
                _add(writer, given, model, source, counts, progress.counting("pictures"))
            finally:
                progress.end()
        settled(writer, progress, rebuild=options.rebuild)
    enrolled = counts.record()
    if enrolled.unusable:
        first = enrolled.unusable[0]
        says = f"{enrolled.num_unusable:,} of {enrolled.num_given:,} pictures cannot be used, the first: {first.image}"
        if not enrolled.num_added + enrolled.num_there:
            raise UserError(f"--enrol {options.enrol[0]}: {says}: {first.why}")
        progress.say(f"{says}: {first.why}", style="yellow")
    return named, enrolled


def settled(writer: Writer, progress: Progress, *, rebuild: bool = False) -> None:
    """The index brought up to date, with progress: a large one takes minutes."""
    progress.begin("index")
    progress.update({})
    try:
        settle(writer, rebuild=rebuild, counting=progress.counting("pictures"))
    finally:
        progress.end()


def _kept_settings(folder: pathlib.Path) -> Settings | None:
    """Of the gallery there is; None where there is none, or where nothing was ever enrolled."""
    if not (folder / SETTINGS).is_file():
        return None
    with Gallery.open(folder) as gallery:
        return gallery.settings if gallery.num_vectors else None


def _opened(text, holds, faces, progress):
    progress.begin(f"opening {text}")
    progress.update({})
    try:
        given = to_enrol(text, counting=progress.counting("files"))
        if given.of_people and holds == "faces" and faces == AUTO:
            raise UserError(
                "holds people seen by cameras, not aligned faces; a gallery of people takes them (--holds people makes "
                f"one); --faces {ALIGNED} takes the images as they are"
            )
        images = prepared(given.images, holds, faces, where=given.source, then=lambda out: f"--enrol {out}")
    except UserError as error:
        raise UserError(f"--enrol {text}: {error}") from None
    finally:
        progress.end()
    progress.notices(given.notices)
    return given._replace(images=images)


class _Counts:
    """What became of pictures so far."""

    def __init__(self):
        self.given = self.added = self.there = self.replaced = self.num_unusable = 0
        self.unusable = []

    def pass_over(self, image: str, why: str) -> None:
        self.num_unusable += 1
        if len(self.unusable) < NAMED_UNUSABLE:
            self.unusable.append(Unusable(image=image, why=why))

    def record(self) -> Enrolled:
        return Enrolled(
            num_given=self.given,
            num_added=self.added,
            num_there=self.there,
            num_replaced=self.replaced,
            num_unusable=self.num_unusable,
            unusable=tuple(self.unusable),
        )


def _add(writer: Writer, given: Given, model: Model, source: int, counts: _Counts, counting) -> None:
    """Embed and append the pictures that are not there yet, batch by batch."""
    images, batch = given.images, BATCH[model.device.type]
    counts.given += images.num_images
    for start in range(0, images.num_images, LOOKED_UP):
        block = range(start, min(start + LOOKED_UP, images.num_images))
        new, again = _new_ones(writer, given, block, counts)
        if new:
            for image_B, pixels_B, row_BD in in_batches(
                model, images, list(new), flip=writer.settings.flip, batch=batch
            ):
                unit_BD, good_B = unit_rows(row_BD)
                for image, pixels, good in zip(image_B, pixels_B, good_B, strict=True):
                    if good:
                        counts.there += len(again[image])
                        continue
                    for name in (new[image].name, *again[image]):
                        counts.pass_over(name, why_not(pixels))
                added = [new[image] for image, good in zip(image_B, good_B, strict=True) if good]
                if added:
                    counts.replaced += writer.append(unit_BD[good_B], added, source)
                    counts.added += len(added)
                counting(image_B[-1] + 1, images.num_images)
        counting(block[-1] + 1, images.num_images)


def _new_ones(writer, given, block, counts):
    """({image: New} of the pictures that are not there yet, {image: names of the same picture, met again after it})."""
    new, first_of, again = {}, {}, collections.defaultdict(list)
    for image, digest in zip(block, _digests(given.images, block), strict=True):
        name, identity = shown(given.name(image)), shown(given.identity(image))
        if isinstance(digest, Exception):
            counts.pass_over(name, first_line(digest))
            continue
        entry = New(name, identity, digest, shown(given.camera(image)))
        if (digest, identity) in first_of:
            again[first_of[digest, identity]].append(name)
        elif writer.is_there(entry):
            counts.there += 1
        else:
            first_of[digest, identity], new[image] = image, entry
    return new, again


def digest_of(encoded: bytes) -> bytes:
    """What tells the bytes of a picture from others'."""
    return hashlib.sha256(encoded).digest()[:16]


def _digests(images: ImageSet, numbers: Sequence[int]) -> Iterator[bytes | Exception]:
    """`digest_of` each picture, or the error that says why it cannot be read."""

    def digest(image):
        try:
            return digest_of(images.read(image))
        except CorruptImageError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(min(MAX_THREADS, num_cores())) as pool:
        yield from pool.map(digest, numbers)
