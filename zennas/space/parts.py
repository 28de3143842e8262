"""The parts of a network. Over them parameters, MACs, latency and the closed form of the score are sums."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zennas.space.blocks import BLOCKS
from zennas.space.candidate import Candidate
from zennas.space.cost import part_cost, parts_in
from zennas.space.families.family import End, Layout, Place
from zennas.space.families.table import layout_of, layout_of_space
from zennas.space.genes import Genes
from zennas.space.shape import Shape
from zennas.space.space import Space


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
    def in_hw(self) -> tuple[int, int]:
        """(height, width) of the maps that it sees."""
        return self.in_height, self.in_width

    @property
    def place(self) -> tuple:
        """What parts that differ in their widths alone have in common."""
        return self.kind, self.stride, self.in_hw

    @property
    def macs(self) -> int:
        return part_cost(*self).macs

    @property
    def is_block(self) -> bool:
        """Whether it is a block, neither stem nor neck."""
        return self.kind in BLOCKS

    @property
    def keeps_shape(self) -> bool:
        """Whether it is a block whose maps come out as large and as many as they went in, so that it may follow itself.

        That of a stage's first block does, too, where its stride is 1 and the stage before is as wide.
        """
        return self.is_block and self.stride == 1 and self.in_channels == self.out_channels


def stem_at(end: End, width: int) -> Part:
    """The Part of a stem of so many channels."""
    return Part(end.kind, end.channels, width, end.stride, *end.in_hw)


def neck_at(end: End, width: int) -> Part:
    """The Part of a neck behind maps of so many channels."""
    return Part(end.kind, width, end.channels, end.stride, *end.in_hw)


def first_at(place: Place, block: str, in_channels: int, width: int) -> Part:
    """The Part of a stage's first block."""
    return Part(block, in_channels, width, place.stride, *place.in_hw)


def repeated_at(place: Place, block: str, width: int) -> Part:
    """The Part of each of the blocks behind a stage's first."""
    return Part(block, width, width, 1, *place.out_hw)


def parts_of(candidate: Candidate, shape: Shape, *, along_path: bool = False) -> dict[Part, int]:
    """{Part: how often it occurs} of a candidate's network for a Shape; along_path: on one way through it alone."""
    layout = layout_of(candidate, shape)
    layout = layout.one_path() if along_path else layout
    return {Part(*part): times for part, times in parts_in(candidate, layout).items()}


class Sums(NamedTuple):
    """What every part of a space is worth, so that any number of its candidates are summed at once.

    Indices are those of a range's values. Depth terms are what a stage of so many blocks is worth beside its parts'
    sum. Every array may have a last axis more, of several worths side by side (`stacked`).
    """

    stem_W: np.ndarray  # by stem width
    first: tuple[np.ndarray, ...]  # of each stage, [width before, width]: its first block
    repeated: tuple[np.ndarray, ...]  # of each stage, [width]: any block after it
    depth: tuple[np.ndarray, ...]  # of each stage, [number of blocks - lowest]
    necks: tuple[np.ndarray, ...]  # of each stage, [width]: the necks that see its maps; 0 where there is none

    def of(self, space: Space, genes_NG: np.ndarray) -> np.ndarray:
        """value_N, or value_NK of K worths, of candidates given by their genes, in the order of Space.genes; they must
        lie in the ranges."""
        genes_NG = np.asarray(genes_NG)
        return self.at(space.layout, indices(space, genes_NG), genes_NG)

    def at(self, genes: Genes, index_NG: np.ndarray, genes_NG: np.ndarray) -> np.ndarray:
        """As `of`, where the space's layout and the places of the genes in their ranges are known."""
        value_N = self.stem_W[index_NG[:, genes.stem]]
        for width, neck_W in zip(genes.widths, self.necks, strict=True):
            if neck_W.any():
                value_N = value_N + neck_W[index_NG[:, width]]
        for stage, (depth, ends) in enumerate(zip(genes.depths, genes.ends, strict=True)):
            before_N, width_N = (index_NG[:, gene] for gene in ends)
            more_N = genes_NG[:, depth] - 1
            more_N = more_N.reshape(-1, *[1] * (value_N.ndim - 1))
            value_N = value_N + self.first[stage][before_N, width_N] + more_N * self.repeated[stage][width_N]
            value_N = value_N + self.depth[stage][index_NG[:, depth]]
        return value_N


