"""Robust centres against DBSCAN written as loops, and where they must lie; means against a naive sum."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from zennas.clean import centres
from zennas.clean.centres import centres_of, mean_centres, robust_centre, unit_rows


def naive_clusters(unit_MD, eps, min_samples):
    """DBSCAN from its definition: cores, what a chain of cores reaches, borders to the first core's cluster."""
    near = [
        [other for other in range(len(unit_MD)) if 1 - unit_MD[one] @ unit_MD[other] <= eps]
        for one in range(len(unit_MD))
    ]
    cores = [one for one, around in enumerate(near) if len(around) >= min_samples]
    cluster, clusters = {}, 0
    for core in cores:
        if core in cluster:
            continue
        todo = [core]
        while todo:
            one = todo.pop()
            if one in cluster:
                continue
            cluster[one] = clusters
            if one in cores:
                todo += near[one]
        clusters += 1
    return [cluster.get(one, -1) for one in range(len(unit_MD))], clusters


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    seed=strategies.integers(0, 10**6), num=strategies.integers(1, 12), min_samples=strategies.integers(1, 3)
)
def test_the_centre_is_the_mean_of_the_largest_cluster(seed, num, min_samples):
    rng = np.random.default_rng(seed)
    unit_MD = unit_rows(rng.normal(size=(3, 8))[rng.integers(3, size=num)] + 0.3 * rng.normal(size=(num, 8)))
    cluster, clusters = naive_clusters(unit_MD, 0.4, min_samples)
    found = robust_centre(unit_MD, eps=0.4, min_samples=min_samples)
    sizes = [cluster.count(one) for one in range(clusters)]
    if not sizes:
        lonely = (unit_MD @ unit_MD.T).sum(axis=1).argmax()
        assert found.num_members == 1
        np.testing.assert_allclose(found.centre_D, unit_MD[lonely], atol=1e-6)
        return
    assert found.num_members == max(sizes)
    means = [
        unit_rows(unit_MD[[image for image in range(num) if cluster[image] == one]].mean(axis=0)[None])[0]
        for one in range(clusters)
        if sizes[one] == max(sizes)
    ]
    assert any(np.allclose(found.centre_D, mean, atol=1e-5) for mean in means)


def test_a_minority_of_somebody_else_moves_the_mean_and_not_the_centre():
    rng = np.random.default_rng(0)
    one_D, other_D = unit_rows(rng.normal(size=(2, 64)))
    unit_MD = unit_rows(np.stack([one_D] * 6 + [other_D] * 4) + 0.05 * rng.normal(size=(10, 64)))
    found = robust_centre(unit_MD, eps=0.5, min_samples=2)
    mean_D = unit_rows(unit_MD.mean(axis=0)[None])[0]
    assert found.num_members == 6
    assert found.centre_D @ one_D > 0.97 and mean_D @ one_D < 0.9


def test_of_two_clusters_of_one_size_the_tighter_one_counts():
    rng = np.random.default_rng(1)
    loose_D, tight_D = unit_rows(rng.normal(size=(2, 64)))
    loose = unit_rows(loose_D + 0.07 * rng.normal(size=(3, 64)))
    tight = unit_rows(tight_D + 0.01 * rng.normal(size=(3, 64)))
    for rows in (np.concatenate([loose, tight]), np.concatenate([tight, loose])):
        assert robust_centre(rows, eps=0.5, min_samples=2).centre_D @ tight_D > 0.99


def test_rows_of_zeros_take_no_part():
    unit_MD = unit_rows([[0, 0], [1, 0], [0, 0], [1, 0.1], [0, 1]])
    assert robust_centre(unit_MD, eps=0.5, min_samples=2).num_members == 2
    nobody = robust_centre(np.zeros((3, 4), np.float32), eps=0.5, min_samples=2)
    assert nobody.num_members == 0 and not nobody.centre_D.any()


def test_a_large_identity_is_clustered_by_a_sample(monkeypatch):
    rng = np.random.default_rng(2)
    direction_D = unit_rows(rng.normal(size=(1, 64)))[0]
    unit_MD = unit_rows(direction_D + 0.08 * rng.normal(size=(4000, 64)))
    unit_MD[:800] = unit_rows(rng.normal(size=(800, 64)))
    whole = robust_centre(unit_MD, eps=0.5, min_samples=2)
    monkeypatch.setattr(centres, "MAX_CLUSTERED", 300)
    sampled = robust_centre(unit_MD, eps=0.5, min_samples=2)
    assert sampled.num_members < 300 < whole.num_members
    assert (
        sampled.centre_D @ whole.centre_D > 0.99
        and (robust_centre(unit_MD, eps=0.5, min_samples=2).centre_D == sampled.centre_D).all()
    )


def test_many_identities_at_once_are_each_alone():
    rng = np.random.default_rng(3)
    unit_MD, starts_C = unit_rows(rng.normal(size=(12, 8))), np.array([0, 1, 3, 8])
    centre_CD, num_members_C = centres_of(unit_MD, starts_C, eps=0.9, min_samples=2)
    for place, rows in enumerate(np.split(unit_MD, starts_C[1:])):
        alone = robust_centre(rows, eps=0.9, min_samples=2)
        assert (centre_CD[place] == alone.centre_D).all() and num_members_C[place] == alone.num_members


def test_means_are_of_all_images():
    rng = np.random.default_rng(4)
    unit_ND, label_N = unit_rows(rng.normal(size=(40, 6))), rng.integers(-1, 7, 40) * 3
    label_N[label_N < 0] = -1
    centre_CD, number_C = mean_centres(unit_ND, label_N)
    assert number_C.tolist() == sorted(set(label_N.tolist()) - {-1})
    for centre_D, number in zip(centre_CD, number_C, strict=True):
        total = sum(unit_ND[image].astype(float) for image in range(40) if label_N[image] == number)
        np.testing.assert_allclose(centre_D, total / np.linalg.norm(total), atol=1e-6)


def test_rows_without_a_face_have_no_direction():
    row_ND = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 0]])
    assert unit_rows(row_ND).tolist() == [pytest.approx([0.6, 0.8]), [0, 0], [0, 1], [0, 0]]
    assert unit_rows(row_ND.astype(np.float16)).dtype == np.float32
