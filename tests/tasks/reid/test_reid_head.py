"""ReidHead: what its terms come to, and that neither micro-batches nor ranks change them."""

import copy
import math

import pytest
import torch

from tests.tasks.identity.test_partial_fc import on_ranks
from tests.tasks.reid.networks import SHAPE, Branches, Plain, Single
from zennas.data.inputs import normalised
from zennas.data.stream import Batch
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.tasks.identity.partial_fc import PartialFC
from zennas.tasks.reid.head import PATIENCE, ReidHead, vectors_of
from zennas.tasks.reid.losses import batch_hard, pairs_of
from zennas.tasks.reid.plan import ReidPlan
from zennas.tasks.task import Step

NUM_PEOPLE, PEOPLE, EACH = 7, 4, 4
# fp32 sums in another order, through a network of some thousand weights
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
EVERY_TERM = {"centre": {}, "triplet": {"vectors": ["whole", "stripes"]}}


def plan_of(**given):
    return ReidPlan.parse({"batch": PEOPLE * EACH, "data": {"images_per_person": EACH}} | given, "a test")


def head_of(network=None, *, ranks=None, say=lambda text: None, **given):
    network = (network or Branches()).train()
    return ReidHead(network, plan_of(**given), num_people=NUM_PEOPLE, ranks=ranks or Ranks(), say=say)


def batch_of(*, step=0, seed=0, num=PEOPLE * EACH, index=None, hw=SHAPE.hw):
    """index: which image of the source each is; None: each another."""
    generator = torch.Generator().manual_seed(seed)
    image_BHW3 = torch.randint(256, (num, *hw, 3), generator=generator, dtype=torch.uint8)
    label_B = torch.arange(num) // EACH + 1
    return Batch(step, 0, image_BHW3, label_B, torch.arange(num) if index is None else torch.tensor(index), [])


def one_step(head, batch, *, num_micro=1, forward=None):
    """(sum of the losses, the numbers of the last micro-batch, {weight: slope}) of a step that is not taken yet."""
    head.student.zero_grad(set_to_none=True)
    head.begin(batch)
    total = 0.0
    for number in range(num_micro):
        numbers = head.loss(forward or head.student, batch.micro(number, num_micro), Step(num_micro, 0.0, False))
        numbers["loss"].backward()
        total += numbers["loss"].item()
    slopes = {name: weight.grad.clone() for name, weight in head.student.named_parameters()}
    return total, numbers, slopes


def test_the_eleven_terms_of_mgn():
    head, batch = head_of(), batch_of()
    assert head.num_terms == 11 and len(head.student.classifiers) == 8
    layers = [layers[-1].weight for layers in head.student.classifiers]
    assert len({id(weight) for weight in layers}) == 8  # none is shared
    assert [tuple(weight.shape) for weight in layers] == [(NUM_PEOPLE, 10)] * 3 + [(NUM_PEOPLE, 4)] * 5
    vectors = vectors_of(copy.deepcopy(head.network), normalised(batch.image_BHW3, torch.device("cpu")))
    seen = [*vectors["wide"], *vectors["stripes"]]
    softmax = [
        torch.nn.functional.cross_entropy(vector @ weight.T, batch.label_B)
        for vector, weight in zip(seen, layers, strict=True)
    ]
    triplets = [batch_hard(vector, pairs_of(batch.label_B, batch.index_B)).loss for vector in vectors["whole"]]
    total, numbers, _ = one_step(head, batch)
    assert total == pytest.approx(sum(softmax).item() + sum(triplets).item(), rel=1e-5)
    assert numbers["softmax"].item() == pytest.approx(sum(softmax).item(), rel=1e-5)
    assert numbers["triplet"].item() == pytest.approx(sum(triplets).item(), rel=1e-5)
    # New classifiers know nobody.
    assert numbers["softmax"].item() / 8 == pytest.approx(math.log(NUM_PEOPLE), rel=0.01)


def test_each_part_has_its_weight():
    weights = {"softmax": 2.0, "triplet": 0.5, "centre": 0.01}
    head = head_of(**{name: {"weight": weight} for name, weight in weights.items()})
    total, numbers, _ = one_step(head, batch_of())
    assert total == pytest.approx(sum(weight * numbers[name].item() for name, weight in weights.items()), rel=1e-5)


@pytest.mark.parametrize("name", ["batch_hard", "batch_hard_soft", "all_pairs", "circle"])
@pytest.mark.parametrize("softmax", ["softmax", "label_smoothing", "bnneck"])
def test_every_row_trains_every_weight(name, softmax):
    head = head_of(triplet={"name": name}, softmax={"name": softmax})
    total, numbers, slopes = one_step(head, batch_of())
    assert math.isfinite(total) and all(slope.isfinite().all() and slope.any() for slope in slopes.values())
    assert {"active", "farthest_own", "nearest_other", "left_out", "length", "alike"} <= numbers.keys()


