"""A number of eight bytes for the content of every image, so that what was made of images knows when they changed.

A name, a size and a time tell too little: a picture is replaced under its name, cp -p and rsync keep the time, and of
uncompressed images all have one size. So their bytes are read, once, when the index is made: what training does in
every epoch. Of a large image four pieces are read, the end among them, where any change of a compressed image shows.
"""

# N images, M of them

import concurrent.futures
import hashlib
import os
from collections.abc import Callable

import numpy as np

WHOLE_BYTES = 64 * 1024  # of an image that is read whole
PIECE_BYTES = 16 * 1024  # of each piece of a larger one
MOST_IMAGES = 2**17  # looked into of tars and records: nobody replaces one image in place there
NUM_PIECES = 4096  # of a single large file
THREADS, AT_ONCE = 8, 1024  # a disk answers several at a time


def look_into(
    digest_of: Callable[[int], int],
    num_images: int,
    *,
    most: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """content_N (uint64): digest_of(image) of every image, or of `most` of them, evenly spread; 0 of the others.

    Where the bytes cannot be had, the fault stands for them.
    """
    content_N = np.zeros(num_images, np.uint64)
    num = num_images if most is None else min(num_images, most)
    which_M = np.linspace(0, num_images - 1, num).astype(np.int64)
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, num, AT_ONCE):
            block_B = which_M[start : start + AT_ONCE]
            content_N[block_B] = list(pool.map(lambda image: _digest_or_fault(digest_of, image), block_B.tolist()))
            if progress:
                progress(min(start + AT_ONCE, num), num)
    return content_N


def digest_of_span(read: Callable[[int, int], bytes], size: int) -> int:
    """The digest of `size` bytes of which read(length, offset) gives parts, as os.pread does of a file."""
    digest = hashlib.blake2b(f"{size}".encode(), digest_size=8)
    for offset, length in _pieces(size, WHOLE_BYTES, PIECE_BYTES, 4):
        digest.update(read(length, offset))
    return _number(digest)


def digest_of_bytes(encoded: bytes) -> int:
    """The same of an image that is at hand."""
    return digest_of_span(lambda length, offset: encoded[offset : offset + length], len(encoded))


def digest_of_file(path: os.PathLike | str) -> str:
    """16 hexadecimal digits for the content of a single file: whole, or pieces of it, evenly spread, up to 64 MB."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = hashlib.blake2b(f"{size}".encode(), digest_size=8)
        for offset, length in _pieces(size, NUM_PIECES * PIECE_BYTES, PIECE_BYTES, NUM_PIECES):
            digest.update(os.pread(file.fileno(), length, offset))
    return digest.hexdigest()


def _pieces(size, whole, piece, num):
    """[(offset, length)] of what is looked at of `size` bytes."""
    if size <= whole:
        return [(0, size)]
    return [(offset, piece) for offset in np.linspace(0, size - piece, num).astype(np.int64).tolist()]


def _digest_or_fault(digest_of, image):
    try:
        return digest_of(image)
    except (OSError, ValueError) as error:  # of the disk, or of a damaged record
        return _number(hashlib.blake2b(type(error).__name__.encode(), digest_size=8))


def _number(digest):
    return int.from_bytes(digest.digest())
