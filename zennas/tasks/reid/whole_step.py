"""WholeStep: the vectors of a step's images, of all micro-batches and ranks, so that a loss within the batch is the
same however the batch is shared out."""

# b images of this micro-batch, B of this rank, N of all ranks, D size of a vector

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zennas.ranks import Ranks


class WholeStep:
    """One step under way. `vectors` for each micro-batch in turn; then `label_N` and `index_N` go with what it gives.

    A loss of all N images is made on every rank, from gathered values in which this micro-batch's rows alone are live:
    so `shared` of it sends back, over ranks and micro-batches, its gradient to each image once. With several
    micro-batches their vectors are made twice: without gradient before the first, for all of them need all.
    """

    def __init__(self, batch, ranks: Ranks):
        self.batch, self.ranks, self.num_done = batch, ranks, 0
        self.label_N = ranks.gather(batch.label_B.to(ranks.device))
        self.index_N = ranks.gather(batch.index_B.to(ranks.device))
        self._known: list[Tensor] = []  # vectors_ND without gradient

    def prepare(self, num_micro: int, look: Callable[[object], list[Tensor]], network: nn.Module) -> None:
        """Before each micro-batch. look(micro) -> its vectors; asked here where there is more than one.

        The running statistics of norms see every image once all the same.
        """
        if num_micro == 1 or self.num_done:
            return
        kept = [(buffer, buffer.clone()) for buffer in network.buffers()]
        with torch.no_grad():
            parts = [look(self.batch.micro(number, num_micro)) for number in range(num_micro)]
            for buffer, before in kept:
                buffer.copy_(before)
        self._known = [self.ranks.gather(torch.cat(vectors).float()) for vectors in zip(*parts, strict=True)]

    def vectors(self, vector_bDs: list[Tensor]) -> list[Tensor]:
        """vector_ND for each vector_bD of the next micro-batch, whose rows alone have a gradient."""
        vector_bDs = [vector_bD.float() for vector_bD in vector_bDs]
        known = self._known or [self.ranks.gather(vector_bD.detach()) for vector_bD in vector_bDs]
        first = self.ranks.rank * len(self.batch.label_B) + self.num_done * len(vector_bDs[0])
        self.num_done += 1
        return [
            torch.cat([known_ND[:first], vector_bD, known_ND[first + len(vector_bD) :]])
            for known_ND, vector_bD in zip(known, vector_bDs, strict=True)
        ]

    def shared(self, loss: Tensor, num_micro: int) -> Tensor:
        """A loss of all N images as a micro-batch's share: the value of all shares is the loss, the mean of the ranks'
        gradients its gradient."""
        value = loss.detach()
        return value / num_micro + self.ranks.num_ranks * (loss - value)
