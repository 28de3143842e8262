"""The command: end to end, interrupted and gone on with, and one line for whatever cannot be used."""

import contextlib
import json
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import onnxruntime
import pandas as pd
import pytest
from sklearn.model_selection import KFold

import zennas
from tests.embed.test_model import as_torchscript, made
from tests.evaluate.conftest import SETS, image_name, ran, saved, square_weights, squares, write_list
from tests.processes import forked
from tests.tasks.face.test_pair_lists import write_cfp
from tests.tasks.face.test_pairs import hostile
from zennas.data.sources import open_source
from zennas.embed import embeddings
from zennas.embed.checkpoint import save_network
from zennas.embed.embeddings import kept_path
from zennas.evaluate.protocols import PROTOCOLS, EvaluationProtocol, protocol_lines
from zennas.evaluate.results import Evaluation
from zennas.records import UserError
from zennas.run_folder import lock_folder
from zennas.tasks.face.pairs import sets_of

FACE_PX = 32  # of the drawn faces: nothing is resized
KEYS = {  # of results.json, which others read
    "models": [
        *("name", "file", "kind", "fingerprint", "embedding_size", "input", "normalisation", "megabytes", "latency"),
        "notice",
    ],
    "sets": ["name", "protocol", "num_images", "flip", "given", "how"],
    "results": [
        *("model", "set", "metrics", "curves", "histograms", "pairs", "lists", "notices", "where"),
        *("num_unusable", "seconds"),
    ],
}
FILES = ["evaluate.log", "report.html", "results.csv", "results.json"]


@pytest.fixture
def given(tmp_path, faces, own_embeddings, monkeypatch):
    """The words of two models and two sets, in the working folder."""
    monkeypatch.chdir(tmp_path)
    saved(squares(px=FACE_PX), tmp_path / "one.onnx")
    save_network(tmp_path / "network.pt", made())
    return [
        "--model",
        "one.onnx",
        "--model",
        "network.pt,name=two",
        "--set",
        SETS["pairs"](tmp_path, faces),
        "--set",
        f"reid:{SETS['reid'](tmp_path, faces)}",
        "--device",
        "cpu",
    ]


