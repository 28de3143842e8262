"""Where an identity lies: the mean of its largest cluster by DBSCAN, not the mean of all that goes under its name.

N images, M of one identity, C identities, D embedding size
"""

from typing import NamedTuple

import numpy as np
from sklearn.cluster import dbscan

# An identity of more images is clustered by so many of them, drawn by a seed: its distances are a square of this.
MAX_CLUSTERED = 5000


class Centre(NamedTuple):
    """A unit vector (zeros where no image has an embedding), and how many images it is the mean of."""

    centre_D: np.ndarray
    num_members: int


def unit_rows(embedding_ND):
    """The rows made of length 1, float32; zeros where there is no finite embedding."""
    row_ND = np.asarray(embedding_ND, np.float32)
    if not np.isfinite(row_ND).all():
        row_ND = np.nan_to_num(row_ND, nan=0.0, posinf=0.0, neginf=0.0)
    length_N1 = np.linalg.norm(row_ND, axis=1, keepdims=True)
    return row_ND / np.where(length_N1 > 0, length_N1, 1)


def robust_centre(unit_MD, *, eps, min_samples):
    """The Centre of an identity by its unit embeddings: the mean of the largest cluster that DBSCAN finds in them.

    eps: cosine distance of neighbours; min_samples: of a core, itself among them. Of clusters of one size the tighter one counts.
    Where nothing makes a cluster, the image most like the others is the centre alone. Rows of zeros take no part.
    Source: mind_ft, which takes this centre instead of the mean; Ester et al. 1996 (DBSCAN).

    >>> unit_MD = unit_rows([[1, 0], [1, 0.1], [0, 1]])
    >>> robust_centre(unit_MD, eps=0.5, min_samples=2).centre_D.round(2).tolist()
    [1.0, 0.05]
    """
    unit_MD = unit_MD[unit_MD.any(axis=1)]
    if len(unit_MD) > MAX_CLUSTERED:
        unit_MD = unit_MD[np.random.default_rng(len(unit_MD)).choice(len(unit_MD), MAX_CLUSTERED, replace=False)]
    if len(unit_MD) <= 1:
        return Centre(unit_MD.sum(axis=0), len(unit_MD))
    cosine_MM = unit_MD @ unit_MD.T
    if len(unit_MD) == 2:  # half of all identities of many sets, and DBSCAN's checks take longer than its work
        cluster_M = np.zeros(2, int) if 1 - cosine_MM[0, 1] <= eps and min_samples <= 2 else np.full(2, -1)
    else:
        _, cluster_M = dbscan(np.clip(1 - cosine_MM, 0, None), eps=eps, min_samples=min_samples, metric="precomputed")
    if cluster_M.max() < 0:
        member_M = np.arange(len(unit_MD)) == cosine_MM.sum(axis=1).argmax()
    else:
        sizes = np.bincount(cluster_M[cluster_M >= 0])
        largest = np.flatnonzero(sizes == sizes.max())
        if len(largest) > 1:
            tightness = [cosine_MM[np.ix_(cluster_M == one, cluster_M == one)].mean() for one in largest]
            largest = largest[np.argmax(tightness) :]
        member_M = cluster_M == largest[0]
    return Centre(unit_rows(unit_MD[member_M].mean(axis=0, keepdims=True))[0], int(member_M.sum()))


def mean_centres(unit_ND, label_N):
    """(unit centre_CD, identity number_C) of the identities that have an image (label 0 or more): means of all their images."""
    image_M = np.flatnonzero(label_N >= 0)
    number_C, place_M = np.unique(label_N[image_M], return_inverse=True)
    order_M = np.argsort(place_M, kind="stable")
    starts_C = np.searchsorted(place_M[order_M], np.arange(len(number_C)))
    sum_CD = np.add.reduceat(np.asarray(unit_ND)[image_M[order_M]], starts_C, axis=0)
    return unit_rows(sum_CD), number_C


def centres_of(unit_MD, starts_C, *, eps, min_samples):
    """(centre_CD, num_members_C) of identities whose images lie one after another; starts_C: where each begins."""
    groups = np.split(unit_MD, starts_C[1:])
    found = [robust_centre(unit_GD, eps=eps, min_samples=min_samples) for unit_GD in groups]
    return np.stack([one.centre_D for one in found]), np.array([one.num_members for one in found], np.int32)
