"""What a run does before it starts anything: all that is left of one that is finished."""

import dataclasses
import json
import pathlib
import random
import types

import numpy as np
import pytest
from rich.console import Console

import zennas
from tests.search.test_evolution import every_candidate
from zennas.latency.budget import LocalBudget, choose_protocol
from zennas.progress import Progress
from zennas.records import UserError
from zennas.search.cost_limits import CostLimit
from zennas.search.ledger import open_ledger
from zennas.search.opening import finished_before
from zennas.search.options import Options
from zennas.search.predictor import Predictor
from zennas.search.run import check, search_to_the_end
from zennas.search.scored import Rows
from zennas.search.show import _next_commands
from zennas.search.stages import Checked, Settled
from zennas.search.winners import write_winners
from zennas.track import ScorePlan, load_experiment


@pytest.fixture
def checked(tiny, tmp_path):
    experiment, track, space = load_experiment(str(tiny))
    return Checked(experiment=experiment, track=track, space=space, plan=experiment.search, out=tmp_path / "run")


def test_what_was_scored_keeps_the_corrected_budget_of_a_further_device_too(checked):
    space = checked.space
    budget = LocalBudget(budget_ms=1e9, origin="by hand", stand_in=None, scale=None, reference_ms=None)
    predictor = Predictor(space, None, budget, margin_pct=1.0, limits=[])
    candidates = every_candidate(space)
    genes_NG = np.array([candidate.genes for candidate in candidates])
    phone = CostLimit("ms on phone", lambda part: part.macs / 1e6, 0, device="phone", is_measured=True)
    costs = sorted(phone.of(candidate, space) for candidate in candidates)
    phone = phone._replace(most=costs[len(costs) // 2] * 1.001)
    for factor in (1.0, 1.3):
        predictor.correct(1.0, [phone.corrected(factor)])
        fits_N = predictor.fits(np.ones(len(candidates)), genes_NG)
        assert fits_N.tolist() == [phone.of(candidate, space) * factor <= phone.most for candidate in candidates]
        assert 0 < fits_N.sum() < len(candidates)
        rows = Rows()
        assert predictor.fits(rows.column("predicted_ms"), rows.genes_NG).tolist() == []  # before anything is scored
    predictor.correct(1.0, [phone._replace(is_measured=False)])
    assert predictor.fits(np.ones(len(candidates)), genes_NG).all()


@pytest.mark.parametrize("num_winners", [3, 12])
def test_a_finished_run_gives_its_winners_in_the_order_of_their_places(checked, tiny, make_entry, num_winners):
    """Not in that in which they were measured, nor in that of the alphabet, where winner-10 follows winner-1."""
    ledger = open_ledger(checked.out, checked.settings(choose_protocol(checked.track)[0]), seed=0)
    candidates = random.Random(0).sample(every_candidate(checked.space), num_winners + 2)
    entries = [
        make_entry(one, role="winner", name=f"winner-{place}") for place, one in enumerate(candidates[2:], start=1)
    ]
    entries += [make_entry(candidates[0]), make_entry(candidates[1], role="baseline", name="by hand")]
    for entry in random.Random(1).sample(entries, len(entries)):
        ledger.add_measured(entry)
    write_winners(checked.out, entries[:num_winners], seed=0)
    ledger.save(finished=True, minutes=checked.plan.minutes, num_workers=1)
    settled = search_to_the_end(checked, Progress(Console(quiet=True)))
    assert list(settled.winners) == entries[:num_winners] and settled.folder == checked.out
    assert [entry.name for entry in settled.winners] == [f"winner-{place}" for place in range(1, num_winners + 1)]
    assert [entry.name for entry in settled.baselines] == ["by hand"]
    assert settled.plain() == json.loads((checked.out / "winners.json").read_text())
    by_function = zennas.search(track=str(tiny), out=checked.out)
    assert by_function == settled


def test_checking_what_is_asked_touches_nothing(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    asked = {"track": str(tiny), "candidates": 7, "storage": "journal:study.log", "table": "table"}
    checked = check(Options.of(**asked, out=tmp_path / "run"))
    assert (checked.plan.candidates, checked.out, checked.trained_out) == (
        7,
        tmp_path / "run",
        tmp_path / "run-trained",
    )
    assert check(Options.of(track=str(tiny))).out == pathlib.Path("runs/tiny")
    with pytest.raises(UserError, match="--islands 2: islands meet in a store that all reach"):
        check(Options.of(track=str(tiny), islands=2))
    with pytest.raises(UserError, match="--device phone: names nodes of a cluster"):
        check(Options.of(track=str(tiny), device="phone"))
    assert sorted(tmp_path.rglob("*")) == before


def test_what_to_type_next_has_what_was_asked_and_twice_as_much_time(checked):
    asked = {"track": "a track.yaml", "also": {"phone": 40.0}, "storage": "@secret", "budget_ms": 2.5, "fresh": True}
    settled = Settled(
        experiment="tiny",
        plan=checked.plan.model_copy(update={"minutes": 2.5}),
        winners=(),
        baselines=(),
        stand_in=None,
        out=pathlib.Path("runs/tiny"),
        folder=pathlib.Path("runs/tiny/island-1"),
        island=1,
        num_islands=2,
        study="postgresql://ann@db/faces",
        needs_password=True,
    )
    lines = _next_commands(settled, Options.of(**asked))
    assert lines == [
        "open runs/tiny/island-1/report.html",
        "optuna-dashboard postgresql://ann@db/faces --artifact-dir runs/tiny/island-1/artifacts"
        "    # the password from ~/.pgpass",
        "python -m zennas.score runs/tiny/island-1/winner-1.yaml --track 'a track.yaml' --budget-ms 2.5 --measure",
        "python -m zennas.search --track 'a track.yaml' --budget-ms 2.5 --also phone=40 --storage @secret "
        "--out runs/tiny --minutes 5    # search on",
        "python -m zennas.train --track 'a track.yaml' --winner runs/tiny/island-1/winner-1.yaml --budget-ms 2.5 "
        "--out runs/tiny-trained --data DATA    # train the first one",
    ]
    other = dataclasses.replace(settled, plan=checked.plan.model_copy(update={"score": ScorePlan(name="naswot")}))
    assert "--score naswot --track" in _next_commands(other, Options.of(score="naswot"))[2]
    line = _next_commands(settled, Options.of(candidates=7))[3]
    assert "--candidates 14" in line and "--minutes" not in line


def test_files_that_are_older_than_the_store_are_not_taken_for_the_end(checked, make_entry):
    """Another driver ended the run, or went on with it, elsewhere."""
    ledger = open_ledger(checked.out, {}, seed=0)
    opened = types.SimpleNamespace(
        plan=checked.plan, ledger=ledger, folder=checked.out, progress=Progress(Console(quiet=True))
    )
    entries = [make_entry(every_candidate(checked.space)[0], role="winner", name="winner-1")]
    state = {"finished": True, "minutes": checked.plan.minutes}
    ledger.save(**state)
    assert finished_before(opened) is None  # no files
    write_winners(checked.out, entries, seed=0)
    ledger.save(**state)
    assert finished_before(opened) == entries
    ledger.newer = True
    assert finished_before(opened) is None and ledger.state["finished"]  # it only asks
