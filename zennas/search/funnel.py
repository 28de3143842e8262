"""What to score next where the closed form is known: millions are screened by it, the best of each trunk are scored.

The members of a trunk share its stem and stages, up to the width of the last but one; that one may have any depth, and
any last stage follows. Scored together, they cost little more than the trunk alone. Trunks come from the
proven optimum, from mutations of what scored best so far, in as many niches as the run wants winners, and now and then
from anywhere in the space.
"""

# N candidates, G genes; genes are in the order of Space.genes: stem, widths, depths

import collections
from collections.abc import Callable, Iterable, Iterator, KeysView, Sequence

import numpy as np

from zennas.score.meanfield import mean_field_sums
from zennas.score.plain import plain_layers
from zennas.search.cost_limits import CostLimit
from zennas.search.islands import owner
from zennas.search.optimum import Constraint, NoProofError, Problem
from zennas.search.scored import Rows
from zennas.space.candidate import Candidate
from zennas.space.cost import part_cost
from zennas.space.genes import genes_of_vector
from zennas.space.parts import Part, stacked, sums
from zennas.space.space import Space, distances
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


def knows(space: Space, plan: SearchPlan) -> bool:
    """Whether there is a closed form of what this search maximises."""
    if plan.score.learned is not None:
        return True
    return plan.score.name == "zen" and plain_layers(space.cheapest(), space.channels) is not None


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
    ):
        """part_ms: of the table; limits: the run's; share: (island, number of islands)."""
        self.space, self.plan, (self.island, self.num_islands) = space, plan, share
        learned = plan.score.learned
        if learned is None:
            self.score = mean_field_sums(space, plan.score.shape(space.shape).hw, plan.score.batch)
        else:
            self.score = learned.sums(space)
        self.costs = [Constraint("latency (ms)", sums(space, part_ms), np.inf)]
        self.sizes = stacked([sums(space, lambda part: part_cost(*part).params), sums(space, lambda part: part.macs)])
        self.costs += self._costs_of_limits(limits)
        spans = list(space.genes.values())
        self.lows, self.highs, self.steps = np.array([(span.low, span.high, span.step) for span in spans]).T
        self.problem = Problem(space, self.score, self.costs)
        self.optimum, self.why_not, self.seeds = None, None, []
        self.free = list(space.layout.tail)

    def costs_of(self, candidates: Sequence[Candidate]) -> list[tuple[float, int, int]]:
        """[(the table's ms, parameters, multiply-accumulates)] of candidates of the space, all at once."""
        genes_NG = np.array([candidate.genes for candidate in candidates])
        ms_N, size_N2 = self.costs[0].sums.of(self.space, genes_NG), self.sizes.of(self.space, genes_NG)
        return [
            (ms, round(params), round(macs)) for ms, (params, macs) in zip(ms_N.tolist(), size_N2.tolist(), strict=True)
        ]

    def _costs_of_limits(self, limits):
        costs = [Constraint(limit.name, sums(self.space, limit.of_part), limit.most / limit.factor) for limit in limits]
        # A line in logs runs to the corner of the space where it is maximised: it holds among what was trained alone.
        if (learned := self.plan.score.learned) is not None:
            costs.append(Constraint("distance", learned.distance_sums(self.space), learned.radius**2))
        return costs

    def set_budget(self, most_ms: float, *, margin_pct: float, limits: Iterable[CostLimit] | None = None) -> None:
        """Prove and propose from now on under a budget in the table's own, uncorrected milliseconds.

        The optimum is that of the whole budget; what is proposed keeps the margin. limits: the run's CostLimits, where
        they were corrected.
        """
        if limits is not None:
            self.costs = [self.costs[0], *self._costs_of_limits(limits)]
            self.problem = Problem(self.space, self.score, self.costs)
        self.problem = self.problem.limited(most_ms * (1 - margin_pct / 100))
        self.optimum, self.why_not, self.seeds = None, None, []
        try:
            self.optimum = self.problem.limited(most_ms).solve()
            if (first := self.problem.solve()) is not None:
                self.seeds = [first.candidate.genes]
        except NoProofError as error:
            self.why_not = str(error)

    def propose(
        self, population: "Niches", *, batch: int, most: int, seen: set[str], counters: collections.Counter[str]
    ) -> list[Candidate]:
        """Up to `most` new candidates, trunk by trunk. The random numbers depend on (seed, batch) alone.

        Keys are added to the set `seen`; `counters` (a Counter) learns how many were screened and why they were left
        out.
        """
        rng = np.random.default_rng((self.plan.seed, batch, *[self.island] * (self.num_islands > 1)))
        niches = population.niches(self.plan.num_winners, self.plan.min_distance)
        proposals = []
        # The optimum first, that of a corrected table too.
        new_seeds = [genes for genes in self.seeds if self._is_new(genes, seen)]
        first = [*new_seeds, *((candidate.genes for candidate in self.space.baselines.values()) if batch == 0 else ())]
        first_NG = np.array(first, int).reshape(-1, len(self.lows))
        self._take(first_NG[self._judged(first_NG, [], counters)[1]], most, proposals, seen, counters)
        num_trunks, used_up = -(-most // PER_TRUNK), False
        for turn in range(MOST_TRIES * num_trunks):
            number = batch * num_trunks + turn
            if len(proposals) >= most:
                break
            avoid, parents_NG = niches[turn % len(niches)] if niches else ([], None)
            if turn == 0 and new_seeds:
                trunk_G, share, avoid = np.array(new_seeds[0]), 1.0, []
            elif parents_NG is None or number % FRESH_EVERY == 0 or used_up:
                trunk_G, share, avoid = self._fresh_trunk(rng), rng.uniform(LEAST_SHARE, 1.0), []
            else:
                trunk_G, share = self._mutated_trunk(parents_NG, avoid, population.trunks, rng, counters), 1.0
            if trunk_G is not None:
                # No more than are proposed: what counts as seen and was never scored would be lost.
                before = len(proposals)
                self._take(
                    self._members(trunk_G, share, avoid, counters),
                    min(most, before + PER_TRUNK),
                    proposals,
                    seen,
                    counters,
                )
                # After so many that the best are all scored, looking for more of them would take ever longer.
                used_up = len(proposals) - before < PER_TRUNK // 4
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

    def _members(self, trunk_G, share, avoid, counters):
        """genes_NG of a trunk's members within a share of the budget, best closed form first, each before its shorter
        ones.
        """
        width, depth, last_depth = self.free
        values = {gene: np.arange(self.lows[gene], self.highs[gene] + 1, self.steps[gene]) for gene in self.free}
        members = [width, last_depth]
        pairs = np.meshgrid(values[width], values[last_depth], indexing="ij")
        other_MG = np.stack([axis.ravel() for axis in pairs], 1)
        # The depth of the last stage but one meets neither: a grid of a hundred thousand costs what its two sides do.
        problem = self.problem if share == 1.0 else self.problem.limited(share * self.problem.most_K[0])
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

    def _fresh_trunk(self, rng):
        """A trunk from anywhere whose smallest member is within the costs; None where none is met."""
        size = (MAX_TRUNKS * self.num_islands, len(self.lows))
        genes_NG = self.lows + self.steps * rng.integers((self.highs - self.lows) // self.steps + 1, size=size)
        genes_NG[:, self.free] = self.lows[self.free]
        fit = (genes_NG[place] for place in np.flatnonzero(self.problem.judged(genes_NG)[1]))
        return next((genes_G for genes_G in fit if self._is_own(self.space.candidate(genes_G))), None)

    def _mutated_trunk(self, parents_NG, avoid, known, rng, counters):
        """The trunk of the mutant with the highest closed form; None where none is within the costs."""
        place_N = rng.integers(len(parents_NG), size=(TOURNAMENT, MUTANTS)).min(0)
        genes_NG = self.space.mutants(parents_NG[place_N], rng)
        score_N, kept_N = self._judged(genes_NG, avoid, counters)
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

    def _judged(self, genes_NG, avoid, counters):
        """(closed form, whether within costs and limits and far enough from the candidates to avoid) of each."""
        score_N, kept_N = self.problem.judged(genes_NG)
        kept_N &= far_from(avoid, genes_NG, self.plan.min_distance)
        counters["screened"] += len(genes_NG)
        counters["rejected: over a limit, or too near to a better one"] += int((~kept_N).sum())
        return score_N, kept_N


class Niches:
    """What a search remembers of what scored: the best of each trunk, and niches that lie apart by a distance.

    Depends on what was added, not on the order.
    """

    def __init__(self, size: int):
        self.size = size
        self._of_trunk = {}  # trunk -> (-score, key, candidate), its best

    def __len__(self):
        return len(self._of_trunk)

    @property
    def trunks(self) -> KeysView[tuple]:
        """The trunks of all that scored: (stem, widths but the last, depths but the last two)."""
        return self._of_trunk.keys()

    def add(self, score: float, candidate: Candidate) -> None:
        """Let a scored candidate in."""
        trunk = candidate.trunk
        entry = (-score, candidate.key, candidate)
        if trunk not in self._of_trunk or entry[:2] < self._of_trunk[trunk][:2]:
            self._of_trunk[trunk] = entry

    def fill(self, rows: Rows, kept_N: np.ndarray) -> None:
        """Let the kept ones of some Rows in, all at once."""
        ranked_N = rows.ranked(kept_N)
        if not len(ranked_N):
            return
        free = genes_of_vector(rows.genes_NG.shape[1]).tail
        _, first_N = np.unique(np.delete(rows.genes_NG[ranked_N], free, axis=1), axis=0, return_index=True)
        for at in ranked_N[first_N]:
            row = rows[int(at)]
            self.add(row.score, row.candidate)

    @property
    def ranked(self) -> list[tuple[float, str, Candidate]]:
        """(-score, key, candidate) of the best of each trunk, best first, at most `size`."""
        return sorted(self._of_trunk.values(), key=lambda entry: entry[:2])[: self.size]

    @property
    def best(self) -> tuple[float, Candidate] | None:
        """(score, candidate) or None."""
        first = min(self._of_trunk.values(), key=lambda entry: entry[:2], default=None)
        return first and (-first[0], first[2])

    def parent(self, rng: np.random.Generator) -> Candidate:
        """One of the best, the better of two."""
        return self.ranked[int(rng.integers(min(len(self), self.size), size=TOURNAMENT).min())][2]

    def niches(self, num: int, min_distance: float) -> list[tuple[list[np.ndarray], np.ndarray]]:
        """[(genes of the better niches' best, parents_NG, best first)]: the first niche is everyone's, each further one
        takes only what is far enough from the bests before it. Empty where nothing has scored."""
        entries = sorted(self._of_trunk.values(), key=lambda entry: entry[:2])
        if not entries:
            return []
        genes_NG = np.array([entry[2].genes for entry in entries])
        avoid, drawn = [], []
        for _ in range(num):
            far_N = far_from(avoid, genes_NG, min_distance)
            if not far_N.any():
                break
            drawn.append((list(avoid), genes_NG[far_N][: self.size]))
            avoid.append(drawn[-1][1][0])
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
