"""Every experiment that ships can be searched, and its recipe is inside what is searched where that can be said."""

import pathlib

import pytest

from zennas.space.candidate import read_candidates
from zennas.track import load_experiment
from zennas.tune.backbone import equal_macs
from zennas.tune.proposal import factors_of
from zennas.tune.request import tune_plan
from zennas.tune_plan import Span

ROOT = pathlib.Path(__file__).parent.parent.parent
NAMES = sorted(path.parent.name for path in ROOT.glob("experiments/*/experiment.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_its_plan_is_one(name):
    plan = tune_plan(name)
    assert plan.trials > 1 and all(getattr(plan, factor) is not None for factor in factors_of(plan))
    assert load_experiment(name)[0].train.schedule.warmup_epochs < plan.epochs


def test_the_experiment_searches_around_its_own_recipe():
    """ArcFace of 0.3 rad and 32 is a point of the margin space; no merging and no dropping are ends of the
    thresholds."""
    experiment, _, space = load_experiment("comprehensive-search")
    knobs, margin, cleaning = experiment.train.loss.knobs, experiment.tune.margin, experiment.tune.cleaning
    point = {"m1": 1.0, "m2_rad": knobs["margin_rad"], "m3": 0.0, "s_p": knobs["scale"], "s_n": knobs["scale"]}
    for name, value in point.items():
        span = getattr(margin, name)
        assert isinstance(span, Span) and span.low <= value <= span.high, name
    assert cleaning.tau_inter.high == 1.0 and cleaning.tau_intra.low < 0
    ((_, candidate),) = read_candidates(str(ROOT / "experiments" / "comprehensive-search" / "winner-1.yaml"))
    shapes = equal_macs(candidate, space, experiment.tune.backbone)
    assert candidate in shapes[1:-1] and len(shapes) == 5
