"""The Zen-Score in closed form: in the limit of wide layers, each layer adds a number that is known beforehand.

In that limit a map before its norm is Gaussian, with one covariance K of its positions, and so is its direction, of
variance D:
  - a convolution takes both's mean over its window, zero beyond the borders, and multiplies it by its fan-in;
  - a norm divides by the variance v over all positions of the batch. The score adds log sigma = log E[v] / 2 back, so
    all that stays is log(E[1/v] E[v]) / 2, which is not zero: on the last, small maps v is the mean of a few squares,
    and E[1/v] is large. v is a quadratic form of Gaussians; E[1/v] = integral over t > 0 of
    prod (1 + 2 t lambda)^(-1/2), lambda its eigenvalues;
  - an activation of slope a below zero multiplies D by (1 + a^2) / 2; K becomes the arc-cosine kernel of degree 1.
So the score is a sum over layers: log(fan-in) / 2 for each convolution, plus what K and D say, which does not depend on
widths at all, and on depths only until the maps have settled, a few blocks into each stage. Behind the last convolution
absolute values are summed, not squares: E[v^(-1/2)] stands for the root of E[1/v] there, (1 + a) / 2 for that of (1 +
a^2) / 2.
Sources: Lin et al. 2021 (the score), Cho & Saul 2009 (the kernel), Poole et al. 2016 (mean field); the sum, the borders
and the finite batch are ours. Left out: what a finite width does, and what two shallow stages in a row do to each
other. On random candidates of ir_se, ir_se_tiny, mobilefacenet and resnet at 32 px it is 0.03 to 0.05 % off the
measured score on average and 0.3 % at worst, on networks of 16 channels.
"""

# B images, HW map, P = H*W positions of an image, N of a batch

import copy
import functools
import math
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zennas.records import UserError
from zennas.score.branches import ONCE, Apart, joined, weights
from zennas.score.modules import candidate_of
from zennas.score.plain import Activation, Convolution, Norm, Picked, part_layers
from zennas.space.blocks import NECKS, ends, stride_of
from zennas.space.candidate import Candidate
from zennas.space.cost import fan_ins, parts_in
from zennas.space.families.table import divisor_of, family_of, layout_of, layout_of_space, tree_of
from zennas.space.parts import Part, Sums, combined, sums
from zennas.space.shape import Shape
from zennas.space.space import Space

SETTLED = 1e-5  # what a further block of a stage may add differently from the one before, to count as the same
LEADS_ON = 1e-3  # what a stage may make of the next one, to be left out
MAX_BLOCKS = 64  # of a stage until it has settled; 12 to 42 at 32 px
MATRIX_PX = 32  # the side of the largest map whose positions' covariance is followed
# Of an image, up to which E[1/v] is integrated; above, where v hardly varies, the first term of its series is exact to
# 3e-4.
EXACT_POSITIONS = 300


class StageGrowth(NamedTuple):
    """What K and D add to the score in a stage: (n + 1) blocks add of_depth[n], every further one per_block.

    What a stage too shallow to settle makes of the next one is in its own numbers, where the next is deep enough to
    settle.
    """

    of_depth: tuple[float, ...]
    per_block: float

    def of(self, depth: int) -> float:
        """What so many blocks add."""
        known = len(self.of_depth)
        return self.of_depth[min(depth, known) - 1] + max(0, depth - known) * self.per_block


class Growth(NamedTuple):
    """What K and D add to the score, whatever the widths."""

    stem: float
    stages: tuple[StageGrowth, ...]


def mean_field(
    network: Candidate | nn.Module,
    shape: Shape,
    batch: int,
    generator: torch.Generator | None,
    *,
    aggregate: str = ONCE,
) -> float:
    """The closed form of the Zen-Score of a Candidate (or of our Network); the generator is not used.

    shape, batch: of the images of the measured score that it stands for. aggregate: of the ways through a network of
    several. ValueError where the candidate's block has a layer that the closed form does not know, or where the last
    map has too few positions for a norm to have a mean.
    """
    candidate = candidate_of(network, "the closed form")
    tree = tree_of(candidate)
    scores = tuple(_of_way(candidate, shape, batch, way) for way in tree.ways)
    trunk_score = None
    if tree.num_branches > 1:
        trunk_score = _of_way(candidate, shape, batch, tree.ways[0], num_stages=tree.shared)
    return joined(tree, Apart(scores, trunk_score), aggregate=aggregate)


