"""TunePlan: what the comprehensive search may change, and how. The `tune:` part of an experiment.

The three spaces, the reward's weights and its FPRs are those of Towards Robust Face Recognition with Comprehensive
Search (ECCV 2022, arXiv:2208.13600). Its ranges, step counts and controller are not published in what we could read:
every range here is our choice.
"""

from typing import Annotated

import pydantic

from zennas.records import Record

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=1)]
Share = Annotated[float, pydantic.Field(gt=0, lt=1)]
Cosine = Annotated[float, pydantic.Field(ge=-1, le=1)]


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


class CleaningSpace(Record):
    """Two cosines of embeddings. None: not done."""

    # Identities whose centres are more alike are one. Below, different people of one network's embeddings are merged
    # too.
    tau_inter: Span | Cosine | None = Span(low=0.6, high=0.95)
    # Images that are no more alike to their identity's centre are left out; 0.25 was best on MS1M (mind_ft), of another
    # network.
    tau_intra: Span | Cosine | None = Span(low=0.0, high=0.6)


class MarginSpace(Record):
    """The knobs of `unified_margin` (zennas/tasks/face/losses.py). A number: not searched."""

    m1: Span | Positive = Span(low=0.8, high=1.4)
    m2_rad: Span | float = Span(low=0.0, high=0.5)
    m3: Span | float = Span(low=0.0, high=0.4)
    s_p: Span | Positive = Span(low=16, high=64, log=True)
    s_n: Span | Positive = Span(low=16, high=64, log=True)


class BackboneSpace(Record):
    """Depth against width of the given candidate, at equal multiply-accumulates."""

    depth: Span = Span(low=0.5, high=2.0)  # times the blocks of every stage; the widths follow
    macs_tolerance_pct: Annotated[float, pydantic.Field(gt=0, lt=100)] = 5.0  # channels come in steps


class RewardPlan(Record):
    """The weighted TPR over all pairs of people whom a trial does not train on."""

    fprs: tuple[Share, ...] = (1e-3, 1e-4, 1e-5)
    weights: tuple[Positive, ...] = (0.5, 0.25, 0.25)
    # Shares of the identities, where --held-out and --test name none. Test is looked at when the search is over.
    held_out_share: Share = 0.1
    test_share: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.1
    max_images: Count = 10  # of an identity: its pairs grow with the square of them

    @pydantic.model_validator(mode="after")
    def _fit_together(self):
        if len(self.fprs) != len(self.weights) or not self.fprs or len(set(self.fprs)) < len(self.fprs):
            raise ValueError(f"as many weights as different fprs; given {list(self.fprs)} and {list(self.weights)}")
        if self.held_out_share + self.test_share >= 1:
            raise ValueError("held_out_share + test_share below 1: somebody must be trained on")
        return self


class AshaPlan(Record):
    """Successive halving without waiting: at epochs grace, grace x reduction, ... a trial below the best 1/reduction
    stops.
    """

    grace_epochs: Count = 1
    reduction: Annotated[float, pydantic.Field(gt=1)] = 3.0


class TunePlan(Record):
    """The comprehensive search. A space of None is not searched: there the recipe stays as it is."""

    trials: Count = 32  # the recipe as it stands is one of them, and the first
    epochs: Count = 5  # of a trial: a short run of `train`
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = (
        0  # of proposals, and of all trials: they differ in nothing else
    )
    # The best trial was lucky, too: it and the recipe are trained again with so many other seeds.
    confirm_seeds: Annotated[int, pydantic.Field(ge=0)] = 2
    # and so is its cleaning alone, its margin alone, its backbone alone: what is each worth?
    single_factors: bool = True
    cleaning: CleaningSpace | None = CleaningSpace()
    margin: MarginSpace | None = MarginSpace()
    backbone: BackboneSpace | None = BackboneSpace()
    reward: RewardPlan = RewardPlan()
    asha: AshaPlan = AshaPlan()

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.asha.grace_epochs > self.epochs:
            raise ValueError(f"asha.grace_epochs {self.asha.grace_epochs} must not exceed epochs {self.epochs}")
        return self
