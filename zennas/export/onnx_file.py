"""network -> ONNX that old runtimes and the challenge's checker accept, and the proof that both answer alike."""

import contextlib
import copy
import io
import logging
import os
import pathlib
import tempfile
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils import fusion

from zennas.checker import IR_VERSION, OPSET
from zennas.names import text_path
from zennas.records import Record
from zennas.space.families.family import BuiltNetwork, Graph
from zennas.space.families.table import graph_of
from zennas.space.residual import deployed
from zennas.space.shape import Shape

# Measured on IR-SE-100 the difference is 1e-6 of the largest output; a wrong fold or a lost layer shows at 1e-2 and
# more.
MAX_RELATIVE_DIFFERENCE = 1e-4
# An untrained network may be so deep that it makes a rounding larger from block to block: MGN over ResNet-101 answers
# noise 1e-3 off its own answer in double precision, and ONNX Runtime no more. So what is above the line is held against
# that: so many times what PyTorch itself is off by, and less than what a wrong fold shows.
TIMES_OWN_ROUNDING, MOST_ROUNDING = 4.0, 5e-3
# Every file passes that one in float32; what follows is asked of its conversion alone. Half precision keeps 11 bits of
# a number: 3e-3 at most over IR and IR-SE from 3 to 49 blocks.
MAX_RELATIVE_DIFFERENCE_FLOAT16 = 1e-2
# Eight bits clip what lies outside the calibrated range, so that one number of an embedding may be far off: what counts
# is where the embedding points, by which faces are compared. 0.994 and more over the same networks from 8 blocks on,
# 0.97 on toys of a few channels; products that saturate, or a scale that was lost, leave 0.5 and less.
MIN_COSINE_INT8 = 0.9
CALIBRATION_IMAGES, CALIBRATION_SEED = 8, 3
INPUT_NAME, OUTPUT_NAME = "image", "embedding"


class Proof(Record):
    """How far ONNX Runtime's answer is from PyTorch's, on the same images (one alone and a batch of 3)."""

    max_abs_difference: float
    max_abs_output: float
    min_cosine: float | None = None  # between the two answers to one image; None in files of old

    @property
    def relative(self) -> float:
        return self.max_abs_difference / max(self.max_abs_output, 1e-30)


class Export(NamedTuple):
    """An ONNX file in memory, with its proof."""

    onnx_bytes: bytes
    proof: Proof

    @property
    def megabytes(self) -> float:
        """In MB of 2^20 bytes, as the challenge's checker counts."""
        return len(self.onnx_bytes) / 2**20


class NotFiniteError(RuntimeError):
    """A network answers with numbers that are not finite."""


def export(
    network: nn.Module,
    shape: Shape,
    *,
    metadata: dict[str, str] | None = None,
    precision: str = "float32",
    calibration_BCHW: torch.Tensor | None = None,
) -> Export:
    """The Export of a network as `export_graph` makes it: by the graph of its family, or, of another module, BCHW -> BD
    for a Shape. calibration_BCHW: its first input as the network will see it.
    """
    if isinstance(network, BuiltNetwork):
        graph = graph_of(network)
    else:
        graph = Graph("network", network, {INPUT_NAME: shape.image}, (OUTPUT_NAME,))
    calibration = None if calibration_BCHW is None else {next(iter(graph.inputs)): calibration_BCHW}
    return export_graph(graph, metadata=metadata, precision=precision, calibration=calibration)


