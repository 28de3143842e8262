"""The blocks of a stage. One row of BLOCKS is all that a new block takes.

A block is an nn.Module with two parts: `residual`, a Sequential of convolutions, norms and activations, of which the
Zen-Score sees nothing but those, and `shortcut`; attention that only the built network has comes behind `residual`.
"""

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

    def forward(self, x_BCHW):
        return x_BCHW * self.gate(x_BCHW)


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


# (in_channels, out_channels, stride) -> nn.Module
BLOCKS = {"ir": ir, "ir_se": ir_se}
