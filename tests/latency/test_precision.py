"""float16 and int8: a track admits them or not, and what is timed and handed out is of that precision."""

import dataclasses
import json
import logging
import math
import pathlib

import numpy as np
import onnx
import pytest
import torch
import yaml
from onnx import TensorProto, numpy_helper

from tests.shapes import square
from tests.weights import weights_of
from zennas.checker import BROKEN, IR_VERSION, KEPT, OPSET, SMALL_WEIGHTS, checker_problems, file_rules, precision_of
from zennas.export import onnx_file as exporting
from zennas.export.onnx_file import PRECISIONS, Proof, compare, export, in_precision, open_session
from zennas.latency.backends import BACKENDS, check_precision, device_of, missing, open_backend
from zennas.latency.budget import choose_protocol, export_candidate, measure_network, measure_onnx_file
from zennas.latency.protocol import measure
from zennas.latency.table import LatencyTable, table_name
from zennas.records import UserError
from zennas.space.blocks import BLOCKS
from zennas.space.candidate import Candidate
from zennas.space.network import build, calibrate
from zennas.space.parts import parts_of
from zennas.track import Precision, Protocol, Track, load_experiment, load_track

# Wide enough that the rounding of eight bits averages out; toys of eight channels keep a cosine of 0.97.
CANDIDATE = Candidate(block="ir_se", stem=16, widths=(16, 32), depths=(2, 1))
SIZES = {"shape": square(32, 64)}
SHAPE = (3, 32, 32)
CPU = Protocol(backend="onnxruntime-cpu", num_runs=3, kth_fastest=1)
SMALL_TYPES = {"float32": {TensorProto.FLOAT}, "float16": {TensorProto.FLOAT16}, "int8": {TensorProto.INT8}}
smaller = pytest.mark.parametrize("precision", ["float16", "int8"])


def in_rule(precision):
    return CPU.model_copy(update={"precision": precision})


@pytest.fixture(scope="module")
def network():
    network = build(CANDIDATE, generator=torch.Generator().manual_seed(0), **SIZES)
    return calibrate(network, torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(1)))


@pytest.fixture(scope="module")
def exported(network):
    """{precision: Export}"""
    metadata = {"candidate": CANDIDATE.text}
    return {name: export(network, square(32), metadata=metadata, precision=name) for name in PRECISIONS}


# --- the files


