"""Time and memory that a candidate may take, in a process of its own where it would not survive."""

import signal
import sys
import threading
import time

import pytest

from tests.processes import forked
from tests.shapes import FACE
from zennas.score.limits import TooLongError, memory_limit, time_limit
from zennas.score.scores import SCORES, score_batch
from zennas.space.candidate import Candidate
from zennas.track import ScorePlan


def test_what_takes_too_long_is_stopped_and_what_does_not_is_not():
    before = signal.getsignal(signal.SIGALRM)
    start = time.monotonic()
    with pytest.raises(TooLongError, match=r"took longer than 0\.2 s"), time_limit(0.2):
        time.sleep(30)
    assert time.monotonic() - start < 5
    with time_limit(5):
        assert 1 + 1 == 2
    assert signal.getsignal(signal.SIGALRM) is before and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_an_alarm_that_is_swallowed_rings_again():
    rang = []
    with pytest.raises(TooLongError), time_limit(0.1):
        try:
            time.sleep(30)
        except TooLongError as error:
            rang.append(error)
        time.sleep(30)
    assert len(rang) == 1


def test_there_is_no_limit_without_one_or_outside_the_main_thread():
    done = []

    def work():
        with time_limit(0.05):
            time.sleep(0.2)
        done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    with time_limit(None), memory_limit(None):
        pass
    assert done == [True]


HANG = """
import itertools, time
from zennas.score.limits import time_limit
with time_limit(0.5):
    sum(itertools.repeat(1))  # native code that hears no signal
"""


def test_what_hears_no_alarm_is_ended_with_its_process():
    start = time.monotonic()
    ended = forked(HANG)
    assert ended.returncode == 1 and "Timeout" in ended.stderr and time.monotonic() - start < 30


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone counts what is allocated")
def test_memory_beyond_the_limit_raises_and_is_there_again_afterwards():
    with memory_limit(200 * 2**20):
        assert len(bytearray(50 * 2**20)) == 50 * 2**20
        with pytest.raises(MemoryError):
            bytearray(400 * 2**20)
    assert len(bytearray(400 * 2**20)) == 400 * 2**20


def test_one_that_takes_too_long_fails_and_the_batch_goes_on(monkeypatch):
    monkeypatch.setitem(
        SCORES, "slow", lambda one, image_px, batch, generator: time.sleep(30 * (one.stem == 16)) or 1.0
    )
    candidates = [Candidate(block="ir", stem=stem, widths=(8,), depths=(1,)) for stem in (8, 16, 24)]
    scored = score_batch(candidates, ScorePlan(name="slow", repeats=1), FACE, seed=0, limit_s=0.3)
    assert [one.value for one in scored] == [1.0, None, 1.0]
    assert (scored[1].stage, scored[1].error) == ("score", "TooLongError: took longer than 0.3 s")


def test_a_family_is_scored_alone_where_that_is_asked(monkeypatch):
    candidates = [Candidate(block="ir", stem=8, widths=(8,), depths=(depth,)) for depth in (1, 2, 3)]
    plan = ScorePlan(image_px=16, batch=2, repeats=1)
    together, alone = (score_batch(candidates, plan, FACE, seed=0, alone=one) for one in (False, True))
    assert [one.value for one in together] == pytest.approx([one.value for one in alone], rel=1e-4)
    assert len({one.seconds for one in together}) == 1 < len({one.seconds for one in alone})
