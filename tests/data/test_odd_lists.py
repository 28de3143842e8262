"""Lists whose queries and gallery do not agree on people or cameras: a word on each, for the figures are wrong then."""

import pytest

from tests.data.people_sets import as_table
from zennas.data.gallery_set import open_gallery_set

NAMED = ("q/0002_c1_1.png", "q/0005_c2_1.png", "g/0002_c2_2.png", "g/0005_c1_2.png", "g/0007_c1_1.png")
FOLDERS = ("q/Ada/1.png", "q/Bob/1.png", "g/Ada/2.png", "g/Bob/2.png", "g/Max/1.png")
PLAIN = ("1.png", "2.png", "3.png", "4.png", "5.png")
ROLE_5 = ("query", "query", "gallery", "gallery", "gallery")


@pytest.mark.parametrize("images", [True, False])  # LIST.csv@IMAGES, and a table beside its images
@pytest.mark.parametrize(
    ("names", "labels", "cameras", "says"),
    [
        (NAMED, "01012", "12211", None),
        (PLAIN, "01102", "12121", None),  # the names say nothing of it
        (NAMED, "01102", "12121", "names of their files (2 labels, the first: 0 is 0002 there and 0005 here)"),
        (FOLDERS, "01102", "12121", "names of their folders (2 labels, the first: 0 is Ada there and Bob here)"),
        # Distractors, each with a label of its own, hide nothing.
        (
            ("q/0002_c1_1.png", "q/0005_c2_1.png", "g/0005_c2_2.png", "g/0000_c1_1.png", "g/0000_c2_1.png"),
            *("01078", "12212", "1 labels, the first: 0 is 0002 there and 0005 here"),
        ),
        (FOLDERS, "00012", "12211", None),  # nor do folders that are no people
        (PLAIN, "01012", ("1.0", "2.0", "2", "1", "1"), "count as different ones: 1 = 1.0, 2 = 2.0"),
        (PLAIN, "01012", ("c1", "c2", "c2", "1", "01"), "count as different ones: 01 = 1 = c1"),
        (PLAIN, "01012", "12334", None),  # one camera's people may be looked for among another's
        (PLAIN, "01012", "AB112", "queries and gallery have no camera in common (A, B; 1, 2), so that nothing"),
    ],
)
def test_a_table_that_does_not_agree_with_itself(tmp_path, names, labels, cameras, images, says):
    path = as_table(tmp_path, list(zip(names, labels, cameras, ROLE_5, strict=True)))
    notices = open_gallery_set(f"{path}@{path.parent}" if images else str(path)).notices
    assert (len(notices), says in notices[0]) == (1, True) if says else not notices, notices
