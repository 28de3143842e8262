"""The blocks of a stage, and what their networks begin and end with. One row of BLOCKS is all that a new block takes.

A block is an nn.Module with these parts:
- `residual`: a Sequential of convolutions, norms and activations; the Zen-Score sees only this part
- `attention`: stands behind `residual`, in the built network only; its `attention_maps` names the modules whose outputs
  go into the sigmoid, in the order in which they run
- `shortcut`: is added to the result; None where there is none
- `after`: an activation behind the sum, where there is one; the Zen-Score sees it, too
A block that is deployed otherwise than it is trained has a method `deployed` (residual.py).

Networks begin and end as IResNet does, unless ENDS names other rows of STEMS and NECKS for their block.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import nn

from zennas.records import UserError, suggestion
from zennas.space import published_blocks as published
from zennas.space.residual import Residual, projection
from zennas.space.undrawn import undrawn


class SqueezeExcitation(nn.Module):
    """Channel attention: x_BCHW -> x_BCHW, each channel scaled by a number in (0, 1).

    Source: Hu et al. 2018, arXiv:1709.01507; reduction 16, 1x1 convolutions without bias (TFace's model_irse.py).
    """

    def __init__(self, channels, reduction=16):
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1, bias=False),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1, bias=False),
            nn.Sigmoid(),
        )

    @property
    def attention_maps(self) -> tuple[nn.Module, ...]:
        return (self.gate[-2],)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return x_BCHW * self.gate(x_BCHW)


class ChannelMap(nn.Module):
    """x_BCHW -> map_BC11: one MLP's answer to each channel's mean, plus its answer to each channel's largest value."""

    def __init__(self, channels, reduction):
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.mean, self.largest = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1, bias=False), nn.ReLU(), nn.Conv2d(squeezed, channels, 1, bias=False)
        )

    def macs(self) -> int:
        """Of one image: every weight meets the mean and the largest value."""
        return 2 * sum(weight.numel() for weight in self.mlp.parameters())

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        # Side by side through the MLP once: at batch 1 a latency is the number of operators rather than their size.
        pooled_BC12 = torch.cat([self.mean(x_BCHW), self.largest(x_BCHW)], dim=3)
        return self.mlp(pooled_BC12).sum(3, keepdim=True)


class SpatialMap(nn.Module):
    """x_BCHW -> map_B1HW: a convolution over the mean and the largest value of all channels at each position."""

    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        return self.conv(torch.cat([x_BCHW.mean(1, keepdim=True), x_BCHW.amax(1, keepdim=True)], dim=1))


class ConvolutionalAttention(nn.Module):
    """CBAM, channel and then spatial attention: x_BCHW -> x_BCHW, each channel and then each position scaled in (0, 1).

    Source: Woo et al. 2018, arXiv:1807.06521; reduction 16, a 3x3 spatial convolution (the paper has 7x7 and a norm)
    and no biases as in A-SKD's model/backbone.py (Shin et al. 2022, arXiv:2209.14498).
    """

    def __init__(self, channels, reduction=16, kernel=3):
        super().__init__()
        self.channel = ChannelMap(channels, reduction)
        self.spatial = SpatialMap(kernel)

    @property
    def attention_maps(self) -> tuple[nn.Module, ...]:
        return (self.channel, self.spatial)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x_BCHW = x_BCHW * torch.sigmoid(self.channel(x_BCHW))
        return x_BCHW * torch.sigmoid(self.spatial(x_BCHW))


