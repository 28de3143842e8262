"""Sets of people in every layout: who trains, who is asked for and in what, and what is said of the rest."""

import multiprocessing
import pathlib
import pickle

import cv2
import h5py
import numpy as np
import pytest
import scipy.io

from tests.data.people_sets import (
    CUHK03,
    MARKET,
    MSMT17,
    ROWS,
    TESTED,
    as_cuhk03,
    as_duke,
    as_market,
    as_msmt17,
    as_own_folders,
    as_table,
    crop,
    number_of,
    png,
    write,
)
from zennas.data.gallery_set import labels_of, open_gallery_set
from zennas.data.images import CorruptImageError, UnreadableImageError, decode
from zennas.data.labels import write_labels
from zennas.data.layouts import LAYOUTS, layout_at
from zennas.data.sightings import DISTRACTOR, GALLERY, JUNK, QUERY, ROLES, TRAIN
from zennas.data.sources import ACCEPTED, open_source
from zennas.metrics.retrieval import reidentify, single_shot
from zennas.records import UserError

ROOT = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))


MADE = {
    "market": as_market,
    "cuhk03": lambda root: as_cuhk03(root) / "labelled",
    "msmt17": as_msmt17,
    "folders": as_own_folders,
    "table": as_table,
}


def seen_in(path):
    """[(identity, camera)] of what trains."""
    source = open_source(path)
    cameras = [None] * source.num_images if source.camera_N is None else source.camera_N.tolist()
    return sorted(
        zip((source.identity_names[label] for label in source.label_N.tolist()), cameras, strict=True), key=str
    )


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_trains_and_is_looked_through(name, tmp_path):
    path = MADE[name](tmp_path / "set")
    assert layout_at(path) is LAYOUTS[name]
    source, the_set = open_source(path), open_gallery_set(str(path))
    assert source.num_images and source.num_identities == len(source.identity_names) and not source.num_empty_identities
    assert source.label_N.min() == 0 and len(source.camera_N) == source.num_images
    assert all(decode(source.read(image)).shape == (12, 6, 3) for image in range(source.num_images))
    assert the_set.is_query_N.any() and not the_set.is_query_N.all()
    assert all(the_set.images.pixels(image, (12, 6)).shape == (12, 6, 3) for image in range(the_set.images.num_images))
    assert labels_of(the_set).answerable_Q.any()
    again = open_source(path)
    assert again.fingerprint == source.fingerprint == pickle.loads(pickle.dumps(source)).fingerprint
    assert open_gallery_set(str(path)).images.fingerprint == the_set.images.fingerprint
    # Nobody trains who is looked for.
    sightings = LAYOUTS[name].read(path, ROLES)
    trained, tested = (
        set(sightings.label_N[np.isin(sightings.role_N, roles)].tolist()) - {JUNK, DISTRACTOR}
        for roles in ((TRAIN,), (QUERY, GALLERY))
    )
    assert trained and tested and not trained & tested


# --- Market-1501, DukeMTMC-reID


