"""Tables as other machines leave them, and a cache of one test's own."""

import csv

import pytest

from zennas.latency.table import COLUMNS, part_cells


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The folder of what is kept, empty."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ZENNAS_CACHE", str(folder))
    return folder


def write_table(path, ms_of, *, machine="a-gpu", runtime="1.6.0", date="2026-01-02T03:04:05+00:00", columns=COLUMNS):
    """The path of a table's file that {Part: ms} is written to, or added to, as zennas does; or with fewer columns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    begun = path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        if not begun:
            writer.writeheader()
        for part, ms in ms_of.items():
            values = {"ms": ms, "spread_pct": 1.5, "raw_ms": f"{ms} {ms}", "machine": machine, "date": date}
            writer.writerow(dict(zip(COLUMNS, part_cells(part), strict=False)) | values | {"runtime": runtime})
    return path
