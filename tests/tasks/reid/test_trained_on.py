"""Images that a training both learns from and is verified on are told, once for each set, in the report too."""

import json
import shutil

import cv2
import pytest

from tests.tasks.reid.conftest import write_experiment
from tests.train.conftest import ran
from zennas.progress import silent
from zennas.ranks import Ranks
from zennas.tasks.reid.task import REID
from zennas.train import prepare


@pytest.fixture
def verified(material, tmp_path):
    """LIST@IMAGES of five people who are nobody's, two of their images those of somebody in --data."""
    others = tmp_path / "others"
    others.mkdir()
    rows = ["image,label,camera,role"]
    for person in range(5):
        for camera in range(2):
            name = f"{person}_{camera}.png"
            at = f"p{person:02d}/p{person:02d}_{camera + 1:04d}.png"
            if person == 3:
                shutil.copy(material.faces / at, others / name)
            else:
                cv2.imwrite(str(others / name), 255 - cv2.imread(str(material.faces / at)))
            rows.append(f"{name},{person},c{camera},{('query', 'gallery')[camera]}")
    (tmp_path / "list.csv").write_text("\n".join(rows) + "\n")
    return f"{tmp_path / 'list.csv'}@{others}"


def test_a_training_of_people_says_it(material, verified, tmp_path):
    words = ["--track", write_experiment(tmp_path), "--winner", tmp_path / "winner.yaml", "--data", material.faces]
    words += ["--verify", verified, "--verify", material.held_out.partition("@")[2], "--any-size", "--epochs", 1]
    ended = ran(*words, "--out", tmp_path / "run", "--json")
    assert ended.code == 0, ended.stderr
    told = f"--verify {verified}: 2 of its 10 images are trained on, too, the first: "
    (notice,) = [text for text in json.loads(ended.stdout)["training"]["data_notices"] if "trained on" in text]
    assert notice.startswith(told) and notice.count("3_0.png = p03/p03_0001.png") == 1
    assert ended.stderr.count(notice) == 1 and "2 of its 10 images" in (tmp_path / "run" / "report.html").read_text()


def test_what_is_not_trained_on_is_no_matter(options, verified, tmp_path):
    """--identities leaves the two out."""
    (tmp_path / "some.txt").write_text("".join(f"p{number:02d}\n" for number in range(4, 12)))
    for given, told in (({}, 1), ({"identities": tmp_path / "some.txt"}, 0)):
        request = options(verify=(verified,), **given)
        data, sets = REID.open_data(request, silent()), prepare.open_sets(request, Ranks())
        notices = prepare.noticed(request, data, sets, silent()).notices
        assert sum("trained on, too" in text for text in notices) == told
