"""Every kind of set, opened from a few files; whatever in it cannot be used is said before any network is asked."""

import pathlib
import pickle
import shutil

import cv2
import numpy as np
import pytest

from tests.evaluate.conftest import (
    SETS,
    TEMPLATE_52,
    as_ijb,
    as_pairs,
    image_name,
    person,
    set_for,
    write_image,
    write_list,
)
from tests.tasks.face.test_pairs import hostile
from tests.train.conftest import drawn_faces, write_folder, write_records, write_tar
from zennas.data.images import CorruptImageError
from zennas.evaluate.protocols import PROTOCOLS
from zennas.evaluate.sets import (
    open_all,
    open_identification,
    open_ijb,
    open_mfr,
    open_pairs,
    open_reid,
    open_webface,
)
from zennas.records import UserError

A, B, C, D = (image_name(*one) for one in ((0, 1), (0, 2), (1, 1), (1, 2)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_opens_its_set(protocol, tmp_path, faces):
    where = set_for(protocol, tmp_path, faces)
    the_set = PROTOCOLS[protocol].open(where)
    assert the_set.name.partition("@")[0] in where and not the_set.notices
    assert all(
        len(values) in (the_set.images.num_images, len(the_set.column.get("same_P", ())))
        for values in the_set.column.values()
    )
    assert len({the_set.images.where(image) for image in range(the_set.images.num_images)}) > 1
    assert the_set.images.pixels(0, (16, 12)).shape == (16, 12, 3)
    again = PROTOCOLS[protocol].open(where)
    assert again.images.fingerprint == the_set.images.fingerprint
    assert PROTOCOLS[protocol].how and PROTOCOLS[protocol].sets and set(SETS) <= set(PROTOCOLS)


# --- pairs


def png(value):
    return cv2.imencode(".png", np.full((8, 8, 3), value, np.uint8))[1].tobytes()


def write_bin(path, values, same):
    path.write_bytes(pickle.dumps(([png(value) for value in values], same)))
    return path


def test_a_bin(tmp_path):
    the_set = open_pairs(str(write_bin(tmp_path / "lfw.bin", (1, 2, 1, 3), [True, False])))
    column = {name: values.tolist() for name, values in the_set.column.items()}
    assert column == {"first_P": [0, 0], "second_P": [1, 2], "same_P": [True, False], "fold_P": [0, 1]}
    assert the_set.name == "lfw" and [the_set.images.pixels(n, 8)[0, 0, 0] for n in range(3)] == [1, 2, 3]


def test_pairs_that_say_nothing_are_said(tmp_path):
    same = open_pairs(str(write_bin(tmp_path / "x.bin", (1, 1, 2, 3), [True, True])))
    assert same.notices == [
        "1 pairs are of an image with itself: x.bin, image 0",
        "no pair is of different people: there is no TAR at a FAR, and accuracy means little",
    ]
    different = open_pairs(str(write_bin(tmp_path / "x.bin", (1, 2, 2, 3), [False, False])))
    assert different.notices == ["no pair is of same people: there is no TAR at a FAR, and accuracy means little"]


def test_pairs_of_a_folder_and_of_a_tar_are_the_same(tmp_path, faces, own_embeddings):
    where = as_pairs(tmp_path, faces)
    text = where.partition("@")[0]
    tar = write_tar(tmp_path / "faces.tar", faces)
    one, other = open_pairs(where), open_pairs(f"{text}@{tar}")
    assert one.name == other.name == "drawn@faces"
    for name, values in one.column.items():
        assert values.tolist() == other.column[name].tolist()
    for image in range(one.images.num_images):
        assert one.images.read(image) == other.images.read(image)
    people = [[person(one.images.where(image)) for image in one.column[f"{name}_P"]] for name in ("first", "second")]
    assert [first == second for first, second in zip(*people, strict=True)] == one.column["same_P"].tolist()


@pytest.mark.parametrize("name", hostile(""))
def test_a_hostile_bin_runs_nothing(tmp_path, name):
    marker = tmp_path / "marker"
    (tmp_path / "x.bin").write_bytes(hostile(marker)[name])
    with pytest.raises(UserError, match=r"which no verification set needs; it was not loaded"):
        open_pairs(str(tmp_path / "x.bin"))
    assert not marker.exists()


def test_what_is_no_set_of_pairs(tmp_path, faces, own_embeddings):
    pairs, _, folder = as_pairs(tmp_path, faces).partition("@")
    for where, says in (
        (pairs, "say where its images are: .*drawn.txt@SOURCE"),
        (folder, "faces without pairs; give PAIRS@.*, or an InsightFace SET.bin"),
        (f"{pairs}@{folder}/nowhere", "nowhere: no such file or folder; accepted are"),
        (f"{tmp_path}/nowhere.txt@{folder}", "nowhere.txt: cannot be read"),
        (f"{tmp_path}/nowhere.bin", "nowhere.bin: cannot be read"),
        (f"{pairs}@{write_records(tmp_path / 'rec', drawn_faces(1, 2, seed=0))}", "pairs go by names, and .* has none"),
    ):
        with pytest.raises(UserError, match=says):
            open_pairs(where)
    short = tmp_path / "short"
    shutil.copytree(folder, short)
    for number in (1, 2, 3):
        (short / image_name(0, number)).unlink()
    with pytest.raises(UserError, match=r"drawn.txt: \d of \d+ images are not in .*short: p00/p00_000"):
        open_pairs(f"{pairs}@{short}")


# --- IJB

DOTS = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)], np.uint8)