def _of_way(candidate, shape, batch, way, *, num_stages=None):
    """The closed form of one way, or of its first so many stages."""
    stages, strides = way.stages[:num_stages], way.strides[:num_stages]
    growth = growth_of(candidate.block, strides, shape.hw, batch, stem=family_of(candidate).ends(candidate.block).stem)
    total = growth.stem + sum(
        growth_of_stage.of(candidate.depths[stage])
        for growth_of_stage, stage in zip(growth.stages, stages, strict=True)
    )
    smallest_px = divisor_of(candidate)  # no size changes what widths add
    layout = layout_of(candidate, shape.sized((smallest_px, smallest_px))).along(way, num_stages=num_stages)
    parts = parts_in(candidate, layout)
    return total + sum(times * width_term(Part(*part)) for part, times in parts.items())


def mean_field_sums(space: Space, hw: tuple[int, int], batch: int, *, aggregate: str = ONCE) -> Sums:
    """The Sums of the closed form over a space, scored on `batch` images of (height, width), for any number of
    candidates at once. ValueError as `mean_field`."""
    tree = tree_of(space)
    ways = [_sums_of_way(space, hw, batch, way) for way in tree.ways]
    if tree.num_branches == 1:
        return ways[0]
    of_ways, of_trunk = weights(tree, aggregate)
    trunk = _sums_of_way(space, hw, batch, tree.ways[0], num_stages=tree.shared)
    return combined([*ways, trunk], [*of_ways, of_trunk])


def _sums_of_way(space, hw, batch, way, *, num_stages=None):
    stages, strides = way.stages[:num_stages], way.strides[:num_stages]
    growth = growth_of(space.block, strides, hw, batch, stem=family_of(space).ends(space.block).stem)
    by_width = sums(space, width_term, layout=layout_of_space(space).along(way, num_stages=num_stages))
    depth = list(by_width.depth)
    for growth_of_stage, stage in zip(growth.stages, stages, strict=True):
        depth[stage] = np.array([growth_of_stage.of(depth) for depth in space.depths[stage].values()])
    return by_width._replace(stem_W=by_width.stem_W + growth.stem, depth=tuple(depth))


def width_term(part: Part) -> float:
    """What the widths of one Part add: half the log of the fan-in of each of its plain convolutions."""
    if part.kind in NECKS:
        return math.log(part.in_channels)  # the sum of absolute values over the last map's channels
    return sum(0.5 * math.log(fan_in) for fan_in in fan_ins(*part[:4]))


@functools.lru_cache(maxsize=64)
def growth_of(
    block: str, strides: tuple[int, ...], hw: tuple[int, int], batch: int, *, stem: str | None = None
) -> Growth:
    """The Growth of networks of a block, on `batch` images of (height, width), whose stages shrink their maps by
    `strides`; each stage follows one that has settled. stem: a row of STEMS; None: the block's."""
    field, kind = _Field(hw, batch), stem or ends(block).stem
    of_stem = field.through(part_layers(kind, 1, 64, stride_of(kind)), f"the stem of '{block}'")
    fields = [field]  # behind each depth of the stage before, the last of them settled
    stages = []
    for number, stride in enumerate(strides):
        *shallow, settled = fields
        fields = _settling(settled, block, stride)
        of_depth = [sum(behind.added for behind in fields[: depth + 1]) for depth in range(len(fields))]
        if number:
            stages[-1] = _leading_on(stages[-1], shallow, (block, stride), fields)
        stages.append(StageGrowth(tuple(of_depth), fields[-1].added))
    last = tuple(so_far + behind.ending for so_far, behind in zip(stages[-1].of_depth, fields, strict=True))
    return Growth(of_stem, (*stages[:-1], stages[-1]._replace(of_depth=last)))


def _settling(before, block, stride):
    """The fields behind each block of a stage, one after the other until one adds what the one before it did."""
    fields = [before.behind(block, stride)]
    while len(fields) < 3 or (abs(fields[-1].added - fields[-2].added) > SETTLED and len(fields) < MAX_BLOCKS):
        fields.append(fields[-1].behind(block))
    return fields


