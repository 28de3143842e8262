"""The learned score: a line over the log genes, as numbers, as sums over a space, and where it is believed."""

import json
import math

import numpy as np
import pytest
import yaml

from tests.conftest import TINY_SPACE, all_genes
from zennas.learn.model import fit
from zennas.records import UserError
from zennas.score.learned import named_score, width_prior, width_prior_sums
from zennas.search.optimum import Constraint, Problem
from zennas.space.candidate import Candidate
from zennas.space.learned import LEARNED, LearnedScore
from zennas.space.parts import sums
from zennas.space.space import Space
from zennas.track import ScorePlan


@pytest.fixture(scope="module")
def space():
    return Space.parse(yaml.safe_load(TINY_SPACE), "the tests")


def learned_in(space, *, num=12, seed=0, **changes):
    """A LearnedScore fitted to random candidates of a space whose truth is a line of its own."""
    rng = np.random.default_rng(seed)
    genes_NG = np.array([space.sample(rng).genes for _ in range(num)])
    truth_N = 90 + np.log(genes_NG) @ rng.normal(size=genes_NG.shape[1])
    line = fit(np.log(genes_NG), truth_N + 0.01 * rng.normal(size=num))
    values = {
        "kind": space.kind,
        "measure": "AUC",
        "unit": "%",
        "genes": space.layout.names,
        "lowest": genes_NG.min(0).tolist(),
        "highest": genes_NG.max(0).tolist(),
        "centre": line.centre_F.tolist(),
        "scale": line.scale_F.tolist(),
        "intercept": line.intercept,
        "coefficients": (line.coefficient_F / line.scale_F).tolist(),
        "covariance": (line.covariance_FF / np.outer(line.scale_F, line.scale_F)).tolist(),
        "radius": line.radius,
        "least_share": 0.8,
        "num_trained": num,
        "tau": 0.6,
        "tau_low": 0.3,
        "tau_high": 0.8,
    }
    return LearnedScore.parse(values | changes, "the tests"), genes_NG, line


def test_it_expects_what_the_fitted_line_expects(space):
    score, _, line = learned_in(space)
    genes_NG = all_genes(space)
    mean_N, std_N = score.of(genes_NG)
    expected_N, sure_N = line.predict(np.log(genes_NG))
    assert np.allclose(mean_N, expected_N) and np.allclose(std_N, sure_N)
    candidate = space.candidate(genes_NG[7])
    assert score.of_candidate(candidate) == pytest.approx((mean_N[7], std_N[7]))


def test_its_sums_are_its_values(space):
    score, _, _ = learned_in(space)
    genes_NG = all_genes(space)
    assert np.allclose(score.sums(space).of(space, genes_NG), score.of(genes_NG)[0])
    unit_NG = (np.log(genes_NG) - score.centre) / score.scale
    inside_N = ((genes_NG >= score.lowest) & (genes_NG <= score.highest)).all(1)
    distance_N = score.distance_sums(space).of(space, genes_NG)
    assert np.allclose(distance_N[inside_N], (unit_NG[inside_N] ** 2).sum(1))
    assert (distance_N[~inside_N] > score.radius**2).all()
    assert inside_N.any() and not inside_N.all()


def test_what_was_trained_is_believed_and_the_corners_of_the_space_are_not(space):
    score, trained_NG, _ = learned_in(space)
    assert all(score.is_within(space.candidate(genes_G)) for genes_G in trained_NG)
    within = [score.is_within(space.candidate(genes_G)) for genes_G in all_genes(space)]
    distance_N = score.distance_sums(space).of(space, all_genes(space))
    assert np.array_equal(within, distance_N <= score.radius**2 * (1 + 1e-9)) and 0 < sum(within) < len(within)


@pytest.mark.parametrize("seed", range(4))
def test_the_proven_optimum_is_that_of_all_candidates_one_by_one(space, seed):
    score, _, _ = learned_in(space, seed=seed)
    genes_NG, macs = all_genes(space), sums(space, lambda part: float(part.macs))
    budget = float(np.quantile(macs.of(space, genes_NG), 0.4))
    region = Constraint("distance", score.distance_sums(space), score.radius**2)
    optimum = Problem(space, score.sums(space), [Constraint("macs", macs, budget), region]).solve()
    kept = [
        genes_G
        for genes_G, macs_of in zip(genes_NG, macs.of(space, genes_NG), strict=True)
        if macs_of <= budget and space.contains(space.candidate(genes_G)) and score.is_within(space.candidate(genes_G))
    ]
    best = max(score.of_candidate(space.candidate(genes_G))[0] for genes_G in kept)
    assert optimum is not None and optimum.score == pytest.approx(best) and score.is_within(optimum.candidate)


