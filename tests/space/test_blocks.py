"""The rows beside IResNet's: MobileFaceNet and ResNet in their published sizes and layouts, and what every row
must do."""

import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.shapes import FACE, divisor, square
from tests.space.test_network import troubled
from zennas.export.onnx_file import export
from zennas.records import UserError
from zennas.score.zen import zen, zen_of_module
from zennas.space.blocks import BLOCKS, ENDS, NECKS, STEMS, ends, plain_of, plain_part, stem_stride
from zennas.space.candidate import Candidate
from zennas.space.cost import build_part, cost, fan_ins, part_cost
from zennas.space.families.table import layout_of
from zennas.space.network import build, calibrate, initialise, on_meta, plain, plain_paths
from zennas.space.parts import parts_of, sums
from zennas.space.residual import Residual, deployed
from zennas.space.shape import Shape
from zennas.space.space import Range, Space, fan_in
from zennas.train.prepare import initial_network

each_block = pytest.mark.parametrize("block", BLOCKS)
MOBILEFACENET = Candidate(block="inverted_residual", stem=64, widths=(64, 128, 128), depths=(5, 7, 3))
MBF = Candidate(block="separable_residual", stem=128, widths=(128, 256, 256), depths=(5, 7, 3))
RESNET = (256, 512, 1024, 2048)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def small(block, *, depths=(2, 1)):
    return Candidate(block=block, stem=8, widths=(8, 20), depths=depths)


def shape_for(block, *, hw=(2, 3)):
    """The Shape of the smallest images that leave a map of (height, width), two stages behind the stem."""
    height, width = (px * divisor(block, 2) for px in hw)
    return Shape(channels=3, height=height, width=width, embedding_size=12)


# --- published sizes


class Counted:
    """Parameters and multiply-accumulates of layers, one after another, by the textbook formulas."""

    def __init__(self, px):
        self.params = self.macs = self.slopes = 0
        self.px, self.channels = px, 3

    def conv(self, out, kernel, stride=1, groups=1, padding=None, slope=True):
        """A convolution without bias, its norm and its PReLU."""
        padding = kernel // 2 if padding is None else padding
        self.px = (self.px + 2 * padding - kernel) // stride + 1
        weights = out * self.channels // groups * kernel**2
        self.params += weights + 2 * out + slope * out
        self.slopes += slope * out
        self.macs += weights * self.px**2
        self.channels = out

    def inverted(self, out, inside, stride):
        self.conv(inside, 1)
        self.conv(inside, 3, stride, groups=inside)
        self.conv(out, 1, slope=False)

    def head(self, embedding_size):
        self.conv(512, 1)
        self.conv(512, self.px, groups=512, padding=0, slope=False)
        assert self.px == 1
        self.params += 512 * embedding_size + 2 * embedding_size
        self.macs += 512 * embedding_size


def mobilefacenet_counted(stem, rows, embedding_size, *, stem_groups=None):
    """The paper's table 1, row by row: (expansion, channels, times, stride)."""
    counted = Counted(112)
    counted.conv(stem, 3, 2)
    counted.conv(stem, 3, groups=stem_groups or stem)
    for expansion, channels, times, stride in rows:
        for index in range(times):
            counted.inverted(channels, int(expansion * counted.channels), stride if index == 0 else 1)
    counted.head(embedding_size)
    return counted


