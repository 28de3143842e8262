"""Thresholds against a naive loop, and their limits."""

import itertools

import hypothesis
import numpy as np
from hypothesis import strategies

from zennas.clean import index
from zennas.clean.centres import unit_rows
from zennas.data.labels import DROPPED
from zennas.tasks.face.cleaning import clean_labels


def drawn(seed, *, num=40, identities=9, size=6):
    """(unit_ND, label_N) of people whose images lie round a direction of their own, some without a label, one without a
    face.
    """
    rng = np.random.default_rng(seed)
    label_N = rng.integers(-1, identities, num)
    row_ND = rng.normal(size=(identities + 1, size))[label_N] + 0.8 * rng.normal(size=(num, size))
    row_ND[5] = 0
    return unit_rows(row_ND), label_N * 3  # numbers with gaps; -3 is none


def naive(unit_ND, label_N, tau_inter, tau_intra):
    """In plain loops, from the words of the docstring."""
    label = {image: one for image, one in enumerate(label_N.tolist()) if one >= 0}

    def centres():
        sums = {
            one: sum(unit_ND[image].astype(float) for image in label if label[image] == one)
            for one in set(label.values())
        }
        return {one: total / (np.linalg.norm(total) or 1) for one, total in sums.items()}

    if tau_inter is not None:
        centre, group = centres(), {one: {one} for one in set(label.values())}
        for one, other in itertools.combinations(sorted(centre), 2):
            if centre[one] @ centre[other] > tau_inter:
                joined = group[one] | group[other]
                group |= dict.fromkeys(joined, joined)
        label = {image: min(group[one]) for image, one in label.items()}
    if tau_intra is not None:
        centre = centres()
        label = {
            image: one
            for image, one in label.items()
            if unit_ND[image].any() and unit_ND[image] @ centre[one] > tau_intra
        }
    return [label.get(image, DROPPED) for image in range(len(label_N))]


# In hundredths: float32 and float64 agree on which side of those a cosine lies.
COSINES = strategies.integers(-99, 99).map(lambda hundredths: hundredths / 100 + 0.001)


@hypothesis.settings(max_examples=40)
@hypothesis.given(
    seed=strategies.integers(0, 10**6), inter=strategies.none() | COSINES, intra=strategies.none() | COSINES
)
def test_thresholds_are_what_they_say(seed, inter, intra):
    unit_ND, label_N = drawn(seed)
    before = label_N.copy()
    found = clean_labels(unit_ND, np.where(label_N < 0, DROPPED, label_N), tau_inter=inter, tau_intra=intra)
    assert found.label_N.tolist() == naive(unit_ND, label_N, inter, intra)
    assert (label_N == before).all()
    assert found.num_dropped == (label_N >= 0).sum() - (found.label_N >= 0).sum()


def test_blocks_of_centres_change_nothing(monkeypatch):
    unit_ND, label_N = drawn(1, num=200, identities=60)
    label_N = np.where(label_N < 0, DROPPED, label_N)
    whole = clean_labels(unit_ND, label_N, tau_inter=0.3)
    monkeypatch.setattr(index, "BLOCK", 7)
    assert clean_labels(unit_ND, label_N, tau_inter=0.3).label_N.tolist() == whole.label_N.tolist()
    assert whole.num_merged == len(np.unique(label_N)) - len(np.unique(whole.label_N)) > 0


def test_without_thresholds_nothing_changes_and_no_embedding_is_asked_for():
    label_N = np.array([4, DROPPED, 4, 2])
    found = clean_labels(None, label_N)
    assert found.label_N.tolist() == label_N.tolist() and (found.num_merged, found.num_dropped) == (0, 0)


def test_nobody_is_more_alike_than_one_and_everybody_more_than_less_than_minus_one():
    unit_ND, label_N = drawn(3)
    label_N = np.where(label_N < 0, DROPPED, label_N)
    assert clean_labels(unit_ND, label_N, tau_inter=1.0).num_merged == 0
    assert clean_labels(unit_ND, label_N, tau_intra=-1.01).num_dropped == (label_N[5] >= 0)  # the one without a face
    assert (clean_labels(unit_ND, label_N, tau_inter=-1.01).label_N[label_N >= 0] == label_N[label_N >= 0].min()).all()
    assert (clean_labels(unit_ND, label_N, tau_intra=1.0).label_N == DROPPED).sum() > len(label_N) / 2


def test_a_chain_makes_one_person_of_people_who_are_not_alike():
    """Centres at 0, 30 and 60 degrees: neighbours are above 0.8, the ends are not; order does not matter."""
    angle_C = np.radians([0, 30, 60])
    unit_ND = np.stack([np.cos(angle_C), np.sin(angle_C)], axis=1).astype(np.float32)
    for label_N in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
        assert set(clean_labels(unit_ND, np.array(label_N), tau_inter=0.8).label_N.tolist()) == {0}
