# N candidates, G genes, K costs

import functools
import math

import numpy as np
import pytest

from tests.conftest import all_genes
from zennas.score.meanfield import mean_field_sums
from zennas.search import optimum
from zennas.search.bands import Band
from zennas.search.optimum import Constraint, NoProofError, Problem, best, completions, front
from zennas.space.parts import combined, indices, sums
from zennas.space.space import Range, Space, effectiveness
from zennas.track import load_space

ROUNDING = 1e-9  # of a sum, relative: what `best` promises


def random_range(rng, low, steps, most):
    low, step = int(rng.integers(low, 3 * low + 1)), int(rng.choice(steps))
    return Range(low=low, high=low + step * int(rng.integers(0, most)), step=step)


def random_space(rng, *, num_stages=None, max_blocks=None):
    """Up to some thousand candidates, ranges of a single value among them; about half of the spaces have limits that
    bind.
    """
    num_stages = num_stages or int(rng.integers(1, 4))
    widths = [random_range(rng, 4, (4, 8), (5, 4, 3)[num_stages - 1]) for _ in range(num_stages + 1)]
    depths = [random_range(rng, 1, (1, 1, 2), (8, 5, 4)[num_stages - 1]) for _ in range(num_stages)]
    genes = {"stem": widths[0], "widths": tuple(widths[1:]), "depths": tuple(depths), "block": "ir_se"}
    space = Space(name="random", image_px=16, **genes, limits={"max_blocks": 99, "max_effectiveness": 99})
    fewest, most = (sum(one(span.values()) for span in depths) for one in (min, max))
    least = effectiveness(space.cheapest())
    limits = {
        "max_blocks": max_blocks or int(rng.integers(fewest, most + 2)),
        "max_effectiveness": float(least * rng.uniform(1.0, 1.6)) if rng.random() < 0.7 else 99.0,
    }
    return Space(name="random", image_px=16, **genes, limits=limits)


def random_sums(rng, space, draw):
    """Sums whose every entry is drawn, those of depths included."""
    some = sums(space, lambda part: draw())
    return some._replace(depth=tuple(np.array([draw() for _ in span.values()], float) for span in space.depths))


SCORE_KINDS = {
    "normal": lambda rng, space: random_sums(rng, space, rng.standard_normal),
    "nearly alike": lambda rng, space: random_sums(rng, space, lambda: 1e-3 * rng.standard_normal()),
    "large and negative": lambda rng, space: random_sums(rng, space, lambda: -1e4 * rng.random()),
    "ties": lambda rng, space: random_sums(rng, space, lambda: float(rng.integers(0, 3))),
    "constant": lambda rng, space: random_sums(rng, space, lambda: 0.0),
    "closed form": lambda rng, space: mean_field_sums(space.model_copy(update={"block": "ir"}), (16, 16), 4),
}


COST_KINDS = {
    "part by part": lambda rng, space: random_sums(rng, space, rng.random),
    "MACs": lambda rng, space: sums(space, lambda part: float(part.macs)),
    "like a latency": lambda rng, space: sums(space, lambda part: rng.uniform(0.1, 1) * (1 + part.macs**0.5 / 1e3)),
    "whole numbers": lambda rng, space: random_sums(rng, space, lambda: float(rng.integers(0, 4))),
}


class Brute:
    """All candidates of a space, one by one: their scores, their costs and whether they are in the space."""

    def __init__(self, space, score, tables):
        self.genes_NG = all_genes(space)
        assert len(self.genes_NG) < 20_000
        self.contained_N = np.array([space.contains(space.candidate(genes)) for genes in self.genes_NG])
        self.score_N = score.of(space, self.genes_NG)
        self.cost_NK = np.stack([table.of(space, self.genes_NG) for table in tables], 1)

    def within(self, most_K):
        """Which candidates are within the limits."""
        most_K = np.asarray(most_K)
        return self.contained_N & (self.cost_NK <= most_K + ROUNDING * np.maximum(1, np.abs(most_K))).all(1)

    def best(self, most_K):
        within_N = self.within(most_K)
        return float(self.score_N[within_N].max()) if within_N.any() else None

    def front(self, most_K):
        """[(cost, score)], ascending: of all candidates within the limits, those that beat everything cheaper."""
        within_N, found = self.within(most_K), []
        for cost, score in sorted(zip(self.cost_NK[within_N, 0], -self.score_N[within_N], strict=True)):
            if not found or -score > found[-1][1] + ROUNDING * max(1, abs(score)):
                found.append((cost, -score))
        return found


