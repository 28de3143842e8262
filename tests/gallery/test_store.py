"""A gallery on disk: whole after any kill, one writer, readers of one moment, and what is deleted is gone."""

import errno
import json
import os
import sqlite3
import threading

import numpy as np
import pytest

from tests.processes import Forked
from zennas.gallery import store
from zennas.gallery.search import settle
from zennas.gallery.store import ENTRIES, SETTINGS, VECTORS, Entry, Gallery, New, Settings, Writer
from zennas.provenance import provenance
from zennas.records import UserError

SIZE = 6
SETTINGS_OF_TESTS = Settings(
    holds="people",
    network="net",
    model="net.onnx",
    fingerprint="0123456789abcdef",
    embedding_size=SIZE,
    input=(32, 16),
    flip=False,
    made_by=provenance().model_dump(mode="json"),
)


def units(num, *, seed=0, size=SIZE):
    rows = np.random.default_rng(seed).normal(size=(num, size))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def news(num, *, first=0, each=2):
    return [New(f"{at}.png", f"person {at // each}", at.to_bytes(16, "big")) for at in range(first, first + num)]


def filled(folder, num=10, *, seed=0):
    """The vectors of a gallery of so many pictures, two of each person."""
    unit_ND = units(num, seed=seed)
    with Writer.begin(folder, SETTINGS_OF_TESTS) as writer:
        writer.append(unit_ND, news(num), writer.source("/pictures", detected=False))
    return unit_ND


def test_what_was_added_is_read_again(tmp_path):
    unit_ND = filled(tmp_path / "g")
    with Gallery.open(tmp_path / "g") as gallery:
        assert (gallery.num_images, gallery.num_identities, gallery.sources) == (10, 5, ["/pictures"])
        np.testing.assert_array_equal(gallery.vector_ND(), unit_ND)
        expected = [
            Entry(at, new.name, new.identity, "/pictures", False, new.digest) for at, new in enumerate(news(10))
        ]
        assert list(gallery.entries()) == expected and gallery.entry(3) == expected[3]
        assert gallery.named("identity:person 1", option="--look") == expected[2:4]
        assert gallery.named("image:7.png", option="--look") == [expected[7]]


def test_names_of_any_bytes(tmp_path):
    name = os.fsdecode(b"\xbc\xd7.png")
    with Writer.begin(tmp_path / "g", SETTINGS_OF_TESTS) as writer:
        source = writer.source(os.fsdecode(b"/\xff"), detected=True)
        writer.append(units(1), [New(store.shown(name), "Zoë", b"d")], source)
        (entry,) = writer.entries()
        assert writer.named(f"image:{name}", option="--look") == [entry] and entry.detected
        assert entry.source == "/\\udcff"


def test_a_reader_stands_in_one_moment(tmp_path):
    """What is added and deleted meanwhile changes nothing for who reads."""
    unit_ND = filled(tmp_path / "g")
    with Gallery.open(tmp_path / "g") as before, Writer.begin(tmp_path / "g") as writer:
        writer.append(units(4, seed=1), news(4, first=10), writer.source("/pictures", detected=False))
        writer.delete([0, 1])
        assert before.num_images == 10 and len(list(before.entries())) == 10 and before.entry(0) is not None
        np.testing.assert_array_equal(before.vector_ND(), unit_ND)
        with Gallery.open(tmp_path / "g") as after:
            assert after.num_images == 12 and after.entry(0) is None
            assert [entry.number for entry in after.entries()] == list(range(2, 14))


def test_one_process_writes_at_a_time(tmp_path):
    filled(tmp_path / "g")
    program = (
        "import sys; from zennas.gallery.store import Writer\n"
        "with Writer.begin(sys.argv[1]): print('in', flush=True); sys.stdin.read(); import time; time.sleep(60)"
    )
    child = Forked(program, tmp_path / "g")
    try:
        assert child.stdout.readline() == "in\n"
        with pytest.raises(UserError, match="another run is under way there; wait for it: one process changes"):
            Writer.begin(tmp_path / "g")
        with Gallery.open(tmp_path / "g") as gallery:
            assert gallery.num_images == 10
    finally:
        child.kill()
        child.wait()
    with Writer.begin(tmp_path / "g") as writer:  # the lock went with the process
        assert writer.num_images == 10


