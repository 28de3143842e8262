"""`zennas evaluate` on sets of people: end to end, people shown only where asked for, and what is odd about a set."""

import json
import shutil

import numpy as np
import pytest

from tests.data.people_sets import as_market, png
from tests.evaluate.conftest import PX, SETS, ran, saved, squares
from zennas.data.gallery_set import open_gallery_set
from zennas.data.images import decode, resized
from zennas.metrics.retrieval import reidentify


@pytest.fixture
def market(tmp_path, own_embeddings, monkeypatch):
    """Folders as Market-1501's, and a network, in the working folder."""
    monkeypatch.chdir(tmp_path)
    saved(squares(), tmp_path / "one.onnx")
    return as_market(tmp_path / "market")


def evaluated(*more, where="market"):
    return ran("--model", "one.onnx", "--set", f"reid:{where}", "--device", "cpu", "--out", "run", "--json", *more)


def test_market_from_end_to_end(market, tmp_path):
    """The numbers again, from the files: their names say who is a right answer."""
    ended = evaluated()
    assert ended.code == 0, ended.said
    (result,) = json.loads(ended.stdout)["results"]
    the_set = open_gallery_set("market")
    rows = []
    for image in range(the_set.images.num_images):
        pixel_HW3 = resized(decode(the_set.images.read(image)), (PX, PX)).astype(np.float64)
        fed = ((pixel_HW3 - 127.5) / 127.5).reshape(PX // 4, 4, PX // 4, 4, 3).mean((1, 3))
        rows.append(fed.transpose(2, 0, 1).ravel())
    weights = np.random.default_rng(0).normal(size=(3 * (PX // 4) ** 2, 12)).astype(np.float32)
    rows = np.array(rows) @ weights
    parts = [
        of_image[which]
        for which in (the_set.is_query_N, ~the_set.is_query_N)
        for of_image in (rows, the_set.label_N, the_set.camera_N)
    ]
    expected = reidentify(*parts)
    values = {(metric["name"], metric["subset"]): metric["value"] for metric in result["metrics"]}
    assert values["mAP", ""] == pytest.approx(expected.mean_ap, abs=1e-9)
    assert values["mINP", ""] == pytest.approx(expected.mean_inp, abs=1e-9)
    assert values["rank-1", ""] == expected.at_rank[1] and values["rank-1", "re-ranked"] is not None
    assert any("not used: 1 hidden or system files" in notice for notice in result["notices"])


def test_people_are_shown_only_where_asked_for(market, tmp_path):
    assert evaluated().code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert "data:image/jpeg" not in page and "They show people, and so only where they are asked for" in page
    ended = evaluated("--pictures")
    assert ended.code == 0
    page, (result,) = (tmp_path / "run" / "report.html").read_text(), json.loads(ended.stdout)["results"]
    num = sum(1 + len(ranked["images"]) for ranked in result["lists"])
    assert page.count("role='img'") == num and page.count("class='ranked'") == len(result["lists"]) == 2
    assert page.count("class='right'") == sum(sum(ranked["right"]) for ranked in result["lists"]) > 0
    assert all(result["where"][str(ranked["query"])].startswith("query/") for ranked in result["lists"])


def test_pictures_of_sets_without_lists_are_refused(market, faces, tmp_path):
    ended = ran("--model", "one.onnx", "--set", SETS["pairs"](tmp_path, faces), "--pictures", "--out", "run")
    assert ended.code == 2 and "--pictures: says nothing to these sets; it is for reid" in ended.said


def test_twins_across_query_and_gallery_are_told(market):
    """The same file by another camera makes a query easy; it is no fault of the network, and one line names it."""
    query = "query/0003_c1s1_000001_00.png"
    shutil.copy(market / query, market / "bounding_box_test" / "0003_c6s1_000009_01.png")
    ended = evaluated()
    assert ended.code == 0
    (result,) = json.loads(ended.stdout)["results"]
    told = [notice for notice in result["notices"] if "of one picture are searched for and in the gallery" in notice]
    assert len(told) == 1 and query in told[0] and "0003_c6s1_000009_01.png" in told[0]


def test_images_of_other_sizes_and_one_that_is_none(market):
    (market / "bounding_box_test" / "0003_c4s1_000001_01.png").write_bytes(png(3, height=333, width=91))
    (market / "bounding_box_test" / "0000_c4s1_000001_01.png").write_bytes(b"no image")
    ended = evaluated()
    assert ended.code == 0
    (result,) = json.loads(ended.stdout)["results"]
    assert result["num_unusable"] == 1
    assert any("1 images cannot be read and are like nobody" in notice for notice in result["notices"])


@pytest.mark.parametrize(
    ("emptied", "says"),
    [("bounding_box_test", "the gallery is empty"), ("query", "nobody is asked for")],
)
def test_an_empty_part_is_one_line(market, emptied, says):
    shutil.rmtree(market / emptied)
    (market / emptied).mkdir()
    ended = evaluated()
    assert ended.code == 2 and says in ended.said and emptied in ended.said and "Traceback" not in ended.said
