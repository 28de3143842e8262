"""LearnedScore: what a line in the logs of the genes, fitted to a few trained candidates, expects of the others.

It is a sum over genes, so the best candidate within a budget is proven as that of every other closed form. It is not
believed outside what was trained: REGION says how far it reaches.
"""

# N candidates, G genes, V values of one gene's range

import math
from typing import Annotated

import numpy as np
import pydantic

from zennas.records import Record, UserError, some
from zennas.space.candidate import Candidate
from zennas.space.parts import Sums, sums_of_genes
from zennas.space.space import Space

LEARNED = "learned"  # the name of the score in a plan; on the command line learned:OUT
MOST = 1e9  # of any number of a line, so that their squares and sums stay finite
NEAR = 0.97  # of a latency: two measurements of one network differ by so much
OUTSIDE = 100.0  # times the region's radius: how far a gene counts that no trained candidate reached
REGION = (
    "every gene within what was trained, no farther from the centre of the trained than the farthest of them, in "
    "standard deviations of the log genes, and of their latency"
)

Number = Annotated[float, pydantic.Field(ge=-MOST, le=MOST)]
Above = Annotated[float, pydantic.Field(gt=0, le=MOST)]
Gene = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
Tau = Annotated[float, pydantic.Field(ge=-1, le=1)]


