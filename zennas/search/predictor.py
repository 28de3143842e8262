"""The Predictor: what the latency table says of a candidate, corrected by what was measured, against every budget.

It owns the corrections: nothing else in a search holds a factor.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from zennas.latency.budget import LocalBudget
from zennas.latency.protocol import ms_text
from zennas.latency.table import LatencyTable
from zennas.records import UserError
from zennas.search.bands import Bands
from zennas.search.cost_limits import CostLimit, check_limits
from zennas.space.candidate import Candidate
from zennas.space.parts import sums
from zennas.space.space import Space


class Predictor:
    """Predicts by a LatencyTable, corrected as far as it is corrected by now, and judges by budget and limits."""

    def __init__(
        self, space: Space, table: LatencyTable, budget: LocalBudget, *, margin_pct: float, limits: Iterable[CostLimit]
    ):
        """margin_pct: of the budget, kept free while a latency is only predicted."""
        self.space, self.table, self.budget, self.margin_pct = space, table, budget, margin_pct
        self._factor, self._limits = 1.0, tuple(limits)
        self._bands, self._of_bands = Bands(space), {}
        self._sums = {}  # name of a limit -> Sums of its cost over the space's parts

    @property
    def factor(self) -> float:
        """By which the table's sums are multiplied, but for those of bands that have a factor of their own."""
        return self._factor

    @property
    def of_bands(self) -> dict[str, float]:
        """{band: its factor}: how far a table is off depends on depth and width, by two to three per cent."""
        return self._of_bands

    def factor_of(self, candidate: Candidate) -> float:
        """By which the table's sum for a candidate is multiplied."""
        return float(self.factors_of(np.array([candidate.genes]))[0])

    def factors_of(self, genes_NG: np.ndarray) -> np.ndarray:
        """factor_N of candidates, by their genes."""
        factor_B = np.array([self._of_bands.get(band.name, self._factor) for band in self._bands.bands])
        return factor_B[self._bands.of(genes_NG)]

    @property
    def limits(self) -> tuple[CostLimit, ...]:
        """On further costs, those on other devices corrected as far as they are by now."""
        return self._limits

    def correct(
        self,
        factor: float,
        limits: Iterable[CostLimit],
        *,
        bands: Bands | None = None,
        of_bands: Mapping[str, float] | None = None,
    ) -> None:
        """Predict with this factor, and judge by these limits, from here on. of_bands: {name of one of `bands`: the
        factor of its candidates}.
        """
        self._factor, self._limits = factor, tuple(limits)
        self._bands, self._of_bands = bands or self._bands, dict(of_bands or {})

    def table_ms(self, candidate: Candidate) -> float:
        """The table's uncorrected sum for a candidate, in ms."""
        return self.table.predict(candidate, self.space.shape)

    def predicted_ms(self, candidate: Candidate) -> float:
        return self.table_ms(candidate) * self.factor_of(candidate)

    def refusal(self, candidate: Candidate) -> str | None:
        """Why a candidate of the space is not worth scoring, cheapest question first; None if it is."""
        for limit in self._limits:
            if limit.of(candidate, self.space) > limit.most:
                return f"over {limit.most:g} {limit.name}"
        return None if self.predicted_ms(candidate) <= self._usable_ms else "over budget"

    def fits(self, table_ms_N: np.ndarray, genes_NG: np.ndarray) -> np.ndarray:
        """fits_N: which candidates of the space keep the budget and those of the further devices, as they are corrected
        now.
        """
        fits_N = table_ms_N * self.factors_of(genes_NG) <= self._usable_ms
        for limit in self._limits:
            # Only these are corrected: what was proposed keeps the others as it did then.
            if limit.is_measured and len(fits_N):
                fits_N &= limit.factor * self._sums_of(limit).of(self.space, genes_NG) <= limit.most
        return fits_N

    def check(self, *, slack: float = 1.0) -> None:
        """UserError where not even the cheapest candidate fits, its predicted latency divided by `slack`."""
        check_limits(self._limits, self.space)
        cheapest = self.space.cheapest()
        if self.predicted_ms(cheapest) > slack * self._usable_ms:
            raise UserError(
                f"the budget of {ms_text(self.budget.budget_ms)} is below the cheapest candidate of space "
                f"{self.space.name}: {cheapest.text} takes about {ms_text(self.predicted_ms(cheapest))} here (over "
                f"budget, with a margin of {self.margin_pct:g} %); give more with --budget-ms or another --space"
            )

    @property
    def _usable_ms(self):
        return self.budget.budget_ms * (1 - self.margin_pct / 100)

    def _sums_of(self, limit):
        if limit.name not in self._sums:
            self._sums[limit.name] = sums(self.space, limit.of_part)
        return self._sums[limit.name]
