"""Tables as other machines leave them, and a cache of one test's own."""

import csv

import pytest

from zennas.latency.table import COLUMNS


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of what is kept, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ZENNAS_CACHE", str(folder))
    return folder


@pytest.fixture
def write_table():
    """write_table(path, {Part: ms}, ...) writes a table's file as zennas does, or with fewer columns."""

    def write(path, ms_of, *, machine="a-gpu", runtime="1.6.0", date="2026-01-02T03:04:05+00:00", columns=COLUMNS):
        path.parent.mkdir(parents=True, exist_ok=True)
        begun = path.exists()
        with open(path, "a", newline="") as file:
            writer = csv.DictWriter(file, columns, extrasaction="ignore")
            if not begun:
                writer.writeheader()
            for part, ms in ms_of.items():
                values = {"ms": ms, "spread_pct": 1.5, "raw_ms": f"{ms} {ms}", "machine": machine, "date": date}
                writer.writerow(part._asdict() | values | {"runtime": runtime})
        return path

    return write
