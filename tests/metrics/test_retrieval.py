"""Retrieval against loops that try everything, scikit-learn, and by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, top_k_accuracy_score

from tests.metrics.conftest import angles, assert_same, clustered, unit
from zennas.metrics.likeness import unit_rows
from zennas.metrics.retrieval import Labels, average_precision, identify, reidentify, single_shot
from zennas.metrics.verification import tar_at_far
from zennas.records import UserError

# --- average precision, re-identification


def test_average_precision_by_hand():
    assert average_precision([20, 8, 4, 3, 1]) == pytest.approx((1 + 2 / 3 + 3 / 4 + 4 / 8 + 5 / 20) / 5, abs=1e-15)
    examples = [average_precision([1, 3, 4, 8, 20]), average_precision([1, 3, 5])]
    assert [round(value, 4) for value in (*examples, sum(examples) / 2)] == [0.6333, 0.7556, 0.6944]
    assert average_precision([1]) == 1.0 and average_precision([4]) == 0.25
    for ranks in ([], [0, 1], [2, 2], [[1]]):
        with pytest.raises(UserError, match="ranks"):
            average_precision(ranks)


def test_a_gallery_by_hand():
    """Twenty images, each a degree further away, the right ones at places 1, 3, 4, 8 and 20; with junk in between."""
    places = np.arange(1, 21)
    labels = np.where(np.isin(places, [1, 3, 4, 8, 20]), 5, 0)  # the others are Market-1501's distractors
    gallery = angles(*places, 0.2, 3.5)
    labels, cameras = np.append(labels, [-1, 5]), np.append(np.full(20, 2), [2, 1])
    found = reidentify(angles(0, 0), [5, 9], [1, 1], gallery, labels, cameras, ranks=(1, 20))
    assert round(found.mean_ap, 4) == 0.6333 and found.first_rank_Q.tolist() == [1, 0]
    assert found.num_queries == 2 and found.unanswerable.tolist() == [1] and math.isnan(found.ap_Q[1])
    assert found.mean_inp == found.inp_Q[0] == 5 / 20 and math.isnan(found.inp_Q[1])
    assert found.at_rank == {1: 1.0, 20: 1.0} and len(found.cmc) == 50

    known_camera = reidentify(angles(0), [5], None, gallery, labels, None)  # the image at 3.5 degrees is no junk then
    assert known_camera.mean_ap == pytest.approx(average_precision([1, 3, 4, 5, 9, 21]), abs=1e-15)


def test_as_scikit_learn_and_loops_have_it(blocks):
    query, query_label, query_camera = clustered(25, 9, seed=1)
    gallery, gallery_label, gallery_camera = clustered(60, 8, seed=2)  # the ninth identity is not in the gallery
    gallery_label[::10] = -1
    done = []
    found = reidentify(
        query.astype(np.float16),
        query_label,
        query_camera,
        gallery,
        gallery_label,
        gallery_camera,
        progress=lambda *both: done.append(both),
    )
    first, aps, inps = [], [], []
    for row, label, camera in zip(query.astype(np.float16).astype(float), query_label, query_camera, strict=True):
        shown = (gallery_label >= 0) & ~((gallery_label == label) & (gallery_camera == camera))
        cosine = unit(gallery[shown]) @ row / np.linalg.norm(row)
        right = gallery_label[shown] == label
        aps.append(average_precision_score(right, cosine) if right.any() else math.nan)
        ranks = np.flatnonzero(right[np.argsort(-cosine)]) + 1
        first.append(ranks[0] if len(ranks) else 0)
        inps.append(len(ranks) / ranks[-1] if len(ranks) else math.nan)
    np.testing.assert_allclose(found.ap_Q, aps, atol=1e-12)  # sums of a few dozen shares in another order
    assert found.first_rank_Q.tolist() == first
    answered = np.array(first) > 0
    assert 0 < len(found.unanswerable) < 25 and found.unanswerable.tolist() == np.flatnonzero(~answered).tolist()
    assert found.mean_ap == pytest.approx(np.nanmean(aps), abs=1e-12)
    assert found.mean_inp == pytest.approx(np.nanmean(inps), abs=1e-12) and 0 < found.mean_inp < found.mean_ap
    np.testing.assert_array_equal(found.inp_Q, inps)
    assert found.missing.tolist() == [query for query in found.unanswerable if query_label[query] == 9]
    for rank in (1, 5, 10, 50):
        assert found.cmc[rank - 1] == np.mean(np.array(first)[answered] <= rank)
    assert found.at_rank == {rank: found.cmc[rank - 1] for rank in (1, 5, 10)} and found.at_rank[1] < found.at_rank[10]
    assert done[-1] == (25, 25)


def test_why_a_query_has_no_right_answer():
    """Nobody of that name; only junk; only by its own camera; only its own image."""
    query_label, query_camera = np.array([1, 2, 3, 4, 5]), np.array([1, 1, 1, 1, 1])
    gallery_label, gallery_camera = np.array([5, -1, 3, 3, 4]), np.array([2, 2, 1, 1, 2])
    images = np.array([10, 11, 12, 13, 14]), np.array([20, 21, 22, 23, 13])
    rows = np.random.default_rng(0).normal(size=(5, 3))
    found = reidentify(rows, query_label, query_camera, rows, gallery_label, gallery_camera, images=images)
    assert found.unanswerable.tolist() == [0, 1, 2, 3] and found.missing.tolist() == [0, 1]
    labels = Labels.checked(query_label, query_camera, gallery_label, gallery_camera, images=images)
    assert labels.answerable_Q.tolist() == [False, False, False, False, True]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3), st.booleans()), min_size=1, max_size=25))
def test_wrong_ones_come_first_among_equals(images):
    """Images that point in one of four directions: many are equal, whatever their lengths."""
    similar = np.array([0.9, 0.5, 0.0, -0.3])
    rows = np.array([[similar[place], math.sqrt(1 - similar[place] ** 2)] for place, _, _ in images])
    rows *= np.array([[length] for _, length, _ in images])
    right = np.array([image[2] for image in images])
    order = sorted(range(len(images)), key=lambda place: (images[place][0], right[place]))
    ranks = [rank for rank, place in enumerate(order, 1) if right[place]]
    found = reidentify([[1.0, 0.0]], [1], None, rows, right.astype(int), None)
    if not ranks:
        assert math.isnan(found.mean_ap) and found.unanswerable.tolist() == [0] and np.isnan(found.cmc).all()
    else:
        assert found.first_rank_Q.tolist() == ranks[:1] and found.mean_ap == average_precision(ranks)


def test_a_row_of_zeros_is_similar_to_nothing():
    gallery = [[1, 0], [0, 0], [-1, 0], [0, 0]]
    found = reidentify([[1, 0], [0, 0]], [1, 2], None, gallery, [3, 1, 3, 2], None)
    # 1: behind (1, 0), and behind the equal zeros of a wrong one. 2: all are equal, the three wrong ones first.
    assert found.first_rank_Q.tolist() == [3, 4]


def test_order_and_length_of_rows_do_not_matter_and_a_distractor_never_helps():
    query, query_label, query_camera = clustered(20, 8, seed=3)
    gallery, gallery_label, gallery_camera = clustered(50, 8, seed=4)
    plain = reidentify(query, query_label, query_camera, gallery, gallery_label, gallery_camera)
    order = np.random.default_rng(5).permutation(50)
    lengths = 2.0 ** np.random.default_rng(6).integers(
        -40, 40, size=(50, 1)
    )  # powers of two: not even a rounding differs
    moved = reidentify(
        query, query_label, query_camera, (gallery * lengths)[order], gallery_label[order], gallery_camera[order]
    )
    assert_same(plain, moved)
    huge = unit_rows("gallery", gallery * 1e300)  # squares overflow
    np.testing.assert_array_equal(huge, unit_rows("gallery", gallery))
    worse = []
    for distractor in np.random.default_rng(7).normal(size=(10, 6)):
        more = reidentify(
            query,
            query_label,
            query_camera,
            np.vstack([gallery, distractor]),
            np.append(gallery_label, 0),
            np.append(gallery_camera, 0),
        )
        assert (more.cmc <= plain.cmc).all() and not (more.ap_Q > plain.ap_Q).any()
        worse.append(more.mean_ap < plain.mean_ap)
    assert any(worse)


# --- one image of each identity, drawn


def test_single_shot_is_the_mean_over_all_draws():
    """Every gallery that can be drawn, each judged by `reidentify`: the images of a query's camera are not in it."""
    query, query_label, _ = clustered(6, 4, seed=20)
    gallery, gallery_label, _ = clustered(12, 4, seed=21)
    query_camera, gallery_camera = np.arange(6) % 2, np.arange(12) % 3
    expected, cmc = [], []
    for row, label, camera in zip(query, query_label, query_camera, strict=True):
        images = [np.flatnonzero((gallery_label == one) & (gallery_camera != camera)) for one in range(1, 5)]
        draws = list(itertools.product(*(of_one for of_one in images if len(of_one))))
        found = [
            reidentify([row], [label], None, gallery[list(draw)], gallery_label[list(draw)], None) for draw in draws
        ]
        expected.append(np.mean([one.mean_ap for one in found]))
        cmc.append(np.mean([one.cmc for one in found], axis=0))
    found = single_shot(query, query_label, query_camera, gallery, gallery_label, gallery_camera)
    answered = np.isfinite(expected)
    assert found.unanswerable.tolist() == np.flatnonzero(~answered).tolist() and found.num_queries == 6
    assert found.mean_ap == pytest.approx(np.nanmean(expected), abs=1e-12) and 0.3 < found.mean_ap < 1
    np.testing.assert_allclose(found.cmc, np.array(cmc)[answered].mean(axis=0), atol=1e-12)
    assert found.at_rank == {rank: found.cmc[rank - 1] for rank in (1, 5, 10)} and found.at_rank[5] == 1.0
    nobody = single_shot(query, query_label + 9, query_camera, gallery, gallery_label, gallery_camera)
    assert math.isnan(nobody.mean_ap) and np.isnan(nobody.cmc).all() and len(nobody.unanswerable) == 6


