"""Scores that others use, to hold the Zen-Score against: the reference code's own way of it, and plain size."""

import torch
from torch import nn

from zennas.score.modules import candidate_of, finite
from zennas.space import network as networks
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.shape import Shape

GAMMA = 0.01


def reference_zen(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """The Zen-Score as the reference code of ZenNAS computes it: finite difference, running variances, fresh Gaussians.

    Takes a Candidate, one of our Networks (both scored plain) or any nn.Module, whose weights and statistics it
    overwrites. A module's running statistics carry over from call to call, as there; a Candidate starts fresh each
    time. For comparison only: see zen.py for what is wrong with it. Source: Lin et al. 2021, compute_zen_score.py of
    their code. FloatingPointError where the score is not finite.
    """
    device = generator.device
    candidate = network if isinstance(network, Candidate) else networks.candidate_of(network)
    if candidate is not None:
        (path,) = networks.plain_paths(candidate, shape.channels)  # ValueError: they had no networks of several
        network = networks.initialise(networks.plain(path), generator=generator)
    network.train()
    with torch.no_grad():
        for part in network.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.normal_(0.0, 1.0, generator=generator)
                if part.bias is not None:
                    part.bias.zero_()
            elif isinstance(part, nn.BatchNorm2d | nn.GroupNorm) and part.affine:
                nn.init.ones_(part.weight)
                nn.init.zeros_(part.bias)
        size = (batch, *shape.image)
        image_BCHW = torch.randn(size, generator=generator, device=device)
        noise_BCHW = torch.randn(size, generator=generator, device=device)
        difference = network(image_BCHW) - network(image_BCHW + GAMMA * noise_BCHW)
        score = float(torch.log(difference.abs().flatten(1).sum(1).mean()))
        for part in network.modules():
            if isinstance(part, nn.BatchNorm2d):
                score += 0.5 * float(torch.log(part.running_var.mean()))
    return finite(score, "reference Zen-Score")


def total_params(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Learnable numbers of a Candidate's network for a Shape (or of a module), a baseline that every training-free
    score has to beat. batch, generator: not used."""
    if isinstance(network, Candidate):
        return float(cost(network, shape).params)
    return float(sum(weight.numel() for weight in network.parameters()))


def total_macs(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Multiply-accumulates of a Candidate's network for a Shape. batch, generator: not used."""
    return float(cost(candidate_of(network, "this score"), shape).macs)


def num_convolutions(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Convolutions of the plain network: depth, the baseline that follows the Zen-Score most closely."""
    paths = networks.plain_paths(candidate_of(network, "this score"), shape.channels)
    return float(sum(isinstance(part, nn.Conv2d) for path in paths for part in networks.plain(path)))