def _leading_on(stage, shallow, block_and_stride, settling):
    """A StageGrowth with what its shallow fields make of the next stage, which settled by these fields behind a settled
    one.
    """
    known = {}
    for depth in _spread(len(shallow)):
        known[depth] = _difference(shallow[depth], *block_and_stride, settling)
        if abs(known[depth]) < LEADS_ON:
            break
    added = np.interp(range(len(stage.of_depth)), list(known), list(known.values()), right=0.0)
    return stage._replace(of_depth=tuple(np.add(stage.of_depth, added).tolist()))


def _spread(num):
    """Indices up to num, every one of the first, then ever further apart, the last of all among them."""
    indices = [0]
    while indices[-1] < num - 1:
        indices.append(min(num - 1, max(indices[-1] + 1, indices[-1] * 3 // 2)))
    return indices


def _difference(before, block, stride, settling):
    """What a stage adds more behind this field than it did on its way to settle."""
    total, field = 0.0, before
    for number, expected in enumerate(settling):
        field = field.behind(block, None if number else stride)
        total += field.added - expected.added
        if abs(field.added - expected.added) < LEADS_ON / 4:
            break
    return total


class _Field:
    """The covariance of a batch's positions and the variance of their direction, on their way through the layers.

    Images are alike: their positions covary by one matrix within an image and by another between any two. Maps too
    large for matrices have so many positions that a norm's mean is exact there; what they covary by has settled soon
    after.
    """

    def __init__(self, hw, batch):
        self.batch, self.hw, self.normal = batch, tuple(hw), False
        self.within_PP = self.between_PP = None
        self.direction_HW = torch.ones(*hw, dtype=torch.float64)
        self.log_scale = 0.5 * math.log(2 / math.pi)  # E|x| of a Gaussian
        self.ending = 0.0  # what the layers behind the last convolution add otherwise, if they are the network's last
        self.before = self.added = 0.0
        self._begin_where_small()

    def behind(self, block, stride=None):
        """The field behind one more block, the first of a stage (of this stride) or a further one; `added` is what it
        adds to the score."""
        field = copy.copy(self)
        layers = part_layers(block, 128, 128, 1) if stride is None else part_layers(block, 64, 128, stride)
        field.through(layers, f"block '{block}'")
        return field

    def through(self, layers, what):
        """What these layers add to the score."""
        for layer in layers:
            match layer:
                case Convolution():
                    self._convolve(layer)
                case Norm():
                    self._normalise()
                case Picked():
                    self._pick(layer.stride)
                case Activation():
                    self._activate(layer.slope_below_zero)
                case _:
                    raise ValueError(f"the closed form of the Zen-Score does not know a layer of {what}")
            self.normal = isinstance(layer, Norm)
            mean = self.direction_HW.mean()  # kept near 1: a deep network's would overflow
            self.direction_HW, self.log_scale = self.direction_HW / mean, self.log_scale + 0.5 * math.log(mean)
        now = self.log_scale + math.log(self.direction_HW.sqrt().sum())
        self.added, self.before = now - self.before, now
        return self.added

    def _begin_where_small(self):
        num_positions = math.prod(self.hw)
        if self.within_PP is None and num_positions <= MATRIX_PX**2:
            self.within_PP = torch.eye(num_positions, dtype=torch.float64)
            self.between_PP = torch.zeros_like(self.within_PP)

    def _convolve(self, layer):
        kernel, stride, pad = layer.shape[2], layer.stride, layer.padding
        out_hw = tuple((px + 2 * pad - kernel) // stride + 1 for px in self.hw)
        if self.within_PP is not None:
            places = kernel, stride, pad, self.hw, out_hw
            self.within_PP, self.between_PP = (
                _windows(both_PP, *places) for both_PP in (self.within_PP, self.between_PP)
            )
        window = torch.full(
            (1, 1, kernel, kernel), 1 / kernel**2, dtype=torch.float64
        )  # the mean: the fan-in is the width's
        self.direction_HW = F.conv2d(self.direction_HW[None, None], window, stride=stride, padding=pad)[0, 0]
        self.hw, self.ending = out_hw, 0.0
        self._begin_where_small()

    def _pick(self, stride):
        self.direction_HW = self.direction_HW[::stride, ::stride]
        if self.within_PP is not None:
            picked = torch.arange(math.prod(self.hw)).view(self.hw)[::stride, ::stride].flatten()
            self.within_PP, self.between_PP = (
                both_PP[picked][:, picked] for both_PP in (self.within_PP, self.between_PP)
            )
        self.hw = tuple(self.direction_HW.shape)
        self._begin_where_small()

    def _normalise(self):
        if self.normal or self.within_PP is None:  # right behind another norm it changes nothing
            return
        num_others = self.batch - 1
        row_P = (self.within_PP + num_others * self.between_PP).mean(1) / self.batch
        shift_PP = row_P[:, None] + row_P - row_P.mean()
        within_PP, between_PP = self.within_PP - shift_PP, self.between_PP - shift_PP
        inverse, inverse_root = _mean_inverses(within_PP, between_PP, self.batch)
        self.direction_HW = self.direction_HW * inverse
        self.ending += math.log(inverse_root) - 0.5 * math.log(inverse)
        scale = len(within_PP) / within_PP.trace()
        self.within_PP, self.between_PP = within_PP * scale, between_PP * scale

    def _activate(self, slope):
        if self.within_PP is not None:
            sigma_P = self.within_PP.diagonal().clamp_min(1e-12).sqrt()
            product_PP = sigma_P[:, None] * sigma_P
            self.within_PP, self.between_PP = (
                slope * covariance_PP
                + (1 - slope) ** 2 / (2 * math.pi) * product_PP * _arc_cosine((covariance_PP / product_PP).clamp(-1, 1))
                for covariance_PP in (self.within_PP, self.between_PP)
            )
        self.direction_HW = self.direction_HW * ((1 + slope**2) / 2)
        self.ending += math.log((1 + slope) / 2) - 0.5 * math.log((1 + slope**2) / 2)


def _windows(covariance_PP, kernel, stride, pad, hw, out_hw):
    """The covariance behind a convolution: summed over its window, at both positions alike."""
    padded = F.pad(covariance_PP.view(*hw, *hw), (pad,) * 8)
    total = torch.zeros((*out_hw, *out_hw), dtype=torch.float64)
    for row in range(kernel):
        for column in range(kernel):
            rows, columns = (
                slice(at, at + stride * (out - 1) + 1, stride) for at, out in zip((row, column), out_hw, strict=True)
            )
            total += padded[rows, columns, rows, columns]
    return total.view(math.prod(out_hw), math.prod(out_hw))


def _arc_cosine(cosine):
    """2 pi E[max(u, 0) max(v, 0)] of two unit Gaussians of this correlation."""
    return (1 - cosine**2).clamp_min(0).sqrt() + cosine * (math.pi - torch.acos(cosine))


def _mean_inverses(within_PP, between_PP, batch):
    """(E[1/v] E[v], E[v^(-1/2)] E[v]^(1/2)) of v, the mean of squares over the positions of a batch, Gaussians that
    covary so.
    """
    num_others = batch - 1
    trace = batch * within_PP.trace()
    share = float(batch * ((within_PP**2).sum() + num_others * (between_PP**2).sum()) / trace**2)
    if len(within_PP) > EXACT_POSITIONS:
        return 1 + 2 * share, 1 + 0.75 * share
    if not 0 < share <= 1 / 2.5:  # a mean of two squares or fewer has no finite mean of its inverse
        num = batch * len(within_PP)
        raise UserError(f"a norm sees {num} positions: too few for a mean of the score; more image_px or batch")
    eigenvalue_2P = torch.cat(
        [torch.linalg.eigvalsh(within_PP - between_PP), torch.linalg.eigvalsh(within_PP + num_others * between_PP)]
    ).clamp_min(0)
    times_2P = torch.ones_like(eigenvalue_2P)
    times_2P[: len(within_PP)] = num_others  # images differ in as many ways
    share_2P = eigenvalue_2P / (eigenvalue_2P @ times_2P)
    log_t = torch.linspace(-32, 24, 449, dtype=torch.float64)  # in steps of 1/8 the trapezium rule is exact to 1e-9
    log_product = -0.5 * torch.log1p(2 * log_t.exp()[:, None] * share_2P) @ times_2P
    inverse, inverse_root = (
        float(torch.trapezoid(torch.exp(power * log_t + log_product), log_t)) / math.gamma(power) for power in (1, 0.5)
    )
    return inverse, inverse_root
