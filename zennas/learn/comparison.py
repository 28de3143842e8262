"""What a user would have got instead: Zen-Score's winner, the prior's, and a hand-made shape of the same latency."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from zennas.learn.equal import correction_of, latency_sums
from zennas.records import Record
from zennas.score.learned import width_prior_sums
from zennas.search.cost_limits import constraints
from zennas.search.funnel import region_of
from zennas.search.optimum import Constraint, NoProofError, Problem
from zennas.search.stages import Searched
from zennas.space.candidate import Candidate
from zennas.space.learned import REGION, LearnedScore
from zennas.space.parts import Sums
from zennas.space.space import Space

LEARNED, ZEN, PRIOR, BY_HAND = "learned", "Zen-Score", "widest (S)", "by hand, scaled"
# Factors of a hand-made network's widths, from narrow to wide.
SCALES = np.geomspace(0.25, 4.0, 65)


class NobodyError(Exception):
    """A way of choosing puts no network first; its text says why."""


class Rival(Record):
    """A network within the budget that one way of choosing puts first, and what the learned line expects of it."""

    name: str
    how: str  # it was chosen
    candidate: Candidate
    predicted_ms: float
    expected: float | None = None
    expected_std: float | None = None
    within: bool | None = None  # whether it is where the line is believed


class Device(NamedTuple):
    """What decides about latency: the space's costs with their limits, latency first, and what corrects it."""

    space: Space
    costs: list[Constraint]  # the first is the latency, in the table's milliseconds
    zen: Sums | None  # Zen-Score's closed form; None where there is none
    factor: float

    @property
    def budget_ms(self) -> float:
        """The most that the latency may be."""
        return self.factor * self.costs[0].most

    def ms(self, candidate: Candidate) -> float:
        """The predicted latency of a candidate."""
        (table_ms,) = self.costs[0].sums.of(self.space, np.array([candidate.genes]))
        return self.factor * float(table_ms)


def device_of(searched: Searched) -> Device:
    """The Device of a search that has measured a pool."""
    factor, funnel, space = correction_of(searched), searched.funnel, searched.space
    costs = [Constraint("latency (ms)", latency_sums(searched), searched.budget.budget_ms / factor)]
    costs += constraints(searched.predictor.limits, space)
    return Device(space, costs, funnel.score if funnel else None, factor)


def rivals(device: Device, score: LearnedScore) -> tuple[list[Rival], dict[str, str]]:
    """(the Rivals that there are, the learned winner first; {name of one that there is not: why})."""
    chosen: dict[str, tuple[str, Callable[[], Candidate]]] = {
        LEARNED: ("the most that the line expects, where it is believed", lambda: learned_optimum(device, score)),
        ZEN: ("the proven optimum of Zen-Score", lambda: _of_zen(device)),
        PRIOR: ("the largest sum of log widths", lambda: _best(device, width_prior_sums(device.space))),
        BY_HAND: (
            "the hand-made network nearest to the budget, all widths times one factor",
            lambda: scaled_by_hand(device),
        ),
    }
    rows, missing = [], {}
    for name, (how, choose) in chosen.items():
        try:
            candidate = choose()
        except NobodyError as error:
            missing[name] = str(error)
            continue
        mean, std = score.of_candidate(candidate)
        rows.append(
            Rival(
                name=name,
                how=how,
                candidate=candidate,
                predicted_ms=round(device.ms(candidate), 4),
                expected=round(mean, 4),
                expected_std=round(std, 4),
                within=score.is_within(candidate) and device.ms(candidate) >= score.least_share * device.budget_ms,
            )
        )
    return rows, missing


def learned_optimum(device: Device, score: LearnedScore) -> Candidate:
    """The candidate within the budget and the line's region of which the line expects most, proven. NobodyError where
    there is none."""
    latency = device.costs[0]
    return _best(device, score.sums(device.space), region_of(score, device.space, latency.sums, latency.most))


def scaled_by_hand(device: Device) -> Candidate:
    """The hand-made network of the space whose latency is nearest to the budget, all its widths times the one factor
    that brings it as near below the budget as they come. NobodyError where there is none."""
    space, most_ms = device.space, device.budget_ms
    own = [candidate for candidate in space.baselines.values() if candidate.kind == space.kind]
    for candidate in sorted(own, key=lambda candidate: abs(np.log(device.ms(candidate) / most_ms))):
        scaled = {_scaled(space, candidate, factor) for factor in SCALES}
        fitting = [each for each in scaled if space.contains(each) and device.ms(each) <= most_ms]
        if fitting:
            return max(fitting, key=lambda each: (device.ms(each), each.key))
    if not own:
        raise NobodyError(f"space {space.name} names no hand-made network of its own blocks")
    raise NobodyError("no hand-made network of the space, scaled, keeps the budget")


def _scaled(space, candidate, factor) -> Candidate:
    widths = [span.nearest(factor * width) for span, width in zip(space.widths, candidate.widths, strict=True)]
    return candidate.model_copy(update={"stem": space.stem.nearest(factor * candidate.stem), "widths": tuple(widths)})


def _of_zen(device):
    if device.zen is None:
        raise NobodyError("it has no closed form in this space, so no optimum is proven")
    return _best(device, device.zen)


def _best(device, score: Any, region=()) -> Candidate:
    try:
        optimum = Problem(device.space, score, [*device.costs, *region]).solve()
    except NoProofError:
        raise NobodyError("the proof of its optimum takes too long") from None
    if optimum is None:
        raise NobodyError("no candidate keeps the budget" + (f" within {REGION}" if region else ""))
    return optimum.candidate
