"""`zennas mask` from end to end, in this process and in one that is killed."""

import functools
import importlib
import inspect
import json
import pathlib
import shutil
import signal
import subprocess
import sys

import cv2
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import zennas
from tests.mask.conftest import as_png
from tests.processes import stopped_between_parts
from zennas.data import parts
from zennas.data.images import CorruptImageError, UnreadableImageError, decode
from zennas.data.recordio import RecordWriter
from zennas.data.sources import Source, open_source
from zennas.mask.__main__ import main
from zennas.mask.knobs import KNOBS
from zennas.mask.options import Options
from zennas.mask.render import vary
from zennas.mask.textures import KINDS, texture
from zennas.progress import silent
from zennas.tasks.face.crops import FACES


@pytest.fixture
def command(ended):
    """command(*words) -> (exit code, standard output, standard error)."""
    return functools.partial(ended, main)


def images_of(folder):
    source = open_source(folder)
    return [source.read(image) for image in range(source.num_images)], source


def test_a_masked_set(people, tmp_path, command):
    code, said, _ = command(
        "--data", people, "--ratio", 0.5, "--out", tmp_path / "out", "--seed", 3, "--workers", 1, "--json"
    )
    assert code == 0
    summary = json.loads(said)
    before, given = images_of(people)
    after, written = images_of(tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "masks.parquet")
    assert summary["num_images"] == len(before) == len(after) == len(table) == 24
    assert np.array_equal(given.label_N, written.label_N) and written.num_identities == 4
    assert (tmp_path / "out" / "identities.txt").read_text().split() == list(given.identity_names)
    same = np.array([one == other for one, other in zip(before, after, strict=True)])
    assert np.array_equal(same, ~table.masked.to_numpy())  # the others byte for byte
    assert table.masked.sum() == summary["num_masked"] == table.chosen.sum() and 4 <= summary["num_masked"] <= 20
    assert set(table.kind.dropna()) <= set(KINDS) and table.name.tolist() == [given.name(image) for image in range(24)]
    for image in np.flatnonzero(table.masked):
        original, masked = decode(before[image]).astype(int), decode(after[image]).astype(int)
        assert masked.shape == original.shape and np.abs(masked - original)[60:].mean() > 10
    # The six poses of every person are -15 to 15 degrees; the network is good to five.
    true_deg = 6.0 * (np.arange(24) % 6) - 15
    assert np.abs(table.yaw_deg - true_deg)[table.masked].max() < 5
    for name in ("report.html", "run.json", "mask.log", "passed-over.csv", "property"):
        assert (tmp_path / "out" / name).is_file()
    assert not (tmp_path / "out" / "parts").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 * summary["num_masked"] and "surgical" in page


def test_a_training_reads_it(people, tmp_path, command):
    """The records go on as any other data: the same identities, whichever images were masked."""
    assert command("--data", people, "--ratio", 1, "--out", tmp_path / "out")[0] == 0
    source = open_source(tmp_path / "out")
    assert all(decode(source.read(image)).shape == (112, 112, 3) for image in range(source.num_images))
    assert pd.read_parquet(tmp_path / "out" / "masks.parquet").masked.all()


@pytest.fixture
def handed(monkeypatch):
    """The Sources that were handed to other processes."""
    found, reduce = [], Source.__reduce__
    monkeypatch.setattr(Source, "__reduce__", lambda source: found.append(source) or reduce(source))
    return found


