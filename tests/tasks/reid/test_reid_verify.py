"""Ranked lists while training, against plain loops; and what no set can be judged by."""

import types

import cv2
import numpy as np
import pytest
import torch

from tests.data.people_sets import as_market, png, write
from tests.tasks.reid.conftest import HW
from zennas.data.image_set import ImageSet
from zennas.metrics.retrieval import average_precision
from zennas.records import UserError
from zennas.tasks.reid.task import REID
from zennas.tasks.reid.verify import PeopleSet, judge, judge_teacher, open_set, ranked, why_unanswerable

ROWS = [("a.png", 5, 1, "query"), ("b.png", 5, 2, "gallery"), ("c.png", -1, 2, "gallery"), ("d.png", 6, 2, "gallery")]


def plain(unit_ND, label_N, camera_N, queries, gallery):
    """(mAP, rank 1, queries without a right answer) in loops."""
    precisions, firsts, unanswerable = [], [], 0
    for query in queries:
        ranks, place = [], 0
        others = [
            (
                -float(unit_ND[image] @ unit_ND[query]),
                label_N[image] == label_N[query],
                image,
            )  # of equal ones wrong first
            for image in gallery
            if image != query
        ]
        for _, same, image in sorted(others):
            if same and camera_N is not None and camera_N[image] == camera_N[query]:
                continue
            place += 1
            ranks += [place] if same else []
        unanswerable += not ranks
        if ranks:
            precisions.append(average_precision(ranks))
            firsts.append(ranks[0] == 1)
    return np.mean(precisions), np.mean(firsts), unanswerable


def drawn(num=30, seed=0):
    rng = np.random.default_rng(seed)
    embedding_ND = rng.normal(size=(num, 8))
    return embedding_ND, rng.integers(0, 8, num), rng.integers(0, 3, num)


@pytest.mark.parametrize("cameras", [True, False])
@pytest.mark.parametrize("split", [True, False])
def test_queries_are_ranked(cameras, split):
    embedding_ND, label_N, camera_N = drawn()
    camera_N = camera_N if cameras else None
    is_query_N = np.arange(30) < 10 if split else None
    unit_ND = embedding_ND / np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    queries, gallery = (range(10), range(10, 30)) if split else (range(30), range(30))
    mean_ap, first, unanswerable = plain(unit_ND, label_N, camera_N, queries, gallery)
    found = ranked(embedding_ND, PeopleSet("drawn", None, label_N, camera_N, is_query_N))
    assert found.mean_ap == pytest.approx(mean_ap) and found.at_rank[1] == pytest.approx(first)
    assert len(found.unanswerable) == unanswerable