# --- 1:N


def naive_identify(probe, probe_label, gallery, gallery_label):
    """(rank, own, other) of each probe; equal wrong identities first; rank 0 and NaN where not mated."""
    found = []
    for row, label in zip(unit(probe), probe_label, strict=True):
        best = {}
        for image, identity in zip(unit(gallery), gallery_label, strict=True):
            best[identity] = max(best.get(identity, -2), float(np.float32(row @ image)))
        own = best.pop(label, math.nan)
        rank = 0 if math.isnan(own) else 1 + sum(value >= own for value in best.values())
        found.append((rank, own, max(best.values())))
    return np.array(found).T


def identities():
    probe, probe_label, _ = clustered(40, 12, seed=15)
    gallery, gallery_label, _ = clustered(60, 12, seed=16)
    known = gallery_label <= 8
    return probe, np.where(probe_label == 12, -5, probe_label), gallery[known], gallery_label[known]


def test_identify_as_loops_have_it(blocks):
    probe, probe_label, gallery, gallery_label = identities()
    done = []
    found = identify(probe, probe_label, gallery, gallery_label, progress=lambda *both: done.append(both))
    rank, own, other = naive_identify(probe, probe_label, gallery, gallery_label)
    mated = rank > 0
    assert found.num_mated == mated.sum() > 10 and found.num_non_mated == (~mated).sum() > 5 and done[-1] == (40, 40)
    assert found.rank_P.tolist() == rank.tolist() and len(set(rank)) > 3
    np.testing.assert_allclose(found.own_P, own, atol=2e-7)  # unit rows of float32
    np.testing.assert_allclose(found.other_P, other, atol=2e-7)
    for probe_number in range(40):
        for image, value in (
            (found.own_image_P[probe_number], found.own_P[probe_number]),
            (found.other_image_P[probe_number], found.other_P[probe_number]),
        ):
            if image >= 0:
                assert unit(probe)[probe_number] @ unit(gallery)[image] == pytest.approx(value, abs=2e-7)
    assert (gallery_label[found.own_image_P[mated]] == probe_label[mated]).all()
    assert (found.own_image_P[~mated] == -1).all()
    assert (gallery_label[found.other_image_P] != probe_label).all()


