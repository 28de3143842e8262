"""Where a network runs while it is timed. One row of BACKENDS is all that a new backend takes.

Each row is a Backend. It opens the bytes or the path (str) of an ONNX file, or a network where it times those, with
what it is to see ({name of an input: one batch}; None: what the protocol names), as a function that returns only when
the work is done. It raises UserError, saying what is installed and what to install, where its device or library is
missing.
"""

import copy
import dataclasses
import importlib.metadata
import os
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import onnx
import torch

from zennas.export.onnx_file import INPUT_NAME, in_precision, onnx_runtime, open_session, to_onnx
from zennas.latency.inputs import sample
from zennas.records import UserError
from zennas.track import Protocol, lookup

Seen = dict[str, np.ndarray] | None


def onnxruntime_cpu(model: Any, protocol: Protocol, seen: Seen = None) -> Callable[[], Any]:
    """ONNX Runtime on protocol.threads threads of the processor."""
    session = open_session(model, threads=protocol.threads, flush_denormals=protocol.flush_denormals)
    feed = _feed(session, protocol, seen)
    return lambda: session.run(None, feed)


def onnxruntime_cuda(model: Any, protocol: Protocol, seen: Seen = None) -> Callable[[], Any]:
    """ONNX Runtime on the first NVIDIA GPU."""
    return _onnxruntime_gpu(model, protocol, seen, "CUDAExecutionProvider")


def onnxruntime_tensorrt(model: Any, protocol: Protocol, seen: Seen = None) -> Callable[[], Any]:
    """ONNX Runtime through TensorRT on the first NVIDIA GPU; the engine is built before the clock starts."""
    return _onnxruntime_gpu(model, protocol, seen, "TensorrtExecutionProvider", "CUDAExecutionProvider")


def torch_cuda(model: Any, protocol: Protocol, seen: Seen = None) -> Callable[[], Any]:
    """PyTorch, eager, channels-last, on the first NVIDIA GPU. Takes a network that knows its inputs (`inputs_of`)."""
    if not isinstance(model, torch.nn.Module):
        raise UserError("backend 'torch-cuda' times a torch network, not an ONNX file; use an onnxruntime backend")
    _require_cuda("torch-cuda")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 is the rule
    network = model.eval().to("cuda", memory_format=torch.channels_last)
    inputs = {name: (protocol.batch, *shape) for name, shape in inputs_of(model).items()}
    samples = [torch.from_numpy(_given(name, shape, protocol, seen)) for name, shape in inputs.items()]
    if protocol.precision == "float16":
        network, samples = copy.deepcopy(network).half(), [sample.half() for sample in samples]

    def to_device():
        return [sample.to("cuda", memory_format=torch.channels_last) for sample in samples]

    on_device = to_device()

    def run_once():
        with torch.inference_mode():
            if protocol.io == "host":
                answer = network(*to_device())
                for output in answer if isinstance(answer, tuple) else (answer,):
                    output.cpu()
            else:
                network(*on_device)
            torch.cuda.synchronize()

    return run_once


@dataclasses.dataclass(frozen=True)
class Backend:
    """Where a network runs while it is timed."""

    # (what `as_timed` makes of a model, protocol, what it sees or None) -> run_once(), which returns only when the work
    # is done.
    open: Callable[[Any, Any, Any], Callable[[], Any]]
    device: Literal["cpu", "cuda"]
    libraries: tuple[str, ...]  # whose version a latency does not outlive: the first of these that is installed
    precisions: tuple[str, ...]  # what networks are converted to for it
    takes_network: bool = False  # times torch networks; all others time ONNX files
    provider: str | None = None  # of ONNX Runtime, which must offer it


ORT_LIBRARIES = ("onnxruntime-gpu", "onnxruntime")
# On a processor ONNX Runtime computes half precision in float32 (IR-SE-50 takes as long in both), so it only halves the
# file. The eight-bit files that export.py writes have unsigned activations, which nobody has tried on a GPU.
BACKENDS = {
    "onnxruntime-cpu": Backend(onnxruntime_cpu, "cpu", ORT_LIBRARIES, ("float32", "float16", "int8")),
    "onnxruntime-cuda": Backend(
        onnxruntime_cuda, "cuda", ORT_LIBRARIES, ("float32", "float16"), provider="CUDAExecutionProvider"
    ),
    "onnxruntime-tensorrt": Backend(
        onnxruntime_tensorrt, "cuda", ORT_LIBRARIES, ("float32", "float16"), provider="TensorrtExecutionProvider"
    ),
    "torch-cuda": Backend(torch_cuda, "cuda", ("torch",), ("float32", "float16"), takes_network=True),
}


def backend_of(name: str) -> Backend:
    """The row of BACKENDS; UserError names those there are."""
    return lookup(BACKENDS, name, "backend")


def open_backend(model: Any, protocol: Protocol, seen: Seen = None) -> Callable[[], Any]:
    """run_once for this model under this protocol; `seen` ({name: one batch}) replaces the input that the protocol
    names.
    """
    return backend_of(protocol.backend).open(as_timed(model, protocol), protocol, seen)


def check_precision(protocol: Protocol) -> None:
    """UserError where a protocol's backend is not one that networks are converted to its precision for."""
    able = backend_of(protocol.backend).precisions
    if protocol.precision not in able:
        suitable = [name for name, backend in BACKENDS.items() if protocol.precision in backend.precisions]
        raise UserError(
            f"backend '{protocol.backend}' times networks in {', '.join(able)}, and the rule asks for "
            f"{protocol.precision}, which is for: {', '.join(suitable)}"
        )


