"""Faces drawn by a formula, a recipe of seconds, and three ways to run a training: its loop alone, its command in this
process, and its command in a process that may be killed."""

import contextlib
import importlib
import io
import os
import sys
import tarfile
import textwrap
import time
from typing import NamedTuple

import cv2
import numpy as np
import pytest
import torch
import yaml

from tests.conftest import TINY_EXPERIMENT, TINY_SPACE, TINY_TRACK, Ended, with_more
from tests.processes import SERVER
from zennas.data.recordio import RecordWriter
from zennas.embed.checkpoint import save_network
from zennas.progress import silent
from zennas.ranks import Ranks
from zennas.space.candidate import read_candidates
from zennas.tasks.table import task_of
from zennas.track import load_experiment
from zennas.train import prepare
from zennas.train.__main__ import main
from zennas.train.loop import Training
from zennas.train.options import Options
from zennas.train.prepare import initial_network
from zennas.train.request import check

PX, NUM_IDENTITIES, IMAGES_EACH = 32, 12, 8
RECIPE = {
    "epochs": 2,
    "batch": 16,
    "optimizer": {"lr_batch": 16, "lr": 0.05},
    "loss": {"knobs": {"scale": 16.0, "margin_rad": 0.2}},
    "data": {"workers": 0},
}
STEPS_PER_EPOCH = NUM_IDENTITIES * IMAGES_EACH // RECIPE["batch"]
WINNER = "{block: ir_se, stem: 8, widths: [8, 16], depths: [1, 1]}\n"


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """The order of sums, and so the last bit, is that of the processes below."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def drawn_faces(num_identities, images_each, *, seed):
    """(identity, number from 1, image_HW3): an identity is a pattern of colour, under a much stronger one of light that
    every image has of its own, so that an untrained network is misled."""
    rng = np.random.default_rng(seed)

    def pattern(side, channels, size):
        return cv2.resize(rng.normal(0, size, (side, side, channels)), (PX, PX), interpolation=cv2.INTER_CUBIC)

    for identity in range(num_identities):
        colour_HW2 = pattern(4, 2, 25)
        colour_HW3 = np.dstack([colour_HW2, -colour_HW2.sum(2)])
        for number in range(1, images_each + 1):
            light_HW1 = pattern(3, 1, 60)[..., None]
            yield identity, number, (128 + colour_HW3 + light_HW1).clip(0, 255).astype(np.uint8)


def write_folder(folder, faces):
    """A folder of folders, Name/Name_000n.png."""
    for identity, number, image_HW3 in faces:
        name = f"p{identity:02d}"
        (folder / name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / name / f"{name}_{number:04d}.png"), image_HW3)
    return folder


def write_tar(path, folder):
    """The same images in a tar."""
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname="faces")
    return path


def write_records(folder, faces, **options):
    """The same images in RecordIO."""
    with RecordWriter(folder, image_px=PX, **options) as writer:
        for identity, _, image_HW3 in faces:
            writer.add(cv2.imencode(".png", image_HW3)[1].tobytes(), identity)
    return folder


def write_pairs(path, *, num_identities, images_each, num_folds=5, per_kind=20):
    """Pairs in LFW's format among images that `write_folder` wrote."""
    rng, lines = np.random.default_rng(1), [f"{num_folds}\t{per_kind}"]
    for _ in range(num_folds):
        for _ in range(per_kind):
            who, (one, two) = rng.integers(num_identities), rng.choice(images_each, 2, replace=False) + 1
            lines.append(f"p{who:02d}\t{one}\t{two}")
        for _ in range(per_kind):
            who, other = rng.choice(num_identities, 2, replace=False)
            one, two = rng.integers(1, images_each + 1, 2)
            lines.append(f"p{who:02d}\t{one}\tp{other:02d}\t{two}")
    path.write_text("\n".join(lines) + "\n")
    return path


class Material(NamedTuple):
    """What the trainings of these tests begin from: paths."""

    experiment: object
    winner: object
    faces: object  # the folder
    tar: object
    records: object
    held_out: str  # --verify: pairs of people that are not in `faces`


@pytest.fixture(scope="session")
def material(tmp_path_factory):
    folder = tmp_path_factory.mktemp("material")
    for name, text in (("space", TINY_SPACE), ("track", TINY_TRACK)):
        (folder / f"{name}.yaml").write_text(textwrap.dedent(text))
    experiment = yaml.safe_load(TINY_EXPERIMENT) | {"train": RECIPE}
    experiment |= {"space": str(folder / "space.yaml"), "track": str(folder / "track.yaml")}
    (folder / "experiment.yaml").write_text(yaml.safe_dump(experiment))
    (folder / "winner.yaml").write_text(WINNER)
    faces = list(drawn_faces(NUM_IDENTITIES, IMAGES_EACH, seed=0))
    write_folder(folder / "faces", faces)
    (folder / "faces" / ".DS_Store").write_bytes(b"a system's")
    write_folder(folder / "others", drawn_faces(20, 6, seed=1))
    pairs = write_pairs(folder / "others.txt", num_identities=20, images_each=6)
    return Material(
        folder / "experiment.yaml",
        folder / "winner.yaml",
        folder / "faces",
        write_tar(folder / "faces.tar", folder / "faces"),
        write_records(folder / "records", faces),
        f"{pairs}@{folder / 'others'}",
    )


