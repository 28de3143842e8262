"""Family: everything that the other rooms ask about the networks of one kind, as a record of functions."""

import dataclasses
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from zennas.space.blocks import Ends, stride_of
from zennas.space.shape import Shape

if TYPE_CHECKING:
    from zennas.space.candidate import Candidate

HW = tuple[int, int]


class End(NamedTuple):
    """What networks begin or end with."""

    kind: str  # a row of STEMS or of NECKS
    channels: int  # a stem's of the image; a neck's is the size of what comes out
    stride: int
    in_hw: HW  # height and width of what it sees
    times: int = 1
    behind: int = -1  # a neck's: the stage whose maps it sees, the last one unless there are several ways


class Place(NamedTuple):
    """Where the blocks of a stage stand: the first one shrinks its maps, those behind it see what it leaves."""

    stride: int  # of the first block
    in_hw: HW  # before it
    times: int = 1  # how many branches have such blocks, each with weights of its own

    @property
    def out_hw(self) -> HW:
        """Height and width behind the first block."""
        return strided(self.in_hw, self.stride)


class Way(NamedTuple):
    """One way through a network, from the image to a last map."""

    stages: tuple[int, ...]  # which stages it passes, in order
    strides: tuple[int, ...]  # by how much each of them shrinks its maps
    times: int = 1  # how many branches are such, each with weights of its own
    name: str = ""  # for people, where there are several


class Tree(NamedTuple):
    """The ways through the networks of a kind. A chain has one."""

    shared: int  # the first so many stages of every way are the trunk, which all branches share
    ways: tuple[Way, ...]

    @property
    def num_branches(self) -> int:
        """How many last maps there are."""
        return sum(way.times for way in self.ways)

    @property
    def before(self) -> tuple[int, ...]:
        """Of each stage, what it stands behind: 0 for the stem, s + 1 for stage s.

        >>> Tree(1, (Way((0, 1), (2, 2)), Way((0, 2), (2, 1)))).before
        (0, 1, 1)
        """
        known = {}
        for way in self.ways:
            known |= {stage: last + 1 for last, stage in zip((-1, *way.stages), way.stages, strict=False)}
        return tuple(known[stage] for stage in sorted(known))

    @property
    def strides(self) -> tuple[int, ...]:
        """By how much each stage shrinks its maps, on the first way that passes it."""
        known = {}
        for way in reversed(self.ways):
            known |= dict(zip(way.stages, way.strides, strict=True))
        return tuple(known[stage] for stage in sorted(known))

    @property
    def divisor(self) -> int:
        """What each side of an image must be divisible by behind the stem, for the stages of every way to shrink it."""
        return math.lcm(*(math.prod(way.strides) for way in self.ways))


class Layout(NamedTuple):
    """What stands where in the networks of a family for a Shape, whatever their widths and depths.

    The parts of a candidate, its cost, its latency, and the sums over a whole space follow from it.
    """

    stems: tuple[End, ...]
    stages: tuple[tuple[Place, ...], ...]  # of each stage, its places: one, or several where branches see other maps
    necks: tuple[End, ...]
    before: tuple[int, ...]  # of each stage, what it stands behind: 0 for the stem, s + 1 for stage s

    def one_path(self) -> "Layout":
        """Every stage once, as on one way through it: what depth is counted by."""
        stages = tuple((places[0]._replace(times=1),) for places in self.stages)
        return self._replace(stems=self.stems[:1], stages=stages, necks=(self.necks[0]._replace(times=1),))

    def along(self, way: Way, *, num_stages: int | None = None) -> "Layout":
        """One way through it, from the image to its last map: what the closed form of the score sees.

        num_stages: of the way, the first so many, so that the last of them leaves the last map; None: all.
        """
        passed = way.stages[:num_stages]
        stages = [()] * len(self.stages)
        for stage, stride in zip(passed, way.strides, strict=False):
            place = next(place for place in self.stages[stage] if place.stride == stride)
            stages[stage] = (place._replace(times=1),)
        neck = self.necks[0]._replace(times=1, behind=passed[-1])
        return self._replace(stems=self.stems[:1], stages=tuple(stages), necks=(neck,))


class BuiltNetwork(nn.Module):
    """A network of any family: it knows what it was built from."""

    def __init__(self, candidate: "Candidate", shape: Shape):
        super().__init__()
        self.candidate, self.shape, self.input_shape = candidate, shape, shape.image

    def head_layers(self) -> list[nn.Linear]:
        """The fully connected layers that give what comes out."""
        raise NotImplementedError


