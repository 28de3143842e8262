"""Ranks that wait for each other: they say so, hear a signal, and see that one is gone. Processes, through gloo."""

import signal
import time

import pytest

from tests.processes import Forked

# Rank 1 begins an exchange late, never, or dies before it.
PROGRAM = """
import datetime, os, sys, time
from zennas import ranks
from zennas.records import UserError
rank, store, what = int(sys.argv[1]), sys.argv[2], sys.argv[3]
ranks.PATIENCE_S, ranks.SLICE = 0.1, datetime.timedelta(seconds=0.1)
ranks.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
mine = ranks.Ranks(rank, 2, say=lambda text: print(text, flush=True))
x = ranks.torch.tensor([float(rank + 1)])
assert mine.sum_(x.clone()).tolist() == [3.0] and mine.gather(x).tolist() == [1.0, 2.0]
print("met", flush=True)
if rank == 1:
    time.sleep({"late": 0.5}.get(what, 60))
try:
    print(mine.objects(rank), flush=True)
    print(mine.on_first(lambda: time.sleep(0.5) or "made"), flush=True)
    mine.barrier()
except RuntimeError as error:
    print("another is lost:", ranks.another_is_lost(error))
except KeyboardInterrupt:
    print("stopped")
mine.close()
"""


@pytest.fixture
def pair(tmp_path):
    """pair(what) -> the two ranks, which have met."""
    begun = []

    def begin(what):
        begun.extend(Forked(PROGRAM, rank, tmp_path / "store", what) for rank in range(2))
        assert [process.stdout.readline() for process in begun] == ["met\n", "met\n"]
        return begun

    yield begin
    for process in begun:
        process.kill()


def test_who_waits_says_for_whom(pair):
    first, second = (process.communicate(30)[0].splitlines() for process in pair("late"))
    assert first[0].startswith("rank 0: waiting for another rank for ") and first[-2:] == ["[0, 1]", "made"]
    assert second[0] == "[0, 1]" and second[1].startswith("rank 1: waiting for the first rank for ")
    assert second[-1] == "made"


def test_a_rank_that_dies_is_seen_by_the_others(pair):
    first, second = pair("dies")
    assert "waiting" in first.stdout.readline()
    second.kill()
    assert first.communicate(30)[0].splitlines()[-1] == "another is lost: True"


def test_a_signal_is_heard_while_another_rank_is_waited_for(pair):
    first, _ = pair("hangs")
    assert "waiting" in first.stdout.readline()
    begun = time.monotonic()
    first.send_signal(signal.SIGINT)
    said = first.communicate(30)[0].splitlines()
    assert said[-1] == "stopped" and time.monotonic() - begun < 20
