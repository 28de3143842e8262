"""The figures of the truth table (experiments/equal-latency), which end in WORTH and the README."""

import importlib

import numpy as np
import pytest


@pytest.fixture
def figures(checkout, monkeypatch):
    """The experiment's program."""
    monkeypatch.syspath_prepend(checkout / "experiments" / "equal-latency")
    return importlib.import_module("truth_figures")


def table(figures, truth_N, *, noise=0.0, **values):
    """Rows of a truth table in which every measure is the same; every third candidate was trained twice."""
    rng = np.random.default_rng(0)
    rows = []
    for place, truth in enumerate(truth_N):
        seeds = ("0", "1") if place % 3 == 0 else ("0",)
        trainings = {seed: dict.fromkeys(figures.MEASURES, truth + noise * rng.standard_normal()) for seed in seeds}
        rows.append({"values": {name: value_N[place] for name, value_N in values.items()}, "trainings": trainings})
    return rows


def test_auc_is_the_share_of_pairs_of_pairs_in_order(figures):
    rng = np.random.default_rng(0)
    similarity_P, same_P = rng.integers(0, 8, 60) / 8, rng.random(60) < 0.3  # with ties
    by_hand = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one in similarity_P[same_P]
        for other in similarity_P[~same_P]
    ]
    assert figures.auc(similarity_P, same_P) == pytest.approx(np.mean(by_hand))


def test_what_counts_explain_is_taken_out_of_score_and_truth(figures):
    rng = np.random.default_rng(1)
    counts = {
        "macs": rng.uniform(20e6, 40e6, 60),
        "blocks": rng.integers(3, 18, 60),
        "params": rng.uniform(2e5, 1e6, 60),
    }
    own_N, noise_N = rng.standard_normal((2, 60))
    truth_N = np.log(counts["macs"]) - 0.3 * counts["blocks"] + own_N
    rows = table(figures, truth_N, **counts, own=own_N, chance=noise_N, depth=10.0 * counts["blocks"] + noise_N)
    left = figures.beyond(rows)
    assert left["own"]["AUC"] > 0.9  # all of the truth that the counts do not say
    assert abs(left["chance"]["AUC"]) < 0.2 and left["depth"] == pytest.approx(left["chance"])
    assert {"macs", "blocks"}.isdisjoint(left) and "params" not in figures.beyond(rows, counts=("macs", "params"))


@pytest.mark.parametrize(("noise", "low", "high"), [(0.0, 1.0, 1.0), (1.0, 0.2, 0.8), (30.0, 0.0, 0.2)])
def test_reliability_is_the_candidates_share_of_the_variance(noise, low, high, figures):
    """Of truths and noise of one variance it is a half; ten candidates trained twice know it to 0.3."""
    truth_N = np.random.default_rng(2).standard_normal(60)
    found = figures.figures(
        table(figures, truth_N, noise=noise, macs=np.full(60, 1e6), blocks=np.ones(60), params=np.full(60, 1e5))
    )
    assert low <= found["measures"]["AUC"]["reliability"] <= high
    assert found["num"] == 60 and found["num_twice"] == 20


def test_a_tau_is_that_of_the_mean_of_the_trainings(figures):
    truth_N = np.arange(30.0)
    counts = {"macs": np.full(30, 1e6), "blocks": np.ones(30), "params": np.full(30, 1e5)}
    found = figures.figures(table(figures, truth_N, up=truth_N, down=-truth_N, **counts))
    assert found["tau"]["up"]["AUC"] == pytest.approx([1, 1, 1]) and found["tau"]["down"]["AUC"][0] == pytest.approx(-1)