class LearnedScore(Record):
    """A fitted line. Expected values are in per cent of the measure where that is a share (AUC, TAR), as `unit` says.

    Coefficients are per e-fold of a gene: doubling it is worth ln 2 of them.
    """

    model_config = pydantic.ConfigDict(allow_inf_nan=False)

    kind: str  # of the candidates, as Candidate.kind
    measure: str  # what was measured of the trained candidates: "AUC"
    unit: str  # "%", or ""
    genes: tuple[str, ...]  # names, in the order of Space.genes
    lowest: tuple[Gene, ...]  # of the trained, by gene
    highest: tuple[Gene, ...]
    centre: tuple[Number, ...]  # mean ln gene of the trained
    scale: tuple[Above, ...]  # its standard deviation among them; 1 where a gene did not vary
    intercept: Number
    coefficients: tuple[Number, ...]
    covariance: tuple[tuple[Number, ...], ...]  # of the coefficients
    radius: Above
    # The latency of the fastest of the trained over the budget: below, nothing is known.
    least_share: float = pydantic.Field(ge=0, le=1)
    num_trained: int = pydantic.Field(ge=1)
    # Kendall's, each trained candidate predicted from the others (leave-one-out); with its interval of 95 %
    tau: Tau | None
    tau_low: Tau | None
    tau_high: Tau | None

    @pydantic.model_validator(mode="after")
    def _one_number_per_gene(self):
        names = ("lowest", "highest", "centre", "scale", "coefficients", "covariance")
        lengths = {name: len(getattr(self, name)) for name in names}
        lengths |= {f"covariance.{row}": len(numbers) for row, numbers in enumerate(self.covariance)}
        if not self.genes or set(lengths.values()) != {len(self.genes)}:
            wrong = some([f"{name} {num}" for name, num in lengths.items() if num != len(self.genes)])
            raise ValueError(
                f"1 or more genes, and as many numbers as genes everywhere; given {len(self.genes)} genes, {wrong}"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _intervals_are_some(self):
        for name, low, high in zip(self.genes, self.lowest, self.highest, strict=True):
            if low > high:
                raise ValueError(f"lowest at most highest; given {low} and {high} for {name}")
        for place, name in enumerate(self.genes):
            if self.covariance[place][place] < 0:
                raise ValueError(f"variances of 0 or more; given {self.covariance[place][place]:g} for {name}")
        if (self.tau_low is None) != (self.tau_high is None) or (self.tau is None and self.tau_low is not None):
            raise ValueError("tau alone, with both tau_low and tau_high, or none of them")
        return self

    def of(self, genes_NG: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(mean_N, std_N): what is expected of candidates, and how sure the line is of it (without a training's own
        noise)."""
        from_centre_NG = np.log(np.asarray(genes_NG, float)) - np.array(self.centre)
        mean_N = self.intercept + from_centre_NG @ np.array(self.coefficients)
        variance_N = np.einsum("ng,gh,nh->n", from_centre_NG, np.array(self.covariance), from_centre_NG)
        return mean_N, np.sqrt(np.maximum(variance_N, 0.0))

    def of_candidate(self, candidate: Candidate) -> tuple[float, float]:
        """(mean, standard deviation) of one candidate. UserError for one of another kind."""
        if not self._knows(candidate):
            raise UserError(
                f"{candidate.text}: the learned score is of candidates of kind '{self.kind}' with "
                f"{len(self.genes)} genes"
            )
        (mean,), (std,) = self.of(np.array([candidate.genes]))
        return float(mean), float(std)

    def _knows(self, candidate):
        return candidate.kind == self.kind and len(candidate.genes) == len(self.genes)

    def sums(self, space: Space) -> Sums:
        """The expected values over a space, for any number of candidates at once."""
        terms = [
            coefficient * (log_V - centre)
            for coefficient, log_V, centre in zip(self.coefficients, _logs(space), self.centre, strict=True)
        ]
        return sums_of_genes(space, terms, constant=self.intercept)

    def distance_sums(self, space: Space) -> Sums:
        """The squared distances from the centre of the trained; at most radius ** 2 within the REGION."""
        terms = []
        for log_V, span, centre, scale, lowest, highest in zip(
            _logs(space), space.genes.values(), self.centre, self.scale, self.lowest, self.highest, strict=True
        ):
            inside_V = (np.array(span.values()) >= lowest) & (np.array(span.values()) <= highest)
            terms.append(((log_V - centre) / scale) ** 2 + np.where(inside_V, 0.0, (OUTSIDE * self.radius) ** 2))
        return sums_of_genes(space, terms)

    def is_within(self, candidate: Candidate) -> bool:
        """Whether a candidate is in the REGION, with room for the rounding of a sum."""
        genes_G = np.array(candidate.genes)
        if not self._knows(candidate) or (genes_G < self.lowest).any() or (genes_G > self.highest).any():
            return False
        unit_G = (np.log(genes_G) - np.array(self.centre)) / np.array(self.scale)
        return bool(np.linalg.norm(unit_G) <= self.radius * (1 + 1e-9))

    def is_known_at(self, ms: float | np.ndarray, budget_ms: float) -> bool | np.ndarray:
        """Whether networks of this latency were trained, where the budget is this: a line through networks of one
        latency does not know that a faster one is a worse one."""
        return ms >= NEAR * self.least_share * budget_ms

    @property
    def text(self) -> str:
        """What it was learned from and how well it predicts, in words."""
        tau = "" if self.tau is None else f"; each predicted from the others with a tau of {self.tau_text}"
        return f"of {self.num_trained} trained candidates{tau}; within {REGION}"

    @property
    def tau_text(self) -> str:
        """Kendall's tau with its interval; "not known" where too few were trained."""
        if self.tau is None:
            return "not known"
        interval = "" if self.tau_low is None else f" ({self.tau_low:.2f} to {self.tau_high:.2f})"
        return f"{self.tau:.2f}{interval}"

    @property
    def doubling(self) -> dict[str, tuple[float, float, float]]:
        """{gene: what doubling it is worth, the lower and the upper end of its interval of 95 %}; genes that did not
        vary are left out."""
        std_G = np.sqrt(np.diag(np.array(self.covariance)))
        worth = {}
        for place, name in enumerate(self.genes):
            if self.lowest[place] < self.highest[place]:
                worth[name] = tuple(
                    math.log(2) * (self.coefficients[place] + times * float(std_G[place])) for times in (0, -1.96, 1.96)
                )
        return worth

    def check_space(self, space: Space, where: object) -> None:
        """UserError where it was learned in a space of other candidates."""
        if self.kind != space.kind or self.genes != space.layout.names:
            raise UserError(
                f"{where}: was learned of candidates of kind '{self.kind}' with genes {', '.join(self.genes)}; space "
                f"{space.name} has '{space.kind}' with {', '.join(space.layout.names)}"
            )


def _logs(space):
    """[ln of the values of each gene's range]."""
    return [np.log(np.array(span.values(), float)) for span in space.genes.values()]