def export_graph(
    graph: Graph,
    *,
    metadata: dict[str, str] | None = None,
    precision: str = "float32",
    calibration: dict[str, torch.Tensor] | None = None,
) -> Export:
    """The Export of a Graph: dynamic batch, BatchNorm folded where that is exact.

    Folded are the norms behind a convolution or a fully connected layer, and the neck's norm before its fully connected
    layer. The norm that opens an IR block stays: its shift would meet the zero padding of the convolution behind it.
    `metadata` goes into the file. precision: a row of PRECISIONS. calibration: samples of each input as the module will
    see them, by which int8 chooses its ranges and the proof is taken (random ones where there are none, which is enough
    to time a network, not to use it). RuntimeError when ONNX Runtime and PyTorch disagree; the float32 file is proven
    first, so that rounding cannot hide a wrong fold. NotFiniteError where the network's answer is not.
    """
    float32 = to_onnx(fold(graph.module), graph.inputs, outputs=graph.outputs, metadata=metadata)
    for name in dict.fromkeys(("float32", precision)):
        onnx_bytes = in_precision(float32, name, calibration=calibration)
        proof = compare(graph.module, onnx_bytes, graph.inputs, samples=calibration)
        if not np.isfinite(proof.max_abs_output):
            raise NotFiniteError(
                "the network answers with numbers that are not finite, as after a training that diverged"
            )
        reason = _disproof(proof, name)
        if reason and name == "float32" and proof.relative <= MOST_ROUNDING:
            own = own_rounding(graph.module, graph.inputs, samples=calibration)
            reason = None if proof.relative <= TIMES_OWN_ROUNDING * own else reason
        if reason:
            raise RuntimeError(reason)
    return Export(onnx_bytes, proof)


def _disproof(proof, precision):
    """Why ONNX Runtime and PyTorch do not give the same answer in this precision; None where they do."""
    if precision == "int8":
        if proof.min_cosine is not None and proof.min_cosine >= MIN_COSINE_INT8:
            return None
        return (
            f"in int8 the network answers in another direction: cosine {proof.min_cosine:.3g} to float32's answer, "
            f"at least "
            f"{MIN_COSINE_INT8} is rounding; a processor without VNNI may let eight-bit products saturate"
        )
    most = {"float32": MAX_RELATIVE_DIFFERENCE, "float16": MAX_RELATIVE_DIFFERENCE_FLOAT16}[precision]
    if proof.relative <= most:
        return None
    return (
        f"ONNX Runtime and PyTorch differ by {proof.max_abs_difference:.3g} where the largest output is "
        f"{proof.max_abs_output:.3g}; at most {most} of it is rounding"
    )


def in_precision(onnx_bytes: bytes, precision: str, *, calibration: dict | None = None) -> bytes:
    """A float32 ONNX file with its weights in a precision (a row of PRECISIONS); inputs and outputs stay float32.

    calibration: the samples of each input that int8 chooses its ranges by; random ones where there are none.
    """
    if precision == "float32":
        return onnx_bytes
    converted = PRECISIONS[precision](onnx.load_from_string(onnx_bytes), calibration)
    del converted.metadata_props[:]
    onnx.helper.set_model_props(converted, metadata_of(onnx_bytes))
    return converted.SerializeToString()


def _as_float16(model, calibration):
    onnx_runtime()
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quietly():  # it says of every weight that half precision cannot hold what becomes of it
        converted = convert_float_to_float16(model, keep_io_types=True)
    # It leaves the cast of an input behind the nodes that read it; ONNX wants nodes in the order in which they can run.
    inputs = {value.name for value in model.graph.input}
    casts = [node for node in converted.graph.node if inputs & set(node.input)]
    rest = [node for node in converted.graph.node if node not in casts]
    del converted.graph.node[:]
    converted.graph.node.extend([*casts, *rest])
    return converted


