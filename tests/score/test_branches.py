"""Scores of networks with branches: both readings from the scores of single ways, by every road to them, and the
optimum of a whole small space."""

import functools

import numpy as np
import pytest
import torch

from tests.conftest import all_genes
from tests.shapes import square
from zennas.score.branches import MEAN, ONCE, Apart, joined, weights
from zennas.score.meanfield import mean_field, mean_field_sums
from zennas.score.scores import CLOSED, SCORES, TOGETHER, score_batch, score_candidate, way_scores
from zennas.score.together import zen_of_candidates
from zennas.score.zen import zen, zen_of_module
from zennas.search import optimum
from zennas.search.optimum import Constraint, best, front
from zennas.space.candidate import Candidate
from zennas.space.families.family import Tree, Way
from zennas.space.families.table import family_of, tree_of
from zennas.space.form import Form
from zennas.space.network import build, initialise, plain, plain_paths
from zennas.space.parts import sums
from zennas.space.shape import Shape
from zennas.space.space import Range, Space
from zennas.track import ScorePlan

TIED = Candidate(family="mgn", block="resnet_basic", stem=16, widths=(16, 24, 32), depths=(2, 1, 2))
APART = Candidate(
    family="mgn", form=Form(apart=True), block="ir", stem=16, widths=(16, 24, 32, 16, 40), depths=(1, 2, 1, 1, 2)
)
IMAGES = Shape(channels=3, height=32, width=16, embedding_size=16)
each_reading = pytest.mark.parametrize("aggregate", [ONCE, MEAN])
each_tree = pytest.mark.parametrize("candidate", [TIED, APART], ids=["tied", "apart"])


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def by_hand(of_global, of_part, of_trunk, aggregate):
    """One global branch, two part branches that score alike."""
    if aggregate == MEAN:
        return (of_global + 2 * of_part) / 3
    return of_trunk + (of_global - of_trunk) + 2 * (of_part - of_trunk)


def chain_of(candidate, way, length=None):
    """One way, or its beginning, as a network of its own: `single` with the same stem."""
    stages = way.stages[:length]
    return Candidate(
        family="single",
        form=Form(strides=way.strides[:length]),
        block=candidate.block,
        stem=candidate.stem,
        widths=tuple(candidate.widths[stage] for stage in stages),
        depths=tuple(candidate.depths[stage] for stage in stages),
    )


@each_tree
@each_reading
def test_the_closed_form_is_made_of_those_of_its_ways(candidate, aggregate):
    (first, second), shared = tree_of(candidate).ways, tree_of(candidate).shared
    of_ways = [mean_field(chain_of(candidate, way), IMAGES, 2, None) for way in (first, second)]
    of_trunk = mean_field(chain_of(candidate, first, shared), IMAGES, 2, None)
    expected = by_hand(*of_ways, of_trunk, aggregate)
    assert mean_field(candidate, IMAGES, 2, None, aggregate=aggregate) == pytest.approx(expected, rel=1e-12)
    assert len({*of_ways, of_trunk}) == 3


@each_tree
@each_reading
def test_the_measured_score_is_made_of_those_of_its_ways(candidate, aggregate):
    """Each way by forward-mode differentiation of its plain network, with weights of its own: another sample of the
    same score, so the means of eight agree within their errors."""
    length = family_of(candidate).trunk_length(candidate)
    paths = plain_paths(candidate, 3)
    fast, slow = [], []
    for seed in range(8):
        fast.append(zen(candidate, IMAGES, 4, seeded(seed), aggregate=aggregate))
        modules = [initialise(plain(path)) for path in (*paths, paths[0][:length])]
        of_each = [zen_of_module(module, IMAGES, 4, seeded(100 + 10 * seed + at)) for at, module in enumerate(modules)]
        slow.append(by_hand(*of_each, aggregate))
    error = np.hypot(np.std(fast, ddof=1), np.std(slow, ddof=1)) / np.sqrt(8)
    assert abs(np.mean(fast) - np.mean(slow)) < 5 * error and error < 0.05 * abs(np.mean(slow))


@each_tree
@each_reading
def test_the_closed_form_is_near_the_measured_score(candidate, aggregate):
    """Within 3 %: the mean of eight draws, of networks of 16 to 40 channels, whose finite width alone is worth one."""
    wide = candidate.model_copy(update={"stem": 48, "widths": tuple(2 * width for width in candidate.widths)})
    scores = [zen(wide, IMAGES, 4, seeded(seed), aggregate=aggregate) for seed in range(8)]
    assert mean_field(wide, IMAGES, 4, None, aggregate=aggregate) == pytest.approx(np.mean(scores), rel=0.03)


@each_tree
@each_reading
def test_company_changes_no_score(candidate, aggregate):
    deeper = candidate.model_copy(update={"depths": (*candidate.depths[:-1], candidate.depths[-1] + 1)})
    score = functools.partial(zen_of_candidates, shape=IMAGES, batch=2, dtype=torch.float32, aggregate=aggregate)
    both = score([candidate, deeper], generator=seeded(1))
    alone = [score([one], generator=seeded(1))[0] for one in (candidate, deeper)]
    assert both == pytest.approx(alone, abs=1e-4) and both[1] > both[0]  # float32, some hundred operations


def test_one_way_has_one_reading():
    """To the last bit, whatever is made of branches."""
    tree, only = Tree(2, (Way((0, 1), (2, 2)),)), Apart((1 / 3,), None)
    assert joined(tree, only, aggregate=ONCE) == joined(tree, only, aggregate=MEAN) == 1 / 3
    assert weights(tree, ONCE) == weights(tree, MEAN) == ((1.0,), 0.0)
    chain = Candidate(block="ir", stem=8, widths=(8, 12), depths=(1, 2))
    for name, other in (("zen", "zen_mean"), ("zen_closed", "zen_mean_closed")):
        one, two = (SCORES[row](chain, square(16), 2, seeded(0)) for row in (name, other))
        assert one == two