def indices(space: Space, genes_NG: np.ndarray) -> np.ndarray:
    """Where each gene stands in its range: index_NG of genes_NG."""
    lows, steps = np.array([(span.low, span.step) for span in space.genes.values()]).T
    return (np.asarray(genes_NG) - lows) // steps


def sums(
    space: Space, value_of: Callable[[Part], float], *, along_path: bool = False, layout: Layout | None = None
) -> Sums:
    """The Sums of a space: `value_of(part)` of every Part that its ranges allow; no depth terms.

    along_path: every stage once. layout: of parts of the networks, in place of the whole.
    """
    layout = layout_of_space(space) if layout is None else layout
    layout, block, first, repeated = layout.one_path() if along_path else layout, space.block, [], []
    at_boundaries = space.stem, *space.widths

    def worth(places, part_at):
        """The value of what stands at these places."""
        return sum(place.times * value_of(part_at(place)) for place in places)

    stem_W = [worth(layout.stems, lambda end, w=w: stem_at(end, w)) for w in space.stem.values()]
    for widths, places, begin in zip(space.widths, layout.stages, layout.before, strict=True):
        first.append(
            np.array(
                [
                    [worth(places, lambda place, a=a, b=b: first_at(place, block, a, b)) for b in widths.values()]
                    for a in at_boundaries[begin].values()
                ],
                float,
            )
        )
        each = [worth(places, lambda place, w=w: repeated_at(place, block, w)) for w in widths.values()]
        repeated.append(np.array(each, float))
    necks = []
    for stage, widths in enumerate(space.widths):
        behind = [end for end in layout.necks if end.behind % len(space.widths) == stage]
        necks.append(np.array([worth(behind, lambda end, w=w: neck_at(end, w)) for w in widths.values()], float))
    depth = tuple(np.zeros(len(span.values())) for span in space.depths)
    return Sums(np.array(stem_W, float), tuple(first), tuple(repeated), depth, tuple(necks))


def sums_of_genes(space: Space, terms: Sequence[np.ndarray], *, constant: float = 0.0) -> Sums:
    """The Sums of what each gene is worth by itself: terms[gene][place of its value in the gene's range]."""
    genes, blank = space.layout, sums(space, lambda part: 0.0)
    widths = [np.asarray(terms[gene], float) for gene in genes.widths]
    return blank._replace(
        stem_W=np.asarray(terms[genes.stem], float) + constant,
        # The width of a stage is that of its first block, whatever the width before it.
        first=tuple(width_W + first_WW for width_W, first_WW in zip(widths, blank.first, strict=True)),
        depth=tuple(np.asarray(terms[gene], float) for gene in genes.depths),
    )


def combined(sums: Sequence[Sums], weights: Sequence[float]) -> Sums:
    """The Sums that are worth this weighted sum of some Sums of one space."""
    return _joined(sums, lambda values: sum(weight * value for weight, value in zip(weights, values, strict=True)))


def stacked(sums: Sequence[Sums]) -> Sums:
    """Some Sums of one space side by side, whose places are then looked up once for all of them."""
    return _joined(sums, lambda values: np.stack(values, -1))


def weighted(columns: Sums, weight_K: np.ndarray) -> Sums:
    """As `combined`, of Sums that are already `stacked`."""
    return _joined([columns], lambda values: values[0] @ weight_K)


def _joined(sums, join):
    """The Sums whose every array is `join` of the arrays that some Sums have in its place."""
    return Sums(
        *(
            tuple(join(stage) for stage in zip(*values, strict=True)) if isinstance(values[0], tuple) else join(values)
            for values in zip(*sums, strict=True)
        )
    )
