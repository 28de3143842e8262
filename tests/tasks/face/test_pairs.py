"""Verification sets: every dialect of .bin, no hostile one, and LFW's pairs."""

import os
import pathlib
import pickle
import pickletools

import cv2
import numpy as np
import pytest

from zennas.data.images import decode
from zennas.data.sources import open_source
from zennas.metrics.verification import ten_fold_accuracy
from zennas.records import UserError
from zennas.tasks.face.pairs import folds_of_people, read_bin, read_pairs

IMAGES = [b"\xff\xd8a", b"\xff\xd8b", b"\xff\xd8a", b"\x00\x80c"]
SAME = [True, False]


def as_arrays(images):
    return [np.frombuffer(image, np.uint8).reshape(-1, 1) for image in images]


def python2_bytes(images):
    """Protocol 2 as Python 3 writes bytes there (_codecs.encode), and as Python 2 wrote str (SHORT_BINSTRING)."""
    return b"\x80\x02]" + b"".join(b"U" + bytes([len(image)]) + image + b"a" for image in images)


DIALECTS = {
    **{f"bytes, protocol {protocol}": pickle.dumps((IMAGES, SAME), protocol) for protocol in range(6)},
    **{
        f"arrays, protocol {protocol}": pickle.dumps((as_arrays(IMAGES), SAME), protocol).replace(
            b"numpy._core", b"numpy.core"
        )
        for protocol in (2, 3)
    },
    "arrays as numpy 2 writes them": pickle.dumps((as_arrays(IMAGES), SAME), 3),
    "truth values in an array": pickle.dumps((IMAGES, np.array(SAME)), 3),
    "numpy's truth values": pickle.dumps((IMAGES, [np.bool_(one) for one in SAME]), 3),
    "numbers": pickle.dumps([IMAGES, [1, 0]], 3),
    "written by Python 2": python2_bytes(IMAGES) + b"]\x88a\x89a\x86.",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialects(tmp_path, dialect):
    (tmp_path / "lfw.bin").write_bytes(DIALECTS[dialect])
    pairs = read_bin(tmp_path / "lfw.bin")
    assert [pairs.images.read(image) for image in pairs.first_P] == [IMAGES[0], IMAGES[2]]
    assert [pairs.images.read(image) for image in pairs.second_P] == [IMAGES[1], IMAGES[3]]
    assert pairs.same_P.tolist() == SAME and pairs.same_P.dtype == bool
    assert pairs.images.num_images == 3 and pairs.name == "lfw" and pairs.images.where(2) == "lfw.bin, image 3"
    assert pairs.fold_P.tolist() == [0, 1]


class Hostile:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


def hostile(marker):
    return {
        "posix.system": pickle.dumps(Hostile(os.system, (f"touch {marker}",))),
        "io.open": pickle.dumps((Hostile(open, (str(marker), "w")), SAME)),
        "builtins.eval": pickle.dumps((IMAGES, [Hostile(eval, (f"open({str(marker)!r}, 'w')",))])),
        "builtins.getattr": pickle.dumps((IMAGES, [Hostile(getattr, (IMAGES, "append"))])),
        "numpy.save": b"cnumpy\nsave\n(" + pickle.dumps(str(marker), 0)[:-1] + b"I1\ntR.",
        # Names with a dot reach through what is allowed, from protocol 4 on.
        "numpy.ndarray.tofile": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.",
        "an object outside the file": b"\x80\x02Px\n.",
        "pathlib": pickle.dumps(pathlib.PurePosixPath("x")),
    }


@pytest.mark.parametrize("name", hostile(""))
def test_a_hostile_file_is_refused_by_name_and_runs_nothing(tmp_path, name):
    marker = tmp_path / "marker"
    (tmp_path / "x.bin").write_bytes(hostile(marker)[name])
    with pytest.raises(UserError, match=rf"x.bin: names .*{name}.*it was not loaded"):
        read_bin(tmp_path / "x.bin")
    assert not marker.exists()


def test_the_hostile_files_would_do_harm(tmp_path):
    """Else the test above shows nothing."""
    for name in ("posix.system", "io.open", "builtins.eval", "numpy.save"):
        marker = tmp_path / name
        pickle.loads(hostile(marker)[name])
        assert marker.exists() or marker.with_name(name + ".npy").exists()


def damaged():
    good = pickle.dumps((as_arrays(IMAGES), SAME), 3)
    objects = np.array([IMAGES[0], None], dtype=object)
    return {
        "empty": b"",
        "cut": good[:-20],
        "text": b"no pickle",
        "a list of one": pickle.dumps([IMAGES]),
        "numbers for images": pickle.dumps(([1, 2], [True])),
        "floats in an array": pickle.dumps(([np.zeros(3), np.zeros(3)], [True])),
        "objects in an array": pickle.dumps(([objects, objects], [True])),
        "one image too few": pickle.dumps((IMAGES[:3], SAME)),
        "no pairs": pickle.dumps(([], [])),
        "a pair that is 2": pickle.dumps((IMAGES, [True, 2])),
        "a pair that is a list": pickle.dumps((IMAGES, [True, []])),
        "an odd codec": b"c_codecs\nencode\n(Vx\nVzip\ntR.",
        "a memo of gigabytes": b"\x80\x02]r\xff\xff\xff\x7f.",
        "bytes of gigabytes": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b".",
        "nothing on the stack": b"R.",
    }


@pytest.mark.parametrize("name", damaged())
def test_a_damaged_file_is_said(tmp_path, name):
    (tmp_path / "x.bin").write_bytes(damaged()[name])
    with pytest.raises(UserError, match=r"x.bin: "):
        read_bin(tmp_path / "x.bin")


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(UserError, match=r"x.bin: cannot be read: No such file"):
        read_bin(tmp_path / "x.bin")


def test_the_dialects_differ_as_they_say():
    def names(data):
        return {arg for op, arg, _ in pickletools.genops(data) if op.name == "GLOBAL"}

    assert "numpy.core.multiarray _reconstruct" in names(DIALECTS["arrays, protocol 3"])
    assert "_codecs encode" in names(DIALECTS["bytes, protocol 2"])


PEOPLE = {"Ada_L": 2, "Bo": 3, "Cy": 1}


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    for name, count in PEOPLE.items():
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in range(1, count + 1):
            value = 40 * list(PEOPLE).index(name) + number
            data = cv2.imencode(".png", np.full((4, 4, 3), value, np.uint8))[1].tobytes()
            (tmp_path / "faces" / name / f"{name}_{number:04d}.png").write_bytes(data)
    return open_source(tmp_path / "faces")


PAIRS = "2\t1\nAda_L\t1\t2\nBo\t3\tCy\t1\nBo\t1\t3\nAda_L\t1\tBo\t1\n"


def values(pairs, image_P):
    return [int(decode(pairs.images.read(image))[0, 0, 0]) for image in image_P]


def test_pairs_by_hand(tmp_path, source):
    (tmp_path / "pairs.txt").write_text(PAIRS)
    pairs = read_pairs(tmp_path / "pairs.txt", source)
    assert values(pairs, pairs.first_P) == [1, 43, 41, 1] and values(pairs, pairs.second_P) == [2, 81, 43, 41]
    assert pairs.same_P.tolist() == [True, False, True, False] and pairs.fold_P.tolist() == [0, 0, 1, 1]
    assert pairs.images.num_images == 5 and pairs.images.where(0) == "Ada_L/Ada_L_0001.png" and pairs.name == "pairs"


@pytest.mark.parametrize(
    ("head", "folds"), [("1", [0, 1]), ("1\t1", [0, 1]), ("7", [0, 0, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7, 8, 9])]
)
def test_a_single_fold_is_cut_into_as_many_as_can_be_verified(tmp_path, source, head, folds):
    """As LFW's pairsDevTest.txt, one number in its head, which ten_fold_accuracy would otherwise refuse."""
    half = len(folds) // 2
    (tmp_path / "pairs.txt").write_text(f"{head}\n" + "Bo 1 2\n" * half + "Bo 1 Cy 1\n" * half + "\n")
    pairs = read_pairs(tmp_path / "pairs.txt", source)
    assert pairs.fold_P.tolist() == folds and pairs.same_P.tolist() == [True] * half + [False] * half
    found = ten_fold_accuracy(np.where(pairs.same_P, 0.9, 0.1), pairs.same_P, fold_P=pairs.fold_P)
    assert found.mean == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "pairs.txt: is empty; expected pairs: known are LFW's lines"),
        ("2\t1\n", "0 pairs; line 1 announces 2 folds of 2 x 1: 4"),
        ("Ada_L\t1\t2\nBo\t1\n", "line 2: expected Name n m or Name n Other m, got 'Bo"),
        ("2\t2\n" + PAIRS[4:], "4 pairs; line 1 announces 2 folds of 2 x 2: 8"),
        (PAIRS.replace("Bo\t1\t3", "Bo\t1"), "line 4: expected Name n m or Name n Other m, got 'Bo"),
        (PAIRS.replace("Bo\t1\t3", "Bo\tone\t3"), "line 4: expected Name n m"),
        (
            PAIRS.replace("Bo\t1\t3", "Bo\t9\t8").replace("Cy", "Di"),
            r"3 of 7 images are not in .*: Di/Di_0001, Bo/Bo_0009, Bo/Bo_0008",
        ),
    ],
)
def test_wrong_pairs_are_said(tmp_path, source, text, says):
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(UserError, match=says):
        read_pairs(tmp_path / "pairs.txt", source)


@pytest.mark.data
def test_real_sets(tmp_path, monkeypatch):
    """The counts that LFW publishes, and a real .bin of ten genuine pairs."""
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path))
    folder = pathlib.Path(os.environ["ZENNAS_DATA"]) / "faces"
    lfw = open_source(folder / "lfw_aligned_112.tar")
    assert (lfw.num_images, lfw.num_identities, lfw.num_empty_identities) == (13233, 5749, 0)
    pairs = read_pairs(folder / "pairs.txt", lfw)
    assert len(pairs.same_P) == 6000 and pairs.same_P.sum() == 3000 and np.bincount(pairs.fold_P).tolist() == [600] * 10
    small = read_bin(folder / "small_lfw.bin")
    assert small.same_P.tolist() == [True] * 10
    assert all(decode(small.images.read(image)).shape == (112, 112, 3) for image in range(small.images.num_images))


def test_the_folds_of_people_are_read_as_lfw_writes_them(tmp_path):
    (tmp_path / "people.txt").write_text("2\n2\nAda\t3\nBob\t1\n1\nCy\t2\n")
    assert folds_of_people(tmp_path / "people.txt") == [["Ada", "Bob"], ["Cy"]]
