"""People who are judged by: who they are, how they are found, and what a search of recipes for people changes."""

import re
import types

import numpy as np
import pytest
import torch

from tests.tasks.identity.test_people import many
from tests.tasks.reid.conftest import HW
from tests.tasks.reid.test_reid_verify import Pixels, plain
from zennas.data.sources import open_source
from zennas.records import EXPERIMENTS, UserError, names
from zennas.tasks.reid.groups import split_people
from zennas.tasks.reid.learn_plan import ReidLearnPlan
from zennas.tasks.reid.learning import LEARNING
from zennas.tasks.reid.losses import MINED, classifier_knobs_of, mined_knobs_of
from zennas.tasks.reid.plan import ReidPlan
from zennas.tasks.reid.tune_plan import ReidTunePlan
from zennas.tasks.reid.tuning import TUNING
from zennas.track import load_experiment
from zennas.train.request import changed_plan
from zennas.tune.proposal import knobs_of, spans
from zennas.tune_plan import Span


def asked(plan):
    """What a Learning asks a request for."""
    space = types.SimpleNamespace(shape=types.SimpleNamespace(hw=HW))
    return types.SimpleNamespace(learn=plan, space=space, held_out=None, test=None, data="DATA")


@pytest.mark.parametrize("measure", ["map", "rank_1"])
def test_it_is_measured_among_the_people_held_out(material, measure):
    request, source = (
        asked(ReidLearnPlan(measure=measure, held_out_share=0.4, max_images=5)),
        open_source(material.faces),
    )
    group = LEARNING.split(request, source).held_out
    numbers = LEARNING.judge(request, source, network := Pixels(), group, device=torch.device("cpu"))
    rows = []
    for index in group.index_M:
        image_BCHW = torch.from_numpy(source.images.pixels(int(index), HW).copy())[None].permute(0, 3, 1, 2).float()
        image_BCHW = image_BCHW.sub(127.5).div(127.5)
        row_D = (network(image_BCHW) + network(image_BCHW.flip(3)))[0].detach().double()
        rows.append((row_D / row_D.norm()).numpy())
    among = range(len(rows))
    mean_ap, first, _ = plain(np.stack(rows), group.label_M, None, among, among)
    assert numbers["map"] == pytest.approx(mean_ap) and numbers["rank_1"] == pytest.approx(first)
    assert numbers["reward"] == numbers[measure] and LEARNING.measure(request.learn) == LEARNING.title(measure)


def with_cameras(camera_of):
    people = many()
    return types.SimpleNamespace(
        **people._asdict(), camera_N=np.array([camera_of(n) for n in range(len(people.label_N))])
    )


def test_groups_in_which_nobody_is_found_are_refused():
    options = {"seed": 0, "where": "learn"}
    split_people(asked(None), with_cameras(lambda n: n % 3), ReidLearnPlan(), **options)
    with pytest.raises(UserError, match=r"images of the held-out people has a right answer .* of one camera"):
        split_people(asked(None), with_cameras(lambda n: 4), ReidLearnPlan(), **options)
    # Cameras that are not known of all are not asked about.
    split_people(asked(None), with_cameras(lambda n: 4 if n % 2 else -1), ReidLearnPlan(), **options)


# --- a search of recipes


@pytest.mark.parametrize("end", ["low", "high"])
def test_every_corner_is_a_recipe(end):
    knobs = {name: getattr(span, end) for name, span in spans(ReidTunePlan(), 5).items() if isinstance(span, Span)}
    assert (*knobs, "shape") == knobs_of(ReidTunePlan())
    plan = changed_plan(ReidPlan(), TUNING.changes(knobs))
    assert mined_knobs_of(plan.triplet.name, plan.triplet.knobs)["margin"] == knobs["margin"]
    assert plan.triplet.weight == knobs["triplet_weight"]
    assert classifier_knobs_of(plan.softmax.name, plan.softmax.knobs)["smoothing"] == knobs["smoothing"]


@pytest.mark.parametrize("name", [name for name in names(EXPERIMENTS) if name.startswith("reid")])
def test_every_corner_of_what_ships_is_a_recipe_with_its_own_loss(name):
    experiment = load_experiment(name)[0]
    TUNING.check(types.SimpleNamespace(embeddings_from=None), experiment.tune, experiment.train)
    for end in ("low", "high"):
        searched = spans(experiment.tune, 5).items()
        knobs = {name: getattr(span, end) for name, span in searched if isinstance(span, Span)}
        plan = changed_plan(experiment.train, TUNING.changes(knobs))
        assert plan.triplet.name == experiment.train.triplet.name
        assert mined_knobs_of(plan.triplet.name, plan.triplet.knobs)["margin"] == knobs["margin"]


@pytest.mark.parametrize(
    "loss, says",
    [
        ("circle", "tune.triplet.margin 2: triplet: margin of circle: given 2.0, allowed: a difference of cosines"),
        ("batch_hard_soft", "tune.triplet.margin 0.1: triplet: knob 'margin' of batch_hard_soft is not known"),
    ],
)
def test_margins_that_the_loss_does_not_take_are_refused(loss, says):
    recipe = ReidPlan.parse({"triplet": {"name": loss}}, "a test")
    with pytest.raises(UserError, match=re.escape(says)):
        TUNING.check(types.SimpleNamespace(embeddings_from=None), ReidTunePlan(), recipe)


def test_what_is_not_searched_stays_as_it_is():
    given = {"triplet": {"name": "circle", "knobs": {"margin": 0.3}}, "softmax": {"name": "bnneck"}}
    plan = ReidPlan.parse(given, "a test")
    assert changed_plan(plan, TUNING.changes({"shape": 1})) == plan
    changed = changed_plan(plan, TUNING.changes({"smoothing": 0.2}))
    assert changed.softmax.name == "bnneck" and changed.triplet == plan.triplet
    assert "circle" in TUNING.recipe(plan) and "circle" in MINED


def test_a_network_that_would_clean_is_refused():
    with pytest.raises(UserError, match="--embeddings-from net: is for cleaning thresholds"):
        TUNING.check(types.SimpleNamespace(embeddings_from="net"), ReidTunePlan(), ReidPlan())


@pytest.mark.parametrize(
    "plan, values, says",
    [
        (ReidTunePlan, {"reward": {"held_out_share": 0.6, "test_share": 0.5}}, "somebody must be trained on"),
        (ReidTunePlan, {"triplet": {"margin": {"low": 2, "high": 1}}}, "low below high"),
        (ReidLearnPlan, {"held_out_share": 0.6, "test_share": 0.5}, "somebody must be trained on"),
        (ReidLearnPlan, {"measure": "auc"}, "measure"),
    ],
)
def test_plans_that_make_no_sense_are_refused(plan, values, says):
    with pytest.raises(UserError) as error:
        plan.parse(values, "experiment.yaml")
    assert says in str(error.value)