def test_market_by_hand(tmp_path):
    root = as_market(tmp_path / "market")
    assert seen_in(root) == seen_in(root / "bounding_box_train") == [("0002", 1), ("0002", 2), ("0007", 3)]
    line = open_source(root).notices[0]
    for said in ("2 images of nobody: junk and distractors", "1 images whose names say no person", "holiday.png"):
        assert said in line
    the_set = open_gallery_set(str(root))
    label_of = {the_set.images.where(image): label for image, label in enumerate(the_set.label_N.tolist())}
    assert len(label_of) == 8 == the_set.images.num_images  # two queries, six of the gallery
    assert label_of[MARKET[6]] == label_of[MARKET[8]] == label_of[MARKET[9]] != label_of[MARKET[7]]
    assert label_of[MARKET[11]] == JUNK and label_of[MARKET[12]] == label_of[MARKET[13]] > max(
        label_of[MARKET[6]], label_of[MARKET[7]]
    )
    assert the_set.notices == [
        "not used: 1 hidden or system files (Thumbs.db); 1 files without an image's suffix (.txt 1); 1 images deeper "
        "than the identities' folders (bounding_box_test/deeper/0003_c6s1_000001_01.png)"
    ]
    # 0003 has its other image by camera 4, behind two distractors and before nobody else.
    rows = np.zeros((8, 3))
    for image in range(8):
        name = the_set.images.where(image)
        rows[image] = {"0003": [1, 0, 0], "0005": [0, 1, 0], "-1_c": [1, 0, 0], "0000": [1, 0, 0]}[
            name.split("/")[1][:4]
        ]
    queries, gallery = the_set.is_query_N, ~the_set.is_query_N
    found = reidentify(
        *(of_image[queries] for of_image in (rows, the_set.label_N, the_set.camera_N)),
        *(of_image[gallery] for of_image in (rows, the_set.label_N, the_set.camera_N)),
        num_listed=4,
    )
    assert sorted(found.first_rank_Q.tolist()) == [1, 3]  # equal distractors come first; junk, and camera 1's, do not
    query = int(np.argmax(found.first_rank_Q))
    listed = [the_set.images.where(int(np.flatnonzero(gallery)[image])) for image in found.listed_QL[query]]
    assert listed[:3] == [MARKET[12], MARKET[13], MARKET[9]] and MARKET[11] not in listed
    assert found.right_QL[query].tolist() == [False, False, True, False]


def test_a_part_of_market_is_not_taken_for_another(tmp_path):
    """Who names the gallery's folder does not mean the training's, whose images lie beside it."""
    root = as_market(tmp_path / "market")
    assert open_gallery_set(str(root / "bounding_box_test")).is_query_N.sum() == 2
    with pytest.raises(UserError, match=r"bounding_box_test: is the folder of the gallery images; .*_box_train"):
        open_source(root / "bounding_box_test")
    with pytest.raises(UserError, match=r"bounding_box_train: is the folder of the train images; .* query and"):
        open_gallery_set(str(root / "bounding_box_train"))
    with pytest.raises(UserError, match=r"bounding_box_train: no such file or folder"):
        open_source(tmp_path / "elsewhere" / "bounding_box_train")


def test_duke_is_read_and_said_to_be_withdrawn(tmp_path):
    root = as_duke(tmp_path / "duke")
    assert seen_in(root) == [("0001", 2), ("0001", 5)]
    for notices in (open_source(root).notices, open_gallery_set(str(root)).notices):
        assert len(notices) == 1 and "its authors withdrew it in 2019" in notices[0]


def test_a_crop_that_is_replaced_is_noticed(tmp_path):
    root = as_market(tmp_path / "market")
    before, test = open_source(root).fingerprint, open_gallery_set(str(root)).images.fingerprint
    (root / MARKET[0]).write_bytes(png(77))
    (root / MARKET[8]).write_bytes(png(78))
    assert open_source(root).fingerprint != before
    assert open_gallery_set(str(root)).images.fingerprint != test


def test_new_labels_keep_the_cameras(tmp_path):
    source = open_source(as_market(tmp_path / "market"))
    write_labels(tmp_path / "labels.npz", source, np.where(source.camera_N == 2, -1, source.label_N))
    kept = open_source(source.path, labels=tmp_path / "labels.npz")
    assert kept.num_images == 2 and sorted(kept.camera_N.tolist()) == [1, 3]


# --- MSMT17


@pytest.mark.parametrize("folders", [{}, {"train": "mask_train_v2", "test": "mask_test_v2"}])
def test_msmt17_by_hand(tmp_path, folders):
    root = as_msmt17(tmp_path / "msmt17", **folders)
    assert seen_in(root) == [("0000", 1), ("0000", 2), ("0001", 5)]  # list_val trains, too
    the_set = open_gallery_set(str(root))
    assert the_set.camera_N.tolist() == [3, 4, 11] and the_set.label_N.tolist() == [0, 0, 1]
    sightings = LAYOUTS["msmt17"].read(root, ROLES)
    assert sightings.people == ["0000", "0001", "test-0000", "test-0001"]


