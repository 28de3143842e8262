import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from tests.submit.conftest import network
from zennas.checker import (
    BROKEN,
    KEPT,
    NORMALISATIONS,
    NOT_JUDGED,
    NOTED,
    checker_problems,
    detected_normalisation,
    file_rules,
    outside_files,
    tensors,
    with_dynamic_batch,
)
from zennas.export.onnx_file import open_session
from zennas.records import UserError

LIMITS = {"max_mb": 1, "max_embedding_size": 8, "image": (3, 32, 32)}


def rules_of(model, **options):
    rules = file_rules(model.SerializeToString(), **(LIMITS | options))
    names = [rule.name for rule in rules]
    assert len(names) == len(set(names))
    return {rule.name: rule for rule in rules}


def not_kept(rules):
    return {name: rule.verdict for name, rule in rules.items() if rule.verdict != KEPT}


def weight_as(dtype, number=0):
    def plant(model):
        tensor = model.graph.initializer[number]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))

    return plant


def second_output(model):
    model.graph.output.append(helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["batch", 4]))


def second_input(model):
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, ["batch", 3, 32, 32]))


def three_axes(model):
    del model.graph.input[0].type.tensor_type.shape.dim[3]


def output_axes(*sizes):
    """Plants further axes behind the embedding's."""

    def plant(model):
        for size in sizes:
            axis = model.graph.output[0].type.tensor_type.shape.dim.add()
            setattr(axis, "dim_value" if isinstance(size, int) else "dim_param", size)

    return plant


def seven_nodes(model):
    del model.graph.node[7:]


def one_channel(model):
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1


def symbolic_side(model):
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"


def outside(model):
    tensor = model.graph.initializer[1]
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.ClearField("raw_data")


def names(*given):
    def plant(model):
        for node, name in zip(model.graph.node, given, strict=False):
            node.name = name

    return plant


def padded(model):
    model.doc_string = "x" * 2**20


BREAKS = {
    "three axes": (three_axes, "input", "batch x 3 x 32", "one input of four axes"),
    "two inputs": (second_input, "input", "batch x 3 x 32 x 32; batch x 3 x 32 x 32", "given 2"),
    "one channel": (one_channel, "input size", "1 x 32 x 32", "must be 3 x 32 x 32; given 1 x 32 x 32"),
    "symbolic side": (symbolic_side, "input size", "3 x height x 32", "given 3 x height x 32"),
    "two outputs": (second_output, "output", "2", "one output is allowed; given 2"),
    "three output axes": (output_axes(2), "output axes", "batch x 8 x 2", "must have two axes"),
    "a map": (output_axes(7, 7), "output axes", "batch x 8 x 7 x 7", "must have two axes"),
    "seven nodes": (seven_nodes, "nodes", "7", "8 nodes or more are allowed; given 7"),
    "fp16": (weight_as(np.float16), "weights", "1 of FLOAT16", "initializer 'w0' is FLOAT16; fp32 is the rule"),
    "int8": (weight_as(np.int8, 3), "weights", "1 of INT8", "initializer 'wg' is INT8"),
    "bool": (weight_as(bool), "weights", "1 of BOOL", "initializer 'w0' is BOOL"),
    "megabytes": (padded, "file size", "1.0 MB", "1.0 MB; at most 1 MB"),
    "outside": (outside, "one file", "1 outside", "in weights.bin: 'w1'; save it"),
}


def test_a_good_file_keeps_every_rule():
    rules = rules_of(network(), normalise="insightface")
    assert not_kept(rules) == {} and len(rules) == 12
    assert all(not rule.said for rule in rules.values())
    assert rules["nodes"].measured == "9" and rules["embedding size"].limit == "<= 8"


@pytest.mark.parametrize("name", BREAKS)
def test_each_rule_is_broken_by_its_own_file_and_no_other(name):
    plant, rule, measured, said = BREAKS[name]
    model = network()
    plant(model)
    rules = rules_of(model, normalise="insightface")
    assert not_kept(rules) == {rule: BROKEN}
    assert rules[rule].measured == measured and said in rules[rule].said


def test_the_same_files_without_limits():
    model = network(px=40, size=4096)
    assert not_kept(rules_of(model, normalise="insightface", image=None, max_embedding_size=None)) == {}
    rules = rules_of(model, normalise="insightface")
    assert not_kept(rules) == {"input size": BROKEN, "embedding size": BROKEN}
    assert "may have 8 numbers; given 4096" in rules["embedding size"].said