def by_hand(faces, where):
    """embedding_D of a face by `squares`, its mirror image added."""
    image_HW3 = cv2.imread(str(faces / where))[..., ::-1].astype(np.float64)
    parts = []
    for fed_HW3 in ((image_HW3 - 127.5) / 127.5, (image_HW3[:, ::-1] - 127.5) / 127.5):
        mean_hw3 = fed_HW3.reshape(FACE_PX // 4, 4, FACE_PX // 4, 4, 3).mean((1, 3))
        parts.append(mean_hw3.transpose(2, 0, 1).ravel() @ square_weights(px=FACE_PX))
    return parts[0] + parts[1]


def test_from_end_to_end(given, faces, tmp_path):
    ended = ran(*given, "--out", "run", "--json")
    assert ended.code == 0, ended.said
    results = json.loads(ended.stdout)  # alone on standard output
    assert "accuracy" in ended.stderr and "Next:" in ended.stderr
    out = tmp_path / "run"
    assert sorted(path.name for path in out.iterdir()) == FILES
    text = (out / "results.json").read_text()
    assert json.loads(text) == results and json.dumps(results, indent=1) == text
    read = Evaluation.parse(results, "results.json").model_dump(mode="json")
    assert json.dumps(read, indent=1) == text  # key for key, in their order
    assert {name: list(results[name][0]) for name in KEYS} == KEYS
    assert list(results) == ["made_by", "track", "budget", "models", "sets", "results", "failures"]
    assert [(result["model"], result["set"]) for result in results["results"]] == [
        (model["name"], result["name"]) for model in results["models"] for result in results["sets"]
    ]
    assert [(result["name"], result["kind"]) for result in results["models"]] == [
        ("one", "onnx"),
        ("two", "checkpoint"),
    ]
    assert [result["flip"] for result in results["sets"]] == [True, False] and results["budget"] is None
    page = (out / "report.html").read_text()
    assert (
        "network.pt" in json.dumps(results["models"])
        and page.startswith("<!DOCTYPE html>")
        and "data:image/jpeg" in page
    )

    table = pd.read_csv(out / "results.csv")
    assert len(table) == sum(len(entry["metrics"]) for entry in results["results"])
    for entry in results["results"]:
        for metric in entry["metrics"]:
            row = table[
                (table.model == entry["model"]) & (table.set == entry["set"]) & (table.metric == metric["name"])
            ]
            row = row[row.subset.fillna("") == metric["subset"]]
            assert len(row) == 1 and row.value.item() == metric["value"] and row.headline.item() == metric["headline"]
            assert (row.num_unusable.item(), row.protocol.item()) == (0, "pairs" if entry["set"][0] == "d" else "reid")

    # The accuracy, again from the pictures.
    entry, similarities, same = results["results"][0], [], []
    for line in (tmp_path / "drawn.txt").read_text().splitlines()[1:]:
        words = line.split("\t")
        words = words if len(words) == 4 else [words[0], words[1], words[0], words[2]]
        pair = [by_hand(faces, image_name(int(words[n][1:]), int(words[n + 1]))) for n in (0, 2)]
        similarities.append(pair[0] @ pair[1] / np.linalg.norm(pair[0]) / np.linalg.norm(pair[1]))
        same.append(words[0] == words[2])
    mean, std = fold_accuracy(2 - 2 * np.array(similarities), np.array(same), num_folds=3)
    published = entry["metrics"][1]
    assert (published["value"], published["std"]) == pytest.approx((mean, std), abs=1e-9)


def fold_accuracy(distance_P, same_P, *, num_folds=10):
    """(mean, std) as insightface's verification.py counts it."""
    grid, accuracies = np.arange(0, 4, 0.01)[:, None], []
    for train, test in KFold(num_folds, shuffle=False).split(distance_P):
        best = grid[np.argmax(((distance_P[train] < grid) == same_P[train]).mean(1)), 0]
        accuracies.append(np.mean((distance_P[test] < best) == same_P[test]))
    return np.mean(accuracies), np.std(accuracies)


def test_what_was_asked_is_not_asked_again(given, asked, tmp_path):
    assert ran(*given, "--out", "run").code == 0
    num, before = sum(asked), json.loads((tmp_path / "run" / "results.json").read_text())
    ended = ran(*given, "--out", "run")  # written over
    again = json.loads((tmp_path / "run" / "results.json").read_text())
    assert ended.code == 0 and sum(asked) == num
    for one in (before, again):
        for entry in one["results"]:
            entry.pop("seconds")
    assert again["results"] == before["results"]
    assert "Next:" in ended.stdout and "one" in ended.stdout and ended.stderr == ""
    assert ran(*given, "--out", "run", "--no-flip").code == 0
    flipped = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [one["flip"] for one in flipped["sets"]] == [False, False]
    assert num < sum(asked) < 2 * num  # the set of pairs, whose mirror images were added before


def test_every_protocol_at_once(tmp_path, faces, own_embeddings):
    words = ["--model", saved(squares(px=FACE_PX), tmp_path / "net.onnx")]
    for name, write_set in SETS.items():
        (tmp_path / name).mkdir()
        words += ["--set", f"{name}:{write_set(tmp_path / name, faces)}"]
    ended = ran(*words, "--out", tmp_path / "run", "--json")
    results = json.loads(ended.stdout)
    assert ended.code == 0 and [result["protocol"] for result in results["sets"]] == list(SETS)
    assert all(metric["value"] is not None for entry in results["results"] for metric in entry["metrics"])
    assert list((tmp_path / "cache" / "embeddings").glob("*.pairs")) == []


def test_things_of_one_name_are_told_apart(given, tmp_path):
    saved(squares(px=FACE_PX, seed=1), tmp_path / "other" / "one.onnx")
    ended = ran(*given[:2], "--model", "other/one.onnx", "--model", "one.onnx,name=one-2", *given[6:], "--json")
    results = json.loads(ended.stdout)
    assert [result["name"] for result in results["models"]] == ["one", "one-3", "one-2"]
    assert (
        len({json.dumps(entry["metrics"]) for entry in results["results"]}) == 2
    )  # reid by two networks, one of them twice
    assert (tmp_path / "runs" / "evaluation" / "results.csv").is_file()  # where nothing is said of --out


def test_names_are_no_markup(given):
    for name in ("[/b]", "[red]", "<script>alert(1)</script>"):
        ended = ran("--model", f"one.onnx,name={name}", *given[6:], "--out", "run")
        assert ended.code == 0 and name[:12] in ended.stdout, ended.said
        assert "<script>alert(1)" not in pathlib.Path("run/report.html").read_text()


def test_what_is_odd_is_said_and_kept(given, faces, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "bad.png").write_bytes(b"no image")
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes((faces / image_name(0, 1)).read_bytes())
    (folder / "c.png").write_bytes((faces / image_name(1, 1)).read_bytes())
    rows = [("bad.png", 1), ("a.png", 1), ("a.png", 1), ("b.png", 2), ("c.png", 2)]
    where = f"all:{write_list(tmp_path / 'odd.csv', ('image', 'label'), rows)}@{folder}"
    ended = ran(*given[:2], "--set", where, "--out", "run", "--json")
    (entry,) = json.loads(ended.stdout)["results"]
    assert ended.code == 0 and entry["num_unusable"] == 1
    twice, corrupt, equal, torn = entry["notices"]
    assert twice == "1 images stand in the list more than once and count as often: a.png"
    assert corrupt.startswith("1 images cannot be read and are like nobody: bad.png: ")
    assert (
        equal == "3 images are the same picture as another one, under another name: a.png = a.png"
        and "1 groups have more than one label" in torn
    )
    log = pathlib.Path("run/evaluate.log").read_text()
    assert all(notice in ended.stderr and notice in log for notice in entry["notices"])
    assert entry["where"]["0"] == "bad.png" and (pd.read_csv("run/results.csv").num_unusable == 1).all()


def test_cfp_gives_both_of_its_sets(given, tmp_path):
    """By the folder that its authors ship; each set is told by its own name."""
    ended = ran(*given[:2], "--set", str(write_cfp(tmp_path / "cfp") / "Protocol"), "--out", "run", "--json")
    evaluation = json.loads(ended.stdout)
    assert ended.code == 0 and [entry["name"] for entry in evaluation["sets"]] == ["CFP-FF@cfp", "CFP-FP@cfp"]
    assert [entry["given"] for entry in evaluation["sets"]] == sets_of(str(tmp_path / "cfp"))
    assert {entry["metrics"][0]["num_same"] for entry in evaluation["results"]} == {2}


def test_latency_stands_beside_the_numbers(given, tiny, tmp_path):
    script = as_torchscript(made(), tmp_path)
    # 16 px: what TorchScript takes is not written in its file
    words = [*given, "--model", f"{script},px=16,trusted=yes", "--track", tiny, "--budget-ms", 1e4]
    ended = ran(*words, "--out", "run", "--json")
    assert ended.code == 0, ended.said
    results = json.loads(ended.stdout)
    one, two, script = (model["latency"] for model in results["models"])
    assert results["budget"]["budget_ms"] == 1e4 and results["track"] == str(tiny) and script is None
    read = Evaluation.parse(results, "results.json").model_dump(mode="json")
    assert json.dumps(read, indent=1) == (tmp_path / "run" / "results.json").read_text()
    assert list(results["budget"]) == ["budget_ms", "origin", "stand_in", "scale", "reference_ms"]
    assert list(one) == [
        *("measured_ms", "median_ms", "spread_pct", "budget_ms", "within_budget", "stand_in", "warning"),
        *("raw_ms", "protocol", "machine", "date", "versions", "load_average"),
    ]
    for latency in (one, two):
        raw = latency["raw_ms"]
        assert len(raw) == 10 and latency["measured_ms"] == sorted(raw)[1] and latency["within_budget"] is True
    assert (
        "latency of teacher was not measured: " in ended.stderr
        and "only ONNX files and weights are measured" in ended.stderr
    )
    table = pd.read_csv("run/results.csv")
    assert set(table[table.model == "two"].measured_ms) == {two["measured_ms"]}
    assert table[table.model == "teacher"].measured_ms.isna().all()
    assert "latency, by the rule of" in ended.stderr


@pytest.mark.slow
def test_latency_by_a_track_that_ships(given):
    """Its reference network is measured too: half a minute."""
    ended = ran(*given[:2], *given[6:], "--track", "lfw-smoke", "--out", "run", "--json")
    assert ended.code == 0, ended.said
    results = json.loads(ended.stdout)
    assert results["models"][0]["latency"]["measured_ms"] > 0 and results["budget"]["budget_ms"] > 0


def test_python_m_in_a_process_of_its_own(given, tmp_path):
    command = [sys.executable, "-m", "zennas.evaluate", *given, "--out", "run", "--json"]
    root = str(pathlib.Path(__file__).parent.parent.parent)
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == json.loads((tmp_path / "run" / "results.json").read_text())


# --- Ctrl-C

INTERRUPTED = """
    import os, signal, sys
    import torch
    from zennas.embed import embeddings
    from zennas.evaluate import embedded
    from zennas.evaluate.__main__ import main

    torch.set_num_threads(1)
    embeddings.SAVE_EVERY_S, embedded.BATCH = 0.0, {"cpu": 8}
    rows, models = embeddings._rows, []

    def interrupted(model, *given):
        models.append(model)
        if len(set(map(id, models))) == 2 and models.count(model) == 3:
            os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        return rows(model, *given)

    embeddings._rows = interrupted
    main(sys.argv[2:])
"""


@pytest.mark.parametrize("signal_name", ["SIGINT", pytest.param("SIGTERM", marks=pytest.mark.slow)])
def test_interrupted_it_goes_on(given, asked, tmp_path, monkeypatch, signal_name):
    ended = forked(textwrap.dedent(INTERRUPTED), signal_name, *given, "--out", "run")
    assert ended.returncode == 130, ended.stdout + ended.stderr
    assert "stopped; embeddings are kept: give the same command again to go on" in ended.stdout
    assert "Traceback" not in ended.stdout + ended.stderr
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [entry["model"] for entry in kept["results"]] == ["one", "one"]  # what there was is there, whole
    assert "network.pt" in (tmp_path / "run" / "report.html").read_text()
    assert len(pd.read_csv(tmp_path / "run" / "results.csv")) == sum(len(entry["metrics"]) for entry in kept["results"])

    ended = ran(*given, "--out", "run", "--json")
    results = json.loads(ended.stdout)
    pairs, reid = (result["num_images"] for result in results["sets"])
    assert (
        ended.code == 0 and sum(asked) == pairs - 16 + reid
    )  # the first model and two batches of the second's are kept
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "another cache"))
    anew = json.loads(ran(*given, "--out", "anew", "--json").stdout)
    for entry, same in zip(results["results"], anew["results"], strict=True):
        # Other batches: sums in another order.
        assert [metric["value"] for metric in entry["metrics"]] == pytest.approx(
            [metric["value"] for metric in same["metrics"]]
        )


