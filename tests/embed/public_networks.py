"""The networks of other projects under the names that their weights have: what zennas must answer like.

Written from the published layouts: IResNet (insightface, arcface_torch), IR and IR-SE (TFace, face.evoLVe). Each layer
stands under its public name, and `forward` says in which order they run; nothing of zennas is used.
"""

import torch
from torch import nn


def seeded_state(network, seed=0):
    """The state dict of a network with weights, statistics and slopes that all say something."""
    generator = torch.Generator().manual_seed(seed)
    state = network.state_dict()
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            value.fill_(7)
        elif value.ndim > 1:  # the size of what comes out stays about that of what goes in
            value.normal_(0.0, value[0].numel() ** -0.5, generator=generator)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.normal_(0.3, 0.2, generator=generator)
    return state


def conv(i, o, kernel, stride=1):
    return nn.Conv2d(i, o, kernel, stride, kernel // 2, bias=False)


class InsightfaceBlock(nn.Module):
    def __init__(self, i, o, stride):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(i), conv(i, o, 3)
        self.bn2, self.prelu = nn.BatchNorm2d(o), nn.PReLU(o)
        self.conv2, self.bn3 = conv(o, o, 3, stride), nn.BatchNorm2d(o)
        reshapes = stride > 1 or i != o
        self.downsample = nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o)) if reshapes else None

    def forward(self, x):
        branch = self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x)))))
        return self.bn3(branch) + (x if self.downsample is None else self.downsample(x))


class IResNet(nn.Module):
    def __init__(self, depths, *, stem=64, widths=(64, 128, 256, 512), size=512, px=112):
        super().__init__()
        self.conv1, self.bn1, self.prelu = conv(3, stem, 3), nn.BatchNorm2d(stem), nn.PReLU(stem)
        self.num_layers = len(depths)
        for number, (i, o, depth) in enumerate(zip((stem, *widths), widths, depths, strict=False), start=1):
            blocks = [InsightfaceBlock(i if at == 0 else o, o, 2 if at == 0 else 1) for at in range(depth)]
            setattr(self, f"layer{number}", nn.Sequential(*blocks))
        self.bn2 = nn.BatchNorm2d(widths[-1])
        self.fc = nn.Linear(widths[-1] * (px // 2 ** len(depths)) ** 2, size)
        self.features = nn.BatchNorm1d(size)

    def forward(self, x):
        x = self.prelu(self.bn1(self.conv1(x)))
        for number in range(1, self.num_layers + 1):
            x = getattr(self, f"layer{number}")(x)
        return self.features(self.fc(self.bn2(x).reshape(len(x), -1)))


class Squeeze(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fc1, self.fc2 = conv(channels, channels // 16, 1), conv(channels // 16, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.fc2(torch.relu(self.fc1(x.mean((2, 3), keepdim=True)))))


def tface_layers(i, o, stride):
    yield from (nn.BatchNorm2d(i), conv(i, o, 3), nn.BatchNorm2d(o), nn.PReLU(o))
    yield from (conv(o, o, 3, stride), nn.BatchNorm2d(o))


def evolve_layers(i, o, stride):
    yield from (nn.BatchNorm2d(i), conv(i, o, 3), nn.PReLU(o), conv(o, o, 3, stride), nn.BatchNorm2d(o))


def bottleneck_layers(i, o, stride):
    inner = o // 4
    yield from (nn.BatchNorm2d(i), conv(i, inner, 1), nn.BatchNorm2d(inner), nn.PReLU(inner))
    yield from (conv(inner, inner, 3), nn.BatchNorm2d(inner), nn.PReLU(inner))
    yield from (conv(inner, o, 1, stride), nn.BatchNorm2d(o))


class BodyBlock(nn.Module):
    def __init__(self, i, o, stride, layers, squeeze):
        super().__init__()
        self.res_layer = nn.Sequential(*layers(i, o, stride))
        if squeeze is not None:
            self.res_layer.add_module(squeeze or str(len(self.res_layer)), Squeeze(o))
        self.step = stride
        self.shortcut_layer = nn.Identity() if i == o else nn.Sequential(conv(i, o, 1, stride), nn.BatchNorm2d(o))

    def forward(self, x):
        beside = x[:, :, :: self.step, :: self.step] if isinstance(self.shortcut_layer, nn.Identity) else x
        return self.res_layer(x) + self.shortcut_layer(beside)


class Body(nn.Module):
    """layers: of a block. squeeze: what squeeze-excitation is called in it ('' by its number), or None without."""

    def __init__(
        self, layers, depths, *, squeeze=None, stem=64, widths=(64, 128, 256, 512), size=512, px=112, affine=True
    ):
        super().__init__()
        self.input_layer = nn.Sequential(conv(3, stem, 3), nn.BatchNorm2d(stem), nn.PReLU(stem))
        blocks = []
        for i, o, depth in zip((stem, *widths), widths, depths, strict=False):
            shapes = [(i, o, 2), *[(o, o, 1)] * (depth - 1)]
            blocks += [BodyBlock(*shape, layers, squeeze) for shape in shapes]
        self.body = nn.Sequential(*blocks)
        flat = widths[-1] * (px // 2 ** len(depths)) ** 2
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(widths[-1]),
            nn.Dropout(0.4),
            nn.Flatten(),
            nn.Linear(flat, size),
            nn.BatchNorm1d(size, affine=affine),
        )

    def forward(self, x):
        return self.output_layer(self.body(self.input_layer(x)))


TINY = {"stem": 16, "widths": (16, 32), "size": 12, "px": 16}
# name -> (the block of ours, the network at a size that tests can afford)
PUBLIC = {
    "insightface": ("ir", lambda: IResNet((2, 1), **TINY)),
    "tface": ("ir_tface", lambda: Body(tface_layers, (2, 1), affine=False, **TINY)),
    "tface se": ("ir_se_tface", lambda: Body(tface_layers, (2, 1), squeeze="se_block", affine=False, **TINY)),
    "tface 152": ("bottleneck_tface", lambda: Body(bottleneck_layers, (2, 1), affine=False, **TINY)),
    "tface se 152": ("bottleneck_se_tface", lambda: Body(bottleneck_layers, (2, 1), squeeze="se_block", **TINY)),
    "evolve": ("ir_evolve", lambda: Body(evolve_layers, (2, 1), **TINY)),
    "evolve se": ("ir_se_evolve", lambda: Body(evolve_layers, (2, 1), squeeze="", **TINY)),
}


def public(name, seed=0):
    """The named network of PUBLIC, its weights drawn, in eval mode."""
    network = PUBLIC[name][1]()
    seeded_state(network, seed)
    return network.eval()
