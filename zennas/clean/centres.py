"""Where an identity lies: the mean of its largest cluster by DBSCAN, not the mean of all that goes under its name.

N images, M of one identity, C identities, D embedding size
"""

from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from sklearn.cluster import dbscan
from sklearn.neighbors import sort_graph_by_row_values

# An identity of more images is clustered by so many of them, drawn by a seed: its distances are a square of this.
MAX_CLUSTERED = 2000
LEAST = 1e-7  # distance that stands for none: what a sparse matrix does not hold is no neighbour


class Centre(NamedTuple):
    """A unit vector (zeros where no image has an embedding), and how many images it is the mean of."""

    centre_D: np.ndarray
    num_members: int


def unit_rows(embedding_ND: np.ndarray) -> np.ndarray:
    """The rows made of length 1, float32; zeros where there is no finite embedding."""
    row_ND = np.asarray(embedding_ND, np.float32)
    if not np.isfinite(row_ND).all():
        row_ND = np.nan_to_num(row_ND, nan=0.0, posinf=0.0, neginf=0.0)
    length_N1 = np.linalg.norm(row_ND, axis=1, keepdims=True)
    return row_ND / np.where(length_N1 > 0, length_N1, 1)


def robust_centre(unit_MD: np.ndarray, *, eps: float, min_samples: int) -> Centre:
    """The Centre of an identity by its unit embeddings: the mean of the largest cluster that DBSCAN finds in them.

    eps: cosine distance of neighbours; min_samples: of a core, itself among them. Of clusters of one size the tighter
    one counts. Where nothing makes a cluster, the image most like the others is the centre alone. Rows of zeros take no
    part.
    Source: mind_ft, which takes this centre instead of the mean; Ester et al. 1996 (DBSCAN).

    >>> unit_MD = unit_rows([[1, 0], [1, 0.1], [0, 1]])
    >>> print(robust_centre(unit_MD, eps=0.5, min_samples=2).centre_D.round(2))
    [1.   0.05]
    """
    centre_CD, num_members_C = centres_of(unit_MD, np.zeros(1, int), eps=eps, min_samples=min_samples)
    return Centre(centre_CD[0], int(num_members_C[0]))


def mean_centres(unit_ND: np.ndarray, label_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(unit centre_CD, identity number_C) of the identities that have an image (label 0 or more):
    means of all their images.
    """
    image_M = np.flatnonzero(label_N >= 0)
    number_C, place_M = np.unique(label_N[image_M], return_inverse=True)
    order_M = np.argsort(place_M, kind="stable")
    starts_C = np.searchsorted(place_M[order_M], np.arange(len(number_C)))
    sum_CD = np.add.reduceat(np.asarray(unit_ND)[image_M[order_M]], starts_C, axis=0)
    return unit_rows(sum_CD), number_C


def centres_of(
    unit_MD: np.ndarray, starts_C: np.ndarray, *, eps: float, min_samples: int
) -> tuple[np.ndarray, np.ndarray]:
    """(centre_CD, num_members_C): `robust_centre` of identities whose images lie one after another;
    starts_C: where each begins.

    One call of DBSCAN for all: between identities nothing is near. Its checks alone take a millisecond.
    """
    bounds = zip(starts_C.tolist(), [*starts_C[1:].tolist(), len(unit_MD)], strict=True)
    chosen = [_clustered(unit_MD, start, stop) for start, stop in bounds]
    columns, distances, degrees, alike, offset = [], [], [], [], 0
    for unit_GD in chosen:
        cosine_GG = unit_GD @ unit_GD.T
        near_GG = cosine_GG >= 1 - eps
        np.fill_diagonal(near_GG, True)
        columns.append(offset + np.nonzero(near_GG)[1])
        distances.append(np.maximum(1 - cosine_GG[near_GG], LEAST))
        degrees.append(near_GG.sum(axis=1))
        alike.append(cosine_GG)
        offset += len(unit_GD)
    cluster_K = np.full(offset, -1)
    if offset:
        edges = np.append(0, np.cumsum(np.concatenate(degrees)))
        graph = csr_array((np.concatenate(distances), np.concatenate(columns), edges), shape=(offset, offset))
        graph = sort_graph_by_row_values(graph, copy=False, warn_when_not_sorted=False)
        _, cluster_K = dbscan(graph, eps=eps, min_samples=min_samples, metric="precomputed")
    centre_CD, num_members_C = np.zeros((len(chosen), unit_MD.shape[1]), np.float32), np.zeros(len(chosen), np.int32)
    offset = 0
    for place, (unit_GD, cosine_GG) in enumerate(zip(chosen, alike, strict=True)):
        if len(unit_GD):
            member_G = _members(cluster_K[offset : offset + len(unit_GD)], cosine_GG)
            centre_CD[place] = unit_GD[member_G].mean(axis=0)
            num_members_C[place] = member_G.sum()
        offset += len(unit_GD)
    return unit_rows(centre_CD), num_members_C


def _clustered(unit_MD, start, stop):
    """The rows of an identity that its centre is found by."""
    unit_GD = unit_MD[start:stop]
    unit_GD = unit_GD[unit_GD.any(axis=1)]
    if len(unit_GD) > MAX_CLUSTERED:
        unit_GD = unit_GD[np.random.default_rng(len(unit_GD)).choice(len(unit_GD), MAX_CLUSTERED, replace=False)]
    return unit_GD


def _members(cluster_G, cosine_GG):
    """Which images make the centre: the largest cluster, of several of one size the tighter one; without any, the image
    most like the others."""
    if cluster_G.max() < 0:
        return np.arange(len(cluster_G)) == cosine_GG.sum(axis=1).argmax()
    names, sizes = np.unique(cluster_G[cluster_G >= 0], return_counts=True)
    largest = names[sizes == sizes.max()]
    if len(largest) > 1:
        tightness = [cosine_GG[np.ix_(cluster_G == number, cluster_G == number)].mean() for number in largest]
        largest = largest[np.argmax(tightness) :]
    return cluster_G == largest[0]