def test_an_interruption_before_anything_is_no_traceback(given, monkeypatch):
    monkeypatch.setattr(embeddings, "_rows", lambda *_: signal.raise_signal(signal.SIGINT))
    ended = ran(*given, "--out", "run")
    assert ended.code == 130 and "Traceback" not in ended.said
    monkeypatch.undo()
    assert not pathlib.Path("run/results.json").exists()


# --- mistakes


def mistakes(folder):
    """name -> (words beside --model one.onnx --set drawn, what is said); `None` words take the place of both."""
    drawn, long = "SET", "x" * 5000
    return {
        "no model": (None, ["--set", drawn], "Missing option '--model'"),
        "no set": (None, ["--model", "one.onnx"], "Missing option '--set'"),
        "an unknown option": (["--fast"], None, "No such option: --fast"),
        "a model that is not there": (["--model", "nowhere.onnx"], None, "--model nowhere.onnx: no such file"),
        "a model of text": (["--model", "list.csv"], None, "--model list.csv: not an ONNX network"),
        "an unknown key": (["--model", "one.onnx,norm=unit"], None, "'norm' is not known"),
        "an unknown normalisation": (["--model", "one.onnx,normalise=x"], None, "normalise=x: allowed"),
        "TorchScript": (["--model", "teacher.ts"], None, "give it as FILE,trusted=yes"),
        "the same model twice": (["--model", "one.onnx"], None, "--model one.onnx: is given twice"),
        "the same set twice": (["--set", drawn], None, ": is given twice"),
        "a name that is too long": (["--model", long], None, "no such file"),
        "a set that is too long": (["--set", long], None, "File name too long"),
        "a set that is not there": (["--set", "nowhere.bin"], None, "--set nowhere.bin: nowhere.bin: cannot be read"),
        "an unknown protocol": (
            ["--set", "mrf:list.csv@faces"],
            None,
            "protocol 'mrf' is not known; did you mean 'mfr'",
        ),
        "pairs without images": (["--set", "drawn.txt"], None, "say where its images are"),
        "faces without pairs": (["--set", "FACES"], None, "faces without pairs"),
        "a hostile .bin": (["--set", "hostile.bin"], None, "it was not loaded"),
        "a cut .bin": (["--set", "cut.bin"], None, "or damaged"),
        "a list without its column": (["--set", "mfr:list.csv@FACES"], None, "missing: subset"),
        "a list without images": (["--set", "all:list.csv"], None, "1 of 1 images are not in"),
        "a list of missing images": (["--set", "all:missing.csv@FACES"], None, "2 of 2 images are not in"),
        "a list that leads outside": (["--set", "all:outside.csv@FACES"], None, "1 paths lead out of"),
        "an archive that is none": (["--set", "all:list.csv@cut.tar"], None, "cut.tar"),
        "records that are none": (["--set", "all:cut.rec"], None, "cut.rec"),
        "no folder of IJB": (["--set", "ijb:FACES"], None, "exactly one such file is expected"),
        "another device": (["--device", "tpu"], None, "--device: given 'tpu', allowed: cpu, cuda"),
        "an unknown track": (["--track", "lfw-smok"], None, "track or experiment 'lfw-smok' is not known"),
        "a budget without a track": (["--budget-ms", "5"], None, "--budget-ms and --backend are about latency"),
        "a backend without a track": (["--backend", "onnxruntime-cpu"], None, "which --track measures"),
        "a budget below zero": (["--track", "lfw-smoke", "--budget-ms", "-1"], None, "--budget-ms: given -1"),
        "a budget that is none": (["--track", "lfw-smoke", "--budget-ms", "nan"], None, "--budget-ms: given nan"),
        "an unknown backend": (["--track", "lfw-smoke", "--backend", "onnx"], None, "backend 'onnx' is not known"),
        "a file for a folder": (["--out", "list.csv"], None, "list.csv: is a file; --out takes a folder"),
        "somebody else's folder": (["--out", "other"], None, "is not empty and holds no evaluation"),
        "a folder inside a file": (["--out", "list.csv/run"], None, "cannot be written"),
        "a folder under way": (["--out", "locked"], None, "another run is under way there"),
    }


