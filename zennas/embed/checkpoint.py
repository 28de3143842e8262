"""A trained network in a file of torch's: network.pt, our own form (candidate, sizes, weights), or the weights of
another project (namings.py). Nothing in it is run.
"""

import io
import os
import pathlib
import re
import warnings
import zipfile
from typing import NamedTuple

import torch
from torch import nn

from zennas.embed.namings import COUNT, NAMINGS, Backbone, backbones_in, network_of
from zennas.names import text_path
from zennas.records import UserError, shortened, some
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.space.families.family import BuiltNetwork
from zennas.space.network import on_meta
from zennas.space.shape import Shape, height_and_width

NETWORK = "network.pt"
KNOWN_WEIGHTS = ", ".join(naming.title for naming in NAMINGS)
ACCEPTED = (
    f"a zennas checkpoint ({NETWORK} or the folder that holds it), weights (.pth) of {KNOWN_WEIGHTS}, an ONNX file, "
    "a torch.export program (.pt2) or a TorchScript file"
)
KEYS = ("candidate", "image_px", "embedding_size", "weights")  # of a checkpoint of ours; `channels` where not 3
OTHERWISE = "export a network of another origin to ONNX"


class Checkpoint(NamedTuple):
    """What a file of torch's holds."""

    network: BuiltNetwork  # in float32, on the processor, in eval mode
    backbone: Backbone | None  # how another project has its weights; None for a checkpoint of ours


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
    """The network of a Checkpoint, as `read_checkpoint` reads it."""
    return read_checkpoint(path).network


def read_checkpoint(path: pathlib.Path | str) -> Checkpoint:
    """The Checkpoint that `save_network` wrote, or that holds the weights of a network of NAMINGS: a state dict, or a
    training's whole checkpoint with one inside, with or without a prefix such as `module.`.

    `path`: the file, or the folder of network.pt. Only tensors and plain values are read: a file from a stranger runs
    nothing. UserError where it is something else, damaged, or its weights are not those of one candidate.
    """
    path = file_of(path)
    content = _read(path)
    if _is_ours(content):
        network, backbone = _ours(content, path), None
    else:
        backbone = _backbone(content, path)
        try:
            _check(backbone.weights, path)
            network = network_of(backbone)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    # In memory of its own: the file is only mapped, and may change while the network is used.
    network.load_state_dict({name: weight.clone() for name, weight in network.state_dict().items()}, assign=True)
    return Checkpoint(network.float().eval(), backbone)


def is_of_zennas(path: pathlib.Path | str) -> bool:
    """Whether `save_network` wrote a file of torch's, by its keys: no network is built. UserError as `read_checkpoint`,
    where it is not read at all."""
    return _is_ours(_read(path))


def _is_ours(content):
    return isinstance(content, dict) and {"candidate", "weights"} <= set(content)


def _read(path):
    """What a file of torch's holds: tensors, memory-mapped where that can be, and plain values."""
    try:
        with open(path, "rb") as file:
            mapped = file.read(2) == b"PK"  # torch's own archive; what torch wrote before 1.6 cannot be mapped
        if mapped:
            _check_archive(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice to whoever wrote the file
            return torch.load(text_path(path), map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:  # noqa: BLE001 - bytes that are no checkpoint make the unpickler raise whatever they like
        refused = re.search(r"GLOBAL ([\w.]+)", str(error))
        why = f"it holds {refused[1]}, which is code" if refused else f"damaged, or of another kind: {_name(error)}"
        otherwise = (
            "save its weights alone, where it was made: torch.save(network.state_dict(), FILE)"
            if refused
            else OTHERWISE
        )
        raise UserError(
            f"{path}: not a network of zennas ({why}); a checkpoint is read without running anything in it: {otherwise}"
        ) from None


def _check_archive(path):
    """ValueError for an archive that torch did not write: a small one may unpack to more than there is memory."""
    with zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("its members are compressed, which torch leaves out")


def _name(error):
    return str(error) if type(error) is ValueError else type(error).__name__


def _backbone(content, path):
    """The one Backbone in what a file holds; UserError without one, or with several."""
    backbones = backbones_in(content)
    if len(backbones) == 1:
        return backbones[0]
    if backbones:
        places = some([backbone.place or "no prefix" for backbone in backbones])
        raise UserError(
            f"{path}: holds the weights of {len(backbones)} networks ({places}); save the one that is meant alone: "
            "torch.save(network.state_dict(), FILE)"
        )
    keys = [str(key) for key in content] if isinstance(content, dict) else []
    holds = f"{len(keys):,} keys ({some(keys)})" if keys else f"none of them ({type(content).__name__})"
    raise UserError(
        f"{path}: not a network of zennas; one holds {', '.join(KEYS)}, this file {holds}; known, too: weights of "
        f"{KNOWN_WEIGHTS}; {OTHERWISE}"
    )


def _check(weights, path):
    """UserError where a weight is no dense floating-point number, or all of them claim more than the file holds: one
    number may be claimed to be a million."""
    for name, weight in weights.items():
        dense = type(weight) in (torch.Tensor, nn.Parameter) and weight.layout == torch.strided
        if not dense or weight.is_complex() or weight.is_quantized or weight.device.type != "cpu":
            raise UserError(f"{name}: sparse, complex, quantised, or no numbers at all; allowed: dense numbers")
        if not (weight.is_floating_point() or name.endswith(COUNT)):
            raise UserError(f"{name}: numbers of {weight.dtype}; allowed: floating point")
    claimed, held = sum(weight.numel() * weight.element_size() for weight in weights.values()), os.path.getsize(path)
    if claimed > held:
        raise UserError(f"its weights claim {claimed:,} bytes, and the file holds {held:,}")


def _ours(content, path):
    """The network in what `save_network` wrote."""
    if set(content) - {"channels"} != set(KEYS) or not isinstance(content["weights"], dict):
        raise UserError(f"{path}: not a network of zennas; one holds {', '.join(KEYS)}")
    candidate, weights = Candidate.parse(content["candidate"], path), content["weights"]
    shape = _shape(content, path)
    if candidate.num_blocks > len(weights):  # before a hostile depth is built
        raise UserError(f"{path}: {len(weights)} weights cannot be those of {candidate.num_blocks} blocks")
    try:
        _check(weights, path)
        network = on_meta(candidate, shape)
        network.load_state_dict(weights, assign=True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except (RuntimeError, AttributeError, TypeError) as error:
        reason = shortened(" ".join(str(error).split()))
        raise UserError(f"{path}: its weights are not those of {candidate.text}: {reason}") from None
    return network


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


def holds_network(path: pathlib.Path | str) -> bool:
    """Whether a path is a file, or the folder of a network.pt."""
    return os.path.isfile(path) or os.path.isfile(os.path.join(path, NETWORK))


def file_of(path: pathlib.Path | str) -> pathlib.Path:
    """The file of a network that a path stands for: itself, or network.pt in a folder. UserError without one."""
    path = pathlib.Path(path)
    path = path / NETWORK if os.path.isdir(path) else path
    if not os.path.isfile(path):  # unlike pathlib's, no error for a name that is too long
        raise UserError(f"{path}: no such file; allowed: {ACCEPTED}")
    return path
