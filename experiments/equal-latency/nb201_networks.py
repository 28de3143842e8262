"""The networks of NAS-Bench-201 (Dong and Yang 2020, arXiv:2001.00326), from the benchmark's own strings."""

import torch
from torch import nn

IMAGE_PX = 32


def relu_conv_norm(in_channels, out_channels, kernel, stride=1):
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class Nothing(nn.Module):
    def forward(self, x):
        return x * 0.0


# channels -> nn.Module
OPERATIONS = {
    "none": lambda _: Nothing(),
    "skip_connect": lambda _: nn.Identity(),
    "nor_conv_1x1": lambda channels: relu_conv_norm(channels, channels, 1),
    "nor_conv_3x3": lambda channels: relu_conv_norm(channels, channels, 3),
    "avg_pool_3x3": lambda _: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
}


def parse(architecture):
    """[[operation of each earlier node] of each node] of the benchmark's own string.

    >>> parse("|none~0|+|skip_connect~0|nor_conv_1x1~1|")
    [['none'], ['skip_connect', 'nor_conv_1x1']]
    """
    return [[edge.split("~")[0] for edge in node.strip("|").split("|")] for node in architecture.split("+")]


class Cell(nn.Module):
    """Four nodes, each the sum of one operation on every earlier one."""

    def __init__(self, nodes, channels):
        super().__init__()
        self.nodes = nn.ModuleList(nn.ModuleList(OPERATIONS[name](channels) for name in node) for node in nodes)

    def forward(self, x):
        features = [x]
        for node in self.nodes:
            features.append(sum(operation(feature) for operation, feature in zip(node, features, strict=True)))
        return features[-1]


class Reduction(nn.Module):
    """A residual block that halves the map and doubles the channels."""

    def __init__(self, channels):
        super().__init__()
        self.residual = nn.Sequential(
            relu_conv_norm(channels, 2 * channels, 3, 2), relu_conv_norm(2 * channels, 2 * channels, 3)
        )
        self.shortcut = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x):
        return self.residual(x) + self.shortcut(x)


def network_of(architecture, *, channels=16, cells=5):
    """The network that the benchmark trains: stem, three stages of cells, reductions between them, BN, ReLU,
    classifier.
    """
    nodes = parse(architecture)
    body = [nn.Sequential(nn.Conv2d(3, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels))]
    for stage in range(3):
        if stage:
            body.append(Reduction(channels))
            channels *= 2
        body += [Cell(nodes, channels) for _ in range(cells)]
    head = [nn.BatchNorm2d(channels), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]
    return nn.Sequential(nn.Sequential(*body), *head)


def is_connected(architecture):
    """Whether anything of a cell's input reaches its output."""
    reached = [True]
    for node in parse(architecture):
        reached.append(any(name != "none" and before for name, before in zip(node, reached, strict=True)))
    return reached[-1]


def macs_of(network):
    """Multiply-accumulates of one image, in convolutions and the classifier."""
    counts = []
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(
                lambda part, _, output: counts.append(part.weight.numel() * output[0, 0].numel())
            )
    with torch.no_grad():
        network(torch.zeros(1, 3, IMAGE_PX, IMAGE_PX))
    return sum(counts)
