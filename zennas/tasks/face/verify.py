"""How good a network is so far: its accuracy on sets of pairs, with the flipped image added as insightface does."""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError, decode
from zennas.data.inputs import normalised
from zennas.metrics.verification import tar_at_far, ten_fold_accuracy
from zennas.records import Record, UserError
from zennas.tasks.face.crops import ALIGNED
from zennas.tasks.face.pairs import PairSet, open_pairs, pair_crops
from zennas.tasks.task import Judgement

BATCH = 128
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


def embed(
    images: ImageSet,
    embed_batch: Callable,
    *,
    image_px: int | tuple[int, int],
    batch: int = BATCH,
    progress: Callable | None = None,
) -> tuple[torch.Tensor, list[int]]:
    """(embedding_ND of an ImageSet with the mirrored images' added, numbers of the corrupt ones, whose rows are zeros).

    embed_batch: images_BHW3 of image_px, a side or (height, width), (uint8, on the processor) -> embeddings_BD.
    """
    corrupt, parts = [], []
    blank_HW3 = np.zeros((*np.broadcast_to(image_px, 2), 3), np.uint8)
    for numbers, pixels in images.batches(range(images.num_images), image_px, batch):
        bad = [isinstance(image, Exception) for image in pixels]
        corrupt += itertools.compress(numbers, bad)
        decoded = [blank_HW3 if is_bad else image for image, is_bad in zip(pixels, bad, strict=True)]
        image_BHW3 = torch.from_numpy(np.stack(decoded))
        embedding_BD = embed_batch(image_BHW3).float() + embed_batch(image_BHW3.flip(2)).float()
        parts.append(embedding_BD.cpu())
        if progress:
            progress(numbers[-1] + 1, images.num_images)
    embedding_ND = torch.cat(parts)
    embedding_ND[corrupt] = 0.0
    return embedding_ND, corrupt


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


def in_eval(
    network: torch.nn.Module, device: torch.device, *, autocast: torch.dtype | None = None
) -> Callable[[torch.Tensor], torch.Tensor]:
    """images_BHW3 -> embeddings_BD of a network as it would be used: eval mode, no gradient. It is left in the mode it
    was in.
    """
    channels = network.shape.channels if hasattr(network, "shape") else 3

    def embed_batch(image_BHW3):
        training = network.training
        network.eval()
        try:
            with torch.no_grad(), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                return network(normalised(image_BHW3, device, channels=channels))
        finally:
            network.train(training)

    return embed_batch
