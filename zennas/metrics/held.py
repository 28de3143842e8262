"""Pairs held by their float32 product: which are the strongest, and what similarity has a rank, without any rounding.

A product in float32 is off by `near_error` at most. So the similarity of a rank is off by no more, and the few pairs
within twice that of it decide. They alone are computed exactly.

P pairs, R ranks, C cells of equal width between the weakest and the strongest pair
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from zennas.metrics.blocks import Pairs

NORM = 1.00001  # no unit row is longer: float32 and the grid add less than 2^-24 + sqrt(D) 2^-27
CHUNK = 256  # pairs whose rows are gathered together: they stay in the processor's cache
FEWEST_CELLS, MOST_CELLS, PAIRS_EACH = 2**10, 2**17, 4


class Held(NamedTuple):
    """Pairs by their places."""

    near_P: np.ndarray  # products in float32
    row_P: np.ndarray  # int32
    column_P: np.ndarray

    def at(self, chosen: np.ndarray) -> "Held":
        """Those at these places, or where a mask is true."""
        return Held(*(array_P[chosen] for array_P in self))


class Whole(NamedTuple):
    """All different pairs, row by row: of each row the columns before `low` and from `high` on."""

    low_N: np.ndarray
    high_N: np.ndarray
    num_columns: int

    def at(self, chosen: np.ndarray) -> Held:
        """Pairs by their places among all. Their products were not kept: NaN."""
        end_N = np.cumsum(self.low_N + self.num_columns - self.high_N)
        row_P = np.searchsorted(end_N, chosen, side="right")
        low_P, high_P = self.low_N[row_P], self.high_N[row_P]
        column_P = chosen - end_N[row_P] + self.num_columns  # as if there were the latter run alone
        column_P = np.where(column_P < high_P, column_P - high_P + low_P, column_P)
        return Held(np.full(len(chosen), np.nan, np.float32), row_P.astype(np.int32), column_P.astype(np.int32))


def joined(parts: Iterable[Held]) -> Held:
    """The pairs of all parts, one part after the other."""
    return Held(*map(np.concatenate, zip(*parts, strict=True)))


EMPTY = Held(np.empty(0, np.float32), np.empty(0, np.int32), np.empty(0, np.int32))


def rounding(size: int, *, exactly: bool) -> float:
    """The largest error of a product of two unit rows of so many numbers, summed in float32 in any order.

    Where each step rounds to the nearest, `exactly`, a step is off by 2^-24 of itself; tensor cores and products of
    bfloat16 cut off, for which four times that is enough. Underflow adds less than size 2^-120.
    Source: Higham 2002, 3.1.
    """
    assert size < 2**20
    step = size * 2.0 ** (-24 if exactly else -22)
    return step / (1 - step) * NORM**2 + size * 2.0**-120


def near_error(pairs: Pairs) -> float:
    """The largest error of a float32 product of these pairs."""
    unit_ND = pairs.left.table_ND
    return rounding(unit_ND.shape[1], exactly=unit_ND.device.type == "cpu")


def products(pairs: Pairs, row_P: np.ndarray, column_P: np.ndarray, kind: torch.dtype) -> np.ndarray:
    """Similarities of pairs of places: float64, without any rounding, or float32, off by near_error at most."""
    product_P = np.empty(len(row_P), np.float32 if kind == torch.float32 else np.float64)
    on_device = pairs.left.table_ND.device.type != "cpu"
    for start in range(0, len(row_P), size := CHUNK * (32 if on_device else 1)):
        part = slice(start, start + size)
        left_PD, right_PD = pairs.left.unit(row_P[part]), pairs.right.unit(column_P[part])
        if on_device:
            product_P[part] = (left_PD.to(kind) * right_PD.to(kind)).sum(1).cpu()
        else:  # several times as fast as in torch
            left_PD, right_PD = (rows_PD.numpy().astype(product_P.dtype, copy=False) for rows_PD in (left_PD, right_PD))
            product_P[part] = (left_PD[:, None] @ right_PD[:, :, None])[:, 0, 0]
    return product_P + 0.0  # no zero is negative, as a sum of products of zeros and negative numbers is


def strongest(pairs: Pairs, held: Held, num: int) -> tuple[Held, float]:
    """(the `num` strongest of the pairs held, in no order, the similarity of the weakest of them).

    Of equal ones those with the lowest keys.
    """
    num = min(num, len(held.near_P))
    if not num:
        return EMPTY, math.inf
    last = np.partition(held.near_P, -num)[-num].astype(np.float64)
    sure_P = held.near_P > last + 2 * near_error(pairs)
    maybe = np.flatnonzero((held.near_P >= last - 2 * near_error(pairs)) & ~sure_P)
    row_P, column_P = held.row_P[maybe], held.column_P[maybe]
    exact_P = products(pairs, row_P, column_P, torch.float64)
    chosen = np.lexsort((pairs.key(row_P, column_P), -exact_P))[: num - int(sure_P.sum())]
    return held.at(np.append(np.flatnonzero(sure_P), maybe[chosen])), float(exact_P[chosen[-1]])


class Cells(NamedTuple):
    """Cells of equal width that keep the order of held pairs, and how many cells away a pair may lie of its true one.

    A cell is off by one and an eighth at most: its own width, and the rounding of 24 bits.
    """

    low: float
    per_unit: float
    cell_P: np.ndarray
    above_C: np.ndarray  # pairs in the cells above
    reach: int

    def of(self, value_R: np.ndarray) -> np.ndarray:
        """The cell of each value; of one beyond the ends, the last cell there."""
        cell_R = ((value_R - np.float32(self.low)) * np.float32(self.per_unit)).astype(np.int32)
        return np.clip(cell_R, 0, len(self.above_C) - 1, out=cell_R)

    def of_rank(self, rank_R: np.ndarray) -> np.ndarray:
        """The cell in which the pair of each rank, from 1 on, lies by its product in float32."""
        return len(self.above_C) - np.searchsorted(self.above_C[::-1], rank_R, side="left")

    def around(self, cell_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarities between which each rank's lies that is in such a cell."""
        ends = (cell_R - self.reach, cell_R + 1 + self.reach)
        return tuple(self.low + end_R / self.per_unit for end_R in ends)

    def filled(self, cell_P: np.ndarray) -> "Cells":
        """These Cells with pairs in them."""
        count_C = np.bincount(cell_P, minlength=len(self.above_C))
        return self._replace(cell_P=cell_P, above_C=len(cell_P) - np.cumsum(count_C))

    def windows(self, rank_R: np.ndarray) -> np.ndarray:
        """(first, last) cells that hold what decides each rank."""
        cell_R = self.of_rank(rank_R)
        return np.clip([cell_R - self.reach, cell_R + self.reach], 0, len(self.above_C) - 1)

    def window_of_strongest(self, num: int) -> np.ndarray:
        """(first, last) cells that hold the `num` strongest pairs."""
        first = self.of_rank(np.array([num])) - self.reach
        return np.array([np.maximum(first, 0), [len(self.above_C) - 1]])

    def inside(self, window_2R: np.ndarray) -> np.ndarray:
        """The pairs in the cells from a first to a last one."""
        start_C = np.zeros(len(self.above_C) + 1, np.int32)
        np.add.at(start_C, window_2R[0], 1)
        np.add.at(start_C, window_2R[1] + 1, -1)
        return np.flatnonzero((np.cumsum(start_C)[:-1] > 0)[self.cell_P])


