"""Trials on Ray (the only file of this room that imports it): the connection, what a trial takes of the machines, many
trainings at once, and how they go, told.
"""

import contextlib
import functools
import json
import logging
import os
import pathlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.tune.search import Searcher

from zennas.progress import Progress, duration, progress_at
from zennas.ray_connection import connect
from zennas.run_folder import write_atomically
from zennas.tasks.judging import PER_CENT, Unit
from zennas.train.journal import read_lines_of_json
from zennas.trials.trial import FAILED, REWARD, curve, end, is_done, read_json

METRIC, TIME = REWARD, "epoch"  # as Ray Tune is told them
RUN, JOBS, TRIALS = "ray", "jobs.jsonl", "trials"  # in the folder of a run
JOB = "job"
# Ray's state is written so often: what a kill may cost of the searcher's memory. A trial's own is its checkpoints.
SAVE_EVERY_S = 1
LOST = "its worker died"


@contextlib.contextmanager
def workers(num_workers: int, *, say: Callable, threads: int = 1, address: str | None = None) -> Iterator[None]:
    """A connection to Ray: a private one on this machine with processors for so many workers, or the cluster at
    `address`.
    """
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a failing trial's traceback; a Speaker says what it was
    logging.getLogger("optuna").setLevel(logging.WARNING)
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the trial's own journal says more
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C is commands.py's
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the other one prints a table however silent it is asked to be
    os.environ["TUNE_GLOBAL_CHECKPOINT_S"] = str(SAVE_EVERY_S)
    connect(address, say=say, num_cpus=num_workers * threads)
    try:
        yield
    finally:
        ray.shutdown()


def fair_share(num_workers: int, num_threads: int, device: str | None) -> dict[str, float]:
    """What a trial takes of the machines, as Ray names it: its threads, and of GPUs, where there are some, as much as
    lets so many trials run at once.
    """
    gpus = 0 if device == "cpu" else ray.cluster_resources().get("GPU", 0)
    return {"cpu": num_threads} | ({"gpu": min(1, gpus / num_workers)} if gpus else {})


def run_each(
    calls: Sequence[Callable[[], object]],
    *,
    share: Mapping[str, float],
    what: str,
    failed: Callable[[int, Exception], None],
    progress: Progress,
) -> None:
    """Call each in a process of its own, as many at once as there is room for. failed(place, error) is told what one
    raised, or that it was lost twice; the others go on. what: "trainings", for the progress.
    """
    resources = {f"num_{kind}s": amount for kind, amount in share.items()}
    remote = ray.remote(max_calls=1, max_retries=1, **resources)(_called)
    waiting = {remote.remote(call): place for place, call in enumerate(calls)}
    counting = progress.counting(what)
    while waiting:
        done, _ = ray.wait(list(waiting), timeout=1.0)
        for handle in done:
            place = waiting.pop(handle)
            try:
                ray.get(handle)
            except ray.exceptions.RayError as error:
                failed(place, error)
        counting(len(calls) - len(waiting), len(calls))


def _called(call):
    call()


class Speaker(tune.Callback):
    """Says how a run goes. Ray pickles it with the run, so it holds values, and opens what it speaks to at the start.

    place, log: where it speaks (Progress.place), and the file that has it all.
    """

    stage = "training"

    def __init__(self, place: str, log: str):
        self.place, self.log = place, log
        self.progress: Any = None

    def __getstate__(self):
        return self.__dict__ | {"progress": None}

    def setup(self, **info: Any) -> None:
        self.started = time.monotonic()
        self.progress = progress_at(self.place)
        self.progress.log_to(self.log)
        self.progress.begin(self.stage)

    def show(self, what: str, trials: Iterable[Any], total: int, *, best: str | None, before: int = 0) -> None:
        """Show how many of `total` are done, `before` of them by an earlier start, and how long the rest will take."""
        ended = sum(trial.is_finished() for trial in trials)
        running = sum(trial.status == "RUNNING" for trial in trials)
        state = {what: f"{before + ended}/{total}", "under way": running}
        if best is not None:
            state["best"] = best
        if ended:
            so_far = time.monotonic() - self.started
            state["left"] = f"about {duration(so_far / ended * (total - before - ended))}"
        self.progress.update(state)

    def on_experiment_end(self, trials: list, **info: Any) -> None:
        self.progress.close()


