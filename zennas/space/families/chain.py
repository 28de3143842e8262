"""The chain: a stem, stages of blocks one after the other, a neck. IR-SE, MobileFaceNet and ResNet are chains.

`chain(strides)` is the Family of chains whose stages shrink their maps otherwise.

Source of the layout: Deng et al. 2019 (ArcFace), insightface's iresnet.py.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zennas.space.blocks import block, ends, neck, stem
from zennas.space.families.family import HW, BuiltNetwork, End, Family, Graph, Tree, Way
from zennas.space.shape import Shape

Strides = Callable[[int], tuple[int, ...]]  # number of stages -> by how much each of them shrinks its maps


def halving(num_stages: int) -> tuple[int, ...]:
    """Every stage halves its maps."""
    return (2,) * num_stages


class Network(BuiltNetwork):
    """Images_BCHW -> embeddings_BD: stem, blocks, neck. `candidate` says what it is, its block what it begins and ends
    with.
    """

    def __init__(self, candidate, shape: Shape, *, family: Family):
        super().__init__(candidate, shape)
        first, *parts = family.paths(candidate, shape.channels)[0]
        (neck_end,) = family.layout(candidate, shape).necks
        self.stem = stem(first.in_channels, first.out_channels, first.kind)
        self.blocks = nn.Sequential(*(block(*part) for part in parts))
        self.neck = neck(candidate.widths[-1], neck_end.in_hw, neck_end.channels, neck_end.kind)

    def head_layers(self) -> list[nn.Linear]:
        """The fully connected layer that gives the embedding, where there is one."""
        return [layer for layer in self.neck if isinstance(layer, nn.Linear)]

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return self.neck(self.blocks(self.stem(image_BCHW)))


def tree_of_chain(member: Any, *, strides: Strides = halving) -> Tree:
    """One way through all stages."""
    num_stages = len(member.widths)
    if member.form is not None:
        member.form.only((), "chain")
    return Tree(num_stages, (Way(tuple(range(num_stages)), strides(num_stages)),))


def neck_of_chain(member: Any, shape: Shape, last_hws: tuple[HW, ...]) -> tuple[End, ...]:
    """The neck of the member's block."""
    return (End(ends(member.block).neck, shape.embedding_size, 1, last_hws[0]),)


def backbone(network: Network) -> nn.Module:
    """Stem and blocks, in the order in which they run."""
    return nn.Sequential(network.stem, *network.blocks)


def graphs(network: BuiltNetwork) -> tuple[Graph, ...]:
    """One graph: an image in, its embedding out."""
    return (Graph("network", network, {"image": network.input_shape}, ("embedding",)),)


def chain(strides: Strides) -> Family:
    """The Family of chains whose stages shrink their maps by strides(number of stages).

    >>> from zennas.space.candidate import Candidate
    >>> last_keeps = chain(lambda num_stages: (*(2,) * (num_stages - 1), 1))
    >>> last_keeps.divisor(Candidate(block="ir", stem=16, widths=(32,) * 4, depths=(1,) * 4))
    8
    """
    family = Family(
        tree=functools.partial(tree_of_chain, strides=strides),
        ends=ends,
        necks=neck_of_chain,
        network=lambda candidate, shape: Network(candidate, shape, family=family),
        backbone=backbone,
        graphs=graphs,
    )
    return family


CHAIN = chain(halving)
