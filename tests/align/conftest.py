"""Photographs of faces that are nobody's: of every kind that cameras and programs write."""

import functools
import io

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.mask.test_landmarks import photograph
from zennas.align.__main__ import main
from zennas.mask.landmarks import five_points

SIZE = (240, 320)


def encoded(image_HW3, format="JPEG", **settings):
    """The bytes of an RGB image, by another library than the one that reads them."""
    out = io.BytesIO()
    Image.fromarray(image_HW3).save(out, format=format, **settings)
    return out.getvalue()


def lying(image_HW3):
    """A JPEG whose pixels lie on their side, and EXIF says so."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to look at it
    return encoded(np.ascontiguousarray(np.rot90(image_HW3)), quality=95, exif=exif)


def with_alpha(image_HW3):
    return encoded(np.dstack([image_HW3, np.full(image_HW3.shape[:2], 200, np.uint8)]), "PNG")


def deep(image_HW3):
    return cv2.imencode(".png", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR).astype(np.uint16) * 257)[1].tobytes()


def of_mode(mode, format="JPEG"):
    def written(image_HW3):
        out = io.BytesIO()
        Image.fromarray(image_HW3).convert(mode).save(out, format=format)
        return out.getvalue()

    return written


# name of the file -> image_HW3 to bytes
KINDS = {
    "plain.jpg": lambda image_HW3: encoded(image_HW3, quality=95),
    "lying.JPG": lying,
    "grey.png": of_mode("L", "PNG"),
    "cmyk.jpeg": of_mode("CMYK"),
    "deep.png": deep,
    "alpha.png": with_alpha,
    "palette.gif": of_mode("P", "GIF"),
    "web.webp": lambda image_HW3: encoded(image_HW3, "WEBP", lossless=True),
    "bits.bmp": lambda image_HW3: encoded(image_HW3, "BMP"),
}


@pytest.fixture(scope="session")
def drawn():
    """(a photograph, its five landmarks)."""
    image_HW3, point_V2 = photograph(size=SIZE, at=(100, 50), face_px=140)
    return image_HW3, five_points(point_V2)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory, drawn):
    """A folder of two people: Ada's photographs are of all KINDS; of Zoe's one shows no face and one is damaged."""
    folder = tmp_path_factory.mktemp("photographs")
    for person in ("Ada", "Zoe"):
        (folder / person).mkdir()
    for name, written in KINDS.items():
        (folder / "Ada" / name).write_bytes(written(drawn[0]))
    (folder / "Zoe" / "good.png").write_bytes(encoded(drawn[0][:, ::-1], "PNG"))
    (folder / "Zoe" / "empty.png").write_bytes(encoded(np.full((*SIZE, 3), 90, np.uint8), "PNG"))
    (folder / "Zoe" / "torn.jpg").write_bytes(KINDS["plain.jpg"](drawn[0])[:900])
    return folder


@pytest.fixture
def command(ended):
    """command(*words) -> (exit code, standard output, standard error)."""
    return functools.partial(ended, main)
