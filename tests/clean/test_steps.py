"""What each step finds of planted noise, and what it must leave alone."""

import numpy as np
import pytest

from tests.clean.conftest import SIZE, planted
from zennas.clean import steps
from zennas.clean.centres import unit_rows
from zennas.clean.plan import CleanPlan
from zennas.clean.state import DUPLICATE, FAR, MERGED, NEARER, NONE, SMALL, UNUSABLE, State
from zennas.pool import Pool
from zennas.records import UserError


@pytest.mark.parametrize("order", steps.ORDERS)
@pytest.mark.parametrize("seed", range(3))
def test_planted_noise_is_found_and_nothing_else(clean, seed, order):
    made = planted(seed)
    state = clean(made.unit_ND, made.label_N, order=order)
    bad_N = made.flipped_N | made.stranger_N
    copies = np.array(list(made.copies))
    bad_N[copies] = True
    assert (state.label_N < 0).tolist() == bad_N.tolist()
    # Both halves of a person carry the lower number now; all others kept theirs.
    expected_N = np.array([made.halves.get(label, label) for label in made.label_N.tolist()])
    assert (state.label_N[~bad_N] == expected_N[~bad_N]).all()
    assert len(state.merges.one_P) == len(made.halves)
    if order == "inter-intra":
        assert (state.reason_N[made.flipped_N] == NEARER).all() and (state.reason_N[copies] == DUPLICATE).all()
        assert (state.reason_N[made.stranger_N] == FAR).all()
        assert [made.copies[image] for image in copies.tolist()] == state.twin_N[copies].tolist()
        assert (state.nearest_N[made.flipped_N] == made.true_N[made.flipped_N]).all()
    else:  # whatever is far from its identity is gone before anyone asks whose it is
        assert (state.reason_N[made.flipped_N] == FAR).mean() > 0.8
    assert (state.round_N[bad_N] == 1).all() and (state.round_N[(state.reason_N == NONE)] == 0).all()


def test_moved_images_are_with_their_own(clean):
    made = planted(4, copies=0, halves=0)
    state = clean(made.unit_ND, made.label_N, move=True)
    assert (state.label_N[made.flipped_N] == made.true_N[made.flipped_N]).all()
    assert (state.reason_N[made.flipped_N] == NEARER).all() and (state.label_N[made.stranger_N] < 0).all()


def test_own_cosines_are_those_to_the_robust_centre(clean):
    made = planted(5, halves=0)
    state = clean(made.unit_ND, made.label_N)
    for who in range(5):
        kept = np.flatnonzero(state.label_N == who)
        mean_D = unit_rows(made.unit_ND[kept].mean(axis=0)[None])[0]
        np.testing.assert_allclose(
            state.own_N[kept], made.unit_ND[kept] @ mean_D, atol=1e-3
        )  # all are of the cluster here


@pytest.mark.parametrize(
    ("without", "reasons"),
    [("tau_merge", {MERGED}), ("tau_duplicate", {DUPLICATE}), ("tau_other", {NEARER}), ("tau_intra", {FAR})],
)
def test_a_threshold_of_none_leaves_its_step_out(clean, without, reasons):
    made = planted(6)
    state = clean(made.unit_ND, made.label_N, **{without: None})
    assert not reasons & set(state.reason_N.tolist()) and {MERGED, DUPLICATE, NEARER, FAR} - reasons <= set(
        state.reason_N.tolist()
    )


def test_without_any_threshold_nothing_happens(clean):
    made = planted(7)
    state = clean(made.unit_ND, made.label_N, tau_merge=None, tau_duplicate=None, tau_other=None, tau_intra=None)
    assert (state.label_N == made.label_N).all() and not state.reason_N.any()


