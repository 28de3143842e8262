# B images, C channels, HW map

import functools
import importlib
import math
import random
import statistics
import zlib

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import forward_ad

from tests.shapes import square
from zennas.score import plain as plain_module
from zennas.score import together
from zennas.score.plain import Convolution, plain_layers
from zennas.score.together import zen_of_candidates
from zennas.score.zen import zen_of_candidate, zen_of_module
from zennas.space.blocks import BLOCKS
from zennas.space.candidate import Candidate
from zennas.space.network import initialise, plain, plain_paths

zen_module = importlib.import_module("zennas.score.zen")  # `zennas.score.zen` is the function

SMALL = Candidate(block="ir", stem=8, widths=(8, 16), depths=(1, 2))
fp32 = functools.partial(zen_of_candidates, dtype=torch.float32)
# A sum of float32 ends within some 1e-7 of itself however it is ordered; a score is a sum of ten to a hundred logs of
# such.
ROUNDING = 1e-5


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def one_fp32(candidate, shape, batch, generator, **given):
    (score,) = fp32([candidate], shape, batch, generator, **given)
    return score


def std_of_mean(values):
    return statistics.stdev(values) / math.sqrt(len(values))


def own_weight(place, shape):
    """A weight that is a function of its place and shape, and not of the bank."""
    return torch.randn(shape, generator=seeded(zlib.crc32(f"{place} {shape}".encode())))


# --- the number is the paper's: three ways of computing it, on the same weights and the same images


class Branch(nn.Module):
    """A block of everything that a convolution of the fast path may have, and of norms in unusual places."""

    def __init__(self, in_channels, out_channels, stride):
        super().__init__()
        self.attention, self.shortcut = nn.Identity(), None
        self.residual = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(in_channels, 2 * out_channels, 1, bias=False),
            nn.BatchNorm2d(2 * out_channels),
            nn.BatchNorm2d(2 * out_channels),
            nn.LeakyReLU(0.3),
            nn.Conv2d(2 * out_channels, 2 * out_channels, 5, stride, 2, groups=2 * out_channels, bias=False),
            nn.BatchNorm2d(2 * out_channels),
            nn.PReLU(2 * out_channels, init=0.1),
            nn.Conv2d(2 * out_channels, out_channels, 3, 1, 1, groups=2, bias=False),
        )

    def forward(self, x_BCHW):
        return self.residual(x_BCHW)


@pytest.fixture
def branch(monkeypatch):
    """The name of a block of Branches."""
    monkeypatch.setitem(BLOCKS, "branch", Branch)
    yield "branch"
    plain_module.part_layers.cache_clear()


class Draws:
    """The images and directions that the fast path used, its weights and its score."""

    def __init__(self, monkeypatch, candidate, *, image_px, batch, seed):
        entered, through, weights = [], together.through, {}

        def spying_through(maps, *rest):
            entered.append(maps.pair_P2BHWC)
            return through(maps, *rest)

        def weight_of(place, shape):
            assert place not in weights
            weights[place] = own_weight((seed, place), shape)
            return weights[place]

        with monkeypatch.context() as patch:
            patch.setattr(together, "through", spying_through)
            self.fast = one_fp32(candidate, square(image_px), batch, seeded(seed), weight_of=weight_of)
        pair_2BCHW = entered[0][0].permute(0, 1, 4, 2, 3).clone()
        self.image_BCHW, self.direction_BCHW = pair_2BCHW.contiguous()
        assert self.image_BCHW.shape == (batch, 3, image_px, image_px)
        self.plain = initialise(plain(*plain_paths(candidate, 3)))
        convolutions = [part for part in self.plain if isinstance(part, nn.Conv2d)]
        for part, weight in zip(convolutions, weights.values(), strict=True):
            assert part.weight.shape == weight.shape
            part.weight.data.copy_(weight)

    def by_module(self, monkeypatch):
        """zen_of_module on these weights, images and directions."""
        with monkeypatch.context() as patch:
            patch.setattr(zen_module, "_redraw", lambda weight, bias, generator: None)
            pinned = nn.Sequential(Pinned(self.image_BCHW, self.direction_BCHW), *self.plain)
            return zen_of_module(pinned, square(self.image_BCHW.shape[-1]), len(self.image_BCHW), seeded(99))