def test_msmt17_without_a_file_that_a_list_names(tmp_path):
    root = as_msmt17(tmp_path / "msmt17")
    (root / "train" / MSMT17["list_val.txt"][0].split()[0]).unlink()
    source = open_source(root)
    assert source.num_images == 2 and "1 images that a list names and that are not there" in source.notices[0]


@pytest.mark.parametrize(
    ("name", "lines", "says"),
    [
        (
            "list_gallery.txt",
            ["0007/0007_003_11_0302afternoon_0009_0.png 0"],
            "list_gallery.txt, line 1: person 0 is of folder 0007 here and of 0000 at .*list_query.txt, line 1: labels "
            "that begin at 0 again",
        ),
        ("list_gallery.txt", ["0007/0007_003_11_x_0009_0.png 000"], "person 0 is of folder 0007 here and of 0000 at"),
        (
            "list_gallery.txt",  # without folders, the name says whom an image shows
            ["0007_003_11_x_0009_0.png 5", "0009_003_11_x_0009_0.png 5"],
            "line 2: person 5 is of 0009 here and of 0007 at .*line 1: labels that begin",
        ),
        ("list_query.txt", ["0000/0000_001_03_x_0_0.png zero"], "list_query.txt, line 1: given .*expected a path and"),
        ("list_query.txt", ["0000/0000.png 0"], "no camera in its name"),
        ("list_query.txt", ["../../x_1_02_3.png 0"], "leads out of the folder"),
    ],
)
def test_msmt17_lists_that_are_wrong(tmp_path, name, lines, says):
    root = as_msmt17(tmp_path / "msmt17")
    for line in lines:
        if ".." not in line:
            write(root / "test", [line.split()[0]])
    (root / name).write_text("\n".join(lines))
    with pytest.raises(UserError, match=says):
        open_gallery_set(str(root))


# --- CUHK03


@pytest.mark.parametrize(("part", "boxes"), [("detected", "detected"), ("labelled", "labeled"), ("labeled", "labeled")])
def test_cuhk03_by_its_new_protocol(tmp_path, part, boxes):
    root = as_cuhk03(tmp_path / "cuhk03")
    source = open_source(root / part)
    assert [*source.identity_names] == ["3_001", "4_001", "5_001"] and source.num_images == 5
    for image in range(source.num_images):
        _, _, name = source.name(image).partition("/")
        group, person, camera, column = map(int, name[:-4].split("_"))
        assert camera == source.camera_N[image] == 1 + (column > 5)
        pixels = decode(source.read(image))
        np.testing.assert_array_equal(pixels, crop(number_of(boxes, group, person, column - 1)))
    the_set = open_gallery_set(str(root / part))
    assert the_set.images.num_images == sum(len(columns) for group in CUHK03[:2] for columns in group)
    assert not the_set.single_shot and len(np.unique(the_set.label_N)) == 4
    assert [the_set.images.where(image) for image in np.flatnonzero(the_set.is_query_N)] == [
        f"{boxes}/{name}" for name in ("1_001_1_01.png", "1_002_1_01.png", "1_003_1_05.png", "2_001_1_01.png")
    ]


def test_cuhk03_by_a_classic_split(tmp_path):
    root = as_cuhk03(tmp_path / "cuhk03")
    people = {name for name, _ in seen_in(root / "detected-classic-4")}
    everybody = {(group, person) for group in range(1, 6) for person in range(1, len(CUHK03[group - 1]) + 1)}
    assert people == {f"{group}_{person:03d}" for group, person in everybody - set(TESTED)}
    the_set = open_gallery_set(str(root / "detected-classic-4"))
    num = sum(len(CUHK03[group - 1][person - 1]) for group, person in TESTED)
    assert the_set.single_shot and the_set.images.num_images == 2 * num and the_set.is_query_N.sum() == num
    rows = np.eye(3)[the_set.label_N]
    parts = [
        of_image[which]
        for which in (the_set.is_query_N, ~the_set.is_query_N)
        for of_image in (rows, the_set.label_N, the_set.camera_N)
    ]
    found = single_shot(*parts)
    assert found.at_rank[1] == 1.0 and len(found.unanswerable) == 0