@pytest.mark.parametrize("name", mistakes(None))
def test_a_mistake_is_one_line(name, given, faces, tmp_path, asked):
    (tmp_path / "list.csv").write_text(f"image,label\n{image_name(0, 1)},1\n")
    (tmp_path / "missing.csv").write_text("image,label\na.png,1\nb.png,1\n")
    (tmp_path / "outside.csv").write_text("image,label\n../x.png,1\n")
    (tmp_path / "hostile.bin").write_bytes(hostile(tmp_path / "marker")["posix.system"])
    (tmp_path / "cut.bin").write_bytes(pickle.dumps(([b"x"] * 4, [True] * 2))[:-9])
    (tmp_path / "cut.tar").write_bytes(b"x" * 3000)
    (tmp_path / "cut.rec").write_bytes(b"x" * 3000)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("")
    as_torchscript(made(), tmp_path)
    words, whole, says = mistakes(tmp_path)[name]
    base = ["--model", "one.onnx", "--set", given[5], "--device", "cpu"]
    if whole is None:
        whole = [*base[: 4 if "--device" in words else 6], *words]
    whole = [word.replace("FACES", str(faces)) if word != "SET" else given[5] for word in whole]
    with lock_folder("locked") if name == "a folder under way" else contextlib.nullcontext():
        ended = ran(*whole)
    assert ended.code == 2 and says in ended.stderr, ended.said
    lines = ended.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in ended.said
    assert asked == [] and not (tmp_path / "marker").exists()
    assert not (tmp_path / "runs" / "evaluation" / "results.json").exists()


