import itertools

import hypothesis
import hypothesis.strategies as st
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.shapes import FACE, divisor, square
from zennas.records import UserError
from zennas.space import network as networks
from zennas.space.blocks import BLOCKS
from zennas.space.candidate import Candidate
from zennas.space.cost import cost, part_cost
from zennas.space.network import build, calibrate, initialise
from zennas.space.residual import deployed

UNITS = {
    "18": (2, 2, 2, 2),
    "34": (3, 4, 6, 3),
    "50": (3, 4, 14, 3),
    "100": (3, 13, 30, 3),
    "200": (6, 26, 60, 6),
}
# Parameters in millions without and with squeeze-excitation, multiply-accumulates at 112 px in units of 10^9: sums over
# the layers of insightface's iresnet.py, made outside this package. They reproduce the sizes of the published files.
PUBLISHED = {
    "18": ("24.026", "24.113", "2.610"),
    "34": ("34.139", "34.297", "4.460"),
    "50": ("43.591", "43.814", "6.309"),
    "100": ("65.156", "65.528", "12.090"),
    "200": ("118.834", "119.578", "23.419"),
}
FILE_MB = {
    "18": 91.658,
    "34": 130.245,
    "50": 166.305,
    "100": 248.590,
}  # insightface's ONNX files, README of the challenge


def iresnet(units, block="ir"):
    return Candidate(block=block, stem=64, widths=(64, 128, 256, 512), depths=tuple(units))


def on_meta(candidate, shape):
    """As it is deployed."""
    return deployed(networks.on_meta(candidate, shape))


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("name", UNITS)
def test_sizes_are_the_published_ones(name):
    ir, ir_se = cost(iresnet(UNITS[name]), FACE), cost(iresnet(UNITS[name], "ir_se"), FACE)
    given = f"{ir.params / 1e6:.3f}", f"{ir_se.params / 1e6:.3f}", f"{ir.macs / 1e9:.3f}"
    assert given == PUBLISHED[name]
    # Each weight of a squeeze-excitation multiplies one number per image, and none has a bias.
    assert ir_se.macs - ir.macs == ir_se.params - ir.params


@pytest.mark.parametrize("name", FILE_MB)
def test_megabytes_are_those_of_the_published_files(name):
    """To 0.1 %: the file holds two more numbers per norm (the statistics), the names and the graph, less folded
    norms."""
    assert cost(iresnet(UNITS[name]), FACE).megabytes == pytest.approx(FILE_MB[name], rel=1e-3)


def test_kakao_s_resnet240_has_its_published_size():
    spent = cost(iresnet((3, 25, 88, 3)), FACE)
    assert (f"{spent.params / 1e6:.1f}", f"{spent.macs / 1e9:.2f}") == ("137.2", "28.27")


def counted_by_hooks(network, image_px):
    """Multiply-accumulates of one image: every output of a convolution or fully connected layer times its fan-in."""
    macs = []

    def count(module, inputs, output):
        fan_in = module.weight[0].numel()
        macs.append(output[0].numel() * fan_in)

    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.register_forward_hook(count)
    with torch.no_grad():
        network(torch.empty(1, 3, image_px, image_px, device=next(network.parameters()).device))
    return sum(macs)


# Deeper networks have more of the same blocks: every depth of one kind, one depth of the others.
SIZES_COUNTED = [*((name, "ir") for name in UNITS), *(("34", block) for block in BLOCKS if block != "ir")]


@pytest.mark.parametrize(("name", "block"), SIZES_COUNTED)
def test_the_analytic_cost_is_that_of_the_network(name, block):
    candidate, image_px = iresnet(UNITS[name], block), 7 * divisor(block, 4)
    network, spent = on_meta(candidate, square(image_px)), cost(candidate, square(image_px))
    assert spent.params == sum(weight.numel() for weight in network.parameters())
    assert spent.macs == counted_by_hooks(network, image_px)


CANDIDATES = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 3)), min_size=1, max_size=3).flatmap(
    lambda stages: st.builds(
        Candidate,
        block=st.sampled_from(sorted(BLOCKS)),
        stem=st.integers(1, 40),
        widths=st.just(tuple(width for width, _ in stages)),
        depths=st.just(tuple(depth for _, depth in stages)),
    )
)


