"""What a run says of itself: the model it writes, one sentence on what can be believed, the page."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.conftest import TINY_SPACE
from tests.learn.test_comparison import device as device_fixture
from tests.learn.test_trainings import ended, request_of
from tests.search.conftest import measured_entry
from zennas.learn.outcome import (
    Learned,
    complete_outcome,
    learned_of,
    rows_of,
    table_of,
    verdict,
    write_outcome,
)
from zennas.learn.report import page
from zennas.learn.trainings import first_jobs
from zennas.records import UserError
from zennas.score.learned import load_learned
from zennas.space.candidate import Candidate
from zennas.space.space import Space
from zennas.tasks.identity.people import Group, People

device = device_fixture


@pytest.fixture(scope="module")
def space():
    return Space.parse(yaml.safe_load(TINY_SPACE), "the tests")


@pytest.fixture(scope="module")
def pool(space):
    rng, entries = np.random.default_rng(0), {}
    while len(entries) < 20:
        candidate = space.sample(rng)
        entries[candidate.key] = measured_entry(candidate, space)
    return list(entries.values())


@pytest.fixture
def learned(pool, device, tmp_path):
    """learned(noise=..., failed=...) -> the Learned of trainings that measured a line of the log genes, and noise."""

    def made(*, noise=0.0, failed=0, **plan):
        request, finished, rng = request_of(**plan), {}, np.random.default_rng(0)
        for number, job in enumerate(first_jobs(request, pool)):
            candidate = Candidate(**job.values["candidate"])
            truth = 0.9 + 0.02 * float(np.log(candidate.genes) @ [1, -1, 0.5, 1, -0.5]) / 10
            reward, error = truth + noise * rng.normal(), "it broke" if number < failed else None
            finished[job.key] = ended(job, reward, error=error, tmp_path=tmp_path)
        people = People(np.zeros(4, int), Group(np.arange(4), np.array([0, 0, 1, 1])), None)
        request = request.__class__(**(vars(request) | {"out": tmp_path, "shown_out": tmp_path, "command": "zennas"}))
        return request, learned_of(request, pool, finished, device=device, groups=people)

    return made


def test_the_model_predicts_what_the_trainings_were(learned):
    _, found = learned(noise=1e-5)
    rows = found.trained
    assert found.measure == "AUC" and found.unit == "%" and len(rows) == 8
    assert all(row.expected == pytest.approx(row.reward, abs=0.02) for row in rows)
    assert all(row.left_out == pytest.approx(row.reward, abs=0.1) for row in rows)
    assert found.score.tau > 0.8 and not found.tells_nothing
    assert found.score.of_candidate(rows[0].candidate)[0] == pytest.approx(rows[0].expected, abs=1e-6)
    signs = [np.sign(mean) for mean, _, _ in found.score.doubling.values()]
    assert signs == [1, -1, 1, 1, -1]  # as in the truth
    assert "times in 100" in found.verdict


def test_where_seeds_differ_as_much_as_candidates_it_says_that_nothing_can_be_told(learned):
    _, found = learned(noise=0.3)
    assert found.tells_nothing and found.verdict.startswith("Nothing can be told yet")
    assert "--epochs 48" in found.verdict and "--held-out" in found.verdict


def test_with_few_trainings_it_says_what_they_are_worth(learned):
    _, found = learned(noise=1e-5, first=5, trainings=5, twice=0)
    assert found.noise is None and "0.4 ± 0.2" in found.verdict and found.verdict.startswith("5 trainings are few")


def test_an_order_that_chance_would_give_is_called_that(learned):
    _, found = learned(noise=1e-5)
    by_chance = found.score.model_copy(update={"tau": 0.1, "tau_low": -0.3, "tau_high": 0.5})
    assert verdict(by_chance, found.noise, 8).startswith("The order is not told from chance yet")


def test_too_few_that_ran_to_their_end_are_told_with_the_first_reason(learned):
    with pytest.raises(UserError, match=r"2 trainings ran to their end.*at least 4.*it broke"):
        learned(failed=6, twice=0)


def test_what_is_written_is_what_was_learned(learned, tmp_path):
    request, found = learned(noise=1e-4, failed=1)
    write_outcome(request, found)
    assert load_learned(tmp_path) == found.score
    assert Learned.parse(json.loads(json.dumps(found.plain())), "run.json") == found.model_copy(
        update={"out": type(found).model_fields["out"].default}
    )
    rows = pd.read_csv(tmp_path / "trainings.csv")
    assert list(rows["candidate"]) == [row.text for row in found.rows] == list(table_of(found)["candidate"])
    assert rows["error"].notna().sum() == 1
    winner = yaml.safe_load((tmp_path / "winner.yaml").read_text())
    assert Candidate(**winner) == found.winner.candidate


@pytest.mark.parametrize("name", ["model.json", "trainings.csv", "winner.yaml", "report.html"])
def test_a_file_that_was_removed_is_written_again(learned, tmp_path, name):
    request, found = learned(noise=1e-4)
    write_outcome(request, found)
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    complete_outcome(request, found)
    assert (tmp_path / name).read_bytes() == before


def test_what_run_json_says_of_noise_is_looked_at(learned):
    _, found = learned(noise=1e-4)
    with pytest.raises(UserError, match=r"run.json: key 'noise.between_seeds_std' is missing"):
        Learned.parse(found.plain() | {"noise": {"x": 1.0}}, "run.json")


def test_a_training_that_is_no_more_of_the_pool_is_left_out(pool, tmp_path):
    request, finished = request_of(), {}
    for job in first_jobs(request, pool):
        finished[job.key] = ended(job, 0.5, tmp_path=tmp_path)
    rows = rows_of(request, pool[:10], finished, times=100.0)
    keys = {entry.key for entry in pool[:10]}
    assert 0 < len(rows) < 8 and all(row.candidate.key in keys for row in rows)


def test_the_page_says_all_of_it(learned):
    _, found = learned(noise=1e-4, failed=1)
    html = page(found)
    for text in (
        "What a doubling is worth",
        "blocks of stage 2",
        "Zen-Score",
        "widest (S)",
        "by hand, scaled",
        "it broke",
    ):
        assert text in html, text
    assert found.verdict in html and "fills the space" in html
