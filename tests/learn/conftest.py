"""Faces drawn by a formula, an experiment of seconds, and the command in this process or in one that may be killed."""

import textwrap
from typing import NamedTuple

import pytest
import yaml

from tests.conftest import TINY_EXPERIMENT, TINY_SPACE, TINY_TRACK, small_ms, with_more
from tests.train.conftest import RECIPE, drawn_faces, ran, starting, write_folder

NUM_IDENTITIES, IMAGES_EACH = 16, 8
TIMES_SMALL = 2.0  # the budget over what IR-SE-small takes
LEARN = {
    "trainings": 6,
    "first": 5,
    "twice": 1,
    "epochs": 1,
    "pool": 8,
    "near_pct": 30,  # of networks that take a tenth of a millisecond, on a machine that tests something else beside
    "held_out_share": 0.25,
    "test_share": 0.25,
}


class Material(NamedTuple):
    """What the runs of these tests begin from: paths."""

    experiment: object
    faces: object
    budget_ms: float


@pytest.fixture(scope="session")
def material(tmp_path_factory, own_cache):
    folder = tmp_path_factory.mktemp("learn")
    for name, text in (("space", TINY_SPACE), ("track", TINY_TRACK)):
        (folder / f"{name}.yaml").write_text(textwrap.dedent(text))
    experiment = yaml.safe_load(TINY_EXPERIMENT) | {"train": RECIPE, "learn": LEARN}
    experiment |= {"space": str(folder / "space.yaml"), "track": str(folder / "track.yaml")}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    write_folder(folder / "faces", drawn_faces(NUM_IDENTITIES, IMAGES_EACH, seed=0))
    return Material(folder / "experiment.yaml", folder / "faces", round(TIMES_SMALL * small_ms(), 2))


@pytest.fixture
def arguments(material, tmp_path):
    """The words of a small run into tmp_path / out."""

    def made(*more, out="run"):
        words = ["--track", material.experiment, "--data", material.faces, "--workers", "2"]
        words += ["--budget-ms", material.budget_ms]
        return [str(word) for word in with_more([*words, "--out", tmp_path / out], more)]

    return made


@pytest.fixture
def asked(arguments):
    """asked(*words) -> the command in this process, to its end."""
    from zennas.learn.__main__ import main

    return lambda *more, **others: ran(*arguments(*more, **others), command=main)


@pytest.fixture
def start(tmp_path):
    with starting(tmp_path, room="learn") as start:
        yield start
