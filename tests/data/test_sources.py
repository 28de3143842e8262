"""One contract for every layout: the same faces, whatever they lie in."""

import errno
import io
import multiprocessing
import os
import pickle
import tarfile
import threading

import cv2
import numpy as np
import pytest

from zennas.data import sources
from zennas.data.images import CorruptImageError, decode
from zennas.data.index import Names
from zennas.data.recordio import RecordWriter
from zennas.data.sources import KINDS, open_source
from zennas.records import UserError

PEOPLE = {"Ada": 3, "Björn": 1, "Chen": 2}
LABELS = [0, 0, 0, 1, 2, 2]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def image_bytes(number):
    image_HW3 = np.full((8, 8, 3), 10 * number, np.uint8)
    return cv2.imencode(".png", image_HW3)[1].tobytes()


def faces():
    """(name, number in the name, label, encoded)"""
    people = [(name, number + 1) for name, count in PEOPLE.items() for number in range(count)]
    return [
        (name, number, label, image_bytes(place))
        for place, ((name, number), label) in enumerate(zip(people, LABELS, strict=True))
    ]


def add(tar, name, data, **fields):
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(data))


def as_records(folder):
    with RecordWriter(folder) as writer:
        for _, _, label, encoded in faces():
            writer.add(encoded, label)
    return folder


def as_record_file(folder):
    return as_records(folder) / "train.rec"


def as_tar(folder):
    folder.mkdir()
    with tarfile.open(folder / "faces.tar", "w") as tar:
        for name, number, _, encoded in reversed(faces()):  # in any order: names decide
            add(tar, f"./lfw/{name}/{name}_{number:04d}.png", encoded)
        add(tar, "lfw/README.txt", b"no image")
        add(tar, "lfw/Zoe/link.png", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    return folder / "faces.tar"


def as_shards(folder):
    folder.mkdir()
    for shard in range(2):
        with tarfile.open(folder / f"shard-{shard}.tar", "w") as tar:
            for place, (_, _, label, encoded) in enumerate(faces()):
                if place // 3 == shard:
                    add(tar, f"{place:06d}.cls", f"{label}\n".encode())
                    add(tar, f"{place:06d}.png", encoded)
    return folder


def as_folders(folder):
    for name, number, _, encoded in faces():
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / f"{name}_{number:04d}.png").write_bytes(encoded)
    (folder / "Ada" / "notes.txt").write_text("no image")
    (folder / "README").write_text("no folder")
    return folder


LAYOUTS = [as_records, as_record_file, as_tar, as_shards, as_folders]
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def content(source):
    return sorted((int(source.label_N[index]), source.read(index)) for index in range(source.num_images))


def test_every_kind_has_a_layout_here(tmp_path):
    kinds = {open_source(layout(tmp_path / layout.__name__))._index.kind for layout in LAYOUTS}
    assert kinds | {"sightings"} == set(KINDS)  # people seen by cameras have layouts and tests of their own


@each_layout
def test_contract(tmp_path, layout):
    source = open_source(layout(tmp_path / "data"))
    assert (source.num_images, source.num_identities, source.num_empty_identities) == (6, 3, 0)
    assert source.label_N.dtype == np.int32 and isinstance(source.label_N, np.memmap)
    assert content(source) == sorted((label, encoded) for _, _, label, encoded in faces())
    named = source.identity_names
    assert named is None or list(named) == list(PEOPLE)
    assert all(isinstance(source.where(index), str) for index in range(6))
    assert len({source.where(index) for index in range(6)}) == 6


@each_layout
def test_indexed_once_and_again_when_it_changed(tmp_path, layout, monkeypatch, cache):
    path = layout(tmp_path / "data")
    source = open_source(path)
    with monkeypatch.context() as patch:
        patch.setattr(sources, "KINDS", {kind: row._replace(build=None) for kind, row in KINDS.items()})
        assert open_source(path).fingerprint == source.fingerprint
    assert [entry for entry in os.listdir(cache / "faces") if entry.endswith("tmp")] == []
    for touched in [path, *(path.iterdir() if path.is_dir() else [])]:
        os.utime(touched, ns=(1, 1))
    os.rename(path, moved := path.with_name("moved" + path.suffix))
    if layout is as_record_file:
        os.rename(path.with_suffix(".idx"), moved.with_suffix(".idx"))
    # Elsewhere and with other times it is the same data.
    assert open_source(moved).fingerprint == source.fingerprint


