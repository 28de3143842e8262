"""That nothing is scored beside a measurement, with real processes that know nothing of each other."""

import itertools
import os
import signal
import sys
import textwrap
import time

import pytest

from tests.processes import Forked
from zennas.latency.quiet import measuring, scoring, trouble

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="by the locks of a Unix")


@pytest.fixture(autouse=True)
def apart(tmp_path, monkeypatch):
    """Locks of this test alone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


@pytest.fixture
def begin():
    """begin(code) -> a process that runs it with `measuring`, `scoring` and `say(text)`."""
    started = []

    def begun(code):
        head = """
            import sys, time
            from zennas.latency.quiet import measuring, scoring
            def say(text): print(text, time.monotonic(), flush=True)
        """
        started.append(Forked(textwrap.dedent(head) + textwrap.dedent(code)))
        return started[-1]

    yield begun
    for process in started:
        process.kill()
        process.wait()


SCORE = """
    for _ in range({num}):
        with scoring():
            say("from")
            time.sleep(0.02)
            say("to")
"""


def spans(process):
    """[(from, to)] of what a process did, by the clock of all."""
    times = [float(line.split()[1]) for line in process.communicate(timeout=60)[0].splitlines()]
    return list(zip(times[::2], times[1::2], strict=True))


@pytest.mark.alone
def test_what_scores_stands_aside_for_every_measurement_and_scores_together_otherwise(begin):
    scorers = [begin(SCORE.format(num=150)) for _ in range(3)]
    for scorer in scorers:
        scorer.stdout.readline()  # it is at work
    waited_s, measured = [], []
    for _ in range(5):
        asked = time.monotonic()
        with measuring():
            begun = time.monotonic()
            time.sleep(0.1)
            measured.append((begun, time.monotonic()))
        waited_s.append(begun - asked)
    scored = []
    for scorer in scorers:
        times = [float(line.split()[1]) for line in scorer.stdout][1:]  # with what readline had already taken in
        scored.append(list(zip(times[::2], times[1::2], strict=True)))
    assert all(len(one) == 149 for one in scored)
    everything = sorted(span for one in scored for span in one)
    assert not [span for span in everything for begun, ended in measured if span[0] < ended and span[1] > begun]
    assert max(waited_s) < 2.0  # however many score on and on
    assert any(first[1] > second[0] for first, second in itertools.pairwise(everything))  # together


def test_two_measurements_are_made_one_after_the_other(begin):
    code = "with measuring():\n    say('from')\n    time.sleep(0.3)\n    say('to')\n"
    (first,), (second,) = sorted(spans(process) for process in [begin(code), begin(code)])
    assert first[1] <= second[0]


@pytest.mark.parametrize("what", ["measuring", "scoring"])
def test_a_process_that_is_killed_holds_nothing(begin, what):
    process = begin(f"with {what}():\n    say('from')\n    time.sleep(600)\n")
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with measuring():
        pass
    with scoring():
        pass


def test_a_folder_that_is_not_this_users_alone_locks_nothing_and_is_said(tmp_path):
    assert trouble() is None
    folder = tmp_path / f"zennas-{os.getuid()}"
    folder.chmod(0o777)
    assert "is not this user's alone" in trouble()
    with measuring(), scoring():  # together, for there is no lock
        pass
    folder.chmod(0o700)
    (folder / "gate").unlink()
    (tmp_path / "precious").write_text("mine")
    (folder / "gate").symlink_to(tmp_path / "precious")
    assert str(folder) in trouble()
    with scoring():
        assert (tmp_path / "precious").read_text() == "mine"