def improved_residual(
    in_channels: int,
    out_channels: int,
    stride: int,
    *,
    attention: Callable[[int], nn.Module] | None = None,
    shortcut: Callable[[int, int, int], nn.Module] | None = None,
    inner_norm: bool = True,
) -> nn.Module:
    """The IR block of ArcFace: BN - conv3x3 - BN - PReLU - conv3x3(stride) - BN, plus the shortcut.

    The stride sits on the second convolution. shortcut: `projection`, unless another one is given. inner_norm: whether
    a norm stands between the first convolution and PReLU.
    Source: Deng et al. 2019, arXiv:1801.07698; insightface's iresnet.py.
    """
    residual = [
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
        *([nn.BatchNorm2d(out_channels)] if inner_norm else []),
        nn.PReLU(out_channels),
        nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    return Residual(
        residual,
        shortcut=(shortcut or projection)(in_channels, out_channels, stride),
        attention=attention and attention(out_channels),
    )


def picked(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Every stride-th position as it is where the widths agree, else conv1x1(stride) - BN.

    Source: the IR blocks of face.evoLVe and TFace, which have max-pooling of 1x1 there.
    """
    if in_channels != out_channels:
        return projection(in_channels, out_channels, stride)
    return nn.Identity() if stride == 1 else nn.MaxPool2d(1, stride)


def depthwise_separable(in_channels: int, inner_channels: int, out_channels: int, stride: int) -> nn.Module:
    """Conv1x1 - BN - PReLU - depthwise conv3x3(stride) - BN - PReLU - conv1x1 - BN.

    Plus the identity where input and output have one shape.
    Source: Sandler et al. 2018 (MobileNetV2), arXiv:1801.04381, with the PReLU of MobileFaceNet; no shortcut where the
    shape changes, as in both.
    """
    residual = [
        nn.Conv2d(in_channels, inner_channels, 1, bias=False),
        nn.BatchNorm2d(inner_channels),
        nn.PReLU(inner_channels),
        nn.Conv2d(inner_channels, inner_channels, 3, stride, 1, groups=inner_channels, bias=False),
        nn.BatchNorm2d(inner_channels),
        nn.PReLU(inner_channels),
        nn.Conv2d(inner_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    ]
    keeps = stride == 1 and in_channels == out_channels
    return Residual(residual, shortcut=nn.Identity() if keeps else None)


def ir(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The improved residual block."""
    return improved_residual(in_channels, out_channels, stride)


def ir_se(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The improved residual block with squeeze-excitation."""
    return improved_residual(in_channels, out_channels, stride, attention=SqueezeExcitation)


def ir_cbam(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The improved residual block with channel and spatial attention (CBAM), whose maps A-SKD distils."""
    return improved_residual(in_channels, out_channels, stride, attention=ConvolutionalAttention)


def ir_tface(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The improved residual block of TFace: where only the size changes, its shortcut picks positions.

    Source: TFace's model_irse.py (IR_18 to IR_101).
    """
    return improved_residual(in_channels, out_channels, stride, shortcut=picked)


def ir_se_tface(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """TFace's improved residual block with squeeze-excitation: IR_SE_50, IR_SE_101."""
    return improved_residual(in_channels, out_channels, stride, attention=SqueezeExcitation, shortcut=picked)


def ir_evolve(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The improved residual block of face.evoLVe: TFace's without the norm between the first convolution and PReLU.

    Source: face.evoLVe's model_irse.py (IR_50 to IR_152).
    """
    return improved_residual(in_channels, out_channels, stride, shortcut=picked, inner_norm=False)


def ir_se_evolve(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """face.evoLVe's improved residual block with squeeze-excitation: IR_SE_50 to IR_SE_152."""
    return improved_residual(
        in_channels, out_channels, stride, attention=SqueezeExcitation, shortcut=picked, inner_norm=False
    )


def inverted_residual(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """MobileFaceNet's block: twice as wide inside as the block's own width.

    That is the paper's expansion (2 where the stride is 1; 4 where stage 2 doubles the width; 2 at the head of stage 1)
    but for one block, the head of its last stage, which the paper makes four times as wide inside: the width and the
    stride, all that a block knows, do not tell it from the head of stage 1.
    Source: Chen et al. 2018, arXiv:1804.07573, table 1; insightface's mobilefacenet.py at scale 1.
    """
    return depthwise_separable(in_channels, 2 * out_channels, out_channels, stride)


def separable_residual(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The block of insightface's "mbf": as wide inside as outside.

    Its networks of scale 2 double MobileFaceNet's widths and keep the widths inside, except in the head of the last
    stage, as above.
    Source: insightface's mobilefacenet.py.
    """
    return depthwise_separable(in_channels, out_channels, out_channels, stride)


def narrow_residual(in_channels: int, out_channels: int, strides: tuple[int, int]) -> list[nn.Module]:
    """BN - conv1x1 - BN - PReLU - conv3x3 - BN - PReLU - conv1x1 - BN, a quarter as wide inside.

    strides: of the 3x3 and of the last 1x1.
    """
    inner_channels = max(1, out_channels // 4)
    return [
        nn.BatchNorm2d(in_channels),
        nn.Conv2d(in_channels, inner_channels, 1, bias=False),
        nn.BatchNorm2d(inner_channels),
        nn.PReLU(inner_channels),
        nn.Conv2d(inner_channels, inner_channels, 3, strides[0], 1, bias=False),
        nn.BatchNorm2d(inner_channels),
        nn.PReLU(inner_channels),
        nn.Conv2d(inner_channels, out_channels, 1, strides[1], bias=False),
        nn.BatchNorm2d(out_channels),
    ]


def bottleneck(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """ResNet's bottleneck in the face form: BN - conv1x1 - BN - PReLU - conv3x3(stride) - BN - PReLU - conv1x1 - BN,
    plus the shortcut of the IR block; a quarter as wide inside.

    The stride sits on the 3x3, as torchvision has it.
    Source: He et al. 2016, arXiv:1512.03385; TFace's model_irse.py (the norm in front, PReLU, nothing after the sum).
    """
    residual = narrow_residual(in_channels, out_channels, (stride, 1))
    return Residual(residual, shortcut=projection(in_channels, out_channels, stride))


def bottleneck_tface(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The bottleneck of TFace's IR_152 and IR_200: the stride sits on the last 1x1, which throws three quarters of the
    3x3 convolution's work away.

    Source: TFace's model_irse.py.
    """
    residual = narrow_residual(in_channels, out_channels, (1, stride))
    return Residual(residual, shortcut=picked(in_channels, out_channels, stride))


def bottleneck_se_tface(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """TFace's bottleneck with squeeze-excitation: IR_SE_152, IR_SE_200."""
    residual = narrow_residual(in_channels, out_channels, (1, stride))
    shortcut = picked(in_channels, out_channels, stride)
    return Residual(residual, shortcut=shortcut, attention=SqueezeExcitation(out_channels))


def full_stem(in_channels: int, channels: int) -> nn.Module:
    """Conv3x3 - BN - PReLU at full resolution, from the channels of an image. Source: insightface's iresnet.py."""
    convolution = nn.Conv2d(in_channels, channels, 3, 1, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(channels), nn.PReLU(channels))


def mobile_stem(in_channels: int, channels: int) -> nn.Module:
    """Conv3x3(stride 2) - BN - PReLU - depthwise conv3x3 - BN - PReLU, from the channels of an image.

    Source: Chen et al. 2018 (MobileFaceNet), arXiv:1804.07573, table 1. Insightface's mbf differs: its second
    convolution has groups of two.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels),
        nn.PReLU(channels),
        nn.Conv2d(channels, channels, 3, 1, 1, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.PReLU(channels),
    )


def flat_neck(channels: int, hw: tuple[int, int], embedding_size: int) -> nn.Module:
    """BN - flatten - FC - BN: the embedding is read from every position of the last map, not from their mean.

    Source: insightface's iresnet.py.
    """
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Flatten(),
        nn.Linear(channels * hw[0] * hw[1], embedding_size),
        nn.BatchNorm1d(embedding_size),
    )


GDC_CHANNELS = 512  # of MobileFaceNet's head, whatever the widths before it


def gdc_neck(channels: int, hw: tuple[int, int], embedding_size: int) -> nn.Module:
    """Conv1x1 - BN - PReLU - depthwise convolution over the whole map - BN - flatten - FC without bias - BN.

    The global depthwise convolution (GDC) weighs the positions of each channel apart; the flat neck weighs them all
    together.
    Source: Chen et al. 2018 (MobileFaceNet), arXiv:1804.07573; insightface's mobilefacenet.py.
    """
    return nn.Sequential(
        nn.Conv2d(channels, GDC_CHANNELS, 1, bias=False),
        nn.BatchNorm2d(GDC_CHANNELS),
        nn.PReLU(GDC_CHANNELS),
        nn.Conv2d(GDC_CHANNELS, GDC_CHANNELS, hw, groups=GDC_CHANNELS, bias=False),
        nn.BatchNorm2d(GDC_CHANNELS),
        nn.Flatten(),
        nn.Linear(GDC_CHANNELS, embedding_size, bias=False),
        nn.BatchNorm1d(embedding_size),
    )


# (in_channels, out_channels, stride) -> nn.Module
BLOCKS = {
    "ir": ir,
    "ir_se": ir_se,
    "ir_cbam": ir_cbam,
    "inverted_residual": inverted_residual,
    "separable_residual": separable_residual,
    "bottleneck": bottleneck,
    # as published weights of other projects have them
    "ir_tface": ir_tface,
    "ir_se_tface": ir_se_tface,
    "bottleneck_tface": bottleneck_tface,
    "bottleneck_se_tface": bottleneck_se_tface,
    "ir_evolve": ir_evolve,
    "ir_se_evolve": ir_se_evolve,
    # of networks of whole images and of people
    "resnet_bottleneck": published.resnet_bottleneck,
    "resnet_basic": published.resnet_basic,
    "repvgg": published.repvgg,
    "mobilenetv2": published.mobilenetv2,
    "osnet": published.osnet,
}
# (channels of an image, channels) -> nn.Sequential that sees the image; the strides of its convolutions and poolings
# say by how much it shrinks it
STEMS = {
    "stem": full_stem,
    "mobile_stem": mobile_stem,
    "pooled_stem": published.pooled_stem,
    "repvgg_stem": published.repvgg_stem,
    "mobilenetv2_stem": published.mobilenetv2_stem,
}
# (channels, (height, width) of the last map, embedding_size) -> nn.Sequential, whose last norm is the embedding's
NECKS = {
    "neck": flat_neck,
    "gdc_neck": gdc_neck,
    "mean_neck": published.mean_neck,
    "mobilenetv2_neck": published.mobilenetv2_neck,
    "osnet_neck": published.osnet_neck,
    "reduction": published.reduction,
}
# block -> (row of STEMS, row of NECKS), where they are not "stem" and "neck"
ENDS = {
    "inverted_residual": ("mobile_stem", "gdc_neck"),
    "separable_residual": ("mobile_stem", "gdc_neck"),
    "resnet_bottleneck": ("pooled_stem", "mean_neck"),
    "resnet_basic": ("pooled_stem", "mean_neck"),
    "repvgg": ("repvgg_stem", "mean_neck"),
    "mobilenetv2": ("mobilenetv2_stem", "mobilenetv2_neck"),
    "osnet": ("pooled_stem", "osnet_neck"),
}


def stem(in_channels: int, out_channels: int, kind: str) -> nn.Module:
    """What sees the image first: a row of STEMS."""
    return STEMS[kind](in_channels, out_channels)


def neck(channels: int, hw: tuple[int, int], embedding_size: int, kind: str) -> nn.Module:
    """What turns the last map, of (height, width), into the embedding: a row of NECKS."""
    return NECKS[kind](channels, hw, embedding_size)


def block(name: str, in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """One block of BLOCKS; UserError where there is no such row."""
    check_block(name)
    return BLOCKS[name](in_channels, out_channels, stride)


def check_block(name: str) -> None:
    """UserError where BLOCKS has no such row."""
    if name not in BLOCKS:
        raise UserError(f"block '{name}' is not known; {suggestion(name, list(BLOCKS))}")


class Ends(NamedTuple):
    """What the networks of a block begin and end with."""

    stem: str  # a row of STEMS
    neck: str  # a row of NECKS


def ends(name: str) -> Ends:
    """The Ends of a block's networks; UserError where BLOCKS has no such row."""
    check_block(name)
    return Ends(*ENDS.get(name, ("stem", "neck")))


def stem_stride(name: str) -> int:
    """By how much the stem of a block's networks shrinks the image."""
    return stride_of(ends(name).stem)


LARGE_PX = 64  # divisible by what any stem divides an image by


@functools.cache
def stride_of(kind: str) -> int:
    """By how much a row of STEMS shrinks the image."""
    with undrawn("cpu"), torch.no_grad():
        image_1CHW = torch.zeros(1, 1, LARGE_PX, LARGE_PX)
        return LARGE_PX // stem(1, 1, kind).eval()(image_1CHW).shape[2]


def plain_part(kind: str, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The convolutions, norms and activations that the plain network has of a block or of a row of STEMS.

    A pooling picks every stride-th position there: where it stands is the same for all networks of a space, and a
    picked position is exact in the closed form of the score, too.
    """
    if kind in STEMS:
        made = stem(in_channels, out_channels, kind)
        layers = [part for layer in made for part in (plain_of(layer) if hasattr(layer, "residual") else [layer])]
    else:
        layers = plain_of(block(kind, in_channels, out_channels, stride))
    poolings = nn.MaxPool2d | nn.AvgPool2d
    return nn.Sequential(*(nn.MaxPool2d(1, layer.stride) if isinstance(layer, poolings) else layer for layer in layers))


def plain_of(made: nn.Module) -> list[nn.Module]:
    """The layers of a block that the plain network has of it: its branch, and what stands behind the sum."""
    after = getattr(made, "after", None)
    return [*made.residual, *([] if after is None else [after])]
