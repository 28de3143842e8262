"""A training of people from its first step to its report; with a teacher, and taken up again."""

import json
import signal

import numpy as np
import pytest
import torch

from tests.data.people_sets import as_cuhk03
from tests.train.conftest import training, untrained
from tests.train.test_checkpoints import Pressing
from zennas.data.inputs import normalised
from zennas.progress import silent
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.tasks.reid.task import REID
from zennas.tasks.task import Step
from zennas.train.journal import read_metrics
from zennas.train.rank import train_on


def test_a_training_finds_people_and_tells_how(options):
    request = options("epochs=8", "optimizer.lr=0.1", "triplet.knobs={margin: 0.5}")
    train_on(request, Ranks(), silent())
    result = json.loads((request.out / "result.json").read_text())
    (name, row), *_ = result["accuracy"].items()
    student = row["student"]
    assert name == "others" and student["mean_ap"] > row["untrained"] + 0.05
    assert student["num_queries"] == 120 and 0 < student["rank_1"] <= student["rank_5"] <= student["rank_10"] <= 1
    train = [entry for entry in read_metrics(request.out) if entry["kind"] == "train"]
    told = {"softmax", "triplet", "active", "farthest_own", "nearest_other", "left_out", "length", "alike"}
    assert all(told <= entry.keys() for entry in train)
    assert all(entry["left_out"] == 0 and 0 <= entry["active"] <= 1 for entry in train)
    assert train[-1]["softmax"] < train[0]["softmax"]
    page = (request.out / "report.html").read_text()
    for text in (
        "Ranked lists",
        "1 x softmax on wide",
        "1 x batch_hard, margin 0.5 on whole",
        "mAP, %",
        "12 people",
        "is a collapse",
    ):
        assert text in page, text
    assert REID.page.table(result).row_count == 1 and "mAP" in REID.page.summary(result)
    (command,) = REID.next_commands(request, request.verify)
    assert command.count("--set") == 1 and "reid:LIST.csv@IMAGES" in command  # a plain folder has no queries
    (command,) = REID.next_commands(request, (*request.verify, "a.csv@b"))
    assert [word for word in command if word.startswith("reid:")] == ["reid:a.csv@b"]


def test_a_training_goes_on_to_the_last_bit(options):
    changes = ("triplet.name=all_pairs", "centre.weight=0.01", "margin.name=cosface", "softmax.name=label_smoothing")
    whole = training(options(*changes, out="whole"))
    whole.run()
    with pytest.raises(KeyboardInterrupt):
        training(options(*changes, out="cut"), progress=Pressing(3, signal.SIGINT)).run()
    again = training(options(*changes, out="cut"))
    again.run()
    assert 0 < again.first_step < whole.job.num_steps
    for name, value in whole.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], value), name
    for one, other in zip(whole.head.centres, again.head.centres, strict=True):
        assert torch.equal(one.centre_CD, other.centre_CD)
    assert torch.equal(whole.head.margin.centre_CKD, again.head.margin.centre_CKD)


def test_people_are_learnt_from_a_teacher_too(options, material, tmp_path):
    """Of another size: it is asked about the images as it takes them. Its part is the embedding's, in its own place."""
    teacher = str(untrained(material, tmp_path / "teacher", bias=1.0))
    request = options("distill.weight=0.5", "distill.class_weight=0.25", "epochs=1", teacher=teacher)
    taught = training(request)
    (batch,) = REID.stream(request, taught.job.data, first_step=0, last_step=1, ranks=Ranks(), num_workers=0)
    head, parts = taught.head, {}
    for weight in (0.0, 0.5):
        head.guide.weight = weight
        head.begin(batch)
        parts[weight] = head.loss(head.student, batch, Step(1, 0.0, False))
    labels = sum(parts[0.0][name] for name in ("softmax", "triplet"))
    torch.testing.assert_close(parts[0.0]["loss"], 0.25 * labels)
    seen = head.student(normalised(batch.image_BHW3, torch.device("cpu")))
    target_BD = torch.from_numpy(np.array(head.guide.embedding_ND[batch.index_B]))
    by_hand = (seen.projected_bD - target_BD).square().sum(1).mean()
    torch.testing.assert_close(parts[0.5]["loss"] - parts[0.0]["loss"], 0.5 * by_hand, rtol=1e-4, atol=1e-4)
    assert "l2, weight 0.5" in REID.announced(request, head)["teacher"]
    taught.run()
    with pytest.raises(UserError, match="the student of 32 x 16; a teacher that sees the augmented"):
        training(options("distill.precompute=false", teacher=teacher))


def test_who_has_few_images_is_said(options, tmp_path, material):
    (tmp_path / "some.txt").write_text("".join(f"p{number:02d}\n" for number in range(6)))
    request = options(identities=tmp_path / "some.txt")
    assert REID.open_data(request, silent()).notices == REID.open_data(options(), silent()).notices  # 8 images each
    more = options("data.images_per_person=10", "batch=20")
    assert "12 of 12 people have fewer than 10 images, which repeat" in " ".join(REID.open_data(more, silent()).notices)


def test_batches_that_cannot_be_had_are_refused(options):
    with pytest.raises(UserError, match="takes 16 people; there are 12"):
        training(options("batch=64"))
    with pytest.raises(UserError, match="who cannot be shared out whole over 8 ranks"):
        request, ranks = options("batch=16"), Ranks(0, 8)
        REID.check_data(request, REID.open_data(request, silent()), None, ranks, silent())


def test_faces_are_no_business_of_people(options):
    with pytest.raises(UserError, match="--faces detect: is about faces, which the task 'reid' does not take"):
        options(faces="detect")


def test_parts_of_cuhk03_are_named_as_folders(options, tmp_path):
    """--data FOLDER/detected, where cuhk-03.mat is a file in it."""
    as_cuhk03(tmp_path / "cuhk03")
    request = options(data=tmp_path / "cuhk03" / "labelled", verify=(str(tmp_path / "cuhk03" / "labelled"),))
    data = REID.open_data(request, silent())
    assert data.counts["num_identities"] > 1 and data.source.camera_N is not None
    assert REID.open_set(request, request.verify[0]).is_query_N.any()
    with pytest.raises(UserError, match=r"--verify .*gone: .*no such file or folder"):
        options(verify=(str(tmp_path / "gone"),))
