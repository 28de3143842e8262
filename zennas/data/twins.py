"""Twins: images of one set whose very bytes stand in a source, too, such as those that a training is verified on."""

# N images of the source, M of the set, D digests

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zennas.data.content import digest_of_bytes, look_into
from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError
from zennas.data.sources import AnySource

ROWS = 2**20  # digests of the source that are compared at a time


class Twins(NamedTuple):
    """Images that are the same, byte by byte."""

    image_T: np.ndarray  # int64, of the set, ascending
    index_T: np.ndarray  # int64, the first like it in the source
    num_compared: int  # images of the source; of tars and records beyond content.MOST_IMAGES not all


def twins(source: AnySource, images: ImageSet, *, progress: Callable[[int, int], None] | None = None) -> Twins:
    """The Twins of a set in a source. progress(done, total) counts images of the set.

    Only the set is read, and of the source what has the digest of one of its images: the others' digests stand in its
    index. So the same picture in other bytes (another format, compressed anew) is no twin: to find it, all images of
    the source would have to be decoded.
    """
    digest_M = look_into(lambda image: digest_of_bytes(images.read(image)), images.num_images, progress=progress)
    known_D = np.unique(digest_M)
    index_D = np.full(len(known_D), -1, np.int64)
    content_N, num_compared = source.content_N, 0
    for start in range(0, source.num_images, ROWS):
        content_B = content_N[start : start + ROWS]
        place_B = np.searchsorted(known_D, content_B).clip(max=len(known_D) - 1)
        # 0 is that of an image which was not looked at, and of no other.
        same_B = (known_D[place_B] == content_B) & (content_B != 0)
        found, first = np.unique(place_B[same_B], return_index=True)
        is_new = index_D[found] < 0
        index_D[found[is_new]] = start + np.flatnonzero(same_B)[first[is_new]]
        num_compared += int((content_B != 0).sum())
    index_M = index_D[np.searchsorted(known_D, digest_M)]
    # A digest is of parts of a large image, and that of one which cannot be read is its fault's.
    image_T = [image for image in np.flatnonzero(index_M >= 0) if _same_bytes(source, index_M[image], images, image)]
    return Twins(np.array(image_T, np.int64), index_M[image_T], num_compared)


def _same_bytes(source, index, images, image):
    try:
        return source.read(int(index)) == images.read(int(image))
    except CorruptImageError:
        return False
