"""`zennas align` from end to end, in this process and in one that is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pandas as pd
import pytest

import zennas
from tests.align.conftest import KINDS, SIZE, encoded
from tests.processes import Forked, stopped_between_parts
from zennas.align import report, run
from zennas.align.parts import COORDINATES
from zennas.data.images import UnreadableImageError, decode
from zennas.data.sources import Source, open_source
from zennas.names import shown
from zennas.tasks.face.align import align, off_template
from zennas.tasks.face.detect import SHIPPED, Detector
from zennas.tasks.face.look import MAX_MEDIAN_OFF, look_at

# Landmarks of a drawn face of 140 pixels; what the detector takes for the corner of a mouth is not quite the vertex.
MOST_PX = 140 * 8 / 112


@pytest.fixture(scope="module")
def done(photographs, tmp_path_factory):
    """The folder of an alignment, and what came back."""
    out = tmp_path_factory.mktemp("aligned") / "out"
    return out, zennas.align(data=photographs, out=out, workers=1)


def table_of(out):
    return pd.read_parquet(out / "faces.parquet").set_index("name")


def test_faces_of_every_kind_of_file(done, drawn):
    """Each is read upright and in its colours, found where it was drawn, and aligned."""
    out, result = done
    table = table_of(out)
    assert (result.num_photographs, result.num_identities, result.num_written) == (len(KINDS) + 3, 2, len(KINDS) + 1)
    assert (result.num_accepted, result.num_doubtful, result.num_refused) == (len(KINDS) + 1, 0, 2)
    assert result.whys == {"does not decode": 1, "no face is found": 1} and result.num_undecodable == 1
    expected_HW3 = align(drawn[0], drawn[1])
    for name in KINDS:
        row = table.loc[f"Ada/{name}"]
        assert row.verdict == "accepted" and (row.height_px, row.width_px) == SIZE and row.num_faces == 1
        found_52 = row[COORDINATES].to_numpy(float).reshape(5, 2)
        assert np.linalg.norm(found_52 - drawn[1], axis=1).max() < MOST_PX
        assert row.left < drawn[1][:, 0].min() < drawn[1][:, 0].max() < row.left + row.width
        assert row.score > 0.85 and abs(row.yaw_deg - 10) < 15 and abs(row.roll_deg) < 8
        face_HW3 = decode((out / row.written).read_bytes())
        assert face_HW3.shape == (112, 112, 3)
        assert off_template(Detector().face(face_HW3).points_52, (112, 112)) < MAX_MEDIAN_OFF
        if name != "grey.png":
            assert face_HW3[40:90, 30:80].mean((0, 1)) == pytest.approx(expected_HW3[40:90, 30:80].mean((0, 1)), abs=12)
            # Compression, a palette of 256 colours, and landmarks that differ a little for it.
            assert np.abs(face_HW3.astype(int) - decode((out / "Ada" / "plain.jpg").read_bytes())).mean() < 16
    refused = table[table.verdict == "refused"]
    assert sorted(refused.index) == ["Zoe/empty.png", "Zoe/torn.jpg"] and refused.written.isna().all()


def test_what_it_writes_is_a_set_of_aligned_faces(done):
    """By the names of the photographs, for lists and for whoever takes --data."""
    out, result = done
    source = open_source(out)
    assert source.num_images == result.num_written and list(source.identity_names) == ["Ada", "Zoe"]
    assert (out / "Ada" / "plain.jpg").is_file() and (out / "Ada" / "lying.jpg").is_file()
    assert not look_at(source.images).has_photographs
    lines = (out / "passed-over.csv").read_text().splitlines()
    assert len(lines) == 3 and "no face is found" in lines[1] and "does not decode" in lines[2]
    page = (out / "report.html").read_text()
    assert page.count("<figure>") == result.num_photographs and "Zoe/empty.png" in page
    assert page.count("data:image/jpeg;base64,") == len(KINDS) + 1 + 1  # all faces, and a photograph without one
    assert not (out / "parts").exists() and json.loads((out / "run.json").read_text())["summary"]["num_refused"] == 2


@pytest.mark.parametrize("format", ["tar", "recordio"])
def test_every_format_holds_the_same_faces(done, photographs, tmp_path, format, command, monkeypatch):
    monkeypatch.setattr(report, "NUM_SHOWN", 2)  # a page that cannot show all faces says so
    code, said, _ = command("--data", photographs, "--out", tmp_path / "out", "--format", format, "--workers", 1)
    assert code == 0 and "Next:" in said and "zennas.train" in said
    page = (tmp_path / "out" / "report.html").read_text()
    assert f"2 of {done[1].num_accepted}, evenly over the data" in page and page.count("<figure>") < len(KINDS)
    assert ", evenly" not in (done[0] / "report.html").read_text()
    first, second = (open_source(folder) for folder in (done[0], tmp_path / "out"))
    assert first.num_images == second.num_images and np.array_equal(first.label_N, second.label_N)
    assert [first.read(image) for image in range(first.num_images)] == [
        second.read(image) for image in range(second.num_images)
    ]
    one, other = table_of(done[0]), table_of(tmp_path / "out")
    pd.testing.assert_frame_equal(one.drop(columns="written"), other.drop(columns="written"))
    if format == "tar":
        assert list(one.written) == list(other.written)
    else:
        assert other.written.dropna().tolist() == [str(number + 1) for number in range(first.num_images)]
        assert (tmp_path / "out" / "identities.txt").read_text() == "Ada\nZoe\n"


def test_records_without_names_go_through(photographs, tmp_path):
    """Photographs in RecordIO come out as RecordIO; aligned again as files, they are called by their records."""
    zennas.align(data=photographs, out=tmp_path / "first", format="recordio", workers=1)
    again = zennas.align(data=tmp_path / "first", out=tmp_path / "again", workers=1)
    assert again.format == "recordio" and again.num_written == len(KINDS) + 1
    files = zennas.align(data=tmp_path / "first", out=tmp_path / "files", format="folder", workers=1)
    assert files.num_written == len(KINDS) + 1 and (tmp_path / "files" / "0000000" / "000000001.jpg").is_file()


def test_a_flat_folder(photographs, tmp_path, command):
    """Photographs without identities: names are kept; a training has nothing to learn from them, and is not named."""
    code, said, _ = command("--data", photographs / "Ada", "--out", tmp_path / "out", "--workers", 1)
    assert code == 0 and "zennas.train" not in said and "zennas.evaluate" in said
    assert {path.stem for path in (tmp_path / "out").glob("*.jpg")} == {name.split(".")[0] for name in KINDS}
    code, _, error = command("--data", photographs / "Ada", "--out", tmp_path / "tar", "--format", "tar")
    assert code == 2 and "--identity-of" in error


def test_identities_from_a_list(photographs, tmp_path, command):
    """As CelebA: one folder of photographs, and lines of a name and a number."""
    names = list(KINDS)
    listed = tmp_path / "identity.txt"
    listed.write_text("".join(f"{name} {10 - place % 2}\n" for place, name in enumerate(names[:-1])) + "gone.jpg 9\n")
    words = ["--data", photographs / "Ada", "--identity-of", listed, "--workers", 1]
    code, said, _ = command(*words, "--out", tmp_path / "out")
    assert code == 0 and "1 names are no image" in said and "1 of 9 photographs have no identity" in said
    source = open_source(tmp_path / "out")
    assert list(source.identity_names) == ["10", "9"] and source.num_images == len(names) - 1
    code, _, _ = command(*words, "--out", tmp_path / "rec", "--format", "recordio")
    assert code == 0 and (tmp_path / "rec" / "identities.txt").read_text() == "9\n10\n"
    assert "no identity is given for it" in (tmp_path / "rec" / "passed-over.csv").read_text()


def test_landmarks_that_are_known(photographs, drawn, tmp_path, command):
    """They are taken as they are; photographs without a line are looked at."""
    numbers = " ".join(f"{value:.3f}" for value in drawn[1].ravel())
    listed = tmp_path / "landmarks.txt"
    listed.write_text(f"2\nlefteye_x lefteye_y\nplain.jpg {numbers}\nZoe/empty.png {numbers}\n")
    code, said, _ = command("--data", photographs, "--out", tmp_path / "out", "--landmarks", listed, "--workers", 1)
    assert code == 0 and "10 of 12 photographs have no landmarks" in said
    table = table_of(tmp_path / "out")
    assert table.known.sum() == 2 and table.loc["Zoe/empty.png"].verdict != "refused"
    assert table.loc["Ada/plain.jpg"][COORDINATES].to_numpy(float) == pytest.approx(drawn[1].ravel(), abs=1e-3)
    face_HW3 = decode((tmp_path / "out" / "Ada" / "plain.jpg").read_bytes())
    expected_HW3 = align(decode((photographs / "Ada" / "plain.jpg").read_bytes()), drawn[1])
    assert np.abs(face_HW3.astype(int) - expected_HW3).mean() < 2  # a JPEG of it


def test_every_face_of_a_photograph(drawn, tmp_path):
    """The further ones get numbers, unless a photograph is called so."""
    two_HW3 = np.concatenate([drawn[0], drawn[0][:, ::-1]], axis=1)
    for name, image_HW3 in (("a", two_HW3), ("a-2", drawn[0])):
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / f"{name}.png").write_bytes(encoded(image_HW3, "PNG"))
    result = zennas.align(data=tmp_path / "in", out=tmp_path / "out", all=True, workers=1)
    assert result.num_written == 3
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jpg")) == ["a-2-.jpg", "a-2.jpg", "a.jpg"]
    alone = zennas.align(data=tmp_path / "in", out=tmp_path / "alone", workers=1)
    assert alone.num_written == 2 and alone.whys == {"another face": 1} and alone.num_doubtful == 1
    only = zennas.align(data=tmp_path / "in", out=tmp_path / "only", only_accepted=True, workers=1)
    assert only.num_written == 1 and only.num_doubtful == 1


def test_a_complete_set_and_another_size(photographs, tmp_path):
    """For lists of pairs: of a photograph without a face the middle; what does not decode stays out."""
    result = zennas.align(data=photographs, out=tmp_path / "out", complete=True, size="128x96", workers=1)
    assert result.num_written == len(KINDS) + 2 and result.num_refused == 2
    assert all(decode(path.read_bytes()).shape == (128, 96, 3) for path in (tmp_path / "out" / "Zoe").glob("*.jpg"))
    assert "its middle stands in" in (tmp_path / "out" / "passed-over.csv").read_text()


def test_names_that_would_be_one(drawn, tmp_path):
    """Two photographs that differ in their suffix alone; and a member that leads out of the folder."""
    picture = encoded(drawn[0], "PNG")
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name in ("Ada/1.png", "Ada/1.bmp", "Ada/../../2.png"):
            path = tmp_path / "one.png"
            path.write_bytes(picture)
            tar.add(path, name)
    result = zennas.align(data=tmp_path / "in.tar", out=tmp_path / "deep" / "out", workers=1)
    written = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg"))
    assert len(written) == result.num_written and all(path.startswith("deep/out/") for path in written)
    assert {"deep/out/Ada/1.png.jpg", "deep/out/Ada/1.bmp.jpg"} <= set(written)


def test_people_whose_names_would_be_one_folder_stay_apart(photographs, tmp_path):
    """And photographs of one name in two folders, which are one person by the list, do not replace each other."""
    for folder in ("a", "b", "c", "d"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copy(photographs / "Ada" / "plain.jpg", tmp_path / "in" / folder / "1.jpg")
    shutil.copy(photographs / "Ada" / "plain.jpg", tmp_path / "in" / "a" / "2.jpg")
    listed = tmp_path / "identity.csv"
    listed.write_text("a/1.jpg,x/y\nb/1.jpg,x_y\na/2.jpg,.x\nc/1.jpg,..\nd/1.jpg,..\n")
    result = zennas.align(data=tmp_path / "in", out=tmp_path / "out", identity_of=listed, workers=1)
    source = open_source(tmp_path / "out")
    assert result.num_written == source.num_images == 5 and source.num_identities == 4
    assert sorted(np.bincount(source.label_N)) == [1, 1, 1, 2]


def test_no_face_at_all_is_said(tmp_path, command):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(encoded(np.full((64, 64, 3), 77, np.uint8), "PNG"))
    code, said, _ = command("--data", tmp_path / "in", "--out", tmp_path / "out")
    assert code == 1 and "no face was found" in said


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--size", "big"), "--size: given 'big'"),
        (("--size", "4"), "16 to 2048"),
        (("--data", "nowhere"), "no such file or folder"),
        (("--landmarks", "nowhere"), "--landmarks nowhere: no such file"),
        (("--detector", __file__), "no network"),
        (("--all", "--landmarks", __file__), "exclude each other"),
    ],
)
def test_what_cannot_be_used_is_one_line(photographs, tmp_path, command, words, text):
    given = {"--data": photographs, "--out": tmp_path / "out"}
    given |= {"--data": words[1]} if words[0] == "--data" else {}
    rest = [] if words[0] == "--data" else words
    code, _, error = command(*(word for pair in given.items() for word in pair), *rest)
    assert code == 2 and text in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "faces.parquet").exists()


def test_the_data_itself_is_no_out(photographs, command):
    code, _, error = command("--data", photographs, "--out", photographs)
    assert code == 2 and "holds the data itself" in error
    code, _, error = command("--data", photographs, "--out", photographs / "Ada" / "aligned")
    assert code == 2 and "lies in the data" in error and not list(photographs.rglob("*.lock"))


# In a process of its own, slowly: a script, so that workers find it, or a forked one.
SLOW = """
import time, zennas.align.parts as parts, zennas.align.run as run
run.PART_PHOTOGRAPHS = 2
once = parts.aligned_of
def slowly(aligning, image):
    time.sleep(0.15)
    return once(aligning, image)
