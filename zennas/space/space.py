"""Space: which candidates may be built. Samples, mutates and judges them; every answer is a Candidate or a reason."""

import collections
import functools
import math
from collections.abc import Iterable
from typing import Annotated, Any

import numpy as np
import pydantic

from zennas.records import Record, UserError
from zennas.space.candidate import Candidate, kind_of
from zennas.space.cost import fan_ins
from zennas.space.families.table import divided, divisor_of, layout_of, tree_of
from zennas.space.form import Form
from zennas.space.genes import Genes, genes_of_stages
from zennas.space.shape import MOST, Count, Sized, without_defaults

# Factors of one width mutation, as in ZenNAS (Lin et al. 2021, code); depths move by one or two blocks.
WIDTH_FACTORS = (2.5, 2.0, 1.5, 1.25, 1 / 1.25, 1 / 1.5, 1 / 2.0, 1 / 2.5)
DEPTH_STEPS = (-2, -1, 1, 2)
MAX_DRAWS, MAX_NEIGHBOURS = 100_000, 100  # before a space counts as empty, a candidate as alone


class Range(Record):
    """The integers low, low + step, ... up to high."""

    low: Count
    high: Annotated[int, pydantic.Field(le=MOST)]
    step: int = pydantic.Field(default=1, ge=1)

    @pydantic.model_validator(mode="after")
    def _reaches_high(self):
        if self.high < self.low or (self.high - self.low) % self.step:
            raise ValueError(f"high must be low plus a multiple of step {self.step}")
        return self

    def __contains__(self, value):
        return self.low <= value <= self.high and (value - self.low) % self.step == 0

    def nearest(self, value: float) -> int:
        """The member nearest to `value`."""
        return min(self.high, max(self.low, self.low + self.step * round((value - self.low) / self.step)))

    def draw(self, rng: np.random.Generator) -> int:
        """A member, all equally likely."""
        return int(self.low + self.step * rng.integers((self.high - self.low) // self.step + 1))

    def values(self) -> range:
        """All members, ascending."""
        return range(self.low, self.high + 1, self.step)


class SpaceLimits(Record):
    """What the ranges alone cannot say. Zen-Score always prefers deeper and thinner, so a space must carry these."""

    max_blocks: int = pydantic.Field(ge=1)
    max_effectiveness: float = pydantic.Field(gt=0)


class Space(Sized):
    """What a search may propose: one block, a range for each gene, limits, and hand-made networks to compare with."""

    name: str
    family: str = "chain"  # a row of FAMILIES
    form: Form | None = None  # what the family leaves a choice in; None: the family's own
    block: str  # a row of BLOCKS
    stem: Range
    widths: tuple[Range, ...]
    depths: tuple[Range, ...]
    limits: SpaceLimits
    baselines: dict[str, Candidate] = {}

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if len(self.widths) != len(self.depths):
            raise ValueError(f"as many depths as widths; given {len(self.widths)} and {len(self.depths)}")
        divisor = divisor_of(self)
        if any(px % divisor for px in self.shape.hw):
            raise ValueError(f"image_px must be divisible by {divisor}: {divided(self)}")
        if reason := self.violation(self.cheapest()):
            raise ValueError(f"limits that leave at least the smallest candidate of the ranges ({reason})")
        for name, candidate in self.baselines.items():
            layout_of(candidate, self.shape)  # or why it cannot see such images
            if self.is_like(candidate) and (reason := self.violation(self.translated(candidate))):
                raise ValueError(f"ranges and limits that hold every baseline that begins a search; {name}: {reason}")
        return self

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(self, handler):
        held = without_defaults(handler(self), type(self), ("channels", "family", "form"))
        return held if self.form is None else held | {"form": self.form.plain()}

    @property
    def kind(self) -> str:
        """Its block, behind its family where that is no chain, as its candidates have it."""
        return kind_of(self.family, self.block, self.form)

    @property
    def genes(self) -> dict[str, Range]:
        """Gene name -> Range, in a fixed order: what a mutation may change and what the study shows as parameters."""
        spans = self.layout.vector(stem=self.stem, widths=self.widths, depths=self.depths)
        return dict(zip(self.layout.names, spans, strict=True))

    @property
    def layout(self) -> Genes:
        """Which place of a vector of genes holds what."""
        return genes_of_stages(len(self.widths), tree_of(self).before)

    def candidate(self, values: Iterable[int]) -> Candidate:
        """The candidate of these gene values, given in the order of `genes`."""
        return Candidate(family=self.family, form=self.form, block=self.block, **self.layout.fields(values))

    def is_like(self, candidate: Candidate) -> bool:
        """Whether a candidate of this space has such genes, and so may begin a search, with the space's block."""
        # A chain's baselines have always begun its searches, whichever their block. Elsewhere bottlenecks stand beside
        # plain blocks, and no range of one's widths holds the other's.
        own_block = candidate.block == self.block or self.family == "chain"
        return own_block and candidate.family == self.family and candidate.form == self.form

    def translated(self, candidate: Candidate) -> Candidate:
        """A candidate that is like those of this space, with the space's block."""
        return candidate.model_copy(update={"block": self.block})

    def cheapest(self) -> Candidate:
        """The candidate with every gene at its lowest."""
        return self.candidate(span.low for span in self.genes.values())

    def violation(self, candidate: Candidate) -> str | None:
        """Why the candidate is not in this space, in words; None if it is."""
        if candidate.family != self.family:
            return f"family is '{candidate.family}', allowed: '{self.family}'"
        if candidate.form != self.form:
            given, allowed = (form.plain() if form else "none" for form in (candidate.form, self.form))
            return f"form is {given}, allowed: {allowed}"
        if candidate.block != self.block:
            return f"block is '{candidate.block}', allowed: '{self.block}'"
        if len(candidate.widths) != len(self.widths):
            return f"{len(candidate.widths)} stages, allowed: {len(self.widths)}"
        for (name, span), value in zip(self.genes.items(), candidate.genes, strict=True):
            if value not in span:
                return f"{name} is {value}, allowed: {span.low} to {span.high} in steps of {span.step}"
        if candidate.num_blocks > self.limits.max_blocks:
            return f"{candidate.num_blocks} blocks, allowed: at most {self.limits.max_blocks}"
        if (rho := effectiveness(candidate)) > self.limits.max_effectiveness:
            return f"effectiveness {rho:.3f}, allowed: at most {self.limits.max_effectiveness}"
        return None

    def contains(self, candidate: Candidate) -> bool:
        """Whether the candidate is in this space."""
        return self.violation(candidate) is None

    def sample(self, rng: np.random.Generator) -> Candidate:
        """A candidate drawn uniformly from the ranges, drawn again until it keeps the limits.

        UserError where the limits leave so little of the ranges that MAX_DRAWS draws find nothing.
        """
        for _ in range(MAX_DRAWS):
            candidate = self.candidate(span.draw(rng) for span in self.genes.values())
            if self.contains(candidate):
                return candidate
        raise UserError(
            f"space {self.name}: {MAX_DRAWS} draws from its ranges found none within its limits; widen one or the other"
        )

    def mutate(self, candidate: Candidate, rng: np.random.Generator) -> Candidate:
        """A neighbour that differs in one to three genes and is in the space.

        Where the limits leave no neighbour to find, any candidate of the space.
        """
        for mutant_G in self.mutants(np.repeat([candidate.genes], MAX_NEIGHBOURS, 0), rng):
            mutant = self.candidate(mutant_G)
            if mutant != candidate and self.contains(mutant):
                return mutant
        return self.sample(rng)

    def mutants(self, parent_NG: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The genes of a neighbour of each parent: up to three are moved, within the ranges; limits are not asked.

        Several at once, because under a budget that binds what one gene wins another must give back.
        """
        low_G, high_G, step_G = np.array([(span.low, span.high, span.step) for span in self.genes.values()]).T
        shape = num, num_genes = parent_NG.shape
        wider_NG = parent_NG * rng.choice(WIDTH_FACTORS, shape)
        # A step of one, too: the factors alone cannot fill the last per cent of a budget.
        stepped_NG = parent_NG + step_G * rng.choice((-1, 1), shape)
        width_NG = np.where(rng.random(shape) < 0.5, stepped_NG, wider_NG)
        depth_NG = parent_NG + rng.choice(DEPTH_STEPS, shape)
        moved_NG = np.where(self.layout.is_depth_G, depth_NG, width_NG)
        nearest_NG = low_G + step_G * np.round((moved_NG - low_G) / step_G).astype(int)
        order_NG = rng.permuted(np.broadcast_to(np.arange(num_genes), shape), axis=1)
        chosen_NG = order_NG < rng.integers(1, 4, size=(num, 1))
        return np.clip(np.where(chosen_NG, nearest_NG, parent_NG), low_G, high_G)


def distance(first: Candidate, second: Candidate) -> float:
    """How different two candidates of one space are: mean absolute log2 ratio over their genes; 1 is "all doubled".

    >>> a = Candidate(block="ir", stem=64, widths=(64, 128), depths=(2, 4))
    >>> distance(a, a.model_copy(update={"depths": (4, 8)}))
    0.4
    """
    return float(distances(np.array([first.genes]), second.genes)[0])


def distances(genes_NG: np.ndarray, other_G: Any) -> np.ndarray:
    """The `distance` of each of many candidates from one, by their genes."""
    return np.abs(np.log2(genes_NG / np.asarray(other_G))).mean(1)


def fan_in(part: Any) -> tuple[int, float]:
    """(convolutions that `effectiveness` counts in one Part of a network, the sum of the logs of their fan-in)."""
    if not part.is_block:
        return 0, 0.0
    fans = fan_ins(*part[:4])
    return len(fans), sum(map(math.log, fans))


@functools.lru_cache(maxsize=65536)
def effectiveness(candidate: Candidate) -> float:
    """Depth against width: the convolutions in the residual branches over the geometric mean of their fan-in.

    Shen et al. 2023 (DeepMAD, arXiv:2303.02165), rho = L / w, with w_l = c_in * k^2; that of a depthwise 3x3 is 9,
    however wide. Too large a rho does not train; how large is too large differs from block to block. We count the
    convolutions of the blocks, which dominate; the stem is left out.

    >>> round(effectiveness(Candidate(block="ir", stem=64, widths=(64, 128, 256, 512), depths=(3, 25, 88, 3))), 3)
    0.123
    """
    depth, log_fan_in, tree = 0, 0.0, tree_of(candidate)
    at_boundaries = candidate.stem, *candidate.widths
    for stage, (width, num_blocks) in enumerate(zip(candidate.widths, candidate.depths, strict=True)):
        channels, stride = at_boundaries[tree.before[stage]], tree.strides[stage]
        first_block = fan_ins(candidate.block, channels, width, stride)
        repeated = fan_ins(candidate.block, width, width, 1)
        times = collections.Counter(first_block[1:])
        for fan in repeated:
            times[fan] += num_blocks - 1
        # The first apart and the rest by value: the order of the sums in which every kept effectiveness was computed.
        log_fan_in += sum(map(math.log, first_block[:1])) + sum(num * math.log(fan) for fan, num in times.items())
        depth += len(first_block) + (num_blocks - 1) * len(repeated)
    return depth / math.exp(log_fan_in / depth) if depth else 0.0