class Graph(NamedTuple):
    """A module as it is exported and timed: one ONNX file."""

    name: str
    module: nn.Module
    inputs: dict[str, tuple[int, ...]]  # name -> shape of one sample
    outputs: tuple[str, ...]


class PlainPart(NamedTuple):
    """One part of a plain path, as `blocks.plain_part` takes it."""

    kind: str
    in_channels: int
    out_channels: int
    stride: int


@dataclasses.dataclass(frozen=True)
class Family:
    """What the genes of a candidate are. Blocks are rows of BLOCKS; UserError where there is no such row.

    A member is a Candidate or a Space: it has a block, a form, and as many widths as stages.
    """

    # The ways through the networks; UserError where the member's form is none of the family's.
    tree: Callable[[Any], Tree]
    ends: Callable[[str], Ends]  # what the networks of a block begin with, and what the score's last maps go into
    # (member, shape, (height, width) of the last map of each way) -> what stands behind the last maps
    necks: Callable[[Any, Shape, tuple[HW, ...]], tuple[End, ...]]
    network: Callable[["Candidate", Shape], BuiltNetwork]  # on the current default device
    # Parts of the network that a score of whole blocks sees, as one module: without what comes after the last map.
    backbone: Callable[[Any], nn.Module]
    graphs: Callable[[BuiltNetwork], tuple[Graph, ...]]  # the first is what is exported and timed

    def divisor(self, member: Any) -> int:
        """What divides the height and width of every image."""
        return stride_of(self.ends(member.block).stem) * self.tree(member).divisor

    def layout(self, member: Any, shape: Shape) -> Layout:
        """The Layout of a member's networks for a Shape whose sides `divisor` divides."""
        tree, stem = self.tree(member), self.ends(member.block).stem
        stride = stride_of(stem)
        places, last_hws = [{} for _ in tree.before], []
        for number, way in enumerate(tree.ways):
            maps = itertools.accumulate(way.strides, strided, initial=strided(shape.hw, stride))
            *before, last_hw = maps
            last_hws.append(last_hw)
            for at, (stage, *where) in enumerate(zip(way.stages, way.strides, before, strict=True)):
                if at >= tree.shared:
                    places[stage][tuple(where)] = places[stage].get(tuple(where), 0) + way.times
                elif number == 0:
                    places[stage][tuple(where)] = 1
        return Layout(
            stems=(End(stem, shape.channels, stride, shape.hw),),
            stages=tuple(tuple(Place(*where, times) for where, times in stage.items()) for stage in places),
            necks=self.necks(member, shape, tuple(last_hws)),
            before=tree.before,
        )

    def paths(self, candidate: "Candidate", channels: int) -> tuple[tuple[PlainPart, ...], ...]:
        """What a score sees: of each way, its plain parts from an image of so many channels to its last map."""
        return tuple(self.path(candidate, channels, way) for way in self.tree(candidate).ways)

    def path(self, candidate: "Candidate", channels: int, way: Way) -> tuple[PlainPart, ...]:
        """The plain parts of one way: the stem and every block.

        >>> from zennas.space.candidate import Candidate
        >>> from zennas.space.families.chain import CHAIN
        >>> (path,) = CHAIN.paths(Candidate(block="ir", stem=16, widths=(32,), depths=(2,)), 3)
        >>> [tuple(part) for part in path]
        [('stem', 3, 16, 1), ('ir', 16, 32, 2), ('ir', 32, 32, 1)]
        """
        stem = self.ends(candidate.block).stem
        parts = [PlainPart(stem, channels, candidate.stem, stride_of(stem))]
        for stage, stride in zip(way.stages, way.strides, strict=True):
            width = candidate.widths[stage]
            parts.append(PlainPart(candidate.block, parts[-1].out_channels, width, stride))
            parts += [PlainPart(candidate.block, width, width, 1)] * (candidate.depths[stage] - 1)
        return tuple(parts)

    def trunk_length(self, candidate: "Candidate") -> int:
        """How many parts of every path the branches share: the stem and the blocks of the trunk."""
        tree = self.tree(candidate)
        return 1 + sum(candidate.depths[stage] for stage in tree.ways[0].stages[: tree.shared])


def strided(hw: HW, stride: int) -> HW:
    """(height, width) behind a stride.

    >>> strided((48, 16), 2), strided((48, 16), 4)
    ((24, 8), (12, 4))
    """
    return hw[0] // stride, hw[1] // stride