@pytest.mark.parametrize(
    ("angle_degrees", "scale", "shift"), [(0, 1.0, (0, 0)), (0, 2.0, (30, -40)), (35, 1.7, (60, 5)), (180, 1.2, (0, 9))]
)
@pytest.mark.parametrize("size", [(112, 112), (224, 224), (112, 96)])
def test_faces_are_aligned_by_their_landmarks(tmp_path, angle_degrees, scale, shift, size):
    """A loose crop with a dot of its own colour at each landmark: after alignment the dots lie on the template."""
    turn = np.exp(1j * np.radians(angle_degrees)) * scale
    at_5 = (TEMPLATE_52[:, 0] - 56 + 1j * (TEMPLATE_52[:, 1] - 56)) * turn + 200 + 180j + shift[0] + 1j * shift[1]
    crop_HW3 = np.full((400, 420, 3), 40, np.uint8)
    for at, colour in zip(at_5, DOTS, strict=True):
        cv2.circle(crop_HW3, (round(at.real), round(at.imag)), max(2, round(2.5 * scale)), colour.tolist(), -1)
    folder = tmp_path / "IJBX"
    write_image(folder / "loose_crop" / "1.png", crop_HW3)
    points = " ".join(f"{value:.3f}" for at in at_5 for value in (at.real, at.imag))
    (folder / "meta").mkdir()
    for name, text in (
        ("x_name_5pts_score", f"1.png {points} 0.9"),
        ("x_face_tid_mid", "1.png 1 1"),
        ("x_template_pair_label", "1 1 1"),
    ):
        (folder / "meta" / f"{name}.txt").write_text(text + "\n")
    aligned_HW3 = open_ijb(str(folder)).images.pixels(0, size)
    assert aligned_HW3.shape == (*size, 3)
    height, width = size
    for (x, y), colour in zip(TEMPLATE_52, DOTS, strict=True):
        near = np.abs(aligned_HW3.astype(int) - colour).sum(axis=2) < 200
        row, column = np.nonzero(near)
        assert len(row) >= 4
        found = np.array([column.mean(), row.mean()])
        # A dot was put at a whole pixel of the crop: half a pixel there, half a pixel of the mean here. A template that
        # is not square (112 x 96) can only be met in the mean of the five.
        allowed = 1.0 * max(height, width) / 112 if height == width else 5.0
        assert np.abs(found - [x * width / 112, y * height / 112]).max() <= allowed