@pytest.mark.parametrize("first", [True, False])
def test_one_that_fails_leaves_the_others_their_results(first, given, tmp_path):
    """A set of which nobody could see before that it is of no use."""
    (tmp_path / "dead.csv").write_text("image,label\na.png,1\nb.png,1\n")
    (tmp_path / "dead").mkdir()
    for image in "ab":
        (tmp_path / "dead" / f"{image}.png").write_bytes(b"no image")
    words = ["--model", "one.onnx", "--set", "all:dead.csv@dead", "--device", "cpu"]
    order = ["--set", given[5]]
    ended = ran(*words, *order, "--out", "run") if first else ran(*words[:2], *order, *words[2:], "--out", "run")
    assert ended.code == 1 and "none of its 2 images can be used" in ended.stdout and "Traceback" not in ended.said
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [entry["set"] for entry in results["results"]] == ["drawn@faces"]
    (failure,) = results["failures"]
    assert (failure["model"], failure["set"]) == ("one", "dead") and "none of its 2 images" in failure["error"]
    assert "one on dead could not be evaluated" in (tmp_path / "run" / "report.html").read_text()
    ended = ran(*words, "--out", "alone")
    assert ended.code == 2 and ended.stderr.startswith("error: dead: none of its 2 images can be used")
    assert not (tmp_path / "alone" / "results.json").exists()