ADDS = """
import itertools, sys
from tests.gallery.test_store import SETTINGS_OF_TESTS, news, units
from zennas.gallery.store import Writer
with Writer.begin(sys.argv[1], SETTINGS_OF_TESTS) as writer:
    source = writer.source("/pictures", detected=False)
    for first in itertools.count(writer.num_vectors, 5):
        writer.append(units(5, seed=first), news(5, first=first), source)
        print(first + 5, flush=True)
"""


def test_what_was_told_is_there_after_a_kill(tmp_path):
    """Three times in the same gallery, each in the middle of whatever it does."""
    told = 0
    for _ in range(3):
        child = Forked(ADDS, tmp_path / "g")
        try:
            lines = [int(child.stdout.readline()) for _ in range(4)]
        finally:
            child.kill()
            child.wait()
        rest = child.stdout.read().splitlines()
        told_before, told = told, int(rest[-1]) if rest else lines[-1]
        assert lines[0] >= told_before + 5
        with Gallery.open(tmp_path / "g") as gallery:
            num = gallery.num_vectors
            assert num >= told and num % 5 == 0  # a batch is there whole or not at all
            expected = np.concatenate([units(5, seed=first) for first in range(0, num, 5)])
            np.testing.assert_array_equal(gallery.vector_ND(), expected)
            assert [entry.name for entry in gallery.entries()] == [new.name for new in news(num)]


def test_vectors_of_a_kill_that_nobody_counts_are_written_over(tmp_path):
    unit_ND = filled(tmp_path / "g")
    with open(tmp_path / "g" / VECTORS, "ab") as file:
        file.write(b"half of a row")
    more = units(3, seed=1)
    with Writer.begin(tmp_path / "g") as writer:
        writer.append(more, news(3, first=10), writer.source("/pictures", detected=False))
        np.testing.assert_array_equal(writer.vector_ND(), np.concatenate([unit_ND, more]))


@pytest.mark.parametrize("left", [(), (SETTINGS,), (SETTINGS, VECTORS), (SETTINGS, VECTORS, ENTRIES)])
def test_a_kill_in_the_beginning_leaves_an_empty_gallery(tmp_path, left):
    """After each step in which a gallery is made."""
    folder = tmp_path / "g"
    folder.mkdir()
    if SETTINGS in left:
        (folder / SETTINGS).write_text(json.dumps(SETTINGS_OF_TESTS.model_dump(mode="json")))
    for name in (VECTORS, ENTRIES):
        if name in left:
            (folder / name).touch()
    if left:
        with Gallery.open(folder) as gallery:
            assert gallery.num_images == 0 and list(gallery.entries()) == []
    unit_ND = filled(folder)
    with Gallery.open(folder) as gallery:
        np.testing.assert_array_equal(gallery.vector_ND(), unit_ND)


def test_a_picture_that_changed_takes_its_old_place(tmp_path):
    filled(tmp_path / "g")
    with Writer.begin(tmp_path / "g") as writer:
        changed = New("3.png", "person 1", b"another picture.")
        other = writer.source("/elsewhere", detected=False)
        assert writer.append(units(1, seed=1), [changed], writer.source("/pictures", detected=False)) == 1
        assert writer.append(units(1, seed=2), [changed], other) == 0  # of another source: another picture
        assert [entry.number for entry in writer.named("identity:person 1", option="")] == [2, 10, 11]
        with pytest.raises(UserError, match=r"is the name of 2 pictures; say which: image:/pictures/3.png, image:/e"):
            writer.named("image:3.png", option="--delete")
        assert [entry.number for entry in writer.named("image:/elsewhere/3.png", option="--delete")] == [11]
        assert writer.is_there(changed) and not writer.is_there(changed._replace(identity="person 2"))