def test_rank_k_as_scikit_learn_has_it():
    probe, probe_label, gallery, gallery_label = identities()
    found = identify(probe, probe_label, gallery, gallery_label, ranks=(1, 2, 3))
    known = np.unique(gallery_label)
    mated = np.isin(probe_label, known)
    cosine = unit(probe[mated]) @ unit(gallery).T
    best = np.stack([cosine[:, gallery_label == identity].max(axis=1) for identity in known], axis=1)
    for rank, share in found.at_rank.items():
        expected = top_k_accuracy_score(probe_label[mated], best, k=rank, labels=known)
        assert share == found.cmc[rank - 1] == pytest.approx(expected, abs=1e-15)


def test_tpir_is_tar_at_far_of_those_found_first():
    probe, probe_label, gallery, gallery_label = identities()
    fpirs = (0.0, 0.05, 0.1, 0.3, 0.99, 1.0)
    found = identify(probe, probe_label, gallery, gallery_label, fpirs=fpirs)
    mated = found.rank_P > 0
    first = np.where(found.rank_P[mated] == 1, found.own_P[mated], -2.0)  # below every cosine
    tpirs = []
    for point in found.points:
        pairs = np.append(first, found.other_P[~mated]), np.arange(40) < found.num_mated
        expected = found.at_rank[1] if point.fpir == 1 else tar_at_far(*pairs, point.fpir)
        assert point.tpir == expected == np.mean(first > max(point.threshold, -1.5))
        assert point.num_accepted == (found.other_P[~mated] > point.threshold).sum() <= point.fpir * found.num_non_mated
        tpirs.append(point.tpir)
    assert [point.fpir for point in found.points] == list(fpirs)
    assert tpirs == sorted(tpirs) and tpirs[0] < tpirs[-1] and found.points[-1].threshold == -math.inf


