"""ReidLearnPlan: by what the few trained candidates for people are told apart. The `learn:` part of an experiment whose
task is reid."""

from typing import Annotated, Literal

import pydantic

from zennas.learn_plan import LearnPlan
from zennas.tasks.identity.plan import HeldOutShare, TestShare, somebody_is_left


class ReidLearnPlan(LearnPlan):
    """A measure on people whom no candidate is trained on: each of their images is asked for among all others."""

    measure: Literal["map", "rank_1"] = "map"  # rank 1 hangs on one image a query, mAP on all of them
    # Shares of the people, where --held-out and --test name none. Test is looked at when all is chosen.
    held_out_share: HeldOutShare = 0.2
    test_share: TestShare = 0.1
    # Of either share at most so many; the others are trained on.
    max_people: Annotated[int, pydantic.Field(ge=2)] = 1000
    max_images: Annotated[int, pydantic.Field(ge=2)] = 16  # of a person: cameras take turns, nobody rules the mean
    # What a short training takes at most, all images of people that are drawn; None: all there is.
    short_images: Annotated[int, pydantic.Field(ge=2)] | None = 100_000

    _somebody_is_left = pydantic.model_validator(mode="after")(somebody_is_left)
