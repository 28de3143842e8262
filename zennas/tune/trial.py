"""One trial: a short run of the training stage with one proposal, judged after every epoch."""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from zennas.clean.centres import unit_rows
from zennas.data.labels import write_labels
from zennas.data.sources import open_source
from zennas.embed.embeddings import sidecar_of
from zennas.progress import silent
from zennas.ranks import join
from zennas.records import UserError, first_line
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.tasks.face.verify import in_eval
from zennas.tasks.table import task_of
from zennas.train import prepare
from zennas.train.journal import read_metrics
from zennas.train.loop import CHECKPOINTS, Training
from zennas.train.request import changed_plan
from zennas.tune.cleaning import CleanLabels, clean_labels
from zennas.tune.people import People, rewards
from zennas.tune.proposal import Proposal
from zennas.tune.request import Request

REWARD, FACTS, FAILED, TEST = "reward", "trial.json", "failed.json", "test.json"
ENDED = "ended"  # a file: it was run to its end, or is not to go on


@dataclasses.dataclass(frozen=True)
class Setting:
    """What all trials of a run share. It travels to other processes and machines; what it names lies where they all see
    it.
    """

    request: Request
    people: People
    shapes: tuple[
        Candidate, ...
    ]  # of equal multiply-accumulates; of the given candidate alone where it is not searched
    embeddings: pathlib.Path | None  # .npy of all images of the source
    num_threads: int

    def folder(self, proposal: Proposal, seed: int) -> pathlib.Path:
        """Where a trial leaves everything: the same for the same proposal and seed, so nothing is done twice."""
        return self.request.out / "trials" / f"{proposal.key}-{seed}"

    def candidate(self, proposal: Proposal) -> Candidate:
        """The backbone of a Proposal."""
        return self.request.candidate if proposal.shape is None else self.shapes[proposal.shape]

    def plan(self, proposal: Proposal, seed: int) -> Any:
        """The TrainPlan of a Proposal: the recipe, as long as a trial is, changed by it."""
        values = {"epochs": self.request.tune.epochs, "seed": seed, "verify_epochs": 1, "keep_checkpoints": 1}
        if self.request.plan.data.workers is None:  # a process that decodes beside one thread would be one too many
            values["data.workers"] = min(self.num_threads - 1, prepare.MAX_WORKERS)
        changes = [*proposal.changes, *(f"{key}={value}" for key, value in values.items())]
        return changed_plan(self.request.plan, changes)


def run_trial(
    setting: Setting, proposal: Proposal, *, seed: int, report: Callable[[int, dict], None], with_test: bool = False
) -> None:
    """Train one Proposal and judge it after every epoch; report(epoch, numbers) may end it by raising what is no
    Exception.

    Goes on from its last checkpoint where it was begun; where it is done, its last numbers are reported again.
    with_test: the test people are asked at its end, and what they say is kept.
    """
    folder = setting.folder(proposal, seed)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run(setting, proposal, seed=seed, report=report, with_test=with_test, folder=folder)
    except Exception as error:
        write_atomically(folder / FAILED, json.dumps({"error": f"{type(error).__name__}: {first_line(error)}"}))
        raise


def _run(setting, proposal, *, seed, report, with_test, folder):
    request = setting.request
    known = curve(folder)
    if known and (folder / (TEST if with_test else ENDED)).is_file():
        report(known[-1]["epoch"], _numbers(known[-1]))
        return
    (folder / FAILED).unlink(missing_ok=True)
    torch.set_num_threads(setting.num_threads)  # Ray sets OMP_NUM_THREADS to the processors it was asked for
    started = time.monotonic() - (known[-1]["seconds"] if known else 0.0)
    source = open_source(request.data)
    clean = labels_of(setting, proposal, setting.people.label_N)
    labels = folder / "labels.npz"
    write_labels(labels, source, clean.label_N)
    candidate, space = setting.candidate(proposal), request.space
    training = request.training(plan=setting.plan(proposal, seed), candidate=candidate, out=folder, labels=labels)
    ranks, progress = join(request.device), silent()
    chosen = task_of(request.task).open_data(training, progress)
    spent = cost(candidate, space.shape)
    facts = {
        "candidate": candidate.plain(),
        "macs": spent.macs,
        "params": spent.params,
        **chosen.counts,
        "num_merged": clean.num_merged,
        "num_dropped": clean.num_dropped,
    }
    write_atomically(folder / FACTS, json.dumps(facts))
    job = prepare.prepare(training, chosen, None, ranks, progress)

    def judged(network, people):
        embed_batch = in_eval(network, ranks.device, autocast=job.autocast)
        return rewards(people, source, embed_batch, request.tune.reward, image_px=space.shape.hw)

    def after_verify(network, step, note):
        numbers = judged(network, setting.people.held_out)
        epoch = round(step / job.steps_per_epoch)
        note(REWARD, numbers, epoch=epoch, seconds=round(time.monotonic() - started, 2))
        report(epoch, numbers)

    Training(job, ranks, progress, after_verify=after_verify).run()
    if with_test:
        numbers = judged(job.network, setting.people.test) if setting.people.test else None
        write_atomically(folder / TEST, json.dumps(numbers))
        end(folder)


def labels_of(setting: Setting, proposal: Proposal, label_N: np.ndarray) -> CleanLabels:
    """The CleanLabels of these images by the thresholds of a Proposal."""
    if proposal.tau_inter is None and proposal.tau_intra is None:
        return clean_labels(None, label_N)
    if not sidecar_of(setting.embeddings).is_file():
        raise UserError(f"{setting.embeddings}: the embeddings that thresholds ask about are not there")
    unit_ND = unit_rows(np.load(setting.embeddings, mmap_mode="r"))
    return clean_labels(unit_ND, label_N, tau_inter=proposal.tau_inter, tau_intra=proposal.tau_intra)


def curve(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The rewards of a trial after each epoch, in order: dicts with epoch, reward, tpr@..., seconds."""
    return [entry for entry in read_metrics(folder) if entry["kind"] == REWARD]


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """What a trial left in a file, or {}."""
    return (json.loads(path.read_text(encoding="utf-8")) or {}) if path.is_file() else {}


def end(folder: pathlib.Path) -> None:
    """Let a trial be what it is: it is not gone on with, and what that would take is removed."""
    write_atomically(folder / ENDED, "")
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def _numbers(entry):
    return {name: value for name, value in entry.items() if name == "reward" or name.startswith("tpr@")}
