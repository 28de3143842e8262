"""The Zen-Scores of many candidates at once: what they have in common is computed once.

Weights and images are common random numbers: the weights of a convolution depend on its place (stage, block,
convolution) and shape, not on the candidate. So candidates that begin alike share those maps, and maps that differ go
side by side, as one batch, through layers of one shape. A score does not depend on its company, but for the rounding of
`dtype`.
"""

# P maps side by side, 2 an image and its direction, B images, HW map, C channels (last in memory); N = P * 2 * B

import collections
import functools
import math
import zlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F

from zennas.devices import convolves_wrong, processor_has_bfloat16
from zennas.score.branches import ONCE, Apart, joined
from zennas.score.plain import Activation, Convolution, Norm, Picked, part_layers
from zennas.space.candidate import Candidate
from zennas.space.families.table import tree_of
from zennas.space.network import plain_paths
from zennas.space.shape import Shape

BANK_SEED = 20210201  # of the one bank of Gaussians that all weights are views of
MAX_ELEMENTS = 1 << 21  # of the maps that go side by side; more only leave the cache
# Up to this side a product of unfolded patches beats a convolution on a processor: 1.5 times at 4, 3 times at 2. A
# convolution of 1x1 is a product at any side: a score takes as long, and in float32 its sums are the same ones whatever
# the batch, which those of oneDNN's convolution to fewer than 16 channels are not.
SMALL_PX = 4
# Of a product, at least: some processors' libraries sum fewer in an order that depends on how many there are.
MIN_ROWS = 16


class Maps(NamedTuple):
    """What some prefixes of candidates have in common, so far."""

    pair_P2BHWC: torch.Tensor  # images and their directions
    log_sigma_P: torch.Tensor  # the sum over the norms so far
    normal: bool  # whether a norm came last: another one changes nothing


def zen_of_candidates(
    candidates: Sequence[Candidate],
    shape: Shape,
    batch: int,
    generator: torch.Generator,
    *,
    dtype: torch.dtype | None = None,
    weight_of: Callable | None = None,
    aggregate: str = ONCE,
) -> list[float]:
    """[float], the Zen-Score of every Candidate, in order; NaN or infinite where activations overflow or vanish.

    The image and its direction go through every convolution as one batch: convolution is linear, a norm divides the
    direction by the image's sigma, an activation multiplies it by its slope at the image. Weights are views of one bank
    of Gaussians, because drawing up to 10^8 fresh numbers per candidate would cost as much as the rest. `dtype`
    defaults to bfloat16 where the hardware multiplies it, else float32. weight_of(place, shape) gives a convolution's
    weight instead of the bank, for the tests. aggregate: of the ways through networks of several. ValueError for a
    block with a layer that is none of zennas.score.plain.
    """
    aparts = apart_of_candidates(candidates, shape, batch, generator, dtype=dtype, weight_of=weight_of)
    return [
        joined(tree_of(candidate), apart, aggregate=aggregate)
        for candidate, apart in zip(candidates, aparts, strict=True)
    ]


def apart_of_candidates(
    candidates: Sequence[Candidate],
    shape: Shape,
    batch: int,
    generator: torch.Generator,
    *,
    dtype: torch.dtype | None = None,
    weight_of: Callable | None = None,
) -> list[Apart]:
    """[Apart]: what `zen_of_candidates` makes one score of, for every Candidate, in order."""
    if not candidates:
        return []
    device = generator.device
    dtype = dtype or fast_dtype(device.type)
    pair = torch.randn(1, 2, batch, *shape.image, generator=generator, device=device)
    pair = pair.permute(0, 1, 2, 4, 5, 3).to(dtype).contiguous()
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    weight_of = weight_of or functools.partial(_weight, seed, dtype, str(device))
    with torch.inference_mode():
        start = Maps(pair, torch.zeros(1, device=device), False)
        alike, scores = collections.defaultdict(list), {}  # prefixes are the same only on the same ways
        for candidate in dict.fromkeys(candidates):
            alike[candidate.family, tree_of(candidate)].append(candidate)
        for (_, tree), some in alike.items():
            scores |= _walk(some, tree, start, weight_of)
        return [scores[candidate] for candidate in candidates]


