"""Parts of the work: kept, not done twice, and the same by workers as by this process."""

import numpy as np
import pytest

from tests.clean.conftest import planted
from zennas.clean import steps
from zennas.clean.plan import CleanPlan
from zennas.clean.state import State
from zennas.clean.steps import Bench, cleaned
from zennas.clean.work import WORTH_RAY, Work, wanted_workers
from zennas.provenance import num_cores


def doubled(folder, number):
    """A part that leaves a trace of having been done."""
    (folder / f"done-{number}-{len(list(folder.glob(f'done-{number}-*')))}").touch()
    return {"twice": np.array(2 * number), "row": np.arange(number)}


def broken(folder, number):
    if number == 2:
        raise RuntimeError("the power went")
    return doubled(folder, number)


def test_what_was_done_is_kept_and_the_rest_is_done(tmp_path):
    parts = [(tmp_path, number) for number in range(5)]
    with pytest.raises(RuntimeError, match="power"):
        Work(tmp_path / "parts").map("doubling", broken, parts)
    found = Work(tmp_path / "parts").map("doubling", doubled, parts)
    assert [int(one["twice"]) for one in found] == [0, 2, 4, 6, 8]
    assert [one["row"].tolist() for one in found] == [list(range(number)) for number in range(5)]
    assert sorted(path.name for path in tmp_path.glob("done-*")) == [f"done-{number}-0" for number in range(5)]
    assert Work(tmp_path / "parts").map("other", doubled, parts[:1]) and (tmp_path / "done-0-1").exists()


def test_a_part_that_was_being_written_is_done_again(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / ".doubling-000000.npz.tmp").write_bytes(b"half")
    assert int(Work(tmp_path / "parts").map("doubling", doubled, [(tmp_path, 1)])[0]["twice"]) == 2


def test_workers_are_for_what_takes_long():
    assert wanted_workers(3, 10) == 3 and wanted_workers(None, WORTH_RAY - 1) == 1
    assert wanted_workers(None, WORTH_RAY) == num_cores()


@pytest.mark.slow
def test_workers_find_what_this_process_finds(tmp_path, monkeypatch):
    made = planted(0)
    np.save(tmp_path / "rows.npy", made.unit_ND.astype(np.float16))
    monkeypatch.setattr(steps, "PART", 40)
    states = []
    for num_workers in (1, 2):
        work = Work(tmp_path / f"parts-{num_workers}", num_workers=num_workers)
        try:
            states.append(cleaned(State.of(made.label_N), Bench(tmp_path / "rows.npy", CleanPlan(), work)))
        finally:
            work.close()
    for name in ("label_N", "reason_N", "nearest_N", "twin_N"):
        assert (getattr(states[0], name) == getattr(states[1], name)).all(), name
    assert (states[0].label_N < 0).any() and len(list((tmp_path / "parts-2").glob("*.npz"))) > 20
