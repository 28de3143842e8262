"""The blocks of a stage. One row of BLOCKS is all that a new block takes.

A block is an nn.Module with two parts: `residual`, a Sequential of convolutions, norms and activations, of which the
Zen-Score sees nothing but those, and `shortcut`; attention that only the built network has comes behind `residual`.
Attention says in `attention_maps` which of its parts give what goes into the sigmoid, in the order in which they run.
"""

import torch
from torch import nn


class SqueezeExcitation(nn.Module):
    """Channel attention: x_BCHW -> x_BCHW, each channel scaled by a number in (0, 1).

    Source: Hu et al. 2018, arXiv:1709.01507; reduction 16 and 1x1 convolutions without bias as in TFace's model_irse.py.
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
    def attention_maps(self):
        return (self.gate[-2],)

    def forward(self, x_BCHW):
        return x_BCHW * self.gate(x_BCHW)


class ChannelMap(nn.Module):
    """x_BCHW -> map_BC11: what one MLP says of each channel's mean, plus what it says of each channel's largest value."""

    def __init__(self, channels, reduction):
        super().__init__()
        squeezed = max(1, channels // reduction)
        self.mean, self.largest = nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1, bias=False), nn.ReLU(), nn.Conv2d(squeezed, channels, 1, bias=False)
        )

    def macs(self):
        """Of one image: every weight meets the mean and the largest value."""
        return 2 * sum(weight.numel() for weight in self.mlp.parameters())

    def forward(self, x_BCHW):
        # Side by side through the MLP once: at batch 1 a latency is the number of operators rather than their size.
        pooled_BC12 = torch.cat([self.mean(x_BCHW), self.largest(x_BCHW)], dim=3)
        return self.mlp(pooled_BC12).sum(3, keepdim=True)


class SpatialMap(nn.Module):
    """x_BCHW -> map_B1HW: a convolution over the mean and the largest value of all channels at each position."""

    def __init__(self, kernel):
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x_BCHW):
        return self.conv(torch.cat([x_BCHW.mean(1, keepdim=True), x_BCHW.amax(1, keepdim=True)], dim=1))


class ConvolutionalAttention(nn.Module):
    """CBAM, channel and then spatial attention: x_BCHW -> x_BCHW, each channel and then each position scaled in (0, 1).

    Source: Woo et al. 2018, arXiv:1807.06521; reduction 16, a 3x3 spatial convolution (the paper has 7x7 and a norm) and no
    biases as in A-SKD's model/backbone.py (Shin et al. 2022, arXiv:2209.14498).
    """

    def __init__(self, channels, reduction=16, kernel=3):
        super().__init__()
        self.channel = ChannelMap(channels, reduction)
        self.spatial = SpatialMap(kernel)

    @property
    def attention_maps(self):
        return (self.channel, self.spatial)

    def forward(self, x_BCHW):
        x_BCHW = x_BCHW * torch.sigmoid(self.channel(x_BCHW))
        return x_BCHW * torch.sigmoid(self.spatial(x_BCHW))


class ImprovedResidual(nn.Module):
    """The IR block of ArcFace: BN - conv3x3 - BN - PReLU - conv3x3(stride) - BN, plus the shortcut, nothing after the sum.

    The stride sits on the second convolution. The shortcut is the identity, or conv1x1(stride) - BN where the shape changes
    (insightface; TFace uses max-pooling where only the size does).
    Source: Deng et al. 2019, arXiv:1801.07698; insightface's iresnet.py.
    """

    def __init__(self, in_channels, out_channels, stride, attention=nn.Identity):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.attention = attention(out_channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )

    def forward(self, x_BCHW):
        return self.attention(self.residual(x_BCHW)) + self.shortcut(x_BCHW)


def ir(in_channels, out_channels, stride):
    """The improved residual block."""
    return ImprovedResidual(in_channels, out_channels, stride)


def ir_se(in_channels, out_channels, stride):
    """The improved residual block with squeeze-excitation."""
    return ImprovedResidual(in_channels, out_channels, stride, attention=SqueezeExcitation)


def ir_cbam(in_channels, out_channels, stride):
    """The improved residual block with channel and spatial attention (CBAM), whose maps A-SKD distils."""
    return ImprovedResidual(in_channels, out_channels, stride, attention=ConvolutionalAttention)


# (in_channels, out_channels, stride) -> nn.Module
BLOCKS = {"ir": ir, "ir_se": ir_se, "ir_cbam": ir_cbam}
