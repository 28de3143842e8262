"""What blocks are made of: a residual branch beside a shortcut, and branches that become one convolution."""

import copy
from typing import TypeVar

import torch
from torch import nn

Module = TypeVar("Module", bound=nn.Module)


class Residual(nn.Module):
    """x_BCHW -> after(attention(residual(x)) + shortcut(x)); no sum where `shortcut` is None.

    after: an activation behind the sum; None: nothing.
    """

    def __init__(self, residual, *, shortcut, attention=None, after=None):
        super().__init__()
        self.residual = nn.Sequential(*residual)
        self.attention = nn.Identity() if attention is None else attention
        self.shortcut, self.after = shortcut, after

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        branch_BCHW = self.attention(self.residual(x_BCHW))
        summed_BCHW = branch_BCHW if self.shortcut is None else branch_BCHW + self.shortcut(x_BCHW)
        return summed_BCHW if self.after is None else self.after(summed_BCHW)


def projection(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, or conv1x1(stride) - BN where the shape changes."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class Reparameterised(nn.Module):
    """x_BCHW -> ReLU(conv3x3 - BN + conv1x1 - BN + BN), the last where the shape stays; deployed as one conv3x3 - ReLU.

    The three branches are linear in x, so that one convolution does what they do together: `deployed` gives it. It is
    what is exported, timed and counted.
    Source: Ding et al. 2021 (RepVGG), arXiv:2101.03697; the training form is theirs.
    """

    attention, shortcut, after = nn.Identity(), None, None  # as every block has them

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.dense = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.point = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.same = nn.BatchNorm2d(out_channels) if stride == 1 and in_channels == out_channels else None
        self.activation = nn.ReLU()

    @property
    def residual(self) -> nn.Sequential:
        """What a score sees: one convolution, its norm, the activation."""
        return nn.Sequential(*self.dense, self.activation)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        summed_BCHW = self.dense(x_BCHW) + self.point(x_BCHW)
        return self.activation(summed_BCHW if self.same is None else summed_BCHW + self.same(x_BCHW))

    def deployed(self) -> nn.Sequential:
        """Conv3x3 with a bias - ReLU: the same answers in eval mode, up to rounding."""
        dense, norm = self.dense
        # On meta it draws no weights: they are set below, and torch's global generator stays where it is.
        convolution = nn.Conv2d(dense.in_channels, dense.out_channels, 3, dense.stride, 1, device="meta")
        if dense.weight.is_meta:  # where nothing has a value, there is nothing to sum
            return nn.Sequential(convolution, nn.ReLU())
        weight, bias = _folded(dense.weight, norm)
        point, point_bias = _folded(self.point[0].weight, self.point[1])
        weight[:, :, 1:2, 1:2] += point
        bias = bias + point_bias
        if self.same is not None:
            eye = torch.eye(dense.out_channels, device=weight.device)[:, :, None, None]
            same, same_bias = _folded(eye, self.same)
            weight[:, :, 1:2, 1:2] += same
            bias = bias + same_bias
        dtype = dense.weight.dtype
        convolution.weight, convolution.bias = nn.Parameter(weight.to(dtype)), nn.Parameter(bias.to(dtype))
        return nn.Sequential(convolution, nn.ReLU())


def _folded(weight, norm):
    """(weight, bias) in float64 of a convolution without bias and the norm behind it as one."""
    with torch.no_grad():
        scale_C = norm.weight.double() * torch.rsqrt(norm.running_var.double() + norm.eps)
        return weight.double() * scale_C[:, None, None, None], norm.bias.double() - norm.running_mean.double() * scale_C


def deployed(module: Module, *, copied: bool = True) -> Module:
    """A copy of a module, in eval mode, in which every part that is deployed otherwise than it is trained is so; the
    module itself, changed, where it need not be copied."""
    return _deployed((copy.deepcopy(module) if copied else module).eval())


def _deployed(module):
    if hasattr(module, "deployed"):
        return module.deployed().eval()
    for name, child in module.named_children():
        setattr(module, name, _deployed(child))
    return module
