"""The page of a search, from rows made by hand."""

import math

import pandas as pd
import pytest
from plotly.offline import get_plotlyjs

from tests.pages import figure, numbers
from zennas.tasks.face.tune_plan import FaceTunePlan
from zennas.tasks.face.tuning import TUNING
from zennas.tune import report
from zennas.tune.outcome import confirmation
from zennas.tune.proposal import Proposal
from zennas.tune.run import to_confirm

GROUP = {"num_images": 20, "num_identities": 5, "same_pairs": 30, "different_pairs": 160}
MADE_BY = {"zennas": "0", "command": "none", "seed": 0, "machine": "none", "date": "today", "versions": {}}


def told(trial, reward, **knobs):
    candidate = {"block": "ir_se", "stem": 8, "widths": [8, 16], "depths": [1, 1]}
    return {
        "trial": trial,
        "knobs": knobs,
        "reward": reward,
        "tpr@0.1": reward,
        "candidate": candidate,
        "macs": 10**6,
        "params": 10,
        "num_images": 100,
        "num_identities": 10,
        "num_merged": 0,
        "num_dropped": 0,
    }


def summary(**changes):
    return {
        "experiment": "tiny",
        "trials": 4,
        "states": {"finished": 2, "stopped early": 1, "failed": 1},
        "epochs": 3,
        "reward": {"fprs": [0.1], "weights": [1]},
        "recipe": told(0, 0.4),
        "best": told(2, 0.5, m1=1.1, shape=0),
        "confirmed": {
            "rows": {
                "recipe": [{"seed": 1, "held_out": 0.41, "test": 0.31}, {"seed": 2, "held_out": 0.39, "test": 0.33}],
                "best": [{"seed": 1, "held_out": 0.44, "test": 0.30}, {"seed": 2, "held_out": 0.46, "test": 0.34}],
                "margin": [{"seed": 1, "held_out": 0.42, "test": None}],
            },
            "differences": {
                "best": {"held_out": [0.03, 0.07], "test": [-0.01, 0.01]},
                "margin": {"held_out": [0.01], "test": []},
            },
        },
        "held_out": GROUP,
        "test": GROUP,
        "few_pairs": ["FPR 0.001: 0 of 160 pairs"],
        "made_by": MADE_BY,
    } | changes


ROWS = pd.DataFrame(
    {
        "trial": [0, 1, 2, 3],
        "state": ["finished", "stopped early", "finished", "failed"],
        "epochs": [3, 1, 3, 0],
        "reward": [0.4, 0.1, 0.5, math.nan],
        "tpr@0.1": [0.4, 0.1, 0.5, math.nan],
        "m1": [math.nan, 1.3, 1.1, 0.9],
        "shape": pd.array([None, 1, 0, 1], dtype="Int64"),
        "candidate": ["ir_se-8-8x1-16x1", "ir_se-8-8x2-16x2", "ir_se-8-8x1-16x1", None],
        "num_images": [100, 100, 100, math.nan],
        "num_identities": [10, 10, 10, math.nan],
        "error": [None, None, None, "UserError: <no faces>"],
    }
)
CURVES = {0: [(1, 0.1), (2, 0.3), (3, 0.4)], 1: [(1, 0.1)], 2: [(1, 0.2), (2, 0.4), (3, 0.5)], 3: []}


def marks(traces):
    return [
        (round(float(x), 6), round(float(y), 6))
        for trace in traces
        if trace["mode"] == "markers"
        for x, y in zip(numbers(trace["x"]), numbers(trace["y"]), strict=True)
    ]


def test_every_trial_is_drawn_where_it_came_to():
    page = report.page(summary(), ROWS, CURVES, TUNING)
    course, curves, knobs = (figure(page, name)[0] for name in ("course", "curves", "knobs"))
    assert sorted(marks(course)) == [(0, 40), (1, 10), (2, 50)]
    (best,) = [trace for trace in course if trace["mode"] == "lines"]
    assert numbers(best["y"]).tolist() == pytest.approx([40, 50])
    assert [len(trace["x"]) for trace in curves] == [3, 1, 3]
    assert sorted(marks(knobs)) == [(1.1, 50), (1.3, 10), (2, 50), (4, 10)]  # m1, and blocks for the shape


def test_what_failed_what_is_weak_and_what_was_confirmed_is_said():
    page = report.page(summary(), ROWS, CURVES, TUNING).replace(get_plotlyjs(), "")
    assert "Trial 3 failed: UserError: &lt;no faces&gt;" in page and "FPR 0.001: 0 of 160 pairs" in page
    for cell in ("44.00, 46.00", "+5.00 ± 2.83", "+0.00 ± 1.41", "+1.00"):
        assert f"<td>{cell}</td>" in page
    assert "<th>Its margin alone</th>" in page
    assert "http" not in page.replace("http-equiv", "")


def test_a_search_in_which_everything_failed_has_a_page():
    rows = ROWS[["trial", "state", "epochs", "candidate", "error"]].assign(state="failed")
    states = {"finished": 0, "stopped early": 0, "failed": 4}
    page = report.page(summary(recipe=None, best=None, confirmed=None, test=None, states=states), rows, {}, TUNING)
    assert "No trial was run to its end" in page


def test_the_confirmation_in_words():
    best, margin = confirmation(summary(), TUNING)
    assert best == (
        "With 2 other seed(s), the best against the recipe: +5.00 ± 2.83 points on the people it was chosen by; "
        "+0.00 ± 1.41 points on people nobody had looked at."
    )
    assert margin == (
        "With 1 other seed(s), its margin alone against the recipe: +1.00 points on the people it was chosen by."
    )
    assert confirmation(summary(best=told(0, 0.4)), TUNING) == ["No trial was better than the recipe as it stands."]
    assert confirmation(summary(confirmed=None), TUNING) == []


def test_what_is_confirmed():
    plan = FaceTunePlan()

    def proposal(**knobs):
        return Proposal.of(plan, knobs)

    best = proposal(tau_intra=0.2, m1=1.1, m3=0.1)
    assert to_confirm(best, plan) == {
        "recipe": Proposal(),
        "best": best,
        "cleaning": proposal(tau_intra=0.2),
        "margin": proposal(m1=1.1, m3=0.1),
    }
    assert list(to_confirm(best, FaceTunePlan(single_factors=False))) == ["recipe", "best"]
    assert list(to_confirm(proposal(tau_intra=0.2), plan)) == ["recipe", "best"]
    assert list(to_confirm(Proposal(), plan)) == ["recipe"]
