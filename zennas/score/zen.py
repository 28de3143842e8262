"""The Zen-Score, measured on random inputs by the directional derivative.

Zen(F) = log E || d f_theta(x) / dx . eps ||  +  sum over BatchNorm layers l of log sigma_l
with x, eps and every weight ~ N(0, 1), sigma_l^2 the mean over channels of the batch variance that enters layer l, and f the
plain feature map before pooling (shortcuts, attention and neck left out).
Source: Lin et al. 2021 (ZenNAS), arXiv:2102.01063. Where we differ, and why:
  - the derivative, not a finite difference of 0.01: the paper's limit, without its saturation (in a plain ReLU network of
    some 50 layers that difference is fully decorrelated) or its cancellation (so that bfloat16 will do);
  - the batch variance of the paper (divided by B*H*W), not the running variance of the reference code, which grows with the
    number of repeats; a norm divides by it and a perturbation does not move it, which the reference code's second pass does;
  - || . || is the sum of absolute values, averaged over the batch, as in the reference code;
  - log 0.01, the same for every candidate, is left out.
"""

# B images, C channels, HW map; N = 2B: the first B rows of a pair are images, the last B their directions

import functools
import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from zennas.space import network as networks
from zennas.space.candidate import Candidate

BANK_SEED = 20210201  # of the one bank of Gaussians that all weights of the fast path are views of


def zen(network, image_px, batch, generator):
    """The Zen-Score of a Candidate, of one of our Networks, or of any nn.Module of convolutions, norms and activations.

    A Candidate takes the fast path. A Network is scored as the plain network of its candidate. Any other module is scored
    as it is: take out its shortcuts, attention and head first if the score is to be the paper's; it is given back with the
    weights and statistics it came with. Images are B3HW, image_px square (a module's first convolution says how many
    channels instead of 3). Works on the generator's device. FloatingPointError where the score is not finite.
    """
    if isinstance(network, Candidate):
        return zen_of_candidate(network, image_px, batch, generator)
    if isinstance(network, networks.Network):
        network = _plain_on(generator.device, network.candidate)
    return zen_of_module(network, image_px, batch, generator)


def zen_of_module(module, image_px, batch, generator):
    """The Zen-Score of any nn.Module, by forward-mode differentiation. See `zen`."""
    kept = {name: value.detach().clone() for name, value in module.state_dict().items()}
    modes = {part: part.training for part in module.modules()}
    log_sigmas, handles, num_channels = [], [], 3
    try:
        first = True
        for part in module.modules():
            part.training = True
            if isinstance(part, nn.Conv2d | nn.Linear):
                num_channels = part.in_channels if first and isinstance(part, nn.Conv2d) else num_channels
                first = False
                _redraw(part.weight, part.bias, generator)
            elif isinstance(part, nn.BatchNorm2d | nn.BatchNorm1d | nn.GroupNorm):
                nn.init.ones_(part.weight) if part.weight is not None else None
                nn.init.zeros_(part.bias) if part.bias is not None else None
                if not isinstance(part, nn.GroupNorm):
                    handles.append(_FixedScaleNorm(part, log_sigmas))
        shape = (batch, num_channels, image_px, image_px)
        image_BCHW = torch.randn(shape, generator=generator, device=generator.device)
        direction_BCHW = torch.randn(shape, generator=generator, device=generator.device)
        with torch.no_grad(), forward_ad.dual_level():
            feature = module(forward_ad.make_dual(image_BCHW, direction_BCHW))
            tangent = forward_ad.unpack_dual(feature).tangent
        if tangent is None:
            raise RuntimeError("the network's output does not depend on its input: nothing to score")
        return _finite(sum(log_sigmas) + torch.log(_mean_l1(tangent)))
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in modes.items():
            part.training = mode
        module.load_state_dict(kept)


def _plain_on(device, candidate):
    """The plain network of a candidate in memory; its weights will be redrawn, its activations keep their start."""
    return networks.initialise(networks.plain(candidate), generator=torch.Generator(device).manual_seed(0))


def _redraw(weight, bias, generator):
    with torch.no_grad():
        weight.normal_(0.0, 1.0, generator=generator)
        if bias is not None:
            bias.zero_()


class _FixedScaleNorm:
    """Replaces a BatchNorm's forward while scoring: normalise by the batch statistics, which a perturbation does not move."""

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


