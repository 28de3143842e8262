"""Checkpoints: whole or not at all, on any number of ranks; a training that was stopped or killed ends as an unbroken
one.
"""

import errno
import os
import random
import signal
import time

import pytest
import torch
from rich.console import Console

from tests.train.conftest import STEPS_PER_EPOCH, differing, kept_tensors, tensors, trained, training
from tests.train.test_training import teacher_file
from zennas.progress import Progress
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.tasks.face.head import FaceHead
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.identity.centres import CENTRE_OPTIMIZERS
from zennas.tasks.identity.partial_fc import PartialFC
from zennas.train import checkpoints
from zennas.train.checkpoints import checkpoints_in
from zennas.train.journal import read_metrics

EVERY_STEP = "checkpoint_minutes=1e-9"


class Pressing(Progress):
    """Sends this process a signal while it says how far step `step` is."""

    def __init__(self, step, *numbers):
        super().__init__(Console(quiet=True))
        self.step, self.numbers = step, numbers

    def update(self, fields):
        if fields.get("step", "").startswith(f"{self.step}/"):
            for number in self.numbers:
                os.kill(os.getpid(), number)


PRECIOUS = {
    "as it is": (),
    "adamw, sampled, in micro-batches": ("optimizer.name=adamw", "loss.sampling_rate=0.5", "accumulate=2"),
    "lars, running values, augmented": (
        "optimizer.name=lars",
        "loss.name=adaface",
        "data.augment={flip: {}, grey: {p: 0.5}}",
    ),
    "balanced, decoded elsewhere": ("data.images_per_identity=5", "data.workers=1", "schedule.warmup_epochs=1"),
}


