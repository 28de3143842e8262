"""Parts of the plans of tasks that tell identities apart: the margin loss over class centres, what a teacher teaches,
how class centres move, whom nobody trains on.

Names resolve in losses.py and distill.py beside this file.
"""

from typing import Annotated, Any

import pydantic

from zennas.records import Record
from zennas.space.shape import ImagePx
from zennas.train_plan import Count, Knobs, NotNegative, OptimizerPlan, Positive

HeldOutShare = Annotated[float, pydantic.Field(gt=0, lt=1)]  # of the identities
TestShare = Annotated[float, pydantic.Field(ge=0, lt=1)]  # the same; 0: nobody is kept for the end


class LossPlan(Record):
    """The margin loss and what the sampled softmax does with it."""

    name: str = "balanced_curricular"  # a row of LOSSES
    knobs: Knobs = {}  # margins, scale, ...: those of the row's functions
    sampling_rate: Annotated[float, pydantic.Field(gt=0, le=1)] = 1.0  # of the class centres, a step
    filter_threshold: Annotated[float, pydantic.Field(gt=-1, lt=1)] | None = None  # negatives more similar are left out
    correct_sampling: bool = False  # weigh sampled negatives by one over their probability


class TeacherPlan(Record):
    """What the teacher expects of an image. Its file is given on the command line."""

    mean: tuple[float, float, float] = (127.5, 127.5, 127.5)  # of 0..255, RGB
    std: tuple[Positive, Positive, Positive] = (127.5, 127.5, 127.5)
    image_px: ImagePx | None = None  # a side, or [height, width]; None: what its file says, or else the student's


class DistillPlan(Record):
    """What the student learns of a teacher, beside the labels."""

    name: str = "l2"  # a row of DISTILLATIONS
    weight: NotNegative | None = None  # of the distillation; None: as published, or 1 (the row's)
    class_weight: NotNegative = 1.0  # of the margin loss beside it; 0 is distillation alone
    knobs: Knobs = {}
    # The student sees its images at one of these sizes (of the short side) and back, the teacher as they are; (): as
    # they are, too.
    student_px: tuple[Count, ...] = ()
    # The teacher's embeddings of the images as they are, once; False: of every augmented image, anew.
    precompute: bool = True
    teacher: TeacherPlan = TeacherPlan()

    @pydantic.model_validator(mode="after")
    def _something_counts(self):
        if self.weight == 0 and self.class_weight == 0:
            raise ValueError("weight and class_weight not both 0: nothing would be left to learn")
        return self


class IdentityOptimizerPlan(OptimizerPlan):
    """How weights and class centres move."""

    centre_lr: Positive = 1.0  # of the class centres, times the backbone's


def somebody_is_left(plan: Any) -> Any:
    """The plan itself, a validator; ValueError where its held_out_share and test_share leave nobody to train on."""
    if plan.held_out_share + plan.test_share >= 1:
        raise ValueError("held_out_share + test_share below 1: somebody must be trained on")
    return plan
