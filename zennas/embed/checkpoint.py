"""network.pt, the form in which a trained network of ours is kept: candidate, sizes, weights, and nothing that runs."""

import io
import os
import pathlib

import torch

from zennas.records import UserError
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.space.families.family import BuiltNetwork
from zennas.space.network import on_meta
from zennas.space.shape import Shape, height_and_width

NETWORK = "network.pt"
ACCEPTED = (
    f"a zennas checkpoint ({NETWORK} or the folder that holds it), an ONNX file, a torch.export program (.pt2) "
    "or a TorchScript file"
)


def save_network(path: pathlib.Path | str, network: BuiltNetwork) -> None:
    """Write the candidate, the sizes and the weights of a network of ours to a file, whole or not at all."""
    buffer = io.BytesIO()
    content = {
        "candidate": network.candidate.plain(),
        **network.shape.plain(),
        "weights": {name: weight.detach().cpu().clone() for name, weight in network.state_dict().items()},
    }
    torch.save(content, buffer)
    write_atomically(path, buffer.getvalue())


def load_network(path: pathlib.Path | str) -> BuiltNetwork:
    """The network that `save_network` wrote, in float32, on the processor, in eval mode.

    `path`: the file, or the folder of network.pt. Only tensors and plain values are read: a file from a stranger runs
    nothing. UserError where it is something else, damaged, or its weights are not those of its candidate.
    """
    path = file_of(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # noqa: BLE001 - bytes that are no checkpoint make the unpickler raise whatever they like
        raise UserError(
            f"{path}: not a network of zennas ({type(error).__name__}); a checkpoint is read without running "
            f"anything in it: "
            "export a network of another origin to ONNX"
        ) from None
    keys = ("candidate", "image_px", "embedding_size", "weights")
    if (
        not isinstance(content, dict)
        or set(content) - {"channels"} != set(keys)
        or not isinstance(content["weights"], dict)
    ):
        raise UserError(f"{path}: not a network of zennas; one holds {', '.join(keys)}")
    candidate, weights = Candidate.parse(content["candidate"], path), content["weights"]
    shape = _shape(content, path)
    if candidate.num_blocks > len(weights):  # before a hostile depth is built
        raise UserError(f"{path}: {len(weights)} weights cannot be those of {candidate.num_blocks} blocks")
    try:
        network = on_meta(candidate, shape)
        network.load_state_dict(weights, assign=True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{path}: its weights are not those of {candidate.text}: {reason}") from None
    if any(weight.layout != torch.strided or weight.is_complex() for weight in network.state_dict().values()):
        raise UserError(f"{path}: weights that are sparse or complex; allowed: dense numbers")
    return network.float().eval()


def _shape(content, path):
    """The Shape in what a network.pt holds. UserError where a size is none."""
    px = content["image_px"]
    several = isinstance(px, list) and len(px) == 2
    sizes = {"channels": content.get("channels", 3), "embedding_size": content["embedding_size"]}
    for key, size in [("image_px", side) for side in (px if several else [px])] + list(sizes.items()):
        if type(size) is not int or size < 1:
            raise UserError(f"{path}: {key}: given {size!r}, allowed: an integer of at least 1")
    height, width = height_and_width(px)
    return Shape(height=height, width=width, **sizes)


def file_of(path: pathlib.Path | str) -> pathlib.Path:
    """The file of a network that a path stands for: itself, or network.pt in a folder. UserError without one."""
    path = pathlib.Path(path)
    path = path / NETWORK if os.path.isdir(path) else path
    if not os.path.isfile(path):  # unlike pathlib's, no error for a name that is too long
        raise UserError(f"{path}: no such file; allowed: {ACCEPTED}")
    return path
