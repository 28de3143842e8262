"""The area under the ROC curve over all pairs of many embeddings: exact, in bounded memory.

R rows and C columns of a block, S same pairs, P pairs
"""

import math
from typing import NamedTuple

import numpy as np

from zennas.metrics.all_to_all import same_tiles
from zennas.metrics.blocks import exact, paired


class Auc(NamedTuple):
    """The chance that a same pair is more alike than a different one, equal ones counted by half."""

    auc: float  # in [0, 1]; 0.5 tells nothing; NaN without same pairs or without different ones
    num_same: int
    num_different: int


def all_pairs_auc(embedding_ND: np.ndarray, label_N: np.ndarray, *, device: str = "cpu") -> Auc:
    """The Auc of every pair of rows i < j: the Mann-Whitney statistic of the two kinds over the product of their
    numbers.

    embedding_ND: floats; rows are made of unit length, and one of zeros, for an image that could not be used, has
    similarity 0 to all. label_N: whole numbers, one for each identity. Similarities are products without rounding, as
    all_to_all takes them: neither the device nor the blocks change a bit of the result.
    Memory: the embeddings, a block of pairs, and all same pairs, 8 bytes each: draw some images of each identity, whose
    same pairs grow with the square of them. The time grows with all pairs: 0.3 s for 2,755 rows
    of 256 numbers, 18 s for 20,000, on one core.
    UserError: shapes that do not match, values that are not finite, no rows.
    Source: Mann and Whitney 1947; Hanley and McNeil 1982.

    >>> all_pairs_auc(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.2, 1.0]]), np.array([0, 0, 1, 1])).auc
    1.0
    """
    pairs = paired(embedding_ND, label_N, device=device)
    num_same, num_different = pairs.num_same, pairs.num_different
    if not num_same or not num_different:
        return Auc(math.nan, num_same, num_different)
    same_S = np.sort(np.concatenate([same_P for same_P, _, _ in same_tiles(pairs)]))
    wins = 0  # of a same pair against a different one, two for each, one where they are equal
    label_N = pairs.left.label_N
    for row, row_end, column, column_end in pairs.blocks:
        similarity_RC = exact(pairs, slice(row, row_end), slice(column, column_end)).cpu().numpy()
        counted_RC = label_N[row:row_end, None] != label_N[column:column_end]
        counted_RC &= np.arange(row, row_end)[:, None] < np.arange(column, column_end)
        different_P = np.sort(similarity_RC[counted_RC] + 0.0)
        for side in ("left", "right"):
            wins += int(np.searchsorted(different_P, same_S, side).sum())
    return Auc(wins / (2 * num_same * num_different), num_same, num_different)