def _as_int8(model, calibration):
    """Convolutions and fully connected layers in eight bits, their ranges those of the calibration (static).

    Weights signed and per channel, activations unsigned: ONNX Runtime multiplies those fastest on a processor with
    VNNI. On one thread of a busy one, IR-SE-18 took 26.5 ms so, 36.8 with both signed, 44.0 in float32 (the fastest of
    60 interleaved runs). PReLU, norms and sums stay in float32: there is no eight-bit PReLU and norm, and eight-bit
    sums gained too little to tell (24.9).
    """
    onnx_runtime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    if calibration is None:
        rng, calibration = np.random.default_rng(CALIBRATION_SEED), {}
        for value in model.graph.input:
            shape = [CALIBRATION_IMAGES, *(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])]
            calibration[value.name] = rng.standard_normal(shape, dtype=np.float32)

    class Calibration(CalibrationDataReader):
        feeds = iter([{name: np.asarray(samples, np.float32) for name, samples in calibration.items()}])

        def get_next(self):
            return next(self.feeds, None)

    with tempfile.TemporaryDirectory(prefix="zennas-int8-") as folder, _quietly():
        path = pathlib.Path(folder) / "int8.onnx"
        quantize_static(
            model,
            path,
            Calibration(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm"],
        )
        return onnx.load(path)


# (onnx.ModelProto in float32, samples of each input or None) -> onnx.ModelProto
PRECISIONS = {"float32": lambda model, calibration: model, "float16": _as_float16, "int8": _as_int8}


@contextlib.contextmanager
def _quietly():
    """Without the converters' advice, which is addressed to who calls them by hand."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def fold(network: nn.Module) -> nn.Module:
    """A copy of the network in eval mode, as it is deployed, with every norm folded whose folding is exact.

    In a Sequential: a norm behind a convolution or a fully connected layer, and a norm that a flatten and a fully
    connected layer follow (no padding stands between).
    """
    folded = deployed(network)
    for module in folded.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.Sequential):
                setattr(module, name, nn.Sequential(*_fold_layers(list(child))))
    return nn.Sequential(*_fold_layers(list(folded))) if isinstance(folded, nn.Sequential) else folded


def _fold_layers(layers):
    folded = []
    for layer in layers:
        before = folded[-1] if folded else None
        if isinstance(layer, nn.BatchNorm2d) and isinstance(before, nn.Conv2d):
            folded[-1] = fusion.fuse_conv_bn_eval(before, layer)
        elif isinstance(layer, nn.BatchNorm1d) and isinstance(before, nn.Linear):
            folded[-1] = fusion.fuse_linear_bn_eval(before, layer)
        elif (
            isinstance(layer, nn.Linear)
            and isinstance(before, nn.Flatten)
            and isinstance(folded[-2:][0], nn.BatchNorm2d)
        ):
            folded[-2:] = [before, _fold_norm_into_next(folded[-2], layer)]
        else:
            folded.append(layer)
    return folded


def _fold_norm_into_next(norm, linear):
    """The fully connected layer that does what norm - flatten - linear do; computed in float64."""
    scale_C = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
    shift_C = norm.bias.double() - norm.running_mean.double() * scale_C
    positions = linear.in_features // norm.num_features
    weight_DK = linear.weight.double()
    with torch.no_grad():
        linear.bias.copy_(linear.bias.double() + weight_DK @ shift_C.repeat_interleave(positions))
        linear.weight.copy_(weight_DK * scale_C.repeat_interleave(positions))
    return linear


def to_onnx(
    module: nn.Module,
    inputs: dict[str, tuple[int, ...]],
    *,
    outputs: tuple[str, ...] = (OUTPUT_NAME,),
    metadata: dict[str, str] | None = None,
) -> bytes:
    """The bytes of a module as ONNX; inputs: the shape of one sample of each (without the batch), which is dynamic.

    The TorchScript exporter, though deprecated, because it writes operator set 13; the new one starts at 18, which ONNX
    Runtime 1.6 cannot read.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            tuple(torch.zeros(1, *shape) for shape in inputs.values()),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in (*inputs, *outputs)},
            export_params=False,
            do_constant_folding=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    _attach_weights(model.graph, module.state_dict(), inputs)
    model.ir_version = IR_VERSION
    if metadata:
        onnx.helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    return model.SerializeToString()


def _attach_weights(graph, weights, inputs):
    """Turn the graph's parameter inputs into initializers.

    Done here because the exporter takes ten times as long over it (measured on IR-SE [3,25,88,3]), and because it
    merges the equal weights of an untrained network behind hundreds of Identity nodes, which are undone here, and
    leaves the PReLU slopes to be unsqueezed at run time.
    """
    arrays = {
        value.name: weights[value.name].detach().cpu().numpy() for value in graph.input if value.name not in inputs
    }
    same = {name: name for name in arrays}
    constants = {node.output[0]: node.attribute[0].t for node in graph.node if node.op_type == "Constant"}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in same:
            same[node.output[0]] = same[node.input[0]]
        elif node.op_type == "Unsqueeze" and node.input[0] in same:
            axes = tuple(int(axis) for axis in numpy_helper.to_array(constants[node.input[1]]))
            arrays[node.output[0]] = np.expand_dims(arrays[same[node.input[0]]], axes)
        else:
            node.input[:] = [same.get(name, name) for name in node.input]
            kept.append(node)
    used = {name for node in kept for name in node.input}
    kept = [node for node in kept if node.op_type != "Constant" or node.output[0] in used]
    for field, values in (
        (graph.node, kept),
        (graph.input, [value for value in graph.input if value.name in inputs]),
        (graph.initializer, [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used]),
    ):
        del field[:]
        field.extend(values)


