"""Two thresholds over embeddings: which identities are one person, and which images are of somebody else.

Source: the cleaning space of Towards Robust Face Recognition with Comprehensive Search (ECCV 2022, arXiv:2208.13600):
merge classes whose centre similarity exceeds tau_inter (one person under two names), keep a sample if its
"discriminability" exceeds tau_intra (a stranger in a folder). That discriminability is the cosine to the identity's
centre, that a centre is the mean of unit embeddings, and that merging comes first, so that centres are fresh, are our
reading; the last two as mind_ft has them but for its robust centres.

N images, M of them, C identities, B a block of them, D embedding size
"""

from typing import NamedTuple

import numpy as np

from zennas.clean.centres import mean_centres
from zennas.clean.grouping import joined
from zennas.clean.index import CentreIndex
from zennas.data.labels import DROPPED


class CleanLabels(NamedTuple):
    """label_N: the number of an identity, or DROPPED; what was done to get there."""

    label_N: np.ndarray
    num_merged: int  # identities that became part of another one
    num_dropped: int  # images left out, beside those that were none of ours


def clean_labels(
    unit_ND: np.ndarray | None, label_N: np.ndarray, *, tau_inter: float | None = None, tau_intra: float | None = None
) -> CleanLabels:
    """The CleanLabels of images by their unit embeddings. A row of zeros has none: tau_intra leaves that image out.

    label_N: DROPPED for images that take no part. A threshold of None: not applied. Merged identities have the lowest
    of their numbers, and are one person if a chain of such pairs joins them. `zennas clean` cleans by more than two
    thresholds, and by robust centres.

    >>> unit_ND = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1]])
    >>> clean_labels(unit_ND, np.array([0, 1, 1, 2]), tau_inter=0.85, tau_intra=0.82)
    CleanLabels(label_N=array([ 0,  0, -1,  2]), num_merged=1, num_dropped=1)
    """
    cleaned_N = np.array(label_N)
    before = np.unique(cleaned_N[cleaned_N >= 0])
    if tau_inter is not None:
        centre_CD, number_C = mean_centres(unit_ND, cleaned_N)
        place_C = np.arange(len(number_C))
        one_P, other_P, _ = CentreIndex(centre_CD, place_C, flat=True).alike(centre_CD, tau_inter)
        lowest_C = joined(len(number_C), one_P, other_P)
        place_N = np.searchsorted(number_C, cleaned_N)
        cleaned_N = np.where(cleaned_N >= 0, number_C[lowest_C[np.minimum(place_N, len(number_C) - 1)]], DROPPED)
    merged = np.unique(cleaned_N[cleaned_N >= 0])
    if tau_intra is not None:
        centre_CD, number_C = mean_centres(unit_ND, cleaned_N)
        image_M = np.flatnonzero(cleaned_N >= 0)
        centre_MD = centre_CD[np.searchsorted(number_C, cleaned_N[image_M])]
        unit_MD = np.asarray(unit_ND)[image_M]
        cosine_M = np.einsum("md,md->m", unit_MD, centre_MD)
        cleaned_N[image_M[~((cosine_M > tau_intra) & unit_MD.any(axis=1))]] = DROPPED
    num_dropped = int((np.asarray(label_N) >= 0).sum() - (cleaned_N >= 0).sum())
    return CleanLabels(cleaned_N, len(before) - len(merged), num_dropped)