class Job(NamedTuple):
    """One of many trainings. It travels to other processes and machines, and is kept in JOBS."""

    key: str  # its folder under TRIALS: the same for the same training, so nothing is done twice
    title: str  # for people
    values: dict[str, Any] = {}  # of JSON: what is trained


class Outcome(NamedTuple):
    """A Job that was run, and what became of it."""

    job: Job
    folder: pathlib.Path
    error: str | None  # None: it was trained to its end
    numbers: dict[str, Any]  # the last entry of its curve: reward, epoch, seconds...; {} where there is none


# What is finished, by key, and what is under way -> the next training; None: none now, and, where nothing is under way,
# none at all.
Propose = Callable[[dict[str, Outcome], tuple[Job, ...]], Job | None]


def run_jobs(
    train: Callable[..., None],
    jobs: Sequence[Job],
    *,
    out: pathlib.Path,
    num_at_once: int,
    share: Mapping[str, float],
    place: str,
    log: pathlib.Path,
    propose: Propose | None = None,
    most: int | None = None,
    measure: str = "reward",
    unit: Unit = PER_CENT,
) -> dict[str, Outcome]:
    """{key: Outcome} of all jobs, in the order in which they were given and proposed, once all are done.

    train(job, folder, report) is called on a worker: it travels. It calls report(epoch, numbers) after every epoch, as
    trial.train_judged does, and writes the same into the folder's curve. Where it raises, that job has an error, and
    the rest go on.
    Once all the given jobs are done, propose(finished, under way) names a further one, as long as there are fewer than
    `most` in all. It is called in this process.
    Folders are the truth: the same call after a kill runs nothing again that is done, goes on with what was under way
    (a proposed job too, as JOBS says), and tries again what failed. Ray keeps nothing from start to start.
    place, log: where it says how it goes; measure, unit: the reward in words.
    """
    book = Book(out, jobs, propose, most)
    if not book.has_next():
        return book.outcomes()
    # What Ray wrote of an earlier start is of no use: what is done is known from the folders.
    shutil.rmtree(out / RUN, ignore_errors=True)
    speaker = JobSpeaker(place, str(log), str(out), list(book.finished.values()), book.most, measure, unit)
    tuner = tune.Tuner(
        tune.with_resources(functools.partial(_job, train=train, out=out), dict(share)),
        tune_config=tune.TuneConfig(
            search_alg=InOrder(book, num_at_once),
            num_samples=book.most - len(book.finished),
            reuse_actors=True,
            trial_dirname_creator=_folder_name,
        ),
        run_config=tune.RunConfig(name=RUN, storage_path=str(out), verbose=0, callbacks=[speaker]),
    )
    tuner.fit()
    return book.outcomes()


def _job(config, *, train, out):
    """What a worker of Ray Tune runs."""
    job = Job(**config[JOB])
    folder = out / TRIALS / job.key
    train(job, folder, lambda epoch, numbers: tune.report({TIME: epoch, **numbers}))
    end(folder)


def _folder_name(trial):
    return trial.config[JOB]["key"]


def outcome_of(job: Job, out: pathlib.Path) -> Outcome:
    """What became of a job, by its folder."""
    folder = out / TRIALS / job.key
    known = curve(folder)
    error = None if is_done(folder) else read_json(folder / FAILED).get("error") or LOST
    return Outcome(job, folder, error, known[-1] if known else {})