def test_both_readings_are_rows_and_are_scored_together():
    plans = [ScorePlan(name=name, image_px=(32, 16)) for name in ("zen", "zen_mean")]
    once, mean = (score_candidate(TIED, plan, IMAGES, seed=0)[0] for plan in plans)
    assert once > 1.5 * mean > 0 and set(CLOSED) == set(TOGETHER) == {"zen", "zen_mean"}
    for plan, alone in zip(plans, (once, mean), strict=True):
        first, second = score_batch([TIED, TIED.model_copy(update={"stem": 24})], plan, IMAGES, seed=0)
        assert first.value == pytest.approx(alone, rel=1e-2) and second.value is not None  # bfloat16
    network = build(TIED, IMAGES)
    for name in ("zen_closed", "zen_mean_closed"):
        assert SCORES[name](network, IMAGES, 2, None) == SCORES[name](TIED, IMAGES, 2, None)


def space_of(*, apart):
    widths = [Range(low=8, high=16, step=8), Range(low=8, high=24, step=8), Range(low=16, high=32, step=16)]
    depths = [Range(low=1, high=2), Range(low=1, high=3), Range(low=1, high=2)]
    return Space(
        name="tree",
        family="mgn",
        form=Form(apart=True) if apart else None,
        block="resnet_basic",
        image_px=(32, 16),
        embedding_size=16,
        stem=Range(low=8, high=16, step=8),
        widths=tuple(widths + widths[1:] * apart),
        depths=tuple(depths + depths[1:] * apart),
        limits={"max_blocks": 9 if apart else 6, "max_effectiveness": 0.4},
    )


@pytest.mark.parametrize("apart", [False, True], ids=["tied", "apart"])
@each_reading
@pytest.mark.parametrize("share", [0.2, 0.5])
def test_the_proven_optimum_is_the_best_of_the_whole_space(apart, aggregate, share):
    """Against every candidate there is, its score and its cost each computed for itself by the sums, and the best one's
    by the closed form of the candidate."""
    space = space_of(apart=apart)
    macs, score = sums(space, lambda part: part.macs / 1e6), mean_field_sums(space, (32, 16), 2, aggregate=aggregate)
    genes_NG = all_genes(space)
    cost_N, score_N = macs.of(space, genes_NG), score.of(space, genes_NG)
    most = float(np.quantile(cost_N, share))
    order_N = np.argsort(-np.where(cost_N <= most, score_N, -np.inf))
    expected = next(place for place in order_N if space.contains(space.candidate(genes_NG[place])))
    found = best(space, score, [Constraint("MMACs", macs, most)])
    assert found.score == pytest.approx(score_N[expected], rel=1e-9) and found.bound >= found.score - 1e-6
    closed = mean_field(found.candidate, space.shape, 2, None, aggregate=aggregate)
    assert closed == pytest.approx(found.score, rel=1e-9) and space.contains(found.candidate)


def test_the_whole_front_of_a_tree_is_the_front_of_all(monkeypatch):
    monkeypatch.setattr(optimum, "CLIMBS", 2)  # a worse start, which is most of the time of so small a front
    space = space_of(apart=True)
    macs, score = sums(space, lambda part: part.macs / 1e6), mean_field_sums(space, (32, 16), 2)
    genes_NG = all_genes(space)
    cost_N, score_N = macs.of(space, genes_NG), score.of(space, genes_NG)
    most = float(np.quantile(cost_N, 0.1))
    beaten, expected = -np.inf, []
    for place in np.lexsort((-score_N, cost_N)):
        better = cost_N[place] <= most and score_N[place] > beaten
        if better and space.contains(space.candidate(genes_NG[place])):
            beaten = score_N[place]
            expected.append(beaten)
    found = front(space, score, [Constraint("MMACs", macs, most)])
    assert [one.score for one in found] == pytest.approx(expected, rel=1e-9) and len(found) > 5


@each_tree
def test_each_way_is_told_and_both_readings_of_them(candidate):
    """The readings are the scores themselves, on the same random numbers; the ways are chains of their own."""
    plan = ScorePlan(image_px=[32, 16], repeats=2)
    told = way_scores(candidate, plan, IMAGES, seed=3)
    for name, reading in (("zen", told.every_block_once), ("zen_mean", told.mean_of_ways)):
        mean, _ = score_candidate(candidate, plan.model_copy(update={"name": name}), IMAGES, seed=3)
        assert reading == pytest.approx(mean, abs=1e-4)  # four decimals are kept
    of_global, of_part = (way.score for way in told.ways)
    for aggregate, reading in ((ONCE, told.every_block_once), (MEAN, told.mean_of_ways)):
        assert reading == pytest.approx(by_hand(of_global, of_part, told.trunk, aggregate), abs=5e-4)
    assert [(way.name, way.times) for way in told.ways] == [("global", 1), ("part", 2)]
    assert list(told.cells) == ["every block once", "mean of ways", "trunk", "global", "part x 2"]
    assert told.trunk < min(of_global, of_part)


def test_one_way_has_nothing_to_tell_apart():
    chain = chain_of(TIED, tree_of(TIED).ways[0])
    assert way_scores(chain, ScorePlan(image_px=[32, 16]), IMAGES, seed=0) is None
    assert way_scores(TIED, ScorePlan(name="params", image_px=[32, 16]), IMAGES, seed=0) is None
