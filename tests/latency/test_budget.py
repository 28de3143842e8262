import io

import onnx
import pytest
import torch
from rich.console import Console

from tests.shapes import FACE, square
from zennas.latency import budget
from zennas.latency.budget import (
    choose_protocol,
    keep_network,
    keep_reference,
    kept_network,
    kept_reference,
    local_budget,
    measure_detector,
    measure_network,
    reference_here,
)
from zennas.latency.protocol import Measurement
from zennas.progress import Progress
from zennas.provenance import versions
from zennas.records import TRACKS, UserError, names
from zennas.space.candidate import Candidate
from zennas.track import Protocol, load_experiment, load_track

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: nothing stands in for it")
CPU = Protocol(backend="onnxruntime-cpu", num_runs=3, kth_fastest=1)


@pytest.fixture
def track(tiny):
    return load_experiment(str(tiny))[1]


@pytest.fixture
def own_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def taken(ms, *, protocol=CPU, machine="a-machine"):
    return Measurement(
        raw_ms=(ms,) * protocol.num_runs,
        protocol=protocol,
        machine=machine,
        date="",
        versions=versions(),
        load_average=0.0,
    )


def test_a_budget_is_carried_over_by_the_reference(track):
    budget = local_budget(track, taken(40.0), None)  # 20 ms there: this machine takes twice as long
    assert budget.budget_ms == pytest.approx(2 * (30 - 2 - 1))
    assert (budget.scale, budget.reference_ms, budget.stand_in) == (2.0, 40.0, None)
    for word in ("30 ms on a slow machine", "reserve of 2 + 1 ms", "ir-32-32x2-64x2", "20 ms there", "40.0 ms here"):
        assert word in budget.origin


def test_a_detector_measured_here_replaces_the_reserve(track):
    budget = local_budget(track, taken(10.0), None, detector_ms=7.0)  # half as long here; the detector is not scaled
    assert budget.budget_ms == pytest.approx(30 / 2 - 1 / 2 - 7)
    assert "detector measured here (7.0 ms)" in budget.origin and "reserve" not in budget.origin


def test_a_budget_that_is_given_is_not_scaled(track):
    budget = local_budget(track, None, "a stand-in", budget_ms=5.5)
    assert (budget.budget_ms, budget.scale, budget.reference_ms, budget.stand_in) == (5.5, None, None, "a stand-in")
    assert "5.5" in budget.origin and "unscaled" in budget.origin


def test_nothing_left_is_the_users_error(track):
    with pytest.raises(UserError, match=r"nothing is left.* leaves -40\.5 ms"):
        local_budget(track, taken(10.0), None, detector_ms=55.0)


def test_a_share_of_the_reference_is_measured_where_it_is_asked_for():
    track = load_track("reid-mgn")
    budget = local_budget(track, taken(240.0), None)
    assert (budget.budget_ms, budget.reference_ms, budget.scale) == (120.0, 240.0, None)
    for word in ("0.5 of what mgn/resnet_bottleneck-64-256x3", "takes here, 240.0 ms", "384x128 px"):
        assert word in budget.origin


def test_milliseconds_of_no_machine_are_not_carried_anywhere():
    track = load_track("reid-edge")
    assert reference_here(track, CPU, None) is None
    budget = local_budget(track, None, None)
    assert (budget.budget_ms, budget.reference_ms, budget.scale) == (15.0, None, None)
    assert "15 ms of the machine that runs the network, unscaled" in budget.origin
    at_once = local_budget(track, None, None, batch=16)  # fifteen milliseconds an image
    assert at_once.budget_ms == 240.0 and "for each of 16 images" in at_once.origin


def test_images_at_once_are_asked_for():
    protocol, stand_in = choose_protocol(load_track("reid-mgn"), batch=16)
    assert protocol == load_track("reid-mgn").protocol.model_copy(update={"batch": 16}) and stand_in is None


@without_gpu
def test_a_share_is_one_on_any_device(track):
    """Another kind of device needs no words: the reference network is measured on it, too."""
    on_gpu = track.protocol.model_copy(update={"backend": "onnxruntime-cuda"})
    for name, stands_in in (("reid-mgn", False), ("reid-edge", True)):
        _, stand_in = choose_protocol(load_track(name).model_copy(update={"protocol": on_gpu}))
        assert (stand_in is not None) == stands_in
        assert not stands_in or "the machine that runs the network with onnxruntime-cuda" in stand_in


@pytest.mark.parametrize("name", [name for name in names(TRACKS) if name not in ("reid-edge", "reid-mgn")])
def test_on_its_own_machine_a_track_keeps_its_budget(name):
    track = load_track(name)
    budget = local_budget(track, taken(track.budget.reference.latency_ms), None)
    assert budget.scale == 1.0
    assert budget.budget_ms == track.budget.total_ms - track.budget.detection_ms - track.budget.alignment_ms


@without_gpu
def test_the_processor_stands_in_for_a_gpu_and_says_so():
    for backend in (None, "onnxruntime-cpu"):
        protocol, stand_in = choose_protocol(load_track("insightface-ms1m"), backend)
        assert protocol == load_track("insightface-ms1m").protocol.model_copy(update={"backend": "onnxruntime-cpu"})
        for word in ("stand-in", "insightface-ms1m", "V100", "onnxruntime-cuda", "onnxruntime-cpu", "may differ"):
            assert word in stand_in


@without_gpu
def test_a_backend_that_is_asked_for_must_run():
    with pytest.raises(UserError, match="'onnxruntime-cuda' needs an NVIDIA GPU"):
        choose_protocol(load_track("webface-sfr"), "onnxruntime-cuda")


