"""The sharded, sampled head against the whole loss with plain autograd, over one, two and four processes."""

import math
import os
import socket

import numpy as np
import pytest
import torch
from torch import multiprocessing

from tests.processes import SERVER
from zennas.ranks import Ranks, join
from zennas.records import UserError
from zennas.tasks.identity import partial_fc
from zennas.tasks.identity.centres import CENTRE_OPTIMIZERS, CentreOptimizer
from zennas.tasks.identity.losses import LOSSES, unsharded_loss
from zennas.tasks.identity.partial_fc import PartialFC, Sample, share

NUM_IDENTITIES, SIZE, FACES = 23, 16, 12
each_loss = pytest.mark.parametrize("name", LOSSES)
# fp32 sums of some tens of numbers in another order, times a scale of 64.
CLOSE = {"rtol": 2e-4, "atol": 2e-5}


def faces(seed=0, num=FACES, num_identities=NUM_IDENTITIES):
    generator = torch.Generator().manual_seed(seed)
    embedding_BD = 3 * torch.randn(num, SIZE, generator=generator)
    return embedding_BD, torch.randint(num_identities, (num,), generator=generator)


def counts(num_identities=NUM_IDENTITIES):
    return torch.arange(1, num_identities + 1)


def head_of(name, *, ranks=None, **options):
    """A head whose centres are far enough from zero, and faces from them, for the margins to matter."""
    head = PartialFC(NUM_IDENTITIES, SIZE, loss=name, count_C=counts(), ranks=ranks, **options)
    head.centre_CKD *= 100
    return head


def whole(name, embedding_BD, label_B, centre_CKD, *, epoch=0.0, buffers=None, knobs=None):
    """(loss, gradient of the embeddings, of the centres, buffers) by plain autograd over all centres."""
    embedding_BD, centre_CKD = embedding_BD.clone().requires_grad_(), centre_CKD.clone().requires_grad_()
    normal = torch.nn.functional.normalize
    cosine_BCK = torch.einsum("bd,ckd->bck", normal(embedding_BD), normal(centre_CKD, dim=-1))
    cosine = cosine_BCK[..., 0] if centre_CKD.shape[1] == 1 else cosine_BCK
    norm_B = embedding_BD.detach().norm(dim=1)
    loss, buffers = unsharded_loss(
        name, cosine, label_B, norm_B=norm_B, count_C=counts(), epoch=epoch, buffers=buffers, knobs=knobs
    )
    loss.backward()
    return loss.detach(), embedding_BD.grad, centre_CKD.grad, buffers


def centre_gradient(head):
    """The gradient that a step would follow, read off plain SGD: [C, K, D]."""
    before_CKD = head.centre_CKD.clone()
    head.optimizer = CentreOptimizer(
        "sgd",
        {"momentum": 0.0, "weight_decay": 0.0},
        num_rows=before_CKD.shape[0] * before_CKD.shape[1],
        embedding_size=SIZE,
        device=before_CKD.device,
    )
    head.step(1.0)
    gradient_CKD, head.centre_CKD[:] = before_CKD - head.centre_CKD, before_CKD
    return gradient_CKD


def one_step(head, embedding_bD, label_b, *, epoch=0.0, weight=1.0):
    """(loss, gradient of the embeddings) of a step that is not taken yet."""
    embedding_bD = embedding_bD.clone().requires_grad_()
    head.begin(label_b)
    loss = head(embedding_bD, label_b, epoch=epoch, weight=weight)
    loss.backward()
    return loss.detach(), embedding_bD.grad


@each_loss
@pytest.mark.parametrize("epoch", [0.0, 20.0])
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 20])
def test_one_rank_with_all_centres_is_the_whole_loss(name, epoch, chunk_bytes, monkeypatch):
    monkeypatch.setitem(partial_fc.CHUNK_BYTES, "cpu", chunk_bytes)
    embedding_BD, label_B = faces()
    head = head_of(name)
    expected = whole(name, embedding_BD, label_B, head.centre_CKD, epoch=epoch)
    loss, grad_BD = one_step(head, embedding_BD, label_B, epoch=epoch)
    torch.testing.assert_close(loss, expected[0], **CLOSE)
    torch.testing.assert_close(grad_BD, expected[1], **CLOSE)
    torch.testing.assert_close(centre_gradient(head), expected[2], **CLOSE)
    assert head.buffers.keys() == expected[3].keys()
    for buffer, value in expected[3].items():
        torch.testing.assert_close(head.buffers[buffer], value)


def _on_rank(rank, num_ranks, port, folder, task, arguments, device):
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(num_ranks), LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    ranks = join(device)
    try:
        torch.save(task(ranks, *arguments), f"{folder}/{rank}.pt")
    finally:
        ranks.close()


