"""Trainings on P x K batches: stopped, killed and on two ranks they see what an unbroken one on one rank sees."""

import json
import os
import signal
import socket
import time

import pytest
import yaml

from tests.processes import Forked
from tests.train import grouped
from tests.train.conftest import NUM_IDENTITIES, differing, drawn_faces, tensors, trained, training, write_folder
from tests.train.test_checkpoints import EVERY_STEP, Pressing, newest
from zennas.records import UserError
from zennas.tasks.table import TASKS
from zennas.train.options import Options
from zennas.train.request import check

STEPS_PER_EPOCH = NUM_IDENTITIES * grouped.TOGETHER // 16
CHANGES = (
    "steps=8",
    "data.augment={flip: {}, pad_crop: {pad_px: 3}, random_erasing: {fill: mean}}",
    "schedule.name=step",
    "schedule.warmup_steps=2",
    "schedule.milestone_steps=[5]",
)


@pytest.fixture(autouse=True)
def with_the_task(monkeypatch):
    monkeypatch.setitem(TASKS, "grouped", grouped.ROW)


@pytest.fixture
def experiment(material, tmp_path):
    values = yaml.safe_load(material.experiment.read_text()) | {"task": "grouped"}
    (tmp_path / "experiment.yaml").write_text(yaml.safe_dump(values))
    return tmp_path / "experiment.yaml"


@pytest.fixture
def faces(tmp_path):
    """All images, of which two of one person and all of another do not decode."""
    folder = write_folder(tmp_path / "faces", drawn_faces(NUM_IDENTITIES, 6, seed=0))
    for name in ("p03/p03_0001", "p03/p03_0004", *(f"p07/p07_{number:04d}" for number in range(1, 7))):
        (folder / f"{name}.png").write_bytes(b"no image")
    return folder


@pytest.fixture
def options(material, experiment, faces, tmp_path):
    def made(*changes, out="run", **others):
        given = {"data": faces, "winner": material.winner, "any_size": True} | others
        return check(Options.of(track=experiment, out=tmp_path / out, set=(*CHANGES, *changes), **given))

    return made


@pytest.fixture
def start(material, experiment, faces, tmp_path):
    """start(rank=0, num_ranks=1, port=0) -> the command in a process of its own, and what it notes of its steps."""
    begun = []

    def started(*words, rank=0, num_ranks=1, port=0):
        seen = tmp_path / f"seen-{len(begun)}.jsonl"
        numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": num_ranks, "LOCAL_WORLD_SIZE": num_ranks}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | numbers if num_ranks > 1 else {}
        given = ["--track", experiment, "--winner", material.winner, "--data", faces, "--out", tmp_path / "run"]
        given += ["--any-size", "--device", "cpu", *(word for change in CHANGES for word in ("--set", change)), *words]
        environment = os.environ | {name: str(value) for name, value in where.items()}
        begun.append(Forked(grouped.PROGRAM, seen, *given, cwd=tmp_path, env=environment))
        return begun[-1], seen

    yield started
    for process in begun:
        process.kill()


def noted(one):
    """A Training whose steps are noted: [step, labels, images]."""
    seen, step = [], one._step

    def watched(batch, **others):
        seen.append([batch.step, batch.label_B.tolist(), batch.index_B.tolist()])
        return step(batch, **others)

    one._step = watched
    return seen


def test_a_stopped_training_ends_as_an_unbroken_one(options):
    whole = training(options(out="whole"))
    seen = noted(whole)
    result = whole.run()
    assert whole.job.steps_per_epoch == STEPS_PER_EPOCH == 3 and [step for step, *_ in seen] == list(range(8))
    for _, labels, _ in seen:
        assert labels == [label for label in labels[:: grouped.TOGETHER] for _ in range(grouped.TOGETHER)]
        assert len(set(labels)) == 4 and 7 not in labels
    assert result.gone == {"identity p07"} and len(result.corrupt) == 8
    with pytest.raises(KeyboardInterrupt):
        training(options("data.workers=1"), progress=Pressing(4, signal.SIGINT)).run()
    resumed = training(options("data.workers=1"))
    again = noted(resumed)
    result = resumed.run()
    assert again == seen[resumed.first_step :] and 0 < resumed.first_step < 8
    assert differing(tensors(whole), tensors(resumed)) == []
    assert result.gone == {"identity p07"} and len(result.corrupt) == 8
    listed = [json.loads(line) for line in (resumed.out / "corrupt-0.jsonl").read_text().splitlines()]
    assert [entry["why"] for entry in listed if entry.get("who") == "identity p07"] == ["none of its images decodes"]
    assert len(listed) == 9


def test_a_killed_training_ends_as_an_unbroken_one(start, options, tmp_path):
    whole = trained(options(EVERY_STEP, out="whole"))
    process, _ = start("--set", EVERY_STEP)
    deadline = time.monotonic() + 120
    while newest(tmp_path / "run" / "checkpoints") < 3:
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.01)
    process.kill()
    process.wait()
    resumed = trained(options(EVERY_STEP))
    assert 3 <= resumed.first_step < 8 and differing(tensors(whole), tensors(resumed)) == []


@pytest.mark.slow
def test_two_ranks_share_out_whole_people(start, options, tmp_path):
    """Through gloo: each has two of the four people of a step, and both together what one rank has."""
    whole = training(options(out="whole"))
    seen = noted(whole)
    whole.run()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = [start(rank=rank, num_ranks=2, port=port) for rank in range(2)]
    said = [process.communicate(240) for process, _ in begun]
    assert [process.returncode for process, _ in begun] == [0, 0], said
    assert "8 corrupt images, 1 left without one that can be read: others stood in" in said[0][0]
    shares = [[json.loads(line) for line in path.read_text().splitlines()] for _, path in begun]
    for one, other, (step, labels, images) in zip(*shares, seen, strict=True):
        assert one[0] == other[0] == step
        assert one[1] + other[1] == labels and one[2] + other[2] == images
        assert len(set(one[1])) == len(set(other[1])) == 2
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["training"]["num_ranks"], result["training"]["steps"], result["training"]["gone"]) == (2, 8, 1)
    assert result["training"]["epochs"] == 2.667 and result["plan"]["epochs"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "1 without one that can be read: others stood in" in page and "8 steps of 16 images, 2.667 epochs" in page


def test_people_that_would_be_parted_are_refused(options):
    with pytest.raises(UserError, match=r"batch 16 is 4 people of 4 images, .* over 1 ranks in 8 micro-batches each"):
        training(options("accumulate=8"))