class Book:
    """Which jobs wait, are under way and are finished, in one process."""

    def __init__(self, out: pathlib.Path, jobs: Sequence[Job], propose: Propose | None, most: int | None):
        self.out, self.given, self.propose = out, list(jobs), propose
        begun = [Job(**entry) for entry in read_lines_of_json(out / JOBS) if entry.keys() == set(Job._fields)]
        self.proposed = [job for job in begun if job.key not in {job.key for job in self.given}]
        known = [*self.given, *self.proposed]
        assert len({job.key for job in known}) == len(known), "two jobs of one key"
        self.most = len(jobs) if most is None or propose is None else max(most, len(jobs))
        self.finished = {job.key: outcome_of(job, out) for job in known if is_done(out / TRIALS / job.key)}
        self.waiting = deque(job for job in known if job.key not in self.finished)
        self.under_way: dict[str, Job] = {}

    def has_next(self) -> bool:
        """Whether a job waits; where none does, one is asked for."""
        if not self.waiting and (job := self._asked()) is not None:
            self.waiting.append(job)
        return bool(self.waiting)

    def begin(self) -> Job | None:
        """The next job, which is under way from here on; None where none may begin now."""
        if not self.has_next():
            return None
        job = self.waiting.popleft()
        self.under_way[job.key] = job
        return job

    def end(self, key: str) -> None:
        """A job that was under way has ended."""
        self.finished[key] = outcome_of(self.under_way.pop(key), self.out)

    def outcomes(self) -> dict[str, Outcome]:
        """What is finished, in the order in which it was given and proposed."""
        keys = [job.key for job in (*self.given, *self.proposed)]
        return {key: self.finished[key] for key in keys if key in self.finished}

    def _asked(self):
        """A further job of `propose`, or None."""
        known = {job.key for job in (*self.given, *self.proposed)}
        if self.propose is None or len(known) >= self.most or any(job.key not in self.finished for job in self.given):
            return None
        job = self.propose(self.outcomes(), tuple(self.under_way.values()))
        if job is not None:
            assert job.key not in known, f"{job.key} was proposed twice"
            self.proposed.append(job)
            lines = (json.dumps(proposed._asdict()) + "\n" for proposed in self.proposed)
            write_atomically(self.out / JOBS, "".join(lines))
        return job


class InOrder(Searcher):
    """The jobs of a Book, one after the other, as Ray Tune asks for them. Nothing of it is kept by Ray."""

    def __init__(self, book: Book, num_at_once: int):
        super().__init__(metric=METRIC, mode="max")
        self.book, self.num_at_once, self.jobs = book, num_at_once, {}

    def __getstate__(self):
        return {}

    def save(self, checkpoint_path: str) -> None:
        """The folders of the jobs say all of it."""

    def suggest(self, trial_id: str) -> dict | str | None:
        if len(self.jobs) >= self.num_at_once:
            return None
        job = self.book.begin()
        if job is None:
            return None if self.jobs else Searcher.FINISHED
        self.jobs[trial_id] = job
        return {JOB: job._asdict()}

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        self.book.end(self.jobs.pop(trial_id).key)


class JobSpeaker(Speaker):
    """Says of each job how good it is, how many are done and which is the best so far.

    before: the Outcomes of earlier starts; total: jobs in all.
    """

    def __init__(
        self, place: str, log: str, out: str, before: list[Outcome], total: int, measure: str, unit: Unit
    ) -> None:
        super().__init__(place, log)
        self.out, self.total, self.measure, self.unit = out, total, measure, unit
        self.num_before, self.ended = len(before), list(before)

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        self.show("trainings", trials, self.total, best=self._best(), before=self.num_before)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        outcome = self._ended(trial)
        reward = self._told(outcome)
        self.progress.say(
            f"{len(self.ended)}/{self.total}  {outcome.job.title}: {self.measure} {reward}; best so far {self._best()}"
        )

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        outcome = self._ended(trial)
        what = f"{len(self.ended)}/{self.total}  {outcome.job.title}"
        self.progress.say(f"{what} failed: {outcome.error}", style="yellow")

    def _ended(self, trial):
        outcome = outcome_of(Job(**trial.config[JOB]), pathlib.Path(self.out))
        self.ended.append(outcome)
        return outcome

    def _told(self, outcome):
        sign = f" {self.unit.sign}" if self.unit.sign else ""
        return f"{self.unit.times * outcome.numbers[METRIC]:.2f}{sign}"

    def _best(self):
        """The best of what was trained to its end, in words; None where there is none."""
        trained = [outcome for outcome in self.ended if outcome.error is None and outcome.numbers]
        if not trained:
            return None
        best = max(trained, key=lambda outcome: outcome.numbers[METRIC])
        return f"{self._told(best)} ({best.job.title})"
