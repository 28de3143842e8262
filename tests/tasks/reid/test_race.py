"""The figures of experiments/reid/race.py, of made-up mAP and of the trainings that were kept."""

import argparse
import importlib.util
import json
import sys

import pytest

# Deviations of 3, 1 and 0 on both sides of the mean have variances of 9, 1 and 0: pooled (3 x 9 + 1) / 7 = 4, spread 2.
SEVERAL = {
    "mgn": (37.0, 40.0, 43.0),
    "single": (27.0, 30.0, 33.0),
    "single, teacher": (28.0, 31.0, 34.0),
    "mgn, teacher": (41.0, 42.0, 43.0),
    "mgn, local triplets": (45.0, 45.0, 45.0),
    "osnet": (10.0, 10.0, 10.0),
    "mobilenetv2": (12.0, 12.0, 12.0),
}
ALONE = {
    "osnet, learning rate 0.001": (1.0,),
    "mobilenetv2, learning rate 0.001": (2.0,),
    "osnet, learning rate 0.01": (22.0,),
    "mobilenetv2, learning rate 0.01": (21.0,),
    "mgn, 144 epochs": (52.0,),
    "mgn, teacher, 144 epochs": (54.0,),
}
RATES = "one branch, searched, ahead of the hand-made at any of three learning rates"
TEACHER, LONGER = "a teacher ahead of none in 144 epochs", "144 epochs ahead of 48"


@pytest.fixture(scope="module")
def race(checkout):
    """The experiment's program, under a name of its own: experiments/learned has a race.py, too."""
    spec = importlib.util.spec_from_file_location("reid_race", checkout / "experiments" / "reid" / "race.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    return program


def by_seed(rows):
    return {row: {str(seed): value for seed, value in enumerate(values)} for row, values in rows.items()}


def test_rows_of_one_seed_are_compared_by_the_spread_of_the_others(race):
    judged = race.all_compared(by_seed(SEVERAL | ALONE))
    assert judged["spread"] == 2  # the rows of one seed say nothing of it
    rates = judged["open"][RATES]
    assert (rates["row"], rates["less"], rates["points"]) == ("single", "osnet, learning rate 0.01", 8)  # 30 - 22
    assert (rates["standard_error"], rates["outside_the_spread"]) == (2.31, True)  # 2 x sqrt(1/3 + 1) = 2.309
    first = rates["seed_0"]
    assert (first["less"], first["points"]) == ("osnet, learning rate 0.01", 5)  # 27 - 22
    assert (first["standard_error"], first["outside_the_spread"]) == (2.83, False)  # 5 < 2 x 2 x sqrt(1 + 1) = 5.657
    longer = judged["open"][LONGER]
    assert (longer["points"], longer["seed_0"]["points"], longer["standard_error"]) == (12, 15, 2.31)  # from 40, 37
    assert [judged["open"][what]["predicted"] for what in (RATES, TEACHER, LONGER)] == ["over +10", "+3", "+3"]


@pytest.mark.parametrize(("points", "is_told"), [(5.6, False), (5.7, True), (-5.6, False), (-5.7, True)])
def test_a_difference_of_two_trainings_is_told_beyond_twice_its_standard_error(points, is_told, race):
    taught = {"mgn, teacher, 144 epochs": (52.0 + points,)}  # twice 2 x sqrt(1 + 1): 5.657
    teacher = race.all_compared(by_seed(SEVERAL | ALONE | taught))["open"][TEACHER]
    assert (teacher["points"], teacher["standard_error"]) == (points, 2.83)
    assert teacher["outside_the_spread"] is is_told


def test_goals_are_the_same_with_and_without_rows_of_one_seed(race):
    before, after = (race.all_compared(by_seed(rows)) for rows in (SEVERAL, SEVERAL | ALONE))
    assert before["goals"] == after["goals"] and len(before["goals"]) == len(race.GOALS)
    hand_made = after["goals"]["one branch, searched, ahead of the hand-made"]
    assert (hand_made["less"], hand_made["points"]) == ("mobilenetv2", 18)  # 30 - 12
    assert hand_made["standard_error"] == 1.63  # 2 x sqrt(1/3 + 1/3)
    assert before["open"] == {}


def test_what_lacks_a_row_is_not_compared(race):
    rows = SEVERAL | {row: values for row, values in ALONE.items() if row != "osnet, learning rate 0.001"}
    assert list(race.all_compared(by_seed(rows))["open"]) == [TEACHER, LONGER]


def test_nothing_open_is_compared_before_every_goal_has_its_seeds(race):
    judged = race.all_compared(by_seed(SEVERAL | ALONE | {"single, teacher": (28.0,)}))
    assert judged["open"] == {} and "a teacher ahead of none, one branch" not in judged["goals"]


def test_a_row_of_one_seed_is_a_ring_without_a_mean(race):
    marks = {}
    for trace in race.drawn_of(by_seed(SEVERAL | ALONE)).data:
        marks.setdefault(trace.y[0], []).append((trace.marker.symbol, len(trace.x)))
    assert {row: marks[row] for row in ALONE} == {row: [("circle-open", 1)] for row in ALONE}
    assert {row: marks[row] for row in SEVERAL} == {row: [("circle", 3), ("line-ns-open", 1)] for row in SEVERAL}


def test_what_is_published_is_judged_from_the_trainings_that_were_kept(race, checkout, monkeypatch, tmp_path):
    published = json.loads((checkout / "experiments" / "reid" / "results.json").read_text(encoding="utf-8"))
    monkeypatch.setattr(race, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(sys, "argv", ["race.py", "judge"])
    race.judge(argparse.Namespace(out=tmp_path))
    again = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {**again, "made_by": None} == {**published, "made_by": None}
    assert set(again["figures"]["market"]["map"]) == {*race.ROWS, *race.AFTERWARDS}
    assert list(again["open"]) == list(race.OPEN)
    page = (tmp_path / "race.html").read_text(encoding="utf-8")
    assert "the only training of its row, seed 0" in page and "mgn, teacher, 144 epochs" in page
