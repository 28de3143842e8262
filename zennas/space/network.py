"""network(candidate): the backbone a candidate stands for, and the pieces of which the score and the latency table
speak.
"""

import functools
import math
from typing import NamedTuple

import torch
from torch import nn

from zennas.records import UserError, suggestion
from zennas.space.blocks import BLOCKS, ENDS, NECKS, STEMS
from zennas.space.shape import Shape, px_text

WEIGHT_STD = 0.1  # insightface's iresnet.py; any scale is undone by the BatchNorm behind it


class Network(nn.Module):
    """Images_BCHW -> embeddings_BD: stem, blocks, neck. `candidate` says what it is, its block what it begins and ends
    with.

    Source of the layout: Deng et al. 2019 (ArcFace), insightface's iresnet.py.
    """

    def __init__(self, candidate, shape):
        super().__init__()
        self.candidate, self.shape, self.input_shape = candidate, shape, shape.image
        stem_kind, neck_kind = ends(candidate.block)
        self.stem = stem(shape.channels, candidate.stem, stem_kind)
        self.blocks = nn.Sequential(*(block(candidate.block, *place[:3]) for place in block_places(candidate, shape)))
        self.neck = neck(candidate.widths[-1], last_hw(candidate, shape), shape.embedding_size, neck_kind)

    def forward(self, image_BCHW):
        return self.neck(self.blocks(self.stem(image_BCHW)))


def build(candidate, shape, *, generator=None):
    """The Network of a candidate for a Shape in eval mode, its weights drawn from `generator` (a torch Generator; None:
    seed 0).

    ValueError names a block that BLOCKS lacks.
    """
    with torch.device("meta"):
        network = Network(candidate, shape)
    return initialise(network, generator=generator)


def initialise(module, *, generator=None):
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


def calibrate(module, image_BCHW):
    """Set the norms' running statistics to those of one batch, so that an untrained network has activations of unit
    scale.

    Without it the sums of a deep residual network grow by a factor per block, up to infinity: neither its latency nor
    its export could be believed. Changes `module`, gives it back in eval mode.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            module.train()(image_BCHW)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return module


def stem(in_channels, out_channels, kind):
    """What sees the image first: a row of STEMS."""
    return STEMS[kind](in_channels, out_channels)


def neck(channels, hw, embedding_size, kind):
    """What turns the last map, of (height, width), into the embedding: a row of NECKS."""
    return NECKS[kind](channels, hw, embedding_size)


def block(name, in_channels, out_channels, stride):
    """One block of BLOCKS; UserError where there is no such row."""
    check_block(name)
    return BLOCKS[name](in_channels, out_channels, stride)


def check_block(name):
    """UserError where BLOCKS has no such row."""
    if name not in BLOCKS:
        raise UserError(f"block '{name}' is not known; {suggestion(name, list(BLOCKS))}")


class Ends(NamedTuple):
    """What the networks of a block begin and end with."""

    stem: str  # a row of STEMS
    neck: str  # a row of NECKS


def ends(name):
    """The Ends of a block's networks; UserError where BLOCKS has no such row."""
    check_block(name)
    return Ends(*ENDS.get(name, ("stem", "neck")))


def stem_stride(name):
    """By how much the stem of a block's networks shrinks the image."""
    return _stride_of(STEMS[ends(name).stem])


@functools.cache
def _stride_of(make_stem):
    with torch.device("meta"):
        return math.prod(layer.stride[0] for layer in make_stem(1, 1) if isinstance(layer, nn.Conv2d))


def shrinkage(name, num_stages):
    """By how much the networks of a block shrink each side of the image before their neck, each stage by two: height
    and width divide by it.
    """
    return stem_stride(name) << num_stages


def last_hw(candidate, shape):
    """(height, width) of the map that the neck sees."""
    divisor = shrinkage(candidate.block, len(candidate.widths))
    return shape.height // divisor, shape.width // divisor


def block_places(candidate, shape):
    """(in_channels, out_channels, stride, in_height, in_width) of every block, in order; each stage's first block has
    stride 2.

    >>> from zennas.space.candidate import Candidate
    >>> from zennas.space.shape import Shape
    >>> person = Shape(channels=3, height=48, width=16, embedding_size=8)
    >>> block_places(Candidate(block="ir", stem=16, widths=(32,), depths=(2,)), person)
    [(16, 32, 2, 48, 16), (32, 32, 1, 24, 8)]
    """
    num_stages, stride = len(candidate.widths), stem_stride(candidate.block)
    if any(px % (stride << num_stages) for px in shape.hw):
        also = f", and the stem divides it by {stride}" if stride > 1 else ""
        raise UserError(
            f"{candidate.text}: {num_stages} stages each halve the image{also}; {px_text(shape.hw)} px do not allow it"
        )
    places, channels, height, width = [], candidate.stem, shape.height // stride, shape.width // stride
    for out_channels, depth in zip(candidate.widths, candidate.depths, strict=True):
        places.append((channels, out_channels, 2, height, width))
        height, width = height // 2, width // 2
        places += [(out_channels, out_channels, 1, height, width)] * (depth - 1)
        channels = out_channels
    return places


def plain(candidate, channels):
    """The plain network of a candidate for images of so many channels, on the meta device: a Sequential of
    convolutions, norms and activations.

    Shortcuts, attention and neck are left out: this is the feature map before pooling that the Zen-Score is defined on.
    """
    with torch.device("meta"):
        return nn.Sequential(*(layer for part in plain_parts(candidate, channels) for layer in plain_part(*part)))


def plain_parts(candidate, channels):
    """(kind, in_channels, out_channels, stride) of every part of the plain network of a candidate, in order; channels
    are those of its images."""
    name, px = candidate.block, shrinkage(candidate.block, len(candidate.widths))
    places = block_places(candidate, Shape(channels=channels, height=px, width=px, embedding_size=1))
    return [(ends(name).stem, channels, candidate.stem, stem_stride(name)), *((name, *place[:3]) for place in places)]


def plain_part(kind, in_channels, out_channels, stride):
    """The Sequential of convolutions, norms and activations that the plain network has of a block, or of a row of
    STEMS.
    """
    return (
        stem(in_channels, out_channels, kind)
        if kind in STEMS
        else block(kind, in_channels, out_channels, stride).residual
    )
