"""From what a user asks to the Request of a comprehensive search, and what makes it this run."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.tasks.table import FIRST, check_tuned, tuning_of
from zennas.track import load_experiment
from zennas.train.options import Options as TrainOptions
from zennas.train.request import check as check_training
from zennas.train_plan import NOT_OF_THE_RUN
from zennas.trials.request import TrialsRequest, fields_of
from zennas.tune.options import Options
from zennas.tune.proposal import factors_of
from zennas.tune_plan import TunePlan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(TrialsRequest):
    """A comprehensive search as it is done."""

    tune: Any  # the TunePlan of the task
    candidate: Candidate
    faces: str = "auto"  # what --faces says of the data
    embeddings_from: str | None = None
    asked: dict[str, Any]  # handed_on of the options

    def of_every_training(self) -> dict[str, Any]:
        """A trial takes the images as the search took them: what was looked at once is not looked at again."""
        return {"faces": self.faces}

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
    out = options.out or pathlib.Path("runs") / f"{trained.name}-tuned"
    fields = fields_of(options, out=out)
    tuning_of(trained.task).check(options, tune, trained.plan)
    return Request(
        name=trained.name,
        track=trained.track,
        space=trained.space,
        plan=trained.plan,
        tune=tune,
        candidate=trained.candidate,
        task=trained.task,
        faces=options.faces,
        embeddings_from=options.embeddings_from,
        asked=handed_on(options),
        **fields,
    )


def handed_on(options: Options) -> dict[str, Any]:
    """The options of `zennas train` by which it trains as the trials do, those that the user left as they are aside."""
    asked = {"track": options.track, "data": options.data.resolve(), "set": options.set, "space": options.space}
    return asked | ({} if options.faces == "auto" else {"faces": options.faces})


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