def test_there_is_no_gpu_where_there_is_none(given):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    ended = ran(*given[:-2], "--device", "cuda")
    assert ended.code == 2 and re.search(
        r"^error: --device cuda: torch .* finds no GPU here; allowed: cpu$", ended.stderr
    )


def test_out_may_be_the_working_folder(given, tmp_path, monkeypatch):
    """Only an empty one, or one that holds an evaluation."""
    (tmp_path / "empty").mkdir()
    words = [*given[:2], *given[4:6]]
    words[1], words[3] = str(tmp_path / "one.onnx"), given[5]
    assert ran(*words, "--out", ".").code == 2
    monkeypatch.chdir(tmp_path / "empty")
    for _ in range(2):
        assert ran(*words, "--out", ".").code == 0
    assert sorted(path.name for path in pathlib.Path().iterdir()) == FILES


def test_embeddings_that_another_process_computes_are_waited_for_by_nobody(given, tmp_path):
    """The same model on the same set at the same time: said, not computed twice into one file."""
    ended = ran(*given[:2], *given[4:6], "--out", "run", "--json")
    assert ended.code == 0
    (kept,) = (tmp_path / "cache" / "embeddings").glob("*.npy")
    with lock_folder(kept):
        assert ran(*given[:2], *given[4:6], "--out", "run").code == 0  # whole, they are only read
        kept.unlink()
        ended = ran(*given[:2], *given[4:6], "--out", "run")
    assert ended.code == 2 and "another run is under way there; wait for it" in ended.stderr
    assert kept.parent == kept_path("", "").parent