def test_parts_change_nothing(clean, monkeypatch):
    made = planted(8)
    whole = clean(made.unit_ND, made.label_N)
    monkeypatch.setattr(steps, "PART", 17)
    monkeypatch.setattr(steps, "SEARCHED", 23)
    in_parts = clean(made.unit_ND, made.label_N)
    for name in ("label_N", "reason_N", "nearest_N", "twin_N"):
        assert (getattr(whole, name) == getattr(in_parts, name)).all(), name
    np.testing.assert_allclose(whole.own_N, in_parts.own_N, atol=1e-6)


def test_a_device_that_compares_all_decides_the_same(clean):
    made = planted(19)
    by_index, by_all = (clean(made.unit_ND, made.label_N, device=device) for device in (None, "cpu"))
    for name in ("label_N", "reason_N", "nearest_N", "twin_N"):
        assert (getattr(by_index, name) == getattr(by_all, name)).all(), name


def test_only_identities_that_changed_are_clustered_again(clean, monkeypatch):
    """And the result is that of clustering all of them again."""
    made, clustered = planted(9), []
    found = steps.parts.centres
    monkeypatch.setattr(
        steps.parts,
        "centres",
        lambda path, image_M, starts_C, *others: (
            clustered.append(len(starts_C)),
            found(path, image_M, starts_C, *others),
        )[1],
    )
    state = clean(made.unit_ND, made.label_N)
    num = len(np.unique(made.label_N))
    assert clustered[0] == num and len(clustered) == 3
    assert clustered[1] == len(made.halves) and 0 < clustered[2] < num
    monkeypatch.setattr(steps.np, "intersect1d", lambda changed, number_C: number_C)
    again = clean(made.unit_ND, made.label_N)
    assert (state.label_N == again.label_N).all() and np.allclose(state.own_N, again.own_N, equal_nan=True, atol=1e-6)


@pytest.mark.parametrize("many", [1024, 3], ids=["compared", "put together first"])
def test_duplicates_are_all_that_a_search_of_all_pairs_finds(clean, monkeypatch, many):
    """Placeholders, too: one picture of nobody in particular that stands in many identities."""
    monkeypatch.setattr(steps.parts, "MANY", many)
    made = planted(10, copies=25, flips=0, strangers=0, halves=0)
    rng = np.random.default_rng(1)
    nobody_D = unit_rows(rng.normal(size=(1, SIZE)))
    rows_ND = np.concatenate([made.unit_ND, np.repeat(nobody_D, 7, axis=0)])
    label_N = np.append(made.label_N, np.arange(7))
    state = clean(rows_ND, label_N, tau_other=None, tau_intra=None, tau_merge=None)
    pairs = np.argwhere(np.triu(rows_ND @ rows_ND.T > 0.95, 1) & (label_N[:, None] != label_N))
    # Of every pair one image is left out, and what is left out is of a pair.
    dropped_N = state.reason_N == DUPLICATE
    assert len(pairs) == 25 + 21
    assert (dropped_N[pairs[:, 0]] | dropped_N[pairs[:, 1]]).all() and set(np.flatnonzero(dropped_N)) <= set(
        pairs.ravel().tolist()
    )
    assert dropped_N[-7:].sum() == 6


def test_of_duplicates_the_one_most_like_its_own_identity_stays(clean):
    made = planted(11, flips=0, strangers=0, halves=0)
    state = clean(made.unit_ND, made.label_N)
    for copy, image in made.copies.items():
        assert state.label_N[copy] < 0 <= state.label_N[image] and state.own_N[image] > state.own_N[copy]


def test_a_chain_makes_one_person_and_the_lowest_number_names_it(clean):
    angle_C = np.radians([0, 30, 60])
    rows_ND = np.stack([np.cos(angle_C), np.sin(angle_C)], axis=1).astype(np.float32)
    for label_N in ([4, 5, 6], [6, 4, 5]):
        state = clean(rows_ND, label_N, tau_merge=0.8, tau_intra=None, tau_other=None, tau_duplicate=None)
        assert set(state.label_N.tolist()) == {4}
        assert len(state.merges.one_P) == 2 and state.merges.cosine_P == pytest.approx(
            [np.cos(np.radians(30))] * 2, abs=1e-6
        )