def read_in_another_process(source, queue):
    queue.put([source.read(image) for image in range(source.num_images)])


def test_cuhk03_is_read_by_forked_processes(tmp_path):
    source = open_source(as_cuhk03(tmp_path / "cuhk03") / "detected")
    expected = [source.read(image) for image in range(source.num_images)]  # the file is open when it forks
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=read_in_another_process, args=(source, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    assert [queue.get(timeout=60) for _ in workers] == [expected] * 3
    for worker in workers:
        worker.join()


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (
            "",
            "say which boxes and protocol, as .*labelled: given nothing, allowed: detected, labelled, detected-classic",
        ),
        ("cuhk-03.mat", "given nothing"),
        ("painted", "given 'painted', allowed: detected"),
        ("detected-classic-21", "given 'detected-classic-21'"),
    ],
)
def test_what_of_cuhk03_has_to_be_said(tmp_path, part, says):
    root = as_cuhk03(tmp_path / "cuhk03")
    for opened in (open_source, lambda path: open_gallery_set(str(path))):
        with pytest.raises(UserError, match=says):
            opened(root / part)


def test_cuhk03_without_the_lists_of_the_new_protocol_or_damaged(tmp_path):
    root = as_cuhk03(tmp_path / "cuhk03")
    (root / "cuhk03_new_protocol_config_labeled.mat").write_bytes(b"no such thing" * 50)
    with pytest.raises(UserError, match=r"cuhk03_new_protocol_config_labeled.mat: is not CUHK03's new protocol"):
        open_source(root / "labelled")
    (root / "cuhk03_new_protocol_config_detected.mat").unlink()
    with pytest.raises(UserError, match=r"cuhk03_new_protocol_config_detected.mat: no such file; it holds the new"):
        open_source(root / "detected")
    (root / "cuhk-03.mat").write_bytes(b"no HDF5")
    with pytest.raises(UserError, match=r"cuhk-03.mat: is no MATLAB 7.3 file"):
        open_source(root / "detected-classic-1")


# --- a user's own


def test_own_folders_by_hand(tmp_path):
    root = as_own_folders(tmp_path / "own")
    source = open_source(root)
    assert seen_in(root) == [("Ada", -1), ("Ada", 1), ("Zoe", 2)] and "train/stray.png" in source.notices[0]
    the_set = open_gallery_set(str(root))
    assert the_set.camera_N[the_set.is_query_N].tolist() == [1] and sorted(the_set.camera_N.tolist()) == [1, 1, 2, 2]
    write(root, ["gallery/Max/no-number.png"])
    with pytest.raises(
        UserError, match=r"1 images have no camera in their name: gallery/Max/no-number.png; expected as c3"
    ):
        open_gallery_set(str(root))


def test_a_table_by_hand(tmp_path):
    path = as_table(tmp_path)
    assert seen_in(path) == [("Ada", 0), ("Ada", 1)]
    the_set = open_gallery_set(str(path))
    assert the_set.label_N.tolist() == [1, 1, 0, JUNK] and the_set.is_query_N.tolist() == [1, 0, 0, 0]
    assert seen_in(as_table(tmp_path / "plain", [("1.png", "x"), ("2.png", "y")], ("image", "label"))) == [
        ("x", None),
        ("y", None),
    ]
    cameraless = as_table(tmp_path / "other", [(row[0], row[1], row[3]) for row in ROWS], ("image", "label", "role"))
    the_set = open_gallery_set(str(cameraless))
    assert the_set.camera_N is None and the_set.notices[-1].startswith("no cameras are given")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("a.png", "x", 1, "trains")], "line 2: role: given 'trains', allowed: train, query, gallery"),
        ([("../a.png", "x", 1, "gallery")], "1 paths lead out of"),
        ([("a.png", "x", 1, "gallery")], "nobody is asked for"),
        ([("a.png", "x", 1, "query")], "the gallery is empty"),
        ([("a.png", "x", "", "query"), ("b.png", "x", 1, "gallery")], "1 images have no camera: a.png"),
    ],
)
def test_tables_that_are_wrong(tmp_path, rows, says):
    path = as_table(tmp_path / "set", [row for row in rows if ".." not in row[0]] or [("b.png", "x", 1, "query")])
    path.write_text("image,label,camera,role\n" + "\n".join(",".join(map(str, row)) for row in rows))
    with pytest.raises(UserError, match=says):
        open_gallery_set(str(path))


