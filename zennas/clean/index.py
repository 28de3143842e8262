"""The vector index over the centres of identities (FAISS).

Q queries, C centres, K of them, D embedding size
"""

import contextlib
import pathlib
from typing import Self

import faiss
import numpy as np
from faiss.contrib.big_batch_search import big_batch_search

from zennas.embed.cells import FLAT, TRAINED_ON, empty_cells, load_index, num_cells_of, save_index

# Cells that are looked into. Of 52,500 identities that lie evenly, the hardest there are, they name the nearest one of
# 99.6 % of faces (experiments/benchmarks/cleaning.json); half as many take half as long and lost 5 % in a first trial.
PROBES = 64
NEAREST = 8  # centres that are asked for where those above a threshold are wanted
BATCHED = 4096  # queries from which on they are compared cell by cell, four times as fast as query by query
BLOCK = 16_384  # queries at a time


class CentreIndex:
    """Nearest centres by cosine: exact up to FLAT centres, beyond by an inverted file (IVF) that may miss some.

    The index holds what it is given under the numbers it is given with them.
    """

    def __init__(self, centre_CD: np.ndarray, number_C: np.ndarray, *, flat: bool | None = None, seed: int = 0):
        """centre_CD: unit rows, float32. number_C: what each is called. flat: compare all; None: by their number."""
        self.number_C = np.asarray(number_C, np.int64)
        centre_CD = np.ascontiguousarray(centre_CD, np.float32)
        num, size = centre_CD.shape
        self.is_flat = num <= FLAT if flat is None else flat
        if self.is_flat:
            self._index = faiss.IndexFlatIP(size)
        else:
            cells = num_cells_of(num)
            drawn = np.random.default_rng(seed).choice(num, min(num, TRAINED_ON * cells), replace=False)
            self._index = empty_cells(centre_CD[np.sort(drawn)], cells, seed=seed)
            self._index.nprobe = min(PROBES, cells)
        self._index.add(centre_CD)

    def save(self, path: pathlib.Path | str) -> None:
        """Write it to a file that is there whole or not at all, and that workers open by its name."""
        path = pathlib.Path(path)
        np.save(path.with_suffix(".numbers.npy"), self.number_C)
        save_index(self._index, path)

    @classmethod
    def open(cls, path: pathlib.Path | str) -> Self:
        """What `save` wrote, memory-mapped."""
        path = pathlib.Path(path)
        self = cls.__new__(cls)
        self.number_C = np.load(path.with_suffix(".numbers.npy"))
        self._index = load_index(path)
        self.is_flat = not isinstance(self._index, faiss.IndexIVF)
        return self

    def nearest(self, unit_QD: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
        """(number_QK, cosine_QK) of the `num` nearest centres, the nearest first; -1 and -inf where there are fewer."""
        unit_QD = np.ascontiguousarray(unit_QD, np.float32)
        if self.is_flat or len(unit_QD) < BATCHED:
            cosine_QK, place_QK = self._index.search(unit_QD, num)
        else:
            with contextlib.redirect_stdout(None):  # it counts cells there, and cannot be told not to
                cosine_QK, place_QK = big_batch_search(self._index, unit_QD, num, method="pairwise_distances")
        return np.where(place_QK >= 0, self.number_C[place_QK], -1), np.where(place_QK >= 0, cosine_QK, -np.inf)

    def alike(self, unit_QD: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(row_P, number_P, cosine_P) of all pairs of a query and a centre above the threshold."""
        if self.is_flat or len(unit_QD) < BATCHED:
            return self._within(unit_QD, threshold)
        # Few centres have many that are alike: the nearest are asked for by many at once, and only where all of them
        # are above the threshold is everything within it.
        number_QK, cosine_QK = self.nearest(unit_QD, NEAREST)
        above_QK = cosine_QK > threshold
        more_M = np.flatnonzero(above_QK.all(axis=1))
        above_QK[more_M] = False
        row_P, place_P = np.nonzero(above_QK)
        row_R, number_R, cosine_R = self._within(np.asarray(unit_QD)[more_M], threshold)
        return (
            np.append(row_P, more_M[row_R]),
            np.append(number_QK[row_P, place_P], number_R),
            np.append(cosine_QK[row_P, place_P], cosine_R),
        )

    def _within(self, unit_QD, threshold):
        """`alike`, query by query."""
        rows, numbers, cosines = [np.empty(0, np.int64)], [np.empty(0, np.int64)], [np.empty(0, np.float32)]
        for start in range(0, len(unit_QD), BLOCK):
            block_BD = np.ascontiguousarray(unit_QD[start : start + BLOCK], np.float32)
            limits, cosine_P, place_P = self._index.range_search(block_BD, threshold)
            rows.append(start + np.repeat(np.arange(len(block_BD)), np.diff(limits.astype(np.int64))))
            numbers.append(self.number_C[place_P])
            cosines.append(cosine_P)
        return tuple(np.concatenate(parts) for parts in (rows, numbers, cosines))
