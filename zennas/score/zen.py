"""The Zen-Score, measured on random inputs by the directional derivative.

Zen(F) = log E || d f_theta(x) / dx . eps ||  +  sum over BatchNorm layers l of log sigma_l
with x, eps and every weight ~ N(0, 1), sigma_l^2 the mean over channels of the batch variance that enters layer l, and
f the plain feature map before pooling (shortcuts, attention and neck left out).
Source: Lin et al. 2021 (ZenNAS), arXiv:2102.01063. Where we differ, and why:
  - the derivative, not a finite difference of 0.01: the paper's limit, without its saturation (in a plain ReLU network
    of some 50 layers that difference is fully decorrelated) or its cancellation (so that bfloat16 will do);
  - the batch variance of the paper (divided by B*H*W), not the running variance of the reference code, which grows with
    the number of repeats; a norm divides by it and a perturbation does not move it, which the reference code's second
    pass does;
  - || . || is the sum of absolute values, averaged over the batch, as in the reference code;
  - log 0.01, the same for every candidate, is left out.
"""

# B images, C channels, HW map; N = 2B: the first B rows of a pair are images, the last B their directions

import contextlib
from collections.abc import Callable

import torch
from torch import nn
from torch.autograd import forward_ad

from zennas.score.branches import ONCE, Apart, joined
from zennas.score.modules import finite, given_back
from zennas.score.plain import plain_layers
from zennas.score.together import apart_of_candidates, zen_of_candidates
from zennas.space import network as networks
from zennas.space.candidate import Candidate
from zennas.space.families.table import family_of, tree_of
from zennas.space.shape import Shape


def zen(
    network: Candidate | nn.Module, shape: Shape, batch: int, generator: torch.Generator, *, aggregate: str = ONCE
) -> float:
    """The Zen-Score of a Candidate, of one of our Networks, or of any nn.Module of convolutions, norms and activations.

    A Candidate takes the fast path. A Network is scored as the plain network of its candidate. Any other module is
    scored as it is: take out its shortcuts, attention and head first if the score is to be the paper's; it is given
    back with the weights and statistics it came with. Images are as the Shape has them (a module's first
    convolution says how many channels instead). aggregate: of the ways through a network of several (branches.py).
    Works on the generator's device. FloatingPointError where the score is not finite.
    """
    if isinstance(network, Candidate):
        return zen_of_candidate(network, shape, batch, generator, aggregate=aggregate)
    if (candidate := networks.candidate_of(network)) is not None:
        return joined(tree_of(candidate), _apart_by_modules(candidate, shape, batch, generator), aggregate=aggregate)
    return zen_of_module(network, shape, batch, generator)


def zen_of_module(module: nn.Module, shape: Shape, batch: int, generator: torch.Generator) -> float:
    """The Zen-Score of any nn.Module, by forward-mode differentiation. See `zen`."""
    log_sigmas, num_channels, first = [], shape.channels, True
    with given_back(module), contextlib.ExitStack() as norms:
        for part in module.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                num_channels = part.in_channels if first and isinstance(part, nn.Conv2d) else num_channels
                first = False
                _redraw(part.weight, part.bias, generator)
            elif isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm):
                nn.init.ones_(part.weight) if part.weight is not None else None
                nn.init.zeros_(part.bias) if part.bias is not None else None
                if not isinstance(part, nn.GroupNorm):
                    norms.callback(_FixedScaleNorm(part, log_sigmas).remove)
        size = (batch, num_channels, *shape.hw)
        image_BCHW = torch.randn(size, generator=generator, device=generator.device)
        direction_BCHW = torch.randn(size, generator=generator, device=generator.device)
        with torch.no_grad(), forward_ad.dual_level():
            feature = module(forward_ad.make_dual(image_BCHW, direction_BCHW))
            tangent = forward_ad.unpack_dual(feature).tangent
        if tangent is None:
            raise RuntimeError("the network's output does not depend on its input: nothing to score")
        return finite(sum(log_sigmas) + torch.log(_mean_l1(tangent)), "Zen-Score")


def _apart_by_modules(candidate, shape, batch, generator):
    """The Zen-Scores of a candidate's plain paths, each as a module, by forward-mode differentiation."""
    tree, paths = tree_of(candidate), networks.plain_paths(candidate, shape.channels)
    scores = tuple(_zen_of_path(path, shape, batch, generator) for path in paths)
    trunk_score = None
    if tree.num_branches > 1:
        length = family_of(candidate).trunk_length(candidate)
        trunk_score = _zen_of_path(paths[0][:length], shape, batch, generator)
    return Apart(scores, trunk_score)


def _zen_of_path(path, shape, batch, generator):
    # Its weights will be redrawn, its activations keep their start.
    start = torch.Generator(generator.device).manual_seed(0)
    module = networks.initialise(networks.plain(path), generator=start)
    return zen_of_module(module, shape, batch, generator)


def _redraw(weight, bias, generator):
    with torch.no_grad():
        weight.normal_(0.0, 1.0, generator=generator)
        if bias is not None:
            bias.zero_()


class _FixedScaleNorm:
    """Replaces a BatchNorm's forward while scoring: normalise by the batch statistics, which a perturbation does not
    move.
    """

    def __init__(self, norm, log_sigmas):
        self.norm, self.log_sigmas = norm, log_sigmas
        norm.forward = self.forward

    def forward(self, x):
        axes = [0, *range(2, x.dim())]
        variance_C, mean_C = torch.var_mean(x.detach(), axes, correction=0)
        self.log_sigmas.append(0.5 * torch.log(variance_C.mean()))
        shape = [1, -1] + [1] * (x.dim() - 2)
        return (x - mean_C.view(shape)) * torch.rsqrt(variance_C + self.norm.eps).view(shape)

    def remove(self):
        del self.norm.forward


def zen_of_candidate(
    candidate: Candidate,
    shape: Shape,
    batch: int,
    generator: torch.Generator,
    *,
    dtype: torch.dtype | None = None,
    weight_of: Callable | None = None,
    aggregate: str = ONCE,
) -> float:
    """The Zen-Score of a Candidate, the way of `zen_of_candidates` where its layers allow that."""
    if plain_layers(candidate, shape.channels) is None:
        return joined(tree_of(candidate), _apart_by_modules(candidate, shape, batch, generator), aggregate=aggregate)
    (score,) = zen_of_candidates(
        [candidate], shape, batch, generator, dtype=dtype, weight_of=weight_of, aggregate=aggregate
    )
    return finite(score, "Zen-Score")


def zen_of_ways(candidate: Candidate, shape: Shape, batch: int, generator: torch.Generator) -> Apart:
    """The Zen-Score of each way through a Candidate's network, and that of its trunk. FloatingPointError where one is
    not finite.
    """
    if plain_layers(candidate, shape.channels) is None:
        return _apart_by_modules(candidate, shape, batch, generator)
    (apart,) = apart_of_candidates([candidate], shape, batch, generator)
    ways = tuple(finite(score, "Zen-Score") for score in apart.of_ways)
    return Apart(ways, None if apart.of_trunk is None else finite(apart.of_trunk, "Zen-Score"))


def _mean_l1(direction_BCHW):
    """Sum of absolute values of each image's direction, averaged over the batch; in float32."""
    return direction_BCHW.float().abs().sum() / direction_BCHW.shape[0]
