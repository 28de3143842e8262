"""Trainings of several processes, and from a search to a trained network: minutes."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch

from tests.processes import MODULE, Forked
from tests.train.conftest import STEPS_PER_EPOCH, kept_tensors, ran, tensors, trained
from tests.train.test_training import teacher_file, with_corrupt
from zennas.run.__main__ import main as run_command
from zennas.search.__main__ import main as search_command
from zennas.train.checkpoints import checkpoints_in
from zennas.train.journal import read_metrics
from zennas.train.stopping import GRACE_S

pytestmark = pytest.mark.slow
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture
def on_ranks(checkout, tmp_path):
    """on_ranks(number, *words, until=None) -> (exit code, what was said) of zennas train under torchrun; until: SIGTERM
    is sent once until() is true."""
    groups = []

    def ended(num_ranks, *words, until=None):
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        log = tmp_path / f"torchrun-{len(groups)}.log"
        with open(log, "w") as file:
            process = subprocess.Popen(
                [*TORCHRUN, str(num_ranks), "-m", "zennas.train", *map(str, words)],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=tmp_path,
                start_new_session=True,
            )
            groups.append(process)
            if until is not None:
                while not until():
                    assert process.poll() is None, log.read_text()
                    time.sleep(0.02)
                process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=240)
        return code, log.read_text()

    yield ended
    for process in groups:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def train_losses(out):
    return [entry["loss"] for entry in read_metrics(out) if entry["kind"] == "train"]


def result_of(out):
    return json.loads((out / "result.json").read_text())


CHANGES = ("epochs=3", "loss.sampling_rate=1.0")


@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_training_goes_on_with_other_ranks(on_ranks, arguments, options, tmp_path, first, then):
    """One rank more or less sees other batch statistics, so the course stays near the unbroken one, not the same."""
    words = arguments("--any-size", "--device", "cpu", *(word for change in CHANGES for word in ("--set", change)))
    out = tmp_path / "run"
    code, said = on_ranks(first, *words, until=lambda: len(train_losses(out)) >= STEPS_PER_EPOCH)
    assert code != 0 and checkpoints_in(out / "checkpoints"), said
    kept = checkpoints_in(out / "checkpoints")[-1]
    step = int(kept.name.removeprefix("step-"))
    assert STEPS_PER_EPOCH <= step < 3 * STEPS_PER_EPOCH
    assert len(list(kept.glob("centres-*.pt"))) == first
    code, said = on_ranks(then, *words, "--resume")
    assert code == 0, said
    assert f"going on from {kept}: step {step} of {3 * STEPS_PER_EPOCH}" in said
    assert (
        result_of(out)["training"]["num_ranks"] == then and result_of(out)["training"]["steps"] == 3 * STEPS_PER_EPOCH
    )
    losses = train_losses(out)
    assert len(losses) == 3 * STEPS_PER_EPOCH
    whole = trained(options(*CHANGES, out="whole"))
    expected = train_losses(whole.out)
    last = slice(2 * STEPS_PER_EPOCH, None)
    assert sum(losses[last]) < 0.3 * sum(losses[:STEPS_PER_EPOCH])
    assert sum(expected[last]) < 0.3 * sum(expected[:STEPS_PER_EPOCH])


def test_two_ranks_share_all_of_it(on_ranks, arguments, options, material, tmp_path):
    """A teacher with its bank, sampled centres, micro-batches, corrupt data, pairs: through two processes."""
    teacher = teacher_file(tmp_path / "teacher", embedding_size=48)
    changes = ("epochs=2", "distill.name=coupleface", "loss.sampling_rate=0.5", "accumulate=2", "data.workers=1")
    with_corrupt(tmp_path / "faces", [0, 50])
    words = arguments(
        "--any-size", "--device", "cpu", "--teacher", teacher, "--verify", material.held_out, data=tmp_path / "faces"
    )
    code, said = on_ranks(2, *words, *(word for change in changes for word in ("--set", change)))
    assert code == 0, said
    result = result_of(tmp_path / "run")
    assert result["training"]["num_ranks"] == 2 and set(result["accuracy"]) == {"others"}
    assert result["training"]["corrupt_images"] == 2
    assert said.count("error") == 0 and "Traceback" not in said
    kept = kept_tensors(checkpoints_in(tmp_path / "run" / "checkpoints")[-1])
    assert len(kept["head.centre"]) == 12 and kept["projection.weight"].shape == (48, 64)


def test_the_first_rank_alone_prints_the_result_as_json(on_ranks, arguments):
    code, said = on_ranks(2, *arguments("--any-size", "--device", "cpu", "--epochs", 1 / STEPS_PER_EPOCH, "--json"))
    assert code == 0, said
    assert said.count('"experiment": ') == 1 and "Traceback" not in said


def test_two_ranks_take_the_step_of_one(on_ranks, arguments, options, tmp_path):
    """The first loss is over the same faces and centres; the norms see half a batch each, which moves it a little."""
    words = arguments("--any-size", "--device", "cpu", "--epochs", 1 / STEPS_PER_EPOCH)
    code, said = on_ranks(2, *words)
    assert code == 0, said
    whole = trained(options(f"epochs={1 / STEPS_PER_EPOCH}", out="whole"))
    (loss,), (expected,) = train_losses(tmp_path / "run"), train_losses(whole.out)
    assert loss == pytest.approx(expected, rel=0.1)
    kept = kept_tensors(checkpoints_in(tmp_path / "run" / "checkpoints")[-1])
    cosine_C = torch.cosine_similarity(kept["head.centre"].flatten(1), tensors(whole)["head.centre"].flatten(1))
    assert cosine_C.min() > 0.8  # random directions of 64 numbers are within 0.4 of zero


HANGS_IN_BACKWARD = f"""
import os, signal, torch
backward, num_steps = torch.Tensor.backward, []
def hang(*words, **named):
    num_steps.append(1)
    if len(num_steps) == 6:
        os.kill(os.getpid(), signal.SIGSTOP)
    backward(*words, **named)
