"""What every room that trains many networks is asked for, from the options of its command."""

import pathlib
import types

import pytest

from zennas.provenance import num_cores
from zennas.records import UserError
from zennas.trials.request import fields_of


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