def test_a_doubling_is_worth_what_two_candidates_differ_by(space):
    score, _, _ = learned_in(space)
    candidate = space.cheapest()
    for place, (name, (mean, low, high)) in enumerate(score.doubling.items()):
        genes = list(candidate.genes)
        genes[place] *= 2
        doubled, before = score.of(np.array([genes, candidate.genes]))[0]
        assert doubled - before == pytest.approx(mean) and low <= mean <= high, name
    fixed, _, _ = learned_in(space, highest=[*score.lowest[:1], *score.highest[1:]])
    assert list(fixed.doubling) == list(score.genes[1:])  # the stem did not vary: nothing is known of it


def test_candidates_of_another_kind_are_refused(space):
    score, _, _ = learned_in(space)
    other = Candidate(block="ir", stem=8, widths=(8, 16, 24), depths=(1, 1, 1))
    for stranger in (other, space.cheapest().model_copy(update={"widths": (8,), "depths": (1,)})):
        assert stranger.kind != space.kind or len(stranger.genes) != len(score.genes)
        with pytest.raises(UserError, match="the learned score is of candidates of kind"):
            score.of_candidate(stranger)
        assert not score.is_within(stranger)
    with pytest.raises(UserError, match="was learned of candidates of kind"):
        score.check_space(space.model_copy(update={"block": "ir"}), "model.json")


def test_a_model_with_numbers_missing_is_refused(space):
    score, _, _ = learned_in(space)
    values = score.model_dump()
    with pytest.raises(UserError, match="as many numbers as genes everywhere"):
        LearnedScore.parse(values | {"centre": values["centre"][1:]}, "model.json")
    with pytest.raises(UserError, match="1 or more genes"):
        empty = ("genes", "lowest", "highest", "centre", "scale", "coefficients", "covariance")
        LearnedScore.parse(values | dict.fromkeys(empty, ()), "model.json")


@pytest.mark.parametrize(
    "changes, says",
    [
        ({"radius": 0.0}, "radius"),
        ({"radius": math.inf}, "radius"),
        ({"radius": 1e308}, "radius"),
        ({"intercept": math.nan}, "intercept: given nan, allowed: a finite number"),
        ({"coefficients": [math.inf] * 5}, "coefficients.0"),
        ({"coefficients": [1e308] * 5}, "coefficients.0"),
        ({"centre": [math.nan] * 5}, "centre.0"),
        ({"scale": [0.0] * 5}, "scale.0: given 0.0, allowed: greater than 0"),
        ({"covariance": [[math.nan] * 5] * 5}, "covariance.0.0"),
        ({"covariance": [[-1.0] * 5] * 5}, "variances of 0 or more; given -1 for stem_width"),
        ({"lowest": [0] * 5}, "lowest.0"),
        ({"lowest": [999] * 5}, "lowest at most highest; given 999 and"),
        ({"num_trained": -4}, "num_trained"),
        ({"tau": 7.0}, "tau: given 7.0"),
        ({"tau": math.nan}, "tau"),
        ({"tau_high": None}, "both tau_low and tau_high"),
    ],
)
def test_a_model_with_numbers_that_no_line_has_is_refused(space, changes, says):
    score, _, _ = learned_in(space)
    with pytest.raises(UserError, match=r"model\.json: ") as error:
        LearnedScore.parse(score.model_dump() | changes, "model.json")
    assert says in str(error.value)


def test_the_prior_counts_every_stage_once(space):
    genes_NG = all_genes(space)
    widths_NS = genes_NG[:, list(space.layout.widths)]
    assert np.allclose(np.exp(width_prior(genes_NG, space)), widths_NS.prod(1))
    assert np.allclose(width_prior_sums(space).of(space, genes_NG), width_prior(genes_NG, space))


def test_a_score_is_named_as_a_row_or_as_a_folder(space, tmp_path):
    score, _, _ = learned_in(space)
    (tmp_path / "model.json").write_text(json.dumps(score.model_dump(mode="json")))
    assert named_score("naswot") == {"name": "naswot", "learned": None}
    assert named_score(f"learned:{tmp_path}") == {"name": LEARNED, "learned": score}
    for name, why in (
        ("learned", "of what"),
        ("learned:", "of what"),
        (f"learned:{tmp_path / 'nowhere'}", "model.json cannot be read"),
    ):
        with pytest.raises(UserError, match=why):
            named_score(name)
    for text in ("", "{", "[" * 100_000):
        (tmp_path / "model.json").write_text(text)
        with pytest.raises(UserError, match="is no JSON"):
            named_score(f"learned:{tmp_path}")


def test_a_plan_says_nothing_of_a_model_that_it_has_not(space):
    score, _, _ = learned_in(space)
    assert "learned" not in ScorePlan().model_dump()  # as records of before there was one
    plan = ScorePlan(name=LEARNED, learned=score)
    assert ScorePlan.parse(plan.model_dump(mode="json"), "a record") == plan
    assert plan.label == "learned AUC" and "12 trained candidates" in plan.text and "short trainings" in plan.caution
    for wrong in ({"name": LEARNED}, {"name": "zen", "learned": score}):
        with pytest.raises(UserError, match="together with its model"):
            ScorePlan.parse(wrong, "a record")