def test_weights_are_counted_and_the_first_is_named():
    model = network()
    for number in (1, 2, 4):
        weight_as(np.float16, number)(model)
    rule = rules_of(model)["weights"]
    assert rule.said == "initializer 'w1' is FLOAT16; fp32 is the rule (3 of 5 initializers break it)"
    for wide in (np.float64, np.int64, np.int32, np.uint32):
        model = network()
        weight_as(wide)(model)
        assert rules_of(model)["weights"].verdict == KEPT  # the checker counts bytes alone


def test_a_type_that_onnx_does_not_know_is_no_traceback():
    model = network()
    model.graph.initializer[0].data_type = 999
    assert "initializer 'w0' is of type 999" in rules_of(model)["weights"].said


@pytest.mark.parametrize(("sizes", "verdict"), [((1,), KEPT), ((1, 1), KEPT), ((1, 2), BROKEN), (("height", 1), NOTED)])
def test_axes_of_one_behind_an_embedding_are_flattened_by_judges(sizes, verdict):
    model = network()
    output_axes(*sizes)(model)
    assert rules_of(model)["output axes"].verdict == verdict
    assert ("embedding size" in rules_of(model)) == (verdict != BROKEN)


def test_sizes_that_the_file_does_not_state_are_left_to_a_run_but_not_in_files_of_ours():
    model = network()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_param = "size"
    assert not_kept(rules_of(model, normalise="insightface")) == {"embedding size": NOTED}
    assert len(checker_problems(model.SerializeToString(), max_embedding_size=8)) == 1
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert not_kept(rules_of(model, normalise="insightface")) == {"output axes": NOTED}
    assert len(checker_problems(model.SerializeToString())) == 1


# --- weights outside the file


def a_graph(*nodes, weights=(), sparse=()):
    return helper.make_graph(nodes, "inner", [], [], list(weights), sparse_initializer=list(sparse))


def holding(**attributes):
    return helper.make_node("Held", [], ["held"], domain="mine", **attributes)


def sparse_of(values, indices):
    one = onnx.SparseTensorProto(dims=[4])
    one.values.CopyFrom(values)
    one.indices.CopyFrom(indices)
    return one


def a_function(*nodes):
    return helper.make_function("mine", "Held", [], [], list(nodes), [helper.make_opsetid("", 13)])


def default_of_a_function(model, one, _):
    function = a_function()
    function.attribute_proto.append(helper.make_attribute("value", one))
    model.functions.append(function)


# Wherever an ONNX file can hold a tensor: (model, the tensor, another one) are given.
PLACES = {
    "weight": lambda model, one, _: model.graph.initializer.append(one),
    "constant": lambda model, one, _: model.graph.node.append(holding(value=one)),
    "list": lambda model, one, other: model.graph.node.append(holding(values=[other, one])),
    "sparse weight": lambda model, one, other: model.graph.sparse_initializer.append(sparse_of(one, other)),
    "indices": lambda model, one, other: model.graph.sparse_initializer.append(sparse_of(other, one)),
    "sparse constant": lambda model, one, other: model.graph.node.append(holding(value=sparse_of(one, other))),
    "sparse list": lambda model, one, other: model.graph.node.append(holding(values=[sparse_of(other, one)])),
    "branch": lambda model, one, _: model.graph.node.append(holding(then_branch=a_graph(weights=[one]))),
    "constant of a branch": lambda model, one, _: model.graph.node.append(holding(body=a_graph(holding(value=one)))),
    "graphs": lambda model, one, _: model.graph.node.append(holding(graphs=[a_graph(), a_graph(weights=[one])])),
    "branch of a branch": lambda model, one, other: model.graph.node.append(
        holding(body=a_graph(holding(body=a_graph(sparse=[sparse_of(other, one)]))))
    ),
    "function": lambda model, one, _: model.functions.append(a_function(holding(value=one))),
    "branch of a function": lambda model, one, _: model.functions.append(
        a_function(holding(body=a_graph(weights=[one])))
    ),
    "default of a function": default_of_a_function,
    "training": lambda model, one, _: model.training_info.add().initialization.initializer.append(one),
    "step of a training": lambda model, one, _: model.training_info.add().algorithm.node.append(holding(value=one)),
}


def as_outside(name, place="weights.bin"):
    one = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    one.external_data.add(key="offset", value="0")
    if place:
        one.external_data.add(key="location", value=place)
    return one


