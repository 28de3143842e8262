"""The work of a command over the images of a data set, in parts: so many images each, done by any process in any order,
the same whoever does them.

A part is a file of encoded images, one after another, and a table of what was done; the table is written last, so that
a part that has one is whole.
"""

import contextlib
import os
import pathlib
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from zennas.data.images import UnreadableImageError
from zennas.data.sources import AnySource
from zennas.names import text_path
from zennas.pool import Pool
from zennas.progress import Progress
from zennas.provenance import num_cores
from zennas.records import UserError
from zennas.run_folder import explaining

PART_IMAGES = 256
LENGTH = struct.Struct("<q")  # before every image; -1: left out
GROUP_ROWS = 1_000_000  # of the whole table; every group of rows costs its footer 1.5 kB


class Span(NamedTuple):
    """The images of a part: first to last - 1 of the source."""

    number: int
    first: int
    last: int


def spans_of(num_images: int, *, part_images: int | None = None) -> list[Span]:
    """The Spans of so many images. part_images: of each; PART_IMAGES where it is left out.

    >>> [span.last - span.first for span in spans_of(600, part_images=256)]
    [256, 256, 88]
    """
    step = part_images or PART_IMAGES
    starts = range(0, num_images, step)
    return [Span(number, first, min(first + step, num_images)) for number, first in enumerate(starts)]


class Parts(NamedTuple):
    """The parts of a run: the folder in which they lie, and the columns of their tables."""

    folder: pathlib.Path
    columns: pa.Schema

    def images(self, span: Span) -> pathlib.Path:
        """The file of a part's images."""
        return self.folder / f"part-{span.number:06d}.images"

    def table(self, span: Span) -> pathlib.Path:
        """The file of a part's table."""
        return self.folder / f"part-{span.number:06d}.parquet"

    def begin(self) -> None:
        """Make the folder; take away what a process that was killed has left half done."""
        with explaining(self.folder.parent):
            self.folder.mkdir(exist_ok=True)
            for left_over in self.folder.glob("*.tmp*"):
                left_over.unlink()

    def todo(self, spans: Sequence[Span]) -> list[Span]:
        """Those of the Spans that are not done."""
        return [span for span in spans if not self.table(span).is_file()]

    @contextlib.contextmanager
    def writing(self, span: Span) -> Iterator["PartWriter"]:
        """A PartWriter; the part is there whole when its block ends without an error. UserError for a full disk."""
        temporary = self.images(span).with_suffix(".tmp")
        with explaining(self.folder):
            with open(temporary, "wb") as file:
                writer = PartWriter(file, [])
                yield writer
            os.replace(temporary, self.images(span))
            # Last, for it says that the part is done.
            table = self.table(span)
            temporary = table.with_suffix(".tmp.parquet")
            pq.write_table(pa.Table.from_pylist(writer.rows, schema=self.columns), text_path(temporary))
            os.replace(temporary, table)

    def fill(self, span: Span, done: Callable[[int], Iterable[tuple[bytes | None, dict]]]) -> int:
        """Write a part: what `done` gives for each of its images, (encoded bytes or None, its row) once or more often.

        The number of its images.
        """
        with self.writing(span) as writer:
            for image in range(span.first, span.last):
                for encoded, row in done(image):
                    writer.add(encoded, row)
        return span.last - span.first

    def images_of(self, span: Span) -> Iterator[bytes | None]:
        """The encoded images of a finished part, one for each row; None for those that were left out."""
        with open(self.images(span), "rb") as file:
            while head := file.read(LENGTH.size):
                (length,) = LENGTH.unpack(head)
                yield file.read(length) if length >= 0 else None

    def rows_of(self, span: Span) -> pa.Table:
        """The table of a finished part."""
        return pq.read_table(text_path(self.table(span)), schema=self.columns)

    def write_table(
        self,
        spans: Sequence[Span],
        path: pathlib.Path,
        *,
        changed: Callable[[Span], pa.Table] | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write the tables of all parts, in order, into the parquet file `path`, which is there whole or not at all.

        changed: what stands there in place of a part's own table. progress(done, total) counts parts.
        """
        temporary = path.with_name(f".{path.name}.tmp")
        with explaining(path.parent):
            with pq.ParquetWriter(text_path(temporary), self.columns) as writer:
                tables, num_rows = [], 0
                for span in spans:
                    tables.append((changed or self.rows_of)(span))
                    num_rows += tables[-1].num_rows
                    if num_rows >= GROUP_ROWS or span is spans[-1]:
                        writer.write_table(pa.concat_tables(tables), row_group_size=max(1, num_rows))
                        tables, num_rows = [], 0
                    if progress:
                        progress(span.number + 1, len(spans))
            os.replace(temporary, path)


def do_all(
    do_part: Callable[[Any, Span], int],
    work: Any,
    spans: Sequence[Span],
    *,
    workers: int | None,
    goes_on: bool,
    doing: str,
    says: Callable[[int], str],
    notices: Iterable[str],
    unit: str,
    progress: Progress,
) -> None:
    """Do what is not done yet of a work (whose `parts` are Parts) over all images, by processes of this machine.

    do_part(work, span) -> the number of the part's images, which are called `unit`. workers: processes; None: one a
    core. doing: what the progress is of. says(number of processes): the line before it, behind which notices stand.
    """
    work.parts.begin()
    todo = work.parts.todo(spans)
    if goes_on and len(todo) < len(spans):
        progress.say(f"going on: {len(spans) - len(todo)} of {len(spans)} parts are done")
    num_workers = max(1, min(workers or num_cores(), len(todo)))
    progress.say(says(num_workers))
    progress.notices(notices)
    num_images = spans[-1].last if spans else 0
    num_done = num_images - sum(span.last - span.first for span in todo)
    progress.begin(doing)
    count = progress.counting(unit)
    with Pool(num_workers, shared=(work,), progress=progress) as pool:
        for _, num in pool.results(do_part, [(span,) for span in todo]):
            num_done += num
            count(num_done, num_images)


def encoded_now(source: AnySource, image: int) -> bytes:
    """The encoded bytes of an image; CorruptImageError where there are none.

    UserError where they cannot be had now, which may pass: the part is not done.
    """
    try:
        return source.read(image)
    except UnreadableImageError as error:
        raise UserError(
            f"{source.path}: {source.where(image)}: {error}; finished parts are kept: "
            "give the same command again to go on"
        ) from None


@contextlib.contextmanager
def told_when_stopped(out: pathlib.Path, progress: Progress) -> Iterator[None]:
    """Ctrl-C in the block is answered by a line that says how to go on, before it is handed on."""
    try:
        yield
    except KeyboardInterrupt:
        progress.end()
        progress.say(f"stopped; finished parts are kept in {out}: give the same command again to go on")
        raise


class PartWriter(NamedTuple):
    """Takes the images of a part and their rows, one after another."""

    file: object
    rows: list[dict]

    def add(self, encoded: bytes | None, row: dict) -> None:
        """One image (None: left out) and its row."""
        self.rows.append(row)
        self.file.write(LENGTH.pack(-1 if encoded is None else len(encoded)) + (encoded or b""))
