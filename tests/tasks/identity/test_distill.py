import itertools
import math

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.shapes import square
from zennas.embed.features import Features, attention_of
from zennas.records import UserError
from zennas.space.candidate import Candidate
from zennas.space.network import build
from zennas.tasks.identity.distill import (
    DISTILLATIONS,
    RELATION_FORMS,
    Bank,
    knobs_of,
    projection,
    prototypes,
    similar_identities,
    unit,
)

each_distillation = pytest.mark.parametrize("name", DISTILLATIONS)
NUM_FACES, SIZE, NUM_NEIGHBOURS = 3, 5, 4
MAPS = ((6, 1, 1), (1, 2, 3), (4, 1, 1))  # one face's: channels, positions, channels


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def features(seed, *, like=None, noise=0.5):
    """Random Features; with `like`, those of somebody who nearly agrees with it."""

    def drawn(shape, old):
        new = torch.randn(shape, generator=generator)
        return new if old is None else old + noise * new

    generator = seeded(seed)
    old = like or Features(None, (None,) * len(MAPS))
    return Features(
        drawn((NUM_FACES, SIZE), old.embedding_BD),
        tuple(drawn((NUM_FACES, *shape), one) for shape, one in zip(MAPS, old.attention, strict=True)),
        torch.randn(NUM_FACES, NUM_NEIGHBOURS, SIZE, generator=generator),
    )


# --- the formulas, over lists of Python floats


def dot(one, two):
    return sum(a * b for a, b in zip(one, two, strict=True))


def cosine(one, two):
    return dot(one, two) / math.sqrt(dot(one, one) * dot(two, two))


def mean(values):
    values = list(values)
    return sum(values) / len(values)


def rows_of(x_BX):
    return x_BX.double().flatten(1).tolist()


def embeddings(student, teacher):
    return list(zip(rows_of(student.embedding_BD), rows_of(teacher.embedding_BD), strict=True))


def naive_l2(student, teacher):
    return mean(sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) for s, t in embeddings(student, teacher))


def naive_feature_consistency(student, teacher):
    def normal(x):
        return [a / math.sqrt(dot(x, x)) for a in x]

    pairs = [(normal(s), normal(t)) for s, t in embeddings(student, teacher)]
    return mean(sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) for s, t in pairs)


def naive_angular(student, teacher):
    return mean((1 - cosine(s, t)) ** 2 for s, t in embeddings(student, teacher))


def naive_attention(student, teacher):
    pairs = zip(student.attention, teacher.attention, strict=True)
    return sum(mean(1 - cosine(s, t) for s, t in zip(rows_of(one), rows_of(two), strict=True)) for one, two in pairs)


def naive_coupleface(student, teacher, *, alpha=1.0, tolerance=0.03, form="hinge"):
    relations = []
    for (s, t), neighbours in zip(embeddings(student, teacher), teacher.neighbours_BKD.double().tolist(), strict=True):
        for other in neighbours:
            gap = cosine(s, other) - cosine(t, other)
            relations.append(max(0.0, (abs(gap) if form == "hinge" else gap) - tolerance))
    return naive_feature_consistency(student, teacher) + alpha * mean(relations)


NAIVE = {
    "l2": naive_l2,
    "feature_consistency": naive_feature_consistency,
    "angular": naive_angular,
    "attention": naive_attention,
    "coupleface": naive_coupleface,
}


# --- the contract of every row


def test_every_distillation_is_derived_a_second_time():
    assert set(NAIVE) == set(DISTILLATIONS)


@each_distillation
@pytest.mark.parametrize("noise", [0.1, 3.0])
def test_it_is_what_its_formula_says(name, noise):
    teacher = features(1)
    student = features(2, like=teacher, noise=noise)
    value = DISTILLATIONS[name](student, teacher)
    assert value.shape == () and value.dtype == torch.float32
    assert value.item() == pytest.approx(NAIVE[name](student, teacher), rel=1e-5)  # float32 against float64
    assert value > 1e-5  # there is something to compare


@pytest.mark.parametrize("form", RELATION_FORMS)
def test_coupleface_s_knobs_are_those_of_the_formula(form):
    teacher, knobs = features(1), {"alpha": 7.0, "tolerance": 0.3, "form": form}
    student = features(2, like=teacher)
    expected = naive_coupleface(student, teacher, **knobs)
    assert DISTILLATIONS["coupleface"](student, teacher, **knobs).item() == pytest.approx(expected, rel=1e-5)
    assert expected != pytest.approx(naive_coupleface(student, teacher, **knobs | {"tolerance": 0.0}), rel=1e-2)


