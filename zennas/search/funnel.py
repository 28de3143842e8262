"""What to score next where the closed form is known: millions are screened by it, the best of each trunk are scored.

The members of a trunk share its stem and stages, up to the width of the last but one; that one may have any depth, and
any last stage follows. Scored together, they cost little more than the trunk alone. Trunks come from the
proven optimum of each band, from mutations of what scored best so far, in as many niches as the run wants winners, and
now and then from anywhere in the space.
"""

# N candidates, G genes; genes are in the order of Space.genes: stem, widths, depths

import collections
from collections.abc import Callable, Iterable, Iterator, KeysView, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from zennas.score.meanfield import mean_field_sums
from zennas.score.plain import plain_layers
from zennas.score.scores import CLOSED
from zennas.search.bands import Bands, ends_of, shares_of
from zennas.search.cost_limits import CostLimit, constraints
from zennas.search.islands import owner
from zennas.search.optimum import Constraint, NoProofError, Optimum, Problem
from zennas.search.scored import Rows
from zennas.space.candidate import Candidate
from zennas.space.cost import part_cost
from zennas.space.genes import genes_of_vector
from zennas.space.learned import LearnedScore
from zennas.space.parts import Part, Sums, combined, stacked, sums
from zennas.space.space import Space, distances, effectiveness
from zennas.track import SearchPlan

MEMBERS = 32  # of a trunk that are scored, the best by the closed form
# Each also with one and with two blocks less in its last stage: their maps are computed on its way, so that they cost
# nothing, and they are what comes next where the table turns out to have been too fast.
SHORTER = 2
PER_TRUNK = MEMBERS * (1 + SHORTER)
MUTANTS = 600  # screened for one trunk
FRESH_EVERY = 8  # one trunk in so many is from anywhere, within a share of the budget from LEAST_SHARE to 1
LEAST_SHARE = 0.15
MAX_TRUNKS = 40  # drawn for one that fits, before it is left out
BEST_TRUNKS = 12  # of the mutants: one of them is taken
LOOK = 4096  # members at a time, best first, until enough of them are far from what is to be avoided
MOST_TRIES = 3  # for a trunk, whose members may all have been seen
TOURNAMENT = 2
MAX_BAND_BOXES = 200  # of the proof of one band, half a minute; seen: 1 to 90 for ir_se


def knows(space: Space, plan: SearchPlan) -> bool:
    """Whether there is a closed form of what this search maximises."""
    if plan.score.learned is not None:
        return True
    return plan.score.name in CLOSED and plain_layers(space.cheapest(), space.channels) is not None


def region_of(learned: LearnedScore, space: Space, latency: Sums, most_ms: float) -> list[Constraint]:
    """The limits within which a learned score is believed: among what was trained, in its genes and in its latency.

    latency: of the space, in the milliseconds of `most_ms`, the budget. A line in logs runs to the corner of the space
    where it is maximised. And as all that was trained had one latency, the line does not know that a cheaper network is
    a worse one: it would be named for the genes in which it is small.
    """
    at_least = -learned.least_share * most_ms if np.isfinite(most_ms) else np.inf
    return [
        Constraint("distance", learned.distance_sums(space), learned.radius**2),
        Constraint("latency, at least", combined([latency], [-1.0]), at_least),
    ]


class Proven(NamedTuple):
    """The optimum of a band within the whole budget; None where it holds nothing there, or where it is not proven."""

    optimum: Optimum | None
    why_not: str | None  # it is not proven

    @property
    def is_empty(self) -> bool:
        """Whether the band holds nothing within the budget."""
        return self.optimum is None and self.why_not is None


class Niche(NamedTuple):
    """Where a trunk is looked for: in a band, far from what better niches of it have."""

    band: int
    avoid: list[np.ndarray]
    parents_NG: np.ndarray  # best first; none where nothing of the band has scored


