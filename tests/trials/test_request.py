"""What every room that trains many networks is asked for, from the options of its command."""

import dataclasses
import pathlib
import types

import pytest

from zennas.provenance import num_cores
from zennas.records import UserError
from zennas.tasks.face.plan import FacePlan
from zennas.trials.request import TrialsRequest, fields_of

# Of a TrialsRequest, what has no default: nothing that a plan hangs on.
FIELDS = ("name", "asked_track", "track", "space", "data", "out", "shown_out")


def options(**changes):
    open_ones = dict.fromkeys(("held_out", "test", "device", "workers", "threads", "address"))
    values = {"track": "tiny", "data": pathlib.Path("data"), "resume": False, "fresh": False} | open_ones
    return types.SimpleNamespace(**values | changes)


def test_paths_are_absolute_for_workers_that_run_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "people.txt").write_text("a")
    fields = fields_of(options(held_out=pathlib.Path("people.txt")), out=pathlib.Path("out"))
    assert (fields["data"], fields["out"], fields["held_out"], fields["test"]) == (
        tmp_path / "data",
        tmp_path / "out",
        tmp_path / "people.txt",
        None,
    )
    assert fields["shown_out"] == pathlib.Path("out") and fields["asked_track"] == "tiny"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (num_cores(), 1)),
        ({"workers": 1}, (1, num_cores())),
        ({"workers": 1, "address": "head:6379"}, (1, 1)),  # of its machines nothing is known here
        ({"workers": 3, "threads": 5}, (3, 5)),
    ],
)
def test_the_cores_are_shared_out_where_it_is_left_open(given, expected):
    fields = fields_of(options(**given), out=pathlib.Path("out"))
    assert (fields["num_workers"], fields["num_threads"]) == expected


@pytest.mark.parametrize(("name", "option"), [("held_out", "--held-out"), ("test", "--test")])
def test_a_file_of_groups_that_is_not_there_is_told(name, option):
    with pytest.raises(UserError, match=f"{option} nowhere.txt: no such file"):
        fields_of(options(**{name: pathlib.Path("nowhere.txt")}), out=pathlib.Path("out"))


def test_a_short_recipe_keeps_the_shape_of_one_in_steps():
    """16,000 steps with a warm-up of an eighth and drops at a half and three quarters, in 4 epochs."""
    schedule = {"name": "step", "warmup_steps": 2000, "milestone_steps": [8000, 12000]}
    plan = FacePlan.parse({"steps": 16000, "verify_steps": 500, "schedule": schedule}, "here")
    request = TrialsRequest(**dict.fromkeys(FIELDS), plan=plan)
    short = request.short_plan(epochs=4, seed=7, changes=["optimizer.lr=0.3"])
    assert (short.epochs, short.steps, short.verify_epochs, short.verify_steps) == (4, None, 1, None)
    assert (short.schedule.warmup_epochs, short.schedule.warmup_steps) == (0.5, None)
    assert (short.schedule.milestones, short.schedule.milestone_steps) == ((2, 3), ())
    assert (short.seed, short.optimizer.lr) == (7, 0.3)
    kept = dataclasses.replace(request, plan=FacePlan.parse({"schedule": {"warmup_epochs": 1}}, "here"))
    assert kept.short_plan(epochs=4, seed=7).schedule == kept.plan.schedule
