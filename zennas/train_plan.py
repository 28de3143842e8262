"""TrainPlan: how a winner becomes a trained network. The `train:` part of an experiment; names resolve in train/ and
faces/.
"""

from typing import Annotated, Literal

import pydantic

from zennas.records import Record

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=1)]
Knobs = dict[str, float | int | bool | str | list[float] | list[int]]

TRUST = 0.001  # LARS's coefficient for networks of convolutions (You et al. 2017, section 5)

# part of the plan -> {value of it: the names that have it}; what is not here, every name has
ONLY_OF = {
    "optimizer": {"momentum": ("sgd", "lars")},
    "schedule": {
        "power": ("polynomial",),
        "milestones": ("step",),
        "factor": ("step",),
        "final_share": ("polynomial", "cosine"),
    },
}


def _check_only_of(plan, part):
    """ValueError for a value that is not its default and that what `plan` names does not have: it would be ignored."""
    for value, having in ONLY_OF[part].items():
        default = type(plan).model_fields[value].default
        if plan.name not in having and getattr(plan, value) != default:
            raise ValueError(f"{value} is for {', '.join(having)}; {plan.name} has none, leave it out")


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
    image_px: Count | None = None  # None: what its file says, or else the student's


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


class OptimizerPlan(Record):
    """How weights move."""

    name: Literal["sgd", "adamw", "lars"] = "sgd"
    lr: Positive = 0.1  # at a batch of lr_batch; scaled in proportion to the batch
    lr_batch: Count = 1024
    momentum: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.9  # sgd, lars
    weight_decay: NotNegative = 5e-4
    # Weight decay on norms, biases and PReLU slopes too (arcface_torch does, CVLFace does not).
    decay_norms: bool = True
    clip_norm: Positive | None = 5.0  # of the backbone's gradient; None: never clipped
    centre_lr: Positive = 1.0  # of the class centres, times the backbone's

    @pydantic.model_validator(mode="after")
    def _nothing_is_ignored(self):
        _check_only_of(self, "optimizer")
        return self


class SchedulePlan(Record):
    """How the learning rate goes down, after a linear warm-up."""

    name: Literal["polynomial", "step", "cosine", "constant"] = "polynomial"
    warmup_epochs: NotNegative = 0.0
    power: Positive = 1.0  # polynomial
    milestones: tuple[NotNegative, ...] = ()  # step: epochs at which it drops
    factor: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.1  # step: what it drops by
    final_share: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0  # polynomial, cosine: what is left of it at the end

    @pydantic.model_validator(mode="after")
    def _milestones_rise(self):
        if list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones must rise; given {list(self.milestones)}")
        if self.name == "step" and not self.milestones:
            raise ValueError("a step schedule needs milestones (epochs)")
        return self

    @pydantic.model_validator(mode="after")
    def _nothing_is_ignored(self):
        _check_only_of(self, "schedule")
        return self


class MaskPlan(Record):
    """Masks rendered onto faces, before the augmentations."""

    ratio: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.15  # of the images, drawn anew every epoch; mind_ft's
    kinds: tuple[str, ...] | None = None  # rows of KINDS; None: all, or none where there are textures
    textures: str | None = None  # a folder of templates of one's own
    # Where a face stands in its image: aligned, detect (anywhere), auto (aligned in a small square, unless it is off
    # there).
    faces: str = "aligned"
    knobs: Knobs = {}  # how far masks vary: those of mask.render.vary


class DataPlan(Record):
    """What becomes of an image before the network sees it, and which images come."""

    augment: dict[str, Knobs] = {"flip": {"p": 0.5}}  # rows of AUGMENTATIONS, in order, with their knobs
    mask: MaskPlan | None = None  # None: nobody is masked
    images_per_identity: Count | None = None  # identity-balanced: so many of everyone an epoch; None: every image once
    # Decoding processes of a rank; None: its share of the cores.
    workers: Annotated[int, pydantic.Field(ge=0)] | None = None


class TrainPlan(Record):
    """The training of one network."""

    epochs: Positive = 20
    batch: Count = 1024  # images a step, over all ranks and micro-batches
    accumulate: Count = 1  # micro-batches a step
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 0
    # Of the backbone; auto: bf16 on a GPU that has it, fp16 on another, fp32 on a processor.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False  # torch.compile the backbone; pays on a GPU after the first minutes
    loss: LossPlan = LossPlan()
    distill: DistillPlan = DistillPlan()  # in force where --teacher is given
    optimizer: OptimizerPlan = OptimizerPlan()
    schedule: SchedulePlan = SchedulePlan()
    data: DataPlan = DataPlan()
    checkpoint_minutes: Positive = 10.0
    keep_checkpoints: Count = 2
    verify_epochs: Positive = 1.0  # between two verifications on the --verify sets
    max_skipped_in_a_row: Count = 20  # steps without a finite loss and gradient, then the run stops

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} must be a multiple of accumulate {self.accumulate}")
        if self.schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {self.schedule.warmup_epochs:g} must be less than epochs {self.epochs:g}"
            )
        return self