@pytest.mark.parametrize("num_micro", [2, 4, 8])
def test_micro_batches_change_nothing(num_micro):
    """8 of them cut people in two. Without norms, whose statistics are a micro-batch's own."""
    expected = one_step(head_of(Branches(norms=False), **EVERY_TERM), batch_of())
    found = one_step(head_of(Branches(norms=False), **EVERY_TERM), batch_of(), num_micro=num_micro)
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    for name, slope in expected[2].items():
        torch.testing.assert_close(found[2][name], slope, **CLOSE)


def test_images_that_are_seen_twice_count_once_for_the_norms():
    head, batch = head_of(), batch_of()
    by_hand = copy.deepcopy(head.student)
    one_step(head, batch, num_micro=2)
    for number in range(2):
        by_hand(normalised(batch.micro(number, 2).image_BHW3, torch.device("cpu")))
    for (name, buffer), expected in zip(head.student.named_buffers(), by_hand.buffers(), strict=True):
        torch.testing.assert_close(buffer, expected, msg=name)


@pytest.mark.parametrize("triplet, num_seen", [({}, 8), (None, 4)], ids=["within the batch", "over all people"])
def test_images_are_seen_twice_only_where_a_loss_needs_all_of_them(triplet, num_seen):
    seen, head = [], head_of(Plain(), triplet=triplet)
    one_step(head, batch_of(), num_micro=4, forward=lambda *given: seen.append(1) or head.student(*given))
    assert len(seen) == num_seen


def shared_out(ranks, num_micro, index=None):
    """A step of this rank's share as the loop of a training takes it."""
    head = head_of(Branches(norms=False), ranks=ranks, **EVERY_TERM)
    mine = batch_of(index=index).micro(ranks.rank, ranks.num_ranks)
    found = one_step(head, mine, num_micro=num_micro, forward=ranks.parallel(head.student))
    head.step(0.1)
    numbers = {name: value.item() for name, value in found[1].items() if name != "loss"}
    return found[0], numbers, found[2], {n: one.centre_CD for n, one in enumerate(head.centres)}


@pytest.mark.parametrize("num_micro", [1, 2])
def test_ranks_change_nothing(num_micro, tmp_path):
    """Loss, what is told of it, every slope and the centres; of two ranks that have two people each."""
    total, numbers, slopes, centres = shared_out(Ranks(), 1)
    for found in on_ranks(2, tmp_path, shared_out, num_micro):
        assert found[0] == pytest.approx(total, rel=1e-5)
        if num_micro == 1:  # a classifier's part is told of one micro-batch
            assert found[1] == pytest.approx(numbers, rel=1e-4)
        for name, slope in slopes.items():
            torch.testing.assert_close(found[2][name], slope, **CLOSE)
        for number, centre_CD in centres.items():
            torch.testing.assert_close(found[3][number], centre_CD, **CLOSE)


# Of people with one, two, three and four images: what is augmented anew is the same image all the same.
COPIES = [0, 0, 0, 0, 1, 2, 1, 2, 3, 4, 5, 3, 6, 7, 8, 9]


def by_hand(vector_ND, label_N, index_N):
    """Batch-hard in a loop: the mean over whoever has another image of the person."""
    losses = []
    for a, label in enumerate(label_N):
        own = [p for p, other in enumerate(label_N) if other == label and index_N[p] != index_N[a]]
        others = [n for n, other in enumerate(label_N) if other != label]
        if own:
            far, near = max((vector_ND[a] - vector_ND[p]).norm() for p in own), None
            near = min((vector_ND[a] - vector_ND[n]).norm() for n in others)
            losses.append((1.2 + far - near).clamp(min=0))
    return sum(losses) / len(losses)


def test_copies_of_an_image_are_no_positives_of_one_another():
    """The first person's four are one image, with nobody to be pulled to: left out, in the count of the whole batch."""
    head, batch = head_of(Branches(norms=False)), batch_of(index=COPIES)
    whole = vectors_of(head.network, normalised(batch.image_BHW3, torch.device("cpu")))["whole"]
    expected = sum(by_hand(vector_ND, batch.label_B.tolist(), COPIES) for vector_ND in whole)
    _, numbers, _ = one_step(head, batch)
    assert numbers["triplet"].item() == pytest.approx(expected.item(), rel=1e-5) and numbers["left_out"] == 4
    assert one_step(head, batch_of())[1]["left_out"] == 0


@pytest.mark.parametrize("num_micro", [1, 2, 4])
def test_copies_are_known_over_ranks_and_micro_batches(num_micro, tmp_path):
    """Four micro-batches of each rank hold two images: copies stand in others, and are known there."""
    _, numbers, slopes, _ = shared_out(Ranks(), 1, COPIES)
    found = [shared_out(Ranks(), 2 * num_micro, COPIES), *on_ranks(2, tmp_path, shared_out, num_micro, COPIES)]
    for one in found:
        assert one[1]["left_out"] == 4
        assert {name: one[1][name] for name in ("triplet", "active", "farthest_own")} == pytest.approx(
            {name: numbers[name] for name in ("triplet", "active", "farthest_own")}, rel=1e-4
        )
        for name, slope in slopes.items():
            torch.testing.assert_close(one[2][name], slope, **CLOSE)


