"""FacePlan: how a network learns to tell faces apart. The `train:` part of an experiment whose task is face.

Names resolve in losses.py and distill.py beside this file, in zennas/data/images.py (augmentations) and zennas/mask.
"""

from typing import Annotated

import pydantic

from zennas.records import Record
from zennas.space.shape import ImagePx
from zennas.train_plan import Count, DataPlan, Knobs, NotNegative, OptimizerPlan, Positive, TrainPlan


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
    # The student sees its images at one of these sizes and back, the teacher as they are; (): as they are, too.
    student_px: tuple[Count, ...] = ()
    # The teacher's embeddings of the images as they are, once; False: of every augmented image, anew.
    precompute: bool = True
    teacher: TeacherPlan = TeacherPlan()

    @pydantic.model_validator(mode="after")
    def _something_counts(self):
        if self.weight == 0 and self.class_weight == 0:
            raise ValueError("weight and class_weight not both 0: nothing would be left to learn")
        return self


class FaceOptimizerPlan(OptimizerPlan):
    """How weights and class centres move."""

    centre_lr: Positive = 1.0  # of the class centres, times the backbone's


class MaskPlan(Record):
    """Masks rendered onto faces, before the augmentations."""

    ratio: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.15  # of the images, drawn anew every epoch; mind_ft's
    kinds: tuple[str, ...] | None = None  # rows of KINDS; None: all, or none where there are textures
    textures: str | None = None  # a folder of templates of one's own
    # Where a face stands in its image.
    # aligned: on the template
    # detect: anywhere
    # auto: aligned if the image is a small square and the face fits the template
    faces: str = "aligned"
    knobs: Knobs = {}  # how far masks vary: those of mask.render.vary


class FaceDataPlan(DataPlan):
    """What becomes of an image before the network sees it, and which images come."""

    augment: dict[str, Knobs] = {"flip": {"p": 0.5}}  # rows of AUGMENTATIONS, in order, with their knobs
    mask: MaskPlan | None = None  # None: nobody is masked
    # Identity-balanced: so many of everyone an epoch; None: every image once.
    images_per_identity: Annotated[int, pydantic.Field(ge=1, le=100_000)] | None = None


class FacePlan(TrainPlan):
    """The training of one network that tells faces apart."""

    loss: LossPlan = LossPlan()
    distill: DistillPlan = DistillPlan()  # in force where --teacher is given
    optimizer: FaceOptimizerPlan = FaceOptimizerPlan()
    data: FaceDataPlan = FaceDataPlan()

    def of_the_run(self) -> dict:
        """As TrainPlan; templates of masks are what they hold, not where they lie."""
        values = super().of_the_run()
        mask = values["data"].pop("mask")
        if mask is not None:  # a run without masks is what it was before there were any
            if mask["textures"] is not None:
                from zennas.mask.masker import TEXTURES, templates_fingerprint

                mask["textures"] = templates_fingerprint(mask["textures"], where=TEXTURES)
            values["data"]["mask"] = mask
        return values
