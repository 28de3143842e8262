"""The command itself, killed, without room, moved and in another's way: nothing that was enrolled is lost, and the same
command goes on.
"""

import json
import pathlib
import shutil
import time

import numpy as np
import pytest
import torch

from tests.data import people_sets
from tests.gallery.conftest import ran
from tests.processes import MODULE, Forked, forked
from zennas.embed.checkpoint import save_network
from zennas.gallery import search
from zennas.gallery.store import VECTORS, Gallery, Writer
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.network import build
from zennas.space.shape import Shape

NUM, EACH = 480, 4
NAMES = sorted(f"p{at // EACH:03d}/{at}.png" for at in range(NUM))
BATCHES = 'from zennas.gallery import enrol, search\nenrol.BATCH["cpu"], search.FLAT = 8, 100\n'
KILLED_IN_THE_INDEX = """
import os, signal
def killed(index, path, **_):
    path.with_name(f".{path.name}.tmp").write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
search.save_index = killed
"""
WITHOUT_ROOM = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (%d, -1))\n"  # EFBIG, as ENOSPC on a disk


@pytest.fixture
def words(tmp_path, monkeypatch):
    """`g --enrol people` by a network of people, in the test's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(search, "FLAT", 100)
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    candidate = Candidate(block="ir", stem=8, widths=(8, 16), depths=(1, 1))
    shape = Shape(channels=3, height=32, width=16, embedding_size=64)
    save_network(tmp_path / "net.pt", build(candidate, shape, generator=torch.Generator().manual_seed(0)))
    people_sets.write(tmp_path / "people", NAMES)
    return ["g", "--enrol", "people", "--model", "net.pt", "--device", "cpu"]


def said(*words):
    ended = ran(*words, "--json")
    assert ended.code == 0, ended.said
    return json.loads(ended.stdout)


def num_in(folder):
    try:
        with Gallery.open(folder) as gallery:
            return gallery.num_images
    except UserError:  # it is not begun yet
        return 0


def vectors_in(folder):
    with Gallery.open(folder) as gallery:
        rows = gallery.vector_ND()
        entries = sorted(gallery.entries(), key=lambda entry: entry.name)
        return [entry.name for entry in entries], rows[[entry.number for entry in entries]]


def check_goes_on(words, num):
    """The same command adds what is missing; all is there once, as in a gallery that nothing happened to."""
    again = said(*words)["enrolled"]
    assert (again["num_added"], again["num_there"]) == (NUM - num, num)
    said("whole", *words[1:])
    (names, vector_ND), (names_of_whole, whole_ND) = vectors_in("g"), vectors_in("whole")
    assert names == names_of_whole == NAMES
    np.testing.assert_allclose(vector_ND, whole_ND, atol=1e-5)  # other batches add in another order
    with Gallery.open("g") as gallery:
        assert gallery.cells.covered == NUM
        assert [path.name for path in gallery.folder.glob("*cells*")] == [f"cells-{gallery.cells.number}.faiss"]


@pytest.mark.parametrize("when", ["enrolling", "index"])
def test_a_kill_in_the_middle(words, when):
    program = BATCHES + (KILLED_IN_THE_INDEX if when == "index" else "") + MODULE
    child = Forked(program, "zennas.gallery", *words)
    try:
        deadline = time.monotonic() + 60
        while when == "enrolling" and not num_in("g") and time.monotonic() < deadline:
            time.sleep(0.002)
    finally:
        if when == "enrolling":
            child.kill()
        child.wait()
    assert child.returncode == -9
    num = num_in("g")
    assert num == NUM if when == "index" else 0 < num < NUM and num % 8 == 0
    check_goes_on(words, num)


def test_a_disk_without_room(words):
    ended = forked(WITHOUT_ROOM % 150_000 + BATCHES + MODULE, "zennas.gallery", *words)
    assert ended.returncode == 2 and ended.stderr.count("error: ") == 1 and "Traceback" not in ended.stderr
    assert ": cannot be written: " in ended.stderr and "before is kept; make room" in ended.stderr
    num = num_in("g")
    assert 0 < num < NUM
    check_goes_on(words, num)


def test_a_gallery_that_was_moved(words, tmp_path):
    said(*words)
    query = f"people/{NAMES[7]}"
    before = said("g", "--query", query)
    (tmp_path / "far").mkdir()
    shutil.move("g", "far/h")
    after = said("far/h", "--query", query)
    assert after["gallery"]["folder"] == str(tmp_path / "far" / "h") and after["ranked"] == before["ranked"]
    assert said("far/h", *words[1:])["enrolled"]["num_there"] == NUM
    assert said("far/h", "--delete", "identity:p003")["gallery"]["num_images"] == NUM - EACH


def test_who_comes_second_is_told_and_may_ask(words):
    said(*words)
    with Writer.begin("g"):
        for more in (words[1:], ["--delete", "identity:p003"], ["--rebuild"]):
            ended = ran("g", *more)
            says = "g: another run is under way there; wait for it: one process changes a gallery at a time\n"
            assert ended.code == 2 and ended.stderr.endswith(says) and ended.stderr.count("error: ") == 1, ended.said
        assert said("g", "--query", f"people/{NAMES[7]}")["ranked"][0]["hits"][0]["image"] == NAMES[7]
    assert num_in("g") == NUM


def test_vectors_that_were_cut_short(words):
    """Whatever is asked: told in one line, and nothing is written behind the cut."""
    said(*words)
    vectors = pathlib.Path("g") / VECTORS
    whole = vectors.read_bytes()
    vectors.write_bytes(whole[: len(whole) // 2])
    for more in ([], words[1:], ["--query", f"people/{NAMES[7]}"], ["--delete", "identity:p003"], ["--rebuild"]):
        ended = ran("g", *more)
        assert ended.code == 2 and ended.stderr.count("error: ") == 1, ended.said
        assert f"vectors.f32: holds {NUM // 2} vectors of {NUM}: it was cut short; bring back a copy" in ended.stderr
    assert vectors.read_bytes() == whole[: len(whole) // 2]
    vectors.write_bytes(whole)
    assert num_in("g") == NUM
