"""What a run does before it starts anything: all that is left of one that is finished."""

import random

import pytest
from rich.console import Console

from tests.search.test_evolution import every_candidate
from zennas.latency.budget import choose_protocol
from zennas.progress import Progress
from zennas.search.ledger import open_ledger
from zennas.search.loop import Run
from zennas.search.options import Options
from zennas.track import load_experiment


@pytest.fixture
def options(tiny, tmp_path):
    experiment, track, space = load_experiment(str(tiny))
    return Options(experiment=experiment, track=track, space=space, plan=experiment.search, out=tmp_path / "run")


@pytest.mark.parametrize("num_winners", [3, 12])
def test_a_finished_run_gives_its_winners_in_the_order_of_their_places(options, make_entry, num_winners):
    """Not in that in which they were measured, nor in that of the alphabet, where winner-10 follows winner-1."""
    ledger = open_ledger(options.out, options.settings(choose_protocol(options.track)[0]), seed=0)
    candidates = random.Random(0).sample(every_candidate(options.space), num_winners + 2)
    entries = [
        make_entry(one, role="winner", name=f"winner-{place}") for place, one in enumerate(candidates[2:], start=1)
    ]
    entries += [make_entry(candidates[0]), make_entry(candidates[1], role="baseline", name="by hand")]
    for entry in random.Random(1).sample(entries, len(entries)):
        ledger.add_measured(entry)
    ledger.save(finished=True, minutes=options.plan.minutes, num_workers=1)
    winners = Run(options, Progress(Console(quiet=True))).go()
    assert winners == entries[:num_winners]
    assert [entry["name"] for entry in winners] == [f"winner-{place}" for place in range(1, num_winners + 1)]
