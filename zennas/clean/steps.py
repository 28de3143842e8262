"""The steps of a round of cleaning: STEPS, each (State, Bench) -> State, and the ORDERS in which they come.

N images, M of them that count, C identities, P pairs, D embedding size
"""

import itertools
import pathlib
from typing import NamedTuple

import numpy as np

from zennas.clean import parts
from zennas.clean.centres import MAX_CLUSTERED
from zennas.clean.grouping import joined
from zennas.clean.index import CentreIndex
from zennas.clean.plan import CleanPlan
from zennas.clean.state import DUPLICATE, FAR, MERGED, NEARER, SMALL, UNUSABLE
from zennas.data.labels import DROPPED
from zennas.records import UserError
from zennas.run_folder import explaining

PART = 32_768  # images of a part of the work
PAIRS = 8_000_000  # of images of one identity whose likeness a part holds
SEARCHED = 131_072  # of one that asks the index, whose cells are then asked by many at once
TIE = 1e-3  # cosines that embeddings in float16 do not tell apart


class Centres(NamedTuple):
    """The robust centres of the identities that have an image. path, index: their files."""

    number_C: np.ndarray  # sorted
    centre_CD: np.ndarray
    num_members_C: np.ndarray
    label_N: np.ndarray  # whose images they are of
    path: str

    def places(self, label_M):
        """Where the centres of these identities stand."""
        return np.searchsorted(self.number_C, label_M)


class Bench:
    """What steps work with: embeddings, the plan, the work; and the centres as they were last, so that only those of
    identities that changed are found anew."""

    def __init__(self, embeddings, plan: CleanPlan, work, *, number=1, device=None):
        """embeddings: an .npy. number: of the round. device: where all centres are compared (cuda); None: an index
        instead.
        """
        self.embeddings, self.plan, self.work, self.number = str(embeddings), plan, work, number
        self.device = device
        self._last, self._count, self._index = None, 0, None

    def centres(self, label_N):
        """The Centres of identities as label_N has them."""
        last = self._last
        if last is not None and np.array_equal(last.label_N, label_N):
            return last
        self._count += 1
        number_C = np.unique(label_N[label_N >= 0])
        if last is None:
            changed_C = number_C
        else:
            moved_N = last.label_N != label_N
            changed_C = np.intersect1d(np.append(last.label_N[moved_N], label_N[moved_N]), number_C)
        image_M, starts_C = grouped(label_N, changed_C)
        cuts = part_cuts(starts_C, len(image_M), squares=True)
        tasks = [
            (
                self.embeddings,
                image_M[starts_C[one] : _end(starts_C, other, image_M)],
                starts_C[one:other] - starts_C[one],
                self.plan.dbscan_eps,
                self.plan.dbscan_min_samples,
            )
            for one, other in itertools.pairwise(cuts)
        ]
        found = self.work.map(f"round {self.number}.{self._count} centres", parts.centres, tasks)
        size = np.load(self.embeddings, mmap_mode="r").shape[1]
        centre_CD, num_members_C = np.zeros((len(number_C), size), np.float32), np.zeros(len(number_C), np.int32)
        if last is not None:
            stays_C = np.setdiff1d(number_C, changed_C, assume_unique=True)
            place_C, before_C = np.searchsorted(number_C, stays_C), last.places(stays_C)
            centre_CD[place_C], num_members_C[place_C] = last.centre_CD[before_C], last.num_members_C[before_C]
        if found:
            place_C = np.searchsorted(number_C, changed_C)
            centre_CD[place_C] = np.concatenate([one["centre_CD"] for one in found])
            num_members_C[place_C] = np.concatenate([one["num_members_C"] for one in found])
        path = self._file("centres.npy")
        with explaining(self.work.folder):
            np.save(path, centre_CD)
            np.save(pathlib.Path(path).with_suffix(".numbers.npy"), number_C)
        self._last, self._index = Centres(number_C, centre_CD, num_members_C, label_N, path), None
        return self._last

    def index(self):
        """The IndexFile of the last centres."""
        if self.device is not None:
            return parts.IndexFile(self._last.path, self.device)
        if self._index is None:
            self._index = parts.IndexFile(self._file("centres.faiss"))
            if not pathlib.Path(self._index.path).is_file():
                with explaining(self.work.folder):
                    CentreIndex(self._last.centre_CD, self._last.number_C).save(self._index.path)
        return self._index

    def map(self, name, function, tasks, *, by_index=False):
        """Work.map under a name of its own in this round; by_index: an index is asked, which may be on this process's
        device.
        """
        here = by_index and self.device is not None
        return self.work.map(f"round {self.number}.{self._count} {name}", function, tasks, here=here)

    def _file(self, name):
        return str(self.work.folder / f"{self.number}.{self._count}-{name}")


