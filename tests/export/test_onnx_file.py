import contextlib
import math
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from tests.shapes import square
from tests.space.test_network import troubled
from tests.weights import weights_of
from zennas.checker import checker_problems
from zennas.export import onnx_file as export_module
from zennas.export.onnx_file import (
    MAX_RELATIVE_DIFFERENCE,
    Proof,
    compare,
    export,
    export_graph,
    fold,
    metadata_of,
    open_session,
    own_rounding,
    to_onnx,
)
from zennas.space.candidate import Candidate
from zennas.space.families.family import Graph
from zennas.space.network import build

CANDIDATES = {block: Candidate(block=block, stem=8, widths=(8, 16), depths=(2, 1)) for block in ("ir", "ir_se")}
IMAGE_PX, EMBEDDING_SIZE = 16, 8
METADATA = {"candidate": "ir_se-8-8x2-16x1", "seed": 3}


def made(candidate):
    return troubled(build(candidate, square(IMAGE_PX, EMBEDDING_SIZE)))


def images(batch, *, dtype=torch.float32):
    return torch.randn(batch, 3, IMAGE_PX, IMAGE_PX, generator=torch.Generator().manual_seed(batch), dtype=dtype)


@pytest.fixture(scope="module", params=CANDIDATES)
def exported(request):
    """(network, its Export)"""
    network = made(CANDIDATES[request.param])
    return network, export(network, square(IMAGE_PX), metadata=METADATA)


@pytest.fixture(scope="module")
def onnx_bytes():
    return to_onnx(fold(made(CANDIDATES["ir_se"])), {"image": (3, IMAGE_PX, IMAGE_PX)})


def answer_of(onnx_bytes, image_B3HW):
    (answer,) = open_session(onnx_bytes).run(None, {"image": image_B3HW.numpy()})
    return torch.from_numpy(answer)


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_onnx_answers_as_torch_does(exported, batch):
    network, made_export = exported
    with torch.no_grad():
        expected_BD = network(images(batch))
    answer_BD = answer_of(made_export.onnx_bytes, images(batch))
    assert answer_BD.shape == (batch, EMBEDDING_SIZE)
    assert expected_BD.std() > 0.1  # there is something to compare
    # float32 through ten layers, in another order.
    assert torch.allclose(answer_BD, expected_BD, rtol=1e-4, atol=1e-5)


def test_the_proof_is_the_worst_difference(exported):
    made_export = exported[1]
    proof = made_export.proof
    assert proof.relative == proof.max_abs_difference / proof.max_abs_output
    assert 0 <= proof.relative < 1e-5  # ten layers of float32; what is refused begins at 1e-4
    assert proof.max_abs_output > 0.1
    assert made_export.megabytes == len(made_export.onnx_bytes) / 1024 / 1024


def test_only_the_norms_that_open_a_block_stay(exported):
    network, made_export = exported
    graph = onnx.load_from_string(made_export.onnx_bytes).graph
    producers = {output: node.op_type for node in graph.node for output in node.output}
    norms = [node for node in graph.node if node.op_type == "BatchNormalization"]
    assert len(norms) == network.candidate.num_blocks
    # Behind the stem's activation or a sum, never behind a convolution; and what reads it is a padded convolution.
    assert {producers[norm.input[0]] for norm in norms} == {"PRelu", "Add"}
    for norm in norms:
        (reader,) = [node for node in graph.node if norm.output[0] in node.input]
        pads = next(list(attribute.ints) for attribute in reader.attribute if attribute.name == "pads")
        assert (reader.op_type, pads) == ("Conv", [1, 1, 1, 1])
    # Nothing is left of exporting: no weights behind Identity or Unsqueeze, one convolution and one slope for each of
    # ours.
    kinds = [node.op_type for node in graph.node]
    ours = [type(part) for part in network.modules()]
    assert kinds.count("Conv") == ours.count(nn.Conv2d) and kinds.count("PRelu") == ours.count(nn.PReLU)
    assert not {"Identity", "Unsqueeze", "Dropout"} & set(kinds)


def test_old_runtimes_can_read_it(exported):
    """ONNX Runtime 1.6, the challenge's, knows operator sets up to 13 and IR versions up to 7."""
    model = onnx.load_from_string(exported[1].onnx_bytes)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
    assert model.ir_version == 7
    onnx.checker.check_model(model, full_check=True)


