"""Cells of unit vectors: an inverted file (FAISS), a search of which looks into the nearest cells alone.

HNSW was not taken: nothing can be deleted from its graph, and it needs every vector in memory. Cells take additions and
deletions, and a search maps the file: of a large one it reads the cells that it looks into.

S vectors that cells are learned from, D embedding size
"""

import contextlib
import math
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np

from zennas.names import text_path

FLAT = 20_000  # vectors up to which all are compared: it takes milliseconds and misses nothing; beyond, cells
TRAINED_ON = 64  # vectors a cell that its place is found by


def num_cells_of(num: int) -> int:
    """How many cells so many vectors are kept in: by four times the root, a search of one compares about as many
    centres of cells as vectors in those that it looks into.

    >>> num_cells_of(1_000_000)
    4000
    """
    return min(num, 4 * math.isqrt(num))


def empty_cells(sample_SD: np.ndarray, num_cells: int, *, seed: int = 0, eight_bits: bool = False) -> Any:
    """A FAISS index by cosine with so many cells, learned from a sample of unit rows (float32); nothing is in it yet.

    eight_bits: each number is kept in a byte, within the range that the sample has; what is found by it is to be
    compared again.
    """
    size = sample_SD.shape[1]
    quantizer = faiss.IndexFlatIP(size)
    if eight_bits:
        kind = faiss.ScalarQuantizer.QT_8bit
        index = faiss.IndexIVFScalarQuantizer(quantizer, size, num_cells, kind, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFFlat(quantizer, size, num_cells, faiss.METRIC_INNER_PRODUCT)
    index.own_fields = True
    quantizer.this.disown()
    index.cp.seed = seed + 1
    index.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(sample_SD, np.float32))
    return index


def nearest_in_cells(
    index: Any, unit_QD: np.ndarray, num: int, *, probes: int, without: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(number_QK, cosine_QK) of the `num` nearest in the `probes` nearest cells; number -1 where there are fewer.

    without: int64 numbers that are left out.
    """
    given: dict[str, Any] = {"nprobe": probes}
    if without is not None and len(without):
        left_out = faiss.IDSelectorBatch(without)  # in a variable: FAISS keeps no reference of its own
        given["sel"] = faiss.IDSelectorNot(left_out)
    parameters = faiss.SearchParametersIVF(**given)
    cosine_QK, number_QK = index.search(np.ascontiguousarray(unit_QD, np.float32), num, params=parameters)
    return number_QK, cosine_QK


def remove(index: Any, number_M: np.ndarray) -> int:
    """Take the vectors with these numbers (int64) out of an index that is not mapped; how many there were."""
    return index.remove_ids(faiss.IDSelectorBatch(np.ascontiguousarray(number_M, np.int64)))


def save_index(index: Any, path: pathlib.Path | str, *, mark: bytes = b"") -> None:
    """Write an index to a file that is there whole or not at all.

    mark: bytes behind it, by which `load_index` tells this file from an older one, or another's, of the same name.
    OSError, or FAISS's RuntimeError, where it cannot be written; then nothing of it is left.
    """
    path = pathlib.Path(path)
    content = path.with_name(f".{path.name}.tmp")
    try:
        faiss.write_index(index, text_path(content))
        with open(content, "ab") as file:  # FAISS reads no further than its own end
            file.write(mark)
        _sync(content)
    except BaseException:
        content.unlink(missing_ok=True)  # on a full disk it takes the room that others need
        raise
    content.replace(path)
    _sync(path.parent)  # its name, too, is on the disk


def load_index(path: pathlib.Path | str, *, mapped: bool = True, mark: bytes = b"") -> Any:
    """The index in a file. mapped: its cells stay there, and it cannot be changed. mark: as it was saved with.

    OSError where the file cannot be read, RuntimeError where it is none, or has another mark.
    """
    if mark:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - len(mark)))
            if file.read() != mark:
                raise RuntimeError("it is not the file that was written last, or not whole")
    return faiss.read_index(text_path(path), faiss.IO_FLAG_MMAP if mapped else 0)


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def threads(num: int) -> Iterator[None]:
    """Let FAISS use so many threads of this process meanwhile. They are torch's, too, which has its own again after."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(num)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
