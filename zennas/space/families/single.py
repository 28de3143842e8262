"""One branch, as retrieval has it: a stem that shrinks the image, stages, and the mean of the last map behind a norm.

The last stage halves its maps as ResNet's does, unless the form has other strides: [1, 2, 2, 1] keeps the last map of
four stages at twice the size.

Source: Luo et al. 2019 (bag of tricks), arXiv:1903.07071: BNNeck, last stride 1.
"""

from typing import Any

import torch
from torch import nn

from zennas.space.blocks import Ends, ends
from zennas.space.families import chain, mgn
from zennas.space.families.family import HW, End, Family, Tree, Way
from zennas.space.form import Form
from zennas.space.shape import Shape

FLAT = ("neck", "gdc_neck", "reduction")  # rows of NECKS that do not read the mean of a map


def ends_of(name: str) -> Ends:
    """The stem as `mgn` has it; the block's own neck where that reads the mean of a map, else the BNNeck."""
    own = ends(name).neck
    return Ends(mgn.ends_of(name).stem, "mean_neck" if own in FLAT else own)


def tree_of(member: Any) -> Tree:
    """One way through all stages."""
    (member.form or Form()).only(("strides",), "single")
    num_stages = len(member.widths)
    return Tree(num_stages, (Way(tuple(range(num_stages)), mgn.strides_of(member, num_stages)),))


def necks_of(member: Any, shape: Shape, last_hws: tuple[HW, ...]) -> tuple[End, ...]:
    """The neck."""
    return (End(ends_of(member.block).neck, shape.embedding_size, 1, last_hws[0]),)


class Network(chain.Network):
    """Images_BCHW -> embeddings_BD."""

    def __init__(self, candidate, shape: Shape):
        super().__init__(candidate, shape, family=SINGLE)

    def vectors(self, image_BCHW: torch.Tensor) -> dict[str, Any]:
        """{"embedding": (B, D) behind the last norm; "wide" and "whole": [(B, D)], what goes into it; "stripes":
        []}."""
        # The last norm may be folded away, in a network that only answers.
        before = [layer for layer in self.neck if not isinstance(layer, nn.BatchNorm1d)]
        feature_BD = nn.Sequential(*before)(self.blocks(self.stem(image_BCHW)))
        embedding_BD = self.neck[len(before) :](feature_BD)
        return {"embedding": embedding_BD, "wide": [feature_BD], "whole": [feature_BD], "stripes": []}


SINGLE = Family(
    tree=tree_of, ends=ends_of, necks=necks_of, network=Network, backbone=chain.backbone, graphs=chain.graphs
)
