"""The steps of a round of cleaning: STEPS, each (State, Centres, Bench) -> (State, Centres), and their ORDERS.

N images, M of them that count, C identities, P pairs, K of a bucket's pairs, D embedding size
"""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from zennas.clean import parts
from zennas.clean.centres import MAX_CLUSTERED
from zennas.clean.grouping import joined
from zennas.clean.index import CentreIndex
from zennas.clean.plan import CleanPlan
from zennas.clean.state import DUPLICATE, FAR, MERGED, NEARER, SMALL, UNUSABLE, State
from zennas.data.labels import DROPPED
from zennas.pool import Pool
from zennas.records import UserError
from zennas.run_folder import explaining

PART = 32_768  # images of a part of the work
PAIRS = 8_000_000  # pairs of images of one identity that a part compares
SEARCHED = 131_072  # images of a part that asks the index: many at once are faster, cell by cell
TIE = 1e-3  # cosines that embeddings in float16 do not tell apart


class Centres(NamedTuple):
    """The robust centres of the identities that have an image."""

    number_C: np.ndarray  # identities, sorted
    centre_CD: np.ndarray
    num_members_C: np.ndarray
    label_N: np.ndarray  # the labels that they are the centres of
    path: str  # the file of centre_CD, which workers open
    version: int  # counts the centres of a round from 1: the names of kept files hold it

    def places(self, label_M: np.ndarray) -> np.ndarray:
        """Where the centres of these identities stand."""
        return np.searchsorted(self.number_C, label_M)


PartFunction = Callable[..., dict[str, np.ndarray]]  # of parts.py


@dataclasses.dataclass(frozen=True)
class Bench:
    """What the steps of a round work with."""

    embeddings: pathlib.Path  # an .npy, a row for each image
    plan: CleanPlan
    pool: Pool
    folder: pathlib.Path  # of the files of the round that are kept until it is over
    number: int = 1  # of the round
    device: str | None = None  # where all centres are compared (cuda); None: an index is asked instead

    def done(
        self, name: str, function: PartFunction, tasks: list[tuple[Any, ...]], *, version: int, by_index: bool = False
    ) -> list[dict[str, np.ndarray]]:
        """[dict of arrays] of a function of parts.py for each task.

        version: of the centres. by_index: the index is asked, which with a device lies in this process.
        """
        here = by_index and self.device is not None
        return self.pool.kept(f"round {self.number}.{version} {name}", function, tasks, folder=self.folder, here=here)

    def file(self, version: int, name: str) -> pathlib.Path:
        """A file that belongs to these centres."""
        return self.folder / f"{self.number}.{version}-{name}"


def centres_of(label_N: np.ndarray, last: Centres | None, bench: Bench) -> Centres:
    """The Centres of identities as label_N has them. last: the round's last ones, None where there are none yet."""
    if last is not None and np.array_equal(last.label_N, label_N):
        return last
    version = last.version + 1 if last is not None else 1
    number_C = np.unique(label_N[label_N >= 0])
    if last is None:
        changed_C = number_C
    else:
        # Only identities that lost or gained an image are clustered anew: it is the most expensive part of a round.
        moved_N = last.label_N != label_N
        changed_C = np.intersect1d(np.append(last.label_N[moved_N], label_N[moved_N]), number_C)
    image_M, starts_C = grouped(label_N, changed_C)
    cuts = part_cuts(starts_C, len(image_M), squares=True)
    tasks = [
        (
            str(bench.embeddings),
            image_M[starts_C[first] : _end(starts_C, stop, image_M)],
            starts_C[first:stop] - starts_C[first],
            bench.plan.dbscan_eps,
            bench.plan.dbscan_min_samples,
        )
        for first, stop in itertools.pairwise(cuts)
    ]
    results = bench.done("centres", parts.centres, tasks, version=version)
    size = np.load(bench.embeddings, mmap_mode="r").shape[1]
    centre_CD, num_members_C = np.zeros((len(number_C), size), np.float32), np.zeros(len(number_C), np.int32)
    if last is not None:
        stays_C = np.setdiff1d(number_C, changed_C, assume_unique=True)
        place_C, before_C = np.searchsorted(number_C, stays_C), last.places(stays_C)
        centre_CD[place_C], num_members_C[place_C] = last.centre_CD[before_C], last.num_members_C[before_C]
    if results:
        place_C = np.searchsorted(number_C, changed_C)
        centre_CD[place_C] = _column(results, "centre_CD")
        num_members_C[place_C] = _column(results, "num_members_C")
    path = bench.file(version, "centres.npy")
    with explaining(bench.folder):
        bench.folder.mkdir(parents=True, exist_ok=True)
        np.save(path, centre_CD)
        np.save(path.with_suffix(".numbers.npy"), number_C)
    return Centres(number_C, centre_CD, num_members_C, label_N, str(path), version)


