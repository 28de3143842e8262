"""What commands take for faces: photographs are refused by all of them with the command to type, or aligned on the
way; aligned crops never are."""

import importlib
import json
import pickle
import re
import shlex

import cv2
import numpy as np
import pytest

from tests.data.people_sets import as_market
from tests.evaluate.conftest import saved, squares, write_list
from tests.mask.test_landmarks import photograph
from tests.tasks import toy
from tests.tasks.face.test_pair_lists import write_cfp
from tests.train.conftest import ran, words_of
from zennas.data.labels import relabelled, write_labels
from zennas.data.sources import open_source
from zennas.flags import line
from zennas.mask.synthetic import Scene, synthetic_face
from zennas.progress import silent
from zennas.records import UserError
from zennas.tasks.face.align import align
from zennas.tasks.face.crops import ALIGNED, AUTO, DETECT, Detected, source_of_crops
from zennas.tasks.face.detect import Detector
from zennas.tasks.table import TASKS, task_of
from zennas.train.options import Options as TrainOptions
from zennas.train.request import check, check_faces

PX = 32
NUM_PEOPLE, IMAGES_EACH = 2, 3


def png(image_HW3):
    return cv2.imencode(".png", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR))[1].tobytes()


def name_of(person, number):
    return f"p{person}/p{person}_{number:04d}.png"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of two people, three photographs each; and one, of the second, in which nobody is."""
    folder = tmp_path_factory.mktemp("crops") / "photos"
    for person in range(NUM_PEOPLE):
        for number in range(1, IMAGES_EACH + 1):
            at = (30 + 20 * number, 10 + 30 * person)
            image_HW3, _ = photograph(size=(180, 260), at=at, face_px=110, turn_deg=12 * (number - 2))
            write(folder / name_of(person, number), png(image_HW3))
    write(folder / name_of(1, IMAGES_EACH + 1), png(np.full((180, 260, 3), 130, np.uint8)))
    return folder


@pytest.fixture(scope="module")
def crops(photos):
    """The same faces as somebody else would have aligned them before, at the size that the network below takes."""
    detector, folder = Detector(), photos.with_name("crops")
    source = open_source(photos)
    for image in range(source.num_images):
        image_HW3 = cv2.imread(str(photos / source.name(image)))[..., ::-1]
        face = detector.face(np.ascontiguousarray(image_HW3))
        if face is not None:
            crop_HW3 = align(np.ascontiguousarray(image_HW3), face.points_52, (PX, PX), smooth=True)
            write(folder / source.name(image), png(crop_HW3))
    return folder


@pytest.fixture(scope="module")
def network(photos):
    return saved(squares(px=PX), photos.with_name("squares.onnx"))


def write(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def people_list(path, folder, *, roles=False):
    """A list of all images, and where they lie."""
    rows = [
        (file.relative_to(folder), file.parent.name, "probe" if "1." in file.name else "gallery")
        for file in sorted(folder.rglob("*.png"))
    ]
    columns = ("image", "label", "role") if roles else ("image", "label")
    return f"{write_list(path, columns, [row[: len(columns)] for row in rows])}@{folder}"


def pairs_list(path, folder):
    rows = [(name_of(0, 1), name_of(0, 2), 1), (name_of(0, 1), name_of(1, 1), 0)] * 2
    path.write_text("".join(f"{first},{second},{same}\n" for first, second, same in rows))
    return f"{path}@{folder}"


# command and words: (photographs, material, network, folder to write to) -> (room, words, the words with aligned faces)
COMMANDS = {
    "clean": lambda photos, material, network, to: (
        "clean",
        ["--data", photos, "--embeddings-from", network],
        "--data OUT",
    ),
    "mask": lambda photos, material, network, to: ("mask", ["--data", photos, "--out", to / "masked"], "--data OUT"),
    "train": lambda photos, material, network, to: (
        "train",
        [*words_of(material, data=photos), "--any-size"],
        "--data OUT",
    ),
    "train, verified": lambda photos, material, network, to: (
        "train",
        [*words_of(material), "--any-size", "--verify", pairs_list(to / "pairs.csv", photos)],
        f"--verify {to / 'pairs.csv'}@OUT",
    ),
    "tune": lambda photos, material, network, to: (
        "tune",
        [*words_of(material, data=photos), "--only", "margin", "--workers", "1"],
        "--data OUT",
    ),
    "run": lambda photos, material, network, to: ("run", [material.experiment, "--data", photos], "--data OUT"),
    "search, then train": lambda photos, material, network, to: (
        "search",
        ["--track", material.experiment, "--then-train", photos],
        "--data OUT",
    ),
    "evaluate, pairs": lambda photos, material, network, to: (
        "evaluate",
        ["--model", network, "--set", pairs_list(to / "pairs.csv", photos)],
        f"--set {to / 'pairs.csv'}@OUT",
    ),
    "evaluate, all": lambda photos, material, network, to: (
        "evaluate",
        ["--model", network, "--set", f"all:{photos}"],
        "--set all:OUT",
    ),
    "evaluate, 1:N": lambda photos, material, network, to: (
        "evaluate",
        ["--model", network, "--set", f"identification:{people_list(to / 'ids.csv', photos, roles=True)}"],
        f"--set identification:{to / 'ids.csv'}@OUT",
    ),
}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.mark.parametrize("name", COMMANDS)
def test_photographs_are_refused_with_the_command_to_type(name, photos, material, network, here):
    room, words, then = COMMANDS[name](photos, material, network, here)
    ended = ran(*words, command=importlib.import_module(f"zennas.{room}.__main__").main)
    out = "runs/photos-aligned"
    assert ended.code == 2, ended.said
    said = " ".join(ended.stderr.split())
    assert "holds photographs, not aligned faces: of " in said
    more = ["--complete"] if "@" in then else []  # a list wants all of its images
    command = line("zennas.align", ["--data", str(photos), "--out", out, *more])
    assert f"align them first, {command}, and give {then.replace('OUT', out)};" in said
    assert "--faces detect " in said and "--faces aligned takes the images as they are" in said
    assert not list(here.glob("runs/**/*.onnx")) and not list(here.glob("runs/**/winners.json"))  # nothing was begun


def test_the_command_to_type_is_the_one_that_helps(photos, network, here):
    """What an evaluation of photographs says is typed, word by word; what it says to give then is taken."""
    given = ["--model", network, "--out", here / "out", "--set", pairs_list(here / "pairs.csv", photos)]
    evaluate = importlib.import_module("zennas.evaluate.__main__").main
    said = " ".join(ran(*given, command=evaluate).stderr.split())
    (words, then) = re.search(r"python -m zennas\.align (.*?), and give --set (.*?);", said).groups()
    assert ran(*shlex.split(words), command=importlib.import_module("zennas.align.__main__").main).code == 0
    ended = ran(*given[:-1], then, "--json", command=evaluate)
    assert ended.code == 0, ended.said
    assert json.loads(ended.stdout)["sets"][0]["num_images"] == 3


def test_sets_that_are_not_asked_take_no_word_on_faces(photos, network, here):
    """IJB's faces are aligned by their landmarks; re-identification is of whole persons, photographs or not."""
    rows = [
        (file.relative_to(photos), file.parent.name, n, ("query", "gallery")[n % 2])
        for n, file in enumerate(sorted(photos.rglob("*.png")))
    ]
    where = f"reid:{write_list(here / 'reid.csv', ('image', 'label', 'camera', 'role'), rows)}@{photos}"
    given, main = ["--model", network, "--set", where], importlib.import_module("zennas.evaluate.__main__").main
    assert ran(*given, command=main).code == 0
    ended = ran(*given, "--faces", "detect", command=main)
    assert (
        ended.code == 2 and "--faces detect: says nothing to these sets; it is for pairs, mfr, webface" in ended.stderr
    )


