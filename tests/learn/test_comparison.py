"""What the learned winner stands beside: each rival against a search of the whole small space."""

import numpy as np
import pytest
import yaml

from tests.conftest import TINY_SPACE, all_genes
from tests.space.test_learned import learned_in
from zennas.learn.comparison import BY_HAND, LEARNED, PRIOR, ZEN, Device, NobodyError, rivals, scaled_by_hand
from zennas.score.learned import width_prior
from zennas.score.meanfield import mean_field_sums
from zennas.search.optimum import Constraint, Problem
from zennas.space.parts import sums
from zennas.space.space import Space

FACTOR = 0.5


@pytest.fixture(scope="module")
def space():
    return Space.parse(yaml.safe_load(TINY_SPACE), "the tests")


@pytest.fixture(scope="module")
def device(space):
    """A device on which a million multiply-accumulates take a millisecond, by a table that says two."""
    latency = sums(space, lambda part: part.macs / 1e6 / FACTOR)
    budget_ms = float(np.quantile(FACTOR * latency.of(space, all_genes(space)), 0.4))
    cost = Constraint("latency (ms)", latency, budget_ms / FACTOR)
    return Device(space, [cost], mean_field_sums(space, space.shape.hw, 16), FACTOR)


def fitting(device):
    """All candidates of the space within the budget."""
    space = device.space
    candidates = [space.candidate(genes_G) for genes_G in all_genes(space)]
    return [each for each in candidates if space.contains(each) and device.ms(each) <= device.budget_ms * (1 + 1e-9)]


def test_milliseconds_are_corrected(space, device):
    candidate = space.baselines["IR-SE-small"]
    macs = sums(space, lambda part: float(part.macs)).of(space, np.array([candidate.genes]))[0]
    assert device.ms(candidate) == pytest.approx(macs / 1e6)


def test_every_rival_is_what_it_is_called(space, device):
    score, _, _ = learned_in(space)
    found, missing = rivals(device, score)
    rows = {rival.name: rival for rival in found}
    assert list(rows) == [LEARNED, ZEN, PRIOR, BY_HAND] and not missing
    all_fitting = fitting(device)
    least_ms = score.least_share * device.budget_ms
    believed = [each for each in all_fitting if score.is_within(each) and device.ms(each) >= least_ms]
    assert rows[LEARNED].expected == pytest.approx(max(score.of_candidate(each)[0] for each in believed), abs=1e-4)
    widest = max(width_prior(np.array([each.genes]), space)[0] for each in all_fitting)
    assert width_prior(np.array([rows[PRIOR].candidate.genes]), space)[0] == pytest.approx(widest)
    for rival in rows.values():
        mean, std = score.of_candidate(rival.candidate)
        assert (rival.expected, rival.expected_std) == pytest.approx((mean, std), abs=1e-4)
        assert rival.within == (score.is_within(rival.candidate) and device.ms(rival.candidate) >= least_ms)
        assert rival.predicted_ms == pytest.approx(device.ms(rival.candidate), abs=1e-4)
        assert rival.predicted_ms <= device.budget_ms + 1e-4
    zen_N = device.zen.of(space, np.array([each.genes for each in all_fitting]))
    assert device.zen.of(space, np.array([rows[ZEN].candidate.genes]))[0] == pytest.approx(zen_N.max())


def test_by_hand_is_a_hand_made_shape_with_all_widths_scaled(space, device):
    candidate = scaled_by_hand(device)
    made = space.baselines["IR-SE-small"]  # the other one is of another block
    assert candidate.depths == made.depths and device.ms(candidate) <= device.budget_ms
    wider = [span.nearest(1.6 * width) for span, width in zip(space.widths, candidate.widths, strict=True)]
    stem = space.stem.nearest(1.6 * candidate.stem)
    wider = candidate.model_copy(update={"widths": tuple(wider), "stem": stem})
    assert wider == candidate or device.ms(wider) > device.budget_ms


def test_where_nothing_fits_each_rival_is_missing_with_its_reason(space, device):
    score, _, _ = learned_in(space)
    nothing = device._replace(costs=[device.costs[0]._replace(most=1e-9)], zen=None)
    found, missing = rivals(nothing, score)
    assert found == [] and list(missing) == [LEARNED, ZEN, PRIOR, BY_HAND]
    assert missing[PRIOR] == "no candidate keeps the budget" and missing[LEARNED].startswith(f"{missing[PRIOR]} within")
    assert missing[ZEN] == "it has no closed form in this space, so no optimum is proven"
    with pytest.raises(NobodyError, match="scaled, keeps the budget"):
        scaled_by_hand(nothing)


def test_a_proof_that_takes_too_long_is_told(space, device, monkeypatch):
    score, _, _ = learned_in(space)
    monkeypatch.setattr(Problem.solve, "__defaults__", (0,))
    found, missing = rivals(device, score)
    assert missing == dict.fromkeys((LEARNED, ZEN), "the proof of its optimum takes too long")
    assert [rival.name for rival in found] == [PRIOR, BY_HAND]  # S needs no box: its first bound is kept
