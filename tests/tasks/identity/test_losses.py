"""Every row of LOSSES against its formula, written once more in plain floats and angles, a row and a class at a
time."""

import functools
import itertools
import math
import statistics

import hypothesis
import pytest
import torch
from hypothesis import strategies

from zennas.tasks.identity import losses
from zennas.tasks.identity.losses import LOSSES, State, call, initial_buffers, knobs_of, logits_of, unsharded_loss

each_loss = pytest.mark.parametrize("name", LOSSES)
START = 7  # from here on, the epochs in which BoundaryFace relabels
COUNTS = [1, 300, 7, 50, 2, 4000]
ODD = {  # no default, so that a knob that is dropped shows; a scale at which no gradient vanishes
    "scale": 5.0,
    "margin_rad": 0.6,
    "margin": 0.3,
    "m1": 1.7,
    "m2_rad": 0.4,
    "m3": 0.1,
    "s_p": 1.3,
    "s_n": 0.7,
    "t": 0.3,
    "t_alpha": 0.25,
    "h": 0.8,
    "penalty_weight": 0.7,
}


def odd_knobs(name, **more):
    return {knob: value for knob, value in (ODD | more).items() if knob in knobs_of(name)}


# ---- the formulas ----------------------------------------------------------------------------------------------------


def arc(cosine, m):
    """cos(theta + m), and the straight line beyond pi."""
    theta = math.acos(cosine)
    return math.cos(theta + m) if theta + m < math.pi else cosine - m * math.sin(m)


