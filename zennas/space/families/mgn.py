"""MGN, the multiple granularity network: a trunk, then a global branch and some part branches, whose vectors are
reduced and joined.

Stages: the trunk's, then the two of a branch: the rest of the trunk's last stage, and the last stage. Every branch has
its own copy of those two. The part branches do not shrink their maps in the last stage, and cut the last map into
stripes from head to foot. Each branch gives the largest values of its whole map, and each part branch those of its
stripes; every such vector goes through a reduction of its own. The embedding is all of them side by side, those of
whole maps first, so a reduction's size is the embedding's over their number.
With `apart`, two stages more: the global branch's two come before the part branches' two.

Source: Wang et al. 2018, arXiv:1804.01438; with five stages, a bottleneck, and depths 3-4-1-5-3 it is theirs.
"""

import itertools
from typing import Any

import torch
from torch import nn

from zennas.records import UserError
from zennas.space.blocks import Ends, block, ends, neck, stem, stride_of
from zennas.space.families.chain import graphs
from zennas.space.families.family import HW, BuiltNetwork, End, Family, Tree, Way
from zennas.space.form import Form
from zennas.space.shape import Shape

STRIPES = (2, 3)  # of the part branches
BRANCH_STAGES = 2  # the rest of the trunk's last stage, the last stage
TRUNK_STRIDE = 4  # of stem and first stage together


def ends_of(name: str) -> Ends:
    """The stem of a block's networks where it shrinks the image, else ResNet's; the score's last maps are pooled."""
    own = ends(name).stem
    return Ends(own if stride_of(own) > 1 else "pooled_stem", "reduction")