def device_of(name: str) -> str:
    """'cpu' or 'cuda'."""
    return backend_of(name).device


def takes_network(name: str) -> bool:
    """Whether this backend times torch networks; all others time ONNX files."""
    return backend_of(name).takes_network


def library_version(name: str, installed: dict[str, str]) -> str:
    """The version, among those installed, of the library that a backend runs on; "" where it is not there."""
    return next((installed[library] for library in backend_of(name).libraries if library in installed), "")


def missing(name: str) -> str | None:
    """Why this backend cannot run here, what is installed and what to install; None if it can."""
    backend = backend_of(name)
    if backend.device == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"backend '{name}' needs an NVIDIA GPU and its driver; torch {torch.__version__} finds none here"
    if backend.provider is not None:
        ort = onnx_runtime()
        if backend.provider not in ort.get_available_providers():
            return (
                f"backend '{name}' needs the {backend.provider} of ONNX Runtime; installed: {_installed()}, which "
                f"offers {', '.join(ort.get_available_providers())}; install it with: "
                "pip install --force-reinstall --no-deps onnxruntime-gpu"
            )
    return None


def fix_input_px(onnx_bytes: bytes, px: int) -> bytes:
    """The ONNX file with a symbolic height and width of its input set to px (a detector that takes any size)."""
    model = onnx.load_from_string(onnx_bytes)
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        if not dim.HasField("dim_value") or dim.dim_value <= 0:
            dim.dim_value = px
    return model.SerializeToString()


def _require_cuda(backend):
    if reason := missing(backend):
        raise UserError(reason)


def _installed():
    packages = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            packages.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(packages) or "no ONNX Runtime"


def _onnxruntime_gpu(model, protocol, seen, *providers):
    # torch is imported first on purpose: it brings the CUDA libraries that onnxruntime-gpu then finds.
    _require_cuda(protocol.backend)
    # fp32 is the rule, and the V100 of the tracks knows no TF32, which newer GPUs use for it unless told not to.
    os.environ["NVIDIA_TF32_OVERRIDE"] = "0"  # TensorRT's way of being told
    options = [{"use_tf32": "0"} if name == "CUDAExecutionProvider" else {} for name in providers]
    if protocol.precision == "float16" and "TensorrtExecutionProvider" in providers:
        options[providers.index("TensorrtExecutionProvider")] = {"trt_fp16_enable": "1"}  # else it computes in float32
    session = open_session(
        model,
        providers=[*providers, "CPUExecutionProvider"],
        provider_options=[*options, {}],
        threads=protocol.threads,
        flush_denormals=protocol.flush_denormals,
    )
    # ONNX Runtime falls back to the processor without an exception: only the session itself says what it runs on.
    if session.get_providers()[0] != providers[0]:
        raise UserError(
            f"backend '{protocol.backend}': {_installed()} could not start the {providers[0]} and fell back to "
            f"{session.get_providers()[0]}; it needs the CUDA and cuDNN libraries that its release names"
        )
    feed = _feed(session, protocol, seen)
    session.run(None, feed)  # TensorRT builds its engine, cuDNN chooses its algorithms: set-up, not inference
    if protocol.io == "host":
        return lambda: session.run(None, feed)
    ort = onnx_runtime()
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array, "cuda", 0))
    for output in session.get_outputs():
        binding.bind_output(output.name, "cuda", 0)

    def run_once():
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return run_once


def as_timed(model: Any, protocol: Protocol) -> Any:
    """What a backend opens of a model: the file (bytes or path) as it is, a network exported in the protocol's
    precision, or as it is where the backend times networks.
    """
    if not isinstance(model, torch.nn.Module):
        return model
    check_precision(protocol)
    if takes_network(protocol.backend):
        return model
    return in_precision(to_onnx(model, inputs_of(model)), protocol.precision)


def inputs_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    """The shape of one sample of each input of a network: what its `inputs` say, or one image of its `input_shape`."""
    return getattr(module, "inputs", None) or {INPUT_NAME: module.input_shape}


def _feed(session, protocol, seen):
    """One batch of each of the session's inputs; a symbolic first axis becomes protocol.batch."""
    feed = {}
    for value in session.get_inputs():
        shape = [protocol.batch, *value.shape[1:]] if not isinstance(value.shape[0], int) else list(value.shape)
        if shape[0] != protocol.batch:
            raise UserError(
                f"the ONNX file's input '{value.name}' has a fixed batch of {shape[0]}; the rule measures "
                f"{protocol.batch}"
            )
        if any(not isinstance(size, int) for size in shape):
            raise UserError(
                f"the ONNX file's input '{value.name}' has the symbolic shape {value.shape}: only the batch may be "
                f"symbolic"
            )
        feed[value.name] = _given(value.name, shape, protocol, seen)
        if value.type == "tensor(float16)":
            feed[value.name] = feed[value.name].astype(np.float16)
    return feed


def _given(name, shape, protocol, seen):
    """What one input is given, float32 of `shape`: of `seen`, or of the protocol's input."""
    if seen is None:
        return sample(protocol.input, shape)
    batch = seen[name]
    return np.ascontiguousarray(batch[np.arange(shape[0]) % len(batch)])