def test_one_input_one_output_and_a_batch_of_any_size(exported):
    graph = onnx.load_from_string(exported[1].onnx_bytes).graph
    (image,), (embedding,) = graph.input, graph.output
    assert (image.name, embedding.name) == ("image", "embedding")
    image_dims, embedding_dims = (value.type.tensor_type.shape.dim for value in (image, embedding))
    assert [dim.dim_value for dim in image_dims[1:]] == [3, IMAGE_PX, IMAGE_PX]
    assert [dim.dim_value for dim in embedding_dims[1:]] == [EMBEDDING_SIZE]
    assert all(dims[0].dim_param and not dims[0].dim_value for dims in (image_dims, embedding_dims))


def test_the_first_names_do_not_switch_the_checker_s_normalisation_off(exported):
    names = [node.name for node in onnx.load_from_string(exported[1].onnx_bytes).graph.node[:8]]
    assert len(names) == 8
    assert not [name for name in names if re.match("Sub|_minus|Mul|_mul|Div", name)]


def test_every_initializer_is_float32(exported):
    tensors = onnx.load_from_string(exported[1].onnx_bytes).graph.initializer
    assert tensors and {tensor.data_type for tensor in tensors} == {TensorProto.FLOAT}
    arrays = weights_of(exported[1].onnx_bytes)
    assert len(arrays) == len(tensors) and all(array.dtype == np.float32 for array in arrays.values())


def test_metadata_is_in_the_file(exported):
    assert metadata_of(exported[1].onnx_bytes) == {"candidate": "ir_se-8-8x2-16x1", "seed": "3"}


def test_exporting_changes_nothing():
    network = made(CANDIDATES["ir"]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fold(network)
    assert network.training and network.blocks.training
    to_onnx(fold(network), {"image": (3, IMAGE_PX, IMAGE_PX)})
    export(network.eval(), square(IMAGE_PX))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_untrained_networks_keep_each_weight_its_own():
    """Their slopes and norms are all equal, which the exporter takes for one and the same tensor."""
    network = build(CANDIDATES["ir_se"], square(IMAGE_PX, EMBEDDING_SIZE))
    made_export = export(network, square(IMAGE_PX))
    graph = onnx.load_from_string(made_export.onnx_bytes).graph
    slopes = [node.input[1] for node in graph.node if node.op_type == "PRelu"]
    assert len(slopes) == 1 + network.candidate.num_blocks
    assert all(weights_of(made_export.onnx_bytes)[name].flat[0] == np.float32(0.25) for name in slopes)


# --- folding


@pytest.mark.parametrize("block", CANDIDATES)
def test_folding_is_exact(block):
    """An identity of algebra, not an approximation: in float64 nothing but float64's rounding is left."""
    network = made(CANDIDATES[block]).double()
    folded, image_B3HW = fold(network), images(3, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(folded(image_B3HW), network(image_B3HW), rtol=1e-11, atol=1e-11)
    norms = [part for part in folded.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == network.candidate.num_blocks


@torch.no_grad()
def test_the_neck_folds_into_one_layer_by_hand():
    """Written out over positions and channels: W' = W s, b' = b + W t, with s and t of the norm, then the norm
    behind."""
    neck = made(CANDIDATES["ir"]).neck.double()
    before, _, linear, behind = neck
    (layer,) = [part for part in fold(neck) if isinstance(part, nn.Linear)]
    positions = linear.in_features // before.num_features
    for d in range(EMBEDDING_SIZE):
        gain = behind.weight[d] / math.sqrt(behind.running_var[d] + behind.eps)
        bias = linear.bias[d] - behind.running_mean[d]
        for c in range(before.num_features):
            scale = before.weight[c] / math.sqrt(before.running_var[c] + before.eps)
            shift = before.bias[c] - before.running_mean[c] * scale
            columns = slice(c * positions, (c + 1) * positions)
            expected = gain * scale * linear.weight[d, columns]
            assert torch.allclose(layer.weight[d, columns], expected, rtol=1e-12, atol=0)  # three float64 products
            bias = bias + shift * linear.weight[d, columns].sum()
        assert float(layer.bias[d]) == pytest.approx(float(gain * bias + behind.bias[d]), rel=1e-9, abs=1e-12)


def test_a_norm_before_a_padded_convolution_stays():
    """Its shift would meet the zeros of the padding: folded, the borders would be wrong."""
    layers = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4))
    assert [type(part) for part in fold(layers)] == [type(part) for part in layers]


def forgetting_the_neck(network):
    folded = fold(network)
    folded.neck[-1].bias.data.zero_()
    return folded


def with_a_slope_too_steep(network):
    folded = fold(network)
    folded.stem[-1].weight.data *= 1.01
    return folded


def with_nothing_but_nan(network):
    folded = fold(network)
    folded.neck[-1].bias.data.fill_(math.nan)
    return folded


@pytest.mark.parametrize("wrong_fold", [forgetting_the_neck, with_a_slope_too_steep, with_nothing_but_nan])
def test_a_wrong_fold_is_caught(wrong_fold, monkeypatch):
    network = made(CANDIDATES["ir_se"])
    monkeypatch.setattr(export_module, "fold", wrong_fold)
    with pytest.raises(RuntimeError, match="ONNX Runtime and PyTorch differ by"):
        export(network, square(IMAGE_PX))


@pytest.mark.parametrize("wrong_batch", [1, 3])
def test_an_answer_that_is_no_number_is_a_difference_whatever_the_batch(wrong_batch, onnx_bytes):
    class Odd(nn.Module):
        def forward(self, image_B3HW):
            factor = math.nan if len(image_B3HW) == wrong_batch else 1.0
            return answer_of(onnx_bytes, image_B3HW) * factor

    proof = compare(Odd(), onnx_bytes, {"image": (3, IMAGE_PX, IMAGE_PX)})
    assert not proof.relative <= MAX_RELATIVE_DIFFERENCE


def test_the_difference_is_relative_to_the_largest_output():
    assert Proof(max_abs_difference=1e-3, max_abs_output=10.0).relative == pytest.approx(1e-4)
    assert (
        Proof(max_abs_difference=0.0, max_abs_output=0.0).relative == 0.0
    )  # an answer of zeros twice is the same answer
    assert Proof(max_abs_difference=1e-3, max_abs_output=0.0).relative > 1


# --- the checker


def two_outputs(model):
    model.graph.output.append(helper.make_tensor_value_info(model.graph.node[0].output[0], TensorProto.FLOAT, None))


def float16_initializer(model):
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))


