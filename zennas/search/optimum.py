"""The best candidate of a space, proven: where score and costs are sums over parts, nothing within the limits scores
higher.

Branch and bound over boxes of gene values. The bound of a box is Lagrangian: for given prices of the costs, dynamic
programming over the stages finds its candidate with the highest score less prices; with the limits' own prices added,
that value is above the score of every candidate of the box within the limits. Where few candidates of a box are worth
more than the best one known, they are listed, stage by stage, by the same dynamic programming's exact worth of what is
still to come; where they are many, the box is halved. Sources: Held & Karp 1971 (the bound), Handler & Zang 1980
(listing what lies in its gap).
"""

# N candidates or beginnings of such, G genes, S stages, B boundaries of stages (one more than those), K costs;
# W widths, D depths: numbers of a range's values, in order

import copy
import heapq
import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from zennas.search.bands import WHOLE, Band, effectiveness_of, effectiveness_sums
from zennas.search.boxes import Box, choices, completions
from zennas.space.candidate import Candidate
from zennas.space.parts import Sums, combined, stacked, sums, weighted
from zennas.space.space import Space, effectiveness

TOLERANCE = 1e-9  # of a sum in floating point, relative
CHUNK = 2_000_000  # choices looked at together
MAX_LISTED = 100_000  # beginnings of candidates in a box, before it is halved
MAX_BOXES = 20_000  # before the proof is given up; seen: 1 to 15 at budgets of webface-sfr
PRICE_STEPS, MORE_PRICE_STEPS = 200, 40  # of the whole space; of a box, from the prices of the box that it was part of
TANGENTS = (1.0, 0.65)  # of the convolutions expected: where the limit of effectiveness is replaced by a line
CLIMBS, CLIMB_STEPS = 40, 4000
FIRST_STEP, STEP_S = 0.002, 2.0  # of the front: the share of a cost that one listing covers at first; how long it takes


class Constraint(NamedTuple):
    """The most that a cost may be, which is a sum over a candidate's parts."""

    name: str
    sums: Sums
    most: float


class Optimum(NamedTuple):
    """A candidate that nothing within the limits beats."""

    candidate: Candidate
    score: float
    costs: tuple[float, ...]  # in the order given
    bound: float  # what the relaxation alone says: nothing within the limits scores above it
    num_boxes: int  # that it took to close the gap between the two


class NoProofError(Exception):
    """Closing the gap between the bound and the best candidate takes too long."""


def best(space: Space, score: Sums, costs: Sequence[Constraint], *, max_boxes: int = MAX_BOXES) -> Optimum | None:
    """The Optimum of a space under `score` (Sums), within `costs` ([Constraint]) and the limits of the space; None
    where nothing keeps them.

    Exact up to 1e-9 of a sum; of several with the highest score, one. NoProofError where more than `max_boxes` are
    needed.
    """
    return Problem(space, score, costs).solve(max_boxes)


def front(
    space: Space,
    score: Sums,
    costs: Sequence[Constraint],
    *,
    max_boxes: int = MAX_BOXES,
    progress: Callable | None = None,
) -> list[Optimum]:
    """[Optimum], the whole exact front of the score against costs[0], up to its limit: cheapest first, each better than
    all before it.

    The other costs are limits only. progress(cost reached, the limit) after every step, from the limit downwards.
    Between two limits that are near each other, everything that scores more than the lower one's optimum is listed: the
    front lies in there.
    """
    problem, step, candidates = Problem(space, score, costs), FIRST_STEP, []
    top = problem.solve(max_boxes)
    while top is not None:
        start = time.perf_counter()
        reach = max(abs(top.costs[0]), TOLERANCE)
        below = problem.limited(top.costs[0] - step * reach).solve(max_boxes)
        if below is None:  # nothing fits there: what is left is listed one by one
            candidates.append(top)
            below = problem.limited(top.costs[0] - 4 * TOLERANCE * max(1.0, reach)).solve(max_boxes)
        else:
            candidates += problem.limited(top.costs[0]).above(below.score, max_boxes)
            step *= 1.5 if time.perf_counter() - start < STEP_S else 0.5
        if progress:
            progress(below.costs[0] if below else top.costs[0], costs[0].most)
        top = below
    beaten, kept = -math.inf, []
    for optimum in sorted(candidates, key=lambda optimum: (optimum.costs[0], -optimum.score)):
        if optimum.score > beaten + TOLERANCE * max(1.0, abs(optimum.score)):
            kept.append(optimum)
            beaten = optimum.score
    return kept


