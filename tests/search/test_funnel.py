# N candidates, G genes

import collections
import itertools
import math
import random

import numpy as np
import pytest

from tests.space.test_learned import learned_in
from zennas.search.bands import Bands
from zennas.search.funnel import FRESH_EVERY, PER_TRUNK, SHORTER, Funnel, Niches, knows
from zennas.search.optimum import NoProofError, Problem, best
from zennas.space.candidate import Candidate
from zennas.space.parts import parts_of
from zennas.space.space import distances, effectiveness
from zennas.track import ScorePlan, SearchPlan, load_space

SPACE = load_space("ir_se_tiny")
PLAN = SearchPlan(score=ScorePlan(image_px=16, batch=4), min_distance=0.3, bands=None)
ONE_BAND = Bands(SPACE)
MARGIN_PCT = 2.0
BUDGET = 30.0  # mega-MACs stand for milliseconds


def mega_macs(part):
    return part.macs / 1e6


def cost_of(candidate):
    parts = parts_of(candidate, SPACE.shape)
    return sum(times * mega_macs(part) for part, times in parts.items())


@pytest.fixture(scope="module")
def funnel():
    funnel = Funnel(SPACE, PLAN, mega_macs)
    funnel.set_budget(BUDGET, margin_pct=MARGIN_PCT)
    return funnel


def proposed(funnel, population, *, batch=0, most=96, seen=None):
    """(proposals, counters); later batches have seen the optimum, with which the first begins."""
    if seen is None:
        seen = {SPACE.candidate(genes).key for genes in funnel.seeds} if batch else set()
    counters = collections.Counter()
    return funnel.propose(population, batch=batch, most=most, seen=seen, counters=counters), counters


def scored(funnel, candidates):
    """Niches that know these candidates by their closed form."""
    population = Niches(PLAN.population, ONE_BAND)
    for candidate in candidates:
        population.add(float(funnel.score.of(SPACE, np.array([candidate.genes]))[0]), candidate)
    return population


def test_the_first_proposal_is_the_proven_optimum_within_the_margin(funnel):
    first, *_ = proposed(funnel, Niches(PLAN.population, ONE_BAND))[0]
    (cost,) = funnel.costs
    expected = best(SPACE, funnel.score, [cost._replace(most=BUDGET * (1 - MARGIN_PCT / 100))])
    assert first == expected.candidate
    assert cost_of(first) <= BUDGET * (1 - MARGIN_PCT / 100) * (1 + 1e-9)
    assert funnel.optimum.score >= expected.score  # that of the whole budget


def test_the_optimum_of_a_corrected_table_is_the_next_proposal():
    funnel, seen = Funnel(SPACE, PLAN, mega_macs), set()
    funnel.set_budget(BUDGET, margin_pct=MARGIN_PCT)
    population = scored(funnel, proposed(funnel, Niches(PLAN.population, ONE_BAND), seen=seen)[0])
    funnel.set_budget(1.3 * BUDGET, margin_pct=MARGIN_PCT)
    new = SPACE.candidate(funnel.seeds[0])
    assert new.key not in seen
    assert proposed(funnel, population, batch=1, seen=seen)[0][0] == new
    assert new not in proposed(funnel, population, batch=2, seen=seen)[0]


def test_proposals_keep_budget_and_space_and_come_once(funnel):
    population, seen, found = Niches(PLAN.population, ONE_BAND), set(), []
    for batch in range(4):
        some, counters = proposed(funnel, population, batch=batch, seen=seen)
        assert 0 < len(some) <= 96 and counters["screened"] > len(some)
        found += some
        for candidate in some:
            population.add(random.Random(candidate.key).random(), candidate)
    assert len({one.key for one in found}) == len(found) and {one.key for one in found} == seen
    assert all(SPACE.contains(one) for one in found)
    assert max(map(cost_of, found)) <= BUDGET * (1 - MARGIN_PCT / 100) * (1 + 1e-9)


def test_seed_and_batch_decide_what_is_proposed(funnel):
    population = scored(funnel, proposed(funnel, Niches(PLAN.population, ONE_BAND))[0])
    again, other = (proposed(funnel, population, batch=batch)[0] for batch in (5, 6))
    assert again == proposed(funnel, population, batch=5)[0] != other
    seeded = Funnel(SPACE, PLAN.model_copy(update={"seed": 1}), mega_macs)
    seeded.set_budget(BUDGET, margin_pct=MARGIN_PCT)
    assert proposed(seeded, population, batch=5)[0] != again


