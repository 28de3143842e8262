"""Images that are tiny, or of another outline than a network's, are told from a sample."""

import cv2
import numpy as np

from tests.data.people_sets import png
from zennas.data.image_set import ImageSet
from zennas.data.outlines import odd_outlines


def images_of(*sides):
    encoded = [png(number, height=height, width=width) for number, (height, width) in enumerate(sides)]
    return ImageSet(len(encoded), encoded.__getitem__, "{}.png".format, "")


def test_what_fits_is_not_told():
    assert odd_outlines(images_of((128, 64), (100, 60), (140, 52)), (256, 128)) == []
    assert odd_outlines(images_of((112, 112), (112, 96)), (112, 112)) == []
    assert odd_outlines(images_of(), (112, 112)) == []
    assert odd_outlines(images_of((127, 64), (120, 64)), (384, 128)) == []  # whole people, as MGN takes them


def test_what_is_cut_out_is_not_stretched():
    assert odd_outlines(images_of((60, 160)), (112, 112))
    assert odd_outlines(images_of((60, 160))._replace(cut=lambda image, pixels, size: pixels), (112, 112)) == []


def test_tiny_images_are_named():
    (told,) = odd_outlines(images_of((1, 1), (40, 40), (30, 7), (30, 30), (30, 30)), (112, 112))
    assert told.startswith("2 of 5 images that were looked at have a side of less than 8 pixels and show nobody: 0.png")
    assert told.endswith("0.png (1 x 1), 2.png (30 x 7)")


def test_stretched_images_are_told_by_the_middle_one():
    (told,) = odd_outlines(images_of((128, 64), (128, 64), (64, 64)), (112, 112))
    assert told.startswith(
        "the images are about 128 x 64 and the network takes 112 x 112: they are stretched 2.0 times"
    )
    (told,) = odd_outlines(images_of((112, 112)), (256, 128))
    assert "about 112 x 112 and the network takes 256 x 128: they are stretched 2.0 times" in told


def test_what_is_no_image_is_passed_over():
    encoded = [b"none", cv2.imencode(".png", np.zeros((50, 50, 3), np.uint8))[1].tobytes()]
    assert odd_outlines(ImageSet(2, encoded.__getitem__, str, ""), (50, 50)) == []