def random_problem(seed, **kinds):
    """(space, score, costs, Brute): limits from the tightest to none at all, at a candidate's own cost or anywhere."""
    space, score, costs, brute = _problem(seed, **kinds)
    return space, score, list(costs), brute


@functools.cache  # most of the tests are of the same problems, and to go through all candidates is most of their time
def _problem(seed, *, num_costs=None, **kinds):
    rng = np.random.default_rng(seed)
    space = random_space(rng, **kinds)
    score = SCORE_KINDS[list(SCORE_KINDS)[seed % len(SCORE_KINDS)]](rng, space)
    num_costs = num_costs or int(rng.integers(1, 4))
    tables = [COST_KINDS[rng.choice(list(COST_KINDS))](rng, space) for _ in range(num_costs)]
    brute, most = Brute(space, score, tables), []
    for cost_N in brute.cost_NK[brute.contained_N].T:
        share = rng.choice([rng.uniform(0, 0.2), rng.uniform(0.2, 1.0), 1.0])
        most.append(float(np.quantile(cost_N, share, method=str(rng.choice(["linear", "nearest"])))))
    costs = [Constraint(f"cost {k}", table, limit) for k, (table, limit) in enumerate(zip(tables, most, strict=True))]
    return space, score, tuple(costs), brute


def check(found, space, score, costs, brute, *, bound=True):
    """That an answer of `best` is the best one there is, and what it says of itself is so (its bound, where it has
    one).
    """
    most_K = [cost.most for cost in costs]
    expected = brute.best(most_K)
    if expected is None:
        assert found is None
        return
    tolerance = ROUNDING * max(1, abs(expected))
    assert found.score == pytest.approx(expected, abs=tolerance)
    assert not bound or found.bound >= expected - tolerance
    assert space.contains(found.candidate)
    genes_1G = np.array([found.candidate.genes])
    assert found.score == score.of(space, genes_1G)[0]
    assert found.costs == tuple(cost.sums.of(space, genes_1G)[0] for cost in costs)
    assert all(cost <= most + ROUNDING * max(1, abs(most)) for cost, most in zip(found.costs, most_K, strict=True))


@pytest.fixture
def unaided(monkeypatch):
    """Without the climb, which finds the optimum of a small space by itself: the proof has to."""
    monkeypatch.setattr(optimum, "CLIMBS", 0)


# --- the best candidate


@pytest.mark.parametrize(
    ("max_listed", "seed"), [(most, seed) for most, num in ((2, 24), (40, 12), (100_000, 12)) for seed in range(num)]
)
def test_it_is_the_best_of_all(seed, max_listed, unaided, monkeypatch):
    monkeypatch.setattr(optimum, "MAX_LISTED", max_listed)
    problem = random_problem(seed)
    check(best(*problem[:3]), *problem)


@pytest.mark.parametrize(("climbs", "steps"), [(1, 2), (40, 200)], ids=["a bad start", "a good start"])
@pytest.mark.parametrize("seed", range(16))
def test_whatever_is_known_before(seed, climbs, steps, monkeypatch):
    """A candidate that is known leaves out what is worse: only that."""
    for name, value in (("CLIMBS", climbs), ("CLIMB_STEPS", steps), ("MAX_LISTED", 2)):
        monkeypatch.setattr(optimum, name, value)
    problem = random_problem(seed)
    check(best(*problem[:3]), *problem)


@pytest.mark.parametrize("seed", range(8))
def test_a_chunk_is_as_good_as_the_whole(seed, unaided, monkeypatch):
    monkeypatch.setattr(optimum, "CHUNK", 5)
    problem = random_problem(seed)
    check(best(*problem[:3]), *problem)


