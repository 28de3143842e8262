"""The learned score: what a line in the logs of the genes, fitted to a few trained candidates, expects of the others.

`zennas learn` fits it (zennas/learn/model.py) and writes it; a search maximises it with `--score learned:OUT`. It is a
sum over genes, so the best candidate within a budget is proven by the branch and bound of every other closed form. It
is not believed outside what was trained: REGION says how far it reaches.
"""

# N candidates, G genes

import math
import pathlib

import numpy as np
import pydantic

from zennas.records import Record, UserError
from zennas.space.candidate import Candidate
from zennas.space.parts import Sums, sums
from zennas.space.space import Space

LEARNED = "learned"  # the name of the score; on the command line `learned:OUT`
MODEL = "model.json"  # in the folder that `zennas learn` writes
OUTSIDE = 100.0  # times the region's radius: how far a gene counts that no trained candidate reached
REGION = (
    "every gene within what was trained, and no farther from the centre of the trained than the farthest of them, in "
    "standard deviations of the log genes"
)


class LearnedScore(Record):
    """A fitted line. Expected values are in per cent of the measure where that is a share (AUC, TAR), as `unit` says.

    Coefficients are per e-fold of a gene: doubling it is worth ln 2 of them.
    """

    kind: str  # of the candidates, as Candidate.kind
    measure: str  # what was measured of the trained candidates: "AUC"
    unit: str  # "%", or ""
    genes: tuple[str, ...]  # names, in the order of Space.genes
    lowest: tuple[int, ...]  # of the trained, by gene
    highest: tuple[int, ...]
    centre: tuple[float, ...]  # mean ln gene of the trained
    scale: tuple[float, ...]  # its standard deviation among them; 1 where a gene did not vary
    intercept: float
    coefficients: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]  # of the coefficients
    radius: float = pydantic.Field(gt=0)
    num_trained: int
    tau: float | None  # Kendall's, each trained candidate foretold by the others; with its interval of 95 %
    tau_low: float | None
    tau_high: float | None

    @pydantic.model_validator(mode="after")
    def _one_number_per_gene(self):
        lengths = {len(getattr(self, name)) for name in ("genes", "lowest", "highest", "centre", "scale")}
        lengths |= {len(self.coefficients), len(self.covariance), *map(len, self.covariance)}
        if len(lengths) > 1:
            raise ValueError(f"as many numbers as genes everywhere; given {sorted(lengths)}")
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
        if candidate.kind != self.kind or len(candidate.genes) != len(self.genes):
            raise UserError(
                f"{candidate.text}: the learned score is of candidates of kind '{self.kind}' with "
                f"{len(self.genes)} genes"
            )
        (mean,), (std,) = self.of(np.array([candidate.genes]))
        return float(mean), float(std)

    def sums(self, space: Space) -> Sums:
        """The expected values over a space, for any number of candidates at once."""
        terms = [
            coefficient * (log_V - centre)
            for coefficient, log_V, centre in zip(self.coefficients, _logs(space), self.centre, strict=True)
        ]
        return _of_genes(space, terms, constant=self.intercept)

    def distance_sums(self, space: Space) -> Sums:
        """The squared distances from the centre of the trained; at most radius ** 2 within the REGION."""
        terms = []
        for log_V, span, centre, scale, lowest, highest in zip(
            _logs(space), space.genes.values(), self.centre, self.scale, self.lowest, self.highest, strict=True
        ):
            inside_V = (np.array(span.values()) >= lowest) & (np.array(span.values()) <= highest)
            terms.append(((log_V - centre) / scale) ** 2 + np.where(inside_V, 0.0, (OUTSIDE * self.radius) ** 2))
        return _of_genes(space, terms)

    def is_within(self, candidate: Candidate) -> bool:
        """Whether a candidate is in the REGION, with room for the rounding of a sum."""
        genes_G = np.array(candidate.genes)
        if len(genes_G) != len(self.genes) or (genes_G < self.lowest).any() or (genes_G > self.highest).any():
            return False
        unit_G = (np.log(genes_G) - np.array(self.centre)) / np.array(self.scale)
        return bool(np.linalg.norm(unit_G) <= self.radius * (1 + 1e-9))

    def check_space(self, space: Space, where: object) -> None:
        """UserError where it was learned in a space of other candidates."""
        if self.kind != space.kind or self.genes != space.layout.names:
            raise UserError(
                f"{where}: was learned of candidates of kind '{self.kind}' with genes {', '.join(self.genes)}; space "
                f"{space.name} has '{space.kind}' with {', '.join(space.layout.names)}"
            )


def load_learned(folder: pathlib.Path | str) -> LearnedScore:
    """The LearnedScore that `zennas learn` left in a folder. UserError where there is none, or it is damaged."""
    path = pathlib.Path(folder) / MODEL
    if not path.is_file():
        raise UserError(
            f"--score {LEARNED}:{folder}: holds no {MODEL}; python -m zennas.learn --data DATA --out {folder} makes it"
        )
    return LearnedScore.parse(_read(path), path)


def _read(path):
    import json

    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path}: is no JSON: {error}") from None


def width_prior(genes_NG: np.ndarray, space: Space) -> np.ndarray:
    """prior_N: the sum over the stages of ln width, each stage once.

    On most tables of networks of equal cost the wider stages are the better ones; where they are not, the line learns
    it. It orders what is there and must never be maximised: that runs to one block per stage.
    """
    return np.log(np.asarray(genes_NG, float)[:, list(space.layout.widths)]).sum(1)


def doubling(score: LearnedScore) -> list[tuple[str, float, float, float]]:
    """[(gene, what doubling it is worth, the ends of its interval of 95 %)]."""
    std_G = np.sqrt(np.diag(np.array(score.covariance)))
    return [
        (name, *(math.log(2) * (coefficient + times * std) for times in (0.0, -1.96, 1.96)))
        for name, coefficient, std in zip(score.genes, score.coefficients, std_G, strict=True)
    ]


def _logs(space):
    """[ln of the values of each gene's range]."""
    return [np.log(np.array(span.values(), float)) for span in space.genes.values()]


def _of_genes(space, terms, *, constant=0.0):
    """The Sums of what each gene adds by itself: terms[gene][place of its value]."""
    genes, blank = space.layout, sums(space, lambda part: 0.0)
    widths = [terms[gene] for gene in genes.widths]
    return blank._replace(
        stem_W=terms[genes.stem] + constant,
        first=tuple(np.broadcast_to(width_W, first_WW.shape) for width_W, first_WW in zip(widths, blank.first, strict=True)),
        depth=tuple(np.asarray(terms[gene], float) for gene in genes.depths),
    )