def compare(
    module: nn.Module, onnx_bytes: bytes, inputs: dict[str, tuple[int, ...]], *, samples: dict | None = None
) -> Proof:
    """The Proof for a module and its ONNX file, over batches of 1 and 3 samples of each input (random ones where there
    are none).
    """
    session, training = open_session(onnx_bytes), module.training
    module.eval()
    differences, largest, cosines = [], [], []
    for given in _batches(inputs, samples):
        with torch.no_grad():
            expected = module(*given.values())
        answers = session.run(None, {name: value.numpy() for name, value in given.items()})
        for answer, wanted in zip(answers, expected if isinstance(expected, tuple) else (expected,), strict=True):
            wanted = wanted.numpy()
            differences.append(np.abs(answer - wanted).max())
            largest.append(np.abs(wanted).max())
            lengths = np.linalg.norm(answer, axis=-1) * np.linalg.norm(wanted, axis=-1)
            cosines.append(((answer * wanted).sum(axis=-1) / np.maximum(lengths, 1e-30)).min())
    module.train(training)
    # numpy's maximum, not Python's: it lets a NaN through
    return Proof(
        max_abs_difference=float(np.max(differences)),
        max_abs_output=float(np.max(largest)),
        min_cosine=float(np.min(cosines)),
    )


def own_rounding(module: nn.Module, inputs: dict[str, tuple[int, ...]], *, samples: dict | None = None) -> float:
    """How far a module's answers to what `compare` asks are off those in double precision, of the largest of these."""
    module = copy.deepcopy(module).eval()
    differences, largest = [0.0], [1e-30]
    for given in _batches(inputs, samples):
        with torch.no_grad():
            answers = [module.float()(*given.values()), module.double()(*(value.double() for value in given.values()))]
        several = [answer if isinstance(answer, tuple) else (answer,) for answer in answers]
        for answer, wanted in zip(*several, strict=True):
            differences.append(float((answer - wanted).abs().max()))
            largest.append(float(wanted.abs().max()))
    return max(differences) / max(largest)


def _batches(inputs, samples):
    """What a proof is taken on: batches of 1 and 3 samples of each input."""
    generator = torch.Generator().manual_seed(1)
    for batch in (1, 3):
        if samples is None:
            yield {name: torch.randn(batch, *shape, generator=generator) for name, shape in inputs.items()}
        else:
            yield {name: torch.as_tensor(samples[name], dtype=torch.float32)[:batch] for name in inputs}


def open_session(
    onnx_source: bytes | str,
    *,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    threads: int = 0,
    flush_denormals: bool = True,
    provider_options: list[dict] | None = None,
) -> Any:
    """An ONNX Runtime session of bytes or of a path; threads 0: as many as the machine has."""
    onnxruntime = onnx_runtime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    source = onnx_source if isinstance(onnx_source, bytes) else text_path(onnx_source)
    return onnxruntime.InferenceSession(source, options, providers=list(providers), provider_options=provider_options)


def onnx_runtime() -> ModuleType:
    """The module onnxruntime, imported without its telemetry.

    ONNX Runtime 1.31 keeps an id of the machine in the user's home as soon as it is imported, so its own call,
    disable_telemetry_events, comes too late. The variable is its own; a value that the user gave it stays.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime

    return onnxruntime


def metadata_of(onnx_bytes: bytes) -> dict[str, str]:
    """The metadata a file was exported with, str -> str."""
    return {entry.key: entry.value for entry in onnx.load_from_string(onnx_bytes).metadata_props}


logging.getLogger("torch.onnx").setLevel(logging.ERROR)