class Pinned(nn.Module):
    """Whatever comes in, these images go on, and their derivative is this direction."""

    def __init__(self, image_BCHW, direction_BCHW):
        super().__init__()
        self.image_BCHW, self.direction_BCHW = image_BCHW, direction_BCHW

    def forward(self, x_BCHW):
        return forward_ad.make_dual(self.image_BCHW, self.direction_BCHW)


SLOPES = {
    nn.PReLU: lambda layer: float(layer.weight[0]),
    nn.LeakyReLU: lambda layer: layer.negative_slope,
    nn.ReLU: lambda layer: 0.0,
    nn.ReLU6: lambda layer: 0.0,  # nothing drawn here reaches six
}


@torch.no_grad()
def by_finite_difference(layers, image_BCHW, direction_BCHW, *, step=1e-8):
    """log || (f(x + step d) - f(x - step d)) / (2 step) || + sum of log sigma, in float64, norms frozen at their
    batch's.
    """
    frozen = {}

    def run(x):
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d):
                x = F.conv2d(x, layer.weight.double(), None, layer.stride, layer.padding, 1, layer.groups)
            elif type(layer) in SLOPES:
                x = torch.where(x > 0, x, SLOPES[type(layer)](layer) * x)
            elif isinstance(layer, nn.MaxPool2d):
                x = x[:, :, :: layer.stride, :: layer.stride]  # its window is one position
            else:
                if index not in frozen:
                    mean_C = x.mean((0, 2, 3), keepdim=True)
                    frozen[index] = mean_C, ((x - mean_C) ** 2).mean((0, 2, 3), keepdim=True)
                mean_C, variance_C = frozen[index]
                x = (x - mean_C) / (variance_C + layer.eps).sqrt()
        return x

    run(image_BCHW)
    derivative_BCHW = (run(image_BCHW + step * direction_BCHW) - run(image_BCHW - step * direction_BCHW)) / (2 * step)
    log_sigmas = [0.5 * math.log(variance_C.mean()) for _, variance_C in frozen.values()]
    return math.log(derivative_BCHW.abs().sum((1, 2, 3)).mean()) + sum(log_sigmas)


DRAWN = {
    "one block": (Candidate(block="ir", stem=4, widths=(4,), depths=(1,)), 8, 2, 0),
    "small": (SMALL, 8, 3, 1),
    "wider": (Candidate(block="ir_se", stem=24, widths=(16, 8, 24), depths=(2, 1, 3)), 16, 2, 2),
    "odd": (Candidate(block="ir", stem=5, widths=(7, 3), depths=(2, 1)), 12, 1, 3),
    # Every row of BLOCKS. An activation so near zero that rounding turns its sign takes the other slope: in 2 of 96
    # draws one was worth 1e-3; in those of this seed there is none.
    **{block: (Candidate(block=block, stem=16, widths=(16, 24), depths=(1, 2)), 32, 2, 4) for block in BLOCKS},
}


@pytest.fixture(params=[*DRAWN, "branch"])
def draws(request, monkeypatch, branch):
    drawn = DRAWN | {"branch": (Candidate(block=branch, stem=6, widths=(4, 8), depths=(2, 1)), 16, 3, 5)}
    candidate, image_px, batch, seed = drawn[request.param]
    return Draws(monkeypatch, candidate, image_px=image_px, batch=batch, seed=seed)


def test_the_fast_path_is_the_module_s_score(draws, monkeypatch):
    # float32 on both sides: 1e-7 per operation, some ten operations per layer that add up at random.
    assert draws.fast == pytest.approx(draws.by_module(monkeypatch), abs=1e-4)


