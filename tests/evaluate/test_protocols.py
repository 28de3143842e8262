"""Each protocol's contract, and its numbers against loops, scikit-learn, and by hand."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve
from sklearn.model_selection import KFold

from tests.data.people_sets import as_cuhk03
from tests.evaluate.conftest import SETS, perfect, random_rows, set_for, write_list
from zennas.data.image_set import ImageSet
from zennas.evaluate import judges
from zennas.evaluate.assessment import NUM_PAIRS, Assessment
from zennas.evaluate.judges import JudgeTools
from zennas.evaluate.protocols import PROTOCOLS
from zennas.evaluate.results import Result
from zennas.evaluate.sets import EvaluationSet, open_identification, open_reid
from zennas.metrics import all_to_all
from zennas.metrics.reranking import expanded, reciprocal_distances
from zennas.metrics.retrieval import reidentify, single_shot
from zennas.metrics.verification import contiguous_folds, grid_accuracy, roc, tar_at_far
from zennas.records import UserError

# (name, subset), in their order. A protocol without a row here has one headline or more; one without a set in SETS is
# not tried.
HEADLINES = {
    "pairs": [("accuracy", "")],
    "ijb": [("TAR@FAR=1e-4", "")],
    "mfr": [("ranking score", "")],
    "webface": [("FNMR@FMR=1e-5", "All-Masked"), ("FNMR@FMR=1e-5", "SFR")],
    "reid": [("mAP", "")],
    "identification": [("rank-1", "")],
    "all": [("TAR@FAR=1e-4", "")],
}
RATE = {10.0**-power: f"1e-{power}" for power in range(1, 7)} | {0.2: "2e-1", 0.05: "5e-2"}  # as people write a rate
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


def by_name(assessment):
    """{(name, subset): Metric}"""
    found = {(metric.name, metric.subset): metric for metric in assessment.metrics}
    assert len(found) == len(assessment.metrics)
    return found


def check_contract(assessment, num_images, *, protocol, headlines=None):
    """What the page, the table and results.json rest on."""
    assert isinstance(assessment, Assessment)
    shown = [(metric.name, metric.subset) for metric in assessment.metrics if metric.headline]
    expected = HEADLINES.get(protocol) if headlines is None else headlines
    assert shown == expected if expected is not None else shown
    for metric in assessment.metrics:
        if metric.value is None:
            assert metric.note, metric
        else:
            assert 0 <= metric.value <= 1 and math.isfinite(metric.value), metric
        assert metric.better == ("lower" if metric.name.startswith("FNMR") else "higher")
        assert metric.threshold is None or -1 <= metric.threshold <= 1.01
    assert by_name(assessment)
    for curve in assessment.curves:
        assert len(curve.x_K) == len(curve.y_K) > 0 and curve.kind in ("roc", "cmc")
        assert (np.diff(curve.x_K) > 0).all() and (np.diff(curve.y_K) >= 0).all()
        assert min(curve.y_K) >= 0 and max(curve.y_K) <= 1 and 0 < curve.x_K[0] <= 1
        assert curve.exact_up_to is None or 0 < curve.exact_up_to <= 1
    for histogram in assessment.histograms:
        assert len(histogram.edge_B1) == len(histogram.same_B) + 1 == len(histogram.different_B) + 1
        for share_B in (histogram.same_B, histogram.different_B):
            assert share_B.sum() == pytest.approx(1) or not share_B.any()
    for same in (True, False):
        for subset in {pair.subset for pair in assessment.pairs}:
            found = [pair.similarity for pair in assessment.pairs if (pair.same, pair.subset) == (same, subset)]
            assert len(found) <= NUM_PAIRS and found == sorted(found, reverse=not same)
    assert all(0 <= image < num_images for pair in assessment.pairs for image in (pair.first, pair.second))
    json.dumps(Result.of(assessment, model="", set="").model_dump(mode="json"), allow_nan=False)


@each_protocol
def test_contract(protocol, tmp_path, faces):
    row = PROTOCOLS[protocol]
    the_set = row.open(set_for(protocol, tmp_path, faces))
    assert set(HEADLINES) <= set(PROTOCOLS) and isinstance(row.flip, bool)
    seen = []
    work = JudgeTools(counting=lambda what: lambda done, total: seen.append((what, done, total)))
    rows_ND = random_rows(the_set.images.num_images)
    assessment = row.judge(the_set, rows_ND, work)
    check_contract(assessment, the_set.images.num_images, protocol=protocol)
    assert all(0 < done <= total for _, done, total in seen)
    assert all(metric.value is not None for metric in assessment.metrics)
    assert (rows_ND == random_rows(the_set.images.num_images)).all()
    same = {pair.same: pair for pair in assessment.pairs}
    if protocol != "reid":
        assert set(same) == {True, False} and assessment.curves
    again = row.judge(the_set, 7 * rows_ND, JudgeTools())  # cosines do not know of lengths
    if protocol != "ijb":  # there a length is a weight; of all images at once it is none either
        assert [metric.value for metric in again.metrics] == [metric.value for metric in assessment.metrics]

    assessment = row.judge(the_set, perfect(the_set), JudgeTools())
    check_contract(assessment, the_set.images.num_images, protocol=protocol)
    assert all(metric.value == (0.0 if metric.better == "lower" else 1.0) for metric in assessment.metrics)
    assert all(curve.y_K[0] == 1.0 for curve in assessment.curves)

    # One that knows nobody cannot be taken for a good one: where all are equally alike, nobody is accepted, or all are
    # wrong.
    nobody = row.judge(the_set, np.zeros((the_set.images.num_images, 3), np.float32), JudgeTools())
    check_contract(nobody, the_set.images.num_images, protocol=protocol)
    for metric in nobody.metrics:
        worst = 1.0 if metric.better == "lower" else 0.0
        if metric.name.startswith(("TAR", "FNMR", "TPIR", "ranking")) or metric.name == "rank-1":
            assert metric.value == worst, metric
        assert not metric.headline or metric.value == worst or metric.value <= 0.75


@pytest.mark.parametrize("protocol", [name for name, made in SETS.items() if name not in ("pairs", "ijb")])  # the lists
def test_order_of_images_does_not_matter(protocol, tmp_path, faces):
    """The same lines in another order: the same numbers, and hardest pairs of the same images."""
    where = SETS[protocol](tmp_path, faces)
    path, _, images = where.partition("@")
    head, *lines = pathlib.Path(path).read_text().split()
    (tmp_path / "other.csv").write_text("\n".join([head, *lines[::-1]]))
    one, other = (PROTOCOLS[protocol].open(text) for text in (where, f"{tmp_path / 'other.csv'}@{images}"))
    rows_ND = random_rows(one.images.num_images)
    first, second = (
        PROTOCOLS[protocol].judge(the_set, rows, JudgeTools())
        for the_set, rows in ((one, rows_ND), (other, rows_ND[::-1]))
    )
    for metric, same in zip(first.metrics, second.metrics, strict=True):
        assert (metric.name, metric.subset, metric.num_same) == (same.name, same.subset, same.num_same)
        assert metric.value == pytest.approx(same.value, abs=1e-12)
    hardest = (
        {
            (pair.subset, pair.same, frozenset(map(the_set.images.where, (pair.first, pair.second))))
            for pair in assessment.pairs
        }
        for the_set, assessment in ((one, first), (other, second))
    )
    assert next(hardest) == next(hardest)


# --- naive counts over all pairs


def cosine(one_D, other_D):
    return float(np.dot(one_D.astype(np.float64), other_D) / np.linalg.norm(one_D) / np.linalg.norm(other_D))


def naive_tar(rows_ND, label_N, images, others, far):
    """(TAR, same pairs, different pairs) of every image against every other of `images`, or against `others`."""
    same, different = [], []
    for place, one in enumerate(images):
        for other in images[place + 1 :] if others is None else others:
            (same if label_N[one] == label_N[other] else different).append(cosine(rows_ND[one], rows_ND[other]))
    strictest = sorted(different, reverse=True)[math.floor(far * len(different))]
    return sum(one > strictest for one in same) / len(same), len(same), len(different)


def some_good_rows(the_set, *, noise=0.5, seed=10):
    """Rows that know people, more or less."""
    return perfect(the_set, size=14) + noise * random_rows(the_set.images.num_images, 14, seed=seed) / 2


def test_constants_are_those_of_the_challenges():
    """InsightFace's README of the ICCV 2021 challenge (mask 1e-4, children 1e-4, races and MR-ALL 1e-6; 0.25 and 0.75
    since 2021-06-17); WebFace260M's (FNMR at FMR 1e-5)."""
    names = ("MASK_FAR", "CHILDREN_FAR", "RACE_FAR", "MASK_WEIGHT", "ALL_WEIGHT", "WEBFACE_FMR")
    assert [getattr(judges, name) for name in names] == [1e-4, 1e-4, 1e-6, 0.25, 0.75, 1e-5]
    assert judges.IJB_FARS == (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
    flips = {name for name, row in PROTOCOLS.items() if row.flip}
    assert flips == {"pairs", "ijb"}


def test_mfr_against_loops(tmp_path, faces, monkeypatch):
    fars = {"mask": 0.1, "children": 0.2, "race": 0.05}
    for name, far in (("MASK_FAR", 0.1), ("CHILDREN_FAR", 0.2), ("RACE_FAR", 0.05)):
        monkeypatch.setattr(judges, name, far)
    the_set = PROTOCOLS["mfr"].open(SETS["mfr"](tmp_path, faces))
    rows_ND, column = some_good_rows(the_set), the_set.column
    found = by_name(PROTOCOLS["mfr"].judge(the_set, rows_ND, JudgeTools()))
    assert column["masked_N"].sum() == 4
    values = {}
    for subset in ("mask", "children", "african", "caucasian", "indian", "asian", "MR-ALL"):
        inside = judges.RACES if subset == "MR-ALL" else (subset,)
        images, others = np.flatnonzero(np.isin(column["subset_N"], inside)), None
        if subset == "mask":
            others = images[~column["masked_N"][images]]
            images = images[column["masked_N"][images]]
        far = fars.get(subset, fars["race"])
        tar, num_same, num_different = naive_tar(rows_ND, column["label_N"], images, others, far)
        metric = found[f"TAR@FAR={RATE[far]}", subset]
        assert (metric.value, metric.num_same, metric.num_different) == (tar, num_same, num_different), subset
        values[subset] = tar
    assert found["TAR@FAR=1e-1", "mask"].num_same == 2 * 2 * 2 and found["TAR@FAR=5e-2", "MR-ALL"].num_same == 8 * 6
    score = found["ranking score", ""]
    assert score.value == pytest.approx(0.25 * values["mask"] + 0.75 * values["MR-ALL"])
    assert 0 < values["mask"] != values["MR-ALL"] < 1 and len(found) == 8


def test_mfr_without_a_part_has_no_ranking(tmp_path, faces):
    whole = SETS["mfr"](tmp_path, faces)
    path, _, images = whole.partition("@")
    head, *lines = pathlib.Path(path).read_text().split()
    for without, note in (
        ("mask", "needs both mask and MR-ALL"),
        ("children", None),
        ("indian", "MR-ALL is without indian"),
    ):
        (tmp_path / "part.csv").write_text("\n".join([head, *(line for line in lines if without not in line)]))
        the_set = PROTOCOLS["mfr"].open(f"{tmp_path / 'part.csv'}@{images}")
        assessment = PROTOCOLS["mfr"].judge(the_set, perfect(the_set), JudgeTools())
        headlines = [("TAR@FAR=1e-6", "MR-ALL")] if without == "mask" else None  # then what there is of it
        check_contract(assessment, the_set.images.num_images, protocol="mfr", headlines=headlines)
        score = by_name(assessment)["ranking score", ""]
        assert (
            score.value == (None if without == "mask" else 1.0)
            and (note or "0.25 x mask + 0.75 x MR-ALL") in score.note
        )
        assert not any(metric.subset == without for metric in assessment.metrics)
    lines = [line.rpartition(",")[0] + ",1" for line in lines if ",mask," in line]
    (tmp_path / "part.csv").write_text("\n".join([head, *lines]))
    the_set = PROTOCOLS["mfr"].open(f"{tmp_path / 'part.csv'}@{images}")
    assessment = PROTOCOLS["mfr"].judge(the_set, perfect(the_set), JudgeTools())
    mask = by_name(assessment)["TAR@FAR=1e-4", "mask"]
    assert mask.value is None and mask.note == "no unmasked images"


def test_webface_against_loops(tmp_path, faces, monkeypatch):
    monkeypatch.setattr(judges, "WEBFACE_FMR", 0.03)
    the_set = PROTOCOLS["webface"].open(SETS["webface"](tmp_path, faces))
    rows_ND, column = some_good_rows(the_set), the_set.column
    found = by_name(PROTOCOLS["webface"].judge(the_set, rows_ND, JudgeTools()))
    masked, standard = np.flatnonzero(column["masked_N"]), np.flatnonzero(~column["masked_N"])
    wild = masked[column["scene_N"][masked] == "wild"]
    parts = {
        "All-Masked": (masked, standard),
        "Controlled-Masked": (np.setdiff1d(masked, wild), standard),
        "Wild-Masked": (wild, standard),
        "SFR": (standard, None),
    }
    assert [subset for _, subset in found] == list(parts) and len(wild) == 6
    for subset, (images, others) in parts.items():
        tar, num_same, num_different = naive_tar(rows_ND, column["label_N"], images, others, 0.03)
        metric = found["FNMR@FMR=3e-2", subset]
        assert metric.value == pytest.approx(1 - tar, abs=1e-12) and 0 < metric.value < 1, subset
        assert (metric.num_same, metric.num_different) == (num_same, num_different)


def test_all_against_loops(tmp_path, faces, monkeypatch):
    monkeypatch.setattr(judges, "ALL_FARS", (0.001, 0.01, 0.1))
    the_set = PROTOCOLS["all"].open(SETS["all"](tmp_path, faces))
    rows_ND, label_N = some_good_rows(the_set), the_set.column["label_N"]
    assessment = PROTOCOLS["all"].judge(the_set, rows_ND, JudgeTools())
    everybody = np.arange(len(rows_ND))
    for metric, far in zip(assessment.metrics, (0.001, 0.01, 0.1), strict=True):
        tar, *counts = naive_tar(rows_ND, label_N, everybody, None, far)
        assert metric.value == tar and counts == [metric.num_same, metric.num_different]
    pairs = [(cosine(rows_ND[i], rows_ND[j]), i, j) for i in everybody for j in range(i + 1, len(rows_ND))]
    for same in (True, False):
        expected = sorted(((one, i, j) for one, i, j in pairs if (label_N[i] == label_N[j]) == same), reverse=not same)
        found = [(pair.first, pair.second) for pair in assessment.pairs if pair.same == same]
        assert found == [(i, j) for _, i, j in expected[:NUM_PAIRS]]
    (histogram,) = assessment.histograms
    expected_B, _ = np.histogram([one for one, i, j in pairs if label_N[i] == label_N[j]], histogram.edge_B1)
    assert histogram.same_B.tolist() == pytest.approx((expected_B / expected_B.sum()).tolist())


def test_a_note_says_where_a_far_is_out_of_reach(tmp_path, faces):
    the_set = PROTOCOLS["all"].open(SETS["all"](tmp_path, faces))
    assessment = PROTOCOLS["all"].judge(the_set, perfect(the_set), JudgeTools())
    num = assessment.metrics[0].num_different
    assert num == 48 * 47 // 2 - 12 * 6
    assert [bool(metric.note) for metric in assessment.metrics] == [far * num < 1 for far in judges.ALL_FARS]
    assert assessment.metrics[0].note == "1e-6 of 1,056 different pairs is less than one: none of them is accepted"


# --- given pairs


def set_of(num_images, **column):
    """An EvaluationSet whose images nobody looks at."""
    images = ImageSet(num_images, None, lambda image: f"image {image}", "none")
    return EvaluationSet("by hand", images, {name: np.asarray(values) for name, values in column.items()})


def pair_set(first, second, same, fold=None):
    fold = contiguous_folds(len(same), min(10, len(same))) if fold is None else fold
    return set_of(
        max(*first, *second) + 1,
        first_P=np.array(first),
        second_P=np.array(second),
        same_P=np.array(same, bool),
        fold_P=fold,
    )


def insightface_accuracy(distance_P, same_P, num_folds):
    """(mean, std, thresholds) as its verification.py goes about it, pair by pair: KFold without shuffling, thresholds 0
    to 4 in steps of 0.01, the first of the best on the training folds."""
    grid, accuracies, chosen = np.arange(0, 4, 0.01), [], []
    for train, test in KFold(num_folds, shuffle=False).split(np.arange(len(same_P))):
        right = [np.mean((distance_P[train] < threshold) == same_P[train]) for threshold in grid]
        chosen.append(grid[int(np.argmax(right))])
        accuracies.append(np.mean((distance_P[test] < chosen[-1]) == same_P[test]))
    return np.mean(accuracies), np.std(accuracies), np.mean(chosen)


# Some on the grid, so that "below" is told from "not above". Made of integers: hypothesis has no floats where ONNX
# Runtime, in a test before, has denormals flushed in this process.
similar = st.lists(
    st.tuples(
        st.one_of(st.integers(-8, 8).map(lambda one: one / 8), st.integers(-999, 999).map(lambda one: one / 1000)),
        st.booleans(),
    ),
    min_size=4,
    max_size=40,
)


@settings(max_examples=60)
@given(similar, st.integers(2, 4))
def test_grid_accuracy_is_insightface_s(rows, num_folds):
    similarity_P, same_P = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    found = grid_accuracy(similarity_P, same_P, contiguous_folds(len(rows), num_folds))
    mean, std, threshold = insightface_accuracy(2 - 2 * similarity_P, same_P, num_folds)
    # sums in another order
    assert found == pytest.approx((mean, std, 1 - threshold / 2), abs=1e-12)


def test_grid_accuracy_by_hand():
    """Distances .5 .75 | 1.25 1.5: the first of each fold is same, the second different. Fold 0 is judged by the first
    threshold above 1.25, where fold 1 has its same pair, and so calls .75 same."""
    distance_P = np.array([0.5, 0.75, 1.25, 1.5])
    found = grid_accuracy(1 - distance_P / 2, [True, False, True, False], [0, 0, 1, 1])
    # Fold 1 is judged by the first threshold above .5, and so calls 1.25 different.
    assert found == pytest.approx((0.5, 0.0, 1 - (1.26 + 0.51) / 4), abs=1e-9)


@pytest.mark.parametrize(
    ("similarity", "fold", "says"),
    [
        ([0.1, 0.2], [0, 0], "1 folds given for 2 pairs"),
        ([0.1, 0.2], [0, 1, 2], "3 folds given for 2 pairs"),
        ([0.1, math.nan], [0, 1], "pair 1: similarity nan"),
    ],
)
def test_grid_accuracy_says_what_it_cannot_judge(similarity, fold, says):
    with pytest.raises(UserError, match=says):
        grid_accuracy(similarity, [True, False], fold)


@settings(max_examples=100)
@given(similar.filter(lambda rows: len({row[1] for row in rows}) == 2), st.integers(1, 50))
def test_roc_lies_on_scikit_learn_s(rows, num_points):
    similarity_P, same_P = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    far_K, tar_K = roc(similarity_P, same_P, num_points=num_points)
    fpr, tpr, _ = roc_curve(same_P, similarity_P, drop_intermediate=False)
    assert len(far_K) <= num_points and (np.diff(far_K) > 0).all()
    assert num_points == 1 or (far_K[0], far_K[-1]) == (1 / (~same_P).sum(), 1.0)
    for far, tar in zip(far_K, tar_K, strict=True):
        assert tar == pytest.approx(max(tpr[fpr <= far + 1e-12]), abs=1e-12)
        assert tar == pytest.approx(tar_at_far(similarity_P, same_P, far), abs=1e-12)


def test_a_roc_needs_both_kinds():
    with pytest.raises(UserError, match="2 same and 0 different pairs: a ROC curve needs both"):
        roc([0.1, 0.2], [True, True])


def test_pairs_against_loops():
    rng = np.random.default_rng(2)
    first, same = rng.integers(30, size=200), rng.random(200) < 0.4
    second = (first + rng.integers(1, 30, size=200)) % 30
    rows_ND = random_rows(30, 6)
    rows_ND[7] = 0  # an image that could not be used is like nobody
    assessment = PROTOCOLS["pairs"].judge(pair_set(first, second, same), rows_ND, JudgeTools())
    found = by_name(assessment)
    with np.errstate(invalid="ignore"):
        similarity_P = np.nan_to_num([cosine(rows_ND[i], rows_ND[j]) for i, j in zip(first, second, strict=True)])
    unit_ND = rows_ND / np.maximum(np.linalg.norm(rows_ND, axis=1, keepdims=True), 1e-9)
    distance_P = np.square(unit_ND[first] - unit_ND[second]).sum(1)
    distance_P[(first == 7) | (second == 7)] = 2.0  # of two that are like nobody: as far as at right angles
    mean, std, _ = insightface_accuracy(distance_P, same, 10)
    published = found["accuracy, thresholds in steps of 0.01", ""]
    assert (published.value, published.std) == pytest.approx((mean, std), abs=1e-12)
    for far in judges.PAIR_FARS:
        strictest = np.sort(similarity_P[~same])[::-1][math.floor(far * (~same).sum())]
        assert found[f"TAR@FAR={RATE[far]}", ""].value == np.mean(similarity_P[same] > strictest + 1e-9)
    hardest = [pair for pair in assessment.pairs if not pair.same]
    # Unit rows are float32.
    assert [pair.similarity for pair in hardest] == pytest.approx(sorted(similarity_P[~same])[:-25:-1], abs=1e-6)
    assert found["accuracy", ""].num_same == same.sum() and found["accuracy", ""].num_different == (~same).sum()


@pytest.mark.parametrize(("kind", "what"), [(True, "different people"), (False, "the same person")])
def test_pairs_of_one_kind(kind, what):
    the_set = pair_set(range(0, 20, 2), range(1, 20, 2), [kind] * 10)
    assessment = PROTOCOLS["pairs"].judge(the_set, random_rows(20), JudgeTools())
    check_contract(assessment, 20, protocol="pairs")
    accuracy, _, tar, _ = assessment.metrics
    assert accuracy.note == "pairs of one kind only: any network can be right on them"
    assert tar.value is None and tar.note == f"the set has no pair of {what}" and assessment.curves == []


def test_a_single_pair_has_no_accuracy():
    assessment = PROTOCOLS["pairs"].judge(pair_set([0], [1], [True]), random_rows(2), JudgeTools())
    check_contract(assessment, 2, protocol="pairs")
    assert assessment.metrics[0].value is None and "no threshold can be chosen" in assessment.metrics[0].note


# --- templates


def naive_ijb(embedding_ND, template_N, media_N, score_N, first_P, second_P, same_P, fars):
    """{far: TAR} as insightface's onnx_ijbc.py goes about it with N1D1F1, in loops."""
    template = {}
    for one in set(template_N.tolist()):
        parts = []
        for media in set(media_N[template_N == one].tolist()):
            inside = np.flatnonzero((template_N == one) & (media_N == media))
            parts.append(np.mean([embedding_ND[n].astype(np.float64) * score_N[n] for n in inside], axis=0))
        template[one] = sum(parts)
    scores = [cosine(template[i], template[j]) for i, j in zip(first_P.tolist(), second_P.tolist(), strict=True)]
    fpr, tpr, _ = roc_curve(same_P, scores)
    fpr, tpr = fpr[::-1], tpr[::-1]
    return {far: tpr[min(range(len(fpr)), key=lambda place: (abs(fpr[place] - far), place))] for far in fars}


def test_ijb_against_loops_and_scikit_learn():
    rng, num_images, num_templates, num_pairs = np.random.default_rng(0), 300, 60, 1500
    template_N = (
        np.append(np.arange(num_templates), rng.integers(num_templates, size=num_images - num_templates)) * 3 + 1
    )
    media_N, score_N = rng.integers(5, size=num_images), rng.uniform(0.3, 1, num_images)
    first_P, second_P = 3 * rng.integers(num_templates, size=(2, num_pairs)) + 1
    same_P = first_P % 4 == second_P % 4  # four people
    embedding_ND = 2 * np.eye(6)[template_N % 4] * rng.uniform(1, 9, (num_images, 1)) + 4 * rng.normal(
        size=(num_images, 6)
    )
    the_set = set_of(
        num_images,
        template_N=template_N,
        media_N=media_N,
        score_N=score_N,
        first_P=first_P,
        second_P=second_P,
        same_P=same_P,
    )
    assessment = PROTOCOLS["ijb"].judge(the_set, embedding_ND.astype(np.float32), JudgeTools())
    check_contract(assessment, num_images, protocol="ijb")
    expected = naive_ijb(
        embedding_ND.astype(np.float32), template_N, media_N, score_N, first_P, second_P, same_P, judges.IJB_FARS
    )
    for far, tar in expected.items():
        assert by_name(assessment)[f"TAR@FAR={RATE[far]}", ""].value == pytest.approx(tar, abs=1e-12), far
    assert 0 < expected[1e-6] < expected[1e-2] < expected[1e-1] < 1
    for pair in assessment.pairs:  # a template is shown by the first of its images
        assert pair.first == np.flatnonzero(template_N == template_N[pair.first])[0]


def test_a_template_without_an_image_is_counted_and_named(tmp_path, faces):
    the_set = PROTOCOLS["ijb"].open(SETS["ijb"](tmp_path, faces))
    rows_ND = perfect(the_set)
    for template in (10, 31):
        rows_ND[the_set.column["template_N"] == template] = 0
    assessment = PROTOCOLS["ijb"].judge(the_set, rows_ND, JudgeTools())
    assert assessment.notices == ["2 templates have no image that can be used: 10, 31"]
    assert by_name(assessment)["TAR@FAR=1e-4", ""].value == pytest.approx(10 / 12)


# --- re-identification and 1:N, by hand


def at_angles(degrees):
    """Rows whose similarity to the first axis falls with the angle."""
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], 1).astype(np.float32)


