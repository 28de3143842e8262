"""network -> ONNX that old runtimes and the challenge's checker accept, and the proof that both answer alike."""

import copy
import io
import logging
import warnings
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn.utils import fusion

from zennas.checker import BROKEN, IR_VERSION, NOTED, OPSET, file_rules
from zennas.records import Record

# Measured on IR-SE-100 the difference is 1e-6 of the largest output; a wrong fold or a lost layer shows at 1e-2 and more.
MAX_RELATIVE_DIFFERENCE = 1e-4
INPUT_NAME, OUTPUT_NAME = "image", "embedding"


class Proof(Record):
    """How far ONNX Runtime's answer is from PyTorch's, on the same random images (one alone and a batch of 3)."""

    max_abs_difference: float
    max_abs_output: float

    @property
    def relative(self):
        return self.max_abs_difference / max(self.max_abs_output, 1e-30)


class Export(NamedTuple):
    """An ONNX file in memory, with its proof."""

    onnx_bytes: bytes
    proof: Proof

    @property
    def megabytes(self):
        """In MB of 2^20 bytes, as the challenge's checker counts."""
        return len(self.onnx_bytes) / 2**20


def export(network, *, image_px=112, metadata=None):
    """The Export of a network B3HW -> BD: fp32, dynamic batch, one output, BatchNorm folded where that is exact.

    Folded are the norms behind a convolution or a fully connected layer, and the neck's norm before its fully connected
    layer. The norm that opens an IR block stays: its shift would meet the zero padding of the convolution behind it.
    `metadata` (str -> str) goes into the file. RuntimeError when ONNX Runtime and PyTorch disagree, or when the checker's
    rules are broken.
    """
    folded = fold(network)
    onnx_bytes = to_onnx(folded, (3, image_px, image_px), metadata=metadata)
    if problems := checker_problems(onnx_bytes):
        raise RuntimeError(f"the exported file breaks the challenge's rules: {'; '.join(problems)}")
    proof = compare(network, onnx_bytes, (3, image_px, image_px))
    if not proof.relative <= MAX_RELATIVE_DIFFERENCE:
        raise RuntimeError(
            f"ONNX Runtime and PyTorch differ by {proof.max_abs_difference:.3g} where the largest output is "
            f"{proof.max_abs_output:.3g}; at most {MAX_RELATIVE_DIFFERENCE} of it is rounding"
        )
    return Export(onnx_bytes, proof)


def fold(network):
    """A copy of the network in eval mode, with every norm folded whose folding is exact.

    In a Sequential: a norm behind a convolution or a fully connected layer, and a norm that a flatten and a fully connected
    layer follow (no padding stands between).
    """
    folded = copy.deepcopy(network).eval()
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


def to_onnx(module, input_shape, *, metadata=None):
    """The bytes of a module as ONNX; input_shape is one image's (without the batch), the batch is dynamic.

    The TorchScript exporter, though deprecated, because it writes operator set 13; the new one starts at 18, which ONNX
    Runtime 1.6 cannot read.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(1, *input_shape),),
            buffer,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: "batch"}, OUTPUT_NAME: {0: "batch"}},
            export_params=False,
            do_constant_folding=False,
        )
    model = onnx.load_from_string(buffer.getvalue())
    _attach_weights(model.graph, module.state_dict())
    model.ir_version = IR_VERSION
    if metadata:
        onnx.helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
    return model.SerializeToString()


def _attach_weights(graph, weights):
    """Turn the graph's parameter inputs into initializers.

    Done here because the exporter takes ten times as long over it (measured on IR-SE [3,25,88,3]), and because it merges
    the equal weights of an untrained network behind hundreds of Identity nodes, which are undone here, and leaves the
    PReLU slopes to be unsqueezed at run time.
    """
    arrays = {
        value.name: weights[value.name].detach().cpu().numpy() for value in graph.input if value.name != INPUT_NAME
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
        (graph.input, [value for value in graph.input if value.name == INPUT_NAME]),
        (graph.initializer, [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used]),
    ):
        del field[:]
        field.extend(values)


def checker_problems(onnx_bytes, *, min_nodes=8, max_mb=None, max_embedding_size=None):
    """What must not be in a file of ours, each in words; empty if nothing.

    That is what the challenge's checker refuses, and what checker.file_rules merely notes: a fixed batch, which the checker
    rewrites, and sizes that only a run tells.
    """
    rules = file_rules(
        onnx_bytes, min_nodes=min_nodes, max_mb=max_mb, max_embedding_size=max_embedding_size, normalise="insightface"
    )
    return [rule.said for rule in rules if rule.verdict in (BROKEN, NOTED)]


def compare(network, onnx_bytes, input_shape):
    """The Proof for a network and its ONNX file, over batches of 1 and 3 random images."""
    session, training = open_session(onnx_bytes), network.training
    network.eval()
    generator = torch.Generator().manual_seed(1)
    differences, outputs = [], []
    for batch in (1, 3):
        image_BCHW = torch.randn(batch, *input_shape, generator=generator)
        with torch.no_grad():
            expected = network(image_BCHW).numpy()
        (answer,) = session.run(None, {session.get_inputs()[0].name: image_BCHW.numpy()})
        differences.append(np.abs(answer - expected).max())
        outputs.append(np.abs(expected).max())
    network.train(training)
    # numpy's maximum, not Python's: it lets a NaN through
    return Proof(max_abs_difference=float(np.max(differences)), max_abs_output=float(np.max(outputs)))


def open_session(
    onnx_source, *, providers=("CPUExecutionProvider",), threads=0, flush_denormals=True, provider_options=None
):
    """An ONNX Runtime session of bytes or of a path; threads 0: as many as the machine has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if flush_denormals:
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    return onnxruntime.InferenceSession(
        onnx_source, options, providers=list(providers), provider_options=provider_options
    )


def metadata_of(onnx_bytes):
    """The metadata a file was exported with, str -> str."""
    return {entry.key: entry.value for entry in onnx.load_from_string(onnx_bytes).metadata_props}


def weights_of(onnx_bytes):
    """Initializer name -> array."""
    return {
        tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(onnx_bytes).graph.initializer
    }


logging.getLogger("torch.onnx").setLevel(logging.ERROR)
