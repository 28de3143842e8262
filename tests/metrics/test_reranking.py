"""Re-ranking against its definitions written as sets; expanded queries against a loop, and by hand."""

import functools
import math
import tracemalloc

import numpy as np
import pytest

from tests.metrics.conftest import assert_same, clustered, unit
from zennas.metrics import likeness, reranking
from zennas.metrics.likeness import unit_rows
from zennas.metrics.reranking import expanded, reciprocal_distances
from zennas.metrics.retrieval import reidentify
from zennas.records import UserError


def k_reciprocal(query, gallery, **knobs):
    """All distances at once."""
    return reciprocal_distances(query, gallery, **knobs)(0, len(query))


def naive_k_reciprocal(query, gallery, k1, k2, lambda_value):
    """The paper's definitions as they stand, with sets and dictionaries; distances in float64."""
    rows = np.concatenate([query, gallery])
    rows = [row / np.linalg.norm(row) if np.any(row) else row for row in rows]
    everyone = range(len(rows))
    squared = [[0.0 if i == j else 2 - 2 * float(np.dot(rows[i], rows[j])) for j in everyone] for i in everyone]
    d = [[value / max(line) for value in line] for line in squared]
    nearest = [sorted(everyone, key=lambda j, i=i: (j != i, d[i][j])) for i in everyone]

    def reciprocal(i, k):
        return {j for j in nearest[i][: k + 1] if i in nearest[j][: k + 1]}

    def code(i):
        own = reciprocal(i, k1)
        larger = set(own)
        for member in own:
            theirs = reciprocal(member, round(k1 / 2))
            if len(theirs & own) * 3 > len(theirs) * 2:
                larger |= theirs
        total = sum(math.exp(-d[i][j]) for j in larger)
        return {j: math.exp(-d[i][j]) / total for j in larger}

    first = [code(i) for i in everyone]
    codes = [{j: np.mean([first[near].get(j, 0.0) for near in nearest[i][:k2]]) for j in everyone} for i in everyone]
    result = np.empty((len(query), len(gallery)))
    for q in range(len(query)):
        for g in range(len(gallery)):
            other = codes[len(query) + g]
            least = sum(min(codes[q][j], other[j]) for j in everyone)
            most = sum(max(codes[q][j], other[j]) for j in everyone)
            result[q, g] = (1 - lambda_value) * (1 - least / most) + lambda_value * d[q][len(query) + g]
    return result


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"), [(6, 3, 0.3), (5, 1, 0.0), (1, 4, 0.5), (3, 9, 1.0), (40, 6, 0.3)]
)
def test_k_reciprocal_is_what_the_paper_defines(k1, k2, lambda_value):
    query, gallery = clustered(8, 5, seed=8)[0], clustered(25, 5, seed=9)[0]
    gallery[3], query[2] = 0, 0  # what could not be used
    distance = k_reciprocal(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    expected = naive_k_reciprocal(query, gallery, k1, k2, lambda_value)
    assert distance.dtype == np.float32 and np.ptp(expected) > 0.3
    np.testing.assert_allclose(distance, expected, atol=1e-6)  # unit rows, similarities and the result are float32


def test_the_case_of_two_thirds_occurs():
    """In the data of the test above; or it could not tell "more than 2/3" from "at least"."""
    query, gallery = clustered(8, 5, seed=8)[0], clustered(25, 5, seed=9)[0]
    rows = np.concatenate([unit_rows("query", query), unit_rows("gallery", gallery)])
    near, _ = reranking._neighbours(rows, 7, None)
    larger = list(reranking._expanded(near, 6))
    own = [set(line[mutual]) for line, mutual in zip(near, reranking._mutual(near), strict=True)]
    short = near[:, :4]
    theirs = [set(line[mutual]) for line, mutual in zip(short, reranking._mutual(short), strict=True)]
    shares = {len(theirs[member] & one) / len(theirs[member]) for one in own for member in one}
    assert 2 / 3 in shares and min(shares) < 2 / 3 < max(shares)
    assert any(set(more) > one for more, one in zip(larger, own, strict=True))


def test_with_lambda_1_it_ranks_as_the_distance_and_below_it_helps():
    query, query_label, query_camera = clustered(30, 12, noise=0.9, seed=10)
    gallery, gallery_label, gallery_camera = clustered(150, 12, noise=0.9, seed=11)
    both = query, query_label, query_camera, gallery, gallery_label, gallery_camera
    plain = reidentify(*both)
    assert_same(plain, reidentify(*both, rerank=functools.partial(reciprocal_distances, lambda_value=1.0)))
    again = reidentify(*both, rerank=functools.partial(reciprocal_distances, k1=10, k2=4))
    assert again.mean_ap > plain.mean_ap + 0.03  # 0.36 -> 0.41


def test_an_image_is_its_own_nearest_and_of_equal_ones_the_first_are_next(blocks):
    rows = unit_rows("images", np.array([[1, 0], [0, 1], [2, 0], [3, 3], [4, 0], [0, 0], [5, 0], [0, 2.0]]))
    near, farthest = reranking._neighbours(rows, 3, None)
    assert near.tolist() == [[0, 2, 4], [1, 7, 3], [2, 0, 4], [3, 0, 1], [4, 0, 2], [5, 0, 1], [6, 0, 2], [7, 1, 3]]
    np.testing.assert_allclose(farthest, [2, 2, 2, 2, 2, 2, 2, 2], atol=1e-6)


def test_k_reciprocal_by_blocks_and_in_any_order(monkeypatch):
    query, gallery = clustered(9, 5, seed=12)[0], clustered(40, 5, seed=13)[0]
    gallery[20:30] = gallery[10]  # eleven equal ones, more than k1
    whole, order = k_reciprocal(query, gallery, k1=6, k2=3), np.random.default_rng(14).permutation(40)
    for values, rows, columns in ((1, 1, 1), (100, 3, 7)):
        monkeypatch.setattr(likeness, "BLOCK_VALUES", values)
        monkeypatch.setattr(likeness, "BLOCK_ROWS", rows)
        monkeypatch.setattr(likeness, "BLOCK_COLUMNS", columns)
        np.testing.assert_array_equal(k_reciprocal(query, gallery, k1=6, k2=3), whole)
    gallery = clustered(40, 5, seed=13)[0]  # without equal ones: of those the first are the nearer
    moved = k_reciprocal(query, gallery[order], k1=6, k2=3)
    np.testing.assert_allclose(moved, k_reciprocal(query, gallery, k1=6, k2=3)[:, order], atol=1e-6)  # other sums
    collapsed = k_reciprocal(np.ones((2, 3)), np.ones((4, 3)))
    assert len(np.unique(collapsed)) == 1 and abs(collapsed[0, 0]) < 1e-6  # no distance but for float32's rounding


def test_distances_come_in_blocks_of_queries():
    query, gallery = clustered(9, 5, seed=12)[0], clustered(40, 5, seed=13)[0]
    distances, whole = reciprocal_distances(query, gallery, k1=6, k2=3), k_reciprocal(query, gallery, k1=6, k2=3)
    for start, stop in ((0, 1), (3, 9), (8, 9)):
        np.testing.assert_array_equal(distances(start, stop), whole[start:stop])


def test_memory_is_of_a_block_and_not_of_all_pairs():
    """N * N float32 values alone would take 100 MB."""
    query, gallery = clustered(1000, 200, seed=1)[0], clustered(4000, 200, seed=2)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(likeness, "BLOCK_VALUES", 2**19)  # 2 MiB
        tracemalloc.start()
        try:
            distances = reciprocal_distances(query, gallery, k1=10, k2=3)
            for start, stop in likeness.blocks(1000, 4000):
                assert np.isfinite(distances(start, stop)).all()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 40e6


# --- expanded queries


@pytest.mark.parametrize(("k", "alpha"), [(1, 3.0), (4, 0.0), (5, 3.0), (50, 1.0)])
def test_expanded_as_a_loop_has_it(k, alpha, blocks):
    query, gallery = clustered(7, 4, seed=3)[0], clustered(20, 4, seed=4)[0]
    rows = unit(np.concatenate([query, gallery]))
    sums = []
    for image, row in enumerate(rows):
        cosine = rows @ row
        cosine[image] = 2.0  # itself first
        near = np.argsort(-cosine)[:k]
        weights = [1.0 if other == image else max(rows[other] @ row, 0) ** alpha for other in near]
        sums.append(sum(weight * rows[other] for weight, other in zip(weights, near, strict=True)))
    found = np.concatenate(expanded(query, gallery, k=k, alpha=alpha))
    np.testing.assert_allclose(found, unit(np.array(sums)), atol=1e-6)  # unit rows are float32


def test_expansion_brings_people_together():
    query, query_label, query_camera = clustered(30, 12, noise=0.9, seed=10)
    gallery, gallery_label, gallery_camera = clustered(150, 12, noise=0.9, seed=11)
    plain = reidentify(query, query_label, query_camera, gallery, gallery_label, gallery_camera)
    more_query, more_gallery = expanded(query, gallery, k=6)
    more = reidentify(more_query, query_label, query_camera, more_gallery, gallery_label, gallery_camera)
    assert more.mean_ap > plain.mean_ap + 0.03
    alone = expanded(query, gallery, k=1)
    for rows, same in zip(alone, (query, gallery), strict=True):
        np.testing.assert_allclose(rows, unit_rows("rows", same), atol=1e-7)  # made of unit length once more


# --- what cannot be ranked again

ROWS = np.eye(3)
BAD_ROWS = np.array([[1, 0, 0], [0, np.nan, 0], [0, 0, np.inf]])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: k_reciprocal(ROWS, BAD_ROWS), "gallery row 1 of 3"),
        (lambda: k_reciprocal(ROWS, ROWS, k2=0), "k1 20, k2 0"),
        (lambda: k_reciprocal(ROWS, ROWS, lambda_value=3), "lambda_value 3"),
        (lambda: expanded(ROWS, ROWS, k=0), "k 0, alpha 3.0: allowed: k a whole number from 1 on"),
        (lambda: expanded(ROWS, ROWS, alpha=-1.0), "alpha -1.0"),
        (lambda: expanded(ROWS, ROWS[:, :2]), "they must come from one network"),
    ],
)
def test_what_cannot_be_ranked_again_is_said(call, says):
    with pytest.raises(UserError, match=says):
        call()


@pytest.mark.parametrize(
    "wrong", [{"k1": "5"}, {"k1": 2.5}, {"k2": True}, {"lambda_value": None}, {"k1": float("inf")}]
)
def test_numbers_that_are_none_are_refused(wrong):
    with pytest.raises(UserError, match="allowed: k1 and k2 whole numbers from 1 on, lambda_value in "):
        reciprocal_distances(np.eye(3), np.eye(3), **wrong)


@pytest.mark.parametrize("wrong", [{"k": "5"}, {"k": 1.5}, {"k": True}, {"alpha": "3"}, {"alpha": float("inf")}])
def test_expansion_by_no_number_is_refused(wrong):
    with pytest.raises(UserError, match="allowed: k a whole number from 1 on, alpha from 0 on"):
        expanded(np.eye(3), np.eye(3), **wrong)
