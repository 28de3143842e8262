"""Which trials are stopped early: by Ray's ASHA, that remembers over a kill what it was told."""

import json
from typing import NamedTuple

import numpy as np
import pytest
from ray.tune.schedulers import TrialScheduler

from zennas.tune.trials import METRIC, NUMBER, TIME, Asha

EPOCHS = 9


class Trial(NamedTuple):
    """What a scheduler asks a trial for."""

    trial_id: str
    number: int

    @property
    def config(self):
        return {NUMBER: self.number}


@pytest.fixture
def asha(tmp_path, monkeypatch):
    """A scheduler of searches in this folder, a new one with every call."""
    monkeypatch.setattr(Asha, "epochs", EPOCHS)
    return lambda name="rungs": Asha(tmp_path / f"{name}.jsonl", grace_period=1, reduction_factor=3)


def told(scheduler, trial, epoch, reward):
    """What the scheduler says of a result; a trial that has come to its end completes, as in Ray."""
    result = {TIME: epoch, METRIC: reward}
    action = scheduler.on_trial_result(None, trial, result)
    if action == TrialScheduler.STOP:
        scheduler.on_trial_complete(None, trial, result)
    return action


def results(seed):
    """[(trial, epoch, reward)]: trials side by side, each epoch of all before the next one."""
    reward_TE = np.random.default_rng(seed).random((12, EPOCHS + 1))
    trials = [Trial(f"id-{number}", number) for number in range(12)]
    return trials, [(trial, epoch, reward_TE[trial.number, epoch]) for epoch in range(1, 10) for trial in trials]


def answered(scheduler, trials, results, stopped=()):
    """{(number, epoch): what it said} of those that go on."""
    answers, stopped = {}, set(stopped)
    for trial in trials:
        if trial not in stopped:
            scheduler.on_trial_add(None, trial)
    for trial, epoch, reward in results:
        if trial not in stopped:
            answers[trial.number, epoch] = told(scheduler, trial, epoch, reward)
            if answers[trial.number, epoch] == TrialScheduler.STOP:
                stopped.add(trial)
    return answers, stopped


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cut", [7, 30, 60])
def test_one_that_was_killed_decides_as_one_that_lived(asha, seed, cut):
    trials, every = results(seed)
    whole, _ = answered(asha("whole"), trials, every)
    before, stopped = answered(asha(), trials, every[:cut])
    after, _ = answered(asha(), trials, every[cut:], stopped)
    assert before | after == whole and TrialScheduler.STOP in whole.values()


def test_the_recipe_is_run_to_its_end_however_poor(asha):
    trials, every = results(0)
    answers, _ = answered(
        asha(), trials, [(trial, epoch, reward * bool(trial.number)) for trial, epoch, reward in every]
    )
    of_recipe = [answers[0, epoch] for epoch in range(1, EPOCHS + 1)]
    assert of_recipe == [TrialScheduler.CONTINUE] * (EPOCHS - 1) + [TrialScheduler.STOP]


def test_a_line_that_a_kill_tore_is_left_out(asha, tmp_path):
    trials, every = results(1)
    answered(asha(), trials, every[:20])
    path = tmp_path / "rungs.jsonl"
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"trial": "id-0", TIME: 1, METRIC: every[0][2]}
    path.write_text("\n".join([*lines[:-1], lines[-1][:10]]))
    asha().on_trial_add(None, trials[0])