def test_a_protocol_knows_the_precisions_that_files_come_in():
    assert set(Precision.__args__) == set(PRECISIONS) == set(SMALL_WEIGHTS)
    for backend in BACKENDS.values():
        assert "float32" in backend.precisions and set(backend.precisions) <= set(PRECISIONS)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_is_of_the_precision_that_was_asked_for(exported, precision):
    made = exported[precision]
    model = onnx.load_from_string(made.onnx_bytes)
    weights = [tensor for tensor in model.graph.initializer if len(tensor.dims) > 1 and math.prod(tensor.dims) > 100]
    assert len(weights) >= 8 and {tensor.data_type for tensor in weights} == SMALL_TYPES[precision]
    assert precision_of(made.onnx_bytes) == precision
    assert ([(one.domain, one.version) for one in model.opset_import], model.ir_version) == ([("", OPSET)], IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    assert [(prop.key, prop.value) for prop in model.metadata_props] == [("candidate", CANDIDATE.text)]
    (image,), (embedding,) = model.graph.input, model.graph.output  # float32 outside, whatever is inside
    assert (image.name, image.type.tensor_type.elem_type) == ("image", TensorProto.FLOAT)
    assert (embedding.name, embedding.type.tensor_type.elem_type) == ("embedding", TensorProto.FLOAT)
    assert checker_problems(made.onnx_bytes, initializer_dtype=(precision,)) == []


def test_smaller_weights_make_smaller_files(exported):
    sizes = {name: len(made.onnx_bytes) for name, made in exported.items()}
    assert sizes["float16"] < 0.6 * sizes["float32"] and sizes["int8"] < 0.5 * sizes["float32"]  # the rest is the graph


def test_float32_is_left_as_it_is(exported):
    assert in_precision(exported["float32"].onnx_bytes, "float32") is exported["float32"].onnx_bytes


def test_half_precision_rounds_every_weight_once(exported):
    before, after = (weights_of(exported[name].onnx_bytes) for name in ("float32", "float16"))
    for name, array in before.items():
        kept = np.abs(array) > 1e-6  # below it, the converter lifts what would become zero
        np.testing.assert_array_equal(after[name][kept], array.astype(np.float16)[kept])


def test_eight_bits_round_every_weight_to_half_a_step_of_its_channel(exported):
    before, after = (weights_of(exported[name].onnx_bytes) for name in ("float32", "int8"))
    graph = onnx.load_from_string(exported["int8"].onnx_bytes).graph
    scales = {node.input[0]: node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    weights = [name for name, array in after.items() if array.dtype == np.int8 and array.ndim > 1]
    assert len(weights) >= 8
    for name in weights:
        # A convolution's output channels, a fully connected layer's too (its weight is stored as B, transposed).
        original, scale = before[name.removesuffix("_quantized")], after[scales[name]]
        assert scale.shape == (original.shape[0],)
        shape = (-1, *[1] * (original.ndim - 1))
        error = np.abs(after[name].astype(np.float32) * scale.reshape(shape) - original)
        assert (error <= scale.reshape(shape) * 0.5001).all()
        assert (np.abs(after[name]).reshape(len(scale), -1).max(axis=1) >= 126).all()  # the range is used


@smaller
def test_the_answer_is_nearly_float32_s(network, exported, precision):
    image_BCHW = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(9)).numpy()
    expected_BD, answer_BD = (
        open_session(exported[name].onnx_bytes).run(None, {"image": image_BCHW})[0] for name in ("float32", precision)
    )
    lengths = np.linalg.norm(expected_BD, axis=1) * np.linalg.norm(answer_BD, axis=1)
    cosine_B = (expected_BD * answer_BD).sum(axis=1) / lengths
    # 11 bits through five layers; eight bits leave about a hundredth of the variance.
    assert cosine_B.min() > {"float16": 1 - 1e-5, "int8": 0.95}[precision]
    assert np.abs(answer_BD - expected_BD).max() > 0  # it is another file


def test_the_proof_says_how_far_the_directions_are_apart(exported):
    class Turned(torch.nn.Module):
        """Answers with the file's embedding, turned by 60 degrees in the plane of it and one at right angles."""

        def forward(self, image_BCHW):
            (answer,) = open_session(exported["float32"].onnx_bytes).run(None, {"image": image_BCHW.numpy()})
            answer_BD = torch.from_numpy(answer)
            across_BD = torch.zeros_like(answer_BD)
            across_BD[:, 0], across_BD[:, 1] = answer_BD[:, 1], -answer_BD[:, 0]
            across_BD *= (answer_BD.norm(dim=1) / across_BD.norm(dim=1))[:, None]
            return answer_BD * math.cos(math.pi / 3) + across_BD * math.sin(math.pi / 3)

    proof = compare(Turned(), exported["float32"].onnx_bytes, {"image": SHAPE})
    assert proof.min_cosine == pytest.approx(0.5, abs=1e-5)
    assert exported["float32"].proof.min_cosine == pytest.approx(1, abs=1e-6)
    assert Proof.parse({"max_abs_difference": 0.1, "max_abs_output": 1.0}, "a file of old").min_cosine is None


def other_weights(model, calibration):
    """A conversion that loses half of a middle layer's weights."""
    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    for tensor in converted.graph.initializer:
        if len(tensor.dims) == 4:
            array = numpy_helper.to_array(tensor).copy()
            array[::2] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return converted


@pytest.mark.parametrize(
    "precision, said",
    [("float16", "ONNX Runtime and PyTorch differ by"), ("int8", "in int8 the network answers in another direction")],
)
def test_a_conversion_that_changes_the_answer_is_refused(network, monkeypatch, precision, said):
    monkeypatch.setitem(exporting.PRECISIONS, precision, other_weights)
    with pytest.raises(RuntimeError, match=said):
        export(network, square(32), precision=precision)


def test_a_wrong_fold_is_not_taken_for_rounding(network, monkeypatch):
    """A difference of a thousandth would pass as float16's or int8's; the float32 file is looked at first."""

    fold = exporting.fold

    def nearly(given):
        folded = fold(given)
        folded.neck[-1].bias.data += 2e-3
        return folded

    monkeypatch.setattr(exporting, "fold", nearly)
    for precision in PRECISIONS:
        with pytest.raises(RuntimeError, match=r"differ by .* at most 0\.0001 of it is rounding"):
            export(network, square(32), precision=precision)


def test_int8_takes_its_ranges_from_the_images_that_are_given(network):
    image_BCHW = torch.randn(8, *SHAPE, generator=torch.Generator().manual_seed(5))
    scales = []
    for factor in (1, 10):
        made = export(network, square(32), precision="int8", calibration_BCHW=image_BCHW * factor)
        graph = onnx.load_from_string(made.onnx_bytes).graph
        (first,) = [node for node in graph.node if "image" in node.input and node.op_type == "QuantizeLinear"]
        scales.append(float(weights_of(made.onnx_bytes)[first.input[1]]))
    span = float(image_BCHW.max() - image_BCHW.min())
    assert scales[0] == pytest.approx(span / 255, rel=1e-4) and scales[1] == pytest.approx(10 * scales[0], rel=1e-4)


# As published. Narrower ones, untrained, lose their direction (a cosine of 0.82 in int8, 3 % off in float16) and are
# refused.
WIDE = {"osnet": {"stem": 64, "widths": (256, 384, 512)}}


@smaller
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_can_be_handed_out_in_it(block, precision):
    made = export_candidate(
        Candidate(block=block, **WIDE.get(block, {"stem": 32, "widths": (32, 32, 64)}), depths=(1, 2, 1)),
        square(64, 64),
        in_rule(precision),
    )  # which is its proof; so narrow ones keep 0.98 in int8
    assert precision_of(made.onnx_bytes) == precision and made.proof.min_cosine < 1


@smaller
def test_converting_says_nothing_and_leaves_the_logs_on(network, precision, capfd, caplog):
    before = logging.root.manager.disable
    export(network, square(32), precision=precision)
    assert logging.root.manager.disable == before
    assert caplog.records == [] and capfd.readouterr() == ("", "")


# --- the checker's rule


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("admitted", [("float32",), ("float32", "float16"), ("int8",), ("float16", "int8")], ids=str)
def test_the_checker_admits_what_the_track_does(exported, precision, admitted):
    (rule,) = [
        rule
        for rule in file_rules(exported[precision].onnx_bytes, initializer_dtype=admitted)
        if rule.name == "weights"
    ]
    assert (rule.verdict == KEPT) == (precision in ("float32", *admitted))
    if rule.verdict == BROKEN and admitted == ("float32",):
        assert "fp32 is the rule" in rule.said
    elif rule.verdict == BROKEN:
        assert f"allowed: {', '.join(admitted)}" in rule.said
    for name in ("float16", "int8"):
        assert (name in rule.limit) == (name in admitted)


def test_bytes_that_no_precision_has_stay_refused(exported):
    model = onnx.load_from_string(exported["float32"].onnx_bytes)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) > 0, tensor.name))
    (rule,) = [
        rule
        for rule in file_rules(model.SerializeToString(), initializer_dtype=tuple(PRECISIONS))
        if rule.name == "weights"
    ]
    assert rule.verdict == BROKEN and "is BOOL; allowed: float32, float16, int8" in rule.said