def test_both_are_the_naive_derivative(draws, monkeypatch):
    naive = by_finite_difference(draws.plain, draws.image_BCHW.double(), draws.direction_BCHW.double())
    # 1e-4 for float32. The step crosses a kink at one activation in 10^8, and 1e-16 / 1e-8 is nothing beside it either.
    assert draws.fast == pytest.approx(naive, abs=1e-4)
    assert draws.by_module(monkeypatch) == pytest.approx(naive, abs=1e-4)


# --- a score does not depend on its company


def crowd(blocks, *, num, widths, seed=0):
    """Candidates of few widths and depths, so that many begin alike."""
    rng = random.Random(seed)
    return [
        Candidate(
            block=rng.choice(blocks),
            stem=rng.choice(widths),
            widths=(rng.choice(widths), rng.choice(widths)),
            depths=(rng.randint(1, 3), rng.randint(1, 4)),
        )
        for _ in range(num)
    ]


@functools.cache
def all_alone(candidates, batch):
    return {candidate: one_fp32(candidate, square(32), batch, seeded(3)) for candidate in candidates}


@pytest.mark.parametrize("max_elements", [1, 20_000, 1 << 21], ids=["one at a time", "chunks", "all at once"])
@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize(
    "blocks", [("ir", "ir_se"), ("bottleneck", "inverted_residual", "separable_residual")], ids=["3x3", "1x1"]
)
def test_company_and_order_change_no_bit(blocks, batch, max_elements, monkeypatch):
    """At least two images: there each image's sums are the same ones wherever it lies in its batch."""
    candidates = crowd(blocks, num=30, widths=(8, 16, 24))
    alone = all_alone(tuple(candidates), batch)
    candidates += candidates[:5]
    monkeypatch.setattr(together, "MAX_ELEMENTS", max_elements)
    for seed in range(3):
        some = random.Random(seed).sample(candidates, k=len(candidates) - 9 * seed)
        assert fp32(some, square(32), batch, seeded(3)) == [alone[one] for one in some]