def combined_target(cosine, k):
    angle = k["m1"] * math.acos(cosine) + k["m2_rad"]
    turns = int(angle // math.pi)
    return (-1) ** turns * math.cos(angle) - 2 * turns - k["m3"]


def ada_target(cosine, norm, buffers, k):
    z = (min(max(norm, 0.001), 100) - buffers["mean"]) / (buffers["std"] + 0.001) * k["h"]
    z = min(max(z, -1), 1)
    angle = math.acos(min(max(cosine, -0.999), 0.999)) - k["margin"] * z
    return math.cos(min(max(angle, 0.001), math.pi - 0.001)) - k["margin"] - k["margin"] * z


def mv_negative(cosine, own, k):
    if cosine <= math.cos(math.acos(own) + k["margin_rad"]):
        return cosine
    return cosine + k["t"] if k["fixed"] else (k["t"] + 1) * cosine + k["t"]


def curricular_negative(cosine, own, buffers, k):
    hard = cosine > math.cos(math.acos(own) + k["margin_rad"])
    return cosine * (buffers["t"] + cosine) if hard else cosine


def arc_target(cosine, norm, buffers, k):
    if k.get("easy_margin"):
        return math.cos(math.acos(cosine) + k["margin_rad"]) if cosine > 0 else cosine
    return arc(cosine, k["margin_rad"])


def as_it_is(cosine, own, buffers, k):
    return cosine


# name: (target(own cosine, norm, buffers, knobs), negative(cosine, own cosine, buffers, knobs), counts are added)
FORMULAS = {
    "softmax": (lambda c, norm, b, k: c, as_it_is, False),
    "cosface": (lambda c, norm, b, k: c - k["margin"], as_it_is, False),
    "arcface": (arc_target, as_it_is, False),
    "combined": (lambda c, norm, b, k: combined_target(c, k), as_it_is, False),
    "unified_margin": (
        lambda c, norm, b, k: k["s_p"] * combined_target(c, k),
        lambda c, own, b, k: k["s_n"] * c,
        False,
    ),
    "subcenter_arcface": (arc_target, as_it_is, False),
    "mv_arc_softmax": (arc_target, lambda c, own, b, k: mv_negative(c, own, k), False),
    "curricularface": (arc_target, curricular_negative, False),
    "adaface": (ada_target, as_it_is, False),
    "balanced_softmax": (lambda c, norm, b, k: c, as_it_is, True),
    "balanced_curricular": (arc_target, curricular_negative, True),
    "boundaryface_f1": (arc_target, as_it_is, False),
    "boundaryface": (arc_target, as_it_is, False),
}
each_formula = pytest.mark.parametrize("name", FORMULAS)  # a new loss may do without one


def naive_buffers(name, before, cosine, label, norm, knobs=None):
    """The buffers after a batch."""
    k = knobs_of(name, knobs)
    lengths = [min(max(one, 0.001), 100) for one in norm]
    own = [max(row[y]) if isinstance(row[y], list) else row[y] for row, y in zip(cosine, label, strict=True)]
    batch = {"t": statistics.fmean(own), "mean": statistics.fmean(lengths), "std": statistics.stdev(lengths)}
    return {key: k["t_alpha"] * batch[key] + (1 - k["t_alpha"]) * value for key, value in before.items()}


def naive_loss(name, cosine, label, norm, buffers, *, epoch=0.0, knobs=None):
    """The mean loss; cosine[row][class] or cosine[row][class][sub-centre], buffers as they are after the update."""
    k = knobs_of(name, knobs)
    target, negative, counted = FORMULAS[name]
    total = 0.0
    for row, y, length in zip(cosine, label, norm, strict=True):
        row = [max(one) if isinstance(one, list) else one for one in row]
        penalty = 0.0
        if name.startswith("boundaryface") and epoch >= k["start_epoch"]:
            hardest = max((j for j in range(len(row)) if j != y), key=row.__getitem__)
            y = hardest if arc(row[hardest], k["margin_rad"]) > row[y] else y
            if name == "boundaryface":
                others = [one for j, one in enumerate(row) if j != y]
                penalty = k["penalty_weight"] * max(0.0, max(others) - arc(row[y], k["margin_rad"]))
        logits = [
            k["scale"] * (target(one, length, buffers, k) if j == y else negative(one, row[y], buffers, k))
            + (math.log(COUNTS[j]) if counted else 0.0)
            for j, one in enumerate(row)
        ]
        highest = max(logits)
        total += highest + math.log(sum(math.exp(logit - highest) for logit in logits)) - logits[y] + penalty
    return total / len(cosine)


def naive_gradient(name, cosine, *args, step=1e-6, **kwargs):
    """By central differences; the buffers stand still, as nothing flows through t and the lengths' mean in training."""

    def at(place, change):
        moved = torch.tensor(cosine, dtype=torch.float64)
        moved[place] += change
        return naive_loss(name, moved.tolist(), *args, **kwargs)

    gradient = torch.zeros(torch.tensor(cosine).shape, dtype=torch.float64)
    for place in itertools.product(*map(range, gradient.shape)):
        gradient[place] = (at(place, step) - at(place, -step)) / (2 * step)
    return gradient


# ---- what they are given ---------------------------------------------------------------------------------------------


def faces(*, num_faces=9, num_subcentres=None, seed=0, dtype=torch.float32):
    """(cosine_BC or cosine_BCK, label_B, norm_B) from all angles; in the first row, theta + m passes pi."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_faces, len(COUNTS), *([num_subcentres] if num_subcentres else []))
    cosine = torch.rand(shape, generator=generator, dtype=torch.float64) * 1.9 - 0.95
    label_B = torch.randint(len(COUNTS), (num_faces,), generator=generator)
    cosine[0, label_B[0]] = -0.93 if num_subcentres is None else torch.linspace(-0.95, -0.93, num_subcentres).double()
    return cosine.to(dtype), label_B, torch.rand(num_faces, generator=generator) * 60


def buffers_before(name):
    """Not what they begin with."""
    return {key: {"t": 0.3, "mean": 31.0, "std": 12.0}.get(key, begin) for key, begin in LOSSES[name].buffers.items()}


def loss_of(name, cosine, label_B, norm_B, **more):
    """(loss, buffers after it) from `buffers_before`, with COUNTS."""
    buffers = {key: torch.tensor(value) for key, value in buffers_before(name).items()}
    return unsharded_loss(name, cosine, label_B, norm_B, buffers=buffers, count_C=torch.tensor(COUNTS), **more)


def naive_of(name, cosine, label_B, norm_B, *, epoch=0.0, knobs=None, gradient=True):
    """(loss, gradient, buffers) of the formulas for the same."""
    batch = cosine.detach().double().tolist(), label_B.tolist(), norm_B.tolist()
    buffers = naive_buffers(name, buffers_before(name), *batch, knobs)
    settings = {"epoch": epoch, "knobs": knobs}
    slope = naive_gradient(name, *batch, buffers, **settings) if gradient else None
    return naive_loss(name, *batch, buffers, **settings), slope, buffers


# ---- values and gradients --------------------------------------------------------------------------------------------

CASES = {
    "defaults": {},
    "odd": {"knobs": ODD},
    "late": {"knobs": ODD, "epoch": START},
    "other forms": {"knobs": ODD | {"easy_margin": True, "fixed": True}},
    "other margin": {"knobs": ODD | {"easy_margin": False}},
}


@each_formula
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("num_subcentres", [None, 3])
def test_a_loss_is_its_formula(name, case, num_subcentres):
    settings = dict(CASES[case])
    settings["knobs"] = {knob: value for knob, value in settings.get("knobs", {}).items() if knob in knobs_of(name)}
    batch = faces(num_subcentres=num_subcentres)
    expected, slope, buffers_expected = naive_of(name, *batch, **settings)
    for dtype, rtol, atol in ((torch.float64, 1e-5, 1e-6), (torch.float32, 1e-3, 1e-5)):
        # In double, central differences are the coarser side; in single, the loss: 1 - c^2 loses digits near the ends.
        cosine = batch[0].to(dtype).requires_grad_()
        loss, buffers = loss_of(name, cosine, *batch[1:], **settings)
        (gradient,) = torch.autograd.grad(loss, cosine)
        assert loss.dtype == gradient.dtype == dtype
        assert loss.item() == pytest.approx(expected, rel=1e-5)  # a few roundings in single, of lengths in both
        torch.testing.assert_close(gradient.double(), slope, rtol=rtol, atol=atol)
        assert {key: value.item() for key, value in buffers.items()} == pytest.approx(buffers_expected, rel=1e-6)


@each_formula
def test_a_loss_is_its_formula_under_autocast(name):
    """bfloat16 cosines are taken as they are, and everything after them is float32: no tolerance for bfloat16 is
    needed.
    """
    cosine, *others = faces(dtype=torch.bfloat16)
    cosine.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = loss_of(name, cosine, *others, epoch=START)
        loss.backward()
    expected, slope, _ = naive_of(name, cosine, *others, epoch=START)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(
        cosine.grad.double(), slope, rtol=2**-8, atol=1e-5
    )  # the gradient is rounded to bfloat16


# No denormals: ONNX Runtime, once it has measured in this process, has them flushed, and hypothesis then refuses to
# draw any.
floats = functools.partial(strategies.floats, allow_subnormal=False)
COSINES = strategies.one_of(floats(-1, 1, width=32), strategies.sampled_from([-1.0, 1.0, 0.0, 1 - 2**-24]))


@each_formula
@hypothesis.settings(max_examples=25, deadline=None, derandomize=True)
@hypothesis.given(data=strategies.data())
def test_any_cosines_give_the_formula_and_a_finite_gradient(name, data):
    num_faces = data.draw(strategies.integers(2, 4))
    rows = strategies.lists(COSINES, min_size=len(COUNTS), max_size=len(COUNTS))
    cosine = torch.tensor(data.draw(strategies.lists(rows, min_size=num_faces, max_size=num_faces)), requires_grad=True)
    label_B = torch.tensor([data.draw(strategies.integers(0, len(COUNTS) - 1)) for _ in range(num_faces)])
    norm_B = torch.tensor([data.draw(floats(0, 200, width=32)) for _ in range(num_faces)])
    loss, _ = loss_of(name, cosine, label_B, norm_B, epoch=START)
    loss.backward()
    assert cosine.grad.isfinite().all()
    expected, *_ = naive_of(name, cosine, label_B, norm_B, epoch=START, gradient=False)
    # 64 times a few units of 2^-24; where two sides of a comparison round to one another, the formulas part.
    assert loss.item() == pytest.approx(expected, rel=1e-5, abs=1e-4)


EDGES = [-1.0, -1 + 2**-24, -0.9995, -0.95, 0.0, 0.9995, 1 - 2**-24, 1.0]


@each_loss
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("subcentres", [1, 2])
def test_the_edges_are_finite(name, autocast, subcentres):
    """Every pair of an own and another cosine at cos = +-1, next to it, and beyond theta + m = pi; equal
    sub-centres."""
    pair_BC = torch.tensor(list(itertools.product(EDGES, EDGES)))
    cosine = pair_BC.bfloat16() if autocast else pair_BC
    cosine = (cosine if subcentres == 1 else cosine[:, :, None].repeat(1, 1, 2)).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss, buffers = unsharded_loss(
            name,
            cosine,
            torch.zeros(len(pair_BC), dtype=torch.int64),
            torch.linspace(0, 1e6, len(pair_BC)),
            count_C=torch.tensor([3, 9]),
            epoch=START,
        )
        loss.backward()
    assert loss.isfinite() and cosine.grad.isfinite().all()
    assert all(value.isfinite() for value in buffers.values())


@each_loss
def test_a_product_beyond_one_counts_as_one(name):
    """Rounding leaves |cos| a little above 1."""
    cosine_BC, *others = faces()
    over_BC = cosine_BC * 1.3
    assert torch.equal(loss_of(name, over_BC, *others)[0], loss_of(name, over_BC.clamp(-1, 1), *others)[0])


@each_loss
def test_a_face_that_stands_on_its_centre_pulls_with_finite_force(name):
    """The slope of an angle is infinite there; through the normalised embedding nothing of it may come out."""
    face_BD = torch.tensor([[3.0, 4.0, 0.0], [-3.0, -4.0, 0.0], [2.9999, 4.0, 0.001]], requires_grad=True)
    unit_BD = torch.nn.functional.normalize(face_BD)
    centre_CD = torch.nn.functional.normalize(torch.tensor([[3.0, 4, 0], [0, 1, 0]]))
    loss, _ = unsharded_loss(
        name,
        unit_BD @ centre_CD.T,
        torch.zeros(3, dtype=torch.int64),
        face_BD.norm(dim=1),
        count_C=torch.tensor([1, 2]),
    )
    loss.backward()
    # The slope of a logit along the sphere is the scale 64 over the length 5, times the margins' at most; 3 faces'
    # mean.
    assert face_BD.grad.isfinite().all() and face_BD.grad.abs().max() < 64


@pytest.mark.parametrize("name", [name for name, loss in LOSSES.items() if loss.needs_counts])
def test_a_class_without_images_is_a_negative_like_a_class_of_one(name):
    """Log 0 would take it out of the softmax; the sharded head keeps it in."""
    cosine_BC, label_B = torch.tensor([[0.5, -0.5]]), torch.tensor([0])
    leaf_BC = cosine_BC.clone().requires_grad_()
    knobs = {"scale": 2.0} | ({"margin_rad": 0.0} if name == "balanced_curricular" else {})
    loss, _ = unsharded_loss(name, leaf_BC, label_B, None, count_C=torch.tensor([3, 0]), knobs=knobs)
    loss.backward()
    # exp(2 * 0.5) three times against exp(2 * -0.5) once; in float32, a few operations.
    assert loss.item() == pytest.approx(math.log(1 + math.exp(-2) / 3), rel=1e-5)
    assert leaf_BC.grad[0, 1] > 0


# ---- properties ------------------------------------------------------------------------------------------------------


@each_loss
def test_no_margin_is_the_softmax(name):
    """With the own cosine the largest, so that no negative is hard, and equally many images of every class."""
    cosine_BC, label_B, norm_B = faces()
    own_B1 = cosine_BC.amax(1, keepdim=True)
    cosine_BC = cosine_BC.scatter(1, label_B[:, None], own_B1)
    knobs = {knob: 0.0 for knob in ("margin", "margin_rad", "m2_rad", "m3") if knob in knobs_of(name)}
    knobs |= {"scale": 16.0} | {knob: 1.0 for knob in ("m1", "s_p", "s_n") if knob in knobs_of(name)}
    loss, _ = unsharded_loss(name, cosine_BC, label_B, norm_B, count_C=torch.full((len(COUNTS),), 7), knobs=knobs)
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(16 * cosine_BC, label_B), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pair", [("balanced_softmax", "softmax"), ("balanced_curricular", "curricularface")])
def test_equal_counts_balance_nothing_and_others_do(pair):
    cosine_BC, *others = faces()
    gradients = []
    for name, count_C in ((pair[0], torch.full((len(COUNTS),), 123)), (pair[1], None), (pair[0], torch.tensor(COUNTS))):
        leaf_BC = cosine_BC.clone().requires_grad_()
        unsharded_loss(name, leaf_BC, *others, count_C=count_C, knobs={"scale": 5.0})[0].backward()
        gradients.append(leaf_BC.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)  # a shift of every logit by log 123
    assert (gradients[2] - gradients[1]).abs().max() > 1e-2


@each_loss
def test_any_cut_of_the_columns_gives_the_same_logits_and_gradients(name):
    cosine_BC, label_B, norm_B = faces()
    knobs = knobs_of(name, odd_knobs(name))
    buffers = {key: torch.tensor(value) for key, value in buffers_before(name).items()}
    target_B, log_count_C = cosine_BC.gather(1, label_B[:, None])[:, 0], torch.tensor(COUNTS).log()
    weight_BC = torch.linspace(-1, 1, cosine_BC.numel()).view_as(cosine_BC)

    def logits(cuts):
        leaf_BC, parts = cosine_BC.clone().requires_grad_(), []
        for start, stop in itertools.pairwise([0, *cuts, len(COUNTS)]):
            chunk_B = torch.where((label_B >= start) & (label_B < stop), label_B - start, -1)
            counts_C = log_count_C[start:stop] if LOSSES[name].needs_counts else None
            state, columns_BC = State(buffers, target_B), leaf_BC[:, start:stop]
            parts.append(logits_of(LOSSES[name], knobs, columns_BC, chunk_B, norm_B, state, log_count_C=counts_C))
        whole_BC = torch.cat(parts, dim=1)
        return whole_BC.detach(), torch.autograd.grad((whole_BC * weight_BC).sum(), leaf_BC)[0]

    whole_BC, gradient_BC = logits([])
    for cuts in ([3], [1, 2, 3, 4, 5]):
        part_BC, part_gradient_BC = logits(cuts)
        # The same operations on the same numbers; a library may round sines of another length of vector otherwise.
        torch.testing.assert_close(part_BC, whole_BC, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(part_gradient_BC, gradient_BC, rtol=1e-6, atol=1e-6)


@each_loss
def test_nothing_that_is_given_is_changed(name):
    cosine_BC, label_B, norm_B = faces()
    buffers = {key: torch.tensor(value) for key, value in buffers_before(name).items()}
    given = [cosine_BC, label_B, norm_B, *buffers.values()]
    before = [one.clone() for one in given]
    unsharded_loss(name, cosine_BC, label_B, norm_B, buffers=buffers, count_C=torch.tensor(COUNTS), epoch=START)
    assert all(torch.equal(one, other) for one, other in zip(given, before, strict=True))


@each_loss
def test_a_loss_can_be_taken_without_gradients(name):
    batch = faces()
    loss, _ = loss_of(name, *batch, epoch=START)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert loss_of(name, *batch, epoch=START)[0].item() == pytest.approx(loss.item(), rel=1e-6)


@hypothesis.settings(max_examples=30, deadline=None, derandomize=True)
@hypothesis.given(margin=floats(0, 1.5), m1=floats(0.5, 5), m2_rad=floats(0, 1.5))
def test_the_target_never_rises_with_the_angle(margin, m1, m2_rad):
    """The reason for what is done beyond pi. 1e-5: roundings of a number of up to 10."""
    cosine_B = torch.cos(torch.linspace(0, math.pi, 400)).clamp(-1, 1)
    for name, knobs in (("arcface", {"margin_rad": margin}), ("combined", {"m1": m1, "m2_rad": m2_rad})):
        target_B = call(LOSSES[name].target, knobs_of(name, knobs), cosine_B, None, None)
        assert (target_B.diff() <= 1e-5).all(), name


@pytest.mark.parametrize(
    "name, knobs, m",
    [
        ("arcface", {"margin_rad": 0.5}, {"m1": 1.0, "m2_rad": 0.5, "m3": 0.0}),
        ("cosface", {"margin": 0.4}, {"m1": 1.0, "m2_rad": 0.0, "m3": 0.4}),
    ],
)
def test_the_combined_margin_holds_the_others(name, knobs, m):
    cosine_BC, label_B, norm_B = faces()
    loss, _ = unsharded_loss(name, cosine_BC[1:].abs(), label_B[1:], norm_B[1:], knobs=knobs)
    other, _ = unsharded_loss("combined", cosine_BC[1:].abs(), label_B[1:], norm_B[1:], knobs=m)
    torch.testing.assert_close(other, loss, rtol=1e-5, atol=1e-5)


def test_one_scale_of_the_unified_margin_is_the_combined_margin():
    batch = faces()
    knobs = {"m1": 1.2, "m2_rad": 0.3, "m3": 0.15}
    loss, _ = unsharded_loss("unified_margin", *batch, knobs=knobs | {"s_p": 20.0, "s_n": 20.0})
    other, _ = unsharded_loss("combined", *batch, knobs=knobs | {"scale": 20.0})
    torch.testing.assert_close(loss, other, rtol=1e-6, atol=1e-6)


def test_two_scales_of_the_unified_margin_by_hand():
    """A face at 60 degrees of its own centre and of the only other: 2 (cos(60 + 30 degrees) - 0.25) = -0.5
    against 3 x 0.5 = 1.5."""
    knobs = {"m1": 1.0, "m2_rad": math.pi / 6, "m3": 0.25, "s_p": 2.0, "s_n": 3.0}
    loss, _ = unsharded_loss("unified_margin", torch.tensor([[0.5, 0.5]]), torch.tensor([0]), None, knobs=knobs)
    assert loss.item() == pytest.approx(math.log(1 + math.exp(2.0)), rel=1e-5)


# ---- running values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["curricularface", "balanced_curricular"])
def test_t_follows_the_own_cosines(name):
    cosine_BC, label_B, norm_B = torch.tensor([[0.5, 0.1], [0.2, 0.7]]), torch.tensor([0, 1]), None
    settings = {"count_C": torch.tensor([1, 1])}
    _, once = unsharded_loss(name, cosine_BC, label_B, norm_B, **settings)
    _, twice = unsharded_loss(name, -cosine_BC, label_B, norm_B, buffers=once, **settings)
    assert once["t"].item() == pytest.approx(0.006, rel=1e-5)  # 0.01 * 0.6
    assert twice["t"].item() == pytest.approx(-0.00006, rel=1e-3)  # 0.99 * 0.006 - 0.01 * 0.6: two digits cancel


def test_adaface_follows_the_lengths():
    buffers = {"mean": torch.tensor(20.0), "std": torch.tensor(100.0)}
    norm_B = torch.tensor([10.0, 30.0, 1e9])  # the last counts as 100
    after = losses.adaface_update(buffers, None, norm_B)
    assert after["mean"].item() == pytest.approx(0.99 * 20 + 0.01 * 140 / 3)
    assert after["std"].item() == pytest.approx(0.99 * 100 + 0.01 * math.sqrt((36.667**2 + 16.667**2 + 53.333**2) / 2))
    alone = losses.adaface_update(buffers, None, norm_B[:1], t_alpha=1.0)
    assert alone["mean"].item() == 10 and alone["std"].item() == 100  # one face has no deviation


@each_loss
def test_what_a_loss_begins_with(name):
    buffers = initial_buffers(name)
    assert {key: value.item() for key, value in buffers.items()} == LOSSES[name].buffers
    assert bool(buffers) == bool(LOSSES[name].update)
    batch = faces(num_faces=1)
    loss, after = unsharded_loss(name, *batch, count_C=torch.tensor(COUNTS))
    assert loss.isfinite() and after.keys() == buffers.keys() and all(one.isfinite() for one in after.values())
    assert all(value.dtype == torch.float32 and value.ndim == 0 for value in (buffers | after).values())


@each_loss
def test_validation_leaves_buffers_and_labels_alone(name):
    batch = faces()
    knobs = odd_knobs(name)
    _, after = loss_of(name, *batch, epoch=START, knobs=knobs, training=False)
    assert {key: value.item() for key, value in after.items()} == pytest.approx(buffers_before(name))
    if LOSSES[name].relabel:
        early, late = (loss_of(name, *batch, epoch=epoch, knobs=knobs, training=False)[0] for epoch in (0, START))
        assert torch.equal(early, late)


def test_every_formula_has_its_row():
    assert FORMULAS.keys() <= LOSSES.keys()
    assert {name for name in FORMULAS if LOSSES[name].needs_counts} == {name for name in FORMULAS if FORMULAS[name][2]}


@each_loss
def test_the_slope_of_the_negatives_is_their_derivative(name):
    """Written by hand in losses.py, for the sake of one pass over memory; autograd knows better."""
    cosine_BC = faces()[0]
    knobs, leaf_BC = knobs_of(name), cosine_BC.clone().requires_grad_()
    state = State({key: torch.tensor(value) for key, value in buffers_before(name).items()}, cosine_BC[:, 0])
    changed_BC, slope_BC = call(LOSSES[name].negatives, knobs, leaf_BC, state)
    (expected_BC,) = torch.autograd.grad(changed_BC.sum(), leaf_BC)
    torch.testing.assert_close(torch.ones_like(cosine_BC) if slope_BC is None else slope_BC.detach(), expected_BC)