# --- the track


@pytest.fixture
def track_of(tiny):
    """track_of(precision, admitted) -> the path of the tiny experiment whose track asks for that."""

    def change(precision, admitted):
        path = tiny.parent / "track.yaml"
        values = yaml.safe_load(path.read_text())
        values["protocol"]["precision"] = precision
        values["limits"]["initializer_dtype"] = admitted
        path.write_text(yaml.safe_dump(values))
        return tiny

    return change


@pytest.mark.parametrize(
    "name", sorted(pathlib.Path(__file__).parents[2].glob("latency/tracks/*.yaml")), ids=lambda path: path.stem
)
def test_no_track_that_we_know_admits_less_than_float32(name):
    track = load_track(str(name))
    assert track.protocol.precision == "float32" and track.limits.initializer_dtype == ("float32",)


@pytest.mark.parametrize(
    "precision, admitted", [("float16", "float16"), ("int8", ["float32", "int8"]), ("float32", "int8")]
)
def test_a_track_that_admits_its_precision_loads(track_of, precision, admitted):
    track = load_experiment(str(track_of(precision, admitted)))[1]
    assert track.protocol.precision == precision
    assert track.limits.of_a_file["initializer_dtype"] == track.limits.initializer_dtype
    assert Track.parse(json.loads(track.model_dump_json()), "a file") == track
    assert choose_protocol(track)[0].precision == precision


@pytest.mark.parametrize("precision, admitted", [("int8", "float32"), ("float16", ["int8", "float32"])])
def test_a_track_that_does_not_admit_its_precision_is_refused(track_of, precision, admitted):
    path = track_of(precision, admitted)
    with pytest.raises(UserError) as caught:
        load_experiment(str(path))
    (line,) = str(caught.value).splitlines()
    assert "track.yaml: limits: " in line
    given = admitted if isinstance(admitted, str) else ", ".join(admitted)
    assert f"an initializer_dtype that admits the {precision} of protocol.precision; this one admits {given}" in line


@pytest.mark.parametrize(
    "precision, admitted, at",
    [("int4", "float32", "protocol.precision"), ("float32", ["bfloat16"], "limits.initializer_dtype.0")],
)
def test_an_unknown_precision_is_refused_with_the_known(track_of, precision, admitted, at):
    path = track_of(precision, admitted)
    with pytest.raises(UserError, match=rf"track\.yaml: {at}: given '\w+', allowed: 'float32', 'float16' or 'int8'"):
        load_experiment(str(path))


# --- what is timed


