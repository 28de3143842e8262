"""How the scores of several ways through a network become one.

A score of Zen's kind is of one way, from the image to a last map. Of a network with branches there are two readings:
- ONCE: every block counts as often as it is there: the trunk's score, and what each branch adds to it. A block is worth
  as much per block, and so per millisecond, on either side of the split.
- MEAN: the mean of the ways' scores. A block of the trunk counts whole, although it costs once; one of three branches
  counts a third.
"""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from zennas.records import Record
from zennas.space.families.family import Tree

ONCE, MEAN = "once", "mean"


class Apart(NamedTuple):
    """The scores of a network's ways as they are, before a reading makes one number of them."""

    of_ways: tuple[float, ...]  # in the order of the tree's ways
    of_trunk: float | None  # None: there is one way, and nothing to join

    @classmethod
    def mean(cls, aparts: Sequence["Apart"]) -> "Apart":
        """Of several draws of the same network."""
        trunks = [apart.of_trunk for apart in aparts if apart.of_trunk is not None]
        return cls(
            tuple(map(statistics.fmean, zip(*(apart.of_ways for apart in aparts), strict=True))),
            statistics.fmean(trunks) if trunks else None,
        )


class WayScore(Record):
    """The score of one way through a network."""

    name: str
    times: int  # how many branches are such
    score: float


class WayScores(Record):
    """What a score says of each way through a network of several, and both readings of that."""

    ways: tuple[WayScore, ...]
    trunk: float  # of what all ways have in common
    every_block_once: float
    mean_of_ways: float

    @classmethod
    def of(cls, tree: Tree, apart: Apart) -> "WayScores":
        """From the score of each way and that of the trunk; there are several ways."""
        assert apart.of_trunk is not None
        once, mean = (joined(tree, apart, aggregate=aggregate) for aggregate in (ONCE, MEAN))
        return cls(
            ways=tuple(
                WayScore(name=way.name, times=way.times, score=round(score, 4))
                for way, score in zip(tree.ways, apart.of_ways, strict=True)
            ),
            trunk=round(apart.of_trunk, 4),
            every_block_once=round(once, 4),
            mean_of_ways=round(mean, 4),
        )

    @property
    def cells(self) -> dict[str, str]:
        """{what people read above it: the score}, in the order of a table."""
        ways = {f"{way.name}{f' x {way.times}' * (way.times > 1)}": way.score for way in self.ways}
        named = {"every block once": self.every_block_once, "mean of ways": self.mean_of_ways, "trunk": self.trunk}
        return {name: f"{score:,.2f}" for name, score in (named | ways).items()}


# The line that stands below a table of them.
WHY_ONCE = (
    "The default counts every block once: then its score per millisecond is the same on either side of the split. "
    "Under the mean a block of the trunk counts whole in every way and costs once, so blocks move there."
)


def weights(tree: Tree, aggregate: str) -> tuple[tuple[float, ...], float]:
    """(the weight of the score of each way, that of the trunk's own score), whose weighted sum is the network's.

    >>> from zennas.space.families.family import Way
    >>> tree = Tree(1, (Way((0, 1), (2, 2)), Way((0, 1), (2, 1), 2)))
    >>> weights(tree, ONCE), weights(tree, MEAN)[1]
    (((1.0, 2.0), -2.0), 0.0)
    """
    assert aggregate in (ONCE, MEAN), aggregate
    num = tree.num_branches
    if aggregate == MEAN:
        return tuple(way.times / num for way in tree.ways), 0.0
    return tuple(float(way.times) for way in tree.ways), float(1 - num)


def joined(tree: Tree, apart: Apart, *, aggregate: str) -> float:
    """The score of a network from those of its ways and of its trunk."""
    if apart.of_trunk is None:
        (score,) = apart.of_ways
        return score
    of_ways, of_trunk = weights(tree, aggregate)
    return sum(weight * score for weight, score in zip(of_ways, apart.of_ways, strict=True)) + of_trunk * apart.of_trunk
