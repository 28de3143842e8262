"""Templates against loops over their images, TAR at the nearest FAR against scikit-learn's ROC curve, and by hand."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from zennas.metrics import templates
from zennas.metrics.templates import pool_templates, tar_at_nearest_far, tars_at_nearest_fars, template_pairs
from zennas.metrics.verification import tar_at_far
from zennas.records import UserError


def images(num=80, *, size=5, seed=0):
    """(embeddings, templates, media, scores), in no order; media numbers occur in several templates."""
    rng = np.random.default_rng(seed)
    template = rng.choice([3, 4, 900, -7, 50, 51], size=num, p=[0.02, 0.08, 0.1, 0.1, 0.2, 0.5])
    return rng.normal(size=(num, size)), template, rng.integers(4, size=num), rng.uniform(0.5, 1, size=num)


def naive_pool(embedding, template, media, score):
    """{template: unit row}"""
    sums = {}
    for one in set(template.tolist()):
        rows = {}
        for row, where, of, weight in zip(embedding, template, media, score, strict=True):
            if where == one:
                rows.setdefault(of, []).append(weight * row)
        total = sum(sum(several) / len(several) for several in rows.values())
        sums[one] = total / math.sqrt(sum(value**2 for value in total))
    return sums


@pytest.mark.parametrize("num_rows", [1, 7, 16384])
def test_pooled_as_loops_do(num_rows, monkeypatch):
    monkeypatch.setattr(templates, "NUM_ROWS", num_rows)
    embedding, template, media, score = images()
    expected = naive_pool(embedding, template, media, score)
    numbers, pooled = pool_templates(embedding, template, media, score_N=score)
    assert numbers.tolist() == sorted(expected) and pooled.dtype == np.float32
    for number, row in zip(numbers, pooled, strict=True):
        np.testing.assert_allclose(row, expected[number], atol=1e-7)  # float32 below 1: 6e-8
    unscored = pool_templates(embedding, template, media)[1]
    np.testing.assert_array_equal(unscored, pool_templates(embedding, template, media, score_N=np.full(80, 1.0))[1])
    assert np.abs(unscored - pooled).max() > 0.01


def test_order_and_media_numbers_do_not_matter():
    embedding, template, media, score = images(seed=1)
    numbers, pooled = pool_templates(embedding, template, media, score_N=score)
    order = np.random.default_rng(2).permutation(len(media))
    moved = pool_templates(embedding[order], template[order], media[order], score_N=score[order])
    assert moved[0].tolist() == numbers.tolist()
    np.testing.assert_allclose(moved[1], pooled, atol=1e-7)  # sums in another order, rounded to float32
    # A media's number means something within a template only: the same partition under other numbers.
    other = pool_templates(embedding, template, media * 1000 + template, score_N=score)[1]
    np.testing.assert_array_equal(other, pooled)


def test_pooling_by_hand(tmp_path):
    """Two frames of a video are averaged, a still counts as much as the video; a longer row counts more; zeros stay
    zeros.
    """
    embedding = np.array([[4, 0], [8, 0], [0, 8], [1, 2], [-1, -2], [0, 0], [0, 3]], np.float16)
    numbers, pooled = pool_templates(embedding, [1, 1, 1, 2, 2, 3, 4], [5, 5, 6, 5, 6, 5, 5])
    assert numbers.tolist() == [1, 2, 3, 4]  # two that follow each other have media 5 alone
    np.testing.assert_allclose(pooled, [[0.6, 0.8], [0, 0], [0, 0], [0, 1]], atol=1e-7)
    np.save(tmp_path / "rows.npy", embedding)
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")
    np.testing.assert_array_equal(pool_templates(mapped, [1, 1, 1, 2, 2, 3, 4], [5, 5, 6, 5, 6, 5, 5])[1], pooled)


def test_pairs_are_products():
    embedding, template, media, score = images(seed=3)
    numbers, pooled = pool_templates(embedding, template, media, score_N=score)
    first, second = np.random.default_rng(4).choice(numbers, size=(2, 100))
    cosine = template_pairs(pooled, numbers, first, second)
    rows = dict(zip(numbers.tolist(), pooled.astype(np.float64), strict=True))
    expected = [math.fsum(rows[one] * rows[other]) for one, other in zip(first, second, strict=True)]
    np.testing.assert_allclose(cosine, expected, atol=1e-15)  # five products, in float64
    assert cosine.dtype == np.float64
    for chunk in (1, 7, 100):
        np.testing.assert_array_equal(template_pairs(pooled, numbers, first, second, chunk=chunk), cosine)
    assert template_pairs(pooled, numbers, [], []).shape == (0,)


def nearest_on_the_curve(similarity, same, far):
    """As insightface's script: the curve from its end on, the first of the smallest distances."""
    fars, tars, _ = roc_curve(same, similarity)
    return min((abs(one - far), -place, tar) for place, (one, tar) in enumerate(zip(fars, tars, strict=True)))[2]


