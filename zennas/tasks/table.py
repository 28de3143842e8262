"""TASKS: what a network can be for. One row is all that a new task takes here.

The table names its rows' modules and does not import them: an experiment is read by rooms that need no more of a task
than its plan, and a worker of Ray finds here what the driver found.
"""

import importlib
from typing import TYPE_CHECKING, NamedTuple

from zennas.records import UserError, suggestion

if TYPE_CHECKING:
    from zennas.learn_plan import LearnPlan
    from zennas.tasks.learning import Learning
    from zennas.tasks.task import Task
    from zennas.tasks.tuning import Tuning
    from zennas.train_plan import TrainPlan
    from zennas.tune_plan import TunePlan


class Row(NamedTuple):
    """Where a task's parts stand, each as MODULE:NAME. Modules of plans must import in an instant, so without torch."""

    plan: str  # the Record that `train:` of an experiment holds
    task: str  # the Task
    tune: str = "zennas.tune_plan:TunePlan"  # the Record that `tune:` holds
    tuning: str = ""  # the Tuning; "": recipes of this task are not searched
    learn: str = "zennas.learn_plan:LearnPlan"  # the Record that `learn:` holds
    learning: str = ""  # the Learning; "": nothing is learned from a few trainings of this task


TASKS = {
    "face": Row(
        plan="zennas.tasks.face.plan:FacePlan",
        task="zennas.tasks.face.task:FACE",
        tune="zennas.tasks.face.tune_plan:FaceTunePlan",
        tuning="zennas.tasks.face.tuning:TUNING",
        learn="zennas.tasks.face.learn_plan:FaceLearnPlan",
        learning="zennas.tasks.face.learning:LEARNING",
    ),
    "reid": Row(
        plan="zennas.tasks.reid.plan:ReidPlan",
        task="zennas.tasks.reid.task:REID",
        tune="zennas.tasks.reid.tune_plan:ReidTunePlan",
        tuning="zennas.tasks.reid.tuning:TUNING",
        learn="zennas.tasks.reid.learn_plan:ReidLearnPlan",
        learning="zennas.tasks.reid.learning:LEARNING",
    ),
}
FIRST = "face"  # the task of what names none: experiments and runs of before there was a second


def row_of(name: str) -> Row:
    """The row of a task. UserError for a name that the table does not know."""
    if name not in TASKS:
        raise UserError(f"task '{name}' is not known; {suggestion(str(name), list(TASKS))}")
    return TASKS[name]


def plan_of(name: str) -> "type[TrainPlan]":
    """The Record that `train:` holds in an experiment of this task."""
    return _loaded(row_of(name).plan)


def tune_plan_of(name: str) -> "type[TunePlan]":
    """The Record that `tune:` holds in an experiment of this task."""
    return _loaded(row_of(name).tune)


def check_tuned(name: str) -> None:
    """UserError for a task whose recipes are not searched."""
    if not row_of(name).tuning:
        tuned = ", ".join(task for task, row in TASKS.items() if row.tuning)
        raise UserError(f"task '{name}': its recipes are not searched; those of {tuned} are")


def tuning_of(name: str) -> "Tuning":
    """The Tuning of the task of this name. UserError where it has none."""
    check_tuned(name)
    return _loaded(row_of(name).tuning)


def learn_plan_of(name: str) -> "type[LearnPlan]":
    """The Record that `learn:` holds in an experiment of this task."""
    return _loaded(row_of(name).learn)


def check_learned(name: str) -> None:
    """UserError for a task from whose trainings nothing is learned."""
    if not row_of(name).learning:
        learned = ", ".join(task for task, row in TASKS.items() if row.learning)
        raise UserError(f"task '{name}': nothing is learned from its trainings; from those of {learned} it is")


def learning_of(name: str) -> "Learning":
    """The Learning of the task of this name. UserError where it has none."""
    check_learned(name)
    return _loaded(row_of(name).learning)


def task_of(name: str) -> "Task":
    """The Task of this name."""
    return _loaded(row_of(name).task)


def _loaded(place: str):
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)
