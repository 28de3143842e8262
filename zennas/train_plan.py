"""TrainPlan: what every training has, whatever its network is for. The `train:` part of an experiment is one of its
tasks' own, which adds the loss, the data and what else is particular to it (zennas/tasks/NAME/plan.py).
"""

from typing import Annotated, Any, Literal

import pydantic

from zennas.records import Record

Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]
MOST_EPOCHS = 1_000_000  # more is a slip, and its steps may not be countable
Epochs = Annotated[float, pydantic.Field(gt=0, le=MOST_EPOCHS, allow_inf_nan=False)]
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
    "verify_steps",
}

# Lengths that are said in epochs or in steps: the one or the other.
IN_STEPS = {
    "epochs": "steps",
    "verify_epochs": "verify_steps",
    "warmup_epochs": "warmup_steps",
    "milestones": "milestone_steps",
}

# part of the plan -> {value of it: the names that have it}; a value not listed belongs to every name
ONLY_OF = {
    "optimizer": {"momentum": ("sgd", "lars")},
    "schedule": {
        "power": ("polynomial",),
        "milestones": ("step",),
        "milestone_steps": ("step",),
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


def _check_one_unit(plan):
    """ValueError for a length that is given in epochs and in steps."""
    for epochs, steps in IN_STEPS.items():
        # Steps of 0 are given, too; epochs of 0 may be the default.
        if getattr(plan, epochs, None) and getattr(plan, steps, None) not in (None, ()):
            raise ValueError(
                f"either {epochs} or {steps}; given both, {_text(getattr(plan, epochs))} and "
                f"{_text(getattr(plan, steps))}"
            )


def _text(length):
    return f"{length:g}" if isinstance(length, int | float) else str(list(length))


class SchedulePlan(Record):
    """How the learning rate goes down, after a linear warm-up."""

    name: Literal["polynomial", "step", "cosine", "constant"] = "polynomial"
    warmup_epochs: NotNegative = 0.0
    warmup_steps: Annotated[int, pydantic.Field(ge=0, lt=2**31)] | None = None  # the same in steps
    power: Positive = 1.0  # polynomial
    milestones: tuple[NotNegative, ...] = ()  # step: epochs at which it drops
    milestone_steps: tuple[Count, ...] = ()  # step: the same in steps
    factor: Annotated[float, pydantic.Field(gt=0, lt=1)] = 0.1  # step: what it drops by
    final_share: Annotated[float, pydantic.Field(ge=0, lt=1)] = 0.0  # polynomial, cosine: what is left of it at the end

    @pydantic.model_validator(mode="after")
    def _milestones_rise(self):
        for name in ("milestones", "milestone_steps"):
            given = getattr(self, name)
            if list(given) != sorted(set(given)):
                raise ValueError(f"{name} must rise; given {list(given)}")
        if self.name == "step" and not self.milestones and not self.milestone_steps:
            raise ValueError("a step schedule needs milestones (epochs) or milestone_steps")
        return self

    @pydantic.model_validator(mode="after")
    def _nothing_is_ignored(self):
        _check_only_of(self, "schedule")
        _check_one_unit(self)
        return self

    def num_warmup(self, steps_per_epoch: int) -> int:
        """The steps of the warm-up."""
        return self.warmup_steps or round(self.warmup_epochs * steps_per_epoch)

    def num_drops(self, step: int, steps_per_epoch: int) -> int:
        """How many milestones are reached at a step (from 0)."""
        if self.milestone_steps:
            return sum(step >= milestone for milestone in self.milestone_steps)
        return sum(step / steps_per_epoch >= milestone for milestone in self.milestones)


class DataPlan(Record):
    """How samples are read."""

    # Decoding processes of a rank; None: its share of the cores.
    workers: Annotated[int, pydantic.Field(ge=0)] | None = None


class TrainPlan(Record):
    """The training of one network, but for what its task adds."""

    epochs: Epochs | None = 20  # what one is, the task says
    steps: Count | None = None  # instead of epochs
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
    verify_epochs: Positive | None = 1.0  # between two verifications on the --verify sets
    verify_steps: Count | None = None  # the same in steps
    max_skipped_in_a_row: Count = 20  # steps without a finite loss and gradient, then the run stops

    @pydantic.model_validator(mode="before")
    @classmethod
    def _in_steps(cls, values: Any) -> Any:
        """What is given in steps alone leaves the default in epochs out."""
        if isinstance(values, dict):
            for epochs, steps in IN_STEPS.items():
                if values.get(steps) is not None and epochs not in values:
                    values = values | {epochs: None}
        return values

    @pydantic.model_validator(mode="after")
    def _fits_together(self):
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} must be a multiple of accumulate {self.accumulate}")
        _check_one_unit(self)
        for epochs, steps in (("epochs", "steps"), ("verify_epochs", "verify_steps")):
            if getattr(self, epochs) is None and getattr(self, steps) is None:
                raise ValueError(f"either {epochs} or {steps}; given neither")
        schedule = self.schedule
        if self.epochs is not None and schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs {schedule.warmup_epochs:g} must be less than epochs {self.epochs:g}"
            )
        if self.steps is not None and (schedule.warmup_steps or 0) >= self.steps:
            raise ValueError(f"schedule.warmup_steps {schedule.warmup_steps} must be less than steps {self.steps}")
        return self

    def num_steps(self, steps_per_epoch: int) -> int:
        """The steps of the training."""
        return self.steps or max(1, round((self.epochs or 0) * steps_per_epoch))

    def verify_every(self, steps_per_epoch: int) -> int:
        """The steps from one verification to the next."""
        return self.verify_steps or max(1, round((self.verify_epochs or 0) * steps_per_epoch))

    def of_the_run(self) -> dict:
        """What of the plan makes a run this run, as plain values; a run that is resumed must agree in all of it."""
        values = self.model_dump(mode="json", exclude=NOT_OF_THE_RUN)
        values["data"].pop("workers")
        # A run in epochs is what it was before there were steps.
        for part, name in (
            (values, "steps"),
            (values["schedule"], "warmup_steps"),
            (values["schedule"], "milestone_steps"),
        ):
            if not part[name]:
                del part[name]
        return values
