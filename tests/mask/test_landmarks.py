"""Landmarks against the vertices of faces that were drawn with them."""

import pickle

import cv2
import numpy as np
import pytest

from zennas.mask import mesh
from zennas.mask.landmarks import Landmarker, Region, anchors
from zennas.mask.synthetic import Scene, synthetic_face
from zennas.tasks.face.crops import ALIGNED, AUTO, DETECT

# Of the network on a drawing that no camera took: real faces have shading that the drawing lacks. At 112 px.
MOST_PX, MOST_DEG = 3.0, 5.0
POSES = [(0, 0, 0), (15, 0, 0), (30, 0, 0), (-30, 5, 0), (0, 15, 0), (0, -15, 8), (-12, 6, -6)]


@pytest.mark.parametrize(("yaw", "pitch", "roll"), POSES)
def test_vertices_and_pose_of_a_known_face(fitted, yaw, pitch, roll):
    face = fitted(yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll, image_px=112)
    assert face.score > 0.9
    away_V = np.linalg.norm((face.point_V3 - face.true_V3)[:, :2], axis=1)
    assert np.sqrt((away_V**2).mean()) < MOST_PX
    pose = mesh.fit_pose(face.point_V3)
    assert (pose.yaw_deg, pose.pitch_deg, pose.roll_deg) == pytest.approx((yaw, pitch, roll), abs=MOST_DEG)


@pytest.mark.parametrize("image_px", [56, 224])
def test_aligned_faces_of_other_sizes(fitted, image_px):
    face = fitted(yaw_deg=10, image_px=image_px)
    assert face.score > 0.9
    away_V = np.linalg.norm((face.point_V3 - face.true_V3)[:, :2], axis=1)
    assert np.sqrt((away_V**2).mean()) < MOST_PX * image_px / 112


def photograph(*, turn_deg=0.0, size=(420, 640), at=(180, 120), face_px=200):
    """(a photograph with a face in it, the vertices of that face)."""
    image_HW3, point_V3 = synthetic_face(Scene(yaw_deg=10), image_px=face_px)
    whole_HW3 = np.full((*size, 3), (120, 134, 128), np.uint8)
    whole_HW3[at[1] : at[1] + face_px, at[0] : at[0] + face_px] = image_HW3
    centre = (at[0] + face_px / 2, at[1] + face_px / 2)
    turned_23 = cv2.getRotationMatrix2D(centre, -turn_deg, 1)
    point_V2 = (point_V3[:, :2] + at) @ turned_23[:, :2].T + turned_23[:, 2]
    return cv2.warpAffine(whole_HW3, turned_23, size[::-1], borderMode=cv2.BORDER_REPLICATE), point_V2


@pytest.mark.parametrize("turn_deg", [0, 25, -40])
def test_a_face_in_a_photograph_is_found_where_it_is(turn_deg):
    image_HW3, point_V2 = photograph(turn_deg=turn_deg)
    found = Landmarker(AUTO).find(image_HW3)
    assert found.score > 0.9, found.why
    away_V = np.linalg.norm(found.point_V3[:, :2] - point_V2, axis=1)
    assert np.sqrt((away_V**2).mean()) < MOST_PX * 200 / 112
    # Beside the ten degrees that the face looks aside, the photograph is turned.
    assert mesh.fit_pose(found.point_V3).roll_deg == pytest.approx(turn_deg, abs=MOST_DEG)


def test_a_small_square_photograph_is_no_aligned_crop():
    """As LFW's own 250 x 250: a square small enough for a crop, in which the face stands elsewhere and is smaller."""
    image_HW3, point_V2 = photograph(size=(250, 250), at=(20, 90), face_px=120)
    found = Landmarker(AUTO).find(image_HW3)
    assert found.score > 0.9, found.why
    assert np.sqrt(((found.point_V3[:, :2] - point_V2) ** 2).sum(1).mean()) < MOST_PX * 120 / 112


def test_the_larger_of_two_faces_counts():
    image_HW3, point_V2 = photograph(at=(30, 100), face_px=260)
    small_HW3, _ = synthetic_face(Scene(), image_px=110)
    image_HW3[20:130, 480:590] = small_HW3
    found = Landmarker(DETECT).find(image_HW3)
    assert np.abs(found.point_V3[:, :2].mean(0) - point_V2.mean(0)).max() < 12


@pytest.mark.parametrize("look", [ALIGNED, DETECT])
def test_where_there_is_no_face_none_is_found(look):
    noise_HW3 = np.random.default_rng(0).integers(256, size=(112, 112, 3), dtype=np.uint8)
    for image_HW3 in (noise_HW3, np.full((112, 112, 3), 128, np.uint8), np.zeros((1, 1, 3), np.uint8)):
        found = Landmarker(look).find(image_HW3)
        assert found.point_V3 is None and found.why


def test_a_landmarker_travels():
    """Its open networks do not; it opens them anew and finds the same."""
    image_HW3, _ = synthetic_face()
    landmarker = Landmarker(ALIGNED)
    expected = landmarker.find(image_HW3).point_V3
    assert np.array_equal(pickle.loads(pickle.dumps(landmarker)).find(image_HW3).point_V3, expected)


def test_a_turned_region_gives_turned_vertices():
    """The same face upright and upside down, looked at through regions that are turned with it."""
    image_HW3, _ = synthetic_face(image_px=200)
    upright = Region(100, 114, 259)
    expected, _ = Landmarker().fit(image_HW3, upright)
    over = Region(199 - upright.x, 199 - upright.y, upright.side, np.pi)
    found, _ = Landmarker().fit(np.ascontiguousarray(image_HW3[::-1, ::-1]), over)
    assert np.abs((199 - found[:, :2]) - expected[:, :2]).max() < 0.5  # pixels of 200: the resampling differs


def test_anchors_cover_the_square():
    """BlazeFace's 896: two at every eighth pixel, six at every sixteenth."""
    assert anchors().shape == (896, 2)
    assert anchors()[:3].tolist() == [[4, 4], [4, 4], [12, 4]] and anchors()[512].tolist() == [8, 8]
