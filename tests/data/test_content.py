"""What is kept of a data set knows its content: an image replaced in place is noticed; a copy changes nothing."""

import os
import shutil
import tarfile

import numpy as np
import pytest

from zennas.data import content, sources
from zennas.data.content import digest_of_file, digest_of_span, look_into
from zennas.data.labels import write_labels
from zennas.data.recordio import RecordWriter
from zennas.data.sources import open_source
from zennas.records import UserError

OLD, NEW = b"old image" * 20, b"new image" * 20
NAMES = ("Ada/1.png", "Ada/2.png", "Bob/1.png")


def as_folder(path, images):
    for name, image in zip(NAMES, images, strict=True):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(image)
    return path


def as_tar(path, images):
    folder = as_folder(path.with_name("unpacked"), images)
    for file in folder.rglob("*"):
        os.utime(file, (1, 1))
    with tarfile.open(path.with_suffix(".tar"), "w") as tar:
        tar.add(folder, arcname="set")
    return path.with_suffix(".tar")


def as_records(path, images):
    with RecordWriter(path) as writer:
        for label, image in zip((0, 0, 1), images, strict=True):
            writer.add(image, label)
    return path


each_layout = pytest.mark.parametrize("layout", [as_folder, as_tar, as_records])


def files_below(path):
    return [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())


def replaced(layout, path, images):
    """The same data set with other images: the files keep their names, sizes and times, as cp -p and rsync do it."""
    before = {file: os.stat(file) for file in files_below(path)}
    layout(path.with_suffix("") if path.suffix else path, images)
    for file, stat in before.items():
        assert os.stat(file).st_size == stat.st_size
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@each_layout
def test_an_image_replaced_in_place_is_noticed(tmp_path, layout):
    path = layout(tmp_path / "set", [OLD] * 3)
    before = open_source(path)
    write_labels(tmp_path / "labels.npz", before, np.array([0, -1, 1]))
    assert open_source(path, labels=tmp_path / "labels.npz").num_images == 2
    replaced(layout, path, [OLD, NEW, OLD])
    after = open_source(path)
    assert after.read(1) == NEW and after.name(1) == before.name(1)
    assert after.fingerprint != before.fingerprint
    assert after.images.fingerprint != before.images.fingerprint  # under which embeddings are kept
    assert after.some([0, 1]).fingerprint != before.some([0, 1]).fingerprint
    with pytest.raises(UserError, match=r"labels.npz: labels of other images: .* some were replaced since"):
        open_source(path, labels=tmp_path / "labels.npz")
    replaced(layout, path, [OLD] * 3)
    back = open_source(path, labels=tmp_path / "labels.npz")
    assert back.num_images == 2 and open_source(path).fingerprint == before.fingerprint


@each_layout
def test_a_copy_and_other_times_and_rights_are_no_change(tmp_path, layout):
    path = layout(tmp_path / "set", [OLD, NEW, OLD])
    before = open_source(path)
    for file in files_below(path):
        os.utime(file, (5, 5))
        os.chmod(file, 0o600)
        os.link(file, tmp_path / f"{file.parent.name}-{file.name}-linked")
    assert open_source(path).fingerprint == before.fingerprint
    copy = tmp_path / f"copy{path.suffix}"
    shutil.copytree(path, copy) if path.is_dir() else shutil.copy(path, copy)
    assert open_source(copy).fingerprint == before.fingerprint


def test_only_the_chosen_identities_matter_to_a_choice(tmp_path):
    path = as_folder(tmp_path / "set", [OLD] * 3)
    (tmp_path / "who.txt").write_text("Ada\n")
    before = open_source(path, identities=tmp_path / "who.txt").fingerprint
    replaced(as_folder, path, [OLD, OLD, NEW])
    assert open_source(path, identities=tmp_path / "who.txt").fingerprint == before
    replaced(as_folder, path, [NEW, OLD, OLD])
    assert open_source(path, identities=tmp_path / "who.txt").fingerprint != before


@each_layout
def test_labels_of_an_earlier_version_are_still_taken(tmp_path, layout):
    """They know labels, places and names, not the images' bytes."""
    source = open_source(layout(tmp_path / "set", [OLD] * 3))
    layout_alone = source.fingerprint.partition("-")[0]
    np.savez(tmp_path / "labels.npz", label_N=np.array([1, 0, 0], np.int32), source=layout_alone)
    assert open_source(source.path, labels=tmp_path / "labels.npz").label_N.tolist() == [1, 0, 0]
    np.savez(tmp_path / "labels.npz", label_N=np.array([1, 0, 0], np.int32), source="0" * 16)
    with pytest.raises(UserError, match=r"labels of other images \(3 images, 0{16}\)"):
        open_source(source.path, labels=tmp_path / "labels.npz")


def test_an_image_that_cannot_be_read_ends_nothing(tmp_path, monkeypatch):
    path = as_folder(tmp_path / "set", [OLD] * 3)
    whole = open_source(path).fingerprint

    def failing(descriptor, length, offset):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(sources.os, "pread", failing)
        patch.setenv("ZENNAS_CACHE", str(tmp_path / "other-cache"))
        assert open_source(path).fingerprint != whole


def reading(data, asked):
    def read(length, offset):
        asked.append((offset, length))
        return data[offset : offset + length]

    return read


def test_of_a_large_image_pieces_are_read_and_the_end_among_them():
    data, asked = bytes(10 * content.WHOLE_BYTES), []
    before = digest_of_span(reading(data, asked), len(data))
    assert len(asked) == 4 and asked[0][0] == 0 and sum(asked[-1]) == len(data)
    assert {length for _, length in asked} == {content.PIECE_BYTES}
    assert digest_of_span(reading(data[:-1] + b"x", asked), len(data)) != before
    assert digest_of_span(reading(data, asked), len(data) - 1) != before
    asked.clear()
    digest_of_span(reading(data, asked), content.WHOLE_BYTES)
    assert asked == [(0, content.WHOLE_BYTES)]


def test_of_many_images_in_one_file_some_are_looked_into():
    said = []
    content_N = look_into(lambda image: image + 1, 10, most=4, progress=lambda *done: said.append(done))
    assert content_N.tolist() == [1, 0, 0, 4, 0, 0, 7, 0, 0, 10] and said == [(4, 4)]
    assert look_into(lambda image: image + 1, 3).tolist() == [1, 2, 3]


def test_the_digest_of_a_file_changes_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr(content, "NUM_PIECES", 2)
    path = tmp_path / "x.npy"
    data = bytearray(5 * content.PIECE_BYTES)
    path.write_bytes(data)
    before = digest_of_file(path)
    for place in (0, len(data) - 1):
        path.write_bytes(data[:place] + b"x" + data[place + 1 :])
        assert digest_of_file(path) != before
    path.write_bytes(data[:-1])
    assert digest_of_file(path) != before