def zen_of_candidate(candidate, image_px, batch, generator, *, dtype=None, weight_of=None):
    """The Zen-Score of a Candidate: the image and its direction go through every convolution as one batch.

    Convolution is linear, a norm divides the direction by the image's sigma, an activation multiplies it by its slope at
    the image. The weights are views of one bank of Gaussians at random offsets: drawing up to 10^8 fresh numbers per
    candidate would cost as much as the rest. `dtype` defaults to bfloat16 where the hardware multiplies it, else float32;
    `weight_of(index)` gives the weight of the index-th convolution instead of the bank (for the tests).
    """
    layers = plain_layers(candidate)
    if layers is None:
        return zen_of_module(_plain_on(generator.device, candidate), image_px, batch, generator)
    device = generator.device
    dtype = dtype or fast_dtype(device.type)
    num_weights = max(math.prod(layer.shape) for layer in layers if isinstance(layer, Convolution))
    bank = _bank(1 << max(20, (num_weights * 5 // 4).bit_length()), dtype, str(device))
    offsets = torch.randint(bank.numel() - num_weights, (len(layers),), generator=generator, device=device).tolist()

    pair_NCHW = torch.randn(2 * batch, 3, image_px, image_px, generator=generator, device=device)
    pair_NCHW = pair_NCHW.to(dtype).contiguous(memory_format=torch.channels_last)
    log_sigma, index, normal = 0.0, 0, False
    with torch.inference_mode():
        for layer, offset in zip(layers, offsets, strict=True):
            if isinstance(layer, Convolution):
                weight = _view(bank, offset, layer.shape) if weight_of is None else weight_of(index)
                pair_NCHW = F.conv2d(pair_NCHW, weight, None, layer.stride, layer.padding, 1, layer.groups)
                index += 1
            elif isinstance(layer, Activation):
                slope = torch.where(pair_NCHW[:batch] > 0, 1.0, layer.slope_below_zero).to(dtype)
                pair_NCHW = (pair_NCHW.unflatten(0, (2, batch)) * slope).flatten(0, 1)
            elif not normal:  # a norm right behind a norm changes nothing
                pair_NCHW, log_sigma_l = _norm_pair(pair_NCHW, batch, layer.eps)
                log_sigma = log_sigma + log_sigma_l
            normal = isinstance(layer, Norm)
        return _finite(log_sigma + torch.log(_mean_l1(pair_NCHW[batch:])))


class Convolution(NamedTuple):
    """A convolution of the plain network, without bias."""

    shape: tuple[int, int, int, int]  # out, in / groups, kernel, kernel
    stride: int
    padding: int
    groups: int


class Norm(NamedTuple):
    """A BatchNorm of the plain network."""

    eps: float


class Activation(NamedTuple):
    """A piecewise linear activation, with slope 1 above zero."""

    slope_below_zero: float


def plain_layers(candidate):
    """The plain network of a candidate as a flat list of layers; None if it has a layer the fast path does not know."""
    layers = list(_part_layers(None, 3, candidate.stem, 1))
    for shape in networks.block_shapes(candidate, 1 << len(candidate.widths)):
        layers += _part_layers(candidate.block, *shape[:3])
    return None if None in layers else layers


@functools.lru_cache(maxsize=65536)
def _part_layers(block, in_channels, out_channels, stride):
    with torch.device("meta"):
        part = (
            networks.stem(out_channels)
            if block is None
            else networks.block(block, in_channels, out_channels, stride).residual
        )
    return tuple(_layer(module) for module in part)


def _layer(module):
    match module:
        case nn.Conv2d(bias=None, dilation=(1, 1), padding_mode="zeros"):
            return Convolution(tuple(module.weight.shape), module.stride[0], module.padding[0], module.groups)
        case nn.BatchNorm2d():
            return Norm(module.eps)
        case nn.ReLU():
            return Activation(0.0)
        case nn.LeakyReLU():
            return Activation(module.negative_slope)
        case nn.PReLU():
            return Activation(module.init)
    return None


def _norm_pair(pair_NCHW, batch, eps):
    """(the pair behind a norm with the image's statistics, log sigma of what entered it)."""
    image_BCHW = pair_NCHW[:batch].float()
    variance_C, mean_C = torch.var_mean(image_BCHW, (0, 2, 3), correction=0)
    scale_C = torch.rsqrt(variance_C + eps)
    shift_NC = torch.stack([-mean_C * scale_C, torch.zeros_like(mean_C)]).repeat_interleave(batch, 0)
    scaled = torch.addcmul(
        shift_NC[:, :, None, None].to(pair_NCHW.dtype), pair_NCHW, scale_C[None, :, None, None].to(pair_NCHW.dtype)
    )
    return scaled, 0.5 * torch.log(variance_C.mean())


def _mean_l1(direction_BCHW):
    """Sum of absolute values of each image's direction, averaged over the batch; in float32."""
    return direction_BCHW.float().abs().sum() / direction_BCHW.shape[0]


def _finite(score):
    score = float(score)
    if not math.isfinite(score):
        raise FloatingPointError(f"Zen-Score is {score}: the activations of this network overflow or vanish")
    return score


def _view(bank, offset, shape):
    """A weight of `shape`, channels-last, without a copy."""
    out_channels, in_channels, height, width = shape
    flat = bank[offset : offset + math.prod(shape)]
    return flat.view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=4)
def _bank(size, dtype, device):
    """`size` standard Gaussians. The size is a function of the candidate alone, so a score never depends on what ran before."""
    generator = torch.Generator().manual_seed(BANK_SEED)
    return torch.randn(size, generator=generator).to(device=device, dtype=dtype)


@functools.cache
def fast_dtype(device_type):
    """bfloat16 where the hardware multiplies it, else float32."""
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return (
        torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported() else torch.float32
    )
