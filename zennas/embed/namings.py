"""The weights of other projects' trainings -> networks of ours. One row of NAMINGS is all that a new naming takes.

Such a file names its weights and says nothing of the network. The candidate is read from names and shapes; then every
weight must be one of that candidate's, none may be missing, and none may be left over.
"""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from zennas.records import UserError, some
from zennas.space.candidate import Candidate
from zennas.space.families.chain import halving
from zennas.space.families.family import BuiltNetwork
from zennas.space.network import on_meta
from zennas.space.shape import Shape

State = Mapping[str, torch.Tensor]
MAX_DEPTH = 4  # mappings inside one another, in which weights are looked for
# What a file may lack: a count that no network needs, and a last norm that learns no scale (TFace).
COUNT, LEARNED_LAST = "num_batches_tracked", {"neck.3.weight": 1.0, "neck.3.bias": 0.0}


class Naming(NamedTuple):
    """How a project calls the weights of its networks."""

    title: str
    mark: re.Pattern  # a weight that only such networks have; its group `before` is the prefix of all names
    candidate: Callable[[State], Candidate]  # KeyError for a weight that tells the candidate and is not there
    renamed: Callable[[Candidate, State], dict[str, str]]  # what its stem, its blocks and its neck are called there


class Backbone(NamedTuple):
    """The weights of one network in a file, by their names without prefix."""

    naming: Naming
    place: str  # where it lies in the file, its prefix last; empty: the file is nothing else
    weights: State
    left_aside: tuple[str, ...]  # what else the file holds


def backbones_in(content: Any) -> list[Backbone]:
    """Every Backbone in what a file holds: a mapping of weights, or of mappings that hold one somewhere."""
    backbones = []
    for place, state, beside in _states(content):
        names = [name for name, value in state.items() if isinstance(name, str) and isinstance(value, torch.Tensor)]
        for naming in NAMINGS:
            for before in sorted({match["before"] for name in names if (match := naming.mark.fullmatch(name))}):
                own = {name.removeprefix(before): state[name] for name in names if name.startswith(before)}
                left = tuple(str(key) for key in state if key not in names or not key.startswith(before))
                where = ".".join(filter(None, [*place, before.removesuffix(".")]))
                backbones.append(Backbone(naming, where, own, beside + left))
    return backbones


def _states(content):
    """(keys that lead to it, mapping, names of what lies beside it) of every mapping in a file that holds tensors."""
    todo, seen = [((), content, ())], set()
    while todo:
        place, mapping, beside = todo.pop()
        # A file may hold one mapping in many places, even inside itself.
        if not isinstance(mapping, Mapping) or id(mapping) in seen or len(place) > MAX_DEPTH:
            continue
        seen.add(id(mapping))
        if any(isinstance(value, torch.Tensor) for value in mapping.values()):
            yield place, mapping, beside
        keys = [key for key, value in mapping.items() if isinstance(value, Mapping)]
        for key in keys:
            siblings = tuple(str(name) for name in mapping if name != key)
            todo.append(((*place, str(key)), mapping[key], beside + siblings))


def network_of(backbone: Backbone) -> BuiltNetwork:
    """The network of ours with the weights of a Backbone, each in the type that it has there.

    UserError where its weights are not those of one candidate: what is missing, not known or of another shape is
    counted and named.
    """
    title, weights = backbone.naming.title, backbone.weights
    try:
        candidate = backbone.naming.candidate(weights)
        _check_count(candidate.num_blocks, weights, "blocks")
        renamed = backbone.naming.renamed(candidate, weights)
        shape = _shape(candidate, weights[renamed["stem.0"] + ".weight"], weights[renamed["neck.2"] + ".weight"])
    except KeyError as error:
        raise UserError(f"named as {title}, but there is no {error.args[0]}") from None
    network = on_meta(candidate, shape)
    wanted = network.state_dict()
    theirs = {name: _their_name(name, renamed) for name in wanted}
    taken = {name: weights[theirs[name]] for name in wanted if theirs[name] in weights}
    missing = [theirs[name] for name in wanted if name not in taken and not _may_lack(name)]
    unknown = sorted(set(weights) - set(theirs.values()))
    misfits = [
        f"{theirs[name]} ({_sizes(weight)}, not {_sizes(wanted[name])})"
        for name, weight in taken.items()
        if weight.shape != wanted[name].shape
    ]
    kinds = {"missing": missing, "not known": unknown, "of another shape": misfits}
    if wrong := [f"{len(names):,} {kind} ({some(names)})" for kind, names in kinds.items() if names]:
        raise UserError(f"weights of {title}, but not those of {candidate.text}: {'; '.join(wrong)}")
    network.load_state_dict(
        {name: taken[name] if name in taken else _absent(name, wanted[name]) for name in wanted}, assign=True
    )
    return network