def test_the_forms_of_a_relation_differ_where_the_student_is_too_far():
    gap = torch.tensor([-0.5, -0.01, 0.0, 0.02, 0.5])
    given = {form: count(gap, 0.1).tolist() for form, count in RELATION_FORMS.items()}
    assert given == {
        "hinge": pytest.approx([0.4, 0, 0, 0, 0.4]),
        "one_sided": pytest.approx([0, 0, 0, 0, 0.4]),
    }


@pytest.mark.parametrize(
    ("name", "degrees", "expected"),
    [
        ("l2", 90, 2),
        ("l2", 180, 4),
        ("feature_consistency", 90, 2),
        ("feature_consistency", 180, 4),
        ("feature_consistency", 60, 1),
        ("angular", 90, 1),
        ("angular", 180, 4),
        ("angular", 60, 0.25),
    ],
)
def test_known_angles(name, degrees, expected):
    angle = math.radians(degrees)
    student, teacher = (
        Features(torch.tensor([[1.0, 0.0]])),
        Features(torch.tensor([[math.cos(angle), math.sin(angle)]])),
    )
    assert DISTILLATIONS[name](student, teacher).item() == pytest.approx(expected, rel=1e-6)


@each_distillation
def test_only_l2_sees_lengths(name):
    teacher = features(1)
    student = features(2, like=teacher)
    longer = Features(student.embedding_BD * 3, tuple(5 * one for one in student.attention), None)
    same = DISTILLATIONS[name](longer, teacher).item() == pytest.approx(
        DISTILLATIONS[name](student, teacher).item(), rel=1e-5
    )
    assert same == (name != "l2")


@each_distillation
def test_a_student_like_its_teacher_has_nothing_to_learn(name):
    teacher = features(1)
    assert DISTILLATIONS[name](teacher, teacher).item() == pytest.approx(0, abs=1e-6)  # 1 - cos in float32, six times


def watched(given):
    """The same features as leaves that take gradients."""
    return Features(
        given.embedding_BD.detach().clone().requires_grad_(),
        tuple(one.detach().clone().requires_grad_() for one in given.attention),
        given.neighbours_BKD.detach().clone().requires_grad_(),
    )


@each_distillation
def test_gradients_are_those_of_the_formula_and_the_teacher_takes_none(name):
    teacher = watched(features(1))
    student = watched(features(2, like=teacher))
    DISTILLATIONS[name](student, teacher).backward()
    assert all(one.grad is None for one in (teacher.embedding_BD, *teacher.attention, teacher.neighbours_BKD))
    leaves = student.attention if name == "attention" else [student.embedding_BD]
    for leaf in leaves:
        for index in itertools.product(*map(range, leaf.shape)):
            step, around = 1e-5, []
            for sign in (-1, 1):
                moved = [
                    (one.detach().double().clone(), one is leaf) for one in (student.embedding_BD, *student.attention)
                ]
                for one, is_leaf in moved:
                    if is_leaf:
                        one[index] += sign * step
                embedding_BD, *maps = (one for one, _ in moved)
                around.append(NAIVE[name](Features(embedding_BD, tuple(maps)), teacher))
            # Central differences in float64 (error step^2) against float32 backward.
            assert leaf.grad[index].item() == pytest.approx((around[1] - around[0]) / (2 * step), rel=1e-3, abs=1e-5)


@each_distillation
def test_autocast_and_half_precision_do_not_reach_it(name):
    """What comes in bfloat16 is computed in float32: the value is exactly that of the same numbers given as float32."""
    low = [
        Features(*(x.bfloat16() if torch.is_tensor(x) else tuple(one.bfloat16() for one in x) for x in one))
        for one in (features(2, like=features(1)), features(1))
    ]
    high = [
        Features(*(x.float() if torch.is_tensor(x) else tuple(one.float() for one in x) for x in one)) for one in low
    ]
    plain = DISTILLATIONS[name](*high)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(DISTILLATIONS[name](*high), plain) and torch.equal(DISTILLATIONS[name](*low), plain)


