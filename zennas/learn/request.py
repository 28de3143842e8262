"""From what a user asks to the Request of a learning run, and what makes it this run."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from zennas.learn.options import Options
from zennas.learn_plan import LearnPlan
from zennas.records import UserError
from zennas.search.options import Options as SearchOptions
from zennas.search.run import check as check_search
from zennas.search.stages import Checked
from zennas.space.candidate import Candidate
from zennas.tasks.table import FIRST, check_learned
from zennas.track import Experiment, load_experiment
from zennas.train.options import Options as TrainOptions
from zennas.train.request import Request as TrainRequest
from zennas.train.request import check_recipe
from zennas.train_plan import NOT_OF_THE_RUN
from zennas.trials.request import TrialsRequest, fields_of

LATENCY, SHARED = "latency", "shared"  # folders in that of a run


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request(TrialsRequest):
    """A learning run as it is done."""

    learn: LearnPlan  # of the task
    faces: str = "auto"  # what --faces says of the data
    teacher: str | None = None

    def of_every_training(self) -> dict[str, Any]:
        """A training takes the images as the run took them, and its teacher's answers from one place."""
        return {"faces": self.faces, "teacher": self.teacher, "shared": self.out / SHARED}

    def short_training(
        self, candidate: Candidate, *, seed: int, out: pathlib.Path, fields: Mapping[str, Any]
    ) -> TrainRequest:
        """The Request of one short training. fields: those by which the task says what is trained on."""
        plan = self.short_plan(epochs=self.learn.epochs, seed=seed)
        return self.training(plan=plan, candidate=candidate, out=out, options=fields)

    def settings(
        self, of_the_task: Mapping[str, Any], latency: Mapping[str, Any], teacher_print: str | None
    ) -> dict[str, Any]:
        """What makes this run this run: a resumed one must agree in all of it. of_the_task: what its data and groups
        are; latency: what the candidates' latencies are of; teacher_print: the teacher's fingerprint, or None."""
        task = {} if self.task == FIRST else {"task": self.task}
        return {
            "experiment": self.name,
            "space": self.space.model_dump(mode="json"),
            **of_the_task,
            **task,
            **latency,
            "teacher": teacher_print,
            "learn": self.learn.model_dump(mode="json"),
            "train": self.plan.model_dump(mode="json", exclude=NOT_OF_THE_RUN),
        }


@dataclasses.dataclass(frozen=True)
class Asked:
    """A learning run, checked, and the search that measures its candidates."""

    request: Request
    latency: Checked


def check(options: Options) -> Asked:
    """What the options ask for; UserError for what cannot be used. Nothing is touched."""
    out = options.out or pathlib.Path("runs") / f"{load_experiment(options.track)[0].name}-learned"
    experiment, track, space, recipe = check_recipe(
        TrainOptions.of(
            data=options.data,
            faces=options.faces,
            track=options.track,
            out=out,
            teacher=options.teacher,
            set=options.set,
            space=options.space,
            device=options.device,
        )
    )
    check_learned(experiment.task)
    plan = learn_plan(options, experiment)
    fields = fields_of(options, out=out)
    if options.latency_device is not None and options.address is None:
        raise UserError(
            f"--latency-device {options.latency_device}: names nodes of a cluster, so give its --address; without one "
            "this machine measures"
        )
    latency = check_search(
        SearchOptions.of(
            track=options.track,
            out=out / LATENCY,
            candidates=1,  # nothing is searched here
            seed=plan.seed,
            budget_ms=options.budget_ms,
            backend=options.backend,
            images=options.images,
            space=options.space,
            address=options.address,
            device=options.latency_device,
        )
    )
    # One optimum of Zen-Score is enough to compare with; a search that hands out several proves each.
    latency = dataclasses.replace(latency, plan=latency.plan.model_copy(update={"bands": None}))
    request = Request(
        name=experiment.name,
        track=track,
        space=space,
        plan=recipe,
        learn=plan,
        task=experiment.task,
        faces=options.faces,
        teacher=_absolute(options.teacher),
        **fields,
    )
    return Asked(request, latency)


def learn_plan(options: Options, experiment: Experiment) -> LearnPlan:
    """The experiment's LearnPlan, changed by the command line."""
    given = {name: getattr(options, name) for name in ("trainings", "epochs", "seed")}
    values = experiment.learn.model_dump() | {name: value for name, value in given.items() if value is not None}
    # Fewer trainings than the first ones are all of them, and are chosen from as many candidates for each as before.
    values["pool"] = math.ceil(values["pool"] * values["trainings"] / experiment.learn.trainings)
    values["first"] = min(values["first"], values["trainings"])
    values["twice"] = min(values["twice"], values["first"])
    return type(experiment.learn).parse(values, "command line")


def _absolute(teacher: str | None) -> str | None:
    """A --teacher whose file every worker finds, whatever folder it stands in."""
    if teacher is None:
        return None
    path, comma, rest = teacher.partition(",")
    return f"{pathlib.Path(path).resolve()}{comma}{rest}"
