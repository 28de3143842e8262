# N candidates, G genes

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tests.conftest import all_genes
from tests.shapes import square
from zennas.space.blocks import BLOCKS
from zennas.space.candidate import Candidate
from zennas.space.cost import cost, part_cost
from zennas.space.network import build
from zennas.space.parts import Part, combined, indices, parts_of, stacked, sums
from zennas.space.residual import deployed
from zennas.space.space import Range, Space, effectiveness, fan_in


def space_of(block):
    """A space with a range of a single value, one that does not start at its step and one of steps of two."""
    return Space(
        name="tiny",
        block=block,
        image_px=32,
        embedding_size=8,
        stem=Range(low=3, high=11, step=4),
        widths=(Range(low=8, high=8), Range(low=4, high=12, step=4)),
        depths=(Range(low=2, high=6, step=2), Range(low=1, high=4)),
        limits={"max_blocks": 8, "max_effectiveness": 99},
    )


SPACE = space_of("ir_se")
ALL_NG = all_genes(SPACE)
each_block = pytest.mark.parametrize("block", BLOCKS)


def some_value(part):
    """A number of a part that looks random, fractions and negative ones included."""
    return math.sin(sum(prime * n for prime, n in zip((3, 5, 7, 11, 13), part[1:], strict=True)) + len(part.kind))


def candidates_of(space, num, seed=0):
    rng = np.random.default_rng(seed)
    return [space.sample(rng) for _ in range(num)]


def values_of(some, space, candidates):
    return some.of(space, np.array([candidate.genes for candidate in candidates]))


# --- a candidate is the sum of its parts


@each_block
@pytest.mark.parametrize("quantity", ["params", "macs", "megabytes"])
def test_costs_are_sums_over_parts(block, quantity):
    space = space_of(block)
    candidates = candidates_of(space, 30)
    found_N = values_of(sums(space, lambda part: getattr(part_cost(*part), quantity)), space, candidates)
    sizes = {"shape": space.shape}
    expected = [getattr(cost(candidate, **sizes), quantity) for candidate in candidates]
    if quantity == "megabytes":  # fractions that are summed in another order
        assert found_N == pytest.approx(expected, rel=1e-14)
    else:  # whole numbers far below 2^53: not a single one is lost
        assert found_N.tolist() == expected


@each_block
def test_no_parameter_is_outside_the_parts(block):
    """Counted on the networks themselves."""
    space = space_of(block)
    candidates = candidates_of(space, 4, seed=1)
    found_N = values_of(sums(space, lambda part: part_cost(*part).params), space, candidates)
    for one, found in zip(candidates, found_N, strict=True):
        network = deployed(build(one, space.shape))
        assert found == sum(weight.numel() for weight in network.parameters())


@each_block
@hypothesis.settings(
    max_examples=20, deadline=None
)  # building a part's cost for the first time is not of an even duration
@hypothesis.given(seed=st.integers(0, 2**32 - 1))
def test_sums_are_those_over_parts_of(block, seed):
    space = space_of(block)
    (candidate,) = candidates_of(space, 1, seed)
    parts = parts_of(candidate, space.shape)
    expected = sum(times * some_value(part) for part, times in parts.items())
    found_N = values_of(sums(space, some_value), space, [candidate])
    assert found_N[0] == pytest.approx(expected, abs=1e-12)  # some ten numbers below one
    assert sum(times for part, times in parts.items() if part.is_block) == candidate.num_blocks
    assert sum(times for part, times in parts.items() if not part.is_block) == 2


def test_the_parts_of_a_candidate_by_hand():
    candidate = Candidate(block="ir_se", stem=16, widths=(32, 32), depths=(1, 3))
    assert parts_of(candidate, square(32, 64)) == {
        Part("stem", 3, 16, 1, 32, 32): 1,
        Part("ir_se", 16, 32, 2, 32, 32): 1,
        Part("ir_se", 32, 32, 2, 16, 16): 1,
        Part("ir_se", 32, 32, 1, 8, 8): 2,
        Part("neck", 32, 64, 1, 8, 8): 1,
    }


@each_block
def test_what_effectiveness_counts_is_a_sum(block):
    space = space_of(block)
    candidates = candidates_of(space, 20)
    convolutions, log_fan_in = (sums(space, lambda part, of=of: fan_in(part)[of]) for of in (0, 1))
    convolutions_N, log_fan_in_N = (values_of(some, space, candidates) for some in (convolutions, log_fan_in))
    found_N = convolutions_N / np.exp(log_fan_in_N / convolutions_N)
    assert found_N == pytest.approx([effectiveness(candidate) for candidate in candidates], rel=1e-12)


# --- sums of many candidates


def test_of_sums_what_the_tables_hold():
    """Every entry by itself: each is found by its own candidates, however often."""
    some = sums(SPACE, some_value)
    some = some._replace(depth=(np.array([100.0, 200.0, 400.0]), np.array([0.5, 0.25, 0.125, 0.0])))
    assert [table.shape for table in (some.stem_W, *some.first, *some.repeated, *some.depth, *some.necks)] == [
        (3,),
        (3, 1),
        (1, 3),
        (1,),
        (3,),
        (3,),
        (4,),
        (1,),
        (3,),
    ]
    for genes, found in zip(ALL_NG, some.of(SPACE, ALL_NG), strict=True):
        stem, one, two = (
            (value - low) // step for value, low, step in zip(genes[:3], (3, 8, 4), (4, 1, 4), strict=True)
        )
        expected = some.stem_W[stem] + some.first[0][stem, one] + some.first[1][one, two] + some.necks[1][two]
        expected += (genes[3] - 1) * some.repeated[0][one] + (genes[4] - 1) * some.repeated[1][two]
        expected += some.depth[0][genes[3] // 2 - 1] + some.depth[1][genes[4] - 1]
        assert found == pytest.approx(expected, abs=1e-12)


def test_indices_are_places_in_the_ranges():
    index_NG = indices(SPACE, ALL_NG)
    spans = list(SPACE.genes.values())
    for genes, places in zip(ALL_NG, index_NG, strict=True):
        assert [span.values()[place] for span, place in zip(spans, places, strict=True)] == genes.tolist()
    assert index_NG.min() == 0 and index_NG.max(0).tolist() == [len(span.values()) - 1 for span in spans]
    assert (indices(SPACE, [SPACE.cheapest().genes]) == 0).all()  # lists will do


@pytest.mark.parametrize("weights", [[1.0], [1.0, -2.0], [0.0, 0.5, 3.0]], ids=len)
def test_combined_sums_are_worth_their_weighted_sum(weights):
    rng = np.random.default_rng(0)
    some = [
        sums(SPACE, some_value)._replace(depth=tuple(rng.standard_normal(len(span.values())) for span in SPACE.depths)),
        sums(SPACE, lambda part: part.macs / 1e6),
        sums(SPACE, lambda part: float(part.is_block)),
    ][: len(weights)]
    before = [one.of(SPACE, ALL_NG) for one in some]
    assert (stacked(some).of(SPACE, ALL_NG) == np.stack(before, 1)).all()  # side by side, each is what it is alone
    found_N = combined(some, weights).of(SPACE, ALL_NG)
    expected_N = sum(weight * value_N for weight, value_N in zip(weights, before, strict=True))
    assert found_N == pytest.approx(expected_N, abs=1e-9)
    for one, value_N in zip(some, before, strict=True):
        assert (one.of(SPACE, ALL_NG) == value_N).all()  # they are left as they were
