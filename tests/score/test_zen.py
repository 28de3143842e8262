# B images, C channels, HW map

import functools
import itertools
import json
import math
import pathlib
import statistics

import pytest
import torch
from torch import nn

from tests.shapes import FACE, square
from zennas.commands import score_names
from zennas.records import UserError, first_line
from zennas.score import plain as plain_module
from zennas.score import together
from zennas.score.baselines import num_convolutions, reference_zen, total_macs, total_params
from zennas.score.plain import plain_layers
from zennas.score.scores import SCORES, TOGETHER, WORTH, score_batch, score_candidate
from zennas.score.zen import zen, zen_of_candidate, zen_of_module
from zennas.space.blocks import BLOCKS
from zennas.space.candidate import Candidate
from zennas.space.cost import cost
from zennas.space.form import Form
from zennas.space.network import build, initialise, plain, plain_paths
from zennas.track import ScorePlan

SMALL = Candidate(block="ir", stem=8, widths=(8, 16), depths=(1, 2))
SMALL_SE = Candidate(block="ir_se", stem=8, widths=(8, 16), depths=(1, 2))
fp32 = functools.partial(zen_of_candidate, dtype=torch.float32)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def std_of_mean(values):
    return statistics.stdev(values) / math.sqrt(len(values))


# --- the number is the paper's; on given weights it is that of test_together.py


def test_the_wide_limit_has_a_closed_form():
    """A 3x3 convolution multiplies the direction's second moment by 9 c_in, a PReLU of slope a by (1 + a^2) / 2.

    The norms' sigmas cancel: what a norm takes from the direction its term puts back. At the end the sum of absolute
    values of c h w Gaussians of variance v is c h w sqrt(2 v / pi). Circular padding, so that no border gets less.
    """
    width, px, slope, num_layers = 192, 8, 0.1, 4
    layers, channels = [], 3
    for _ in range(num_layers):
        conv = nn.Conv2d(channels, width, 3, padding=1, padding_mode="circular", bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.LeakyReLU(slope)]
        channels = width
    moment = 9 * 3 * (9 * width) ** (num_layers - 1) * ((1 + slope**2) / 2) ** (num_layers - 1)
    closed = math.log(width * px * px * math.sqrt(2 * moment / math.pi))
    scores = [zen_of_module(nn.Sequential(*layers[:-1]), square(px), 4, seeded(seed)) for seed in range(6)]
    # Measured: a draw deviates by 0.03, and the mean is 0.02 off at this width. A lost norm would be worth 3, a lost
    # convolution 3.7, a lost slope 0.34.
    assert statistics.fmean(scores) == pytest.approx(closed, abs=0.1)


def test_the_reference_code_s_way_agrees_on_a_shallow_network():
    """There a difference of 0.01 is a derivative; the running variance is undone by a momentum of 1."""
    ours, theirs = [], []
    for seed in range(30):
        network = initialise(plain(*plain_paths(SMALL, 3)))
        for part in network:
            if isinstance(part, nn.BatchNorm2d):
                part.momentum = 1.0
        theirs.append(reference_zen(network, square(16), 4, seeded(seed)) - math.log(0.01))
        ours.append(zen(network, square(16), 4, seeded(seed + 1000)))
    noise = math.hypot(std_of_mean(ours), std_of_mean(theirs))
    # 5 deviations of the means; 0.05 for statistics that the perturbation moves and for n - 1 in a running variance.
    assert statistics.fmean(ours) == pytest.approx(statistics.fmean(theirs), abs=5 * noise + 0.05)


# --- the generator is the only chance


def test_scoring_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    together._bank.cache_clear()
    zen(SMALL, square(8), 2, seeded(0))
    zen(build(SMALL, square(8, 4)), square(8), 2, seeded(0))
    reference_zen(SMALL, square(8), 2, seeded(0))
    assert torch.equal(torch.get_rng_state(), state)


# --- what the fast path sees of a network, and what it leaves to the slow one