PAPER = [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)]
OURS = [(2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (2, 128, 1, 2), (2, 128, 2, 1)]  # one row of it differs


def test_mobilefacenet_is_the_paper_s_but_for_one_block():
    paper, ours = (mobilefacenet_counted(64, rows, 512) for rows in (PAPER, OURS))
    # 221 MMACs (Chen et al. 2018); 1.19 M parameters with a 512-d embedding and without PReLU's slopes, as FaceX-Zoo
    # counts.
    assert f"{paper.macs / 1e6:.0f}" == "221" and f"{(paper.params - paper.slopes) / 1e6:.2f}" == "1.19"
    spent = cost(MOBILEFACENET, FACE)
    assert (spent.params, spent.macs) == (ours.params, ours.macs)
    assert (f"{spent.params / 1e6:.2f}", f"{spent.macs / 1e6:.0f}") == ("1.13", "213")  # what the space's file says


def test_mbf_is_insightface_s_but_for_one_block_and_the_stem_s_groups():
    """Its insides, 128-128-256-256-512-256, over the channels that come in; 0.45 GFLOPs by insightface."""
    theirs = [(1, 128, 5, 2), (2, 256, 1, 2), (1, 256, 6, 1), (2, 256, 1, 2), (1, 256, 2, 1)]
    ours = [(1, 128, 5, 2), (2, 256, 1, 2), (1, 256, 6, 1), (1, 256, 1, 2), (1, 256, 2, 1)]
    counted, spent = mobilefacenet_counted(128, ours, 512), cost(MBF, FACE)
    assert (spent.params, spent.macs) == (counted.params, counted.macs)
    there = mobilefacenet_counted(128, theirs, 512, stem_groups=64)
    assert (f"{there.macs / 1e6:.0f}", f"{spent.macs / 1e6:.0f}") == ("438", "418")  # what the space's file says


@pytest.mark.parametrize(
    ("depths", "published"),
    [((3, 4, 6, 3), 25_557_032), ((3, 4, 23, 3), 44_549_160), ((3, 8, 36, 3), 60_192_808)],
    ids=["50", "101", "152"],
)
def test_the_bottlenecks_are_resnet_s(depths, published):
    """torchvision's published num_params, less its stem and classifier, plus the norm in front of each block and the
    slopes.
    """
    stem, classifier = 3 * 64 * 49 + 2 * 64, 2048 * 1000 + 1000
    in_front = slopes = 0
    channels = 64
    for width, depth in zip(RESNET, depths, strict=True):
        in_front += 2 * (channels + (depth - 1) * width)
        slopes += depth * 2 * width // 4
        channels = width
    blocks = sum(
        times * part_cost(*part).params
        for part, times in parts_of(Candidate(block="bottleneck", stem=64, widths=RESNET, depths=depths), FACE).items()
        if part.is_block
    )
    assert blocks - in_front - slopes == published - stem - classifier


# --- published layouts


class Written:
    """The layers of a network, first come first served, for a network written out over them."""

    def __init__(self, network):
        self.left = [
            part for part in network.modules() if not list(part.children()) and not isinstance(part, nn.Identity)
        ]

    def take(self, kind):
        index = next(index for index, layer in enumerate(self.left) if type(layer) is kind)
        return self.left.pop(index)

    def conv(self, x, stride=1, *, depthwise=False, padding=None, slope=True):
        """Convolution, norm and PReLU."""
        weight = self.take(nn.Conv2d).weight
        groups = x.shape[1] if depthwise else 1
        padding = weight.shape[2] // 2 if padding is None else padding
        x = self.take(nn.BatchNorm2d)(F.conv2d(x, weight, None, stride, padding, 1, groups))
        return F.prelu(x, self.take(nn.PReLU).weight) if slope else x


def mobilefacenet_written(candidate, take, x):
    """MobileFaceNet as its paper draws it."""
    x = take.conv(take.conv(x, 2), depthwise=True)
    for width, depth in zip(candidate.widths, candidate.depths, strict=True):
        for index in range(depth):
            stride = 2 if index == 0 else 1
            y = take.conv(take.conv(take.conv(x), stride, depthwise=True), slope=False)
            x = y if stride == 2 else x + y
            assert x.shape[1] == width
    x = take.conv(take.conv(x), depthwise=True, padding=0, slope=False).flatten(1)
    return take.take(nn.BatchNorm1d)(x @ take.take(nn.Linear).weight.T)


def resnet_written(candidate, take, x):
    """ResNet as TFace's IR-152 draws it, but for the stride, which stands on the 3x3."""
    x, channels = take.conv(x), candidate.stem
    for width, depth in zip(candidate.widths, candidate.depths, strict=True):
        for index in range(depth):
            stride = 2 if index == 0 else 1
            y = take.take(nn.BatchNorm2d)(x)
            y = take.conv(take.conv(take.conv(y), stride), slope=False)
            reshapes = stride == 2 or width != channels
            x = y + (take.conv(x, stride, padding=0, slope=False) if reshapes else x)
            channels = width
    return take.take(nn.BatchNorm1d)(take.take(nn.Linear)(take.take(nn.BatchNorm2d)(x).flatten(1)))


@pytest.mark.parametrize(
    ("block", "written"),
    [
        ("inverted_residual", mobilefacenet_written),
        ("separable_residual", mobilefacenet_written),
        ("bottleneck", resnet_written),
    ],
)
def test_the_network_is_the_one_written_out(block, written):
    """Layout, order, strides and groups at once, in float64; the second stage keeps the width of the first."""
    candidate = Candidate(block=block, stem=8, widths=(8, 8, 20), depths=(2, 1, 2))
    image_px = 2 * divisor(block, 3)
    network = troubled(build(candidate, square(image_px, 12))).double()
    image_B3HW = torch.randn(2, 3, image_px, image_px, generator=seeded(2), dtype=torch.float64)
    take = Written(network)
    with torch.no_grad():
        expected, answer = written(candidate, take, image_B3HW), network(image_B3HW)
    assert torch.allclose(answer, expected, rtol=1e-10, atol=1e-10)  # the same float64 operations, differently grouped
    assert not [layer for layer in take.left if list(layer.parameters())]


# --- what a block brings with it


def test_ends_are_rows_and_no_block_s_name():
    """One table of parts holds them all by kind: a name may stand for one thing alone."""
    assert set(ENDS) <= set(BLOCKS)
    assert all(stem in STEMS and neck in NECKS for stem, neck in map(ends, BLOCKS))
    assert len({*BLOCKS, *STEMS, *NECKS}) == len(BLOCKS) + len(STEMS) + len(NECKS)
    assert ends("ir") == ends("ir_se") == ends("ir_cbam") == ends("bottleneck") == ("stem", "neck")


@each_block
def test_maps_have_the_sizes_that_the_parts_say(block):
    candidate, shape = small(block), shape_for(block)
    network = build(candidate, shape)
    x = torch.randn(2, *shape.image, generator=seeded(0))
    parts, seen = list(parts_of(candidate, shape)), []
    for module in (network.stem, *network.blocks, network.neck):
        seen.append(tuple(x.shape[1:]))
        x = module(x)
    (first,), (second,) = layout_of(candidate, shape).stages
    places = [(8, *first.in_hw), (8, *first.out_hw), (8, *second.in_hw)]  # of depths 2 and 1
    assert seen == [shape.image, *places, (20, *second.out_hw)] and second.in_hw == first.out_hw
    assert (seen[1][1] * stem_stride(block), seen[1][2] * stem_stride(block)) == shape.hw
    assert {(part.in_channels, *part.in_hw) for part in parts} == set(seen)
    assert x.shape == (2, 12) and isinstance(network.neck[-1], nn.BatchNorm1d) and network.neck[-1].num_features == 12


@each_block
def test_an_image_that_cannot_be_halved_is_refused(block):
    px = shape_for(block, hw=(1, 1)).height
    assert layout_of(small(block), square(px)).necks[0].in_hw == (1, 1)
    for height, width, said in ((px + 2, px + 2, px + 2), (px, px + 2, f"{px}x{px + 2}")):
        with pytest.raises(UserError, match=f"each of the 2 stages halves .*; {said} px do not allow it"):
            build(small(block), square(px).sized((height, width)))


@each_block
def test_a_network_is_the_sum_of_its_parts(block):
    candidate, shape = small(block, depths=(3, 2)), shape_for(block)
    parts = parts_of(candidate, shape)
    assert sum(parts.values()) == 1 + candidate.num_blocks + 1
    assert sum(times for part, times in parts.items() if part.is_block) == candidate.num_blocks
    total = [
        sum(times * getattr(part_cost(*part), name) for part, times in parts.items()) for name in ("params", "macs")
    ]
    assert total == [cost(candidate, shape).params, cost(candidate, shape).macs]


@each_block
def test_the_plain_network_is_what_blocks_have_without_shortcut_and_attention(block):
    candidate, shape = small(block), shape_for(block)
    layers, built = plain(*plain_paths(candidate, 3)), build(candidate, shape)
    of_stem = built.stem if block != "repvgg" else plain_of(built.stem[0])
    expected = [*of_stem, *(layer for block in built.blocks for layer in plain_of(block))]
    poolings = nn.MaxPool2d | nn.AvgPool2d  # they pick
    expected = [nn.MaxPool2d(1, layer.stride) if isinstance(layer, poolings) else layer for layer in expected]
    assert [str(layer) for layer in layers] == [str(layer) for layer in expected]
    assert [part[0] for part in plain_paths(candidate, 3)[0]] == [ends(block).stem, *[block] * candidate.num_blocks]
    initialise(layers)
    image_BCHW = torch.randn(1, *shape.image, generator=seeded(0))
    assert layers(image_BCHW).shape == (1, 20, 2, 3)


@each_block
def test_the_zen_score_knows_every_block(block):
    """Finite, the same from the fast path and from forward-mode differentiation of the plain network, higher for a
    deeper one.
    """
    shallow, deep = small(block), small(block, depths=(4, 4))
    seeds, images = range(6), square(16)
    if block == "osnet":  # a quarter as wide inside, and four ReLUs in a row: two channels fall asleep
        shallow, deep = (one.model_copy(update={"stem": 32, "widths": (64, 80)}) for one in (shallow, deep))
        images = square(32)
    fast, deeper = ([zen(one, images, 4, seeded(seed)) for seed in seeds] for one in (shallow, deep))
    slow = [zen_of_module(initialise(plain(*plain_paths(shallow, 3))), images, 4, seeded(seed)) for seed in seeds]
    assert np.isfinite([fast, deeper, slow]).all() and min(deeper) > max(fast)
    # Two independent samples of six: their means differ by less than five standard errors (4 to 8 channels wide:
    # noisy).
    error = math.hypot(np.std(fast, ddof=1), np.std(slow, ddof=1)) / math.sqrt(len(seeds))
    assert abs(np.mean(fast) - np.mean(slow)) < 5 * error


@each_block
def test_every_block_s_network_is_exported_with_its_proof(block):
    candidate, shape = small(block), shape_for(block)
    network = build(candidate, shape)
    calibrate(network, torch.randn(4, *shape.image, generator=seeded(0)))
    proof = export(network, shape).proof  # raises where the answers differ or a rule is broken
    assert proof.max_abs_output > 0.1


@each_block
def test_every_block_s_network_takes_a_step(block):
    """Every weight has a gradient, and one step lowers the loss."""
    shape = shape_for(block)
    spans = {"stem": Range(low=8, high=8), "widths": (Range(low=8, high=8), Range(low=20, high=20))}
    space = Space(
        name="one",
        block=block,
        **shape.plain(),
        **spans,
        depths=(Range(low=1, high=2),) * 2,
        limits={"max_blocks": 4, "max_effectiveness": 99},
    )
    network = initial_network(small(block), space, seed=0)
    image_B3HW = torch.randn(8, *shape.image, generator=seeded(0))
    label_B = torch.arange(8) % 4

    def loss():
        return F.cross_entropy(network(image_B3HW)[:, :4], label_B)

    first = loss()
    first.backward()
    weights = dict(network.named_parameters())
    # The last norm's embeddings above the fourth enter no loss here; all else does, but for a bias in front of a norm,
    # whose gradient is nothing but rounding, and a gate of a single hidden number, which may be asleep.
    moved = [weight for name, weight in weights.items() if not (name == "neck.2.bias" or ".gate.mlp." in name)]
    assert all(weight.grad is not None for weight in weights.values()) and all(weight.grad.any() for weight in moved)
    with torch.no_grad():
        for weight in weights.values():
            weight -= 0.01 * weight.grad
    assert loss() < first


# --- counting without building


def counted_directly(kind, in_channels, out_channels, stride, in_height, in_width):
    """(parameters, multiply-accumulates by hooks, fan-ins) of a part as built."""
    part, macs = deployed(build_part(kind, in_channels, out_channels, stride, in_height, in_width)), []
    for module in part.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, x, y: macs.append(y[0].numel() * m.weight[0].numel()))
    with torch.no_grad():
        part.eval()(torch.zeros(1, in_channels, in_height, in_width))
    layers = plain_part(kind, in_channels, out_channels, stride)
    fans = tuple(math.prod(layer.weight.shape[1:]) for layer in layers if isinstance(layer, nn.Conv2d))
    return sum(weight.numel() for weight in part.parameters()), sum(macs), fans


