"""What a run does before it starts anything: all that is left of one that is finished."""

import random
import types

import numpy as np
import pytest
from rich.console import Console

from tests.search.test_evolution import every_candidate
from zennas.latency.budget import LocalBudget, choose_protocol
from zennas.progress import Progress
from zennas.search.cost_limits import CostLimit
from zennas.search.ledger import open_ledger
from zennas.search.opening import finished_before
from zennas.search.predictor import Predictor
from zennas.search.run import run_search
from zennas.search.scored import Rows
from zennas.search.stages import Checked
from zennas.search.winners import write_winners
from zennas.space.space import genes_of
from zennas.track import load_experiment


@pytest.fixture
def checked(tiny, tmp_path):
    experiment, track, space = load_experiment(str(tiny))
    return Checked(experiment=experiment, track=track, space=space, plan=experiment.search, out=tmp_path / "run")


def test_what_was_scored_keeps_the_corrected_budget_of_a_further_device_too(checked):
    space = checked.space
    budget = LocalBudget(budget_ms=1e9, origin="by hand", stand_in=None, scale=None, reference_ms=None)
    predictor = Predictor(space, None, budget, margin_pct=1.0, limits=[])
    candidates = every_candidate(space)
    genes_NG = np.array([genes_of(one) for one in candidates])
    phone = CostLimit("ms on phone", lambda part: part.macs / 1e6, 0, device="phone", is_measured=True)
    costs = sorted(phone.of(one, space) for one in candidates)
    phone = phone._replace(most=costs[len(costs) // 2] * 1.001)
    for factor in (1.0, 1.3):
        predictor.correct(1.0, [phone.corrected(factor)])
        fits_N = predictor.fits(np.ones(len(candidates)), genes_NG)
        assert fits_N.tolist() == [phone.of(one, space) * factor <= phone.most for one in candidates]
        assert 0 < fits_N.sum() < len(candidates)
        rows = Rows()
        assert predictor.fits(rows.column("predicted_ms"), rows.genes_NG).tolist() == []  # before anything is scored
    predictor.correct(1.0, [phone._replace(is_measured=False)])
    assert predictor.fits(np.ones(len(candidates)), genes_NG).all()


@pytest.mark.parametrize("num_winners", [3, 12])
def test_a_finished_run_gives_its_winners_in_the_order_of_their_places(checked, make_entry, num_winners):
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
    settled = run_search(checked, Progress(Console(quiet=True)))
    assert list(settled.winners) == entries[:num_winners] and settled.folder == checked.out
    assert [entry.name for entry in settled.winners] == [f"winner-{place}" for place in range(1, num_winners + 1)]
    assert [entry.name for entry in settled.baselines] == ["by hand"]


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
    assert finished_before(opened) is None and not ledger.state["finished"]
