"""Pairs of rows cut into blocks: unit rows sorted by identity, where same pairs lie, products without any rounding."""

# N rows, M rows of the other side, D embedding size, R rows and C columns of a block, P pairs, U identities

from typing import NamedTuple

import numpy as np
import torch

from zennas.devices import processor_has_bfloat16
from zennas.records import UserError

GRID = 2.0**26  # a unit row's entries are whole multiples of 1 / GRID
MAX_UNIT_BYTES = 2**30  # of float32 rows kept beside a table in bfloat16: a million rows of 256 numbers
READ_ROWS = 256  # made of unit length together: their float64 numbers stay in the processor's cache


class Plan(NamedTuple):
    """How pairs are cut into blocks and screened. No result depends on it."""

    rows: int
    columns: int  # whole segments
    segment: int  # columns whose largest value alone is looked at first
    screening: torch.dtype


class Side(NamedTuple):
    """Rows in the order of their labels; table_ND holds them for the screening, with a segment of zero rows behind."""

    source_ND: np.ndarray  # in the caller's order, as norm_N is
    norm_N: torch.Tensor  # float64; 1 for a row of zeros
    order_N: np.ndarray  # the caller's row at each place
    label_N: np.ndarray
    table_ND: torch.Tensor
    unit_ND: torch.Tensor | None  # the same in float32, without error; None where they would take too much memory
    error: float  # the largest distance of a table's row from its unit row

    def unit(self, place: slice | np.ndarray) -> torch.Tensor:
        """The unit rows at a slice or an array of places, float32."""
        if self.unit_ND is None:
            return self.read(self.order_N[place]).to(self.table_ND.device)
        if self.unit_ND.device.type == "cpu":
            return torch.from_numpy(self.unit_ND.numpy()[place])  # rows are taken three times as fast as in torch
        return self.unit_ND[place if isinstance(place, slice) else torch.from_numpy(place)]

    def read(self, row: slice | np.ndarray) -> torch.Tensor:
        row_RD = torch.from_numpy(np.array(self.source_ND[row])).double().div_(self.norm_N[row][:, None]).float()
        return row_RD.mul_(GRID).round_().div_(GRID)  # GRID is a power of two: only round_ rounds


class Pairs(NamedTuple):
    """Two sides, where their identities lie, and the blocks (row, end, column, end) that hold all different pairs."""

    left: Side
    right: Side
    alone: bool  # a side with itself: pairs i < j
    plan: Plan
    span_U4: np.ndarray  # of each identity: places on the left, from, to; on the right, from (alone: from 0), to
    num_same: int
    num_different: int
    blocks: list[tuple]

    def spans(self, row: int, row_end: int) -> np.ndarray:
        first, last = np.searchsorted(self.span_U4[:, 1], row, "right"), np.searchsorted(self.span_U4[:, 0], row_end)
        return self.span_U4[first:last]

    def key(self, row_P: np.ndarray, column_P: np.ndarray) -> np.ndarray:
        """A number for each pair, which grows with the caller's i, then with j."""
        i_P, j_P = self.left.order_N[row_P], self.right.order_N[column_P]
        if self.alone:
            i_P, j_P = np.minimum(i_P, j_P), np.maximum(i_P, j_P)
        return i_P * len(self.right.label_N) + j_P


