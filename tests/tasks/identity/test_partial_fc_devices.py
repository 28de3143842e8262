"""The head where it is fast: its pass over the cosines compiled, and on GPUs, over NCCL; against the same loss as
elsewhere.
"""

import pytest
import torch

from tests.tasks.identity.test_partial_fc import (
    CLOSE,
    FACES,
    centre_gradient,
    faces,
    head_of,
    on_ranks,
    one_step,
    whole,
)
from zennas.ranks import Ranks
from zennas.tasks.identity.losses import LOSSES

# One of each way to treat negatives, sub-centres, and counts.
COMPILED = ["cosface", "mv_arc_softmax", "subcenter_arcface", "balanced_curricular"]


def assert_whole(name, *, epoch=0.0, device="cpu", **options):
    head = head_of(name, ranks=Ranks(device=device), **options)
    embedding_BD, label_B = faces()
    expected = whole(name, embedding_BD, label_B, head.centre_CKD.cpu(), epoch=epoch)
    loss, grad_BD = one_step(head, embedding_BD.to(device), label_B.to(device), epoch=epoch)
    torch.testing.assert_close(loss.cpu(), expected[0], **CLOSE)
    torch.testing.assert_close(grad_BD.cpu(), expected[1], **CLOSE)
    torch.testing.assert_close(centre_gradient(head).cpu(), expected[2], **CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMPILED)
def test_the_compiled_pass_is_the_whole_loss(name, recwarn):
    assert_whole(name, compile=True)
    assert not [warning for warning in recwarn if "not compiled" in str(warning.message)]


def test_a_machine_without_a_compiler_computes_all_the_same(monkeypatch):
    """What torch.compile raises when it finds none, raised by hand: this machine has one."""

    def refusing(function, **_):
        def compiled(*_):
            raise torch._dynamo.exc.BackendCompilerFailed(refusing, RuntimeError("no C++ compiler"), None)

        return compiled

    monkeypatch.setattr(torch, "compile", refusing)
    with pytest.warns(UserWarning, match="margins are not compiled"):
        assert_whole("balanced_curricular", compile=True)


@pytest.mark.gpu
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("epoch", [0.0, 20.0])
def test_on_a_gpu_it_is_the_whole_loss(name, epoch):
    assert_whole(name, epoch=epoch, device="cuda")


@pytest.mark.gpu
@pytest.mark.parametrize("name", COMPILED)
def test_on_a_gpu_the_compiled_pass_is_the_whole_loss(name):
    assert_whole(name, device="cuda", compile=True)


def losses_over_nccl(ranks, names):
    found = {}
    for name in names:
        head = head_of(name, ranks=ranks)
        embedding_BD, label_B = faces()
        mine = slice(ranks.rank * FACES // ranks.num_ranks, (ranks.rank + 1) * FACES // ranks.num_ranks)
        loss, grad_bD = one_step(head, embedding_BD[mine].to(ranks.device), label_B[mine].to(ranks.device))
        found[name] = loss.cpu(), grad_bD.cpu()
    return found


@pytest.mark.gpu
def test_over_nccl_shards_are_the_whole_loss(tmp_path):
    num_ranks = max(num for num in (1, 2, 4) if num <= torch.cuda.device_count())
    results = on_ranks(num_ranks, tmp_path, losses_over_nccl, list(LOSSES), device="cuda")
    for name in LOSSES:
        expected = whole(name, *faces(), head_of(name).centre_CKD)
        for result in results:
            torch.testing.assert_close(result[name][0], expected[0], **CLOSE)
        grad_BD = torch.cat([result[name][1] for result in results]) / num_ranks
        torch.testing.assert_close(grad_BD, expected[1], **CLOSE)
