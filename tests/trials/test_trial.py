"""One training in this process, judged: killed behind its last checkpoint, taught by a teacher, failed."""

import dataclasses
import functools
import json

import pytest
import torch

from tests.train.conftest import material, one_thread, options, untrained  # noqa: F401
from zennas.progress import silent
from zennas.records import UserError
from zennas.train.journal import read_lines_of_json, read_metrics
from zennas.trials.engine import JOBS, Book, Job
from zennas.trials.trial import (
    ENDED,
    FAILED,
    Opened,
    curve,
    end,
    is_done,
    numbers_of,
    read_json,
    train_judged,
)


def judge(network, group, *, device, autocast):
    """Any number of the network's own, and the group that was asked."""
    return {"reward": next(network.parameters()).abs().mean().item(), "group": group}


def title(name):
    return {"group": "Group"}.get(name)


@pytest.fixture
def trained(options, tmp_path):  # noqa: F811
    """trained(*changes, **others) -> what a training reports."""

    def made(*changes, opened=None, **others):
        told, request = [], options("epochs=2", "verify_epochs=1", *changes, **others)
        folder = tmp_path / "trial"
        training = dataclasses.replace(request, out=folder)
        train_judged(
            opened or (lambda progress: Opened(training, judge, 1.0, facts={"num_kept": 3})),
            folder,
            report=lambda *given: told.append(given),
            title=title,
            num_threads=1,
        )
        return told, folder

    return made


def test_it_is_judged_after_every_epoch_and_keeps_what_it_is(trained):
    told, folder = trained()
    assert [epoch for epoch, _ in told] == [1, 2] and told[0][1]["group"] == 1.0
    assert [numbers_of(entry, title) for entry in curve(folder)] == [numbers for _, numbers in told]
    facts = read_json(folder / "trial.json")
    assert facts["num_kept"] == 3 and facts["params"] > 0 and facts["candidate"]["stem"] == 8
    assert not is_done(folder) and not (folder / ENDED).exists()
    end(folder)
    assert is_done(folder) and trained(opened=functools.partial(pytest.fail, "opened again"))[0] == told[-1:]


def test_killed_behind_its_last_checkpoint_it_tells_its_last_numbers(trained):
    told, folder = trained()
    before = curve(folder)
    assert trained()[0] == told[-1:] and curve(folder) == before


def test_a_teacher_teaches(trained, material, tmp_path):  # noqa: F811
    _, folder = trained()
    alone = [entry["loss"] for entry in read_metrics(folder) if entry["kind"] == "train"]
    folder.rename(tmp_path / "alone")
    _, folder = trained(teacher=str(untrained(material, tmp_path / "model") / "network.pt"))
    taught = [entry["loss"] for entry in read_metrics(folder) if entry["kind"] == "train"]
    assert len(taught) == len(alone) and all(torch.tensor(taught) != torch.tensor(alone))


def test_what_failed_says_why_and_nothing_of_it_stays_where_it_is_mended(trained):
    def opened(progress):
        assert type(progress) is type(silent())
        raise UserError("nobody is left to train on\nat all")

    with pytest.raises(UserError, match="nobody is left"):
        trained(opened=opened)
    told, folder = trained()
    assert len(told) == 2 and not (folder / FAILED).exists()
    with pytest.raises(ZeroDivisionError):
        trained(opened=lambda progress: 1 / 0)
    assert read_json(folder / FAILED) == {"error": "ZeroDivisionError: division by zero"}


def test_a_line_that_a_kill_tore_is_left_out(tmp_path):
    path = tmp_path / "lines.jsonl"
    assert read_lines_of_json(path) == []
    path.write_text(json.dumps({"a": 1}) + "\n" + '{"a": 2')
    assert read_lines_of_json(path) == [{"a": 1}]
    path.write_bytes(b'{"a": 1}\n3\n\xff\xfe\n\0\0\0\n' + b"[" * 100_000)  # as a disk may leave it
    assert read_lines_of_json(path) == [{"a": 1}]


@pytest.mark.parametrize("content", [b"", b"\0\0", b'{"error', b"\xff", b"[1]", b"null"])
def test_a_file_that_a_disk_tore_says_nothing(tmp_path, content):
    (tmp_path / "failed.json").write_bytes(content)
    assert read_json(tmp_path / "failed.json") == {}


def test_proposals_that_say_nothing_or_are_given_meanwhile_are_no_jobs(tmp_path):
    first, second = Job("a", "the first", {}), Job("b", "the second", {})
    lines = [first._asdict(), second._asdict(), {"x": 1}]
    (tmp_path / JOBS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    book = Book(tmp_path, [first], lambda finished, under_way: None, 3)
    assert [book.begin(), book.begin()] == [first, second] and not book.has_next()