def test_these_problems_are_of_every_kind(unaided, monkeypatch):
    """So that the tests above mean something: every limit binds in some of them, boxes are halved, and some have no
    answer.
    """
    monkeypatch.setattr(optimum, "MAX_LISTED", 2)
    binding, halved, gaps, single, nothing = set(), 0, 0, 0, 0
    for seed in range(24):
        space, score, costs, brute = random_problem(seed)
        found, most_K = best(space, score, costs), [cost.most for cost in costs]
        single += any(len(span.values()) == 1 for span in space.genes.values())
        if found is None:
            nothing += 1
            continue
        halved += found.num_boxes > 1
        gaps += found.bound > found.score + 1e-6
        for name in {"max_blocks", "max_effectiveness"} - binding:
            freed = space.limits.model_copy(update={name: 999})
            freer = space.model_copy(update={"limits": freed})
            if Brute(freer, score, [cost.sums for cost in costs]).best(most_K) > found.score + 1e-6:
                binding.add(name)
        for k in range(len(costs)):
            without_K = [math.inf if other == k else most for other, most in enumerate(most_K)]
            finite_K = np.where(np.isinf(without_K), brute.cost_NK.max(0), without_K)
            binding |= {("cost", k)} if brute.best(finite_K) > found.score + 1e-6 else set()
    assert binding == {"max_blocks", "max_effectiveness", ("cost", 0), ("cost", 1), ("cost", 2)}
    assert min(halved, gaps, single) >= 5 and nothing >= 1


def test_a_limit_that_nothing_keeps_has_no_best(unaided):
    space, score, costs, brute = random_problem(1, num_costs=2)
    low_K = brute.cost_NK[brute.contained_N].min(0)
    for k in (0, 1):
        limits = [
            cost._replace(most=low * (0.99 if k == place else 9))
            for place, (cost, low) in enumerate(zip(costs, low_K, strict=True))
        ]
        assert best(space, score, limits) is None
    assert (
        best(space, score, [cost._replace(most=most) for cost, most in zip(costs, brute.cost_NK.max(0), strict=True)])
        is not None
    )


def test_limits_that_only_together_leave_nothing_have_no_best(unaided):
    """Each cost allows half of the candidates, and they are the two halves: no bound tells that at once."""
    space, score, (cost, *_), brute = random_problem(0, num_costs=1)
    middle = float(np.median(brute.cost_NK[:, 0]))
    opposite = combined([cost.sums], [-1.0])
    assert best(space, score, [cost._replace(most=middle - 1e-3), Constraint("at least", opposite, -middle)]) is None
    at_most = best(space, score, [cost._replace(most=middle)])
    assert brute.best([middle]) == pytest.approx(at_most.score, abs=ROUNDING)


@pytest.mark.parametrize("seed", range(10))
def test_without_costs_it_is_the_best_of_the_space(seed, unaided):
    space, score, _, brute = random_problem(seed)
    found = best(space, score, [])
    assert found.score == pytest.approx(brute.score_N[brute.contained_N].max(), abs=ROUNDING * max(1, abs(found.score)))
    assert found.costs == ()


@pytest.mark.parametrize("most", [math.inf, 1e30], ids=["infinite", "vast"])
def test_a_limit_so_loose_that_it_is_none(most, unaided):
    for seed in range(6):
        space, score, costs, _ = random_problem(seed)
        without = best(space, score, costs[1:])
        found = best(space, score, [costs[0]._replace(most=most), *costs[1:]])
        assert (found and found.score) == (
            without and pytest.approx(without.score, abs=ROUNDING * max(1, abs(without.score)))
        )


@pytest.mark.parametrize("seed", range(20))
def test_a_limit_of_effectiveness_that_the_best_one_just_keeps(seed, unaided):
    space, score, costs, brute = random_problem(seed)
    rng = np.random.default_rng(seed)
    loose = [cost._replace(most=float(cost_N.max())) for cost, cost_N in zip(costs, brute.cost_NK.T, strict=True)]
    for genes in rng.choice(brute.genes_NG[brute.contained_N], size=4):
        # To the last digit, in which sums of another order differ: where the space admits a candidate, so does the
        # proof.
        limits = space.limits.model_copy(update={"max_effectiveness": effectiveness(space.candidate(genes))})
        tight = space.model_copy(update={"limits": limits})
        tight_brute = Brute(tight, score, [cost.sums for cost in costs])
        check(best(tight, score, loose), tight, score, loose, tight_brute)
        assert (Problem(tight, score, []).judged(brute.genes_NG)[1] == tight_brute.contained_N).all()