def _check_count(num, weights, what):
    """UserError where a hostile number of parts is claimed, before they are built."""
    if num > len(weights):
        raise UserError(f"{len(weights)} weights cannot be those of {num} {what}")


def _width(weights, name):
    """The channels of a norm there. KeyError without it."""
    if weights[name].ndim != 1 or not len(weights[name]):
        raise UserError(f"{name}: {_sizes(weights[name])} numbers; a norm has one a channel")
    return len(weights[name])


def _their_name(name, renamed):
    """The name there of a weight of ours; `renamed` has that of its module."""
    module, _, weight = name.rpartition(".")
    return f"{renamed[module]}.{weight}"


def _may_lack(name):
    return name.endswith(COUNT) or name in LEARNED_LAST


def _absent(name, wanted):
    return torch.full(wanted.shape, LEARNED_LAST.get(name, 0), dtype=wanted.dtype)


def _sizes(weight):
    return " x ".join(map(str, weight.shape)) or "a number"


def _shape(candidate, first, last):
    """The Shape that a network was trained for, by its first convolution and by the fully connected layer of its flat
    neck; its images are square."""
    if first.ndim != 4 or last.ndim != 2:
        raise UserError("its first convolution or its fully connected layer has another number of sides")
    if first.shape[1] not in (1, 3):
        raise UserError(f"takes images of {first.shape[1]} channels; allowed: 3 (RGB), or 1 (grey)")
    positions, remainder = divmod(last.shape[1], candidate.widths[-1])
    side = math.isqrt(positions)
    if remainder or not positions or side * side != positions:
        raise UserError(
            f"its fully connected layer reads {last.shape[1]} numbers, which are no square maps of "
            f"{candidate.widths[-1]} channels; export it to ONNX"
        )
    px = side * math.prod(halving(len(candidate.widths)))
    return Shape(channels=first.shape[1], height=px, width=px, embedding_size=last.shape[0])


# --- IResNet: insightface's arcface_torch (backbones/iresnet.py), and partial_fc before it


IRESNET_STAGE = re.compile(r"layer(\d{1,6})\.(\d{1,6})\..+")
IRESNET_LAYERS = ("bn1", "conv1", "bn2", "prelu", "conv2", "bn3")


def iresnet_candidate(weights: State) -> Candidate:
    """The candidate of layer1, layer2 and so on, which are its stages."""
    depths: dict[int, int] = {}
    for name in weights:
        if match := IRESNET_STAGE.fullmatch(name):
            stage, block = map(int, match.groups())
            depths[stage] = max(depths.get(stage, 0), block + 1)
    _check_count(max(depths), weights, "stages")
    stages = range(1, max(depths) + 1)
    widths = tuple(_width(weights, f"layer{stage}.0.bn3.weight") for stage in stages)
    depths_of = tuple(depths[stage] for stage in stages)
    _check_count(sum(depths_of), weights, "blocks")
    return Candidate(block="ir", stem=_width(weights, "bn1.weight"), widths=widths, depths=depths_of)


