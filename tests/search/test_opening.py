"""A run that an older version began goes on as it began."""

import dataclasses
import json
import types

import numpy as np
import pytest

from zennas.data.images import as_jpeg
from zennas.progress import silent
from zennas.records import UserError
from zennas.search import opening
from zennas.search.opening import open_search
from zennas.search.resources import Resources
from zennas.search.stages import Checked
from zennas.track import EvidencePlan, load_experiment, load_space


@pytest.fixture
def opened(tiny, tmp_path, monkeypatch):
    """opened(input, **values) -> the protocol by which a search with that input of its track is opened, and closed;
    whole: all that is known of it then.
    """
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    experiment, track, space = load_experiment(str(tiny))

    def made(name, *, whole=False, **values):
        rule = track.protocol.model_copy(update={"input": name})
        checked = Checked(
            experiment=experiment,
            track=track.model_copy(update={"protocol": rule}),
            space=space,
            plan=experiment.search,
            out=tmp_path / "run",
        )
        checked = dataclasses.replace(checked, **values)
        with Resources(checked.out, silent()) as resources:
            state = open_search(checked, resources, silent())
            return state if whole else state.protocol

    return made


def test_a_run_whose_times_are_of_noise_goes_on_with_noise(opened):
    assert opened("noise").input == "noise"
    assert opened("face").input == "noise"  # the track says otherwise by now
    assert opened("face", fresh=True).input == "face"
    assert opened("face").input == "face"


def test_images_cannot_be_compared_with_noise(opened, tmp_path):
    opened("noise")
    (tmp_path / "mine.jpg").write_bytes(as_jpeg(np.full((32, 32, 3), 127, np.uint8)))
    with pytest.raises(UserError, match=r"this run's latencies are of noise.*choose another --out"):
        opened("face", images=tmp_path / "mine.jpg")
    assert opened("face", images=tmp_path / "mine.jpg", fresh=True).input.startswith("images:")
    with pytest.raises(UserError, match=r"protocol.input: .images:.*, now .face."):
        opened("face")


@pytest.fixture
def plans(tiny):
    """(What the plan of an experiment is that says nothing of bands and of evidence, what it was before there were
    bands.)"""
    plan = load_experiment(str(tiny))[0].search
    now = plan.model_copy(update={"evidence": EvidencePlan()})
    return now, now.model_copy(update={"bands": None, "evidence": EvidencePlan(rank_by="equal_cost")})


def begun_before_bands(opened, plan, folder):
    """A run with these settings, as a version left it that knew no bands."""
    opened("face", plan=plan)
    state = json.loads((folder / "run.json").read_text())
    assert state["settings"].pop("bands") is None
    (folder / "run.json").write_text(json.dumps(state))


def test_a_run_that_knows_no_bands_goes_on_without_them(opened, plans, tmp_path):
    now, before = plans
    begun_before_bands(opened, before, tmp_path / "run")
    plan = opened("face", whole=True, plan=now).plan
    assert (plan.bands, plan.evidence.rank_by) == (None, "equal_cost")
    plan = opened("face", whole=True, plan=now, fresh=True).plan
    assert (plan.bands, plan.evidence.rank_by) == (now.bands, None)


def test_what_orders_the_winners_of_a_run_without_bands_cannot_change(opened, plans, tmp_path):
    now, before = plans
    begun_before_bands(opened, before, tmp_path / "run")
    other = now.model_copy(update={"evidence": EvidencePlan(rank_by="naswot")})
    with pytest.raises(UserError, match=r"evidence.rank_by: .equal_cost., now .naswot."):
        opened("face", plan=other)


def test_the_bands_of_a_run_cannot_change(opened, plans):
    now, _ = plans
    opened("face", plan=now)
    assert opened("face", whole=True, plan=now).plan.bands == now.bands
    for bands, said in ((None, "bands: .*, now null"), ({"deep": 1.0, "wide": 0.2}, "bands.wide: 0.25, now 0.2")):
        with pytest.raises(UserError, match=said):
            opened("face", plan=now.model_copy(update={"bands": bands}))


@pytest.mark.parametrize(
    ("own", "other", "says"),
    [
        ("mgn_small", "ir_se", "space ir_se takes images of 112 x 112, the experiment's own, mgn_small, of 128 x 64: "),
        ("mgn_edge", "mgn_small", None),  # of one outline
        ("ir_se", "ir_se", None),
    ],
)
def test_a_space_of_other_images_is_noted(own, other, says):
    asked = types.SimpleNamespace(experiment=types.SimpleNamespace(space=own), space=load_space(other))
    told = opening._other_images(asked)
    assert told.startswith(says) if says else told is None