def int8_initializer(model):
    tensor = model.graph.initializer[-1]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.int8), tensor.name))


def fixed_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def two_inputs(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 3, 16, 16]))


def flat_input(model):
    del model.graph.input[0].type.tensor_type.shape.dim[3]


def few_nodes(model):
    del model.graph.node[7:]


def name_nodes(*names):
    def plant(model):
        for node, name in zip(model.graph.node, names, strict=False):
            node.name = name

    return plant


VIOLATIONS = {
    "two outputs": (two_outputs, {}, "one output is allowed; given 2"),
    "fp16 initializer": (float16_initializer, {}, r"initializer '\S+' is FLOAT16; fp32 is the rule"),
    "int8 initializer": (int8_initializer, {}, r"initializer '\S+' is INT8; fp32 is the rule"),
    "fixed batch": (fixed_batch, {}, "the batch must be dynamic"),
    "two inputs": (two_inputs, {}, "one input of four axes is allowed; given 2"),
    "three axes": (flat_input, {}, "one input of four axes is allowed"),
    "few nodes": (few_nodes, {}, "8 nodes or more are allowed; given 7"),
    "Sub and Mul": (name_nodes("", "Sub_1", "Conv", "Mul_2"), {}, "a Sub and a Mul among the first eight node names"),
    "mxnet's names": (
        name_nodes("_minusscalar0", "_mulscalar0"),
        {},
        "a Sub and a Mul among the first eight node names",
    ),
    "Sub and Div": (name_nodes("Sub", *"abcdef", "Div"), {}, "a Sub and a Mul among the first eight node names"),
    "embedding": (
        lambda model: None,
        {"max_embedding_size": EMBEDDING_SIZE - 1},
        "the embedding may have 7 numbers; given 8",
    ),
    "megabytes": (lambda model: None, {"max_mb": 0.01}, r"\d+\.\d MB; at most 0.01 MB are allowed"),
    "more nodes": (lambda model: None, {"min_nodes": 1000}, r"1000 nodes or more are allowed; given \d+"),
}


@pytest.mark.parametrize("name", VIOLATIONS)
def test_the_checker_finds_each_violation_and_nothing_else(name, onnx_bytes):
    plant, limits, words = VIOLATIONS[name]
    assert checker_problems(onnx_bytes) == []
    model = onnx.load_from_string(onnx_bytes)
    plant(model)
    (problem,) = checker_problems(model.SerializeToString(), **limits)
    assert re.search(words, problem)


