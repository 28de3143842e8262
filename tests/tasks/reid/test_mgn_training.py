"""MGN trained on people, whole: eleven terms, whatever is beside them, stopped, shared out, and taught by a file."""

import json
import math
import signal

import pytest
import torch
import yaml

from tests.data.people_sets import laid_out
from tests.tasks.identity.test_partial_fc import on_ranks
from tests.tasks.reid.conftest import EACH, write_experiment
from tests.tasks.reid.test_reid_head import CLOSE, batch_of, one_step, plan_of
from tests.train.conftest import differing, training
from tests.train.test_checkpoints import Pressing
from zennas.export.onnx_file import export
from zennas.progress import silent
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.network import build
from zennas.space.shape import Shape
from zennas.tasks.reid.head import ReidHead
from zennas.tasks.reid.task import REID
from zennas.train.journal import read_metrics
from zennas.train.options import Options
from zennas.train.rank import train_on
from zennas.train.request import check

SIZE = 64  # of eight reductions
WINNER = {"family": "mgn", "block": "resnet_basic", "stem": 8, "widths": [8, 16, 16], "depths": [1, 1, 1]}
SHAPE = Shape(channels=3, height=48, width=16, embedding_size=SIZE)
# As in mgn.yaml, but small: 48 rows are 3 of the last map of a part branch.
SPACE = {
    "name": "tiny_mgn",
    "family": "mgn",
    "block": "resnet_basic",
    "image_px": [48, 16],
    "embedding_size": SIZE,
    "stem": {"low": 8, "high": 16, "step": 8},
    "widths": [{"low": 8, "high": 32, "step": 8}] * 3,
    "depths": [{"low": 1, "high": 2}] * 3,
    "limits": {"max_blocks": 9, "max_effectiveness": 9.0},
}
PLAN = {
    "epochs": None,
    "steps": 4,
    "verify_steps": 4,
    "softmax": {},
    "schedule": {"name": "step", "warmup_steps": 1, "milestone_steps": [2, 3]},
    "data": {"workers": 0, "images_per_person": EACH, "augment": {"flip": {}, "random_erasing": {"p": 0.5}}},
}
ROWS = [(who, camera, "train") for who in range(1, 9) for camera in (1, 1, 2, 3)] + [
    (who, camera, role) for who in range(9, 13) for camera, role in ((1, "query"), (2, "gallery"), (3, "gallery"))
]


@pytest.fixture
def asked(tmp_path):
    """asked(*changes, **others) -> the Request of an MGN's training on eight people, four a batch."""
    people, experiment = laid_out(tmp_path / "people", "market", ROWS), write_experiment(tmp_path, **PLAN)
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(SPACE))
    (tmp_path / "winner.yaml").write_text(yaml.safe_dump(WINNER))

    def made(*changes, out="run", **given):
        where = {"data": people, "winner": tmp_path / "winner.yaml", "any_size": True, "verify": (str(people),)}
        return check(Options.of(track=experiment, out=tmp_path / out, set=changes, **where | given))

    return made


def test_mgn_is_trained_from_images_to_ranked_lists(asked):
    request = asked()
    train_on(request, Ranks(), silent())
    entries = read_metrics(request.out)
    train = [entry for entry in entries if entry["kind"] == "train"]
    # The rate: warmed up in a step, then a tenth twice.
    assert [round(entry["lr"] / train[0]["lr"], 6) for entry in train] == [1, 1, 0.1, 0.01]
    for entry in train:
        assert entry["loss"] == pytest.approx(entry["softmax"] + entry["triplet"], rel=1e-5)
        # Eight classifiers that know nobody yet; triplets about the margin.
        assert entry["softmax"] == pytest.approx(8 * math.log(8), rel=0.1) and entry["triplet"] > 0
        assert {"active", "alike", "farthest_own", "nearest_other", "length", "left_out"} <= entry.keys()
    assert [entry["step"] for entry in entries if entry["kind"].startswith("verify")] == [0, 4]
    result = json.loads((request.out / "result.json").read_text())
    assert result["accuracy"]["people"]["student"]["num_queries"] == 4 and (request.out / "model.onnx").is_file()


