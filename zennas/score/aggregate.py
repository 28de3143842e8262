"""What combines: a score of four terms for networks of equal cost, the rank aggregate of a set, and two proxies."""

# B images, C channels, HW map, N positions of all images, G groups of c channels, O outputs, L layers; _KN: K proxies,
# N networks

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from zennas.score.modules import candidate_of, finite
from zennas.score.proxies import correlation, entropy, pulled_back, rows, seen, synaptic_flow
from zennas.space import space
from zennas.space.candidate import Candidate
from zennas.space.shape import Shape

GROUP = 8  # channels that are looked at together: fewer than the positions of even a map of 2 x 2 in a batch of 4
FLOOR = 1e-3  # of an eigenvalue under a log; a correlation's eigenvalues are 1 on average
# Equal weights of standardised terms: one over each term's standard deviation over 350 architectures of NAS-Bench-201
# (0.79, 0.68, 0.47, and 0.24 without the lowest 2 %, mere skips and poolings), relative to the first and rounded to a
# power of two.
WEIGHTS = {"independence": 1.0, "capacity": 1.0, "separation": 2.0, "isometry": 4.0}
NUM_OUTPUTS = 10  # that VKDNW looks at; a network of more is seen through so many random sums of them


class Terms(NamedTuple):
    """What `equal_cost` adds up; each is a log, larger is better."""

    independence: float
    capacity: float
    separation: float
    isometry: float


