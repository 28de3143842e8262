"""The command: enrolled, asked, deleted, gone on with; one line for whatever cannot be used."""

import json
import pathlib
import re
import shutil
import tarfile

import cv2
import numpy as np
import pytest
import torch

import zennas
from tests.evaluate.conftest import image_name, saved, square_weights, squares, write_list
from tests.gallery.conftest import ran
from zennas.embed.checkpoint import save_network
from zennas.gallery import enrol, search
from zennas.gallery.outcome import Outcome
from zennas.gallery.store import Gallery, Writer
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.network import build
from zennas.space.shape import Shape

PX, NUM = 32, 48  # 12 people with 4 pictures each
NETWORK = ",normalise=insightface"


@pytest.fixture
def network(tmp_path, monkeypatch):
    """The words of a network that sees squares of a face; the working folder is the test's."""
    monkeypatch.chdir(tmp_path)
    saved(squares(px=PX), tmp_path / "net.onnx")
    return ["--model", f"net.onnx{NETWORK}", "--device", "cpu"]


@pytest.fixture
def enrolled(network, faces):
    """The words of a gallery of all faces, and of its network."""
    ended = ran("g", "--enrol", faces, *network)
    assert ended.code == 0, ended.said
    return ["g", *network]


def said(*words):
    """What JSON says of a call that ends well."""
    ended = ran(*words, "--json")
    assert ended.code == 0, ended.said
    return json.loads(ended.stdout)