def test_identities_of_one_image_are_left_alone(clean):
    made = planted(12, flips=0, strangers=0, copies=0, halves=0, images=1)
    state = clean(made.unit_ND, made.label_N)
    assert (state.label_N == made.label_N).all() and np.allclose(state.own_N, 1, atol=1e-6)
    assert (
        clean(np.concatenate([made.unit_ND] * 2), np.append(made.label_N, made.label_N), min_images=2).label_N >= 0
    ).all()


def test_small_identities_may_be_left_out(clean):
    made = planted(13, flips=0, strangers=0, copies=0, halves=0)
    label_N = made.label_N.copy()
    label_N[:4], label_N[4:10] = 100, 101
    assert (
        clean(made.unit_ND, label_N, tau_merge=None, tau_other=None, min_images=5).reason_N[:10].tolist()
        == [SMALL] * 4 + [NONE] * 6
    )


def test_images_without_an_embedding_take_no_part(clean):
    made = planted(14)
    rows_ND = made.unit_ND.copy()
    rows_ND[3], rows_ND[20], rows_ND[50, 2] = np.nan, 0, np.inf
    state = clean(rows_ND, made.label_N)
    assert (
        np.flatnonzero(state.reason_N == UNUSABLE).tolist() == [3, 20, 50] and (state.label_N[[3, 20, 50]] == -1).all()
    )
    assert np.isnan(state.own_N[3])


@pytest.mark.parametrize(
    ("row", "said"), [(0.0, "none of 20 embeddings"), (np.nan, "none of 20"), (0.5, "all 20 embeddings are the same")]
)
def test_a_network_that_says_nothing_is_refused(clean, row, said):
    with pytest.raises(UserError, match=said):
        clean(np.full((20, 8), row, np.float32), np.arange(20) % 4)


def test_many_equal_embeddings_are_survived(clean):
    """Nine tenths are one picture, in all identities: each keeps what is its own, and one of them the picture."""
    made = planted(15, flips=0, strangers=0, copies=0, halves=0)
    one_D = unit_rows(np.random.default_rng(0).normal(size=(1, SIZE)))
    rows_ND = np.concatenate([made.unit_ND, np.repeat(one_D, 2700, axis=0)])
    label_N = np.append(made.label_N, np.arange(2700) % 30)
    state = clean(rows_ND, label_N, tau_merge=None)
    assert (state.label_N[300:] >= 0).sum() == 90  # the copies of the one identity that keeps it
    assert (state.reason_N[300:] == DUPLICATE).sum() == 2610


@pytest.mark.parametrize("num", [2, 5])
def test_a_picture_that_is_all_of_several_identities_stays_in_one(clean, num):
    """Their centres are one, so that rounding says which of them is nearest."""
    made = planted(21, flips=0, strangers=0, copies=0, halves=0)
    one_D = unit_rows(np.random.default_rng(1).normal(size=(1, SIZE)))
    label_N = np.append(made.label_N, 30 + np.arange(num))
    state = clean(np.concatenate([made.unit_ND, np.repeat(one_D, num, axis=0)]), label_N, tau_merge=None)
    assert state.label_N[300:].tolist() == [30] + [-1] * (num - 1)
    assert (state.reason_N[301:] == DUPLICATE).all() and (state.twin_N[301:] == 300).all()


def test_many_copies_that_are_not_quite_equal_are_survived(clean, monkeypatch):
    """A group of n pictures is told by n pairs at most, not by n squared."""
    made = planted(20, flips=0, strangers=0, copies=0, halves=0)
    rng = np.random.default_rng(0)
    one_D = unit_rows(rng.normal(size=(1, SIZE)))
    rows_ND = np.concatenate([made.unit_ND, unit_rows(one_D + 0.002 * rng.normal(size=(150, SIZE)))])
    label_N = np.append(made.label_N, np.arange(150) % 30)
    told, found = [], steps.parts.twins
    monkeypatch.setattr(steps.parts, "twins", lambda *given: told.append(found(*given)) or told[-1])
    monkeypatch.setattr(steps.parts, "AT_ONCE", 3000)  # so that groups come together block by block
    state = clean(rows_ND, label_N, tau_merge=None)
    assert (state.reason_N[300:] == DUPLICATE).sum() == 145
    assert 145 <= sum(len(one["one_P"]) for one in told) < 150