torch.Tensor.backward = hang
{MODULE}
"""


@pytest.fixture
def two(arguments, tmp_path):
    """two(*words, second=MODULE) -> two ranks, as a scheduler starts them that looks after none of them; 600 epochs."""
    begun = []

    def begin(*words, second=MODULE):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}
        words = arguments("--any-size", "--device", "cpu", "--epochs", 600, *words)
        for rank in range(2):
            numbers = {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
            program = second if rank else MODULE
            begun.append(Forked(program, "zennas.train", *words, cwd=tmp_path, env=os.environ | where | numbers))
        deadline = time.monotonic() + 120
        while not (tmp_path / "run" / "metrics.jsonl").exists() or len(train_losses(tmp_path / "run")) < 2:
            assert all(rank.poll() is None for rank in begun) and time.monotonic() < deadline
            time.sleep(0.05)
        return begun

    yield begin
    for process in begun:
        process.kill()


def test_a_rank_that_is_killed_ends_the_others_with_one_line(two):
    first, second = two("--set", "data.workers=1")
    second.kill()
    _, said = first.communicate(60)
    (line,) = [line for line in said.splitlines() if "error" in line]
    assert line.startswith("error: another rank is gone (") and line.endswith("goes on from the last checkpoint")
    assert first.returncode == 3 and "Traceback" not in said


def test_a_signal_ends_a_rank_that_waits_for_one_that_hangs(two):
    """Without a checkpoint, which none can write alone. No handler of Python runs while gradients are waited for."""
    first, _ = two(second=HANGS_IN_BACKWARD)
    time.sleep(3.0)
    begun = time.monotonic()
    first.send_signal(signal.SIGTERM)
    _, said = first.communicate(GRACE_S + 40)
    assert first.returncode == 130 and time.monotonic() - begun > GRACE_S and "Traceback" not in said


def test_bad_input_is_said_once_by_all_ranks(on_ranks, arguments):
    code, said = on_ranks(2, *arguments("--any-size", "--device", "cpu", "--batch", 17))
    assert code != 0
    assert said.count("error: batch 17 cannot be shared out over 2 ranks") == 1
    assert "a multiple of 2" in said


def test_ranks_on_ray(arguments, tmp_path):
    words = arguments("--any-size", "--device", "cpu", "--ray", 2, "--epochs", 1, "--json")
    ended = ran(*words)
    assert ended.code == 0, ended.said
    assert json.loads(ended.stdout)["training"]["num_ranks"] == 2
    assert len(train_losses(tmp_path / "run")) == STEPS_PER_EPOCH
    again = ran(*words)
    assert again.code == 0 and json.loads(again.stdout) == json.loads(ended.stdout)
    refused = ran(*arguments("--any-size", "--device", "cpu", "--ray", 2, "--batch", 17, out="other"))
    assert refused.code == 2 and "batch 17 cannot be shared out over 2 ranks" in refused.stderr


def test_from_a_search_to_a_trained_network(material, tmp_path):
    """`search --then-train`, the same by `run`, and nothing twice."""
    out = tmp_path / "found"
    words = ["--track", material.experiment, "--out", out, "--candidates", 40, "--budget-ms", 20, "--json"]
    searched = ran(*words, "--then-train", material.faces, command=search_command)
    assert searched.code == 0, searched.said
    answer = json.loads(searched.stdout)
    result = result_of(tmp_path / "found-trained")
    assert answer["trained"] == result and answer["winners"]
    assert result["candidate"] == answer["winners"][0]["candidate"]
    run_words = [
        material.experiment,
        "--data",
        material.faces,
        "--out",
        out,
        "--candidates",
        40,
        "--budget-ms",
        20,
        "--json",
    ]
    again = ran(*run_words, command=run_command)
    assert again.code == 0, again.said
    assert "this training is done; --fresh trains again" in again.stderr
    assert json.loads(again.stdout)["trained"] == result


def test_run_says_a_slip_in_the_training_before_it_searches(material, tmp_path):
    out = tmp_path / "found"
    ended = ran(material.experiment, "--data", material.faces, "--out", out, "--set", "epoch=3", command=run_command)
    assert ended.code == 2 and "epoch" in ended.stderr and not out.exists()
