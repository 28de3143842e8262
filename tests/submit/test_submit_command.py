import json
import subprocess
import sys
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.shapes import square
from tests.submit.conftest import FACE_PX, aligned_detector, broken, network, scaled, verdicts
from zennas.checker import NORMALISATIONS
from zennas.export.onnx_file import export
from zennas.space.candidate import Candidate
from zennas.space.network import build
from zennas.submit.options import Options

AMPLE = ("--budget-ms", "1000")  # of this machine: no test waits for the reference network
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def nan_in_a_batch():
    """0 / 0 as soon as there is more than one image: the network minus itself is 0, and so is the batch minus the
    batch.
    """
    model, made = network(), helper.make_node
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.extend(
        [
            made("Shape", ["raw"], ["shape"]),
            made("Cast", ["shape"], ["sizes"], to=TensorProto.FLOAT),
            made("Slice", ["sizes", "zero", "one"], ["many"]),
            made("Sub", ["many", "single"], ["more"]),
            made("Log", ["negative"], ["nothing"]),  # NaN
            made("Greater", ["more", "half"], ["batched"]),
            made("Where", ["batched", "nothing", "raw"], ["embedding"]),
        ]
    )
    for name, value in (("zero", np.array([0])), ("one", np.array([1]))):
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    for name, value in (("single", 1), ("negative", -1), ("half", 0.5)):
        model.graph.initializer.append(numpy_helper.from_array(np.array([value], np.float32), name))
    return model


def reshaping():
    """Exported for a single image: a Reshape that spells the batch out cannot follow."""
    model = network(batch=1)
    model.graph.node[7].CopyFrom(helper.make_node("Reshape", ["pooled", "to"], ["flat"], name="Reshape"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 4]), "to"))
    return model


def averaging():
    """One that mixes the images of a batch into one answer."""
    model = network(batch=1)
    model.graph.node[-1].output[0] = "raw"
    model.graph.node.append(helper.make_node("ReduceMean", ["raw"], ["embedding"], axes=[0], keepdims=1))
    return model


def unknown_operator():
    model = network()
    model.graph.node[0].op_type = "Convolution"
    return model


def fp16():
    model = network()
    half = numpy_helper.from_array(numpy_helper.to_array(model.graph.initializer[0]).astype(np.float16), "half")
    model.graph.initializer[0].CopyFrom(half)
    model.graph.node.insert(0, helper.make_node("Cast", ["half"], ["w0"], to=TensorProto.FLOAT))
    return model


def with_second_output():
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 4]))
    return model


# --- the insightface tracks


def test_a_good_network_is_accepted_and_zipped(submitted, flat, saved):
    path = saved(network())
    ended, record = submitted("--track", flat, "--model", path, "--normalise", "insightface", *AMPLE)
    assert ended.code == 0 and record["accepted"] and set(verdicts(record).values()) == {"kept"}, ended.said
    assert (
        "Accepted: 17 rules are kept, none is broken." in ended.stdout and "nobody but zennas checks it" in ended.stdout
    )
    out = path.parent / "out"
    with zipfile.ZipFile(out / "flat.zip") as archive:
        assert archive.namelist() == ["model.onnx"] and archive.read("model.onnx") == path.read_bytes()
    assert len(record["latency"]["raw_ms"]) == 10 and record["latency"]["budget_ms"] == 1000
    assert record["made_by"]["versions"]["onnx"] == onnx.__version__
    assert sorted(file.name for file in out.iterdir()) == ["flat.zip", "submission.json"]
    again = (out / "flat.zip").read_bytes()
    assert submitted("--track", flat, "--model", out / "flat.zip", *AMPLE)[0].code == 0
    assert (out / "flat.zip").read_bytes() == again  # the same bytes, from a zip, at another time


def test_what_zennas_exports_is_accepted(submitted, flat, tmp_path):
    candidate = Candidate(block="ir_se", stem=8, widths=(8, 16), depths=(1, 1))
    metadata = {"zennas": "{}", "trained": "no"}
    made = export(build(candidate, square(32, 64)), square(32), metadata=metadata)
    (tmp_path / "mine.onnx").write_bytes(made.onnx_bytes)
    ended, record = submitted("--track", flat, "--model", tmp_path / "mine.onnx", *AMPLE)
    assert ended.code == 0
    assert {name for name, verdict in verdicts(record).items() if verdict != "kept"} == {"trained"}
    assert "random weights: train it first" in ended.stdout


