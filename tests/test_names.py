"""Names of any bytes: shown, kept, given back, in every locale."""

import os
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pytest

from zennas.clean import decisions
from zennas.clean.state import State
from zennas.data.index import Names
from zennas.data.sources import open_source
from zennas.export.onnx_file import open_session
from zennas.mask.run import _write_names
from zennas.names import print_any_name, shown, text_path, unshown
from zennas.progress import Progress, console_for
from zennas.ray_connection import connect
from zennas.records import UserError
from zennas.run_folder import write_atomically
from zennas.train.journal import Journal, read_metrics

GBK = [os.fsdecode(name.encode("gbk")) for name in ("甲一", "乙二")]  # as unzip leaves them of a Windows archive
IMAGE = cv2.imencode(".png", np.full((4, 4, 3), 7, np.uint8))[1].tobytes()


@pytest.fixture
def named(tmp_path):
    """A folder whose own name, people and images have names in GBK."""
    for name in GBK:
        folder = tmp_path / GBK[0] / name
        folder.mkdir(parents=True)
        for number in range(2):
            (folder / f"{name}_{number}.png").write_bytes(IMAGE)
    return tmp_path / GBK[0]


@pytest.mark.parametrize("name", [*GBK, "Zoë", "", "a\\b", "\udcff" * 3])
def test_a_name_is_shown_and_taken_back(name):
    shown(name).encode()
    assert unshown(shown(name)) == name and shown(shown(name)) == shown(name)


def test_what_is_written_is_given_back(named, tmp_path):
    """Names of people by identities.txt, those of images by decisions.parquet and --take-back."""
    source = open_source(named)
    assert list(source.identity_names) == sorted(GBK)
    _write_names(source, tmp_path)
    assert (tmp_path / "identities.txt").read_text(encoding="utf-8") == "".join(f"{shown(n)}\n" for n in sorted(GBK))
    assert list(open_source(named, identities=tmp_path / "identities.txt").identity_names) == sorted(GBK)
    (tmp_path / "raw.txt").write_bytes(os.fsencode(GBK[1]))  # as ls has it
    assert list(open_source(named, identities=tmp_path / "raw.txt").identity_names) == [GBK[1]]
    label_N, path = np.asarray(source.label_N), tmp_path / GBK[1] / "decisions.parquet"
    path.parent.mkdir()
    decisions.write_table(path, State.of(label_N), source, label_N)
    table = pd.read_parquet(text_path(path))
    assert [unshown(name) for name in table.name] == [source.name(image) for image in range(4)]
    asked = [f"image:{table.name[2]}", f"identity:{table.identity[0]}", f"image:{source.name(3)}"]
    taken = decisions.parsed(asked, source)
    assert (taken.image_M.tolist(), taken.number_C.tolist()) == ([2, 3], [0])


def test_all_that_is_written_takes_them(tmp_path, capsys):
    write_atomically(tmp_path / "page.html", f"<p>{GBK[0]}</p>")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == f"<p>{shown(GBK[0])}</p>"
    progress = Progress(console_for(json_output=False))
    progress.log_to(tmp_path / "x.log")
    progress.say(GBK[0])
    progress.close()
    assert (
        shown(GBK[0]) in (tmp_path / "x.log").read_text(encoding="utf-8") and shown(GBK[0]) in capsys.readouterr().out
    )


def test_libraries_that_want_text_get_it(tmp_path, monkeypatch):
    """ONNX Runtime and TensorBoard, in a folder of such a name and of such a name themselves."""
    folder = tmp_path / GBK[0]
    folder.mkdir()
    for name in ("x.txt", GBK[1]):
        (folder / name).write_text("here")
        with open(text_path(folder / name), encoding="utf-8") as file:
            assert file.read() == "here" and text_path(folder / name).encode()
    assert text_path(tmp_path / "x.txt") == str(tmp_path / "x.txt")
    journal = Journal(folder)
    journal.add(0, "train", {"loss": 1.0})
    journal.close()
    assert len(read_metrics(folder)) == 1 and len(os.listdir(folder / "tensorboard")) == 1
    (folder / "x.onnx").write_bytes(b"no network")
    with pytest.raises(Exception, match=r"(?i)protobuf|parse"):  # which it has read
        open_session(str(folder / "x.onnx"))


def test_names_of_a_tar_on_a_system_of_ascii(monkeypatch):
    monkeypatch.setattr(os, "fsencode", lambda name: name.encode("ascii", "surrogateescape"))
    assert bytes(Names.of(["Zoë", GBK[0]]).byte_M) == "Zoë".encode() + "甲一".encode("gbk")


PROGRAM = """
import typer
from zennas.commands import run_program
from zennas.records import UserError
app = typer.Typer()
@app.command()
def show(name: str):
    print(name)
    raise UserError(f"{name}: no such file")
run_program(app, None, "show")
"""


@pytest.mark.parametrize(
    ("environment", "encoding"),
    [
        ({"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "ascii"),
        ({"PYTHONIOENCODING": "utf-8:strict"}, "utf-8"),
    ],
)
def test_a_command_prints_any_name_on_any_console(environment, encoding):
    """Escaped where the console has no letters for it, in its one line and without a traceback."""
    given = os.path.join(GBK[0], "Zoë")
    words = [sys.executable, "-c", PROGRAM, given]
    done = subprocess.run(words, capture_output=True, env=os.environ | environment, check=False)
    name = os.fsencode(given).decode(encoding, "surrogateescape").encode(encoding, "backslashreplace")
    assert (done.returncode, done.stdout, done.stderr) == (2, name + b"\n", b"error: " + name + b": no such file\n")


def test_a_stream_that_was_replaced_or_closed_ends_nothing(tmp_path, monkeypatch):
    """As in a process whose file behind standard output became a pipe."""
    reader, writer = os.pipe()
    with open(tmp_path / "x", "w", encoding="utf-8") as stream:
        stream.write("x")
        stream.flush()
        os.dup2(writer, stream.fileno())
        monkeypatch.setattr(sys, "stdout", stream)
        print_any_name()
    print_any_name()  # closed by now
    for descriptor in (reader, writer):
        os.close(descriptor)


def test_ray_says_where_it_cannot_start(named, monkeypatch):
    monkeypatch.chdir(named)
    with pytest.raises(UserError, match="Ray cannot start in a folder whose name is no text"):
        connect(None, say=print)
