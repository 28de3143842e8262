"""Masked copies of the images of verification pairs, and the pairs between them; for verification.py and training.py.

N images, P pairs
"""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from pasting import pasted

from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError, decode
from zennas.mask.landmarks import ALIGNED, Landmarker
from zennas.mask.render import masked
from zennas.mask.textures import NUM_VARIANTS, wardrobe
from zennas.metrics.verification import tar_at_far, ten_fold_accuracy
from zennas.tasks.face.verify import embed

FAR = 1e-3


class MaskedImages(NamedTuple):
    """An ImageSet of masked copies, which of them are masked (where no mesh fits, the image is as it was), and by which
    kind.
    """

    images: ImageSet
    masked_N: np.ndarray
    kind_N: np.ndarray  # place in KINDS


def masked_copies(images, *, seed, flat=False, only=None, progress=None):
    """The MaskedImages of an ImageSet of aligned faces; flat: by pasting. only: of this kind alone, by its place in
    KINDS.

    Kind, variant and how the mask sits hang on seed and image alone, so that both ways put the same mask on the same
    face.
    """
    dressing, landmarker = wardrobe(seed=seed), Landmarker(ALIGNED)
    encoded, masked_N, kind_N = [], np.zeros(images.num_images, bool), np.full(images.num_images, -1)
    for image in range(images.num_images):
        rng = np.random.default_rng([seed, image])
        kind, variant = int(rng.integers(len(dressing.names))), int(rng.integers(NUM_VARIANTS))
        texture = dressing.texture(kind if only is None else only, variant)
        try:
            image_HW3 = decode(images.read(image))
        except CorruptImageError:
            encoded.append(images.read(image))
            continue
        found = landmarker.find(image_HW3)
        if found.point_V3 is not None:
            if flat:
                image_HW3, _ = pasted(image_HW3, found.point_V3, texture)
            else:
                image_HW3 = masked(image_HW3, found.point_V3, texture, rng).image_HW3
            masked_N[image], kind_N[image] = True, dressing.names.index(texture.name)
        encoded.append(cv2.imencode(".png", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR))[1].tobytes())
        if progress and image % 500 == 499:
            progress(image + 1, images.num_images)
    return MaskedImages(
        ImageSet(
            len(encoded), encoded.__getitem__, lambda image: f"image {image}, masked", f"masked-{seed}-{flat}-{only}"
        ),
        masked_N,
        kind_N,
    )


def unit_embeddings(images, embed_batch, image_px):
    """unit_ND of an ImageSet, the mirrored image added as insightface does."""
    embedding_ND, _ = embed(images, embed_batch, image_px=image_px)
    return torch.nn.functional.normalize(embedding_ND).double().numpy()


def judged(first_ND, second_ND, pairs):
    """{"accuracy", "accuracy_std", "tar"} of a PairSet whose first images have these embeddings, and whose second
    those.
    """
    cosine_P = (first_ND[pairs.first_P] * second_ND[pairs.second_P]).sum(1)
    accuracy = ten_fold_accuracy(cosine_P, pairs.same_P, fold_P=pairs.fold_P)
    return {
        "accuracy": round(accuracy.mean, 5),
        "accuracy_std": round(accuracy.std, 5),
        "tar_at_far_1e-3": round(float(tar_at_far(cosine_P, pairs.same_P, FAR)), 5),
    }
