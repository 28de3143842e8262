"""Embeddings of images by a network that is judged: as it would be used, the mirrored image's added."""

import itertools
from collections.abc import Callable

import numpy as np
import torch

from zennas.data.image_set import ImageSet
from zennas.data.inputs import normalised

BATCH = 128


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