@each_distillation
@pytest.mark.parametrize("who", ["student", "teacher", "both"])
def test_zeros_give_numbers_and_finite_gradients(name, who):
    teacher = features(1)
    student = features(2, like=teacher)
    for one in [student] * (who != "teacher") + [teacher] * (who != "student"):
        one.embedding_BD[0] = 0
        one.neighbours_BKD[0, 0] = 0
        for each in one.attention:
            each[0] = 0
    student = watched(student)
    value = DISTILLATIONS[name](student, teacher)
    value.backward()
    grads = [x.grad for x in (student.embedding_BD, *student.attention) if x.grad is not None]
    assert value.isfinite() and grads and all(grad.isfinite().all() for grad in grads)
    if name not in ("l2", "attention") and who != "teacher":
        assert not student.embedding_BD.grad[0].any()  # no direction, so no way to turn


@hypothesis.settings(max_examples=30)
@hypothesis.given(
    name=st.sampled_from([name for name, row in DISTILLATIONS.items() if row.needs is None]),
    exponents=st.tuples(st.integers(-18, 12), st.integers(-18, 12)),
    seed=st.integers(0, 99),
)
def test_any_scale_gives_numbers(name, exponents, seed):
    pair = [Features(torch.randn(2, 3, generator=seeded(seed + at)) * 10.0**e) for at, e in enumerate(exponents)]
    embedding_BD = pair[0].embedding_BD.requires_grad_()
    value = DISTILLATIONS[name](*pair)
    value.backward()
    assert value.isfinite() and value >= 0 and embedding_BD.grad.isfinite().all()


@pytest.mark.parametrize("name", [name for name, row in DISTILLATIONS.items() if row.needs])
def test_what_a_distillation_needs_is_asked_for(name):
    teacher = features(1)
    needs = DISTILLATIONS[name].needs
    bare = teacher._replace(**{needs: Features._field_defaults[needs]})
    with pytest.raises(UserError, match=f"distillation '{name}'"):
        DISTILLATIONS[name](teacher, bare)


@pytest.mark.parametrize("name", [name for name in DISTILLATIONS if name != "attention"])  # which compares maps alone
def test_sizes_must_agree(name):
    short = features(1)
    long = short._replace(embedding_BD=torch.ones(NUM_FACES, SIZE + 1))
    with pytest.raises(UserError, match=r"student's embeddings are 3 x 5, the teacher's 3 x 6.*projection"):
        DISTILLATIONS[name](short, long)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda maps: maps[:-1], "3 and 2 maps"),
        (lambda maps: (maps[0], maps[1][..., :2], maps[2]), r"\(1, 2, 3\) and \(1, 2, 2\)"),
        (lambda maps: (), "the teacher has no attention maps; allowed: blocks with attention"),
    ],
)
def test_maps_that_do_not_pair_are_named(change, words):
    student = features(1)
    with pytest.raises(UserError, match=words):
        DISTILLATIONS["attention"](student, student._replace(attention=change(student.attention)))


def test_knobs():
    assert knobs_of("l2") == {} and knobs_of("coupleface") == {"alpha": 1.0, "tolerance": 0.03, "form": "hinge"}
    assert knobs_of("coupleface", {"alpha": 0})["alpha"] == 0
    for name, given, words in [
        ("L2", None, "x: distillation 'L2' is not known; did you mean 'l2'"),
        ("l2", {"alpha": 1}, "x: l2: knob 'alpha' is not known"),
        ("coupleface", {"tolerence": 1}, "knob 'tolerence' is not known; did you mean 'tolerance'"),
        ("coupleface", {"form": "hing"}, "form 'hing' is not known; did you mean 'hinge'"),
        ("coupleface", {"form": ["hinge"]}, "form"),
        *(("coupleface", {"alpha": bad}, "x: coupleface: alpha: given") for bad in (-1, math.nan, math.inf, "1", True)),
    ]:
        with pytest.raises(UserError, match=words):
            knobs_of(name, given, "x")


# --- the bank, the similar identities, the prototypes


@pytest.mark.parametrize("block", [1, 3, 7, 100])
@pytest.mark.parametrize(("num_identities", "k"), [(20, 6), (7, 6), (7, 100), (2, 3), (1, 4)])
def test_similar_identities_are_those_of_a_sort(num_identities, k, block):
    prototype_CD = torch.randn(num_identities, 4, generator=seeded(num_identities))
    seen = []
    similar_CK = similar_identities(prototype_CD, k, block=block, progress=lambda *at: seen.append(at))
    rows = prototype_CD.double().tolist()
    expected = [
        sorted(
            (other for other in range(num_identities) if other != own),
            key=lambda other: -cosine(rows[own], rows[other]),
        )[:k]
        for own in range(num_identities)
    ]
    assert similar_CK.dtype == torch.int32 and similar_CK.tolist() == expected
    assert seen[-1] == (num_identities, num_identities)


