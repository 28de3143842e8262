"""Workers that cannot begin leave no connection to Ray behind: a script that searches again would meet it."""

import pytest

from zennas.records import UserError
from zennas.search import workers as of_workers
from zennas.search.workers import MeasuringError, Workers


@pytest.mark.parametrize("part", ["_find_device", "_scorers"])
@pytest.mark.parametrize("error", [UserError, MeasuringError, KeyboardInterrupt])
def test_whatever_stops_the_workers_ends_their_connection(part, error, monkeypatch):
    calls = []

    def fail(self, argument):
        raise error("no")

    monkeypatch.setattr(of_workers, "connect", lambda *_, **__: calls.append("connect"))
    monkeypatch.setattr(of_workers, "keep_off_standard_output", lambda: None)
    monkeypatch.setattr(of_workers.ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(Workers, "_find_device", lambda self, tag: None)
    monkeypatch.setattr(Workers, part, fail)
    with pytest.raises(error):
        Workers(1)
    assert calls == ["connect", "shutdown"]
