"""Lists of images: whatever is wrong in one is said in a line that names it, and nothing is left out silently."""

import cv2
import numpy as np
import pytest

from tests.evaluate.conftest import image_name, person, write_list
from tests.train.conftest import drawn_faces, write_records, write_tar
from zennas.data.images import CorruptImageError
from zennas.data.lists import choices, read_list, truths
from zennas.records import UserError

A, B, C = (image_name(*one) for one in ((0, 1), (0, 2), (1, 1)))


def listed(tmp_path, faces, text, *, name="list.csv", **options):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_list(path, faces, **options)


def test_a_list_by_hand(tmp_path, faces):
    found = listed(
        tmp_path,
        faces,
        f"image,label,masked,extra\n{C},zoe,1,x\n{A},ada,0,y\n{B},ada,,\n",
        required=("masked",),
        optional=("extra", "more"),
    )
    assert found.label_N.tolist() == [1, 0, 0] and found.label_N.dtype == np.int64
    assert found.label_names.tolist() == ["ada", "zoe"] and found.notices == []
    assert {name: values.tolist() for name, values in found.column.items()} == {
        "masked": ["1", "0", ""],
        "extra": ["x", "y", ""],
    }
    assert [found.images.where(image) for image in range(3)] == [C, A, B]
    assert [found.images.read(image) for image in range(3)] == [(faces / name).read_bytes() for name in (C, A, B)]


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeffimage,label\n{A},1\n{C},2\n",
        f"image,label\r\n{A},1\r\n{C},2\r\n",
        f'"image","label"\n"{A}","1"\n"{C}","2"\n',
        f"\n\nimage,label\n\n{A},1\n,\n   \n{C},2\n\n\n",
        f" Image , LABEL \n {A} ,1  \n{C}, 2",
        f"label,image\n1,{A}\n2,{C}\n",
    ],
    ids=["BOM", "CRLF", "quotes", "blank lines", "spaces and no end", "another order"],
)
def test_oddities_of_tables_are_no_errors(tmp_path, faces, text):
    found = listed(tmp_path, faces, text)
    assert [found.images.where(image) for image in range(found.images.num_images)] == [A, C]
    assert found.label_names[found.label_N].tolist() == ["1", "2"]


def test_tabs_part_a_tsv(tmp_path, faces):
    found = listed(tmp_path, faces, f"image\tlabel\n{A}\tone, two\n", name="list.tsv")
    assert found.label_names.tolist() == ["one, two"]


def test_a_name_with_a_comma_stands_in_quotes(tmp_path):
    cv2.imwrite(str(tmp_path / 'a, "b".png'), np.zeros((4, 4, 3), np.uint8))
    found = listed(tmp_path, tmp_path, 'image,label\n"a, ""b"".png",x\n')
    assert found.images.where(0) == 'a, "b".png' and found.images.pixels(0, 4).shape == (4, 4, 3)


def test_a_label_is_text(tmp_path, faces):
    """ "NA" is a name, and 01 is not 1."""
    found = listed(tmp_path, faces, f"image,label\n{A},NA\n{B},01\n{C},1\n")
    assert found.label_names.tolist() == ["01", "1", "NA"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "list.csv: is empty; expected a table with a header"),
        ("\n \n", "list.csv: is empty"),
        (b"\x89PNG\r\n\x1a\n\0\0", "list.csv: not a table with a header: 'utf-8' codec"),
        (b"faces/a.png" + bytes(90), "list.csv: not a table with a header: it holds no text"),
        (f"image,label\n{A}\0,1\n", "list.csv, line 2: not a table with a header: it holds no text"),
        (f'image,label\n"{A},1\n', "list.csv, line 2: not a table with a header: unexpected end"),
        ("image,label\n", "list.csv: names no image"),
        (f"{A},1\n{B},1\n", rf"list.csv, line 1: columns {A}, 1; missing: image, label"),
        ("image;label\na;1\n", "line 1: columns image;label; missing: image, label"),
        ("image,lable,masked\n", "line 1: columns image, lable, masked; missing: label"),
        ("image,label,mask\n", "line 1: column 'mask' is not known; did you mean 'masked'"),
        ("image,label,image\n", "line 1: a column stands twice: image, label, image"),
        (f"image,label,masked\n{A},1,0\n{B},1\n", "line 3: 2 values; the header has 3 columns"),
        # pandas would take the first column for a name of the row and the label for the image.
        (f"image,label\n{A},1,0\n", "line 2: 3 values; the header has 2 columns"),
        (f"image,label\n\n{A},1\n\n,2\n{B},\n", r"line 5: no image \(1 such lines\)"),
        (f"image,label\n\n{A},1\n{B},\n{C},\n", r"line 4: no label \(2 such lines\)"),
    ],
)
def test_what_is_no_list_is_said(tmp_path, faces, text, says):
    with pytest.raises(UserError, match=says):
        listed(tmp_path, faces, text, optional=("masked",))


def test_long_lines_do_not_flood_the_terminal(tmp_path, faces):
    with pytest.raises(UserError) as said:
        listed(tmp_path, faces, "x" * 100_000 + "\n")
    assert len(str(said.value)) < 500


def test_files_that_are_missing(tmp_path, faces):
    with pytest.raises(UserError, match=r"nowhere.csv: cannot be read: No such file"):
        read_list(tmp_path / "nowhere.csv", faces)
    with pytest.raises(UserError, match=r"its images: .*nowhere: no such file or folder"):
        listed(tmp_path, tmp_path / "nowhere", f"image,label\n{A},1\n")
    names = [f"x{number}.png" for number in range(7)]
    path = write_list(tmp_path / "x.csv", ("image", "label"), [(A, 1), *((name, 1) for name in names)])
    with pytest.raises(
        UserError, match=r"7 of 8 images are not in .*faces: x0.png, x1.png, x2.png, x3.png, x4.png and 2 more$"
    ):
        read_list(path, faces)


