"""What tells people apart, against pytorch-metric-learning, plain loops, and all that is known to go wrong."""

import math

import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import CircleLoss, TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

from zennas.records import UserError
from zennas.tasks.reid.losses import (
    CLASSIFIERS,
    MINED,
    all_pairs,
    batch_hard,
    batch_hard_soft,
    circle,
    classifier,
    classifier_knobs_of,
    cross_entropy,
    distances,
    mined_knobs_of,
    pairs_of,
    share_alike,
)

each_mined = pytest.mark.parametrize("name", MINED)
EVEN = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
UNEVEN = [4, 0, 0, 0, 9, 4, 4, 4, 4, 2, 1]  # 9, 2 and 1 have one image each
# fp32 sums of some tens of numbers in another order
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def batch(labels, *, seed=0, size=6):
    label_N = torch.tensor(labels)
    vector_ND = torch.randn(len(labels), size, generator=torch.Generator().manual_seed(seed))
    return vector_ND, label_N, pairs_of(label_N, torch.arange(len(labels)))


def with_slope(function, vector_ND):
    """(what the function gives of the vectors, the slope of it)."""
    vector_ND = vector_ND.clone().requires_grad_()
    loss = function(vector_ND)
    loss.backward()
    return loss.detach(), vector_ND.grad


def theirs(name, label_N, margin, active_only=False):
    """The same loss of pytorch-metric-learning: vectors as they are, but for circle."""
    plain = LpDistance(normalize_embeddings=False)
    if name == "circle":
        return lambda vector_ND: CircleLoss(m=0.25, gamma=128)(vector_ND, label_N)
    loss = TripletMarginLoss(
        margin=0.0 if name == "batch_hard_soft" else margin,
        smooth_loss=name == "batch_hard_soft",
        distance=plain,
        reducer=AvgNonZeroReducer() if active_only else MeanReducer(),
    )
    miner = BatchHardMiner(distance=plain)
    return lambda vector_ND: loss(vector_ND, label_N, miner(vector_ND, label_N))


