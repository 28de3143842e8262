"""FaceTunePlan: what the comprehensive search may change of a recipe for faces. The `tune:` part of an experiment whose
task is face.

The three spaces, the reward's weights and its FPRs are those of Towards Robust Face Recognition with Comprehensive
Search (ECCV 2022, arXiv:2208.13600). Its ranges, step counts and controller are not published in what we could read:
every range here is our choice.
"""

from typing import Annotated, ClassVar

import pydantic

from zennas.records import Record
from zennas.tasks.identity.plan import HeldOutShare, TestShare, somebody_is_left
from zennas.tune_plan import Count, Positive, Span, TunePlan

Share = Annotated[float, pydantic.Field(gt=0, lt=1)]
Cosine = Annotated[float, pydantic.Field(ge=-1, le=1)]


class CleaningSpace(Record):
    """Two cosines of embeddings. None: not done."""

    # Identities whose centres are more alike are one. Below, different people of one network's embeddings are merged
    # too.
    tau_inter: Span | Cosine | None = Span(low=0.6, high=0.95)
    # Images that are no more alike to their identity's centre are left out; 0.25 was best on MS1M (mind_ft), of another
    # network.
    tau_intra: Span | Cosine | None = Span(low=0.0, high=0.6)


class MarginSpace(Record):
    """The knobs of `unified_margin` (zennas/tasks/identity/losses.py). A number: not searched."""

    m1: Span | Positive = Span(low=0.8, high=1.4)
    m2_rad: Span | float = Span(low=0.0, high=0.5)
    m3: Span | float = Span(low=0.0, high=0.4)
    s_p: Span | Positive = Span(low=16, high=64, log=True)
    s_n: Span | Positive = Span(low=16, high=64, log=True)


class RewardPlan(Record):
    """The weighted TPR over all pairs of people whom a trial does not train on."""

    fprs: tuple[Share, ...] = (1e-3, 1e-4, 1e-5)
    weights: tuple[Positive, ...] = (0.5, 0.25, 0.25)
    # Shares of the identities, where --held-out and --test name none. Test is looked at when the search is over.
    held_out_share: HeldOutShare = 0.1
    test_share: TestShare = 0.1
    max_images: Count = 10  # of an identity: its pairs grow with the square of them

    @pydantic.model_validator(mode="after")
    def _weights_fit(self):
        if len(self.fprs) != len(self.weights) or not self.fprs or len(set(self.fprs)) < len(self.fprs):
            raise ValueError(f"as many weights as different fprs; given {list(self.fprs)} and {list(self.weights)}")
        return self

    _somebody_is_left = pydantic.model_validator(mode="after")(somebody_is_left)


class FaceTunePlan(TunePlan):
    """The comprehensive search for faces. A space of None is not searched: there the recipe stays as it is."""

    FACTORS: ClassVar[dict[str, tuple[str, ...]]] = {
        "cleaning": ("tau_inter", "tau_intra"),
        "margin": ("m1", "m2_rad", "m3", "s_p", "s_n"),
    }

    cleaning: CleaningSpace | None = CleaningSpace()
    margin: MarginSpace | None = MarginSpace()
    reward: RewardPlan = RewardPlan()
