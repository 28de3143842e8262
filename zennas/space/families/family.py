"""Family: everything that the other rooms ask about the networks of one kind, as a record of functions."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

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


class Place(NamedTuple):
    """Where the blocks of a stage stand: the first one shrinks its maps, those behind it see what it leaves."""

    stride: int  # of the first block
    in_hw: HW  # before it
    times: int = 1  # how many branches have such blocks, each with weights of its own

    @property
    def out_hw(self) -> HW:
        """Height and width behind the first block."""
        return halved(self.in_hw, self.stride)


class Layout(NamedTuple):
    """What stands where in the networks of a family for a Shape, whatever their widths and depths.

    The parts of a candidate, its cost, its latency, and the sums over a whole space follow from it.
    """

    stems: tuple[End, ...]
    stages: tuple[tuple[Place, ...], ...]  # of each stage, its places: one, or several where branches see other maps
    necks: tuple[End, ...]

    def one_path(self) -> "Layout":
        """One way through it, from the image to what comes out: what depth and the closed form of the score see."""
        stages = tuple((places[0]._replace(times=1),) for places in self.stages)
        return Layout((self.stems[0]._replace(times=1),), stages, (self.necks[0]._replace(times=1),))


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
    """What the genes of a candidate are. Blocks are rows of BLOCKS; UserError where there is no such row."""

    strides: Callable[[int], tuple[int, ...]]  # number of stages -> by how much each of them shrinks its maps
    divisor: Callable[[str, int], int]  # (block, number of stages) -> what divides the height and width of every image
    layout: Callable[[str, int, Shape], Layout]  # (block, number of stages, shape)
    network: Callable[["Candidate", Shape], BuiltNetwork]  # on the current default device
    # (candidate, channels of an image) -> what a score sees: paths of plain parts, from the image to the last map
    paths: Callable[["Candidate", int], tuple[tuple[PlainPart, ...], ...]]
    # Parts of the network that a score of whole blocks sees, as one module: without what comes after the last map.
    backbone: Callable[[Any], nn.Module]
    graphs: Callable[[BuiltNetwork], tuple[Graph, ...]]  # the first is what is exported and timed


def halved(hw: HW, by: int = 2) -> HW:
    """(height, width) behind a stride.

    >>> halved((48, 16)), halved((48, 16), by=4)
    ((24, 8), (12, 4))
    """
    return hw[0] // by, hw[1] // by
