"""What a challenge's checker sees in an ONNX file without running it: each rule with its measured value, limit and
verdict.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import onnx
from onnx import TensorProto

from zennas.records import Record, UserError, first_line
from zennas.track import Track

# The challenge's server ran ONNX Runtime 1.6, whose newest operator set is 13 and newest IR version 7.
OPSET, IR_VERSION = 13, 7
NUM_NAMED = 8  # the checkers look for normalisation in the names of so many nodes
# (mean, std) that a checker subtracts from pixels of 0 to 255, and by which it divides them
NORMALISATIONS = {"insightface": (127.5, 127.5), "none": (0.0, 1.0)}
# Weights of fewer than four bytes a number that a file in each precision has; those of four and more are in files of
# all.
SMALL_WEIGHTS = {
    "float32": (),
    "float16": (TensorProto.FLOAT16,),
    "int8": (TensorProto.INT8, TensorProto.UINT8),
}
KEPT, BROKEN, NOTED, NOT_JUDGED = "kept", "broken", "noted", "not judged here"


class Rule(Record):
    """One rule of a challenge, and what became of it."""

    name: str
    measured: str
    limit: str
    verdict: Literal["kept", "broken", "noted", "not judged here"]
    said: str = ""  # a sentence, wherever the verdict needs one


def file_rules(
    onnx_bytes: bytes,
    *,
    min_nodes: int = 8,
    max_mb: float | None = None,
    max_embedding_size: int | None = None,
    initializer_dtype: Sequence[str] = ("float32",),
    image: tuple[int, int, int] | None = None,
    checker: str = "insightface",
    normalise: str | None = None,
) -> list[Rule]:
    """The Rules that can be judged from the file alone, in the order in which the checker comes to them.

    Limits that are None are not known, and kept. initializer_dtype: the precisions that weights may have, names of
    SMALL_WEIGHTS. image: (channels, height, width) that the input must have; None asks for none. checker: whose,
    'insightface' or 'webface' (whose server's versions nobody wrote down, and whose sample system runs single images).
    normalise: what the model needs, a name of NORMALISATIONS; None: not known, unless the file's metadata says that
    zennas exported it.
    "noted" is what the checker does not refuse but answers in its own way. UserError where the bytes are no ONNX
    network.
    Source: insightface, challenges/iccv21-mfr/onnx_helper.py, class ArcFaceORT; WebFace260M, webface260m-iccv21-mfr,
    pywebface260mmfr_implement.py.
    """
    model = parse(onnx_bytes)
    normalise = normalise or needed_normalisation(model)
    rules = [
        *_input_rules(model.graph, image, single=checker == "webface"),
        *_output_rules(model.graph, max_embedding_size),
        _node_rule(model.graph, min_nodes),
        _initializer_rule(model.graph, initializer_dtype),
        _size_rule(onnx_bytes, max_mb),
        _normalisation_rule(model.graph, checker, normalise),
        _version_rule(model, checker),
        _outside_rule(model),
    ]
    return rules


def checker_problems(
    onnx_bytes: bytes,
    *,
    min_nodes: int = 8,
    max_mb: float | None = None,
    max_embedding_size: int | None = None,
    initializer_dtype: Sequence[str] = ("float32",),
) -> list[str]:
    """What must not be in a file of ours, each in words; empty if nothing.

    That is what the challenge's checker refuses, and what `file_rules` merely notes: a fixed batch, which the checker
    rewrites, and sizes that only a run tells.
    """
    rules = file_rules(
        onnx_bytes,
        min_nodes=min_nodes,
        max_mb=max_mb,
        max_embedding_size=max_embedding_size,
        initializer_dtype=initializer_dtype,
        normalise="insightface",
    )
    return [rule.said for rule in rules if rule.verdict in (BROKEN, NOTED)]


def track_problems(track: Track, onnx_bytes: bytes) -> list[str]:
    """`checker_problems` of a file by the limits of a track: why its challenge would refuse it."""
    return checker_problems(onnx_bytes, **track.limits.of_a_file)


def parse(onnx_bytes: bytes) -> onnx.ModelProto:
    """The onnx.ModelProto in the bytes; UserError where they hold no network."""
    try:
        model = onnx.load_from_string(onnx_bytes)
    except Exception as error:  # noqa: BLE001 - protobuf's types, which onnx passes on
        raise UserError(f"not an ONNX network: {first_line(error)}") from None
    if not model.HasField("graph"):  # no bytes at all are a valid protocol buffer too
        raise UserError("not an ONNX network: it holds no graph")
    return model


def tensors(model):
    """Every TensorProto of an onnx.ModelProto: weights of its graphs, and what nodes and functions hold as attributes,
    in graphs inside nodes (the branches of an If, the body of a Loop) too; of a sparse tensor its values and its
    indices.
    """
    yield from _tensors_of(model.graph)
    for function in model.functions:
        yield from _tensors_of(function)
    for training in model.training_info:
        yield from _tensors_of(training.initialization)
        yield from _tensors_of(training.algorithm)


def outside_files(model: onnx.ModelProto) -> list[str]:
    """The places, sorted, that an onnx.ModelProto names for tensors outside its file: as they stand there, a stranger's
    words.
    """
    entries = (entry for tensor in tensors(model) if _is_outside(tensor) for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == "location"})


def precision_of(onnx_bytes: bytes) -> str:
    """The precision, a name of SMALL_WEIGHTS, that a file's weights are in: the least that one of them has.

    Weights are initializers of two axes and more; those of fewer are biases, scales and zero points. UserError where
    the bytes are no ONNX network.
    """
    kinds = {tensor.data_type for tensor in parse(onnx_bytes).graph.initializer if len(tensor.dims) > 1}
    return next((name for name in ("int8", "float16") if kinds & set(SMALL_WEIGHTS[name])), "float32")


def flat(embeddings: Any) -> Any:
    """A batch of embeddings (an array or a tensor of any library) without the axes of 1 behind the first two, as judges
    take what a pooling left unflattened. Whatever is no such batch comes back as it is.

    >>> import numpy as np
    >>> flat(np.zeros((2, 512, 1, 1))).shape, flat(np.zeros((2, 512, 7, 7))).shape
    ((2, 512), (2, 512, 7, 7))
    """
    shape = tuple(embeddings.shape)
    return embeddings.reshape(shape[:2]) if len(shape) > 2 and set(shape[2:]) == {1} else embeddings


def with_dynamic_batch(onnx_bytes: bytes) -> bytes:
    """The file as the checker runs it: a batch without a name is called 'None', whether the nodes can follow or not."""
    model = parse(onnx_bytes)
    dims = model.graph.input[0].type.tensor_type.shape.dim if model.graph.input else ()
    if not len(dims) or dims[0].dim_param:
        return onnx_bytes
    dims[0].dim_param = "None"
    return model.SerializeToString()


def needed_normalisation(model: onnx.ModelProto) -> str | None:
    """The name in NORMALISATIONS that an onnx.ModelProto needs, where its metadata says that zennas exported it; else
    None.
    """
    return "insightface" if any(entry.key == "zennas" for entry in model.metadata_props) else None


# How each checker knows by the names of nodes that a network normalises its images itself: (how it reads a name, what
# a node that subtracts is called, what one that scales is called). Both kinds must be there.
# WebFace's sample looked for "_sub" or "_minus" and "_mul" until it changed; what it took then, it still takes.
BUILT_IN: dict[str, tuple[Callable[[str], str], Callable[[str, str], bool], tuple[str, ...], tuple[str, ...]]] = {
    "insightface": (str, str.startswith, ("Sub", "_minus"), ("Mul", "_mul", "Div")),
    "webface": (str.lower, str.__contains__, ("sub", "minus"), ("mul", "div")),
}


def detected_normalisation(graph: onnx.GraphProto, checker: str) -> str:
    """The name in NORMALISATIONS that a checker (a name of BUILT_IN) takes to be needed, from the names of the first
    nodes.
    """
    read, fits, subtracting, scaling = BUILT_IN[checker]
    names = [read(node.name) for node in graph.node[:NUM_NAMED]]
    built_in = all(any(fits(name, word) for name in names for word in kind) for kind in (subtracting, scaling))
    return "none" if built_in else "insightface"


def in_words(normalise: str) -> str:
    """
    >>> in_words("insightface")
    'mean 127.5, std 127.5'
    """
    mean, std = NORMALISATIONS[normalise]
    return f"mean {mean:g}, std {std:g}"


def _rule(name, measured, limit, remark=None):
    """A Rule that is broken where something is said, and kept where not."""
    return Rule(name=name, measured=measured, limit=limit, verdict=BROKEN if remark else KEPT, said=remark or "")


def _input_rules(graph, wanted, *, single):
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in weights]
    dims = [_dims(value) for value in inputs]
    measured = "; ".join(_shape(axes) for axes in dims) or "no input"
    if len(inputs) != 1 or len(dims[0] or ()) != 4:
        remark = f"one input of four axes is allowed; given {len(inputs)}" + (f" ({measured})" if inputs else "")
        return [_rule("input", measured, "one, of four axes", remark)]
    ((batch, *image),) = dims
    rules = [_rule("input", measured, "one, of four axes"), _batch_rule(batch, single=single)]
    if wanted is not None:
        limit = _shape(wanted)
        given = _shape(image)
        remark = None if given == limit else f"an image must be {limit}; given {given}"
        rules.append(_rule("input size", given, limit, remark))
    return rules


def _batch_rule(batch, *, single):
    name, limit = "batch", "1, or dynamic" if single else "dynamic"
    if not isinstance(batch, int):
        return _rule(name, "dynamic", limit)
    remark = "the batch must be dynamic"
    if single and batch == 1:
        return _rule(name, "1", limit)
    if single:
        return _rule(name, str(batch), limit, remark + f" or 1; given {batch}")
    remark += f"; given {batch}, which the checker rewrites before it runs a batch of its own"
    return Rule(name=name, measured=f"fixed at {batch}", limit=limit, verdict=NOTED, said=remark)


def _output_rules(graph, max_embedding_size):
    if len(graph.output) != 1:
        return [_rule("output", str(len(graph.output)), "one", f"one output is allowed; given {len(graph.output)}")]
    dims = _dims(graph.output[0])
    rules = [_rule("output", "one", "one")]
    axes, limit = "output axes", "two: batch and embedding; those behind them 1"
    if dims is None:
        remark = "the output must have two axes, batch and embedding; the file states none, and a run decides"
        return [*rules, Rule(name=axes, measured="not stated", limit=limit, verdict=NOTED, said=remark)]
    if len(dims) < 2 or any(isinstance(size, int) and size != 1 for size in dims[2:]):
        remark = (
            f"the output must have two axes, batch and embedding, and behind them only axes of 1; given {_shape(dims)}"
        )
        return [*rules, _rule(axes, _shape(dims), limit, remark)]
    if any(not isinstance(size, int) for size in dims[2:]):
        remark = f"the output must have two axes, batch and embedding; given {_shape(dims)}, and a run decides"
        rules.append(Rule(name=axes, measured=_shape(dims), limit=limit, verdict=NOTED, said=remark))
    else:
        rules.append(_rule(axes, _shape(dims), limit))
    size, name = dims[1], "embedding size"
    limit = f"<= {max_embedding_size}" if max_embedding_size else "none known"
    if max_embedding_size and not isinstance(size, int):
        remark = f"the embedding may have {max_embedding_size} numbers; given no fixed size, and a run decides"
        return [*rules, Rule(name=name, measured="no fixed size", limit=limit, verdict=NOTED, said=remark)]
    remark = None
    if max_embedding_size and not 0 < size <= max_embedding_size:
        remark = f"the embedding may have {max_embedding_size} numbers; given {size}"
    return [*rules, _rule(name, str(size), limit, remark)]


def _node_rule(graph, min_nodes):
    given = len(graph.node)
    remark = f"{min_nodes} nodes or more are allowed; given {given}" if given < min_nodes else None
    return _rule("nodes", str(given), f">= {min_nodes}", remark)


def _initializer_rule(graph, admitted):
    allowed = {data_type for precision in admitted for data_type in SMALL_WEIGHTS[precision]}
    small = [
        tensor for tensor in graph.initializer if _itemsize(tensor.data_type) < 4 and tensor.data_type not in allowed
    ]
    smaller = [precision for precision in admitted if SMALL_WEIGHTS[precision]]
    name, limit = "weights", ", or ".join(["4 bytes a number or more", *smaller])
    if not small:
        kinds = sorted({_type_name(tensor.data_type) for tensor in graph.initializer})
        return _rule(name, ", ".join(kinds) or "none", limit)
    kinds = sorted({_type_name(tensor.data_type) for tensor in small})
    rule = "fp32 is the rule" if not allowed else f"allowed: {', '.join(admitted)}"
    remark = f"initializer '{small[0].name}' is {_type_name(small[0].data_type)}; {rule}"
    if len(small) > 1:
        remark += f" ({len(small)} of {len(graph.initializer)} initializers break it)"
    return _rule(name, f"{len(small)} of {', '.join(kinds)}", limit, remark)


def _size_rule(onnx_bytes, max_mb):
    given = len(onnx_bytes) / 2**20
    remark = f"{given:.1f} MB; at most {max_mb:g} MB are allowed" if max_mb and given > max_mb else None
    return _rule("file size", f"{given:.1f} MB", f"<= {max_mb:g} MB" if max_mb else "none known", remark)


def _normalisation_rule(graph, checker, needs):
    name, detected = "normalisation", detected_normalisation(graph, checker)
    if checker == "webface":
        used = needs or detected
        remark = (
            f"the system feeds images with {in_words(used)}"
            + (f"; the organisers' sample would take {in_words(detected)}" if used != detected else "")
            + ("" if needs else "; --normalise says otherwise")
        )
        return Rule(name=name, measured=in_words(used), limit="as the model needs", verdict=NOTED, said=remark)
    if needs is None:
        remark = (
            f"the checker will feed images with {in_words(detected)}: make sure that the model needs that (--normalise)"
        )
        return Rule(name=name, measured=in_words(detected), limit="as the model needs", verdict=NOTED, said=remark)
    remark = None
    if needs != detected and detected == "none":
        remark = (
            "a Sub and a Mul among the first eight node names: the checker would take image normalisation for built in"
        )
    elif needs != detected:
        remark = (
            f"the model needs {in_words(needs)}, but the checker will feed {in_words(detected)}: none of the first "
            f"eight "
            "node names begins with Sub or _minus, or none with Mul, _mul or Div"
        )
    return _rule(name, in_words(detected), in_words(needs), remark)


def _version_rule(model, checker):
    opset = next((imported.version for imported in model.opset_import if imported.domain in ("", "ai.onnx")), 1)
    name, measured = "operator set", f"{opset}, IR {model.ir_version}"
    if checker == "webface":
        remark = "which ONNX Runtime the server has is written nowhere"
        return Rule(name=name, measured=measured, limit="not known", verdict=NOT_JUDGED, said=remark)
    newer = opset > OPSET or model.ir_version > IR_VERSION
    remark = (
        f"the server's ONNX Runtime 1.6 reads operator sets up to {OPSET} and IR versions up to {IR_VERSION}; "
        f"given {measured}"
    )
    return _rule(name, measured, f"<= {OPSET}, IR <= {IR_VERSION}", remark if newer else None)


def _outside_rule(model):
    outside = [tensor for tensor in tensors(model) if _is_outside(tensor)]
    name, limit = "one file", "all weights inside"
    if not outside:
        return _rule(name, "all weights inside", limit)
    places = ", ".join(outside_files(model)) or "a place that it does not name"
    more = f" and {len(outside) - 1} more" if len(outside) > 1 else ""
    remark = f"outside the file, in {places}: '{outside[0].name}'{more}; save it with all weights inside"
    return _rule(name, f"{len(outside)} outside", limit, remark)


def _is_outside(tensor):
    return tensor.data_location == TensorProto.EXTERNAL


def _tensors_of(graph):
    """Those of a GraphProto, or of a FunctionProto, which has attributes of its own and no weights."""
    of_nodes = (attribute for node in graph.node for attribute in node.attribute)
    attributes = [*getattr(graph, "attribute_proto", ()), *of_nodes]
    sparse = [*getattr(graph, "sparse_initializer", ())]
    yield from getattr(graph, "initializer", ())
    for attribute in attributes:
        yield from attribute.tensors
        sparse += attribute.sparse_tensors
        if attribute.HasField("t"):
            yield attribute.t
        if attribute.HasField("sparse_tensor"):
            sparse.append(attribute.sparse_tensor)
        for inner in attribute.graphs:
            yield from _tensors_of(inner)
        if attribute.HasField("g"):
            yield from _tensors_of(attribute.g)
    for tensor in sparse:
        yield from (tensor.values, tensor.indices)


def _dims(value):
    """Sizes (int), names, or None of a value's axes; None as a whole where the file states no shape."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or None for dim in tensor.shape.dim]


def _shape(dims):
    return "no shape" if dims is None else " x ".join(str(size) if size is not None else "?" for size in dims)


def _itemsize(data_type):
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except KeyError:
        return 0


def _type_name(data_type):
    known = data_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type) if known else f"of type {data_type}"