def read_all(source):
    return content(source)


@each_layout
def test_forked_spawned_and_shared_by_threads(tmp_path, layout):
    source = open_source(layout(tmp_path / "data"))
    expected = content(source)  # files are open now
    assert content(pickle.loads(pickle.dumps(source))) == expected
    assert len(pickle.dumps(source)) < 1000
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(read_all, [source, source]) == [expected, expected]
    found = []
    threads = [threading.Thread(target=lambda: found.append([content(source) for _ in range(20)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [[expected] * 20] * 4


def test_a_spawned_worker_reads(tmp_path):
    source = open_source(as_shards(tmp_path / "data"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(source.read, [0, 5]) == [image_bytes(0), image_bytes(5)]


@each_layout
def test_only_some_identities(tmp_path, layout):
    path = layout(tmp_path / "data")
    whole = open_source(path)
    named = whole.identity_names is not None
    (tmp_path / "who.txt").write_text("Chen\nAda\n\nAda\n" if named else "2\n0\n", encoding="utf-8-sig")
    some = open_source(path, identities=tmp_path / "who.txt")
    assert list(some.identity_names) == (["Ada", "Chen"] if named else ["0", "2"])
    kept = {0: 0, 2: 1}
    assert content(some) == sorted((kept[label], one) for label, one in content(whole) if label in kept)
    assert some.fingerprint != whole.fingerprint and (some.num_identities, some.num_empty_identities) == (2, 0)
    assert all(decode(some.read(index)).shape == (8, 8, 3) for index in range(some.num_images))
    (tmp_path / "who.txt").write_text("".join(f"Nobody{n}\n" for n in range(9)))
    with pytest.raises(UserError, match=r"who.txt: 9 of 9 identities have no image in .*Nobody0, .*Nobody4 and 4 more"):
        open_source(path, identities=tmp_path / "who.txt")
    (tmp_path / "who.txt").write_text("\n")
    with pytest.raises(UserError, match=r"who.txt: names no identity"):
        open_source(path, identities=tmp_path / "who.txt")


def test_labels_are_kept_where_they_can_be(tmp_path):
    with RecordWriter(tmp_path / "counted", num_classes=9) as writer:
        writer.add(b"x", 7)
        writer.add(b"x", 2)
    counted = open_source(tmp_path / "counted")
    assert counted.label_N.tolist() == [7, 2] and counted.identity_names is None
    assert (counted.num_identities, counted.num_empty_identities) == (9, 7)
    (tmp_path / "counted" / "property").unlink()
    open_ended = open_source(tmp_path / "counted")
    assert open_ended.label_N.tolist() == [1, 0] and list(open_ended.identity_names) == ["2", "7"]
    assert (open_ended.num_identities, open_ended.num_empty_identities) == (2, 0)


def test_an_empty_folder_is_an_empty_identity(tmp_path):
    (as_folders(tmp_path / "data") / "Bob").mkdir()
    source = open_source(tmp_path / "data")
    assert (source.num_identities, source.num_empty_identities) == (4, 1)


def test_progress_is_told(tmp_path):
    for layout in (as_shards, as_folders, as_records):
        said = []
        open_source(
            layout(tmp_path / layout.__name__), progress=lambda done, total, said=said: said.append((done, total))
        )
        assert said and all(0 <= done <= total for done, total in said)


def test_where_is_for_people(tmp_path):
    assert open_source(as_records(tmp_path / "a")).where(4) == "train.rec, record 5"
    assert open_source(as_shards(tmp_path / "b")).where(4) == "shard-1.tar, member 000004.png"
    assert open_source(as_folders(tmp_path / "c")).where(4) == "Chen/Chen_0001.png"


def test_more_shards_than_open_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_OPEN_FILES", 1)
    source = open_source(as_shards(tmp_path / "data"))
    assert [source.read(index) for index in (0, 5, 1, 4)] == [image_bytes(number) for number in (0, 5, 1, 4)]
    assert len(source._files) == 1


def test_of_too_many_open_files_the_idle_one_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MAX_OPEN_FILES", 2)
    source = open_source(as_shards(tmp_path / "data"))
    paths = [*source._index.files, str(tmp_path / "third")]
    (tmp_path / "third").touch()
    first, second = (source.descriptor(path) for path in paths[:2])
    assert source.descriptor(paths[0]) is first  # opened before the other, and asked for after it
    source.descriptor(paths[2])
    assert source.descriptor(paths[0]) is first and source.descriptor(paths[1]) is not second


@pytest.mark.parametrize("layout", [as_records, as_shards])
@pytest.mark.parametrize("fails", ["open", "pread"])
def test_a_disk_that_fails_is_a_corrupt_image(tmp_path, monkeypatch, layout, fails):
    source = open_source(layout(tmp_path / "data"))

    def failing(*args, **options):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        if fails == "open":
            patch.setattr(sources, "open", failing, raising=False)
        else:
            patch.setattr(os, "pread", failing)
        with pytest.raises(CorruptImageError, match="cannot be read: Input/output error"):
            source.read(0)
    assert source.read(0) == image_bytes(0)


def test_what_breaks_later_is_a_corrupt_image(tmp_path):
    """A record or file damaged after the index was made costs that image, not the run."""
    records = open_source(as_records(tmp_path / "a"))
    with open(tmp_path / "a" / "train.rec", "r+b") as file:
        file.seek(int(records._index.places["offset"][2]))
        file.write(b"\0\0\0\0")
    with pytest.raises(CorruptImageError, match="no record begins at offset"):
        records.read(2)
    assert records.read(3) == image_bytes(3)
    folders = open_source(as_folders(tmp_path / "b"))
    (tmp_path / "b" / "Chen" / "Chen_0001.png").unlink()
    with pytest.raises(CorruptImageError, match="cannot be read: No such file"):
        folders.read(4)
    shards = open_source(as_tar(tmp_path / "c"))
    os.truncate(tmp_path / "c" / "faces.tar", 600)
    with pytest.raises(CorruptImageError, match="bytes are there"):
        shards.read(5)


def nothing(path):
    pass


def a_text_file(path):
    path.write_text("x")


def an_empty_folder(path):
    path.mkdir()


def folders_without_images(path):
    (path / "Ada").mkdir(parents=True)
    (path / "Ada" / "x.txt").write_text("x")


def tar_of(*members):
    def write(path):
        path.mkdir()
        with tarfile.open(path / "a.tar", "w") as tar:
            for name, data in members:
                add(tar, name, data)

    return write


def compressed(path):
    path.mkdir()
    with tarfile.open(path / "a.tar", "w:gz") as tar:
        add(tar, "Ada/a.png", image_bytes(1))


def cut_tar(path):
    as_shards(path)
    os.truncate(path / "shard-1.tar", 512 * 3 + 40)


def only_a_header(path):
    with RecordWriter(path):
        pass


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (nothing, "no such file or folder; accepted are a RecordIO folder"),
        (a_text_file, "is a file of no known layout; accepted are"),
        (an_empty_folder, "no train.rec, no .tar file and no sub-folder with images; accepted are"),
        (
            folders_without_images,
            r"no sub-folder with images \(not used: 1 files without an image's suffix \(.txt 1\)\); accepted are",
        ),
        (tar_of(), "no image among the members"),
        (tar_of(("Ada/x.txt", b"x")), "no image among the members"),
        (tar_of(("x.png", b"x")), "a.tar, member x.png: has neither a .cls member nor a folder"),
        (
            tar_of(("x.png", b"x"), ("x.cls", b"1"), ("y.png", b"y")),
            "a.tar, member y.png: has no .cls member beside it",
        ),
        (
            tar_of(("x.png", b"x"), ("x.cls", b"one")),
            "a.tar, member x.cls: expected an identity's number from 0, got b'one'",
        ),
        (compressed, "a.tar: not a plain tar file"),
        (cut_tar, "shard-1.tar.*cut short"),
        (only_a_header, "holds no image|hold no image|record 0"),
    ],
)
def test_what_cannot_be_opened_is_said(tmp_path, make, says, cache):
    make(tmp_path / "data")
    with pytest.raises(UserError, match=says):
        open_source(tmp_path / "data")
    assert not cache.exists() or not [entry for entry in cache.glob("faces/*/index.json")]


def test_a_cache_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"its index cannot be kept in .*set ZENNAS_CACHE"):
        open_source(as_folders(tmp_path / "data"))


def test_names_of_any_bytes():
    names = ["", "Ünïcode", os.fsdecode(b"\xff\xfe"), "x" * 300]
    packed = Names.of(names)
    assert list(packed) == names and list(packed.taken([3, 1])) == [names[3], names[1]]
    with pytest.raises(IndexError):
        packed[4]
