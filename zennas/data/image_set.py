"""ImageSet: images by number, wherever they come from; what a source, a list and a set of pairs have in common."""

# N images, M of them, H height, W width

import concurrent.futures
import os
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zennas.data.images import CorruptImageError, UnreadableImageError, data_uri, decode, resized
from zennas.data.index import changes
from zennas.provenance import num_cores
from zennas.space.shape import height_and_width

MAX_THREADS = 8  # that decode; cv2 does it outside Python's lock


class ImageSet(NamedTuple):
    """Images 0..num_images-1. fingerprint: of what they are; another one where any of them changed."""

    num_images: int
    read: Callable  # image -> its encoded bytes; CorruptImageError
    where: Callable  # image -> where it lies, for people
    fingerprint: str
    # (image_HW3, image, (height, width)) -> what of it is looked at, at that size; None: the whole of it, resized
    cut: Callable | None = None

    def pixels(self, image: int, size: int | tuple[int, int]) -> np.ndarray:
        """The RGB image_HW3 at `size`, an integer or (height, width).

        CorruptImageError where it cannot be had.
        """
        height_width = height_and_width(size)
        image_HW3 = decode(self.read(image))
        if self.cut is None:
            return resized(image_HW3, height_width)
        return self.cut(image_HW3, image, height_width)

    def thumbnail(self, image: int, size: int | tuple[int, int]) -> str | None:
        """The image at `size` as a data URI for a page; None where it cannot be had."""
        try:
            return data_uri(self.pixels(image, size))
        except CorruptImageError:
            return None

    def batches(
        self, image_M: Sequence[int], size: int | tuple[int, int], batch: int
    ) -> Iterator[tuple[Sequence[int], list[np.ndarray | CorruptImageError]]]:
        """(numbers of images, each one's `pixels` or the error that says why there are none) of every batch, in order.

        The next batch is decoded by threads while the caller is busy with this one.
        """
        with concurrent.futures.ThreadPoolExecutor(min(MAX_THREADS, num_cores())) as pool:

            def begun(start):
                numbers = image_M[start : start + batch]
                return numbers, [pool.submit(self._pixels_or_error, int(image), size) for image in numbers]

            ahead = begun(0)
            for start in range(batch, len(image_M) + batch, batch):
                (numbers, futures), ahead = ahead, begun(start)
                yield numbers, [future.result() for future in futures]

    def _pixels_or_error(self, image, size):
        try:
            return self.pixels(image, size)
        except CorruptImageError as error:
            return error


def spread_over(num_images: int, num: int) -> list[int]:
    """The numbers of `num` images, or of all where there are fewer, spread over all of them: the same ones each time.

    >>> spread_over(9, 3), spread_over(2, 3), spread_over(0, 3)
    ([0, 4, 8], [0, 1], [])
    """
    return np.unique(np.linspace(0, num_images - 1, num).astype(int)).tolist() if num_images else []


def read_file(path: pathlib.Path) -> bytes:
    """The bytes of a file; UnreadableImageError where they cannot be had."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImageError(f"cannot be read: {error.strerror}") from None


def changed_at(path: pathlib.Path | str) -> str:
    """What tells a file from what it was before: size and times of change; nothing where it is missing."""
    try:
        return changes(os.stat(path))
    except (OSError, ValueError):  # a name with a zero byte in it is no file's
        return "missing"