def test_help_names_every_protocol_and_code():
    ended = ran("--help")
    assert ended.code == 0 and all(f"{name}:" in ended.stdout for name in SETS if name != "pairs")
    said = " ".join(ended.stdout.split())
    assert "0 done; 1 a network could not be evaluated on a set, the others were; 2 something given cannot be" in said
    assert "3 a process that it began died" in said and "130 stopped by" in said


# --- the anchor


@pytest.mark.data
@pytest.mark.slow
def test_a_published_network_on_lfw(tmp_path, own_embeddings):
    """MobileFaceNet by foamliu: 99.18 % on this alignment of LFW; and the same by cv2, ONNX Runtime and scikit-learn
    alone.
    """
    data = pathlib.Path(os.environ["ZENNAS_DATA"])
    network, pairs, images = (
        data / "models" / "mobilefacenet_foamliu.onnx",
        data / "faces" / "pairs.txt",
        data / "faces" / "lfw_aligned_112.tar",
    )
    ended = ran(
        "--model", f"{network},normalise=imagenet", "--set", f"{pairs}@{images}", "--out", tmp_path / "run", "--json"
    )
    assert ended.code == 0, ended.said
    (entry,) = json.loads(ended.stdout)["results"]
    ours, grid = entry["metrics"][:2]
    # Measured 0.9918; the tolerance is that of twelve pairs in 6,000, for other versions of a decoder or a runtime.
    assert ours["value"] == pytest.approx(0.9918, abs=0.002) and entry["num_unusable"] == 0

    source, session = (
        open_source(images),
        onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"]),
    )
    place = {source.name(n).rpartition("/")[2]: n for n in range(source.num_images)}
    mean, std = np.float32([0.485, 0.456, 0.406]) * 255, np.float32([0.229, 0.224, 0.225]) * 255
    kept = {}

    def embedding(name):
        if name not in kept:
            image_HW3 = cv2.imdecode(np.frombuffer(source.read(place[name]), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            fed = [((one - mean) / std).transpose(2, 0, 1)[None] for one in (image_HW3, image_HW3[:, ::-1])]
            rows = [session.run(None, {session.get_inputs()[0].name: one.astype(np.float32)})[0][0] for one in fed]
            kept[name] = (rows[0] + rows[1]) / np.linalg.norm(rows[0] + rows[1])
        return kept[name]

    distances, same = [], []
    for line in pairs.read_text().splitlines()[1:]:
        words = line.split("\t")
        words = words if len(words) == 4 else [words[0], words[1], words[0], words[2]]
        one, other = (embedding(f"{words[n]}_{int(words[n + 1]):04d}.jpg") for n in (0, 2))
        distances.append(np.square(one - other).sum())
        same.append(words[0] == words[2])
    mean, std = fold_accuracy(np.array(distances), np.array(same))
    # A pair whose distance lies on the grid to the last bit may fall to either side: one of 6,000.
    assert (grid["value"], grid["std"]) == pytest.approx((mean, std), abs=2 / 6000)


def test_help_names_a_protocol_that_is_new(monkeypatch):
    row = EvaluationProtocol("", "", sets={"new:FOLDER": "something else"}, flip=False, how="So.")
    monkeypatch.setitem(PROTOCOLS, "new", row)
    assert protocol_lines()[-1].split(None, 1) == ["new:FOLDER", "something else"]
    assert all(line in ran("--help").stdout for line in protocol_lines()[:-1])


def test_help_opens_no_protocol():
    """It answers at once: what opens and judges sets takes seconds to import."""
    script = "import sys, zennas.evaluate.options; print(*{'torch', 'pandas', 'cv2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


def test_what_is_missing_is_one_line():
    with pytest.raises(UserError) as refused:
        zennas.evaluate()
    assert str(refused.value) == "--model is missing; see --help; --set is missing; see --help"
    with pytest.raises(UserError, match="--set is missing; see --help"):
        zennas.evaluate(model=["one.onnx"])