class Funnel:
    """The closed form and the costs of a space, and what they propose within a budget."""

    def __init__(
        self,
        space: Space,
        plan: SearchPlan,
        part_ms: Callable[[Part], float],
        *,
        limits: Iterable[CostLimit] = (),
        share: tuple[int, int] = (0, 1),
        ends: Mapping[str, float | None] | None = None,
    ):
        """part_ms: of the table; limits: the run's; share: (island, number of islands); ends: of the bands, where an
        earlier start of the run has set them.
        """
        self.space, self.plan, (self.island, self.num_islands) = space, plan, share
        learned = plan.score.learned
        if learned is None:
            aggregate, images = CLOSED[plan.score.name], plan.score.shape(space.shape)
            self.score = mean_field_sums(space, images.hw, plan.score.batch, aggregate=aggregate)
        else:
            self.score = learned.sums(space)
        self.costs = [Constraint("latency (ms)", sums(space, part_ms), np.inf)]
        self.sizes = stacked([sums(space, lambda part: part_cost(*part).params), sums(space, lambda part: part.macs)])
        self.costs += constraints(limits, space)
        spans = list(space.genes.values())
        self.lows, self.highs, self.steps = np.array([(span.low, span.high, span.step) for span in spans]).T
        self.problem, self.bands = self._problem(), Bands(space, ends)
        self.optimum, self.why_not, self.seeds = None, None, []
        self.proven, self.problems = [], []  # by band
        self.free = list(space.layout.tail)

    def costs_of(self, candidates: Sequence[Candidate]) -> list[tuple[float, int, int]]:
        """[(the table's ms, parameters, multiply-accumulates)] of candidates of the space, all at once."""
        genes_NG = np.array([candidate.genes for candidate in candidates])
        ms_N, size_N2 = self.costs[0].sums.of(self.space, genes_NG), self.sizes.of(self.space, genes_NG)
        return [
            (ms, round(params), round(macs)) for ms, (params, macs) in zip(ms_N.tolist(), size_N2.tolist(), strict=True)
        ]

    def _problem(self, most_ms=np.inf):
        """The Problem of the costs as they are; a learned score is believed near the budget alone."""
        learned = self.plan.score.learned
        region = [] if learned is None else region_of(learned, self.space, self.costs[0].sums, most_ms)
        return Problem(self.space, self.score, [*self.costs, *region])

    def set_budget(
        self,
        most_ms: float,
        *,
        margin_pct: float,
        limits: Iterable[CostLimit] | None = None,
        of_bands: Mapping[str, float] | None = None,
    ) -> None:
        """Prove and propose from now on under a budget in the table's own, uncorrected milliseconds.

        The optimum is that of the whole budget; what is proposed keeps the margin. limits: the run's CostLimits, where
        they were corrected. of_bands: {band: its budget}, of those that the table misjudges otherwise than the rest.
        """
        if limits is not None:
            self.costs = [self.costs[0], *constraints(limits, self.space)]
        self.problem = self._problem(most_ms)
        most_of = [(of_bands or {}).get(band.name, most_ms) for band in self.bands.bands]
        share = 1 - margin_pct / 100
        self.problem = self.problem.limited(max(most_of) * share)
        whole = self.problem.limited(most_of[0])
        self.optimum, self.why_not, self.seeds = None, None, []
        try:
            self.optimum = whole.solve()
            if (first := self.problem.limited(most_of[0] * share).solve()) is not None:
                self.seeds = [first.candidate.genes]
        except NoProofError as error:
            self.why_not = str(error)
        if self.bands.ends is None and self.optimum is not None and (shares := shares_of(self.plan)):
            # Once for the run: with ends that a correction moves, what was measured would change its band.
            self.bands = Bands(self.space, ends_of(shares, effectiveness(self.optimum.candidate)))
            most_of = [most_ms] * len(shares)
        self._prove_bands(whole, most_of, share)

    def _prove_bands(self, whole, most_of, share):
        """The optimum of each band within its whole budget, and the problem of what is proposed there."""
        bands = self.bands.bands
        like = self.optimum or (whole.guess() if len(bands) > 1 else None)
        if len(bands) == 1 or like is None:
            self.proven, self.problems = [Proven(self.optimum, self.why_not)] * len(bands), [self.problem] * len(bands)
            return
        within = [whole.within(band, like=like.candidate) for band in bands]
        self.proven = [self._proven(place, each.limited(most_of[place])) for place, each in enumerate(within)]
        self.problems = [each.limited(most * share) for each, most in zip(within, most_of, strict=True)]
        # What is not the whole space's is a guess: hardly ever beaten, and the proof of each takes seconds.
        seeded = set(self.bands.of(self.seeds))
        guesses = [problem.guess() for place, problem in enumerate(self.problems) if place not in seeded]
        self.seeds += [guess.candidate.genes for guess in guesses if guess is not None]

    def _proven(self, place, problem):
        if self.optimum is not None and self.bands.of_candidate(self.optimum.candidate) == place:
            return Proven(self.optimum, None)
        try:
            return Proven(problem.solve(MAX_BAND_BOXES), None)
        except NoProofError as error:
            return Proven(None, str(error))

    def propose(
        self, population: "Niches", *, batch: int, most: int, seen: set[str], counters: collections.Counter[str]
    ) -> list[Candidate]:
        """Up to `most` new candidates, trunk by trunk. The random numbers depend on (seed, batch) alone.

        Keys are added to the set `seen`; `counters` (a Counter) learns how many were screened and why they were left
        out.
        """
        rng = np.random.default_rng((self.plan.seed, batch, *[self.island] * (self.num_islands > 1)))
        niches = population.niches(self.plan.num_winners, self.plan.min_distance)
        niches = [niche for niche in niches if not self.proven[niche.band].is_empty] or niches
        proposals = []
        # The optimum first, that of a corrected table too.
        new_seeds = [genes for genes in self.seeds if self._is_new(genes, seen)]
        by_hand = [candidate.genes for candidate in self.space.baselines.values() if self.space.is_like(candidate)]
        first = [*new_seeds, *(by_hand if batch == 0 else ())]
        first_NG = np.array(first, int).reshape(-1, len(self.lows))
        self._take(first_NG[self._judged(self.problem, first_NG, [], counters)[1]], most, proposals, seen, counters)
        seed_of = dict(zip(self.bands.of(new_seeds).tolist(), new_seeds, strict=True))
        num_trunks, used_up = -(-most // PER_TRUNK), set()
        # Batches of fewer trunks than bands must not all begin with the same one.
        first_turn = batch * num_trunks if len(self.bands.bands) > 1 else 0
        for turn in range(MOST_TRIES * num_trunks):
            number = batch * num_trunks + turn
            if len(proposals) >= most:
                break
            band, avoid, parents_NG = niches[(first_turn + turn) % len(niches)]
            if (seed := seed_of.pop(band, None)) is not None:
                trunk_G, share, avoid = np.array(seed), 1.0, []
            elif not len(parents_NG) or number % FRESH_EVERY == 0 or band in used_up:
                trunk_G, share, avoid = self._fresh_trunk(band, rng), rng.uniform(LEAST_SHARE, 1.0), []
            else:
                known = population.trunks(band)
                trunk_G, share = self._mutated_trunk(band, parents_NG, avoid, known, rng, counters), 1.0
            if trunk_G is not None:
                # No more than are proposed: what counts as seen and was never scored would be lost.
                before = len(proposals)
                self._take(
                    self._members(band, trunk_G, share, avoid, counters),
                    min(most, before + PER_TRUNK),
                    proposals,
                    seen,
                    counters,
                )
                # After so many that the best are all scored, looking for more of them would take ever longer.
                (used_up.add if len(proposals) - before < PER_TRUNK // 4 else used_up.discard)(band)
        return proposals

    def _is_new(self, genes, seen):
        candidate = self.space.candidate(genes)
        return candidate.key not in seen and self._is_own(candidate)

    def _is_own(self, candidate):
        return owner(candidate, self.num_islands) == self.island

    def _take(self, genes_NG, most, proposals, seen, counters):
        """Append the first of these that were not seen, until there are `most` proposals."""
        for genes_G in genes_NG:
            if len(proposals) >= most:
                return
            candidate = self.space.candidate(genes_G)
            if not self._is_own(candidate):
                continue
            if candidate.key in seen:
                counters["rejected: seen before"] += 1
            else:
                seen.add(candidate.key)
                proposals.append(candidate)

    def _members(self, band, trunk_G, share, avoid, counters):
        """genes_NG of a trunk's members in a band, within a share of the budget, best closed form first, each before
        its shorter ones, whatever band these are in.
        """
        width, depth, last_depth = self.free
        values = {gene: np.arange(self.lows[gene], self.highs[gene] + 1, self.steps[gene]) for gene in self.free}
        members = [width, last_depth]
        pairs = np.meshgrid(values[width], values[last_depth], indexing="ij")
        other_MG = np.stack([axis.ravel() for axis in pairs], 1)
        # The depth of the last stage but one meets neither: a grid of a hundred thousand costs what its two sides do.
        problem = self.problems[band]
        problem = problem if share == 1.0 else problem.limited(share * problem.most_K[0])
        score_N, kept_N = problem.judged_grid(trunk_G, depth, values[depth], members, other_MG)
        counters["screened"] += len(score_N)
        counters["rejected: over a limit, or too near to a better one"] += int((~kept_N).sum())
        best_NG = self._far_ones(
            trunk_G, best_first(np.where(kept_N, score_N, -np.inf)), values[depth], other_MG, avoid
        )
        all_NG = np.repeat(best_NG, 1 + SHORTER, 0)
        all_NG[:, last_depth] -= np.tile(np.arange(1 + SHORTER) * self.steps[last_depth], len(best_NG))
        all_NG = all_NG[all_NG[:, last_depth] >= self.lows[last_depth]]
        return all_NG[self.problem.judged(all_NG)[1] & far_from(avoid, all_NG, self.plan.min_distance)]

    def _far_ones(self, trunk_G, places, depths, other_MG, avoid):
        """genes_NG of the first places of a grid that are far enough from the candidates to avoid."""
        width, depth, last_depth = self.free
        chosen = [np.zeros((0, len(trunk_G)), int)]
        for some_N in places:
            genes_NG = np.repeat(np.asarray(trunk_G)[None], len(some_N), 0)
            genes_NG[:, depth] = depths[some_N // len(other_MG)]
            genes_NG[:, [width, last_depth]] = other_MG[some_N % len(other_MG)]
            chosen.append(genes_NG[far_from(avoid, genes_NG, self.plan.min_distance)])
            if sum(map(len, chosen)) >= 4 * MEMBERS:
                break
        return np.concatenate(chosen)[: 4 * MEMBERS]

    def _fresh_trunk(self, band, rng):
        """A trunk from anywhere whose smallest member is within the costs, and no deeper than a band; None where none
        is met.
        """
        size = (MAX_TRUNKS * self.num_islands, len(self.lows))
        genes_NG = self.lows + self.steps * rng.integers((self.highs - self.lows) // self.steps + 1, size=size)
        genes_NG[:, self.free] = self.lows[self.free]
        fit_N = self.problem.judged(genes_NG)[1] & (self.bands.of(genes_NG) >= band)
        fit = (genes_NG[place] for place in np.flatnonzero(fit_N))
        return next((genes_G for genes_G in fit if self._is_own(self.space.candidate(genes_G))), None)

    def _mutated_trunk(self, band, parents_NG, avoid, known, rng, counters):
        """The trunk of the mutant with the highest closed form; None where none is within the costs and the band."""
        place_N = rng.integers(len(parents_NG), size=(TOURNAMENT, MUTANTS)).min(0)
        genes_NG = self.space.mutants(parents_NG[place_N], rng)
        score_N, kept_N = self._judged(self.problems[band], genes_NG, avoid, counters)
        if not kept_N.any():
            return None
        ranked_NG = genes_NG[kept_N][np.argsort(-score_N[kept_N], kind="stable")]
        trunks, first_N = np.unique(np.delete(ranked_NG, self.free, axis=1), axis=0, return_index=True)
        if self.num_islands > 1:
            own_N = np.array([self._is_own(self.space.candidate(ranked_NG[first])) for first in first_N])
            trunks, first_N = trunks[own_N], first_N[own_N]
            if not len(first_N):
                return None
        # The best of a trunk that scored before are scored; a draw among new ones, so that two turns of one batch
        # differ.
        new = [first for trunk, first in zip(trunks.tolist(), first_N, strict=True) if tuple(trunk) not in known]
        return ranked_NG[rng.choice(np.sort(new or first_N)[:BEST_TRUNKS])]

    def _judged(self, problem, genes_NG, avoid, counters):
        """(closed form, whether within costs and limits and far enough from the candidates to avoid) of each."""
        score_N, kept_N = problem.judged(genes_NG)
        kept_N &= far_from(avoid, genes_NG, self.plan.min_distance)
        counters["screened"] += len(genes_NG)
        counters["rejected: over a limit, or too near to a better one"] += int((~kept_N).sum())
        return score_N, kept_N


class Niches:
    """What a search remembers of what scored: the best of each trunk in each band, and niches of a band that lie apart
    by a distance.

    Depends on what was added, not on the order.
    """

    def __init__(self, size: int, bands: Bands):
        self.size, self.bands = size, bands
        self._of_trunk = [{} for _ in bands.bands]  # of each band, trunk -> (-score, key, candidate), its best

    def __len__(self):
        return sum(map(len, self._of_trunk))

    def trunks(self, band: int) -> KeysView[tuple]:
        """The trunks of all of a band that scored: (stem, widths but the last, depths but the last two)."""
        return self._of_trunk[band].keys()

    def add(self, score: float, candidate: Candidate) -> None:
        """Let a scored candidate in."""
        best_of, trunk = self._of_trunk[self.bands.of_candidate(candidate)], candidate.trunk
        entry = (-score, candidate.key, candidate)
        if trunk not in best_of or entry[:2] < best_of[trunk][:2]:
            best_of[trunk] = entry

    def fill(self, rows: Rows, kept_N: np.ndarray) -> None:
        """Let the kept ones of some Rows in, all at once."""
        ranked_N = rows.ranked(kept_N)
        if not len(ranked_N):
            return
        genes_NG = rows.genes_NG[ranked_N]
        trunk_NG = np.delete(genes_NG, genes_of_vector(genes_NG.shape[1]).tail, axis=1)
        _, first_N = np.unique(np.column_stack([self.bands.of(genes_NG), trunk_NG]), axis=0, return_index=True)
        for at in ranked_N[first_N]:
            row = rows[int(at)]
            self.add(row.score, row.candidate)

    def _sorted(self, band):
        return sorted(self._of_trunk[band].values(), key=lambda entry: entry[:2])

    @property
    def ranked(self) -> list[tuple[float, str, Candidate]]:
        """(-score, key, candidate) of the best of each trunk, best first, at most `size`, of each band its share."""
        bands = range(len(self._of_trunk))
        entries = [entry for band in bands for entry in self._sorted(band)[: -(-self.size // len(bands))]]
        return sorted(entries, key=lambda entry: entry[:2])

    @property
    def best(self) -> tuple[float, Candidate] | None:
        """(score, candidate) or None."""
        return max(filter(None, self.bests), key=lambda best: best[0], default=None)

    @property
    def bests(self) -> list[tuple[float, Candidate] | None]:
        """The best of each band, as `best`."""
        firsts = [min(best_of.values(), key=lambda entry: entry[:2], default=None) for best_of in self._of_trunk]
        return [first and (-first[0], first[2]) for first in firsts]

    def parent(self, rng: np.random.Generator) -> Candidate:
        """One of the best, the better of two."""
        ranked = self.ranked
        return ranked[int(rng.integers(len(ranked), size=TOURNAMENT).min())][2]

    def niches(self, num: int, min_distance: float) -> list[Niche]:
        """A Niche for each of `num` winners: the first of a band is everyone's there, each further one takes only what
        is far enough from the bests before it, and is left out where nothing is."""
        drawn = []
        for band in self.bands.slots(num):
            genes_NG = np.array([entry[2].genes for entry in self._sorted(band)])
            avoid = [niche.parents_NG[0] for niche in drawn if niche.band == band and len(niche.parents_NG)]
            far_N = far_from(avoid, genes_NG, min_distance)
            if far_N.any() or band not in [niche.band for niche in drawn]:
                drawn.append(Niche(band, avoid, genes_NG[far_N][: self.size]))
        return drawn


def best_first(score_N: np.ndarray) -> Iterator[np.ndarray]:
    """Yields places of all that have a score above -inf, highest first, some at a time: few ever look beyond the
    first."""
    if len(score_N) > LOOK:
        first_N = np.argpartition(-score_N, LOOK)[:LOOK]
        first_N = np.sort(first_N)
        first_N = first_N[np.argsort(-score_N[first_N], kind="stable")]
        yield first_N[score_N[first_N] > -np.inf]
        score_N = score_N.copy()
        score_N[first_N] = -np.inf
    place_N = np.flatnonzero(score_N > -np.inf)
    yield place_N[np.argsort(-score_N[place_N], kind="stable")]


def far_from(kept: Iterable, genes_NG: np.ndarray, min_distance: float) -> np.ndarray:
    """Which candidates have at least this distance from every one of some others' genes."""
    far_N = np.ones(len(genes_NG), bool)
    for other_G in kept:
        far_N &= distances(genes_NG, other_G) >= min_distance
    return far_N
