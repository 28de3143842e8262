"""TAR at a FAR over all pairs of a million embeddings: exact, in bounded memory.

It takes little more than the time of the products.

Rows lie sorted by identity: same pairs then lie along the diagonal and are computed one by one. Different pairs come in
blocks: a fast, imprecise product screens them against a floor, and what may lie above it, a few in a million, is
computed exactly. A FAR that accepts more pairs than can be held is answered by counting.

N rows, M rows of the other side, D embedding size, R rows and C columns of a block, P pairs, S sampled pairs, U
identities, T thresholds, K points of the curve, B bins, L intervals
"""

import contextlib
import hashlib
import io
import math
import pathlib
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from zennas.metrics.blocks import GRID, Pairs, Plan, exact, masked, paired
from zennas.metrics.verification import num_allowed
from zennas.records import UserError
from zennas.run_folder import write_atomically

MAX_KEPT = 20_000_000  # different pairs that a FAR may accept for them to be held; others are counted
SLACK, WAITING = 65_536, 131_072  # held beyond twice the need; candidates that are computed together
TILE_ROWS, TILE_COLUMNS = 256, 4096  # of same pairs: narrow, because most of a tile are different ones
SAMPLE_SIDE, NUM_BINS, NUM_POINTS = 2048, 200, 200  # the sample is all pairs of so many rows and so many others
SAVE_EVERY_S, SAVE_PAUSE = 10.0, 20  # and no sooner than so many times what the last writing took
NORM = 1.00001  # no unit row is longer: float32 and the grid add less than 2^-24 + sqrt(D) 2^-27
DIGIT, NUM_DIGITS = 18, 3  # bits of a digit: 54 bits number all multiples of GRID^-2 in [-2, 2)


class Point(NamedTuple):
    """TAR at a FAR. The threshold is the strongest different pair that may not be accepted; accepted ones lie above."""

    far: float
    threshold: float  # -inf where every pair is accepted; NaN without different pairs
    tar: float  # NaN without same pairs or without different ones
    num_accepted: int  # different pairs: as many as the FAR allows, fewer where some are equal


class AllToAll(NamedTuple):
    """What all pairs say. A hardest pair is (similarity, i, j), i and j rows of the caller's.

    Of pairs that are equal, those of the first rows come first.
    """

    points: list[Point]  # one for each FAR asked
    num_same: int
    num_different: int
    far_K: np.ndarray
    tar_K: np.ndarray
    exact_up_to: float  # a FAR; beyond it the curve is of sampled different pairs
    histogram: tuple  # edges of bins over [-1, 1], counts of all same pairs, shares of the sampled different ones
    hardest_different: list[tuple]  # the most similar first
    hardest_same: list[tuple]  # the least similar first


