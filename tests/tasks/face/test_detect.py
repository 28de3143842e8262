"""Faces found in photographs: where they were drawn, and where OpenCV's own detector and the submission's find them."""

import pickle

import cv2
import numpy as np
import pytest

from tests.mask.test_landmarks import photograph
from zennas.data.images import CorruptImageError, resized
from zennas.mask.landmarks import five_points
from zennas.mask.synthetic import Scene, synthetic_face
from zennas.records import UserError
from zennas.submit.webface import face_detection
from zennas.tasks.face.align import align, off_template, similarity, template
from zennas.tasks.face.detect import SHIPPED, Detector, area_counts, counts
from zennas.tasks.face.look import MAX_MEDIAN_OFF

# Of a drawn face of 200 pixels; what the detector takes for a corner of the mouth is not quite the vertex that it is.
MOST_PX = 200 * 8 / 112


def test_what_opencv_and_a_submission_find():
    """The same network, decoded by other hands, at the same size."""
    image_HW3, _ = photograph(size=(240, 320), at=(90, 40), face_px=140)
    (face,) = Detector().faces(image_HW3)
    opencv = cv2.FaceDetectorYN.create(str(SHIPPED), "", (320, 240), 0.6)
    (row,) = opencv.detect(image_HW3[..., ::-1].copy())[1]
    box_N4, points_N52, score_N = face_detection.get_detector(str(SHIPPED)).detect(image_HW3[..., ::-1], threshold=0.6)
    assert [face.left, face.top, face.width, face.height] == pytest.approx(row[:4], abs=0.01)
    assert face.points_52 == pytest.approx(row[4:14].reshape(5, 2), abs=0.01)
    assert face.score == pytest.approx(row[14], abs=1e-4)
    assert [face.left, face.top, face.left + face.width, face.top + face.height] == pytest.approx(box_N4[0], abs=0.01)
    assert face.points_52 == pytest.approx(points_N52[0], abs=0.01) and face.score == pytest.approx(
        score_N[0], abs=1e-4
    )


@pytest.mark.parametrize("turn_deg", [0, 30, -40, 90, 180, 265])
def test_a_face_is_found_where_it_is_and_aligned(turn_deg):
    image_HW3, point_V2 = photograph(turn_deg=turn_deg)
    face = Detector().face(image_HW3)
    away_5 = np.linalg.norm(face.points_52 - five_points(point_V2), axis=1)
    assert away_5.max() < MOST_PX and face.score > 0.9
    crop_HW3 = align(image_HW3, face.points_52, smooth=True)
    again = Detector().face(crop_HW3)
    assert off_template(again.points_52, (112, 112)) < MAX_MEDIAN_OFF


@pytest.mark.parametrize(("size", "face_px"), [((900, 1200), 60), ((2400, 3200), 1900), ((130, 110), 100)])
def test_small_and_large_faces(size, face_px):
    drawn_HW3, point_V2 = photograph(size=(200, 200), at=(0, 0))
    top, left = (size[0] - face_px) // 2, (size[1] - face_px) // 2
    image_HW3 = np.full((*size, 3), (120, 134, 128), np.uint8)
    image_HW3[top : top + face_px, left : left + face_px] = resized(drawn_HW3, (face_px, face_px))
    face = Detector().face(image_HW3)
    true_52 = five_points(point_V2) * face_px / 200 + (left, top)
    assert np.linalg.norm(face.points_52 - true_52, axis=1).max() < MOST_PX * face_px / 200


def test_reading_again_brings_landmarks_nearer():
    """A face that is small in the photograph as it is looked at first, and turned."""
    detector, away = Detector(), []
    for turn_deg in (-30, -15, 15, 30):
        image_HW3, point_V2 = photograph(size=(960, 1280), at=(500, 300), turn_deg=turn_deg)
        first, true_52 = detector.faces(image_HW3)[0], five_points(point_V2)
        away.append([np.linalg.norm(f.points_52 - true_52, axis=1).mean() for f in (first, detector.face(image_HW3))])
    first, again = np.mean(away, axis=0)
    assert again < first


