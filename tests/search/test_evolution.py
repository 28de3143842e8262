import collections
import functools
import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from tests.conftest import all_genes
from zennas.records import SPACES, names
from zennas.search import evolution
from zennas.search.evolution import MIN_PARENTS, Population, _shrunk, propose
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.families.table import tree_of
from zennas.space.parts import parts_of
from zennas.space.space import Space
from zennas.track import load_space

SEARCHED = {
    "name": "searched",
    "block": "ir",
    "image_px": 32,
    "stem": {"low": 8, "high": 64, "step": 8},
    "widths": [{"low": 8, "high": 64, "step": 8}, {"low": 16, "high": 128, "step": 8}],
    "depths": [{"low": 1, "high": 6}, {"low": 1, "high": 8}],
    "limits": {"max_blocks": 12, "max_effectiveness": 10},
}
FEW = SEARCHED | {
    "stem": {"low": 8, "high": 16, "step": 8},
    "widths": [{"low": 8, "high": 16, "step": 8}] * 2,
    "depths": [{"low": 1, "high": 2}] * 2,
    "limits": {"max_blocks": 3, "max_effectiveness": 10},
}


def searched_space(values=SEARCHED):
    return Space.parse(values, values["name"])


def every_candidate(space):
    """All candidates of a space, by brute force."""
    return [candidate for candidate in map(space.candidate, all_genes(space)) if space.contains(candidate)]


def proposed(space, population, num, *, seed=0, batch=0, refusal=lambda candidate: None, seen=None, counters=None):
    seen, counters = set() if seen is None else seen, collections.Counter() if counters is None else counters
    return propose(space, population, num, seed=seed, batch=batch, refusal=refusal, seen=seen, counters=counters)


def filled(space, num, *, seed=1):
    """A Population of random candidates whose score is their number of parameters."""
    population, rng = Population(num), np.random.default_rng(seed)
    for _ in range(4 * num):
        candidate = space.sample(rng)
        population.add(float(cost(candidate, space.shape).params), candidate)
    return population


published = functools.cache(load_space)


@functools.cache
def parents_of(name):
    """Of a published space; nobody adds to them."""
    return filled(published(name), 64)


scored = st.lists(st.tuples(st.integers(0, 5).map(float), st.integers(1, 40)), max_size=30)


@hypothesis.given(scored, st.integers(1, 8), st.randoms(use_true_random=False))
def test_a_population_keeps_the_best_in_whatever_order_they_come(pairs, size, random):
    pairs = [(score, Candidate(block="ir", stem=stem, widths=(8,), depths=(1,))) for score, stem in pairs]
    one, other = Population(size), Population(size)
    for score, candidate in pairs:
        one.add(score, candidate)
    random.shuffle(pairs)
    for score, candidate in pairs:
        other.add(score, candidate)
    assert one.ranked == other.ranked and len(one) == min(size, len(pairs))
    assert [-entry[0] for entry in one.ranked] == sorted((score for score, _ in pairs), reverse=True)[:size]
    assert one.best == ((-one.ranked[0][0], one.ranked[0][2]) if pairs else None)


@pytest.mark.parametrize("num_parents", [0, 40])
def test_the_same_seed_and_batch_propose_the_same(num_parents):
    space = searched_space()
    runs = [proposed(space, filled(space, num_parents or 1), 16, seed=3, batch=7) for _ in range(2)]
    assert runs[0] == runs[1]
    for other in ({"seed": 4, "batch": 7}, {"seed": 3, "batch": 8}):
        assert proposed(space, filled(space, num_parents or 1), 16, **other) != runs[0]


@pytest.mark.parametrize("name", names(SPACES))
@pytest.mark.parametrize("num_parents", [0, 64])
@hypothesis.settings(deadline=None, max_examples=2)
@hypothesis.given(seed=st.integers(0, 2**31), batch=st.integers(0, 100))
def test_proposals_are_new_admitted_and_in_the_space(name, num_parents, seed, batch):
    space = published(name)
    parents = parents_of(name) if num_parents else Population(64)
    limit = cost(space.cheapest(), space.shape).macs * 8

    def refusal(candidate):
        return "too large" if cost(candidate, space.shape).macs > limit else None

    counters, seen = collections.Counter(), set()
    first = proposed(space, parents, 8, seed=seed, batch=batch, refusal=refusal, seen=seen, counters=counters)
    second = proposed(space, parents, 8, seed=seed, batch=batch, refusal=refusal, seen=seen, counters=counters)
    proposals = first + second
    assert len({candidate.key for candidate in proposals}) == len(proposals) == 16  # though asked twice for the same
    assert all(space.contains(candidate) and refusal(candidate) is None for candidate in proposals)
    assert seen == {candidate.key for candidate in proposals}
    assert counters["seen"] == 16 + counters["rejected: too large"] + counters["rejected: seen before"]
    assert counters["rejected: seen before"] >= 8


def test_the_first_batch_begins_with_the_hand_made_networks(tiny):
    space = load_space(str(tiny.parent / "space.yaml"))
    by_hand = {baseline.model_copy(update={"block": space.block}) for baseline in space.baselines.values()}
    assert len(by_hand) == 2
    first = proposed(space, Population(8), 4)
    assert by_hand == set(first[:2])
    assert not by_hand & set(proposed(space, Population(8), 4, batch=1))