def on_ranks(num_ranks, folder, task, *arguments, device="cpu"):
    """What task(ranks, *arguments) gives on each of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.start_processes(
        _on_rank,
        (num_ranks, port, str(folder), task, arguments, device),
        nprocs=num_ranks,
        start_method=SERVER.get_start_method(),
    )
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(num_ranks)]


def sharded_losses(ranks, names):
    """{loss: (value, gradient of this rank's embeddings, of its centres, buffers)} after two steps."""
    found = {}
    for name in names:
        head = head_of(name, ranks=ranks)
        for seed in (0, 1):
            embedding_BD, label_B = faces(seed)
            mine = slice(ranks.rank * FACES // ranks.num_ranks, (ranks.rank + 1) * FACES // ranks.num_ranks)
            loss, grad_bD = one_step(head, embedding_BD[mine], label_B[mine], epoch=20.0 * seed)
        found[name] = (loss, grad_bD, centre_gradient(head), dict(head.buffers))
    return found


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_shards_are_the_whole_loss(num_ranks, tmp_path):
    """Every loss; 23 identities do not go into 2 or 4 evenly."""
    results = on_ranks(num_ranks, tmp_path, sharded_losses, list(LOSSES))
    for name in LOSSES:
        centre_CKD, buffers = head_of(name).centre_CKD, None
        for seed in (0, 1):
            expected = whole(name, *faces(seed), centre_CKD, epoch=20.0 * seed, buffers=buffers)
            buffers = expected[3]
        per_rank = [result[name] for result in results]
        for loss, *_, found in per_rank:
            torch.testing.assert_close(loss, expected[0], **CLOSE)
            torch.testing.assert_close(found, buffers)
        # Parallel training divides by the number of ranks.
        grad_BD = torch.cat([grad_bD for _, grad_bD, *_ in per_rank]) / num_ranks
        torch.testing.assert_close(grad_BD, expected[1], **CLOSE)
        grad_CKD = torch.cat([grad_CKD for *_, grad_CKD, _ in per_rank])
        torch.testing.assert_close(grad_CKD, expected[2], **CLOSE)


# --- sampling --------------------------------------------------------------------------------------------------------


def drawn(num_identities, rate, label_B, *, rank=0, num_ranks=1, step=0):
    """(head, its Sample, the classes of it that are the faces' own) for the labels of all ranks."""
    head = PartialFC(num_identities, 2, loss="softmax", sampling_rate=rate, ranks=Ranks(rank, num_ranks))
    head.num_steps = step
    own = {int(label) - head.first for label in label_B} & set(range(head.num_local))
    return head, Sample.draw(head, label_B), own


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.1, 0.5, 0.99])
@pytest.mark.parametrize(("rank", "num_ranks"), [(0, 1), (0, 3), (2, 3)])
def test_the_sample_holds_every_identity_of_the_step(rate, rank, num_ranks):
    label_B = faces(num=40, num_identities=2011)[1]
    for step in range(3):
        head, sample, own = drawn(2011, rate, label_B, rank=rank, num_ranks=num_ranks, step=step)
        chosen = sample.class_S.tolist()
        assert chosen == sorted(set(chosen)) and chosen[0] >= 0 and chosen[-1] < head.num_local
        assert own <= set(chosen)
        assert len(chosen) == max(head.num_sampled, len(own))
        assert head.num_sampled == max(1, math.floor(rate * head.num_local))
        column_B = sample.columns(label_B, head).tolist()
        assert [chosen[column] if column >= 0 else None for column in column_B] == [
            int(label) - head.first if int(label) - head.first in own else None for label in label_B
        ]


def test_a_rank_without_an_identity_of_the_step_samples_others():
    head, sample, own = drawn(100, 0.2, torch.tensor([0, 1, 33]), rank=2, num_ranks=3)
    assert not own and sample.num_classes == head.num_sampled == 6
    assert (sample.columns(torch.tensor([0, 1, 33]), head) == -1).all()


def test_others_are_drawn_evenly_and_anew_every_step():
    label_B, num_steps = torch.tensor([3, 3, 17]), 600
    samples = [drawn(41, 0.25, label_B, step=step)[1].class_S.tolist() for step in range(num_steps)]
    assert samples[0] == drawn(41, 0.25, label_B, step=0)[1].class_S.tolist() != samples[1]
    times_C = np.bincount(np.concatenate(samples), minlength=41)
    assert (times_C[[3, 17]] == num_steps).all()
    share_C = np.delete(times_C, [3, 17]) / num_steps
    # 8 of the 39 others a step: five standard errors of a share of 600.
    assert np.abs(share_C - 8 / 39).max() < 5 * math.sqrt(8 / 39 * 31 / 39 / num_steps)


@each_loss
@pytest.mark.parametrize("accumulated", [False, True])
def test_a_sampled_step_is_the_whole_loss_of_the_sample(name, accumulated):
    """Also in two micro-batches, whose gradient is that of the mean of their losses."""
    embedding_BD, label_B = faces()
    head = head_of(name, sampling_rate=0.7)
    head.begin(label_B)
    class_S = head._sample.class_S
    assert len(label_B.unique()) < len(class_S) < NUM_IDENTITIES
    places, loss, gradients = torch.arange(FACES).chunk(2 if accumulated else 1), 0.0, []
    expected, expected_gradients, buffers = 0.0, [], None
    centre_SKD = head.centre_CKD[class_S].clone().requires_grad_()
    for here_b in places:
        embedding_bD = embedding_BD[here_b].clone().requires_grad_()
        part = head(embedding_bD, label_B[here_b], weight=1 / len(places), epoch=20.0)
        part.backward()
        loss, gradients = loss + part.detach(), [*gradients, embedding_bD.grad]
        # By plain autograd, over the classes of the sample alone.
        embedding_bD = embedding_BD[here_b].clone().requires_grad_()
        normal = torch.nn.functional.normalize
        cosine = torch.einsum("bd,ckd->bck", normal(embedding_bD), normal(centre_SKD, dim=-1))
        part, buffers = unsharded_loss(
            name,
            cosine if cosine.shape[2] > 1 else cosine[..., 0],
            torch.searchsorted(class_S, label_B[here_b]),
            norm_B=embedding_bD.detach().norm(dim=1),
            count_C=counts()[class_S],
            buffers=buffers,
            epoch=20.0,
        )
        (part / len(places)).backward()
        expected, expected_gradients = expected + part.detach() / len(places), [*expected_gradients, embedding_bD.grad]
    torch.testing.assert_close(loss, expected, **CLOSE)
    torch.testing.assert_close(torch.cat(gradients), torch.cat(expected_gradients), **CLOSE)
    gradient_CKD = centre_gradient(head)
    torch.testing.assert_close(gradient_CKD[class_S], centre_SKD.grad, **CLOSE)
    gradient_CKD[class_S] = 0
    assert not gradient_CKD.any()


@pytest.mark.parametrize("name", CENTRE_OPTIMIZERS)
@pytest.mark.parametrize("loss", ["cosface", "subcenter_arcface"])
def test_a_step_moves_the_sample_alone(name, loss):
    head = head_of(loss, sampling_rate=0.3, optimizer=name)
    for seed in range(3):
        before = {key: values.clone() for key, values in head.state()["per_class"].items()}
        embedding_BD, label_B = faces(seed)
        one_step(head, embedding_BD, label_B)
        sampled = torch.zeros(NUM_IDENTITIES, dtype=torch.bool)
        sampled[head._sample.class_S] = True
        head.step(0.1)
        for key, values in head.state()["per_class"].items():
            assert torch.equal(values[~sampled], before[key][~sampled])
            assert (values[sampled] != before[key][sampled]).flatten(1).any(1).all()


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_a_discarded_step_leaves_all_as_it_was(rate):
    heads = [head_of("balanced_curricular", sampling_rate=rate) for _ in range(2)]
    for head in heads:
        one_step(head, *faces(0))
        head.step(0.1)
    one_step(heads[0], torch.full((FACES, SIZE), torch.nan), faces(1)[1])
    heads[0].discard()
    heads[1].num_steps += 1  # a step that is not taken is counted, and draws no sample twice
    for head in heads:
        one_step(head, *faces(2))
        head.step(0.1)
    one, other = (head.state() for head in heads)
    assert one["shared"] == other["shared"]
    assert all(torch.equal(values, other["per_class"][key]) for key, values in one["per_class"].items())


def test_weight_scales_loss_and_gradients():
    found = []
    for weight in (1.0, 0.25):
        head = head_of("boundaryface")
        loss, grad_BD = one_step(head, *faces(), epoch=20.0, weight=weight)
        found.append((loss, grad_BD, centre_gradient(head)))
    for whole_one, quarter in zip(*found, strict=True):
        torch.testing.assert_close(quarter, whole_one / 4)


def test_the_filter_leaves_out_near_negatives_alone():
    """Against a softmax in float64 in which they are struck out by hand."""
    threshold, scale = 0.2, 16.0
    embedding_BD, label_B = faces()
    head = head_of("softmax", knobs={"scale": scale}, filter_threshold=threshold)
    loss, grad_BD = one_step(head, embedding_BD, label_B)
    leaf_BD = embedding_BD.double().requires_grad_()
    normal = torch.nn.functional.normalize
    cosine_BC = normal(leaf_BD) @ normal(head.centre_CKD[:, 0].double()).T
    is_near_BC = cosine_BC > threshold
    own_B1 = label_B[:, None]
    assert is_near_BC.gather(1, own_B1).any() and is_near_BC.sum() > FACES
    struck_BC = is_near_BC.scatter(1, own_B1, False)
    expected = torch.nn.functional.cross_entropy((scale * cosine_BC).masked_fill(struck_BC, -torch.inf), label_B)
    expected.backward()
    torch.testing.assert_close(loss, expected.detach().float(), **CLOSE)
    torch.testing.assert_close(grad_BD, leaf_BD.grad.float(), **CLOSE)


def test_a_face_whose_negatives_are_all_left_out_has_no_loss():
    head = head_of("softmax", filter_threshold=-0.999)
    loss, grad_BD = one_step(head, *faces())
    assert loss.abs() < 1e-6 and grad_BD.abs().max() < 1e-6  # rounding alone


@pytest.mark.parametrize("correct_sampling", [True, False])
def test_corrected_samples_have_the_whole_denominator_on_average(correct_sampling):
    embedding_BD, label_B = faces(num=1)
    knobs = {"scale": 4.0}  # a small scale: few draws are enough for a sum that no single class dominates
    whole_loss, _ = one_step(head_of("softmax", knobs=knobs), embedding_BD, label_B)
    head = head_of("softmax", knobs=knobs, sampling_rate=0.3, correct_sampling=correct_sampling)
    ratios = []
    for _ in range(400):
        loss, _ = one_step(head, embedding_BD, label_B)
        ratios.append(math.exp(loss - whole_loss))  # the face's own logit falls out of the quotient
        head.discard()
    error = np.std(ratios) / math.sqrt(len(ratios))
    assert (abs(np.mean(ratios) - 1) < 4 * error) == correct_sampling


# --- shares of the classes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_ranks", [2, 3, 7])
def test_centres_begin_alike_on_any_number_of_ranks(num_ranks, monkeypatch):
    monkeypatch.setattr(partial_fc, "INIT_ROWS", 5)  # blocks that end inside the shares
    whole_CKD = PartialFC(23, 4, loss="subcenter_arcface", seed=3).centre_CKD
    parts = [
        PartialFC(23, 4, loss="subcenter_arcface", seed=3, ranks=Ranks(rank, num_ranks)) for rank in range(num_ranks)
    ]
    assert torch.equal(torch.cat([part.centre_CKD for part in parts]), whole_CKD)
    assert whole_CKD.flatten(1).unique(dim=0).shape[0] == 23
    assert not torch.equal(PartialFC(23, 4, loss="subcenter_arcface", seed=4).centre_CKD, whole_CKD)
    # 276 numbers from N(0, 0.01): their deviation is known to 4 %.
    assert whole_CKD.std().item() == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize("name", CENTRE_OPTIMIZERS)
def test_a_state_fits_any_number_of_ranks(name):
    def shards(num_ranks):
        return [
            PartialFC(NUM_IDENTITIES, SIZE, loss="curricularface", optimizer=name, seed=1, ranks=Ranks(rank, num_ranks))
            for rank in range(num_ranks)
        ]

    first = head_of("curricularface", optimizer=name)
    for seed in range(2):
        one_step(first, *faces(seed))
        first.step(0.1)
    written = [first]
    for num_ranks in (2, 3, 1):
        per_class = [head.state()["per_class"] for head in written]
        joined = {key: torch.cat([part[key] for part in per_class]).clone() for key in per_class[0]}
        shared, written = written[-1].state()["shared"], shards(num_ranks)
        for head in written:
            head.restore(shared, lambda key, start, end, joined=joined: joined[key][start:end])
    (last,) = written
    assert last.num_steps == 2 and last.state()["shared"] == first.state()["shared"]
    for head in (first, last):
        one_step(head, *faces(5))
        head.step(0.1)
    for key, values in first.state()["per_class"].items():
        assert torch.equal(values, last.state()["per_class"][key])


@pytest.mark.parametrize(("num_identities", "num_ranks"), [(10, 3), (3, 3), (23, 4), (100, 7)])
def test_shares_are_even_and_whole(num_identities, num_ranks):
    parts = [share(num_identities, Ranks(rank, num_ranks)) for rank in range(num_ranks)]
    assert [one for first, num in parts for one in range(first, first + num)] == list(range(num_identities))
    assert max(num for _, num in parts) - min(num for _, num in parts) <= 1


def test_what_cannot_be_shared_or_sampled_is_said():
    with pytest.raises(UserError, match="2 identities cannot be shared out over 3 ranks; start at most 2"):
        PartialFC(2, 4, ranks=Ranks(0, 3), count_C=[1, 1])
    for rate in (0.0, 1.5):
        with pytest.raises(UserError, match=f"sampling_rate: given {rate}, allowed: above 0, at most 1"):
            PartialFC(2, 4, count_C=[1, 1], sampling_rate=rate)
    with pytest.raises(UserError, match="needs the number of images"):
        PartialFC(2, 4, loss="balanced_softmax")