def index_of(centres: Centres, bench: Bench) -> parts.IndexFile:
    """The file in which a worker finds the centres nearest to an image; written where it is not there yet."""
    if bench.device is not None:
        return parts.IndexFile(centres.path, bench.device)
    path = bench.file(centres.version, "centres.faiss")
    if not path.is_file():
        with explaining(bench.folder):
            CentreIndex(centres.centre_CD, centres.number_C).save(path)
    return parts.IndexFile(str(path))


def leave_out_unusable(state: State, bench: Bench) -> State:
    """Images without an embedding take no part. UserError where no image has one, or all have the same."""
    num = len(state.label_N)
    cuts = [*range(0, num, PART), num]
    tasks = [(str(bench.embeddings), start, stop) for start, stop in itertools.pairwise(cuts)]
    results = bench.done("rows", parts.usable, tasks, version=0)
    usable_N = _column(results, "usable_M")
    if not usable_N.any():
        raise UserError(
            f"{bench.embeddings}: none of {num} embeddings is finite and not zero: is this the right network?"
        )
    # A network that gave up answers every image alike. Each part counts the rows that equal its own first one; where
    # the first rows of all parts are equal, too, these counts add up.
    first_D = next(part["first_D"] for part in results if part["usable_M"].any())
    num_equal = sum(int(part["num_equal"]) for part in results if np.array_equal(part["first_D"], first_D))
    if num_equal == usable_N.sum() and num_equal > 1:
        raise UserError(
            f"{bench.embeddings}: all {num_equal} embeddings are the same, so the network tells no face from another; "
            "give another, or say how it wants its images (,normalise= ,colour=)"
        )
    return state.judged(np.flatnonzero(~usable_N & (state.label_N >= 0)), UNUSABLE, bench.number)


def merge(state: State, centres: Centres | None, bench: Bench) -> tuple[State, Centres | None]:
    """Identities whose centres are more alike than tau_merge become the one of the lowest number;
    a chain joins them, too."""
    threshold = bench.plan.tau_merge
    if threshold is None:
        return state, centres
    centres = centres_of(state.label_N, centres, bench)
    num = len(centres.number_C)
    cuts = [*range(0, num, PART), num]
    index = index_of(centres, bench)
    tasks = [
        (index, centres.path, centres.number_C[start:stop], start, stop, threshold)
        for start, stop in itertools.pairwise(cuts)
    ]
    results = bench.done("merge", parts.alike, tasks, version=centres.version, by_index=True)
    low_P, high_P, cosine_P = (_column(results, key) for key in ("one_P", "other_P", "cosine_P"))
    # Each identity asks for those like it, so a pair comes twice, once from each side. An index of cells may miss it
    # from one side; so what comes once counts as well.
    pair_P2, first_P = np.unique(np.stack([low_P, high_P], axis=1), axis=0, return_index=True)
    (low_P, high_P), cosine_P = pair_P2.T, cosine_P[first_P]
    # Centres stand sorted by the identity's number: the lowest place of a chain is its lowest number.
    lowest_C = centres.number_C[joined(num, centres.places(low_P), centres.places(high_P))]
    image_M = np.flatnonzero(state.label_N >= 0)
    new_M = lowest_C[centres.places(state.label_N[image_M])].astype(np.int32)
    changed_M = new_M != state.label_N[image_M]
    state = state.judged(image_M[changed_M], MERGED, bench.number, label=new_M[changed_M])
    return state._replace(merges=state.merges.joined_with(low_P, high_P, cosine_P, bench.number)), centres