def test_plain_layers_are_those_of_the_plain_network():
    kinds = {"Convolution": nn.Conv2d, "Norm": nn.BatchNorm2d, "Activation": nn.PReLU}
    layers, modules = plain_layers(SMALL_SE, 3), list(plain(*plain_paths(SMALL_SE, 3)))
    assert [kinds[type(layer).__name__] for layer in layers] == [type(module) for module in modules]
    for layer, module in zip(layers, modules, strict=True):
        if isinstance(module, nn.Conv2d):
            assert layer == (module.weight.shape, module.stride[0], module.padding[0], module.groups)
    # The stem's convolution and two per block, of 3 x 3 each: no shortcut, no squeeze-excitation, no neck.
    assert [layer.shape[2:] for layer in layers if hasattr(layer, "groups")] == [(3, 3)] * (1 + 2 * SMALL_SE.num_blocks)


@pytest.mark.parametrize(
    ("activation", "slope"),
    [(nn.ReLU(), 0.0), (nn.LeakyReLU(0.3), 0.3), (nn.PReLU(8), 0.25), (nn.PReLU(8, init=0.1), 0.1)],
    ids=["ReLU", "LeakyReLU", "PReLU", "PReLU from 0.1"],
)
def test_an_activation_has_the_slope_that_it_starts_with(activation, slope):
    assert plain_module._layer(activation).slope_below_zero == slope


@pytest.fixture
def smooth(monkeypatch):
    """A candidate of a block with an activation that has no slope to speak of."""

    class Smooth(nn.Module):
        def __init__(self, in_channels, out_channels, stride):
            super().__init__()
            conv = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
            self.residual = nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.SiLU())

    monkeypatch.setitem(BLOCKS, "smooth", Smooth)
    yield Candidate(block="smooth", stem=8, widths=(8,), depths=(2,))
    plain_module.part_layers.cache_clear()


def test_a_block_that_the_fast_path_does_not_know_is_scored_by_the_slow_one(smooth):
    assert plain_layers(smooth, 3) is None
    assert zen(smooth, square(8), 2, seeded(0)) == zen_of_module(
        initialise(plain(*plain_paths(smooth, 3))), square(8), 2, seeded(0)
    )


def test_its_convolutions_are_counted_all_the_same(smooth):
    assert num_convolutions(smooth, square(8), 2, seeded(0)) == 1 + 2


# --- a network is scored plain


def test_attention_and_shortcuts_do_not_count():
    assert fp32(SMALL, square(8), 2, seeded(0)) == fp32(SMALL_SE, square(8), 2, seeded(0))
    networks = [build(candidate, square(8, 4)) for candidate in (SMALL, SMALL_SE)]
    one, other = (zen(network, square(8), 2, seeded(0)) for network in networks)
    assert one == other


def test_a_network_has_its_candidate_s_score():
    network = build(SMALL_SE, square(16, 4))
    weights = {name: value.clone() for name, value in network.state_dict().items()}
    of_network = [zen(network, square(16), 4, seeded(seed)) for seed in range(30)]
    of_candidate = [fp32(SMALL_SE, square(16), 4, seeded(seed)) for seed in range(30)]
    noise = math.hypot(std_of_mean(of_network), std_of_mean(of_candidate))
    assert statistics.fmean(of_network) == pytest.approx(statistics.fmean(of_candidate), abs=5 * noise)
    # Counted as built it would be another number: its neck alone adds a fully connected layer and two norms.
    assert all(torch.equal(value, weights[name]) for name, value in network.state_dict().items())


# --- any module


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


class Broken(nn.Module):
    def forward(self, x):
        raise RuntimeError("broken on purpose")


class Deaf(nn.Module):
    """Answers without looking at its input."""

    def forward(self, x):
        return torch.ones(x.shape[0], 4, 2, 2)