@pytest.mark.parametrize("block", [2, 5, 100])
def test_prototypes_are_means(block, tmp_path):
    rng = np.random.default_rng(0)
    embedding_ND = np.memmap(tmp_path / "x", np.float16, "w+", shape=(17, 3))
    embedding_ND[:] = rng.normal(size=(17, 3))
    embedding_ND[[2, 9]] = np.nan
    label_N = rng.integers(0, 6, 17).astype(np.int32)
    label_N[label_N == 4] = 5  # an identity without an image
    label_N[2] = 3
    label_N[label_N == 3] = np.where(np.flatnonzero(label_N == 3) == 2, 3, 0)  # one whose only image does not decode
    prototype_CD = prototypes(embedding_ND, label_N, 6, block=block)
    for identity in range(6):
        rows = [embedding_ND[i].tolist() for i in range(17) if label_N[i] == identity and i not in (2, 9)]
        expected = [mean(column) for column in zip(*rows, strict=True)] or [0.0, 0.0, 0.0]
        assert prototype_CD[identity].tolist() == pytest.approx(expected, abs=1e-6)  # sums of a few float32 numbers
    assert not prototype_CD[3].any() and not prototype_CD[4].any()


def filled_bank(path=None, *, steps=6):
    """(Bank, what a dictionary that follows the same steps holds)."""
    num_identities, size = 9, 4
    similar_CK = similar_identities(torch.randn(num_identities, size, generator=seeded(0)), 3)
    bank, seen = Bank(similar_CK, size, path=path), {}
    for step in range(steps):
        label_B = torch.randint(0, 6, (5,), generator=seeded(step))  # with repetitions; 6, 7 and 8 are never seen
        embedding_BD = torch.randn(5, size, generator=seeded(100 + step)) * 1000
        bank.update(label_B, embedding_BD)
        for label, row in zip(label_B.tolist(), embedding_BD.tolist(), strict=True):
            seen[label] = [value / math.sqrt(dot(row, row)) for value in row]
    return bank, seen


@pytest.mark.parametrize("mapped", [False, True], ids=["in memory", "memory-mapped"])
def test_the_bank_holds_what_was_seen_last(mapped, tmp_path):
    bank, seen = filled_bank(tmp_path / "bank.npy" if mapped else None)
    label_B = torch.arange(9)
    neighbours_BKD = bank.neighbours(label_B)
    assert neighbours_BKD.shape == (9, 3, 4) and neighbours_BKD.dtype == torch.float32
    assert len(seen) == 6
    for label in range(9):
        for place, other in enumerate(bank.similar_CK[label].tolist()):
            expected = seen.get(other, [0.0] * 4)
            assert neighbours_BKD[label, place].tolist() == pytest.approx(expected, abs=2**-11)  # float16 below 1
    if mapped:
        assert np.load(tmp_path / "bank.npy").shape == (9, 4)


def test_of_an_identity_twice_in_a_batch_the_last_one_counts():
    bank = Bank(torch.zeros(3, 1, dtype=torch.int32), 2)
    bank.update(torch.tensor([0, 1, 0, 0]), torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, -7]]))
    assert bank.feature_CD.tolist() == [[0, -1], [1, 0], [0, 0]]


def test_an_embedding_of_nan_changes_nothing():
    bank = Bank(torch.zeros(3, 1, dtype=torch.int32), 2, prototype_CD=torch.tensor([[3.0, 4], [0, 2], [0, 0]]))
    before = bank.feature_CD.clone()
    assert before.tolist()[1:] == [[0, 1], [0, 0]]
    bank.update(torch.tensor([0, 1]), torch.tensor([[math.nan, 1.0], [math.inf, 1.0]]))
    assert torch.equal(bank.feature_CD, before)