def by_hand(path, *, flip=False):
    """The unit vector of a face by `squares`."""
    image_HW3 = (cv2.imread(str(path))[..., ::-1].astype(np.float64) - 127.5) / 127.5
    vector_D = 0
    for fed_HW3 in (image_HW3, image_HW3[:, ::-1])[: 2 if flip else 1]:
        mean_hw3 = fed_HW3.reshape(PX // 4, 4, PX // 4, 4, 3).mean((1, 3))
        vector_D = vector_D + mean_hw3.transpose(2, 0, 1).ravel() @ square_weights(px=PX)
    return vector_D / np.linalg.norm(vector_D)


EVERYBODY = [image_name(identity, number) for identity in range(12) for number in range(1, 5)]


def ranked_by_hand(faces, query_D, *, flip=False, names=EVERYBODY):
    """[(name, cosine)], the most alike first."""
    cosines = [(name, float(by_hand(faces / name, flip=flip) @ query_D)) for name in names]
    return sorted(cosines, key=lambda pair: -pair[1])


@pytest.mark.parametrize("flip", [False, True])
def test_from_pictures_to_a_ranked_list(network, faces, flip):
    first = said("g", "--enrol", faces, *network, *(["--flip"] if flip else []))
    assert first["gallery"] | {"fingerprint": ""} == {
        "folder": str(pathlib.Path("g").absolute()),
        "holds": "faces",
        "network": "net",
        "fingerprint": "",
        "embedding_size": 12,
        "flip": flip,
        "num_images": NUM,
        "num_identities": 12,
        "num_cameras": 0,
        "num_deleted": 0,
        "sources": [str(faces)],
        "searching": {
            "way": "exact",
            "num_compared": NUM,
            **dict.fromkeys(("cells", "probes", "recall", "recall_at", "recall_asked")),
        },
    }
    assert (first["enrolled"]["num_given"], first["enrolled"]["num_added"], first["ranked"]) == (NUM, NUM, [])
    # Without --model: the gallery knows its network.
    queries = [faces / image_name(3, 2), faces / image_name(5, 1)]
    second = said("g", "--query", queries[0], "--query", queries[1], "--top", 7, "--device", "cpu")
    for query, one in zip(queries, second["ranked"], strict=True):
        expected = ranked_by_hand(faces, by_hand(query, flip=flip), flip=flip)[:7]
        assert one["query"] == [str(query)] and [hit["rank"] for hit in one["hits"]] == list(range(1, 8))
        assert [hit["image"] for hit in one["hits"]] == [name for name, _ in expected]
        assert [hit["cosine"] for hit in one["hits"]] == pytest.approx([cosine for _, cosine in expected], abs=2e-6)
        assert all(hit["identity"] == hit["image"][:3] and hit["source"] == str(faces) for hit in one["hits"])


def test_several_pictures_of_one_person_and_ranks_of_people(enrolled, faces):
    queries = [faces / image_name(3, number) for number in (1, 2)]
    words = [*enrolled, "--query", queries[0], "--query", queries[1], "--together"]
    mean_D = sum(map(by_hand, queries))
    expected = ranked_by_hand(faces, mean_D / np.linalg.norm(mean_D))
    (one,) = said(*words, "--top", 5)["ranked"]
    assert one["query"] == [str(query) for query in queries]
    assert [hit["image"] for hit in one["hits"]] == [name for name, _ in expected[:5]]
    best = {}
    for name, cosine in expected:
        best.setdefault(name[:3], (name, cosine))
    (one,) = said(*words, "--identities")["ranked"]
    assert [(hit["identity"], hit["image"]) for hit in one["hits"]] == [(who, name) for who, (name, _) in best.items()][
        :10
    ]
    limit = expected[2][1] - 1e-4
    (one,) = said(*words, "--at-least", limit)["ranked"]
    assert [hit["image"] for hit in one["hits"]] == [name for name, cosine in expected if cosine >= limit]


def test_a_folder_is_asked_about_picture_by_picture(enrolled, faces):
    ranked = said(*enrolled, "--query", faces / "p04", "--top", 1)["ranked"]
    assert [one["hits"][0]["image"] for one in ranked] == [image_name(4, number) for number in range(1, 5)]


def test_what_is_there_is_not_embedded_again(network, faces, asked, monkeypatch, tmp_path):
    """Stopped in the middle, gone on with, given twice, and copied elsewhere."""
    monkeypatch.setitem(enrol.BATCH, "cpu", 8)
    append, calls = Writer.append, []

    def stopped(writer, *given):
        num = append(writer, *given)
        calls.append(num)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return num

    monkeypatch.setattr(Writer, "append", stopped)
    ended = ran("g", "--enrol", faces, *network)
    assert ended.code == 130 and "what was enrolled is kept: give the same command again to go on" in ended.said
    with Gallery.open("g") as gallery:
        assert gallery.num_images == 24
    num_asked = sum(asked)
    again = said("g", "--enrol", faces, *network)["enrolled"]
    assert (again["num_added"], again["num_there"], sum(asked)) == (24, 24, num_asked + 24)
    shutil.copytree(faces, tmp_path / "copy")
    for where in (faces, "copy"):
        again = said("g", "--enrol", where, *network)["enrolled"]
        assert (again["num_added"], again["num_there"]) == (0, NUM) and sum(asked) == num_asked + 24


def test_every_layout_is_enrolled_and_shown(network, faces, tmp_path):
    """A folder of pictures, a tar, and lists over both; the page has the pictures of each."""
    (tmp_path / "flat").mkdir()
    for identity, name in ((0, "Ada"), (1, "Zoë")):
        shutil.copy(faces / image_name(identity, 1), tmp_path / "flat" / f"{name}.png")
    with tarfile.open("all.tar", "w") as tar:
        for identity in (2, 3):
            tar.add(faces / f"p{identity:02d}", arcname=f"p{identity:02d}")
    of_folder = write_list(
        tmp_path / "a.csv", ("image", "label"), [(image_name(4, 1), "Max"), (image_name(5, 1), "Mia")]
    )
    of_tar = write_list(tmp_path / "b.csv", ("image", "label"), [(image_name(2, 1), "by a list")])
    wheres = ["flat", "all.tar", f"{of_folder}@{faces}", f"{of_tar}@all.tar"]
    outcome = said("g", *(word for where in wheres for word in ("--enrol", where)), *network, "--table", "all.csv")
    assert (outcome["enrolled"]["num_added"], outcome["gallery"]["num_identities"]) == (2 + 8 + 2 + 1, 2 + 2 + 2 + 1)
    assert outcome["enrolled"]["num_replaced"] == 1  # the list calls one picture of the tar by another name
    lines = (tmp_path / "all.csv").read_text().splitlines()
    assert lines[:3] == ["image,label,camera,source", f"Ada.png,Ada,,{tmp_path}/flat", f"Zoë.png,Zoë,,{tmp_path}/flat"]
    assert f"{image_name(2, 1)},by a list,,{tmp_path}/all.tar" in lines and len(lines) == 1 + 12
    words = ["g", "--query", faces / image_name(2, 1), "--top", 12, "--page", "page.html"]
    assert ran(*words).code == 0
    plain = (tmp_path / "page.html").read_text()
    assert "<img" not in plain and "by a list" in plain and "Zoë.png" in plain and "plotly" not in plain.lower()
    assert ran(*words, "--pictures").code == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 + 12 and "no picture" not in page
    # What lies there now is another picture, or none.
    shutil.copy(faces / image_name(9, 1), tmp_path / "flat" / "Ada.png")
    (tmp_path / "flat" / "Zoë.png").unlink()
    assert ran(*words, "--pictures").code == 0
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 + 10 and page.count("no picture") == 2


def test_names_are_no_markup(network, faces, tmp_path):
    (tmp_path / "flat").mkdir()
    shutil.copy(faces / image_name(0, 1), tmp_path / "flat" / "<b>[red]x.png")
    assert ran("g", "--enrol", "flat", *network).code == 0
    ended = ran("g", "--query", "flat", "--page", "page.html")
    assert ended.code == 0 and "<b>[red]x" in ended.stdout and "<b>[red]" not in (tmp_path / "page.html").read_text()


def test_deleted_by_picture_and_by_identity(enrolled, faces):
    outcome = said(*enrolled[:1], "--delete", f"image:{image_name(3, 1)}", "--delete", "identity:p05")
    assert (outcome["num_deleted"], outcome["gallery"]["num_images"]) == (5, NUM - 5)
    left = [name for name in EVERYBODY if name != image_name(3, 1) and not name.startswith("p05")]
    query = faces / image_name(3, 1)
    (one,) = said(*enrolled, "--query", query, "--top", NUM)["ranked"]
    assert [hit["image"] for hit in one["hits"]] == [
        name for name, _ in ranked_by_hand(faces, by_hand(query), names=left)
    ]
    look = said("g", "--look", "identity:p03")["look"]
    assert [kept["image"] for kept in look] == [image_name(3, number) for number in (2, 3, 4)]
    # Enrolled anew, they are there again.
    assert said(*enrolled, "--enrol", faces)["enrolled"]["num_added"] == 5


def test_nothing_is_deleted_where_one_name_is_wrong(enrolled):
    ended = ran("g", "--delete", "identity:p01", "--delete", "identity:p0")
    assert ended.code == 2 and "--delete identity:p0: is not in" in ended.stderr and "; did you mean 'p" in ended.stderr
    assert said("g")["gallery"]["num_images"] == NUM


def test_a_large_gallery_says_what_its_search_may_miss(network, faces, monkeypatch):
    monkeypatch.setattr(search, "FLAT", 40)
    ended = ran("g", "--enrol", faces, *network)
    assert ended.code == 0 and re.search(
        r"search  the \d nearest of 24 cells: finds \d+\.\d% of the nearest 10", ended.stdout
    )
    searching = said("g", "--query", faces / image_name(3, 1))["gallery"]["searching"]
    assert searching["way"] == "cells" and searching["num_compared"] == 0 and 0 < searching["recall"] <= 1
    words = ["g", "--query", faces / image_name(3, 1), "--exact"]
    with monkeypatch.context() as patch:
        patch.setattr(search, "nearest_in_cells", None)  # nobody asks the cells
        whole = said(*words)
        assert whole["gallery"]["searching"]["way"] == "exact" and whole["gallery"]["searching"]["num_compared"] == NUM
        expected = ranked_by_hand(faces, by_hand(faces / image_name(3, 1)))[:10]
        assert [hit["image"] for hit in whole["ranked"][0]["hits"]] == [name for name, _ in expected]
        assert len(said(*words, "--identities")["ranked"][0]["hits"]) == 10
    assert ran("g", "--rebuild").code == 0
    assert said("g", "--delete", "identity:p05")["gallery"]["searching"]["way"] == "cells"


# --- faces and people


def tall_network(path):
    candidate = Candidate(block="ir", stem=8, widths=(8, 16), depths=(1, 1))
    shape = Shape(channels=3, height=64, width=32, embedding_size=8)
    save_network(path, build(candidate, shape, generator=torch.Generator().manual_seed(0)))
    return ["--model", path, "--device", "cpu"]


def test_photographs_are_refused_where_faces_are_expected(network, photographs, tmp_path):
    ended = ran("g", "--enrol", photographs, *network)
    assert ended.code == 2 and ended.stderr.count("error: ") == 1
    assert (
        f"--enrol {photographs}: holds photographs, not aligned faces" in ended.stderr
        and "zennas.align" in ended.stderr
    )
    assert not (tmp_path / "g").exists()


def test_faces_are_found_in_photographs(network, photographs, tmp_path):
    words = [*network, "--faces", "detect"]
    ended = ran("g", "--enrol", photographs, *words, "--json")
    enrolled = json.loads(ended.stdout)["enrolled"]
    assert (enrolled["num_given"], enrolled["num_added"], enrolled["num_unusable"]) == (12, 10, 2)
    whys = {unusable["image"]: unusable["why"] for unusable in enrolled["unusable"]}
    assert whys["Zoe/empty.png"] == "no face was found" and "Zoe/torn.jpg" in whys
    assert "2 of 12 pictures cannot be used, the first: Zoe/" in ended.stderr
    good, empty = photographs / "Ada" / "plain.jpg", photographs / "Zoe" / "empty.png"
    ended = ran("g", "--query", good, "--query", empty, *words, "--page", "p.html", "--pictures", "--json")
    outcome = json.loads(ended.stdout)
    assert ended.code == 1 and [one["query"] for one in outcome["ranked"]] == [[str(good)]]
    assert outcome["failures"] == [{"image": str(empty), "why": "no face was found"}]
    assert outcome["ranked"][0]["hits"][0]["identity"] == "Ada"
    assert "no face was found" in (tmp_path / "p.html").read_text()
    ended = ran("g", "--query", empty, *words)
    assert ended.code == 2 and ended.stderr.endswith(f"error: --query {empty}: cannot be used: no face was found\n")
    ended = ran("g", "--query", good, *network)
    assert ended.code == 2 and f"--query {good}: holds photographs, not aligned faces" in ended.stderr


def test_people_are_taken_as_they_are(photographs, tmp_path, monkeypatch):
    """A network whose images are taller than wide makes a gallery of people; --holds says otherwise."""
    monkeypatch.chdir(tmp_path)
    words = tall_network(tmp_path / "tall.pt")
    outcome = said("g", "--enrol", photographs, *words)
    assert (outcome["gallery"]["holds"], outcome["enrolled"]["num_added"]) == ("people", 11)  # the torn one is none
    query = photographs / "Zoe" / "empty.png"
    assert said("g", "--query", query, *words, "--top", 1)["ranked"][0]["hits"][0]["image"] == "Zoe/empty.png"
    for more in (["--query", query], ["--enrol", photographs]):
        ended = ran("g", *more, *words, "--faces", "detect")
        assert (
            ended.code == 2 and "--faces detect: is of faces; pictures of people are taken as they are" in ended.stderr
        )
    ended = ran("faces", "--enrol", photographs, *words, "--holds", "faces")
    assert ended.code == 2 and "holds photographs" in ended.stderr
    ended = ran("g", "--enrol", photographs, *words, "--holds", "faces")
    assert ended.code == 2 and ended.stderr == "error: --holds faces: g holds people\n"


# --- what cannot be used


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none"], "none: holds no gallery (gallery.json is not there); --enrol DATA --model FILE makes one"),
        (["g", "--query", "no.png"], "--query no.png: no such file or folder"),
        (["g", "--query", "empty"], "--query empty: holds no picture"),
        (["g", "--query", "text.png"], "--query text.png: cannot be used: "),
        (
            ["g", "--enrol", "empty"],
            "--enrol empty: empty: holds no train.rec, no .tar file and no sub-folder with images",
        ),
        (["g", "--enrol", "none"], "--enrol none: none: no such file or folder"),
        (["g", "--enrol", "bad"], "--enrol bad: 1 of 1 pictures cannot be used, the first: text.png: "),
        (["g", "--enrol", "none.csv@bad"], "--enrol none.csv@bad: none.csv: cannot be read"),
        (["new", "--enrol", "bad"], "--enrol makes a new gallery, and needs a network that embeds: give --model FILE"),
        (["bad", "--enrol", "FACES", "--model", "net.onnx"], "bad: is not empty and holds no gallery"),
        (
            ["g", "--query", "FACES", "--model", "other.onnx"],
            "--model other.onnx: is not the network of g; it gives 12 ",
        ),
        (
            ["g", "--enrol", "FACES", "--model", "other.onnx"],
            "--model other.onnx: is not the network of g; it gives 12 ",
        ),
        (["g", "--query", "FACES", "--model", "small.onnx"], "it gives 5 numbers ("),
        (
            ["g", "--query", "FACES", "--model", "net.onnx,normalise=none"],
            "net.onnx: is the file of g's network, and its weights changed, or what its images go through (now none)",
        ),
        (["g", "--query", "FACES", "--model", "none.onnx"], "--model none.onnx: no such file"),
        (["g", "--delete", "identity:nobody"], "--delete identity:nobody: is not in "),
        (["g", "--delete", "image:p01"], "--delete image:p01: is not in "),
        (["g", "--delete", "p01"], "--delete: given 'p01', allowed: image:NAME or identity:NAME"),
        (["g", "--look", "identity:"], "--look: given 'identity', allowed: image:NAME or identity:NAME"),
        (["g", "--top", 3], "--top: is of ranked lists; give --query PICTURE, too"),
        (["g", "--page", "x.html"], "--page: is of ranked lists; give --query PICTURE, too"),
        (["g", "--query", "FACES", "--pictures"], "--pictures: are shown on the page of --page FILE; give it, too"),
        (["g", "--model", "net.onnx"], "--model: is of the pictures that --enrol and --query name; give one of them"),
        (["g", "--holds", "people"], "--holds: is of a new gallery, which --enrol makes"),
        (["g", "--enrol", "FACES", "--flip"], "--flip: g was made without; leave it out, or make another gallery"),
        (["g", "--query", "FACES", "--at-least", 2], "--at-least: given 2, allowed: -1 to 1"),
        (["g", "--table", "text.png/x.csv"], "cannot be written: "),
    ],
)
def test_what_cannot_be_used_is_one_line(enrolled, faces, tmp_path, words, says):
    saved(squares(px=PX, seed=1), tmp_path / "other.onnx")
    saved(squares(5, px=PX), tmp_path / "small.onnx")
    for folder in ("empty", "bad"):
        (tmp_path / folder).mkdir()
    for path in ("text.png", "bad/text.png"):
        (tmp_path / path).write_text("no picture")
    ended = ran(*(faces if word == "FACES" else word for word in words))
    assert ended.code == 2 and says in ended.stderr and ended.stderr.count("error: ") == 1, ended.said
    assert "Traceback" not in ended.said
    assert said("g")["gallery"]["num_images"] == NUM


