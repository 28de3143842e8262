"""Who holds which island, with real processes that die; over SQLite, a journal file and a real PostgreSQL."""

import collections
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import optuna
import pytest

from tests.processes import Forked
from zennas.records import UserError
from zennas.search import islands
from zennas.search.islands import Drivers, claim, driverless, owner, take_back, turn
from zennas.search.storage import open_storage
from zennas.search.store import Store
from zennas.space.candidate import Candidate
from zennas.track import load_space


def test_every_candidate_belongs_to_one_island_and_a_family_to_one():
    space, rng = load_space("ir_se"), np.random.default_rng(0)
    shares = collections.Counter()
    for _ in range(400):
        candidate = space.sample(rng)
        shares[owner(candidate, 4)] += 1
        widths, depths = candidate.widths, candidate.depths
        relative = candidate.model_copy(update={"widths": (*widths[:-1], 64), "depths": (*depths[:-2], 1, 2)})
        assert owner(relative, 4) == owner(candidate, 4) and owner(candidate, 1) == 0
    assert set(shares) == {0, 1, 2, 3} and min(shares.values()) > 60


def test_the_share_of_an_island_is_the_same_in_every_process():
    """Of 16 candidates; this process has a seed of its own, and hashes otherwise than the other."""
    ask = (
        "from zennas.space.candidate import Candidate; from zennas.search.islands import owner; "
        "print([owner(Candidate(block='ir', stem=stem, widths=(8, 8), depths=(2, 2)), 64) for stem in range(8, 24)])"
    )
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"
    answer = subprocess.run(
        [sys.executable, "-c", ask],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": seed},
    ).stdout.strip()
    owners = [owner(Candidate(block="ir", stem=stem, widths=(8, 8), depths=(2, 2)), 64) for stem in range(8, 24)]
    assert answer == str(owners) and len(set(owners)) > 1


@pytest.fixture(params=["sqlite", "journal", "postgres"])
def url(request, tmp_path):
    kinds = {"sqlite": f"sqlite:///{tmp_path}/study.db", "journal": f"journal:{tmp_path}/study.log"}
    return kinds.get(request.param) or request.getfixturevalue("database")


@pytest.fixture
def drivers(url):
    """A function that opens the study of drivers, as another process would."""
    return lambda: Drivers(open_storage(url), "run")


@pytest.fixture
def impatient(monkeypatch):
    """Half a second without a sign of life is a death."""
    monkeypatch.setattr(islands, "LEASE_S", 0.5)
    monkeypatch.setattr(islands, "BEAT_S", 0.1)
    monkeypatch.setattr(islands, "ASK_S", 0.05)


