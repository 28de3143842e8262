"""Weights that lie outside a file: the zip would lack them, and nobody opens what a stranger's file points to."""

import os

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tests.submit.conftest import FACE_PX, aligned_detector, broken, network, verdicts
from zennas.export.onnx_file import open_session

AMPLE = ("--budget-ms", "1000")


def moved(tensor, path):
    """Write the tensor's numbers to a file of their own, and leave its name in the model."""
    path.write_bytes(numpy_helper.to_array(tensor).tobytes())
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=path.name)


def a_weight(folder, px=32, size=8):
    model = network(px, size)
    moved(model.graph.initializer[3], folder / "weights.bin")
    return model


def a_constant(folder, px=32, size=8):
    model = network(px, size)
    value = model.graph.initializer.pop(3)
    model.graph.node.insert(0, helper.make_node("Constant", [], [value.name], name="Constant", value=value))
    moved(model.graph.node[0].attribute[0].t, folder / "weights.bin")
    return model


def a_branch(folder, px=32, size=8):
    """The last layer stands in both branches of an If; the weights of one lie inside, of the other outside."""
    model = network(px, size)
    graph, last = model.graph, model.graph.node.pop()
    true = numpy_helper.from_array(np.array(True), "true")
    out = helper.make_tensor_value_info("branched", TensorProto.FLOAT, ["batch", size])
    branches = {}
    for name in ("then_branch", "else_branch"):
        weight = onnx.TensorProto()
        weight.CopyFrom(graph.initializer[3])
        weight.name = f"w_{name}"
        node = helper.make_node("Gemm", ["flat", weight.name, "bg"], ["branched"])
        branches[name] = helper.make_graph([node], name, [], [out], [weight])
    graph.node.append(helper.make_node("Constant", [], ["true"], name="Constant", value=true))
    graph.node.append(helper.make_node("If", ["true"], list(last.output), name="If", **branches))
    (branch,) = [one.g for one in graph.node[-1].attribute if one.name == "then_branch"]
    moved(branch.initializer[0], folder / "weights.bin")
    del graph.initializer[3]
    return model


HIDDEN = {"weight": a_weight, "constant": a_constant, "branch": a_branch}


@pytest.fixture
def unopened(monkeypatch):
    """ONNX Runtime fails the test as soon as it is asked for anything."""

    def opened(*_, **__):
        pytest.fail("ONNX Runtime was given a file whose weights lie outside")

    return lambda: monkeypatch.setattr(onnxruntime, "InferenceSession", opened)


@pytest.mark.parametrize("name", HIDDEN)
@pytest.mark.parametrize("here", [True, False], ids=["found", "lost"])
def test_a_network_with_weights_outside_is_refused_and_not_opened(
    submitted, flat, saved, tmp_path, unopened, name, here
):
    """They lie in the working folder, where ONNX Runtime would find them: alone, it would say that all is well."""
    path = saved(HIDDEN[name](tmp_path))
    if here:
        image = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
        expected, given = (
            open_session(content).run(None, {"image": image})[0]
            for content in (network().SerializeToString(), path.read_bytes())
        )
        assert np.allclose(given, expected, rtol=1e-5)  # float32, in another order at most
    else:
        os.remove(tmp_path / "weights.bin")
    unopened()
    ended, record = submitted("--track", flat, "--model", path, "--normalise", "insightface", *AMPLE)
    assert ended.code == 1 and broken(record) == ["one file"] and "outside the file, in weights.bin: '" in ended.stdout
    judged = verdicts(record)
    assert judged["loads"] == judged["time"] == "not judged here" and record["latency"] is None
    assert not {"batch of 32", "finite"} & set(judged)
    assert record["zip"] is None and os.listdir(tmp_path / "out") == ["submission.json"]


@pytest.mark.parametrize("name", HIDDEN)
def test_a_system_of_such_a_network_is_not_run(submitted, saved, tiny, photographs, tmp_path, unopened, name):
    words = ["--track", tiny, "--model", saved(HIDDEN[name](tmp_path, FACE_PX, 64)), "--images", photographs, *AMPLE]
    unopened()
    ended, record = submitted(*words, "--detector", saved(aligned_detector(), "yunet.onnx"))
    assert ended.code == 1 and broken(record) == ["one file"] and record["system"] is None and record["zip"] is None
    assert verdicts(record)["time"] == verdicts(record)["loads"] == "not judged here"
    assert os.listdir(tmp_path / "out") == ["submission.json"]


@pytest.mark.parametrize("images", [True, False])
def test_a_detector_with_weights_outside_is_refused(submitted, saved, tiny, photographs, tmp_path, images):
    found = aligned_detector()
    moved(found.graph.initializer[-1], tmp_path / "weights.bin")
    words = ["--track", tiny, "--model", saved(network(FACE_PX, 64)), "--detector", saved(found, "yunet.onnx"), *AMPLE]
    ended, record = submitted(*words, *(["--images", photographs] if images else []))
    assert ended.code == 2 and record is None and len(ended.stderr.splitlines()) == 1
    assert "yunet.onnx: keeps weights in weights.bin, which the zip would lack" in ended.stderr


def test_a_detector_that_is_no_network_is_refused(submitted, saved, tiny, tmp_path):
    (tmp_path / "yunet.onnx").write_text("no network")
    words = ["--track", tiny, "--model", saved(network(FACE_PX, 64)), "--detector", tmp_path / "yunet.onnx", *AMPLE]
    ended, record = submitted(*words)
    assert ended.code == 2 and record is None and "--detector" in ended.stderr
    assert "yunet.onnx: not an ONNX network" in ended.stderr and len(ended.stderr.splitlines()) == 1
