"""Pairs -> groups: what a chain of pairs joins."""

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def joined(num: int, one_P: np.ndarray, other_P: np.ndarray) -> np.ndarray:
    """For each of `num` things the lowest that a chain of pairs (one_P, other_P) joins it with.

    >>> joined(5, [3, 4], [1, 3]).tolist()
    [0, 1, 2, 1, 1]
    """
    one_P, other_P = np.asarray(one_P, np.int64), np.asarray(other_P, np.int64)
    graph = coo_array((np.ones(len(one_P), bool), (one_P, other_P)), shape=(num, num))
    num_groups, group_N = connected_components(graph, directed=False)
    lowest_G = np.full(num_groups, num, np.int64)
    np.minimum.at(lowest_G, group_N, np.arange(num))
    return lowest_G[group_N]