def inter(state: State, centres: Centres | None, bench: Bench) -> tuple[State, Centres | None]:
    """Between identities. An image that two of them have stays with the one that it is more like. An image nearer to
    another identity's centre than to its own is left out, or moved there."""
    plan = bench.plan
    if plan.tau_duplicate is None and plan.tau_other is None:
        return state, centres
    centres = centres_of(state.label_N, centres, bench)
    image_M = np.flatnonzero(state.label_N >= 0)
    label_M = state.label_N[image_M]
    place_M = centres.places(label_M)
    index = index_of(centres, bench)
    tasks = [
        (str(bench.embeddings), image_M[part], centres.path, place_M[part], label_M[part], index)
        for part in _slices(len(image_M), SEARCHED)
    ]
    results = bench.done("inter", parts.near, tasks, version=centres.version, by_index=True)
    own_M, other_M, nearest_M, cell_M = (_column(results, key) for key in ("own_M", "other_M", "nearest_M", "cell_M"))
    state = state.compared(image_M, own_N=own_M, other_N=other_M, nearest_N=nearest_M)
    duplicate_M = np.zeros(len(image_M), bool)
    if plan.tau_duplicate is not None:
        twin_M = _twins(bench, centres.version, image_M, label_M, own_M, other_M, cell_M)
        duplicate_M = twin_M >= 0
        state = state.compared(image_M[duplicate_M], twin_N=twin_M[duplicate_M])
        state = state.judged(image_M[duplicate_M], DUPLICATE, bench.number)
    if plan.tau_other is not None:
        # A duplicate is near to both identities by its nature: it is judged as a duplicate alone.
        nearer_M = (other_M > own_M + TIE) & (other_M >= plan.tau_other) & ~duplicate_M
        if plan.move:
            state = state.compared(image_M[nearer_M], moved_N=nearest_M[nearer_M])
        label = nearest_M[nearer_M] if plan.move else DROPPED
        state = state.judged(image_M[nearer_M], NEARER, bench.number, label=label)
    return state, centres


def _twins(bench, version, image_M, label_M, own_M, other_M, cell_M):
    """For each image that leaves its identity as a duplicate: the image in another identity that it is a duplicate of;
    -1 for all others.

    cell_M: the identity whose centre is nearest of all, the image's own or another one.
    """
    # Comparing all images with all is out of reach. But duplicates have nearly one embedding and so one nearest centre:
    # a bucket holds the images with one nearest centre, and only within it are images compared.
    #
    # Where one picture is all that several identities have, their centres are one as well, and rounding decides which
    # of them is nearest: its copies would fall into several buckets. So buckets whose centres an image cannot tell
    # apart (cosines within TIE, its own above the threshold) are joined.
    is_tied_M = (cell_M != label_M) & (own_M > bench.plan.tau_duplicate) & (np.abs(other_M - own_M) <= TIE)
    lowest_C = joined(int(label_M.max()) + 1, label_M[is_tied_M], cell_M[is_tied_M])
    cell_M = np.where(cell_M >= 0, lowest_C[cell_M], cell_M)
    # Of two duplicates in different identities at least one is foreign to its bucket, that is, of another identity
    # than the bucket's. A bucket without a foreign image has none, and needs no look: most of them.
    foreign_M = cell_M != label_M
    held_M = np.flatnonzero(np.isin(cell_M, cell_M[foreign_M]) & (cell_M >= 0))
    # Buckets one after another, and where each begins.
    held_M = held_M[np.argsort(cell_M[held_M], kind="stable")]
    starts_B = np.flatnonzero(np.append(True, np.diff(cell_M[held_M]) != 0)) if len(held_M) else np.empty(0, int)
    cuts = part_cuts(starts_B, len(held_M))
    tasks = []
    for first, stop in itertools.pairwise(cuts):
        part = held_M[starts_B[first] : _end(starts_B, stop, held_M)]
        tasks.append(
            (
                str(bench.embeddings),
                image_M[part],
                label_M[part],
                starts_B[first:stop] - starts_B[first],
                foreign_M[part],
                bench.plan.tau_duplicate,
            )
        )
    results = bench.done("duplicates", parts.twins, tasks, version=version)
    twin_M = np.full(len(image_M), -1, np.int64)
    # Pairs come as numbers of images; image_M is sorted, so that places in it are found by bisection.
    first_P, second_P = (
        np.searchsorted(image_M, np.concatenate([np.empty(0, np.int64), *(part[key] for part in results)]))
        for key in ("one_P", "other_P")
    )
    if not len(first_P):
        return twin_M
    # Chains of pairs are groups of one picture. One image of a group stays: the one most like its own centre, of equals
    # the lowest number. lexsort sorts by its last key first: by group, then by cosine, then by number.
    group_M = joined(len(image_M), first_P, second_P)
    paired_G = np.unique(np.append(first_P, second_P))
    order_G = paired_G[np.lexsort((paired_G, -own_M[paired_G], group_M[paired_G]))]
    is_first_G = np.append(True, np.diff(group_M[order_G]) != 0)
    best_G = order_G[is_first_G][np.cumsum(is_first_G) - 1]
    # Copies within the identity of the best one are no error of a label, and stay with it.
    loses_G = label_M[order_G] != label_M[best_G]
    twin_M[order_G[loses_G]] = image_M[best_G[loses_G]]
    return twin_M


