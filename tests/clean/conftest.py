"""People as directions, and what is wrong with their labels: planted, so that the truth is known."""

from typing import NamedTuple

import numpy as np
import pytest

from tests.train.conftest import drawn_faces, material, ran, starting, write_folder  # noqa: F401 - material: a fixture
from zennas.clean.centres import unit_rows
from zennas.clean.plan import CleanPlan
from zennas.clean.state import State
from zennas.clean.steps import Bench, clean_round
from zennas.pool import Pool

SIZE = 64


class Planted(NamedTuple):
    """unit rows, the labels as they are said to be, who it is (-1 and below: a stranger), and what was done to each
    image.
    """

    unit_ND: np.ndarray
    label_N: np.ndarray
    true_N: np.ndarray
    flipped_N: np.ndarray
    stranger_N: np.ndarray
    halves: dict  # number of the second half of a person -> number of the first
    copies: dict  # image -> the image in another identity that it was copied from


def planted(seed=0, *, people=30, images=10, flips=12, strangers=8, halves=4, copies=5, noise=0.09):
    """Planted noise among people whose images have cosines of about 1 / (1 + SIZE noise^2) with each other."""
    rng = np.random.default_rng(seed)
    direction_CD = unit_rows(rng.normal(size=(people + strangers, SIZE)))
    true_N = np.repeat(np.arange(people), images)
    unit_ND = unit_rows(direction_CD[true_N] + noise * rng.normal(size=(len(true_N), SIZE)))
    label_N = true_N.copy()
    cut = {people + place: who for place, who in enumerate(rng.choice(people, halves, replace=False).tolist())}
    for number, who in cut.items():
        label_N[np.flatnonzero(true_N == who)[1::2]] = number
    flipped_N = np.zeros(len(label_N), bool)
    for image in rng.choice(np.flatnonzero(~np.isin(true_N, list(cut.values()))), flips, replace=False):
        label_N[image] = (true_N[image] + 1 + rng.integers(people - 1)) % people
        flipped_N[image] = True
    whole = np.flatnonzero(~flipped_N & ~np.isin(true_N, list(cut.values())))
    copied = {}
    for image in rng.choice(whole, copies, replace=False):
        other = rng.choice(np.flatnonzero(label_N != label_N[image]))
        copied[len(unit_ND)] = int(image)
        unit_ND = np.append(unit_ND, unit_rows(unit_ND[image] + 0.01 * rng.normal(size=(1, SIZE))), axis=0)
        label_N, true_N = np.append(label_N, label_N[other]), np.append(true_N, true_N[image])
        flipped_N = np.append(flipped_N, False)
    unit_ND = np.append(unit_ND, direction_CD[people:], axis=0)
    label_N = np.append(label_N, rng.choice(label_N, strangers))
    true_N = np.append(true_N, -1 - np.arange(strangers))
    flipped_N = np.append(flipped_N, np.zeros(strangers, bool))
    return Planted(unit_ND, label_N.astype(np.int32), true_N, flipped_N, true_N < 0, cut, copied)


@pytest.fixture
def clean(tmp_path):
    """clean(unit_ND, label_N, **plan) -> the State after a round; `state` to begin from another one."""
    made = []

    def run(unit_ND, label_N, *, state=None, device=None, number=1, **plan):
        folder = tmp_path / f"clean-{len(made)}"
        made.append(folder)
        folder.mkdir()
        np.save(folder / "rows.npy", unit_ND)
        bench = Bench(folder / "rows.npy", CleanPlan(**plan), Pool(), folder / "parts", device=device, number=number)
        return clean_round(State.of(np.asarray(label_N)) if state is None else state, bench)

    return run


class Faces(NamedTuple):
    """A folder of folders and an .npy with a row for each image."""

    folder: object
    rows: object
    row_ND: np.ndarray


@pytest.fixture
def faces(tmp_path):
    """16 people with 6 images each; one stands in two folders (p00 and p15), an image of p03 in p04 and one of nobody
    in p05.
    """
    rng = np.random.default_rng(0)
    folder = write_folder(tmp_path / "faces", drawn_faces(16, 6, seed=0))
    direction_CD = unit_rows(rng.normal(size=(17, SIZE)))
    direction_CD[15] = direction_CD[0]
    true_N = np.repeat(np.arange(16), 6)
    true_N[4 * 6 + 2], true_N[5 * 6 + 5] = 3, 16
    row_ND = (direction_CD[true_N] + 0.08 * rng.normal(size=(96, SIZE))).astype(np.float32)
    np.save(tmp_path / "rows.npy", row_ND)
    return Faces(folder, tmp_path / "rows.npy", row_ND)


@pytest.fixture
def asked(faces, tmp_path):
    """asked(*words) -> the command in this process, on these faces, into tmp_path / out."""
    from zennas.clean.__main__ import main

    def run(*more, data=None, embeddings=None, out="out"):
        words = ["--data", data or faces.folder, "--embeddings", embeddings or faces.rows, "--out", tmp_path / out]
        return ran(*words, *more, command=main)

    return run


@pytest.fixture
def start(tmp_path):
    with starting(tmp_path, room="clean") as start:
        yield start
