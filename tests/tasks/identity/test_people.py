"""Who is in which group."""

import itertools
from typing import NamedTuple

import numpy as np
import pytest

from zennas.data.labels import DROPPED
from zennas.records import UserError
from zennas.tasks.identity.people import few_pairs, split


class Shares(NamedTuple):
    """What `split` asks of a plan."""

    held_out_share: float = 0.1
    test_share: float = 0.1
    max_images: int = 10


class Faces(NamedTuple):
    """What `split` asks of a source."""

    label_N: np.ndarray
    identity_names: list
    num_identities: int
    path: str = "faces"


def many(num_identities=40, seed=0):
    """People with one to 30 images."""
    rng = np.random.default_rng(seed)
    label_N = rng.permutation(np.repeat(np.arange(num_identities), rng.integers(1, 31, num_identities))).astype(
        np.int32
    )
    return Faces(label_N, [f"p{number}" for number in range(num_identities)], num_identities)


def test_nobody_is_in_two_groups_and_nobody_is_forgotten():
    faces, plan = many(), Shares(held_out_share=0.2, test_share=0.3, max_images=4)
    found = split(faces, plan, seed=1)
    people = {name: set(group.label_M.tolist()) for name, group in (("held", found.held_out), ("test", found.test))}
    trained = set(found.label_N[found.label_N >= 0].tolist())
    assert not trained & people["held"] and not trained & people["test"] and not people["held"] & people["test"]
    assert len(people["held"]) == 8 and len(people["test"]) == 12 and len(trained) == 20
    kept_N = found.label_N >= 0
    assert (found.label_N[kept_N] == faces.label_N[kept_N]).all() and (found.label_N[~kept_N] == DROPPED).all()
    for group in (found.held_out, found.test):
        assert (faces.label_N[group.index_M] == group.label_M).all()
        counts = np.bincount(group.label_M)
        all_counts = np.bincount(faces.label_N, minlength=len(counts))[: len(counts)]
        assert (counts[counts > 0] == np.minimum(all_counts, 4)[counts > 0]).all()


def test_the_same_seed_draws_the_same_people():
    one, same, other = (split(many(), Shares(), seed=seed).held_out.index_M.tolist() for seed in (0, 0, 1))
    assert one == same != other


def test_names_say_who_is_held_out(tmp_path):
    (tmp_path / "held.txt").write_text("p3\n\n p7 \np3\n")
    (tmp_path / "test.txt").write_text("p4\np5\n")
    found = split(many(), Shares(), seed=0, held_out=tmp_path / "held.txt", test=tmp_path / "test.txt")
    assert set(found.held_out.label_M) == {3, 7} and set(found.test.label_M) == {4, 5}
    alone = split(many(), Shares(test_share=0.0), seed=0, held_out=tmp_path / "held.txt")
    assert alone.test is None and {4, 5} <= set(alone.label_N)


def test_whom_a_test_names_is_drawn_for_nothing_else(tmp_path):
    drawn = split(many(), Shares(test_share=0.0), seed=0).held_out
    named = sorted(set(drawn.label_M.tolist()))[:2]  # without the file they would be held out
    (tmp_path / "test.txt").write_text("".join(f"p{number}\n" for number in named))
    found = split(many(), Shares(), seed=0, test=tmp_path / "test.txt")
    assert set(found.test.label_M) == set(named) and not set(found.held_out.label_M) & set(named)
    assert found.held_out.num_identities == drawn.num_identities


@pytest.mark.parametrize(
    "held, test, says",
    [
        ("nobody", "p1", "1 of 1 identities are not in faces: nobody"),
        ("x" * 5000 + "\x1b[2J", "p1", "x... (4,9"),
        ("\x1b[2J", "p1", r"are not in faces: \x1b[2J"),
        ("", "p1", "names no identity"),
        ("p1\np2", "p2", "1 of its identities are held out, too"),
        ("single", "p1", "0 pairs of one person and 1 of two"),
        ("p1", "p3", "pairs of one person and 0 of two"),
        (
            "\n".join(f"p{number}" for number in range(20)),
            "\n".join(f"p{number}" for number in range(20, 40)),
            "fewer than 2",
        ),
    ],
)
def test_groups_that_say_nothing_are_refused(tmp_path, held, test, says):
    faces = many()
    single = [name for name, count in zip(faces.identity_names, np.bincount(faces.label_N), strict=True) if count == 1]
    (tmp_path / "held.txt").write_text("\n".join(single[:2]) if held == "single" else held)
    (tmp_path / "test.txt").write_text(test)
    with pytest.raises(UserError) as error:
        split(faces, Shares(), seed=0, held_out=tmp_path / "held.txt", test=tmp_path / "test.txt")
    assert says in str(error.value)


def test_pairs_are_counted():
    group = split(many(), Shares(), seed=3).held_out
    pairs = [one == other for one, other in itertools.combinations(group.label_M.tolist(), 2)]
    assert group.num_pairs == (sum(pairs), len(pairs) - sum(pairs))


def test_fprs_that_few_pairs_cannot_tell_are_said():
    group = split(many(), Shares(), seed=3).held_out
    (said,) = few_pairs(group, (0.5, 1e-5))
    assert said.startswith("FPR 1e-05: 0 of ")
