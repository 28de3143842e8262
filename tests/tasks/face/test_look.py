"""Whether data are aligned faces: crops of many kinds are, photographs are not, and what shows no face is neither."""

import cv2
import numpy as np
import pytest

from tests.mask.test_landmarks import photograph
from zennas.data.image_set import ImageSet
from zennas.mask.synthetic import Scene, synthetic_face
from zennas.tasks.face.look import NUM_LOOKED_AT, look_at

NUM = 8


def images_of(*pictures):
    encoded = [picture if isinstance(picture, bytes) else as_png(picture) for picture in pictures]
    return ImageSet(len(encoded), encoded.__getitem__, str, "of a test")


def as_png(image_HW3):
    return cv2.imencode(".png", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture(scope="module")
def crops():
    """Aligned faces that look to several sides."""
    return [synthetic_face(Scene(yaw_deg=6 * number - 20))[0] for number in range(NUM)]


def squeezed(image_HW3, px):
    """Enlarged again from so many pixels."""
    return cv2.resize(cv2.resize(image_HW3, (px, px), interpolation=cv2.INTER_AREA), (112, 112))


KINDS_OF_CROP = {
    "as they are": lambda image_HW3: image_HW3,
    "larger": lambda image_HW3: cv2.resize(image_HW3, (224, 224)),
    "smaller": lambda image_HW3: cv2.resize(image_HW3, (64, 64), interpolation=cv2.INTER_AREA),
    "narrow": lambda image_HW3: image_HW3[:, 8:104],
    "of 20 pixels": lambda image_HW3: squeezed(image_HW3, 20),
    "of 8 pixels": lambda image_HW3: squeezed(image_HW3, 8),
    "dark": lambda image_HW3: image_HW3 // 6,
}


@pytest.mark.parametrize("kind", KINDS_OF_CROP)
def test_aligned_faces_are_no_photographs(crops, kind):
    look = look_at(images_of(*map(KINDS_OF_CROP[kind], crops)))
    assert not look.has_photographs, look


def loosely_cut(number):
    """A square with a margin round a face that stands about in its middle."""
    image_HW3, _ = photograph(size=(160, 160), at=(20 + 2 * number, 24), face_px=112, turn_deg=number - 4)
    return image_HW3


KINDS_OF_PHOTOGRAPH = {
    "landscapes": lambda number: photograph(size=(240, 320), at=(10 * number, 20), face_px=120)[0],
    "squares as LFW's": lambda number: photograph(size=(250, 250), at=(60 + number, 70), face_px=112)[0],
    "with a margin": loosely_cut,
}


@pytest.mark.parametrize("kind", KINDS_OF_PHOTOGRAPH)
def test_photographs_are_noticed(kind):
    look = look_at(images_of(*map(KINDS_OF_PHOTOGRAPH[kind], range(NUM))))
    assert look.has_photographs and look.num_faces == NUM and "away from where aligned faces stand" in look.says


def test_what_shows_no_face_is_refused_only_where_it_is_large():
    rng = np.random.default_rng(0)
    small = [rng.integers(256, size=(112, 112, 3), dtype=np.uint8) for _ in range(NUM)]
    look = look_at(images_of(*small, b"no image"))
    assert not look.has_photographs and look.num_undecodable == 1 and "none of the 9 images" in look.says
    large = np.full((300, 400, 3), 128, np.uint8)
    assert look_at(images_of(large, large)).has_photographs


def test_the_sample_is_spread_and_the_same(crops):
    asked = []

    def read(image):
        asked.append(image)
        return b""

    images = ImageSet(10_000, read, str, "")
    look = look_at(images), look_at(images)
    assert look[0].num_images == NUM_LOOKED_AT == len(asked) / 2 and asked[:NUM_LOOKED_AT] == asked[NUM_LOOKED_AT:]
    assert asked[0] == 0 and asked[NUM_LOOKED_AT - 1] == 9_999 and not look[0].has_photographs
    assert look_at(ImageSet(0, read, str, "")).num_images == 0