def strides_of(member: Any, num_stages: int) -> tuple[int, ...]:
    """By how much so many stages shrink their maps, one after the other: by their form, or as ResNet's do behind a stem
    that shrinks the image by two or four."""
    own = (member.form or Form()).strides
    if own and len(own) != num_stages:
        raise UserError(
            f"form.strides: given {len(own)}, allowed: {num_stages}, one of each stage from image to last map"
        )
    return own or (max(1, TRUNK_STRIDE // stride_of(ends_of(member.block).stem)), *(2,) * (num_stages - 1))


def tree_of(member: Any) -> Tree:
    """The global way, and that of the part branches, which are alike."""
    form, num_stages = member.form or Form(), len(member.widths)
    form.only(("strides", "stripes", "apart"), "mgn")
    num_shared = num_stages - BRANCH_STAGES * (1 + form.apart)
    if num_shared < 0:
        least = num_stages - num_shared
        raise UserError(f"widths: given {num_stages}, allowed: {least} or more, the last {least} of them the branches'")
    trunk, first = tuple(range(num_shared)), num_shared + BRANCH_STAGES * form.apart
    if form.strides:
        strides = strides_of(member, num_shared + BRANCH_STAGES)
    else:
        strides = (*strides_of(member, num_shared + 1)[:num_shared], 1, 2)
    part = Way((*trunk, first, first + 1), (*strides[:-1], 1), len(form.stripes or STRIPES), "part")
    return Tree(num_shared, (Way((*trunk, num_shared, num_shared + 1), strides, name="global"), part))


def necks_of(member: Any, shape: Shape, last_hws: tuple[HW, ...]) -> tuple[End, ...]:
    """The reductions: of the whole maps, the global branch's first, then of the stripes."""
    (global_hw, part_hw), (global_way, part_way) = last_hws, tree_of(member).ways
    stripes, size = (member.form or Form()).stripes or STRIPES, reduction_size(member, shape)
    necks = [End("reduction", size, 1, global_hw, 1, global_way.stages[-1])]
    wholes = End("reduction", size, 1, part_hw, part_way.times, part_way.stages[-1])
    cut = [
        End("reduction", size, 1, (bottom - top, part_hw[1]), 1, part_way.stages[-1])
        for num in stripes
        for top, bottom in rows_of_stripes(part_hw[0], num)
    ]
    alike = [(end, len(list(same))) for end, same in itertools.groupby(cut)]
    return (*necks, wholes, *(end._replace(times=times) for end, times in alike))


def reduction_size(member: Any, shape: Shape) -> int:
    """How many numbers each reduction gives. UserError where the embedding cannot be shared among them equally."""
    stripes = (member.form or Form()).stripes or STRIPES
    num = 1 + len(stripes) + sum(stripes)
    if shape.embedding_size % num:
        raise UserError(
            f"embedding_size: given {shape.embedding_size}, allowed: multiples of {num}, the number of reductions "
            f"(1 + {len(stripes)} whole maps, {sum(stripes)} stripes)"
        )
    return shape.embedding_size // num


def rows_of_stripes(height: int, num: int) -> list[tuple[int, int]]:
    """[(first row, one behind the last)] of each stripe; where the rows cannot be shared equally, stripes overlap.

    As torch's AdaptiveMaxPool2d cuts them, which ONNX has not.

    >>> rows_of_stripes(24, 3), rows_of_stripes(16, 3)
    ([(0, 8), (8, 16), (16, 24)], [(0, 6), (5, 11), (10, 16)])
    """
    return [(height * at // num, -(-height * (at + 1) // num)) for at in range(num)]


class Network(BuiltNetwork):
    """Images_BCHW -> embeddings_BD. UserError where a last map has fewer rows than stripes: some would be the same."""

    def __init__(self, candidate, shape: Shape):
        super().__init__(candidate, shape)
        # B images, C channels of a last map, R numbers of a reduction, D of the embedding
        tree, shared = tree_of(candidate), MGN.trunk_length(candidate)
        paths = [
            path
            for path, way in zip(MGN.paths(candidate, shape.channels), tree.ways, strict=True)
            for _ in range(way.times)
        ]
        first, *trunk = paths[0][:shared]
        self.trunk = nn.Sequential(
            stem(first.in_channels, first.out_channels, first.kind), *(block(*part) for part in trunk)
        )
        self.branches = nn.ModuleList(nn.Sequential(*(block(*part) for part in path[shared:])) for path in paths)
        size, stripes = reduction_size(candidate, shape), (candidate.form or Form()).stripes or STRIPES
        part_height = MGN.layout(candidate, shape).necks[1].in_hw[0]  # of the last map of a part branch
        last_channels = paths[-1][-1].out_channels
        self.whole = nn.ModuleList(neck(path[-1].out_channels, (1, 1), size, "reduction") for path in paths)
        # Of each branch, the rows of its stripes: known beforehand, so that no graph computes them.
        if max(stripes) > part_height:  # here, not in `necks_of`: a score looks at smaller images, and at no stripe
            raise UserError(
                f"form.stripes: {max(stripes)} of a part branch, allowed: at most {part_height}, the rows of its last "
                f"map from images of {shape.height} x {shape.width}; a larger image_px or smaller form.strides helps"
            )
        self.rows = [rows_of_stripes(part_height, num) for num in (0, *stripes)]
        self.cut = nn.ModuleList(neck(last_channels, (1, 1), size, "reduction") for _ in range(sum(stripes)))

    def head_layers(self) -> list[nn.Linear]:
        """The fully connected layer of each reduction, in the order of the embedding."""
        return [layer for one in (*self.whole, *self.cut) for layer in one if isinstance(layer, nn.Linear)]

    def vectors(self, image_BCHW: torch.Tensor) -> dict[str, Any]:
        """{"embedding": (B, D); "wide": [(B, C)] of the whole maps before their reduction, one of each branch;
        "whole": [(B, R)] of them after it; "stripes": [(B, R)] of each part branch's stripes}."""
        map_BCHW, left = self.trunk(image_BCHW), list(self.cut)
        wide, whole, stripes = [], [], []
        for branch, reduced, rows in zip(self.branches, self.whole, self.rows, strict=True):
            last_BCHW = branch(map_BCHW)
            wide.append(reduced[:2](last_BCHW))  # its pooling, flat
            whole.append(reduced[2:](wide[-1]))
            for top, bottom in rows:
                stripes.append(left.pop(0)(last_BCHW[:, :, top:bottom]))
        return {"embedding": torch.cat([*whole, *stripes], 1), "wide": wide, "whole": whole, "stripes": stripes}

    def forward(self, image_BCHW: torch.Tensor) -> torch.Tensor:
        return self.vectors(image_BCHW)["embedding"]


def backbone(network: Network) -> nn.Module:
    """The trunk and a part branch: what most of the vectors come through."""
    return nn.Sequential(*network.trunk, *network.branches[-1])


MGN = Family(tree=tree_of, ends=ends_of, necks=necks_of, network=Network, backbone=backbone, graphs=graphs)
