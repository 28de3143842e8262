"""Lists of pairs in the forms that people have: the same pairs through each of them, and each fault by its line."""

import itertools
import re

import cv2
import numpy as np
import pytest

from tests.train.conftest import drawn_faces, write_records, write_tar
from zennas.data.images import decode
from zennas.records import UserError
from zennas.tasks.face.pair_lists import Line, form_of, read_people
from zennas.tasks.face.pairs import open_pairs, sets_of

# A name with a blank, one with blanks and a digit, one that is a number, one with hyphens.
NAMES = ("Ada L", "Louis 14", "12", "Jean-Luc-2")
PAIRS = [  # ((name, number), (name, number)), two folds: same, different, same, different
    (("Ada L", 1), ("Ada L", 2)),
    (("Louis 14", 1), ("12", 2)),
    (("12", 1), ("12", 2)),
    (("Jean-Luc-2", 2), ("Ada L", 1)),
]
SAME = [True, False, True, False]


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """Name/Name_000n.png, two of each; the value of an image says whose it is and which."""
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    for name in NAMES:
        (tmp_path / "faces" / name).mkdir(parents=True)
        for number in (1, 2):
            image_HW3 = np.full((4, 4, 3), value_of((name, number)), np.uint8)
            cv2.imwrite(str(tmp_path / "faces" / name / f"{name}_{number:04d}.png"), image_HW3)
    return tmp_path / "faces"


def value_of(image):
    return 10 * NAMES.index(image[0]) + image[1]


def people(separator="\t", *, head=""):
    lines = []
    for (name, number), (other, second) in PAIRS:
        fields = [name, number, second] if name == other else [name, number, other, second]
        lines.append(separator.join(map(str, fields)))
    return head + "\n".join(lines) + "\n"