parts.aligned_of = slowly
from zennas.align.__main__ import main
if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("number", "code", "workers"),
    [
        pytest.param(signal.SIGKILL, -signal.SIGKILL, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -signal.SIGKILL, 1, marks=pytest.mark.slow),
        (signal.SIGINT, 130, 1),
    ],
)
def test_an_alignment_that_is_stopped_goes_on(done, photographs, tmp_path, command, monkeypatch, number, code, workers):
    """Stopped when two parts are done: they are not done again, and the end is what it would have been."""
    words = ["--data", str(photographs), "--out", str(tmp_path / "out"), "--workers", str(workers)]
    if workers == 1:
        child = Forked(SLOW, *words)
    else:
        (tmp_path / "slow.py").write_text(SLOW)
        script = [sys.executable, tmp_path / "slow.py", *words]
        child = subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    kept = stopped_between_parts(child, tmp_path / "out", number, code)
    assert 2 <= len(kept) < 6
    monkeypatch.setattr(run, "PART_PHOTOGRAPHS", 2)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the parts stay, to be looked at
    ended, said, _ = command(*words[:4], "--workers", 1)
    assert ended == 0 and f"going on: {len(kept)} of 6" in said
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    pd.testing.assert_frame_equal(table_of(tmp_path / "out"), table_of(done[0]))
    for name in table_of(done[0]).written.dropna():
        assert (tmp_path / "out" / name).read_bytes() == (done[0] / name).read_bytes()
    assert "is done; --fresh" in command(*words)[1]
    code, _, error = command(*words, "--complete")
    assert code == 2 and "complete: false, now true" in error