@pytest.mark.parametrize("changes", PRECIOUS.values(), ids=PRECIOUS)
def test_a_stopped_training_ends_as_an_unbroken_one(options, changes):
    whole = trained(options(*changes, out="whole"))
    stopped = training(options(*changes), progress=Pressing(4, signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        stopped.run()
    (kept,) = checkpoints_in(stopped.out / "checkpoints")
    assert int(kept.name.removeprefix("step-")) in (4, 5)  # the step under way when it was asked
    assert differing(kept_tensors(kept), tensors(stopped)) == []
    resumed = training(options(*changes))
    resumed.run()
    assert resumed.first_step == int(kept.name.removeprefix("step-"))
    assert differing(tensors(whole), tensors(resumed)) == []
    timed = ("images_per_s",)
    courses = [
        [{k: v for k, v in entry.items() if k not in timed} for entry in read_metrics(o.out)] for o in (whole, resumed)
    ]
    assert courses[0] == courses[1]


def test_the_teachers_bank_is_kept(options, tmp_path):
    teacher = teacher_file(tmp_path / "teacher", embedding_size=48)
    given = {"teacher": teacher}
    whole = trained(options("distill.name=coupleface", out="whole", **given))
    with pytest.raises(KeyboardInterrupt):
        training(options("distill.name=coupleface", **given), progress=Pressing(5, signal.SIGTERM)).run()
    resumed = trained(options("distill.name=coupleface", **given))
    assert 0 < resumed.first_step < 2 * STEPS_PER_EPOCH
    assert differing(tensors(whole), tensors(resumed)) == []
    assert torch.equal(whole.job.head.guide.bank.feature_CD, resumed.job.head.guide.bank.feature_CD)


def test_a_second_signal_ends_at_once_and_the_handlers_come_back(options):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    one = training(options(), progress=Pressing(4, signal.SIGINT, signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        one.run()
    assert checkpoints_in(one.out / "checkpoints") == []
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- kill -9 ---------------------------------------------------------------------------------------------------------


def test_killed_at_any_moment_it_ends_as_an_unbroken_one(start, arguments, options, tmp_path):
    """Processes of their own, killed at random moments, one of them while a checkpoint is being written."""
    changes = (EVERY_STEP, "epochs=3", "loss.sampling_rate=0.5", "keep_checkpoints=3")
    whole = trained(options(*changes, out="whole"))
    words = arguments("--any-size", *(word for change in changes for word in ("--set", change)))
    folder, rng, steps = tmp_path / "run" / "checkpoints", random.Random(0), [0]
    for writing in (False, True, False):
        child = start(*words)
        if writing:
            child.until(lambda: newest(folder) > steps[-1] and any(folder.glob(".writing-*")))
        else:
            child.until(lambda: newest(folder) > steps[-1] + 1)
            time.sleep(rng.uniform(0, 0.05))
        child.signal(signal.SIGKILL)
        assert child.end() == -signal.SIGKILL, child.log.read_text()
        steps.append(newest(folder))
    assert steps == sorted(set(steps)) and steps[-1] < whole.job.num_steps
    last = start(*words)
    assert last.end() == 0, last.log.read_text()
    assert f"going on from {folder}/step-{steps[-1]:09d}" in last.log.read_text()
    assert differing(tensors(whole), kept_tensors(folder / f"step-{whole.job.num_steps:09d}")) == []
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    logged = [entry["step"] for entry in read_metrics(tmp_path / "run") if entry["kind"] == "train"]
    assert logged == list(range(1, whole.job.num_steps + 1))


def newest(folder):
    return max((int(path.name.removeprefix("step-")) for path in checkpoints_in(folder)), default=0)


# --- the files -------------------------------------------------------------------------------------------------------


class Alone(Ranks):
    """A rank that meets no other: the tests save the shares of a training one after the other, the first rank last."""

    def objects(self, value):
        return [value]

    def barrier(self):
        pass


def heads_of(num_ranks, *, optimizer="sgd", num_identities=11):
    return [
        FaceHead(
            torch.nn.Identity(),
            PartialFC(num_identities, 4, loss="cosface", optimizer=optimizer, ranks=Alone(rank, num_ranks)),
            None,
            FacePlan(),
        )
        for rank in range(num_ranks)
    ]


def saved(folder, heads, step, *, keep=2):
    for head in reversed(heads):
        checkpoints.save(folder, step, common={"word": "kept"}, head=head, ranks=head.classifier.ranks, keep=keep)
    return folder / f"step-{step:09d}"


@pytest.mark.parametrize("optimizer", CENTRE_OPTIMIZERS)
def test_centres_are_dealt_anew_to_other_ranks(tmp_path, optimizer):
    (first,) = heads = heads_of(1, optimizer=optimizer)
    for number, values in enumerate(first.state().rows.values()):
        values.normal_(generator=torch.Generator().manual_seed(number))
    first.classifier.num_steps = 17
    for step, num_ranks in enumerate((2, 3, 5, 1)):
        common, centres = checkpoints.load(saved(tmp_path, heads, step))
        assert (common["word"], common["step"], common["num_ranks"]) == ("kept", step, len(heads))
        heads = heads_of(num_ranks, optimizer=optimizer)
        for head in heads:
            head.restore(common, centres.read)
    (last,) = heads
    assert last.classifier.num_steps == 17
    for name, values in first.state().rows.items():
        assert torch.equal(values, last.state().rows[name])


def test_the_last_ones_are_kept_in_the_order_of_their_steps(tmp_path):
    for step in (8, 9, 10, 100):
        saved(tmp_path, heads_of(1), step, keep=2)
    assert [path.name for path in checkpoints_in(tmp_path)] == ["step-000000010", "step-000000100"]
    (tmp_path / "step-000000200").mkdir()  # without common.pt: not ours, or torn
    (tmp_path / "step-x").mkdir()
    assert len(checkpoints_in(tmp_path)) == 2


def test_what_was_left_half_written_is_cleaned_and_saved_over(tmp_path):
    partial = tmp_path / ".writing-step-000000003"
    partial.mkdir(parents=True)
    (partial / "common.pt").write_bytes(b"half")
    assert checkpoints_in(tmp_path) == []
    checkpoints.clean(tmp_path)
    assert list(tmp_path.iterdir()) == []
    partial.mkdir()
    assert checkpoints.load(saved(tmp_path, heads_of(1), 3))[0]["step"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000003"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64 vs 0")]
)
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, monkeypatch, error):
    kept = saved(tmp_path, heads_of(1), 1)

    def full(*args, **options):
        raise error

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(UserError, match=r"cannot be written: .*; earlier checkpoints are kept in"):
        saved(tmp_path, heads_of(1), 2)
    assert list(tmp_path.iterdir()) == [kept]


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["common.pt", "centres-0-of-1.pt"])
@pytest.mark.parametrize(
    "damage",
    [cut, lambda path: path.write_bytes(b""), lambda path: path.write_text("hello"), os.unlink],
    ids=["cut", "empty", "text", "gone"],
)
def test_a_damaged_checkpoint_is_said(tmp_path, name, damage):
    kept = saved(tmp_path, heads_of(1), 1)
    damage(kept / name)
    with pytest.raises(UserError, match=f"{name}: cannot be read as a checkpoint: "):
        checkpoints.load(kept)


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_checkpoint_from_a_stranger_runs_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kept = saved(tmp_path, heads_of(1), 1)
    torch.save(Harm(), kept / "common.pt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        checkpoints.load(kept)
    assert not (tmp_path / "harm").exists()


def test_other_formats_optimizers_and_data_are_said(tmp_path):
    kept = saved(tmp_path, heads_of(1), 1)
    centres = checkpoints.load(kept)[1]
    with pytest.raises(UserError, match="has no 'mean' of its head: another optimizer wrote it"):
        heads_of(1, optimizer="adamw")[0].classifier.restore({"buffers": {}, "steps": 0}, centres.read)
    with pytest.raises(UserError, match="has 11 of the rows 0 to 11: other data wrote it"):
        heads_of(1, num_identities=12)[0].classifier.restore({"buffers": {}, "steps": 0}, centres.read)
    common = torch.load(kept / "common.pt", weights_only=True)
    torch.save(common | {"format": 99}, kept / "common.pt")
    with pytest.raises(UserError, match="of format 99; this version reads 1"):
        checkpoints.load(kept)
    torch.save({"anything": 1}, kept / "common.pt")
    with pytest.raises(UserError, match="not a checkpoint of zennas train"):
        checkpoints.load(kept)


def test_a_training_does_not_go_on_with_fewer_people(options, tmp_path):
    trained(options("epochs=0.2"))
    people = tmp_path / "people.txt"
    people.write_text("".join(f"p{number:02d}\n" for number in range(5)))
    with pytest.raises(UserError, match="of 12 identities; the data has 5 now"):
        trained(options("epochs=0.5", identities=people))