def test_a_bin_of_photographs_is_refused_without_a_command(photos, network, here):
    """zennas align takes no .bin, so that none is named."""
    encoded = [(photos / name_of(person, 1)).read_bytes() for person in (0, 1)]
    (here / "photos.bin").write_bytes(pickle.dumps((encoded * 2, [True, False])))
    given = ["--model", network, "--set", here / "photos.bin", "--out", here / "out"]
    main = importlib.import_module("zennas.evaluate.__main__").main
    ended = ran(*given, command=main)
    said = " ".join(ended.stderr.split())
    assert ended.code == 2 and "holds photographs" in said and "zennas.align" not in said and "--faces detect" in said
    assert ran(*given, "--faces", "detect", command=main).code == 0


def test_both_sets_of_cfp_are_named_as_they_were_given(network, here):
    cfp = write_cfp(here / "cfp")
    for path in cfp.rglob("*.jpg"):
        write(path, png(photograph(size=(180, 260), at=(60, 40), face_px=110)[0]))
    given = ["--model", network, "--set", cfp / "Protocol"]
    ended = ran(*given, command=importlib.import_module("zennas.evaluate.__main__").main)
    assert ended.code == 2
    assert f"give --set {cfp / 'Protocol'}@runs/cfp-aligned;" in " ".join(ended.stderr.split())


def test_a_task_that_is_not_about_faces_takes_no_word_on_them(monkeypatch):
    monkeypatch.setitem(TASKS, "toy", toy.ROW)
    check_faces(AUTO, "toy")
    with pytest.raises(UserError, match="--faces detect: is about faces, which the task 'toy' does not take"):
        check_faces(DETECT, "toy")


