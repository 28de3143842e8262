"""The sharded, sampled head against the whole loss with plain autograd, over one, two and four processes."""

import socket

import pytest
import torch
from torch import multiprocessing

from zennas.records import UserError
from zennas.train import partial_fc
from zennas.train.centres import CentreOptimizer
from zennas.train.losses import LOSSES, unsharded_loss
from zennas.train.partial_fc import PartialFC, share
from zennas.train.ranks import Ranks, join

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
        "sgd", {"momentum": 0.0, "weight_decay": 0.0}, num_rows=before_CKD.shape[0] * before_CKD.shape[1], embedding_size=SIZE
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


def _on_rank(rank, num_ranks, port, folder, task, arguments):
    import os

    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(num_ranks), LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    ranks = join("cpu")
    try:
        torch.save(task(ranks, *arguments), f"{folder}/{rank}.pt")
    finally:
        ranks.close()


def on_ranks(num_ranks, folder, task, *arguments):
    """What task(ranks, *arguments) gives on each of so many processes."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_on_rank, (num_ranks, port, str(folder), task, arguments), nprocs=num_ranks)
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
