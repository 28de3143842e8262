import io
import json
import shutil
import subprocess
import zipfile

import pytest

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


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../a", ".hidden", "-x", "a b", "a\n", "x" * 101])
def test_names_that_are_no_file_names_are_refused(name):
    with pytest.raises(UserError, match="--name"):
        check_name(name)


@pytest.mark.parametrize("name", ["mine", "insightface-ms1m", "v1.2_b", "1"])
def test_names_that_are_file_names(name):
    check_name(name)
