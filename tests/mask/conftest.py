"""Faces that are nobody's, fitted once; and folders of them."""

from typing import NamedTuple

import cv2
import numpy as np
import pytest

from zennas.mask.landmarks import ALIGNED, Landmarker
from zennas.mask.synthetic import Scene, synthetic_face


class Fitted(NamedTuple):
    """A synthetic face: its image, its own vertices, and those that the network found."""

    image_HW3: np.ndarray
    true_V3: np.ndarray
    point_V3: np.ndarray
    score: float


@pytest.fixture(scope="session")
def fitted():
    """fitted(**of a Scene) -> Fitted, each made once."""
    landmarker, made = Landmarker(ALIGNED), {}

    def face(*, image_px=112, **scene):
        key = (image_px, *sorted(scene.items()))
        if key not in made:
            image_HW3, true_V3 = synthetic_face(Scene(**scene), image_px=image_px)
            found = landmarker.find(image_HW3)
            made[key] = Fitted(image_HW3, true_V3, found.point_V3, found.score)
        return made[key]

    return face


def as_png(image_HW3):
    """The bytes of an RGB image."""
    return cv2.imencode(".png", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR))[1].tobytes()


@pytest.fixture(scope="session")
def people(tmp_path_factory, fitted):
    """A folder of four people with six faces each, at several poses."""
    folder = tmp_path_factory.mktemp("people")
    for person in range(4):
        (folder / f"p{person}").mkdir()
        for number in range(6):
            face = fitted(yaw_deg=6.0 * number - 15, skin=0.7 + 0.1 * person, seed=person)
            (folder / f"p{person}" / f"p{person}_{number:04d}.png").write_bytes(as_png(face.image_HW3))
    return folder
