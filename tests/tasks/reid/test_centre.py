"""Centres against plain loops."""

import pytest
import torch

from zennas.tasks.reid.centre import ALPHA, Centres


def stepped(label_N, vector_ND, centre_CD):
    """Wen et al. 2016, eq. 4, in a loop."""
    moved_CD = centre_CD.clone()
    for person in set(label_N.tolist()) - {-1}:
        own = [vector_ND[n] for n, label in enumerate(label_N.tolist()) if label == person]
        delta_D = sum(centre_CD[person] - vector_D for vector_D in own) / (1 + len(own))
        moved_CD[person] -= ALPHA * delta_D
    return moved_CD


def test_centres_follow_their_people():
    generator = torch.Generator().manual_seed(0)
    vector_ND, label_N = torch.randn(7, 4, generator=generator), torch.tensor([2, 0, 2, 5, -1, 5, 5])
    centres = Centres(6, 4, device=torch.device("cpu"))
    for _ in range(2):
        before_CD = centres.centre_CD.clone()
        live_ND = vector_ND.clone().requires_grad_()
        loss = centres.loss(live_ND, label_N)
        loss.backward()
        own = [n for n in range(7) if label_N[n] >= 0]
        expected = sum((vector_ND[n] - before_CD[label_N[n]]).square().sum() / 2 for n in own) / 6
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        assert not live_ND.grad[4].any()
        torch.testing.assert_close(live_ND.grad[0], (vector_ND[0] - before_CD[2]) / 6)
        assert torch.equal(centres.centre_CD, before_CD)  # until the step is taken
        centres.loss(vector_ND, label_N)  # another micro-batch of the step moves nothing twice
        centres.step()
        torch.testing.assert_close(centres.centre_CD, stepped(label_N, vector_ND, before_CD))


def test_a_step_that_is_not_taken_moves_no_centre():
    centres = Centres(2, 3, device=torch.device("cpu"))
    centres.loss(torch.ones(2, 3), torch.tensor([0, 1]))
    centres.discard()
    centres.step()
    assert not centres.centre_CD.any()


def test_a_step_of_nobody_is_none():
    centres = Centres(2, 3, device=torch.device("cpu"))
    assert centres.loss(torch.ones(2, 3), torch.tensor([-1, -1])) == 0
    centres.step()
    assert not centres.centre_CD.any()
