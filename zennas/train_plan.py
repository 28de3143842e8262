"""TrainPlan: what every training has, whatever its network is for. The `train:` part of an experiment is one of its
tasks' own, which adds the loss, the data and what else is particular to it (zennas/tasks/NAME/plan.py).
"""

from typing import Annotated, Literal

import pydantic

from zennas.records import Record

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, pydantic.Field(ge=1, lt=2**31)]  # as far as the numbers of every library below reach
Knobs = dict[str, float | int | bool | str | list[float] | list[int]]

TRUST = 0.001  # LARS's coefficient for networks of convolutions (You et al. 2017, section 5)

# What may change from one start of a run to the next. It does not change the result.
NOT_OF_THE_RUN = {
    "accumulate",  # another number of ranks wants another
    "channels_last",
    "checkpoint_minutes",
    "compile",
    "keep_checkpoints",
    "max_skipped_in_a_row",
    "verify_epochs",
}

# part of the plan -> {value of it: the names that have it}; a value not listed belongs to every name
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


class DataPlan(Record):
    """How samples are read."""

    # Decoding processes of a rank; None: its share of the cores.
    workers: Annotated[int, pydantic.Field(ge=0)] | None = None


class TrainPlan(Record):
    """The training of one network, but for what its task adds."""

    epochs: Positive = 20
    batch: Count = 1024  # samples a step, over all ranks and micro-batches
    accumulate: Count = 1  # micro-batches a step
    seed: Annotated[int, pydantic.Field(ge=0, lt=2**31)] = 0
    # Of the backbone; auto: bf16 on a GPU that has it, fp16 on another, fp32 on a processor.
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    channels_last: bool = True
    compile: bool = False  # torch.compile the backbone; pays on a GPU after the first minutes
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

    def of_the_run(self) -> dict:
        """What of the plan makes a run this run, as plain values; a run that is resumed must agree in all of it."""
        values = self.model_dump(mode="json", exclude=NOT_OF_THE_RUN)
        values["data"].pop("workers")
        return values
