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
        return Held(*(array_P[chosen] for array_P in self))


def joined(parts: Iterable[Held]) -> Held:
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
        left_PD, right_PD = pairs.left.unit(row_P[part]).to(kind), pairs.right.unit(column_P[part]).to(kind)
        if on_device:
            product_P[part] = (left_PD * right_PD).sum(1).cpu()
        else:  # three times as fast as in torch
            product_P[part] = np.einsum("pd,pd->p", left_PD.numpy(), right_PD.numpy())
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
        cell_R = ((value_R - np.float32(self.low)) * np.float32(self.per_unit)).astype(np.int32)
        return np.clip(cell_R, 0, len(self.above_C) - 1, out=cell_R)

    def of_rank(self, rank_R: np.ndarray) -> np.ndarray:
        """The cell in which the pair of each rank, from 1 on, lies by its product in float32."""
        return len(self.above_C) - np.searchsorted(self.above_C[::-1], rank_R, side="left")

    def around(self, cell_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Similarities between which each rank's lies that is in such a cell."""
        ends = (self.low + (cell_R + way * self.reach) / self.per_unit for way in (-1, 1))
        return tuple(ends)


def cells_of(pairs: Pairs, held: Held, bounds: tuple[float, float] | None = None) -> Cells:
    """The Cells of pairs held between two products, or of all that there are."""
    low, high = bounds or (float(held.near_P.min()), float(held.near_P.max()))
    num_cells = int(np.clip(len(held.near_P) // PAIRS_EACH, FEWEST_CELLS, MOST_CELLS))
    per_unit = (num_cells - 1) / max(high - low, 1e-6)
    empty = Cells(low, per_unit, EMPTY.row_P, np.zeros(num_cells, np.int64), 0)
    cell_P = empty.of(held.near_P)
    above_C = len(cell_P) - np.cumsum(np.bincount(cell_P, minlength=num_cells))
    return Cells(low, per_unit, cell_P, above_C, math.ceil(2 * near_error(pairs) * per_unit) + 3)


def _deciding(pairs, held, cells, cell_R):
    """(similarities, cells), sorted by the cell, of the pairs within reach of some cells."""
    num_cells = len(cells.above_C)
    starts_C = np.zeros(num_cells + 1, np.int32)
    np.add.at(starts_C, np.maximum(cell_R - cells.reach, 0), 1)
    np.add.at(starts_C, np.minimum(cell_R + cells.reach + 1, num_cells), -1)
    decides = np.flatnonzero((np.cumsum(starts_C)[:-1] > 0)[cells.cell_P])
    decides = decides[np.argsort(cells.cell_P[decides], kind="stable")]
    exact_P = products(pairs, held.row_P[decides], held.column_P[decides], torch.float64)
    return exact_P, cells.cell_P[decides]


def ranked(pairs: Pairs, held: Held, cells: Cells, ranks: Iterable[int]) -> dict[int, tuple[float, int]]:
    """rank -> (similarity of the pair of that rank, from 1 on, among those held; how many of them lie above it)."""
    rank_R = np.array(sorted(ranks), np.int64)
    cell_R, result = cells.of_rank(rank_R), {}
    exact_P, cell_P = _deciding(pairs, held, cells, cell_R) if len(rank_R) else EMPTY[:2]
    first_R = np.searchsorted(cell_P, cell_R - cells.reach)
    last_R = np.searchsorted(cell_P, cell_R + cells.reach, side="right")
    sure_R = cells.above_C[np.minimum(cell_R + cells.reach, len(cells.above_C) - 1)]
    for rank, first, last, sure in zip(
        *(array_R.tolist() for array_R in (rank_R, first_R, last_R, sure_R)), strict=True
    ):
        place = last - first - (rank - sure)
        value = np.partition(exact_P[first:last], place)[place]
        result[rank] = float(value), sure + int(np.count_nonzero(exact_P[first:last] > value))
    return result


def first(pairs: Pairs, held: Held, cells: Cells, num: int) -> tuple[np.ndarray, np.ndarray]:
    """(similarities, keys) of the few strongest pairs held, strongest first; of equal ones the lowest keys first."""
    cell = cells.of_rank(np.array(min(num, len(held.near_P))))
    few = held.at(np.flatnonzero(cells.cell_P >= cell - cells.reach)) if num else EMPTY
    exact_P, key_P = products(pairs, *few[1:], torch.float64), pairs.key(*few[1:])
    order = np.lexsort((key_P, -exact_P))[:num]
    return exact_P[order], key_P[order]


def counted(pairs: Pairs, held: Held, edge_E: np.ndarray) -> np.ndarray:
    """How many of the pairs held lie in each bin between two edges, as np.histogram counts them.

    Bins are of one width; what lies beyond the ends is in the last ones.
    """
    num_bins, per_unit = len(edge_E) - 1, (len(edge_E) - 1) / (edge_E[-1] - edge_E[0])
    place_P = (held.near_P - np.float32(edge_E[0])) * np.float32(per_unit)
    # Near an edge the product in float32 does not tell; nor does its place, rounded to 24 bits.
    unsure_P = np.abs(place_P - np.rint(place_P)) <= near_error(pairs) * per_unit + 2.0**-22 * num_bins
    bin_P = np.clip(place_P, 0, num_bins - 1).astype(np.int32)
    exact_P = products(pairs, held.row_P[unsure_P], held.column_P[unsure_P], torch.float64)
    exact_B, _ = np.histogram(np.clip(exact_P, edge_E[0], edge_E[-1]), edge_E)
    return np.bincount(bin_P, minlength=num_bins) - np.bincount(bin_P[unsure_P], minlength=num_bins) + exact_B