def intra(state: State, centres: Centres | None, bench: Bench) -> tuple[State, Centres | None]:
    """Within identities. Images no more like their identity's centre than tau_intra are left out."""
    threshold = bench.plan.tau_intra
    if threshold is None:
        return state, centres
    centres = centres_of(state.label_N, centres, bench)
    image_M = np.flatnonzero(state.label_N >= 0)
    place_M = centres.places(state.label_N[image_M])
    tasks = [
        (str(bench.embeddings), image_M[part], centres.path, place_M[part]) for part in _slices(len(image_M), PART)
    ]
    own_M = _column(bench.done("intra", parts.own, tasks, version=centres.version), "own_M")
    # An image that was moved in this round keeps the cosine for which it was moved: to the identity that it came from.
    moved_M = (state.reason_N[image_M] == NEARER) & (state.round_N[image_M] == bench.number)
    state = state.compared(image_M[~moved_M], own_N=own_M[~moved_M])
    return state.judged(image_M[own_M <= threshold], FAR, bench.number), centres


def leave_out_small(state: State, bench: Bench) -> State:
    """Identities with fewer than min_images images are left out."""
    image_M = np.flatnonzero(state.label_N >= 0)
    count_C = np.bincount(state.label_N[image_M]) if len(image_M) else np.zeros(1, int)
    return state.judged(image_M[count_C[state.label_N[image_M]] < bench.plan.min_images], SMALL, bench.number)


# (State, Centres or None, Bench) -> (State, Centres or None): a step that asks for centres hands them on
STEPS = {"merge": merge, "inter": inter, "intra": intra}
ORDERS = {"inter-intra": ("merge", "inter", "intra"), "intra-inter": ("intra", "merge", "inter")}


def clean_round(state: State, bench: Bench) -> State:
    """The State after a round: unusable images, the steps in the plan's order, identities that became too small."""
    state, centres = leave_out_unusable(state, bench), None
    for name in ORDERS[bench.plan.order]:
        if (state.label_N >= 0).any():
            state, centres = STEPS[name](state, centres, bench)
    return leave_out_small(state, bench)


def grouped(label_N: np.ndarray, number_C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(image_M, starts_C): the images of these identities, one identity after another, and where each begins."""
    if not len(number_C):
        return np.empty(0, np.int64), np.empty(0, np.int64)
    image_M = np.flatnonzero(np.isin(label_N, number_C))
    image_M = image_M[np.argsort(label_N[image_M], kind="stable")]
    return image_M, np.searchsorted(label_N[image_M], number_C)


def part_cuts(starts_C: np.ndarray, num_images: int, *, squares: bool = False) -> list[int]:
    """Places among groups at which the work is cut, so that a part has about PART images: [0, ..., number of groups].

    squares: the work compares all images of a group with each other; a part then has at most about PAIRS such pairs.
    """
    if not len(starts_C):
        return [0]
    size_C = np.diff(np.append(starts_C, num_images))
    # What each group takes of a part's memory: 1 fills it. Beyond MAX_CLUSTERED images a sample is clustered.
    share_C = size_C / PART
    if squares:
        share_C = np.maximum(share_C, np.minimum(size_C, MAX_CLUSTERED) ** 2 / PAIRS)
    # A group belongs to the part in which the sum of the shares before it lies, so that no group is torn.
    part_C = np.floor(np.cumsum(share_C) - share_C)
    return [*(np.flatnonzero(np.append(True, np.diff(part_C) > 0))).tolist(), len(starts_C)]


def _column(results, key):
    """One array of all parts, in their order."""
    return np.concatenate([part[key] for part in results])


def _end(starts_C, place, image_M):
    """Where the group before `place` ends."""
    return starts_C[place] if place < len(starts_C) else len(image_M)


def _slices(num, size):
    return [slice(start, start + size) for start in range(0, num, size)]