def random_band(rng, effectiveness_N):
    """A Band between two of these, below one, above one, or above all."""
    least, most = np.sort(rng.choice(effectiveness_N, 2)) * (1 + 1e-9)
    ends = [(-math.inf, most), (least, math.inf), (least, most), (effectiveness_N.max() * (1 + 1e-9), math.inf)]
    return Band("random", *map(float, ends[rng.integers(4)]))


def random_banded(seed):
    """Four times (Problem within a random band, brute's score_N, which of brute's candidates are within it and all
    limits)."""
    space, score, costs, brute = random_problem(seed)
    rng = np.random.default_rng(seed)
    effectiveness_N = np.array([effectiveness(space.candidate(genes)) for genes in brute.genes_NG])
    for _ in range(4):
        band = random_band(rng, effectiveness_N[brute.contained_N])
        like = space.candidate(rng.choice(brute.genes_NG[brute.contained_N]))  # any will do; a good one helps
        within_N = brute.within([cost.most for cost in costs]) & (effectiveness_N > band.least)
        yield Problem(space, score, costs).within(band, like=like), brute, within_N & (effectiveness_N <= band.most)


@pytest.mark.parametrize("seed", range(40))
def test_the_best_of_a_band_is_the_best_of_its_candidates(seed, unaided):
    """Whatever the score wants: it may lie anywhere in the band, of which the bound knows the upper end alone."""
    for problem, brute, within_N in random_banded(seed):
        assert (problem.judged(brute.genes_NG)[1] == within_N).all()
        found = problem.solve()
        assert (found is None) == (not within_N.any())
        if found is not None:
            best_score = brute.score_N[within_N].max()
            assert found.score == pytest.approx(best_score, abs=ROUNDING * max(1, abs(best_score)))
            (place,) = np.flatnonzero((brute.genes_NG == found.candidate.genes).all(1))
            assert within_N[place]


def test_a_guess_keeps_the_band_and_the_limits():
    problems = [known for seed in range(4) for known in random_banded(seed)]
    guesses = [(problem.guess(), brute, within_N) for problem, brute, within_N in problems]
    guesses = [known for known in guesses if known[0] is not None]
    assert len(guesses) >= 4
    for guess, brute, within_N in guesses:
        (place,) = np.flatnonzero((brute.genes_NG == guess.candidate.genes).all(1))
        assert within_N[place] and guess.score == pytest.approx(brute.score_N[place])


@pytest.mark.slow
def test_the_bound_of_a_band_is_near_its_best():
    """The lines that stand for its upper end are tight where it is; by those of the whole space it is 11 % off."""
    space = load_space("ir_se")
    score, cost = mean_field_sums(space, (32, 32), 2), sums(space, lambda part: part.macs / 1e9)
    problem = Problem(space, score, [Constraint("GMACs", cost, 12.0)])
    whole = problem.guess().candidate
    band = Band("wide", -math.inf, 0.25 * effectiveness(whole))
    _, _, bound, known = problem.within(band, like=whole)._beginning()
    assert known.score <= bound < 1.03 * known.score


def test_a_space_of_one_candidate_has_that_one(unaided):
    one = Range(low=8, high=8)
    limits = {"max_blocks": 8, "max_effectiveness": 9}
    space = Space(name="one", block="ir", image_px=16, stem=one, widths=(one,), depths=(one,), limits=limits)
    score = sums(space, lambda part: part.macs)
    found = best(space, score, [])
    assert (found.candidate, found.score) == (space.cheapest(), score.of(space, [[8, 8, 8]])[0])
    assert best(space, score, [Constraint("MACs", score, found.score)]).candidate == space.cheapest()
    assert best(space, score, [Constraint("MACs", score, found.score - 1)]) is None


# --- the proof may be given up


@pytest.mark.parametrize("climbs", [0, 2], ids=["nothing known", "something known"])
def test_a_proof_that_takes_too_long_is_an_error(climbs, monkeypatch):
    monkeypatch.setattr(optimum, "MAX_LISTED", 2)
    monkeypatch.setattr(optimum, "CLIMBS", climbs)
    problem = random_problem(next(seed for seed in range(24) if boxes_of(seed) > 3))
    with pytest.raises(NoProofError, match="1 boxes looked at, and candidates may still score"):
        best(*problem[:3], max_boxes=1)
    check(best(*problem[:3], max_boxes=10_000), *problem)


