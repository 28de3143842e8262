"""What a candidate costs before anything is measured: parameters, multiply-accumulates, fan-ins.

All of it follows from the shapes.
"""

import collections
import functools

from torch import nn

from zennas.records import Record
from zennas.space.blocks import BLOCKS, NECKS, STEMS, block, neck, plain_part, stem
from zennas.space.candidate import Candidate
from zennas.space.families.family import Layout
from zennas.space.families.table import layout_of
from zennas.space.residual import deployed
from zennas.space.shape import Shape
from zennas.space.undrawn import undrawn

# Widths that tell a parabola, and one that would contradict it. The first three follow one another, so that the
# coefficients are whole numbers.
TOLD_BY, CHECKED_BY = (1, 2, 3), 37


class Cost(Record):
    """What a network, or a part of one, costs.

    params: learnable numbers (BatchNorm's two per channel included), of parts as they are deployed.
    macs: multiply-accumulates of one image, in convolutions and fully connected layers only, as insightface and
    FaceX-Zoo count; norms and activations are left out.
    """

    params: int
    macs: int

    @property
    def megabytes(self) -> float:
        """Size of the fp32 file in MB of 2^20 bytes, graph and names aside."""
        return self.params * 4 / 2**20

    def __add__(self, other):
        return Cost(params=self.params + other.params, macs=self.macs + other.macs)

    def __mul__(self, times):
        return Cost(params=self.params * times, macs=self.macs * times)


@functools.lru_cache(maxsize=65536)
def cost(candidate: Candidate, shape: Shape) -> Cost:
    """The Cost of a candidate's network for a Shape.

    >>> from zennas.space.candidate import Candidate
    >>> from zennas.space.shape import Shape
    >>> face = Shape(channels=3, height=112, width=112, embedding_size=512)
    >>> r100 = cost(Candidate(block="ir", stem=64, widths=(64, 128, 256, 512), depths=(3, 13, 30, 3)), face)
    >>> f"{r100.params / 1e6:.3f} M, {r100.macs / 1e9:.3f} G"
    '65.156 M, 12.090 G'
    """
    total = Cost(params=0, macs=0)
    for part, times in parts_in(candidate, layout_of(candidate, shape)).items():
        total = total + part_cost(*part) * times
    return total


def parts_in(candidate: Candidate, layout: Layout) -> dict[tuple, int]:
    """{(kind, in_channels, out_channels, stride, in_height, in_width): how often it occurs} of a candidate's network
    with a Layout.
    """
    parts = collections.Counter()
    for end in layout.stems:
        parts[end.kind, end.channels, candidate.stem, end.stride, *end.in_hw] += end.times
    for end in layout.necks:
        parts[end.kind, candidate.widths[end.behind], end.channels, end.stride, *end.in_hw] += end.times
    at_boundaries = candidate.stem, *candidate.widths
    for stage, places in enumerate(layout.stages):
        channels, width, depth = at_boundaries[layout.before[stage]], candidate.widths[stage], candidate.depths[stage]
        for place in places:
            parts[candidate.block, channels, width, place.stride, *place.in_hw] += place.times
            if depth > 1:
                parts[candidate.block, width, width, 1, *place.out_hw] += (depth - 1) * place.times
    return dict(parts)


@functools.lru_cache(maxsize=65536)
def part_cost(kind: str, in_channels: int, out_channels: int, stride: int, in_height: int, in_width: int) -> Cost:
    """The Cost of one part of a network: a block of BLOCKS, a row of STEMS or one of NECKS (whose out_channels is the
    embedding size)."""
    params, macs = _by_in_channels(_counts, kind, in_channels, out_channels, stride, in_height, in_width)
    return Cost(params=params, macs=macs)


@functools.lru_cache(maxsize=65536)
def fan_ins(kind: str, in_channels: int, out_channels: int, stride: int) -> tuple[int, ...]:
    """The fan-in of each convolution of the plain residual branch: how many numbers one of its outputs sums."""
    return _by_in_channels(_fan_ins, kind, in_channels, out_channels, stride)