@pytest.mark.parametrize("faces", [AUTO, ALIGNED])
def test_crops_are_taken_as_they_are(crops, faces):
    source = open_source(crops)
    assert source_of_crops(source, faces, crops) is source


def test_insisting_takes_photographs_as_they_are(photos):
    source = open_source(photos)
    assert source_of_crops(source, ALIGNED, photos) is source
    with pytest.raises(UserError, match="holds photographs"):
        source_of_crops(source, AUTO, photos)


def test_people_seen_by_cameras_are_no_crops_of_faces(tmp_path):
    """What to align in them nobody needs; who has faces by cameras says so."""
    source = open_source(as_market(tmp_path / "market"))
    with pytest.raises(UserError, match=r"market: holds people seen by cameras, not aligned faces; .* task is reid"):
        source_of_crops(source, AUTO, source.path)
    assert source_of_crops(source, ALIGNED, source.path) is source


def test_faces_are_aligned_on_the_way(photos, crops):
    """Pixel by pixel as they were aligned before; through a pickle too, as workers have it."""
    before, source = open_source(crops), source_of_crops(open_source(photos), DETECT, photos)
    for detected in (source, pickle.loads(pickle.dumps(source))):
        assert isinstance(detected, Detected) and detected.num_images == before.num_images + 1
        for image in range(before.num_images):
            assert np.array_equal(detected.images.pixels(image, PX), before.images.pixels(image, PX))
        assert np.array_equal(detected.some([2]).pixels(0, PX), before.images.pixels(2, PX))
    ((_, (error,)),) = source.images.batches([before.num_images], PX, 1)
    assert str(error) == "no face was found"
    prints = {
        source.images.fingerprint,
        source.some([0]).fingerprint,
        source.fingerprint,
        open_source(photos).some([0]).fingerprint,
    }
    assert len(prints) == 4  # what is kept of the faces is not taken for what was kept of the photographs


def test_labels_are_of_the_photographs(photos, tmp_path):
    detected = source_of_crops(open_source(photos), DETECT, photos)
    write_labels(tmp_path / "labels.npz", detected, np.zeros(detected.num_images, int))
    assert relabelled(open_source(photos), tmp_path / "labels.npz").num_images == detected.num_images


def test_a_training_sees_the_faces(photos, crops, material, here):
    """The batches of --faces detect are those of the crops; the photograph without a face is passed over and named."""
    batches, corrupt = {}, []
    for data, faces in ((photos, DETECT), (crops, AUTO)):
        options = TrainOptions.of(
            track=str(material.experiment),
            data=data,
            winner=material.winner,
            any_size=True,
            faces=faces,
            set=("batch=6", "data.augment={}"),
        )
        request = check(options)
        task = task_of("face")
        opened = task.open_data(request, silent())
        read = task.some_inputs(request, opened, NUM_PEOPLE * IMAGES_EACH)
        batches[faces] = read.numpy()
        if faces == DETECT:
            (batch,) = task.stream(request, opened, first_step=0, last_step=1, ranks=Alone(), num_workers=0)
            corrupt = batch.corrupt
    assert np.array_equal(batches[DETECT], batches[AUTO])
    assert all(why == "no face was found" and where == name_of(1, IMAGES_EACH + 1) for where, why in corrupt)


class Alone:
    """What a stream asks of the ranks of a training."""

    rank, num_ranks = 0, 1

    class device:
        type = "cpu"


def test_evaluating_on_the_way_is_evaluating_crops(photos, crops, network, here):
    values = {}
    for folder, faces in ((photos, DETECT), (crops, AUTO)):
        given = ["--model", network, "--set", pairs_list(here / "pairs.csv", folder), "--faces", faces, "--json"]
        ended = ran(*given, "--out", here / faces, command=importlib.import_module("zennas.evaluate.__main__").main)
        assert ended.code == 0, ended.said
        (result,) = json.loads(ended.stdout)["results"]
        values[faces] = [(metric["name"], metric["value"], metric["threshold"]) for metric in result["metrics"]]
    assert values[DETECT] == values[AUTO]


def test_masked_faces_are_no_photographs(here):
    for person in range(2):
        for number in range(2):
            face_HW3, _ = synthetic_face(Scene(yaw_deg=12 * number - 6, skin=0.7 + 0.3 * person))
            write(here / "faces" / f"p{person}" / f"{number}.png", png(face_HW3))
    main = importlib.import_module("zennas.mask.__main__").main
    assert ran("--data", here / "faces", "--ratio", 1, "--workers", 1, "--out", here / "masked", command=main).code == 0
    source = open_source(here / "masked")
    assert source_of_crops(source, AUTO, here / "masked") is source
