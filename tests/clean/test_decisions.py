"""The table of decisions, and decisions taken back."""

import numpy as np
import pandas as pd
import pytest

from tests.clean.conftest import planted
from zennas.clean import decisions
from zennas.clean.decisions import TakenBack, load_state, save_state, without, write_table
from zennas.clean.state import DUPLICATE, FAR, MERGED, NEARER, REASONS, TAKEN_BACK
from zennas.data.index import Names
from zennas.records import UserError


class Listed:
    """What the table asks of a Source."""

    def __init__(self, label_N):
        self.label_N, self.num_images, self.path = label_N, len(label_N), "faces"
        self.num_identities = int(label_N.max()) + 1
        self.identity_names = Names.of(f"p{number}" for number in range(self.num_identities))

    def name(self, image):
        return f"p{self.label_N[image]}/{image}.jpg"

    def where(self, image):
        return f"image {image}"


def back(images=(), identities=()):
    return TakenBack(np.array(images, np.int64), np.array(identities, np.int64))


def test_the_table_says_of_every_image_what_the_state_says(clean, tmp_path, monkeypatch):
    made = planted(0)
    state = clean(made.unit_ND, made.label_N)
    monkeypatch.setattr(decisions, "ROWS", 100)
    write_table(tmp_path / "table.parquet", state, Listed(made.label_N), made.label_N)
    table = pd.read_parquet(tmp_path / "table.parquet")
    assert table["image"].tolist() == list(range(len(made.label_N)))
    assert table["name"].tolist() == [f"p{label}/{image}.jpg" for image, label in enumerate(made.label_N)]
    assert table["identity"].tolist() == [f"p{label}" for label in made.label_N]
    assert table["label"].tolist() == state.label_N.tolist()
    assert table["reason"].tolist() == [REASONS[reason] for reason in state.reason_N]
    dropped = table[table["decision"] == "dropped"]
    assert dropped.index.tolist() == np.flatnonzero(state.label_N < 0).tolist() and dropped["new_identity"].isna().all()
    merged = table[table["decision"] == "merged"]
    assert len(merged) == (state.reason_N == MERGED).sum() > 0 and (merged["identity"] != merged["new_identity"]).all()
    assert (table[table["decision"] == "kept"].eval("identity == new_identity")).all()
    for copy, image in made.copies.items():
        assert table.loc[copy, "duplicate_of"] == image
    assert table["own_cosine"].notna().all() and table.loc[0, "own_cosine"] == pytest.approx(state.own_N[0])


def test_moved_is_a_decision_of_its_own(clean, tmp_path):
    made = planted(1)
    state = clean(made.unit_ND, made.label_N, move=True)
    write_table(tmp_path / "table.parquet", state, Listed(made.label_N), made.label_N)
    moved = pd.read_parquet(tmp_path / "table.parquet").query("decision == 'moved'")
    assert moved["image"].tolist() == np.flatnonzero(made.flipped_N).tolist()
    assert moved["new_identity"].tolist() == [f"p{who}" for who in made.true_N[made.flipped_N]]


def test_an_image_that_is_taken_back_counts_as_its_identity(clean):
    made = planted(2)
    state = clean(made.unit_ND, made.label_N)
    for reason in (FAR, NEARER, DUPLICATE):
        image = int(np.flatnonzero(state.reason_N == reason)[0])
        found = without(state, made.label_N, back([image]))
        changed = np.flatnonzero(found.label_N != state.label_N)
        assert changed.tolist() == [image] and found.label_N[image] == made.label_N[image]
        assert (found.reason_N[image], found.round_N[image]) == (TAKEN_BACK, 0)


def test_an_image_of_a_merged_identity_comes_back_to_what_that_became(clean):
    made = planted(3)
    half, first = next(iter(made.halves.items()))
    label_N = made.label_N.copy()
    label_N[np.flatnonzero(made.stranger_N)[0]] = half
    state = clean(made.unit_ND, label_N)
    image = int(np.flatnonzero(made.stranger_N)[0])
    assert state.label_N[image] < 0
    assert without(state, label_N, back([image])).label_N[image] == first
    # Both at once: the identity is its own again, and so is the image.
    assert without(state, label_N, back([image], [half])).label_N[image] == half