def listed(tmp_path, columns, rows):
    """A list of images that are there and nobody looks at."""
    (tmp_path / "images").mkdir()
    for number in range(len(rows)):
        (tmp_path / "images" / f"{number}.png").write_bytes(b"x")
    path = write_list(tmp_path / "x.csv", columns, [(f"{n}.png", *row) for n, row in enumerate(rows)])
    return f"{path}@{tmp_path / 'images'}"


REID = ("image", "label", "camera", "role")


def test_reid_by_hand(tmp_path):
    """The right answers at ranks 1, 3, 4, 8, 20 (0.6333) and at 1, 3, 5 (0.7556), with junk before them."""
    right = {"x": (1, 3, 4, 8, 20), "y": (1, 3, 5)}
    ranks = range(1, 21)
    rows, angles = [("x", 1, "query"), ("y", 1, "query"), ("z", 1, "query")], [0, 90, 45]
    for rank in ranks:  # x's answers, from 0 degrees upwards, seen by y and z from far away
        rows.append(("x" if rank in right["x"] else f"other{rank}", 2, "gallery"))
        angles.append(rank)
    for rank in ranks:
        rows.append(("y" if rank in right["y"] else f"another{rank}", 2, "gallery"))
        angles.append(90 - rank)
    rows += [("x", 1, "gallery"), ("-1", 3, "gallery"), ("-1", 3, "gallery")]  # by the query's camera, and junk
    angles += [0.1, 0.2, 89.9]
    the_set = open_reid(listed(tmp_path, REID, rows))
    assessment = PROTOCOLS["reid"].judge(the_set, at_angles(np.array(angles, float)), JudgeTools())
    check_contract(assessment, len(rows), protocol="reid")
    found = by_name(assessment)
    by_hand = (1 + 2 / 3 + 3 / 4 + 4 / 8 + 5 / 20) / 5, (1 + 2 / 3 + 3 / 5) / 3
    assert by_hand == pytest.approx((0.6333, 0.7556), abs=1e-4)
    assert found["mAP", ""].value == pytest.approx(np.mean(by_hand), abs=1e-12)
    assert round(found["mAP", ""].value, 4) == 0.6944
    assert found["rank-1", ""].value == 1.0 and found["mAP", ""].num_same == 2
    assert assessment.notices == [
        "1 of 3 queries have no right answer and are in no mean; 1 show people who are not in the gallery: 2.png"
    ]


