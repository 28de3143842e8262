"""One trial: a short run of the training stage with one proposal, judged after every epoch."""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from zennas.progress import silent
from zennas.ranks import join
from zennas.records import first_line
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.tasks.table import task_of, tuning_of
from zennas.tasks.tuning import Groups, Tuning
from zennas.train import prepare
from zennas.train.journal import read_metrics
from zennas.train.loop import CHECKPOINTS, Training
from zennas.train.request import changed_plan
from zennas.tune.proposal import SHAPE, Proposal
from zennas.tune.request import Request

REWARD, FACTS, FAILED, TEST = "reward", "trial.json", "failed.json", "test.json"
ENDED = "ended"  # a file: it was run to its end, or is not to go on


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all trials of a run share. It travels to other processes and machines; what it names lies where they all see
    it.
    """

    request: Request
    groups: Groups
    # Of equal multiply-accumulates; the given candidate alone where the backbone is not searched.
    shapes: tuple[Candidate, ...]
    prepared: Any  # what the task made for all trials
    num_threads: int

    @property
    def tuning(self) -> Tuning:
        """What the task is searched by."""
        return tuning_of(self.request.task)

    def proposal(self, values: Mapping[str, Any]) -> Proposal:
        """The Proposal of these values of knobs."""
        return Proposal.of(self.request.tune, values)

    def folder(self, proposal: Proposal, seed: int) -> pathlib.Path:
        """Where a trial leaves everything: the same for the same proposal and seed, so nothing is done twice."""
        return self.request.out / "trials" / f"{proposal.key}-{seed}"

    def candidate(self, proposal: Proposal) -> Candidate:
        """The backbone of a Proposal."""
        shape = proposal.plain.get(SHAPE)
        return self.request.candidate if shape is None else self.shapes[shape]

    def plan(self, proposal: Proposal, seed: int) -> Any:
        """The TrainPlan of a Proposal: the recipe, as long as a trial is, changed by it."""
        values = {"epochs": self.request.tune.epochs, "seed": seed, "verify_epochs": 1, "keep_checkpoints": 1}
        if self.request.plan.data.workers is None:  # a process that decodes beside one thread would be one too many
            values["data.workers"] = min(self.num_threads - 1, prepare.MAX_WORKERS)
        changes = [*self.tuning.changes(proposal.plain), *(f"{key}={value}" for key, value in values.items())]
        return changed_plan(self.request.plan, changes)


def run_trial(
    setting: Setting, proposal: Proposal, *, seed: int, report: Callable[[int, dict], None], with_test: bool = False
) -> None:
    """Train one Proposal and judge it after every epoch; report(epoch, numbers) may end it by raising what is no
    Exception.

    Goes on from its last checkpoint where it was begun; where it is done, its last numbers are reported again.
    with_test: the test is asked at its end, and what it says is kept.
    """
    folder = setting.folder(proposal, seed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(setting, proposal, seed=seed, report=report, with_test=with_test, folder=folder)
    except Exception as error:
        write_atomically(folder / FAILED, json.dumps({"error": f"{type(error).__name__}: {first_line(error)}"}))
        raise


def _run(setting, proposal, *, seed, report, with_test, folder):
    request, tuning = setting.request, setting.tuning
    known = curve(folder)
    if known and (folder / (TEST if with_test else ENDED)).is_file():
        report(known[-1]["epoch"], numbers_of(known[-1], tuning))
        return
    (folder / FAILED).unlink(missing_ok=True)
    torch.set_num_threads(setting.num_threads)  # Ray sets OMP_NUM_THREADS to the processors it was asked for
    started = time.monotonic() - (known[-1]["seconds"] if known else 0.0)
    progress = silent()
    source = tuning.open_source(request, progress)
    trained = tuning.trained(request, source, setting.groups, setting.prepared, proposal.plain, folder)
    candidate, space = setting.candidate(proposal), request.space
    plan = setting.plan(proposal, seed)
    training = request.training(plan=plan, candidate=candidate, out=folder, options=trained.options)
    ranks = join(request.device)
    chosen = task_of(request.task).open_data(training, progress)
    spent = cost(candidate, space.shape)
    facts = {
        "candidate": candidate.plain(),
        "macs": spent.macs,
        "params": spent.params,
        **chosen.counts,
        **trained.facts,
    }
    write_atomically(folder / FACTS, json.dumps(facts))
    job = prepare.prepare(training, chosen, None, ranks, progress)

    def judged(network, group):
        return tuning.judge(request, source, network, group, device=ranks.device, autocast=job.autocast)

    def after_verify(network, step, note):
        numbers = judged(network, setting.groups.held_out)
        epoch = round(step / job.steps_per_epoch)
        note(REWARD, numbers, epoch=epoch, seconds=round(time.monotonic() - started, 2))
        report(epoch, numbers)

    Training(job, ranks, progress, after_verify=after_verify).run()
    if with_test:
        test = setting.groups.test
        numbers = None if test is None else judged(job.network, test)
        write_atomically(folder / TEST, json.dumps(numbers))
        end(folder)


def curve(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The rewards of a trial after each epoch, in order: dicts with epoch, reward, the numbers
    beside it, seconds."""
    return [entry for entry in read_metrics(folder) if entry["kind"] == REWARD]


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """What a trial left in a file, or {}."""
    return (json.loads(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def end(folder: pathlib.Path) -> None:
    """Let a trial be what it is: it is not gone on with, and what that would take is removed."""
    write_atomically(folder / ENDED, "")
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def numbers_of(entry: Mapping[str, Any], tuning: Tuning) -> dict[str, float]:
    """What of an entry of `curve` says how good the network was: the reward, and the numbers beside it."""
    return {name: value for name, value in entry.items() if name == REWARD or tuning.title(name)}