def everything_in(folder):
    return b"".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_what_is_deleted_is_nowhere_any_more(tmp_path):
    """Neither its name nor its vector, in any file of the gallery."""
    unit_ND = filled(tmp_path / "g", 40)
    assert unit_ND[7].tobytes() in everything_in(tmp_path / "g") and b"person 3" in everything_in(tmp_path / "g")
    with Writer.begin(tmp_path / "g") as writer:
        writer.delete([entry.number for entry in writer.named("identity:person 3", option="--delete")])
        settle(writer)
        assert len(writer.unwiped) == 0
    left = everything_in(tmp_path / "g")
    assert unit_ND[7].tobytes() not in left and unit_ND[6].tobytes() not in left and unit_ND[5].tobytes() in left
    assert b"person 3" not in left.replace(b"person 3" + b"0", b"") and b"person 2" in left


def test_what_a_kill_left_to_be_wiped_is_wiped_by_the_next(tmp_path):
    unit_ND = filled(tmp_path / "g")
    with Writer.begin(tmp_path / "g") as writer:
        writer.delete([4])  # and killed before the vector is wiped
    assert unit_ND[4].tobytes() in everything_in(tmp_path / "g")
    with Writer.begin(tmp_path / "g") as writer:
        assert writer.unwiped.tolist() == [4]
        settle(writer)
    assert unit_ND[4].tobytes() not in everything_in(tmp_path / "g")
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.num_images == 9 and gallery.deleted_M.tolist() == [4]


def test_a_gallery_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    filled(tmp_path / "g")
    for path in (tmp_path / "g").glob("*-*"):
        path.unlink()
    before = sorted(path.name for path in (tmp_path / "g").iterdir())
    monkeypatch.setattr(store.os, "access", lambda *_: False)  # as for who may not, which root always may
    with Gallery.open(tmp_path / "g") as gallery:
        assert gallery.num_images == 10
    assert sorted(path.name for path in (tmp_path / "g").iterdir()) == before


def cut_vectors(folder):
    with open(folder / VECTORS, "r+b") as file:
        file.truncate(100)


def spoil_entries(folder):
    (folder / ENTRIES).write_bytes(b"no database " * 1000)


def spoil_state(folder):
    with sqlite3.connect(folder / ENTRIES) as database:
        database.execute("UPDATE state SET value = '}'")
    database.close()


def of_the_future(folder):
    settings = json.loads((folder / SETTINGS).read_text())
    (folder / SETTINGS).write_text(json.dumps(settings | {"format": 2}))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (cut_vectors, r"vectors\.f32: holds 4 vectors of 10: it was cut short; bring back a copy of "),
        (spoil_entries, r"entries\.sqlite: is damaged \(file is not a database\); bring back a copy of "),
        (spoil_state, r"entries\.sqlite: is damaged \(.*\); bring back a copy of "),
        (lambda folder: (folder / ENTRIES).unlink(), r"entries\.sqlite: is missing, and without it nobody knows"),
        (lambda folder: (folder / VECTORS).unlink(), r"vectors\.f32: cannot be read: No such file"),
        (of_the_future, r"gallery\.json: format: given 2, allowed: 1$"),
        (lambda folder: (folder / SETTINGS).write_text("{}"), r"gallery\.json: key 'holds' is missing"),
        (lambda folder: (folder / SETTINGS).unlink(), r"g: holds no gallery \(gallery\.json is not there\); --enrol"),
    ],
)
def test_a_broken_gallery_is_told_as_such(tmp_path, spoil, says):
    filled(tmp_path / "g")
    spoil(tmp_path / "g")
    with pytest.raises(UserError, match=says), Gallery.open(tmp_path / "g") as gallery:
        gallery.vector_ND()


