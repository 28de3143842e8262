"""The part of an alignment that any process can do: the faces of a Span of photographs, aligned and judged."""

import math
import pathlib
from typing import NamedTuple

import cv2
import numpy as np
import pyarrow as pa

from zennas.align.quality import doubts, face_px_of, pose_of, sharpness_of
from zennas.data.images import CorruptImageError, decode, encode, resized
from zennas.data.parts import Parts, Span, encoded_now
from zennas.data.sources import AnySource
from zennas.names import shown
from zennas.tasks.face.align import align
from zennas.tasks.face.detect import Detector, Face

PART_PHOTOGRAPHS = 64  # a second or so: what a kill may cost
ACCEPTED, DOUBTFUL, REFUSED = "accepted", "doubtful", "refused"
POINTS = ("left_eye", "right_eye", "nose", "left_mouth", "right_mouth")
COORDINATES = [f"{point}_{axis}" for point in POINTS for axis in "xy"]
COLUMNS = pa.schema(
    [
        ("photograph", pa.int64()),  # its number in the data
        ("where", pa.string()),
        ("name", pa.string()),
        ("identity", pa.int32()),
        ("width_px", pa.int32()),  # of the photograph, upright
        ("height_px", pa.int32()),
        ("num_faces", pa.int32()),  # found in it
        ("face", pa.int32()),  # 0: the one that counts; null: none
        ("verdict", pa.string()),  # accepted, doubtful or refused
        ("why", pa.string()),
        ("written", pa.string()),  # file, member or record under --out; null: left out
        ("known", pa.bool_()),  # the landmarks were given
        ("score", pa.float32()),  # of the detector, in [0, 1]
        *((side, pa.float32()) for side in ("left", "top", "width", "height")),  # of the box, pixels of the photograph
        *((name, pa.float32()) for name in COORDINATES),  # landmarks, left ones first as seen
        ("face_px", pa.float32()),  # side of the aligned face in the photograph
        ("yaw_deg", pa.float32()),
        ("pitch_deg", pa.float32()),
        ("roll_deg", pa.float32()),
        ("sharpness", pa.float32()),
    ]
)


class Aligning(NamedTuple):
    """What is the same for all parts."""

    source: AnySource
    detector: Detector
    folder: pathlib.Path
    height_width: tuple[int, int]
    points_N52: np.ndarray | None  # landmarks that are known, NaN where not
    label_N: np.ndarray | None  # identities in place of the source's, -1: none
    every: bool
    only_accepted: bool
    complete: bool

    @property
    def parts(self) -> Parts:
        """Where its parts lie."""
        return Parts(self.folder, COLUMNS)


def do_part(aligning: Aligning, span: Span) -> int:
    """Does one part; the number of its photographs. UserError where one cannot be had now, or the disk is full."""
    cv2.setNumThreads(0)  # processes share the cores out already
    return aligning.parts.fill(span, lambda image: aligned_of(aligning, image))


def aligned_of(aligning: Aligning, image: int) -> list[tuple[bytes | None, dict]]:
    """(its bytes as they are written, or None; its row) of every face of a photograph; one entry at least."""
    source = aligning.source
    label_N = source.label_N if aligning.label_N is None else aligning.label_N
    row = {
        "photograph": image,
        "where": shown(source.where(image)),
        "name": None if source.name(image) is None else shown(source.name(image)),
        "identity": int(label_N[image]),
        "verdict": REFUSED,
        "num_faces": 0,
        "known": False,
    }
    if row["identity"] < 0:
        return [(None, row | {"why": "no identity is given for it"})]
    try:
        image_HW3 = decode(encoded_now(source, image))
    except CorruptImageError as error:
        return [(None, row | {"why": shown(f"does not decode: {error}")})]
    row |= {"height_px": image_HW3.shape[0], "width_px": image_HW3.shape[1]}
    faces, is_known = _faces(aligning, image, image_HW3)
    row |= {"num_faces": len(faces), "known": is_known}
    if not faces:
        middle = encode(_middle(image_HW3, aligning.height_width), ".jpg") if aligning.complete else None
        return [(middle, row | {"why": "no face is found" + (": its middle stands in" if middle else "")})]
    num_kept = len(faces) if aligning.every else 1
    return [_aligned_face(aligning, image_HW3, faces, number, row) for number in range(num_kept)]


def _faces(aligning, image, image_HW3):
    """(Faces of a photograph, that which counts first; whether its landmarks are known)."""
    if aligning.points_N52 is not None and np.isfinite(aligning.points_N52[image]).all():
        points_52 = aligning.points_N52[image]
        low_2, high_2 = points_52.min(0), points_52.max(0)
        return [Face(*low_2.tolist(), *(high_2 - low_2).tolist(), points_52, 1.0)], True
    return aligning.detector.likely(image_HW3, every=aligning.every), False


def _aligned_face(aligning, image_HW3, faces, number, row):
    """(bytes or None, row) of one face."""
    face = faces[number]
    if not row["known"]:
        face = aligning.detector.refined(image_HW3, face)
    row = (
        row
        | {"face": number, "score": face.score}
        | dict(zip(COORDINATES, face.points_52.ravel().tolist(), strict=True))
    )
    if not row["known"]:
        row |= {side: getattr(face, side) for side in ("left", "top", "width", "height")}
    try:
        face_HW3 = align(image_HW3, face.points_52, aligning.height_width, smooth=True)
    except CorruptImageError as error:
        return None, row | {"why": str(error)}
    height, width = image_HW3.shape[:2]
    pose, sharpness = pose_of(face.points_52), sharpness_of(face_HW3)
    rivals = [] if aligning.every else [other for place, other in enumerate(faces) if place != number]
    why = doubts(face, rivals, pose, sharpness=sharpness, height=height, width=width)
    row |= pose._asdict() | {"sharpness": sharpness, "face_px": face_px_of(face.points_52), "why": why}
    row["verdict"] = DOUBTFUL if why else ACCEPTED
    encoded = None if why and aligning.only_accepted else encode(face_HW3, ".jpg")
    return encoded, row


def _middle(image_HW3, height_width):
    """The largest rectangle of the aspect of `height_width` in the middle of a photograph, at that size."""
    scale = min(side / wanted for side, wanted in zip(image_HW3.shape[:2], height_width, strict=True))
    tall, wide = (max(1, math.floor(wanted * scale)) for wanted in height_width)
    top, left = (image_HW3.shape[0] - tall) // 2, (image_HW3.shape[1] - wide) // 2
    return resized(np.ascontiguousarray(image_HW3[top : top + tall, left : left + wide]), height_width)