DRIVER = """
    import sys, time
    from zennas.search.islands import Drivers, claim
    from zennas.search.storage import open_storage
    import optuna
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    held = claim(Drivers(open_storage(sys.argv[1]), "run"), int(sys.argv[2]), say=lambda text: None)
    print(held.island, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def start_driver(url):
    """start_driver(num_islands) -> a process that holds an island and is silent from then on."""
    started = []

    def begun(num_islands):
        started.append(Forked(textwrap.dedent(DRIVER), url, num_islands))
        return started[-1]

    yield begun
    for process in started:
        process.kill()
        process.wait()


def test_each_driver_gets_an_island_of_its_own(drivers, impatient):
    held = [claim(drivers(), 3, say=print) for _ in range(3)]
    assert [one.island for one in held] == [0, 1, 2] and [one.is_first() for one in held] == [True, False, False]
    with pytest.raises(
        UserError, match=r"3 island\(s\), and a driver works on each: island 0 by process \d+ on .*wait for one to end"
    ):
        claim(drivers(), 3, say=print)
    held[1].release(finished=False, num_scored=10)
    assert claim(drivers(), 3, say=print).island == 1


def test_drivers_that_begin_at_the_same_moment_share_nothing(start_driver, drivers):
    drivers()
    processes = [start_driver(5) for _ in range(5)]
    assert sorted(int(process.stdout.readline()) for process in processes) == [0, 1, 2, 3, 4]
    assert len(take_back(drivers(), {}, say=print)) == 5


def test_the_island_of_a_killed_driver_is_taken_back_at_once(start_driver, drivers):
    process, said = start_driver(1), []
    assert process.stdout.readline() == "0\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    start = time.monotonic()
    held = claim(drivers(), 1, say=said.append)
    assert held.island == 0 and time.monotonic() - start < 5
    assert said == [f"island 0: its driver (process {process.pid} on {os.uname().nodename}) has died; taken back"]
    states = [trial.state.name for trial in drivers().study.trials]
    assert states == ["FAIL", "RUNNING"] and held.is_first()


def elsewhere(monkeypatch):
    """From here on a claim is taken as if from another machine: nothing is known of its process."""
    monkeypatch.setattr(islands, "_place", lambda: "another machine")


def test_a_silent_driver_elsewhere_is_waited_for_and_then_taken_back(drivers, impatient, monkeypatch):
    with monkeypatch.context() as patch:
        elsewhere(patch)
        lost = claim(drivers(), 1, say=print)
    said, start = [], time.monotonic()
    held = claim(drivers(), 1, say=said.append)
    assert held.island == 0 and 0.4 < time.monotonic() - start < 10
    assert "held: island 0 by process" in said[0] and "waiting up to" in said[0] and "has died; taken back" in said[1]
    with pytest.raises(UserError, match=r"island 0 was taken over by another driver, .* silent .* same command again"):
        lost.beat()


def test_while_nobody_could_look_nobody_dies(drivers, impatient, monkeypatch):
    """The store was away for longer than the lease, for the driver that lives and for the one that looks."""
    with monkeypatch.context() as patch:
        elsewhere(patch)
        living = claim(drivers(), 1, say=print)
    seen, study = {}, drivers()
    assert list(take_back(study, seen, say=print)) == [0]
    time.sleep(0.8)  # more than LEASE_S
    assert list(take_back(study, seen, say=print)) == [0]
    living.beat()
    assert list(take_back(study, seen, say=print)) == [0]


def test_a_claim_that_was_begun_before_a_connection_was_lost_is_gone_on_with(drivers, impatient, monkeypatch):
    study, add = drivers(), optuna.study.Study.add_trial

    def lost(self, trial):
        add(self, trial)
        raise ConnectionError("gone")

    for ask in (
        lambda: claim(study, 2, say=print, token="ours"),
        lambda: turn(study, "finals", say=print, seen={}, token="t"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(optuna.study.Study, "add_trial", lost)
            with pytest.raises(ConnectionError):
                ask()
        held = ask()
        held.release(finished=True, num_scored=1)
    assert [trial.state.name for trial in study.study.trials] == ["COMPLETE", "COMPLETE"]


def test_a_driver_elsewhere_that_gives_signs_of_life_keeps_its_island(drivers, impatient, monkeypatch):
    with monkeypatch.context() as patch:
        elsewhere(patch)
        living, stop = claim(drivers(), 1, say=print), threading.Event()

    def live():
        while not stop.wait(0.1):
            living.beat()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        with pytest.raises(UserError, match="a driver works on each"):
            claim(drivers(), 1, say=print)
    finally:
        stop.set()
        thread.join()


def test_what_was_left_unfinished_comes_first(drivers):
    held = [claim(drivers(), 3, say=print) for _ in range(3)]
    for one, finished in zip(held, (True, False, True), strict=True):
        one.release(finished=finished, num_scored=7)
    assert driverless(drivers(), 3) == [1]
    again = [claim(drivers(), 3, say=print).island for _ in range(3)]
    assert again == [1, 0, 2] and driverless(drivers(), 3) == []
    assert [trial.value for trial in drivers().study.trials[:3]] == [7.0, None, 7.0]


def test_a_finished_study_is_extended_island_by_island_however_late_a_driver_begins(drivers):
    for _ in range(3):
        claim(drivers(), 3, say=print).release(finished=True, num_scored=7)
    extended = []
    for _ in range(3):  # each is done before the next begins
        held = claim(drivers(), 3, say=print)
        extended.append(held.island)
        held.release(finished=True, num_scored=9)
    assert sorted(extended) == [0, 1, 2]


@pytest.mark.slow
def test_a_turn_that_is_waited_for_outlasts_a_restart_of_the_database(space, postgres, database):
    first, second = (Store(space, database, "run", num_islands=2, say=print) for _ in range(2))
    order = []

    def wait():
        with second.turn("finals"):
            order.append("second")

    for store in (first, second):
        store.take_island()
    thread = threading.Thread(target=wait)
    with first.turn("finals"):
        thread.start()
        time.sleep(1.5)  # it asks every half second
        postgres.restart(down_s=1.0)
        time.sleep(1.5)
        order.append("first is done")
    thread.join(30)
    assert order == ["first is done", "second"]
    for store in (first, second):
        assert store.close() is None


def test_one_at_a_time_has_its_turn(drivers, impatient):
    first, order = turn(drivers(), "finals", say=print, seen={}), []

    def second():
        held = turn(drivers(), "finals", say=order.append, seen={})
        order.append("second")
        held.release(finished=False, num_scored=0)

    thread = threading.Thread(target=second)
    thread.start()
    deadline = time.monotonic() + 20
    while not order and time.monotonic() < deadline:
        first.beat()
        time.sleep(0.05)
    order.append("first is done")
    first.release(finished=False, num_scored=0)
    thread.join(20)
    assert "waiting for the finals of another island" in order[0] and order[1:] == ["first is done", "second"]
