"""Many jobs through Ray Tune: given and proposed ones, one that fails, kill -9, calls in processes of their own."""

import functools
import json
import os
import signal
import time

import pytest
import ray

from tests.processes import Forked
from tests.trials import jobs
from tests.trials.jobs import job, run, starts
from zennas.progress import silent
from zennas.records import UserError
from zennas.tasks.judging import Unit
from zennas.trials.engine import JOBS, Book, fair_share, run_each, workers

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def two_workers():
    with workers(2, say=print):
        yield


def test_given_jobs_are_run_and_one_that_fails_is_told(tmp_path):
    given = [job(0), job(1, fails=True), job(2, name="a/b", nothing=None), job(3)]
    outcomes = run(tmp_path, given, measure="AUC", unit=Unit(times=100.0, sign="%"))
    assert list(outcomes) == [one.key for one in given]
    assert [outcome.job for outcome in outcomes.values()] == given
    assert [outcome.error for outcome in outcomes.values()] == [None, "UserError: nothing is left", None, None]
    assert [outcome.numbers.get("reward") for outcome in outcomes.values()] == [0.0, None, 0.02, 0.03]
    assert outcomes["job-3"].numbers["epoch"] == jobs.EPOCHS
    assert (outcomes["job-3"].folder / "ended").exists() and not (outcomes["job-1"].folder / "ended").exists()
    told = (tmp_path / "log").read_text()
    assert "candidate 1 failed: UserError: nothing is left" in told and "Traceback" not in told
    assert "candidate 3: AUC 3.00 %; best so far 3.00 % (candidate 3)" in told and "4/4  candidate" in told
    assert not (tmp_path / JOBS).exists()


def test_what_is_done_is_not_run_again_and_what_failed_is(tmp_path):
    given = [job(0), job(1, fails=True), job(2)]
    first = run(tmp_path, given)
    given[1] = job(1)
    second = run(tmp_path, given)
    assert starts(tmp_path) == {"job-0": 1, "job-1": 2, "job-2": 1}
    assert second["job-0"] == first["job-0"] and second["job-1"].error is None
    assert "3/3  candidate 1" in (tmp_path / "log").read_text()
    assert run(tmp_path, given) == second and starts(tmp_path) == {"job-0": 1, "job-1": 2, "job-2": 1}


def test_further_ones_are_proposed_once_the_given_are_done(tmp_path):
    asked = []

    def propose(finished, under_way):
        asked.append((list(finished), [one.key for one in under_way]))
        return jobs.after_the_best(finished, under_way)

    outcomes = run(tmp_path, [job(0), job(5)], propose=propose, most=4)
    assert list(outcomes) == ["job-0", "job-5", "job-6", "job-7"]
    assert asked[0] == (["job-0", "job-5"], [])
    assert [known for known, running in asked if not running] == [
        ["job-0", "job-5"],
        ["job-0", "job-5", "job-6"],
    ]
    lines = [json.loads(line) for line in (tmp_path / JOBS).read_text().splitlines()]
    assert [line["key"] for line in lines] == ["job-6", "job-7"] and lines[0] == job(6)._asdict()


def test_it_ends_where_nothing_is_proposed_any_more(tmp_path):
    outcomes = run(
        tmp_path,
        [job(0)],
        propose=lambda finished, under_way: None if len(finished) > 1 or under_way else job(9),
        most=10,
    )
    assert list(outcomes) == ["job-0", "job-9"]


def test_what_proposes_may_fail(tmp_path):
    def propose(finished, under_way):
        raise UserError("all measured the same")

    with pytest.raises(UserError, match="all measured the same"):
        run(tmp_path, [job(0)], propose=propose, most=2)
    assert run(tmp_path, [job(0)])["job-0"].error is None


def test_a_worker_that_dies_is_one_and_the_others_go_on(tmp_path):
    outcomes = run(tmp_path, [job(0), job(1), job(2)], function=dies_at_1)
    assert [outcome.error for outcome in outcomes.values()] == [None, "its worker died", None]


def dies_at_1(job, folder, report):
    if job.values["number"] == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    jobs.train(job, folder, report)


def test_a_killed_run_goes_on_and_runs_nothing_twice(tmp_path):
    program = "import sys; from tests.trials.jobs import run_slowly; run_slowly(sys.argv[1])"
    seen = {}
    # Killed once while given jobs are under way, and once behind the first that was proposed.
    for enough in (lambda: len(list(tmp_path.glob("trials/*/ended"))) >= 2, (tmp_path / JOBS).exists):
        child, deadline = Forked(program, tmp_path, own_group=True), time.monotonic() + 120
        while not enough() and time.monotonic() < deadline:
            assert child.poll() is None
            time.sleep(0.02)
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
        time.sleep(1)  # its workers end behind it
        for folder in (path.parent for path in tmp_path.glob("trials/*/ended")):
            assert files(folder) == seen.setdefault(folder, files(folder))
    # What was proposed is gone on with, whatever would be proposed now.
    outcomes = run(tmp_path, [job(n) for n in range(4)], propose=jobs.after_the_best, most=6)
    assert list(outcomes) == [f"job-{number}" for number in range(6)]
    assert all(outcome.error is None and outcome.numbers["epoch"] == jobs.EPOCHS for outcome in outcomes.values())
    assert len(seen) >= 4 and all(files(folder) == kept for folder, kept in seen.items())
    assert max(starts(tmp_path).values()) <= 3


def files(folder):
    """What a job wrote, how often it was begun among it."""
    return [(folder / name).read_bytes() for name in ("starts", "metrics.jsonl")]


def test_jobs_of_one_key_are_a_mistake_of_ours(tmp_path):
    with pytest.raises(AssertionError, match="two jobs of one key"):
        Book(tmp_path, [job(0), job(0)], None, None)
    book = Book(tmp_path, [job(0)], lambda finished, under_way: job(0), 3)
    book.finished, book.waiting = {"job-0": None}, type(book.waiting)()
    with pytest.raises(AssertionError, match="job-0 was proposed twice"):
        book.has_next()


def test_calls_run_in_processes_of_their_own(tmp_path):
    failed = {}
    calls = [functools.partial(write_process, tmp_path / str(number), fails=number == 2) for number in range(4)]
    run_each(
        calls,
        share=fair_share(2, 1, "cpu"),
        what="trainings",
        failed=lambda place, error: failed.update({place: error}),
        progress=silent(),
    )
    assert list(failed) == [2] and isinstance(failed[2], ray.exceptions.RayError)
    written = [int((tmp_path / str(number)).read_text()) for number in (0, 1, 3)]
    assert len({*written, os.getpid()}) == 4


def write_process(path, *, fails):
    if fails:
        raise UserError("no")
    path.write_text(str(os.getpid()))


def test_a_trial_takes_its_threads_and_a_share_of_a_gpu(monkeypatch):
    assert fair_share(4, 3, "cpu") == {"cpu": 3} == fair_share(4, 3, None)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    assert fair_share(4, 3, None) == {"cpu": 3, "gpu": 0.5} and fair_share(1, 3, "cuda")["gpu"] == 1
    assert fair_share(4, 3, "cpu") == {"cpu": 3}
