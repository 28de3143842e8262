import math
import pathlib

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
import yaml
from torch import nn

from tests.shapes import square
from zennas.records import UserError
from zennas.space.blocks import BLOCKS, NECKS
from zennas.space.candidate import Candidate
from zennas.space.families.table import family_of
from zennas.space.parts import parts_of
from zennas.space.space import DEPTH_STEPS, WIDTH_FACTORS, Range, Space, distance, effectiveness, fan_in

ROOT = pathlib.Path(__file__).parent.parent.parent
SHIPPED = {path.stem: Space.load(path) for path in sorted((ROOT / "search_spaces").glob("*.yaml"))}
# Small enough that its limits bind often, with a range that does not start at its step and one of a single value.
NARROW = Space(
    name="narrow",
    block="ir",
    image_px=16,
    embedding_size=8,
    stem=Range(low=3, high=15, step=4),
    widths=(Range(low=4, high=4), Range(low=5, high=20, step=5)),
    depths=(Range(low=1, high=3), Range(low=2, high=6, step=2)),
    limits={"max_blocks": 7, "max_effectiveness": 0.2},
)
SPACES = {**SHIPPED, "narrow": NARROW}
SEEDS = st.integers(0, 2**32 - 1)
each_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
# The properties draw some thousand candidates in all; hypothesis would stop a slow machine's single slow draw.
few = hypothesis.settings(max_examples=40, deadline=None)


