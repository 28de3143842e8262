import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest

from tests.processes import forked
from zennas.records import UserError
from zennas.submit.package import check_name, earlier_files, read_again, write_submission, zipped

FILES = {"model.onnx": bytes(range(256)) * 40, "assets/det/d.onnx": b"detector", "a.py": b""}


def written(out, files=FILES, *, name="mine", as_folder=True):
    return write_submission(out, {"accepted": True}, name=name, files=files, as_folder=as_folder)


def tree(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_zip_is_the_same_whenever_it_is_made():
    first = zipped(FILES)
    assert zipped(dict(reversed(FILES.items()))) == first
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        assert archive.namelist() == sorted(FILES) and archive.testzip() is None
        assert {name: archive.read(name) for name in FILES} == FILES
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}  # whatever the clock


@pytest.mark.skipif(not shutil.which("unzip"), reason="no unzip here")
def test_another_program_reads_it(tmp_path):
    (tmp_path / "mine.zip").write_bytes(zipped(FILES))
    subprocess.run(["unzip", "-q", "mine.zip", "-d", "out"], cwd=tmp_path, check=True)
    assert tree(tmp_path / "out") == FILES


def test_reading_again_sees_what_changed(tmp_path):
    (tmp_path / "mine.zip").write_bytes(zipped(FILES))
    read_again(tmp_path / "mine.zip", FILES)
    for other in (FILES | {"a.py": b"x"}, FILES | {"b.py": b""}, {"a.py": b""}):
        with pytest.raises(RuntimeError, match="something else"):
            read_again(tmp_path / "mine.zip", other)


def test_what_is_written(tmp_path):
    out = tmp_path / "runs" / "out"
    assert written(out) == out / "mine.zip"
    record = json.loads((out / "submission.json").read_text())
    assert (record["accepted"], record["zip"], record["folder"]) == (True, "mine.zip", "mine")
    assert (
        set(record["files"])
        == {"mine.zip", *(f"mine/{name}" for name in FILES)}
        == set(tree(out)) - {"submission.json"}
    )
    assert tree(out / "mine") == FILES


def test_an_earlier_submission_is_replaced_whole(tmp_path):
    written(tmp_path / "out")
    written(tmp_path / "out", {"model.onnx": b"new"}, name="other", as_folder=False)
    assert set(tree(tmp_path / "out")) == {"other.zip", "submission.json"}
    assert not (tmp_path / "out" / "mine").exists()
    assert written(tmp_path / "out", {}) is None  # one that was refused leaves no zip of another behind
    assert set(tree(tmp_path / "out")) == {"submission.json"}
    assert json.loads((tmp_path / "out" / "submission.json").read_text())["files"] == {}


@pytest.mark.parametrize("name", ["mine/a.py", "mine.zip"])
def test_what_the_user_changed_is_not_overwritten(tmp_path, name):
    written(tmp_path / "out")
    (tmp_path / "out" / name).write_text("my own")
    before = tree(tmp_path / "out")
    for attempt in (lambda: earlier_files(tmp_path / "out"), lambda: written(tmp_path / "out")):
        with pytest.raises(UserError, match=r"was changed after zennas submit wrote it, and is not overwritten"):
            attempt()
    assert tree(tmp_path / "out") == before


def test_files_of_the_users_beside_it_are_left_alone(tmp_path):
    written(tmp_path / "out")
    (tmp_path / "out" / "mine" / "notes.txt").write_text("my own")
    (tmp_path / "out" / "other.zip").write_text("my own")
    written(tmp_path / "out", {"model.onnx": b"new"}, as_folder=False)
    assert (tmp_path / "out" / "mine" / "notes.txt").read_text() == "my own"
    with pytest.raises(UserError, match=r"other\.zip: is no file of zennas submit"):
        written(tmp_path / "out", name="other")
    assert (tmp_path / "out" / "other.zip").read_text() == "my own" and (tmp_path / "out" / "mine.zip").is_file()


@pytest.mark.parametrize(
    "record",
    [
        "no json",
        "[]",
        "{}",
        '{"files": []}',
        '{"files": {"a": 1',
        '{"files": {"../kept": "DIGEST"}}',
        '{"files": {"/kept": "D"}}',
    ],
)
def test_a_record_that_is_none_is_refused(tmp_path, record):
    (tmp_path / "kept").write_bytes(b"")
    out = tmp_path / "out"
    out.mkdir()
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"  # of no bytes at all
    (out / "submission.json").write_text(record.replace("DIGEST", empty))
    with pytest.raises(UserError, match=r"submission\.json: not a record of zennas submit"):
        written(out)
    assert (tmp_path / "kept").is_file()


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="is not empty and holds no submission of zennas"):
        written(tmp_path)
    with pytest.raises(UserError, match="is a file; --out takes a folder"):
        written(tmp_path / "thesis.txt")