@pytest.mark.parametrize(
    ("ranks", "ap"), [((1, 3, 4, 8, 20), 0.6333), ((1, 3, 5), 0.7556), ((2,), 0.5), ((4, 5), 0.325)]
)
def test_average_precision_through_the_protocol(tmp_path, ranks, ap):
    rows = [("x", 1, "query"), *(("x" if rank in ranks else "z", 2, "gallery") for rank in range(1, 26))]
    the_set = open_reid(listed(tmp_path, REID, rows))
    found = by_name(PROTOCOLS["reid"].judge(the_set, at_angles(np.arange(26.0)), JudgeTools()))
    assert found["mAP", ""].value == pytest.approx(ap, abs=1e-4)
    for rank in (1, 5, 10):
        assert found[f"rank-{rank}", ""].value == float(ranks[0] <= rank)


def test_reid_without_any_answer(tmp_path):
    """Such a set is refused when it is opened; a judge that has one all the same says it in every number."""
    rows = [("x", 1, "query"), ("x", 2, "gallery"), ("y", 2, "gallery")]
    the_set = open_reid(listed(tmp_path, REID, rows))
    the_set.column["label_N"][0] = 7
    assessment = PROTOCOLS["reid"].judge(the_set, random_rows(3), JudgeTools())
    check_contract(assessment, 3, protocol="reid")
    assert {metric.value for metric in assessment.metrics} == {None} and assessment.curves == []
    assert {metric.note for metric in assessment.metrics} == {"no query has a right answer in the gallery"}
    assert assessment.lists == []