@pytest.mark.parametrize(
    ("plant", "limits"),
    [
        (name_nodes("Sub_1", "Sub_2"), {}),
        (name_nodes("Mul_1", "Div_2"), {}),
        (name_nodes("Sub_1", *"abcdefg", "Mul_1"), {}),  # the ninth
        (name_nodes("/Sub", "/Mul"), {}),
        (lambda model: None, {"max_embedding_size": EMBEDDING_SIZE, "max_mb": 1, "min_nodes": 8}),
        (lambda model: None, {"max_embedding_size": None, "max_mb": None}),
    ],
)
def test_the_checker_lets_pass_what_the_challenge_s_does(plant, limits, onnx_bytes):
    model = onnx.load_from_string(onnx_bytes)
    plant(model)
    assert checker_problems(model.SerializeToString(), **limits) == []


def test_the_checker_tells_every_problem_at_once(onnx_bytes):
    model = onnx.load_from_string(onnx_bytes)
    for plant in (fixed_batch, float16_initializer, two_outputs):
        plant(model)
    assert len(checker_problems(model.SerializeToString())) == 3


class Matched(nn.Module):
    """Two inputs, two outputs: how alike two images are, and a map of the first."""

    def __init__(self):
        super().__init__()
        self.image, self.mask = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(1, 4, 1)

    def forward(self, image_B3HW, mask_B1HW):
        map_B4HW = self.image(image_B3HW) * self.mask(mask_B1HW)
        return map_B4HW.mean((2, 3)), map_B4HW


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_a_graph_has_any_inputs_and_outputs(precision):
    """No challenge's checker is asked: it would refuse a second input, and who hands a file in asks it."""
    inputs = {"image": (3, 12, 8), "mask": (1, 12, 8)}
    graph = Graph("match", Matched().eval(), inputs, ("alike", "map"))
    made_export = export_graph(graph, precision=precision, metadata=METADATA)
    session = open_session(made_export.onnx_bytes)
    assert [value.name for value in session.get_inputs()] == ["image", "mask"]
    assert [(value.name, len(value.shape)) for value in session.get_outputs()] == [("alike", 2), ("map", 4)]
    assert checker_problems(made_export.onnx_bytes, initializer_dtype=(precision,))
    assert metadata_of(made_export.onnx_bytes) == {key: str(value) for key, value in METADATA.items()}


def test_onnx_runtime_keeps_no_id_of_the_machine(tmp_path):
    """Its import alone writes one, so the process must be a new one."""
    unset = ("XDG_CACHE_HOME", "ORT_DISABLE_TELEMETRY")
    environment = {name: value for name, value in os.environ.items() if name not in unset} | {"HOME": str(tmp_path)}
    program = "from zennas.export.onnx_file import onnx_runtime; onnx_runtime()"
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
    assert not [path for path in tmp_path.rglob("*") if "onnxruntime" in path.name]


class Rounding(torch.nn.Module):
    """What rounds its input off to so many units, because it adds and takes away a large number."""

    def __init__(self, large):
        super().__init__()
        self.large = large

    def forward(self, x):
        return (x + self.large) - self.large


@pytest.mark.parametrize(("large", "at_least", "at_most"), [(0.0, 0.0, 0.0), (2.0**13, 1e-5, 1e-3)])
def test_own_rounding_is_what_float32_is_off_by(large, at_least, at_most):
    """Numbers beside 2^13 lie 2^-10 apart, so each is off by half of that at most, and the largest is some units."""
    assert at_least <= own_rounding(Rounding(large), {"x": (3, 4)}) <= at_most


def test_a_network_that_rounds_much_is_held_against_its_own_rounding(monkeypatch):
    """Above the line, and no more than PyTorch's own rounding: taken. Far above that: refused, as what is wrong."""
    graph = Graph("network", Rounding(2.0**13), {"x": (3, 4)}, ("y",))
    for off, said in ((2e-4, None), (4e-3, "differ")):
        proof = Proof(max_abs_difference=off, max_abs_output=1.0, min_cosine=1.0)
        monkeypatch.setattr(export_module, "compare", lambda *_, proof=proof, **__: proof)
        with contextlib.nullcontext() if said is None else pytest.raises(RuntimeError, match=said):
            assert export_graph(graph).proof.relative == off
