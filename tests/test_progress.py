"""What a run says while it runs."""

import pytest

from zennas import progress as module
from zennas.progress import silent


@pytest.fixture
def shown(monkeypatch):
    """(a clock to set, what is shown of a count)."""
    clock, shown = [0.0], []
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    progress = silent()
    monkeypatch.setattr(progress, "update", shown.append)
    progress.begin("masking")
    return clock, shown, progress.counting("parts")


def test_what_is_left_is_told_by_the_pace_since_the_first_part(shown):
    clock, shown, count = shown
    for clock[0], done in ((60.0, 1), (62.0, 2), (64.0, 3)):  # a minute until the processes have begun
        count(done, 10)
    assert shown == [{"parts": "1/10"}, {"parts": "2/10", "left": "16s"}, {"parts": "3/10", "left": "14s"}]


def test_what_was_done_before_says_nothing_of_the_pace(shown):
    clock, shown, count = shown
    for clock[0], done in ((1.0, 900), (11.0, 901)):
        count(done, 1000)
    assert shown[-1] == {"parts": "901/1000", "left": "16m30s"}


def test_another_count_has_a_pace_of_its_own(shown):
    clock, shown, count = shown
    for clock[0], done, total in ((1.0, 1, 2), (2.0, 2, 2), (100.0, 1, 5), (103.0, 2, 5)):
        count(done, total)
    assert shown[2:] == [{"parts": "1/5"}, {"parts": "2/5", "left": "9s"}]