def every_tensor(message):
    """By what protocol buffers know of themselves: every message within a message, whatever its field is called."""
    if isinstance(message, TensorProto):
        yield message
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for one in value if hasattr(value, "append") else [value]:
                yield from every_tensor(one)


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_is_found_wherever_a_file_can_hold_it(place):
    model = network()
    PLACES[place](model, as_outside("away"), numpy_helper.from_array(np.ones(4, np.float32), "here"))
    found = sorted(tensor.name for tensor in tensors(model))
    assert found == sorted(tensor.name for tensor in every_tensor(model)) and found.count("away") == 1
    assert outside_files(model) == ["weights.bin"]
    rules = rules_of(model, normalise="insightface")
    assert not_kept(rules) == {"one file": BROKEN}
    assert rules["one file"].said.startswith("outside the file, in weights.bin: 'away'; save it")


def test_all_places_at_once():
    model = network()
    for number, plant in enumerate(PLACES.values()):
        plant(model, as_outside(f"away{number}", f"{number % 3}.bin"), numpy_helper.from_array(np.ones(4, np.float32)))
    assert len(list(tensors(model))) == len(list(every_tensor(model))) > len(PLACES)
    assert outside_files(model) == ["0.bin", "1.bin", "2.bin"]
    rule = rules_of(model)["one file"]
    assert rule.measured == f"{len(PLACES)} outside"
    assert f"in 0.bin, 1.bin, 2.bin: 'away0' and {len(PLACES) - 1} more; save it" in rule.said


def test_a_tensor_is_outside_because_it_says_so_not_because_it_names_a_place():
    model = network()
    assert outside_files(model) == [] and len(list(tensors(model))) == 5
    model.graph.initializer[0].external_data.add(key="location", value="unused.bin")
    assert outside_files(model) == [] and not_kept(rules_of(model, normalise="insightface")) == {}
    model.graph.initializer.append(as_outside("away", place=None))
    assert outside_files(model) == [] and "in a place that it does not name: 'away'" in rules_of(model)["one file"].said


# --- the batch


def test_a_fixed_batch_is_rewritten_by_the_checker_and_refused_in_files_of_ours():
    model = network(batch=1)
    rules = rules_of(model, normalise="insightface")
    assert not_kept(rules) == {"batch": NOTED} and "rewrites" in rules["batch"].said
    assert [rule for rule in checker_problems(model.SerializeToString()) if "batch must be dynamic" in rule]


@pytest.mark.parametrize(("batch", "verdict"), [(1, KEPT), ("batch", KEPT), (None, KEPT), (4, BROKEN)])
def test_the_webface_system_runs_single_images(batch, verdict):
    assert rules_of(network(batch=batch), checker="webface")["batch"].verdict == verdict


def test_rewriting_changes_the_first_size_alone():
    image = np.random.default_rng(0).normal(size=(5, 3, 32, 32)).astype(np.float32)
    fixed = network(batch=1).SerializeToString()
    with pytest.raises(Exception, match=r"(?i)invalid dimensions"):
        open_session(fixed).run(None, {"image": image})
    rewritten = with_dynamic_batch(fixed)
    model = onnx.load_from_string(rewritten)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "None"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert model == onnx.load_from_string(fixed)
    dynamic = network().SerializeToString()
    (expected,), (given,) = (open_session(one).run(None, {"image": image}) for one in (dynamic, rewritten))
    assert np.array_equal(given, expected) and expected.std() > 0
    assert with_dynamic_batch(dynamic) is dynamic


# --- what the checker makes of names, metadata and versions

INSIGHTFACE_NAMES = [("Sub_1", "Mul_2"), ("_minusscalar0", "_mulscalar0"), ("Sub", "Div_7"), ("Sub", *"abcdef", "Mul")]
# As exporters name the nodes of (x - mean) / std: MXNet, torch before and since its names have paths, ONNX by hand.
WEBFACE_NAMES = [
    ("bn_sub", "bn_mul"),
    ("_minusscalar0", "_mulscalar0"),
    ("layer/_sub", *"abcdef", "layer/_mul"),
    ("Sub_0", "Div_1"),
    ("Sub_0", "Mul_1"),
    ("/Sub", "/Div"),
    ("/normalise/Sub", "/normalise/Mul"),
    ("node_sub", "node_div"),
    ("SUB", *"abcdef", "DIV"),
]


@pytest.mark.parametrize("given", INSIGHTFACE_NAMES)
def test_normalisation_that_is_built_in_by_its_names(given):
    model = network()
    names(*given)(model)
    unknown = rules_of(model)["normalisation"]
    assert (unknown.verdict, unknown.measured) == (NOTED, "mean 0, std 1")
    assert not_kept(rules_of(model, normalise="none")) == {}
    rule = rules_of(model, normalise="insightface")["normalisation"]
    assert rule.verdict == BROKEN and "a Sub and a Mul among the first eight node names" in rule.said


