"""How good a network is so far: its accuracy on sets of pairs, with the flipped image added as insightface does."""

from collections.abc import Callable

import numpy as np
import torch

from zennas.data.images import CorruptImageError, decode
from zennas.metrics.verification import tar_at_far, ten_fold_accuracy
from zennas.records import Record, UserError
from zennas.tasks.face.crops import ALIGNED
from zennas.tasks.face.pairs import PairSet, open_pairs, pair_crops
from zennas.tasks.identity.embedding import embed, in_eval
from zennas.tasks.task import Judgement

MEASURES = ("accuracy", "accuracy_std", "tar")  # that the curves of a training follow; the first says how good it is
FAR = 1e-3  # as insightface's verification reports beside the accuracy


class Verification(Record):
    """Shares, in [0, 1], on one set."""

    set: str
    accuracy: float
    accuracy_std: float  # over the folds
    threshold: float  # of the cosine
    tar: float | None  # at FAR; None where the set has no pairs of one kind
    num_pairs: int
    num_corrupt: int


def open_set(text: str, *, faces: str = ALIGNED) -> PairSet:
    """The PairSet that --verify names: SET.bin, or PAIRS@SOURCE, a list of pairs over any source of faces.

    faces: as --faces says. UserError where it is neither, a file is missing, its first image is none, or they are
    photographs. This is checked before training.
    """
    try:
        pair_set = open_pairs(text)
    except UserError as error:
        raise UserError(f"--verify {error}") from None
    try:
        decode(pair_set.images.read(0))
    except CorruptImageError as error:
        raise UserError(f"{pair_set.name}: {pair_set.images.where(0)}: {error}") from None
    return pair_set._replace(images=pair_crops(pair_set.images, text, faces, option="--verify"))


def judge(request, network, pair_set: PairSet, *, device, autocast=None) -> Judgement:
    """The Verification of a network on one set, as a Judgement."""
    embed_batch = in_eval(network, device, autocast=autocast)
    return _judgement(verify(pair_set, embed_batch, image_px=request.space.shape.hw))


def judge_teacher(teacher, pair_set: PairSet, progress) -> Judgement:
    """The same of a teacher, at its own size."""
    progress.begin(f"the teacher on {pair_set.name}")
    result = verify(
        pair_set,
        lambda image_BHW3: teacher(image_BHW3).embedding_BD,
        image_px=teacher.input_hw,
        progress=progress.counting("images"),
    )
    progress.end()
    return _judgement(result)


def _judgement(result):
    text = f"accuracy {100 * result.accuracy:.2f} % ± {100 * result.accuracy_std:.2f} ({result.num_pairs} pairs)"
    return Judgement(result, text)


def verify(
    pair_set: PairSet, embed_batch: Callable, *, image_px: int | tuple[int, int], progress: Callable | None = None
) -> Verification:
    """The Verification of whatever embeds. A pair with a corrupt image has a cosine of zero, and is counted."""
    embedding_ND, corrupt = embed(pair_set.images, embed_batch, image_px=image_px, progress=progress)
    unit_ND = torch.nn.functional.normalize(embedding_ND)
    cosine_P = (unit_ND[pair_set.first_P] * unit_ND[pair_set.second_P]).sum(1).double().numpy()
    if not np.isfinite(cosine_P).all():
        raise UserError(f"{pair_set.name}: the network gives embeddings that are not finite")
    accuracy = ten_fold_accuracy(cosine_P, pair_set.same_P, fold_P=pair_set.fold_P)
    tar = tar_at_far(cosine_P, pair_set.same_P, FAR)
    return Verification(
        set=pair_set.name,
        accuracy=accuracy.mean,
        accuracy_std=accuracy.std,
        threshold=accuracy.threshold,
        tar=None if np.isnan(tar) else tar,
        num_pairs=len(pair_set.same_P),
        num_corrupt=len(corrupt),
    )