def test_an_identity_that_is_taken_back_is_nobody_else(clean):
    made = planted(4)
    state = clean(made.unit_ND, made.label_N)
    for half, first in made.halves.items():
        for number in (half, first):  # whichever of the two is named
            found = without(state, made.label_N, back(identities=[number]))
            kept_N = state.label_N >= 0
            assert (found.label_N[kept_N & (made.label_N == half)] == half).all()
            assert len(found.merges.one_P) == len(state.merges.one_P) - 1
            others_N = kept_N & ~np.isin(made.label_N, [half, first])
            assert (found.label_N[others_N] == state.label_N[others_N]).all()


def test_a_chain_comes_apart_where_its_middle_is_taken_back(clean):
    angle_C = np.radians([0, 30, 60])
    rows_ND = np.stack([np.cos(angle_C), np.sin(angle_C)], axis=1).astype(np.float32)
    label_N = np.array([0, 1, 2], np.int32)
    state = clean(rows_ND, label_N, tau_merge=0.8, tau_intra=None, tau_other=None, tau_duplicate=None)
    assert without(state, label_N, back(identities=[1])).label_N.tolist() == [0, 1, 2]
    assert without(state, label_N, back(identities=[2])).label_N.tolist() == [0, 0, 2]


def test_moved_images_follow_the_identity_they_moved_to(clean):
    made = planted(5)
    label_N = made.label_N.copy()
    half, first = next(iter(made.halves.items()))
    stray = int(np.flatnonzero((made.true_N == first) & (label_N == half))[0])
    label_N[stray] = (first + 1) % 30
    state = clean(made.unit_ND, label_N, move=True)
    assert state.label_N[stray] == first
    assert without(state, label_N, back([stray])).label_N[stray] == (first + 1) % 30
    assert without(state, label_N, back(identities=[half])).label_N[stray] in (first, half)


def test_what_an_earlier_round_moved_stays_moved_when_another_image_is_taken_back(clean):
    made = planted(8, halves=0)
    first = clean(made.unit_ND, made.label_N, move=True)
    again = clean(made.unit_ND, made.label_N, move=True, state=first, number=2)
    moved = np.flatnonzero(made.flipped_N)
    assert (again.label_N[moved] == made.true_N[moved]).all() and (again.nearest_N[moved] != made.true_N[moved]).all()
    stranger = int(np.flatnonzero(made.stranger_N)[0])
    found = without(again, made.label_N, back([stranger]))
    assert np.flatnonzero(found.label_N != again.label_N).tolist() == [stranger]
    assert (decisions.decision_N(found)[moved] == decisions.DECISIONS.index("moved")).all()


def test_a_moved_image_shows_why_it_was_moved(clean):
    made = planted(9, halves=0)
    state = clean(made.unit_ND, made.label_N, move=True)
    moved = np.flatnonzero(made.flipped_N)
    assert (state.moved_N[moved] == made.true_N[moved]).all() and (state.nearest_N[moved] == made.true_N[moved]).all()
    assert (state.own_N[moved] < 0.5).all() and (state.other_N[moved] > 0.5).all()


def test_nothing_taken_back_changes_nothing(clean):
    made = planted(6)
    state = clean(made.unit_ND, made.label_N)
    assert without(state, made.label_N, back()) is state


def test_entries_name_images_and_identities():
    listed = Listed(np.array([0, 0, 1, 2]))
    taken = decisions.parsed(["image:p1/2.jpg", "image 3", "", "identity:p2", "image:p1/2.jpg"], listed)
    assert taken.image_M.tolist() == [2, 3] and taken.number_C.tolist() == [2]


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("people:Ada", "allowed: 'image:NAME'"),
        ("image:", "allowed: 'image:NAME'"),
        ("image:p9/1.jpg", "faces has no such image"),
        ("image:4", "faces has no such image"),
        ("identity:p3", "did you mean 'p"),
    ],
)
def test_entries_that_name_nothing_are_refused(entry, said):
    with pytest.raises(UserError, match=said):
        decisions.parsed([entry], Listed(np.array([0, 0, 1, 2])))


def test_a_kept_state_is_what_it_was(clean, tmp_path):
    made = planted(7)
    state = clean(made.unit_ND, made.label_N)
    save_state(tmp_path / "state.npz", state)
    loaded = load_state(tmp_path / "state.npz")
    for name, column in state._asdict().items():
        pairs = [(column, getattr(loaded, name))] if name != "merges" else zip(column, loaded.merges, strict=True)
        for one, other in pairs:
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