def convolutions(*extra):
    """A small module with everything that scoring touches: weights, biases, statistics, modes; then `extra`."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=3),
        nn.GroupNorm(2, 6),
        nn.BatchNorm2d(6),
        *extra,
    )


def head():
    return nn.Flatten(), nn.Linear(6 * 8 * 8, 5), nn.BatchNorm1d(5)


@pytest.mark.parametrize("fails", [False, True], ids=["scored", "failed"])
def test_a_module_is_given_back_as_it_came(fails):
    module = convolutions(nn.BatchNorm2d(6, affine=False), *head(), *([Broken()] if fails else []))
    module.train()
    module[1].eval()
    module[1].running_mean.fill_(3.0)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    if fails:
        with pytest.raises(RuntimeError, match="broken on purpose"):
            zen(module, square(8), 4, seeded(0))
    else:
        zen(module, square(8), 4, seeded(0))
    after = module.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert [part.training for part in module.modules()] == modes
    assert not [part for part in module.modules() if "forward" in vars(part)]


def test_a_module_s_own_weights_do_not_matter():
    one, other = convolutions(), convolutions()
    for part in other.parameters():
        nn.init.constant_(part, 0.5)
    other[1].running_var.fill_(9.0)
    assert zen(one, square(8), 2, seeded(0)) == zen(other, square(8), 2, seeded(0))


def test_the_first_convolution_says_how_many_channels_an_image_has():
    layers = [nn.Conv2d(5, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3), nn.ReLU()]
    assert math.isfinite(zen(nn.Sequential(*layers), square(8), 2, seeded(0)))


@pytest.mark.parametrize("factor", [0.0, 1e38, math.nan])
@pytest.mark.parametrize("place", [0, 3, 6])
def test_vanishing_or_overflowing_activations_raise(factor, place):
    layers = list(convolutions())
    layers[place:place] = [Times(factor)] * 2  # 1e38 twice, or once behind a sum, is more than float32 holds
    with pytest.raises(FloatingPointError, match="overflow or vanish"):
        zen(nn.Sequential(*layers), square(8), 2, seeded(0))


def test_an_output_without_an_input_raises():
    with pytest.raises(RuntimeError, match="does not depend on its input"):
        zen(convolutions(Deaf()), square(8), 2, seeded(0))


# --- the contract of SCORES


each_score = pytest.mark.parametrize("name", SCORES)


@each_score
@pytest.mark.parametrize("kind", ["candidate", "network"])
def test_every_score_is_a_finite_float_of_its_seed(name, kind):
    def given():
        return SMALL if kind == "candidate" else build(SMALL, square(8, 4))

    value = SCORES[name](given(), square(8), 2, seeded(5))
    assert type(value) is float and math.isfinite(value)
    SCORES[name](SMALL_SE, square(8), 2, seeded(6))
    assert SCORES[name](given(), square(8), 2, seeded(5)) == value


@each_score
def test_no_score_answers_a_failure_with_a_number(name):
    """A network whose output vanishes: raise, unless the score never looks at it and so would say the same without
    that.
    """

    def network(factor):
        made = convolutions(Times(factor))
        made.candidate = SMALL  # so that scores of the architecture have one to speak of
        return made

    try:
        value = SCORES[name](network(0.0), square(8), 2, seeded(0))
    except FloatingPointError:
        return
    assert value == SCORES[name](network(1.0), square(8), 2, seeded(0))
    assert math.isfinite(value) and value > 0


@pytest.mark.parametrize("score_of", [zen, reference_zen])
def test_norms_without_weights_are_norms(score_of):
    """Weights of one and biases of zero are what scoring sets anyway: none at all must give the same."""
    with_weights, without = convolutions(nn.BatchNorm2d(6)), convolutions(nn.BatchNorm2d(6, affine=False))
    assert score_of(with_weights, square(8), 2, seeded(0)) == score_of(without, square(8), 2, seeded(0))


def test_the_baselines_count_what_they_say():
    generator = seeded(0)
    assert num_convolutions(SMALL_SE, square(8), 2, generator) == 1 + 2 * 3
    assert total_macs(SMALL_SE, square(8), 2, generator) == cost(SMALL_SE, square(8)).macs
    assert total_params(SMALL_SE, square(8), 2, generator) == cost(SMALL_SE, square(8)).params
    assert total_params(nn.Linear(3, 4), square(8), 2, generator) == 3 * 4 + 4
    with pytest.raises(ValueError, match="needs a Candidate or a Network"):
        total_macs(nn.Linear(3, 4), square(8), 2, generator)


# --- batches


PLAN = ScorePlan(image_px=8, batch=2, repeats=2)
ODD = Candidate(block="no_such_block", stem=8, widths=(8,), depths=(1,))
BATCH = [SMALL, SMALL_SE, Candidate(block="ir", stem=4, widths=(4,), depths=(1,))]


def test_a_failure_is_a_value_and_the_batch_goes_on():
    first, second, third = score_batch([SMALL, ODD, SMALL_SE], PLAN, FACE, seed=0)
    assert (first.stage, first.error, third.stage, third.error) == (None,) * 4
    assert math.isfinite(first.value) and math.isfinite(third.value)
    assert (second.value, second.std, second.stage) == (None, 0.0, "build")
    assert second.error.startswith("UserError: block 'no_such_block' is not known")
    assert all(scored.seconds >= 0 for scored in (first, second, third))


@pytest.mark.parametrize(
    "error",
    [
        FloatingPointError("Zen-Score is nan"),
        RuntimeError("first line\nsecond line"),
        MemoryError(),
        OverflowError("big"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_score_raises_becomes_a_value(error, monkeypatch):
    def failing(network, image_px, batch, generator):
        if network == SMALL:
            raise error
        return 1.0

    monkeypatch.setitem(SCORES, "failing", failing)
    plan = PLAN.model_copy(update={"name": "failing"})
    failed, scored = score_batch([SMALL, SMALL_SE], plan, FACE, seed=0)
    assert (failed.value, failed.stage) == (None, "score")
    assert failed.error == f"{type(error).__name__}: {first_line(error)}"
    assert (scored.value, scored.std, scored.stage, scored.error) == (1.0, 0.0, None, None)


def test_ctrl_c_is_no_failure_of_a_candidate(monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setitem(SCORES, "interrupted", interrupted)
    with pytest.raises(KeyboardInterrupt):
        score_batch([SMALL], PLAN.model_copy(update={"name": "interrupted"}), FACE, seed=0)


def test_a_score_is_the_same_in_any_order():
    alone = {candidate: score_candidate(candidate, PLAN, FACE, seed=3) for candidate in BATCH}
    for order in itertools.permutations(BATCH):
        for candidate, scored in zip(order, score_batch(list(order), PLAN, FACE, seed=3), strict=True):
            assert (scored.value, scored.std) == alone[candidate]


def test_a_score_is_the_seed_s_and_the_plain_network_s():
    """Common random numbers: candidates of one plain network, ir and ir_se, have one score, so that none wins by its
    luck.
    """
    one, again, other = (score_candidate(SMALL, PLAN, FACE, seed=seed) for seed in (0, 0, 1))
    assert one == again != other
    assert score_candidate(SMALL_SE, PLAN, FACE, seed=0) == one


def test_every_repeat_draws_anew():
    _, std = score_candidate(SMALL, PLAN, FACE, seed=0)
    of_seeds = [score_candidate(SMALL, PLAN, FACE, seed=seed, repeats=1)[0] for seed in range(12)]
    assert std > statistics.stdev(of_seeds) / 100  # equal draws would have none
    assert score_candidate(SMALL, PLAN, FACE, seed=0, repeats=1) == (of_seeds[0], 0.0)


# --- batches that are scored together


@pytest.fixture
def asked(monkeypatch):
    """The batches that were scored together."""
    batches = []
    monkeypatch.setitem(
        TOGETHER, "zen", lambda some, *rest: batches.append(some) or together.zen_of_candidates(some, *rest)
    )
    return batches


def test_each_candidate_of_a_batch_goes_once(asked, smooth):
    scored = score_batch([SMALL, SMALL_SE, ODD, smooth, SMALL], PLAN, FACE, seed=0)
    assert asked == [[SMALL, SMALL_SE]] * PLAN.repeats  # the fast path knows neither the odd one nor the smooth one
    assert scored[0] == scored[4] and [one.stage for one in scored] == [None, None, "build", None, None]
    assert score_candidate(smooth, PLAN, FACE, seed=0) == (scored[3].value, scored[3].std)
    assert asked == [[SMALL, SMALL_SE]] * PLAN.repeats


def test_one_that_overflows_is_alone_in_that(asked, monkeypatch):
    def failing(some, *rest):
        return [math.nan if one == SMALL else value for one, value in zip(some, zen_of(some, *rest), strict=True)]

    zen_of = TOGETHER["zen"]
    monkeypatch.setitem(TOGETHER, "zen", failing)
    failed, scored = score_batch([SMALL, SMALL_SE], PLAN, FACE, seed=0)
    assert (failed.value, failed.std, failed.stage) == (None, 0.0, "score")
    assert failed.error.startswith("FloatingPointError: Zen-Score is nan")
    assert (scored.value, scored.std) == score_candidate(SMALL_SE, PLAN, FACE, seed=0)


def test_what_begins_alike_and_goes_other_ways_has_its_own_score(asked):
    """Networks of different numbers of stages, of different families, and of different forms."""
    genes = {"block": "ir", "stem": 8, "widths": (8, 8, 8), "depths": (1, 2, 1)}
    longer, branches = Candidate(**genes), Candidate(family="mgn", **genes)
    others = [Candidate(family="single", form=form, **genes) for form in (None, Form(strides=(2, 1, 2)))]
    for batch in itertools.permutations([SMALL, longer, branches, *others], 3):
        scored = score_batch(batch, PLAN, FACE, seed=0)
        assert [(one.value, one.std) for one in scored] == [score_candidate(one, PLAN, FACE, seed=0) for one in batch]
    assert len(asked) == 60 * PLAN.repeats


def test_what_does_not_fit_together_goes_alone(monkeypatch):
    def too_much(some, *rest):
        raise torch.OutOfMemoryError("all of them")

    monkeypatch.setitem(TOGETHER, "zen", too_much)
    scored = score_batch([SMALL, SMALL_SE], PLAN, FACE, seed=0)
    assert [(one.value, one.std) for one in scored] == [score_candidate(SMALL, PLAN, FACE, seed=0)] * 2


def test_repeats_are_averaged(monkeypatch):
    values = iter([1.0, 3.0, 8.0, 5.0])
    monkeypatch.setitem(SCORES, "listed", lambda *arguments: next(values))
    plan = PLAN.model_copy(update={"name": "listed", "repeats": 1})
    assert score_candidate(SMALL, plan, FACE, seed=0, repeats=3) == (4.0, statistics.stdev([1.0, 3.0, 8.0]))
    assert score_candidate(SMALL, plan, FACE, seed=0) == (5.0, 0.0)


def test_an_unknown_score_is_named():
    with pytest.raises(UserError, match="score 'zne' is not known; did you mean 'zen'"):
        score_candidate(SMALL, PLAN.model_copy(update={"name": "zne"}), FACE, seed=0)


def test_a_shell_offers_every_score():
    assert score_names() == list(SCORES)


def test_what_scores_are_worth_is_what_the_studies_found():
    folder = pathlib.Path(__file__).parents[2] / "experiments" / "equal-latency"
    study, truth = (json.loads((folder / name).read_text(encoding="utf-8")) for name in ("nb201.json", "truth.json"))
    assert set(WORTH) == set(SCORES)
    for name, worth in WORTH.items():
        name = name.replace("_mean", "")  # of networks of one way, as all of the studies, a mean is what it is of
        assert worth.faces == pytest.approx(truth["found"]["tau"][name]["AUC"][0], abs=6e-5)
        found = study["test"].get(name)
        taus = (None, None) if found is None else (found["overall"][0], found["latency"][0])
        assert worth[:2] == (taus if found is None else pytest.approx(taus, abs=6e-5))