# The fan-ins of a block's convolutions, read from the drawings in the papers: c channels come in, the block is w wide.
BY_HAND = {
    "inverted_residual": lambda c, w: [c, 9, 2 * w],
    "separable_residual": lambda c, w: [c, 9, w],
    "bottleneck": lambda c, w: [c, 9 * max(1, w // 4), max(1, w // 4)],
    "resnet_bottleneck": lambda c, w: [c, 9 * max(1, w // 4), max(1, w // 4)],
    "repvgg": lambda c, w: [9 * c],
} | dict.fromkeys(("ir", "ir_se", "ir_cbam", "resnet_basic"), lambda c, w: [9 * c, 9 * w])


def naive_effectiveness(candidate):
    """Layer by layer: convolutions over the geometric mean of their fan-in (Shen et al. 2023, rho = L / w)."""
    fan_ins, channels = [], candidate.stem
    for stage in range(len(candidate.widths)):
        for _ in range(candidate.depths[stage]):
            fan_ins += BY_HAND[candidate.block](channels, candidate.widths[stage])
            channels = candidate.widths[stage]
    return len(fan_ins) / math.prod(fan_in ** (1 / len(fan_ins)) for fan_in in fan_ins)


def naive_contains(space, candidate):
    """The definition, written without Range and without a reason."""
    genes = [space.stem, *space.widths, *space.depths]
    values = [candidate.stem, *candidate.widths, *candidate.depths]
    return (
        candidate.block == space.block
        and len(candidate.widths) == len(space.widths)
        and all(v in range(gene.low, gene.high + 1, gene.step) for v, gene in zip(values, genes, strict=True))
        and sum(candidate.depths) <= space.limits.max_blocks
        and naive_effectiveness(candidate) <= space.limits.max_effectiveness
    )


def drawn(space, seed):
    return space.sample(np.random.default_rng(seed))


@each_space
@few
@hypothesis.given(seed=SEEDS)
def test_a_sample_is_in_the_space(space, seed):
    candidate = drawn(space, seed)
    assert naive_contains(space, candidate) and space.contains(candidate)
    assert drawn(space, seed) == candidate  # randomness is the generator's and nobody else's


@each_space
@few
@hypothesis.given(seed=SEEDS)
def test_a_mutant_is_a_neighbour_in_the_space(space, seed):
    rng = np.random.default_rng(seed)
    parent = space.sample(rng)
    mutant = space.mutate(parent, rng)
    assert naive_contains(space, mutant)
    changed = [pair for pair in zip(parent.genes, mutant.genes, strict=True) if pair[0] != pair[1]]
    assert 1 <= len(changed) <= 3
    for name, old, new in zip(space.genes, parent.genes, mutant.genes, strict=True):
        step = space.genes[name].step
        if name.endswith("_depth"):  # by a step of DEPTH_STEPS, rounded to the range
            assert abs(new - old) <= max(DEPTH_STEPS) + step / 2
        else:
            assert old * min(WIDTH_FACTORS) - step <= new <= old * max(WIDTH_FACTORS) + step


def test_mutation_reaches_every_gene_and_both_ways():
    rng = np.random.default_rng(0)
    parent = Candidate(block="ir", stem=7, widths=(4, 10), depths=(2, 4))
    moves = [np.subtract(NARROW.mutate(parent, rng).genes, parent.genes) for _ in range(300)]
    free = [index for index, span in enumerate(NARROW.genes.values()) if span.low < span.high]
    # 300 mutants, each of which moves a gene with a probability of 2/5 or so: to miss one is impossible in practice.
    assert all(min(move[i] for move in moves) < 0 < max(move[i] for move in moves) for i in free)


@each_space
def test_mutants_are_of_their_own_parents_and_on_the_grid(space):
    """Row by row; the limits may be broken, the ranges are not."""
    rng = np.random.default_rng(0)
    parent_NG = np.array([space.sample(rng).genes for _ in range(200)])
    mutant_NG = space.mutants(parent_NG, rng)
    assert all(value in span for row in mutant_NG for value, span in zip(row, space.genes.values(), strict=True))
    num_moved_N = (mutant_NG != parent_NG).sum(1)
    assert num_moved_N.max() == 3 and {1, 2} <= set(num_moved_N)
    assert any(not space.contains(space.candidate(row)) for row in mutant_NG)


def test_a_candidate_without_neighbours_mutates_into_any_of_the_space():
    alone = {"stem": Range(low=3, high=3), "widths": (Range(low=4, high=4),) * 2, "depths": (Range(low=1, high=1),) * 2}
    lonely = NARROW.model_copy(update=alone)
    assert lonely.mutate(lonely.cheapest(), np.random.default_rng(0)) == lonely.cheapest()


@each_space
def test_no_seed_gives_always_the_same(space):
    assert len({drawn(space, seed) for seed in range(20)}) > 10


def test_samples_spread_evenly_over_the_ranges():
    """Limits that never bind, so that every value of a gene has the same chance."""
    space = NARROW.model_copy(
        update={"limits": NARROW.limits.model_copy(update={"max_blocks": 99, "max_effectiveness": 9.0})}
    )
    rng = np.random.default_rng(0)
    samples = [space.sample(rng).genes for _ in range(2000)]
    for index, span in enumerate(space.genes.values()):
        values = list(span.values())
        counts = [sum(sample[index] == value for sample in samples) for value in values]
        share = len(samples) / len(values)
        assert sum(counts) == len(samples)
        # 5 standard deviations of a binomial count: by chance once in a million.
        assert all(abs(count - share) <= 5 * math.sqrt(share) for count in counts)


@hypothesis.given(
    st.integers(1, 18), st.integers(1, 6), st.integers(3, 22), st.integers(1, 4), st.integers(1, 8), st.booleans()
)
def test_contains_agrees_with_the_definition(stem, width1, width2, depth1, depth2, other_block):
    candidate = Candidate(
        block="ir_se" if other_block else "ir", stem=stem, widths=(width1, width2), depths=(depth1, depth2)
    )
    assert NARROW.contains(candidate) == naive_contains(NARROW, candidate) == (NARROW.violation(candidate) is None)


INSIDE = Candidate(block="ir", stem=7, widths=(4, 10), depths=(2, 4))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"block": "ir_se"}, "block is 'ir_se', allowed: 'ir'"),
        ({"widths": (4,), "depths": (2,)}, "1 stages, allowed: 2"),
        ({"stem": 8}, "stem_width is 8, allowed: 3 to 15 in steps of 4"),
        ({"stem": 19}, "stem_width is 19, allowed: 3 to 15 in steps of 4"),
        ({"widths": (5, 10)}, "stage1_width is 5, allowed: 4 to 4 in steps of 1"),
        ({"widths": (4, 12)}, "stage2_width is 12, allowed: 5 to 20 in steps of 5"),
        ({"depths": (4, 2)}, "stage1_depth is 4, allowed: 1 to 3 in steps of 1"),
        ({"depths": (2, 8)}, "stage2_depth is 8, allowed: 2 to 6 in steps of 2"),
        ({"widths": (4, 20), "depths": (3, 6)}, "9 blocks, allowed: at most 7"),
        ({"widths": (4, 5), "depths": (3, 4)}, "effectiveness 0.334, allowed: at most 0.2"),
    ],
)
def test_each_limit_gives_its_reason(change, reason):
    """The 0.334 by hand: 14 convolutions; fan-ins 63 once, 36 six times, 45 seven times, geometric mean 41.89."""
    assert NARROW.violation(INSIDE) is None
    assert NARROW.violation(Candidate(**INSIDE.plain() | change)) == reason


def test_a_limit_is_itself_allowed():
    space = NARROW.model_copy(update={"limits": NARROW.limits.model_copy(update={"max_blocks": 6})})
    assert INSIDE.num_blocks == 6 and space.contains(INSIDE)
    rho = effectiveness(INSIDE)
    limits = NARROW.limits.model_copy(update={"max_effectiveness": rho})
    assert NARROW.model_copy(update={"limits": limits}).contains(INSIDE)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_baseline_s_genes_are_held(name):
    space = SHIPPED[name]
    alike = [candidate for candidate in space.baselines.values() if space.is_like(candidate)]
    assert alike and (space.family != "chain" or len(alike) == len(space.baselines))
    for candidate in alike:
        assert naive_contains(space, Candidate(**candidate.plain() | {"block": space.block}))


