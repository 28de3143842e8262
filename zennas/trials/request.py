"""What every room that trains many networks for a short while is asked for."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from zennas.provenance import command_line, num_cores
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.space import Space
from zennas.tasks.table import FIRST
from zennas.track import Track
from zennas.train.prepare import MAX_WORKERS
from zennas.train.request import Request, changed_plan
from zennas.train_plan import TrainPlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrialsRequest:
    """What all trainings of a run share. It travels to other processes and machines, so it holds values only; paths are
    absolute."""

    name: str  # of the experiment
    asked_track: str  # as the user gave it: a name or a path
    track: Track
    space: Space
    plan: TrainPlan  # the recipe as it stands
    data: pathlib.Path
    out: pathlib.Path
    shown_out: pathlib.Path  # as the user gave it
    held_out: pathlib.Path | None = None
    test: pathlib.Path | None = None
    device: str | None = None
    num_workers: int = 1  # trainings at once
    num_threads: int = 1  # of each
    address: str | None = None
    resume: bool = False
    fresh: bool = False
    command: str = ""
    task: str = FIRST  # a row of TASKS

    def short_plan(self, *, epochs: int, seed: int, changes: Iterable[str] = ()) -> TrainPlan:
        """The recipe, changed by KEY=VALUE and so long, and judged after every epoch.

        Of a recipe in steps, what its schedule has in steps keeps its place: all is drawn together to these epochs.
        """
        values = {"epochs": epochs, "seed": seed, "verify_epochs": 1, "keep_checkpoints": 1}
        schedule, whole = self.plan.schedule, self.plan.steps
        if whole is not None and schedule.warmup_steps:
            values["schedule.warmup_epochs"] = epochs * schedule.warmup_steps / whole
        if whole is not None and schedule.milestone_steps:
            values["schedule.milestones"] = [epochs * milestone / whole for milestone in schedule.milestone_steps]
        if self.plan.data.workers is None:  # a process that decodes beside one thread would be one too many
            values["data.workers"] = min(self.num_threads - 1, MAX_WORKERS)
        return changed_plan(self.plan, [*changes, *(f"{key}={value}" for key, value in values.items())])

    def training(
        self, *, plan: TrainPlan, candidate: Candidate, out: pathlib.Path, options: Mapping[str, Any]
    ) -> Request:
        """The Request of one training. options: fields of it by which the task says what is trained on."""
        training = Request(
            name=self.name,
            asked_track=self.asked_track,
            track=self.track,
            space=self.space,
            plan=plan,
            candidate=candidate,
            data=self.data,
            out=out,
            any_size=True,
            device=self.device,
            task=self.task,
        )
        return dataclasses.replace(training, **(self.of_every_training() | dict(options)))

    def of_every_training(self) -> dict[str, Any]:
        """Further fields that a room gives to all of its trainings."""
        return {}


def fields_of(options: Any, *, out: pathlib.Path) -> dict[str, Any]:
    """The fields of a TrialsRequest that are options of every such command. out: its --out, or what stands for it.

    UserError for a --held-out or a --test that is no file.
    """
    groups = {"held_out": options.held_out, "test": options.test}
    for name, path in groups.items():
        if path is not None and not path.is_file():
            raise UserError(f"--{name.replace('_', '-')} {path}: no such file")
    num_workers = options.workers or num_cores()
    # Of a cluster's machines nothing is known here; the cores of this one are shared out.
    left_open = 1 if options.address else max(1, num_cores() // num_workers)
    return {
        "asked_track": options.track,
        "data": options.data.resolve(),
        "out": out.resolve(),
        "shown_out": out,
        **{name: path and path.resolve() for name, path in groups.items()},
        "device": options.device,
        "num_workers": num_workers,
        "num_threads": options.threads or left_open,
        "address": options.address,
        "resume": options.resume,
        "fresh": options.fresh,
        "command": command_line(),
    }
