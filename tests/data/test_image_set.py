"""Images by number: many of them, decoded ahead of whoever works on them."""

import time

import cv2
import numpy as np
import pytest

from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError, UnreadableImageError

PX = 5


def images(num, *, corrupt=(), gone=(), asked=None):
    """An ImageSet of which image k is of the one value k."""

    def read(image):
        if asked is not None:
            asked.append(image)
        if image in gone:
            raise UnreadableImageError("cannot be read")
        return b"none" if image in corrupt else cv2.imencode(".png", np.full((PX, PX, 3), image, np.uint8))[1].tobytes()

    return ImageSet(num, read, lambda image: f"image {image}", "print")


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_batches_come_in_order_with_errors_in_their_places(batch):
    wanted = [6, 0, 3, 3, 1]
    batches = list(images(7, corrupt={0}, gone={1}).batches(np.array(wanted), (PX, PX + 1), batch))
    assert [len(numbers) for numbers, _ in batches[:-1]] == [batch] * (len(batches) - 1)
    numbers = [int(number) for part, _ in batches for number in part]
    pixels = [image for _, part in batches for image in part]
    assert numbers == wanted
    assert [type(image) for image in pixels if isinstance(image, Exception)] == [
        CorruptImageError,
        UnreadableImageError,
    ]
    for number, image in zip(numbers, pixels, strict=True):
        if not isinstance(image, Exception):
            assert image.shape == (PX, PX + 1, 3) and (image == number).all()


def test_the_next_batch_is_read_meanwhile_and_no_more():
    asked = []
    batches = images(12, asked=asked).batches(range(12), PX, 4)
    next(batches)
    while len(asked) < 8:
        time.sleep(0.01)
    time.sleep(0.1)
    assert sorted(asked) == list(range(8))
    batches.close()


def test_no_images_are_no_batches():
    assert list(images(3).batches([], PX, 4)) == []
