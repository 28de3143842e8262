"""Whether a network tells people apart better with red and blue exchanged:
then images or network are the other way round.
"""

# P pairs, D embedding size

import numpy as np
import torch

from zennas.clean.centres import unit_rows
from zennas.data.images import CorruptImageError
from zennas.data.sources import AnySource
from zennas.embed.model import Model

PEOPLE = 96  # that are asked for, two images each
LEAST = 16  # below, nothing is said
STANDARD_ERRORS = 3.0  # by which the other order must be better


def colour_notice(model: Model, source: AnySource, *, seed: int = 0) -> str | None:
    """A sentence where the other order of channels tells the same people apart plainly better;
    None where not, or too few.
    """
    pair_P2 = _pairs(np.asarray(source.label_N), np.random.default_rng(seed))
    rows = []
    for pair_2 in pair_P2.tolist():
        try:
            rows.append([source.images.pixels(image, model.input_hw) for image in pair_2])
        except CorruptImageError:
            continue
    if len(rows) < LEAST:
        return None
    image_BHW3 = torch.from_numpy(np.concatenate([np.stack(pair) for pair in rows]))
    given_P, swapped_P = (_gain(model, images) for images in (image_BHW3, image_BHW3.flip(3)))
    better_P = swapped_P - given_P
    error = better_P.std(ddof=1) / np.sqrt(len(better_P))
    if better_P.mean() <= STANDARD_ERRORS * error:
        return None
    mend = "leave ,colour=bgr out" if model.bgr else "if it was trained on BGR say so with ,colour=bgr"
    return (
        f"with red and blue exchanged the network tells {len(rows)} pairs of people apart better "
        f"(cosine of a pair above that of strangers: {swapped_P.mean():.3f}, as given {given_P.mean():.3f}): {mend}; "
        "if red and blue are exchanged in the images, mend those"
    )


def _pairs(label_N, rng):
    """Two images each of some people who have two."""
    order_N = rng.permutation(len(label_N))
    order_N = order_N[np.argsort(label_N[order_N], kind="stable")]
    first_C = np.flatnonzero(np.append(True, np.diff(label_N[order_N]) != 0)) if len(order_N) else np.empty(0, int)
    two_C = first_C[np.diff(np.append(first_C, len(order_N))) >= 2]
    two_C = rng.permutation(two_C)[:PEOPLE]
    return np.stack([order_N[two_C], order_N[two_C + 1]], axis=1)


def _gain(model, image_BHW3):
    """By how much the two images of each are more alike than those of strangers."""
    unit_BD = unit_rows(model(image_BHW3).embedding_BD.cpu().float().numpy())
    cosine_PP = unit_BD[::2] @ unit_BD[1::2].T
    num = len(cosine_PP)
    others_P = (cosine_PP.sum(axis=1) - np.diag(cosine_PP)) / (num - 1)
    return np.diag(cosine_PP) - others_P