def paths(template, *, head="", words=("1", "0"), folder="", suffix=".png"):
    """Lines of a table: {a} and {b} are the paths, {same} is one of the words, {fold} the fold."""
    files = [[f"{folder}{name}/{name}_{number:04d}{suffix}" for name, number in pair] for pair in PAIRS]
    lines = [
        template.format(a=a, b=b, same=words[0] if same else words[1], fold=("x", "y")[pair // 2])
        for pair, ((a, b), same) in enumerate(zip(files, SAME, strict=True))
    ]
    return head + "\n".join(lines) + "\n"


# name of the file -> its text, and its folds
LISTS = {
    "lfw.txt": (people(head="2\t1\n"), [0, 0, 1, 1]),
    "head of one number.txt": (people(head="2\n"), [0, 1, 2, 3]),
    "no head.txt": (people(), [0, 1, 2, 3]),
    "blanks.txt": (people(" ", head="2 1\n"), [0, 0, 1, 1]),
    "blanks, no head.txt": (people(" "), [0, 1, 2, 3]),
    "kaggle.csv": (people(",", head="name,imagenum1,imagenum2,\n").replace("2\n", "2,\n"), [0, 1, 2, 3]),
    "BOM and CRLF.txt": ("\ufeff" + people(head="2\t1\n").replace("\n", "\r\n"), [0, 0, 1, 1]),
    "plain.csv": (paths("{a},{b},{same}"), [0, 1, 2, 3]),
    "label first.csv": (paths("{same},{a},{b}"), [0, 1, 2, 3]),
    "words.csv": (paths("{a};{b};{same}", words=("Same", "different")), [0, 1, 2, 3]),
    "tabs.tsv": (paths("{a}\t{b}\t{same}", words=("True", "False")), [0, 1, 2, 3]),
    "minus one.txt": (paths("{a}\t{b}\t{same}", words=("1", "-1")), [0, 1, 2, 3]),
    "header.csv": (paths("{a},{b},{same}", head="path1,path2,label\n"), [0, 1, 2, 3]),
    "folds.csv": (paths('{fold},{same},"{a}","{b}"', head="fold,same,first,second\n"), [0, 0, 1, 1]),
    "pandas.csv": (paths("7,{a},{b},{same}", head=",first,second,issame\n", words=("1.0", "0.0")), [0, 1, 2, 3]),
    "of jpegs.csv": (paths("{a},{b},{same}", suffix=".jpg"), [0, 1, 2, 3]),
    "elsewhere.csv": (paths("{a},{b},{same}", folder="/data/lfw/"), [0, 1, 2, 3]),
    "from above.csv": (paths("{a},{b},{same}", folder="../Data/", suffix=".jpg"), [0, 1, 2, 3]),
    "two lines.txt": (paths("{a}\t{same}\n{b}\t{same}", words=("2", "0")), [0, 1, 2, 3]),
}


def check(pairs):
    images = [
        [int(decode(pairs.images.read(int(image)))[0, 0, 0]) for image in image_P]
        for image_P in (pairs.first_P, pairs.second_P)
    ]
    assert list(zip(*images, strict=True)) == [(value_of(first), value_of(second)) for first, second in PAIRS]
    assert pairs.same_P.tolist() == SAME and pairs.same_P.dtype == bool and pairs.images.num_images == 6


@pytest.mark.parametrize("name", LISTS)
def test_every_form_gives_the_same_pairs(tmp_path, faces, name):
    text, folds = LISTS[name]
    (tmp_path / name).write_bytes(text.encode())
    for images in (faces, write_tar(tmp_path / "faces.tar", faces)):
        pairs = open_pairs(f"{tmp_path / name}@{images}")
        check(pairs)
        assert pairs.fold_P.tolist() == folds and pairs.name == name.rpartition(".")[0]


@pytest.mark.parametrize("text", ["1 2 1\n3 4 0\n", "1 1 2\n0 3 4\n", "1,2,1\n3,4,0\n"])
def test_numbers_of_records(tmp_path, faces, text):
    (tmp_path / "pairs.txt").write_text(text)
    pairs = open_pairs(f"{tmp_path / 'pairs.txt'}@{write_records(tmp_path / 'records', drawn_faces(2, 2, seed=0))}")
    assert pairs.same_P.tolist() == [True, False]
    assert [pairs.images.where(image) for image in range(4)] == [f"train.rec, record {n}" for n in (1, 2, 3, 4)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a.png,b.png,1\nc.png,d.png\n", "line 2: 2 columns, expected 3: two paths and 1 or 0"),
        ("a.png,b.png,1\nc.png,d.png,2\n", "line 2: given '2', allowed: 1, true, same or 0, false, different"),
        ("\na.png,b.png,1\n\n,d.png,0\n", "line 4: a path is missing"),
        ("a b.png c.png 1\nd.png e.png 0\n", "line 1: 4 columns, expected 3.*commas or tabs part paths"),
        ("left,right,distance\na.png,b.png,1\n", r"line 1: a header \(left, right, distance\) in which no column"),
        ("a,b,c,same\na.png,b.png,c.png,1\n", "line 1: columns a, b, c, same; expected two of images, one of same"),
        ("a,b,same\n", "a header and no pair below it"),
        ('a,b,same\n"a.png,b.png,1\n', "line 2: unexpected end of data"),
        ("a.png 1\nb.png 1\nc.png 0\n", "3 lines; two lines are a pair"),
        ("a.png 1\nb.png 0\n", "line 2: 0, and 1 in the line before it; a pair has one"),
        ("x,y,1\n12/12_0001.png,y,0\n", r"2 of 3 images are not in .*faces: x, y"),
        ("../../faces/../x.png,y,1\n", "1 paths lead out of .*faces/../x.png"),
        ("Ada L 1 2 3 4 x\n", "line 1: 7 columns, expected 3"),
        ("\0\0", "it holds no text"),
    ],
)
def test_wrong_lists_are_said_with_their_line(tmp_path, faces, text, says):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(UserError, match=says) as said:
        open_pairs(f"{tmp_path / 'pairs.csv'}@{faces}")
    assert str(tmp_path / "pairs.csv") in str(said.value) and "\n" not in str(said.value)


def test_a_line_that_can_be_read_in_two_ways_goes_by_the_names_that_are_there(tmp_path):
    line = [Line(3, "Louis 14 1 2")]
    path = tmp_path / "pairs.txt"
    assert read_people(line, path, {"Louis 14"}).same_P == [True]
    assert read_people(line, path, {"Louis", "1"}).first_P == [("Louis", 14)]
    with pytest.raises(UserError, match=r"pairs.txt, line 3: 'Louis 14 1 2' can be read in 2 ways; part its columns"):
        read_people(line, path, {"Louis 14", "Louis", "1"})


def test_two_images_of_one_number_are_refused(tmp_path, faces):
    (faces / "12" / "12_0001.bmp").write_bytes(b"x")
    (tmp_path / "pairs.txt").write_text(people())
    with pytest.raises(UserError, match=r"1 of 6 images fit several in .*: 12/12_0001.bmp = 12/12_0001.png"):
        open_pairs(f"{tmp_path / 'pairs.txt'}@{faces}")


def test_lists_of_thousands_are_told_by_their_lines(tmp_path):
    """A pair of LFW's may end as a table does, and the first pair of a table look like one of LFW's."""
    lfw = [Line(number, f"Ada\t{number}\t{number % 2}") for number in range(1, 3000)] + [Line(3000, "Ada\t1\tBo\t3")]
    assert form_of(lfw[-2:] + lfw) == "people"
    assert form_of([Line(1, "7 1 1"), *(Line(number, f"a/{number}.jpg b.jpg 1") for number in range(2, 9))]) == "paths"


# --- CFP


def write_cfp(folder, *, num_people=4, num_folds=2):
    """CFP in small, as its README says: (FF pairs, FP pairs) of each fold, as lists of (first, second, same)."""
    kinds = {"F": ("frontal", 3), "P": ("profile", 2)}
    lists = {kind: [] for kind in kinds}
    for person, (kind, (name, count)) in itertools.product(range(1, num_people + 1), kinds.items()):
        for number in range(1, count + 1):
            path = f"Data/Images/{person:03d}/{name}/{number:02d}.jpg"
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            value = 40 * person + 10 * (kind == "P") + number
            cv2.imwrite(str(folder / path), np.full((8, 8, 3), value, np.uint8))
            lists[kind].append(path)
    (folder / "Protocol").mkdir()
    for kind, images in lists.items():
        text = "".join(f"{number} ../{path}\n" for number, path in enumerate(images, start=1))
        (folder / "Protocol" / f"Pair_list_{kind}.txt").write_text(text)
    for fold in range(num_folds):
        one, other = 2 * fold, 2 * fold + 1
        pairs = {
            "FF": ((3 * one + 1, 3 * one + 3), (3 * one + 2, 3 * other + 1)),
            "FP": ((3 * one + 1, 2 * one + 2), (3 * other + 3, 2 * one + 1)),
        }
        for kind, (same, different) in pairs.items():
            path = folder / "Protocol" / "Split" / kind / f"{fold + 1:02d}"
            path.mkdir(parents=True)
            (path / "same.txt").write_text(f"{same[0]},{same[1]}\n")
            (path / "diff.txt").write_text(f"{different[0]},{different[1]}\n")
    return folder


EXPECTED = {  # (person, kind, number) of both images, fold by fold
    "FF": [
        ("001/frontal/01", "001/frontal/03"),
        ("001/frontal/02", "002/frontal/01"),
        ("003/frontal/01", "003/frontal/03"),
        ("003/frontal/02", "004/frontal/01"),
    ],
    "FP": [
        ("001/frontal/01", "001/profile/02"),
        ("002/frontal/03", "001/profile/01"),
        ("003/frontal/01", "003/profile/02"),
        ("004/frontal/03", "003/profile/01"),
    ],
}


@pytest.mark.parametrize("kind", EXPECTED)
@pytest.mark.parametrize("images", ["", "cfp", "cfp/Data/Images", "aligned"])
def test_cfp_by_its_own_protocol(tmp_path, kind, images):
    """From its folder, from its images, and from aligned ones of another suffix."""
    cfp = write_cfp(tmp_path / "cfp")
    for path in (cfp / "Data" / "Images").rglob("*.jpg"):
        copy = (tmp_path / "aligned" / path.relative_to(cfp / "Data" / "Images")).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    where = f"{cfp / 'Protocol' / 'Split' / kind}" + (f"@{tmp_path / images}" if images else "")
    pairs = open_pairs(where)
    found = [
        tuple(re.search(r"\d{3}/\w+/\d\d", pairs.images.where(int(image)))[0] for image in pair)
        for pair in zip(pairs.first_P, pairs.second_P, strict=True)
    ]
    assert found == EXPECTED[kind] and pairs.same_P.tolist() == [True, False] * 2
    assert pairs.fold_P.tolist() == [0, 0, 1, 1] and pairs.name == f"CFP-{kind}"


def test_the_protocol_means_both_of_its_sets(tmp_path):
    cfp = write_cfp(tmp_path / "cfp")
    both = [f"{cfp}/Protocol/Split/{kind}@{cfp}" for kind in ("FF", "FP")]
    assert sets_of(str(cfp / "Protocol")) == sets_of(str(cfp)) == both
    assert sets_of(f"{cfp}/Protocol@x") == [f"{cfp}/Protocol/Split/{kind}@x" for kind in ("FF", "FP")]
    with pytest.raises(UserError, match=r"holds 2 sets; name one of them: .*Split/FF@.* or .*Split/FP@"):
        open_pairs(str(cfp))


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("Split/FP/01/same.txt", "1,2\n1;99\n", "FP/01/same.txt, line 2: there is no image 99; the list has 8"),
        ("Split/FP/02/diff.txt", "1 x\n", r"FP/02/diff.txt, line 1: expected two numbers \(17,42\), got '1 x'"),
        ("Split/FP/02/diff.txt", None, "FP/02/diff.txt: cannot be read: No such file"),
        ("Pair_list_P.txt", "../Data/Images/x.jpg\n", "Pair_list_P.txt, line 1: expected a number and a path"),
        ("Pair_list_P.txt", "".join(f"{n} ../gone/{n}.jpg\n" for n in range(1, 9)), r"FP: 4 of 8 images are not in"),
    ],
)
def test_what_is_wrong_with_a_protocol_is_said(tmp_path, file, text, says):
    cfp = write_cfp(tmp_path / "cfp")
    (cfp / "Protocol" / file).unlink()
    if text is not None:
        (cfp / "Protocol" / file).write_text(text)
    with pytest.raises(UserError, match=says):
        open_pairs(f"{cfp}/Protocol/Split/FP")