def test_a_probe_does_not_find_its_own_image(blocks):
    """Each of the gallery's images searched for in all of it: as if the gallery were without it, image by image."""
    gallery, label, _ = clustered(24, 9, seed=17)
    image = np.arange(24) // 2 * 2 + (np.arange(24) == 23)  # two rows of one image, but for the last two
    found = identify(gallery, label, gallery, label, images=(image, image), fpirs=(0.2,))
    answers = reidentify(gallery, label, None, gallery, label, None, images=(image, image))
    for probe in range(24):
        others = image != image[probe]
        alone = identify(gallery[[probe]], label[[probe]], gallery[others], label[others])
        assert found.rank_P[probe] == alone.rank_P[0] and found.other_P[probe] == alone.other_P[0]
        if alone.rank_P[0]:
            assert found.own_P[probe] == alone.own_P[0]
            assert found.own_image_P[probe] == np.flatnonzero(others)[alone.own_image_P[0]]
        again = reidentify(gallery[[probe]], label[[probe]], None, gallery[others], label[others], None)
        np.testing.assert_equal(answers.ap_Q[probe], again.ap_Q[0])
    assert 0 < found.num_mated < 24 or found.num_mated == (found.rank_P > 0).sum()
    # With nothing but itself in the gallery nobody is found, wrongly or rightly.
    alone = identify(gallery[:1], [3], gallery[:1], [3], images=([7], [7]), fpirs=(0.0,))
    assert alone.num_non_mated == 1 and alone.other_image_P.tolist() == [-1] and alone.points[0].num_accepted == 0
    with pytest.raises(UserError, match="probe: 24 embeddings, and a image of shape"):
        identify(gallery, label, gallery, label, images=(image[1:], image))


def test_identities_that_are_equal_and_images_that_are_many():
    """One identity with three images nearer than the right one is one identity; one as near as the right one is before
    it.
    """
    gallery = angles(1, 2, 3, 10, 10, 40)
    found = identify(angles(0), [7], gallery, [1, 1, 1, 2, 7, 3])
    assert found.rank_P.tolist() == [3] and found.at_rank == {1: 0.0, 5: 1.0, 10: 1.0}
    assert found.own_image_P.tolist() == [4] and found.other_image_P.tolist() == [0]
    # Equal non-mated probes: one of four may be accepted, but two are equally strong.
    strong = identify(angles(0, 1, 1, 60, 80), [7, 8, 8, 8, 8], angles(0, 1.5), [7, 1], fpirs=(0.25, 0.5))
    assert [point.num_accepted for point in strong.points] == [0, 2]
    # A mated probe exactly as strong as the strongest refused one is refused too.
    level = identify(angles(0, 0), [7, 8], angles(5, 30), [7, 1], fpirs=(0.0, 1.0))
    assert level.own_P[0] == level.other_P[1] and [point.tpir for point in level.points] == [0.0, 1.0]


