"""Detector: the faces of a photograph, with five landmarks each, by a small network that ships with zennas.

F faces, A anchors of the network (one for every place of its maps).

The network is YuNet (assets/NOTICE).
"""

import functools
import hashlib
import math
import pathlib
from typing import NamedTuple

import cv2
import numpy as np

from zennas.data.images import resized
from zennas.export.onnx_file import open_session
from zennas.records import UserError, first_line
from zennas.tasks.face.align import similarity, template, warped

SHIPPED = pathlib.Path(__file__).parent / "assets" / "yunet.onnx"
STRIDES_PX = (8, 16, 32)  # of its maps; a side is a multiple of the last
OUTPUTS = [f"{kind}_{stride}" for kind in ("cls", "obj", "bbox", "kps") for stride in STRIDES_PX]
MIN_SCORE, CLEAR_SCORE = 0.6, 0.8  # in [0, 1]: from which on a face is one, and is one beyond doubt
# Where no face is found, one that the network hardly believes in is better than none: lists of pairs name profiles.
LEAST_SCORE = 0.3
OVERLAP = 0.3  # boxes that share more of their union are one face
MIN_SIDE_PX = 8  # of an image; below, there is nothing to see
# The longer side at which a photograph is looked at, one after the other, until a face is there of which there is no
# doubt: 320 takes a quarter of the time of 640. Faces from 10 pixels on are found.
LOOK_PX = (320, 640, 1280)
CLEAR_PX = 20  # of a face as it is looked at; a smaller one is looked for again in the larger picture
# Then as a face that fills the picture, with room round it, and as a photograph that lies on its side.
TIGHT_PX, TIGHT_ROOM = 112, 0.5
# Landmarks are read again on the face itself, upright and as large as an aligned one, twice, the second time with its
# mirror image. On 300 faces of LFW pasted into photographs, turned by up to 35 degrees, a MobileFaceNet's cosine to the
# face before is 0.82 with the landmarks of the whole photograph, 0.87 when read again once, 0.91 so, 0.94 at most.
CLOSE_PX, CLOSE_FACE_PX = 128, 112
MIRRORED = [1, 0, 2, 4, 3]  # the landmarks of the mirror image
# A face that lies on its side or stands on its head is found, too, as an upright one with landmarks that are wrong, and
# with a score below this one (of 40 faces each: 0.84 and 0.89 in the median, upright ones 0.93). So it is looked at in
# four turns, in so many pixels, this many times as wide as its box; a turned one must be clearer by this much.
UPRIGHT_SCORE, TURNED_PX, TURNED_ROOM, TURNED_GAIN = 0.91, 160, 2.0, 0.01


class Face(NamedTuple):
    """A face: its box and landmarks in pixels of the image, and how sure the network is."""

    left: float
    top: float
    width: float
    height: float
    points_52: np.ndarray  # eyes, tip of the nose, corners of the mouth, left ones first, as the upright face is seen
    score: float  # in [0, 1]


