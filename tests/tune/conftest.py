"""Faces drawn by a formula, an experiment of seconds, and the command in this process or in one that may be killed."""

import textwrap
from typing import NamedTuple

import pytest
import yaml

from tests.conftest import TINY_EXPERIMENT, TINY_SPACE, TINY_TRACK, with_more
from tests.train.conftest import RECIPE, drawn_faces, ran, starting, words_of, write_folder

NUM_IDENTITIES, IMAGES_EACH = 16, 8
TUNE = {
    "trials": 4,
    "epochs": 3,
    "confirm_seeds": 1,
    "cleaning": {"tau_inter": 0.99, "tau_intra": {"low": 0.0, "high": 0.5}},
    "backbone": {"macs_tolerance_pct": 20},
    # So few pairs say something at these FPRs alone.
    "reward": {"fprs": [0.1, 0.01], "weights": [0.75, 0.25], "held_out_share": 0.25, "test_share": 0.25},
}


class Material(NamedTuple):
    """What the searches of these tests begin from: paths."""

    experiment: object
    winner: object
    faces: object


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    for name, text in (("space", TINY_SPACE), ("track", TINY_TRACK)):
        (folder / f"{name}.yaml").write_text(textwrap.dedent(text))
    experiment = yaml.safe_load(TINY_EXPERIMENT) | {"train": RECIPE, "tune": TUNE}
    experiment |= {"space": str(folder / "space.yaml"), "track": str(folder / "track.yaml")}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    (folder / "winner.yaml").write_text("{block: ir_se, stem: 16, widths: [16, 32], depths: [1, 2]}\n")
    write_folder(folder / "faces", drawn_faces(NUM_IDENTITIES, IMAGES_EACH, seed=0))
    return Material(folder / "experiment.yaml", folder / "winner.yaml", folder / "faces")


@pytest.fixture
def arguments(material, tmp_path):
    """The words of a small search without cleaning, which needs a network, into tmp_path / out."""

    def made(*more, out="run"):
        words = [
            *words_of(material),
            "--only",
            "margin",
            "--only",
            "backbone",
            "--workers",
            "2",
            "--out",
            tmp_path / out,
        ]
        return [str(word) for word in with_more(words, more)]

    return made


@pytest.fixture
def asked(arguments):
    """asked(*words) -> the command in this process, to its end."""
    from zennas.tune.__main__ import main

    return lambda *more, **others: ran(*arguments(*more, **others), command=main)


@pytest.fixture
def start(tmp_path):
    with starting(tmp_path, room="tune") as start:
        yield start