def test_copies_of_a_picture_that_cannot_be_used(network, faces, tmp_path):
    """None of them is in the gallery; of one that can be used the copies are."""
    (tmp_path / "people" / "Ada").mkdir(parents=True)
    for name in ("1.png", "2.png", "3.png"):
        (tmp_path / "people" / "Ada" / name).write_text("no picture")
    ended = ran("new", "--enrol", "people", *network)
    assert ended.code == 2 and "3 of 3 pictures cannot be used, the first: Ada/1.png: " in ended.stderr, ended.said
    for name in ("4.png", "5.png"):
        shutil.copy(faces / image_name(0, 1), tmp_path / "people" / "Ada" / name)
    enrolled = said("new", "--enrol", "people", *network)["enrolled"]
    assert [enrolled[key] for key in ("num_given", "num_added", "num_there", "num_unusable")] == [5, 1, 1, 3]


def test_a_gallery_of_another_size_than_its_network_says(enrolled, faces, tmp_path):
    settings = tmp_path / "g" / "gallery.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"embedding_size": 6}))
    ended = ran("g", "--query", faces / image_name(0, 1))
    assert ended.code == 2 and ended.stderr.startswith("error: g: says that its vectors have 6 numbers; its network ")
    settings.write_text("{")
    assert "gallery.json, line 1: not valid JSON: " in ran("g").stderr


