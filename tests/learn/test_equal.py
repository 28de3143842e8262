"""The pool's size, and what is said while it is measured."""

import pytest

from zennas.learn.equal import FEW_OF, MANY, _HowFar
from zennas.learn.options import Options
from zennas.learn.request import learn_plan
from zennas.learn_plan import LearnPlan
from zennas.track import load_experiment


@pytest.mark.parametrize(("trainings", "pool"), [(None, 32), (16, 32), (5, 10), (4, 8), (24, 48)])
def test_the_pool_is_as_large_for_each_training_as_the_experiment_has_it(trainings, pool):
    plan = learn_plan(Options.of(data="faces", trainings=trainings), load_experiment("webface-sfr")[0])
    assert plan.pool == pool and plan.first <= plan.trainings == (trainings or 16)


def test_a_large_pool_counts_no_more_than_it_asked_for():
    far = _HowFar(LearnPlan(pool=16), 96, 0, 0)
    assert far.fields(17, 40)["equal"] == "16 of 16" and far.fields(17, 40)["left"] == "0s"


def test_what_is_left_is_told_by_the_share_that_is_kept(monkeypatch):
    clock = iter([0.0, 60.0, 60.0])
    monkeypatch.setattr("zennas.learn.equal.time.monotonic", lambda: next(clock))
    far = _HowFar(LearnPlan(pool=16), 96, 4, 10)  # goes on where ten were measured before
    # 12 more of 24 measured in a minute are kept one in two: the other 6 want 12 measurements.
    assert far.fields(10, 22) == {"equal": "10 of 16", "measured": "22 of 96 at most", "left": "1m00s"}
    assert far.fields(5, 90)["left"] == "4s"  # 880 more are wanted, and 6 are allowed
    assert "left" not in far.fields(4, 20)


def test_that_few_are_kept_is_told_once_and_not_too_early():
    far = _HowFar(LearnPlan(), 192, 0, 0)
    assert not far.is_slow(0, MANY - 1)
    assert not far.is_slow(MANY // FEW_OF, MANY)
    assert far.is_slow(MANY // FEW_OF, MANY + 1) and not far.is_slow(3, 30)
