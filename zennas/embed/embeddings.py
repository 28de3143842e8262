"""The embeddings of many images, asked for once: on disk, resumed where they were left."""

# B faces, N images, D embedding size

import hashlib
import json
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from zennas.data.image_set import ImageSet
from zennas.data.images import UnreadableImageError
from zennas.data.sources import AnySource
from zennas.embed.model import Model
from zennas.records import Record, UserError, first_line
from zennas.run_folder import cache_folder, lock_folder, write_atomically

SAVE_EVERY_S = 5.0  # what a kill may cost of a precomputation
MAX_LISTED = 100  # corrupt images that a sidecar names; all are counted
BATCH = {"cpu": 64, "cuda": 512}  # images a run of a network, by kind of device


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
    unreadable: list[int] = []  # images whose bytes could not be had: rows of NaN too, asked for again the next time


def sidecar_of(path: pathlib.Path | str) -> pathlib.Path:
    """The path of the Sidecar of precomputed embeddings."""
    path = pathlib.Path(path)
    return path.with_name(f"{path.name}.json")


def kept_path(key: str, suffix: str) -> pathlib.Path:
    """A file in $ZENNAS_CACHE/embeddings (or ~/.cache/zennas/embeddings) that belongs to `key`; its folder is made."""
    folder = cache_folder("embeddings")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror}; set ZENNAS_CACHE to a folder with room"
        ) from None
    return folder / (hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:24] + suffix)


def of_source(
    model: Model,
    source: AnySource,
    *,
    dtype: np.dtype | type = np.float16,
    progress: Callable[[int, int], None] | None = None,
) -> pathlib.Path:
    """The path (.npy) of a Model's embeddings of all images of a Source, mirrored ones added: asked for once, and kept.

    Rows that are not finite stay so. Arguments as of `precompute`.
    """
    key = f"{model.fingerprint} {source.images.fingerprint} {source.num_images} True"
    dtype = np.dtype(dtype)
    path = kept_path(key if dtype == np.float32 else f"{key} {dtype.name}", ".npy")
    precompute(
        model,
        source.images,
        path,
        flip=True,
        dtype=dtype,
        batch=BATCH[model.device.type],
        strict=False,
        progress=progress,
    )
    return path


