"""Ray Tune: many trials at once, proposed by Optuna, poor ones stopped early (the only file of the tuning that imports
ray).
"""

import functools
import importlib
import json
import pathlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

from ray import tune
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

from zennas.progress import Progress
from zennas.records import first_line
from zennas.train.journal import read_lines_of_json
from zennas.trials.engine import LOST, METRIC, RUN, TIME, Speaker, fair_share, run_each
from zennas.trials.trial import FAILED, curve, end, read_json
from zennas.tune.proposal import Proposal, suggest
from zennas.tune.trial import Setting, run_trial

RUNGS = "rungs.jsonl"
NUMBER = "number"  # of a trial, among its knobs
FINISHED, STOPPED, BROKEN = "finished", "stopped early", "failed"


class Tried(NamedTuple):
    """One trial of the search and what became of it."""

    number: int  # in the order in which they began; 0 is the recipe as it stands
    proposal: Proposal
    state: str  # FINISHED, STOPPED or BROKEN
    error: str | None
    folder: pathlib.Path


def search(setting: Setting, *, place: str, log: pathlib.Path) -> list[Tried]:
    """[Tried] in order, once all trials are done: the recipe first, then what Optuna proposes.

    Goes on where an earlier call was killed: what is finished is not run again. place, log: where it says how it
    goes.
    """
    request, plan = setting.request, setting.request.tune
    folder = request.out / RUN
    # Of the classes, as they are no part of what Ray keeps of a run.
    RecipeFirst.num_at_once, Asha.epochs = request.num_workers, plan.epochs
    trainable = tune.with_resources(functools.partial(_trial, setting=setting), _share(setting))
    if tune.Tuner.can_restore(str(folder)):
        # What Ray kept names modules; where one has moved since, pickle finds it under its old name.
        for name, module in setting.tuning.moved.items():
            sys.modules.setdefault(name, importlib.import_module(module))
        tuner = tune.Tuner.restore(str(folder), trainable=trainable)
    else:
        searcher = RecipeFirst(
            functools.partial(suggest, plan, len(setting.shapes)), metric=METRIC, mode="max", seed=plan.seed
        )
        scheduler = Asha(
            folder.with_name(RUNGS),
            grace_period=plan.asha.grace_epochs,
            reduction_factor=plan.asha.reduction,
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher, scheduler=scheduler, num_samples=plan.trials, reuse_actors=True
            ),
            run_config=tune.RunConfig(
                name=RUN, storage_path=str(request.out), verbose=0, callbacks=[Teller(setting, place, str(log))]
            ),
        )
    results = tuner.fit()
    return sorted((_tried(setting, result) for result in results), key=lambda trial: trial.number)


def confirm(setting: Setting, proposals: list[Proposal], seeds: Sequence[int], progress: Progress) -> None:
    """Train every Proposal with every seed to its end, several at once, and ask the test.

    What of it is done is not done again. A UserError of one of them is said, and its row is missing.
    """
    pairs = [(proposal, seed) for seed in seeds for proposal in proposals]

    def failed(place, error):
        proposal, seed = pairs[place]
        reason = read_json(setting.folder(proposal, seed) / FAILED).get("error", first_line(error))
        progress.say(f"warning: {proposal.key} with seed {seed} failed: {reason}", style="yellow")

    calls = [
        functools.partial(run_trial, setting, proposal, seed=seed, report=_unheard, with_test=True)
        for proposal, seed in pairs
    ]
    progress.begin("training again with other seeds")
    run_each(calls, share=_share(setting), what="trainings", failed=failed, progress=progress)
    progress.end()


def _unheard(epoch, numbers):
    pass


def _share(setting):
    request = setting.request
    return fair_share(request.num_workers, request.num_threads, request.device)


def _trial(config, *, setting):
    """What a worker of Ray Tune runs."""
    proposal = _proposal(setting, config)
    run_trial(
        setting,
        proposal,
        seed=setting.request.tune.seed,
        report=lambda epoch, numbers: tune.report({TIME: epoch, **numbers}),
    )


def _proposal(setting, config):
    """The Proposal of what Ray calls the configuration of a trial: its number, and its knobs."""
    return setting.proposal({name: value for name, value in config.items() if name != NUMBER})


def _tried(setting, result):
    """The Tried of one result of Ray's."""
    proposal = _proposal(setting, result.config)
    folder = setting.folder(proposal, setting.request.tune.seed)
    error, known = None, curve(folder)
    if result.error is not None:
        state, error = BROKEN, read_json(folder / FAILED).get("error") or first_line(result.error)
    else:
        state = FINISHED if known and known[-1]["epoch"] >= setting.request.tune.epochs else STOPPED
    return Tried(result.config[NUMBER], proposal, state, error, folder)


