"""Two thresholds over embeddings: which identities are one person, and which images are of somebody else.

Source: the cleaning space of Towards Robust Face Recognition with Comprehensive Search (ECCV 2022, arXiv:2208.13600): merge
classes whose centre similarity exceeds tau_inter (one person under two names), keep a sample if its "discriminability" exceeds
tau_intra (a stranger in a folder). That discriminability is the cosine to the identity's centre, that a centre is the mean of
unit embeddings, and that merging comes first, so that centres are fresh, are our reading; the last two as mind_ft has them but
for its robust centres.

N images, M of them, C identities, B a block of them, D embedding size
"""

from typing import NamedTuple

import numpy as np
import torch

from zennas.faces.labels import DROPPED

BLOCK = 4096  # centres compared at a time


class Cleaned(NamedTuple):
    """label_N: the number of an identity, or DROPPED; what was done to get there."""

    label_N: np.ndarray
    num_merged: int  # identities that became part of another one
    num_dropped: int  # images left out, beside those that were none of ours


def cleaned(unit_ND, label_N, *, tau_inter=None, tau_intra=None):
    """The Cleaned labels of images by their unit embeddings (a row of zeros: there is none, and tau_intra leaves
    that image out).

    label_N: DROPPED for images that take no part. A threshold of None: not applied. Merged identities have the lowest of their
    numbers, and are one person if a chain of such pairs joins them.

    >>> unit_ND = np.array([[1, 0], [1, 0], [0.6, 0.8], [0, 1]])
    >>> cleaned(unit_ND, np.array([0, 1, 1, 2]), tau_inter=0.85, tau_intra=0.82)
    Cleaned(label_N=array([ 0,  0, -1,  2]), num_merged=1, num_dropped=1)
    """
    cleaned_N = np.array(label_N)
    before = np.unique(cleaned_N[cleaned_N >= 0])
    if tau_inter is not None:
        centre_CD, number_C = _centres(unit_ND, cleaned_N)
        lowest_C = _joined(len(number_C), _alike(centre_CD, tau_inter))
        place_N = np.searchsorted(number_C, cleaned_N)
        cleaned_N = np.where(cleaned_N >= 0, number_C[lowest_C[np.minimum(place_N, len(number_C) - 1)]], DROPPED)
    merged = np.unique(cleaned_N[cleaned_N >= 0])
    if tau_intra is not None:
        centre_CD, number_C = _centres(unit_ND, cleaned_N)
        image_M = np.flatnonzero(cleaned_N >= 0)
        centre_MD = centre_CD[np.searchsorted(number_C, cleaned_N[image_M])]
        unit_MD = np.asarray(unit_ND)[image_M]
        cosine_M = np.einsum("md,md->m", unit_MD, centre_MD)
        cleaned_N[image_M[~((cosine_M > tau_intra) & unit_MD.any(axis=1))]] = DROPPED
    num_dropped = int((np.asarray(label_N) >= 0).sum() - (cleaned_N >= 0).sum())
    return Cleaned(cleaned_N, len(before) - len(merged), num_dropped)


def unit_rows(embedding_ND):
    """The rows made of length 1, float32; zeros where there is no finite embedding."""
    row_ND = np.nan_to_num(np.asarray(embedding_ND, np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    length_N1 = np.linalg.norm(row_ND, axis=1, keepdims=True)
    return row_ND / np.where(length_N1 > 0, length_N1, 1)


def _centres(unit_ND, label_N):
    """(unit centre_CD, identity number_C) of the identities that have an image."""
    image_M = np.flatnonzero(label_N >= 0)
    number_C, place_M = np.unique(label_N[image_M], return_inverse=True)
    order_M = np.argsort(place_M, kind="stable")
    starts_C = np.searchsorted(place_M[order_M], np.arange(len(number_C)))
    sum_CD = np.add.reduceat(np.asarray(unit_ND)[image_M[order_M]], starts_C, axis=0)
    return unit_rows(sum_CD), number_C


def _alike(centre_CD, threshold):
    """(row, column) of the pairs of centres whose cosine is above the threshold, row below column."""
    centre_CD = torch.from_numpy(centre_CD)
    for start in range(0, len(centre_CD), BLOCK):
        block_BC = centre_CD[start : start + BLOCK] @ centre_CD[start:].T
        for row, column in (block_BC > threshold).nonzero().tolist():
            if row < column:
                yield start + row, start + column


def _joined(num, pairs):
    """For each of `num` things, the lowest that a chain of pairs joins it with."""
    lowest = list(range(num))

    def root(one):
        while lowest[one] != one:
            lowest[one] = lowest[lowest[one]]
            one = lowest[one]
        return one

    for one, other in pairs:
        low, high = sorted((root(one), root(other)))
        lowest[high] = low
    return np.array([root(one) for one in range(num)], np.int64)