@hypothesis.settings(max_examples=30, deadline=None)  # a forward of up to nine blocks, not of an even duration
@hypothesis.given(CANDIDATES, st.integers(1, 4), st.integers(1, 20))
def test_cost_of_any_candidate_is_what_hooks_count(candidate, px, embedding_size):
    image_px = px * divisor(candidate.block, len(candidate.widths))
    network = on_meta(candidate, square(image_px, embedding_size))
    spent = cost(candidate, square(image_px, embedding_size))
    assert spent.params == sum(weight.numel() for weight in network.parameters())
    assert spent.macs == counted_by_hooks(network, image_px)


def test_an_unknown_block_is_named():
    for function in (cost, build):
        with pytest.raises(
            UserError,
            match=r"block 'ir-se' is not known; did you mean 'ir_se'\? known: bottleneck, .*, ir, ir_cbam, .*, ir_se, ",
        ):
            function(iresnet(UNITS["18"], "ir-se"), FACE)


@pytest.mark.parametrize("block", ["ir", "ir_se", "ir_cbam"])
def test_the_cost_counts_a_layer_once_per_pass(block):
    """By hand for attention over 32 channels at 8 px: squeeze to 2 and back, over one or two poolings; 3x3 over two
    maps.
    """
    squeeze, spatial = 2 * 32 * 2, 2 * 9
    params, macs = {
        "ir": (0, 0),
        "ir_se": (squeeze, squeeze),
        "ir_cbam": (squeeze + spatial, 2 * squeeze + spatial * 8 * 8),
    }[block]
    bare, whole = (part_cost(name, 32, 32, 1, 8, 8) for name in ("ir", block))
    assert (whole.params - bare.params, whole.macs - bare.macs) == (params, macs)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(6, 6), (6, 10)], ids=["in = out", "in != out"])
