"""Whole people seen by cameras are cleaned as faces are: no face is looked for, and they stand upright on the page."""

import base64
import io
import json
import re

import cv2
import numpy as np
import pandas as pd
import PIL.Image
import pytest

from tests.evaluate.conftest import saved, squares
from tests.train.conftest import ran
from zennas.clean.__main__ import main
from zennas.data.sources import open_source

PEOPLE, IMAGES = 8, 6
PLANTED = {3: 5, 22: 0}  # image -> who it shows, under another name


@pytest.fixture
def market(tmp_path, monkeypatch):
    """Eight people in clothes of their own, 32 by 16 pixels, two of their images another one's."""
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    clothes = rng.integers(0, 256, size=(PEOPLE, 4, 4, 3)).astype(np.float64)
    folder = tmp_path / "market" / "bounding_box_train"
    folder.mkdir(parents=True)
    for image in range(PEOPLE * IMAGES):
        shown = PLANTED.get(image, image // IMAGES)
        pixels = np.kron(clothes[shown], np.ones((8, 4, 1))) + 12 * rng.normal(size=(32, 16, 3))
        name = f"{image // IMAGES + 1:04d}_c{1 + image % 3}s1_{image:06d}_00.png"
        cv2.imwrite(str(folder / name), np.clip(pixels, 0, 255).astype(np.uint8)[..., ::-1])
    return tmp_path / "market"


def test_people_are_cleaned(market, tmp_path):
    network = saved(squares(64), tmp_path / "one.onnx")
    ended = ran(
        *("--data", market, "--embeddings-from", network, "--out", tmp_path / "out", "--device", "cpu", "--json"),
        *("--tau-intra", 0.6, "--tau-merge", 0.97, "--tau-other", "none", "--tau-duplicate", 0.9999),
        command=main,
    )
    assert ended.code == 0, ended.said
    (train,) = [line for line in ended.stderr.splitlines() if "zennas.train" in line]
    assert "--track reid-mgn" in train  # the default is of faces, and refuses them
    table = pd.read_parquet(tmp_path / "out" / "decisions.parquet")
    left_out = table[table["decision"] == "dropped"]
    assert {int(name.split("_")[-2]) for name in left_out["name"]} == set(PLANTED) and len(left_out) == len(PLANTED)
    assert json.loads(ended.stdout)["images"]["before"] == PEOPLE * IMAGES
    kept = open_source(market, labels=tmp_path / "out" / "labels.npz")
    assert kept.num_images == PEOPLE * IMAGES - len(PLANTED) and set(kept.camera_N.tolist()) == {1, 2, 3}
    text = (tmp_path / "out" / "report.html").read_text()
    first = re.search(r"<img src='data:image/jpeg;base64,([^']+)'", text)[1]
    picture = PIL.Image.open(io.BytesIO(base64.b64decode(first)))
    assert picture.size == (72, 144)