class Pixels(torch.nn.Module):
    """A network that embeds an image by some of its pixels: not symmetric, so that mirrored images matter."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 3 * HW[0] * HW[1], generator=torch.Generator().manual_seed(0)))

    def forward(self, image_BCHW):
        return image_BCHW.flatten(1) @ self.weight.T


def request():
    return types.SimpleNamespace(space=types.SimpleNamespace(shape=types.SimpleNamespace(hw=HW)))


def people(label_N, camera_N=None, is_query_N=None, *, seed=0, corrupt=()):
    rng = np.random.default_rng(seed)
    encoded = [cv2.imencode(".png", rng.integers(0, 256, (*HW, 3), dtype=np.uint8))[1].tobytes() for _ in label_N]
    for number in corrupt:
        encoded[number] = b"none"
    images = ImageSet(len(encoded), encoded.__getitem__, lambda number: f"image {number}", "made here")
    return PeopleSet("drawn", images, np.array(label_N), camera_N, is_query_N)


def test_a_network_is_judged_with_mirrored_images_added():
    the_set = people([0, 0, 0, 1, 1, 2, 2, 3], corrupt=[4])
    network = Pixels().train()
    rows = []
    for number in range(8):
        image_HW3 = np.zeros((*HW, 3), np.uint8) if number == 4 else the_set.images.pixels(number, HW)
        image_BCHW = torch.from_numpy(image_HW3.copy())[None].permute(0, 3, 1, 2).float().sub(127.5).div(127.5)
        row = (network(image_BCHW) + network(image_BCHW.flip(3)))[0].detach().double().numpy()
        rows.append(np.zeros(8) if number == 4 else row / np.linalg.norm(row))
    expected = plain(np.stack(rows), the_set.label_N, None, range(8), range(8))
    found = judge(request(), network, the_set, device=torch.device("cpu"))
    assert found.record.mean_ap == pytest.approx(expected[0]) and found.record.rank_1 == pytest.approx(expected[1])
    assert (found.record.num_queries, found.record.num_unanswerable, found.record.num_corrupt) == (8, 1, 1)
    assert "mAP" in found.text and "(7 queries, 1 without a right answer)" in found.text and network.training


def test_a_teacher_is_judged_at_its_own_size():
    the_set, seen = people([0, 0, 1, 1]), []

    def teacher(image_BHW3):
        seen.append(tuple(image_BHW3.shape[1:3]))
        return types.SimpleNamespace(embedding_BD=image_BHW3.flatten(1).float())

    teacher.input_hw = (64, 24)
    progress = types.SimpleNamespace(begin=lambda text: None, end=lambda: None, counting=lambda what: None)
    assert judge_teacher(teacher, the_set, progress).record.num_queries == 4 and set(seen) == {(64, 24)}


@pytest.mark.parametrize(
    "labels, cameras, says",
    [
        ([0, 0, 1, 1], [2, 2, 2, 2], "none of 4 queries has a right answer: all images are of one camera"),
        ([0, 1, 2, 3], None, "nobody has two images"),
        ([0, 0, 1, 1], [1, 1, 2, 2], "nobody has images of two cameras"),
    ],
)
def test_a_set_that_says_nothing_says_why(labels, cameras, says):
    the_set = people(labels, None if cameras is None else np.array(cameras))
    with pytest.raises(UserError) as error:
        judge(request(), Pixels(), the_set, device=torch.device("cpu"))
    assert says in str(error.value)


def test_queries_of_others_are_told_apart_from_the_rest():
    assert "nobody who is asked for" in why_unanswerable(np.array([1, 1, 2]), None)


def test_embeddings_that_are_not_finite_are_refused():
    network = Pixels()
    network.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match="drawn: the network gives embeddings that are not finite"):
        judge(request(), network, people([0, 0, 1]), device=torch.device("cpu"))


def test_what_is_no_set_is_refused_before_training(tmp_path, material):
    with pytest.raises(UserError, match=r"--verify .*no such file or folder"):
        open_set(str(tmp_path / "gone"))
    (tmp_path / "set" / "Ada").mkdir(parents=True)
    for number, content in enumerate((b"none", png(2))):
        (tmp_path / "set" / "Ada" / f"{number}.png").write_bytes(content)
    with pytest.raises(UserError, match=r"set: all 2 images have one label, so that every answer is right"):
        open_set(str(tmp_path / "set"))
    (tmp_path / "set" / "Bob").mkdir()
    (tmp_path / "set" / "Bob" / "1.png").write_bytes(png(1))
    with pytest.raises(UserError, match=r"set: Ada/0.png: "):
        open_set(str(tmp_path / "set"))
    (tmp_path / "set" / "Ada" / "0.png").unlink()
    with pytest.raises(UserError, match=r"--verify .*set: none of the 2 images has a right answer .*: nobody has two"):
        open_set(str(tmp_path / "set"))
    opened = open_set(str(material.faces))
    assert opened.name == "faces" and opened.camera_N is None and opened.images.num_images == len(opened.label_N)


def test_a_published_set_is_judged_by_its_own_rules(tmp_path):
    """Junk is passed over, distractors are wrong answers, the own camera does not count; a table says the same."""
    opened = open_set(str(as_market(tmp_path / "market")))
    assert opened.is_query_N.sum() == 2 and (opened.label_N < 0).sum() == 1 and not opened.single_shot
    embedding_ND = np.random.default_rng(0).normal(size=(len(opened.label_N), 4))
    unit_ND = embedding_ND / np.linalg.norm(embedding_ND, axis=1, keepdims=True)
    gallery = [image for image in np.flatnonzero(~opened.is_query_N) if opened.label_N[image] >= 0]
    queries = np.flatnonzero(opened.is_query_N).tolist()
    expected = plain(unit_ND, opened.label_N, opened.camera_N, queries, gallery)
    found = ranked(embedding_ND, opened)
    assert found.mean_ap == pytest.approx(expected[0]) and found.at_rank[1] == expected[1]
    rows = ["image,label,camera,role", *(f"{name},{label},{camera},{role}" for name, label, camera, role in ROWS)]
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    write(tmp_path / "images", [name for name, *_ in ROWS])
    listed = open_set(f"{tmp_path / 'list.csv'}@{tmp_path / 'images'}")
    assert listed.is_query_N.tolist() == [True, False, False, False] and listed.label_N[2] == -1
    assert REID.set_paths(f"{tmp_path / 'list.csv'}@{tmp_path / 'images'}") == [
        str(tmp_path / "list.csv"),
        str(tmp_path / "images"),
    ]


def test_one_image_of_each_person_is_drawn_where_a_set_says_so():
    embedding_ND, label_N, camera_N = np.array([[1.0, 0], [4, 3], [1, 0], [0, 1]]), np.array([7, 7, 3, 3]), [1, 2, 2, 2]
    people = PeopleSet("x", None, label_N, np.array(camera_N), np.arange(4) < 1, single_shot=True)
    assert ranked(embedding_ND, people).at_rank[1] == 0.5
