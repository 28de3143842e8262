"""The work of `zennas mask` in parts: so many images each, done by any process in any order,
the same whoever does them.

A part is a file of images, one after another, and a table of what was done with each; the table is written last, so
that a part that has one is whole.
"""

import os
import pathlib
import struct
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from zennas.data.images import CorruptImageError, UnreadableImageError, decode
from zennas.data.sources import AnySource
from zennas.mask.masker import Masker
from zennas.names import shown, text_path
from zennas.records import UserError
from zennas.run_folder import explaining

PART_IMAGES = 256
STREAM = 3  # what the random numbers are for; those of a training are in data/stream.py
JPEG_QUALITY = 95
PNG_START = b"\x89PNG"
LENGTH = struct.Struct("<q")  # before every image; -1: left out
COLUMNS = pa.schema(
    [
        ("image", pa.int64()),  # its number in the data
        ("where", pa.string()),
        ("name", pa.string()),
        ("identity", pa.int32()),
        ("chosen", pa.bool_()),  # drawn to be masked
        ("masked", pa.bool_()),
        ("written", pa.bool_()),
        ("damaged", pa.bool_()),  # a record without an image to hand on
        ("kind", pa.string()),
        ("variant", pa.int32()),
        ("score", pa.float32()),  # of the mesh, in [0, 1]
        ("yaw_deg", pa.float32()),
        ("pitch_deg", pa.float32()),
        ("roll_deg", pa.float32()),
        # render.Variation: size and exposure times what a mask that sits straight has, height in sides of the layout
        # (downwards; 0.01 is 2 mm), blur_px for a face of 100 pixels.
        ("angle_deg", pa.float32()),
        ("size", pa.float32()),
        ("height", pa.float32()),
        ("blur_px", pa.float32()),
        ("exposure", pa.float32()),
        ("bluish", pa.bool_()),  # skin more blue than red
        ("why", pa.string()),  # it was passed over
    ]
)


class Span(NamedTuple):
    """The images of a part: first to last - 1 of the source."""

    number: int
    first: int
    last: int


class Masking(NamedTuple):
    """What is the same for all parts."""

    source: AnySource
    masker: Masker
    seed: int
    only_masked: bool
    folder: pathlib.Path

    def images(self, span: Span) -> pathlib.Path:
        """The file of a part's images."""
        return self.folder / f"part-{span.number:06d}.images"

    def table(self, span: Span) -> pathlib.Path:
        """The file of a part's table."""
        return self.folder / f"part-{span.number:06d}.parquet"


def spans_of(num_images: int) -> list[Span]:
    """The Spans of so many images.

    >>> [span.last - span.first for span in spans_of(600)]
    [256, 256, 88]
    """
    starts = range(0, num_images, PART_IMAGES)
    return [Span(number, first, min(first + PART_IMAGES, num_images)) for number, first in enumerate(starts)]


def do_part(masking: Masking, span: Span) -> int:
    """Does one part; the number of its images. UserError where an image cannot be had now, or the disk is full."""
    cv2.setNumThreads(0)  # processes share the cores out already
    rows, temporary = [], masking.images(span).with_suffix(".tmp")
    with explaining(masking.folder):
        with open(temporary, "wb") as file:
            for image in range(span.first, span.last):
                encoded, row = _masked(masking, image)
                rows.append(row)
                row["written"] = encoded is not None
                file.write(LENGTH.pack(-1 if encoded is None else len(encoded)) + (encoded or b""))
        os.replace(temporary, masking.images(span))
        # Last, for it says that the part is done.
        table = masking.table(span)
        pq.write_table(pa.Table.from_pylist(rows, schema=COLUMNS), text_path(table.with_suffix(".tmp.parquet")))
        os.replace(table.with_suffix(".tmp.parquet"), table)
    return span.last - span.first


def images_of(masking: Masking, span: Span) -> Iterator[bytes | None]:
    """The encoded images of a finished part, None for those that were left out."""
    with open(masking.images(span), "rb") as file:
        for _ in range(span.first, span.last):
            (length,) = LENGTH.unpack(file.read(LENGTH.size))
            yield file.read(length) if length >= 0 else None


def _masked(masking, image):
    """(its bytes as they are written, or None; its row) of one image."""
    source = masking.source
    row = {
        "image": image,
        "where": shown(source.where(image)),
        "name": None if source.name(image) is None else shown(source.name(image)),
        "identity": int(source.label_N[image]),
        "masked": False,
        "damaged": False,
        "bluish": False,
    }
    rng = np.random.default_rng([masking.seed, STREAM, image])
    row["chosen"] = bool(rng.random() < masking.masker.ratio)
    try:
        encoded = source.read(image)
    except UnreadableImageError as error:  # which may pass: the part is not done
        raise UserError(
            f"{source.path}: {source.where(image)}: {error}; finished parts are kept: "
            "give the same command again to go on"
        ) from None
    except CorruptImageError as error:
        return None, row | {"damaged": True, "why": f"damaged: {error}"}
    if not row["chosen"]:
        return (None if masking.only_masked else encoded), row
    try:
        image_HW3 = decode(encoded)
    except CorruptImageError as error:
        return (None if masking.only_masked else encoded), row | {"why": f"does not decode: {error}"}
    worn = masking.masker.worn(image_HW3, rng)
    row |= {"kind": worn.kind, "variant": worn.variant, "score": worn.score}
    if worn.masked is None:
        return (None if masking.only_masked else encoded), row | {"why": worn.why}
    done = worn.masked
    row |= {"masked": True, "bluish": done.bluish} | done.variation._asdict()
    row |= {name: getattr(done.pose, name) for name in ("yaw_deg", "pitch_deg", "roll_deg")}
    return encode(done.image_HW3, like=encoded), row


def encode(image_HW3: np.ndarray, *, like: bytes) -> bytes:
    """The bytes of an RGB image, as PNG where `like` is one, else as a JPEG of full colour."""
    image_HW3 = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR)
    if like.startswith(PNG_START):
        return cv2.imencode(".png", image_HW3)[1].tobytes()
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", image_HW3, settings)[1].tobytes()