def paired(
    embedding_ND: np.ndarray,
    label_N: np.ndarray,
    against: tuple[np.ndarray, np.ndarray] | None = None,
    *,
    device: str = "cpu",
    plan: Plan | None = None,
) -> Pairs:
    """The Pairs of embeddings, or of them and those `against` them, cut as `plan` says or as suits the device."""
    torch_device, alone, given = torch.device(device), against is None, []
    if torch_device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {torch_device}: there is no GPU here; allowed: cpu")
    for name, arrays in [("embeddings", (embedding_ND, label_N)), ("those against them", against)][: 2 - alone]:
        rows_ND, labels_N = (np.asarray(array) for array in arrays)
        if rows_ND.ndim != 2 or rows_ND.dtype.kind != "f" or not rows_ND.size:
            raise UserError(f"{name}: {rows_ND.dtype} of shape {rows_ND.shape}; expected rows of floats")
        if labels_N.shape != rows_ND.shape[:1] or labels_N.dtype.kind not in "iub":
            wrong = f"{labels_N.dtype} of shape {labels_N.shape}"
            raise UserError(f"{name}: {len(rows_ND)} rows with labels {wrong}; expected one whole number each")
        given.append((rows_ND, labels_N.astype(np.int64), name))
    (num_rows, size), (num_columns, other_size) = given[0][0].shape, given[-1][0].shape
    if size != other_size:
        raise UserError(f"embeddings of {size} numbers against some of {other_size}: expected equal ones")
    if plan is None and torch_device.type == "cuda":
        plan = Plan(16384, 16384, 128, torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float32)
    elif plan is None:
        fast = num_rows * num_columns > 2**22 and processor_has_bfloat16()  # of fewer pairs it saves nothing
        rows = (
            256 if num_rows < 2**12 else 512 if num_rows < 2**16 else 2048
        )  # narrow: less of a block on the diagonal is computed twice
        plan = Plan(rows, 4096, 128, torch.bfloat16 if fast else torch.float32)  # 16 MB: larger blocks are no faster
    sides = [_side(*arrays, torch_device, plan) for arrays in given]
    value_U, first_U, count_U = np.unique(sides[0].label_N, return_index=True, return_counts=True)
    low_U, high_U = (np.searchsorted(sides[-1].label_N, value_U, way) for way in ("left", "right"))
    num_same = int((count_U * (count_U - 1) // 2 if alone else count_U * (high_U - low_U)).sum())
    num_pairs = num_rows * (num_rows - 1) // 2 if alone else num_rows * num_columns
    blocks = [
        (row, min(row + plan.rows, num_rows), column, min(column + plan.columns, num_columns))
        for row in range(0, num_rows, plan.rows)
        for column in range(row if alone else 0, num_columns, plan.columns)
    ]
    span_U4 = np.stack([first_U, first_U + count_U, low_U * (not alone), high_U], 1)
    return Pairs(sides[0], sides[-1], alone, plan, span_U4, num_same, num_pairs - num_same, blocks)


def in_float32(pairs: Pairs) -> Pairs:
    """The same pairs, screened in float32."""
    sides = [_in_float32(side) for side in (pairs.left, pairs.right)[: 2 - pairs.alone]]
    return pairs._replace(left=sides[0], right=sides[-1], plan=pairs.plan._replace(screening=torch.float32))


def _in_float32(side):
    unit_ND = side.unit_ND
    if unit_ND is None:
        unit_ND = torch.zeros_like(side.table_ND, dtype=torch.float32)
        for start in range(0, len(side.label_N), READ_ROWS):
            place = slice(start, min(start + READ_ROWS, len(side.label_N)))
            unit_ND[place] = side.unit(place)
    return side._replace(table_ND=unit_ND, unit_ND=unit_ND, error=0.0)


def _side(embedding_ND, label_N, name, device, plan):
    (num_rows, size), error = embedding_ND.shape, 0.0
    order_N = np.argsort(label_N, kind="stable")
    place_N = np.argsort(order_N)
    table_ND = torch.zeros(num_rows + plan.segment, size, dtype=plan.screening, device=device)
    unit_ND = table_ND if plan.screening == torch.float32 else None
    if unit_ND is None and 4 * table_ND.numel() <= MAX_UNIT_BYTES:
        unit_ND = torch.zeros_like(table_ND, dtype=torch.float32)
    norm_N = torch.ones(num_rows, dtype=torch.float64)
    side = Side(embedding_ND, norm_N, order_N, label_N[order_N], table_ND, None, 0.0)
    for start in range(0, num_rows, READ_ROWS):  # in the order of the source
        row = slice(start, start + READ_ROWS)
        norm_R = np.sqrt(np.square(embedding_ND[row], dtype=np.float64).sum(1))
        if len(bad := np.flatnonzero(~np.isfinite(norm_R))):
            raise UserError(f"{name}, row {start + bad[0]}: is not finite; zeros are allowed, for an image of no use")
        side.norm_N[row] = torch.from_numpy(np.where(norm_R > 0, norm_R, 1))
        unit_RD = side.read(row)
        if unit_ND is not None:
            _put(unit_ND, place_N[row], unit_RD)
        if unit_ND is not table_ND:
            table_RD = unit_RD.to(plan.screening)
            _put(table_ND, place_N[row], table_RD)
            # The difference has no rounding; its square and their sum have, D 2^-23 of it at most.
            distance = float((table_RD.float() - unit_RD).norm(dim=1).max())
            error = max(error, (1.000001 + size * 2.0**-23) * distance)
    return side._replace(unit_ND=unit_ND, error=error)


def _put(table_ND, place_R, row_RD):
    """Rows put at places of a table."""
    if table_ND.device.type == "cpu":  # several times as fast as in torch; numpy knows bfloat16 by its bits alone
        bits = torch.int16 if table_ND.dtype == torch.bfloat16 else torch.int32
        table_ND.view(bits).numpy()[place_R] = row_RD.view(bits).numpy()
    else:
        table_ND[torch.from_numpy(place_R).to(table_ND.device)] = row_RD.to(table_ND.device)


def masked(block_RC: torch.Tensor, block: tuple[int, int, int, int], pairs: Pairs, value: float) -> torch.Tensor:
    """The block, with `value` at the places that are no different pairs: a run of columns for each identity."""
    row, row_end, column, column_end = block
    span_U4 = pairs.spans(row, row_end)
    if span_U4[-1, 3] > column:
        for start, end, low, high in span_U4.tolist():
            if low < column_end and high > column:
                block_RC[max(start - row, 0) : end - row, max(low - column, 0) : high - column] = value
    return block_RC


def exact(pairs: Pairs, place_R: slice | np.ndarray, place_C: slice | np.ndarray) -> torch.Tensor:
    """Similarities of rows and columns, given as slices or arrays of places, float64."""
    return pairs.left.unit(place_R).double() @ pairs.right.unit(place_C).double().T