def test_labels_of_the_test_that_begin_again_are_told(tmp_path):
    """Whoever trains and is looked for is one person, or two of one number."""
    rows = [("1.png", "0", 1, "train"), ("2.png", "0", 1, "query"), ("3.png", "0", 2, "gallery")]
    rows += [("4.png", "9", 1, "gallery")]
    path = as_table(tmp_path, rows)
    notices = [*open_source(path).notices, *open_gallery_set(str(path)).notices]
    assert len(notices) == 2 and all("1 people train and are looked for, too: 0; where" in line for line in notices)
    (tmp_path / "1.png").unlink()
    with pytest.raises(UserError, match=r"1 of 1 images are not in .*: 1.png"):
        open_source(path)


# --- sets on which no network can be judged


def write_market(root, queries, gallery):
    names = [f"query/{name}.png" for name in queries] + [f"bounding_box_test/{name}.png" for name in gallery]
    (root / "bounding_box_test").mkdir(parents=True)
    (root / "query").mkdir()
    return write(root, names)


@pytest.mark.parametrize(
    ("queries", "gallery", "says"),
    [
        (["0001_c1_1"], [], "bounding_box_test: holds no image of a person: the gallery is empty"),
        ([], ["0001_c1_1"], "query: holds no image of a person: nobody is asked for"),
        (["0001_c1_1"], ["-1_c2_1"], "every gallery image has the label -1"),
        (["0001_c1_1"], ["0001_c1_2", "0002_c1_3"], "all 3 images are of one camera"),
        (["0001_c1_1"], ["0001_c2_2", "-1_c1_3"], "all 2 images have one label, so that every answer is right"),
        (
            ["0001_c1_1", "0002_c1_1", "0003_c2_1"],
            ["0001_c1_2", "0009_c2_2"],
            "none of its 3 queries has a right answer: the people of 2 are not in the gallery, the people of 1 are "
            "there by the query's own camera alone; are queries and gallery numbered alike",
        ),
    ],
)
def test_sets_on_which_nobody_can_be_judged(tmp_path, queries, gallery, says):
    with pytest.raises(UserError, match=says):
        open_gallery_set(str(write_market(tmp_path / "set", queries, gallery)))


def test_a_part_that_is_not_there(tmp_path):
    root = write_market(tmp_path / "set", ["0001_c1_1"], ["0001_c2_1", "0002_c2_1"])
    with pytest.raises(UserError, match=r"set: holds no folder bounding_box_train: nobody is there to train on$"):
        open_source(root)
    (root / "query" / "0001_c1_1.png").unlink()
    (root / "query").rmdir()
    with pytest.raises(UserError, match=r"set: holds no folder query: nobody is asked for$"):
        open_gallery_set(str(root))


def test_a_list_and_its_images_the_wrong_way_round(tmp_path):
    table = as_table(tmp_path)
    with pytest.raises(
        UserError, match=r": is a folder, and no list; expected LIST@IMAGES; the other way round: .*csv@"
    ):
        open_gallery_set(f"{tmp_path}@{table}")


def test_what_is_no_set_of_people(tmp_path):
    with pytest.raises(UserError, match=r"is no set of people; accepted are LIST.csv@IMAGES, CUHK03, .*: see zennas/d"):
        open_gallery_set(str(tmp_path))
    with pytest.raises(UserError, match="no such file or folder"):
        open_gallery_set(str(tmp_path / "nothing"))