def test_a_stem_that_shrinks_the_image_leaves_one_stage_fewer(tiny):
    path = tiny.parent / "space.yaml"
    values = yaml.safe_load(path.read_text()) | {
        "block": "inverted_residual",
        "limits": {"max_blocks": 9, "max_effectiveness": 9},
    }
    for image_px in (8, 24, 32):
        assert Space.parse(values | {"image_px": image_px}, "here").image_px == image_px
    with pytest.raises(UserError) as caught:
        Space.parse(values | {"image_px": 28}, "here")
    assert "image_px must be divisible by 8: the stem divides the image by 2, each of the 2 stages halves it" in str(
        caught.value
    )


def test_every_space_of_faces_ends_in_7_by_7():
    """The map that every neck of the field reads; IR's four stages and MobileFaceNet's stem and three stages alike."""
    for name in ("ir", "ir_se", "mobilefacenet", "resnet"):
        space = SHIPPED[name]
        necks = [part for part in parts_of(space.cheapest(), space.shape) if part.kind in NECKS]
        assert [part.in_hw for part in necks] == [(7, 7)] and space.image_px == 112


def test_ir_is_ir_se_without_its_attention():
    ir, ir_se = (SHIPPED[name].model_dump(exclude={"name", "block", "baselines"}) for name in ("ir", "ir_se"))
    assert ir == ir_se
    assert [baseline.depths for baseline in SHIPPED["ir"].baselines.values()] == [
        baseline.depths for baseline in SHIPPED["ir_se"].baselines.values()
    ]


def test_the_limits_stand_just_above_the_deepest_known_network():
    """As the files say: TFace's 200, and mbf_large of 29 blocks with the insides that insightface gives them."""
    limits = SHIPPED["resnet"].limits
    deepest = SHIPPED["resnet"].baselines["ResNet-200"]
    assert deepest.num_blocks == 66 < limits.max_blocks <= 66 * 1.05
    assert effectiveness(deepest) < limits.max_effectiveness <= effectiveness(deepest) * 1.05
    limits = SHIPPED["mobilefacenet"].limits
    blocks = [(256, 128)] * (2 + 1 + 8) + [(256, 256)] + [(512, 256)] * 12 + [(512, 512)] + [(512, 256)] * 4
    fan_ins = [fan_in for width, inside in blocks for fan_in in (width, 9, inside)]
    rho = len(fan_ins) / math.exp(np.mean(np.log(fan_ins)))
    assert len(blocks) == 29 < limits.max_blocks <= 29 * 1.05 and rho < limits.max_effectiveness <= rho * 1.05


def test_ir_se_holds_the_hand_made_networks():
    depths = {"IR-SE-18": (2, 2, 2, 2), "IR-SE-34": (3, 4, 6, 3), "IR-SE-50": (3, 4, 14, 3)}
    depths |= {"IR-SE-100": (3, 13, 30, 3), "IR-SE-200": (6, 26, 60, 6), "IR [3,25,88,3]": (3, 25, 88, 3)}
    baselines = SHIPPED["ir_se"].baselines
    assert {name: candidate.depths for name, candidate in baselines.items()} == depths
    for name, candidate in baselines.items():
        assert (candidate.stem, candidate.widths) == (64, (64, 128, 256, 512))
        assert candidate.block == ("ir_se" if name.startswith("IR-SE") else "ir")
    assert all(
        value % 8 == 0 for space in SHIPPED.values() for gene in (space.stem, *space.widths) for value in gene.values()
    )


@each_space
@few
@hypothesis.given(seed=SEEDS)
def test_effectiveness_is_the_naive_loop_s(space, seed):
    candidate = drawn(space, seed)
    # Both are float64 sums of a few hundred logarithms: rounding alone.
    assert effectiveness(candidate) == pytest.approx(naive_effectiveness(candidate), rel=1e-12)


@pytest.mark.parametrize("block", BLOCKS)
def test_effectiveness_counts_the_convolutions_that_are_built(block):
    candidate = Candidate(block=block, stem=5, widths=(4, 9), depths=(2, 3))
    with torch.device("meta"):
        blocks = family_of(candidate).network(candidate, square(32, 4)).blocks
    convolutions = [m for block in blocks for m in block.residual if isinstance(m, nn.Conv2d)]
    fan_ins = [m.weight[0].numel() for m in convolutions]
    assert effectiveness(candidate) == pytest.approx(len(fan_ins) / math.exp(np.mean(np.log(fan_ins))), rel=1e-12)
    num, log_fan_in = np.sum(
        [times * np.array(fan_in(part)) for part, times in parts_of(candidate, square(32)).items()], 0
    )
    assert num == len(fan_ins) and log_fan_in == pytest.approx(np.log(fan_ins).sum(), rel=1e-12)


