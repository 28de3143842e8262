"""Centre loss: each image is pulled towards its person's centre, which follows the images by a rule of its own."""

# N images of a step (of all ranks), M people of them, D size of a vector, C people

import torch
from torch import Tensor

ALPHA = 0.5  # how far a centre follows in a step; Wen et al. and BoT


class Centres:
    """The centres of one vector of the network, alike on every rank.

    A step: `loss` once or more, then `step` or `discard`.
    Source: Wen et al. 2016 (ECCV, A Discriminative Feature Learning Approach for Deep Face Recognition), eq. 2 to 4.
    """

    def __init__(self, num_people: int, size: int, *, device: torch.device):
        self.centre_CD = torch.zeros(num_people, size, device=device)
        self._seen: tuple[Tensor, Tensor] | None = None

    def loss(self, vector_ND: Tensor, label_N: Tensor) -> Tensor:
        """Half the squared distance to the own centre, the mean over the images; labels below zero count for nothing.

        The centres move by the images of the first call of a step: every call sees the whole step.
        """
        known_N = label_N >= 0
        with torch.autocast(vector_ND.device.type, enabled=False):
            vector_ND, label_N = vector_ND.float()[known_N], label_N[known_N]
            if self._seen is None:
                self._seen = vector_ND.detach(), label_N
            return (vector_ND - self.centre_CD[label_N]).square().sum() / (2 * max(1, len(label_N)))

    def step(self) -> None:
        """Move the centres of the step's people: by ALPHA times the sum of (vector - centre) over 1 + their number."""
        if self._seen is None:
            return
        vector_ND, label_N = self._seen
        label_M, place_N = label_N.unique(return_inverse=True)
        count_M = torch.bincount(place_N, minlength=len(label_M))
        pull_MD = torch.zeros(len(label_M), vector_ND.shape[1], device=vector_ND.device)
        pull_MD.index_add_(0, place_N, vector_ND - self.centre_CD[label_N])
        self.centre_CD[label_M] += ALPHA * pull_MD / (1 + count_M)[:, None]
        self._seen = None

    def discard(self) -> None:
        """Leave the centres where they are."""
        self._seen = None
