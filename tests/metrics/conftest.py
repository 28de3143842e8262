"""Embeddings of identities that overlap, rows at known angles, and blocks of other sizes."""

import numpy as np
import pytest

from zennas.metrics import likeness


def clustered(num, num_identities, *, size=6, noise=0.8, seed=0):
    """(embeddings, labels from 1, cameras) of identities that overlap, of lengths from 0.5 to 3."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_identities, size))
    labels = rng.integers(num_identities, size=num)
    rows = centres[labels] + noise * rng.normal(size=(num, size))
    return rows * rng.uniform(0.5, 3, size=(num, 1)), labels + 1, rng.integers(3, size=num)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def angles(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def assert_same(one, other):
    """Two results are equal in every number."""
    for first, second in zip(one, other, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.fixture(params=[(1, 1, 1), (40, 3, 7), (2**26, 4096, 8192)])
def blocks(request, monkeypatch):
    for name, value in zip(("BLOCK_VALUES", "BLOCK_ROWS", "BLOCK_COLUMNS"), request.param, strict=True):
        monkeypatch.setattr(likeness, name, value)