def test_a_disk_that_fails_ends_the_run(photographs, tmp_path, command, monkeypatch):
    """What cannot be read now is not refused for good."""

    def failing(source, image):
        raise UnreadableImageError("cannot be read: Input/output error")

    monkeypatch.setattr(Source, "read", failing)
    code, _, error = command("--data", photographs, "--out", tmp_path / "out", "--workers", 1)
    assert code == 2 and "Input/output error" in error and "same command" in error


def test_another_detector(photographs, tmp_path):
    """The same file under another name gives the same faces; a name says nothing."""
    shutil.copy(SHIPPED, tmp_path / "mine.onnx")
    result = zennas.align(data=photographs / "Zoe", out=tmp_path / "out", detector=tmp_path / "mine.onnx", workers=1)
    assert result.num_accepted == 1


def test_names_of_any_bytes(drawn, tmp_path, command):
    """Kept as they are in files, shown in tables and pages."""
    name = os.fsdecode(b"Zo\xe9")
    folder = tmp_path / name / "in" / name
    folder.mkdir(parents=True)
    (folder / f"{name}.png").write_bytes(encoded(drawn[0], "PNG"))
    for format in ("folder", "recordio", "tar"):
        code, _, _ = command("--data", folder.parent, "--out", tmp_path / name / format, "--format", format)
        assert code == 0 and open_source(tmp_path / name / format).num_images == 1
    assert (tmp_path / name / "folder" / name / f"{name}.jpg").is_file()
    assert open_source(tmp_path / name / "tar").name(0) == f"{name}/{name}.jpg"
    assert (tmp_path / name / "recordio" / "identities.txt").read_text() == shown(name) + "\n"