def test_order_of_the_gallery_does_not_matter():
    probe, probe_label, gallery, gallery_label = identities()
    order = np.random.default_rng(17).permutation(len(gallery))
    plain, moved = (
        identify(probe, probe_label, gallery, gallery_label),
        identify(probe, probe_label, gallery[order], gallery_label[order]),
    )
    assert order[moved.other_image_P].tolist() == plain.other_image_P.tolist()
    images = {"own_image_P": 0, "other_image_P": 0}
    assert_same(plain._replace(**images), moved._replace(**images))


def test_without_one_kind_of_probe():
    nobody = identify(angles(0, 50), [-1, 4], angles(1, 2), [1, 2])
    assert nobody.num_mated == 0 and np.isnan(nobody.cmc).all() and np.isnan(nobody.own_P).all()
    assert all(math.isnan(point.tpir) for point in nobody.points) and nobody.other_image_P.tolist() == [0, 1]
    all_known = identify(angles(0, 50), [1, 1], angles(1, 2), [1, 1])
    assert all_known.at_rank[1] == 1.0 and all_known.other_image_P.tolist() == [-1, -1]
    assert all(math.isnan(point.tpir) and math.isnan(point.threshold) for point in all_known.points)


# --- what cannot be judged

ROWS, LABELS = np.eye(3), np.arange(3)
BAD_ROWS = np.array([[1, 0, 0], [0, np.nan, 0], [0, 0, np.inf]])


def of_queries(distances):
    """A `rerank` whose distances are what this makes of the queries."""
    return lambda query_QD, gallery_GD: lambda start, stop: distances(query_QD)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            lambda: reidentify(ROWS, LABELS[:2], None, ROWS, LABELS, None),
            r"query: 3 embeddings, and a label of shape \(2,",
        ),
        (lambda: reidentify(ROWS, LABELS, None, ROWS, LABELS / 2, None), "gallery: labels of type float64"),
        (lambda: reidentify(ROWS, LABELS, LABELS, ROWS, LABELS, None), "cameras are given for one"),
        (lambda: reidentify(ROWS, LABELS, LABELS, ROWS, LABELS, LABELS[:1]), r"gallery: 3 embeddings, and a camera"),
        (lambda: reidentify(ROWS, LABELS, None, ROWS[:, :2], LABELS, None), "query embeddings have 3 numbers, gallery"),
        (lambda: reidentify(ROWS, LABELS, None, ROWS[:0], [], None), r"gallery: embeddings of shape \(0, 3\)"),
        (lambda: reidentify(ROWS[:0], [], None, ROWS, LABELS, None), r"query: embeddings of shape \(0, 3\)"),
        (lambda: reidentify(ROWS, LABELS, None, ROWS, LABELS - 3, None), "all 3 labels are below zero"),
        (lambda: reidentify(ROWS, LABELS, None, BAD_ROWS, LABELS, None), "gallery row 1 of 3: the embedding is not"),
        (lambda: reidentify(ROWS, LABELS, None, ROWS, LABELS, None, ranks=(0,)), r"ranks \[0\]"),
        (
            lambda: reidentify(ROWS, LABELS, None, ROWS, LABELS, None, rerank=of_queries(lambda q: q[:2])),
            r"shape \(2, 3\)",
        ),
        (
            lambda: reidentify(ROWS, LABELS, None, ROWS, LABELS, None, rerank=of_queries(lambda q: q * np.nan)),
            "finite",
        ),
        (lambda: single_shot(ROWS, LABELS, None, ROWS, LABELS, None), "no cameras are given"),
        (lambda: identify(BAD_ROWS, LABELS, ROWS, LABELS), "probe row 1 of 3"),
        (lambda: identify(ROWS, LABELS, ROWS, LABELS - 1), "gallery row 0: label -1 .1 below zero"),
        (lambda: identify(ROWS, LABELS, ROWS, LABELS, fpirs=(2,)), r"fpirs \[2\]"),
        (lambda: identify(ROWS, LABELS, ROWS, LABELS, ranks=()), r"ranks \[\]"),
    ],
)
def test_what_cannot_be_judged_is_said(call, says):
    with pytest.raises(UserError, match=says):
        call()
