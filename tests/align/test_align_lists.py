"""Files that name photographs, in the forms that people have."""

import numpy as np
import pytest

from zennas.align.lists import known_identities, known_landmarks, named_lines
from zennas.records import UserError

NUMBERS = [30, 40, 60, 40, 45, 60, 33, 80, 58, 80]
WORDS = [str(number) for number in NUMBERS]


class Named:
    """A source of these names."""

    def __init__(self, *names):
        self.names, self.num_images, self.path = names, len(names), "photographs"

    def name(self, image):
        return self.names[image]

    def record(self, image):
        return None

    def where(self, image):
        return self.names[image]


FORMS = {
    "CelebA's": "2\nlefteye_x lefteye_y righteye_x righteye_y nose_x nose_y leftmouth_x leftmouth_y rightmouth_x "
    "rightmouth_y\n000001.jpg  " + "   ".join(WORDS) + "\n",
    "a table": "image_id,lefteye_x,lefteye_y,righteye_x,righteye_y,nose_x,nose_y,lm_x,lm_y,rm_x,rm_y\n000001.jpg,"
    + ",".join(WORDS),
    "tabs": "000001.jpg\t" + "\t".join(WORDS),
    "other folders and another suffix": "/data/images/000001.png " + " ".join(WORDS),
    "no suffix": "000001 " + " ".join(WORDS),
}


@pytest.mark.parametrize("form", FORMS)
def test_landmarks(form, tmp_path):
    (tmp_path / "list.txt").write_text(FORMS[form])
    points_N52, notices = known_landmarks(Named("000001.jpg", "000002.jpg"), tmp_path / "list.txt")
    assert points_N52[0].ravel().tolist() == NUMBERS and np.isnan(points_N52[1]).all()
    assert notices == ["1 of 2 photographs have no landmarks in list.txt"]


def test_names_with_spaces_and_names_that_several_have(tmp_path):
    (tmp_path / "list.txt").write_text("Ada B/1.jpg 5\nZoe/1.jpg 6\n1.jpg 7\n")
    source = Named("Ada B/1.jpg", "Zoe/1.jpg")
    label_N, names, notices = known_identities(source, tmp_path / "list.txt")
    assert label_N.tolist() == [0, 1] and names == ["5", "6"]
    assert notices == ["list.txt: 1 names are no image of photographs: 1.jpg"]


def test_identities_are_numbered_in_their_order(tmp_path):
    (tmp_path / "list.csv").write_text("image_id,identity\na.jpg,10\nb.jpg,9\nc.jpg,x\n")
    label_N, names, _ = known_identities(Named("a.jpg", "b.jpg", "c.jpg", "d.jpg"), tmp_path / "list.csv")
    assert names == ["9", "10", "x"] and label_N.tolist() == [1, 0, 2, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no line"),
        ("a.jpg 1 2 3\n" * 3, "line 3: expected a name and ten numbers"),
        ("a.jpg " + " ".join(WORDS) + "\nb.jpg 1 2\n", "line 2: expected"),
        ("a.jpg " + " ".join([*WORDS[:-1], "x"]), "expected ten numbers"),
        *((f"a.jpg {' '.join([*WORDS[:-1], odd])}", "expected ten numbers") for odd in ("nan", "inf", "1e30")),
        (f"a.jpg {' '.join(WORDS)}\na.jpg {' '.join(WORDS[::-1])}", "a.jpg: has two lines that differ: 30 40"),
        ("z.jpg " + " ".join(WORDS), "none of its 1 names is an image of photographs: z.jpg; a name there: a.jpg"),
    ],
)
def test_wrong_lines_are_named(text, message, tmp_path):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(UserError, match=message):
        known_landmarks(Named("a.jpg", "b.jpg"), tmp_path / "list.txt")
    with pytest.raises(UserError, match="cannot be read"):
        named_lines(tmp_path, num_values=1, expected="")


def test_an_identity_whose_name_no_folder_can_have_is_told_before_anything_is_aligned(tmp_path):
    (tmp_path / "list.csv").write_text(f"a.jpg,{'é' * 125}\nb.jpg,{'é' * 126}\n")
    source = Named("a.jpg", "b.jpg")
    with pytest.raises(UserError, match=r"list.csv: 1 identities have names of more than 250 bytes.*: é{70}"):
        known_identities(source, tmp_path / "list.csv")