@pytest.mark.parametrize("name", ["/etc/hostname", "../secret.png", "p00/../../secret.png"])
def test_a_list_does_not_lead_out_of_its_folder(tmp_path, faces, name):
    (faces.parent / "secret.png").write_bytes((faces / A).read_bytes())
    with pytest.raises(UserError, match=rf"1 paths lead out of .*faces: {name}$"):
        listed(tmp_path, faces, f"image,label\n{A},1\n{name},1\n")
    assert listed(tmp_path, faces, f"image,label\n./p00/{A.removeprefix('p00/')},1\n").images.num_images == 1


def test_images_that_stand_there_twice_are_counted_and_said(tmp_path, faces):
    found = listed(tmp_path, faces, f"image,label\n{A},1\n{A},1\n{B},1\n{C},1\n{C},2\n{C},2\n")
    assert found.images.num_images == 6
    assert found.notices == [
        f"2 images stand in the list more than once and count as often: {A}, {C}",
        f"1 images stand there with different labels: {C}",
    ]


def test_the_fingerprint_is_of_what_the_images_are(tmp_path):
    for name in "ab":
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.zeros((4, 4, 3), np.uint8))
    text = "image,label\na.png,1\nb.png,2\n"
    one = listed(tmp_path, tmp_path, text).images.fingerprint
    assert one == listed(tmp_path, tmp_path, text.replace("2", "1")).images.fingerprint  # the label is no image
    assert one != listed(tmp_path, tmp_path, "image,label\nb.png,1\na.png,2\n").images.fingerprint
    cv2.imwrite(str(tmp_path / "b.png"), np.zeros((5, 4, 3), np.uint8))
    assert one != listed(tmp_path, tmp_path, text).images.fingerprint


def test_a_file_that_goes_away_or_is_none_is_a_corrupt_image(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "gone.png").write_bytes(b"x")
    found = listed(tmp_path, tmp_path, "image,label\nfolder.png,1\ngone.png,1\n")
    (tmp_path / "gone.png").unlink()
    for image, says in ((0, "Is a directory"), (1, "No such file")):
        with pytest.raises(CorruptImageError, match=says):
            found.images.pixels(image, 16)


def test_members_of_a_tar(tmp_path, faces, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "tars").mkdir()
    tar = write_tar(tmp_path / "tars" / "x.tar", faces)
    for source in (tar, tmp_path / "tars"):
        for folder in ("faces/", ""):  # in the list, or not
            found = listed(tmp_path, source, f"image,label\n{folder}{C},1\n{folder}{A},2\n")
            assert [found.images.read(image) for image in (0, 1)] == [(faces / name).read_bytes() for name in (C, A)]
        with pytest.raises(UserError, match=r"1 of 2 images are not in .*: p77/x.png; a name there: faces/p"):
            listed(tmp_path, source, f"image,label\n{A},1\np77/x.png,1\n")


def test_numbers_of_records(tmp_path, monkeypatch):
    """A list says a record's number as every message of zennas does; the first one, 0, is the file's header."""
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    written = list(drawn_faces(2, 3, seed=0))
    folder = write_records(tmp_path / "records", written)
    for source in (folder, folder / "train.rec"):
        found = listed(tmp_path, source, "image,label\n2,a\n5,b\n")
        for image, number in enumerate((2, 5)):
            assert found.images.where(image) == f"train.rec, record {number}"
            assert (found.images.pixels(image, 32) == written[number - 1][2][..., ::-1]).all()
        with pytest.raises(UserError, match=r"2 of 3 images are not in .*: 0, p00.png; records go by number there: 1$"):
            listed(tmp_path, source, "image,label\n0,a\n1,a\np00.png,a\n")


def test_a_source_that_is_none(tmp_path, faces):
    (tmp_path / "x.zip").write_bytes(b"PK")
    (tmp_path / "x.tar").write_bytes(b"no tar at all" * 100)
    for name, says in (("x.zip", "is a file of no known layout"), ("x.tar", r"x\.tar")):
        with pytest.raises(UserError, match=says):
            listed(tmp_path, tmp_path / name, f"image,label\n{A},1\n")


def values(text):
    """An ImageList with a column `worn` of these values, from line 2 on."""

    class Listed:
        column = {"worn": np.array(text, object)}
        line_N = np.arange(2, len(text) + 2)

    return Listed


def test_truths_and_choices():
    assert (
        truths(values(["1", "TRUE", "Yes", "0", "false", "no", ""]), "worn", "x.csv").tolist()
        == [True] * 3 + [False] * 4
    )
    with pytest.raises(UserError, match=r"x.csv, line 3: worn: given '2', allowed: 1 or 0"):
        truths(values(["1", "2", "maybe"]), "worn", "x.csv")
    assert choices(values(["Hat", "cap"]), "worn", ("hat", "cap"), "x.csv").tolist() == ["hat", "cap"]
    with pytest.raises(UserError, match=r"x.csv, line 2: worn: given 'scarf', allowed: hat, nothing"):
        choices(values(["scarf"]), "worn", ("hat", ""), "x.csv")


def test_names_tell_people():
    """What the other tests of this room rest on."""
    assert person(image_name(7, 2)) == 7