def equal_cost(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Which of several networks of the same cost is the better one: the sum of four terms, weighted by WEIGHTS.

    independence: log of the convolutions' channels, each counted as far as it is not a mixture of its neighbours (the
        smallest eigenvalue of the correlations within groups of 8 channels, over all positions of all images). From
        MeCo, whose whole matrix is singular wherever a map has fewer positions than channels; attention, on maps of one
        pixel, is left out.
    capacity: log of the weights, each counted as much as it is used: by the share of SynFlow's flow that runs through
        its layer.
    separation: mean log eigenvalue of those correlations behind the last block: 0 if its channels say different things.
    isometry: log of how much of a gradient's length a block keeps, or of the inverse where it lengthens it, averaged
        over the blocks. From AZ-NAS's trainability, whose spectral norm grows by chance with channels over positions.

    Our own combination, chosen on 350 architectures of NAS-Bench-201, measured on others:
    experiments/equal-latency/nb201.md. Not for networks of different cost, of which it rather prefers the larger.
    ValueError as `az_trainability`.
    """
    terms = equal_cost_terms(network, shape, batch, generator)._asdict()
    return finite(sum(weight * terms[name] for name, weight in WEIGHTS.items()), "equal_cost")


def equal_cost_terms(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> Terms:
    """The Terms of a network; arguments and errors as `equal_cost`."""
    with seen(network, shape, batch, generator, gradients=True) as pass_:
        gains = [float(before.norm() / behind.norm()) for behind, before in pulled_back(pass_.blocks, generator)]
        maps = [layer.output for layer in pass_.convolutions if math.prod(layer.output.shape[2:]) > 1]
        independent = sum(output.shape[1] * float(_group_eigenvalues(output)[:, 0].mean()) for output in maps)
        separation = float(torch.log(_group_eigenvalues(pass_.blocks[-1]) + FLOOR).mean())
    kept = sum(min(gain, 1 / gain) if gain > 0 else 0.0 for gain in gains) / len(gains)
    flow = synaptic_flow(network, shape, generator)
    used = sum(
        share / flow.output * num_weights for share, num_weights in zip(flow.flows, flow.num_weights, strict=True)
    )
    values = dict(independence=independent, capacity=used, isometry=kept)
    dead = [name for name, value in values.items() if not value > 0]
    if dead:
        raise FloatingPointError(f"equal_cost: the {' and '.join(dead)} of this network vanish")
    return Terms(math.log(independent), math.log(used), separation, math.log(kept))


def _group_eigenvalues(feature):
    """eigenvalue_Gc, smallest first, of the correlations in groups of GROUP neighbouring channels over positions."""
    row_CN = rows(feature.detach()).T
    size = min(GROUP, len(row_CN))
    row_GcN = row_CN[: len(row_CN) // size * size].unflatten(0, (-1, size))
    return torch.linalg.eigvalsh(correlation(row_GcN).double()).clamp_min(0.0)


def rank_aggregate(values_KN: Sequence[Sequence[float]] | np.ndarray) -> np.ndarray:
    """aggregate_N: the sum over proxies of log(rank / N), rank 1 for the smallest value.

    Low ranks weigh more than high ones. values_KN: K proxies of N networks, more is better; -inf ranks last. Ties share
    their mean rank. ValueError for NaN. Of a set, so no row of SCORES: a network's place depends on the others. Source:
    AZ-NAS, arXiv:2403.19232.

    >>> rank_aggregate([[1.0, 2.0], [5.0, 5.0]]).round(3).tolist()
    [-0.981, -0.288]
    """
    values_KN = np.asarray(values_KN, float)
    if values_KN.ndim != 2 or np.isnan(values_KN).any():
        raise ValueError(f"rank_aggregate: a table of K proxies by N networks without NaN, given {values_KN.shape}")
    return sum(np.log(_mean_ranks(value_N) / len(value_N)) for value_N in values_KN)


def _mean_ranks(value_N):
    """rank_N from 1 on; equal values share the mean of their ranks."""
    sorted_N = np.sort(value_N)
    return (np.searchsorted(sorted_N, value_N, "left") + 1 + np.searchsorted(sorted_N, value_N, "right")) / 2


def vkdnw(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """Number of layers with weights, plus the entropy of the deciles of the Fisher information's eigenvalues.

    The entropy is at most log 9. The information is about one random weight of each convolution and fully connected
    layer, as the network's class probabilities on random images see it. Source: Tybl and Neumann 2025 (VKDNW),
    arXiv:2502.04975, the single-proxy form. Where we differ: an output that is a map is averaged over its positions; of
    more than 10 outputs, 10 random sums are looked at; gradients include how the batch's statistics move.
    FloatingPointError where all eigenvalues are 0.
    """
    with seen(network, shape, batch, generator, gradients=True) as pass_:
        output_BO = pass_.output.flatten(2).mean(2) if pass_.output.dim() > 2 else pass_.output
        if output_BO.shape[1] > NUM_OUTPUTS:
            mix_OO = torch.randn(output_BO.shape[1], NUM_OUTPUTS, generator=generator, device=generator.device)
            output_BO = output_BO @ mix_OO / math.sqrt(len(mix_OO))
        layers = pass_.convolutions + pass_.linears
        weights = [_random_weight(layer, generator) for layer in layers]
        jacobian_OBL = torch.stack([_jacobian(one_B, layers, weights) for one_B in output_BO.unbind(1)]).double()
    share_BO = output_BO.detach().double().softmax(1)
    centred_OBL = jacobian_OBL - torch.einsum("bo,obl->bl", share_BO, jacobian_OBL)
    fisher_LL = torch.einsum("bo,obl,obm->lm", share_BO, centred_OBL, centred_OBL) / len(share_BO)
    deciles = torch.quantile(torch.linalg.eigvalsh(fisher_LL).clamp_min(0.0), torch.arange(1, 10).to(fisher_LL) / 10)
    if not deciles.sum() > 0:
        raise FloatingPointError("VKDNW: the outputs of this network do not depend on its weights")
    return finite(len(layers) + entropy(deciles), "VKDNW")


def _random_weight(layer, generator):
    """(output channel of one random weight of a layer, into_BP: what it is multiplied by at each position there)."""
    part, into = layer.module, layer.into.detach()
    flat = torch.randint(part.weight.numel(), (), generator=generator, device=generator.device)
    out, within, *at = (int(index) for index in torch.unravel_index(flat, part.weight.shape))
    if isinstance(part, nn.Linear):
        return out, into[..., within].reshape(len(into), -1)
    channel = out // (part.out_channels // part.groups) * (part.in_channels // part.groups) + within
    windows_BKP = nn.functional.unfold(
        into[:, channel : channel + 1], part.kernel_size, part.dilation, part.padding, part.stride
    )
    return out, windows_BKP[:, at[0] * part.kernel_size[1] + at[1]]


def _jacobian(output_B, layers, weights):
    """gradient_BL: of the sum of one output over the batch, each image's part, with respect to each layer's weight."""
    behind = [layer.output for layer in layers]
    gradients = torch.autograd.grad(output_B.sum(), behind, retain_graph=True, allow_unused=True)
    columns = []
    for layer, gradient, (out, into_BP) in zip(layers, gradients, weights, strict=True):
        if gradient is None:  # the output does not see this layer
            columns.append(torch.zeros_like(output_B))
            continue
        channel = gradient[..., out] if isinstance(layer.module, nn.Linear) else gradient[:, out]
        columns.append((channel.reshape(into_BP.shape) * into_BP).sum(1))
    return torch.stack(columns, 1)


def effectiveness(network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """DeepMAD's depth against width of a Candidate or Network: a limit on depth and no rank.

    The other arguments are not used. See zennas.space.space.effectiveness. ValueError for any other module.
    """
    return float(space.effectiveness(candidate_of(network, "effectiveness")))
