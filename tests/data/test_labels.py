"""A list of labels over any source: images left out, identities merged and new ones, and nothing else changed."""

import pickle

import cv2
import numpy as np
import pytest

from zennas.data.labels import DROPPED, relabelled, write_labels
from zennas.data.sources import open_source
from zennas.records import UserError


@pytest.fixture
def source(tmp_path):
    """Ada: 3 images, Bo: 1, Cy: 2; each image of a grey of its own."""
    for number, name in enumerate(["Ada", "Ada", "Ada", "Bo", "Cy", "Cy"]):
        folder = tmp_path / "faces" / name
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), np.full((8, 8, 3), 10 * number, np.uint8))
    return open_source(tmp_path / "faces")


@pytest.fixture
def labels(source, tmp_path):
    """labels(list) -> the path of a file of them."""

    def written(label_N):
        write_labels(tmp_path / "labels.npz", source, label_N)
        return tmp_path / "labels.npz"

    return written


def greys(source):
    return [
        int(cv2.imdecode(np.frombuffer(source.read(number), np.uint8), 0)[0, 0]) for number in range(source.num_images)
    ]


def test_merged_left_out_and_new(source, labels):
    """Bo is Ada; Ada's second image is nobody's; Cy's last is somebody whom the source does not know."""
    found = open_source(source.path, labels=labels([0, DROPPED, 0, 0, 2, 7]))
    assert found.label_N.tolist() == [0, 0, 0, 1, 2] and found.label_N.dtype == np.int32
    assert list(found.identity_names) == ["Ada", "Cy", "7"]
    assert (found.num_images, found.num_identities, found.num_empty_identities) == (5, 3, 0)
    assert greys(found) == [0, 20, 30, 40, 50]
    assert found.where(3) == source.where(4) and found.name(2) == source.name(3) and found.record(0) is None


def test_it_is_a_source_in_all_that_is_asked_of_one(source, labels):
    found = relabelled(source, labels([1, 1, DROPPED, 0, 0, 0]))
    again = pickle.loads(pickle.dumps(found))
    assert again.label_N.tolist() == found.label_N.tolist() == [1, 1, 0, 0, 0] and greys(again) == greys(found)
    assert found.images.num_images == 5 and found.images.read(2) == source.read(3)
    assert found.some([4, 0]).read(0) == source.read(5)
    public = {name for name in dir(source) if not name.startswith("_")} - {"folder", "descriptor"}
    assert public <= set(dir(found))


def test_the_fingerprint_is_that_of_what_it_says(source, labels):
    """Which decides whether a training may go on: the numbers of labels alone make no other training."""
    same = [relabelled(source, labels(label_N)).fingerprint for label_N in ([0, 0, 0, 1, 2, 2], [0, 0, 0, 4, 9, 9])]
    others = [relabelled(source, labels(one)).fingerprint for one in ([0, 0, 0, 0, 2, 2], [0, 0, 0, 1, 2, DROPPED])]
    assert same[0] == same[1] and len({source.fingerprint, same[0], *others}) == 4


@pytest.mark.parametrize(
    "label_N, says",
    [
        ([0] * 5, "labels of other images (5 images"),
        ([DROPPED] * 6, "leaves out all 6"),
        ([-2] * 6, "whole numbers from 0 on"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(source, labels, label_N, says):
    with pytest.raises(UserError) as error:
        relabelled(source, labels(label_N))
    assert says in str(error.value) and "labels.npz" in str(error.value)


def test_labels_of_other_faces_are_refused(source, labels, tmp_path):
    path = labels([0] * 6)
    cv2.imwrite(str(tmp_path / "faces" / "Bo" / "new.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "faces" / "Ada" / "0.png").unlink()
    with pytest.raises(UserError, match="labels of other images"):
        open_source(source.path, labels=path)


def test_files_that_are_no_labels_are_refused(source, tmp_path):
    broken = tmp_path / "labels.npz"
    for write in (
        lambda: broken.write_bytes(b"PK no archive"),
        lambda: broken.write_text("0 0 1"),
        lambda: np.savez(broken, label_N=np.zeros(6, np.int32)),
        lambda: np.savez(broken, label_N=np.array([None] * 6), source=source.fingerprint),  # a pickle
    ):
        write()
        with pytest.raises(UserError, match="holds no labels"):
            relabelled(source, broken)
    with pytest.raises(UserError, match="cannot be read"):
        relabelled(source, tmp_path / "nowhere.npz")


def test_labels_and_identities_exclude_each_other(source, labels, tmp_path):
    (tmp_path / "names.txt").write_text("Ada\n")
    with pytest.raises(UserError, match="exclude each other"):
        open_source(source.path, labels=labels([0] * 6), identities=tmp_path / "names.txt")
