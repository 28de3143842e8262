"""Blocks, stems and necks as published networks of whole images and of people have them: ReLU behind the sum, a stem
that pools, and an embedding that is read from the mean of the last map.

Their rows stand in blocks.py.
"""

import torch
from torch import nn

from zennas.space.residual import Reparameterised, Residual, projection

MOBILENETV2_EXPANSION, MOBILENETV2_HEAD, OSNET_HEAD = 6, 1280, 512
STREAMS = 4  # of a block of OSNet: 3x3 convolutions one, two, three and four times


def convolved(in_channels: int, out_channels: int, kernel: int, stride: int = 1, **options) -> list[nn.Module]:
    """[Convolution without bias, its norm, ReLU]; padded so that only the stride shrinks the maps."""
    convolution = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False, **options)
    return [convolution, nn.BatchNorm2d(out_channels), nn.ReLU()]


def resnet_bottleneck(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Conv1x1 - BN - ReLU - conv3x3(stride) - BN - ReLU - conv1x1 - BN, plus the shortcut, then ReLU; a quarter as
    wide inside.

    Source: He et al. 2016, arXiv:1512.03385; torchvision's resnet.py (the stride on the 3x3).
    """
    inner_channels = max(1, out_channels // 4)
    residual = [
        *convolved(in_channels, inner_channels, 1),
        *convolved(inner_channels, inner_channels, 3, stride),
        *convolved(inner_channels, out_channels, 1)[:2],
    ]
    return Residual(residual, shortcut=projection(in_channels, out_channels, stride), after=nn.ReLU())


def resnet_basic(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Conv3x3(stride) - BN - ReLU - conv3x3 - BN, plus the shortcut, then ReLU.

    Source: He et al. 2016, arXiv:1512.03385; torchvision's resnet.py (18 and 34).
    """
    residual = [*convolved(in_channels, out_channels, 3, stride), *convolved(out_channels, out_channels, 3)[:2]]
    return Residual(residual, shortcut=projection(in_channels, out_channels, stride), after=nn.ReLU())


def repvgg(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """RepVGG's block: three branches while it is trained, one 3x3 convolution and ReLU where it runs."""
    return Reparameterised(in_channels, out_channels, stride)


def mobilenetv2(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Conv1x1 - BN - ReLU6 - depthwise conv3x3(stride) - BN - ReLU6 - conv1x1 - BN, six times as wide inside as what
    comes in, plus the identity where the shape stays.

    Source: Sandler et al. 2018, arXiv:1801.04381; torchvision's mobilenetv2.py.
    """
    inner_channels = MOBILENETV2_EXPANSION * in_channels
    residual = [
        *_six(convolved(in_channels, inner_channels, 1)),
        *_six(convolved(inner_channels, inner_channels, 3, stride, groups=inner_channels)),
        *convolved(inner_channels, out_channels, 1)[:2],
    ]
    keeps = stride == 1 and in_channels == out_channels
    return Residual(residual, shortcut=nn.Identity() if keeps else None)


def _six(layers):
    return [*layers[:2], nn.ReLU6()]


def light_convolution(channels: int) -> list[nn.Module]:
    """[Conv1x1, depthwise conv3x3, BN, ReLU]: OSNet's Lite 3x3."""
    return [nn.Conv2d(channels, channels, 1, bias=False), *convolved(channels, channels, 3, groups=channels)]


class Gate(nn.Module):
    """x_BCHW -> x_BCHW, each channel scaled in (0, 1) by an MLP of the channels' means, with biases.

    Every stream of an OmniScale goes through the one Gate that they share.
    """

    def __init__(self, channels, reduction=16):
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.mlp = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def macs(self) -> int:
        """Of one image: every weight meets the mean of each stream."""
        return STREAMS * sum(layer.weight.numel() for layer in self.mlp if isinstance(layer, nn.Conv2d))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW * self.mlp(x_BCHW)


class OmniScale(nn.Module):
    """x_BCHW -> ReLU(expand(sum of gate(stream(reduce(x)))) + shortcut(x)); a quarter as wide inside.

    The four streams see ever more of the map: 3x3, 5x5, 7x7, 9x9. Where the stride is 2, OSNet's transition comes
    first: conv1x1 - BN - ReLU - mean of 2x2, of the width that comes in.
    Source: Zhou et al. 2019, arXiv:1905.00953; torchreid's osnet.py.
    """

    attention, after = nn.Identity(), None  # as every block has them; the score sees the longest stream

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        inner_channels = max(1, out_channels // 4)
        before = [] if stride == 1 else [*convolved(in_channels, in_channels, 1), nn.AvgPool2d(stride)]
        self.transition = nn.Sequential(*before)
        self.reduce = nn.Sequential(*convolved(in_channels, inner_channels, 1))
        self.streams = nn.ModuleList(
            nn.Sequential(*(layer for _ in range(times) for layer in light_convolution(inner_channels)))
            for times in range(1, STREAMS + 1)
        )
        self.gate = Gate(inner_channels)
        self.expand = nn.Sequential(*convolved(inner_channels, out_channels, 1)[:2])
        self.shortcut = projection(in_channels, out_channels, 1)
        self.activation = nn.ReLU()

    @property
    def residual(self) -> nn.Sequential:
        """The plain path: the transition, then the longest stream alone."""
        return nn.Sequential(*self.transition, *self.reduce, *self.streams[-1], *self.expand, self.activation)

    @property
    def steps(self) -> tuple[nn.Module, ...]:
        """(what runs first, at the resolution that comes in; all that runs behind it, at the one that it leaves)."""
        return self.transition, self.reduce, *self.streams, self.gate, self.expand, self.shortcut

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = self.transition(x_BCHW)
        inner_BCHW = self.reduce(x_BCHW)
        first, *more = self.streams
        summed_BCHW = self.gate(first(inner_BCHW))
        for stream in more:
            summed_BCHW = summed_BCHW + self.gate(stream(inner_BCHW))
        return self.activation(self.expand(summed_BCHW) + self.shortcut(x_BCHW))


def osnet(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """OSNet's block of four streams, behind its transition where the stride is 2."""
    return OmniScale(in_channels, out_channels, stride)


def pooled_stem(in_channels: int, channels: int) -> nn.Module:
    """Conv7x7(stride 2) - BN - ReLU - largest of 3x3 (stride 2), from the channels of an image. Source: ResNet."""
    return nn.Sequential(*convolved(in_channels, channels, 7, 2), nn.MaxPool2d(3, 2, 1))


def repvgg_stem(in_channels: int, channels: int) -> nn.Module:
    """RepVGG's block that halves the image. Source: Ding et al. 2021, stage 0."""
    return nn.Sequential(Reparameterised(in_channels, channels, 2))


def mobilenetv2_stem(in_channels: int, channels: int) -> nn.Module:
    """Conv3x3(stride 2) - BN - ReLU6 - depthwise conv3x3 - BN - ReLU6 - conv1x1 - BN, twice as wide inside.

    MobileNetV2's first convolution (32 channels) and its first block (16), which has no expansion.
    """
    inner_channels = 2 * channels
    return nn.Sequential(
        *_six(convolved(in_channels, inner_channels, 3, 2)),
        *_six(convolved(inner_channels, inner_channels, 3, groups=inner_channels)),
        *convolved(inner_channels, channels, 1)[:2],
    )


def mean_neck(channels: int, hw: tuple[int, int], embedding_size: int) -> nn.Module:
    """Mean of the map - FC without bias where the sizes differ - BN: the BNNeck.

    hw: not asked, a mean is of any map. Source: Luo et al. 2019 (bag of tricks), arXiv:1903.07071; the fully connected
    layer, for embeddings of another size than the last map's channels, is ours.
    """
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        *([] if channels == embedding_size else [nn.Linear(channels, embedding_size, bias=False)]),
        nn.BatchNorm1d(embedding_size),
    )


def mobilenetv2_neck(channels: int, hw: tuple[int, int], embedding_size: int) -> nn.Module:
    """Conv1x1 to 1280 channels - BN - ReLU6, then as `mean_neck`. Source: Sandler et al. 2018, table 2."""
    head = _six(convolved(channels, MOBILENETV2_HEAD, 1))
    return nn.Sequential(*head, *mean_neck(MOBILENETV2_HEAD, hw, embedding_size))


def osnet_neck(channels: int, hw: tuple[int, int], embedding_size: int) -> nn.Module:
    """Conv1x1 to 512 channels - BN - ReLU - mean of the map - FC - BN.

    Source: torchreid's osnet.py, but for the ReLU behind its last norm: an embedding ends in its norm.
    """
    return nn.Sequential(
        *convolved(channels, OSNET_HEAD, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(OSNET_HEAD, embedding_size),
        nn.BatchNorm1d(embedding_size),
    )


def reduction(channels: int, hw: tuple[int, int], embedding_size: int) -> nn.Module:
    """Largest value of each channel over the map - FC without bias - BN - ReLU: one of MGN's eight vectors.

    hw: of the map, or of the stripe of it that this one sees. Source: Wang et al. 2018 (MGN), arXiv:1804.01438, whose
    1x1 convolution over one position is a fully connected layer.
    """
    return nn.Sequential(
        nn.AdaptiveMaxPool2d(1),
        nn.Flatten(),
        nn.Linear(channels, embedding_size, bias=False),
        nn.BatchNorm1d(embedding_size),
        nn.ReLU(),
    )
