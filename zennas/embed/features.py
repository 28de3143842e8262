"""Features: what a network says of a batch, its attention maps included."""

# B faces, K identities similar to one, D embedding size

from typing import NamedTuple

import torch
from torch import nn


class Features(NamedTuple):
    """What a network says of a batch. Student and teacher have embeddings of one size: `projection` sees to it."""

    embedding_BD: torch.Tensor
    attention: tuple = ()  # one tensor per attention map, B first, in the order in which they are computed
    neighbours_BKD: torch.Tensor | None = None  # the teacher's, from its Bank


class attention_of:
    """Collects the attention maps of a network's forward passes, while it is entered.

    with attention_of(network) as maps:
        features = Features(network(image_B3HW), maps.take())

    The maps are those that blocks name in `attention_maps` (space/blocks.py), in the order in which they are computed;
    empty for a network without attention. Each forward begins anew, so that gradient checkpointing,
    which computes them again, does no harm.
    """

    def __init__(self, network: nn.Module):
        self.network, self._maps, self._hooks = network, [], []

    def __enter__(self):
        parts = [part for module in self.network.modules() for part in getattr(module, "attention_maps", ())]
        self._hooks = [part.register_forward_hook(self._keep) for part in parts]
        self._hooks.append(self.network.register_forward_pre_hook(self._begin))
        return self

    def __exit__(self, kind, error, trace):
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def take(self) -> tuple[torch.Tensor, ...]:
        """The maps of the last forward, which are then forgotten here."""
        maps, self._maps = tuple(self._maps), []
        return maps

    def _keep(self, module, inputs, output):
        self._maps.append(output)

    def _begin(self, module, inputs):
        self._maps = []
