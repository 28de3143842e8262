"""One trial in this process: it is a run of the training stage, judged on others, gone on with, and not done twice."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from tests.train.conftest import ran, words_of
from zennas.data.labels import DROPPED
from zennas.data.sources import open_source
from zennas.embed.embeddings import precompute
from zennas.embed.model import open_model
from zennas.records import UserError
from zennas.tasks.face.cleaning import clean_labels
from zennas.tasks.face.tuning import TUNING
from zennas.train import checkpoints
from zennas.train.prepare import initial_network
from zennas.trials.trial import ENDED, FAILED, curve, end, read_json
from zennas.tune.backbone import equal_macs
from zennas.tune.options import Options
from zennas.tune.proposal import Proposal
from zennas.tune.request import check
from zennas.tune.trial import Setting, run_trial

MARGIN = {"m1": 1.0, "m2_rad": 0.2, "m3": 0.0, "s_p": 16.0, "s_n": 16.0}


class Stopped(BaseException):
    """What Ray raises in a trial that is not to go on is no Exception either."""


@pytest.fixture
def setting(material, tmp_path):
    """The Setting of the tiny search, with a network of random weights to clean by."""
    model = tmp_path / "random.pt2"
    model.touch()
    options = check(
        Options(
            track=str(material.experiment),
            data=material.faces,
            winner=material.winner,
            out=tmp_path / "run",
            embeddings_from=str(model),
            threads=1,
        )
    )
    source = open_source(options.data)
    people = TUNING.split(options, source)
    network = initial_network(options.candidate, options.space, seed=0).eval()
    path = tmp_path / "embeddings.npy"
    precompute(open_model(network, image_px=options.space.image_px), source.images, path, dtype=np.float32)
    shapes = equal_macs(options.candidate, options.space, options.tune.backbone)
    return Setting(options, people, shapes, path)


def run(setting, proposal=None, *, seed=0, **others):
    """[(epoch, numbers)] that a trial reports."""
    told = []
    run_trial(setting, proposal or Proposal(), seed=seed, report=lambda *one: told.append(one), **others)
    return told


def test_the_recipe_is_trained_as_it_stands(setting, material, tmp_path):
    """To the last bit what zennas train does with these people, this seed and so many epochs."""
    told = run(setting)
    assert [epoch for epoch, _ in told] == [1, 2, 3]
    assert all(set(numbers) == {"reward", "tpr@0.1", "tpr@0.01"} for _, numbers in told)
    assert told[-1][1]["reward"] > told[0][1]["reward"]
    folder = setting.folder(Proposal(), 0)
    words = [*words_of(material), "--out", tmp_path / "t"]
    words += ["--labels", folder / "labels.npz", "--any-size", "--epochs", 3, "--budget-ms", 1e6]
    assert ran(*words).code == 0
    ours, theirs = (checkpoints.checkpoints_in(one / "checkpoints")[-1] for one in (folder, tmp_path / "t"))
    ours, theirs = (torch.load(one / "common.pt", weights_only=True)["network"] for one in (ours, theirs))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_it_is_trained_on_nobody_whom_it_is_judged_by(setting):
    run(setting)
    with np.load(setting.folder(Proposal(), 0) / "labels.npz") as file:
        label_N = file["label_N"]
    for group in (setting.groups.held_out, setting.groups.test):
        assert (label_N[group.index_M] == DROPPED).all() and not set(label_N) & set(group.label_M)
    facts = read_json(setting.folder(Proposal(), 0) / "trial.json")
    assert (facts["num_images"], facts["num_identities"]) == ((label_N >= 0).sum(), 8)


def test_a_proposal_is_what_is_trained(setting):
    # Embeddings of random weights are all alike: the top of tau_inter is where some are not.
    proposal = setting.proposal({"tau_inter": 0.9999, "tau_intra": -0.5, "shape": 0} | MARGIN)
    run(setting, proposal)
    facts = read_json(setting.folder(proposal, 0) / "trial.json")
    assert facts["candidate"] == setting.shapes[0].plain() != setting.request.candidate.plain()
    plan = setting.plan(proposal, 5)
    assert (plan.loss.name, plan.loss.knobs, plan.seed, plan.epochs, plan.data.workers) == (
        "unified_margin",
        MARGIN,
        5,
        3,
        0,
    )
    assert plan.optimizer == setting.request.plan.optimizer


def test_what_is_ended_is_told_again_and_not_trained_again(setting):
    told = run(setting)
    end(setting.folder(Proposal(), 0))
    before = (setting.folder(Proposal(), 0) / "metrics.jsonl").read_bytes()
    assert run(setting) == told[-1:]
    assert (setting.folder(Proposal(), 0) / "metrics.jsonl").read_bytes() == before
    assert not (setting.folder(Proposal(), 0) / "checkpoints").exists()


def test_a_trial_that_was_killed_goes_on_from_its_checkpoint(setting):
    often = setting.request.plan.model_copy(update={"checkpoint_minutes": 1e-9})
    setting = dataclasses.replace(setting, request=dataclasses.replace(setting.request, plan=often))
    whole = run(setting, seed=1)

    def stop_at_the_end_of(epoch):
        def report(now, numbers):
            if now == epoch:
                raise Stopped

        return report

    other = dataclasses.replace(
        setting, request=dataclasses.replace(setting.request, out=setting.request.out.with_name("two"))
    )
    with pytest.raises(Stopped):
        run_trial(other, Proposal(), seed=1, report=stop_at_the_end_of(2))
    # The checkpoint before that report is of the step before: the rest of the second epoch is one step.
    steps = [int(one.name[5:]) for one in checkpoints.checkpoints_in(other.folder(Proposal(), 1) / "checkpoints")]
    assert steps and steps[-1] > 4
    again = run(other, seed=1)
    assert [epoch for epoch, _ in again] == [2, 3]
    assert again == whole[1:]
    entries = curve(other.folder(Proposal(), 1))
    assert [entry["epoch"] for entry in entries] == [1, 2, 3]
    assert [entry["seconds"] for entry in entries] == sorted(entry["seconds"] for entry in entries)


def test_a_trial_that_fails_says_why_and_can_be_tried_again(setting, monkeypatch):
    proposal = setting.proposal({"tau_intra": 1.0})
    with pytest.raises(UserError, match=r"leaves out all|larger than an epoch|fewer than|at least 2"):
        run(setting, proposal)
    folder = setting.folder(proposal, 0)
    assert read_json(folder / FAILED)["error"].startswith("UserError: ") and not (folder / ENDED).exists()
    monkeypatch.setattr(
        "zennas.tasks.face.tuning.labels_of", lambda embeddings, knobs, label_N: clean_labels(None, label_N)
    )
    assert len(run(setting, proposal)) == 3 and not (folder / FAILED).exists()


def test_the_test_people_are_asked_when_they_are_to_be(setting):
    told = run(setting, seed=7, with_test=True)
    folder = setting.folder(Proposal(), 7)
    found = json.loads((folder / "test.json").read_text())
    assert set(found) == set(told[-1][1]) and 0 <= found["reward"] <= 1 and found != told[-1][1]
    assert run(setting, seed=7, with_test=True) == told[-1:]
