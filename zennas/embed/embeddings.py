"""The embeddings of many images, asked for once: on disk, resumed where they were left."""

# B faces, N images, D embedding size

import concurrent.futures
import os
import pathlib
import time

import numpy as np
import torch

from zennas.faces.images import CorruptImageError
from zennas.provenance import num_cores
from zennas.records import Record, UserError, first_line
from zennas.run_folder import lock_folder, write_atomically

SAVE_EVERY_S = 5.0  # what a kill may cost of a precomputation
MAX_LISTED = 100  # corrupt images that a sidecar names; all are counted


class Sidecar(Record):
    """FILE.json beside a file of precomputed embeddings: whose they are and how far they are."""

    model: str  # fingerprints
    images: str
    num_images: int
    embedding_size: int
    flip: bool
    dtype: str
    done: int = 0  # the first rows
    num_corrupt: int = 0  # rows of NaN
    corrupt: list[str] = []  # the first of them, with the reason


def sidecar_of(path):
    """The path of the Sidecar of precomputed embeddings."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.name}.json")


def precompute(model, images, path, *, flip=False, dtype=np.float16, batch=64, strict=True, progress=None):
    """embedding_ND, memory-mapped: a Model's embeddings of all images of an ImageSet as they are, without augmentation.

    flip: the mirrored image's embedding is added, as insightface's evaluation has it (the sum is not made unit length).
    Kept at `path` (.npy) with a Sidecar; there already, it is only opened; interrupted, even by kill -9, it goes on where it
    was. progress(done, total). A corrupt image has a row of NaN; Sidecar.load(sidecar_of(path)) counts and names them.
    strict: UserError where an embedding is not finite in `dtype`; without, it stays in its row. UserError where the file is of
    another model or other images or somebody else's, and where another process works at it.
    """
    path = pathlib.Path(path)
    lock = lock_folder(path, otherwise="wait for it, then give the same command again")
    try:
        sidecar, embedding_ND = _begin(path, model, images, flip, np.dtype(dtype))
        with concurrent.futures.ThreadPoolExecutor(min(8, num_cores())) as pool:  # cv2 decodes outside Python's lock

            def pixels(start):
                stop = min(start + batch, images.num_images)
                return [pool.submit(_pixels, images, image, model.input_hw) for image in range(start, stop)]

            ahead, saved_at = pixels(sidecar.done), time.monotonic()
            corrupt, num_corrupt = list(sidecar.corrupt), sidecar.num_corrupt
            for start in range(sidecar.done, images.num_images, batch):
                now, ahead = [future.result() for future in ahead], pixels(start + batch)
                stop = start + len(now)
                rows_BD = _rows(model, now, flip, embedding_ND.dtype)
                if strict:
                    _check_finite(rows_BD, now, model, images, start)
                embedding_ND[start:stop] = rows_BD
                bad = [f"{images.where(start + at)}: {one}" for at, one in enumerate(now) if isinstance(one, str)]
                corrupt, num_corrupt = (corrupt + bad)[:MAX_LISTED], num_corrupt + len(bad)
                if stop == images.num_images or time.monotonic() - saved_at >= SAVE_EVERY_S:
                    embedding_ND.flush()  # the rows before their count
                    counts = {"done": stop, "num_corrupt": num_corrupt, "corrupt": corrupt}
                    write_atomically(sidecar_of(path), sidecar.model_copy(update=counts).model_dump_json(indent=1))
                    saved_at = time.monotonic()
                if progress:
                    progress(stop, images.num_images)
    finally:
        lock.release()
    return np.lib.format.open_memmap(path, mode="r")


def _pixels(images, image, input_hw):
    """The image, or in words why there is none."""
    try:
        return images.pixels(image, input_hw)
    except CorruptImageError as error:
        return first_line(error)


def _rows(model, pixels, flip, dtype):
    """The rows of some images, those of corrupt ones NaN."""
    rows_BD = np.full((len(pixels), model.embedding_size), np.nan, dtype)
    good = [at for at, image in enumerate(pixels) if not isinstance(image, str)]
    if good:
        image_BHW3 = torch.from_numpy(np.stack([pixels[at] for at in good]))
        embedding_BD = model(image_BHW3).embedding_BD.float()
        if flip:
            embedding_BD = embedding_BD + model(image_BHW3.flip(2)).embedding_BD.float()
        with np.errstate(over="ignore"):
            rows_BD[good] = embedding_BD.cpu().numpy().astype(dtype)
    return rows_BD


def _check_finite(rows_BD, pixels, model, images, start):
    for at, image in enumerate(pixels):
        if not isinstance(image, str) and not np.isfinite(rows_BD[at]).all():
            raise UserError(
                f"{model.where}: its embedding of {images.where(start + at)} is not finite in {rows_BD.dtype.name}"
            )


def _begin(path, model, images, flip, dtype):
    """(Sidecar, writable memmap) of the embeddings at `path`, begun or as they were left."""
    mine = Sidecar(
        model=model.fingerprint,
        images=images.fingerprint,
        num_images=images.num_images,
        embedding_size=model.embedding_size,
        flip=flip,
        dtype=dtype.name,
    )
    shape = mine.num_images, mine.embedding_size
    if not sidecar_of(path).exists():
        if path.exists():
            raise UserError(f"{path}: is there and holds no embeddings of zennas; choose another path")
        write_atomically(sidecar_of(path), mine.model_dump_json(indent=1))
    there = Sidecar.load(sidecar_of(path))
    for what in ("model", "images", "num_images", "embedding_size", "flip", "dtype"):
        if getattr(there, what) != getattr(mine, what):
            raise UserError(
                f"{path}: holds other embeddings ({what}: {getattr(there, what)}, now {getattr(mine, what)}); "
                "choose another path, or remove it and its .json"
            )
    try:
        if there.done == 0:
            embedding_ND = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
            with open(path, "r+b") as file:  # a full disk is said now, and is no crash while rows are written
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        else:
            np.lib.format.open_memmap(path, mode="r")  # refuses a file cut short, which "r+" would lengthen with zeros
            embedding_ND = np.lib.format.open_memmap(path, mode="r+")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be written, or is not what its .json says: {getattr(error, 'strerror', None) or error}"
        ) from None
    if embedding_ND.shape != shape or embedding_ND.dtype != dtype:
        raise UserError(f"{path}: is not what its .json says; remove both to begin anew")
    return there, embedding_ND
