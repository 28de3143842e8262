"""TunePlan: what every comprehensive search has, whatever its networks are for.

The `tune:` part of an experiment is its task's own Record, which adds what else may vary and by what a trial is judged
(zennas/tasks/NAME/tune_plan.py). Every range is our choice.
"""

from typing import Annotated, ClassVar

import pydantic

from zennas.records import Record

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=1)]


class Span(Record):
    """Any number from low to high; drawn evenly, or evenly in its logarithm."""

    low: Annotated[float, pydantic.Field(allow_inf_nan=False)]
    high: Annotated[float, pydantic.Field(allow_inf_nan=False)]
    log: bool = False

    @pydantic.model_validator(mode="after")
    def _rises(self):
        if self.high <= self.low or (self.log and self.low <= 0):
            raise ValueError(
                f"low below high{', both above 0' if self.log else ''}; given {self.low:g} and {self.high:g}"
            )
        return self


class BackboneSpace(Record):
    """Depth against width of the given candidate, at equal multiply-accumulates."""

    depth: Span = Span(low=0.5, high=2.0)  # times the blocks of every stage; the widths follow
    macs_tolerance_pct: Annotated[float, pydantic.Field(gt=0, lt=100)] = 5.0  # channels come in steps


class AshaPlan(Record):
    """Successive halving without waiting: at epochs grace, grace x reduction, ... a trial below the best 1/reduction
    stops.
    """

    grace_epochs: Count = 1
    reduction: Annotated[float, pydantic.Field(gt=1)] = 3.0


class TunePlan(Record):
    """The comprehensive search. A space of None is not searched: there the recipe stays as it is."""

    # What may vary beside the backbone: {field that holds a space: its knobs, which are fields of that space}.
    FACTORS: ClassVar[dict[str, tuple[str, ...]]] = {}

    trials: Count = 32  # the recipe as it stands is one of them, and the first
    epochs: Count = 5  # of a trial: a short run of `train`
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = (
        0  # of proposals, and of all trials: they differ in nothing else
    )
    # The best trial was lucky, too: it and the recipe are trained again with so many other seeds.
    confirm_seeds: Annotated[int, pydantic.Field(ge=0)] = 2
    # and so is each of its factors alone, such as its backbone: what is each worth?
    single_factors: bool = True
    backbone: BackboneSpace | None = BackboneSpace()
    asha: AshaPlan = AshaPlan()

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.asha.grace_epochs > self.epochs:
            raise ValueError(f"asha.grace_epochs {self.asha.grace_epochs} must not exceed epochs {self.epochs}")
        return self