def precompute(
    model: Model,
    images: ImageSet,
    path: pathlib.Path | str,
    *,
    flip: bool = False,
    dtype: np.dtype | type = np.float16,
    batch: int = 64,
    strict: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """embedding_ND, memory-mapped: a Model's embeddings of all images of an ImageSet as they are, without augmentation.

    flip: the mirrored image's embedding is added, as insightface's evaluation has it (the sum is not made unit length).
    Kept at `path` (.npy) with a Sidecar; there already, it is only opened; interrupted, even by kill -9, it goes on
    where it was. progress(done, total). A corrupt image has a row of NaN; Sidecar.load(sidecar_of(path)) counts and
    names them. Images whose bytes cannot be had, which may pass, are asked for again by every later call.
    strict: UserError where an embedding is not finite in `dtype`; without, it stays in its row. UserError where the
    file is of another model or other images or somebody else's, and where another process works at it.
    """
    path, dtype = pathlib.Path(path), np.dtype(dtype)
    if _is_whole(path, _sidecar(model, images, flip, dtype)):  # read by any number of processes
        return np.lib.format.open_memmap(path, mode="r")
    lock = lock_folder(path, otherwise="wait for it, then give the same command again")
    try:
        sidecar, embedding_ND = _begin(path, _sidecar(model, images, flip, dtype))
        before = len(sidecar.unreadable)
        todo_M = np.append(np.array(sidecar.unreadable, np.int64), np.arange(sidecar.done, images.num_images))
        corrupt, num_corrupt, unreadable = list(sidecar.corrupt), sidecar.num_corrupt, []
        stop, saved_at = 0, time.monotonic()
        for image_B, pixels_B, rows_BD in in_batches(model, images, todo_M, flip=flip, dtype=dtype, batch=batch):
            stop += len(image_B)
            if strict:
                _check_finite(rows_BD, pixels_B, model, images, image_B)
            embedding_ND[image_B] = rows_BD
            failed = [
                (image, error)
                for image, error in zip(image_B.tolist(), pixels_B, strict=True)
                if isinstance(error, Exception)
            ]
            unreadable += [image for image, error in failed if isinstance(error, UnreadableImageError)]
            bad = [
                f"{images.where(image)}: {first_line(error)}"
                for image, error in failed
                if not isinstance(error, UnreadableImageError)
            ]
            corrupt, num_corrupt = (corrupt + bad)[:MAX_LISTED], num_corrupt + len(bad)
            if stop == len(todo_M) or time.monotonic() - saved_at >= SAVE_EVERY_S:
                embedding_ND.flush()  # the rows before their count
                counts = {
                    "done": max(sidecar.done, int(image_B[-1]) + 1 if stop > before else 0),
                    "num_corrupt": num_corrupt,
                    "corrupt": corrupt,
                    "unreadable": unreadable + sidecar.unreadable[stop:],
                }
                write_atomically(sidecar_of(path), _json(sidecar.model_copy(update=counts)))
                saved_at = time.monotonic()
            if progress:
                progress(images.num_images - len(todo_M) + stop, images.num_images)
    finally:
        lock.release()
    return np.lib.format.open_memmap(path, mode="r")


def in_batches(
    model: Model,
    images: ImageSet,
    image_M: Sequence[int],
    *,
    flip: bool = False,
    dtype: np.dtype | type = np.float32,
    batch: int = 64,
) -> Iterator[tuple[Sequence[int], list[Any], np.ndarray]]:
    """(numbers of images, each one's pixels or the error that says why there are none, their embedding_BD) of every
    batch, in order; rows of images that cannot be had are NaN. Nothing is kept; flip: as `precompute`.
    """
    for image_B, pixels_B in images.batches(image_M, model.input_hw, batch):
        yield image_B, pixels_B, _rows(model, pixels_B, flip, np.dtype(dtype))


def _rows(model, pixels, flip, dtype):
    """The rows of some images, those of corrupt ones NaN."""
    rows_BD = np.full((len(pixels), model.embedding_size), np.nan, dtype)
    good = [at for at, image in enumerate(pixels) if not isinstance(image, Exception)]
    if good:
        image_BHW3 = torch.from_numpy(np.stack([pixels[at] for at in good]))
        embedding_BD = model(image_BHW3).embedding_BD.float()
        if flip:
            embedding_BD = embedding_BD + model(image_BHW3.flip(2)).embedding_BD.float()
        with np.errstate(over="ignore"):
            rows_BD[good] = embedding_BD.cpu().numpy().astype(dtype)
    return rows_BD


def _check_finite(rows_BD, pixels, model, images, image_B):
    for row_D, pixels_or_error, image in zip(rows_BD, pixels, image_B, strict=True):
        if not isinstance(pixels_or_error, Exception) and not np.isfinite(row_D).all():
            raise UserError(
                f"{model.where}: its embedding of {images.where(int(image))} is not finite in {rows_BD.dtype.name}"
            )


def _sidecar(model, images, flip, dtype):
    """The Sidecar of embeddings of which nothing is done yet."""
    return Sidecar(
        model=model.fingerprint,
        images=images.fingerprint,
        num_images=images.num_images,
        embedding_size=model.embedding_size,
        flip=flip,
        dtype=dtype.name,
    )


def _is_whole(path, wanted):
    """Whether all embeddings are there, and none is to be asked for again."""
    if not (path.is_file() and sidecar_of(path).is_file()):
        return False
    kept = _load_sidecar(path)
    if kept.done != wanted.num_images or kept.unreadable or _differing(kept, wanted):
        return False
    try:
        embedding_ND = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError):
        return False  # `_begin` says what is wrong with it
    return embedding_ND.shape == (wanted.num_images, wanted.embedding_size) and embedding_ND.dtype == wanted.dtype


def _json(sidecar):
    """Not pydantic's own, which refuses a name that is no text."""
    return json.dumps(sidecar.model_dump(mode="json"), indent=1)


def _load_sidecar(path):
    try:
        return Sidecar.load(sidecar_of(path))
    except UserError as error:
        raise UserError(f"{error}; of an older version? remove it and {path.name} to begin anew") from None


def _differing(kept, wanted):
    names = ("model", "images", "num_images", "embedding_size", "flip", "dtype")
    return next((name for name in names if getattr(kept, name) != getattr(wanted, name)), None)


def _begin(path, wanted):
    """(Sidecar, writable memmap) of the embeddings at `path`, begun or as they were left."""
    shape = wanted.num_images, wanted.embedding_size
    if not sidecar_of(path).exists():
        if path.exists():
            raise UserError(f"{path}: is there and holds no embeddings of zennas; choose another path")
        write_atomically(sidecar_of(path), _json(wanted))
    kept, dtype = _load_sidecar(path), np.dtype(wanted.dtype)
    if what := _differing(kept, wanted):
        raise UserError(
            f"{path}: holds other embeddings ({what}: {getattr(kept, what)}, now {getattr(wanted, what)}); "
            "choose another path, or remove it and its .json"
        )
    try:
        if kept.done == 0:
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
    return kept, embedding_ND
