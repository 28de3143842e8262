"""All different pairs looked at once, block by block: the strongest are held, others are counted.

A fast, imprecise product screens a block against a floor; what may lie above it is computed in float32 and held.

R rows and C columns of a block, P pairs, S sampled pairs, L ranks that are counted
"""

import contextlib
import io
import math
import pathlib
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from zennas.metrics.blocks import Pairs, masked
from zennas.metrics.held import (
    EMPTY,
    NORM,
    Cells,
    Held,
    Whole,
    cells_between,
    cells_of,
    joined,
    near_error,
    products,
    ranked,
    rounding,
    strongest,
)
from zennas.run_folder import write_atomically

SLACK, WAITING = 65_536, 131_072  # held beyond twice the need; candidates that are computed together
WHOLE_ROWS = 128  # of a table multiplied together where all pairs are held: less below the diagonal, in a near cache
STRIP = 2**16  # products looked at together: they stay in the processor's cache
DENSE = 1 / 100  # a share of a block: more pairs are cheaper as a product than one by one
SAVE_EVERY_S, SAVE_PAUSE = 10.0, 20  # and no sooner than so many times what the last writing took


def in_reach(pairs: Pairs, sample_S: np.ndarray, need: int) -> float:
    """The share of different pairs that the screening would leave to be computed again, by the sample."""
    if not need or not len(sample_S):
        return 0.0
    lowest = float(least(pairs, first_floor(sample_S, need, pairs.num_different, 0)))
    return float(np.searchsorted(-sample_S, -lowest)) / len(sample_S)


def first_floor(sample_S: np.ndarray, need: int, num_different: int, attempt: int) -> float:
    """A guess: a little more than the pairs that are needed lie above it; 8 times as many more in a second attempt; in
    the last one, all.
    """
    place = need / max(num_different, 1) * len(sample_S)
    place = math.ceil(place + 8**attempt * _doubt(place))
    return float(sample_S[place]) if attempt < 2 and place < len(sample_S) else -2.0


def _doubt(place):
    """How far a place in the sample may be off: eight standard deviations, for pairs of a person are alike, and ten."""
    return 8 * math.sqrt(place) + 10


def bounds(sample_S: np.ndarray, rank: int, num_different: int, attempt: int) -> tuple[float, float]:
    """Products between which the pair of a rank that is counted lies, by the sample; wider in each attempt."""
    place = rank / num_different * len(sample_S)
    first, last = (place + 8**attempt * way * _doubt(place) for way in (-1, 1))
    low = sample_S[math.ceil(last)] if last < len(sample_S) - 1 else -2.0
    high = sample_S[math.floor(first)] if first > 0 else 2.0
    return float(low) - 1e-3, float(high) + 1e-3  # what decides lies within, where the sample is of few values


def scanned(
    pairs: Pairs, need: int, wide: Sequence[int], sample_S: np.ndarray, journal: "Journal", attempt: int = 0
) -> tuple[Held, dict[int, tuple[float, int]]]:
    """(pairs with the `need` strongest different ones, rank -> (similarity, how many lie above it) of each of `wide`).

    The floor rises to the need-th largest similarity held whenever too many are held: more pairs can only raise that
    one, so what lies below it now is not among the strongest in the end. An equal one can be, by its key.
    Of a rank that is too wide to hold what is stronger, pairs are held between two bounds and counted above them.
    """
    floor, slack = first_floor(sample_S, need, pairs.num_different, attempt), near_error(pairs)
    bounds_L = [bounds(sample_S, rank, pairs.num_different, attempt) for rank in wide]
    state = journal.begin(f"scan {attempt}", floor=floor, above_L=np.zeros(len(wide), np.int64))
    between = [journal.begin(f"scan {attempt} {rank}", **EMPTY._asdict()) for rank in wide]
    tail = journal.begin(f"scan {attempt} tail", **EMPTY._asdict())
    buffer, waiting, fresh = pairs.left.table_ND.new_empty(pairs.plan.rows * pairs.plan.columns), [], []

    def hold(near_P, row_P, column_P):
        above_P = near_P >= float(state["floor"]) - slack
        fresh.append(Held(near_P[above_P], row_P[above_P].astype(np.int32), column_P[above_P].astype(np.int32)))

    def settle():
        if waiting:
            row_P, column_P = map(np.concatenate, zip(*waiting, strict=True))
            waiting.clear()
            hold(products(pairs, row_P, column_P, torch.float32), row_P, column_P)
        held = joined([_held(tail), *fresh])
        fresh.clear()
        if len(held.near_P) > 2 * need + SLACK:
            held, state["floor"] = strongest(pairs, held, need)
        tail.update(held._asdict())
        for held_L in between:
            held_L.update(joined([_held(held_L), *held_L.pop("fresh", [])])._asdict())

    for block in journal.left(state, pairs.blocks, settle):
        row, row_end, column, column_end = block
        near_RC = None
        if pairs.plan.screening == torch.float32:
            near_RC = screened(pairs, block, buffer)[:, : column_end - column]
        elif need:
            row_P, column_P = (
                place_P.cpu().numpy() for place_P in possible_pairs(pairs, block, buffer, state["floor"])
            )
            if len(row_P) > DENSE * (row_end - row) * (column_end - column):  # so many are cheaper as a product
                near_RC = pairs.left.unit(slice(row, row_end)) @ pairs.right.unit(slice(column, column_end)).T
                masked(near_RC, block, pairs, -math.inf)
            elif len(row_P):
                waiting.append((row_P + row, column_P + column))
        for strip_RC, corner in _strips(near_RC, block):
            lowest = float(state["floor"]) - slack
            if need and float(strip_RC.max()) >= lowest:  # of a few strongest, most strips have none
                fresh.append(_picked(strip_RC, strip_RC >= lowest, corner))
            for number, (held_L, (low, high)) in enumerate(zip(between, bounds_L, strict=True)):
                above_RC = strip_RC > high
                count = np.count_nonzero if isinstance(above_RC, np.ndarray) else torch.count_nonzero
                state["above_L"][number] += int(count(above_RC))
                held_L.setdefault("fresh", []).append(_picked(strip_RC, (strip_RC >= low) ^ above_RC, corner))
        if sum(len(held[0]) for held in waiting + fresh) > WAITING + need // 4:
            settle()
    held = _held(tail)
    at_rank = _counted_ranks(pairs, wide, map(_held, between), state["above_L"].tolist(), bounds_L)
    if not _has_all(pairs, held, need, float(state["floor"])) or len(at_rank) < len(wide):  # a guess was wrong
        journal.total += len(pairs.blocks)
        return scanned(pairs, need, wide, sample_S, journal, attempt + 1)
    return held, at_rank


