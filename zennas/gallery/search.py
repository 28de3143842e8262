"""The nearest vectors of a gallery: by cells where it is large, one by one where it is not, and behind the cells.

The cells name candidates by numbers of a byte each; their cosines are computed again from the vectors themselves. So
what a list says is exact, whatever the index: only what the index does not name can be missed.

Q queries, K of what is found, N vectors, M of them, D embedding size
"""

import secrets
from collections.abc import Callable, Iterator

import numpy as np
import torch

from zennas.embed.cells import (
    FLAT,
    TRAINED_ON,
    empty_cells,
    load_index,
    nearest_in_cells,
    num_cells_of,
    remove,
    save_index,
)
from zennas.embed.largest import largest
from zennas.gallery.store import Cells, Gallery, Writer, cells_file
from zennas.records import UserError, first_line

BLOCK_NUMBERS = 2**24  # numbers of vectors that are in memory at a time: 64 MiB
SAMPLE_NUMBERS = 2**27  # that cells are learned from, at most: 512 MiB
# Candidates for each that is wanted: what a byte a number puts in the wrong order is put right among them.
CANDIDATES, MIN_CANDIDATES = 4, 64
MOST_BY_CELLS = 2048  # of a ranked list; a longer one is of all vectors
AT, ASKED = 10, 256  # of the recall: the nearest ten, of so many pictures of the gallery
# By which the number of cells that are looked into is chosen. 99 % took a fourth of all cells at 300,000 vectors,
# hardly less time than comparing all; what the last points bring are strangers and far pictures of a person.
WANTED_RECALL = 0.95
FEWEST_PROBES = 8
MOST_PROBED = 4  # at most a fourth of all cells: from there on comparing all takes no longer
BEHIND = 16  # the index is extended where a sixteenth of it lies behind it, and at least FLAT / 4 vectors
RELEARNT_AT = 2.0  # cells are learned anew where there are twice as many vectors as they were learned from
LENGTH_OFF = 1e-3  # of a unit vector
Counting = Callable[[int, int], None]