# --- networks


def test_a_network_of_one_vector_is_one_branch():
    head = head_of(Plain())
    total, numbers, slopes = one_step(head, batch_of())
    assert head.num_terms == 2 and slopes["network.layers.1.weight"].any()
    assert total == pytest.approx(numbers["softmax"].item() + numbers["triplet"].item(), rel=1e-5)


def test_a_network_with_a_neck_is_trained_before_and_behind_it():
    """BNNeck: triplets see the features, the classifier what the neck makes of them."""
    head = head_of(Single(), softmax={"name": "label_smoothing", "vectors": ["embedding"]})
    _, _, slopes = one_step(head, batch_of())
    assert slopes["network.neck.weight"].any() and head.num_terms == 2


def test_weights_that_no_loss_reaches_are_refused():
    with pytest.raises(UserError, match=r"no loss looks at what 2 of the network's 4 weights make \(neck.weight"):
        head_of(Single())
    with pytest.raises(UserError, match=r"no loss looks at what 3 of the network's .* weights make \(whole.0.weight"):
        head_of(triplet=None)
    head_of(triplet=None, softmax={"vectors": ["wide", "whole", "stripes"]})


def test_vectors_that_a_network_lacks_are_refused():
    with pytest.raises(UserError, match=r"triplet.vectors: this network has no stripes; it has wide, whole, embedding"):
        head_of(Plain(), triplet={"vectors": ["stripes"]})


# --- the rest of a head


def test_partial_fc_alone():
    """The margin loss is that of class centres, on the embedding, with its weight on both gradients."""
    network = Plain()
    embedding_BD = network(normalised(batch_of().image_BHW3, torch.device("cpu"))).detach().requires_grad_()

    def centres():
        return PartialFC(NUM_PEOPLE, 32, loss="cosface", optimizer="sgd", optimizer_knobs={"momentum": 0.0})

    given = {"softmax": None, "triplet": None, "margin": {"name": "cosface", "weight": 0.25}}
    margin = centres()
    head = ReidHead(network, plan_of(**given), num_people=NUM_PEOPLE, ranks=Ranks(), margin=margin)
    alone = centres()
    alone.begin(batch_of().label_B)
    loss = alone(embedding_BD, batch_of().label_B, weight=0.25)
    loss.backward()
    alone.step(0.5)
    total, numbers, _ = one_step(head, batch_of())
    head.step(0.5)
    assert total == pytest.approx(loss.item()) and numbers["margin"].item() == pytest.approx(4 * loss.item())
    torch.testing.assert_close(margin.centre_CKD, alone.centre_CKD)


def test_a_collapse_is_said_once():
    said = []
    head = head_of(Plain(), say=said.append)
    with torch.no_grad():
        head.network.layers[1].weight.mul_(1e-6)
        head.network.layers[1].bias.fill_(1.0)
    for number in range(PATIENCE + 3):
        _, numbers, _ = one_step(head, batch_of(), num_micro=2)
        assert len(said) == (number >= PATIENCE - 1)
    assert "in 1 of the 1 vectors under triplets" in said[0] and numbers["active"] == numbers["alike"] == 1
    head.network.layers[1].weight.data.mul_(1e6)
    one_step(head, batch_of())
    assert head.num_collapsed == 0


def test_a_collapse_of_one_branch_is_said_too():
    """Of its vectors all are zero but a few, as behind a ReLU that is dying: means hide that."""
    said = []
    head = head_of(Branches(norms=False), say=said.append)
    with torch.no_grad():
        head.network.whole[1].weight.zero_()
    for number in range(PATIENCE):
        _, numbers, _ = one_step(head, batch_of(seed=number))
    assert numbers["alike"].item() == pytest.approx(1 / 3) and "in 1 of the 3 vectors" in said[0]


def test_a_step_that_is_not_taken_moves_nothing():
    head = head_of(**EVERY_TERM)
    one_step(head, batch_of())
    head.discard()
    assert not any(centres.centre_CD.any() for centres in head.centres)
    one_step(head, batch_of())
    head.step(0.1)
    assert all(centres.centre_CD.any() for centres in head.centres)


def test_a_head_goes_on_from_what_another_kept():
    first, second = head_of(**EVERY_TERM), head_of(**EVERY_TERM, seed=1)
    one_step(first, batch_of())
    first.step(0.1)
    state = first.state()
    second.restore(state.shared, lambda *which: pytest.fail("there are no rows"))
    second.network.load_state_dict(first.network.state_dict())
    assert one_step(second, batch_of(seed=1))[0] == one_step(first, batch_of(seed=1))[0]
    other = ReidHead(
        Branches(), plan_of(softmax={"vectors": ["wide", "whole", "stripes"]}), num_people=7, ranks=Ranks()
    )
    with pytest.raises(UserError, match="of other vectors"):
        other.restore(state.shared, None)
    fewer = ReidHead(Branches(), plan_of(), num_people=6, ranks=Ranks())
    with pytest.raises(UserError, match="of 7 identities; the data has 6 now"):
        fewer.restore(state.shared, None)
