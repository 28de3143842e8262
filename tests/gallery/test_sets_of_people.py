"""Sets of people as they are published are enrolled and asked about; their cameras are kept, shown and left out."""

import csv
import json

import pytest
import torch

from tests.data import people_sets
from tests.gallery.conftest import ran
from zennas.data.layouts import layout_at
from zennas.data.sightings import GALLERY, JUNK
from zennas.embed.checkpoint import save_network
from zennas.gallery.outcome import Outcome
from zennas.gallery.store import Gallery
from zennas.space.candidate import Candidate
from zennas.space.network import build
from zennas.space.shape import Shape


@pytest.fixture
def network(tmp_path, monkeypatch):
    """The words of a network of people; the working folder is the test's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    candidate = Candidate(block="ir", stem=8, widths=(8, 16), depths=(1, 1))
    shape = Shape(channels=3, height=32, width=16, embedding_size=8)
    save_network(tmp_path / "net.pt", build(candidate, shape, generator=torch.Generator().manual_seed(0)))
    return ["--model", "net.pt", "--device", "cpu"]


def said(*words):
    """What JSON says of a call that ends well."""
    ended = ran(*words, "--json")
    assert ended.code == 0, ended.said
    return json.loads(ended.stdout)


# Where each lies, what is enrolled of it: {name: (identity, camera)}.
SETS = {
    "market": (
        people_sets.as_market,
        "",
        {
            "bounding_box_test/0003_c1s1_000002_01.png": ("0003", "1"),
            "bounding_box_test/0003_c4s1_000001_01.png": ("0003", "4"),
            "bounding_box_test/0005_c5s1_000001_01.png": ("0005", "5"),
            "bounding_box_test/0000_c4s1_000001_01.png": ("0000", "4"),
            "bounding_box_test/0000_c6s1_000001_02.png": ("0000", "6"),
        },
    ),
    "market-train": (
        people_sets.as_market,
        "bounding_box_train",
        {
            "bounding_box_train/0002_c1s1_000451_03.png": ("0002", "1"),
            "bounding_box_train/0002_c2s1_000001_01.png": ("0002", "2"),
            "bounding_box_train/0007_c3s3_000001_01.png": ("0007", "3"),
        },
    ),
    "market-query": (
        people_sets.as_market,
        "query",
        {
            "query/0003_c1s1_000001_00.png": ("0003", "1"),
            "query/0005_c2s1_000001_00.png": ("0005", "2"),
        },
    ),
    "msmt17": (
        people_sets.as_msmt17,
        "",
        {
            "test/0000/0000_002_04_0302afternoon_0009_0.png": ("test-0000", "4"),
            "test/0001/0001_003_11_0302afternoon_0009_0.png": ("test-0001", "11"),
        },
    ),
    "own": (
        people_sets.as_own_folders,
        "",
        {"Max/c2_1.png": ("Max", "2"), "Max/c1_2.png": ("Max", "1"), "Eve/c2_1.png": ("Eve", "2")},
    ),
    "own-query": (people_sets.as_own_folders, "query", {"Max/c1_1.png": ("Max", "1")}),
    "table": (
        people_sets.as_table,
        "people.csv",
        {"g/1.png": ("Max", "yard"), "g/2.png": ("Eve", "yard")},
    ),
}


@pytest.mark.parametrize("name", SETS)
def test_what_is_enrolled_of_a_set(network, tmp_path, name):
    """The gallery, or the part whose folder is named; no junk. The page finds each picture again."""
    make, part, expected = SETS[name]
    make(tmp_path / "set")
    outcome = said("g", "--enrol", f"set/{part}" if part else "set", *network, "--table", "all.csv")
    with open("all.csv", newline="") as file:
        rows = {row["image"]: (row["label"], row["camera"]) for row in csv.DictReader(file)}
    assert rows == expected
    assert outcome["gallery"]["num_cameras"] == len({camera for _, camera in expected.values()})
    with Gallery.open("g") as gallery:
        query = tmp_path / gallery.sources[0] / next(iter(expected))
    words = ["g", "--query", query, "--top", 20, "--page", "p.html", "--pictures"]
    (one,) = said(*words)["ranked"]
    assert one["hits"][0]["cosine"] == pytest.approx(1, abs=1e-5)
    assert {hit["image"]: (hit["identity"], hit["camera"]) for hit in one["hits"]} == expected
    page = (tmp_path / "p.html").read_text()
    assert "no picture" not in page and page.count("<img") == 1 + len(expected)
    assert all(f"camera {camera}<" in page for _, camera in expected.values())


def test_what_is_not_enrolled_is_told(network, tmp_path):
    people_sets.as_market(tmp_path / "market")
    ended = ran("g", "--enrol", "market", *network)
    assert ended.code == 0 and "1 images that show nobody well (-1, junk)" in ended.said
    assert "2 pictures are of people whom the set does not tell apart: all are enrolled as 0000" in ended.said
    people_sets.as_table(tmp_path / "set")
    ended = ran("h", "--enrol", "set/people.csv", *network)
    assert ended.code == 0 and "4 images of another role than the gallery's" in ended.said
    only_junk = people_sets.as_table(tmp_path / "junk", rows=[("g/1.png", "-1", "yard", "gallery")])
    ended = ran("i", "--enrol", only_junk, *network)
    assert ended.code == 2 and f"{only_junk}: holds no picture to enrol" in ended.stderr
    no_roles = people_sets.as_table(tmp_path / "plain", rows=[("a/1.png", "Ada")], columns=("image", "label"))
    assert said("j", "--enrol", no_roles, *network)["enrolled"]["num_added"] == 1


@pytest.mark.parametrize("part", ["labelled", "detected", "labelled-classic-4"])
def test_people_in_one_file(network, tmp_path, part):
    """CUHK03's .mat: what its reader has as the gallery, shown from within it, and its own queries."""
    people_sets.as_cuhk03(tmp_path / "cuhk03")
    sightings = layout_at(tmp_path / "cuhk03" / part).read(tmp_path / "cuhk03" / part, (GALLERY,))
    outcome = said("g", "--enrol", f"cuhk03/{part}", *network)
    assert outcome["enrolled"]["num_added"] == (sightings.label_N != JUNK).sum() > 0
    found = said("g", "--query", f"cuhk03/{part}", "--top", 50, "--page", "p.html", "--pictures")["ranked"]
    names = {(hit["image"], hit["identity"], hit["camera"]) for one in found for hit in one["hits"]}
    assert names == {
        (name, sightings.people[label], str(camera))
        for name, label, camera in zip(sightings.path_N, sightings.label_N, sightings.camera_N, strict=True)
    }
    assert "no picture" not in (tmp_path / "p.html").read_text()


