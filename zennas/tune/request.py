"""From what a user asks to the Request of a comprehensive search, and what makes it this run."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from zennas.provenance import command_line, num_cores
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.space import Space
from zennas.tasks.table import FIRST, check_tuned, tuning_of
from zennas.track import Track, load_experiment
from zennas.train.options import Options as TrainOptions
from zennas.train.request import Request as TrainRequest
from zennas.train.request import check as check_training
from zennas.train_plan import NOT_OF_THE_RUN, TrainPlan
from zennas.tune.options import Options
from zennas.tune.proposal import factors_of
from zennas.tune_plan import TunePlan


@dataclasses.dataclass(frozen=True)
class Request:
    """A comprehensive search as it is done.

    It travels to other processes and machines, so it holds values only; paths are absolute.
    """

    name: str  # of the experiment
    asked_track: str  # as the user gave it: a name or a path
    track: Track
    space: Space
    plan: TrainPlan  # the recipe as it stands
    tune: Any  # the TunePlan of the task
    candidate: Candidate
    data: pathlib.Path
    out: pathlib.Path
    shown_out: pathlib.Path  # as the user gave it
    faces: str = "auto"  # what --faces says of the data
    embeddings_from: str | None = None
    held_out: pathlib.Path | None = None
    test: pathlib.Path | None = None
    device: str | None = None
    num_workers: int = 1  # trials at once
    num_threads: int = 1  # of each
    address: str | None = None
    resume: bool = False
    fresh: bool = False
    command: str = ""
    task: str = FIRST  # a row of TASKS

    def training(
        self, *, plan: TrainPlan, candidate: Candidate, out: pathlib.Path, options: Mapping[str, Any]
    ) -> TrainRequest:
        """The Request of one training of this search. options: fields of it by which the task says what is trained
        on."""
        training = TrainRequest(
            name=self.name,
            asked_track=self.asked_track,
            track=self.track,
            space=self.space,
            plan=plan,
            candidate=candidate,
            data=self.data,
            # A trial takes the images as the search took them: what was looked at once is not looked at again.
            faces=self.faces,
            out=out,
            any_size=True,
            device=self.device,
            task=self.task,
        )
        return dataclasses.replace(training, **options)

    def settings(self, of_the_task: Mapping[str, Any]) -> dict[str, Any]:
        """What makes this run this run: a resumed one must agree in all of it. of_the_task: what its data, groups and
        model are."""
        task = {} if self.task == FIRST else {"task": self.task}
        return {
            "experiment": self.name,
            "candidate": self.candidate.plain(),
            "space": self.space.name,
            **self.space.shape.plain(),
            **of_the_task,
            **task,
            "tune": self.tune.model_dump(mode="json"),
            "train": self.plan.model_dump(mode="json", exclude=NOT_OF_THE_RUN),
        }


def check(options: Options) -> Request:
    """The Request of these options; UserError for what cannot be used."""
    tune = tune_plan(options.track, trials=options.trials, epochs=options.epochs, seed=options.seed, only=options.only)
    trained = check_training(
        TrainOptions.of(
            data=options.data,
            faces=options.faces,
            track=options.track,
            winner=options.winner,
            out=options.out,
            set=options.set,
            space=options.space,
            device=options.device,
        )
    )
    workers = options.workers or num_cores()
    # Of a cluster's machines nothing is known here.
    threads = options.threads or (1 if options.address else max(1, num_cores() // workers))
    for name, path in (("--held-out", options.held_out), ("--test", options.test)):
        if path is not None and not path.is_file():
            raise UserError(f"{name} {path}: no such file")
    tuning_of(trained.task).check(options, tune)
    out = options.out or pathlib.Path("runs") / f"{trained.name}-tuned"
    return Request(
        name=trained.name,
        asked_track=options.track,
        track=trained.track,
        space=trained.space,
        plan=trained.plan,
        tune=tune,
        candidate=trained.candidate,
        data=options.data.resolve(),
        out=out.resolve(),
        shown_out=out,
        faces=options.faces,
        embeddings_from=options.embeddings_from,
        held_out=options.held_out,
        test=options.test,
        device=options.device,
        num_workers=workers,
        num_threads=threads,
        address=options.address,
        command=command_line(),
        task=trained.task,
        resume=options.resume,
        fresh=options.fresh,
    )


def tune_plan(
    track: str,
    *,
    trials: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    only: Sequence[str] = (),
) -> TunePlan:
    """The experiment's TunePlan, changed by the command line."""
    experiment, *_ = load_experiment(track)
    check_tuned(experiment.task)
    given = {"trials": trials, "epochs": epochs, "seed": seed}
    values = experiment.tune.model_dump() | {name: value for name, value in given.items() if value is not None}
    factors = factors_of(experiment.tune)
    for name in only:
        if name not in factors:
            raise UserError(f"--only {name}: allowed: {', '.join(factors)}")
        if values[name] is None:
            raise UserError(f"--only {name}: the experiment's tune.{name} is null; there is nothing to search in it")
    if only:
        values |= {name: None for name in factors if name not in only}
    plan = type(experiment.tune).parse(values, "command line")
    if all(getattr(plan, name) is None for name in factors):
        raise UserError(f"{track}: tune has nothing to search: {', '.join(factors)} are all null")
    return plan