def test_members_have_one_trunk(funnel):
    """All but the depth of the last stage but one and the last stage are the same within it; a batch has few trunks."""
    found, _ = proposed(
        funnel, scored(funnel, proposed(funnel, Niches(PLAN.population, ONE_BAND))[0]), batch=3, most=4 * PER_TRUNK
    )
    trunks = collections.Counter((one.stem, one.widths[:-1], one.depths[:-2]) for one in found)
    assert len(found) == 4 * PER_TRUNK and 2 <= len(trunks) <= 4


def test_each_member_comes_with_its_shorter_ones(funnel):
    """Scored with it they cost nothing: their maps are computed on its way."""
    found, _ = proposed(
        funnel, scored(funnel, proposed(funnel, Niches(PLAN.population, ONE_BAND))[0]), batch=3, most=PER_TRUNK
    )
    first = found[0]
    shorter = [
        first.model_copy(update={"depths": (*first.depths[:-1], first.depths[-1] - n)}) for n in range(1 + SHORTER)
    ]
    shorter = [one for one in shorter if one.depths[-1] >= SPACE.depths[-1].low and SPACE.contains(one)]
    assert len(shorter) > 1 and found[: len(shorter)] == shorter


def test_what_mutates_is_kept_far_from_better_niches():
    """With two winners wanted, trunks take turns: that of the second niche stays away from the best of the first."""
    two = Funnel(SPACE, PLAN.model_copy(update={"num_winners": 2}), mega_macs)
    two.set_budget(BUDGET, margin_pct=MARGIN_PCT)
    population = scored(two, proposed(two, Niches(PLAN.population, ONE_BAND), most=6 * PER_TRUNK)[0])
    _, best_one = population.best
    batch = (
        FRESH_EVERY * 5 + 1
    )  # of one trunk each: turn 41 is the second niche's only if it stands second in its batch
    found, _ = proposed(two, population, batch=batch, most=2 * PER_TRUNK)
    second = found[PER_TRUNK:]
    assert second and distances(np.array([one.genes for one in second]), best_one.genes).min() >= 0.3


def test_where_nothing_is_within_the_budget_nothing_is_proposed():
    funnel = Funnel(SPACE, PLAN, mega_macs)
    funnel.set_budget(cost_of(SPACE.cheapest()) * 0.9, margin_pct=0.0)
    assert funnel.optimum is None and funnel.seeds == []
    assert proposed(funnel, Niches(PLAN.population, ONE_BAND))[0] == []


# --- in bands

BANDED = PLAN.model_copy(update={"bands": SearchPlan().bands})
NAMES = ["deep", "middle", "wide"]


def banded_funnel(budget=BUDGET, **values):
    made = Funnel(SPACE, BANDED, mega_macs, **values)
    made.set_budget(budget, margin_pct=MARGIN_PCT)
    return made


@pytest.fixture(scope="module")
def banded():
    return banded_funnel()


def test_bands_are_shares_of_the_optimum_of_the_whole_space(funnel, banded):
    assert banded.optimum == funnel.optimum and [band.name for band in banded.bands.bands] == NAMES
    shares = [band.most / effectiveness(funnel.optimum.candidate) for band in banded.bands.bands]
    assert shares == pytest.approx([math.inf, 0.5, 0.25])
    assert banded.proven[0].optimum == banded.optimum


def test_the_optimum_of_each_band_is_in_it_and_nothing_there_is_better(banded):
    """Against a hundred thousand candidates, most of them near the three optima."""
    rng = np.random.default_rng(0)
    optima = [proven.optimum for proven in banded.proven]
    near_NG = np.repeat([optimum.candidate.genes for optimum in optima], 30_000, 0)
    genes_NG = np.concatenate([[SPACE.sample(rng).genes for _ in range(3_000)], SPACE.mutants(near_NG, rng)])
    score_N, kept_N = banded.problem.limited(BUDGET).judged(genes_NG)
    place_N = banded.bands.of(genes_NG)
    for place, optimum in enumerate(optima):
        assert banded.bands.of_candidate(optimum.candidate) == place and SPACE.contains(optimum.candidate)
        assert cost_of(optimum.candidate) <= BUDGET * (1 + 1e-9)
        rivals_N = score_N[kept_N & (place_N == place)]
        assert len(rivals_N) > 1000 and rivals_N.max() <= optimum.score * (1 + 1e-9)


def test_the_first_proposals_are_the_best_of_each_band_within_the_margin(banded):
    first = proposed(banded, Niches(BANDED.population, banded.bands))[0][:3]
    assert [banded.bands.band_of(candidate).name for candidate in first] == NAMES
    for candidate, proven in zip(first, banded.proven, strict=True):
        assert cost_of(candidate) <= BUDGET * (1 - MARGIN_PCT / 100) * (1 + 1e-9)
        (score,) = banded.score.of(SPACE, [candidate.genes])
        assert 0.97 * proven.optimum.score < score <= proven.optimum.score