@pytest.mark.parametrize("labels", [EVEN, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize("name", ["batch_hard", "batch_hard_soft", "circle"])
@pytest.mark.parametrize("seed", range(3))
def test_it_is_what_another_library_has(name, labels, seed):
    vector_ND, label_N, pairs = batch(labels, seed=seed)
    expected = with_slope(theirs(name, label_N, 1.2), vector_ND)
    found = with_slope(lambda x: MINED[name](x, pairs).loss, vector_ND)
    for one, other in zip(found, expected, strict=True):
        # circle: the exponents are in the hundreds
        torch.testing.assert_close(one, other, **(CLOSE if name != "circle" else {"rtol": 1e-4, "atol": 1e-3}))


def test_a_mean_over_the_active_is_another_one():
    """The default of pytorch-metric-learning; as the triplets get easier, both part."""
    vector_ND, label_N, pairs = batch(EVEN, seed=4)
    margin = 0.4
    for active_only in (False, True):
        expected = theirs("batch_hard", label_N, margin, active_only)(vector_ND)
        found = batch_hard(vector_ND, pairs, margin=margin, active_only=active_only)
        torch.testing.assert_close(found.loss, expected, **CLOSE)
    easy_ND = torch.nn.functional.one_hot(label_N).float() * 10 + 0.05 * vector_ND[:, :3]
    easy = batch_hard(easy_ND, pairs, margin=0.3, active_only=True)
    assert easy.loss == easy.numbers["active"] == 0
    some_ND = easy_ND.clone()
    some_ND[0] = easy_ND[4]
    every, active = (batch_hard(some_ND, pairs, margin=0.3, active_only=only) for only in (False, True))
    assert 0 < every.numbers["active"] < 1
    torch.testing.assert_close(every.loss, active.loss * active.numbers["active"])


def plain_all_pairs(vector_ND, labels, margin):
    """Every anchor with each of its positives, each against the nearest negative; in float64, in loops."""
    vectors, losses = vector_ND.double(), []
    for a, own in enumerate(labels):
        others = [(vectors[a] - vectors[n]).norm() for n, label in enumerate(labels) if label != own]
        positives = [p for p, label in enumerate(labels) if label == own and p != a]
        losses += [(margin + (vectors[a] - vectors[p]).norm() - min(others)).clamp(min=0) for p in positives]
    return sum(losses) / len(losses)


@pytest.mark.parametrize("labels", [EVEN, UNEVEN], ids=["even", "uneven"])
def test_all_pairs_are_all_pairs(labels):
    vector_ND, _, pairs = batch(labels)
    expected = with_slope(lambda x: plain_all_pairs(x, labels, 0.9), vector_ND)
    found = with_slope(lambda x: all_pairs(x, pairs, margin=0.9).loss, vector_ND)
    torch.testing.assert_close(found[0], expected[0].float(), **CLOSE)
    torch.testing.assert_close(found[1], expected[1], **CLOSE)
    assert found[0] < batch_hard(vector_ND, pairs, margin=0.9).loss  # whose positive is the farthest one


def test_of_two_images_each_both_variants_are_one():
    vector_ND, _, pairs = batch([0, 0, 1, 1, 2, 2])
    torch.testing.assert_close(all_pairs(vector_ND, pairs).loss, batch_hard(vector_ND, pairs).loss)


# --- what goes wrong elsewhere


@each_mined
def test_identical_images_send_no_infinite_slope(name):
    """sqrt has one at zero; augmented copies and collapsed networks come there."""
    vector_ND, _, pairs = batch(EVEN)
    vector_ND[1] = vector_ND[0]
    vector_ND[5] = vector_ND[0]  # another person's
    loss, slope_ND = with_slope(lambda x: MINED[name](x, pairs).loss, vector_ND)
    assert loss.isfinite() and slope_ND.isfinite().all() and slope_ND.any()


@each_mined
def test_a_collapse_is_seen(name):
    vector_ND, _, pairs = batch(EVEN)
    equal_ND = vector_ND[:1].expand(len(EVEN), -1)
    loss, slope_ND = with_slope(lambda x: MINED[name](x, pairs).loss, equal_ND)
    numbers = MINED[name](equal_ND, pairs).numbers
    assert slope_ND.isfinite().all() and numbers["farthest_own"] == numbers["nearest_other"] == 0
    stands_at = {"batch_hard": 1.2, "all_pairs": 1.2, "batch_hard_soft": math.log(2)}
    if name in stands_at:
        assert loss.item() == pytest.approx(stands_at[name]) and numbers["active"] == 1


def test_a_collapse_is_seen_where_a_few_vectors_hide_it():
    """By hand: two of twelve vectors are not zero, and no mean of distances and lengths tells the rest apart."""
    vector_ND, _, pairs = batch(EVEN)
    assert share_alike(vector_ND, pairs) == 0
    dying_ND = vector_ND * torch.tensor([1.0, 1.0, *[0.0] * 10])[:, None]
    assert share_alike(dying_ND, pairs).item() == pytest.approx(10 / 12)
    near_ND = vector_ND[:1] * (1 + 1e-3 * torch.arange(12)[:, None])
    assert share_alike(near_ND, pairs) == 1
    _, _, uneven = batch(UNEVEN)
    assert share_alike(torch.zeros(len(UNEVEN), 6), uneven) == 1  # of those who have a positive
    assert share_alike(torch.zeros(3, 6), batch([1, 2, 3])[2]) == 0


def test_distances_of_near_vectors_keep_their_digits_under_autocast():
    """|a|^2 + |b|^2 - 2ab of such vectors is 0 or worse in float32, and noise in half precision."""
    generator = torch.Generator().manual_seed(0)
    vector_ND = 30 + 0.01 * torch.randn(6, 512, generator=generator)
    exact_NN = torch.stack([(vector_ND.double() - row).norm(dim=1) for row in vector_ND.double()])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found_NN = distances(vector_ND)
        mined = batch_hard(vector_ND, pairs_of(torch.tensor([0, 0, 1, 1, 2, 2]), torch.arange(6)))
    assert found_NN.dtype is mined.loss.dtype is torch.float32
    # The inputs themselves are rounded to 2e-6 of 30, which their differences of 0.01 have in them alike.
    torch.testing.assert_close(found_NN, exact_NN.float(), rtol=1e-5, atol=1e-6)


def test_an_image_and_its_copies_are_no_positives():
    label_N, index_N = torch.tensor([3, 3, 3, 5, 5, 7, 7]), torch.tensor([0, 1, 0, 2, 3, 4, 4])
    pairs = pairs_of(label_N, index_N)
    assert not pairs.positive_NN.diagonal().any() and not pairs.positive_NN[0, 2]
    assert pairs.anchor_N.tolist() == [True, True, True, True, True, False, False]
    assert pairs.negative_NN[0].tolist() == [False, False, False, True, True, True, True]


@each_mined
def test_who_has_nobody_to_be_compared_with_is_left_out_and_counted(name):
    vector_ND, _, pairs = batch(UNEVEN)
    assert MINED[name](vector_ND, pairs).numbers["left_out"] == 3
    with_pairs = [n for n, label in enumerate(UNEVEN) if UNEVEN.count(label) > 1]
    one = pairs._replace(positive_NN=pairs.positive_NN[with_pairs], negative_NN=pairs.negative_NN[with_pairs])
    assert one.anchor_N.all() and pairs.anchor_N.sum() == len(with_pairs)


@each_mined
@pytest.mark.parametrize("labels", [[1, 2, 3], [1, 1, 1], [-1, -1, -1]], ids=["alone", "one person", "nobody"])
def test_a_batch_without_a_pair_costs_nothing(name, labels):
    vector_ND, _, pairs = batch(labels)
    loss, slope_ND = with_slope(lambda x: MINED[name](x, pairs).loss, vector_ND)
    numbers = MINED[name](vector_ND, pairs).numbers
    assert loss == 0 and not slope_ND.any() and numbers["left_out"] == 3
    assert all(value.isfinite() for value in numbers.values())


@each_mined
def test_labels_of_nobody_never_train(name):
    """Junk and distractors, if they came so far."""
    vector_ND, _, pairs = batch([*EVEN, -1, -1])
    _, _, without = batch(EVEN)
    loss, slope_ND = with_slope(lambda x: MINED[name](x, pairs).loss, vector_ND)
    expected, slope_of_people_ND = with_slope(lambda x: MINED[name](x, without).loss, vector_ND[: len(EVEN)])
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(slope_ND[: len(EVEN)], slope_of_people_ND)
    assert not slope_ND[len(EVEN) :].any()


@each_mined
def test_the_order_of_a_batch_says_nothing(name):
    vector_ND, label_N, pairs = batch(UNEVEN)
    order = torch.randperm(len(UNEVEN), generator=torch.Generator().manual_seed(1))
    again = MINED[name](vector_ND[order], pairs_of(label_N[order], order))
    torch.testing.assert_close(again.loss, MINED[name](vector_ND, pairs).loss)


@each_mined
def test_following_the_slope_pulls_people_together(name):
    vector_ND, _, pairs = batch(EVEN, seed=2)
    for _ in range(60):
        _, slope_ND = with_slope(lambda x: MINED[name](x, pairs).loss, vector_ND)
        vector_ND = vector_ND - (0.1 if name == "circle" else 1.0) * slope_ND
    numbers = MINED[name](vector_ND, pairs).numbers
    assert numbers["farthest_own"] < numbers["nearest_other"]


def test_soft_margin_has_no_end_and_hard_one_has():
    near_ND = torch.tensor([[0.0], [0.1], [5.0], [5.1]])
    pairs = pairs_of(torch.tensor([0, 0, 1, 1]), torch.arange(4))
    assert batch_hard(near_ND, pairs).loss == 0
    expected = sum(math.log1p(math.exp(0.1 - near)) for near in (5.0, 4.9, 4.9, 5.0)) / 4
    assert batch_hard_soft(near_ND, pairs).loss.item() == pytest.approx(expected, rel=1e-5)


# --- over all people


def test_smoothing_is_shared_out_over_all_people():
    logits_NC = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    label_N = torch.tensor([0, 3, -1, 6, 6])
    log_NC = logits_NC.double().log_softmax(1)
    wanted = [
        sum(-((0.9 if c == label else 0.0) + 0.1 / 7) * log_NC[n, c] for c in range(7))
        for n, label in enumerate(label_N.tolist())
        if label >= 0
    ]
    found = cross_entropy(logits_NC, label_N, smoothing=0.1)
    assert found.item() == pytest.approx(float(sum(wanted) / 4), rel=1e-5)
    assert cross_entropy(logits_NC, torch.full((5,), -1)).item() == 0


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_classifier_has_no_bias_and_its_neck_no_shift(name):
    layers = classifier(CLASSIFIERS[name], 6, 11, generator=torch.Generator().manual_seed(0))
    assert layers[-1].bias is None and layers[-1].weight.shape == (11, 6)
    assert layers[-1].weight.std().item() == pytest.approx(0.001, rel=0.3)
    vector_ND = 3 + torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
    shift_NC = layers(vector_ND).mean(0) @ torch.linalg.pinv(layers[-1].weight.T)
    if CLASSIFIERS[name].has_neck:
        assert [key for key, _ in layers.named_parameters()] == ["0.weight", "1.weight"]
        assert shift_NC.abs().max() < 1e-3
    else:
        assert shift_NC.abs().min() > 1


@pytest.mark.parametrize(
    "function, name, knobs, says",
    [
        (mined_knobs_of, "batch_hart", {}, "did you mean 'batch_hard'"),
        (mined_knobs_of, "batch_hard", {"margin_rad": 1}, "knob 'margin_rad' of batch_hard is not known"),
        (mined_knobs_of, "batch_hard", {"margin": -1}, "margin of batch_hard: given -1, allowed: a distance from 0 on"),
        (mined_knobs_of, "batch_hard", {"margin": True}, "given True"),
        (mined_knobs_of, "batch_hard", {"margin": False}, "given False"),
        (mined_knobs_of, "batch_hard", {"active_only": 1}, "allowed: true or false"),
        (
            mined_knobs_of,
            "batch_hard_soft",
            {"margin": 1},
            "'margin' of batch_hard_soft is not known; it has none; margin is a knob of batch_hard, all_pairs, circle",
        ),
        (classifier_knobs_of, "arcface", {}, "loss 'arcface' is not known"),
        (classifier_knobs_of, "softmax", {"smoothing": 1.0}, "allowed: a share from 0 to below 1"),
    ],
)
def test_what_a_table_does_not_know_is_refused(function, name, knobs, says):
    with pytest.raises(UserError) as error:
        function(name, knobs, where="recipe: train.x")
    assert str(error.value).startswith("recipe: train.x: ") and says in str(error.value)


@each_mined
def test_knobs_are_what_the_functions_have(name):
    knobs = mined_knobs_of(name)
    vector_ND, _, pairs = batch(EVEN)
    assert MINED[name](vector_ND, pairs, **knobs).loss == MINED[name](vector_ND, pairs).loss
    assert circle.__kwdefaults__ == {"margin": 0.25, "scale": 128.0} and batch_hard.__kwdefaults__["margin"] == 1.2
