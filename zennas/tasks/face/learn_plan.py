"""FaceLearnPlan: by what the few trained candidates for faces are told apart. The `learn:` part of an experiment whose
task is face."""

from typing import Annotated, Literal

import pydantic

from zennas.learn_plan import LearnPlan
from zennas.tasks.identity.plan import HeldOutShare, TestShare, somebody_is_left

Share = Annotated[float, pydantic.Field(gt=0, lt=1)]


class FaceLearnPlan(LearnPlan):
    """A measure over all pairs of images of people whom no candidate is trained on.

    All pairs, because a list of them is not enough: the accuracy of LFW's 6,000 pairs tells networks of equal latency
    apart with a reliability of 0.17, the AUC of all pairs of 1,790 people with 0.88 (experiments/equal-latency).
    """

    measure: Literal["auc", "tar"] = "auc"  # tar hangs on fewer pairs: its reliability was 0.65 to 0.81
    far: Share = 1e-3  # of tar alone
    # Shares of the identities, where --held-out and --test name none. Test is looked at when all is chosen.
    held_out_share: HeldOutShare = 0.2
    test_share: TestShare = 0.1
    # Of either share at most so many; the others are trained on. All pairs of 20,000 images take 18 s of one core.
    max_people: Annotated[int, pydantic.Field(ge=2)] = 5000
    # Of a person: pairs grow with the square of them. One person with 530 images would be nine of ten same pairs of
    # LFW, and the measure one of how well that one is known.
    max_images: Annotated[int, pydantic.Field(ge=2)] = 4

    # What a short training takes at most, all images of identities that are drawn; None: all there is. Of the millions
    # that a winner is trained on, sixteen trainings would take as long as sixteen winners. How few are enough for an
    # order has been measured with 9,000 alone.
    short_images: Annotated[int, pydantic.Field(ge=2)] | None = 100_000

    @pydantic.model_validator(mode="after")
    def _far_is_of_tar(self):
        if self.measure != "tar" and self.far != type(self).model_fields["far"].default:
            raise ValueError(f"far is for measure tar; {self.measure} has none, leave it out")
        return self

    _somebody_is_left = pydantic.model_validator(mode="after")(somebody_is_left)