def test_nothing_is_added_behind_a_cut(tmp_path):
    """The hole would be filled with zeros, which nobody would ever find."""
    unit_ND = filled(tmp_path / "g")
    whole = (tmp_path / "g" / VECTORS).read_bytes()
    cut_vectors(tmp_path / "g")
    for _ in range(2):
        with pytest.raises(UserError, match=r"vectors\.f32: holds 4 vectors of 10: it was cut short"):
            Writer.begin(tmp_path / "g", SETTINGS_OF_TESTS)
    (tmp_path / "g" / VECTORS).unlink()
    with pytest.raises(UserError, match=r"vectors\.f32: cannot be read: No such file"):
        Writer.begin(tmp_path / "g", SETTINGS_OF_TESTS)
    (tmp_path / "g" / VECTORS).write_bytes(whole)
    more = units(2, seed=1)
    with Writer.begin(tmp_path / "g") as writer:
        writer.append(more, news(2, first=10), writer.source("/pictures", detected=False))
        np.testing.assert_array_equal(writer.vector_ND(), np.concatenate([unit_ND, more]))


def no_room_for_vectors(writer, patch):
    def sync(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    patch.setattr(store.os, "fsync", sync)


def no_room_for_names(writer, patch):
    """SQLite itself says that the disk is full."""
    (pages,) = writer._database.execute("PRAGMA page_count").fetchone()
    writer._database.execute(f"PRAGMA max_page_count = {pages}")


@pytest.mark.parametrize(
    ("fill", "says"),
    [
        (no_room_for_vectors, r"g: cannot be written: No space left on device; what was computed before is kept"),
        (
            no_room_for_names,
            r"entries\.sqlite: cannot be written: database or disk is full; what was enrolled before is ",
        ),
    ],
)
def test_a_full_disk_leaves_what_was_there(tmp_path, fill, says):
    unit_ND, more = filled(tmp_path / "g"), units(500, seed=1)
    with Writer.begin(tmp_path / "g") as writer, pytest.MonkeyPatch.context() as patch:
        source = writer.source("/pictures", detected=False)
        fill(writer, patch)
        with pytest.raises(UserError, match=says):
            writer.append(more, news(500, first=10), source)
        assert writer.num_images == 10
    with Gallery.open(tmp_path / "g") as gallery:
        np.testing.assert_array_equal(gallery.vector_ND(), unit_ND)
        assert [entry.name for entry in gallery.entries()] == [new.name for new in news(10)]
    with Writer.begin(tmp_path / "g") as writer:  # with room again
        writer.append(more, news(500, first=10), writer.source("/pictures", detected=False))
        np.testing.assert_array_equal(writer.vector_ND(), np.concatenate([unit_ND, more]))


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name, says in (("full", "is not empty and holds no gallery"), ("file", "is a file; a gallery is a folder")):
        with pytest.raises(UserError, match=says):
            Writer.begin(tmp_path / name, SETTINGS_OF_TESTS)
    with pytest.raises(UserError, match="holds no gallery"):
        Writer.begin(tmp_path / "none")
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith(".")) == ["file", "full"]


@pytest.mark.parametrize("text", ["person 1", "identity:", "person:1", ""])
def test_what_is_named_has_a_kind(tmp_path, text):
    filled(tmp_path / "g")
    with Gallery.open(tmp_path / "g") as gallery, pytest.raises(UserError, match="allowed: image:NAME or identity:NA"):
        gallery.named(text, option="--look")


def test_who_closes_waits_for_no_reader(tmp_path, monkeypatch):
    """A reader of an earlier moment may stay for hours, as a service's does."""
    filled(tmp_path / "g")
    monkeypatch.setattr(store, "WAIT_S", 3600.0)
    closed = threading.Event()

    def write():
        with Writer.begin(tmp_path / "g") as writer:
            writer.delete([0])
        closed.set()

    with Gallery.open(tmp_path / "g") as before:
        threading.Thread(target=write, daemon=True).start()
        assert closed.wait(60) and before.num_images == 10
    with Gallery.open(tmp_path / "g") as after:
        assert after.num_images == 9