def all_to_all(
    embedding_ND: np.ndarray,
    label_N: np.ndarray,
    fars: Sequence[float],
    *,
    against: tuple[np.ndarray, np.ndarray] | None = None,
    device: str = "cpu",
    kept: pathlib.Path | str | None = None,
    progress: Callable[[int, int], None] | None = None,
    num_hardest: int = 24,
    seed: int = 0,
    _plan: Plan | None = None,
) -> AllToAll:
    """The AllToAll of every pair of rows i < j, or of every row and every row of `against`: (embedding_MD, label_M).

    embedding_ND: floats, an array or a memmap. Rows are made of unit length; one of zeros, for an image that could not
    be used, has similarity 0 to all. label_N: whole numbers, one for each identity. fars: shares in [0, 1], each
    answered as verification.tar_at_far does. kept: a file by which an interrupted call goes on; that of other inputs is
    begun anew, and it is removed at the end. progress(done, total): in blocks. seed: of the sample, from which the
    histogram and, beyond exact_up_to, the curve come; where few sampled pairs lie the curve is a rough one.

    A similarity is the float64 product of two unit rows, divided in float64, rounded to float32 and to multiples of
    2^-26. It has no rounding at all, in whatever order it is summed: device, threads, blocks and screening change no
    bit of a result.
    Memory: rows in the screening's precision on the device (2 or 4 bytes a number), blocks, up to 100 bytes for each
    different pair that may be accepted, and the embeddings, which may stay on disk. FARs that accept more than MAX_KEPT
    cost three passes of float64 products, and rows in float32; all others cost one screening together. UserError:
    shapes that do not match, values that are not finite, FARs outside [0, 1], no rows.
    """
    if bad := [far for far in fars if not 0 <= far <= 1]:
        raise UserError(f"far {bad[0]}: allowed: a share in [0, 1]")
    with contextlib.ExitStack() as after, torch.no_grad():
        # Products of float32 in float32, and those of bfloat16 summed in it: the screening's bound rests on that.
        after.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
        torch.set_float32_matmul_precision("highest")
        cuda, reduced = torch.backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"
        after.callback(setattr, cuda, reduced, getattr(cuda, reduced))
        setattr(cuda, reduced, False)
        pairs = paired(embedding_ND, label_N, against, device=device, plan=_plan)
        total, num_columns = pairs.num_different, len(pairs.right.label_N)
        rank_of = {far: num_allowed(far, total) + 1 for far in fars}  # the strongest that is not accepted
        held = [far for far in fars if rank_of[far] <= min(MAX_KEPT, total)]
        wide = sorted({rank for rank in rank_of.values() if MAX_KEPT < rank <= total})
        need = max([min(num_hardest, total), *(rank_of[far] for far in held)])
        num_blocks = len(pairs.blocks) * ((need > 0) + NUM_DIGITS * bool(wide))
        journal = _Journal(kept, kept and _fingerprint(pairs, rank_of, seed, need), progress, num_blocks)
        sample_S = _sampled(pairs, seed)
        tail_P, key_P = _strongest_different(pairs, need, sample_S, journal)
        tail_P = tail_P + 0.0  # no zero is negative, as a sum of products of zeros and negative numbers is
        at_rank = {rank: (tail_P[rank - 1], int(np.sum(tail_P > tail_P[rank - 1]))) for rank in map(rank_of.get, held)}
        at_rank |= _counted(pairs, wide, journal)
        at_far = {far: at_rank.get(rank_of[far], (-math.inf if total else math.nan, total)) for far in fars}
        far_K = np.geomspace(1 / total, 1, NUM_POINTS) if total else np.empty(0)
        threshold_K = [_curve_threshold(far, total, tail_P, sample_S) for far in far_K]
        threshold_T = np.array([*(threshold for threshold, _ in at_far.values()), *threshold_K])
        threshold_T = np.unique(threshold_T[~np.isnan(threshold_T)])
        above_T, same_B, weakest = _same_pairs(pairs, threshold_T, num_hardest)
    tar = dict(zip(threshold_T, (above_T / pairs.num_same).tolist(), strict=True)) if pairs.num_same else {}
    different_B = np.histogram(np.clip(sample_S, -1, 1), NUM_BINS, (-1, 1))[0] / max(len(sample_S), 1)
    hardest = [
        list(zip(one_P.tolist(), (key_P // num_columns).tolist(), (key_P % num_columns).tolist(), strict=True))
        for one_P, key_P in ((tail_P[:num_hardest], key_P[:num_hardest]), weakest)
    ]
    if kept:
        pathlib.Path(kept).unlink(missing_ok=True)
    return AllToAll(
        [Point(far, float(at_far[far][0]), tar.get(at_far[far][0], math.nan), at_far[far][1]) for far in fars],
        pairs.num_same,
        total,
        far_K,
        np.array([tar.get(threshold, math.nan) for threshold in threshold_K]),
        _exact_up_to(pairs, held, need),
        (np.linspace(-1, 1, NUM_BINS + 1), same_B, different_B),
        *hardest,
    )


def _exact_up_to(pairs, held, need):
    """The largest FAR at which the curve rests on all different pairs: the held ones, or a sample that has them all."""
    if need >= pairs.num_different or max(len(side.label_N) for side in (pairs.left, pairs.right)) <= SAMPLE_SIDE:
        return 1.0
    return max([*held, (need - 1) / pairs.num_different])


def _curve_threshold(far, num_different, tail_P, sample_S):
    """Exact where the pairs held reach; beyond, the sample's, but never above the last exact one."""
    allowed, guess = num_allowed(far, num_different), num_allowed(far, len(sample_S))
    if allowed < len(tail_P):
        return tail_P[allowed]
    if allowed == num_different or not len(sample_S):
        return -math.inf if allowed == num_different else math.nan
    return min([sample_S[guess] if guess < len(sample_S) else -math.inf, *tail_P[-1:]])


def _sampled(pairs, seed):
    """Similarities of the different pairs of some rows and some others, the largest first."""
    rng, sizes = np.random.default_rng(seed), [len(side.label_N) for side in (pairs.left, pairs.right)]
    place_R, place_C = (rng.choice(size, min(size, SAMPLE_SIDE), replace=False) for size in sizes)
    different_RC = pairs.left.label_N[place_R][:, None] != pairs.right.label_N[place_C]
    return np.sort(exact(pairs, place_R, place_C).cpu().numpy()[different_RC])[::-1]


def first_floor(sample_S: np.ndarray, need: int, num_different: int, attempt: int) -> float:
    """A guess: about twice as many pairs as are needed lie above it; 8 times that in a second attempt; in the last one,
    all.
    """
    place = math.ceil(2 * need / num_different * 8**attempt * len(sample_S)) + 10
    return sample_S[place] if attempt < 2 and place < len(sample_S) else -2.0


def _strongest_different(pairs, need, sample_S, journal, attempt=0):
    """(similarities, keys) of the `need` strongest different pairs, the strongest first; of equal ones the lowest keys.

    The floor rises to the need-th largest similarity seen whenever too many are held: more pairs can only raise that
    one, so what lies below it now is not among the strongest in the end. An equal one can be, by its key.
    """
    if need == 0:
        return np.empty(0), np.empty(0, np.int64)
    floor = first_floor(sample_S, need, pairs.num_different, attempt)
    state = journal.begin(f"tail {attempt}", floor=floor, similarity=np.empty(0), key=np.empty(0, np.int64))
    buffer, waiting, fresh = pairs.left.table_ND.new_empty(pairs.plan.rows * pairs.plan.columns), [], []

    def hold(new_P, row_P, column_P):
        above_P = new_P >= state["floor"]
        fresh.append((new_P[above_P], pairs.key(row_P[above_P], column_P[above_P])))

    def settle():
        if waiting:
            row_P, column_P = (torch.cat(places).cpu().numpy() for places in zip(*waiting, strict=True))
            waiting.clear()
            parts = [slice(at, at + 8192) for at in range(0, len(row_P), 8192)]
            products = (pairs.left.unit(row_P[part]).double() * pairs.right.unit(column_P[part]) for part in parts)
            hold(np.concatenate([product_PD.sum(1).cpu() for product_PD in products]), row_P, column_P)
        held = zip((state["similarity"], state["key"]), *fresh, strict=True)
        state["similarity"], state["key"] = map(np.concatenate, held)
        fresh.clear()
        if len(state["key"]) > 2 * need + SLACK:
            state["similarity"], state["key"] = _strongest(state["similarity"], state["key"], need)
            state["floor"] = state["similarity"][-1]

    for row, row_end, column, column_end in journal.left(state, pairs.blocks, settle):
        row_P, column_P = possible_pairs(pairs, (row, row_end, column, column_end), buffer, float(state["floor"]))
        if 64 * len(row_P) > (row_end - row) * (column_end - column):  # so many are cheaper as a product
            new_P = exact(pairs, slice(row, row_end), slice(column, column_end))[row_P, column_P].cpu().numpy()
            hold(new_P, row_P.cpu().numpy() + row, column_P.cpu().numpy() + column)
        elif len(row_P):
            waiting.append((row_P + row, column_P + column))
        if sum(len(rows) for rows, _ in waiting + fresh) > WAITING + need // 4:
            settle()
    if len(state["key"]) < need:  # the floor was too high
        journal.total += len(pairs.blocks)
        return _strongest_different(pairs, need, sample_S, journal, attempt + 1)
    return _strongest(state["similarity"], state["key"], need)


def possible_pairs(
    pairs: Pairs, block: tuple[int, int, int, int], buffer: torch.Tensor, floor: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, columns), inside a block, of all its different pairs that may have the similarity `floor` or more."""
    (row, row_end, column, column_end), segment = block, pairs.plan.segment
    width = -(-(column_end - column) // segment) * segment  # at the end it reaches into the zero rows
    block_RC = buffer[: (row_end - row) * width].view(row_end - row, width)
    torch.mm(pairs.left.table_ND[row:row_end], pairs.right.table_ND[column : column + width].T, out=block_RC)
    masked(block_RC, block, pairs, -math.inf)
    least, segment_PS = _least(pairs, floor), block_RC.view(-1, segment)
    # Positive numbers are ordered as their bits are, and of those the largest is found four times as fast.
    kind = torch.int16 if block_RC.dtype == torch.bfloat16 and least > 0 else block_RC.dtype
    hot = (segment_PS.view(kind).amax(1) >= least.view(kind)).nonzero()[:, 0]
    which, place = (segment_PS[hot] >= least).nonzero(as_tuple=True)
    flat = hot[which] * segment + place
    flat = flat[flat % width < column_end - column]
    return flat // width, flat % width


def _least(pairs, floor):
    """The least screened value of a pair of similarity `floor`, in the screening's precision.

    Unit rows x, y lie in the tables as x', y' with |x - x'| <= e, |y - y'| <= f, which were measured. By Cauchy-Schwarz
    |x'y' - xy| <= |x' - x||y'| + |x||y' - y| <= e(|y| + f) + |x|f. Summed in float32, in any order, D products are off
    by g|x'||y'| at most, g = Du / (1 - Du) (Higham 2002, 3.1); u is 2^-22, four times that of rounding to the nearest,
    because tensor cores cut off; underflow adds less than D 2^-120. Rounding to bfloat16 keeps the order of numbers, so
    the least is rounded down.
    """
    size, e, f = pairs.left.table_ND.shape[1], pairs.left.error, pairs.right.error
    assert size < 2**20
    g = size * 2.0**-22 / (1 - size * 2.0**-22)
    error = e * (NORM + f) + NORM * f + g * (NORM + e) * (NORM + f) + size * 2.0**-120
    least = torch.tensor(floor - error, dtype=torch.float64)
    rounded = least.to(pairs.plan.screening)
    return rounded if rounded <= least else torch.nextafter(rounded, torch.tensor(-math.inf, dtype=rounded.dtype))


def _strongest(similarity_P, key_P, num):
    num = min(num, len(key_P))
    last = np.partition(similarity_P, len(key_P) - num)[len(key_P) - num] if num else math.inf
    above, equal = np.flatnonzero(similarity_P > last), np.flatnonzero(similarity_P == last)
    chosen = np.append(above, equal[np.argsort(key_P[equal])][: num - len(above)])
    chosen = chosen[np.lexsort((key_P[chosen], -similarity_P[chosen]))]
    return similarity_P[chosen], key_P[chosen]


def _counted(pairs, ranks, journal):
    """rank -> (the similarity of that rank among the different pairs, how many lie above it), found digit by digit."""
    if ranks and pairs.plan.screening != torch.float32:  # unit rows once, not for every block
        sides = [
            side._replace(
                table_ND=torch.cat([side.unit(slice(at, at + 4096)) for at in range(0, len(side.label_N), 4096)])
            )
            for side in (pairs.left, pairs.right)[: 2 - pairs.alone]
        ]
        pairs = pairs._replace(left=sides[0], right=sides[-1])
    low, above = dict.fromkeys(ranks, -(2 ** (DIGIT * NUM_DIGITS - 1))), dict.fromkeys(ranks, 0)  # low: times GRID^2
    for shift in range(DIGIT * (NUM_DIGITS - 1), -1, -DIGIT) if ranks else ():
        starts = sorted(set(low.values()))
        state = journal.begin(f"count {shift}", count_LB=np.zeros((len(starts), 2**DIGIT), np.int64))
        for block in journal.left(state, pairs.blocks):
            exact_RC = exact(pairs, slice(*block[:2]), slice(*block[2:]))
            place_RC = (masked(exact_RC, block, pairs, -3.0) * GRID**2).long()  # -3 lies in no interval
            for start, count_B in zip(starts, state["count_LB"], strict=True):
                inside_P = place_RC[(place_RC >= start) & (place_RC < start + 2 ** (shift + DIGIT))]
                count_B += torch.bincount((inside_P - start) >> shift, minlength=2**DIGIT).cpu().numpy()
        for rank in ranks:
            falling_B = state["count_LB"][starts.index(low[rank])][::-1]
            digit = int(np.searchsorted(np.cumsum(falling_B), rank - above[rank]))
            above[rank] += int(falling_B[:digit].sum())
            low[rank] += (2**DIGIT - 1 - digit) << shift
    return {rank: (low[rank] / GRID**2, above[rank]) for rank in ranks}


def _same_pairs(pairs, threshold_T, num_hardest):
    """(counts above each threshold, counts in the bins, (similarities, keys) of the weakest) of the same pairs."""
    device, num_rows = pairs.left.table_ND.device, len(pairs.left.label_N)
    place_T, same_B = np.zeros(len(threshold_T) + 1, np.int64), np.zeros(NUM_BINS, np.int64)
    negative_P, key_P = np.empty(0), np.empty(0, np.int64)
    for row in range(0, num_rows, TILE_ROWS):
        row_end = min(row + TILE_ROWS, num_rows)
        span_U4 = pairs.spans(row, row_end)
        low, high = max(int(span_U4[0, 2]), row * pairs.alone), int(span_U4[-1, 3])
        for column in range(low, high, TILE_COLUMNS):
            column_end = min(column + TILE_COLUMNS, high)
            same_RC = pairs.left.label_N[row:row_end, None] == pairs.right.label_N[column:column_end]
            if pairs.alone:
                same_RC &= np.arange(row, row_end)[:, None] < np.arange(column, column_end)
            same_P = exact(pairs, slice(row, row_end), slice(column, column_end))[torch.from_numpy(same_RC).to(device)]
            below_P = torch.bucketize(same_P, torch.from_numpy(threshold_T).to(device))  # how many thresholds lie below
            place_T += torch.bincount(below_P, minlength=len(place_T)).cpu().numpy()
            same_P, (row_P, column_P) = same_P.cpu().numpy(), same_RC.nonzero()
            same_B += np.histogram(np.clip(same_P, -1, 1), NUM_BINS, (-1, 1))[0]
            hard_P = -same_P >= (negative_P[-1] if len(key_P) >= num_hardest > 0 else -math.inf)
            key_P = np.append(key_P, pairs.key(row_P[hard_P] + row, column_P[hard_P] + column))
            negative_P, key_P = _strongest(np.append(negative_P, -same_P[hard_P]), key_P, num_hardest)
    return np.cumsum(place_T[:0:-1])[::-1], same_B, (-negative_P, key_P)


class _Journal:
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


def _fingerprint(pairs, ranks, seed, need):
    """A name of everything that a kept state depends on; the screening is no part of it, blocks are."""
    name = hashlib.blake2b(repr((1, GRID, pairs.plan[:3], pairs.alone, ranks, seed, need)).encode(), digest_size=16)
    for side in (pairs.left, pairs.right)[: 2 - pairs.alone]:
        shape = repr((side.source_ND.shape, side.source_ND.dtype.str)).encode()
        name.update(shape + side.order_N.tobytes() + side.label_N.tobytes())
        for start in range(0, len(side.label_N), 4096):
            name.update(np.ascontiguousarray(side.source_ND[start : start + 4096]).data)
    return name.hexdigest()
