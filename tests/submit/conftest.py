"""Networks of nine nodes, a detector that sees a bright image's face where we want it, tracks without and with a
detector.
"""

import contextlib
import io
import json

import cv2
import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from tests.conftest import TINY_EXPERIMENT, TINY_SPACE, TINY_TRACK, Ended
from zennas.submit.__main__ import main

DETECTION_PX, FACE_PX = 224, 112
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def network(px=32, size=8, *, batch="batch", opset=13, ir_version=7, metadata=None, nodes=None):
    """The onnx.ModelProto of Conv - Relu three times, an average, a flatten, a Gemm: nine nodes, px square -> size
    numbers.
    """
    rng = np.random.default_rng(5)

    def weight(name, *shape):
        return numpy_helper.from_array(rng.normal(0, 0.5, shape).astype(np.float32), name)

    weights, made, last = [], [], "image"
    for number, channels in enumerate((3, 4, 4)):
        weights.append(weight(f"w{number}", 4, channels, 3, 3))
        made.append(
            helper.make_node("Conv", [last, f"w{number}"], [f"c{number}"], strides=[2, 2], name=f"Conv_{number}")
        )
        made.append(helper.make_node("Relu", [f"c{number}"], [f"r{number}"], name=f"Relu_{number}"))
        last = f"r{number}"
    made.append(helper.make_node("GlobalAveragePool", [last], ["pooled"], name="Pool"))
    made.append(helper.make_node("Flatten", ["pooled"], ["flat"], name="Flatten"))
    made.append(helper.make_node("Gemm", ["flat", "wg", "bg"], ["embedding"], name="Gemm"))
    graph = helper.make_graph(
        nodes or made,
        "network",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, px, px])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, size])],
        [*weights, weight("wg", 4, size), weight("bg", size)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    helper.set_model_props(model, metadata or {})
    return model


def scaled(factor, *names):
    """The network with its last weights scaled until float32 ends; its first nodes are called so."""
    model = network()
    for tensor in model.graph.initializer[3:]:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), tensor.name))
    for node, name in zip(model.graph.node, names, strict=False):
        node.name = name
    return model


def detector(points_52, box, *, px=DETECTION_PX):
    """A real graph with YuNet's outputs: one face with this box (left, top, right, bottom) and these landmarks, in
    pixels of the detector's image, with a score of min(1, the image's mean); it stands in the grid of stride 8."""
    made, constants, outputs = [], [], []
    box, points_52 = np.asarray(box, float), np.asarray(points_52, float)
    middle = (box[:2] + box[2:]) / 2
    column, row = (int(value) // 8 for value in middle)
    place = row * (px // 8) + column
    made.append(helper.make_node("ReduceMean", ["input"], ["mean"], axes=[1, 2, 3], keepdims=0))
    made.append(helper.make_node("Clip", ["mean", "zero", "one"], ["seen"]))
    constants += [
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("zero", 0), ("one", 1))
    ]
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            name, values = f"{kind}_{stride}", np.zeros((1, (px // stride) ** 2, width), np.float32)
            if stride == 8:
                corner = np.array([column, row])
                values[0, place] = {
                    "cls": [1],
                    "obj": [1],
                    "bbox": [*(middle / 8 - corner), *np.log((box[2:] - box[:2]) / 8)],
                    "kps": (points_52 / 8 - corner).ravel(),
                }[kind]
            constants.append(numpy_helper.from_array(values, f"constant_{name}"))
            factors = [f"constant_{name}", "seen" if kind in ("cls", "obj") else "one"]
            made.append(helper.make_node("Mul", factors, [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(values.shape)))
    image = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, px, px])
    graph = helper.make_graph(made, "detector", [image], outputs, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)


def aligned_detector():
    """One that finds the landmarks of an aligned face where the template has them: 112 px are scaled to 224."""
    return detector(2 * TEMPLATE, (40, 60, 180, 210))


@pytest.fixture
def photographs(tmp_path):
    """A folder of 7 bright images of 112 px, one of them a JPEG in a folder below."""
    rng, folder = np.random.default_rng(3), tmp_path / "photographs"
    (folder / "more").mkdir(parents=True)
    for number in range(7):
        name = f"more/{number}.jpg" if number == 6 else f"{number}.png"
        cv2.imwrite(str(folder / name), rng.integers(1, 256, (FACE_PX, FACE_PX, 3), dtype=np.uint8))
    return folder


@pytest.fixture
def saved(tmp_path):
    """saved(model, name) -> its path"""

    def save(model, name="model.onnx"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(model, path)
        return path

    return save


@pytest.fixture
def flat(tmp_path):
    """The path of an experiment whose track times a network alone, as the insightface tracks do: 32 px, at most 64
    numbers.
    """
    folder = tmp_path / "flat"
    folder.mkdir()
    space, track, experiment = (yaml.safe_load(text) for text in (TINY_SPACE, TINY_TRACK, TINY_EXPERIMENT))
    del track["budget"]["detection_ms"], track["budget"]["alignment_ms"]
    experiment |= {"space": str(folder / "space.yaml"), "track": str(folder / "track.yaml")}
    for name, values in (("space", space), ("track", track), ("experiment", experiment)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(values | {"name": "flat"}))
    return folder / "experiment.yaml"


@pytest.fixture
def submitted(tmp_path, monkeypatch):
    """submitted(*arguments) -> (Ended, submission.json or None); the command in this process, to its end."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments, out="out"):
        stdout, stderr = io.StringIO(), io.StringIO()
        words = [*map(str, arguments), "--out", str(tmp_path / out)]
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr), pytest.raises(SystemExit) as ended:
            main(words)
        record = tmp_path / out / "submission.json"
        found = json.loads(record.read_text()) if record.is_file() else None
        return Ended(ended.value.code, stdout.getvalue(), stderr.getvalue()), found

    return run


def verdicts(record):
    """{rule: verdict}"""
    return {rule["name"]: rule["verdict"] for rule in record["rules"]}


def broken(record):
    return sorted(name for name, verdict in verdicts(record).items() if verdict == "broken")