@smaller
def test_a_candidate_is_timed_in_its_protocol_s_precision(precision, monkeypatch):
    timed = []
    noted = dataclasses.replace(
        BACKENDS["onnxruntime-cpu"], open=lambda model, *_: timed.append(model) or (lambda: None)
    )
    monkeypatch.setitem(BACKENDS, "onnxruntime-cpu", noted)
    taken = measure_network(CANDIDATE, in_rule(precision), **SIZES)
    assert taken.protocol == in_rule(precision) and precision_of(timed[0]) == precision


@smaller
def test_a_part_is_timed_in_its_protocol_s_precision(precision, network, monkeypatch):
    """What a backend is given as a network, it exports in the protocol's precision."""
    from zennas.latency import backends

    opened = []
    monkeypatch.setattr(
        backends, "open_session", lambda source, **options: opened.append(source) or open_session(source)
    )
    network.input_shape = SHAPE
    (embedding_BD,) = open_backend(network, in_rule(precision))()
    assert precision_of(opened[0]) == precision and embedding_BD.shape == (1, 64)


@pytest.mark.alone
def test_a_table_of_int8_is_its_own_and_its_sum_near_the_whole(tmp_path):
    table = LatencyTable(in_rule("int8"), folder=tmp_path)
    table.ensure(parts_of(CANDIDATE, **SIZES), num_runs=10)
    assert table.path.name == "onnxruntime-cpu-1t-batch1-int8.csv" == table_name(in_rule("int8"))
    assert not set(table.rows) & set(LatencyTable(CPU, folder=tmp_path).rows)  # it does not stand in for float32's
    whole = measure_network(CANDIDATE, in_rule("int8").with_runs(30), **SIZES)
    # As for float32: so small a network stays in the cache, while its parts are timed outside it, each with its own
    # call.
    assert 0.5 < table.predict(CANDIDATE, **SIZES) / whole.measured_ms < 5


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("rule", ["float32", "int8"])
def test_a_given_file_is_timed_as_it_is_and_the_record_says_so(exported, tmp_path, precision, rule):
    (tmp_path / "model.onnx").write_bytes(exported[precision].onnx_bytes)
    assert measure_onnx_file(tmp_path / "model.onnx", in_rule(rule)).protocol == in_rule(precision)


def test_a_file_with_a_half_precision_input_can_be_timed(network):
    model = onnx.load_from_string(export(network, square(32)).onnx_bytes)
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(model, keep_io_types=False).SerializeToString()
    assert open_backend(half, CPU)()[0].dtype == np.float16


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_refuses_what_it_has_no_arithmetic_for(backend, track_of, network):
    network.input_shape = SHAPE
    for precision in PRECISIONS:
        protocol = Protocol(backend=backend, precision=precision)
        if precision in BACKENDS[backend].precisions:
            check_precision(protocol)
            continue
        match = (
            rf"backend '{backend}' times networks in .*, and the rule asks for {precision}, which is for: "
            rf"onnxruntime-cpu"
        )
        with pytest.raises(UserError, match=match):
            open_backend(network, protocol)
        if missing(backend) is None:
            with pytest.raises(UserError, match=match):
                choose_protocol(load_experiment(str(track_of(precision, [precision])))[1], backend)


@pytest.mark.gpu
@pytest.mark.parametrize("backend", [name for name in BACKENDS if device_of(name) != "cpu"])
def test_a_gpu_times_half_precision(backend, network):
    network.input_shape = SHAPE
    protocol = Protocol(backend=backend, num_runs=10, kth_fastest=2, warmup_runs=3, precision="float16")
    (expected,) = open_backend(network, CPU)()
    answer = np.asarray(open_backend(network, protocol)()).reshape(expected.shape)
    assert np.abs(answer - expected).max() < 2e-2 * np.abs(expected).max()  # 11 bits of every number
    assert measure(network, protocol).measured_ms > 0.005


@smaller
def test_a_candidate_is_handed_out_in_its_protocol_s_precision(precision):
    made = export_candidate(CANDIDATE, **SIZES, protocol=in_rule(precision), metadata={"trained": "no"})
    assert precision_of(made.onnx_bytes) == precision
    assert [entry.key for entry in onnx.load_from_string(made.onnx_bytes).metadata_props] == ["trained"]


@pytest.mark.slow
def test_the_winners_of_a_search_are_of_the_track_s_precision(track_of, tmp_path):
    from zennas.search.__main__ import main

    out = tmp_path / "run"
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "--track",
                str(track_of("int8", ["float32", "int8"])),
                "--out",
                str(out),
                "--candidates",
                "60",
                "--workers",
                "1",
            ]
        )
    assert ended.value.code == 0
    winners = json.loads((out / "winners.json").read_text())
    assert winners
    for winner in winners:
        assert precision_of((out / winner["onnx"]).read_bytes()) == "int8" == winner["latency"]["protocol"]["precision"]
        assert winner["export"]["checker"] == [] and winner["export"]["min_cosine"] > 0.9