def leave_out_unusable(state, bench):
    """Images without an embedding take no part. UserError where no network speaks: all of them are without, or all are
    equal.
    """
    num = len(state.label_N)
    cuts = [*range(0, num, PART), num]
    tasks = [(bench.embeddings, start, stop) for start, stop in itertools.pairwise(cuts)]
    found = bench.map("rows", parts.usable, tasks)
    usable_N = np.concatenate([one["usable_M"] for one in found])
    if not usable_N.any():
        raise UserError(
            f"{bench.embeddings}: none of {num} embeddings is finite and not zero: is this the right network?"
        )
    first_D = next(one["first_D"] for one in found if one["usable_M"].any())
    equal = sum(int(one["num_equal"]) for one in found if np.array_equal(one["first_D"], first_D))
    if equal == usable_N.sum() and equal > 1:
        raise UserError(
            f"{bench.embeddings}: all {equal} embeddings are the same, so the network tells no face from another; "
            "give another, or say how it wants its images (,normalise= ,colour=)"
        )
    return state.judged(np.flatnonzero(~usable_N & (state.label_N >= 0)), UNUSABLE, bench.number)


def merge(state, bench):
    """Identities whose centres are more alike than tau_merge become the one of the lowest number; a chain joins them,
    too.
    """
    threshold = bench.plan.tau_merge
    if threshold is None:
        return state
    centres = bench.centres(state.label_N)
    num = len(centres.number_C)
    cuts = [*range(0, num, PART), num]
    tasks = [
        (bench.index(), centres.path, centres.number_C[start:stop], start, stop, threshold)
        for start, stop in itertools.pairwise(cuts)
    ]
    found = bench.map("merge", parts.alike, tasks, by_index=True)
    one_P, other_P, cosine_P = (
        np.concatenate([part[key] for part in found]) for key in ("one_P", "other_P", "cosine_P")
    )
    # Nearly every pair was found from both sides, which an index that looks into some cells need not do.
    pair_P2, first_P = np.unique(np.stack([one_P, other_P], axis=1), axis=0, return_index=True)
    (one_P, other_P), cosine_P = pair_P2.T, cosine_P[first_P]
    lowest_C = centres.number_C[joined(num, centres.places(one_P), centres.places(other_P))]
    image_M = np.flatnonzero(state.label_N >= 0)
    new_M = lowest_C[centres.places(state.label_N[image_M])].astype(np.int32)
    changed_M = new_M != state.label_N[image_M]
    state = state.judged(image_M[changed_M], MERGED, bench.number, label=new_M[changed_M])
    return state._replace(merges=state.merges.joined_with(one_P, other_P, cosine_P, bench.number))


def inter(state, bench):
    """Images of two identities that are one picture stay with the identity that they are more like; images nearer to
    another identity's centre than to their own's are left out, or moved there."""
    plan = bench.plan
    if plan.tau_duplicate is None and plan.tau_other is None:
        return state
    centres = bench.centres(state.label_N)
    image_M = np.flatnonzero(state.label_N >= 0)
    label_M = state.label_N[image_M]
    place_M = centres.places(label_M)
    tasks = [
        (bench.embeddings, image_M[part], centres.path, place_M[part], label_M[part], bench.index())
        for part in _slices(len(image_M), SEARCHED)
    ]
    found = bench.map("inter", parts.near, tasks, by_index=True)
    own_M, other_M, nearest_M, cell_M = (
        np.concatenate([part[key] for part in found]) for key in ("own_M", "other_M", "nearest_M", "cell_M")
    )
    state = state.compared(image_M, own_N=own_M, other_N=other_M, nearest_N=nearest_M)
    duplicate_M = np.zeros(len(image_M), bool)
    if plan.tau_duplicate is not None:
        twin_M = _twins(bench, image_M, label_M, own_M, other_M, cell_M)
        duplicate_M = twin_M >= 0
        state = state.compared(image_M[duplicate_M], twin_N=twin_M[duplicate_M])
        state = state.judged(image_M[duplicate_M], DUPLICATE, bench.number)
    if plan.tau_other is not None:
        nearer_M = (other_M > own_M + TIE) & (other_M >= plan.tau_other) & ~duplicate_M
        if plan.move:
            state = state.compared(image_M[nearer_M], moved_N=nearest_M[nearer_M])
        label = nearest_M[nearer_M] if plan.move else DROPPED
        state = state.judged(image_M[nearer_M], NEARER, bench.number, label=label)
    return state