def test_a_face_that_is_not_turned_stays_as_it_was(tmp_path, faces):
    """Its landmarks lie where the template has them, at 112 px: nothing is to be done."""
    image_HW3 = np.random.default_rng(0).integers(256, size=(112, 112, 3), dtype=np.uint8)
    where = as_ijb(tmp_path, faces)
    write_image(pathlib.Path(where) / "loose_crop" / "p00_0001.png", image_HW3)
    path = pathlib.Path(where) / "meta" / "ijbx_name_5pts_score.txt"
    lines = path.read_text().splitlines()
    lines[0] = f"p00_0001.png {' '.join(map(str, TEMPLATE_52.ravel()))} 0.5"
    path.write_text("\n".join(lines) + "\n")
    assert (open_ijb(where).images.pixels(0, 112) == image_HW3).all()


def test_ijb_by_hand(tmp_path, faces):
    the_set = open_ijb(as_ijb(tmp_path, faces))
    column = the_set.column
    assert the_set.name == "IJBX" and the_set.images.num_images == 48
    assert column["template_N"][:4].tolist() == [0, 0, 1, 1] and column["media_N"][:4].tolist() == [77, 77, 3, 4]
    assert column["score_N"][:4].tolist() == pytest.approx([0.6, 0.7, 0.8, 0.9])
    assert column["same_P"].sum() == 12 and column["first_P"][-1] == 110 and column["second_P"][-1] == 111
    assert the_set.images.where(1) == "p00_0002.png" and the_set.images.cut is not None


def changed(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join(change(lines)) + "\n")


POINTS, MEDIA, PAIRS = (f"meta/ijbx_{name}.txt" for name in ("name_5pts_score", "face_tid_mid", "template_pair_label"))


@pytest.mark.parametrize(
    ("name", "change", "says"),
    [
        (POINTS, lambda lines: lines[:-1], "has 48 images and ijbx_name_5pts_score.txt 47, or in another order"),
        (MEDIA, lambda lines: lines[:-2], "has 46 images and ijbx_name_5pts_score.txt 48"),
        (MEDIA, lambda lines: lines[::-1], "or in another order; line by line they must be the same images"),
        (
            POINTS,
            lambda lines: ["", *lines[:3], "", lines[3] + " 7", *lines[4:]],
            r"line 6: expected 12 columns \(1 such",
        ),
        (POINTS, lambda lines: [line + " 7 8" for line in lines], r"line 1: expected 12 columns \(48 such lines\)"),
        (MEDIA, lambda lines: [line.rpartition(" ")[0] for line in lines], r"line 1: expected 3 columns \(48 such"),
        (POINTS, lambda lines: [lines[0].replace("0.6", "nan"), *lines[1:]], r"line 1: not a number \(1 such lines\)"),
        (POINTS, lambda lines: [lines[0].replace("0.6", "six"), *lines[1:]], r"line 1: not a number"),
        (
            MEDIA,
            lambda lines: [*lines[:2], lines[2] + ".5", *lines[3:]],
            r"mid.txt, line 3: not a whole number \(1 such",
        ),
        (PAIRS, lambda lines: ["1e300 1 1", *lines[1:]], r"label.txt, line 1: not a whole number"),
        (PAIRS, lambda lines: ["", *lines, "0 1 2"], r"line 146: given 2, allowed: 1 \(same\) or 0"),
        (PAIRS, lambda lines: [*lines, "0 98 0", "99 1 1"], "names 2 templates that .*mid.txt does not have: 98, 99$"),
        (PAIRS, lambda lines: [], "label.txt: is empty; expected 3 columns"),
        (PAIRS, lambda lines: ["\ufffd" * 9], "label.txt, line 1: expected 3 columns"),
    ],
)
def test_ijb_files_that_do_not_belong_together(tmp_path, faces, name, change, says):
    where = as_ijb(tmp_path, faces)
    changed(pathlib.Path(where, name), change)
    with pytest.raises(UserError, match=says):
        open_ijb(where)


