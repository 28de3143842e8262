"""Genes: which place of a candidate's vector of numbers holds what."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np

Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True)
class Genes:
    """The layout of a vector: a width before the first stage (the stem's), then each stage's width, then its depth.

    >>> genes = genes_of_stages(2)
    >>> genes.names
    ('stem_width', 'stage1_width', 'stage2_width', 'stage1_depth', 'stage2_depth')
    >>> genes.vector(stem=64, widths=(64, 128), depths=(2, 3))
    (64, 64, 128, 2, 3)
    >>> genes.fields((64, 64, 128, 2, 3))
    {'stem': 64, 'widths': (64, 128), 'depths': (2, 3)}
    """

    num_stages: int
    begins: tuple[int, ...] = ()  # of each stage, at which of the boundaries it begins; of a chain, one after the other

    def __post_init__(self):
        object.__setattr__(self, "begins", self.begins or tuple(range(self.num_stages)))

    @property
    def num(self) -> int:
        """How many genes there are."""
        return 1 + 2 * self.num_stages

    @property
    def names(self) -> tuple[str, ...]:
        """What a study calls them."""
        stages = range(1, self.num_stages + 1)
        return "stem_width", *(f"stage{s}_width" for s in stages), *(f"stage{s}_depth" for s in stages)

    @property
    def stem(self) -> int:
        """The place of the stem's width."""
        return 0

    @functools.cached_property  # asked for with every candidate
    def widths(self) -> tuple[int, ...]:
        """The places of the stages' widths."""
        return tuple(range(1, 1 + self.num_stages))

    @functools.cached_property
    def boundaries(self) -> tuple[int, ...]:
        """The places of all widths: stage s stands between boundaries[begins[s]] and boundaries[s + 1]."""
        return self.stem, *self.widths

    @functools.cached_property
    def ends(self) -> tuple[tuple[int, int], ...]:
        """The places of the two widths that each stage stands between."""
        return tuple((self.boundaries[begin], width) for begin, width in zip(self.begins, self.widths, strict=True))

    @functools.cached_property
    def depths(self) -> tuple[int, ...]:
        """The places of the stages' depths."""
        return tuple(range(1 + self.num_stages, self.num))

    @property
    def tail(self) -> tuple[int, ...]:
        """The places of what candidates with one trunk differ in: the last width, the last two depths."""
        return self.widths[-1], *self.depths[-2:]

    def trunk(self, vector: Sequence[int]) -> tuple[int, ...]:
        """What a vector holds beside its tail: what its network begins with."""
        return tuple(value for place, value in enumerate(vector) if place not in self.tail)

    @property
    def is_depth_G(self) -> np.ndarray:
        """Which of them are depths."""
        return np.isin(np.arange(self.num), self.depths)

    def vector(self, *, stem: Value, widths: tuple[Value, ...], depths: tuple[Value, ...]) -> tuple[Value, ...]:
        """The vector of a candidate's fields, or of a space's ranges of them."""
        return stem, *widths, *depths

    def fields(self, vector: Iterable[int]) -> dict:
        """The candidate's fields in a vector, as Python's integers."""
        values = [int(value) for value in vector]
        widths, depths = ([values[place] for place in places] for places in (self.widths, self.depths))
        return {"stem": values[self.stem], "widths": tuple(widths), "depths": tuple(depths)}

    def joined(self, width_NB: np.ndarray, depth_NS: np.ndarray) -> np.ndarray:
        """vector_NG of the widths at the boundaries and the stages' depths."""
        return np.concatenate([width_NB, depth_NS], 1)


@functools.cache
def genes_of_stages(num_stages: int, begins: tuple[int, ...] = ()) -> Genes:
    """The Genes of candidates of so many stages, that begin at these boundaries."""
    return Genes(num_stages, begins)


def genes_of_vector(num: int) -> Genes:
    """The Genes of a vector of so many numbers."""
    return genes_of_stages((num - 1) // 2)
