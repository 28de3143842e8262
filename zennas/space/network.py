"""network(candidate): the backbone a candidate stands for, and the pieces of which the score and the latency table speak."""

import torch
from torch import nn

from zennas.records import UserError, suggestion
from zennas.space.blocks import BLOCKS

WEIGHT_STD = 0.1  # insightface's iresnet.py; any scale is undone by the BatchNorm behind it


class Network(nn.Module):
    """Images_B3HW -> embeddings_BD: stem, blocks, neck. `candidate` says what it is.

    Source of the layout: Deng et al. 2019 (ArcFace), insightface's iresnet.py.
    """

    def __init__(self, candidate, *, image_px=112, embedding_size=512):
        super().__init__()
        self.candidate = candidate
        self.input_shape = (3, image_px, image_px)
        self.stem = stem(candidate.stem)
        self.blocks = nn.Sequential(
            *(block(candidate.block, *shape[:3]) for shape in block_shapes(candidate, image_px))
        )
        last_px = image_px >> len(candidate.widths)
        self.neck = neck(candidate.widths[-1], last_px, embedding_size)

    def forward(self, image_B3HW):
        return self.neck(self.blocks(self.stem(image_B3HW)))


def build(candidate, *, image_px=112, embedding_size=512, generator=None):
    """The Network of a candidate in eval mode, its weights drawn from `generator` (a torch Generator; None: seed 0).

    Images are image_px square; embeddings have embedding_size numbers. ValueError names a block that BLOCKS lacks.
    """
    with torch.device("meta"):
        network = Network(candidate, image_px=image_px, embedding_size=embedding_size)
    return initialise(network, generator=generator)


def initialise(module, *, generator=None):
    """The module, taken from the meta device to memory with Gaussian weights and neutral norms, in eval mode."""
    generator = torch.Generator().manual_seed(0) if generator is None else generator
    module = module.to_empty(device=generator.device)
    with torch.no_grad():
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.normal_(0.0, WEIGHT_STD, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d | nn.PReLU):
                part.reset_parameters()
    return module.eval()


def calibrate(module, image_BCHW):
    """Set the norms' running statistics to those of one batch, so that an untrained network has activations of unit scale.

    Without it the sums of a deep residual network grow by a factor per block, up to infinity: neither its latency nor its
    export could be believed. Changes `module`, gives it back in eval mode.
    """
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 1.0
        with torch.no_grad():
            module.train()(image_BCHW)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        module.eval()
    return module


def stem(channels):
    """Conv3x3 - BN - PReLU at full resolution, from three channels."""
    return nn.Sequential(nn.Conv2d(3, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels))


def block(name, in_channels, out_channels, stride):
    """One block of BLOCKS; UserError where there is no such row."""
    check_block(name)
    return BLOCKS[name](in_channels, out_channels, stride)


def check_block(name):
    """UserError where BLOCKS has no such row."""
    if name not in BLOCKS:
        raise UserError(f"block '{name}' is not known; {suggestion(name, list(BLOCKS))}")


def neck(channels, px, embedding_size):
    """BN - flatten - FC - BN: the embedding is read from every position of the last map, not from their mean."""
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.Flatten(),
        nn.Linear(channels * px * px, embedding_size),
        nn.BatchNorm1d(embedding_size),
    )


def block_shapes(candidate, image_px):
    """(in_channels, out_channels, stride, in_px) of every block, in order; each stage's first block has stride 2.

    >>> from zennas.space.candidate import Candidate
    >>> block_shapes(Candidate(block="ir", stem=16, widths=(32,), depths=(2,)), 112)
    [(16, 32, 2, 112), (32, 32, 1, 56)]
    """
    num_stages = len(candidate.widths)
    if image_px % (1 << num_stages):
        raise UserError(f"{candidate.text}: {num_stages} stages each halve the image; {image_px} px do not allow it")
    shapes, channels, px = [], candidate.stem, image_px
    for width, depth in zip(candidate.widths, candidate.depths, strict=True):
        shapes.append((channels, width, 2, px))
        px //= 2
        shapes += [(width, width, 1, px)] * (depth - 1)
        channels = width
    return shapes


def plain(candidate):
    """The plain network of a candidate, on the meta device: a Sequential of convolutions, norms and activations.

    Shortcuts, attention and neck are left out: this is the feature map before pooling that the Zen-Score is defined on.
    """
    with torch.device("meta"):
        parts = list(stem(candidate.stem))
        for shape in block_shapes(candidate, 1 << len(candidate.widths)):
            parts += block(candidate.block, *shape[:3]).residual
    return nn.Sequential(*parts)
