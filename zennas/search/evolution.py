"""Which candidates come next: an evolutionary search in the manner of ZenNAS, of what was scored so far."""

import bisect
import collections
from collections.abc import Callable

import numpy as np

from zennas.search.islands import owner
from zennas.search.scored import Rows
from zennas.space.candidate import Candidate
from zennas.space.space import Space

MIN_PARENTS = 16  # below this many, candidates are drawn from the whole space
FRESH_SHARE = 0.05  # of later proposals are still drawn from the whole space
TOURNAMENT = 2  # parents are the better of two: measured better than uniform choice on a few thousand evaluations
MAX_ATTEMPTS = 20_000  # per batch, before the space counts as exhausted


class Population:
    """The best `size` candidates that are admitted, by score. Depends on what was added, not on the order."""

    def __init__(self, size: int):
        self.size = size
        self.ranked = []  # (-score, key, candidate), best first

    def __len__(self):
        return len(self.ranked)

    def add(self, score: float, candidate: Candidate) -> None:
        """Let a scored candidate in, and the worst out where there are too many."""
        bisect.insort(self.ranked, (-score, candidate.key, candidate), key=lambda entry: entry[:2])
        del self.ranked[self.size :]

    def fill(self, rows: Rows, kept_N: np.ndarray) -> None:
        """Let the kept ones of some Rows in, all at once."""
        for at in rows.ranked(kept_N)[: self.size]:
            row = rows[int(at)]
            self.add(row.score, row.candidate)

    @property
    def best(self) -> tuple[float, Candidate] | None:
        """(score, candidate) or None."""
        return (-self.ranked[0][0], self.ranked[0][2]) if self.ranked else None

    def parent(self, rng: np.random.Generator) -> Candidate:
        return self.ranked[int(rng.integers(len(self.ranked), size=TOURNAMENT).min())][2]


def propose(
    space: Space,
    population: Population,
    num: int,
    *,
    seed: int,
    batch: int,
    refusal: Callable[[Candidate], str | None],
    seen: set[str],
    counters: collections.Counter[str],
    share: tuple[int, int] = (0, 1),
) -> list[Candidate]:
    """Up to `num` new candidates of the space; fewer, down to none, where it holds no more that are admitted.

    The first batches begin with the hand-made baselines, so that no search ends below them. The random numbers depend
    on (seed, batch) and the island alone. `refusal(candidate)` says why a candidate is not admitted, or None. share:
    (island, number of islands): what belongs to another island is left to it.
    Keys are added to the set `seen`; `counters` (a Counter) learns how many were seen and why they were rejected.
    """
    island, num_islands = share
    rng = np.random.default_rng((seed, batch, *[island] * (num_islands > 1)))
    proposals = []
    alike = [candidate for candidate in space.baselines.values() if space.is_like(candidate)]
    by_hand = alike[batch * num : (batch + 1) * num]
    for _ in range(MAX_ATTEMPTS * num_islands):
        if len(proposals) == num:
            break
        fresh = len(population) < MIN_PARENTS or rng.random() < FRESH_SHARE
        if by_hand:
            candidate = space.translated(by_hand.pop())
        else:
            candidate = space.sample(rng) if fresh else space.mutate(population.parent(rng), rng)
        if owner(candidate, num_islands) != island:
            continue
        reason = refusal(candidate)
        if fresh:
            while reason and (smaller := _shrunk(space, candidate, rng)):
                candidate, reason = smaller, refusal(smaller)
            if owner(candidate, num_islands) != island:
                continue
        counters["seen"] += 1
        if reason:
            counters[f"rejected: {reason}"] += 1
        elif candidate.key in seen:
            counters["rejected: seen before"] += 1
        else:
            seen.add(candidate.key)
            proposals.append(candidate)
    return proposals


def _shrunk(space, candidate, rng):
    """The candidate with one gene lowered by about a tenth, still in the space; None where none can be lowered."""
    spans, values = list(space.genes.values()), candidate.genes
    for index in rng.permutation(len(values)):
        span = spans[index]
        lower = max(span.low, min(values[index] - span.step, span.nearest(values[index] * 0.9)))
        if lower < values[index]:
            smaller = space.candidate((*values[:index], lower, *values[index + 1 :]))
            if space.contains(smaller):
                return smaller
    return None
