"""Landmarker: the vertices of the face in a picture, by two small networks that ship with zennas.

V = 468 vertices; a vertex is x, y in pixels of the image and z in the same unit, away from the viewer.
A anchors of the detector.

The networks are MediaPipe's (Apache-2.0, assets/NOTICE).
"""

import functools
import math
from typing import NamedTuple

import cv2
import numpy as np

from zennas.export.onnx_file import open_session
from zennas.mask.mesh import ASSETS
from zennas.tasks.face.align import off_template
from zennas.tasks.face.crops import ALIGNED, AUTO
from zennas.tasks.face.detect import area_counts
from zennas.tasks.face.look import MAX_ALIGNED_PX, MAX_OFF

NUM_VERTICES = 468
LANDMARK_PX, DETECTION_PX = 192, 128  # what the two networks look at
# The region of an aligned face, in sides of its image: tuned on 200 faces of LFW (112 px), all of which it finds.
ALIGNED_CENTRE_XY, ALIGNED_SIDE = (56 / 112, 64 / 112), 145 / 112
REGION_OF_BOX = 1.5  # MediaPipe: the side of the region that is looked at, in sides of the detector's box
MIN_FACE, MIN_DETECTION = 0.5, 0.5  # scores in [0, 1] from which on a face is one (MediaPipe's)
MIN_SIDE_PX = 24  # of an image or a detected face; below, there is nothing to see a mask on
OVERLAP = 0.3  # boxes that share more of their union are one face
# The detector's maps: their stride in pixels, and the anchors in each of their places.
ANCHORS = ((8, 2), (16, 6))
RIGHT_EYE, LEFT_EYE = 0, 1  # of the detector's key points, the person's
# The five points of ArcFace's template, left ones first as seen: the vertices they are the mean of.
FIVE = ((33, 133), (263, 362), (1,), (61,), (291,))


class Region(NamedTuple):
    """A turned square in which a face is looked for: its centre and side in pixels, its turn in radians (clockwise)."""

    x: float
    y: float
    side: float
    turn: float = 0.0


class FoundFace(NamedTuple):
    """What was found in an image: its vertices (None: no face), the score, and why there is none."""

    point_V3: np.ndarray | None
    score: float
    why: str = ""