def test_reid_says_why_queries_have_no_answer_and_lists_the_worst(tmp_path):
    rows = [("x", 1, "query"), ("y", 1, "query"), ("z", 1, "query"), ("x", 2, "gallery"), ("y", 1, "gallery")]
    rows += [("w", 2, "gallery"), ("-1", 2, "gallery")]
    the_set = open_reid(listed(tmp_path, REID, rows))
    assessment = PROTOCOLS["reid"].judge(the_set, at_angles(np.array([0, 0, 0, 30, 40, 20, 10.0])), JudgeTools())
    assert assessment.notices == [
        "2 of 3 queries have no right answer and are in no mean; 1 show people who are not in the gallery: 2.png; "
        "1 show people whom only the query's own camera took, junk aside: 1.png"
    ]
    # x: w, x, y by their angles; the junk at 10 degrees is passed over.
    assert [dataclasses.astuple(ranked) for ranked in assessment.lists] == [
        (0, 0.5, 2, (5, 3, 4), (False, True, False))
    ]
    found = by_name(assessment)
    assert found["mAP", ""].value == found["mINP", ""].value == 0.5 and found["mAP", ""].num_same == 1


def test_reid_ranks_again_and_expands_as_the_functions_do(tmp_path):
    rng = np.random.default_rng(3)
    rows = [(str(n % 6), n % 3, "query") for n in range(12)] + [(str(n % 7), n % 4, "gallery") for n in range(40)]
    rows += [("-1", 1, "gallery")] * 5
    the_set = open_reid(listed(tmp_path, REID, rows))
    row_ND = rng.normal(size=(len(rows), 5)).astype(np.float32)
    found = by_name(PROTOCOLS["reid"].judge(the_set, row_ND, JudgeTools()))
    kept = the_set.column["label_N"] >= 0
    query, gallery = the_set.column["first_N"], ~the_set.column["first_N"] & kept
    labels = [[the_set.column[name][which] for name in ("label_N", "camera_N")] for which in (query, gallery)]
    grown = reidentify(*interleaved(expanded(row_ND[query], row_ND[gallery]), labels))
    again = reidentify(*interleaved((row_ND[query], row_ND[gallery]), labels), rerank=reciprocal_distances)
    for subset, one in (("expanded", grown), ("re-ranked", again)):
        assert found["mAP", subset].value == one.mean_ap and found["mINP", subset].value == one.mean_inp
    assert len({found["mAP", subset].value for subset in ("", "expanded", "re-ranked")}) == 3


