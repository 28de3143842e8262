"""A candidate's network in memory: built, drawn, calibrated, and the plain paths of it that a score sees."""

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from zennas.space.blocks import plain_part
from zennas.space.candidate import Candidate
from zennas.space.families.family import BuiltNetwork, PlainPart
from zennas.space.families.table import family_of, layout_of
from zennas.space.shape import Shape
from zennas.space.undrawn import undrawn

Module = TypeVar("Module", bound=nn.Module)
WEIGHT_STD = 0.1  # insightface's iresnet.py; any scale is undone by the BatchNorm behind it


def on_meta(candidate: Candidate, shape: Shape) -> BuiltNetwork:
    """The network of a candidate for a Shape, without memory for its weights.

    UserError where the stages cannot shrink such images.
    """
    layout_of(candidate, shape)
    with undrawn():
        return family_of(candidate).network(candidate, shape)


def build(candidate: Candidate, shape: Shape, *, generator: torch.Generator | None = None) -> BuiltNetwork:
    """The network of a candidate for a Shape in eval mode, its weights drawn from `generator` (a torch Generator; None:
    seed 0).

    UserError names a block that BLOCKS lacks.
    """
    return initialise(on_meta(candidate, shape), generator=generator)


def initialise(module: Module, *, generator: torch.Generator | None = None) -> Module:
    """The module, taken from the meta device to memory with Gaussian weights and neutral norms, in eval mode."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    module = module.to_empty(device=generator.device)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.normal_(0.0, WEIGHT_STD, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.PReLU):
                part.reset_parameters()
    return module.eval()


def calibrate(module: Module, image_BCHW: torch.Tensor) -> Module:
    """Set the norms' running statistics to those of one batch: then an untrained network has activations of unit scale.

    Without it the sums of a deep residual network grow by a factor per block, up to infinity: neither its latency nor
    its export could be believed. Changes `module`, gives it back in eval mode.
    """
    return _with_statistics(module, nn.BatchNorm1d | nn.BatchNorm2d, image_BCHW)


def calibrate_embedding(module: Module, image_BCHW: torch.Tensor) -> Module:
    """Set the statistics of the norms behind the last map to those of one batch, whose images are as unlike as can be.

    Embeddings of images that are alike, such as faces by an untrained network, differ by little more than rounding: a
    norm that is set by them alone hands out rounding. Changes `module`, gives it back in eval mode.
    """
    return _with_statistics(module, nn.BatchNorm1d, image_BCHW)


def plain_paths(candidate: Candidate, channels: int) -> tuple[tuple[PlainPart, ...], ...]:
    """The plain paths of a candidate's network for images of so many channels, one of each way through it.

    Shortcuts, attention and neck are left out: a path gives the feature map before pooling, on which the Zen-Score is
    defined.
    """
    return family_of(candidate).paths(candidate, channels)


def plain(path: Iterable[PlainPart]) -> nn.Sequential:
    """A plain path on the meta device: a Sequential of convolutions, norms and activations."""
    with undrawn():
        return nn.Sequential(*(layer for part in path for layer in plain_part(*part)))


def candidate_of(network: nn.Module) -> Candidate | None:
    """The Candidate that a network of ours was built from; None for any other module."""
    return network.candidate if isinstance(network, BuiltNetwork) else None


def _with_statistics(module, kind, image_BCHW):
    """The module in eval mode, its norms of this kind with the statistics of one batch."""
    norms = [part for part in module.eval().modules() if isinstance(part, kind)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1.0
            norm.train()
        with torch.no_grad():
            module(image_BCHW)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return module
