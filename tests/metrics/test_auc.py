"""AUC over all pairs against scipy's Mann-Whitney statistic, scikit-learn, and by hand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score

from zennas.metrics.auc import all_pairs_auc
from zennas.records import UserError


def all_pairs(embedding_ND, label_N):
    """(similarity_P, same_P) of every pair, one by one."""
    unit_ND = embedding_ND / np.maximum(np.linalg.norm(embedding_ND, axis=1, keepdims=True), 1e-30)
    both = list(itertools.combinations(range(len(label_N)), 2))
    similarity_P = np.array([unit_ND[i] @ unit_ND[j] for i, j in both])
    return similarity_P, np.array([label_N[i] == label_N[j] for i, j in both])


# Three directions and zeros, so that many similarities are equal: 1, 0 and 1/2.
rows = st.lists(st.tuples(st.sampled_from([(1, 0, 0, 0), (0, 1, 0, 0), (1, 1, 1, 1), (0, 0, 0, 0)]), st.integers(0, 3)))


@settings(max_examples=100, deadline=None)
@given(rows.filter(bool))
def test_equal_pairs_count_by_half(drawn):
    embedding_ND, label_N = np.array([row for row, _ in drawn], float), np.array([label for _, label in drawn])
    auc = all_pairs_auc(embedding_ND, label_N)
    if len(drawn) < 2:
        assert np.isnan(auc.auc) and auc[1:] == (0, 0)
        return
    similarity_P, same_P = all_pairs(embedding_ND, label_N)
    assert auc.num_same == same_P.sum() and auc.num_different == (~same_P).sum()
    if same_P.all() or not same_P.any():
        assert np.isnan(auc.auc)
        return
    statistic = mannwhitneyu(similarity_P[same_P], similarity_P[~same_P]).statistic
    assert auc.auc == pytest.approx(statistic / (auc.num_same * auc.num_different), abs=1e-12)


@pytest.mark.parametrize("num", [50, 700])  # within a block, and over several in both directions
def test_it_is_that_of_scikit_learn(num):
    rng = np.random.default_rng(num)
    label_N = rng.integers(0, num // 3, num)
    embedding_ND = rng.normal(size=(num, 16)) + 0.7 * rng.normal(size=(num // 3, 16))[label_N]
    auc = all_pairs_auc(embedding_ND.astype(np.float32), label_N)
    similarity_P, same_P = all_pairs(embedding_ND, label_N)
    assert 0.6 < auc.auc < 0.99
    # Similarities are rounded to multiples of 2^-26, which turns some pairs round.
    assert auc.auc == pytest.approx(roc_auc_score(same_P, similarity_P), abs=1e-6)


def test_the_order_of_rows_does_not_matter():
    rng = np.random.default_rng(0)
    embedding_ND, label_N = rng.normal(size=(600, 8)), rng.integers(0, 100, 600)
    order_N = rng.permutation(600)
    assert all_pairs_auc(embedding_ND, label_N) == all_pairs_auc(embedding_ND[order_N], label_N[order_N])


def test_what_can_be_told_apart_and_what_cannot():
    label_N = np.repeat(np.arange(10), 3)
    assert all_pairs_auc(np.eye(10)[label_N], label_N) == (1.0, 30, 405)
    assert all_pairs_auc(np.ones((30, 4)), label_N).auc == 0.5
    with pytest.raises(UserError, match="finite"):
        all_pairs_auc(np.full((30, 4), np.nan), label_N)
