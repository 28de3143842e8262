"""The part of a masking that any process can do: the images of a Span, masked or handed on."""

import pathlib
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from zennas.data.images import CorruptImageError, decode, encode
from zennas.data.parts import Parts, Span, encoded_now
from zennas.data.sources import AnySource
from zennas.mask.masker import Masker
from zennas.names import shown

STREAM = 3  # what the random numbers are for; those of a training are in data/stream.py
PNG_START = b"\x89PNG"
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


class Masking(NamedTuple):
    """What is the same for all parts."""

    source: AnySource
    masker: Masker
    seed: int
    only_masked: bool
    folder: pathlib.Path

    @property
    def parts(self) -> Parts:
        """Where its parts lie."""
        return Parts(self.folder, COLUMNS)


def do_part(masking: Masking, span: Span) -> int:
    """Does one part; the number of its images. UserError where an image cannot be had now, or the disk is full."""
    cv2.setNumThreads(0)  # processes share the cores out already

    def done(image):
        encoded, row = _masked(masking, image)
        return [(encoded, row | {"written": encoded is not None})]

    return masking.parts.fill(span, done)


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
        encoded = encoded_now(source, image)
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
    return encode(done.image_HW3, ".png" if encoded.startswith(PNG_START) else ".jpg"), row