def iresnet_names(candidate: Candidate, weights: State) -> dict[str, str]:
    """What the modules of an IResNet are called there."""
    names = {"stem.0": "conv1", "stem.1": "bn1", "stem.2": "prelu", "neck.0": "bn2", "neck.2": "fc"}
    names["neck.3"] = "features"
    places = ((s, b) for s, depth in enumerate(candidate.depths, start=1) for b in range(depth))
    for number, (stage, block) in enumerate(places):
        ours, theirs = f"blocks.{number}", f"layer{stage}.{block}"
        names |= {f"{ours}.residual.{at}": f"{theirs}.{layer}" for at, layer in enumerate(IRESNET_LAYERS)}
        names |= {f"{ours}.shortcut.{at}": f"{theirs}.downsample.{at}" for at in range(2)}
    return names


# --- IR and IR-SE: face.evoLVe and TFace (model_irse.py), and what grew out of them


IR_BLOCK = re.compile(r"body\.(\d{1,6})\..+")
# number of layers of the residual branch -> row of BLOCKS, and the one with squeeze-excitation
IR_ROWS = {
    5: ("ir_evolve", "ir_se_evolve"),
    6: ("ir_tface", "ir_se_tface"),
    9: ("bottleneck_tface", "bottleneck_se_tface"),
}


def ir_layers(weights: State) -> int:
    """How many layers the residual branch of the first block has, squeeze-excitation not counted.

    face.evoLVe has no norm behind the first convolution: PReLU stands third, and its one weight a channel is no norm.
    """
    if "body.0.res_layer.2.running_mean" not in weights:
        return 5
    return 9 if "body.0.res_layer.8.weight" in weights else 6


def ir_squeeze(weights: State) -> str | None:
    """What squeeze-excitation is called inside the residual branch: a number, or a name (TFace); None without."""
    pattern = re.compile(r"body\.0\.res_layer\.(\w+)\.fc1\.weight")
    return next((match[1] for name in weights if (match := pattern.fullmatch(name))), None)


def ir_candidate(weights: State) -> Candidate:
    """The candidate of the blocks of a body. A stage begins where the width changes: where a stage is as wide as the
    one before, nothing in the weights tells them apart."""
    num_blocks = max(int(match[1]) for name in weights if (match := IR_BLOCK.fullmatch(name))) + 1
    _check_count(num_blocks, weights, "blocks")
    layers = ir_layers(weights)
    widths, depths = [], []
    for number in range(num_blocks):
        width = _width(weights, f"body.{number}.res_layer.{layers - 1}.weight")
        if widths and widths[-1] == width:
            depths[-1] += 1
        else:
            widths.append(width)
            depths.append(1)
    return Candidate(
        block=IR_ROWS[layers][ir_squeeze(weights) is not None],
        stem=_width(weights, "input_layer.1.weight"),
        widths=tuple(widths),
        depths=tuple(depths),
    )


def ir_names(candidate: Candidate, weights: State) -> dict[str, str]:
    """What the modules of an IR or IR-SE network are called there."""
    names = {f"stem.{at}": f"input_layer.{at}" for at in range(3)}
    names |= {"neck.0": "output_layer.0", "neck.2": "output_layer.3", "neck.3": "output_layer.4"}
    layers, squeeze = ir_layers(weights), ir_squeeze(weights)
    for number in range(candidate.num_blocks):
        ours, theirs = f"blocks.{number}", f"body.{number}"
        names |= {f"{ours}.residual.{at}": f"{theirs}.res_layer.{at}" for at in range(layers)}
        names |= {f"{ours}.shortcut.{at}": f"{theirs}.shortcut_layer.{at}" for at in range(2)}
        names |= {f"{ours}.attention.gate.{at}": f"{theirs}.res_layer.{squeeze}.fc{k}" for at, k in ((1, 1), (3, 2))}
    return names


NAMINGS = (
    Naming(
        "IResNet (insightface's arcface_torch)",
        re.compile(r"(?P<before>(?:.*\.)?)layer\d{1,6}\.\d{1,6}\.prelu\.weight"),
        iresnet_candidate,
        iresnet_names,
    ),
    Naming(
        "IR or IR-SE (face.evoLVe, TFace)",
        re.compile(r"(?P<before>(?:.*\.)?)body\.\d{1,6}\.res_layer\.0\.weight"),
        ir_candidate,
        ir_names,
    ),
)
