"""Bands of effectiveness, deep, middle and wide: a search finds the best candidate of each.

Zen-Score asks for depth and for nothing else, so that the best candidates of a space are one network many times. Its
best at half and at a quarter of the optimum's effectiveness (depth against width, see space.effectiveness) are others:
something to compare, as long as no score tells which of them will be better once trained.
"""

# N candidates, G genes

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from zennas.space.candidate import Candidate
from zennas.space.parts import Sums, stacked, sums
from zennas.space.space import Space, fan_in
from zennas.track import SearchPlan

ROUNDING = 1e-9  # of an effectiveness, relative: sums of another order differ by 1e-15, and two candidates by far more
BANDED = ("zen", "zen_mean")  # the scores that ask for depth alone; a search by another has no bands


class Band(NamedTuple):
    """The candidates whose effectiveness is above `least` and at most `most`."""

    name: str | None  # None: the only one, which holds everything
    least: float
    most: float

    def holds(self, effectiveness_N: np.ndarray) -> np.ndarray:
        """Which of these it holds."""
        return (effectiveness_N > self.least) & (effectiveness_N <= self.most)

    @property
    def text(self) -> str:
        """In words, with its ends.

        >>> Band("middle", 0.02512, 0.05024).text
        'middle (effectiveness 0.0251 to 0.0502)'
        """
        if self.most == math.inf:
            return f"{self.name} (effectiveness above {self.least:.3g})"
        least = f"{self.least:.3g} to " if self.least > 0 else "up to "
        return f"{self.name} (effectiveness {least}{self.most:.3g})"


WHOLE = Band(None, -math.inf, math.inf)


class Bands:
    """The bands of a run, the deepest first. Every candidate of the space is in one of them; where a run has none, all
    are in the one that is WHOLE.
    """

    def __init__(self, space: Space, ends: Mapping[str, float | None] | None = None):
        """ends: the upper end of each band, descending, None of the first, which has none; None: a run without."""
        self.space, self.ends = space, ends
        self._columns = stacked(effectiveness_sums(space)) if ends else None
        upper = [math.inf if end is None else end for end in (ends or {}).values()]
        self.bands = tuple(map(Band, ends, [*upper[1:], -math.inf], upper)) if ends else (WHOLE,)

    def of(self, genes_NG: Any) -> np.ndarray:
        """place_N: in which of the bands each candidate is, by its genes."""
        genes_NG = np.asarray(genes_NG)
        if len(self.bands) == 1 or not len(genes_NG):
            return np.zeros(len(genes_NG), int)
        effectiveness_N = effectiveness_of(*self._columns.of(self.space, genes_NG).T)
        return np.argmax([band.holds(effectiveness_N) for band in self.bands], axis=0)

    def of_candidate(self, candidate: Candidate) -> int:
        """In which of the bands a candidate of the space is."""
        return int(self.of([candidate.genes])[0])

    def band_of(self, candidate: Candidate) -> Band:
        """The band that a candidate of the space is in."""
        return self.bands[self.of_candidate(candidate)]

    def slots(self, num: int) -> list[int]:
        """In which of the bands each of so many winners is: one of each in turn."""
        return [slot % len(self.bands) for slot in range(num)]


def shares_of(plan: SearchPlan) -> dict[str, float]:
    """{name: share of the optimum's effectiveness} of the bands that a plan asks for; {} for none.

    No more than it wants winners: the last of them holds what is left. One alone is none.
    """
    if plan.bands is None or plan.score.name not in BANDED:
        return {}
    shares = dict(list(plan.bands.items())[: plan.num_winners])
    return shares if len(shares) > 1 else {}


def ends_of(shares: Mapping[str, float], effectiveness: float) -> dict[str, float | None] | None:
    """The upper ends of bands that are given as shares of an optimum's effectiveness, as Bands takes them.

    >>> {name: end and round(end, 6) for name, end in ends_of({"deep": 1.0, "wide": 0.25}, 0.1).items()}
    {'deep': None, 'wide': 0.025}
    """
    ends = {name: share * effectiveness * (1 + ROUNDING) for name, share in shares.items()}
    return ends | {name: None for name in list(ends)[:1]} or None


def effectiveness_sums(space: Space) -> tuple[Sums, Sums]:
    """(The convolutions that an effectiveness counts, the logs of their fan-ins), as Sums over a space."""
    return tuple(sums(space, lambda part, of=of: fan_in(part)[of], along_path=True) for of in (0, 1))


def effectiveness_of(convolutions_N: np.ndarray, log_fan_in_N: np.ndarray) -> np.ndarray:
    """effectiveness_N of candidates with so many convolutions and such a sum of the logs of their fan-ins."""
    return convolutions_N / np.exp(log_fan_in_N / np.maximum(convolutions_N, 1))