@pytest.mark.parametrize(
    "changes",
    [
        ("centre.weight=0.001", "triplet.name=all_pairs", "softmax.name=label_smoothing"),
        ("triplet.name=circle", "margin={name: arcface, weight: 0.1, sampling_rate: 0.5}", "accumulate=2"),
    ],
    ids=["centre", "margin"],
)
def test_a_stopped_mgn_goes_on_to_the_last_bit(changes, asked):
    whole = training(asked(*changes, out="whole"))
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        training(asked(*changes, out="cut"), progress=Pressing(2, signal.SIGINT)).run()
    again = training(asked(*changes, out="cut"))
    again.run()
    assert 0 < again.first_step < 4
    assert differing(dict(whole.student.state_dict()), dict(again.student.state_dict())) == []
    for one, other in zip(whole.head.centres, again.head.centres, strict=True):
        assert one.centre_CD.any() and torch.equal(one.centre_CD, other.centre_CD)
    if whole.head.margin is not None:
        assert torch.equal(whole.head.margin.centre_CKD, again.head.margin.centre_CKD)


def mgn_step(ranks, num_micro):
    """(loss, triplet, slopes) of a step of MGN's eleven terms."""
    network = build(Candidate(**WINNER), SHAPE, generator=torch.Generator().manual_seed(0)).train()
    head = ReidHead(network, plan_of(), num_people=7, ranks=ranks)
    mine = batch_of(hw=SHAPE.hw).micro(ranks.rank, ranks.num_ranks)
    total, numbers, slopes = one_step(head, mine, num_micro=num_micro, forward=ranks.parallel(head.student))
    return total, numbers["triplet"].item(), slopes


def test_two_ranks_are_one_rank_with_two_micro_batches(tmp_path):
    """Both norm by the halves of the batch: then loss and slopes of all of MGN's weights are the same."""
    total, triplet, slopes = mgn_step(Ranks(), 2)
    for found in on_ranks(2, tmp_path, mgn_step, 1):
        assert found[:2] == pytest.approx((total, triplet), rel=1e-5)
        for name, slope in slopes.items():
            torch.testing.assert_close(found[2][name], slope, **CLOSE)


def test_a_teacher_may_be_a_file_of_another_size(asked, tmp_path):
    """An ONNX file that takes 40 x 24 and gives 24 numbers: asked once about the images as it takes them, and the
    student's 64 numbers go through a layer to 24."""
    candidate = Candidate(family="single", block="resnet_basic", stem=8, widths=(8, 16), depths=(1, 1))
    shape = Shape(channels=3, height=40, width=24, embedding_size=24)
    other = build(candidate, shape, generator=torch.Generator().manual_seed(1)).eval()
    (tmp_path / "teacher.onnx").write_bytes(export(other, shape).onnx_bytes)
    taught = training(asked("distill.weight=0.5", teacher=str(tmp_path / "teacher.onnx")))
    guide = taught.head.guide
    assert guide.teacher.input_hw == (40, 24) and guide.embedding_ND.shape == (32, 24)
    assert [tuple(weight.shape) for weight in guide.projection.parameters()] == [(24, 64)]
    before = guide.projection.weight.detach().clone()
    taught.run()
    assert (guide.projection.weight != before).any()
    assert REID.announced(taught.job.request, taught.head, taught.job.teacher)["teacher"].endswith(
        "teacher.onnx: l2, weight 0.5; its images: (x - 127.5) / 127.5"
    )
    with pytest.raises(UserError, match=r"takes images of 40 x 24, the student of 48 x 16; a teacher that sees the au"):
        training(asked("distill.precompute=false", teacher=str(tmp_path / "teacher.onnx")))
