"""Whom a training of people sees side by side: of several cameras, whole, and who can teach it little is told."""

import json

import numpy as np
import pytest

from tests.data.people_sets import as_cuhk03, as_msmt17, laid_out
from tests.tasks.reid.conftest import EACH
from tests.train.conftest import trained, training
from zennas.data.labels import write_labels
from zennas.data.layouts import LAYOUTS
from zennas.data.sources import open_source
from zennas.progress import Progress, silent
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.tasks.reid.task import REID
from zennas.train.journal import read_metrics
from zennas.train.rank import train_on

# Six people with six images by one camera and two by another: by chance 11 of 14 groups of four have both.
ROWS = [(who, camera, "train") for who in range(1, 7) for camera in (1, 1, 1, 2, 1, 1, 1, 2)]


def people_at(root, layout):
    if layout != "cuhk03":
        return laid_out(root, layout, ROWS)
    seen = [0, 1, 2, 3, 4, 5, 6, 7]
    return as_cuhk03(root, [[[0, 5]], [[0, 5]], [seen, seen], [seen, seen], [seen, seen]]) / "labelled"


@pytest.fixture
def asked(options):
    """asked(path, *changes, **others) -> the Request of a training on what lies there, two people a batch."""

    def made(path, *changes, batch=8, **others):
        return options(f"batch={batch}", *changes, **({"data": path, "verify": ()} | others))

    return made


def batches(request, *, num=12):
    data = REID.open_data(request, silent())
    return data, list(REID.stream(request, data, first_step=0, last_step=num, ranks=Ranks(), num_workers=0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_groups_are_of_several_cameras_whatever_the_layout(layout, asked, tmp_path):
    path = people_at(tmp_path / "set", layout)
    source = open_source(path)
    first = sorted(source.identity_names)[:3]
    (tmp_path / "some.txt").write_text("\n".join(first) + "\n")
    write_labels(tmp_path / "labels.npz", source, np.where(source.label_N < 4, source.label_N, -1))
    for given in ({}, {"identities": tmp_path / "some.txt"}, {"labels": tmp_path / "labels.npz"}):
        data, seen = batches(asked(path, **given))
        assert data.source.num_identities == (6 if not given else 3 if "identities" in given else 4)
        for batch in seen:
            label_PK, camera_PK = (
                column[batch.index_B].reshape(-1, EACH) for column in (data.source.label_N, data.source.camera_N)
            )
            assert (label_PK == label_PK[:, :1]).all() and all(len(set(cameras)) == 2 for cameras in camera_PK.tolist())


def test_cameras_that_are_known_of_some_alone_are_used(asked, tmp_path):
    """Two images of each have no camera in their name: they count as of one."""
    path = laid_out(tmp_path / "set", "folders", ROWS)
    for image in path.glob("train/*/c2_*.png"):
        image.rename(image.with_name(f"{image.stem[3:]}.png"))
    data, seen = batches(asked(path))
    assert sorted(set(data.source.camera_N.tolist())) == [-1, 1]
    assert all(len(set(data.source.camera_N[batch.index_B[:EACH]].tolist())) == 2 for batch in seen)


def test_micro_batches_hold_whole_people_or_are_refused(asked, tmp_path):
    path = people_at(tmp_path / "set", "market")
    with pytest.raises(
        UserError, match=r"batch 8 is 2 people of 4 images, .* over 1 ranks in 4 micro-batches each; .* multiple of 16"
    ):
        training(asked(path, "accumulate=4"))
    told = []
    for accumulate in (1, 2):
        trained(asked(path, "steps=1", f"accumulate={accumulate}", out=str(accumulate)))
        told.append(json.loads((tmp_path / str(accumulate) / "metrics.jsonl").read_text()))
    assert told[0]["left_out"] == told[1]["left_out"] == 0  # of the whole batch; a half has no negative


# --- who can teach it little

FEW = [
    *((1, camera, "train") for camera in (1, 1, 2, 2, 3)),
    *((2, camera, "train") for camera in (1, 2)),
    (3, 1, "train"),
    *((4, 5, "train") for _ in range(4)),
    (5, 2, "train"),
    *((6, camera, "train") for camera in (1, 2, 3, 4)),
]
SAID = (
    "3 of 6 people have fewer than 4 images, which repeat; 2 of them with one image, so without a positive; "
    "1 of 6 people have several images of one camera alone"
)


def test_who_can_teach_it_little_is_counted_said_and_used_where_it_can_be(asked, tmp_path, capsys):
    request = asked(laid_out(tmp_path / "set", "market", FEW), "epochs=2", batch=24)
    train_on(request, Ranks(), Progress())
    assert SAID in " ".join(capsys.readouterr().err.split())
    result = json.loads((request.out / "result.json").read_text())
    assert SAID in " ".join(result["training"]["data_notices"])
    assert SAID in (request.out / "report.html").read_text()
    train = [entry for entry in read_metrics(request.out) if entry["kind"] == "train"]
    assert {entry["left_out"] for entry in train} == {8}  # two people with one image, which comes four times
    _, (batch,) = batches(request, num=1)
    assert sorted(set(batch.label_B.tolist())) == list(range(6))  # the classifiers have them all


def test_people_without_a_pair_are_refused_where_pairs_are_compared(asked, tmp_path):
    path = laid_out(tmp_path / "set", "market", [(who, 1, "train") for who in range(1, 7)])
    with pytest.raises(UserError, match=r"each of its 6 people has one image, and triplets are of two: .*triplet=null"):
        training(asked(path))
    training(asked(path, "triplet=null"))


def test_why_only_one_person_is_there_is_said(asked, tmp_path):
    """Of two people that MSMT17's lists name the image of one is not there."""
    root = as_msmt17(tmp_path / "set")
    (root / "train" / "0001" / "0001_000_05_0303noon_0008_0.png").unlink()
    with pytest.raises(UserError, match=r"1 identity \(not used: 1 images that a list names and that are not there"):
        training(asked(root))