@pytest.mark.parametrize("most", [8, 6 * PER_TRUNK], ids=["less than a trunk", "six trunks"])
def test_every_band_is_searched(banded, most):
    """A batch may hold less than one trunk: then the bands take turns from batch to batch."""
    population, seen, places = Niches(BANDED.population, banded.bands), set(), collections.Counter()
    for batch in range(12 if most == 8 else 3):
        candidates = proposed(banded, population, batch=batch, most=most, seen=seen)[0]
        for candidate, score in zip(candidates, closed_forms(banded, candidates), strict=True):
            population.add(score, candidate)
        places.update(banded.bands.of([candidate.genes for candidate in candidates]).tolist() if batch else [])
    assert min(places[place] for place in range(3)) > sum(places.values()) / 8
    assert all(best is not None for best in population.bests)
    for niche in population.niches(3, 0.0):
        assert (banded.bands.of(niche.parents_NG) == niche.band).all() and niche.avoid == []


def test_two_winners_of_one_band_lie_apart():
    population = Niches(BANDED.population, Bands(SPACE, {"deep": None, "wide": 0.06}))
    rng = np.random.default_rng(0)
    for _ in range(200):
        population.add(rng.random(), SPACE.sample(rng))
    niches = population.niches(4, 0.3)
    assert [niche.band for niche in niches] == [0, 1, 0, 1] and [len(niche.avoid) for niche in niches] == [0, 0, 1, 1]
    for first, second in zip(niches[:2], niches[2:], strict=True):
        assert distances(second.parents_NG, first.parents_NG[0]).min() >= 0.3


def test_a_correction_moves_no_end_and_each_band_has_its_own_budget():
    """What was measured stays in its band, and what of one band was misjudged says nothing of another."""
    corrected = banded_funnel()
    ends, before = corrected.bands.ends, corrected.proven
    corrected.set_budget(0.9 * BUDGET, of_bands={"deep": BUDGET, "wide": 1.2 * BUDGET}, margin_pct=MARGIN_PCT)
    assert corrected.bands.ends == ends
    deep, middle, wide = (proven.optimum for proven in corrected.proven)
    assert deep.candidate == before[0].optimum.candidate
    assert middle.score < before[1].optimum.score and cost_of(middle.candidate) <= 0.9 * BUDGET * (1 + 1e-9)
    assert wide.score > before[2].optimum.score and cost_of(wide.candidate) > BUDGET
    first = [corrected.bands.of_candidate(SPACE.candidate(genes)) for genes in corrected.seeds]
    assert first == [0, 1, 2]
    again = Funnel(SPACE, BANDED, mega_macs, ends=ends)
    again.set_budget(0.5 * BUDGET, margin_pct=MARGIN_PCT)
    assert again.bands.ends == ends  # a resumed run has those that it began with


def test_a_band_that_holds_nothing_takes_no_turn():
    tight = banded_funnel(1.15 * cost_of(SPACE.cheapest()))
    assert [proven.is_empty for proven in tight.proven] == [False, True, True]
    population, seen = Niches(BANDED.population, tight.bands), set()
    candidates = proposed(tight, population, seen=seen)[0]
    assert candidates and set(tight.bands.of([candidate.genes for candidate in candidates])) == {0}


def closed_forms(funnel, candidates):
    genes_NG = np.array([candidate.genes for candidate in candidates]).reshape(len(candidates), -1)
    return funnel.score.of(SPACE, genes_NG).tolist() if len(genes_NG) else []


@pytest.mark.parametrize(("name", "known"), [("zen", True), ("naswot", False)])
def test_the_closed_form_is_that_of_the_zen_score(name, known):
    assert knows(SPACE, PLAN.model_copy(update={"score": ScorePlan(name=name)})) is known


# --- what a search remembers


def some_candidates():
    genes = itertools.product((16, 32), (16, 64), (32, 96), (64, 160), (1, 4), (1, 3), (1, 2))
    return [Candidate(block="ir_se", stem=g[0], widths=g[1:4], depths=g[4:]) for g in genes]


def test_the_best_of_each_trunk_is_remembered_in_any_order():
    entries = [(random.Random(index).random(), one) for index, one in enumerate(some_candidates())]
    best_of = {}
    for score, one in entries:
        trunk = one.stem, one.widths[:2], one.depths[0]
        best_of[trunk] = max(best_of.get(trunk, (-1, None)), (score, one), key=lambda entry: entry[0])
    rankings = []
    for seed in range(3):
        niches = Niches(5, ONE_BAND)
        for score, one in random.Random(seed).sample(entries, k=len(entries)):
            niches.add(score, one)
        assert len(niches) == len(best_of) == 16
        rankings.append(niches.ranked)
    assert rankings[0] == rankings[1] == rankings[2]
    expected = sorted(best_of.values(), key=lambda entry: -entry[0])[:5]
    assert [(-score, one) for score, _, one in rankings[0]] == expected and niches.best == expected[0]