class Landmarker:
    """Finds the vertices of the face in an image: `find`. Its networks are opened where they are first asked, on one
    thread, so that it may be pickled or forked into workers.

    look: "aligned" where the face stands where ArcFace's template has it, "detect" for photographs, "auto": aligned
    where the image is a square of at most MAX_ALIGNED_PX whose face stands there (within MAX_OFF), else detected.
    """

    def __init__(self, look: str = AUTO):
        self.look = look
        self._landmark = self._detection = None

    def __getstate__(self):
        return {"look": self.look, "_landmark": None, "_detection": None}

    def find(self, image_HW3: np.ndarray) -> FoundFace:
        """The FoundFace of an RGB image (uint8): of the largest and most central face where there are several."""
        height, width = image_HW3.shape[:2]
        if min(height, width) < MIN_SIDE_PX:
            return FoundFace(None, 0.0, f"{width} x {height} pixels are too few for a face")
        if self.look == ALIGNED:
            return self._checked(*self.fit(image_HW3, aligned_region(height, width)))
        if self.look == AUTO and height == width <= MAX_ALIGNED_PX:
            aligned = self._checked(*self.fit(image_HW3, aligned_region(height, width)))
            if aligned.point_V3 is not None and off_template(five_points(aligned.point_V3), (height, width)) <= MAX_OFF:
                return aligned
        region, score = self._detected(image_HW3)
        if region is None:
            return FoundFace(None, score, "no face was found")
        return self._checked(*self.fit(image_HW3, region))

    def _checked(self, point_V3, score):
        """The FoundFace of what was fitted: no face below the score of one."""
        if score < MIN_FACE:
            return FoundFace(None, score, f"no mesh fits: score {score:.2f}, below {MIN_FACE:g}")
        if not np.isfinite(point_V3).all():
            return FoundFace(None, score, "no mesh fits: vertices that are not finite")
        return FoundFace(point_V3, score)

    def fit(self, image_HW3: np.ndarray, region: Region) -> tuple[np.ndarray, float]:
        """(point_V3, score in [0, 1]) of the face in a Region."""
        if self._landmark is None:
            self._landmark = open_session(str(ASSETS / "face_landmark.onnx"), threads=1)
        from_image_23 = _into_square(region, LANDMARK_PX)
        seen_HW3 = cv2.warpAffine(
            image_HW3,
            from_image_23,
            (LANDMARK_PX, LANDMARK_PX),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
        (name,) = (node.name for node in self._landmark.get_inputs())
        outputs = self._landmark.run(None, {name: seen_HW3[None].astype(np.float32) / 255})
        logit, vertices = sorted(outputs, key=np.size)
        point_V3 = vertices.reshape(NUM_VERTICES, 3).astype(np.float64)
        back_23 = cv2.invertAffineTransform(from_image_23)
        point_V3[:, :2] = point_V3[:, :2] @ back_23[:, :2].T + back_23[:, 2]
        point_V3[:, 2] *= region.side / LANDMARK_PX
        return point_V3.astype(np.float32), _sigmoid(float(logit.ravel()[0]))

    def _detected(self, image_HW3):
        """(Region of the face that counts, or None, the best score)."""
        if self._detection is None:
            self._detection = open_session(str(ASSETS / "face_detection.onnx"), threads=1)
        height, width = image_HW3.shape[:2]
        whole = Region(width / 2, height / 2, max(height, width))  # the image with bars, as MediaPipe has it
        from_image_23 = _into_square(whole, DETECTION_PX)
        area = cv2.INTER_AREA if max(height, width) > 2 * DETECTION_PX else cv2.INTER_LINEAR
        scale = DETECTION_PX / max(height, width)
        small_HW3 = cv2.resize(
            image_HW3, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=area
        )
        seen_HW3 = np.zeros((DETECTION_PX, DETECTION_PX, 3), np.float32)
        top, left = (DETECTION_PX - small_HW3.shape[0]) // 2, (DETECTION_PX - small_HW3.shape[1]) // 2
        seen_HW3[top : top + small_HW3.shape[0], left : left + small_HW3.shape[1]] = small_HW3 / 127.5 - 1
        (name,) = (node.name for node in self._detection.get_inputs())
        logit, box = sorted(self._detection.run(None, {name: seen_HW3[None]}), key=np.size)
        score_A = _sigmoid(logit.ravel().astype(np.float64))
        good = np.flatnonzero(score_A >= MIN_DETECTION)
        if not len(good):
            return None, float(score_A.max())
        # x, y, width, height of the box, then x, y of six key points, all from the anchor's
        # centre and in pixels of the square.
        place_A82 = box.reshape(-1, 8, 2)[good].astype(np.float64)
        place_A82[:, [0, 2, 3, 4, 5, 6, 7]] += anchors()[good, None]
        faces = _one_each(place_A82, score_A[good])
        back_23 = cv2.invertAffineTransform(from_image_23)
        regions = [_region(place_82, back_23) for place_82 in faces]
        best = max(regions, key=lambda region: area_counts(region.side**2, (region.x, region.y), height, width))
        if best.side / REGION_OF_BOX < MIN_SIDE_PX:
            return None, float(score_A.max())
        return best, float(score_A.max())


def aligned_region(height: int, width: int) -> Region:
    """Where an aligned face stands in an image of this size."""
    return Region(ALIGNED_CENTRE_XY[0] * width, ALIGNED_CENTRE_XY[1] * height, ALIGNED_SIDE * width)


def five_points(point_V3: np.ndarray) -> np.ndarray:
    """The landmarks of ArcFace's template (points_52) of a mesh of vertices."""
    return np.array([point_V3[list(vertices), :2].mean(0) for vertices in FIVE])


def _region(place_82, back_23):
    """The Region of a detected face: its box, half as large again, turned so that the eyes are level."""
    (x, y), side = place_82[0] @ back_23[:, :2].T + back_23[:, 2], float(np.abs(place_82[1]).max()) * back_23[0, 0]
    right_2, left_2 = place_82[2 + RIGHT_EYE], place_82[2 + LEFT_EYE]
    turn = math.atan2(left_2[1] - right_2[1], left_2[0] - right_2[0])
    return Region(float(x), float(y), REGION_OF_BOX * side, turn)


def _one_each(place_A82, score_A):
    """The places of boxes that overlap, averaged by their scores, face by face (BlazeFace's way of suppression)."""
    half_A2 = np.abs(place_A82[:, 1]) / 2
    low_A2, high_A2 = place_A82[:, 0] - half_A2, place_A82[:, 0] + half_A2
    left, faces = np.argsort(-score_A), []
    while len(left):
        first = left[0]
        shared_A2 = np.minimum(high_A2[left], high_A2[first]) - np.maximum(low_A2[left], low_A2[first])
        shared_A = np.maximum(shared_A2, 0).prod(1)
        areas_A = (high_A2 - low_A2).prod(1)
        same = shared_A > OVERLAP * (areas_A[left] + areas_A[first] - shared_A)
        same[0] = True
        faces.append(np.average(place_A82[left[same]], axis=0, weights=score_A[left[same]]))
        left = left[~same]
    return faces


@functools.cache
def anchors() -> np.ndarray:
    """The centres of the detector's anchors, A2, in pixels of its square."""
    parts = []
    for stride, num in ANCHORS:
        middle = (np.arange(DETECTION_PX // stride) + 0.5) * stride
        y, x = np.meshgrid(middle, middle, indexing="ij")
        parts.append(np.repeat(np.stack([x.ravel(), y.ravel()], 1), num, axis=0))
    return np.concatenate(parts)


def _into_square(region, px):
    """The 2x3 map from pixels of the image to those of a square of side px that shows the region."""
    scale = px / region.side
    cos, sin = scale * math.cos(region.turn), scale * math.sin(region.turn)
    turn_22 = np.array([[cos, sin], [-sin, cos]])
    return np.column_stack([turn_22, px / 2 - turn_22 @ (region.x, region.y)])


def _sigmoid(logit):
    return 1 / (1 + np.exp(-np.clip(logit, -60, 60)))
