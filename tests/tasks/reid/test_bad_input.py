"""What people give by mistake to a training of people, and people given to one of faces: one clear line each, before
the first step."""

import types

import cv2
import numpy as np
import pytest

from tests.data.people_sets import laid_out
from tests.tasks.reid.conftest import write_experiment
from tests.train.conftest import ran, untrained, words_of
from zennas.data.sources import open_source
from zennas.progress import silent
from zennas.records import UserError
from zennas.space.shape import Shape
from zennas.tasks.reid.groups import open_images
from zennas.tasks.reid.look import look
from zennas.tasks.table import task_of

PEOPLE = [(person, camera, "train") for person in range(1, 5) for camera in (1, 2) for _ in range(2)]
PEOPLE += [(person, camera, role) for person in (7, 8) for camera, role in ((1, "query"), (2, "gallery"))]
SETS = {  # rows (person, camera, role) -> the line
    "nobody": ([(1, 1, "query"), (2, 2, "query"), (3, 3, "gallery")], "the people of 2 are not in the gallery; are"),
    "one camera": ([(1, 1, "query"), (1, 1, "gallery")], "all 2 images are of one camera"),
    # Queries from 0 on, and the gallery behind them.
    "restarted": ([(0, 1, "query"), (1, 2, "query"), (2, 1, "gallery"), (3, 2, "gallery")], "numbered alike?"),
    "empty": ([(1, 1, "query"), (2, 2, "query")], "no image has the role 'gallery'"),
    "junk": ([(1, 1, "query"), (-1, 2, "gallery")], "is junk: nothing is left to search"),
}


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """asked(*words) -> `zennas train` on four people, to its end."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    words = ["--track", write_experiment(tmp_path), "--winner", "winner.yaml", "--any-size", "--epochs", 1]
    words += ["--set", "batch=8", "--device", "cpu", "--out", "run"]
    laid_out(tmp_path / "people", "market", PEOPLE)
    return lambda *more, data="people": ran(*words, "--data", data, *more)


def refused(ended, says):
    """Whether a command ended with this in one line."""
    lines = ended.said.strip().splitlines()
    return ended.code == 2 and says in lines[-1] and "Traceback" not in ended.said and lines[-1].startswith("error: ")


@pytest.mark.parametrize("name", SETS)
def test_lists_that_judge_nobody(asked, tmp_path, name):
    rows, says = SETS[name]
    table = laid_out(tmp_path / "set", "table", rows)
    ended = asked("--verify", f"{table}@{table.parent}")
    assert refused(ended, says) and "--verify" in ended.said, ended.said
    assert not list((tmp_path / "run").glob("checkpoints/*"))


def test_a_word_before_a_set(asked):
    """As `zennas evaluate --set reid:people` has it."""
    ended = asked("--verify", "reid:people")
    assert refused(ended, "no such file or folder; give people: --verify takes no protocol"), ended.said
    assert refused(asked("--verify", "reid:gone"), "reid:gone: cannot be read: no such file or folder"), ended.said


def test_a_teacher_of_another_size(asked, material, tmp_path):
    """Of squares of 32; the student takes 32 x 16."""
    teacher = untrained(material, tmp_path / "teacher")
    ended = asked("--teacher", teacher, "--set", "distill.precompute=false")
    assert refused(ended, "takes images of 32 x 32, the student of 32 x 16"), ended.said


def test_people_are_no_faces(asked, material):
    ended = ran(*words_of(material, data="people"), "--any-size", "--out", "faces")
    assert refused(ended, "holds people seen by cameras, not aligned faces"), ended.said
    assert refused(asked("--faces", "detect"), "the task 'reid' does not take"), ended.said


# --- squares, as aligned faces are -----------------------------------------------------------------------------------

UPRIGHT = Shape(channels=3, height=32, width=16, embedding_size=8)


def squares(folder, *sizes):
    """A folder of two people who have images of these (height, width)."""
    for number, (height, width) in enumerate(sizes):
        for person in ("Ada", "Max"):
            path = folder / person / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((height, width, 3), number, np.uint8))
    return folder


def test_faces_are_no_people(asked, tmp_path):
    squares(tmp_path / "squares", (112, 112), (112, 112), (96, 96))
    ended = asked(data="squares")
    told = "--data squares: holds squares (96 to 112 px, all that were looked at), as aligned faces are"
    assert refused(ended, told) and "task is face" in ended.said and not (tmp_path / "run" / "run.json").exists()
    # Of `tune` and `learn`, too, and before a search begins.
    with pytest.raises(UserError, match="holds squares"):
        open_images(types.SimpleNamespace(data="squares", space=types.SimpleNamespace(shape=UPRIGHT)), silent())
    with pytest.raises(UserError, match="holds squares"):
        task_of("reid").look(tmp_path / "squares", UPRIGHT, silent())


@pytest.mark.parametrize(
    "sizes",
    [((112, 112), (128, 64)), ((48, 48), (48, 48))],
    ids=["one is upright", "thumbnails"],
)
def test_squares_among_others_and_small_ones_may_be_people(tmp_path, sizes):
    look(squares(tmp_path / "squares", *sizes), UPRIGHT, silent())


def test_a_network_of_squares_takes_squares(tmp_path):
    look(squares(tmp_path / "squares", (112, 112)), UPRIGHT.model_copy(update={"width": 32}), silent())


def test_what_cameras_saw_may_have_any_outline(asked, tmp_path):
    for path in (tmp_path / "people" / "bounding_box_train").iterdir():
        cv2.imwrite(str(path), np.zeros((112, 112, 3), np.uint8))
    assert open_source(tmp_path / "people").camera_N is not None
    look(tmp_path / "people", UPRIGHT, silent())


def test_a_training_that_diverged_is_told(asked):
    """Two steps that are finite, and weights of which nothing can be made."""
    for _ in range(2):
        assert refused(ended := asked("--set", "optimizer.lr=1e30"), "run: the network answers with"), ended.said
        assert "(optimizer.lr is 1e+30) and another --out, or with --fresh" in ended.said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--batch", 0], "--batch: given 0, allowed: 1 to"),
        (["--batch", 66], "error: --batch 66: allowed: a batch of two people or more with"),
        (["--epochs", -1], "--epochs: given -1, allowed: more than 0"),
        (["--epochs", 1e30], "--epochs: given 1e+30, allowed: more than 0 and at most 1000000"),
        (["--seed", -1], "--seed: given -1, allowed: 0 to"),
        (["--set", "optimizer.lr=-1"], "error: --set optimizer.lr=-1: given -1, allowed: greater than 0"),
        (["--set", "triplet.name=none"], "error: --set triplet.name=none: train.triplet: "),
        (
            ["--epochs", 3, "--set", "softmax.name=nope", "--set", "optimizer.lr=0.1"],
            "error: --set softmax.name=nope: train.softmax: ",
        ),
    ],
)
def test_what_was_given_is_named(asked, tmp_path, words, says):
    ended = ran("--track", write_experiment(tmp_path), "--data", "people", *words)
    assert ended.code == 2 and says in ended.said and "given {" not in ended.said, ended.said
