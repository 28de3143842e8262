"""Ranks: the processes that train one network together, and what they say to each other (the only file that speaks to
torch.distributed). One process alone is a Ranks too, whose sums and gathers change nothing."""

import datetime
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from zennas.records import UserError

# torch 2.13 renames it, and warns of the old name at every call.
_all_gather = getattr(distributed, "all_gather_single", None) or distributed.all_gather_into_tensor
# As long as the first rank may take to ask the teacher about every image; a rank that dies is torchrun's and Ray's to
# see.
TIMEOUT = datetime.timedelta(hours=24)


class EveryRankError(UserError):
    """A mistake that all ranks know of, so that the first alone need say it."""


class Ranks:
    """Rank `rank` of `num_ranks`, of which `num_local` share this machine; its tensors lie on `device`."""

    def __init__(self, rank: int = 0, num_ranks: int = 1, device: str | torch.device = "cpu", num_local: int = 1):
        self.rank, self.num_ranks, self.device, self.num_local = rank, num_ranks, torch.device(device), num_local

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum_(self, x: torch.Tensor) -> torch.Tensor:
        """x, in place, as the sum over all ranks."""
        return self._reduce_(x, "SUM")

    def max_(self, x: torch.Tensor) -> torch.Tensor:
        """x, in place, as the largest over all ranks."""
        return self._reduce_(x, "MAX")

    def min_(self, x: torch.Tensor) -> torch.Tensor:
        """x, in place, as the smallest over all ranks."""
        return self._reduce_(x, "MIN")

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """The x of all ranks, one behind the other in the order of the ranks; all have the same shape. Carries no
        gradient.
        """
        if self.num_ranks == 1:
            return x
        everyone = x.new_empty((self.num_ranks * len(x), *x.shape[1:]))
        _all_gather(everyone, x.contiguous())
        return everyone

    def sum_of_mine(self, everyone: torch.Tensor) -> torch.Tensor:
        """Of tensors that hold a part for every rank, as `gather` lays them: the sum over ranks of this rank's part."""
        if self.num_ranks == 1:
            return everyone
        size = len(everyone) // self.num_ranks
        if distributed.get_backend() == "nccl":
            mine = everyone.new_empty((size, *everyone.shape[1:]))
            distributed.reduce_scatter_tensor(mine, everyone.contiguous())
            return mine
        return self.sum_(everyone)[self.rank * size : (self.rank + 1) * size]  # gloo has no reduce-scatter

    def objects(self, value: Any) -> list:
        """A list of what every rank gives, in their order (small values: they are pickled)."""
        if self.num_ranks == 1:
            return [value]
        everyone = [None] * self.num_ranks
        distributed.all_gather_object(everyone, value)
        return everyone

    def on_first(self, function: Callable[[], Any]) -> Any:
        """What function() gives on the first rank, given to all; a UserError of it is raised on all."""
        if self.num_ranks == 1:
            return function()
        outcome = [None, None]
        if self.is_first:
            try:
                outcome[0] = function()
            except UserError as error:
                outcome[1] = str(error)
        distributed.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise EveryRankError(outcome[1])
        return outcome[0]

    def barrier(self) -> None:
        """Return once every rank has come here."""
        if self.num_ranks > 1:
            distributed.barrier()

    def parallel(self, network: torch.nn.Module) -> torch.nn.Module:
        """The network as this rank trains it: its gradients are the mean over ranks."""
        if self.num_ranks == 1:
            return network
        from torch.nn.parallel import DistributedDataParallel

        on_gpu = [self.device] if self.device.type == "cuda" else None
        # Running statistics are those of rank 0, as in insightface's recipe: it alone writes checkpoints of them.
        known = inspect.signature(DistributedDataParallel).parameters
        # torch 2.13 renames it, and warns of the old name.
        sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
        return DistributedDataParallel(network, device_ids=on_gpu, gradient_as_bucket_view=True, **{sync: False})

    def close(self) -> None:
        """Leave the group that `join` made."""
        if self.num_ranks > 1 and distributed.is_initialized():
            distributed.destroy_process_group()

    def _reduce_(self, x, how):
        if self.num_ranks > 1:
            distributed.all_reduce(x, op=getattr(distributed.ReduceOp, how))
        return x


def another_is_lost(error: BaseException) -> bool:
    """Whether an error is what a rank sees of another one that died."""
    is_of_nccl = isinstance(error, getattr(distributed, "DistError", ()))
    return is_of_nccl or (isinstance(error, RuntimeError) and "gloo" in str(error).lower())


def leave(code: int) -> None:
    """End this process with this exit code. One of several ranks exits at once, without Python's shutdown.

    DistributedDataParallel keeps gloo's threads beyond the group they served (torch 2.13). One that still lets go of a
    tensor while the interpreter is taken down aborts its process, and torchrun then ends the other ranks: the first,
    which is exporting.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def join(device: str | None = None) -> Ranks:
    """The Ranks this process belongs to: those that torchrun or Ray Train started, or itself alone.

    `device`: 'cpu' or 'cuda'; None takes a GPU where there is one. UserError where there is none for this rank.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UserError(
                f"--device cuda: rank {local_rank} of this machine finds {torch.cuda.device_count()} GPU(s); "
                "start at most one process per GPU, or give --device cpu"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(device)
    if not distributed.is_initialized():
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Ranks(device=device)
        distributed.init_process_group("nccl" if device.startswith("cuda") else "gloo", timeout=TIMEOUT)
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Ranks(distributed.get_rank(), distributed.get_world_size(), device, num_local)
