"""The chain: a stem, stages of blocks one after the other, a neck. IR-SE, MobileFaceNet and ResNet are chains.

`chain(strides)` is the Family of chains whose stages shrink their maps otherwise.

Source of the layout: Deng et al. 2019 (ArcFace), insightface's iresnet.py.
"""

import functools
import itertools
import math
from collections.abc import Callable

import torch
from torch import nn

from zennas.space.blocks import block, ends, neck, stem, stem_stride
from zennas.space.candidate import Candidate
from zennas.space.families.family import BuiltNetwork, End, Family, Graph, Layout, Place, PlainPart, halved
from zennas.space.shape import Shape

Strides = Callable[[int], tuple[int, ...]]  # number of stages -> by how much each of them shrinks its maps


def halving(num_stages: int) -> tuple[int, ...]:
    """Every stage halves its maps."""
    return (2,) * num_stages


class Network(BuiltNetwork):
    """Images_BCHW -> embeddings_BD: stem, blocks, neck. `candidate` says what it is, its block what it begins and ends
    with.
    """

    def __init__(self, candidate, shape: Shape, *, strides: Strides = halving):
        super().__init__(candidate, shape)
        first, *parts = paths(candidate, shape.channels, strides=strides)[0]
        (neck_end,) = layout(candidate.block, len(candidate.widths), shape, strides=strides).necks
        self.stem = stem(first.in_channels, first.out_channels, first.kind)
        self.blocks = nn.Sequential(*(block(*part) for part in parts))
        self.neck = neck(candidate.widths[-1], neck_end.in_hw, neck_end.channels, neck_end.kind)

    def head_layers(self) -> list[nn.Linear]:
        """The fully connected layer that gives the embedding."""
        return [layer for layer in self.neck if isinstance(layer, nn.Linear)]

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return self.neck(self.blocks(self.stem(image_BCHW)))


def divisor(block: str, num_stages: int, *, strides: Strides = halving) -> int:
    """By how much a network shrinks each side of an image before its neck.

    >>> divisor("ir", 4), divisor("inverted_residual", 3)
    (16, 16)
    """
    return stem_stride(block) * math.prod(strides(num_stages))


def layout(block: str, num_stages: int, shape: Shape, *, strides: Strides = halving) -> Layout:
    """The Layout: one place for each stage."""
    (stem_kind, neck_kind), stride = ends(block), stem_stride(block)
    maps = itertools.accumulate(strides(num_stages), halved, initial=halved(shape.hw, stride))
    *before, last_hw = maps
    return Layout(
        stems=(End(stem_kind, shape.channels, stride, shape.hw),),
        stages=tuple((Place(by, hw),) for by, hw in zip(strides(num_stages), before, strict=True)),
        necks=(End(neck_kind, shape.embedding_size, 1, last_hw),),
    )


def paths(candidate: Candidate, channels: int, *, strides: Strides = halving) -> tuple[tuple[PlainPart, ...], ...]:
    """One path: the stem and every block.

    >>> from zennas.space.candidate import Candidate
    >>> (path,) = paths(Candidate(block="ir", stem=16, widths=(32,), depths=(2,)), 3)
    >>> [tuple(part) for part in path]
    [('stem', 3, 16, 1), ('ir', 16, 32, 2), ('ir', 32, 32, 1)]
    """
    name, num_stages = candidate.block, len(candidate.widths)
    parts = [PlainPart(ends(name).stem, channels, candidate.stem, stem_stride(name))]
    for width, depth, stride in zip(candidate.widths, candidate.depths, strides(num_stages), strict=True):
        parts.append(PlainPart(name, parts[-1].out_channels, width, stride))
        parts += [PlainPart(name, width, width, 1)] * (depth - 1)
    return (tuple(parts),)


def backbone(network: Network) -> nn.Module:
    """Stem and blocks, in the order in which they run."""
    return nn.Sequential(network.stem, *network.blocks)


def graphs(network: BuiltNetwork) -> tuple[Graph, ...]:
    """One graph: an image in, its embedding out."""
    return (Graph("network", network, {"image": network.input_shape}, ("embedding",)),)


def chain(strides: Strides) -> Family:
    """The Family of chains whose stages shrink their maps by strides(number of stages).

    >>> chain(lambda num_stages: (*(2,) * (num_stages - 1), 1)).divisor("ir", 4)
    8
    """
    return Family(
        strides=strides,
        divisor=functools.partial(divisor, strides=strides),
        layout=functools.partial(layout, strides=strides),
        network=functools.partial(Network, strides=strides),
        paths=functools.partial(paths, strides=strides),
        backbone=backbone,
        graphs=graphs,
    )


CHAIN = chain(halving)
