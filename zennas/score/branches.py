"""How the scores of several ways through a network become one.

A score of Zen's kind is of one way, from the image to a last map. Of a network with branches there are two readings:
- ONCE: every block counts as often as it is there: the trunk's score, and what each branch adds to it. A block is worth
  as much per block, and so per millisecond, on either side of the split.
- MEAN: the mean of the ways' scores. A block of the trunk counts whole, although it costs once; one of three branches
  counts a third.
"""

from collections.abc import Sequence

from zennas.space.families.family import Tree

ONCE, MEAN = "once", "mean"


def weights(tree: Tree, aggregate: str) -> tuple[tuple[float, ...], float]:
    """(the weight of the score of each way, that of the trunk's own score), whose weighted sum is the network's.

    >>> from zennas.space.families.family import Way
    >>> tree = Tree(1, (Way((0, 1), (2, 2)), Way((0, 1), (2, 1), 2)))
    >>> weights(tree, ONCE), weights(tree, MEAN)[1]
    (((1.0, 2.0), -2.0), 0.0)
    """
    num = tree.num_branches
    if aggregate == MEAN:
        return tuple(way.times / num for way in tree.ways), 0.0
    return tuple(float(way.times) for way in tree.ways), float(1 - num)


def joined(tree: Tree, scores: Sequence[float], trunk_score: float | None, *, aggregate: str) -> float:
    """The score of a network from those of its ways and of its trunk (None: it has one way, and nothing to join)."""
    if trunk_score is None:
        (score,) = scores
        return score
    of_ways, of_trunk = weights(tree, aggregate)
    return sum(weight * score for weight, score in zip(of_ways, scores, strict=True)) + of_trunk * trunk_score