@pytest.fixture
def options(material, tmp_path):
    """options(*changes, **others) -> the Request of the tiny training, changed by KEY=VALUE."""

    def made(*changes, out="run", **others):
        given = {"data": material.faces, "winner": material.winner, "any_size": True} | others
        return check(Options.of(track=material.experiment, out=tmp_path / out, set=changes, **given))

    return made


def training(options, *, ranks=None, progress=None):
    """The Training of some Options, ready to run: the loop without the measurements before and behind it."""
    ranks, progress = ranks or Ranks(), progress or silent()
    options.out.mkdir(parents=True, exist_ok=True)
    task = task_of(options.task)
    data, teacher = task.open_data(options, progress), task.open_teacher(options, ranks)
    sets = prepare.open_sets(options, ranks)
    return Training(prepare.prepare(options, data, teacher, ranks, progress, sets=sets), ranks, progress)


def trained(options, **others):
    """The same, run to its end."""
    made = training(options, **others)
    made.run()
    return made


def tensors(one):
    """Every number that the next step of a Training depends on, by name."""
    found = dict(one.student.state_dict())
    found |= {f"head.{name}": value for name, value in one.head.state().rows.items()}
    found |= {f"head.{name}": value for name, value in one.head.classifier.buffers.items()}
    for place, state in enumerate(one.optimizer.state_dict()["state"].values()):
        found |= {f"optimizer.{place}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return found


def kept_tensors(checkpoint):
    """The same of a checkpoint's folder, read without the code under test."""
    common = torch.load(checkpoint / "common.pt", weights_only=True)
    shards = [torch.load(path, weights_only=True) for path in checkpoint.glob("centres-*.pt")]
    shards.sort(key=lambda shard: shard["first"])
    found = {f"{part}.{name}": value for part in ("network", "projection") for name, value in common[part].items()}
    for name in shards[0]["per_class"]:
        found[f"head.{name}"] = torch.cat([shard["per_class"][name] for shard in shards])
    found |= {f"head.{name}": torch.tensor(value) for name, value in common["head"]["buffers"].items()}
    for place, state in enumerate(common["optimizer"]["state"].values()):
        found |= {f"optimizer.{place}.{name}": torch.as_tensor(value) for name, value in state.items()}
    return found


def differing(one, other):
    """Names of the tensors that are not the same to the last bit."""
    return sorted(set(one) ^ set(other)) + [
        name for name in one if name in other and not torch.equal(one[name], other[name])
    ]


def untrained(material, folder, *, bias=0.0):
    """A folder with a network of random weights; with a bias at its end, its embeddings lie further from one
    another."""
    _, _, space = load_experiment(str(material.experiment))
    ((_, candidate),) = read_candidates(str(material.winner))
    network = initial_network(candidate, space, seed=0)
    with torch.no_grad():
        network.neck[-1].bias.normal_(std=bias, generator=torch.Generator().manual_seed(0))
    folder.mkdir()
    save_network(folder / "network.pt", network)
    return folder


# --- the command -----------------------------------------------------------------------------------------------------


def ran(*arguments, command=main):
    """A command in this process, to its end."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit) as ended:
        command([str(argument) for argument in arguments])
    return Ended(ended.value.code, out.getvalue(), err.getvalue())


def _child(room, arguments, log):
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 1)
    os.dup2(1, 2)
    sys.argv = ["zennas", room, *arguments]
    torch.set_num_threads(1)
    importlib.import_module(f"zennas.{room}.__main__").main(arguments)


class Child:
    """The command in a process of its own, under way."""

    def __init__(self, arguments, log, *, room="train"):
        self.log = log
        self.process = SERVER.Process(target=_child, args=(room, [str(argument) for argument in arguments], str(log)))
        self.process.start()

    def until(self, happened, timeout_s=90):
        """Wait until happened() is true; the command must still be running then."""
        deadline = time.monotonic() + timeout_s
        while not happened():
            assert self.process.is_alive(), self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.002)

    def signal(self, number):
        os.kill(self.process.pid, number)

    def end(self, timeout_s=120):
        """Its exit code; negative where a signal killed it."""
        self.process.join(timeout_s)
        assert self.process.exitcode is not None, f"still running:\n{self.log.read_text()}"
        return self.process.exitcode


@contextlib.contextmanager
def starting(folder, *, room="train"):
    """start(*arguments) -> a Child of this room, its log in a folder; what still runs at the end is killed."""
    children = []

    def started(*arguments):
        log = folder / f"child-{len(children)}.log"
        log.touch()
        children.append(Child(arguments, log, room=room))
        return children[-1]

    yield started
    for child in children:
        if child.process.is_alive():
            child.process.kill()
        child.process.join()


@pytest.fixture
def start(tmp_path):
    with starting(tmp_path) as start:
        yield start


def words_of(material, *, track=None, data=None):
    """The words that every command on this material begins with."""
    given = {"--track": track or material.experiment, "--winner": material.winner, "--data": data or material.faces}
    return [word for pair in given.items() for word in pair]


@pytest.fixture
def arguments(material, tmp_path):
    """The words of a small training, into tmp_path / out."""

    def made(*more, out="run", data=None):
        return with_more([*words_of(material, data=data), "--out", tmp_path / out], more)

    return made