def search(
    gallery: Gallery, unit_QD: np.ndarray, num: int, *, without: np.ndarray | None = None, whole: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """(number_QK, cosine_QK) of the `num` nearest vectors, the nearest first; fewer where the gallery holds fewer.

    unit_QD: unit rows, float32. without: numbers of vectors that are passed over (int64, in order, none of them
    deleted). whole: compare all, whatever the gallery's size. UserError where the index or the vectors cannot be read.
    """
    unit_QD = np.ascontiguousarray(unit_QD, np.float32)
    vector_ND = gallery.vector_ND()
    if unit_QD.shape[1] != vector_ND.shape[1]:
        raise UserError(
            f"{gallery.folder}: holds vectors of {vector_ND.shape[1]} numbers; a query has {unit_QD.shape[1]}"
        )
    without_M = gallery.deleted_M if without is None else np.union1d(gallery.deleted_M, without)
    num = min(num, gallery.num_vectors - len(without_M))
    number_QK, cosine_QK = _nearest(gallery, vector_ND, unit_QD, num, without_M, whole=whole)
    found_M = np.unique(number_QK[number_QK >= 0])
    rows = max(1, BLOCK_NUMBERS // vector_ND.shape[1])
    for start in range(0, len(found_M), rows):  # where a file is damaged, it is these that win
        _check_units(vector_ND[found_M[start : start + rows]], gallery)
    return number_QK, cosine_QK


def _nearest(gallery, vector_ND, unit_QD, num, without_M, *, whole):
    cells = gallery.cells
    if cells is None or whole or num > MOST_BY_CELLS:
        return _exact(vector_ND, unit_QD, num, without_M)
    try:
        index = _opened(gallery)
    except UserError:
        if not gallery.has_newer_index():
            raise
        return _exact(vector_ND, unit_QD, num, without_M)  # all that was there when this reader began
    # A longer list than the recall was measured by reaches farther, so that it misses no larger share.
    probes = min(cells.probes * -(-num // cells.at), max(cells.probes, cells.cells // MOST_PROBED))
    number_QK, cosine_QK = _by_cells(index, vector_ND, unit_QD, num, without_M, probes=probes)
    if gallery.num_vectors > cells.covered:
        behind = _exact(vector_ND, unit_QD, num, without_M, first=cells.covered)
        number_QK, cosine_QK = (np.concatenate(parts, 1) for parts in zip((number_QK, cosine_QK), behind, strict=True))
    number_QK, cosine_QK = _best(number_QK, cosine_QK, num)
    if (number_QK < 0).any():  # the cells that were looked into hold fewer than are wanted
        return _exact(vector_ND, unit_QD, num, without_M)
    return number_QK, cosine_QK


def exact(gallery: Gallery, unit_QD: np.ndarray, num: int) -> tuple[np.ndarray, np.ndarray]:
    """The same by comparing all, whatever the gallery's size."""
    return search(gallery, unit_QD, num, whole=True)


def settle(writer: Writer, *, rebuild: bool = False, counting: Counting | None = None) -> None:
    """Bring the index up to what the gallery holds, and take deleted vectors off the disk.

    rebuild: make it anew, even where the one that is there would do. counting(done, total) of vectors. A kill on the
    way costs nothing but time: who writes next settles it. UserError where vectors are damaged.
    """
    unwiped_M, cells = writer.unwiped, writer.cells
    wanted = writer.num_images > FLAT
    is_due = rebuild or not (cells and _still_good(writer, cells))
    if wanted and is_due:
        _build(writer, counting)
    elif not wanted and cells:
        writer.keep(None)
    elif wanted and (len(unwiped_M) or _is_behind(writer, cells)):
        _extend(writer, unwiped_M, counting)
    if len(unwiped_M):
        writer.wipe(unwiped_M)


def _is_behind(writer, cells):
    return writer.num_vectors - cells.covered > max(FLAT // 4, cells.covered // BEHIND)


def _still_good(writer, cells):
    return writer.num_vectors <= RELEARNT_AT * cells.learned_from


def _build(writer, counting):
    """Cells, learned anew from a sample of all vectors."""
    size, num_cells = writer.settings.embedding_size, num_cells_of(writer.num_images)
    alive_M = np.setdiff1d(np.arange(writer.num_vectors), writer.deleted_M, assume_unique=True)
    num_drawn = min(len(alive_M), TRAINED_ON * num_cells, max(num_cells, SAMPLE_NUMBERS // size))
    drawn_M = np.sort(np.random.default_rng(0).choice(alive_M, num_drawn, replace=False))
    sample_SD = np.array(writer.vector_ND()[drawn_M])
    _check_units(sample_SD, writer)
    index = empty_cells(sample_SD, num_cells, eight_bits=True)
    del sample_SD
    _fill(index, writer, 0, counting)
    _keep(index, writer, learned_from=writer.num_vectors, num_cells=num_cells)


def _extend(writer, unwiped_M, counting):
    """The cells there are, without what was deleted and with what was added since."""
    index = _opened(writer, mapped=False)
    remove(index, unwiped_M)
    _fill(index, writer, writer.cells.covered, counting)
    _keep(index, writer, learned_from=writer.cells.learned_from, num_cells=writer.cells.cells)


def _fill(index, writer, first, counting):
    for number_M, vector_MD in _alive(writer.vector_ND(), writer.deleted_M, first):
        _check_units(vector_MD, writer)
        index.add_with_ids(np.ascontiguousarray(vector_MD), number_M)
        if counting and len(number_M):
            counting(int(number_M[-1]) + 1, writer.num_vectors)


def _keep(index, writer, *, learned_from, num_cells):
    """Choose how many cells are looked into, measure the recall, and let this be the index."""
    probes, recall, asked = _probes_and_recall(index, writer, num_cells)
    before, mark = writer.cells, secrets.token_bytes(16)
    cells = Cells(
        number=before.number + 1 if before else 1,
        mark=mark.hex(),
        covered=writer.num_vectors,
        learned_from=learned_from,
        cells=num_cells,
        probes=probes,
        recall=recall,
        at=AT,
        asked=asked,
    )
    try:
        save_index(index, cells_file(writer.folder, cells), mark=mark)
    except (OSError, RuntimeError) as error:  # FAISS's own is a RuntimeError
        path = cells_file(writer.folder, cells)
        raise UserError(
            f"{path}: cannot be written: {first_line(error)}; make room, then give the same command"
        ) from None
    writer.keep(cells)


def _probes_and_recall(index, writer, num_cells):
    """(probes, recall, pictures asked about): the fewest cells, in powers of two, by which half of the pictures find
    WANTED_RECALL of their nearest AT, and what the other half finds by as many: those chose nothing.

    A picture is asked about as if it were not in the gallery itself. One that is as near as the last of the nearest
    counts, so that copies of a picture may stand for each other.
    """
    alive_M = np.setdiff1d(np.arange(writer.num_vectors), writer.deleted_M, assume_unique=True)
    asked_Q = np.sort(np.random.default_rng(1).choice(alive_M, min(2 * (len(alive_M) // 2), ASKED), replace=False))
    vector_ND = writer.vector_ND()
    unit_QD = np.array(vector_ND[asked_Q])
    truth = _without_self(asked_Q, *_exact(vector_ND, unit_QD, AT + 1, writer.deleted_M))

    def recall_by(probes, part):
        found = _by_cells(index, vector_ND, unit_QD[part], AT + 1, writer.deleted_M, probes=probes)
        cosine_QK = _without_self(asked_Q[part], *found)
        return float((cosine_QK >= truth[part][:, -1:] - 1e-6).mean())

    choosing, judging = slice(0, None, 2), slice(1, None, 2)
    most = max(1, num_cells // MOST_PROBED)
    probes = min(FEWEST_PROBES, most)
    while probes < most and recall_by(probes, choosing) < WANTED_RECALL:
        probes = min(2 * probes, most)
    return probes, recall_by(probes, judging), len(asked_Q[judging])


def _without_self(asked_Q, number_QK, cosine_QK):
    """cosine_QK of the nearest AT but the picture itself."""
    cosine_QK = np.where(number_QK == asked_Q[:, None], -np.inf, cosine_QK)
    return -np.sort(-cosine_QK, axis=1)[:, :AT]


def _by_cells(index, vector_ND, unit_QD, num, deleted_M, *, probes):
    """(number_QK, cosine_QK) of the nearest in the nearest cells; -1 and -inf where there are fewer."""
    wanted = min(max(CANDIDATES * num, MIN_CANDIDATES), index.ntotal)
    number_QC, _ = nearest_in_cells(index, unit_QD, wanted, probes=probes, without=deleted_M)
    cosine_QC = np.full(number_QC.shape, -np.inf, np.float32)
    for query, number_C in enumerate(number_QC):
        is_one_C = number_C >= 0
        cosine_C = vector_ND[number_C[is_one_C]] @ unit_QD[query]
        cosine_QC[query, is_one_C] = np.where(np.isfinite(cosine_C), cosine_C, np.inf)  # damaged: it must be seen
    return _best(number_QC, cosine_QC, num)


def _exact(vector_ND, unit_QD, num, deleted_M, *, first=0):
    """(number_QK, cosine_QK) of the nearest of all vectors from `first` on."""
    if not num:
        return np.zeros((len(unit_QD), 0), np.int64), np.zeros((len(unit_QD), 0), np.float32)
    numbers = []

    def cosines() -> Iterator[tuple[int, torch.Tensor]]:
        place = 0
        for number_M, vector_MD in _alive(vector_ND, deleted_M, first):
            if len(number_M):
                numbers.append(number_M)
                yield place, torch.from_numpy(unit_QD @ vector_MD.T)
                place += len(number_M)

    cosine_QK, place_QK = largest(cosines(), num)
    if cosine_QK is None:
        return np.full((len(unit_QD), num), -1, np.int64), np.full((len(unit_QD), num), -np.inf, np.float32)
    return np.concatenate(numbers)[place_QK.numpy()], cosine_QK.numpy()


def _alive(vector_ND, deleted_M, first):
    """(numbers, vectors) of what is not deleted, block by block; vectors of the file itself where nothing is."""
    rows = max(1, BLOCK_NUMBERS // vector_ND.shape[1])
    for start in range(first, len(vector_ND), rows):
        number_M = np.arange(start, min(start + rows, len(vector_ND)))
        low, high = np.searchsorted(deleted_M, [number_M[0], number_M[-1] + 1])
        if high > low:
            number_M = np.setdiff1d(number_M, deleted_M[low:high], assume_unique=True)
            yield number_M, np.array(vector_ND[number_M])
        else:
            yield number_M, vector_ND[start : start + rows]


def _best(number_QC, cosine_QC, num):
    order_QK = np.argsort(-cosine_QC, axis=1, kind="stable")[:, :num]
    return np.take_along_axis(number_QC, order_QK, 1), np.take_along_axis(cosine_QC, order_QK, 1)


def _check_units(vector_MD, gallery):
    """UserError where what should be unit vectors are none: a damaged file."""
    length_M = np.linalg.norm(vector_MD, axis=1)
    if num := int((~(np.abs(length_M - 1) < LENGTH_OFF)).sum()):
        raise UserError(
            f"{gallery.folder}: {num:,} of {len(length_M):,} vectors have another length than 1: the file is damaged; "
            "enrol anew into another folder"
        )


def _opened(gallery, *, mapped=True):
    path = cells_file(gallery.folder, gallery.cells)
    try:
        index = load_index(path, mapped=mapped, mark=bytes.fromhex(gallery.cells.mark))
    except (OSError, RuntimeError, MemoryError) as error:
        reason = "it is missing" if not path.is_file() else first_line(error)
        raise UserError(f"{path}: cannot be used: {reason}; --rebuild makes it of the vectors beside it") from None
    return index


def num_compared(gallery: Gallery) -> int:
    """How many vectors a search compares one by one."""
    return gallery.num_images if gallery.cells is None else gallery.num_vectors - gallery.cells.covered


def ranked_identities(
    gallery: Gallery,
    unit_D: np.ndarray,
    num: int,
    identity_of: Callable[[int], str],
    *,
    without: np.ndarray | None = None,
    whole: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """(number_K, cosine_K) of the most alike picture of each of the `num` nearest identities, the nearest first.

    More and more pictures are asked for until they are of so many identities. identity_of: number of a vector -> whose.
    without, whole: as `search` has them.
    """
    num_there = gallery.num_images - (0 if without is None else len(without))
    asked = min(max(MIN_CANDIDATES, CANDIDATES * num), num_there)
    while True:
        number_QK, cosine_QK = search(gallery, unit_D[None], asked, without=without, whole=whole)
        firsts: dict[str, int] = {}
        for place, number in enumerate(number_QK[0].tolist()):
            firsts.setdefault(identity_of(number), place)
        if len(firsts) >= num or asked >= num_there:
            chosen = list(firsts.values())[:num]
            return number_QK[0, chosen], cosine_QK[0, chosen]
        asked = min(asked * CANDIDATES, num_there)