def test_the_larger_and_more_central_face_counts():
    image_HW3, point_V2 = photograph(at=(200, 100), face_px=220)
    small_HW3, _ = synthetic_face(Scene(), image_px=130)
    image_HW3[20:150, 500:630] = small_HW3
    faces = Detector().faces(image_HW3)
    assert len(faces) == 2
    assert np.abs(faces[0].points_52.mean(0) - five_points(point_V2).mean(0)).max() < MOST_PX
    doubtful = faces[0]._replace(width=1.5 * faces[0].width, height=1.5 * faces[0].height, score=0.62)
    assert counts(doubtful, *image_HW3.shape[:2]) < counts(faces[0], *image_HW3.shape[:2]) / 2
    assert area_counts(100, (0, 0), 10, 10) < area_counts(1, (5, 5), 10, 10)


def test_every_face_is_looked_for_where_it_is_asked():
    """A small face beside a large one shows only in the larger picture."""
    image_HW3, _ = photograph(size=(960, 1280), at=(100, 100), face_px=500)
    small_HW3, _ = synthetic_face(Scene(), image_px=56)
    image_HW3[800:856, 1100:1156] = small_HW3
    assert [len(Detector().faces(image_HW3, every=every)) for every in (False, True)] == [1, 2]


def test_where_there_is_no_face_none_is_found():
    rng = np.random.default_rng(0)
    noise_HW3 = rng.integers(256, size=(112, 112, 3), dtype=np.uint8)
    for image_HW3 in (noise_HW3, np.full((300, 200, 3), 128, np.uint8), np.zeros((1, 900, 3), np.uint8)):
        assert Detector().face(image_HW3) is None


def test_a_detector_travels_and_another_file_is_taken(tmp_path):
    image_HW3, _ = photograph()
    detector = Detector()
    points_52 = detector.face(image_HW3).points_52
    assert np.array_equal(pickle.loads(pickle.dumps(detector)).face(image_HW3).points_52, points_52)
    copied = tmp_path / "mine.onnx"
    copied.write_bytes(SHIPPED.read_bytes())
    assert np.array_equal(Detector(copied).face(image_HW3).points_52, points_52)
    assert Detector(copied).fingerprint == detector.fingerprint
    for path, text in ((tmp_path / "none.onnx", "none.onnx"), (__file__, "test_detect.py")):
        with pytest.raises(UserError, match=text):
            Detector(path).faces(image_HW3)


def test_a_smooth_alignment_averages_what_it_shrinks():
    """Stripes of one pixel, at a tenth of their size: their mean; without `smooth`, stripes again. Both put a dot in
    the same place.
    """
    stripes_HW3 = np.zeros((1120, 1120, 3), np.uint8)
    stripes_HW3[:, ::2] = 200
    points_52 = template((1120, 1120))
    smooth_HW3, plain_HW3 = (align(stripes_HW3, points_52, smooth=smooth) for smooth in (True, False))
    assert np.abs(smooth_HW3[5:-5, 5:-5].astype(int) - 100).max() <= 2
    assert np.abs(plain_HW3[5:-5, 5:-5].astype(int) - 100).max() > 50
    blob_HW3 = np.zeros((1120, 1120, 3), np.uint8)
    cv2.circle(blob_HW3, (400, 700), 60, (255, 255, 255), -1)
    places = []
    for smooth in (True, False):
        weight_HW = align(blob_HW3, points_52 + np.array([13.0, -7.0]), smooth=smooth)[..., 0].astype(float)
        y, x = np.mgrid[:112, :112]
        places.append((float((x * weight_HW).sum() / weight_HW.sum()), float((y * weight_HW).sum() / weight_HW.sum())))
    assert places[0] == pytest.approx(places[1], abs=0.5)  # linear sampling of pixels against their means


def test_off_template_is_how_far_aligning_moves():
    """By the map itself, point by point; a face whose landmarks are not the template's is off by what it is moved."""
    rng = np.random.default_rng(1)
    points_52 = template((96, 112)) + rng.normal(0, 6, (5, 2))
    map_23 = similarity(points_52, template((96, 112)))
    back_52 = np.array([np.linalg.solve(map_23[:, :2], point_2 - map_23[:, 2]) for point_2 in template((96, 112))])
    expected = np.sqrt((((back_52 - template((96, 112))) / (112, 96)) ** 2).sum(1).mean())
    assert off_template(points_52, (96, 112)) == pytest.approx(expected)
    assert off_template(np.zeros((5, 2)), (112, 112)) == np.inf
    with pytest.raises(CorruptImageError, match="place no face"):
        similarity(np.full((5, 2), np.nan), template((112, 112)))
