"""One trial: a short run of the training stage with one proposal, judged after every epoch."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from zennas.space.candidate import Candidate
from zennas.tasks.judging import Groups
from zennas.tasks.table import tuning_of
from zennas.tasks.tuning import Tuning
from zennas.trials.trial import Opened, train_judged
from zennas.tune.proposal import SHAPE, Proposal
from zennas.tune.request import Request


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
        return self.request.short_plan(
            epochs=self.request.tune.epochs, seed=seed, changes=self.tuning.changes(proposal.plain)
        )


def run_trial(
    setting: Setting, proposal: Proposal, *, seed: int, report: Callable[[int, dict], None], with_test: bool = False
) -> None:
    """Train one Proposal and judge it after every epoch, as train_judged does, in the folder of the Proposal."""
    folder = setting.folder(proposal, seed)
    train_judged(
        functools.partial(_opened, setting, proposal, seed, folder),
        folder,
        report=report,
        title=setting.tuning.title,
        num_threads=setting.request.num_threads,
        with_test=with_test,
    )


def _opened(setting, proposal, seed, folder, progress):
    """The Opened of a Proposal."""
    request, tuning = setting.request, setting.tuning
    source = tuning.open_source(request, progress)
    trained = tuning.trained(request, source, setting.groups, setting.prepared, proposal.plain, folder)
    training = request.training(
        plan=setting.plan(proposal, seed),
        candidate=setting.candidate(proposal),
        out=folder,
        options=trained.options,
    )
    judge = functools.partial(tuning.judge, request, source)
    return Opened(training, judge, setting.groups.held_out, setting.groups.test, trained.facts)