def test_parts_hold_so_many_images_and_pairs_of_one_identity(monkeypatch):
    monkeypatch.setattr(steps, "PART", 10)
    monkeypatch.setattr(steps, "PAIRS", 60)
    monkeypatch.setattr(steps, "MAX_CLUSTERED", 6)
    starts_C = np.arange(0, 50, 5)
    assert steps.part_cuts(starts_C, 50) == [0, 2, 4, 6, 8, 10]
    assert steps.part_cuts(starts_C, 50, squares=True) == [0, 2, 4, 6, 8, 10]
    monkeypatch.setattr(steps, "PAIRS", 25)  # those of one identity
    assert steps.part_cuts(starts_C, 50, squares=True) == list(range(11))
    assert steps.part_cuts(np.array([0, 40]), 45, squares=True) == [0, 1, 2]  # of the 40, 6 are clustered
    assert steps.part_cuts(np.empty(0, int), 0) == [0]


@pytest.mark.parametrize("order", steps.ORDERS)
def test_where_nothing_is_left_the_other_steps_have_nothing_to_do(clean, order):
    made = planted(21)
    assert not (clean(made.unit_ND, made.label_N, order=order, tau_intra=0.9999).label_N >= 0).any()


def test_an_identity_of_100000_images_is_survived(clean):
    images = 100_000
    made = planted(16, people=10, flips=0, strangers=0, copies=0, halves=0)
    rng = np.random.default_rng(0)
    huge_D = unit_rows(rng.normal(size=(1, SIZE)))
    rows_ND = np.concatenate(
        [
            made.unit_ND,
            unit_rows(huge_D + 0.09 * rng.normal(size=(images, SIZE))),
            unit_rows(rng.normal(size=(50, SIZE))),
        ]
    )
    label_N = np.append(made.label_N, np.full(images + 50, 10))
    state = clean(rows_ND, label_N)
    assert (state.label_N[100 : 100 + images] == 10).mean() > 0.999 and (state.label_N[100 + images :] < 0).mean() > 0.9


def test_a_round_after_another_goes_on_from_its_labels(clean):
    made = planted(17)
    first = clean(made.unit_ND, made.label_N)
    again = clean(made.unit_ND, made.label_N, state=first)
    assert (again.label_N == first.label_N).all() and (again.reason_N == first.reason_N).all()
    assert (again.round_N == first.round_N).all()


def test_what_was_given_is_not_changed(clean):
    made = planted(18)
    state = State.of(made.label_N)
    before = [column.copy() for column in state[:-1]]
    clean(made.unit_ND, made.label_N, state=state)
    for old, new in zip(before, state[:-1], strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow
def test_workers_find_what_this_process_finds(tmp_path, monkeypatch):
    made = planted(0)
    np.save(tmp_path / "rows.npy", made.unit_ND.astype(np.float16))
    monkeypatch.setattr(steps, "PART", 40)
    states = []
    for num_workers in (1, 2):
        with Pool(num_workers, num_threads=1) as pool:
            bench = steps.Bench(tmp_path / "rows.npy", CleanPlan(), pool, tmp_path / f"parts-{num_workers}")
            states.append(steps.clean_round(State.of(made.label_N), bench))
    for name in ("label_N", "reason_N", "nearest_N", "twin_N"):
        assert (getattr(states[0], name) == getattr(states[1], name)).all(), name
    assert (states[0].label_N < 0).any() and len(list((tmp_path / "parts-2").glob("*.npz"))) > 20
