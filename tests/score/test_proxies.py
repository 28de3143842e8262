# B images, C channels, HW map, N positions, U units, L layers, O outputs

import collections
import copy
import importlib
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from torch import nn

from tests.shapes import square
from zennas.records import UserError
from zennas.score.aggregate import FLOOR, WEIGHTS, equal_cost_terms, rank_aggregate
from zennas.score.proxies import entropy, synaptic_flow
from zennas.score.scores import SCORES
from zennas.space.candidate import Candidate
from zennas.space.network import build
from zennas.space.space import Space, effectiveness

SMALL = Candidate(block="ir_se", stem=8, widths=(8, 16), depths=(1, 2))
PROXIES = (
    "naswot",
    "swap",
    "meco",
    "near",
    "synflow",
    "az_expressivity",
    "az_progressivity",
    "az_trainability",
    "vkdnw",
    "equal_cost",
)
each_proxy = pytest.mark.parametrize("name", PROXIES)
PX, BATCH, SEED = 8, 4, 7


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Block(nn.Module):
    """A residual block by other hands than ours."""

    def __init__(self, channels, factor=1.0):
        super().__init__()
        self.factor = factor
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )

    def forward(self, x_BCHW):
        return self.factor * (x_BCHW + self.layers(x_BCHW))


def module(last=1.0):
    """A plain module with shortcuts, an in-place activation and a head."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.PReLU(6)),
        nn.Sequential(nn.Conv2d(6, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        Block(8, last),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )


def score(name, network, *, seed=SEED, batch=BATCH):
    return SCORES[name](network, square(PX), batch, seeded(seed))


# --- the contract


@each_proxy
@pytest.mark.parametrize("given", [lambda: SMALL, module], ids=["candidate", "module"])
def test_a_proxy_is_a_finite_float_of_its_seed(name, given):
    network = given()
    value = score(name, network)
    assert type(value) is float and math.isfinite(value)
    assert score(name, given(), seed=SEED) == value  # another module of other weights: they are drawn anew
    if name != "swap":  # a count may be the same twice
        assert score(name, network, seed=SEED + 1) != value


@each_proxy
def test_a_network_is_scored_as_its_candidate_and_that_as_its_stem_and_blocks(name):
    network = build(SMALL, square(PX, 4))
    value = score(name, SMALL)
    assert score(name, network) == value
    assert score(name, nn.Sequential(network.stem, *network.blocks)) == value


@each_proxy
@pytest.mark.parametrize("last", [1.0, 0.0], ids=["scored", "refused"])
def test_a_module_is_given_back_as_it_came(name, last):
    network = module(last).eval()
    network[2].layers[0].train()
    network[0][0].weight.requires_grad_(False)
    network[0][1].running_mean.fill_(3.0)
    before = copy.deepcopy(network)
    if last:
        score(name, network)
    else:
        with pytest.raises(FloatingPointError):
            score(name, network)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), before.state_dict().values(), strict=True)
    )
    for part, same in zip(network.modules(), before.modules(), strict=True):
        assert (part.training, getattr(part, "inplace", None)) == (same.training, getattr(same, "inplace", None))
        assert not part._forward_hooks and "forward" not in vars(part)
    for one, other in zip(network.parameters(), before.parameters(), strict=True):
        assert one.grad is None and one.requires_grad == other.requires_grad


@each_proxy
@pytest.mark.parametrize("factor", [0.0, math.inf])
def test_a_network_that_vanishes_or_overflows_is_refused(name, factor):
    with pytest.raises(FloatingPointError):
        score(name, module(factor))


@pytest.mark.parametrize("name", [name for name in PROXIES if name != "synflow"])
def test_one_image_is_too_few(name):
    with pytest.raises(UserError, match=r"given 1; .* at least 2"):
        score(name, SMALL, batch=1)


def test_what_a_score_cannot_work_on_is_said():
    convolutions = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    for name in ("naswot", "swap"):
        with pytest.raises(ValueError, match="this network has none"):
            score(name, convolutions)
    for name in ("az_progressivity", "az_trainability", "equal_cost"):
        with pytest.raises(ValueError, match="this one has 0"):
            score(name, nn.Conv2d(3, 4, 3))
    with pytest.raises(ValueError, match="not any module"):
        score("effectiveness", module())


def test_effectiveness_is_that_of_the_space():
    assert score("effectiveness", SMALL) == score("effectiveness", build(SMALL, square(8))) == effectiveness(SMALL)


@pytest.mark.parametrize("space", ["ir_se_tiny", "ir_se"])
def test_equal_cost_is_finite_where_it_is_used(space, checkout):
    space = Space.load(checkout / "search_spaces" / f"{space}.yaml")
    smallest = Candidate(
        block=space.block,
        stem=space.stem.low,
        widths=[span.low for span in space.widths],
        depths=[span.low for span in space.depths],
    )
    for candidate in (smallest, next(iter(space.baselines.values()))):
        assert math.isfinite(SCORES["equal_cost"](candidate, square(32), 4, seeded(0)))


# --- every number by another way, on the same weights and images


class Traced:
    """A module drawn as the first lines of proxies.py promise, its images, and what its layers saw."""

    def __init__(self, network, *, batch=BATCH, px=PX, seed=SEED):
        self.generator = seeded(seed)
        self.network = copy.deepcopy(network).train()
        for part in self.network.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                fan_in = part.weight[0].numel()
                part.weight.data = torch.empty_like(part.weight).normal_(
                    0, (2 / fan_in) ** 0.5, generator=self.generator
                )
                if part.bias is not None:
                    part.bias.data.zero_()
            if isinstance(part, nn.ReLU):
                part.inplace = False
        self.image_BCHW = torch.randn(batch, 3, px, px, generator=self.generator).requires_grad_()
        self.saw = collections.defaultdict(list)
        for part in self.network.modules():
            part.register_forward_hook(lambda part, given, made: self.saw[type(part)].append((given[0], made)))
        self.output = self.network(self.image_BCHW)

    @property
    def blocks(self):
        """Outputs of the stem, the halving layers and the residual block."""
        x, found = self.image_BCHW, []
        for part in list(self.network)[:3]:
            x = part(x)
            found.append(x)
        return found


def test_naswot_counts_the_units_that_agree():
    traced = Traced(module())
    into = [given for kind in (nn.PReLU, nn.ReLU) for given, _ in traced.saw[kind]]
    kernel_BB = np.zeros((BATCH, BATCH))
    for one, other in itertools.product(range(BATCH), repeat=2):
        for given in into:
            pairs = zip(given[one].flatten().tolist(), given[other].flatten().tolist(), strict=True)
            kernel_BB[one, other] += sum((a > 0) == (b > 0) for a, b in pairs)
    # Whole numbers in float32: only the determinants differ, in the last digits.
    assert score("naswot", module()) == pytest.approx(math.log(np.linalg.det(kernel_BB)), rel=1e-9)


@pytest.mark.parametrize("batch", [4, 70], ids=["", "more than one integer"])
def test_swap_counts_the_different_answers(batch):
    into = Traced(module(), batch=batch).saw
    answers = set()
    for given, _ in into[nn.PReLU] + into[nn.ReLU]:
        answers |= set(map(tuple, (given.flatten(1) > 0).T.tolist()))
    assert score("swap", module(), batch=batch) == len(answers)
    assert batch == 70 or len(answers) <= 2**batch


def test_meco_is_the_smallest_eigenvalue_of_numpys_correlations():
    expected = [
        np.linalg.eigvalsh(np.corrcoef(made[0].detach().double().flatten(1).numpy()))[0]
        for _, made in Traced(module()).saw[nn.Conv2d]
    ]
    assert len(expected) == 3 and min(expected) > 1e-3
    assert score("meco", module()) == pytest.approx(sum(expected), rel=1e-4)  # float32 correlations


def test_meco_knows_nothing_of_more_channels_than_positions():
    def network(channels):
        return nn.Sequential(nn.Conv2d(3, channels, 8), nn.ReLU(), nn.Flatten())  # 1 x 1 behind it

    assert score("meco", network(4)) == 0.0


def test_a_channel_that_does_not_vary_is_correlated_with_none():
    class Flat(nn.Module):
        def forward(self, x_BCHW):
            return x_BCHW * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1, 1)

    depthwise = nn.Sequential(Flat(), nn.Conv2d(3, 3, 3, groups=3, bias=False))
    assert score("meco", depthwise) == 0.0  # and not NaN


def test_near_is_the_entropy_of_the_singular_values():
    expected = 0.0
    for kind in (nn.PReLU, nn.ReLU):
        for x_BCHW in itertools.chain(*Traced(module()).saw[kind]):
            row_NC = x_BCHW.detach().double().permute(0, 2, 3, 1).reshape(-1, x_BCHW.shape[1]).numpy()
            singular = np.linalg.svd(row_NC, compute_uv=False)
            expected += math.exp(scipy.stats.entropy(singular))
    assert score("near", module()) == pytest.approx(expected, rel=1e-4)  # float32 products


def test_az_nas_by_numpy():
    entropies = []
    for feature in Traced(module()).blocks:
        row_NC = feature.detach().double().permute(0, 2, 3, 1).reshape(-1, feature.shape[1]).numpy()
        entropies.append(scipy.stats.entropy(np.linalg.eigvalsh(np.cov(row_NC.T))))
    assert score("az_expressivity", module()) == pytest.approx(sum(entropies), rel=1e-5)
    assert score("az_progressivity", module()) == pytest.approx(min(np.diff(entropies)), rel=1e-4)


def pulled(traced):
    """[(gradient of random signs behind a block, in front of it)], by the product of the signs and the block's
    output."""
    blocks, found = traced.blocks, []
    for before, behind in ((blocks[1], blocks[2]), (blocks[0], blocks[1])):
        sign = torch.randint(0, 2, behind.shape, generator=traced.generator) * 2.0 - 1
        (gradient,) = torch.autograd.grad((sign * behind).sum(), before, retain_graph=True)
        found.append((sign, gradient))
    return found


def test_trainability_by_a_loop_over_positions():
    values = []
    for sign_BCHW, gradient_BCHW in pulled(Traced(module())):
        batch, _, height, width = sign_BCHW.shape
        stride = gradient_BCHW.shape[2] // height
        mean = 0.0
        for b, y, x in itertools.product(range(batch), range(height), range(width)):
            window = gradient_BCHW[b, :, y * stride : (y + 1) * stride, x * stride : (x + 1) * stride].flatten()
            mean = mean + torch.outer(window, sign_BCHW[b, :, y, x]) / (batch * height * width)
        spectral = np.linalg.svd(mean.numpy(), compute_uv=False)[0]
        values.append(2 - spectral - 1 / spectral)
    assert score("az_trainability", module()) == pytest.approx(np.mean(values), rel=1e-4)  # float32, and AZ-NAS's 1e-6


# --- SynFlow


def by_hand(network, seed=SEED, px=PX):
    """The sum of weight * gradient with positive weights and no norms, in float64 and in one piece; and the output's
    sum.
    """
    network, generator = copy.deepcopy(network), seeded(seed)
    layers = [part for part in network.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    for part in layers:  # the start that every proxy draws first
        part.weight.data.normal_(generator=generator)
        if part.bias is not None:
            part.bias.data.zero_()
    for part in layers:
        part.weight.data.uniform_(0, part.weight[0].numel() ** -0.5, generator=generator)
    for part in network.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.forward = lambda x: x
    output = network.double()(torch.ones(1, 3, px, px, dtype=torch.double)).sum()
    gradients = torch.autograd.grad(output, [part.weight for part in layers])
    flows = [float((part.weight * one).sum().detach()) for part, one in zip(layers, gradients, strict=True)]
    return flows, float(output.detach())


def test_synflow_of_two_layers_by_hand():
    network = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.ReLU(), nn.Conv2d(2, 1, 1, bias=False))
    generator = seeded(SEED)
    torch.empty(2, 3, 1, 1).normal_(generator=generator), torch.empty(1, 2, 1, 1).normal_(generator=generator)
    first = torch.empty(2, 3, 1, 1).uniform_(0, 3**-0.5, generator=generator)
    second = torch.empty(1, 2, 1, 1).uniform_(0, 2**-0.5, generator=generator)
    output = sum(second[0, k, 0, 0] * first[k, :, 0, 0].sum() for k in range(2)) * PX * PX
    # Each layer's weights times their gradients sum to the output, because it is linear in each.
    assert score("synflow", network) == pytest.approx(math.log(2 * float(output)), rel=1e-6)


def test_synflow_in_pieces_is_synflow_in_one():
    flows, output = by_hand(module())
    assert score("synflow", module()) == pytest.approx(math.log(sum(flows)), rel=1e-5)
    flow = synaptic_flow(module(), square(PX), seeded(SEED))
    assert [one / flow.output for one in flow.flows] == pytest.approx([flow / output for flow in flows], rel=1e-4)


def test_synflow_is_the_same_for_any_batch_and_does_not_overflow():
    deep = nn.Sequential(*(nn.Conv2d(3 if k == 0 else 16, 16, 3, padding=1, bias=False) for k in range(60)))
    assert by_hand(deep)[1] > torch.finfo(torch.float32).max  # in one piece float32 would not hold it
    assert score("synflow", deep) == pytest.approx(math.log(sum(by_hand(deep)[0])), rel=1e-5)
    assert score("synflow", SMALL, batch=2) == score("synflow", SMALL, batch=16)


# --- VKDNW


def test_vkdnw_by_one_gradient_per_image_and_output():
    # Without norms, so that an image's outputs depend on that image alone.
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, 2, 1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    )
    traced = Traced(network)
    layers = [part for kind in (nn.Conv2d, nn.Linear) for part in traced.network if isinstance(part, kind)]
    picks = [int(torch.randint(part.weight.numel(), (), generator=traced.generator)) for part in layers]
    fisher_LL = np.zeros((3, 3))
    for logit_O in traced.output:
        share_O = logit_O.softmax(0).detach().double().numpy()
        jacobian_OL = np.array(
            [
                [
                    float(torch.autograd.grad(one, part.weight, retain_graph=True)[0].flatten()[pick])
                    for part, pick in zip(layers, picks, strict=True)
                ]
                for one in logit_O
            ]
        )
        fisher_LL += jacobian_OL.T @ (np.diag(share_O) - np.outer(share_O, share_O)) @ jacobian_OL / BATCH
    deciles = np.quantile(np.linalg.eigvalsh(fisher_LL), np.arange(1, 10) / 10)
    assert score("vkdnw", network) == pytest.approx(3 + scipy.stats.entropy(deciles), rel=1e-4)


def test_vkdnw_grows_by_one_with_a_layer_and_sees_many_outputs_through_ten():
    values = {
        depth: score("vkdnw", Candidate(block="ir", stem=8, widths=(8, 8), depths=(1, depth))) for depth in (1, 3)
    }
    layers = 2 * 2  # convolutions of two blocks more
    assert abs(values[3] - values[1] - layers) < math.log(9)  # the entropies' range
    many = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 64))
    assert 2 <= score("vkdnw", many) <= 2 + math.log(9)


# --- ours


def test_equal_cost_is_the_weighted_sum_of_its_terms():
    terms = equal_cost_terms(SMALL, square(PX), BATCH, seeded(SEED))._asdict()
    assert terms.keys() == WEIGHTS.keys()
    assert score("equal_cost", SMALL) == pytest.approx(sum(WEIGHTS[name] * terms[name] for name in terms))


def test_independence_and_separation_by_numpy():
    traced = Traced(module())
    smallest, groups = [], lambda x: range(0, x.shape[1] // min(8, x.shape[1]) * min(8, x.shape[1]), min(8, x.shape[1]))

    def eigenvalues(x_BCHW):
        row_CN = x_BCHW.detach().double().transpose(0, 1).flatten(1).numpy()
        return [np.linalg.eigvalsh(np.corrcoef(row_CN[at : at + 8])) for at in groups(x_BCHW)]

    for _, made in traced.saw[nn.Conv2d]:
        smallest.append(made.shape[1] * np.mean([eigenvalue[0] for eigenvalue in eigenvalues(made)]))
    terms = equal_cost_terms(module(), square(PX), BATCH, seeded(SEED))
    assert terms.independence == pytest.approx(math.log(sum(smallest)), rel=1e-4)
    expected = np.mean([np.log(eigenvalue + FLOOR).mean() for eigenvalue in eigenvalues(traced.blocks[-1])])
    assert terms.separation == pytest.approx(expected, rel=1e-4)
    assert terms.separation <= math.log(1 + FLOOR)  # Jensen: eigenvalues of a correlation are 1 on average


def test_attention_on_maps_of_one_pixel_is_not_counted():
    gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1))
    network = nn.Sequential(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()), gate)
    seen = Traced(network, batch=16).saw[nn.Conv2d][0][1].detach().double().transpose(0, 1).flatten(1).numpy()
    expected = math.log(8 * np.linalg.eigvalsh(np.corrcoef(seen))[0])
    assert equal_cost_terms(network, square(PX), 16, seeded(SEED)).independence == pytest.approx(expected, rel=1e-4)


def test_isometry_is_the_share_of_a_gradient_that_a_block_keeps():
    gains = [float(gradient.norm() / sign.norm()) for sign, gradient in pulled(Traced(module()))]
    expected = math.log(np.mean([min(gain, 1 / gain) for gain in gains]))
    assert equal_cost_terms(module(), square(PX), BATCH, seeded(SEED)).isometry == pytest.approx(expected, rel=1e-5)


def test_capacity_counts_the_weights_that_are_used():
    """In a chain all flow runs through every layer; a branch that is multiplied by nothing carries none."""
    chain = nn.Sequential(
        *(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()) for _ in range(3))
    )
    used = equal_cost_terms(chain, square(PX), BATCH, seeded(SEED)).capacity
    assert used == pytest.approx(math.log(3 * 81), rel=1e-6)

    class Beside(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.main, self.beside, self.factor = (
                nn.Conv2d(3, 3, 1, bias=False),
                nn.Conv2d(3, 3, 5, padding=2, bias=False),
                factor,
            )

        def forward(self, x_BCHW):
            return self.main(x_BCHW) + self.factor * self.beside(x_BCHW)

    def capacity(factor):
        return equal_cost_terms(
            nn.Sequential(nn.Conv2d(3, 3, 1), Beside(factor)), square(PX), BATCH, seeded(SEED)
        ).capacity

    assert capacity(0.0) == pytest.approx(math.log(9 + 9), rel=1e-6) and capacity(1.0) > capacity(0.0)


def test_what_the_terms_are_for():
    """Copies of channels are not independent; a network that is wider everywhere has more of everything that counts."""

    class Copies(nn.Module):
        def forward(self, x_BCHW):
            return torch.cat([x_BCHW[:, :4], x_BCHW[:, :4]], 1)

    def terms(*behind):
        blocks = [nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *behind) for _ in range(1)]
        return equal_cost_terms(nn.Sequential(nn.Conv2d(3, 3, 3), *blocks), square(PX), BATCH, seeded(SEED))

    assert terms(Copies()).separation < terms().separation - 1
    wide, narrow = (Candidate(block="ir_se", stem=w, widths=(w, 2 * w), depths=(1, 2)) for w in (16, 8))
    for one, other in zip(*(equal_cost_terms(c, square(16), 8, seeded(0))[:2] for c in (wide, narrow)), strict=True):
        assert one > other


# --- the aggregate over a set


def test_rank_aggregate_by_a_loop():
    values_KN = np.random.default_rng(0).integers(0, 6, (3, 9)).astype(float)  # with ties
    values_KN[1, 4] = -np.inf
    expected = [sum(math.log(scipy.stats.rankdata(values_N)[n] / 9) for values_N in values_KN) for n in range(9)]
    assert rank_aggregate(values_KN).tolist() == pytest.approx(expected)


def test_rank_aggregate_knows_ranks_alone():
    values_KN = np.random.default_rng(1).normal(size=(2, 20))
    assert np.array_equal(rank_aggregate(values_KN), rank_aggregate([np.exp(values_KN[0]), 5 * values_KN[1] - 3]))
    assert rank_aggregate([values_KN[0]]).argmax() == values_KN[0].argmax()
    for wrong in ([[1.0, math.nan]], [1.0, 2.0]):
        with pytest.raises(ValueError, match="without NaN"):
            rank_aggregate(wrong)


def test_entropy_of_nothing_is_none():
    assert entropy(torch.zeros(3)) == 0.0 and entropy(torch.ones(4)) == pytest.approx(math.log(4))


# --- the benchmark's networks, of which the figures are


@pytest.fixture
def nb201(checkout, monkeypatch):
    """The experiment's program, beside which its networks lie."""
    monkeypatch.syspath_prepend(checkout / "experiments" / "equal-latency")
    return importlib.import_module("nb201")


