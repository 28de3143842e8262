"""One short training, judged after every epoch, and what it leaves in its folder."""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from zennas.progress import Progress, silent
from zennas.ranks import join
from zennas.records import first_line
from zennas.run_folder import write_atomically
from zennas.space.cost import cost
from zennas.tasks.table import task_of
from zennas.train import prepare
from zennas.train.journal import read_metrics
from zennas.train.loop import CHECKPOINTS, Training
from zennas.train.request import Request

REWARD, FACTS, FAILED, TEST = "reward", "trial.json", "failed.json", "test.json"
ENDED = "ended"  # a file: it was run to its end, or is not to go on


@dataclasses.dataclass(frozen=True)
class Opened:
    """A short training with its data opened."""

    training: Request
    # (network, group, *, device, autocast) -> {REWARD: more is better, numbers that have a title}
    judge: Callable[..., dict[str, float]]
    held_out: Any  # the group that it is judged on after every epoch
    test: Any = None  # the group that is asked at its end; None: nobody
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # for FACTS, beside the counts of the data


def train_judged(
    opened: Callable[[Progress], Opened],
    folder: pathlib.Path,
    *,
    report: Callable[[int, dict], None],
    title: Callable[[str], str | None],
    num_threads: int,
    with_test: bool = False,
) -> None:
    """Train and judge after every epoch; report(epoch, numbers) may end it by raising what is no Exception.

    Goes on from its last checkpoint where it was begun. Where it is done, its last numbers are reported again, and
    `opened` is not asked. What it raises stands in FAILED too. title: of a number beside the reward; None for other
    names. with_test: the test is asked at its end, and what it says is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _train(opened, folder, report, title, num_threads=num_threads, with_test=with_test)
    except Exception as error:
        write_atomically(folder / FAILED, json.dumps({"error": f"{type(error).__name__}: {first_line(error)}"}))
        raise


def _train(opened, folder, report, title, *, num_threads, with_test):
    known = curve(folder)
    if known and (folder / (TEST if with_test else ENDED)).is_file():
        report(known[-1]["epoch"], numbers_of(known[-1], title))
        return
    (folder / FAILED).unlink(missing_ok=True)
    torch.set_num_threads(num_threads)  # Ray sets OMP_NUM_THREADS to the processors it was asked for
    started = time.monotonic() - (known[-1]["seconds"] if known else 0.0)
    progress = silent()
    trial = opened(progress)
    training = trial.training
    ranks = join(training.device)
    task = task_of(training.task)
    data, teacher = task.open_data(training, progress), task.open_teacher(training, ranks)
    spent = cost(training.candidate, training.space.shape)
    facts = {
        "candidate": training.candidate.plain(),
        "macs": spent.macs,
        "params": spent.params,
        **data.counts,
        **trial.facts,
    }
    write_atomically(folder / FACTS, json.dumps(facts))
    job = prepare.prepare(training, data, teacher, ranks, progress)
    reported = False

    def judged(network, group):
        return trial.judge(network, group, device=ranks.device, autocast=job.autocast)

    def after_verify(network, step, note):
        nonlocal reported
        numbers = judged(network, trial.held_out)
        epoch = round(step / job.steps_per_epoch)
        note(REWARD, numbers, epoch=epoch, seconds=round(time.monotonic() - started, 2))
        reported = True
        report(epoch, numbers)

    Training(job, ranks, progress, after_verify=after_verify).run()
    if not reported:  # killed behind its last checkpoint: no step was left
        last = curve(folder)[-1]
        report(last["epoch"], numbers_of(last, title))
    if with_test:
        numbers = None if trial.test is None else judged(job.network, trial.test)
        write_atomically(folder / TEST, json.dumps(numbers))
        end(folder)


def curve(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The rewards of a trial after each epoch, in order: dicts with epoch, reward, the numbers
    beside it, seconds."""
    return [entry for entry in read_metrics(folder) if entry["kind"] == REWARD]


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """What a trial left in a file; {} where there is none, or a disk tore it."""
    try:
        entry = json.loads(path.read_bytes()) if path.is_file() else {}
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}


def end(folder: pathlib.Path) -> None:
    """Let a trial be what it is: it is not gone on with, and what that would take is removed."""
    write_atomically(folder / ENDED, "")
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def is_done(folder: pathlib.Path) -> bool:
    """Whether a trial ended and was judged."""
    return (folder / ENDED).is_file() and bool(curve(folder))


def numbers_of(entry: Mapping[str, Any], title: Callable[[str], str | None]) -> dict[str, float]:
    """What of an entry of `curve` says how good the network was: the reward, and the numbers that have a title."""
    return {name: value for name, value in entry.items() if name == REWARD or title(name)}
