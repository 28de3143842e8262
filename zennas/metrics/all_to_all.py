"""TAR at a FAR over all pairs of a million embeddings: exact, in bounded memory.

It takes little more than the time of the products.

Rows lie sorted by identity: same pairs then lie along the diagonal. Different pairs come in blocks: a fast, imprecise
product screens them against a floor, and what may lie above it is held. Only what lies so near to a threshold that its
rounding could matter is computed exactly.

N rows, M rows of the other side, R rows and C columns of a tile, P pairs, S sampled pairs, T thresholds, K points of
the curve, E edges of B bins
"""

import contextlib
import hashlib
import itertools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from zennas.metrics.blocks import GRID, READ_ROWS, Plan, exact, in_float32, paired
from zennas.metrics.held import EMPTY, cells_of, counted, deciding, leading, ranked
from zennas.metrics.scan import DENSE, WAITING, Journal, in_reach, scanned, whole
from zennas.metrics.verification import num_allowed
from zennas.records import UserError

# Different pairs that a FAR may accept for them to be held; and where they are more than the share DENSE. Others are
# counted.
MAX_KEPT, FEW_KEPT = 20_000_000, 200_000
SMALL_IDENTITY = 64  # rows and columns at most: the same pairs of many such identities are multiplied together
TILE_ROWS, TILE_COLUMNS = 512, 4096  # of larger ones
SAMPLE_SIDE, NUM_BINS, NUM_POINTS = 2048, 200, 200  # of so many rows on either side all pairs are held
SAMPLED_ONE_IN, SAMPLED_PAIRS = 512, (2**16, 2**26)  # of all pairs are sampled, within limits
SAMPLED_SIDE = 64  # of a tile of them, at least: smaller products take longer
MAX_SAME = 2**24  # same pairs whose similarities are held; more are counted once again


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
    Memory: rows in the screening's precision on the device (2 or 4 bytes a number; beside those of 2 the rows in
    float32, up to blocks.MAX_UNIT_BYTES), blocks, 12 bytes for each different pair that may be accepted, twice that
    while they are put together, and the embeddings, which may stay on disk. Of a FAR that accepts more than MAX_KEPT,
    or a large share, the pairs near its threshold alone are held, as a sample says, and rows in float32. All FARs
    together cost one pass over the pairs. UserError: shapes that do not match, values that are not finite, FARs outside
    [0, 1], no rows.
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
        most = min(MAX_KEPT, max(FEW_KEPT, int(DENSE * total)), total)
        held = [far for far in fars if rank_of[far] <= most]
        wide = sorted({rank for rank in rank_of.values() if most < rank <= total})
        need = max([min(num_hardest, total), *(rank_of[far] for far in held)])
        if small := _is_small(pairs):  # all pairs are held
            held, wide, need = list(fars), [], total
        sample_S = np.empty(0) if small else _sampled(pairs, seed)
        if pairs.plan.screening != torch.float32 and (small or wide or in_reach(pairs, sample_S, need) > DENSE):
            pairs = in_float32(pairs)
        same_P, same_B, weakest = _same_pairs(pairs, num_hardest)
        edge_E = np.linspace(-1, 1, NUM_BINS + 1)
        strong, cells, at_rank, hardest = EMPTY, None, {}, (np.empty(0), np.empty(0, np.int64))
        if small and need:
            strong, cells = whole(pairs, edge_E)
            (progress or (lambda *_: None))(1, 1)
        elif need or wide:
            inputs = kept and _fingerprint(pairs, rank_of, seed, need)
            journal = Journal(kept, inputs, progress, len(pairs.blocks))
            strong, at_rank = scanned(pairs, need, wide, sample_S, journal)
            cells = cells_of(pairs, strong) if need else None
        far_K = np.geomspace(1 / total, 1, NUM_POINTS) if total else np.empty(0)
        rank_K = np.array([num_allowed(far, total) + 1 for far in far_K], np.int64)
        near_K, unsure_K = _near_thresholds(pairs, rank_K, cells, need, same_P)
        if need:
            ranks = {need, *rank_K[unsure_K].tolist(), *(rank for rank in rank_of.values() if rank <= need)}
            if small:
                strong, cells = deciding(pairs, strong, cells, ranks, num_hardest, edge_E)
            at_rank |= ranked(pairs, strong, cells, ranks)
            hardest = leading(pairs, strong, cells, num_hardest)
        at_far = {far: at_rank.get(rank_of[far], (-math.inf if total else math.nan, total)) for far in fars}
        above_T = _above(pairs, same_P, np.array([threshold for threshold, _ in at_far.values()]))
        near_K[unsure_K] = [at_rank[rank][0] for rank in rank_K[unsure_K].tolist()]
        above_K = _curve(pairs, far_K, sample_S, near_K, at_rank.get(need, (math.inf,))[0], same_P)
        different_B = np.histogram(np.clip(sample_S, -1, 1), edge_E)[0]
        if small and need:
            different_B = counted(pairs, strong, cells, edge_E)
    tar_of = {
        far: above / pairs.num_same if pairs.num_same and not math.isnan(threshold) else math.nan
        for (far, (threshold, _)), above in zip(at_far.items(), above_T.tolist(), strict=True)
    }
    hardest_pairs = [
        list(zip(one_P.tolist(), (key_P // num_columns).tolist(), (key_P % num_columns).tolist(), strict=True))
        for one_P, key_P in (hardest, weakest)
    ]
    if kept:
        pathlib.Path(kept).unlink(missing_ok=True)
    return AllToAll(
        [Point(far, float(at_far[far][0]), tar_of[far], at_far[far][1]) for far in fars],
        pairs.num_same,
        total,
        far_K,
        above_K / pairs.num_same if pairs.num_same else np.full(len(far_K), math.nan),
        _exact_up_to(pairs, held, need),
        (edge_E, same_B, different_B / max(different_B.sum(), 1)),
        *hardest_pairs,
    )


def _exact_up_to(pairs, held, need):
    """The largest FAR at which the curve rests on all different pairs: the held ones, or a sample that has them all."""
    if need >= pairs.num_different or _is_small(pairs):
        return 1.0
    return max([*held, (need - 1) / pairs.num_different])


def _near_thresholds(pairs, rank_K, cells, need, same_P):
    """(about the similarity of each rank of the curve, NaN beyond the pairs held; where that does not say enough).

    Where no same pair lies near a threshold, its product in float32 says as much as the threshold itself.
    """
    near_K, held_K = np.where(rank_K > pairs.num_different, -math.inf, math.nan), rank_K <= need
    unsure_K = np.zeros(len(rank_K), bool)
    if held_K.any():
        low_K, high_K = cells.around(cells.of_rank(rank_K[held_K]))
        near_K[held_K] = low_K
        unsure_K[held_K] = _above(pairs, same_P, low_K) != _above(pairs, same_P, high_K)
    return near_K, unsure_K


def _curve(pairs, far_K, sample_S, threshold_K, last, same_P):
    """How many same pairs each FAR of the curve accepts.

    threshold_K: NaN beyond the pairs held; there by the sample, but never above `last`, the last exact threshold.
    """
    for place in np.flatnonzero(np.isnan(threshold_K)) if len(sample_S) else ():
        guess = num_allowed(far_K[place], len(sample_S))
        sampled = sample_S[guess] if guess < len(sample_S) else -math.inf
        threshold_K[place] = min(sampled, last)
    return np.where(np.isnan(threshold_K), math.nan, _above(pairs, same_P, threshold_K))


def _is_small(pairs):
    return max(len(side.label_N) for side in (pairs.left, pairs.right)) <= SAMPLE_SIDE


def _sampled(pairs, seed):
    """Similarities of some different pairs, the largest first.

    Tiles of rows and columns in a random order, no row more often than another: a few rows of many similar others do
    not move the sample. It is many times as near to all pairs as all pairs of a few rows would be.
    """
    rng, sizes = np.random.default_rng(seed), [len(side.label_N) for side in (pairs.left, pairs.right)]
    if not pairs.num_different:
        return np.empty(0)
    num_pairs = int(np.clip(pairs.num_different // SAMPLED_ONE_IN, *SAMPLED_PAIRS))
    side = max(SAMPLED_SIDE, num_pairs // max(sizes))
    side = max(1, min(side, min(sizes) // 2 if pairs.alone else min(sizes)))
    order_N = rng.permutation(sizes[0])
    order_M = np.roll(order_N, -side) if pairs.alone else rng.permutation(sizes[1])
    parts = []
    for start in range(0, min(max(sizes), math.ceil(num_pairs / side)), side):
        tile = np.arange(start, start + side)
        place_R, place_C = order_N[tile % sizes[0]], order_M[tile % sizes[1]]
        different_RC = pairs.left.label_N[place_R][:, None] != pairs.right.label_N[place_C]
        parts.append(exact(pairs, place_R, place_C).cpu().numpy()[different_RC])
    return np.sort(np.concatenate(parts))[::-1]


def _strongest(similarity_P, key_P, num):
    num = min(num, len(key_P))
    last = np.partition(similarity_P, len(key_P) - num)[len(key_P) - num] if num else math.inf
    above, equal = np.flatnonzero(similarity_P > last), np.flatnonzero(similarity_P == last)
    chosen = np.append(above, equal[np.argsort(key_P[equal])][: num - len(above)])
    chosen = chosen[np.lexsort((key_P[chosen], -similarity_P[chosen]))]
    return similarity_P[chosen], key_P[chosen]


def same_tiles(pairs):
    """(similarities, rows, columns) of the same pairs: of small identities at once, of large ones tile by tile."""
    start_U, end_U, low_U, high_U = pairs.span_U4.T
    low_U = start_U if pairs.alone else low_U
    small_U = np.maximum(end_U - start_U, high_U - low_U) <= SMALL_IDENTITY
    kind_U = (end_U - start_U) * (SMALL_IDENTITY + 1) + high_U - low_U  # those of a kind have equal sizes
    for kind in np.unique(kind_U[small_U]).tolist():
        kind_V = np.flatnonzero(small_U & (kind_U == kind))
        yield from _same_of_kind(pairs, start_U[kind_V], low_U[kind_V], divmod(kind, SMALL_IDENTITY + 1))
    for start, end, low, high in np.stack([start_U, end_U, low_U, high_U], 1)[~small_U].tolist():
        for row in range(start, end, TILE_ROWS):
            for column in range(row if pairs.alone else low, high, TILE_COLUMNS):
                place_R, place_C = (
                    slice(row, min(row + TILE_ROWS, end)),
                    slice(column, min(column + TILE_COLUMNS, high)),
                )
                exact_RC = exact(pairs, place_R, place_C).cpu().numpy()
                row_P, column_P = _pairs_of(exact_RC.shape, diagonal=pairs.alone and row == column)
                yield exact_RC[row_P, column_P] + 0.0, row_P + row, column_P + column


def _same_of_kind(pairs, start_V, low_V, sizes):
    """As same_tiles, of identities that have so many rows and columns each, from these places on."""
    row_P, column_P = _pairs_of(sizes, diagonal=pairs.alone)
    for part in range(0, len(start_V) if len(row_P) else 0, step := max(1, READ_ROWS // max(sizes))):
        start_W, low_W = start_V[part : part + step, None], low_V[part : part + step, None]
        left_WRD = _rows_of(pairs.left, start_W, sizes[0])
        right_WCD = left_WRD if pairs.alone else _rows_of(pairs.right, low_W, sizes[1])
        exact_WRC = (left_WRD @ right_WCD.mT).cpu().numpy()
        yield exact_WRC[:, row_P, column_P].ravel() + 0.0, (start_W + row_P).ravel(), (low_W + column_P).ravel()


def _rows_of(side, start_W, num_rows):
    return side.unit((start_W + np.arange(num_rows)).ravel()).double().unflatten(0, (-1, num_rows))


def _pairs_of(shape, *, diagonal):
    """(rows, columns) of all places of a tile; above its diagonal alone, where it lies on that of all pairs."""
    return np.triu_indices(shape[0], 1, shape[1]) if diagonal else np.indices(shape).reshape(2, -1)


def _same_pairs(pairs, num_hardest):
    """(all similarities in ascending order, None for more than MAX_SAME; counts in the bins; (similarities, keys) of
    the weakest) of the same pairs.
    """
    same_B, kept, waiting, num_waiting = np.zeros(NUM_BINS, np.int64), [], [], 0
    negative_P, key_P = np.empty(0), np.empty(0, np.int64)
    for tile in itertools.chain(same_tiles(pairs), [None]):
        waiting += [tile] if tile else []
        num_waiting += len(tile[0]) if tile else 0
        if waiting and (tile is None or num_waiting > WAITING):
            same_P, row_P, column_P = map(np.concatenate, zip(*waiting, strict=True))
            waiting, num_waiting = [], 0
            same_B += np.histogram(np.clip(same_P, -1, 1), NUM_BINS, (-1, 1))[0]
            hard_P = -same_P >= (negative_P[-1] if len(key_P) >= num_hardest > 0 else -math.inf)
            key_P = np.append(key_P, pairs.key(row_P[hard_P], column_P[hard_P]))
            negative_P, key_P = _strongest(np.append(negative_P, -same_P[hard_P]), key_P, num_hardest)
            kept += [same_P] if pairs.num_same <= MAX_SAME else []
    same_P = np.sort(np.concatenate([np.empty(0), *kept])) if pairs.num_same <= MAX_SAME else None
    return same_P, same_B, (-negative_P, key_P)


def _above(pairs, same_P, threshold_T):
    """How many same pairs lie above each threshold. same_P: as _same_pairs gives them."""
    if same_P is not None:
        return pairs.num_same - np.searchsorted(same_P, threshold_T, side="right")
    order_T = np.argsort(threshold_T)
    place_T = np.zeros(len(threshold_T) + 1, np.int64)
    for tile_P, _, _ in same_tiles(pairs):
        place_T += np.bincount(np.searchsorted(threshold_T[order_T], tile_P), minlength=len(place_T))
    above_T = np.empty(len(threshold_T), np.int64)
    above_T[order_T] = np.cumsum(place_T[:0:-1])[::-1]
    return above_T


def _fingerprint(pairs, ranks, seed, need):
    """A name of everything that a kept state depends on; the screening is no part of it, blocks are."""
    name = hashlib.blake2b(repr((2, GRID, pairs.plan[:3], pairs.alone, ranks, seed, need)).encode(), digest_size=16)
    for side in (pairs.left, pairs.right)[: 2 - pairs.alone]:
        shape = repr((side.source_ND.shape, side.source_ND.dtype.str)).encode()
        name.update(shape + side.order_N.tobytes() + side.label_N.tobytes())
        for start in range(0, len(side.label_N), 4096):
            name.update(np.ascontiguousarray(side.source_ND[start : start + 4096]).data)
    return name.hexdigest()