def test_pictures_by_a_camera_are_left_out(network, tmp_path):
    """By the query's own one, from its name or its table; by one that is named; ranked by pictures and by people."""
    people_sets.as_market(tmp_path / "market")
    assert ran("g", "--enrol", "market", *network).code == 0
    whole = said("g", "--query", "market", "--top", 20)["ranked"]
    assert [len(one["hits"]) for one in whole] == [5, 5]

    def expected(one, camera):
        return [(hit["image"], hit["cosine"]) for hit in one["hits"] if hit["camera"] != camera]

    own = said("g", "--query", "market", "--top", 20, "--not-camera", "own")["ranked"]
    for one, before, camera in zip(own, whole, ("1", "2"), strict=True):
        assert one["not_cameras"] == [camera]
        assert [(hit["image"], hit["cosine"]) for hit in one["hits"]] == expected(before, camera)
    for one, before in zip(
        said("g", "--query", "market/query", "--top", 20, "--not-camera", "4")["ranked"], whole, strict=True
    ):
        assert [(hit["image"], hit["cosine"]) for hit in one["hits"]] == expected(before, "4")
        assert len(one["hits"]) == 3
    query = "market/query/0003_c1s1_000001_00.png"
    (one,) = said("g", "--query", query, "--identities", "--not-camera", "4")["ranked"]
    assert {hit["image"] for hit in one["hits"]} <= {name for name, _ in expected(whole[0], "4")}
    assert sorted(hit["identity"] for hit in one["hits"]) == ["0000", "0003", "0005"]
    (one,) = said("g", "--query", "market/query", "--together", "--not-camera", "own", "--top", 20)["ranked"]
    assert one["not_cameras"] == ["1", "2"] and all(hit["camera"] not in ("1", "2") for hit in one["hits"])
    ended = ran("g", "--query", query, "--not-camera", "own", "--page", "p.html")
    assert "without camera 1" in (tmp_path / "p.html").read_text() and "│ camera │" in ended.stdout.replace("┃", "│")
    (tmp_path / "who.png").write_bytes((tmp_path / query).read_bytes())
    for words, says in (
        (["--query", "who.png", "--not-camera", "own"], "--not-camera own: who.png: names no camera, as c3_0001.jpg"),
        (["--query", query, "--not-camera", "7"], "--not-camera 7: took no picture of "),
        (["--not-camera", "own"], "--not-camera: is of ranked lists; give --query PICTURE, too"),
    ):
        ended = ran("g", *words)
        assert ended.code == 2 and says in ended.stderr and ended.stderr.count("error: ") == 1, ended.said
    people_sets.write(tmp_path / "flat", ["Ada.png", "Zoe.png"])
    assert ran("h", "--enrol", "flat", *network).code == 0
    ended = ran("h", "--query", query, "--not-camera", "own")
    assert ended.code == 2 and "--not-camera: of no picture of " in ended.stderr


def test_long_lists_are_printed_in_part(network, tmp_path):
    """The JSON has all of them."""
    people_sets.write(tmp_path / "flat", [f"{number}.png" for number in range(130)])
    ended = ran("g", "--enrol", "flat", "--query", "flat", "--top", 130, *network, "--json")
    outcome = Outcome.parse(json.loads(ended.stdout), "stdout")
    assert len(outcome.ranked) == 130 and len(outcome.ranked[0].hits) == 130
    assert ended.stderr.count("and 30 more; --json has all") == 20
    assert "and 110 more lists; --json has all" in ended.stderr


@pytest.mark.parametrize("name", ["market", "market-query", "own", "msmt17"])
def test_people_do_not_go_among_faces(network, tmp_path, name):
    make, part, expected = SETS[name]
    make(tmp_path / "set")
    words = ["g", "--enrol", f"set/{part}" if part else "set", *network, "--holds", "faces"]
    ended = ran(*words)
    assert ended.code == 2 and "holds people seen by cameras, not aligned faces" in ended.said, ended.said
    assert "Traceback" not in ended.said and len(ended.said.strip().splitlines()) == 1
    outcome = said(*words, "--faces", "aligned")  # insists
    assert outcome["gallery"]["num_images"] == len(expected)
    assert ran("g", "--enrol", words[2], "--device", "cpu").code == 2