def boxes_of(seed):
    found = best(*random_problem(seed)[:3])
    return 0 if found is None else found.num_boxes


# --- what it is made of


@pytest.mark.parametrize("seed", range(12))
def test_the_bound_of_a_box_is_never_below_a_score_in_it(seed):
    space, score, costs, brute = random_problem(seed)
    problem, rng = Problem(space, score, costs), np.random.default_rng(seed)
    index_NG, within_N = indices(space, brute.genes_NG), brute.within([cost.most for cost in costs])
    for _ in range(30):
        ends_2G = np.sort([[rng.integers(size + 1) for size in problem.sizes] for _ in range(2)], axis=0)
        low_G = np.minimum(ends_2G[0], np.array(problem.sizes) - 1)
        high_G = np.maximum(ends_2G[1], low_G + 1)
        box = optimum.Box(tuple(low_G.tolist()), tuple(high_G.tolist()))
        inside_N = ((index_NG >= low_G) & (index_NG < high_G)).all(1)
        price_K = rng.exponential(rng.choice([0.0, 0.1, 10.0]), size=len(problem.costs)) / np.abs(problem.most_K)
        # With prices, the score less prices is highest where the dynamic programming says.
        price_N = sum(price * one.of(space, brute.genes_NG) for price, one in zip(price_K, problem.costs, strict=True))
        highest_1G = problem._highest(box, price_K)
        (place,) = np.flatnonzero((brute.genes_NG == highest_1G).all(1))
        worth_N = brute.score_N - price_N
        assert inside_N[place] and worth_N[place] == pytest.approx(worth_N[inside_N].max(), rel=1e-9, abs=1e-9)
        # With the limits' own prices added, that is above whatever is within them.
        bound, _ = problem._bound(box, price_K)
        score_N = brute.score_N[inside_N & within_N]
        if not len(score_N):
            continue
        assert bound >= score_N.max() - 1e-9 * max(1, abs(bound))
        # And what a box lists leaves out nothing within the limits that scores at least so much.
        least = float(rng.choice(score_N)) - 1e-9 * max(1, abs(bound))
        listed = set(map(tuple, problem._listed(box, price_K, least)))
        assert listed >= set(map(tuple, brute.genes_NG[inside_N & within_N & (brute.score_N >= least)]))