def test_each_niche_is_far_from_the_bests_before_it():
    niches = Niches(64, ONE_BAND)
    for index, one in enumerate(some_candidates()):
        niches.add(random.Random(index).random(), one)
    found = niches.niches(3, 0.4)
    assert [len(niche.avoid) for niche in found] == [0, 1, 2]
    for _, avoid, parents_NG in found:
        assert all(distances(parents_NG, other_G).min() >= 0.4 for other_G in avoid)
        scores = [next(-s for s, _, one in niches.ranked if one.genes == tuple(genes)) for genes in parents_NG]
        assert scores == sorted(scores, reverse=True)
    assert len(niches.niches(3, 99.0)) == 1  # nothing is so far away
    (nothing,) = Niches(4, ONE_BAND).niches(3, 0.4)
    assert len(nothing.parents_NG) == 0 and Niches(4, ONE_BAND).best is None


@pytest.mark.parametrize("most", [0, 1, PER_TRUNK + 5])
def test_only_what_was_proposed_counts_as_seen(funnel, most):
    """What is seen is never proposed again: a candidate that is left out for want of room would be lost."""
    population, seen = scored(funnel, proposed(funnel, Niches(PLAN.population, ONE_BAND))[0]), set()
    found = [proposed(funnel, population, batch=batch, most=most, seen=seen)[0] for batch in (0, 1)]
    assert len(found[0]) == most >= len(found[1]) and seen == {one.key for some in found for one in some}


def test_what_was_made_by_hand_comes_next_where_it_is_within_the_budget(funnel):
    by_hand = [
        baseline for baseline in SPACE.baselines.values() if cost_of(baseline) <= BUDGET * (1 - MARGIN_PCT / 100)
    ]
    assert by_hand and proposed(funnel, Niches(PLAN.population, ONE_BAND))[0][1 : 1 + len(by_hand)] == by_hand
    tight = Funnel(SPACE, PLAN, mega_macs)
    tight.set_budget(min(map(cost_of, by_hand)) - 1, margin_pct=0.0)
    assert not set(proposed(tight, Niches(PLAN.population, ONE_BAND))[0]) & set(SPACE.baselines.values())


def test_without_a_proof_and_without_baselines_the_search_begins_anywhere(monkeypatch):
    def too_long(problem):
        raise NoProofError("20 boxes looked at")

    monkeypatch.setattr(Problem, "solve", too_long)
    funnel = Funnel(SPACE.model_copy(update={"baselines": {}}), PLAN, mega_macs)
    funnel.set_budget(BUDGET, margin_pct=MARGIN_PCT)
    assert funnel.optimum is None and funnel.why_not == "20 boxes looked at"
    assert any(proposed(funnel, Niches(PLAN.population, ONE_BAND), batch=batch)[0] for batch in range(4))


@pytest.mark.parametrize("seed", range(3))
def test_a_learned_score_is_maximised_where_it_is_believed(seed):
    """Among what was trained, in genes and in latency: a line is highest at a corner of the space, and knows nothing of
    networks that cost less."""
    learned, _, _ = learned_in(SPACE, seed=seed)
    plan = SearchPlan(score=ScorePlan(name="learned", learned=learned), min_distance=0.3)
    funnel = Funnel(SPACE, plan, mega_macs)
    funnel.set_budget(BUDGET, margin_pct=MARGIN_PCT)
    least = learned.least_share * BUDGET
    proposals, _ = proposed(funnel, Niches(plan.population, ONE_BAND), most=200)
    assert proposals and proposals[0] == SPACE.candidate(funnel.seeds[0])
    for candidate in proposals:
        assert learned.is_within(candidate) and least * (1 - 1e-9) <= cost_of(candidate) <= BUDGET
    rng, best_drawn = np.random.default_rng(seed), -math.inf
    for candidate in (SPACE.sample(rng) for _ in range(4000)):
        if learned.is_within(candidate) and least <= cost_of(candidate) <= BUDGET:
            best_drawn = max(best_drawn, learned.of_candidate(candidate)[0])
    assert funnel.optimum.score >= best_drawn > -math.inf
    assert learned.of_candidate(funnel.optimum.candidate)[0] == pytest.approx(funnel.optimum.score)
    free = best(SPACE, funnel.score, [funnel.costs[0]._replace(most=BUDGET)])
    assert free.score >= funnel.optimum.score and not (
        learned.is_within(free.candidate) and cost_of(free.candidate) >= least and free.score > funnel.optimum.score
    )
