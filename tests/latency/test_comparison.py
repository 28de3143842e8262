import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import scipy.stats

from tests.latency.conftest import write_table
from zennas.latency.comparison import NEAR, compare, kendall_tau
from zennas.latency.table import COLUMNS, parts_of_space
from zennas.latency.tables import find_table, predictor
from zennas.track import Protocol, load_experiment

RULE = Protocol(backend="onnxruntime-cuda")


@pytest.fixture
def space(tiny):
    return load_experiment(str(tiny))[2]


@pytest.fixture
def known(tmp_path):
    """known(name, {Part: ms}) -> the KnownTable of such a machine."""

    def make(name, ms_of):
        return find_table(str(write_table(tmp_path / f"{name}.csv", ms_of, machine=name, columns=COLUMNS)), RULE)

    return make


# --- Kendall's tau


numbers = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=2, max_size=25)


@hypothesis.given(numbers)
def test_tau_is_scipy_s_with_and_without_ties(pairs):
    first, second = zip(*pairs, strict=True)
    expected = scipy.stats.kendalltau(first, second).statistic
    found = kendall_tau(first, second)
    assert (found is None) if math.isnan(expected) else found == pytest.approx(expected, abs=1e-12)


@hypothesis.given(numbers, st.data())
def test_tau_over_some_pairs_is_the_loop_over_them(pairs, data):
    first, second = zip(*pairs, strict=True)
    num = len(first)
    counts = np.zeros((num, num), bool)
    alike = unlike = only_first = only_second = 0
    for i in range(num):
        for j in range(i):
            if not data.draw(st.booleans()):
                continue
            counts[i, j] = counts[j, i] = True
            product = (first[i] - first[j]) * (second[i] - second[j])
            alike, unlike = alike + (product > 0), unlike + (product < 0)
            only_first += first[i] != first[j] and second[i] == second[j]
            only_second += first[i] == first[j] and second[i] != second[j]
    untied = (alike + unlike + only_first) * (alike + unlike + only_second)
    expected = (alike - unlike) / math.sqrt(untied) if untied else None
    assert kendall_tau(first, second, counts=counts) == (
        None if expected is None else pytest.approx(expected, abs=1e-12)
    )


# --- two tables


def test_a_device_that_is_three_times_slower_stands_in_perfectly(space, known):
    parts = parts_of_space(space)
    one, other = (
        known("one", {part: part.macs * 1e-6 for part in parts}),
        known("other", {part: part.macs * 3e-6 for part in parts}),
    )
    found = compare(one, other, space, num_candidates=60)
    ratios = [found.parts, *(stage.ratio for stage in found.stages), found.agreement.ratio]
    for ratio in ratios:
        assert (ratio.mean, ratio.low, ratio.high) == pytest.approx((3, 3, 3), rel=1e-6)  # what least squares leave
    assert (found.num_only_one, found.num_only_other, found.parts.num) == (0, 0, len(parts))
    assert sum(stage.ratio.num for stage in found.stages) == len(parts)
    assert found.agreement.tau == 1 and found.agreement.max_abs_pct < 1e-4
    backwards = compare(other, one, space, num_candidates=60)
    assert backwards.parts.mean == pytest.approx(1 / 3) and backwards.agreement.tau == 1


def test_a_device_that_takes_longer_over_some_parts_is_told_by_them(space, known):
    parts = parts_of_space(space)
    slow = {part: 4.0 if part.in_height == 32 else 0.5 for part in parts}
    one = known("one", {part: part.macs * 1e-6 for part in parts})
    other = known("other", {part: part.macs * 1e-6 * slow[part] for part in parts})
    found = compare(one, other, space, num_candidates=60)
    for stage in found.stages:
        expected = 4.0 if stage.in_px == 32 else 0.5
        assert stage.ratio.mean == pytest.approx(expected) and stage.ratio.num == sum(
            (part.kind, part.stride, part.in_height) == (stage.kind, stage.stride, stage.in_px) for part in parts
        )
    assert found.parts.mean == pytest.approx(np.exp(np.mean(np.log(list(slow.values())))))
    assert (found.parts.low, found.parts.high) == pytest.approx((0.5, 4.0))


def test_candidates_are_ranked_as_the_two_predict_them(space, known):
    """The whole agreement again, candidate by candidate, from the tables' own predictions."""
    rng = np.random.default_rng(0)
    parts = parts_of_space(space)
    one = known("one", {part: part.macs * 1e-6 for part in parts})
    other = known("other", {part: part.macs * 1e-6 * rng.uniform(0.7, 1.4) for part in parts})
    found = compare(one, other, space, num_candidates=80).agreement
    tables, rng, seen = (predictor(one), predictor(other)), np.random.default_rng(0), []
    for _ in range(80):
        candidate = space.sample(rng)
        if candidate not in seen:
            seen.append(candidate)
    sizes = {"shape": space.shape}
    first, second = ([round(table.predict(candidate, **sizes), 9) for candidate in seen] for table in tables)
    assert found.num == len(seen)
    assert found.tau == pytest.approx(scipy.stats.kendalltau(first, second).statistic)
    assert 0 < found.tau < 1
    ratios = [b / a for a, b in zip(first, second, strict=True)]
    assert found.ratio.mean == pytest.approx(scipy.stats.gmean(ratios))
    assert (found.ratio.low, found.ratio.high) == pytest.approx((min(ratios), max(ratios)))
    off = [100 * abs(a * found.ratio.mean / b - 1) for a, b in zip(first, second, strict=True)]
    assert (found.mean_abs_pct, found.max_abs_pct) == pytest.approx((sum(off) / len(off), max(off)))
    near = [(i, j) for i in range(len(seen)) for j in range(i) if 1 / NEAR < first[i] / first[j] < NEAR]
    signs = [(np.sign(first[i] - first[j]), np.sign(second[i] - second[j])) for i, j in near]
    one_way, other_way = (sum(abs(sign) for sign in column) for column in zip(*signs, strict=True))
    assert found.num_near_pairs == len(near) > 10
    assert found.tau_near == pytest.approx(sum(a * b for a, b in signs) / math.sqrt(one_way * other_way))
    assert found.tau_near < found.tau  # neighbours are the hard ones


def test_tables_of_other_parts_are_compared_as_far_as_they_go(space, known):
    parts = parts_of_space(space)
    one, other = known("one", {part: 1.0 for part in parts}), known("other", {part: 2.0 for part in parts[:5]})
    found = compare(one, other, space, num_candidates=10)
    assert (found.parts.num, found.num_only_one, found.num_only_other) == (5, len(parts) - 5, 0)
    assert found.agreement is None
    nothing = compare(known("first", {parts[0]: 1.0}), known("second", {parts[1]: 1.0}), space, num_candidates=10)
    assert nothing.parts is None and nothing.stages == () and nothing.agreement is None
