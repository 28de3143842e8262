"""Whom a run trains: the first ones at once, then one by one; no mock but of what a training measured."""

import numpy as np
import pytest
import yaml

from tests.conftest import TINY_SPACE
from tests.search.conftest import measured_entry
from zennas.learn.choosing import first_to_train
from zennas.learn.outcome import rows_of
from zennas.learn.request import Request
from zennas.learn.trainings import first_jobs, job_of, next_job, rewards
from zennas.space.candidate import Candidate
from zennas.space.space import Space
from zennas.tasks.face.learn_plan import FaceLearnPlan
from zennas.trials.engine import Outcome


@pytest.fixture(scope="module")
def pool():
    space, rng, entries = Space.parse(yaml.safe_load(TINY_SPACE), "the tests"), np.random.default_rng(0), {}
    while len(entries) < 20:
        candidate = space.sample(rng)
        entries[candidate.key] = measured_entry(candidate, space)
    return list(entries.values())


def request_of(**plan):
    space = Space.parse(yaml.safe_load(TINY_SPACE), "the tests")
    values = {"trainings": 10, "first": 8, "twice": 2, "pool": 20} | plan
    nothing = dict.fromkeys(("track", "plan", "data", "out", "shown_out"))
    return Request(name="tiny", asked_track="tiny", space=space, learn=FaceLearnPlan(**values), **nothing)


def ended(job, reward, *, error=None, tmp_path):
    numbers = {} if error else {"reward": reward, "epoch": 1, "seconds": 2.0}
    return Outcome(job, tmp_path / job.key, error, numbers)


def test_the_first_ones_fill_the_space_and_are_the_priors_and_some_are_trained_twice(pool):
    request = request_of()
    jobs = first_jobs(request, pool)
    assert len({job.key for job in jobs}) == len(jobs) == 8 + 2
    once, twice = jobs[:8], jobs[8:]
    assert {job.values["seed"] for job in once} == {0} and {job.values["seed"] for job in twice} == {1}
    feature_NF = np.log([entry.candidate.genes for entry in pool])
    widths_N = [np.log(entry.candidate.widths).sum() for entry in pool]
    rows = first_to_train(feature_NF, np.array(widths_N), 8)
    assert [job.values["candidate"] for job in once] == [pool[row].candidate.plain() for row in rows]
    # One of those that fill the space, one of the prior's.
    assert [job.values["candidate"] for job in twice] == [once[0].values["candidate"], once[4].values["candidate"]]


@pytest.mark.parametrize("twice", [0, 1, 5, 8])
def test_as_many_are_trained_twice_as_the_plan_says(pool, twice):
    jobs = first_jobs(request_of(twice=twice), pool)
    again = [job.key for job in jobs if job.values["seed"] == 1]
    assert len(again) == len(set(again)) == twice


def test_the_next_one_is_where_most_is_to_be_gained_and_never_one_that_was_begun(pool, tmp_path):
    request = request_of()
    truth = {entry.key: 0.5 + 0.1 * np.log(entry.candidate.genes) @ np.arange(5) for entry in pool}
    finished, begun = {}, set()
    for job in first_jobs(request, pool):
        candidate = Candidate(**job.values["candidate"])
        finished[job.key] = ended(job, truth[candidate.key], tmp_path=tmp_path)
        begun.add(candidate.key)
    under_way, proposed = (), []
    while (job := next_job(request, pool, finished, under_way)) is not None:
        assert job.key not in finished and job.values["seed"] == 0
        proposed.append(Candidate(**job.values["candidate"]).key)
        under_way = (*under_way, job)
    assert set(proposed) | begun == {entry.key for entry in pool} and not set(proposed) & begun
    best = max((entry for entry in pool if entry.key not in begun), key=lambda entry: truth[entry.key])
    assert proposed[0] == best.key  # the truth is a line, so its interval is narrow


def test_a_training_that_failed_teaches_nothing_and_is_not_proposed_again(pool, tmp_path):
    request, finished = request_of(), {}
    for number, job in enumerate(first_jobs(request, pool)):
        finished[job.key] = ended(job, 0.1 * number, error="it broke" if number == 3 else None, tmp_path=tmp_path)
    failed = Candidate(**first_jobs(request, pool)[3].values["candidate"])
    assert len(rewards(pool, finished, seed=0)) == 7
    assert next_job(request, pool, finished, ()).values["candidate"] != failed.plain()
    row = next(row for row in rows_of(request, pool, finished, times=100.0) if row.text == failed.text)
    assert row.error == "it broke" and not row.rewards and np.isnan(row.reward)


def test_nothing_is_proposed_where_too_little_is_known(pool, tmp_path):
    request = request_of()
    jobs = first_jobs(request, pool)
    few = {job.key: ended(job, 0.5 + number, tmp_path=tmp_path) for number, job in enumerate(jobs[:3])}
    same = {job.key: ended(job, 0.5, tmp_path=tmp_path) for job in jobs}
    assert next_job(request, pool, few, ()) is None and next_job(request, pool, same, ()) is None


def test_rows_say_how_each_was_chosen_and_keep_both_seeds(pool, tmp_path):
    request, finished = request_of(), {}
    for job in first_jobs(request, pool):
        finished[job.key] = ended(job, 0.5 + 0.01 * job.values["seed"], tmp_path=tmp_path)
    extra = job_of(next(entry.candidate for entry in pool if job_of(entry.candidate, 0).key not in finished), 0)
    finished[extra.key] = ended(extra, 0.7, tmp_path=tmp_path)
    rows = rows_of(request, pool, finished, times=100.0)
    assert [row.chosen for row in rows] == [
        *["fills the space"] * 4,
        *["by the prior"] * 4,
        "where most was to be gained",
    ]
    assert rows[0].rewards == pytest.approx({0: 50.0, 1: 51.0}) and rows[0].seconds == 4.0
    assert rows[1].rewards == pytest.approx({0: 50.0}) and rows[-1].reward == pytest.approx(70.0)
