"""What makes a face doubtful: its pose, its sharpness, its size, its place in the photograph."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from zennas.tasks.face.align import similarity, template
from zennas.tasks.face.detect import Face, counts

# The five points of a face in centimetres: x to the right as seen, y up, z towards the viewer. Means of the vertices
# that stand for them in MediaPipe's canonical face, as zennas.mask has it.
FACE_53 = np.array(
    [[-3.151, 2.625, 3.466], [3.151, 2.625, 3.466], [0, -1.127, 7.476], [-2.456, -4.343, 4.284], [2.456, -4.343, 4.284]]
)
MIN_SCORE = 0.8  # of the detector
MIN_FACE_PX = 20  # between eyes and mouth times two, about the side of a face: below, little is left of who it is
MIN_SHARPNESS = 20.0  # 98 % of LFW's aligned faces have more than 50; enlarged from 20 pixels, 95 % less than 16
MAX_YAW_DEG, MAX_PITCH_DEG = 60.0, 45.0  # five points tell little beyond
MAX_OUTSIDE = 0.25  # share of the aligned face that lies outside the photograph
RIVAL = 0.6  # another face counts for this share of the one that was chosen


class Pose(NamedTuple):
    """Angles of a face, as zennas.mask has them: yaw above 0 looks to the right of the picture, pitch above 0 up, roll
    above 0 is turned clockwise.
    """

    yaw_deg: float
    pitch_deg: float
    roll_deg: float


def pose_of(points_52: np.ndarray) -> Pose:
    """The Pose that shows five points so: of the face above, seen from far away. Against the mesh of zennas.mask, on
    300 faces of LFW, yaw and roll are off by 2 degrees in the median; pitch only tells up from down, because every nose
    is another.

    >>> pose = pose_of(FACE_53[:, :2] * (1, -1))
    >>> [round(abs(angle_deg)) for angle_deg in pose]
    [0, 0, 0]
    """
    # Image = scale * (two rows of a rotation) @ face: least squares for the six numbers, then the nearest rotation.
    seen_52 = (points_52 - points_52.mean(0)) * (1, -1)
    face_53 = FACE_53 - FACE_53.mean(0)
    rows_32, *_ = np.linalg.lstsq(face_53, seen_52, rcond=None)
    u, _, vt = np.linalg.svd(rows_32.T, full_matrices=False)
    right_3, up_3 = u @ vt
    turn_33 = np.stack([right_3, up_3, np.cross(right_3, up_3)])
    # As zennas.mask composes it: roll, then pitch, then yaw.
    yaw = math.atan2(-turn_33[2, 0], turn_33[2, 2])
    pitch = math.asin(max(-1.0, min(1.0, -turn_33[2, 1])))
    roll = math.atan2(turn_33[0, 1], turn_33[1, 1])
    return Pose(*(math.degrees(angle_rad) for angle_rad in (yaw, pitch, roll)))


def sharpness_of(face_HW3: np.ndarray) -> float:
    """The variance of the Laplacian of an aligned face, in squares of grey levels, as it is at 112 pixels.

    Source: Pech-Pacheco et al. 2000.
    """
    grey_HW = cv2.cvtColor(face_HW3, cv2.COLOR_RGB2GRAY)
    if grey_HW.shape != (112, 112):
        grey_HW = cv2.resize(grey_HW, (112, 112), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey_HW, cv2.CV_32F).var())


def face_px_of(points_52: np.ndarray) -> float:
    """The side of the aligned face in pixels of the photograph: what 112 pixels of the template take there."""
    map_23 = similarity(points_52, template((112, 112)))
    return 112 / math.hypot(map_23[0, 0], map_23[1, 0])


def outside_of(points_52: np.ndarray, height: int, width: int) -> float:
    """The share of the aligned face that lies outside a photograph of this size.

    >>> round(outside_of(template((112, 112)), 112, 56), 1)
    0.5
    """
    back_23 = cv2.invertAffineTransform(similarity(points_52, template((112, 112))))
    place_P2 = np.stack(np.meshgrid(np.arange(8) * 14 + 6.5, np.arange(8) * 14 + 6.5), -1).reshape(-1, 2)
    x_P, y_P = (place_P2 @ back_23[:, :2].T + back_23[:, 2]).T
    return float(1 - ((x_P >= -0.5) & (y_P >= -0.5) & (x_P <= width - 0.5) & (y_P <= height - 0.5)).mean())


def doubts(face: Face, rivals: list[Face], pose: Pose, *, sharpness: float, height: int, width: int) -> str | None:
    """Why a face of a photograph of this size is doubtful; None where it is not. rivals: the other faces there."""
    face_px, outside = face_px_of(face.points_52), outside_of(face.points_52, height, width)
    second = max((counts(other, height, width) for other in rivals), default=0.0)
    if face.score < MIN_SCORE:
        return f"the detector is not sure: score {face.score:.2f}, below {MIN_SCORE:g}"
    if face_px < MIN_FACE_PX:
        return f"small: {face_px:.0f} pixels, below {MIN_FACE_PX}"
    if abs(pose.yaw_deg) > MAX_YAW_DEG:
        return f"looks aside: yaw {pose.yaw_deg:.0f} degrees, beyond {MAX_YAW_DEG:g}"
    if abs(pose.pitch_deg) > MAX_PITCH_DEG:
        return f"looks up or down: pitch {pose.pitch_deg:.0f} degrees, beyond {MAX_PITCH_DEG:g}"
    if outside > MAX_OUTSIDE:
        return f"cut by the border: {outside:.0%} of the face outside, above {MAX_OUTSIDE:.0%}"
    if sharpness < MIN_SHARPNESS:
        return f"blurred: sharpness {sharpness:.0f}, below {MIN_SHARPNESS:g}"
    if second > RIVAL * counts(face, height, width):
        return "another face: it counts nearly as much"
    return None