@pytest.mark.parametrize(
    "given", [("/Sub", "/Mul"), ("Sub",), ("Mul", "Div"), ("Sub", *"abcdefg", "Mul"), ("sub", "mul")]
)
def test_other_names_leave_normalisation_to_the_checker(given):
    model = network()
    names(*given)(model)
    assert rules_of(model)["normalisation"].measured == "mean 127.5, std 127.5"
    assert not_kept(rules_of(model, normalise="insightface")) == {}
    rule = rules_of(model, normalise="none")["normalisation"]
    assert rule.verdict == BROKEN and "needs mean 0, std 1, but the checker will feed mean 127.5" in rule.said


@pytest.mark.parametrize("given", WEBFACE_NAMES)
def test_the_webface_sample_looks_for_other_names(given):
    model = network()
    names(*given)(model)
    assert rules_of(model, checker="webface")["normalisation"].measured == "mean 0, std 1"
    said = rules_of(model, checker="webface", normalise="insightface")["normalisation"]
    assert said.measured == "mean 127.5, std 127.5" and "sample would take mean 0, std 1" in said.said


@pytest.mark.parametrize(
    "given",
    [(), ("Sub_0",), ("Mul_0", "Div_1"), ("/conv/Conv", "/Add"), ("Sub", *"abcdefg", "Mul"), ("_minusscalar0",)],
)
def test_names_of_one_kind_leave_normalisation_to_the_webface_sample(given):
    model = network()
    names(*given)(model)
    assert rules_of(model, checker="webface")["normalisation"].measured == "mean 127.5, std 127.5"


@pytest.mark.parametrize("scale", [lambda x: x / 128.0, lambda x: x * 0.0078125])
def test_what_torch_exports_is_known_to_the_webface_sample(scale, tmp_path):
    class Normalised(torch.nn.Module):
        def forward(self, x):
            return scale(x - 127.5).relu()

    torch.onnx.export(Normalised(), (torch.zeros(1, 3, 8, 8),), str(tmp_path / "model.onnx"), dynamo=False)
    assert detected_normalisation(onnx.load(tmp_path / "model.onnx").graph, "webface") == "none"


def test_a_file_that_zennas_exported_says_what_it_needs():
    model = network(metadata={"zennas": "{}"})
    assert rules_of(model)["normalisation"].verdict == KEPT
    names("Sub", "Mul")(model)
    assert rules_of(model)["normalisation"].verdict == BROKEN
    assert rules_of(model, normalise="none")["normalisation"].verdict == KEPT  # the user knows better


def test_the_names_of_normalisations_are_means_and_stds():
    pixels = np.array([0.0, 127.5, 255.0])
    fed = {name: ((pixels - mean) / std).tolist() for name, (mean, std) in NORMALISATIONS.items()}
    assert fed == {"insightface": [-1, 0, 1], "none": [0, 127.5, 255]}


@pytest.mark.parametrize(
    ("opset", "ir_version", "verdict"),
    [(11, 6, KEPT), (13, 7, KEPT), (14, 7, BROKEN), (18, 8, BROKEN), (13, 8, BROKEN)],
)
def test_versions_that_the_servers_runtime_reads(opset, ir_version, verdict):
    model = network(opset=opset, ir_version=ir_version)
    rule = rules_of(model)["operator set"]
    assert rule.verdict == verdict and rule.measured == f"{opset}, IR {ir_version}"
    assert rules_of(model, checker="webface")["operator set"].verdict == NOT_JUDGED


# --- what is no network


@pytest.mark.parametrize(
    "content", [b"", b"no model", b"\x00" * 100, b"PK\x03\x04", network().SerializeToString()[:-50]]
)
def test_bytes_that_are_no_network_are_the_users_error(content):
    with pytest.raises(UserError, match=r"^not an ONNX network: "):
        file_rules(content)


@pytest.mark.parametrize("part", ["input", "output", "node", "initializer"])
def test_a_graph_that_lacks_something_is_judged(part):
    model = network()
    del getattr(model.graph, part)[:]
    rules = rules_of(model)
    assert {"input": "input", "output": "output", "node": "nodes"}.get(part, "weights") in rules
    assert (BROKEN in not_kept(rules).values()) == (part != "initializer")
    with_dynamic_batch(model.SerializeToString())