@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_keeps_the_contract(block, channels, stride):
    in_channels, out_channels = channels
    with torch.device("meta"):
        made = BLOCKS[block](in_channels, out_channels, stride)
    assert isinstance(made.residual, nn.Sequential)  # what the Zen-Score sees of it
    initialise(made, generator=seeded(0))
    image_BCHW = torch.randn(2, in_channels, 8, 8, generator=seeded(1))
    before = image_BCHW.clone()
    output_BCHW = made(image_BCHW)
    assert output_BCHW.shape == made.residual(image_BCHW).shape == (2, out_channels, 8 // stride, 8 // stride)
    assert output_BCHW.isfinite().all() and output_BCHW.std() > 0
    assert torch.equal(image_BCHW, before)
    # Each image is answered for itself: a block that mixes the batch could not be exported with a dynamic one.
    assert torch.allclose(
        made(image_BCHW[1:]), output_BCHW[1:], rtol=1e-4, atol=1e-5
    )  # other batch, other summation order


SMALL = Candidate(block="ir_se", stem=8, widths=(8, 20, 32), depths=(2, 1, 2))
SIZES = {"shape": square(32, 12)}


def troubled(network):
    """The network with norms and slopes that say something: neutral ones would hide one that is missing or
    misplaced."""
    generator = seeded(1)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.normal_(0, 0.3, generator=generator)
            part.running_mean.normal_(0, 0.3, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(part, nn.PReLU):
            part.weight.data.uniform_(0.1, 0.4, generator=generator)
    return network


@pytest.fixture
def small():
    return troubled(build(SMALL, generator=seeded(0), **SIZES))


def iresnet_by_hand(candidate, layers, x):
    """insightface's IResNet with TFace's squeeze-excitation, written out over the network's layers in order of use.

    Source: insightface recognition/arcface_torch/backbones/iresnet.py, TFace backbone/model_irse.py.
    """

    def norm(x):
        return layers.pop(nn.BatchNorm2d)(x)

    def conv(x, stride, padding):
        weight = layers.pop(nn.Conv2d).weight
        return F.conv2d(x, weight, None, stride, padding)

    def prelu(x):
        return F.prelu(x, layers.pop(nn.PReLU).weight)

    x = prelu(norm(conv(x, 1, 1)))
    channels = candidate.stem
    for width, depth in zip(candidate.widths, candidate.depths, strict=True):
        for index in range(depth):
            stride = 2 if index == 0 else 1
            y = norm(conv(prelu(norm(conv(norm(x), 1, 1))), stride, 1))
            if candidate.block == "ir_se":
                gate = y.mean((2, 3), keepdim=True)
                y = y * torch.sigmoid(conv(F.relu(conv(gate, 1, 0)), 1, 0))
            reshapes = stride != 1 or channels != width
            x = y + (norm(conv(x, stride, 0)) if reshapes else x)
            channels = width
    x = norm(x).reshape(x.shape[0], -1)
    return layers.pop(nn.BatchNorm1d)(layers.pop(nn.Linear)(x))


class Layers:
    """The layers of a network of each kind, first come first served."""

    def __init__(self, network):
        self.left = list(network.modules())

    def pop(self, kind):
        index = next(index for index, layer in enumerate(self.left) if type(layer) is kind)
        return self.left.pop(index)


@pytest.mark.parametrize("block", ["ir", "ir_se"])
def test_the_network_is_insightface_s(small, block):
    """Layout, order and strides at once: our network against one written out from the source, in float64."""
    candidate = Candidate(**SMALL.plain() | {"block": block})
    if block == "ir":
        for made in small.blocks:
            made.attention = nn.Identity()
    small.double()
    image_B3HW = torch.randn(2, 3, 32, 32, generator=seeded(2), dtype=torch.float64)
    layers = Layers(small)
    with torch.no_grad():
        expected = iresnet_by_hand(candidate, layers, image_B3HW)
        answer = small(image_B3HW)
    assert torch.allclose(answer, expected, rtol=1e-10, atol=1e-10)  # the same float64 operations, differently grouped
    assert not [layer for layer in layers.left if isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.Linear | nn.PReLU)]


def test_the_image_is_halved_once_per_stage_and_by_the_second_convolution():
    network = on_meta(iresnet(UNITS["18"]), FACE)
    image = torch.empty(1, 3, 112, 112, device="meta")
    assert network.stem(image).shape == (1, 64, 112, 112)  # full resolution, no max-pooling
    maps, x = [], network.stem(image)
    for block in network.blocks:
        x = block(x)
        maps.append(tuple(x.shape[1:]))
    assert maps == [size for size in ((64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)) for _ in range(2)]
    assert network(image).shape == (1, 512)
    for index, block in enumerate(network.blocks):
        first, second = (part for part in block.residual if isinstance(part, nn.Conv2d))
        assert (first.stride, second.stride) == ((1, 1), (2, 2) if index % 2 == 0 else (1, 1))
        assert first.bias is None and second.bias is None


def test_the_shortcut_reshapes_exactly_where_the_shape_changes():
    for in_channels, out_channels, stride in [(8, 8, 1), (8, 8, 2), (8, 16, 1), (8, 16, 2)]:
        shortcut = BLOCKS["ir"](in_channels, out_channels, stride).shortcut
        kinds = [type(part) for part in shortcut.modules() if not list(part.children())]
        keeps = stride == 1 and in_channels == out_channels
        assert kinds == ([nn.Identity] if keeps else [nn.Conv2d, nn.BatchNorm2d])


def test_nothing_follows_the_sum():
    """A block whose residual branch gives nothing hands its input on, negative numbers included."""
    block = initialise(BLOCKS["ir"](6, 6, 1), generator=seeded(0))
    nn.init.zeros_(block.residual[-1].weight)
    image_BCHW = torch.randn(2, 6, 8, 8, generator=seeded(1))
    assert (image_BCHW < 0).any() and torch.equal(block(image_BCHW), image_BCHW)


def test_squeeze_excitation_scales_the_branch_before_the_sum():
    block = initialise(BLOCKS["ir_se"](32, 32, 1), generator=seeded(0))
    block.residual[-1].bias.data.fill_(1.0)  # a mean to squeeze, and weights that let it through the ReLU
    block.attention.gate[1].weight.data.abs_()
    image_BCHW = torch.randn(2, 32, 8, 8, generator=seeded(1))
    ratio_BCHW = (block(image_BCHW) - image_BCHW) / block.residual(image_BCHW)
    # One factor between 0 and 1 per image and channel; the subtraction of the shortcut rounds at 1e-7 of its size,
    # which the division by small branch values enlarges: take the median.
    factor_BC = ratio_BCHW.flatten(2).median(2).values
    assert ((factor_BC > 0) & (factor_BC < 1)).all()
    assert (ratio_BCHW.flatten(2) - factor_BC[:, :, None]).abs().median() < 1e-4
    assert factor_BC.std() > 1e-3
    assert [weight.shape for weight in block.attention.parameters()] == [(2, 32, 1, 1), (32, 2, 1, 1)]  # reduction 16


def cbam_by_hand(first_SC, second_CS, kernel_233, x_BCHW):
    """(gated x, channel map, spatial map), both maps before their sigmoid: loops over faces, channels and positions."""
    num_faces, num_channels, height, width = x_BCHW.shape
    x_BCHW = x_BCHW.clone()
    channel_BC, spatial_BHW = x_BCHW.new_zeros(num_faces, num_channels), x_BCHW.new_zeros(num_faces, height, width)
    for b in range(num_faces):
        for pooled_C in (x_BCHW[b].mean((1, 2)), x_BCHW[b].flatten(1).max(1).values):
            channel_BC[b] += second_CS @ (first_SC @ pooled_C).clamp_min(0)
        for c in range(num_channels):
            x_BCHW[b, c] /= 1 + torch.exp(-channel_BC[b, c])
        maps_2HW = torch.stack([x_BCHW[b].mean(0), x_BCHW[b].max(0).values])
        for h in range(height):
            for w in range(width):
                for dh, dw in itertools.product((-1, 0, 1), repeat=2):
                    if 0 <= h + dh < height and 0 <= w + dw < width:
                        spatial_BHW[b, h, w] += kernel_233[:, dh + 1, dw + 1] @ maps_2HW[:, h + dh, w + dw]
        x_BCHW[b] /= 1 + torch.exp(-spatial_BHW[b])
    return x_BCHW, channel_BC, spatial_BHW


def test_cbam_gates_channels_and_then_positions_of_the_branch():
    """Against loops in float64, and with its maps where `attention_maps` says they are."""
    block = initialise(BLOCKS["ir_cbam"](32, 32, 1), generator=seeded(0)).double()
    first, second, kernel = (weight.detach() for weight in block.attention.parameters())
    assert (first.shape, second.shape, kernel.shape) == ((2, 32, 1, 1), (32, 2, 1, 1), (1, 2, 3, 3))  # reduction 16
    image_BCHW = torch.randn(2, 32, 5, 5, generator=seeded(1), dtype=torch.float64)
    maps = []
    for part in block.attention.attention_maps:
        part.register_forward_hook(lambda module, inputs, output: maps.append(output))
    with torch.no_grad():
        answer_BCHW = block(image_BCHW)
        gated_BCHW, channel_BC, spatial_BHW = cbam_by_hand(
            first.flatten(1), second.flatten(1), kernel[0], block.residual(image_BCHW)
        )
    # The same float64 operations, differently grouped.
    assert torch.allclose(answer_BCHW, gated_BCHW + image_BCHW, rtol=1e-10, atol=1e-10)
    assert torch.allclose(maps[0], channel_BC[:, :, None, None], rtol=1e-10, atol=1e-10)
    assert torch.allclose(maps[1], spatial_BHW[:, None], rtol=1e-10, atol=1e-10)
    assert channel_BC.std() > 0.01 and spatial_BHW.std() > 0.01


@pytest.mark.parametrize("block", BLOCKS)
def test_attention_maps_are_what_goes_into_the_sigmoids(block):
    """Every number that a sigmoid sees is in a map that attention names, for every block there is."""
    made = initialise(BLOCKS[block](32, 32, 1), generator=seeded(0))
    named, seen = [], []
    for part in getattr(made.attention, "attention_maps", ()):
        part.register_forward_hook(lambda module, inputs, output: named.append(output))
    with SigmoidInputs(seen), torch.no_grad():
        made(torch.randn(2, 32, 4, 4, generator=seeded(1)))
    assert len(named) == (2 if block == "ir_cbam" else int("_se" in block))
    seen = seen[4:] if block == "osnet" else seen  # the gates of its streams are inside the branch
    assert len(seen) == len(named)
    assert all(torch.equal(one, two) for one, two in zip(named, seen, strict=True))


class SigmoidInputs(TorchDispatchMode):
    """Keeps what every sigmoid is given, whichever way it is called."""

    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.sigmoid.default:
            self.seen.append(args[0].clone())
        return function(*args, **(kwargs or {}))


def test_squeeze_excitation_keeps_the_names_of_its_weights():
    """Checkpoints of networks with it stay readable."""
    names = [name for name, _ in BLOCKS["ir_se"](32, 32, 1).attention.named_parameters()]
    assert names == ["gate.1.weight", "gate.3.weight"]


def test_build_is_deterministic_in_its_generator_alone():
    torch.manual_seed(1)
    one = build(SMALL, generator=seeded(3), **SIZES).state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    same, other = (build(SMALL, generator=seeded(seed), **SIZES).state_dict() for seed in (3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["stem.0.weight"], other["stem.0.weight"])
    default = build(SMALL, **SIZES).state_dict()
    assert torch.equal(
        default["stem.0.weight"], build(SMALL, generator=seeded(0), **SIZES).state_dict()["stem.0.weight"]
    )


def test_build_leaves_nothing_to_chance():
    """Networks come from the meta device: a part that nobody set would hold what memory held before."""
    network = build(SMALL, **SIZES)
    assert not any(part.training for part in network.modules())
    known = 0
    for part in network.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            # 0.1 as insightface draws it. n numbers tell the deviation to 1 / sqrt(2 n); six of those.
            num_weights = part.weight.numel()
            assert part.weight.std().item() == pytest.approx(0.1, rel=6 / (2 * num_weights) ** 0.5 + 1e-3)
            assert part.bias is None or not part.bias.any()
        elif isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            assert part.weight.eq(1).all() and part.running_var.eq(1).all() and part.eps == 1e-5
            assert not part.bias.any() and not part.running_mean.any()
        elif isinstance(part, nn.PReLU):
            assert part.weight.eq(0.25).all()
        else:
            continue
        known += len([*part.parameters(), *part.buffers()])
    assert known == len(network.state_dict())


DEEP = Candidate(block="ir", stem=32, widths=(32,), depths=(120,))


def test_calibration_keeps_a_deep_network_finite():
    """120 blocks' sums overflow float32 as drawn; calibrated, each branch adds a variance of about one."""
    image_B3HW = torch.randn(4, 3, 16, 16, generator=seeded(0))
    network = build(DEEP, square(16, 8))
    with torch.no_grad():
        assert not network(image_B3HW).isfinite().all()
        calibrate(network, image_B3HW)
        feature = network.blocks(network.stem(image_B3HW))
        assert feature.isfinite().all() and network(image_B3HW).isfinite().all()
        # 120 branches and one projection, each of unit variance; a factor of two for what they have in common.
        assert DEEP.num_blocks / 2 < feature.var() < DEEP.num_blocks * 2


def test_calibrated_statistics_are_those_of_the_batch(small):
    image_B3HW = torch.randn(4, 3, 32, 32, generator=seeded(0))
    calibrate(small, image_B3HW)
    with torch.no_grad():
        map_BCHW = small.stem[0](image_B3HW)
        assert torch.allclose(small.stem[1].running_mean, map_BCHW.mean((0, 2, 3)), atol=1e-6)  # float32 sums of 4096
        assert torch.allclose(small.stem[1].running_var, map_BCHW.var((0, 2, 3)), rtol=1e-4)
        normal_BCHW = small.blocks[0].residual[0](small.stem(image_B3HW))
    weight, bias = small.blocks[0].residual[0].weight, small.blocks[0].residual[0].bias
    # While calibrating, a norm divides by the deviation of n numbers; from then on by that of n - 1: half of 1/4096.
    assert torch.allclose(normal_BCHW.mean((0, 2, 3)), bias, atol=1e-3)
    assert torch.allclose(normal_BCHW.std((0, 2, 3)), weight, rtol=1e-3)


def test_calibration_changes_the_statistics_only(small):
    for index, part in enumerate(part for part in small.modules() if isinstance(part, nn.BatchNorm2d)):
        part.momentum = 0.1 + index / 1000
    momenta = [part.momentum for part in small.modules() if isinstance(part, nn.BatchNorm2d)]
    weights = [weight.detach().clone() for weight in small.parameters()]
    given_back = calibrate(small, torch.randn(4, 3, 32, 32, generator=seeded(0)))
    assert given_back is small and not any(part.training for part in small.modules())
    assert [part.momentum for part in small.modules() if isinstance(part, nn.BatchNorm2d)] == momenta
    assert all(torch.equal(old, new) for old, new in zip(weights, small.parameters(), strict=True))


def test_calibration_that_fails_leaves_momentum_and_mode(small):
    """One image is too few for the neck's norm; whoever catches that must not go on with a network that forgets at
    once.
    """
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        calibrate(small, torch.randn(1, 3, 32, 32, generator=seeded(0)))
    norms = [part for part in small.modules() if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {part.momentum for part in norms} == {0.1}
    assert not any(part.training for part in small.modules())