def test_ijb_images_that_are_missing_or_outside(tmp_path, faces):
    where = pathlib.Path(as_ijb(tmp_path, faces))
    for number in (1, 2, 4):
        (where / "loose_crop" / f"p03_000{number}.png").unlink()
    with pytest.raises(UserError, match=r"3 of 48 images are not in .*: p03_0001.png, p03_0002.png, p03_0004.png$"):
        open_ijb(str(where))
    for name in (POINTS, MEDIA):
        changed(where / name, lambda lines: [lines[0].replace("p00_0001.png", "../secret.png"), *lines[1:]])
    with pytest.raises(UserError, match=r"1 paths lead out of .*loose_crop: ../secret.png"):
        open_ijb(str(where))
    (where / PAIRS).unlink()
    with pytest.raises(UserError, match=r"_template_pair_label.txt: none; exactly one such file is expected"):
        open_ijb(str(where))
    (where / "meta" / "y_name_5pts_score.txt").write_text("")
    with pytest.raises(UserError, match=r"ijbx_name_5pts_score.txt, y_name_5pts_score.txt; exactly one"):
        open_ijb(str(where))
    with pytest.raises(UserError, match="none; exactly one such file is expected"):
        open_ijb(str(tmp_path / "nowhere"))


def test_ijb_landmarks_in_one_place_are_a_corrupt_image(tmp_path, faces):
    where = pathlib.Path(as_ijb(tmp_path, faces))
    changed(where / POINTS, lambda lines: ["p00_0001.png" + " 5" * 10 + " 1", *lines[1:]])
    with pytest.raises(CorruptImageError, match="place no face"):
        open_ijb(str(where)).images.pixels(0, 112)


def test_ijb_is_another_set_with_other_landmarks(tmp_path, faces):
    where = pathlib.Path(as_ijb(tmp_path, faces))
    before = open_ijb(str(where)).images.fingerprint
    changed(where / POINTS, lambda lines: [lines[0].replace("p00_0001.png 1", "p00_0001.png 2"), *lines[1:]])
    assert open_ijb(str(where)).images.fingerprint != before


# --- lists


def where_of(tmp_path, faces, columns, *rows):
    return f"{write_list(tmp_path / 'list.csv', columns, rows)}@{faces}"


MFR, WEB = ("image", "label", "subset", "masked"), ("image", "label", "masked", "scene")
REID, IDS = ("image", "label", "camera", "role"), ("image", "label", "role")