def test_an_empty_gallery_finds_nothing(enrolled, faces):
    assert ran("g", *(word for n in range(12) for word in ("--delete", f"identity:p{n:02d}"))).code == 0
    ended = ran("g", "--query", faces)
    assert ended.code == 2
    assert ended.stderr == "error: g: the gallery is empty, so nothing can be found in it; --enrol some pictures\n"


def test_a_network_that_went_away_is_named(enrolled, faces, tmp_path):
    (tmp_path / "net.onnx").rename(tmp_path / "moved.onnx")
    ended = ran("g", "--query", faces)
    assert ended.code == 2 and "g: its network, which --model names anew: " in ended.stderr
    assert said("g", "--query", faces / image_name(0, 1), "--model", f"moved.onnx{NETWORK}")["ranked"]


def test_a_gallery_in_which_nothing_was_ever_enrolled_is_anybodys(enrolled, faces, tmp_path):
    """A first call that found nothing binds nobody to its network."""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "text.png").write_text("no picture")
    assert ran("h", "--enrol", "bad", *enrolled[1:]).code == 2
    saved(squares(px=PX, seed=1), tmp_path / "other.onnx")
    assert said("h", "--enrol", faces, "--model", "other.onnx")["gallery"]["network"] == "other"


def test_python_gets_records(enrolled, faces):
    outcome = zennas.gallery(folder="g", query=faces / image_name(3, 1), top=1)
    assert outcome.ranked[0].hits[0].identity == "p03" and outcome.gallery.num_images == NUM
    with pytest.raises(UserError, match="holds no gallery"):
        zennas.gallery(folder="none")


def test_the_guide_shows_what_json_says(enrolled, faces):
    """The example of the README is whole: it has each key that a call prints, and no other."""
    text = (pathlib.Path(search.__file__).parent / "README.md").read_text(encoding="utf-8")
    example = json.loads(text.split("```json\n")[1].split("```")[0])
    Outcome.parse(example, "README.md")
    printed = said(*enrolled, "--query", faces / image_name(3, 1))
    assert set(printed) == set(example) and set(printed["gallery"]) == set(example["gallery"])
    assert set(printed["gallery"]["searching"]) == set(example["gallery"]["searching"])
    assert set(printed["ranked"][0]) == set(example["ranked"][0])
    assert set(printed["ranked"][0]["hits"][0]) == set(example["ranked"][0]["hits"][0])


def test_torch_keeps_its_threads(enrolled, faces):
    """FAISS has all cores meanwhile, and both count threads in one place."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        zennas.gallery(folder="g", query=faces / image_name(0, 1))
        with pytest.raises(UserError):
            zennas.gallery(folder="g", query="none")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
