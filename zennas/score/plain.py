"""The plain network of a candidate as a flat list of layers: all that the Zen-Score sees of it."""

import functools
from typing import NamedTuple

from torch import nn

from zennas.space import network as networks
from zennas.space.blocks import plain_part
from zennas.space.candidate import Candidate
from zennas.space.undrawn import undrawn


class Convolution(NamedTuple):
    """A convolution of the plain network, without bias."""

    shape: tuple[int, int, int, int]  # out, in / groups, kernel, kernel
    stride: int
    padding: int
    groups: int


class Norm(NamedTuple):
    """A BatchNorm of the plain network."""

    eps: float


class Activation(NamedTuple):
    """A piecewise linear activation, with slope 1 above zero."""

    slope_below_zero: float


class Picked(NamedTuple):
    """Every stride-th position, instead of a pooling."""

    stride: int


def plain_layers(candidate: Candidate, channels: int) -> list | None:
    """The plain paths of a candidate for images of so many channels as one flat list of layers, way after way; None if
    there is a layer that the fast way does not know.
    """
    paths = networks.plain_paths(candidate, channels)
    layers = [layer for path in paths for part in path for layer in part_layers(*part)]
    return None if None in layers else layers


@functools.lru_cache(maxsize=65536)
def part_layers(kind: str, in_channels: int, out_channels: int, stride: int) -> tuple:
    """The plain layers of one part of a network, a block or a row of STEMS, as a tuple; None stands for each unknown
    one.
    """
    with undrawn():
        return tuple(_layer(module) for module in plain_part(kind, in_channels, out_channels, stride))


def _layer(module):
    match module:
        case nn.Conv2d(bias=None, dilation=(1, 1), padding_mode="zeros"):
            return Convolution(tuple(module.weight.shape), module.stride[0], module.padding[0], module.groups)
        case nn.BatchNorm2d():
            return Norm(module.eps)
        case nn.ReLU() | nn.ReLU6():  # nothing is six standard deviations from its norm's mean
            return Activation(0.0)
        case nn.MaxPool2d(kernel_size=1, padding=0):
            return Picked(module.stride)
        case nn.LeakyReLU():
            return Activation(module.negative_slope)
        case nn.PReLU():
            return Activation(module.init)
    return None