def test_the_page_that_an_error_names_has_every_layout():
    known, page = ACCEPTED.removeprefix("accepted are ").split(": see ")
    text = (ROOT / page).read_text().replace("`", "").casefold()
    names = known.replace(" or ", " ").split(", ")
    assert len(names) == len(LAYOUTS) + 3 and [name for name in names if name.strip().casefold() not in text] == []


def test_images_of_other_sizes_and_of_none(tmp_path):
    """A crop of any size is resized to what a network sees; a file that is no image is one image's fault."""
    root = write_market(tmp_path / "set", ["0001_c1_1"], ["0001_c2_1", "0002_c2_1"])
    (root / "bounding_box_test" / "0001_c2_1.png").write_bytes(png(5, height=301, width=77))
    (root / "bounding_box_test" / "0002_c2_1.png").write_bytes(b"no image")
    the_set = open_gallery_set(str(root))
    assert [the_set.images.pixels(image, (16, 8)).shape for image in (0, 1)] == [(16, 8, 3)] * 2
    with pytest.raises(CorruptImageError):
        the_set.images.pixels(2, (16, 8))
    assert cv2.imdecode(np.frombuffer(the_set.images.read(1), np.uint8), 1).shape == (301, 77, 3)


def changed_config(root, **changes):
    path = root / "cuhk03_new_protocol_config_labeled.mat"
    kept = {key: value for key, value in scipy.io.loadmat(path).items() if not key.startswith("_")}
    scipy.io.savemat(path, kept | changes)


def without_references(root):
    with h5py.File(root / "cuhk-03.mat", "r+") as file:
        del file["labeled"], file["testsets"]
        file["labeled"], file["testsets"] = np.zeros((5, 1)), np.zeros((1, 20))


def torn(root):
    """Good at its beginning, zeros behind it."""
    whole = (root / "cuhk-03.mat").read_bytes()
    (root / "cuhk-03.mat").write_bytes(whole[:2048] + bytes(len(whole) - 2048))


@pytest.mark.parametrize(
    ("damage", "part", "says"),
    [
        (without_references, "labelled-classic-1", "cuhk-03.mat: is damaged, or is not CUHK03's: "),
        (torn, "labelled-classic-1", "cuhk-03.mat: is "),
        (
            lambda root: h5py.File(root / "cuhk-03.mat", "w").close(),
            "labelled-classic-1",
            "no labeled and no testsets",
        ),
        (lambda root: scipy.io.savemat(root / "cuhk-03.mat", {"a": 1}), "labelled", "is no MATLAB 7.3 file"),
        (
            lambda root: (root / "cuhk03_new_protocol_config_labeled.mat").unlink(),
            "labelled",
            "labeled.mat: no such file",
        ),
        (
            lambda root: (root / "cuhk03_new_protocol_config_labeled.mat").write_bytes(b"none"),
            "labelled",
            "labeled.mat: is not CUHK03's new protocol",
        ),
        (lambda root: changed_config(root, train_idx=99), "labelled", "train_idx: given 99, allowed: 1 to "),
        (lambda root: changed_config(root, train_idx=0), "labelled", "train_idx: given 0, allowed: 1 to "),
    ],
)
def test_files_of_cuhk03_of_the_wrong_kind(tmp_path, damage, part, says):
    root = as_cuhk03(tmp_path / "set")
    damage(root)
    with pytest.raises(UserError, match=says):
        open_source(root / part)


def test_a_file_of_cuhk03_that_is_away_is_no_damage(tmp_path):
    root = as_cuhk03(tmp_path / "cuhk03")
    images = open_gallery_set(str(root / "labelled")).images
    (root / "cuhk-03.mat").rename(tmp_path / "elsewhere")
    with pytest.raises(UnreadableImageError, match="cannot be read: "):
        images.read(0)


def test_queries_that_are_only_their_own_picture(tmp_path):
    rows = [("a.png", "x", 1, "query"), ("a.png", "x", 2, "gallery"), ("b.png", "y", 2, "gallery")]
    with pytest.raises(
        UserError, match="are there by the query's own camera alone, or as its own picture; are queries"
    ):
        open_gallery_set(str(as_table(tmp_path, rows)))