class Detector:
    """Finds faces: `faces`, `likely`, `refined`, `face`. The network is opened where it is first asked, on one thread,
    so that a Detector may be pickled or forked into workers.

    path: another YuNet (ONNX), as of OpenCV's zoo, of a fixed or a free size. UserError where it is none.
    """

    def __init__(self, path: pathlib.Path | str | None = None):
        self.path = pathlib.Path(path or SHIPPED)
        self._session = None

    def __getstate__(self):
        return {"path": self.path, "_session": None}

    @functools.cached_property
    def fingerprint(self) -> str:
        """Of the network's file."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()[:16]
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read: {error.strerror}") from None

    def open(self) -> None:
        """Open the network now. UserError where it is no YuNet."""
        self._opened()

    def faces(self, image_HW3: np.ndarray, *, every: bool = False, min_score: float = MIN_SCORE) -> list[Face]:
        """The Faces of an RGB image (uint8), that which counts most first: the largest and most central.

        every: small faces are looked for also where a clear one is found already. min_score: from which on a face is
        one.
        """
        height, width = image_HW3.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            return []
        faces = []
        for look_px in LOOK_PX:
            scale = min(1.0, look_px / max(height, width))
            seen_HW3 = resized(image_HW3, (max(1, round(height * scale)), max(1, round(width * scale))))
            # Faces of the larger picture come first: their landmarks are the better ones.
            faces = _apart(_scaled(self._seen(seen_HW3, min_score), seen_HW3, image_HW3) + faces)
            if scale == 1 or (not every and any(_is_clear(face, scale) for face in faces)):
                break
        faces = faces or self._tight(image_HW3, min_score) or self._turned(image_HW3)
        return sorted(faces, key=lambda face: -counts(face, height, width))

    def likely(self, image_HW3: np.ndarray, *, every: bool = False) -> list[Face]:
        """As `faces`, but where no face is found those that the network hardly believes in."""
        return self.faces(image_HW3, every=every) or self.faces(image_HW3, min_score=LEAST_SCORE)

    def face(self, image_HW3: np.ndarray) -> Face | None:
        """The Face that counts, with landmarks that are as good as can be; None: there is no face."""
        faces = self.likely(image_HW3)
        return self.refined(image_HW3, faces[0]) if faces else None

    def refined(self, image_HW3: np.ndarray, face: Face) -> Face:
        """The same Face, its landmarks read again on the upright face."""
        again = self._read_twice(image_HW3, face)
        if again.score >= UPRIGHT_SCORE:
            return again
        turned = self._read_twice(image_HW3, self._best_turned(image_HW3, face))
        return turned if turned.score > again.score + TURNED_GAIN else again

    def _read_twice(self, image_HW3, face):
        once = self._read_again(image_HW3, face, mirrored=False)
        return self._read_again(image_HW3, once, mirrored=True)

    def _read_again(self, image_HW3, face, *, mirrored):
        target_52 = template((CLOSE_FACE_PX, CLOSE_FACE_PX))
        close_23 = similarity(face.points_52, target_52 - target_52.mean(0) + CLOSE_PX / 2)
        close_HW3 = warped(image_HW3, close_23, (CLOSE_PX, CLOSE_PX))
        back_23 = cv2.invertAffineTransform(close_23)
        readings = [self._seen(close_HW3)]
        if mirrored:
            readings.append([_mirrored(other) for other in self._seen(np.ascontiguousarray(close_HW3[:, ::-1]))])
        points, scores = [], [face.score]
        for faces in readings:
            near = min(
                faces, key=lambda other: float(np.abs(other.points_52.mean(0) - CLOSE_PX / 2).sum()), default=None
            )
            if near is not None:
                points.append(near.points_52 @ back_23[:, :2].T + back_23[:, 2])
                scores.append(near.score)
        if not points:
            return face
        return face._replace(points_52=np.mean(points, axis=0), score=max(scores))

    def _best_turned(self, image_HW3, face):
        """The Face of this place with the highest score in four turns of the picture."""
        scale = TURNED_PX / (TURNED_ROOM * max(face.width, face.height))
        middle_2 = np.array([face.left + face.width / 2, face.top + face.height / 2])
        cut_23 = np.column_stack([np.eye(2) * scale, TURNED_PX / 2 - middle_2 * scale])
        cut_HW3 = warped(image_HW3, cut_23, (TURNED_PX, TURNED_PX))
        best = face
        for quarters in range(4):
            for other in self._seen(np.ascontiguousarray(np.rot90(cut_HW3, quarters))):
                turned = _turned_back(other, quarters, TURNED_PX, TURNED_PX)
                back = turned._replace(
                    left=turned.left / scale + middle_2[0] - TURNED_PX / 2 / scale,
                    top=turned.top / scale + middle_2[1] - TURNED_PX / 2 / scale,
                    width=turned.width / scale,
                    height=turned.height / scale,
                    points_52=(turned.points_52 - TURNED_PX / 2) / scale + middle_2,
                )
                if back.score > best.score and _shared(back, face) > OVERLAP:
                    best = back
        return best

    def _tight(self, image_HW3, min_score):
        """Faces of an image that one of them fills."""
        scale = min(1.0, TIGHT_PX / max(image_HW3.shape[:2]))
        small_HW3 = resized(image_HW3, tuple(max(1, round(side * scale)) for side in image_HW3.shape[:2]))
        room = round(TIGHT_ROOM * max(small_HW3.shape[:2]))
        wide_HW3 = cv2.copyMakeBorder(small_HW3, room, room, room, room, cv2.BORDER_CONSTANT)
        faces = [
            face._replace(left=face.left - room, top=face.top - room, points_52=face.points_52 - room)
            for face in self._seen(wide_HW3, min_score)
        ]
        return _scaled(faces, small_HW3, image_HW3)

    def _turned(self, image_HW3):
        """Faces of a photograph that lies on its side or on its head; only those of which there is no doubt."""
        scale = min(1.0, LOOK_PX[0] / max(image_HW3.shape[:2]))
        small_HW3 = resized(image_HW3, tuple(max(1, round(side * scale)) for side in image_HW3.shape[:2]))
        turned = []
        for quarters in (1, 3, 2):
            clear = [
                face
                for face in self._seen(np.ascontiguousarray(np.rot90(small_HW3, quarters)))
                if face.score >= CLEAR_SCORE
            ]
            turned += [_turned_back(face, quarters, *small_HW3.shape[:2]) for face in clear]
        return _scaled(_apart(sorted(turned, key=lambda face: -face.score)), small_HW3, image_HW3)

    def _seen(self, image_HW3, min_score=MIN_SCORE):
        """The Faces of an image as it is, those with the highest score first."""
        session, fixed = self._opened()
        height, width = image_HW3.shape[:2]
        scale = 1.0
        if fixed:  # a network of one size sees the image shrunk or enlarged into it
            scale = min(fixed[0] / height, fixed[1] / width)
            image_HW3 = resized(image_HW3, (max(1, int(height * scale)), max(1, int(width * scale))))
        tall, wide = fixed or (-(-side // STRIDES_PX[-1]) * STRIDES_PX[-1] for side in (height, width))
        seen_13HW = np.zeros((1, 3, tall, wide), np.float32)  # as OpenCV has it: black on the right and below
        seen_13HW[0, :, : image_HW3.shape[0], : image_HW3.shape[1]] = image_HW3[..., ::-1].transpose(2, 0, 1)  # BGR
        outputs = dict(zip(OUTPUTS, session.run(OUTPUTS, {session.get_inputs()[0].name: seen_13HW}), strict=True))
        faces = [face for stride in STRIDES_PX for face in _decoded(outputs, stride, wide // stride, min_score)]
        faces = _apart(sorted(faces, key=lambda face: -face.score))
        return [_times(face, 1 / scale, 1 / scale) for face in faces]

    def _opened(self):
        """(session, (height, width) where the network has one size alone, else None)."""
        if self._session is None:
            try:
                session = open_session(str(self.path), threads=1)
            except Exception as error:  # noqa: BLE001 - ONNX Runtime's own errors have no common class
                raise UserError(f"{self.path}: is no network that ONNX Runtime opens: {first_line(error)}") from None
            missing = sorted(set(OUTPUTS) - {node.name for node in session.get_outputs()})
            shape = session.get_inputs()[0].shape
            if missing or len(shape) != 4:
                raise UserError(
                    f"{self.path}: is no YuNet: it has no output {missing[0] if missing else OUTPUTS[0]}; "
                    f"expected are {', '.join(OUTPUTS)}"
                )
            fixed = tuple(shape[2:]) if all(isinstance(side, int) for side in shape[2:]) else None
            self._session = session, fixed
        return self._session


def counts(face: Face, height: int, width: int) -> float:
    """How much a face of an image counts: the larger, the nearer to the middle, and the surer, the more.

    What is no face has a score of 0.6 to 0.7 where a face has 0.9, and is often the larger one.
    """
    middle = (face.left + face.width / 2, face.top + face.height / 2)
    sure = max(0.01, min(1.0, (face.score - 0.5) / 0.4))
    return sure**2 * area_counts(face.width * face.height, middle, height, width)


def area_counts(area: float, middle: tuple[float, float], height: int, width: int) -> float:
    """How much a face of so many square pixels with its middle there (x, y) counts in an image of this size.

    >>> area_counts(100, (50, 50), 100, 100), area_counts(150, (20, 50), 100, 100) < 100
    (100.0, True)
    """
    away = math.hypot((middle[0] - width / 2) / width, (middle[1] - height / 2) / height)  # in a corner: 1 / sqrt(2)
    return area * max(0.0, 1 - math.sqrt(2) * away) ** 2


def _is_clear(face, scale):
    return face.score >= CLEAR_SCORE and min(face.width, face.height) * scale >= CLEAR_PX


def _decoded(outputs, stride, columns, min_score):
    """The Faces that the map of one stride shows, in pixels of what the network saw.

    A place's values: whether a face is there (class and object, whose geometric mean is the score), its centre from
    the place and the logarithm of its size, both in strides, and five points from the place.
    """
    score_A = np.sqrt(np.clip(outputs[f"cls_{stride}"].ravel(), 0, 1) * np.clip(outputs[f"obj_{stride}"].ravel(), 0, 1))
    good_F = np.flatnonzero(score_A >= min_score)
    place_F2 = np.stack([good_F % columns, good_F // columns], 1)
    box_F4 = outputs[f"bbox_{stride}"].reshape(-1, 4)[good_F].astype(np.float64)
    points_F52 = outputs[f"kps_{stride}"].reshape(-1, 5, 2)[good_F].astype(np.float64)
    size_F2 = np.exp(box_F4[:, 2:]) * stride
    corner_F2 = (place_F2 + box_F4[:, :2]) * stride - size_F2 / 2
    points_F52 = (points_F52 + place_F2[:, None]) * stride
    return [
        Face(*corner_2.tolist(), *size_2.tolist(), points_52, float(score))
        for corner_2, size_2, points_52, score in zip(corner_F2, size_F2, points_F52, score_A[good_F], strict=True)
    ]


def _apart(faces):
    """Those that share little with any before them."""
    kept = []
    for face in faces:
        if all(_shared(face, other) <= OVERLAP for other in kept):
            kept.append(face)
    return kept


def _shared(face, other):
    """The share of the union of two boxes that both have."""
    wide = min(face.left + face.width, other.left + other.width) - max(face.left, other.left)
    tall = min(face.top + face.height, other.top + other.height) - max(face.top, other.top)
    both = max(wide, 0) * max(tall, 0)
    return both / (face.width * face.height + other.width * other.height - both)


def _scaled(faces, seen_HW3, image_HW3):
    """Faces of a resized image in pixels of the image."""
    wider, taller = image_HW3.shape[1] / seen_HW3.shape[1], image_HW3.shape[0] / seen_HW3.shape[0]
    return [_times(face, wider, taller) for face in faces]


def _times(face, wider, taller):
    return Face(
        face.left * wider,
        face.top * taller,
        face.width * wider,
        face.height * taller,
        face.points_52 * (wider, taller),
        face.score,
    )


def _mirrored(face):
    """A Face of the mirror image of a close-up, in the close-up."""
    points_52 = face.points_52[MIRRORED]
    points_52[:, 0] = CLOSE_PX - 1 - points_52[:, 0]
    return face._replace(left=CLOSE_PX - face.left - face.width, points_52=points_52)


def _turned_back(face, quarters, height, width):
    """A Face of np.rot90(image, quarters) in the image of (height, width)."""
    corners_42 = np.array([[face.left, face.top], [face.left + face.width, face.top + face.height]])
    x, y = np.concatenate([corners_42, face.points_52]).T
    x, y = {0: (x, y), 1: (width - 1 - y, x), 2: (width - 1 - x, height - 1 - y), 3: (y, height - 1 - x)}[quarters]
    place_N2 = np.stack([x, y], 1)
    low_2, high_2 = place_N2[:2].min(0), place_N2[:2].max(0)
    return Face(*low_2.tolist(), *(high_2 - low_2).tolist(), place_N2[2:], face.score)
