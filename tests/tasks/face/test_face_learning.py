"""What a learning from a few trainings for faces measures, refuses and says."""

import types

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from tests.tasks.identity.test_people import many
from tests.train.conftest import PX
from zennas.data.labels import relabelled
from zennas.data.sources import open_source
from zennas.metrics.verification import tar_at_far
from zennas.records import UserError
from zennas.tasks.face.learn_plan import FaceLearnPlan
from zennas.tasks.face.learning import LEARNING
from zennas.tasks.identity.people import split
from zennas.tasks.identity.trained import sampled


class Pixels(torch.nn.Module):
    """A network that embeds an image by some of its pixels: not symmetric, so that mirrored images matter."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 3 * PX * PX, generator=torch.Generator().manual_seed(0)))

    def forward(self, image_BCHW):
        return image_BCHW.flatten(1) @ self.weight.T


def asked(**plan):
    """What LEARNING asks a request for."""
    space = types.SimpleNamespace(shape=types.SimpleNamespace(hw=(PX, PX)))
    return types.SimpleNamespace(learn=FaceLearnPlan(**plan), space=space, held_out=None, test=None, data="DATA")


@pytest.mark.parametrize("plan", [{}, {"measure": "tar", "far": 0.05}])
def test_it_is_measured_over_all_pairs_of_people_with_mirrored_images_added(material, plan):
    source, request, network = open_source(material.faces), asked(max_images=3, **plan), Pixels()
    people = LEARNING.split(request, source)
    numbers = LEARNING.judge(request, source, network, people.held_out, device=torch.device("cpu"))
    ((_, images),) = source.some(people.held_out.index_M).batches(range(len(people.held_out.index_M)), PX, 10_000)
    image_MCHW = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float().div(127.5).sub(1)
    with torch.no_grad():
        embedding_MD = network(image_MCHW) + network(image_MCHW.flip(3))
    unit_MD = torch.nn.functional.normalize(embedding_MD.double()).numpy()
    row_P, column_P = np.triu_indices(len(unit_MD), 1)
    similarity_P = (unit_MD @ unit_MD.T)[row_P, column_P]
    same_P = people.held_out.label_M[row_P] == people.held_out.label_M[column_P]
    assert set(numbers) == {"reward"} and np.bincount(people.held_out.label_M).max() == 3
    if plan:
        assert numbers["reward"] == pytest.approx(tar_at_far(similarity_P, same_P, 0.05))
    else:
        assert numbers["reward"] == pytest.approx(roc_auc_score(same_P, similarity_P), abs=1e-4)


def test_people_are_drawn_so_that_all_pairs_can_be_taken():
    plan = FaceLearnPlan(held_out_share=0.4, test_share=0.3, max_people=5)
    people = split(many(), plan, seed=0, max_people=plan.max_people, where="learn")
    assert people.held_out.num_identities == people.test.num_identities == 5
    assert len(set(people.label_N[people.label_N >= 0].tolist())) == 30  # who is not drawn is trained on
    with pytest.raises(UserError, match="raise the share in learn"):
        lonely = many()._replace(label_N=np.arange(40, dtype=np.int32))
        split(lonely, plan, seed=0, where="learn")


def test_short_trainings_take_a_sample_of_many_images_and_the_winner_all(material, tmp_path):
    source, request = open_source(material.faces), asked(short_images=20)
    people = LEARNING.split(request, source)
    label_NN = [
        relabelled(source, fields(request, source, people, tmp_path)["labels"]).label_N
        for fields in (LEARNING.trained, LEARNING.trained_short)
    ]
    whole, short = ((label_N >= 0).sum() for label_N in label_NN)
    per_person = len(source.label_N) // source.num_identities
    assert short == 20 // per_person * per_person < whole
    train = LEARNING.announced(request, people)["train"]
    assert train.startswith(f"{short} images of {short // per_person} identities of DATA, drawn of {whole} images of ")
    for plenty in (None, whole):
        assert "drawn" not in LEARNING.announced(asked(short_images=plenty), people)["train"]
    label_N, plan = people.label_N, request.learn
    assert (sampled(label_N, plan) == sampled(label_N, plan)).all()
    assert (sampled(label_N, plan) != sampled(label_N, plan.model_copy(update={"seed": 1}))).any()


def test_it_says_whom_it_judges_on_and_what_few_pairs_cannot_tell(material):
    source = open_source(material.faces)
    request = asked(measure="tar", far=1e-4)
    people = LEARNING.split(request, source)
    entries = LEARNING.described(request.learn, people)
    same, different = people.held_out.num_pairs
    assert entries["held_out"]["same_pairs"] == same and entries["test"]["different_pairs"] > 0
    (note,) = entries["few_pairs"]
    assert note.startswith(f"FPR 0.0001: 0 of {different:,} pairs")
    assert LEARNING.described(asked().learn, people)["few_pairs"] == []
    lines = LEARNING.announced(request, people)
    assert lines["measure"].startswith("TAR at FAR 0.0001 over all pairs: ") and lines["test"].endswith(
        "when all is chosen"
    )
    settings = LEARNING.settings(source, people)
    assert settings["held_out"] == sorted(set(people.held_out.label_M.tolist())) and settings["data"]


@pytest.mark.parametrize(
    "values, says",
    [
        ({"far": 0.01}, "far is for measure tar; auc has none, leave it out"),
        ({"measure": "accuracy"}, "'auc' or 'tar'"),
        ({"held_out_share": 0.6, "test_share": 0.4}, "somebody must be trained on"),
        ({"max_images": 1}, "greater than or equal to 2"),
    ],
)
def test_plans_that_make_no_sense_are_refused(values, says):
    with pytest.raises(UserError) as error:
        FaceLearnPlan.parse(values, "experiment.yaml: learn")
    assert says in str(error.value)
