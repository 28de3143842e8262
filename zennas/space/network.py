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

WEIGHT_STD = 0.1  # insightface's iresnet.py; any scale is undone by the BatchNorm behind it


class Network(nn.Module):
    """Images_B3HW -> embeddings_BD: stem, blocks, neck. `candidate` says what it is, its block what it begins and ends
    with.

    Source of the layout: Deng et al. 2019 (ArcFace), insightface's iresnet.py.
    """

    def __init__(self, candidate, *, image_px=112, embedding_size=512):
        super().__init__()
        self.candidate = candidate
        self.input_shape = (3, image_px, image_px)
        stem_kind, neck_kind = ends(candidate.block)
        self.stem = stem(candidate.stem, stem_kind)
        self.blocks = nn.Sequential(
            *(block(candidate.block, *shape[:3]) for shape in block_shapes(candidate, image_px))
        )
        self.neck = neck(candidate.widths[-1], last_px(candidate, image_px), embedding_size, neck_kind)

    def forward(self, image_B3HW):
        return self.neck(self.blocks(self.stem(image_B3HW)))


def build(candidate, *, image_px=112, embedding_size=512, generator=None):
    """The Network of a candidate in eval mode, its weights drawn from `generator` (a torch Generator; None: seed 0).

    Images are image_px square; embeddings have embedding_size numbers. ValueError names a block that BLOCKS lacks.
    """
    with torch.device("meta"):
        network = Network(candidate, image_px=image_px, embedding_size=embedding_size)
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


def stem(channels, kind="stem"):
    """What sees the image first: a row of STEMS."""
    return STEMS[kind](channels)


def neck(channels, px, embedding_size, kind="neck"):
    """What turns the last map, of px x px, into the embedding: a row of NECKS."""
    return NECKS[kind](channels, px, embedding_size)


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
        return math.prod(layer.stride[0] for layer in make_stem(1) if isinstance(layer, nn.Conv2d))


def shrinkage(name, num_stages):
    """By how much the networks of a block shrink the image before their neck, each stage by two: image_px divides by
    it.
    """
    return stem_stride(name) << num_stages


def last_px(candidate, image_px):
    """The side of the map that the neck sees."""
    return image_px // shrinkage(candidate.block, len(candidate.widths))


def block_shapes(candidate, image_px):
    """(in_channels, out_channels, stride, in_px) of every block, in order; each stage's first block has stride 2.

    >>> from zennas.space.candidate import Candidate
    >>> block_shapes(Candidate(block="ir", stem=16, widths=(32,), depths=(2,)), 112)
    [(16, 32, 2, 112), (32, 32, 1, 56)]
    """
    num_stages, stride = len(candidate.widths), stem_stride(candidate.block)
    if image_px % (stride << num_stages):
        also = f", and the stem divides it by {stride}" if stride > 1 else ""
        raise UserError(
            f"{candidate.text}: {num_stages} stages each halve the image{also}; {image_px} px do not allow it"
        )
    shapes, channels, px = [], candidate.stem, image_px // stride
    for width, depth in zip(candidate.widths, candidate.depths, strict=True):
        shapes.append((channels, width, 2, px))
        px //= 2
        shapes += [(width, width, 1, px)] * (depth - 1)
        channels = width
    return shapes


def plain(candidate):
    """The plain network of a candidate, on the meta device: a Sequential of convolutions, norms and activations.

    Shortcuts, attention and neck are left out: this is the feature map before pooling that the Zen-Score is defined on.
    """
    with torch.device("meta"):
        return nn.Sequential(*(layer for part in plain_parts(candidate) for layer in plain_part(*part)))


def plain_parts(candidate):
    """(kind, in_channels, out_channels, stride) of every part of the plain network of a candidate, in order."""
    name, smallest_px = candidate.block, shrinkage(candidate.block, len(candidate.widths))
    shapes = block_shapes(candidate, smallest_px)
    return [(ends(name).stem, 3, candidate.stem, stem_stride(name)), *((name, *shape[:3]) for shape in shapes)]


def plain_part(kind, in_channels, out_channels, stride):
    """The Sequential of convolutions, norms and activations that the plain network has of a block, or of a row of
    STEMS.
    """
    return stem(out_channels, kind) if kind in STEMS else block(kind, in_channels, out_channels, stride).residual