@pytest.mark.parametrize("px", [1, 4, 5, 16])
@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (3, 8)])
@pytest.mark.parametrize("out_channels", [8, 24])
def test_a_map_is_convolved_alike_in_any_company(kernel, groups, out_channels, px):
    """To the last bit, of which a score shows few. oneDNN's own 1x1 convolution of 8 channels would fail here."""
    generator = seeded(0)
    layer = Convolution((out_channels, 8 // groups, kernel, kernel), 1, kernel // 2, groups)
    pair = torch.randn(5, 2, 2, px, px, 8, generator=generator)
    weight = torch.randn(layer.shape, generator=generator)
    all_P2BHWC = together._convolved(pair, weight, layer)
    for place in range(5):
        assert torch.equal(together._convolved(pair[place : place + 1].clone(), weight, layer)[0], all_P2BHWC[place])


def test_nobody_has_no_score():
    assert zen_of_candidates([], square(16), 2, seeded(0)) == []


@pytest.mark.parametrize("max_elements", [1, 20_000, 1 << 21], ids=["one at a time", "chunks", "all at once"])
def test_several_blocks_and_odd_widths_keep_company(max_elements, branch, monkeypatch):
    """A single image: products of so few rows are summed in an order that depends on how many there are: rounding
    only."""
    candidates = crowd([*BLOCKS, branch], num=30, widths=(6, 10))
    alone = [one_fp32(candidate, square(32), 1, seeded(4), weight_of=own_weight) for candidate in candidates]
    monkeypatch.setattr(together, "MAX_ELEMENTS", max_elements)
    # Twice as far as elsewhere: a single image, of whose last maps a norm has few positions to average over.
    assert fp32(candidates, square(32), 1, seeded(4), weight_of=own_weight) == pytest.approx(alone, abs=2 * ROUNDING)


@pytest.mark.parametrize("block", ["ir", "bottleneck", "inverted_residual"])
def test_in_bfloat16_company_is_rounding_at_most(block):
    candidates = crowd([block], num=12, widths=(8, 16))
    score = functools.partial(zen_of_candidates, shape=square(16), batch=2, dtype=torch.bfloat16)
    alone = [score([candidate], generator=seeded(5))[0] for candidate in candidates]
    of_seeds = [score([SMALL], generator=seeded(seed))[0] for seed in range(12)]
    worst = max(abs(a - b) for a, b in zip(score(candidates, generator=seeded(5)), alone, strict=True))
    assert worst < statistics.stdev(of_seeds) / 10  # far below what another seed would say


def asked(candidates, **given):
    """The places whose weights scoring these together asked for, one by one."""
    places = []

    def weight_of(place, shape):
        places.append(place)
        return own_weight(place, shape)

    fp32(candidates, square(16), 2, seeded(0), weight_of=weight_of, **given)
    return places


def deep(*depths, **changes):
    return SMALL.model_copy(update={"depths": depths} | changes)


@pytest.mark.parametrize(
    ("candidates", "num_parts"),
    [
        ([deep(1, 4)], 1 + 5),
        ([deep(1, 4)] * 3, 1 + 5),
        ([deep(1, 2), deep(1, 4), deep(1, 1)], 1 + 5),  # what is deeper begins like what is less deep
        ([deep(1, 2), deep(3, 2)], 1 + 3 + 2),  # of one shape from there on: side by side
        ([deep(1, 2), deep(1, 2, widths=(8, 24))], 1 + 1 + 2 + 2),
        ([deep(1, 2), deep(1, 2, stem=16)], 2 + 2 + 2),  # one shape again, behind the first stage
        ([deep(1, 2), deep(1, 2, block="ir_cbam")], 2 * (1 + 3)),
    ],
    ids=["one", "thrice", "depths", "trunks", "widths", "stems", "blocks"],
)
def test_what_candidates_share_is_computed_once(candidates, num_parts):
    num_stems = len({(candidate.block, candidate.stem) for candidate in candidates})
    assert len(asked(candidates)) == num_stems + 2 * (num_parts - num_stems)  # two convolutions a block


def test_chunks_go_through_one_after_the_other(monkeypatch):
    """So that the test above that wants the same of them is one of chunks indeed."""
    candidates = [deep(1, 2), deep(3, 2), deep(2, 2)]
    assert len(asked(candidates)) == 1 + 2 * (3 + 2)
    monkeypatch.setattr(together, "MAX_ELEMENTS", 1)
    assert len(asked(candidates)) == 1 + 2 * (3 + 3 * 2)


def test_a_place_and_a_shape_make_a_weight():
    """A place is the stage, the block and the convolution, each counted as the network counts them."""
    assert asked([deep(1, 2)]) == [
        ("stem", 0, 0),
        *((stage, block, conv) for stage, block in ((0, 1), (1, 1), (1, 2)) for conv in (0, 1)),
    ]


# --- maps of few pixels are multiplied as unfolded patches


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(("kernel", "padding"), [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (5, 2)])
@pytest.mark.parametrize("px", [5, 8])
def test_unfolded_patches_are_a_convolution(px, kernel, padding, stride, groups, monkeypatch):
    generator = seeded(0)
    layer = Convolution((8, 12 // groups, kernel, kernel), stride, padding, groups)
    pair = torch.randn(3, 2, 2, px, px, 12, generator=generator, dtype=torch.float64)
    weight = torch.randn(layer.shape, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(together, "SMALL_PX", 99)
    unfolded = together._convolved(pair, weight, layer)
    expected = F.conv2d(pair.flatten(0, 2).permute(0, 3, 1, 2), weight, None, stride, padding, 1, groups)
    assert unfolded.shape == (3, 2, 2, *expected.shape[2:], 8)
    # float64 on both sides: sums of up to 300 products, 1e-16 of each
    torch.testing.assert_close(unfolded.flatten(0, 2).permute(0, 3, 1, 2), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 8, 16])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("hw", [(6, 1), (6, 2), (12, 2), (24, 3), (2, 6), (6, 6)], ids=str)
def test_maps_become_one_pixel_wide_in_bfloat16(hw, kernel, groups):
    """oneDNN gives what lay in memory there: the score of a network behind such maps was another one each time."""
    generator = torch.Generator().manual_seed(0)
    layer = Convolution((16, 16 // groups, kernel, kernel), 2, kernel // 2, groups)
    pair = torch.randn(1, 2, 2, *hw, 16, generator=generator).bfloat16()
    weight = torch.randn(16, kernel, kernel, 16 // groups, generator=generator).permute(0, 3, 1, 2).bfloat16()
    expected = together._convolved(pair.float(), weight.float(), layer)
    for _ in range(3):
        torch.full((2_000_000,), math.nan)  # lies in memory then
        assert torch.allclose(together._convolved(pair, weight, layer).float(), expected, atol=0.02 * expected.std())


@pytest.mark.parametrize("block", BLOCKS)
def test_a_score_is_the_same_either_way(block, monkeypatch):
    candidate = Candidate(block=block, stem=8, widths=(8, 12), depths=(1, 2))
    scores, linear, products = [], F.linear, []
    monkeypatch.setattr(F, "linear", lambda *given: products.append(small_px) or linear(*given))
    for small_px in (0, 99):
        monkeypatch.setattr(together, "SMALL_PX", small_px)
        scores.append(one_fp32(candidate, square(32), 2, seeded(1)))
    layers = [layer for layer in plain_layers(candidate, 3) if isinstance(layer, Convolution) and layer.groups == 1]
    assert products.count(0) == sum(layer.shape[2] == 1 for layer in layers) and products.count(99) == len(layers)
    assert scores[0] == pytest.approx(scores[1], abs=ROUNDING)


# --- failures


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_an_overflow_is_a_value_and_its_neighbours_have_theirs(value):
    """One stage's weights of one width are broken: who has that width is not finite, who goes side by side with it
    is."""
    broken, whole = deep(1, 2, widths=(8, 24)), [deep(1, 2), deep(2, 1), deep(1, 1, stem=16)]

    def weight_of(place, shape):
        weight = own_weight(place, shape)
        return torch.full_like(weight, value) if shape[0] == 24 else weight

    first, *scores, last = fp32([broken, *whole, broken], square(16), 2, seeded(0), weight_of=weight_of)
    assert not math.isfinite(first) and not math.isfinite(last)
    assert scores == [one_fp32(one, square(16), 2, seeded(0), weight_of=own_weight) for one in whole]


@pytest.mark.parametrize("value", [0.0, math.inf, math.nan])
def test_of_a_single_candidate_it_is_an_error(value):
    def weight_of(place, shape):
        return torch.full(shape, value)

    with pytest.raises(FloatingPointError, match="overflow or vanish"):
        zen_of_candidate(SMALL, square(8), 2, seeded(0), weight_of=weight_of, dtype=torch.float32)


def test_a_layer_that_the_fast_path_does_not_know_is_a_value_error(monkeypatch):
    class Smooth(Branch):
        def __init__(self, *shape):
            super().__init__(*shape)
            self.residual.append(nn.SiLU())

    monkeypatch.setitem(BLOCKS, "smooth_branch", Smooth)
    smooth = Candidate(block="smooth_branch", stem=8, widths=(8, 16), depths=(1, 1))
    with pytest.raises(ValueError, match="block 'smooth_branch' has a layer that is no convolution, norm or"):
        fp32([SMALL, smooth], square(8), 2, seeded(0))


# --- the bank


def test_the_bank_s_views_are_as_good_as_fresh_weights():
    ours = [one_fp32(SMALL, square(16), 4, seeded(seed)) for seed in range(40)]
    fresh = [
        zen_of_module(initialise(plain(*plain_paths(SMALL, 3))), square(16), 4, seeded(seed)) for seed in range(40)
    ]
    noise = math.hypot(std_of_mean(ours), std_of_mean(fresh))
    assert statistics.fmean(ours) == pytest.approx(statistics.fmean(fresh), abs=5 * noise)  # 5 deviations
    assert 0.5 < statistics.stdev(ours) / statistics.stdev(fresh) < 2  # nor is it quieter: 40 draws tell it to 16 %


def test_every_layer_of_every_seed_has_weights_of_its_own(monkeypatch):
    weight_of = together._weight

    def weights_of(seed):
        used = []
        with monkeypatch.context() as patch:
            patch.setattr(together, "_weight", lambda *given: used.append(weight_of(*given)) or used[-1])
            one_fp32(SMALL, square(8), 2, seeded(seed))
        return used

    one, other = weights_of(0), weights_of(1)
    assert [weight.shape for weight in one] == [layer.shape for layer in plain_layers(SMALL, 3) if len(layer) == 4]
    assert len({weight.storage_offset() for weight in one + other}) == len(one + other)
    assert len({weight.untyped_storage().data_ptr() for weight in one}) == 1  # views of the bank, no copies
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in one)
    numbers = torch.cat([weight.flatten() for weight in one + other])
    noise = 5 / math.sqrt(numbers.numel())  # five deviations of a mean; a standard deviation is told to less
    assert abs(numbers.mean()) < noise and abs(numbers.std() - 1) < noise


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (512, 512, 3, 3), (1, 2**20, 1, 1), (700, 700, 3, 3)])
def test_a_weight_is_a_view_of_a_bank_of_its_shape_s_size(shape):
    """Wherever it begins, it ends within the bank; whatever was drawn before, it is the same one."""
    given = 5, torch.float32, "cpu", (1, 2, 0), shape
    weight = together._weight(*given)
    assert weight.shape == shape
    together._bank.cache_clear()
    together._weight(5, torch.float32, "cpu", (1, 2, 0), (1024, 1024, 3, 3))
    assert torch.equal(together._weight(*given), weight)


def test_bfloat16_is_within_the_noise_of_float32():
    """The same seed draws the same numbers, so what is left is rounding; it must be small beside another seed's
    score."""
    seeds = range(12)
    exact = [one_fp32(SMALL, square(16), 4, seeded(seed)) for seed in seeds]
    rough = [zen_of_candidate(SMALL, square(16), 4, seeded(seed), dtype=torch.bfloat16) for seed in seeds]
    differences = [abs(a - b) for a, b in zip(exact, rough, strict=True)]
    assert max(differences) < statistics.stdev(exact) / 2
    assert max(differences) > 0  # it was bfloat16 indeed


@pytest.mark.parametrize("score_of", [one_fp32, zen_of_candidate], ids=["float32", "default dtype"])
def test_a_score_is_the_seed_s_alone(score_of):
    first = score_of(SMALL, square(16), 2, seeded(7))
    score_of(Candidate(block="ir", stem=64, widths=(256, 256), depths=(1, 2)), square(8), 2, seeded(1))  # larger
    torch.manual_seed(123)
    assert score_of(SMALL, square(16), 2, seeded(7)) == first
    together._bank.cache_clear()
    assert score_of(SMALL, square(16), 2, seeded(7)) == first
    assert score_of(SMALL, square(16), 2, seeded(8)) != first


@pytest.mark.parametrize(
    "larger",
    [deep(1, 4), deep(3, 2), deep(1, 2, stem=16, widths=(16, 32))],
    ids=["deeper", "deeper first", "wider"],
)
def test_deeper_and_wider_score_higher(larger):
    """In the wide limit two blocks are worth 4 * 0.5 ln(9 * 8 * 0.53) = 7, twice the width 7 * 0.5 ln 2 = 2.4."""
    scores = [fp32([SMALL, larger], square(16), 2, seeded(seed)) for seed in range(12)]
    noise = max(std_of_mean([two[place] for two in scores]) for place in (0, 1))
    assert statistics.fmean(two[1] - two[0] for two in scores) > max(1.0, 5 * noise)