def test_the_bank_s_state_is_taken_over():
    bank, _ = filled_bank()
    fresh, _ = filled_bank(steps=0)
    assert not torch.equal(fresh.feature_CD, bank.feature_CD)
    fresh.load_state_dict(bank.state_dict())
    label_B = torch.arange(9)
    assert torch.equal(fresh.neighbours(label_B), bank.neighbours(label_B))
    with pytest.raises(UserError, match=r"feature bank is 9 x 4 .*, this run's 9 x 5"):
        Bank(bank.similar_CK, 5).load_state_dict(bank.state_dict())


def test_neighbours_that_were_never_seen_do_not_count():
    """The mean is over those that were: the value is the same with any number of empty neighbours beside them."""
    teacher = features(1)
    student = features(2, like=teacher)
    empty_BKD = torch.zeros(NUM_FACES, 7, SIZE)
    padded = teacher._replace(neighbours_BKD=torch.cat([empty_BKD, teacher.neighbours_BKD], 1))
    value = DISTILLATIONS["coupleface"](student, teacher)
    assert DISTILLATIONS["coupleface"](student, padded).item() == pytest.approx(value.item(), rel=1e-6)
    for none in (empty_BKD, empty_BKD[:, :0]):
        alone = DISTILLATIONS["coupleface"](student, teacher._replace(neighbours_BKD=none))
        assert torch.equal(alone, DISTILLATIONS["feature_consistency"](student, teacher))


# --- maps and projection


def network(block, **changes):
    return build(Candidate(block=block, stem=8, widths=(16, 32), depths=(2, 1)), square(16, 4), **changes)


IMAGE_B3HW = torch.randn(2, 3, 16, 16, generator=seeded(7))


@pytest.mark.parametrize("block", ["ir", "ir_se", "ir_cbam"])
def test_maps_are_collected_in_order_and_only_while_entered(block):
    made = network(block)
    with attention_of(made) as maps:
        made(IMAGE_B3HW)
        made(IMAGE_B3HW)
        shapes = [tuple(one.shape) for one in maps.take()]
        assert maps.take() == ()
    channels, positions = [(2, 16, 1, 1)] * 2 + [(2, 32, 1, 1)], [(2, 1, 8, 8)] * 2 + [(2, 1, 4, 4)]
    both = [shape for pair in zip(channels, positions, strict=True) for shape in pair]
    assert shapes == {"ir": [], "ir_se": channels, "ir_cbam": both}[block]
    made(IMAGE_B3HW)
    assert maps.take() == () and not any(part._forward_hooks or part._forward_pre_hooks for part in made.modules())


def test_maps_carry_gradients_also_where_a_forward_is_recomputed():
    made = network("ir_cbam").train()
    made.requires_grad_()
    grads = []
    for recompute in (False, True):
        made.zero_grad()
        blocks = made.blocks
        with attention_of(made) as maps:
            if recompute:
                made.blocks = Recomputed(blocks)
            made(IMAGE_B3HW)
            taken = maps.take()
            sum(one.square().sum() for one in taken).backward()
            made(IMAGE_B3HW)
            assert len(maps.take()) == len(taken) == 6
        made.blocks = blocks
        grads.append([weight.grad.clone() for weight in blocks.parameters() if weight.grad is not None])
    assert grads[0] and all(torch.allclose(one, two) for one, two in zip(*grads, strict=True))


class Recomputed(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        self.blocks = blocks

    def forward(self, x_BCHW):
        return checkpoint(self.blocks, x_BCHW, use_reentrant=False)


def test_a_projection_is_learned_where_sizes_differ_and_only_there():
    assert not list(projection(4, 4).parameters())
    made = projection(64, 256, generator=seeded(0))
    assert [tuple(weight.shape) for weight in made.parameters()] == [(256, 64)]
    x_BD = torch.randn(100, 64, generator=seeded(1))
    # Mean over 100 rows of a chi-square of 256 over its mean: its deviation is sqrt(2 / 25600); four of those.
    assert (made(x_BD).square().sum(1) / x_BD.square().sum(1)).mean().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(made.weight, projection(64, 256, generator=seeded(0)).weight)
    teacher = Features(torch.randn(100, 256, generator=seeded(2)))
    DISTILLATIONS["feature_consistency"](Features(made(x_BD)), teacher).backward()
    assert made.weight.grad.any()


def test_unit_of_a_short_vector():
    x_BD = torch.tensor([[3e-6, 4e-6], [0.0, 0.0]])
    assert unit(x_BD).tolist() == [pytest.approx([0.6, 0.8]), [0, 0]]