@pytest.mark.parametrize("seed", range(6))
def test_the_prices_make_the_bound_as_low_as_prices_can(seed):
    """Against a search that knows nothing of slopes: many prices, drawn wide and then near the best ones."""
    space, score, costs, _ = random_problem(seed, num_costs=1)
    problem, rng = Problem(space, score, costs), np.random.default_rng(seed)
    whole = optimum.Box((0,) * len(problem.sizes), problem.sizes)
    start_K = np.zeros(len(problem.costs))
    _, lowest = problem._prices(whole, start_K, -math.inf)
    centre_K, found = start_K, problem._bound(whole, start_K)[0]
    scale = max(1.0, abs(found)) / np.abs(problem.most_K)
    for step in range(400):
        reach = 2.0 ** -(step // 25)
        price_K = np.maximum(
            0, centre_K + reach * scale * rng.standard_normal(len(scale)) * (rng.random(len(scale)) < 0.5)
        )
        bound, _ = problem._bound(whole, price_K)
        if bound < found:
            centre_K, found = price_K, bound
    assert lowest <= found + 1e-3 * max(1.0, abs(found))  # nearly: a box is halved for less


def test_completions_are_the_most_that_is_still_to_come():
    space, score, _, brute = random_problem(2, num_stages=3)
    assert len(space.widths) == 3
    ahead, _ = completions(score, [np.array(span.values()) for span in space.depths], space.layout)
    index_NG = indices(space, brute.genes_NG)
    for boundary in range(4):
        # What stands before the boundary, as Sums of the rest being nothing
        behind = [stage >= boundary for stage in range(3)]
        rest = score._replace(
            stem_W=0 * score.stem_W,
            first=tuple(one * on for one, on in zip(score.first, behind, strict=True)),
            repeated=tuple(one * on for one, on in zip(score.repeated, behind, strict=True)),
            depth=tuple(one * on for one, on in zip(score.depth, behind, strict=True)),
        )
        rest_N = rest.of(space, brute.genes_NG)
        for width, most in enumerate(ahead[boundary]):
            assert most == pytest.approx(rest_N[index_NG[:, boundary] == width].max(), abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_everything_above_a_score_is_listed(seed, monkeypatch):
    """All that nothing beats in both score and first cost; what is beaten may be there or not."""
    monkeypatch.setattr(optimum, "MAX_LISTED", 10)
    space, score, (first, second), brute = random_problem(seed, num_costs=2)
    costs = [first, second._replace(most=float(np.quantile(brute.cost_NK[brute.within([first.most, 1e9]), 1], 0.7)))]
    most_K = [cost.most for cost in costs]
    least = float(np.quantile(brute.score_N[brute.within(most_K)], 0.5))
    listed = Problem(space, score, costs).above(least)
    for one in listed:
        assert space.contains(one.candidate) and one.score >= least - ROUNDING * max(1, abs(least))
        assert all(cost <= most + ROUNDING * max(1, abs(most)) for cost, most in zip(one.costs, most_K, strict=True))
    points = {(round(one.costs[0], 6), round(one.score, 6)) for one in listed}
    assert points >= {(round(c, 6), round(s, 6)) for c, s in brute.front(most_K) if s >= least}


def test_a_list_that_takes_too_long_is_an_error(monkeypatch):
    monkeypatch.setattr(optimum, "MAX_LISTED", 1)
    space, score, _, brute = random_problem(0)
    assert brute.contained_N.sum() > 10
    with pytest.raises(NoProofError, match="1 boxes looked at, and some candidates still not listed"):
        Problem(space, score, []).above(-1e9, max_boxes=1)


# --- the whole front


# The share of the cost that one listing covers at first, and what it should take: one listing of all, one candidate at
# a time and what lies between.
STEPS = {"as it is": (0.002, 2.0), "half of it": (0.5, 2.0), "ever less": (0.2, 0.0), "more than there is": (1.5, 2.0)}


# Every kind of score with either number of costs, and each with two of the steps: of neighbours, one and the next.
@pytest.mark.parametrize(
    ("seed", "steps"),
    [(seed, list(STEPS)[(seed + at) % len(STEPS)]) for seed in range(10) for at in (0, seed // 4 + 1)],
)
def test_the_front_is_that_of_all_candidates(seed, steps, unaided, monkeypatch):
    for name, value in zip(("MAX_LISTED", "FIRST_STEP", "STEP_S"), (50, *STEPS[steps]), strict=True):
        monkeypatch.setattr(optimum, name, value)
    space, score, costs, brute = random_problem(seed, num_costs=1 + seed % 2)
    costs[0] = costs[0]._replace(most=float(brute.cost_NK[:, 0].max()))
    reports = []
    found = front(space, score, costs, progress=lambda *given: reports.append(given))
    expected = brute.front([cost.most for cost in costs])
    assert [one.costs[0] for one in found] == pytest.approx([cost for cost, _ in expected], rel=1e-8, abs=1e-8)
    assert [one.score for one in found] == pytest.approx([best_score for _, best_score in expected], rel=1e-8, abs=1e-8)
    for one in found:
        check(one, space, score, [costs[0]._replace(most=one.costs[0]), *costs[1:]], brute, bound=False)
    assert reports == sorted(reports, reverse=True) and {most for _, most in reports} <= {costs[0].most}


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_unit_of_a_cost_is_its_own(scale, unaided, monkeypatch):
    """Seconds or microseconds: the front is the same one."""
    monkeypatch.setattr(optimum, "MAX_LISTED", 50)
    space, score, (cost, *_), _ = random_problem(0, num_costs=1)
    scaled = Constraint("scaled", combined([cost.sums], [scale]), scale * cost.most)
    one, other = front(space, score, [cost]), front(space, score, [scaled])
    assert len(one) > 3
    assert [top.candidate for top in one] == [top.candidate for top in other]


def test_a_front_of_nothing_is_empty(unaided):
    space, score, costs, brute = random_problem(3, num_costs=1)
    assert front(space, score, [costs[0]._replace(most=float(brute.cost_NK.min()) - 1.0)]) == []
