"""The networks of the ZenNAS repository, from the strings it keeps them in, without their shortcuts.

Source of the format: Lin et al. 2021, idstcv/ZenNAS, Masternet.py and PlainNet/ (basic_blocks.py, super_blocks.py,
SuperResK1KXK1.py, SuperResKXKX.py, SuperResIDWEXKX.py).
"""

import math
import re
from typing import NamedTuple

from torch import nn

SUPER_BLOCK = re.compile(r"Super(?:Conv|Res)([A-Z0-9]+?)(?:BNRELU)?\((\d+(?:,\d+){3,4})\)")
NORM_EPS = 1e-3


class Convolution(NamedTuple):
    """Padded by kernel // 2, without bias; a norm follows it and, in the plain network, a ReLU."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    groups: int = 1


class Branch(NamedTuple):
    """The convolutions that one shortcut spans; `projected`: that shortcut, left out here, is a 1x1 convolution."""

    convolutions: tuple[Convolution, ...]
    projected: bool


def plain_network(structure):
    """The convolutions, norms and ReLUs of a structure string as an nn.Sequential, with torch's own first weights.

    ValueError where a part of the string is not understood.

    >>> [type(layer).__name__ for layer in plain_network("SuperConvK3BNRELU(3,8,2,1)")]
    ['Conv2d', 'BatchNorm2d', 'ReLU']
    """
    layers = []
    for shape in (shape for branch in branches(structure) for shape in branch.convolutions):
        conv = nn.Conv2d(*shape[:4], padding=shape.kernel // 2, groups=shape.groups, bias=False)
        layers += [conv, nn.BatchNorm2d(shape.out_channels, eps=NORM_EPS), nn.ReLU()]
    return nn.Sequential(*layers)


def branches(structure):
    """Every Branch of a structure string, in order. ValueError where a part of the string is not understood."""
    matches = list(SUPER_BLOCK.finditer(structure))
    if "".join(match[0] for match in matches) != structure:
        raise ValueError(f"plainnet structure {structure!r}: a part is not understood; known: {SUPER_BLOCK.pattern}")
    return [branch for match in matches for branch in _super_block(match[1], *map(int, match[2].split(",")))]


def _super_block(kind, in_channels, out_channels, stride, *bottleneck_and_depth):
    *bottleneck, depth = bottleneck_and_depth
    for index in range(depth):
        for place, convolutions in enumerate(_sub_layer(kind, in_channels, out_channels, stride, *bottleneck)):
            opens_block = index == place == 0  # there the repository projects even between equal shapes
            reshapes = convolutions[0].in_channels != convolutions[-1].out_channels
            yield Branch(convolutions, projected=kind not in ("K1", "K3") and (opens_block or reshapes))
        in_channels, stride = out_channels, 1


def _sub_layer(kind, in_channels, out_channels, stride, bottleneck=None):
    """The convolutions of each branch of one sub-layer: one branch, or two of which the first has the stride."""
    if match := re.fullmatch(r"K([13])", kind):
        return [(Convolution(in_channels, out_channels, int(match[1]), stride),)]
    if match := re.fullmatch(r"K(\d)K\1", kind):
        kernel = int(match[1])
        return [(Convolution(in_channels, bottleneck, kernel, stride), Convolution(bottleneck, out_channels, kernel))]
    if match := re.fullmatch(r"K1K(\d)K1", kind):
        kernel = int(match[1])
        return [
            _inside_1x1(kernel, in_channels, bottleneck, out_channels, stride),
            _inside_1x1(kernel, out_channels, bottleneck, out_channels),
        ]
    if match := re.fullmatch(r"IDWE(\d)K(\d)", kind):
        kernel, down, up = int(match[2]), int(match[1]) * bottleneck, int(match[1]) * out_channels
        return [
            _inside_1x1(kernel, in_channels, down, bottleneck, stride, groups=down),
            _inside_1x1(kernel, bottleneck, up, out_channels, groups=up),
        ]
    raise ValueError(f"plainnet block kind {kind!r} is not known; known: K1, K3, K3K3, K1K3K1, IDWE6K3 and the like")


def _inside_1x1(kernel, in_channels, middle, out_channels, stride=1, groups=1):
    return (
        Convolution(in_channels, middle, 1),
        Convolution(middle, middle, kernel, stride, groups),
        Convolution(middle, out_channels, 1),
    )


def repository_params(structure, num_classes):
    """Parameters as the repository counts them: C per norm, not 2C; no bias in a projection; one bias in the head."""
    params = 0
    for branch in branches(structure):
        params += sum(_weights(shape) + shape.out_channels for shape in branch.convolutions)
        params += _projection(branch)
    return params + branch.convolutions[-1].out_channels * num_classes + 1


def repository_macs(structure, num_classes, image_px):
    """MACs as the repository counts them: with norms, and a projection's map divided by its stride once too often."""
    macs, px = 0, image_px
    for branch in branches(structure):
        px_before = px
        for shape in branch.convolutions:
            px //= shape.stride
            macs += (_weights(shape) + shape.out_channels) * px**2
        macs += _projection(branch) * (px * px // px_before) ** 2
    return macs + branch.convolutions[-1].out_channels * num_classes


def _weights(shape):
    return math.prod(shape[:2]) * shape.kernel**2 // shape.groups


def _projection(branch):
    """Weights and norm of the 1x1 convolution in the shortcut."""
    return branch.projected * (branch.convolutions[0].in_channels + 1) * branch.convolutions[-1].out_channels
