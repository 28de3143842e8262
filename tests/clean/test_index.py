"""The vector index against all cosines computed, and groups of pairs against a search by hand."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from zennas.clean import exact, index, parts
from zennas.clean.centres import unit_rows
from zennas.clean.exact import ExactIndex
from zennas.clean.grouping import joined
from zennas.clean.index import CentreIndex


def drawn(num_centres=400, num_queries=90, size=24):
    rng = np.random.default_rng(0)
    centre_CD = unit_rows(rng.normal(size=(num_centres, size)))
    near_QD = centre_CD[rng.integers(num_centres, size=num_queries)] + 0.15 * rng.normal(size=(num_queries, size))
    return centre_CD, unit_rows(near_QD), np.arange(num_centres) * 3 + 1


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "opened"])
def test_the_nearest_are_the_nearest(kept, tmp_path):
    centre_CD, unit_QD, number_C = drawn()
    found = CentreIndex(centre_CD, number_C)
    if kept:
        found.save(tmp_path / "centres.faiss")
        found = CentreIndex.open(tmp_path / "centres.faiss")
    number_QK, cosine_QK = found.nearest(unit_QD, 5)
    cosine_QC = unit_QD @ centre_CD.T
    order_QK = np.argsort(-cosine_QC, axis=1)[:, :5]
    assert found.is_flat and (number_QK == number_C[order_QK]).all()
    np.testing.assert_allclose(cosine_QK, np.take_along_axis(cosine_QC, order_QK, axis=1), atol=1e-6)


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_all_compared_block_by_block_are_the_nearest(device, tmp_path, monkeypatch):
    centre_CD, unit_QD, number_C = drawn()
    np.save(tmp_path / "centres.npy", centre_CD)
    np.save(tmp_path / "centres.numbers.npy", number_C)
    monkeypatch.setattr(exact, "QUERIES", 7)
    monkeypatch.setattr(exact, "CENTRES", 33)
    found = ExactIndex.open(tmp_path / "centres.npy", device=device)
    tolerance = 1e-6 if device == "cpu" else 2e-3  # float16 there
    number_QK, cosine_QK = found.nearest(unit_QD, 5)
    expected_QK, expected_cosine_QK = CentreIndex(centre_CD, number_C).nearest(unit_QD, 5)
    np.testing.assert_allclose(cosine_QK, expected_cosine_QK, atol=tolerance)
    clear_QK = np.abs(np.diff(expected_cosine_QK, append=-1)) > 2 * tolerance
    clear_QK[:, 1:] &= clear_QK[:, :-1]
    assert (number_QK == expected_QK)[clear_QK].all() and clear_QK.mean() > 0.5
    pairs, expected = (
        {(row, number): cosine for row, number, cosine in zip(*index.alike(unit_QD, 0.5), strict=True)}
        for index in (found, CentreIndex(centre_CD, number_C))
    )
    assert all(abs(({**pairs, **expected})[pair] - 0.5) < tolerance for pair in set(pairs) ^ set(expected))
    assert len(set(pairs) & set(expected)) >= len(unit_QD)


@pytest.mark.parametrize("kind", [CentreIndex, lambda *given: ExactIndex(*given, device="cpu")], ids=["faiss", "exact"])
def test_where_there_are_fewer_there_is_nobody(kind):
    number_QK, cosine_QK = kind(unit_rows([[1, 0], [0, 1]]), [7, 9]).nearest(unit_rows([[1, 0.2]]), 4)
    assert number_QK.tolist() == [[7, 9, -1, -1]] and np.isneginf(cosine_QK[0, 2:]).all()


def test_all_alike_pairs_are_found_block_by_block(monkeypatch):
    centre_CD, unit_QD, number_C = drawn()
    monkeypatch.setattr(index, "BLOCK", 7)
    row_P, number_P, cosine_P = CentreIndex(centre_CD, number_C).alike(unit_QD, 0.5)
    cosine_QC = unit_QD @ centre_CD.T
    expected = {(row, number_C[place]) for row, place in zip(*np.nonzero(cosine_QC > 0.5), strict=True)}
    assert set(zip(row_P.tolist(), number_P.tolist(), strict=True)) == expected and len(expected) >= len(unit_QD)
    assert cosine_P.min() > 0.5


def test_many_queries_at_once_are_answered_as_one_by_one(monkeypatch, capsys):
    centre_CD, unit_QD, number_C = drawn(num_centres=3000, num_queries=300)
    cells = CentreIndex(centre_CD, number_C, flat=False)
    one_by_one = cells.nearest(unit_QD, 2)
    monkeypatch.setattr(index, "BATCHED", 10)
    at_once = cells.nearest(unit_QD, 2)
    assert (one_by_one[0] == at_once[0]).all()
    np.testing.assert_allclose(one_by_one[1], at_once[1], atol=1e-5)
    # A threshold that few are above, and one that more are above than are asked for at first.
    for threshold in (0.7, 0.55):
        monkeypatch.setattr(index, "BATCHED", 10)
        row_P, number_P, cosine_P = cells.alike(unit_QD, threshold)
        monkeypatch.setattr(index, "BATCHED", 1000)
        expected = cells.alike(unit_QD, threshold)
        order_P, expected_P = np.lexsort((number_P, row_P)), np.lexsort((expected[1], expected[0]))
        assert (row_P[order_P] == expected[0][expected_P]).all() and (
            number_P[order_P] == expected[1][expected_P]
        ).all()
        np.testing.assert_allclose(cosine_P[order_P], expected[2][expected_P], atol=1e-5)
    assert np.bincount(row_P).max() > index.NEAREST > np.bincount(row_P).min()
    assert capsys.readouterr().out == ""


def test_cells_find_nearly_all_and_say_so_after_opening(tmp_path):
    centre_CD, unit_QD, number_C = drawn(num_centres=6000, num_queries=500)
    cells = CentreIndex(centre_CD, number_C, flat=False)
    cells.save(tmp_path / "cells.faiss")
    opened = CentreIndex.open(tmp_path / "cells.faiss")
    exact = CentreIndex(centre_CD, number_C, flat=True).nearest(unit_QD, 1)[0]
    found = opened.nearest(unit_QD, 1)[0]
    assert not cells.is_flat and not opened.is_flat
    assert (found == cells.nearest(unit_QD, 1)[0]).all()
    assert (found == exact).mean() > 0.97  # clouds without structure are the worst that cells can meet


def test_a_pair_that_is_found_from_one_side_is_a_pair(tmp_path, monkeypatch):
    """An index that looks into two cells of many finds some pairs from the higher number alone."""
    centre_CD, _, number_C = drawn(num_centres=2000)
    monkeypatch.setattr(index, "PROBES", 2)
    np.save(tmp_path / "centres.npy", centre_CD)
    CentreIndex(centre_CD, number_C, flat=False).save(tmp_path / "centres.faiss")
    row_P, number_P, _ = CentreIndex.open(tmp_path / "centres.faiss").alike(centre_CD, 0.5)
    asked = {
        (one, other) for one, other in zip(number_C[row_P].tolist(), number_P.tolist(), strict=True) if one != other
    }
    file = parts.IndexFile(str(tmp_path / "centres.faiss"))
    found = parts.alike(file, tmp_path / "centres.npy", number_C, 0, len(number_C), 0.5)
    pairs = set(zip(found["one_P"].tolist(), found["other_P"].tolist(), strict=True))
    assert pairs == {(min(pair), max(pair)) for pair in asked}
    assert any(one > other and (other, one) not in asked for one, other in asked)


@hypothesis.given(
    num=strategies.integers(1, 12),
    pairs=strategies.lists(strategies.tuples(strategies.integers(0, 11), strategies.integers(0, 11)), max_size=14),
)
def test_chains_of_pairs_make_groups(num, pairs):
    pairs = [(one % num, other % num) for one, other in pairs]
    lowest = list(range(num))
    for _ in range(num):
        for one, other in pairs:
            lowest[one] = lowest[other] = min(lowest[one], lowest[other])
    assert joined(num, [one for one, _ in pairs], [other for _, other in pairs]).tolist() == lowest
