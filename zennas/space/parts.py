"""The parts of a network, of which everything additive is a sum: parameters, MACs, latency, the closed form of the
score.
"""

from typing import NamedTuple

import numpy as np

from zennas.space import network as networks
from zennas.space.blocks import BLOCKS
from zennas.space.cost import part_cost


class Part(NamedTuple):
    """One part of a network: a block of BLOCKS, or a row of STEMS or NECKS (whose out_channels is the embedding
    size)."""

    kind: str
    in_channels: int
    out_channels: int
    stride: int
    in_height: int
    in_width: int

    @property
    def in_hw(self):
        """(height, width) of the maps that it sees."""
        return self.in_height, self.in_width

    @property
    def place(self):
        """What parts that differ in their widths alone have in common."""
        return self.kind, self.stride, self.in_hw

    @property
    def macs(self):
        return part_cost(*self).macs

    @property
    def is_block(self):
        """Whether it is a block, neither stem nor neck."""
        return self.kind in BLOCKS


def stem_of(block, width, shape):
    """The Part that the networks of a block begin with."""
    return Part(networks.ends(block).stem, shape.channels, width, networks.stem_stride(block), *shape.hw)


def neck_of(block, width, shape, last_hw):
    """The Part that the networks of a block end with, behind maps of last_hw."""
    return Part(networks.ends(block).neck, width, shape.embedding_size, 1, *last_hw)


def parts_of(candidate, shape):
    """{Part: how often it occurs} of a candidate's network for a Shape."""
    name, last_hw = candidate.block, networks.last_hw(candidate, shape)
    parts = {stem_of(name, candidate.stem, shape): 1, neck_of(name, candidate.widths[-1], shape, last_hw): 1}
    for place in networks.block_places(candidate, shape):
        part = Part(candidate.block, *place)
        parts[part] = parts.get(part, 0) + 1
    return parts


class Sums(NamedTuple):
    """What every part of a space is worth, so that any number of its candidates are summed at once.

    Indices are those of a range's values. Depth terms are what a stage of so many blocks is worth beside its parts'
    sum. Every array may have a last axis more, of several worths side by side (`stacked`).
    """

    stem_W: np.ndarray  # by stem width; the second axis of `first` of stage s + 1 is the first axis of the next stage's
    first: tuple[np.ndarray, ...]  # of each stage, [width before, width]: its first block
    repeated: tuple[np.ndarray, ...]  # of each stage, [width]: any block after it
    depth: tuple[np.ndarray, ...]  # of each stage, [number of blocks - lowest]
    neck_W: np.ndarray  # by the last stage's width

    def of(self, space, genes_NG):
        """value_N, or value_NK of K worths, of candidates given by their genes, in the order of Space.genes; they must
        lie in the ranges."""
        index_NG, genes = indices(space, genes_NG), space.layout
        value_N = self.stem_W[index_NG[:, genes.stem]] + self.neck_W[index_NG[:, genes.boundaries[-1]]]
        for stage, depth in enumerate(genes.depths):
            before_N, width_N = (index_NG[:, gene] for gene in genes.boundaries[stage : stage + 2])
            more_N = np.asarray(genes_NG)[:, depth] - 1
            more_N = more_N.reshape(-1, *[1] * (value_N.ndim - 1))
            value_N = value_N + self.first[stage][before_N, width_N] + more_N * self.repeated[stage][width_N]
            value_N = value_N + self.depth[stage][index_NG[:, depth]]
        return value_N


def indices(space, genes_NG):
    """Where each gene stands in its range: index_NG of genes_NG."""
    lows, steps = np.array([(span.low, span.step) for span in space.genes.values()]).T
    return (np.asarray(genes_NG) - lows) // steps


def sums(space, value_of):
    """The Sums of a space: `value_of(part)` of every Part that its ranges allow; no depth terms."""
    shape, before = space.shape, space.stem
    stem_W = np.array([value_of(stem_of(space.block, width, shape)) for width in before.values()], float)
    hw = halved(shape.hw, networks.stem_stride(space.block))
    first, repeated = [], []
    for widths in space.widths:
        first.append(
            np.array(
                [[value_of(Part(space.block, a, b, 2, *hw)) for b in widths.values()] for a in before.values()], float
            )
        )
        hw = halved(hw)
        repeated.append(np.array([value_of(Part(space.block, b, b, 1, *hw)) for b in widths.values()], float))
        before = widths
    necks = [neck_of(space.block, width, shape, hw) for width in before.values()]
    neck_W = np.array([value_of(neck) for neck in necks], float)
    depth = tuple(np.zeros(len(span.values())) for span in space.depths)
    return Sums(stem_W, tuple(first), tuple(repeated), depth, neck_W)


def halved(hw, by=2):
    """(height, width) behind a stride."""
    return hw[0] // by, hw[1] // by


def combined(some, weights):
    """The Sums that are worth this weighted sum of some Sums of one space."""
    return _joined(some, lambda values: sum(weight * value for weight, value in zip(weights, values, strict=True)))


def stacked(some):
    """Some Sums of one space side by side, whose places are then looked up once for all of them."""
    return _joined(some, lambda values: np.stack(values, -1))


def _joined(some, join):
    """The Sums whose every array is `join` of the arrays that some Sums have in its place."""
    return Sums(
        *(
            tuple(join(stage) for stage in zip(*values, strict=True)) if isinstance(values[0], tuple) else join(values)
            for values in zip(*some, strict=True)
        )
    )