@hypothesis.settings(max_examples=60)
@hypothesis.given(
    st.sampled_from(sorted(set(BLOCKS) - {"ir_cbam"})),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([1, 2]),
    st.integers(1, 6),
    st.integers(1, 6),
)
def test_a_part_is_counted_without_being_built(block, in_channels, out_channels, stride, half_height, half_width):
    """The cost of a stage's first block is read off a parabola through others; ir_cbam counts its own, in tests of its
    own.
    """
    part = (block, in_channels, out_channels, stride, 2 * half_height, 2 * half_width)
    params, macs, fans = counted_directly(*part)
    spent = part_cost(*part)
    assert (spent.params, spent.macs, fan_ins(*part[:4])) == (params, macs, fans)


def test_a_block_of_any_shape_is_counted_right(monkeypatch):
    """Widths that grow with what comes in, that are rounded, or that not every width can be put into: as a user's own
    may be.
    """
    built, widths = [], (8, 16, 36, 40)

    def widened(in_channels, out_channels, stride):
        built.append(in_channels)
        inside = 4 * in_channels
        layers = [
            nn.Conv2d(in_channels, inside, 1, bias=False),
            nn.Conv2d(inside, out_channels, 3, stride, 1, bias=False),
        ]
        return Residual(layers, shortcut=None)

    def rounded(in_channels, out_channels, stride):
        inside = max(1, in_channels // 5)
        layers = [
            nn.Conv2d(in_channels, inside, 1, bias=False),
            nn.Conv2d(inside, out_channels, 3, stride, 1, bias=False),
        ]
        return Residual(layers, shortcut=None)

    def grouped(in_channels, out_channels, stride):
        return Residual([nn.Conv2d(in_channels, out_channels, 3, stride, 1, groups=4, bias=False)], shortcut=None)

    for row in (widened, rounded, grouped):
        monkeypatch.setitem(BLOCKS, row.__name__, row)
        found = [(part_cost(row.__name__, w, 24, 2, 8, 6), fan_ins(row.__name__, w, 24, 2)) for w in widths]
        assert not set(built) & set(widths)  # what is a parabola is read off it
        for width, (spent, fans) in zip(widths, found, strict=True):
            assert (spent.params, spent.macs, fans) == counted_directly(row.__name__, width, 24, 2, 8, 6)
        built.clear()


@each_block
def test_sums_over_a_space_are_those_of_its_candidates(block):
    """Parameters, multiply-accumulates and fan-ins of any candidates, from the arrays over all parts of the space."""
    space = Space(
        name="arrays",
        block=block,
        **shape_for(block).plain(),
        stem=Range(low=8, high=24, step=8),
        widths=(Range(low=4, high=12, step=4), Range(low=8, high=40, step=16)),
        depths=(Range(low=2, high=4), Range(low=1, high=5, step=2)),
        limits={"max_blocks": 9, "max_effectiveness": 99},
    )
    rng, shape = np.random.default_rng(0), shape_for(block)
    candidates = [space.sample(rng) for _ in range(6)]
    genes_NG = [(candidate.stem, *candidate.widths, *candidate.depths) for candidate in candidates]
    networks = [on_meta(candidate, shape) for candidate in candidates]
    network_params = [
        sum(weight.numel() for weight in deployed(network).parameters()) for network in networks
    ]  # of the whole network as deployed
    assert sums(space, lambda part: part_cost(*part).params).of(space, genes_NG).tolist() == network_params
    macs_N = sums(space, lambda part: part.macs).of(space, genes_NG)
    assert macs_N.tolist() == [cost(candidate, shape).macs for candidate in candidates]
    logs_N = sums(space, lambda part: fan_in(part)[1]).of(space, genes_NG)
    expected_N = [
        sum(math.log(m.weight[0].numel()) for b in network.blocks for m in b.residual if isinstance(m, nn.Conv2d))
        for network in networks
    ]
    assert logs_N == pytest.approx(expected_N, rel=1e-12)  # sums of logarithms in another order