def _held(state):
    """What a stage's state holds."""
    return Held(*(state[name] for name in Held._fields))


def _counted_ranks(pairs, wide, held_of, above_of, bounds_of):
    """rank -> (similarity, how many pairs lie above it), by the pairs held between bounds and the number above them; of
    those ranks alone whose bounds hold all that decides.
    """
    at_rank = {}
    for rank, held, above, limits in zip(wide, held_of, above_of, bounds_of, strict=True):
        cells = cells_of(pairs, held, limits)
        cell = int(cells.of_rank(rank - above)) if 0 < rank - above <= len(held.near_P) else 0
        if cells.reach <= cell < len(cells.above_C) - cells.reach - 1:  # all that decides was held
            ((value, num_above),) = ranked(pairs, held, cells, [rank - above]).values()
            at_rank[rank] = value, above + num_above
    return at_rank


def _has_all(pairs, held, need, floor):
    """Whether the `need` strongest pairs are among those held: below the floor not all are."""
    if len(held.near_P) < need or not need or floor <= -2:
        return len(held.near_P) >= need
    ((value, _),) = ranked(pairs, held, cells_of(pairs, held), [need]).values()
    return value >= floor


def whole(pairs: Pairs, edge_E: np.ndarray) -> tuple[Whole, Cells]:
    """All different pairs, and their Cells, which keep to the edges of bins: of few pairs that is sooner than a scan.

    Rows lie by identity, so that the different pairs of a row are two runs of columns. Products of all in float64 would
    need no error at all, but take longer from about 1,000 rows on.
    """
    left, right = pairs.left, pairs.right
    num_columns, parts, empty = len(right.label_N), [], cells_between(pairs, edge_E)
    low_N, high_N = (np.searchsorted(right.label_N, left.label_N, way) for way in ("left", "right"))
    low_N = low_N * (not pairs.alone)  # alone, there is nothing before the diagonal
    for row in range(0, len(left.label_N), WHOLE_ROWS):
        place, start = slice(row, min(row + WHOLE_ROWS, len(left.label_N))), row * pairs.alone
        near_RC = left.table_ND[place] @ right.table_ND[start:num_columns].T
        cell_RC = empty.of(near_RC.cpu().numpy())
        for cell_C, low, high in zip(cell_RC, low_N[place].tolist(), (high_N[place] - start).tolist(), strict=True):
            parts += [cell_C[:low], cell_C[high:]]
    return Whole(low_N, high_N, num_columns), empty.filled(np.concatenate(parts))


