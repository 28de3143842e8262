"""Ranks: the processes that train one network together, and what they say to each other (the only file that speaks to
torch.distributed). One process alone is a Ranks too, whose sums and gathers change nothing."""

import contextlib
import datetime
import inspect
import os
import sys
import threading
import time
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
# Nobody waits so long in silence, or without an ear for a signal. Of the latter Python hears between two slices only.
PATIENCE_S, SLICE = 60.0, datetime.timedelta(seconds=1)


class EveryRankError(UserError):
    """A mistake that all ranks know of, so that the first alone need say it."""


class Ranks:
    """Rank `rank` of `num_ranks`, of which `num_local` share this machine; its tensors lie on `device`.

    say(text): told each minute that the other ranks are waited for (on GPUs torch's own watchdog does that).
    """

    def __init__(
        self,
        rank: int = 0,
        num_ranks: int = 1,
        device: str | torch.device = "cpu",
        num_local: int = 1,
        *,
        say: Callable[[str], None] | None = None,
    ):
        self.rank, self.num_ranks, self.device, self.num_local = rank, num_ranks, torch.device(device), num_local
        self.waiting_since: float | None = None  # of time.monotonic(): while the other ranks are waited for
        self._say = say

    @property
    def who(self) -> str:
        """What the others are called in a message, seen from here."""
        return "another rank" if self.is_first or self.num_ranks > 2 else "the first rank"

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
        self._wait(_all_gather(everyone, x.contiguous(), async_op=True))
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
        self._meet()
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
        self._meet()
        distributed.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise EveryRankError(outcome[1])
        return outcome[0]

    def barrier(self) -> None:
        """Return once every rank has come here."""
        if self.num_ranks > 1:
            self._meet()
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
        """Leave the group that `join` made. Where an exchange was given up, this process must end: the group would wait
        for the rest of it."""
        if self.num_ranks > 1 and distributed.is_initialized() and self.waiting_since is None:
            distributed.destroy_process_group()

    def _reduce_(self, x, how):
        if self.num_ranks > 1:
            self._wait(distributed.all_reduce(x, op=getattr(distributed.ReduceOp, how), async_op=True))
        return x

    def _meet(self):
        """Return once every rank has come here. Before what torch offers no wait in slices for."""
        if distributed.get_backend() != "nccl":
            self._reduce_(torch.zeros(1), "SUM")

    def _wait(self, work):
        """Return once an exchange is done; RuntimeError where another rank is gone.

        Where the ranks speak through gloo, signals are answered meanwhile. NCCL's waits are the GPU's, not ours.
        """
        if distributed.get_backend() == "nccl":
            work.wait()
            return
        begun = told = self.waiting_since = time.monotonic()
        while not work.is_completed():
            with contextlib.suppress(RuntimeError):  # the slice is over, or the exchange failed: then it is completed
                work.wait(SLICE)
            if (now := time.monotonic()) - told >= PATIENCE_S:
                told = now
                if self._say and self.rank < 2:  # one speaks for all, and one of the first where that one hangs
                    self._say(f"rank {self.rank}: waiting for {self.who} for {now - begun:.0f} s")
        self.waiting_since = None
        work.wait()


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


def say_on_standard_error(text: str) -> None:
    """For a rank that has no terminal of its own."""
    print(text, file=sys.stderr, flush=True)


def join(device: str | None = None, *, say: Callable[[str], None] = say_on_standard_error) -> Ranks:
    """The Ranks this process belongs to: those that torchrun or Ray Train started, or itself alone.

    `device`: 'cpu' or 'cuda'; None takes a GPU where there is one. say(text): told when other ranks are waited for
    long. UserError where there is no GPU for this rank.
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
        _begin("nccl" if device.startswith("cuda") else "gloo", say)
    num_local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return Ranks(distributed.get_rank(), distributed.get_world_size(), device, num_local, say=say)


def _begin(backend, say):
    """Meet the other ranks. In a thread, while this one has an ear for signals: torch waits in one piece."""
    outcome = []

    def meet():
        try:
            distributed.init_process_group(backend, timeout=TIMEOUT)
        except Exception as error:  # noqa: BLE001 - raised below
            outcome.append(error)

    thread = threading.Thread(target=meet, daemon=True)
    thread.start()
    begun = told = time.monotonic()
    while thread.is_alive():
        thread.join(SLICE.total_seconds())
        if (now := time.monotonic()) - told >= PATIENCE_S:
            told, rank, num_ranks = now, os.environ.get("RANK"), os.environ.get("WORLD_SIZE")
            say(f"rank {rank}: waiting for all {num_ranks} ranks to begin, for {now - begun:.0f} s")
    if outcome:
        raise outcome[0]
