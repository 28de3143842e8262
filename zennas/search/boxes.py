"""Boxes of gene values, and what the stages of a candidate that are still to come can add at most."""

# W widths, D depths: numbers of a range's values, in order

from typing import NamedTuple

import numpy as np

from zennas.space.genes import Genes
from zennas.space.parts import Sums


class Box(NamedTuple):
    """The candidates whose genes' values stand at indices from `low` up to but not including `high` of their ranges."""

    low: tuple[int, ...]  # by gene
    high: tuple[int, ...]

    def cut(self, whole: Sums, genes: Genes) -> Sums:
        """The Sums of a space within the box."""
        spans = [slice(*ends) for ends in zip(self.low, self.high, strict=True)]
        widths, depths = [spans[gene] for gene in genes.widths], [spans[gene] for gene in genes.depths]
        before_and_behind = [(spans[before], spans[behind]) for before, behind in genes.ends]
        return Sums(
            whole.stem_W[spans[genes.stem]],
            tuple(first_WW[ends] for first_WW, ends in zip(whole.first, before_and_behind, strict=True)),
            tuple(each_W[width] for each_W, width in zip(whole.repeated, widths, strict=True)),
            tuple(each_D[depth] for each_D, depth in zip(whole.depth, depths, strict=True)),
            tuple(neck_W[width] for neck_W, width in zip(whole.necks, widths, strict=True)),
        )

    def halves(self, gene: int) -> "tuple[Box, Box]":
        """The two halves along a gene."""
        middle = (self.low[gene] + self.high[gene]) // 2
        low, high = list(self.low), list(self.high)
        low[gene] = high[gene] = middle
        return self._replace(high=tuple(high)), self._replace(low=tuple(low))


def completions(worth: Sums, depths: list[np.ndarray], genes: Genes) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """([ahead_W] for every boundary, that before stage 1 first: the most that the stages to come and the necks add to a
    width; [opened_W] for every stage: what of that it and all behind it add to the width that it begins at).
    """
    ahead = [0.0, *worth.necks]
    opened = [None] * len(depths)
    for stage in reversed(range(len(depths))):
        opened[stage] = (worth.first[stage] + choices(worth, depths, stage).max(1) + ahead[stage + 1]).max(1)
        ahead[genes.begins[stage]] = ahead[genes.begins[stage]] + opened[stage]
    return ahead, opened


def choices(worth: Sums, depths: list[np.ndarray], stage: int) -> np.ndarray:
    """choice_WD: what the blocks behind a stage's first add."""
    return worth.repeated[stage][:, None] * (depths[stage] - 1) + worth.depth[stage]