def _twins(bench, image_M, label_M, own_M, other_M, cell_M):
    """For each image the one that it is a duplicate of in another identity, and stays behind; -1 for all others.

    Duplicates have one nearest centre, since their embeddings are nearly one: they are looked for among the images that
    have it, and only where one of these goes under another name than the centre's.
    """
    # Where a picture is all that several identities have, their centres are one: which of them is nearest is down to
    # rounding.
    is_tied_M = (cell_M != label_M) & (own_M > bench.plan.tau_duplicate) & (np.abs(other_M - own_M) <= TIE)
    one_C = joined(int(label_M.max()) + 1, label_M[is_tied_M], cell_M[is_tied_M])
    cell_M = np.where(cell_M >= 0, one_C[cell_M], cell_M)
    foreign_M = cell_M != label_M
    held_M = np.flatnonzero(np.isin(cell_M, cell_M[foreign_M]) & (cell_M >= 0))
    held_M = held_M[np.argsort(cell_M[held_M], kind="stable")]
    starts_B = np.flatnonzero(np.append(True, np.diff(cell_M[held_M]) != 0)) if len(held_M) else np.empty(0, int)
    cuts = part_cuts(starts_B, len(held_M))
    tasks = []
    for one, other in itertools.pairwise(cuts):
        part = held_M[starts_B[one] : _end(starts_B, other, held_M)]
        tasks.append(
            (
                bench.embeddings,
                image_M[part],
                label_M[part],
                starts_B[one:other] - starts_B[one],
                foreign_M[part],
                bench.plan.tau_duplicate,
            )
        )
    found = bench.map("duplicates", parts.twins, tasks)
    twin_M = np.full(len(image_M), -1, np.int64)
    one_P, other_P = (
        np.searchsorted(image_M, np.concatenate([np.empty(0, np.int64), *(part[key] for part in found)]))
        for key in ("one_P", "other_P")
    )
    if not len(one_P):
        return twin_M
    group_M = joined(len(image_M), one_P, other_P)
    paired_G = np.unique(np.append(one_P, other_P))
    # The best of a group first: most like its own centre, then the lowest number.
    order_G = paired_G[np.lexsort((paired_G, -own_M[paired_G], group_M[paired_G]))]
    is_first_G = np.append(True, np.diff(group_M[order_G]) != 0)
    best_G = order_G[is_first_G][np.cumsum(is_first_G) - 1]
    loses_G = label_M[order_G] != label_M[best_G]
    twin_M[order_G[loses_G]] = image_M[best_G[loses_G]]
    return twin_M


def intra(state, bench):
    """Images no more like their identity's centre than tau_intra are left out."""
    threshold = bench.plan.tau_intra
    if threshold is None:
        return state
    centres = bench.centres(state.label_N)
    image_M = np.flatnonzero(state.label_N >= 0)
    place_M = centres.places(state.label_N[image_M])
    tasks = [(bench.embeddings, image_M[part], centres.path, place_M[part]) for part in _slices(len(image_M), PART)]
    own_M = np.concatenate([part["own_M"] for part in bench.map("intra", parts.own, tasks)])
    # Of an image that was moved in this round, what it was moved for stays: how unlike the identity it came from it
    # was.
    moved_M = (state.reason_N[image_M] == NEARER) & (state.round_N[image_M] == bench.number)
    state = state.compared(image_M[~moved_M], own_N=own_M[~moved_M])
    return state.judged(image_M[own_M <= threshold], FAR, bench.number)


def leave_out_small(state, bench):
    """Identities with fewer than min_images images are left out."""
    image_M = np.flatnonzero(state.label_N >= 0)
    count_C = np.bincount(state.label_N[image_M]) if len(image_M) else np.zeros(1, int)
    return state.judged(image_M[count_C[state.label_N[image_M]] < bench.plan.min_images], SMALL, bench.number)


# (State, Bench) -> State
STEPS = {"merge": merge, "inter": inter, "intra": intra}
ORDERS = {"inter-intra": ("merge", "inter", "intra"), "intra-inter": ("intra", "merge", "inter")}


def cleaned(state, bench):
    """The State after a round: unusable images, the steps in the plan's order, identities that became too small."""
    state = leave_out_unusable(state, bench)
    for name in ORDERS[bench.plan.order]:
        if (state.label_N >= 0).any():
            state = STEPS[name](state, bench)
    return leave_out_small(state, bench)


def grouped(label_N, number_C):
    """(image_M, starts_C): the images of these identities, one identity after another, and where each begins."""
    if not len(number_C):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    image_M = np.flatnonzero(np.isin(label_N, number_C))
    image_M = image_M[np.argsort(label_N[image_M], kind="stable")]
    return image_M, np.searchsorted(label_N[image_M], number_C)


def part_cuts(starts_C, num_images, *, squares=False):
    """Places among groups at which the work is cut, so that a part has about PART images: [0, ..., number of groups].

    squares: where the work holds the likeness of all images of a group with each other, a part has at most about PAIRS
    of those.
    """
    if not len(starts_C):
        return [0]
    size_C = np.diff(np.append(starts_C, num_images))
    share_C = size_C / PART
    if squares:
        share_C = np.maximum(share_C, np.minimum(size_C, MAX_CLUSTERED) ** 2 / PAIRS)
    part_C = np.floor(np.cumsum(share_C) - share_C)
    return [*(np.flatnonzero(np.append(True, np.diff(part_C) > 0))).tolist(), len(starts_C)]


def _end(starts_C, place, image_M):
    return starts_C[place] if place < len(starts_C) else len(image_M)


def _slices(num, size):
    return [slice(start, start + size) for start in range(0, num, size)]
