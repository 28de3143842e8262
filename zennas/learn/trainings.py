"""The short trainings: the first ones chosen before any model is, the rest one by one where most is to be gained."""

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from zennas.learn.choosing import first_to_train, next_to_train
from zennas.learn.model import fit
from zennas.learn.request import Request
from zennas.learn_plan import LEAST_TRAINED
from zennas.progress import Progress, silent
from zennas.ranks import join
from zennas.records import UserError
from zennas.score.learned import width_prior
from zennas.search.measured import Measured
from zennas.space.candidate import Candidate
from zennas.tasks.judging import Groups
from zennas.tasks.learning import Learning
from zennas.tasks.table import learning_of, task_of
from zennas.train.prepare import check_batches, prepare
from zennas.trials.engine import Job, Outcome, fair_share, run_jobs, workers
from zennas.trials.trial import REWARD, Opened, train_judged


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all trainings of a run share. It travels to other processes and machines; what it names lies where they all
    see it."""

    request: Request
    groups: Groups
    fields: dict[str, Any]  # of a training's Request, by which the task says what is trained on

    @property
    def learning(self) -> Learning:
        """What the task learns by."""
        return learning_of(self.request.task)


def run_trainings(
    setting: Setting, pool: Sequence[Measured], progress: Progress, *, log: pathlib.Path
) -> dict[str, Outcome]:
    """{key of a Job: Outcome} of all trainings, in their order. What is finished is not run again."""
    request, plan, learning = setting.request, setting.request.learn, setting.learning
    with workers(request.num_workers, say=progress.say, threads=request.num_threads, address=request.address):
        return run_jobs(
            functools.partial(_train, setting=setting),
            first_jobs(request, pool),
            out=request.out,
            num_at_once=request.num_workers,
            share=fair_share(request.num_workers, request.num_threads, request.device),
            place=progress.place,
            log=log,
            propose=functools.partial(next_job, request, pool),
            most=plan.trainings + plan.twice,
            measure=learning.measure(plan),
            unit=learning.unit,
        )


def job_of(candidate: Candidate, seed: int) -> Job:
    """The Job of training a candidate with a seed."""
    return Job(
        f"{candidate.key}-{seed}", f"{candidate.text}, seed {seed}", {"candidate": candidate.plain(), "seed": seed}
    )


def first_jobs(request: Request, pool: Sequence[Measured]) -> list[Job]:
    """The trainings that are chosen before any model is; then some of their candidates again, with another seed: of
    those that fill the space and of the prior's in turn."""
    plan = request.learn
    rows = first_to_train(*features_and_prior(request, pool), plan.first, prior_share=plan.prior_share)
    filling, by_prior = rows[: plan.first - plan.num_by_prior], rows[plan.first - plan.num_by_prior :]
    in_turn = [row for pair in zip(filling, by_prior, strict=False) for row in pair]
    again = [*in_turn, *filling[len(by_prior) :], *by_prior[len(filling) :]][: plan.twice]
    seeds = [(row, plan.seed) for row in rows] + [(row, plan.seed + 1) for row in again]
    return [job_of(pool[row].candidate, seed) for row, seed in seeds]


def next_job(
    request: Request, pool: Sequence[Measured], finished: dict[str, Outcome], under_way: tuple[Job, ...]
) -> Job | None:
    """The training of the candidate whose interval reaches highest; None where nothing is left, or too little is
    known."""
    feature_NF, _ = features_and_prior(request, pool)
    known = rewards(pool, finished, seed=request.learn.seed)
    begun = {job.values["seed"]: set() for job in under_way}
    for job in (*(outcome.job for outcome in finished.values()), *under_way):
        begun.setdefault(job.values["seed"], set()).add(Candidate(**job.values["candidate"]).key)
    taken = [row for row, entry in enumerate(pool) if entry.key in begun.get(request.learn.seed, ())]
    if len(known) < LEAST_TRAINED or len(set(known.values())) < 2:
        return None
    rows = list(known)
    row = next_to_train(fit(feature_NF[rows], np.array([known[row] for row in rows])), feature_NF, taken)
    return None if row is None else job_of(pool[row].candidate, request.learn.seed)


def features_and_prior(request: Request, pool: Sequence[Measured]) -> tuple[np.ndarray, np.ndarray]:
    """(feature_NF, prior_N) of a pool: log genes, and the prior by which half of the first ones are chosen."""
    genes_NG = np.array([entry.candidate.genes for entry in pool])
    return np.log(genes_NG), width_prior(genes_NG, request.space)


def rewards(pool: Sequence[Measured], outcomes: dict[str, Outcome], *, seed: int) -> dict[int, float]:
    """{row of the pool: reward} of its candidates that were trained to the end with this seed."""
    ended = {key: outcome.numbers[REWARD] for key, outcome in outcomes.items() if outcome.error is None}
    keys = {row: job_of(entry.candidate, seed).key for row, entry in enumerate(pool)}
    return {row: float(ended[key]) for row, key in keys.items() if key in ended}


def opened_teacher(request: Request) -> Any:
    """The teacher of all trainings, which has a fingerprint; None where there is none. UserError where it cannot be
    used."""
    candidate = request.space.cheapest()  # whichever: a teacher is the same for all
    training = request.short_training(candidate, seed=request.learn.seed, out=request.out, fields={})
    return task_of(request.task).open_teacher(training, join(request.device))


def short_fields(request: Request, source: Any, groups: Groups, folder: pathlib.Path) -> dict[str, Any]:
    """Fields of the Request of a short training that say what it trains on."""
    learning = learning_of(request.task)
    return (learning.trained_short or learning.trained)(request, source, groups, folder)


def check_trainings(request: Request, source: Any, groups: Groups, teacher: Any) -> None:
    """UserError for what no training could use, before anything is measured, and before a folder is made of it."""
    task, ranks = task_of(request.task), join(request.device)
    with tempfile.TemporaryDirectory() as folder:
        fields = short_fields(request, source, groups, pathlib.Path(folder))
        training = request.short_training(
            request.space.cheapest(), seed=request.learn.seed, out=request.out, fields=fields
        )
        task.check_plan(training.plan, request.name)
        check_batches(training, task.open_data(training, silent()), teacher, ranks, silent())


def ready_teacher(setting: Setting, teacher: Any, candidate: Candidate, progress: Progress) -> None:
    """Ask the teacher once about all that is trained on, before several trainings would ask at the same time."""
    request, task = setting.request, task_of(setting.request.task)
    training = request.short_training(candidate, seed=request.learn.seed, out=request.out, fields=setting.fields)
    prepare(training, task.open_data(training, progress), teacher, join(request.device), progress)


def _train(job, folder, report, *, setting):
    """What a worker does: one short training, judged after every epoch."""
    request, learning = setting.request, setting.learning

    def opened(progress):
        source = learning.open_source(request, progress)
        candidate = Candidate(**job.values["candidate"])
        return Opened(
            request.short_training(candidate, seed=job.values["seed"], out=folder, fields=setting.fields),
            functools.partial(learning.judge, request, source),
            setting.groups.held_out,
        )

    train_judged(opened, folder, report=report, title=learning.title, num_threads=request.num_threads)


def check_enough(num: int, failed: Sequence[str]) -> None:
    """UserError where fewer trainings than a line takes ran to their end."""
    if num < LEAST_TRAINED:
        why = f"; the first that failed: {failed[0]}" if failed else ""
        raise UserError(f"{num} trainings ran to their end, and a line takes at least {LEAST_TRAINED}{why}")