@pytest.mark.slow  # test_a_masking_that_is_stopped_goes_on compares two with one, too
def test_any_number_of_workers_writes_the_same(people, tmp_path, command, monkeypatch, handed):
    """And what is the same for all parts is handed to every process once."""
    words = ["--data", people, "--ratio", 0.6]
    assert command(*words, "--out", tmp_path / "one", "--workers", 1)[0] == 0
    monkeypatch.setattr(parts, "PART_IMAGES", 5)
    assert command(*words, "--out", tmp_path / "two", "--workers", 2)[0] == 0
    assert 1 <= len(handed) <= 2
    for name in ("train.rec", "train.idx", "property", "passed-over.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name
    one, two = (pd.read_parquet(tmp_path / which / "masks.parquet") for which in ("one", "two"))
    pd.testing.assert_frame_equal(one, two)


def test_another_seed_masks_others_and_the_ratio_is_kept(people, tmp_path, command):
    before, masked = images_of(people)[0], {}
    for seed in (0, 1):
        assert command("--data", people, "--ratio", 0.4, "--out", tmp_path / f"{seed}", "--seed", seed)[0] == 0
        masked[seed] = pd.read_parquet(tmp_path / f"{seed}" / "masks.parquet").masked
        after = images_of(tmp_path / f"{seed}")[0]
        changed = [(decode(one) != decode(other)).any() for one, other in zip(before, after, strict=True)]
        assert changed == pd.read_parquet(tmp_path / f"{seed}" / "masks.parquet").chosen.tolist()
    assert not masked[0].equals(masked[1])
    with RecordWriter(tmp_path / "many") as writer:  # too small to be masked, which costs no time
        small = as_png(np.zeros((1, 1, 3), np.uint8))
        for _ in range(2000):
            writer.add(small, 0)
    words = ["--data", tmp_path / "many", "--ratio", 0.15, "--kinds", "black", "--workers", 1]  # few textures to paint
    assert command(*words, "--out", tmp_path / "drawn")[0] == 1
    chosen = pd.read_parquet(tmp_path / "drawn" / "masks.parquet").chosen
    assert abs(chosen.mean() - 0.15) < 5 * (0.15 * 0.85 / 2000) ** 0.5  # five deviations of a binomial


def test_only_masked_and_kinds_and_knobs(people, tmp_path, command):
    words = ["--data", people, "--ratio", 0.5, "--kinds", "n95, black", "--only-masked", "--knob", "angle_deg=0"]
    assert command(*words, "--out", tmp_path / "out")[0] == 0
    table = pd.read_parquet(tmp_path / "out" / "masks.parquet")
    assert set(table.kind.dropna()) == {"n95", "black"} and (table.angle_deg.dropna() == 0).all()
    assert open_source(tmp_path / "out").num_images == table.masked.sum() == table.written.sum() < 24


@pytest.fixture
def awkward(tmp_path, people):
    """Records whose images are good, noise, undecodable, grey, 1 x 1, with red and blue exchanged, and a single byte;
    and one without any."""
    good = next((people / "p0").glob("*.png")).read_bytes()
    image_HW3 = decode(good)
    noise = np.random.default_rng(0).integers(256, size=(112, 112, 3), dtype=np.uint8)
    grey = cv2.imencode(".jpg", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY))[1].tobytes()
    images = {
        "good": good,
        "noise": as_png(noise),
        "undecodable": b"\xff\xd8\xff no image",
        "grey": grey,
        "1x1": as_png(np.zeros((1, 1, 3), np.uint8)),
        "exchanged": as_png(np.ascontiguousarray(image_HW3[..., ::-1])),
        "nothing": b"?",
    }
    with RecordWriter(tmp_path / "awkward") as writer:
        for number, encoded in enumerate(images.values()):
            writer.add(encoded, number // 4)
        writer.add(b"", 1)
    return tmp_path / "awkward", images


def test_what_cannot_be_masked_is_listed_and_written_as_it_is(awkward, tmp_path, command):
    data, images = awkward
    code, said, told = command("--data", data, "--ratio", 1, "--out", tmp_path / "out", "--json")
    assert code == 0 and told.count("data  not used: 1 records without an image (record 8)\n") == 1
    summary = json.loads(said)
    table = pd.read_parquet(tmp_path / "out" / "masks.parquet").set_axis(list(images))
    assert table.masked[table.masked].index.tolist() == ["good", "grey", "exchanged"]
    assert table.bluish[table.bluish].index.tolist() == ["exchanged"]
    over = pd.read_csv(tmp_path / "out" / "passed-over.csv").set_index(
        pd.Index(["noise", "undecodable", "1x1", "nothing"])
    )
    assert "no face was found" in over.why["noise"] and "1 x 1 pixels" in over.why["1x1"]
    assert over.why[["undecodable", "nothing"]].str.startswith("does not decode").all()
    assert summary["data_notices"] == ["not used: 1 records without an image (record 8)"]
    assert summary["num_passed_over"] == 4 and summary["num_undecodable"] == 2
    after, _ = images_of(tmp_path / "out")
    assert len(after) == 7 and [after[1], after[2], after[4], after[6]] == [images[n] for n in over.index]
    assert (
        np.ptp(decode(after[3]).astype(int), axis=2).max() <= 6
    )  # a grey face wears a grey mask, but for the JPEG's rounding
    assert "its bytes were written as they were" in (tmp_path / "out" / "report.html").read_text()
    assert command("--data", data, "--ratio", 1, "--out", tmp_path / "alone", "--only-masked")[0] == 0
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "none of them was written" in page and "its bytes were written" not in page


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_damaged_records_are_counted_apart_and_said(people, tmp_path, command, monkeypatch, ratio):
    """They hold no image to hand on, whether they were chosen or not; those that were not are not passed over."""
    read, damaged = Source.read, range(2, 22)

    def failing(source, image):
        if source.num_images == 24 and image in damaged:
            raise CorruptImageError("no record begins at offset 96")
        return read(source, image)

    monkeypatch.setattr(Source, "read", failing)
    code, out, said = command("--data", people, "--ratio", ratio, "--out", tmp_path / "out", "--workers", 1, "--json")
    summary, table = json.loads(out), pd.read_parquet(tmp_path / "out" / "masks.parquet")
    assert code == int(summary["num_chosen"] > 0 and summary["num_masked"] == 0)
    assert summary["num_damaged"] == table.damaged.sum() == 20 and summary["num_written"] == 4
    assert summary["num_passed_over"] == (table.chosen & table.damaged).sum() == table.chosen.sum() - table.masked.sum()
    assert open_source(tmp_path / "out").num_images == 4
    over = pd.read_csv(tmp_path / "out" / "passed-over.csv")
    assert over.image.tolist() == list(damaged) and not over.written.any()
    page = (tmp_path / "out" / "report.html").read_text()
    for text in (" ".join(said.split()), page):
        assert "20 of 24 records are damaged" in text
    assert "but for damaged records" in page


def test_the_table_has_large_groups_of_rows_and_is_never_read_whole(people, tmp_path, command, monkeypatch):
    monkeypatch.setattr(parts, "PART_IMAGES", 4)
    read, asked = pq.read_table, []

    def reading(path, columns=None, filters=None, **more):
        if pathlib.Path(path).name == "masks.parquet":
            asked.append((columns, filters))
        return read(path, columns=columns, filters=filters, **more)

    monkeypatch.setattr(pq, "read_table", reading)
    words = ["--data", people, "--ratio", 0.5, "--workers", 1, "--out"]
    assert command(*words, tmp_path / "out")[0] == 0
    assert pq.ParquetFile(tmp_path / "out" / "masks.parquet").num_row_groups == 1
    assert asked and all(
        filters is not None or not {"where", "name", "why"} & set(columns) for columns, filters in asked
    )
    monkeypatch.setattr(parts, "GROUP_ROWS", 8)
    assert command(*words, tmp_path / "other")[0] == 0
    one, other = (pq.ParquetFile(tmp_path / which / "masks.parquet") for which in ("out", "other"))
    assert other.num_row_groups == 3 and one.read().equals(other.read())


def test_a_template_may_be_called_anything(people, tmp_path, command):
    """Its name stands on the page as it is, not as a piece of it."""
    (tmp_path / "mine").mkdir()
    name = "<img src=x onerror=alert(1)>"
    image = cv2.cvtColor(texture("n95", 0, seed=0).rgba_HW4, cv2.COLOR_RGBA2BGRA)
    (tmp_path / "mine" / f"{name}.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    words = ["--data", people, "--ratio", 0.2, "--textures", tmp_path / "mine", "--out", tmp_path / "out"]
    assert command(*words, "--workers", 1)[0] == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert name not in page and "&lt;img src=x onerror=alert(1)&gt;, yaw" in page


def test_a_set_with_red_and_blue_exchanged_is_said(people, tmp_path, command):
    folder = tmp_path / "swapped"
    for path in people.glob("*/*.png"):
        (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
        image_HW3 = decode(path.read_bytes())
        (folder / path.parent.name / path.name).write_bytes(as_png(np.ascontiguousarray(image_HW3[..., ::-1])))
    code, said, _ = command("--data", folder, "--ratio", 1, "--out", tmp_path / "out")
    assert code == 0 and "red and blue seem to be exchanged" in " ".join(said.split())
    assert "red and blue seem to be exchanged" in (tmp_path / "out" / "report.html").read_text()


def test_where_nothing_can_be_masked_the_exit_code_says_so(tmp_path, command):
    noise = np.random.default_rng(0).integers(256, size=(112, 112, 3), dtype=np.uint8)
    with RecordWriter(tmp_path / "noise") as writer:
        for _ in range(3):
            writer.add(as_png(noise), 0)
    code, said, _ = command("--data", tmp_path / "noise", "--ratio", 1, "--out", tmp_path / "out")
    assert code == 1 and "no image could be masked" in said
    assert open_source(tmp_path / "out").num_images == 3


def test_photographs(tmp_path, command):
    """A face a third as wide as its photograph, found by the detector: only the lower half of that face changes."""
    from zennas.mask.synthetic import synthetic_face

    face_HW3, _ = synthetic_face(image_px=200)
    whole_HW3 = np.full((400, 600, 3), 140, np.uint8)
    whole_HW3[120:320, 300:500] = face_HW3
    (tmp_path / "photos" / "somebody").mkdir(parents=True)
    (tmp_path / "photos" / "somebody" / "one.png").write_bytes(as_png(whole_HW3))
    words = ["--data", tmp_path / "photos", "--ratio", 1, "--out", tmp_path / "out"]
    code, _, said = command(*words)
    assert (
        code == 2 and "holds photographs, not aligned faces" in said and "--faces detect masks the photographs" in said
    )
    assert command(*words, "--faces", "detect")[0] == 0
    (after,), _ = images_of(tmp_path / "out")
    changed = np.abs(decode(after).astype(int) - whole_HW3).max(2) > 25
    rows, columns = np.nonzero(changed)
    assert rows.min() > 200 and columns.min() > 290 and columns.max() < 510 and changed.sum() > 5000


def test_done_again_differs_and_aside(people, tmp_path, command):
    words = ["--data", people, "--out", tmp_path / "out", "--ratio", 0.3]
    assert command(*words)[0] == 0
    code, said, _ = command(*words)
    assert code == 0 and "is done" in said
    code, _, error = command(*words[:-1], 0.5)
    assert code == 2 and "ratio: 0.3, now 0.5" in error
    assert command(*words[:-1], 0.5, "--fresh")[0] == 0
    assert (tmp_path / "out.old-1" / "train.rec").is_file()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ratio", 1.5], "--ratio: given 1.5, allowed: 0 to 1"),
        (["--kinds", "scarf"], "kind of mask 'scarf' is not known"),
        (["--kinds", " , "], "no kind of mask is given"),
        (["--textures", "nowhere"], "--textures nowhere: no such folder"),
        (["--faces", "sideways"], "--faces: given 'sideways', allowed: auto, aligned, detect"),
        (["--workers", 0], "--workers: given 0"),
        (["--seed", -1], "--seed: given -1"),
        (["--knob", "size"], "--knob size: expected NAME=NUMBER"),
        (["--knob", "size=9"], "--knob.size: given 9.0"),
        (["--resume"], "holds no run to resume"),
        (["--resume", "--fresh"], "exclude each other"),
        (["--textures", "no/where"], "--textures no/where: no such folder"),
        (["--ratio", "many"], "--help"),
    ],
)
def test_a_mistake_is_one_clear_line(people, tmp_path, command, words, said):
    code, _, error = command("--data", people, "--out", tmp_path / "out", *words)
    assert code == 2 and said in error and len(error.strip().splitlines()) == 1
    assert not (tmp_path / "out" / "run.json").exists()


def test_what_is_missing_and_what_is_empty(tmp_path, people, command):
    assert "--data is missing" in command("--out", tmp_path / "out")[2]
    assert "--out is missing" in command("--data", people)[2]
    (tmp_path / "empty").mkdir()
    code, _, error = command("--data", tmp_path / "empty", "--out", tmp_path / "out")
    assert code == 2 and "holds no train.rec" in error
    code, _, error = command("--data", people, "--out", people)
    assert code == 2 and str(people) in error


def test_what_would_write_nothing_is_refused(people, tmp_path, command):
    code, _, error = command("--data", people, "--out", tmp_path / "out", "--only-masked", "--ratio", "0")
    assert code == 2 and "nothing is left to write" in error and not (tmp_path / "out").exists()


def test_a_layout_wants_a_folder(tmp_path, command):
    code, _, error = command("--layout", tmp_path / "nowhere" / "layout.png")
    assert code == 2 and "no folder" in error


def test_the_layout(tmp_path, command):
    code, said, _ = command("--layout", tmp_path / "layout.png")
    assert code == 0 and "written" in said and (tmp_path / "layout.png").is_file()


def test_help_names_the_exit_codes(command):
    said = command("--help")[1]
    for part in ("Exit codes:", "0 masked", "1 written", "2 something", "130"):
        assert part in " ".join(said.split())


SLOW = """
import time, zennas.data.parts as parts
parts.PART_IMAGES = 4
from zennas.mask.masker import Masker
once = Masker.worn
def slowly(self, image_HW3, rng):
    time.sleep(0.15)
    return once(self, image_HW3, rng)
Masker.worn = slowly
from zennas.mask.__main__ import main
from zennas.tasks.face.crops import FACES
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
def test_a_masking_that_is_stopped_goes_on(people, tmp_path, command, monkeypatch, handed, number, code, workers):
    """Killed when two parts are done: they are not done again, and the end is what it would have been. Workers, which
    read the script anew, end with the run that started them: they hold its output, and `communicate` waits for whoever
    does.
    """
    (tmp_path / "slow.py").write_text(SLOW)
    words = ["--data", str(people), "--ratio", "0.9", "--out", str(tmp_path / "out"), "--workers", str(workers)]
    child = subprocess.Popen(
        [sys.executable, tmp_path / "slow.py", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    done = stopped_between_parts(child, tmp_path / "out", number, code)
    assert 2 <= len(done) < 6
    monkeypatch.setattr(parts, "PART_IMAGES", 4)
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # the parts stay, to be looked at
    ended, said, _ = command(*words)
    assert ended == 0 and f"going on: {len(done)} of 6" in said
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert len(handed) <= workers, "what is the same for all parts, once for every process"
    assert command(*words[:4], "--out", tmp_path / "whole", "--workers", 1)[0] == 0
    for name in ("train.rec", "train.idx", "property", "passed-over.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    one, other = (pd.read_parquet(tmp_path / which / "masks.parquet") for which in ("out", "whole"))
    pd.testing.assert_frame_equal(one, other)


def test_a_disk_that_fails_ends_the_run_and_the_same_command_goes_on(people, tmp_path, command, monkeypatch):
    """What cannot be read now is not left out of the set for good."""
    monkeypatch.setattr(parts, "PART_IMAGES", 4)
    words, read = ["--data", people, "--ratio", 0.3, "--workers", 1, "--out"], Source.read

    def failing(source, image):
        if image == 14:
            raise UnreadableImageError("cannot be read: Input/output error")
        return read(source, image)

    with monkeypatch.context() as patch:
        patch.setattr(Source, "read", failing)
        code, _, error = command(*words, tmp_path / "out")
    (line,) = error.strip().splitlines()
    assert code == 2 and "p2/p2_0002.png: cannot be read: Input/output error" in line and "same command" in line
    assert len(list((tmp_path / "out" / "parts").glob("part-*.parquet"))) == 3
    code, said, _ = command(*words, tmp_path / "out")
    assert code == 0 and "going on: 3 of 6" in said
    assert command(*words, tmp_path / "whole")[0] == 0
    assert (tmp_path / "out" / "train.rec").read_bytes() == (tmp_path / "whole" / "train.rec").read_bytes()


def test_the_module_answers_as_the_room_does():
    assert importlib.import_module("zennas.mask.__main__").main is main


def test_the_help_says_what_the_tables_hold():
    options = Options.declared()
    assert options["faces"].choices == FACES
    assert f"Kinds: {', '.join(KINDS)}." in " ".join(Options.__doc__.split()) and len(KINDS) == 8
    given = {name: knob.default for name, knob in inspect.signature(vary).parameters.items() if name != "rng"}
    assert given == KNOBS and all(f"{name} ({value:g})" in options["knob"].help for name, value in given.items())


def test_who_makes_a_progress_closes_it(people, tmp_path):
    progress = silent()
    for ratio in (0, 0.1):
        zennas.mask(data=people, ratio=ratio, workers=1, out=tmp_path / "out", fresh=True, progress=progress)
    progress.say("and after it")
    progress.close()
    assert "and after it" in (tmp_path / "out" / "mask.log").read_text()


def test_what_to_type_next_is_quoted(people, tmp_path, command):
    """A path with a blank is one word."""
    out = tmp_path / "out here"
    said = command("--data", people, "--ratio", 0, "--out", out, "--workers", 1)[1]
    assert f"open '{out / 'report.html'}'\n  python -m zennas.train --data '{out}' ..." in said
