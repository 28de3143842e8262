"""Pose, sharpness and doubts, against faces that are turned, blurred and put where they should not be."""

import cv2
import numpy as np
import pytest

from zennas.align.quality import FACE_53, doubts, face_px_of, outside_of, pose_of, sharpness_of
from zennas.mask import mesh
from zennas.mask.landmarks import five_points
from zennas.mask.synthetic import synthetic_face
from zennas.tasks.face.align import template
from zennas.tasks.face.detect import Face


def test_the_five_points_are_those_of_the_mesh():
    face = mesh.face().position_V3
    flat_52 = five_points(face)
    assert FACE_53[:, :2] == pytest.approx(flat_52, abs=0.001)


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (35, 0, 0), (-20, 10, 0), (15, -25, 12), (0, 0, -50)])
def test_the_pose_of_a_face_that_was_turned(yaw, pitch, roll):
    pose = mesh.pose_of(mesh.turn(yaw, pitch, roll), 11.0, np.array([300.0, 200.0, 0.0]))
    seen_52 = mesh.posed(FACE_53, pose)[:, :2]
    assert pose_of(seen_52) == pytest.approx((yaw, pitch, roll), abs=0.1)


def test_a_blurred_face_is_less_sharp_at_any_size():
    face_HW3, _ = synthetic_face(image_px=224)
    for image_HW3 in (face_HW3, cv2.resize(face_HW3, (112, 112), interpolation=cv2.INTER_AREA)):
        blurred = [sharpness_of(cv2.GaussianBlur(image_HW3, (0, 0), sigma)) for sigma in (0.5, 2, 5)]
        assert sharpness_of(image_HW3) > blurred[0] > blurred[1] > blurred[2]


def test_size_and_place():
    assert face_px_of(template((56, 56)) + 10) == pytest.approx(56)
    assert outside_of(template((112, 112)) + 112, 112, 112) == 1 and outside_of(template((112, 112)), 112, 112) == 0


def face_at(scale=1.0, shift=(0, 0), score=0.95, points_52=None):
    points_52 = template((112, 112)) * scale + shift if points_52 is None else points_52
    (left, top), (right, bottom) = points_52.min(0), points_52.max(0)
    return Face(left, top, right - left, bottom - top, points_52, score)


GOOD = {"pose": (0, 0, 0), "sharpness": 100.0, "rivals": []}
DOUBTS = {
    None: {},
    "not sure": {"face": face_at(score=0.7)},
    "small": {"face": face_at(scale=0.1, shift=(100, 100))},
    "looks aside": {"pose": (70, 0, 0)},
    "looks up or down": {"pose": (0, -50, 0)},
    "cut by the border": {"face": face_at(shift=(250, 0))},
    "blurred": {"sharpness": 3.0},
    "another face": {"rivals": [face_at(shift=(90, 90))]},
}


@pytest.mark.parametrize("why", DOUBTS)
def test_why_a_face_is_doubtful(why):
    given = {"face": face_at(shift=(90, 90)), **GOOD, **DOUBTS[why]}
    pose = pose_of(FACE_53[:, :2] * (1, -1))._replace(
        **dict(zip(("yaw_deg", "pitch_deg"), given["pose"], strict=False))
    )
    said = doubts(given["face"], given["rivals"], pose, sharpness=given["sharpness"], height=300, width=300)
    assert said is None if why is None else why in said
