"""The largest values of each row of a matrix that is never whole: its columns come block by block."""

# R rows, S columns of a block, K of them kept

from collections.abc import Iterable

import torch


def largest(blocks: Iterable[tuple[int, torch.Tensor]], num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(value_RK, column_RK, int64): the `num` largest of each row, the largest first; all of them in a shorter row.

    blocks: (first column, value_RS) of one part of the columns after another.

    >>> largest([(0, torch.tensor([[1.0, 5.0]])), (2, torch.tensor([[7.0]]))], 2)
    (tensor([[7., 5.]]), tensor([[2, 1]]))
    """
    best_RK = column_RK = None
    for first, value_RS in blocks:
        found_RK, place_RK = value_RS.topk(min(num, value_RS.shape[1]), dim=1)
        place_RK = place_RK + first
        if best_RK is not None:
            found_RK, place_RK = torch.cat([best_RK, found_RK], 1), torch.cat([column_RK, place_RK], 1)
        best_RK, order_RK = found_RK.topk(min(num, found_RK.shape[1]), dim=1)
        column_RK = place_RK.gather(1, order_RK)
    return best_RK, column_RK