def test_a_space_is_searched_to_its_last_candidate_and_then_says_so(monkeypatch):
    monkeypatch.setattr(evolution, "MAX_ATTEMPTS", 2000)  # many for so few candidates
    space = searched_space(FEW)
    population, seen, found = Population(8), set(), []
    for batch in itertools.count():
        candidates = proposed(space, population, 4, batch=batch, seen=seen)
        found += candidates
        for candidate in candidates:
            population.add(float(cost(candidate, space.shape).macs), candidate)
        if len(candidates) < 4:
            break
    assert len(population) < MIN_PARENTS  # the end of a space of so few is drawn, not bred
    assert sorted(one.text for one in found) == sorted(one.text for one in every_candidate(space))
    assert proposed(space, population, 4, batch=batch + 1, seen=seen) == []


def num_plain_shortcuts(candidate, space):
    """Of first blocks that keep width and map, in every branch; in a chain there is none."""
    tree, blocks = tree_of(candidate), parts_of(candidate, space.shape)
    repeated = [depth - 1 for depth in candidate.depths[: tree.shared]]
    for way in tree.ways:
        repeated += [way.times * (candidate.depths[stage] - 1) for stage in way.stages[tree.shared :]]
    return sum(times for part, times in blocks.items() if part.is_block and part.keeps_shape) - sum(repeated)


@pytest.mark.parametrize("name", [*names(SPACES), "searched"])
@hypothesis.settings(deadline=None, max_examples=5)
@hypothesis.given(seed=st.integers(0, 2**31))
def test_shrinking_leads_through_the_space_down_to_its_cheapest(name, seed):
    space = searched_space() if name == "searched" else published(name)
    rng = np.random.default_rng(seed)
    candidate = space.sample(rng)
    while (smaller := _shrunk(space, candidate, rng)) is not None:
        assert space.contains(smaller) and sum(smaller.genes) < sum(candidate.genes)
        # A first block of stride 1 whose two widths were equal had no convolution in its shortcut, and now has one.
        lost = num_plain_shortcuts(smaller, space) < num_plain_shortcuts(candidate, space)
        assert lost or cost(smaller, space.shape).macs < cost(candidate, space.shape).macs
        candidate = smaller
    assert candidate == space.cheapest()


def test_fresh_candidates_are_shrunk_into_a_tight_budget():
    space, counters = load_space("ir_se"), collections.Counter()
    limit = 1.5 * cost(space.cheapest(), space.shape).macs  # not one of a million samples is so small
    candidates = proposed(
        space,
        Population(64),
        24,
        refusal=lambda one: "over" if cost(one, space.shape).macs > limit else None,
        counters=counters,
    )
    assert len(candidates) == 24 and counters["rejected: over"] == 0
    # Shrunk to the budget, not far below it.
    assert np.median([cost(candidate, space.shape).macs for candidate in candidates]) > 0.8 * limit


def log_fan_in(stem, *genes):
    """Sum over the 3x3 convolutions of log(9 x input channels): what the Zen-Score grows with. Broadcasts."""
    total, channels = np.log(27), stem
    for width, depth in zip(genes[:2], genes[2:], strict=True):
        total, channels = total + np.log(9 * channels) + (2 * depth - 1) * np.log(9 * width), width
    return total


def macs_of(stem, *genes, px=32):
    """Multiply-accumulates of the same, neck left out. Broadcasts."""
    total, channels = 27 * stem * px**2, stem
    for width, depth in zip(genes[:2], genes[2:], strict=True):
        total = total + 9 * channels * width * px**2  # at stride 1: the stride is the second convolution's
        px //= 2
        total = total + channels * width * px**2 + 9 * width**2 * px**2 * (2 * depth - 1)
        channels = width
    return total


def test_the_search_comes_near_the_best_of_all():
    space = searched_space()
    genes = np.meshgrid(*(np.arange(span.low, span.high + 1, span.step) for span in space.genes.values()))
    macs, scores = macs_of(*genes), log_fan_in(*genes)
    allowed = genes[3] + genes[4] <= space.limits.max_blocks
    budget = np.quantile(macs[allowed], 0.2)
    best = scores[allowed & (macs <= budget)].max()

    def over(one):
        return "over budget" if macs_of(*one.genes) > budget else None

    reached = []
    for seed in range(5):
        population, seen, so_far = Population(64), set(), -math.inf
        for batch in range(75):
            for candidate in proposed(space, population, 8, seed=seed, batch=batch, seen=seen, refusal=over):
                score = float(log_fan_in(*candidate.genes))
                population.add(score, candidate)
                so_far = max(so_far, score)
        assert len(seen) == 600  # of 8,641 within the budget
        assert population.best[0] == so_far <= best * (1 + 1e-12)
        reached.append(so_far / best)
    # 600 of those drawn at random reach 0.977 of the best on average. Of 400 searches 5 in a hundred stayed below 0.99,
    # and the lowest was 0.976: three of five do once in a thousand.
    assert np.median(reached) >= 0.99 and min(reached) > 0.97