def screened(pairs: Pairs, block: tuple[int, int, int, int], buffer: torch.Tensor) -> torch.Tensor:
    """The products of a block in the screening's precision, -inf where they are no different pair.

    At the end of the columns it reaches into the zero rows, to a whole segment.
    """
    (row, row_end, column, column_end), segment = block, pairs.plan.segment
    width = -(-(column_end - column) // segment) * segment
    block_RC = buffer[: (row_end - row) * width].view(row_end - row, width)
    torch.mm(pairs.left.table_ND[row:row_end], pairs.right.table_ND[column : column + width].T, out=block_RC)
    return masked(block_RC, block, pairs, -math.inf)


def _strips(near_RC, block):
    """(some rows of a block's products, their first row and column): so few that they stay in the processor's cache.

    On the processor they are numpy's, which takes a fraction of torch's time for them.
    """
    if near_RC is None:
        return
    num_rows, (row, _, column, _) = len(near_RC), block
    on_device = near_RC.device.type != "cpu"
    step = num_rows if on_device else max(1, STRIP // max(near_RC.shape[1], 1))
    for start in range(0, num_rows, step):
        strip_RC = near_RC[start : start + step]
        yield strip_RC if on_device else strip_RC.numpy(), (row + start, column)


def _picked(near_RC, chosen_RC, corner):
    """What is chosen of products in float32, as Held; corner: their first row and column."""
    if isinstance(near_RC, np.ndarray):
        flat = np.flatnonzero(chosen_RC)
        row_P = flat // chosen_RC.shape[1]
        column_P = flat - row_P * chosen_RC.shape[1]
        near_P = near_RC[row_P, column_P]
    else:
        row_P, column_P = chosen_RC.nonzero(as_tuple=True)
        near_P, row_P, column_P = (array_P.cpu().numpy() for array_P in (near_RC[row_P, column_P], row_P, column_P))
    return Held(near_P, (row_P + corner[0]).astype(np.int32), (column_P + corner[1]).astype(np.int32))


def possible_pairs(
    pairs: Pairs, block: tuple[int, int, int, int], buffer: torch.Tensor, floor: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, columns), inside a block, of all its different pairs that may have the similarity `floor` or more."""
    _, _, column, column_end = block
    block_RC, segment, lowest = screened(pairs, block, buffer), pairs.plan.segment, least(pairs, float(floor))
    width, segment_PS = block_RC.shape[1], block_RC.view(-1, segment)
    # Positive numbers are ordered as their bits are, and of those the largest is found four times as fast.
    kind = torch.int16 if block_RC.dtype == torch.bfloat16 and lowest > 0 else block_RC.dtype
    hot = (segment_PS.view(kind).amax(1) >= lowest.view(kind)).nonzero()[:, 0]
    which, place = (segment_PS[hot] >= lowest).nonzero(as_tuple=True)
    flat = hot[which] * segment + place
    flat = flat[flat % width < column_end - column]
    return flat // width, flat % width


def least(pairs: Pairs, floor: float) -> torch.Tensor:
    """The least screened value of a pair of similarity `floor`, in the screening's precision.

    Unit rows x, y lie in the tables as x', y' with |x - x'| <= e, |y - y'| <= f, which were measured. By Cauchy-Schwarz
    |x'y' - xy| <= |x' - x||y'| + |x||y' - y| <= e(|y| + f) + |x|f; the rounding of the products themselves is added.
    Rounding to bfloat16 keeps the order of numbers, so the least is rounded down.
    """
    e, f = pairs.left.error, pairs.right.error
    exactly = pairs.plan.screening == torch.float32 and pairs.left.table_ND.device.type == "cpu"
    step = rounding(pairs.left.table_ND.shape[1], exactly=exactly)
    error = e * (NORM + f) + NORM * f + step * (1 + e) * (1 + f)
    lowest = torch.tensor(floor - error, dtype=torch.float64)
    rounded = lowest.to(pairs.plan.screening)
    return rounded if rounded <= lowest else torch.nextafter(rounded, torch.tensor(-math.inf, dtype=rounded.dtype))


class Journal:
    """How far each stage is: for `progress`, and with its arrays in a file from which a later call goes on.

    A file of other embeddings is not gone on from.
    """

    def __init__(
        self,
        path: pathlib.Path | str | None,
        inputs: str | None,
        progress: Callable[[int, int], None] | None,
        total: int,
    ):
        self.path, self.inputs, self.total, self.done = path and pathlib.Path(path), inputs or "", total, 0
        self.progress = progress or (lambda *_: None)
        self.kept, self.states, self.saved_s, self.pause_s = {}, {}, time.monotonic(), SAVE_EVERY_S
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            arrays = dict(np.load(io.BytesIO(self.path.read_bytes()))) if path else {"inputs": None}
            self.kept = arrays if str(arrays["inputs"]) == inputs else {}

    def begin(self, stage: str, **start: Any) -> dict[str, np.ndarray]:
        """The stage's state as it was kept, or what it starts with: a dict of arrays that the stage changes."""
        self.states[stage] = {
            name: self.kept.get(f"{stage}/{name}", value) for name, value in {"done": 0, **start}.items()
        }
        self.done += int(self.states[stage]["done"])
        return self.states[stage]

    def left(
        self, state: dict[str, Any], blocks: Sequence, settle: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[int, int, int, int]]:
        """The blocks that are not done; `settle` brings the state up to date before it is written, and at the end."""
        for number in range(int(state["done"]), len(blocks)):
            yield blocks[number]
            state["done"], self.done, start_s = number + 1, self.done + 1, time.monotonic()
            if self.path and start_s - self.saved_s >= self.pause_s:
                settle()
                arrays = {f"{stage}/{name}": value for stage, of in self.states.items() for name, value in of.items()}
                np.savez(content := io.BytesIO(), inputs=self.inputs, **arrays)
                write_atomically(self.path, content.getvalue())
                self.saved_s = time.monotonic()
                self.pause_s = max(SAVE_EVERY_S, SAVE_PAUSE * (self.saved_s - start_s))  # many pairs take long to write
            self.progress(self.done, self.total)
        settle()
