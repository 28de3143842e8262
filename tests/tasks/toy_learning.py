"""What a learning from a few trainings asks of the toy: how little a network is off on pictures kept back."""

from typing import Annotated, Any

import pydantic

from tests.tasks import toy
from tests.tasks.toy_tuning import LEVELS, judge, kept, split
from zennas.learn_plan import LearnPlan
from zennas.tasks.learning import Learning
from zennas.tasks.table import TASKS


class ToyLearnPlan(LearnPlan):
    """The learning from networks that see how bright a picture is."""

    held_out_share: Annotated[float, pydantic.Field(gt=0, lt=0.5)] = 0.25  # and as much for the test

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # A worker of Ray that is sent a learning finds the toy's row, as it finds those of the package.
        super().__setstate__(state)
        TASKS.setdefault("toy", toy.ROW)


TOY_LEARNING = Learning(
    open_source=lambda request, progress: toy.opened(request.data),
    split=lambda request, source: split(request.learn, source),
    judge=judge,
    title=lambda name: "Off by" if name == "off" else None,
    described=lambda plan, groups: {"held_out": len(groups.held_out), "test": len(groups.test)},
    announced=lambda request, groups: {"train": f"{len(groups.trained)} pictures"},
    unit=LEVELS,
    trained=lambda request, source, groups, folder: kept(source, groups, folder),
    settings=lambda source, groups: {"data": f"{source.target_N2.sum():.6f}"},
    measure=lambda plan: "minus the error",
)
