"""A training of people of seconds: drawn figures, twice as high as wide, whoever they show."""

import textwrap

import pytest
import yaml

from tests.conftest import TINY_EXPERIMENT, TINY_SPACE, TINY_TRACK
from tests.train.conftest import WINNER
from zennas.train.options import Options
from zennas.train.request import check

HW, EACH = (32, 16), 4
RECIPE = {
    "epochs": 2,
    "batch": 16,
    "softmax": {"vectors": ["wide"]},
    "optimizer": {"lr_batch": 16, "lr": 0.05},
    "data": {"workers": 0, "images_per_person": EACH},
}


def write_experiment(folder, **train):
    """experiment.yaml of the tiny training, with its space and track beside it."""
    space = textwrap.dedent(TINY_SPACE).replace("image_px: 32", f"image_px: {list(HW)}")
    for name, text in (("space", space), ("track", textwrap.dedent(TINY_TRACK)), ("winner", WINNER)):
        (folder / f"{name}.yaml").write_text(text)
    experiment = yaml.safe_load(TINY_EXPERIMENT) | {"task": "reid", "train": RECIPE | train}
    experiment |= {"space": str(folder / "space.yaml"), "track": str(folder / "track.yaml")}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    return folder / "experiment.yaml"


@pytest.fixture
def options(material, tmp_path):
    """options(*changes, **others) -> the Request of the tiny training, changed by KEY=VALUE."""
    experiment, others = write_experiment(tmp_path), material.held_out.partition("@")[2]

    def made(*changes, out="run", **given):
        asked = {"data": material.faces, "winner": tmp_path / "winner.yaml", "any_size": True, "verify": (others,)}
        return check(Options.of(track=experiment, out=tmp_path / out, set=changes, **asked | given))

    return made