class RecipeFirst(OptunaSearch):
    """Optuna, after the recipe as it stands, which is no point of its space and of which it is told nothing.

    What Ray saves of a searcher is this object's __dict__; a ConcurrencyLimiter around it would forget who is under
    way.
    """

    num_at_once = 1

    def suggest(self, trial_id: str) -> dict | None:
        running = self.__dict__.setdefault("running", {})
        if len(running) >= self.num_at_once:
            return None
        number = self.__dict__.setdefault("num_begun", 0)
        config = super().suggest(trial_id) if number else {}
        running[trial_id], self.num_begun = number, number + 1
        return {NUMBER: number, **config}

    def on_trial_result(self, trial_id: str, result: dict) -> None:
        if self.running.get(trial_id):
            with warnings.catch_warnings():  # a trial that goes on from a checkpoint reports some epochs again
                warnings.filterwarnings("ignore", message="The reported value is ignored")
                super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
        if self.running.pop(trial_id, 0):
            super().on_trial_complete(trial_id, result, error)


class Asha(ASHAScheduler):
    """Successive halving that runs the recipe to its end, and that remembers: Ray keeps no scheduler's state on disk.

    epochs: of a whole trial. path: a file of JSON lines, one for every result. A run that goes on is told all of them
    again, in their order, as if its trials had just reported.
    """

    epochs = 1

    def __init__(self, path: pathlib.Path, **options: Any):
        super().__init__(time_attr=TIME, metric=METRIC, mode="max", max_t=self.epochs, **options)
        self.path, self.replayed = str(path), False

    def on_trial_add(self, controller: Any, trial: Any) -> None:
        if not self.replayed:
            self._replay(controller)
            self.replayed = True
        super().on_trial_add(controller, trial)

    def _replay(self, controller):
        under_way = set()
        for entry in read_lines_of_json(self.path):
            trial, result = PastTrial(entry["trial"]), {TIME: entry[TIME], METRIC: entry[METRIC]}
            if trial not in under_way:
                super().on_trial_add(controller, trial)
                under_way.add(trial)
            if result[TIME] < self.epochs:
                super().on_trial_result(controller, trial, result)
            else:  # Ray counts a trial's last result where the trial completes
                super().on_trial_complete(controller, trial, result)
                under_way.remove(trial)

    def on_trial_result(self, controller: Any, trial: Any, result: dict) -> str:
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"trial": trial.trial_id, TIME: result[TIME], METRIC: result[METRIC]}) + "\n")
        action = super().on_trial_result(controller, trial, result)
        early = result[TIME] < self.epochs
        return TrialScheduler.CONTINUE if early and not trial.config[NUMBER] else action


class PastTrial(NamedTuple):
    """What ASHA asks a trial for."""

    trial_id: str


class Teller(Speaker):
    """Says how the search goes."""

    stage = "searching"

    def __init__(self, setting: Setting, place: str, log: str):
        super().__init__(place, log)
        self.setting = setting

    def on_step_end(self, iteration: int, trials: list, **info: Any) -> None:
        best = self._best(trials)
        told = best and f"{best.last_result[METRIC]:.4f} (trial {best.config[NUMBER]})"
        self.show("trials", trials, self.setting.request.tune.trials, best=told)

    def on_trial_complete(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        plan, number = self.setting.request.tune, trial.config[NUMBER]
        folder = self.setting.folder(_proposal(self.setting, trial.config), plan.seed)
        end(folder)
        epoch, reward = trial.last_result[TIME], trial.last_result[METRIC]
        what = f"trial {number}" if number else "trial 0, the recipe as it stands"
        ended = "finished" if epoch >= plan.epochs else f"stopped after epoch {epoch} of {plan.epochs}"
        best = self._best(trials, trial)
        so_far = f"; best so far {best.last_result[METRIC]:.4f}, trial {best.config[NUMBER]}" if best else ""
        self.progress.say(f"{what}: reward {reward:.4f}, {ended}{so_far}")

    def on_trial_error(self, iteration: int, trials: list, trial: Any, **info: Any) -> None:
        seed = self.setting.request.tune.seed
        folder = self.setting.folder(_proposal(self.setting, trial.config), seed)
        reason = read_json(folder / FAILED).get("error", LOST)
        self.progress.say(f"trial {trial.config[NUMBER]} failed: {reason}", style="yellow")

    def _best(self, trials, just_ended=None):
        """The best of the trials that were run to their end, or None. Ray says of the one that just ended that it
        runs."""
        epochs = self.setting.request.tune.epochs
        ended = [trial for trial in trials if trial.is_finished() or trial is just_ended]
        done = [trial for trial in ended if (trial.last_result or {}).get(TIME, 0) >= epochs]
        return max(done, key=lambda trial: trial.last_result[METRIC], default=None)
