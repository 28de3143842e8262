import numpy as np
import onnx
import pytest
import torch

from tests.shapes import square
from zennas.export.onnx_file import fold, to_onnx
from zennas.latency.backends import BACKENDS, Backend, device_of, fix_input_px, library_version, missing, open_backend
from zennas.latency.protocol import measure
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.network import build, calibrate
from zennas.track import Protocol

SMALL = Candidate(block="ir_se", stem=8, widths=(8, 16), depths=(1, 1))
CPU = Protocol(backend="onnxruntime-cpu", num_runs=3, kth_fastest=1)
NEEDS_GPU = [name for name in BACKENDS if device_of(name) != "cpu"]


@pytest.fixture(scope="module")
def network():
    network = build(SMALL, square(112, 8))
    return calibrate(network, torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def onnx_bytes(network):
    return to_onnx(fold(network), {"image": (3, 112, 112)})


def detector(*shape):
    """An ONNX file whose one input has this shape (names are symbolic) and whose output is the input's ReLU."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["image"], ["faces"])],
        "detector",
        [value("image", onnx.TensorProto.FLOAT, shape)],
        [value("faces", onnx.TensorProto.FLOAT, [None] * len(shape))],
    )
    opset = onnx.helper.make_opsetid("", 13)
    return onnx.helper.make_model(graph, opset_imports=[opset], ir_version=7).SerializeToString()


@pytest.mark.parametrize("name", BACKENDS)
def test_a_backend_runs_or_says_what_is_missing(name, network):
    protocol = CPU.model_copy(update={"backend": name})
    if (reason := missing(name)) is None:
        assert measure(network, protocol).measured_ms > 0
    else:
        with pytest.raises(UserError) as error:
            open_backend(network, protocol)
        assert str(error.value) == reason
        assert f"'{name}' needs" in reason
        assert torch.__version__ in reason or ("installed:" in reason and "pip install" in reason)


def test_the_processor_is_never_missing():
    assert missing("onnxruntime-cpu") is None and device_of("onnxruntime-cpu") == "cpu"


@pytest.mark.gpu
@pytest.mark.parametrize("io", ["host", "device"])
@pytest.mark.parametrize("name", NEEDS_GPU)
def test_a_gpu_backend_times_finished_work(name, io, network):
    measurement = measure(network, Protocol(backend=name, num_runs=10, kth_fastest=2, warmup_runs=3, io=io))
    assert measurement.measured_ms > 0.005  # a launch alone takes 5 us: less would be a clock before the work


@pytest.mark.gpu
@pytest.mark.parametrize("name", NEEDS_GPU)
def test_a_gpu_backend_answers_as_the_processor(name, network, onnx_bytes):
    (expected,) = open_backend(onnx_bytes, CPU)()
    answer = np.asarray(open_backend(network, CPU.model_copy(update={"backend": name}))()).reshape(expected.shape)
    assert np.abs(answer - expected).max() < 2e-2 * np.abs(expected).max()  # TF32 keeps ten bits of a product


@pytest.mark.parametrize("given, meant", [("onnxruntime-cpuu", "onnxruntime-cpu"), ("torch_cuda", "torch-cuda")])
def test_an_unknown_backend_is_named_with_those_that_are_known(given, meant, onnx_bytes):
    for ask in (device_of, missing, lambda name: open_backend(onnx_bytes, CPU.model_copy(update={"backend": name}))):
        with pytest.raises(UserError, match=f"backend '{given}' is not known; did you mean '{meant}'") as error:
            ask(given)
        assert all(name in str(error.value) for name in BACKENDS)


def test_torch_takes_no_onnx_file(onnx_bytes):
    with pytest.raises(UserError, match="times a torch network, not an ONNX file"):
        open_backend(onnx_bytes, CPU.model_copy(update={"backend": "torch-cuda"}))


def test_bytes_path_and_network_give_the_same_answer(network, onnx_bytes, tmp_path):
    (tmp_path / "network.onnx").write_bytes(onnx_bytes)
    answers = [open_backend(model, CPU)()[0] for model in (onnx_bytes, str(tmp_path / "network.onnx"), fold(network))]
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


@pytest.mark.parametrize("batch", [1, 3])
def test_a_symbolic_batch_becomes_the_protocols(batch, onnx_bytes):
    (embedding_BD,) = open_backend(onnx_bytes, CPU.model_copy(update={"batch": batch}))()
    assert embedding_BD.shape == (batch, 8)


def test_a_file_of_another_batch_is_not_timed_as_if_it_had_the_protocols():
    (faces,) = open_backend(detector(1, 3, 8, 8), CPU)()
    assert faces.shape == (1, 3, 8, 8)
    with pytest.raises(UserError, match="batch"):
        open_backend(detector(1, 3, 8, 8), CPU.model_copy(update={"batch": 4}))


def test_a_symbolic_height_and_width_are_asked_for_then_fixed():
    symbolic = detector("batch", 3, "height", "width")
    with pytest.raises(UserError, match=r"'image' has the symbolic shape .*height.*: only the batch"):
        open_backend(symbolic, CPU)
    (faces,) = open_backend(fix_input_px(symbolic, 24), CPU)()
    assert faces.shape == (1, 3, 24, 24)


def test_a_size_that_the_file_fixes_stays():
    (faces,) = open_backend(fix_input_px(detector(1, 3, 8, "width"), 24), CPU)()
    assert faces.shape == (1, 3, 8, 24)


def test_a_latency_lives_as_long_as_the_library_of_its_backend(monkeypatch):
    """ONNX Runtime's version says nothing of a backend that runs on something else."""
    installed = {"onnxruntime": "1.20", "torch": "2.9", "openvino": "2025.1"}
    assert library_version("onnxruntime-cpu", installed) == "1.20"
    assert library_version("onnxruntime-cuda", installed | {"onnxruntime-gpu": "1.21"}) == "1.21"
    assert library_version("torch-cuda", installed) == "2.9"
    monkeypatch.setitem(BACKENDS, "openvino-cpu", Backend(lambda *_: None, "cpu", ("openvino",), ("float32",)))
    assert library_version("openvino-cpu", installed) == "2025.1" and library_version("openvino-cpu", {}) == ""