REFUSED = {
    "fp16": (fp16, ["weights"]),
    "two outputs": (with_second_output, ["output"]),
    "size": (lambda: network(size=65), ["embedding size", "embedding, when run"]),
    "another image": (lambda: network(px=40), ["input size"]),
    "opset": (lambda: network(opset=18, ir_version=8), ["operator set"]),
    "infinity": (lambda: scaled(1e38), ["finite"]),
    "NaN at 32": (nan_in_a_batch, ["finite"]),
    "reshape": (reshaping, ["batch of 32"]),
    "averaging": (averaging, ["batch of 32"]),
    "operator": (unknown_operator, ["loads"]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_network_that_breaks_a_rule_is_refused_by_that_rule(submitted, flat, saved, name):
    make, rules = REFUSED[name]
    path = saved(make())
    ended, record = submitted("--track", flat, "--model", path, "--normalise", "insightface", *AMPLE)
    assert ended.code == 1 and not record["accepted"] and "Traceback" not in ended.said
    assert broken(record) == sorted(rules) or (name == "another image" and set(rules) <= set(broken(record)))
    assert all(rule["said"] for rule in record["rules"] if rule["verdict"] == "broken")
    assert record["zip"] is None and not list((path.parent / "out").glob("*.zip"))
    assert f"Refused: {len(broken(record))} of" in ended.stdout and "--anyway writes one" in ended.stdout


def test_a_network_of_another_size_is_not_timed(submitted, flat, saved):
    _, record = submitted("--track", flat, "--model", saved(network(px=40)), *AMPLE)
    assert verdicts(record)["time"] == "not judged here" and record["latency"] is None


def test_anyway_writes_the_zip_and_still_says_no(submitted, flat, saved):
    path = saved(fp16())
    ended, record = submitted("--track", flat, "--model", path, "--anyway", "--name", "mine", *AMPLE)
    assert ended.code == 1 and not record["accepted"] and record["zip"] == "mine.zip"
    assert zipfile.ZipFile(path.parent / "out" / "mine.zip").read("model.onnx") == path.read_bytes()


def test_a_refused_network_leaves_no_zip_of_an_earlier_one(submitted, flat, saved, tmp_path):
    assert submitted("--track", flat, "--model", saved(network()), *AMPLE)[0].code == 0
    assert submitted("--track", flat, "--model", saved(fp16()), *AMPLE)[0].code == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["submission.json"]


def test_a_fixed_batch_that_the_nodes_can_follow_is_noted(submitted, flat, saved):
    path = saved(network(batch=1))
    ended, record = submitted("--track", flat, "--model", path, *AMPLE)
    assert ended.code == 0 and verdicts(record)["batch"] == "noted" and verdicts(record)["batch of 32"] == "kept"
    assert zipfile.ZipFile(path.parent / "out" / "flat.zip").read("model.onnx") == path.read_bytes()  # as it was given


def test_a_budget_that_is_too_small_is_broken(submitted, flat, saved):
    ended, record = submitted("--track", flat, "--model", saved(network()), "--budget-ms", "0.000001")
    assert ended.code == 1 and broken(record) == ["time"]
    assert "over the budget" in ended.stdout and record["latency"]["within_budget"] is False


def test_the_budget_is_carried_here_by_the_reference(submitted, flat, saved):
    """30 ms there, and the reference takes 20 ms there: one and a half times what it takes here."""
    ended, record = submitted("--track", flat, "--model", saved(network()))
    (time,) = [rule for rule in record["rules"] if rule["name"] == "time"]
    assert ended.code == 0 and time["verdict"] == "kept" and "carried here by ir-32-32x2-64x2" in time["said"]
    here = float(time["said"].split("20 ms there and ")[1].split(" ms here")[0])
    assert record["latency"]["budget_ms"] == pytest.approx(
        1.5 * here, abs=0.1
    )  # it is said to a tenth of a millisecond


@without_gpu
@pytest.mark.parametrize(("budget_ms", "where"), [(1000, "within"), (0.000001, "over")])
def test_a_stand_in_says_so_and_decides_nothing(submitted, saved, budget_ms, where):
    path = saved(network(px=112, size=512))
    words = ["--model", path, "--normalise", "insightface", "--budget-ms", budget_ms]
    ended, record = submitted("--track", "insightface-ms1m", *words)
    (time,) = [rule for rule in record["rules"] if rule["name"] == "time"]
    assert ended.code == 0 and record["accepted"] and record["zip"] and broken(record) == []
    assert time["verdict"] == "not judged here" and "stand-in" in time["measured"] and time["limit"] != "the track's"
    assert f"{where} the budget" in time["said"] and "here onnxruntime-cpu stands in for it" in time["said"]
    assert "none is broken; not judged here: time." in ended.stdout
    assert "at most 3 submissions a day" in ended.stdout
    assert record["latency"]["within_budget"] is (where == "within")


@without_gpu
def test_a_whole_system_on_a_stand_in_is_timed_and_not_judged(submitted, whole, tiny):
    """A track whose clock runs on a GPU, over a system: on the processor its time is only shown."""
    track = tiny.parent / "track.yaml"
    track.write_text(track.read_text().replace("onnxruntime-cpu", "onnxruntime-cuda"))
    ended, record = submitted(*whole[:-2], "--budget-ms", "0.000001")
    (time,) = [rule for rule in record["rules"] if rule["name"] == "time of the system"]
    assert ended.code == 0 and record["zip"] and len(record["system"]["raw_ms"]) == 10
    assert time["verdict"] == "not judged here" and "over the budget" in time["said"] and "stand-in" in time["measured"]


def test_the_help_says_what_a_stand_in_decides():
    ended = subprocess.run(
        [sys.executable, "-m", "zennas.submit", "--help"], check=True, capture_output=True, text=True
    )
    said = " ".join(ended.stdout.split())
    assert (
        "Where another kind of device stands in for the track's, the time is shown beside its budget and not judged"
        in said
    )


def test_what_lay_beside_the_network_is_named(submitted, flat, saved):
    saved(network(), "given/a.onnx")
    path = saved(network(), "given/b.onnx")
    ended, record = submitted("--track", flat, "--model", path.parent, *AMPLE)
    assert ended.code == 0 and record["model"] == str(path) and "a.onnx beside it stays behind" in ended.stdout


def test_json_is_the_record_alone(submitted, flat, saved):
    ended, record = submitted("--track", flat, "--model", saved(network()), "--json", *AMPLE)
    assert json.loads(ended.stdout) == record and "verdict" in ended.stderr


def test_the_module_is_the_command(flat, saved, checkout, tmp_path):
    words = ["--track", flat, "--model", saved(network()), "--out", tmp_path / "out", *AMPLE]
    ended = subprocess.run(
        [sys.executable, "-m", "zennas.submit", *map(str, words)],
        check=False,
        cwd=checkout,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0 and "Accepted" in ended.stdout and not ended.stderr
    assert json.loads((tmp_path / "out" / "submission.json").read_text())["made_by"]["command"].startswith(
        "python -m zennas.submit --track"
    )


# --- the webface tracks


@pytest.fixture
def whole(saved, photographs, tiny):
    """The words of a whole system that is accepted."""
    return [
        "--track",
        tiny,
        "--model",
        saved(network(FACE_PX, 64)),
        "--detector",
        saved(aligned_detector(), "yunet.onnx"),
        "--images",
        photographs,
        *AMPLE,
    ]


def test_a_whole_system_is_built_timed_and_zipped(submitted, whole, tmp_path):
    ended, record = submitted(*whole)
    assert ended.code == 0 and record["accepted"], ended.said
    judged = verdicts(record)
    assert judged["faces found"] == judged["features"] == judged["time of the system"] == judged["batch of 1"] == "kept"
    assert len(record["system"]["raw_ms"]) == 10 and record["system"]["images"] == 7 and record["latency"] is None
    members = {
        "assets/det/yunet.onnx",
        "assets/face_reg/model.onnx",
        "assets/settings.json",
        "face_detection.py",
        "pywebface260mmfr_implement.py",
    }
    with zipfile.ZipFile(tmp_path / "out" / "tiny.zip") as archive:
        assert set(archive.namelist()) == members
        for name in members:
            assert archive.read(name) == (tmp_path / "out" / "tiny" / name).read_bytes()
        assert archive.read("assets/face_reg/model.onnx") == (tmp_path / "model.onnx").read_bytes()
        settings = json.loads(archive.read("assets/settings.json"))
    assert settings == {"detector": "yunet.onnx", "recognizer": "model.onnx", "input_mean": 127.5, "input_std": 127.5}


@pytest.mark.parametrize(("normalise", "mean", "std"), [("none", 0, 1), ("insightface", 127.5, 127.5)])
def test_normalise_goes_into_the_system(submitted, whole, tmp_path, normalise, mean, std):
    submitted(*whole, "--normalise", normalise)
    settings = json.loads((tmp_path / "out" / "tiny" / "assets" / "settings.json").read_text())
    assert (settings["input_mean"], settings["input_std"]) == (mean, std)


def test_an_edited_system_is_checked_as_it_is(submitted, whole, tmp_path, photographs, tiny):
    submitted(*whole)
    folder = tmp_path / "out" / "tiny"
    (folder / "notes.md").write_text("mine")
    words = ["--track", tiny, "--system", folder, "--images", photographs, *AMPLE]
    ended, record = submitted(*words, out="second")
    assert ended.code == 0 and verdicts(record)["normalisation"] == "not judged here"
    assert "notes.md" in zipfile.ZipFile(tmp_path / "second" / "tiny.zip").namelist()
    (folder / "face_detection.py").write_text("raise SystemError('mine')")
    ended, record = submitted(*words, out="second")
    assert ended.code == 1 and broken(record) == ["system"] and "SystemError: mine" in ended.stdout


def test_the_system_budget_is_the_tracks_whole_one(submitted, whole, tiny):
    """30 ms there for everything, no reserve taken off, carried here: 1.5 times the reference."""
    ended, record = submitted(*whole[:-2])
    (time,) = [rule for rule in record["rules"] if rule["name"] == "time of the system"]
    scale = float(time["said"].split("(x ")[1].split(")")[0])
    assert ended.code == 0 and float(time["limit"].split()[1]) == pytest.approx(30 * scale, abs=0.07)  # both rounded


def test_without_images_the_time_is_not_judged(submitted, whole):
    at = whole.index("--images")
    ended, record = submitted(*whole[:at])
    judged = verdicts(record)
    assert ended.code == 0 and judged["time of the system"] == "not judged here"
    assert judged["time of the network alone"] == "noted" and "--images" in ended.stdout
    (last,) = [line for line in ended.stdout.splitlines() if line.startswith("Accepted: ")]
    assert "not judged here: " in last and last.endswith("time of the system.")


def test_weights_of_a_system_are_checked_too(submitted, whole, saved):
    model = fp16()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = FACE_PX
    saved(model)
    ended, record = submitted(*whole)
    assert ended.code == 1 and "weights" in broken(record) and "FLOAT16" in ended.stdout


# --- what the user gives wrongly: one clear line, before anything is measured


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "--model is missing: the ONNX file to submit"),
        (("--model", "nowhere.onnx"), "nowhere.onnx: cannot be read: No such file"),
        (("--model", "text.onnx"), "text.onnx: not an ONNX network"),
        (("--model", "empty.onnx"), "empty.onnx: not an ONNX network: it holds no graph"),
        (("--model", "network.pt"), "give the model.onnx"),
        (("--model", "text.zip"), "text.zip: not an ONNX network"),
        (("--model", "m.onnx", "--detector", "m.onnx"), "--detector: track flat takes one ONNX file and no system"),
        (("--model", "m.onnx", "--images", "."), "--images: track flat takes one ONNX file"),
        (("--system", "."), "--system: track flat takes one ONNX file"),
        (
            ("--model", "m.onnx", "--normalise", "imagenet"),
            "--normalise 'imagenet' is not known; known: insightface, none",
        ),
        (("--model", "m.onnx", "--budget-ms", "0"), "--budget-ms: given 0, allowed: more than 0"),
        (("--model", "m.onnx", "--budget-ms", "nan"), "--budget-ms"),
        (("--model", "m.onnx", "--name", "../x"), "--name '../x'"),
        (("--model", "m.onnx", "--backend", "onnxruntime"), "did you mean 'onnxruntime-cpu'?"),
        (("--model", "m.onnx", "--no-such-option"), "--no-such-option"),
    ],
)
def test_one_line_says_what_is_wrong(submitted, flat, saved, tmp_path, words, said):
    saved(network(), "m.onnx")
    for name in ("text.onnx", "text.zip", "network.pt"):
        (tmp_path / name).write_text("no network")
    (tmp_path / "empty.onnx").touch()
    ended, record = submitted("--track", flat, *words)
    assert ended.code == 2 and said in ended.stderr and len(ended.stderr.splitlines()) == 1 and record is None
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--detector", None], "--detector is missing: track tiny takes a whole system"),
        (["--model", None], "--model is missing: track tiny takes a system"),
        (["--images", "nowhere"], "--images nowhere: no such file"),
        (["--detector", "nowhere.onnx"], "--detector nowhere.onnx: cannot be read"),
        (["--system", "."], "--system is a whole system already"),
    ],
)
def test_one_line_says_what_a_system_lacks(submitted, whole, tmp_path, change, said):
    option, value = change
    words = list(map(str, whole))
    if option in words:
        at = words.index(option)
        words[at : at + 2] = [option, value] if value else []
    else:
        words += change
    ended, record = submitted(*words)
    assert ended.code == 2 and said in ended.stderr and len(ended.stderr.splitlines()) == 1 and record is None


def test_a_folder_of_something_else_is_kept(submitted, flat, saved, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    ended, _ = submitted("--track", flat, "--model", saved(network()), *AMPLE)
    assert ended.code == 2 and "holds no submission of zennas" in ended.stderr
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_the_options_know_every_normalisation():
    assert Options.declared()["normalise"].choices == tuple(NORMALISATIONS)
