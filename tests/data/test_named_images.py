"""Images by the names of a list: by another suffix, below other folders, and never one for another."""

import tarfile

import cv2
import numpy as np
import pytest

from zennas.data.images import decode
from zennas.data.named_images import find_images
from zennas.data.sources import open_source
from zennas.records import UserError

VALUES = {"Ada/Ada_0001.png": 1, "Ada/Ada_0002.PNG": 2, "J.R./J.R._0001.png": 3, "J.R. profile/01.png": 4}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    for name, value in VALUES.items():
        write(tmp_path / "images" / name, value)
    return tmp_path / "images"


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((4, 4, 3), value, np.uint8))[1].tobytes())


def packed(folder, path, *, below):
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=below)
    return path


def values(images):
    return [int(decode(images.read(image))[0, 0, 0]) for image in range(images.num_images)]


@pytest.mark.parametrize("kind", ["folder", "tar", "a tar below two folders"])
@pytest.mark.parametrize(
    "names",
    [
        ["Ada/Ada_0001.png", "Ada/Ada_0002.PNG", "J.R. profile/01.png"],
        ["Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", "J.R. profile/01.tiff"],
        ["Ada/Ada_0001", "Ada/Ada_0002", "J.R. profile/01"],
        ["Data/Images/Ada/Ada_0001.jpg", "Data/Images/Ada/Ada_0002.png", "Data/Images/J.R. profile/01.jpg"],
    ],
    ids=["as it is", "another suffix", "no suffix", "from further up"],
)
def test_images_are_found(tmp_path, folder, kind, names):
    below = {"tar": ".", "a tar below two folders": "set/faces"}
    images = folder if kind == "folder" else packed(folder, tmp_path / "x.tar", below=below[kind])
    found = find_images(tmp_path / "list", names, images)
    assert values(found) == [1, 2, 4]
    assert found.where(0).endswith("Ada/Ada_0001.png")


def test_a_name_with_dots_is_no_suffix(tmp_path, folder):
    assert values(find_images(tmp_path / "list", ["J.R./J.R._0001"], folder)) == [3]


def test_a_name_that_fits_two_images_is_refused(tmp_path, folder):
    (folder / "Ada" / "Ada_0001.jpg").write_bytes(b"x")
    assert values(find_images(tmp_path / "list", ["Ada/Ada_0001.png"], folder)) == [1]
    for images in (folder, packed(folder, tmp_path / "x.tar", below=".")):
        with pytest.raises(UserError, match=r"list: 1 of 2 images fit several in .*: Ada/Ada_0001.bmp"):
            find_images(tmp_path / "list", ["Ada/Ada_0001.bmp", "J.R./J.R._0001.png"], images)


def test_no_image_stands_for_another(tmp_path, folder):
    """Neither for one that the list names itself, nor for a namesake in another folder."""
    with pytest.raises(UserError, match=r"1 of 2 images are not in .*: Ada/Ada_0001.jpg"):
        find_images(tmp_path / "list", ["Ada/Ada_0001.png", "Ada/Ada_0001.jpg"], folder)
    write(folder / "01.png", 9)
    with pytest.raises(UserError, match=r"2 of 2 images are not in .*: a/01.png, b/01.png"):
        find_images(tmp_path / "list", ["a/01.png", "b/01.png"], folder)
    assert values(find_images(tmp_path / "list", ["a/01.png"], folder)) == [9]
    with pytest.raises(UserError, match=r"1 paths lead out of .*: ../secret.png"):
        find_images(tmp_path / "list", ["../secret.png"], folder)


def test_a_source_that_is_open_already(tmp_path, folder):
    tar = packed(folder, tmp_path / "x.tar", below="faces")
    assert values(find_images(tmp_path / "list", ["Ada/Ada_0002.jpg"], open_source(tar))) == [2]