def cell(*names):
    a, b, c, d, e, f = names
    return f"|{a}~0|+|{b}~0|{c}~1|+|{d}~0|{e}~1|{f}~2|"


def test_nas_bench_201_has_its_published_sizes(nb201):
    """The smallest and the largest network of the benchmark: 0.073306 and 1.531546 million parameters."""
    sizes = [
        sum(parameter.numel() for parameter in nb201.network_of(cell(*[name] * 6)).parameters())
        for name in ("none", "nor_conv_3x3")
    ]
    assert sizes == [73_306, 1_531_546]


def test_nas_bench_201_connections(nb201):
    none, skip = "none", "skip_connect"
    for names, connected in (
        ([none] * 6, False),
        ([skip, none, none, none, none, skip], False),
        ([skip, none, skip, none, none, skip], True),
        ([none, none, none, skip, none, none], True),
        ([none, skip, skip, none, skip, none], False),
    ):
        assert nb201.is_connected(cell(*names)) is connected
        network, refused = nb201.network_of(cell(*names), channels=4, cells=1), False
        try:
            SCORES["naswot"](network, square(16), 4, seeded(0))
        except FloatingPointError:
            refused = True
        assert refused is not connected


def test_the_figures_of_a_score_by_scipy(nb201):
    generator = np.random.default_rng(2)
    accuracy_N, value_N = generator.normal(size=60), generator.normal(size=60)
    ms_N = generator.permutation(60) / 60 + 1
    kinds, devices = nb201.pairs_of(accuracy_N, {"one": ms_N, "other": ms_N}, np.repeat([1, 2], 30))
    assert kinds["overall"].tau(value_N) == pytest.approx(scipy.stats.kendalltau(value_N, accuracy_N)[0])
    order = np.argsort(ms_N)
    bins = [scipy.stats.kendalltau(value_N[at], accuracy_N[at])[0] for at in np.split(order, nb201.NUM_BINS)]
    assert kinds["latency"].tau(value_N) == pytest.approx(np.mean(bins))  # bins of equal size
    assert devices["one"].tau(accuracy_N) == pytest.approx(1) and devices["one"].tau(-accuracy_N) == pytest.approx(-1)
    once = np.ones((1, 60))
    assert kinds["macs"].tau(value_N, once) == pytest.approx([kinds["macs"].tau(value_N)] * 3)