def interleaved(rows, labels):
    return [rows[0], *labels[0], rows[1], *labels[1]]


def test_reid_without_cameras(tmp_path):
    rows = [("x", "query"), ("x", "gallery"), ("y", "gallery")]
    the_set = open_reid(listed(tmp_path, ("image", "label", "role"), rows))
    assert the_set.notices == ["no cameras are given: images by a query's own camera are right answers, too"]
    found = by_name(PROTOCOLS["reid"].judge(the_set, at_angles(np.array([0, 5.0, 20])), JudgeTools()))
    assert found["mAP", ""].value == 1.0


def test_cuhk03_is_judged_by_all_draws(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    the_set = open_reid(str(as_cuhk03(tmp_path / "cuhk03") / "labelled-classic-4"))
    row_ND = random_rows(the_set.images.num_images)
    assessment = PROTOCOLS["reid"].judge(the_set, row_ND, JudgeTools())
    check_contract(assessment, the_set.images.num_images, protocol="reid", headlines=[("rank-1", "")])
    is_query, label, camera = (the_set.column[name] for name in ("first_N", "label_N", "camera_N"))
    parts = [rows[which] for which in (is_query, ~is_query) for rows in (row_ND, label, camera)]
    assert by_name(assessment)["rank-1", ""].value == single_shot(*parts).at_rank[1] and not the_set.notices
    assert by_name(assessment)["rank-1", ""].note == "mean over all draws of one image of each person"


IDS = ("image", "label", "role")


def test_identification_by_hand(tmp_path):
    """Gallery a at 0, b at 30, c at 90 degrees. Probes: a at 5 (rank 1, similarity cos 5), b at 10 (a is nearer: rank
    2), c at 60 (b and c are equally near, and the wrong one comes first: rank 2), a at 20 (rank 2), strangers at 1 and
    50.
    """
    rows = [
        ("a", "gallery"),
        ("b", "gallery"),
        ("c", "gallery"),
        ("a", "probe"),
        ("b", "probe"),
        ("c", "probe"),
        ("a", "probe"),
        ("s", "probe"),
        ("t", "probe"),
    ]
    angles = np.array([0, 30, 90, 5, 10, 60, 20, 2, 50], float)
    the_set = open_identification(listed(tmp_path, IDS, rows))
    assessment = PROTOCOLS["identification"].judge(the_set, at_angles(angles), JudgeTools())
    check_contract(assessment, len(rows), protocol="identification")
    found = by_name(assessment)
    assert [found[f"rank-{rank}", ""].value for rank in (1, 5, 10)] == [0.25, 1.0, 1.0]
    assert found["rank-1", ""].num_same == 4
    # No stranger may be taken for somebody: the threshold is the nearer stranger's cos 2, above every own one's.
    for fpir in ("1e-3", "1e-2", "1e-1"):
        point = found[f"TPIR@FPIR={fpir}", ""]
        assert (point.value, point.num_same, point.num_different) == (0.0, 4, 2)
        assert point.threshold == pytest.approx(math.cos(math.radians(2)), abs=1e-6)  # float32
    worst = [(pair.first, pair.second) for pair in assessment.pairs if pair.same]
    assert worst == [(5, 2), (4, 1), (6, 0), (3, 0)]
    likest = next(pair for pair in assessment.pairs if not pair.same)
    assert (likest.first, likest.second) == (7, 0)

    angles[7] = 70  # now both strangers are 20 degrees from the nearest
    assessment = PROTOCOLS["identification"].judge(the_set, at_angles(angles), JudgeTools())
    assert by_name(assessment)["TPIR@FPIR=1e-3", ""].value == 0.25  # a at 5 degrees: rank 1, and nearer than they are


def test_identification_without_mated_or_without_strangers(tmp_path):
    rows = [("a", "gallery"), ("b", "gallery"), ("a", "probe"), ("b", "probe")]
    the_set = open_identification(listed(tmp_path, IDS, rows))
    assessment = PROTOCOLS["identification"].judge(the_set, np.eye(4, dtype=np.float32), JudgeTools())
    check_contract(assessment, 4, protocol="identification")
    tpir = by_name(assessment)["TPIR@FPIR=1e-2", ""]
    assert tpir.value is None and tpir.note == "every probe's identity is in the gallery: nobody can be wrongly found"
    the_set.column["label_N"][2:] += 10
    assessment = PROTOCOLS["identification"].judge(the_set, np.eye(4, dtype=np.float32), JudgeTools())
    check_contract(assessment, 4, protocol="identification")
    assert {metric.value for metric in assessment.metrics} == {None} and assessment.curves == []
    assert {metric.note for metric in assessment.metrics} == {"no probe's identity is in the gallery"}


# --- sets that lack something


@pytest.mark.parametrize(
    ("protocol", "column"),
    [
        ("all", {}),
        ("mfr", {"subset_N": np.array(["african"] * 6), "masked_N": np.zeros(6, bool)}),
        ("webface", {"masked_N": np.arange(6) < 2}),
    ],
)
@pytest.mark.parametrize(("label_N", "what"), [([3] * 6, "different people"), (range(6), "the same person")])
def test_sets_without_one_kind_of_pairs(protocol, column, label_N, what):
    the_set = set_of(6, label_N=np.array(label_N), **column)
    assessment = PROTOCOLS[protocol].judge(the_set, random_rows(6), JudgeTools())
    check_contract(
        assessment, 6, protocol=protocol, headlines=[("TAR@FAR=1e-6", "MR-ALL")] if protocol == "mfr" else None
    )
    assert {metric.value for metric in assessment.metrics} == {None} and assessment.curves == []
    assert {metric.note for metric in assessment.metrics} <= {
        f"the set has no pair of {what}",
        "needs both mask and MR-ALL",
    }


def test_a_set_of_one_image():
    assessment = PROTOCOLS["all"].judge(set_of(1, label_N=[0]), random_rows(1), JudgeTools())
    check_contract(assessment, 1, protocol="all")
    assert {metric.value for metric in assessment.metrics} == {None} and assessment.pairs == []


def test_what_is_kept_of_all_pairs_has_a_file_for_each_subset(tmp_path, faces):
    the_set, asked = PROTOCOLS["mfr"].open(SETS["mfr"](tmp_path, faces)), []
    work = JudgeTools(kept=lambda subset: asked.append(subset) or tmp_path / f"{subset}.pairs")
    PROTOCOLS["mfr"].judge(the_set, perfect(the_set), work)
    assert asked == ["mask", "children", "african", "caucasian", "indian", "asian", "MR-ALL"]
    assert list(tmp_path.glob("*.pairs")) == []  # what is done needs no state


def test_a_far_that_accepts_more_pairs_than_are_held_is_answered_all_the_same(tmp_path, faces, monkeypatch):
    monkeypatch.setattr(judges, "ALL_FARS", (0.001, 0.01, 0.1))
    the_set = PROTOCOLS["all"].open(SETS["all"](tmp_path, faces))
    rows_ND = some_good_rows(the_set)
    whole = PROTOCOLS["all"].judge(the_set, rows_ND, JudgeTools()).metrics
    monkeypatch.setattr(all_to_all, "SAMPLE_SIDE", 0)
    monkeypatch.setattr(all_to_all, "MAX_KEPT", int(0.01 * whole[0].num_different))
    assert PROTOCOLS["all"].judge(the_set, rows_ND, JudgeTools()).metrics == whole
    assert [metric.value for metric in whole].count(None) == 0


def test_ijb_leaves_out_what_cannot_be_used(tmp_path, faces):
    """As if the line of that image were not there, not as an image of zeros among those of its medium."""
    the_set = PROTOCOLS["ijb"].open(SETS["ijb"](tmp_path, faces))
    rows_ND, column = some_good_rows(the_set), the_set.column
    template, count = np.unique(column["template_N"], return_counts=True)
    assert count.max() > 1, "a template of several images is needed"
    gone = int(np.flatnonzero(column["template_N"] == template[count.argmax()])[0])
    rows_ND[gone] = 0
    kept_N = np.arange(len(rows_ND)) != gone
    names = ("template_N", "media_N", "score_N")
    without = the_set._replace(column=column | {name: column[name][kept_N] for name in names})
    values = [
        [metric.value for metric in PROTOCOLS["ijb"].judge(*given, JudgeTools()).metrics]
        for given in ((the_set, rows_ND), (without, rows_ND[kept_N]))
    ]
    similarities = [
        PROTOCOLS["ijb"].judge(*given, JudgeTools()).pairs for given in ((the_set, rows_ND), (without, rows_ND[kept_N]))
    ]
    assert values[0] == values[1]
    assert [pair.similarity for pair in similarities[0]] == [pair.similarity for pair in similarities[1]]