def test_a_track_that_runs_here_needs_no_stand_in(track):
    assert choose_protocol(track) == (track.protocol, None)
    assert choose_protocol(track, "onnxruntime-cpu") == (track.protocol, None)


def test_an_unknown_backend_is_told_with_its_track(track):
    odd = track.model_copy(update={"protocol": track.protocol.model_copy(update={"backend": "onnxruntime"})})
    with pytest.raises(UserError, match=r"tiny\.yaml: backend 'onnxruntime' is not known; did you mean"):
        choose_protocol(odd)
    with pytest.raises(UserError, match="did you mean 'onnxruntime-cpu'"):
        choose_protocol(track, "onnxruntime_cpu")


def test_a_reference_is_kept_for_its_track_protocol_and_machine(track, own_folder):
    assert kept_reference(track, CPU, machine="a-machine") is None
    keep_reference(track, taken(40.0))
    other = load_track("webface-sfr")
    keep_reference(other, taken(300.0))
    assert kept_reference(track, CPU, machine="a-machine") == taken(40.0)
    assert kept_reference(other, CPU, machine="a-machine") == taken(300.0)
    assert kept_reference(track, CPU, machine="another-machine") is None
    for change in ({"threads": 2}, {"num_runs": 9}, {"kth_fastest": 2}, {"io": "device"}, {"flush_denormals": False}):
        assert kept_reference(track, CPU.model_copy(update=change), machine="a-machine") is None


def test_a_reference_that_cannot_be_read_or_kept_is_the_users_error(track, own_folder, monkeypatch, tmp_path):
    keep_reference(track, taken(40.0))
    (path,) = own_folder.rglob("*-networks.json")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="not valid JSON; delete the file"):
        kept_reference(track, CPU, machine="a-machine")
    monkeypatch.setenv("ZENNAS_CACHE", str(path))  # a file where a folder should be
    with pytest.raises(UserError, match=r"cannot be kept: .*; set ZENNAS_CACHE"):
        keep_reference(track, taken(40.0))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_the_reference_is_measured_once_and_kept_for_the_machine_that_measures(
    track, own_folder, monkeypatch, elsewhere
):
    here, measured, console = ["here"], [], Console(file=io.StringIO())

    def measure(candidate, protocol, shape):
        measured.append((candidate, shape))
        return taken(40.0, protocol=protocol, machine=here[0])

    def on_another_machine(function, *arguments):
        here[0] = "there"
        answer = function(*arguments)
        here[0] = "here"
        return answer

    monkeypatch.setattr(budget, "measure_network", measure)
    monkeypatch.setattr(budget, "machine_name", lambda: here[0])
    on_device, machine = (on_another_machine, "there") if elsewhere else (None, "here")
    for _ in range(2):
        found = reference_here(track, CPU, Progress(console), on_device=on_device)
        assert found == taken(40.0, machine=machine) == kept_reference(track, CPU, machine=machine)
    assert measured == [(track.budget.reference.candidate, FACE)]
    assert console.file.getvalue().count("reference 40.00 ms measured, and kept") == 1


def test_a_network_kept_of_few_runs_is_found_by_who_asks_for_no_more(track, own_folder):
    rule, here = CPU.model_copy(update={"num_runs": 30}), {"machine": "a-machine"}
    candidate, shape, few = track.budget.reference.candidate, FACE, taken(40.0, protocol=rule.with_runs(6))
    keep_network(candidate, few, shape)
    assert kept_network(candidate, rule, shape, **here) is None
    assert kept_network(candidate, rule, shape, few=True, **here) == few
    assert kept_network(candidate, rule.model_copy(update={"io": "device"}), shape, few=True, **here) is None


def test_a_network_is_measured_from_its_export():
    small = Candidate(block="ir", stem=8, widths=(8,), depths=(1,))
    measurement = measure_network(small, CPU, square(16, 8))
    assert measurement.protocol == CPU and measurement.measured_ms > 0


def write_detector(path, height, width):
    """A detector of one strided convolution, its input of this size; None is symbolic."""
    value, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    weight = onnx.numpy_helper.from_array(torch.ones(4, 3, 3, 3).numpy(), "weight")
    graph = onnx.helper.make_graph(
        [node("Conv", ["image", "weight"], ["map"], strides=[2, 2]), node("GlobalAveragePool", ["map"], ["faces"])],
        "detector",
        [value("image", onnx.TensorProto.FLOAT, ["batch", 3, height, width])],
        [value("faces", onnx.TensorProto.FLOAT, [None, 4, 1, 1])],
        [weight],
    )
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=7), path)


def test_a_detector_is_measured_at_its_own_size_or_the_one_given(tmp_path):
    for name, size in (("fixed", (24, 40)), ("symbolic", (None, None)), ("named", ("height", "width"))):
        write_detector(tmp_path / f"{name}.onnx", *size)
        measurement = measure_detector(tmp_path / f"{name}.onnx", CPU, input_px=32)
        assert len(measurement.raw_ms) == CPU.num_runs and measurement.measured_ms > 0


def test_a_symbolic_detector_runs_at_the_size_that_is_given(tmp_path):
    write_detector(tmp_path / "detector.onnx", "height", "width")
    small, large = (measure_detector(tmp_path / "detector.onnx", CPU, input_px=px) for px in (32, 1024))
    assert large.measured_ms > 10 * small.measured_ms  # a thousand times the pixels, less what a call costs


@pytest.mark.parametrize("content", [None, b"", b"no model", b"\x00" * 100])
def test_what_is_no_detector_is_the_users_error(tmp_path, content):
    if content is not None:
        (tmp_path / "detector.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"^--detector .*detector\.onnx: (cannot be read: No such|not an ONNX network)"):
        measure_detector(tmp_path / "detector.onnx", CPU, input_px=32)