def test_columns_by_hand(tmp_path, faces):
    mfr = open_mfr(where_of(tmp_path, faces, MFR, (A, 7, "Mask", 1), (B, 7, "MASK", 0), (C, 3, "african", "")))
    assert mfr.column["subset_N"].tolist() == ["mask", "mask", "african"]
    assert mfr.column["masked_N"].tolist() == [True, False, False] and mfr.column["label_N"].tolist() == [1, 1, 0]
    web = open_webface(where_of(tmp_path, faces, WEB, (A, 7, "yes", "Wild"), (B, 7, "no", "")))
    assert web.column["masked_N"].tolist() == [True, False] and web.column["scene_N"].tolist() == ["wild", ""]
    assert "scene_N" not in open_webface(where_of(tmp_path, faces, WEB[:3], (A, 7, 0))).column
    rows = [(A, "x", "c2", "query"), (B, "-1", "c1", "gallery"), (C, "x", "c1", "gallery"), (D, "0", "c2", "gallery")]
    reid = open_reid(where_of(tmp_path, faces, REID, *rows))
    assert reid.column["camera_N"].tolist() == [1, 0, 0, 1] and reid.column["first_N"].tolist() == [1, 0, 0, 0]
    label_N = reid.column["label_N"]
    assert label_N[1] == -1 and label_N[0] == label_N[2] and label_N[3] not in (label_N[0], -1)
    ids = open_identification(where_of(tmp_path, faces, IDS, (A, "x", "probe"), (B, "x", "gallery")))
    assert ids.column["first_N"].tolist() == [True, False] and ids.column["label_N"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("open_it", "columns", "rows", "says"),
    [
        (open_mfr, MFR[:2], [(A, 1)], "line 1: columns image, label; missing: subset"),
        (open_mfr, MFR[:3], [(A, 1, "martian")], "line 2: subset: given 'martian', allowed: mask, children, african"),
        (open_mfr, MFR[:3], [(A, 1, "mask")], "subset mask has no image with masked = 1"),
        (open_mfr, MFR, [(A, 1, "mask", "perhaps")], "line 2: masked: given 'perhaps', allowed: 1 or 0"),
        (open_webface, WEB[:2], [(A, 1)], "missing: masked"),
        (open_webface, WEB, [(A, 1, 0, "lab")], "scene: given 'lab', allowed: controlled, wild, nothing"),
        (open_webface, WEB[:3], [(A, 1, 1), (B, 2, 1)], "every image is masked; the standard faces"),
        (open_reid, REID[:3], [(A, 1, 1)], "missing: role"),
        (
            open_reid,
            REID,
            [(A, 1, 1, "query"), (B, 1, 1, "gallery"), (C, 2, 2, "gallery")],
            "none of its 1 queries has a right answer: the people of 1 are there by the query's own camera alone; are",
        ),
        (open_reid, REID, [(A, 1, 7, "query"), (B, 1, 7, "gallery")], "all 2 images are of one camera"),
        (
            open_reid,
            (*REID, "lens"),
            [(A, 1, 1, "query", 1)],
            "column 'lens' is not known; did you mean 'role'",
        ),
        (open_reid, REID, [(A, 1, 1, "query"), (B, 1, "", "gallery")], r"line 3: no camera \(1 such lines\)"),
        (open_reid, REID, [(A, 1, 1, "query")], "no image has the role 'gallery'"),
        (open_reid, REID, [(A, 1, 1, "gallery")], "no image has the role 'query'"),
        (open_reid, REID, [(A, 1, 1, "probe")], "line 2: role: given 'probe', allowed: query, gallery"),
        (open_reid, REID, [(A, 1, 1, "query"), (B, -1, 2, "gallery")], "every gallery image has the label -1"),
        (open_identification, IDS, [(A, 1, "probe")], "no image has the role 'gallery'"),
        (open_identification, IDS, [(A, 1, "query")], "role: given 'query', allowed: probe, gallery"),
        (
            open_identification,
            (*IDS, "camera"),
            [(A, 1, "probe", 1)],
            "column 'camera' is not known; known: image, label, role",
        ),
        (open_all, ("image", "label", "masked"), [(A, 1, 0)], "column 'masked' is not known; did you mean 'image'"),
    ],
)
def test_columns_that_a_protocol_cannot_use(tmp_path, faces, open_it, columns, rows, says):
    with pytest.raises(UserError, match=says):
        open_it(where_of(tmp_path, faces, columns, *rows))


@pytest.mark.parametrize("protocol", ["mfr", "webface", "identification"])
def test_a_list_needs_images(protocol, tmp_path, faces):
    list_path = SETS[protocol](tmp_path, faces).partition("@")[0]
    with pytest.raises(UserError, match=rf"say where its images are: {protocol}:LIST.csv@IMAGES"):
        PROTOCOLS[protocol].open(list_path)


def test_what_is_odd_about_a_list_is_kept(tmp_path, faces):
    assert open_all(where_of(tmp_path, faces, ("image", "label"), (A, 1), (A, 2))).notices == [
        f"1 images stand in the list more than once and count as often: {A}",
        f"1 images stand there with different labels: {A}",
    ]


def test_all_of_a_source(tmp_path, faces, own_embeddings, monkeypatch):
    records = write_records(tmp_path / "records", drawn_faces(3, 2, seed=0))
    for where, num in ((faces, 48), (write_tar(tmp_path / "some.tar", faces), 48), (records / "train.rec", 6)):
        the_set = open_all(str(where))
        assert the_set.images.num_images == num and the_set.name == where.stem
        if num == 48:
            people = [person(the_set.images.where(image)) for image in range(num)]
            assert the_set.column["label_N"].tolist() == people
        assert the_set.notices == []
    with_junk = write_folder(tmp_path / "junk", drawn_faces(2, 1, seed=0))
    (with_junk / "Thumbs.db").touch()
    assert open_all(str(with_junk)).notices == ["not used: 1 hidden or system files (Thumbs.db)"]
    monkeypatch.chdir(faces)
    assert open_all(".").name == "faces"
    with pytest.raises(UserError, match="no such file or folder; accepted are"):
        open_all(str(tmp_path / "nowhere"))