def _walk(candidates, tree, start, weight_of):
    """{candidate: Apart} of candidates of one family and Tree: stage by stage, the prefixes that are the same as
    one.
    """
    maps = {}
    for candidate in candidates:
        if (candidate.block, candidate.stem) not in maps:
            stem = plain_paths(candidate, start.pair_P2BHWC.shape[-1])[0][0]
            maps[candidate.block, candidate.stem] = through(start, _layers(*stem), weight_of, ("stem", 0))
    trunk = _after(maps, candidates, tree.ways[0], range(tree.shared), weight_of)
    ends = []
    for way in tree.ways:
        last = _after(trunk, candidates, way, range(tree.shared, len(way.stages)), weight_of)
        ends.append({candidate: _score(last[_prefix(candidate, way.stages)]) for candidate in candidates})
    shared = tree.ways[0].stages[: tree.shared]
    scores = {}
    for candidate in candidates:
        trunk_score = _score(trunk[_prefix(candidate, shared)]) if tree.num_branches > 1 else None
        scores[candidate] = Apart(tuple(end[candidate] for end in ends), trunk_score)
    return scores


def _after(maps, candidates, way, places, weight_of):
    """The maps of every prefix behind the stages at these places of a way."""
    for at in places:
        stage, stride = way.stages[at], way.strides[at]
        wanted = collections.defaultdict(lambda: collections.defaultdict(set))
        for candidate in candidates:
            before = candidate.widths[way.stages[at - 1]] if at else candidate.stem
            shape = candidate.block, before, candidate.widths[stage]
            wanted[shape][_prefix(candidate, way.stages[:at])].add(candidate.depths[stage])
        after = {}
        for (block, before, width), depths in wanted.items():
            _run_stage(maps, after, depths, (block, before, width, stride), stage, weight_of)
        maps = after
    return maps


