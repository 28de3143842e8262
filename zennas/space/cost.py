"""What a candidate costs before anything is measured: parameters and multiply-accumulates, from the shapes alone."""

import functools

import torch
from torch import nn

from zennas.records import Record
from zennas.space.network import block, block_shapes, neck, stem


class Cost(Record):
    """params: learnable numbers (BatchNorm's two per channel included). macs: multiply-accumulates of one image, in
    convolutions and fully connected layers only, as insightface and FaceX-Zoo count; norms and activations are left out."""

    params: int
    macs: int

    @property
    def megabytes(self):
        """Size of the fp32 file in MB of 2^20 bytes, graph and names aside."""
        return self.params * 4 / 2**20

    def __add__(self, other):
        return Cost(params=self.params + other.params, macs=self.macs + other.macs)

    def __mul__(self, times):
        return Cost(params=self.params * times, macs=self.macs * times)


@functools.lru_cache(maxsize=65536)
def cost(candidate, *, image_px=112, embedding_size=512):
    """The Cost of a candidate.

    >>> from zennas.space.candidate import Candidate
    >>> r100 = cost(Candidate(block="ir", stem=64, widths=(64, 128, 256, 512), depths=(3, 13, 30, 3)))
    >>> f"{r100.params / 1e6:.3f} M, {r100.macs / 1e9:.3f} G"
    '65.156 M, 12.090 G'
    """
    last_px = image_px >> len(candidate.widths)
    total = part_cost("stem", 3, candidate.stem, 1, image_px) + part_cost(
        "neck", candidate.widths[-1], embedding_size, 1, last_px
    )
    shapes = block_shapes(candidate, image_px)
    for shape in dict.fromkeys(shapes):
        total = total + part_cost(candidate.block, *shape) * shapes.count(shape)
    return total


@functools.lru_cache(maxsize=65536)
def part_cost(kind, in_channels, out_channels, stride, in_px):
    """The Cost of one part of a network: a block of BLOCKS, the 'stem' or the 'neck' (out_channels: the embedding size)."""
    with torch.device("meta"):
        part = build_part(kind, in_channels, out_channels, stride, in_px)
    return Cost(params=sum(weight.numel() for weight in part.parameters()), macs=_macs(part, in_px)[0])


def build_part(kind, in_channels, out_channels, stride, in_px):
    """The nn.Module of one part of a network, on the current default device."""
    if kind == "stem":
        return stem(out_channels)
    if kind == "neck":
        return neck(in_channels, in_px, out_channels)
    return block(kind, in_channels, out_channels, stride)


def _macs(module, px):
    """(multiply-accumulates, px behind it) of a module that sees maps of px x px."""
    if isinstance(module, nn.Conv2d):
        kernel, stride, padding, dilation = (
            value[0] for value in (module.kernel_size, module.stride, module.padding, module.dilation)
        )
        out_px = (px + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        return out_px * out_px * module.weight.numel(), out_px
    if isinstance(module, nn.Linear):
        return module.weight.numel(), px
    if isinstance(module, nn.AdaptiveAvgPool2d):
        return 0, 1
    if hasattr(module, "macs"):  # one that runs its layers on something else than its own maps, and counts for itself
        return module.macs(), px
    if isinstance(module, nn.Sequential):
        macs = 0
        for child in module:
            more, px = _macs(child, px)
            macs += more
        return macs, px
    if not list(module.children()):
        return 0, px
    if hasattr(module, "residual"):
        macs, out_px = _macs(module.residual, px)
        return macs + _macs(module.attention, out_px)[0] + _macs(module.shortcut, px)[0], out_px
    return sum(_macs(child, px)[0] for child in module.children()), px