def build_part(kind: str, in_channels: int, out_channels: int, stride: int, in_height: int, in_width: int) -> nn.Module:
    """The nn.Module of one part of a network, on the current default device."""
    if kind in STEMS:
        return stem(in_channels, out_channels, kind)
    if kind in NECKS:
        return neck(in_channels, (in_height, in_width), out_channels, kind)
    return block(kind, in_channels, out_channels, stride)


def _counts(*part):
    kind, in_hw = part[0], part[-2:]
    module = _deployed(*part[:-2], *(in_hw if kind in NECKS else (1, 1)))  # only a neck is built for its map
    return sum(weight.numel() for weight in module.parameters()), _macs(module, in_hw)[0]


@functools.lru_cache(maxsize=1024)
def _deployed(*part):
    with undrawn():
        return deployed(build_part(*part), copied=False)


def _fan_ins(*part):
    with undrawn():
        layers = plain_part(*part)
    return tuple(layer.weight[0].numel() for layer in layers if isinstance(layer, nn.Conv2d))


def _by_in_channels(values_of, kind, in_channels, out_channels, stride, *in_hw):
    """values_of(*part), whole numbers; a stage's first block, whose two widths are free, is not built for every pair.

    To build one takes half a millisecond, and a space has thousands. Its counts are parabolas of its in_channels.
    """
    # Where the widths agree, a block may have another shortcut: no point of the parabola of the rest.
    if kind in BLOCKS and in_channels != out_channels:
        parabolas = _parabolas(values_of, kind, out_channels, stride, *in_hw)
        if parabolas is not None:
            return _along(parabolas, in_channels)
    return values_of(kind, in_channels, out_channels, stride, *in_hw)


@functools.lru_cache(maxsize=65536)
def _parabolas(values_of, kind, out_channels, stride, *in_hw):
    """(value at 1, its first difference, its second) of each of the values; None where they are no parabolas."""
    try:
        at = {width: values_of(kind, width, out_channels, stride, *in_hw) for width in (*TOLD_BY, CHECKED_BY)}
    except ValueError:  # a block that not every width can be put into
        return None
    parabolas = [(a, b - a, c - 2 * b + a) for a, b, c in zip(*(at[width] for width in TOLD_BY), strict=True)]
    return parabolas if _along(parabolas, CHECKED_BY) == at[CHECKED_BY] else None


def _along(parabolas, width):
    steps = width - TOLD_BY[0]
    return tuple(at + steps * first + steps * (steps - 1) // 2 * second for at, first, second in parabolas)


def _macs(module, hw):
    """(multiply-accumulates, (height, width) behind it) of a module that sees maps of (height, width)."""
    if isinstance(module, nn.Conv2d):
        sizes = zip(hw, module.kernel_size, module.stride, module.padding, module.dilation, strict=True)
        out_hw = tuple(
            (px + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for px, kernel, stride, padding, dilation in sizes
        )
        return out_hw[0] * out_hw[1] * module.weight.numel(), out_hw
    if isinstance(module, nn.Linear):
        return module.weight.numel(), hw
    if isinstance(module, nn.AdaptiveAvgPool2d | nn.AdaptiveMaxPool2d):
        return 0, (1, 1)
    if isinstance(module, nn.MaxPool2d | nn.AvgPool2d):
        return 0, tuple((px + 2 * module.padding - module.kernel_size) // module.stride + 1 for px in hw)
    if hasattr(module, "macs"):  # a module that counts its own MACs
        return module.macs(), hw
    if isinstance(module, nn.Sequential):
        macs = 0
        for child in module:
            more, hw = _macs(child, hw)
            macs += more
        return macs, hw
    if not list(module.children()):
        return 0, hw
    if hasattr(module, "steps"):  # branches of its own, that see what the first of its steps leaves
        first, *more = module.steps
        macs, hw = _macs(first, hw)
        return macs + sum(_macs(step, hw)[0] for step in more), hw
    if hasattr(module, "residual"):
        macs, out_hw = _macs(module.residual, hw)
        shortcut_macs = 0 if module.shortcut is None else _macs(module.shortcut, hw)[0]
        return macs + _macs(module.attention, out_hw)[0] + shortcut_macs, out_hw
    return sum(_macs(child, hw)[0] for child in module.children()), hw