# --- killed, and on a full disk

KILLED = """
import itertools, json, os, pathlib, signal, sys
from zennas.submit.package import write_submission

root, first, second = pathlib.Path(sys.argv[1]), *(json.loads(text) for text in sys.argv[2:])

def write(out, what):
    files = {name: text.encode() for name, text in what["files"].items()}
    write_submission(out, {"accepted": True}, name=what["name"], files=files, as_folder=what["as_folder"])

for number in itertools.count():
    out = root / str(number)
    if first:
        write(out, first)
    child = os.fork()
    if not child:
        left = number
        def count(event, arguments):
            global left
            if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
        sys.addaudithook(count)
        write(out, second)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if ended != -signal.SIGKILL:
        sys.exit(ended)
"""
SYSTEM = {"model.onnx": "weights", "assets/det/d.onnx": "detector", "a.py": ""}
FIRST = {"name": "mine", "files": SYSTEM, "as_folder": True}
OTHER = {"name": "other", "files": {"model.onnx": "new"}, "as_folder": False}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a process is killed at each of its steps, by fork")
@pytest.mark.parametrize(
    ("first", "second"),
    [(None, FIRST), (FIRST, FIRST), (FIRST, OTHER), (OTHER, FIRST), (FIRST, FIRST | {"files": {}})],
    ids=["new", "again", "another", "larger", "refused"],
)
def test_a_folder_is_taken_again_wherever_its_writer_was_killed(tmp_path, first, second):
    """Killed at each step at which it touches the disk, in turn; then given the same command, and a smaller one."""
    root = tmp_path / "killed"
    root.mkdir()
    ended = forked(KILLED, root, json.dumps(first), json.dumps(second))
    assert ended.returncode == 0, ended.stderr
    folders = sorted(root.iterdir(), key=lambda folder: int(folder.name))
    *killed, finished = folders
    assert len(killed) >= 2 * (len(second["files"]) + 1)  # each file and the record is opened, then renamed
    for out in killed:
        out.mkdir(exist_ok=True)  # killed before it came to that
        shutil.copytree(out, tmp_path / "copy")
        files = {name: text.encode() for name, text in second["files"].items()}
        written(out, files, name=second["name"], as_folder=second["as_folder"])
        assert tree(out) == tree(finished)
        written(tmp_path / "copy", {}, name="third")
        assert set(tree(tmp_path / "copy")) == {"submission.json"}
        assert [path.name for path in (tmp_path / "copy").iterdir()] == ["submission.json"]  # no empty folder either
        shutil.rmtree(tmp_path / "copy")


@pytest.mark.skipif(sys.platform == "win32", reason="no limit of a file's size there")
@pytest.mark.parametrize("limit", [0, 100, 9000])
def test_a_full_disk_is_one_clear_line_and_the_folder_is_taken_again(tmp_path, limit):
    """A limit of the process stands for the disk: nothing fits, not even the record, all but the network."""
    import resource

    written(tmp_path / "out")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError) as refused:
            written(tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert f"cannot be written: {os.strerror(errno.EFBIG)}" in str(refused.value)
    assert str(tmp_path / "out") in str(refused.value) and "give the same command again" in str(refused.value)
    assert not (tmp_path / "out" / "mine.zip").exists()  # nor half of one
    assert written(tmp_path / "out") == tmp_path / "out" / "mine.zip" and tree(tmp_path / "out" / "mine") == FILES


def test_a_folder_that_cannot_be_made_is_one_clear_line(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.txt/out: cannot be written: Not a directory"):
        written(tmp_path / "thesis.txt" / "out")
    written(tmp_path / "out", {"model.onnx": b"old"}, as_folder=False)
    (tmp_path / "out" / "mine").write_text("my own")  # where the folder would have to be
    with pytest.raises(UserError, match=r"/out: cannot be written: File exists"):
        written(tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "my own"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_may_not_be_written_is_one_clear_line(tmp_path):
    written(tmp_path / "out")
    (tmp_path / "out").chmod(0o555)
    try:
        with pytest.raises(UserError, match=r"/out: cannot be written: Permission denied"):
            written(tmp_path / "out")
    finally:
        (tmp_path / "out").chmod(0o755)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "-x", "a b", "a\n", "x" * 101])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(UserError, match="--name"):
        check_name(name)


@pytest.mark.parametrize("name", ["mine", "insightface-ms1m", "v1.2_b", "1"])
def test_names_that_are_file_names(name):
    check_name(name)