@each_space
@few
@hypothesis.given(seeds=st.tuples(SEEDS, SEEDS, SEEDS))
def test_distance_is_a_metric(space, seeds):
    a, b, c = (drawn(space, seed) for seed in seeds)
    assert distance(a, b) == pytest.approx(distance(b, a), rel=1e-12)  # log(a/b) and -log(b/a) round apart
    assert (distance(a, b) == 0) == (a == b)
    assert distance(a, c) <= distance(a, b) + distance(b, c) + 1e-12  # rounding of three sums


def test_distance_is_one_when_all_is_doubled():
    doubled = Candidate(block="ir", stem=14, widths=(8, 20), depths=(4, 8))
    assert distance(INSIDE, doubled) == 1.0


@hypothesis.given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 9), st.integers(-400, 2000))
def test_nearest_is_the_nearest_member(low, num_steps, step, eighths):
    value = eighths / 8
    span = Range(low=low, high=low + num_steps * step, step=step)
    nearest = span.nearest(value)
    assert nearest in span and nearest in list(span.values())
    assert abs(nearest - value) == min(abs(member - value) for member in span.values())


@each_space
@few
@hypothesis.given(seed=SEEDS)
def test_genes_make_the_candidate_again(space, seed):
    candidate = drawn(space, seed)
    assert space.candidate(candidate.genes) == candidate
    assert len(space.genes) == 1 + 2 * len(space.widths) == len(candidate.genes)


@each_space
def test_the_cheapest_has_every_gene_at_its_lowest(space):
    cheapest = space.cheapest()
    assert space.contains(cheapest)
    assert all(value == span.low for value, span in zip(cheapest.genes, space.genes.values(), strict=True))


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("depths", [{"low": 1, "high": 4}], "as many depths as widths; given 2 and 1"),
        ("stem", {"low": 8, "high": 4, "step": 8}, "stem: given "),
        ("stem", {"low": 8, "high": 30, "step": 8}, "high must be low plus a multiple of step 8"),
        ("stem", {"low": 0, "high": 8, "step": 8}, "stem.low: given 0, allowed: greater than or equal to 1"),
        ("stem", {"low": 8, "high": 32, "step": 0}, "stem.step: given 0"),
        (
            "stem",
            {"low": 8, "high": 8 * 10**12},
            "stem.high: given 8000000000000, allowed: less than or equal to 65536",
        ),
        ("embedding_size", 10**12, "embedding_size: given 1000000000000, allowed: less than or equal to 65536"),
        ("image_px", 10**9, "image_px: given 1000000000, allowed: a whole number from 8 to 65536"),
        ("stem", {"low": 8, "hihg": 32}, "key 'stem.hihg' is not known; did you mean 'high'?"),
        ("widths", [{"low": 8, "hihg": 32}] * 2, "key 'widths.0.hihg' is not known; did you mean 'high'?"),
        ("image_px", 34, "image_px must be divisible by 4: each of the 2 stages halves the image"),
        ("block", "ir-se", "block 'ir-se' is not known; did you mean 'ir_se'?"),
        ("limits", {"max_blocks": 1, "max_effectiveness": 0.5}, "smallest candidate of the ranges (2 blocks"),
        ("limits", {"max_blocks": 9, "max_effectiveness": 0.001}, "smallest candidate of the ranges (effectiveness"),
        ("limits", {"max_blocks": 9}, "key 'limits.max_effectiveness' is missing"),
        (
            "limits",
            {"max_blocks": 4, "max_effectiveness": 0.5},
            "hold every baseline that begins a search; IR [2,3]: 5 blocks",
        ),
        (
            "baselines",
            {"mine": {"block": "ir", "stem": 12, "widths": [16, 32], "depths": [1, 2]}},
            "hold every baseline that begins a search; mine: stem_width is 12, allowed: 8 to 32 in steps of 8",
        ),
        (
            "baselines",
            {"mine": {"block": "ir", "stem": 16, "width": [16, 32], "depths": [1, 2]}},
            "key 'baselines.mine.width' is not known; did you mean 'widths'?",
        ),
        ("max_blocks", 9, "key 'max_blocks' is not known"),
        ("block", None, "block: given None"),
    ],
)
def test_an_inconsistent_space_is_refused(tiny, key, value, words):
    path = tiny.parent / "space.yaml"
    values = yaml.safe_load(path.read_text())
    Space.load(path)
    path.write_text(yaml.safe_dump(values | {key: value}))
    with pytest.raises(UserError) as caught:
        Space.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