class Problem:
    """A score to maximise, and costs with their limits, those of the space among them."""

    def __init__(self, space: Space, score: Sums, costs: Sequence[Constraint]):
        self.space, self.score, self.num_given, self.genes = space, score, len(costs), space.layout
        self.convolutions, self.log_fan_in = effectiveness_sums(space)
        self.band = WHOLE
        blocks = Constraint(
            "blocks", sums(space, lambda part: float(part.is_block), along_path=True), space.limits.max_blocks
        )
        most = space.limits.max_blocks * max(float(width_W.max()) for width_W in self.convolutions.repeated)
        # Three limits of the space join the costs given: blocks, and effectiveness as a line at each of the TANGENTS.
        self._set_costs([*costs, blocks], space.limits.max_effectiveness, most)
        self.lows, self.steps = np.array([(span.low, span.step) for span in space.genes.values()]).T
        self.sizes = tuple(len(span.values()) for span in space.genes.values())

    @property
    def allowed(self) -> np.ndarray:
        """The limits, with room for the rounding of a sum."""
        return self.most_K + TOLERANCE * np.maximum(1.0, np.abs(self.most_K))

    def limited(self, most: float) -> "Problem":
        """The same problem with another limit of the first cost."""
        other = copy.copy(self)
        other.most_K = np.array([min(most, 1e30), *self.most_K[1:]])
        return other

    def within(self, band: Band, *, like: Candidate) -> "Problem":
        """The same problem among the candidates of a Band of effectiveness alone.

        like: one that costs about as much; it says where the lines that stand for the band's upper end are tight. The
        lower end is asked of candidates, not of the bound: the best of a band is near the upper one.
        """
        other = copy.copy(self)
        other.band = band
        if band.most < self.space.limits.max_effectiveness:
            # Of networks of one cost L w^2 that are L convolutions deep and w wide, L goes with (L / w)^(2/3).
            (num,) = self.convolutions.of(self.space, [like.genes])
            near = float(num) * (band.most / effectiveness(like)) ** (2 / 3)
            costs = map(Constraint, [""] * len(self.costs), self.costs, self.most_K.tolist())
            other._set_costs(list(costs)[: -len(TANGENTS)], band.most, near)
        return other

    def _set_costs(self, costs, most_effectiveness, near):
        """Take these costs, and lines that stand for a limit of effectiveness, about so many convolutions."""
        costs = [*costs, *(self._tangent(max(1.0, share * near), most_effectiveness) for share in TANGENTS)]
        self.costs = [cost.sums for cost in costs]
        # Side by side, so that one look-up gives all that is asked of a candidate: score, L and S of the effectiveness
        # (see _tangent), then the costs.
        self.columns = stacked([self.score, self.convolutions, self.log_fan_in, *self.costs])
        # Where there is no limit, no price times it must be nothing, not NaN.
        self.most_K = np.minimum([cost.most for cost in costs], 1e30)

    def _tangent(self, at, most_effectiveness):
        """A cost that every candidate within a limit of effectiveness keeps, and some beyond it.

        The limit says L log(L / rho) <= S, with L convolutions and S the sum of their log fan-ins. The left side is
        convex in L, so its tangents lie below it. This one touches it at so many convolutions.
        """
        slope = 1.0 + math.log(at / most_effectiveness)
        return Constraint("effectiveness", combined([self.convolutions, self.log_fan_in], [slope, -1.0]), at)

    def guess(self) -> Optimum | None:
        """The Optimum, or a candidate nearly as good: nothing is proven of it."""
        return self._beginning()[-1]

    def _beginning(self):
        """(the box of all candidates, its prices, its bound, a good Optimum or None)."""
        whole = Box((0,) * len(self.sizes), self.sizes)
        price_K, bound = self._prices(whole, np.zeros(len(self.costs)), -math.inf)
        return whole, price_K, bound, self._climbed(self._highest(whole, price_K))

    def solve(self, max_boxes: int = MAX_BOXES) -> Optimum | None:
        """The Optimum, or None; NoProofError as `best`.

        Best first: the heap gives the box with the highest bound, so that its bound is above all that is left.
        """
        whole, price_K, top, known = self._beginning()
        boxes, num_boxes = [(-top, 0, whole, price_K)], 0
        while boxes:
            negative, _, box, price_K = heapq.heappop(boxes)
            if known is not None and -negative <= known.score + self._rounding(known.score):
                break  # the box with the highest bound: nothing is left that could be better
            num_boxes += 1
            if num_boxes > max_boxes:
                more = -negative - (known.score if known else -math.inf)
                raise NoProofError(f"{max_boxes:,} boxes looked at, and candidates may still score {more:.3g} more")
            genes_NG = self._listed(box, price_K, -math.inf if known is None else known.score)
            if genes_NG is not None:  # few enough: all that may be better is looked at, and the box is done
                both = filter(None, (known, self._best_of(genes_NG)))
                known = max(both, key=lambda optimum: optimum.score, default=None)
                continue
            for half in box.halves(self._widest(box)):
                least = -math.inf if known is None else known.score
                # From the prices of the whole box, which are nearly right for its halves.
                price_K, bound = self._prices(half, price_K, least)
                if bound > least:
                    heapq.heappush(boxes, (-bound, 2 * num_boxes + len(boxes), half, price_K))
        return known and known._replace(bound=top, num_boxes=num_boxes)

    def above(self, least: float, max_boxes: int = MAX_BOXES) -> list[Optimum]:
        """[Optimum] of everything within the limits that scores at least `least` and that nothing else there beats in
        both score and the first cost; bounds are not known."""
        whole = Box((0,) * len(self.sizes), self.sizes)
        boxes, num_boxes, better = [(whole, *self._prices(whole, np.zeros(len(self.costs)), -math.inf))], 0, []
        while boxes:
            box, price_K, bound = boxes.pop()
            if bound < least:
                continue
            num_boxes += 1
            if num_boxes > max_boxes:
                raise NoProofError(f"{max_boxes:,} boxes looked at, and some candidates still not listed")
            genes_NG = self._listed(box, price_K, least)
            if genes_NG is None:
                boxes += [(half, *self._prices(half, price_K, least)) for half in box.halves(self._widest(box))]
                continue
            score_N, kept_N = self.judged(genes_NG)
            place_N = np.flatnonzero(kept_N & (score_N >= least))
            cost_NK = self._costs_of(genes_NG[place_N])[:, : self.num_given]
            # Cheapest first, and of equal cost the highest score first: what does not score more than all before it is
            # beaten in both.
            order = np.lexsort((-score_N[place_N], cost_NK[:, 0]))
            beaten = -math.inf
            for place in order:
                if score_N[place_N[place]] > beaten:
                    beaten = float(score_N[place_N[place]])
                    costs = tuple(map(float, cost_NK[place]))
                    better.append(Optimum(self.space.candidate(genes_NG[place_N[place]]), beaten, costs, math.nan, 0))
        return better

    @staticmethod
    def _rounding(score):
        return TOLERANCE * max(1.0, abs(score))

    def _widest(self, box):
        """The gene over which the costs differ most within a box."""
        low_G, high_G = np.array(box.low), np.array(box.high)
        middle_G, spreads = (low_G + high_G - 1) // 2, []
        for gene, (low, high) in enumerate(zip(box.low, box.high, strict=True)):
            # From the middle of the box to both of its ends along this gene alone, in shares of the limits.
            index_2G = np.stack([middle_G, middle_G])
            index_2G[:, gene] = low, high - 1
            cost_2K = self._costs_of(self.lows + self.steps * index_2G)
            spread = (np.abs(cost_2K[1] - cost_2K[0]) / np.maximum(1e-12, np.abs(self.most_K))).max()
            spreads.append(float(spread) * (high - low > 1))  # a gene of one value cannot be halved
        return int(np.argmax(spreads)) if max(spreads) > 0 else int(np.argmax(high_G - low_G))

    def _climbed(self, centre_MG):
        """A good Optimum to begin with, without any proof: steps from a candidate of high worth; None where none is
        met.
        """
        spans = list(self.space.genes.values())
        highs = np.array([span.high for span in spans])
        rng, known = np.random.default_rng(0), None
        for _ in range(CLIMBS):
            # Per gene no move, a step or two, or some: a budget that binds wants one gene moved back for another's.
            size = (CLIMB_STEPS, len(spans))
            moves_NG = np.round(rng.standard_normal(size) * rng.choice([0.0, 1.0, 4.0], size)).astype(int) * self.steps
            genes_NG = np.clip(centre_MG[rng.integers(len(centre_MG), size=CLIMB_STEPS)] + moves_NG, self.lows, highs)
            if known is not None:  # is judged again with the rest, so that the best never gets worse
                genes_NG[0] = known.candidate.genes
            score_N, kept_N = self.judged(genes_NG)
            if kept_N.any():
                known = self._best_of(genes_NG)
                centre_MG = genes_NG[np.argsort(np.where(kept_N, -score_N, np.inf), kind="stable")[:16]]
            else:  # towards what keeps the costs
                over_NK = (self._costs_of(genes_NG) - self.most_K) / np.maximum(1e-12, np.abs(self.most_K))
                centre_MG = genes_NG[np.argsort(np.maximum(0, over_NK).sum(1), kind="stable")[:16]]
        return known

    def _best_of(self, genes_NG):
        """The Optimum among candidates that need not keep the limits; None where none does."""
        score_N, kept_N = self.judged(genes_NG)
        if not kept_N.any():
            return None
        place = int(np.argmax(np.where(kept_N, score_N, -np.inf)))
        costs = tuple(map(float, self._costs_of(genes_NG[place : place + 1])[0, : self.num_given]))
        return Optimum(self.space.candidate(genes_NG[place]), float(score_N[place]), costs, math.nan, 0)

    def judged(self, genes_NG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(score_N, which of them keep the costs and the limits of the space)."""
        return self._judged(self._values(genes_NG), lambda place: genes_NG[place])

    def judged_grid(
        self, genes_G: Sequence[int], gene: int, values: np.ndarray, free: Sequence[int], other_MG: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """As `judged`, of a candidate's genes with every one of `values` in place of one gene, and other_MG in place of
        those of `free`.

        The gene and the free ones must not meet in a block, so that what they are worth adds up: a stage's depth meets
        nothing of the next. In the order of the values, each with all of the free ones.
        """
        one_VG, more_MG = (np.repeat(np.asarray(genes_G)[None], len(axis), 0) for axis in (values, other_MG))
        one_VG[:, gene], more_MG[:, free] = values, other_MG
        one_VK, more_MK = self._values(one_VG), self._values(more_MG)
        more_MK = more_MK - self._values(np.asarray(genes_G)[None])
        value_NK = (one_VK[:, None] + more_MK).reshape(-1, one_VK.shape[1])
        return self._judged(value_NK, lambda place: self._on_grid(one_VG, more_MG, free, place))

    @staticmethod
    def _on_grid(one_VG, more_MG, free, place):
        genes_G = one_VG[place // len(more_MG)].copy()
        genes_G[free] = more_MG[place % len(more_MG)][free]
        return genes_G

    def _judged(self, value_NK, genes_at):
        score_N, counted_N, log_fan_in_N, cost_NK = *value_NK[:, :3].T, value_NK[:, 3:]
        effectiveness_N = effectiveness_of(counted_N, log_fan_in_N)
        share_N = effectiveness_N / self.space.limits.max_effectiveness
        kept_N = share_N <= 1
        # So near the limit the order of the sums decides: there it is the space's own that does.
        for place in np.flatnonzero(np.abs(share_N - 1) < TOLERANCE):
            kept_N[place] = self.space.contains(self.space.candidate(genes_at(place)))
        return score_N, kept_N & self.band.holds(effectiveness_N) & (cost_NK <= self.allowed).all(1)

    def _values(self, genes_NG):
        """value_NK of all columns."""
        return self.columns.at(self.genes, (genes_NG - self.lows) // self.steps, genes_NG)

    def _costs_of(self, genes_NG):
        return self._values(genes_NG)[:, 3:]

    def _prices(self, box, start_K, enough):
        """(prices, the box's bound at them): none negative, the bound nearly as low as it gets, or below `enough`.

        The bound is convex in the prices, its slope what of the limits is left: the ellipsoid method. Any prices give a
        bound that holds; good ones leave little to look at.
        """
        # In units of a whole limit each, so that prices of milliseconds and of blocks are of one size. The ellipsoid
        # (centre, shape) holds the best prices; a cut through its centre keeps the half towards which the bound falls,
        # and the smallest ellipsoid around that half is the next (Shor 1977; Grötschel, Lovász & Schrijver 1988).
        num = len(self.costs)
        unit_K = np.maximum(np.abs(self.most_K), 1e-12)  # one price for a whole limit
        lowest, slope_K = self._bound(box, start_K)
        price_K, reach = start_K, max(1.0, abs(lowest) if not start_K.any() else 0.1 * abs(lowest))
        centre_K, shape_KK = start_K * unit_K, np.eye(num) * num * reach**2
        slope_K = slope_K / unit_K
        for _ in range(MORE_PRICE_STEPS if start_K.any() else PRICE_STEPS):
            # How much lower the bound may still be anywhere in the ellipsoid.
            length = math.sqrt(max(0.0, slope_K @ shape_KK @ slope_K))
            if lowest <= enough or length < 1e-7 * max(1.0, abs(lowest)):
                break
            step_K = shape_KK @ slope_K / length
            centre_K = centre_K - step_K / (num + 1)
            shape_KK = num**2 / (num**2 - 1) * (shape_KK - 2 / (num + 1) * np.outer(step_K, step_K))
            if (centre_K < 0).any():  # no price: cut off what lies beyond zero, without asking for the bound there
                slope_K = -(centre_K < 0).astype(float)
                continue
            bound, slope_K = self._bound(box, centre_K / unit_K)
            slope_K = slope_K / unit_K
            if bound < lowest:
                price_K, lowest = centre_K / unit_K, bound
        return price_K, lowest

    def _bound(self, box, price_K):
        """(the highest score less prices in a box, plus the limits' own; its slope in the prices)."""
        genes_1G = self._highest(box, price_K)
        value_1K = self._values(genes_1G)
        score_1, cost_1K = value_1K[:, 0], value_1K[:, 3:]
        # Of a maximum over candidates, linear in the prices, the slope is that of the candidate which attains it.
        left_K = self.most_K - cost_1K[0]
        return float(score_1[0] + price_K @ left_K), left_K

    def _worth(self, box, price_K):
        return box.cut(weighted(self.columns, np.array([1.0, 0.0, 0.0, *-price_K])), self.genes)

    def _depths(self, box):
        """The depths of each stage within a box."""
        return [
            self.lows[gene] + self.steps[gene] * np.arange(box.low[gene], box.high[gene]) for gene in self.genes.depths
        ]

    def _highest(self, box, price_K):
        """genes_1G of the box's candidate with the highest score less prices."""
        worth, depths = self._worth(box, price_K), self._depths(box)
        # What is ahead of a width does not depend on what is behind it: stage by stage the best choice is known.
        ahead, _ = completions(worth, depths, self.genes)
        widths, picked = [int(np.argmax(worth.stem_W + ahead[0]))], []
        for stage, begin in enumerate(self.genes.begins):
            choice_WD = choices(worth, depths, stage)
            widths.append(int(np.argmax(worth.first[stage][widths[begin]] + choice_WD.max(1) + ahead[stage + 1])))
            picked.append(int(np.argmax(choice_WD[widths[-1]])))
        return self._genes(box, np.array([widths]), np.array([picked]))

    def _genes(self, box, width_NB, depth_NS):
        """genes_NG of indices within a box."""
        return self.lows + self.steps * (np.array(box.low) + self.genes.joined(width_NB, depth_NS))

    def _listed(self, box, price_K, least):
        """genes_NG of all candidates of a box worth at least `least` that may keep the costs; None where they are too
        many.

        Worth is score less prices, plus the limits' prices.
        """
        worth, depths = self._worth(box, price_K), self._depths(box)
        costs = [box.cut(cost, self.genes) for cost in self.costs]
        # The most worth and the least of each cost that the stages still to come can add to a beginning: what cannot
        # reach `least`, or cannot keep a limit, even so is dropped with all that begins like it.
        ahead, opened = completions(worth, depths, self.genes)
        cheap = [completions(combined([cost], [-1.0]), depths, self.genes) for cost in costs]
        # Beginnings of no stage: the widths of the stem.
        worth_N = worth.stem_W + float(price_K @ self.most_K)
        cost_NK, width_NB = np.stack([cost.stem_W for cost in costs], 1), np.arange(len(worth_N))[:, None]
        depth_NS = np.empty((len(worth_N), 0), int)
        for stage, begin in enumerate(self.genes.begins):
            choice_WD = choices(worth, depths, stage)
            cheapest_WK = np.stack([-values[stage + 1] for values, _ in cheap], 1)
            # Stages of other branches, still to come behind widths that are already chosen.
            beside = [other for other in range(stage + 1, len(depths)) if self.genes.begins[other] <= stage]
            rows, pieces, num = max(1, CHUNK // choice_WD.size), [], 0
            for start in range(0, len(worth_N), rows):
                # Every beginning of a chunk with every width and depth of its next stage.
                chunk = slice(start, start + rows)
                before_N = width_NB[chunk, begin]
                at = [(other, width_NB[chunk, self.genes.begins[other]]) for other in beside]
                left_N = worth_N[chunk] + sum(opened[other][at_N] for other, at_N in at)
                worth_NWD = (left_N[:, None] + worth.first[stage][before_N])[:, :, None] + choice_WD
                row, width, depth = np.nonzero(worth_NWD + ahead[stage + 1][:, None] >= least)
                added = [
                    cost.first[stage][before_N[row], width] + choices(cost, depths, stage)[width, depth]
                    for cost in costs
                ]
                grown_NK = cost_NK[chunk][row] + np.stack(added, 1)
                least_NK = grown_NK + cheapest_WK[width]
                for other, at_N in at:
                    least_NK = least_NK - np.stack([values[other][at_N[row]] for _, values in cheap], 1)
                kept = (least_NK <= self.allowed).all(1)
                row, width, depth = row[kept], width[kept], depth[kept]
                beginning = width_NB[chunk][row], depth_NS[chunk][row]
                grown = [
                    np.concatenate([old, new[:, None]], 1) for old, new in zip(beginning, (width, depth), strict=True)
                ]
                # The stage's necks are behind a beginning, too, which is worth nothing yet for what is beside it.
                still_N = sum(opened[other][at_N[row]] for other, at_N in at)
                grown_N = worth_NWD[row, width, depth] - still_N + worth.necks[stage][width]
                grown_NK = grown_NK[kept] + np.stack([cost.necks[stage][width] for cost in costs], 1)
                pieces.append((*grown, grown_N, grown_NK))
                num += len(row)
                if num > MAX_LISTED:
                    return None
            width_NB, depth_NS, worth_N, cost_NK = (np.concatenate(piece) for piece in zip(*pieces, strict=True))
            if not num:
                return np.empty((0, len(self.sizes)), int)
        return self._genes(box, width_NB, depth_NS)
