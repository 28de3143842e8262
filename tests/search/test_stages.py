"""The stages of a search are frozen values handed on; what changes meanwhile is owned by objects of its own."""

import ast
import dataclasses
import itertools
import pathlib
import time
import types

import numpy as np
import pytest

from zennas.search import resources
from zennas.search.bands import Bands
from zennas.search.clock import Clock
from zennas.search.front import Front
from zennas.search.resources import Resources
from zennas.search.scored import Rows
from zennas.search.stages import Checked, Opened, Prepared, Searched, Settled, onwards
from zennas.space.space import effectiveness
from zennas.track import load_experiment

ROOM = pathlib.Path(resources.__file__).parent
STAGES = [Checked, Opened, Prepared, Searched, Settled]
NAMES = {stage.__name__.lower() for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_frozen_and_every_field_has_a_type(stage):
    assert stage.__dataclass_params__.frozen
    assert all(field.type is not None for field in dataclasses.fields(stage))


def test_a_stage_has_what_the_stages_before_it_have(tiny, tmp_path):
    names = [{field.name for field in dataclasses.fields(stage)} for stage in STAGES[:-1]]
    assert all(before < after for before, after in itertools.pairwise(names))
    experiment, track, space = load_experiment(str(tiny))
    checked = Checked(experiment=experiment, track=track, space=space, plan=experiment.search, out=tmp_path)
    added = dict.fromkeys(names[1] - names[0])
    opened = onwards(checked, Opened, **added | {"island": 3})
    assert (opened.plan, opened.share) == (checked.plan, (3, 1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        opened.island = 4


@pytest.mark.parametrize("path", sorted(ROOM.glob("*.py")), ids=lambda path: path.name)
def test_nobody_assigns_to_a_stage_or_to_a_resource_of_it(path):
    targets = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                targets += [part for part in ast.walk(target) if isinstance(part, ast.Attribute)]
    assigned = [ast.unparse(target) for target in targets if isinstance(target.ctx, ast.Store)]
    assert [text for text in assigned if text.split(".")[0] in NAMES] == []


def fake_ledger(**state):
    saves = []
    ledger = types.SimpleNamespace(
        state={"total_s": 0.0, "wall_s": {}, "finished": False} | state,
        own_N=np.ones(5, bool),
        folder=pathlib.Path("run"),
        saves=saves,
        save=lambda **changes: saves.append(changes),
        keep_no_more=lambda: saves.append("kept no more"),
        note_store=lambda **counts: None,
    )
    ledger.set_wall = ledger.state["wall_s"].__setitem__
    return ledger


def test_an_account_does_not_count_what_was_spent_in_those_inside_it():
    ledger = fake_ledger(total_s=100.0)
    clock = Clock(ledger, begun=time.monotonic(), minutes=2.0)
    with clock.timed("outer"):
        time.sleep(0.05)
        with clock.timed("inner"):
            time.sleep(0.1)
    with clock.timed("inner"):
        time.sleep(0.1)
    wall = ledger.state["wall_s"]
    assert 0.05 <= wall["outer"] < 0.1 and 0.2 <= wall["inner"] < 0.3
    assert 100.25 <= clock.total_s < 101 and 18 < clock.left_s < 20  # of 120 s
    assert Clock(ledger, begun=0.0, minutes=None).left_s == float("inf")


@pytest.mark.parametrize("size", [1, 4, 30])
def test_the_front_is_what_no_other_beats_however_the_rows_come(space, make_row, size):
    rng = np.random.default_rng(0)
    scores = rng.permutation(60).astype(float)
    rows = [make_row(space.sample(rng), score=score, predicted_ms=float(rng.integers(20))) for score in scores]
    first = Rows()
    first.extend(rows[:20])
    front, shown = Front(first, Bands(space)), set()
    for at in range(20, len(rows), size):
        shown |= {(row.score, row.predicted_ms) for row in front.take(rows[at : at + size])}
    points = {(row.score, row.predicted_ms) for row in rows}
    best = {
        (score, ms)
        for score, ms in points
        if not any(other >= score and fast <= ms and (other, fast) != (score, ms) for other, fast in points)
    }
    assert set(front._points[0]) == best
    before = {(row.score, row.predicted_ms) for row in rows[:20]}
    assert best - before <= shown


def test_each_band_has_a_front_of_its_own(space, make_row):
    """The best of a narrow band is shown to other islands, whatever a deeper one scores."""
    rng = np.random.default_rng(1)
    rows = [make_row(space.sample(rng), score=score, predicted_ms=1.0) for score in rng.permutation(40).astype(float)]
    middle = float(np.median([effectiveness(row.candidate) for row in rows]))
    bands, first = Bands(space, {"deep": None, "wide": middle}), Rows()
    first.extend(rows[:20])
    front = Front(first, bands)
    shown = front.take(rows[20:])
    for place in (0, 1):
        of_band = [row for row in rows if bands.of_candidate(row.candidate) == place]
        best = max(of_band, key=lambda row: row.score)
        assert front._points[place] == [(best.score, 1.0)] and (best in shown or best in rows[:20])


class Held:
    """Anything that a search holds; writes into `order` what happens to it."""

    def __init__(self, name, order):
        self.name, self.order, self.seconds, self.num_writes, self.longest_s = name, order, 0.0, 0, 0.0

    def close(self, **options):
        self.order.append((self.name, options))

    def release(self):
        self.order.append((self.name, {}))


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (None, resources.CLOSE_S),
        (KeyboardInterrupt, resources.LAST_WRITES_S),
        (OSError, resources.FAILED_WRITES_S),
    ],
)
def test_what_is_held_is_given_back_in_one_order_however_the_search_ends(monkeypatch, error, seconds):
    order, said = [], []
    monkeypatch.setattr(resources, "lock_folder", lambda folder: Held("lock", order))
    progress = types.SimpleNamespace(end=lambda: None, say=lambda text, **_: said.append(text))
    held, ledger = Resources(pathlib.Path("run"), progress), fake_ledger()
    try:
        with held:
            held.lock(pathlib.Path("run"))
            held.hold_store(Held("store", order))
            held.hold_ledger(ledger)
            held.hold_clock(Clock(ledger, begun=time.monotonic(), minutes=1.0))
            held.hold_workers(Held("workers", order))
            held.leave_note("# found")
            if error is not None:
                raise error
    except (KeyboardInterrupt, OSError) as problem:
        assert isinstance(problem, error)  # as it was raised
    assert [name for name, _ in order] == ["store", "workers", "lock"]
    assert order[0][1] == {"note": "# found", "finished": False, "num_scored": 5, "seconds": seconds}
    assert ["total_s" in save for save in ledger.saves] == [True, False, True] and ledger.saves[1] == "kept no more"
    assert bool(said) == (error is KeyboardInterrupt)


@pytest.mark.parametrize("holds", [(), ("store",), ("lock", "store", "ledger"), ("workers",)])
def test_a_run_that_never_began_gives_back_what_it_holds(monkeypatch, holds):
    order, ledger = [], fake_ledger()
    monkeypatch.setattr(resources, "lock_folder", lambda folder: Held("lock", order))
    held = Resources(pathlib.Path("run"), types.SimpleNamespace(end=lambda: None, say=lambda text, **_: None))
    with pytest.raises(ValueError, match="refused"), held:
        for name in holds:
            if name == "ledger":
                held.hold_ledger(ledger)
            elif name == "lock":
                held.lock(pathlib.Path("run"))
            else:
                getattr(held, f"hold_{name}")(Held(name, order))
        raise ValueError("refused")
    assert {name for name, _ in order} == set(holds) - {"ledger"} and ledger.saves == []
    if holds == ("store",):
        assert order == [("store", {"finished": None})]  # the island as it was
