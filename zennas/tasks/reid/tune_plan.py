"""ReidTunePlan: what the comprehensive search may change of a recipe for people. The `tune:` part of an experiment
whose task is reid. Every range is our choice."""

from typing import Annotated, ClassVar

import pydantic

from zennas.records import Record
from zennas.tasks.identity.plan import HeldOutShare, TestShare, somebody_is_left
from zennas.train_plan import NotNegative
from zennas.tune_plan import Count, Positive, Span, TunePlan


class TripletSpace(Record):
    """The loss of distances that the recipe has (MINED of zennas/tasks/reid/losses.py): its margin, a distance, or a
    difference of cosines where it is `circle`; and its weight. A number: not searched."""

    margin: Span | NotNegative = Span(low=0.1, high=2.0, log=True)
    triplet_weight: Span | Positive = Span(low=0.25, high=4.0, log=True)


class SoftmaxSpace(Record):
    """The knob of every classifier. A number: not searched."""

    smoothing: Span | Annotated[float, pydantic.Field(ge=0, lt=1)] = Span(low=0.0, high=0.3)


class ReidRewardPlan(Record):
    """mAP on people whom a trial does not train on: each of their images is asked for among all others."""

    # Shares of the people, where --held-out and --test name none. Test is looked at when the search is over.
    held_out_share: HeldOutShare = 0.1
    test_share: TestShare = 0.1
    max_images: Count = 16  # of a person

    _somebody_is_left = pydantic.model_validator(mode="after")(somebody_is_left)


class ReidTunePlan(TunePlan):
    """The comprehensive search for people. A space of None is not searched: there the recipe stays as it is."""

    FACTORS: ClassVar[dict[str, tuple[str, ...]]] = {
        "triplet": ("margin", "triplet_weight"),
        "softmax": ("smoothing",),
    }

    triplet: TripletSpace | None = TripletSpace()
    softmax: SoftmaxSpace | None = SoftmaxSpace()
    reward: ReidRewardPlan = ReidRewardPlan()