def _run_stage(maps, after, depths, shape, stage, weight_of):
    """Puts what becomes of each prefix in `depths` (prefix -> depths wanted of it) after a stage of this shape into
    `after`.
    """
    block, before, width, stride = shape
    # The deepest first, so that those still under way lie together when the others are done.
    order = sorted(depths, key=lambda prefix: -max(depths[prefix]))
    size = max(maps[order[0]].pair_P2BHWC.numel(), maps[order[0]].pair_P2BHWC.numel() // before * width)
    together = max(1, MAX_ELEMENTS // size)
    for start in range(0, len(order), together):
        batch = order[start : start + together]
        now = Maps(
            torch.cat([maps[prefix].pair_P2BHWC for prefix in batch]),
            torch.cat([maps[prefix].log_sigma_P for prefix in batch]),
            maps[batch[0]].normal,
        )
        for depth in range(1, max(depths[batch[0]]) + 1):
            left = sum(max(depths[prefix]) >= depth for prefix in batch)
            now = Maps(now.pair_P2BHWC[:left], now.log_sigma_P[:left], now.normal)
            layers = _layers(block, before, width, stride) if depth == 1 else _layers(block, width, width, 1)
            now = through(now, layers, weight_of, (stage, depth))
            for row, prefix in enumerate(batch[:left]):
                if depth in depths[prefix]:
                    kept = now.pair_P2BHWC[row : row + 1].clone(), now.log_sigma_P[row : row + 1].clone()
                    after[*prefix, width, depth] = Maps(*kept, now.normal)


def _prefix(candidate, stages):
    """What a candidate is made of up to the last of these stages."""
    return (
        candidate.block,
        candidate.stem,
        *(n for stage in stages for n in (candidate.widths[stage], candidate.depths[stage])),
    )


def _layers(*part):
    layers = part_layers(*part)
    if None in layers:
        raise ValueError(f"block '{part[0]}' has a layer that is no convolution, norm or piecewise linear activation")
    return layers


def through(maps: Maps, layers: tuple, weight_of: Callable, place: tuple) -> Maps:
    """The Maps behind these layers, which stand at a place (stage, block) of their network."""
    pair, log_sigma_P, normal = maps
    num_convolutions = 0
    for layer in layers:
        if isinstance(layer, Convolution):
            weight = weight_of((*place, num_convolutions), layer.shape)
            pair = _convolved(pair, weight, layer)
            num_convolutions += 1
        elif isinstance(layer, Picked):
            pair = pair[:, :, :, :: layer.stride, :: layer.stride].contiguous()
        elif isinstance(layer, Activation):
            slope_P1BHWC = torch.where(pair[:, :1] > 0, 1.0, layer.slope_below_zero).to(pair.dtype)
            pair = pair * slope_P1BHWC
        elif not normal:
            pair, log_sigma_P = _normalised(pair, log_sigma_P, layer.eps)
        normal = isinstance(layer, Norm)
    return Maps(pair, log_sigma_P, normal)


def _convolved(pair_P2BHWC, weight, layer):
    num_maps, _, batch, height, width, channels = pair_P2BHWC.shape
    image_NHWC = pair_P2BHWC.reshape(-1, height, width, channels)
    out_channels, _, kernel, _ = layer.shape
    on_cpu = pair_P2BHWC.device.type == "cpu"
    if (max(height, width) <= SMALL_PX or kernel == 1) and layer.groups == 1 and on_cpu:
        padded = F.pad(image_NHWC, (0, 0) + (layer.padding,) * 4) if layer.padding else image_NHWC.contiguous()
        out_hw = [(px - kernel) // layer.stride + 1 for px in padded.shape[1:3]]
        image, row, column, _ = padded.stride()
        patches = padded.as_strided(
            (len(padded), *out_hw, kernel, kernel * channels),
            (image, row * layer.stride, column * layer.stride, row, 1),
        )
        rows = patches.reshape(-1, kernel * kernel * channels)
        num_rows = len(rows)
        if num_rows < MIN_ROWS:
            rows = F.pad(rows, (0, 0, 0, MIN_ROWS - num_rows))
        out = F.linear(rows, weight.permute(0, 2, 3, 1).reshape(out_channels, -1))[:num_rows]
    else:
        out_hw = [(px + 2 * layer.padding - kernel) // layer.stride + 1 for px in (height, width)]
        wrong = convolves_wrong(out_hw, kernel=kernel, stride=layer.stride, by_channel=layer.shape[1] == 1)
        given = image_NHWC.permute(0, 3, 1, 2), weight
        given = [values.float() for values in given] if on_cpu and wrong else given
        out = F.conv2d(*given, None, layer.stride, layer.padding, 1, layer.groups).to(image_NHWC.dtype)
        out = out.permute(0, 2, 3, 1)
    return out.reshape(num_maps, 2, batch, *out_hw, out_channels)


def _normalised(pair_P2BHWC, log_sigma_P, eps):
    """(the maps behind a norm with their images' statistics, log sigma with that of what entered it added)."""
    variance_PC, mean_PC = torch.var_mean(pair_P2BHWC[:, 0].float(), (1, 2, 3), correction=0)
    scale_PC = torch.rsqrt(variance_PC + eps)
    shift_P2C = torch.stack([-mean_PC * scale_PC, torch.zeros_like(mean_PC)], 1)
    dtype = pair_P2BHWC.dtype
    scaled = torch.addcmul(
        shift_P2C.to(dtype)[:, :, None, None, None], pair_P2BHWC, scale_PC.to(dtype)[:, None, None, None, None]
    )
    return scaled, log_sigma_P + 0.5 * torch.log(variance_PC.mean(1))


def _score(maps):
    """Log sigma plus the log of the directions' sum of absolute values, averaged over the batch, of a single map."""
    direction_BHWC = maps.pair_P2BHWC[0, 1].float()
    return float(maps.log_sigma_P[0] + torch.log(direction_BHWC.abs().sum() / len(direction_BHWC)))


def _weight(seed, dtype, device, place, shape):
    """A weight of `shape` (out, in, height, width), channels-last, without a copy."""
    out_channels, in_channels, height, width = shape
    num = math.prod(shape)
    bank = _bank(1 << max(20, (num * 5 // 4).bit_length()), dtype, device)
    offset = zlib.crc32(f"{seed} {place}".encode()) % (bank.numel() - num) // 32 * 32
    return bank[offset : offset + num].view(out_channels, height, width, in_channels).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=8)
def _bank(size, dtype, device):
    """`size` standard Gaussians; the size is a function of the weight's shape alone."""
    generator = torch.Generator().manual_seed(BANK_SEED)
    return torch.randn(size, generator=generator).to(device=device, dtype=dtype)


@functools.cache
def fast_dtype(device_type: str) -> torch.dtype:
    """bfloat16 where the hardware multiplies it, else float32."""
    if device_type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if processor_has_bfloat16() else torch.float32