BY_HAND = [(5, True), *[(4 - step / 8, False) for step in range(8)], (1, True)]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=1, max_size=60),
    st.integers(0, 32).map(lambda one: one / 32) | st.sampled_from([1e-6, 1e-3, 0.1, 0.3]),
)
@example(BY_HAND, 0.7)
def test_nearest_as_scikit_learns_curve_has_it(pairs, far):
    similarity, same = np.array([pair[0] / 8 for pair in pairs]), np.array([pair[1] for pair in pairs])
    tar = tar_at_nearest_far(similarity, same, far)
    if same.all() or not same.any():
        assert math.isnan(tar)
    else:
        assert tar == nearest_on_the_curve(similarity, same, far)


def test_nearest_on_a_larger_set():
    rng = np.random.default_rng(5)
    same = rng.random(5000) < 0.1
    similarity = rng.normal(size=5000) + 2.0 * same
    strict = []
    for far in 10.0 ** np.arange(-6, 0):
        tar = tar_at_nearest_far(similarity, same, far)
        assert tar == nearest_on_the_curve(similarity, same, far)
        strict.append(tar_at_far(similarity, same, far) < tar)
    assert any(strict)
    fars = [1e-3, 0.1, 1.0, 0.0]
    assert tars_at_nearest_fars(similarity, same, fars) == [tar_at_nearest_far(similarity, same, far) for far in fars]


def test_nearest_by_hand():
    """A same pair, eight different ones, a same pair: of the run of different ones only the two ends are points."""
    similarity, same = np.array(BY_HAND).T
    # (0, 0), (0, 1/2), (1, 1/2), (1, 1): at 0.7 the FAR of 1 is nearer, and there the larger TAR counts; half-way too.
    tars = [tar_at_nearest_far(similarity, same, far) for far in (0.3, 0.5, 0.7)]
    assert tars == [0.5, 1.0, 1.0]
    assert [tar_at_far(similarity, same, far) for far in (0.3, 0.5, 0.7)] == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: pool_templates(np.eye(3), [1, 2], [1, 2, 3]), "3 images, and a template number of shape"),
        (lambda: pool_templates(np.eye(3), [1, 2, 2], [1, 2, 0.5]), "3 images, and a media number .* float64"),
        (lambda: pool_templates(np.eye(3), [1, 2, 2], [1, 2, 3], score_N=[1, 2]), r"scores of shape \(2,\)"),
        (lambda: pool_templates(np.eye(3), [1, 2, 2], [1, 2, 3], score_N=[1, 2, np.nan]), "finite score"),
        (lambda: pool_templates(np.eye(3) / [1, 1, 0], [2, 1, 2], [1, 2, 3]), "image 0 of 3"),
        (lambda: pool_templates(np.zeros((0, 3)), [], []), r"shape \(0, 3\)"),
        (lambda: template_pairs(np.eye(3), [1, 2], [1], [1]), "3 rows, and a template number"),
        (lambda: template_pairs(np.eye(3), [1, 3, 2], [1], [1]), "do not ascend"),
        (lambda: template_pairs(np.eye(3), [1, 2, 2], [1], [1]), "do not ascend"),
        (lambda: template_pairs(np.eye(3), [1, 2, 3], [1, 2], [1]), "2 pairs, and a second template number"),
        (lambda: template_pairs(np.eye(3), [1, 2, 3], [1, 4], [0, 4]), "name 2 of 3 templates .*: 0, 4$"),
        (lambda: template_pairs(np.eye(3), [1, 2, 3], range(9), range(9)), r"6 of 9 .*: 0, 4, 5, 6, 7 and 1 more$"),
        (lambda: tar_at_nearest_far([0.1, 0.2], [True, False], 1.5), r"far 1\.5"),
        (lambda: tar_at_nearest_far([0.1, np.nan], [True, False], 0.5), "pair 1: similarity nan"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*encountered in divide:RuntimeWarning")
def test_what_cannot_be_judged_is_said(call, says):
    with pytest.raises(UserError, match=says):
        call()