def cells_of(pairs: Pairs, held: Held, bounds: tuple[float, float] | None = None) -> Cells:
    """The Cells of pairs held between two products, or of all that there are."""
    low, high = bounds or (float(held.near_P.min()), float(held.near_P.max()))
    num_cells = int(np.clip(len(held.near_P) // PAIRS_EACH, FEWEST_CELLS, MOST_CELLS))
    empty = _cells(pairs, low, (num_cells - 1) / max(high - low, 1e-6), num_cells)
    return empty.filled(empty.of(held.near_P))


def cells_between(pairs: Pairs, edge_E: np.ndarray) -> Cells:
    """Cells without pairs, a whole number of them in each bin and one bin's beyond either end.

    They are a little wider than the error of a product: two cells hold what may lie on either side of an edge.
    """
    num_bins, width = len(edge_E) - 1, (edge_E[-1] - edge_E[0]) / (len(edge_E) - 1)
    per_bin = int(np.clip(0.87 * width / near_error(pairs), 1, MOST_CELLS // (num_bins + 2)))
    return _cells(pairs, float(edge_E[0] - width), per_bin / width, per_bin * (num_bins + 2))


def _cells(pairs, low, per_unit, num_cells):
    # Twice the error, an eighth for the rounding of either place to 24 bits, and a place's place in its cell.
    reach = math.floor(2 * near_error(pairs) * per_unit + 0.25) + 1
    return Cells(low, per_unit, EMPTY.row_P, np.zeros(num_cells, np.int64), reach)


def _edge_windows(pairs: Pairs, cells: Cells, edge_E: np.ndarray) -> np.ndarray:
    """(first, last) cells whose pairs may lie on either side of each edge."""
    # A pair's place is off by the error of its product, and by the rounding of 24 bits.
    place_E = (edge_E - cells.low) * cells.per_unit
    off = near_error(pairs) * cells.per_unit + 2.0**-21 * len(cells.above_C)
    ends = np.floor(place_E - off), np.ceil(place_E + off) - 1
    return np.clip(np.array(ends).astype(np.int64), 0, len(cells.above_C) - 1)


def deciding(
    pairs: Pairs, whole: Whole, cells: Cells, ranks: Iterable[int], num_first: int, edge_E: np.ndarray
) -> tuple[Held, Cells]:
    """What of all pairs decides ranks, the num_first strongest and bins; Cells with it alone, which count all."""
    windows = [cells.windows(np.array(sorted(ranks))), _edge_windows(pairs, cells, edge_E[1:-1])]
    chosen = cells.inside(np.concatenate([*windows, cells.window_of_strongest(num_first)], 1))
    return whole.at(chosen), cells._replace(cell_P=cells.cell_P[chosen])


def _deciding(pairs, held, cells, window_2R):
    """(similarities, cells), sorted by the cell, of the pairs in windows of cells."""
    decides = cells.inside(window_2R)
    # In the order in which they are held: the rows of neighbours are near each other.
    exact_P = products(pairs, held.row_P[decides], held.column_P[decides], torch.float64)
    order = np.argsort(cells.cell_P[decides], kind="stable")
    return exact_P[order], cells.cell_P[decides[order]]


def ranked(pairs: Pairs, held: Held, cells: Cells, ranks: Iterable[int]) -> dict[int, tuple[float, int]]:
    """rank -> (similarity of the pair of that rank, from 1 on, among those held; how many of them lie above it)."""
    rank_R, result = np.array(sorted(ranks), np.int64), {}
    window_2R = cells.windows(rank_R)
    exact_P, cell_P = _deciding(pairs, held, cells, window_2R) if len(rank_R) else EMPTY[:2]
    first_R, last_R = np.searchsorted(cell_P, window_2R[0]), np.searchsorted(cell_P, window_2R[1], side="right")
    for rank, first, last, sure in zip(
        *(array_R.tolist() for array_R in (rank_R, first_R, last_R, cells.above_C[window_2R[1]])), strict=True
    ):
        place = last - first - (rank - sure)
        value = np.partition(exact_P[first:last], place)[place]
        result[rank] = float(value), sure + int(np.count_nonzero(exact_P[first:last] > value))
    return result


def leading(pairs: Pairs, held: Held, cells: Cells, num: int) -> tuple[np.ndarray, np.ndarray]:
    """(similarities, keys) of the few strongest pairs held, strongest first; of equal ones the lowest keys first."""
    few = held.at(cells.inside(cells.window_of_strongest(num))) if num else EMPTY
    exact_P, key_P = products(pairs, *few[1:], torch.float64), pairs.key(*few[1:])
    order = np.lexsort((key_P, -exact_P))[:num]
    return exact_P[order], key_P[order]


def counted(pairs: Pairs, held: Held, cells: Cells, edge_E: np.ndarray) -> np.ndarray:
    """How many different pairs lie in each bin between two edges, as np.histogram counts them, where all have cells.

    What lies beyond the ends is in the last bins.
    """
    window_2E = _edge_windows(pairs, cells, edge_E[1:-1])
    exact_P, cell_P = _deciding(pairs, held, cells, window_2E)
    first_E, last_E = np.searchsorted(cell_P, window_2E[0]), np.searchsorted(cell_P, window_2E[1], side="right")
    from_E = cells.above_C[window_2E[1]] + [
        np.count_nonzero(exact_P[first:last] >= edge)
        for edge, first, last in zip(edge_E[1:-1].tolist(), first_E.tolist(), last_E.tolist(), strict=True)
    ]
    return -np.diff([pairs.num_different, *from_E, 0])
