"""From what a user asks for to everything a training needs, or one clear error before the first step."""

import dataclasses
from typing import Any

import torch
from torch import nn

from zennas.devices import autocast_of, check_arithmetic
from zennas.embed.checkpoint import load_network
from zennas.embed.model import fingerprint_of
from zennas.provenance import num_cores
from zennas.ranks import Ranks
from zennas.records import UserError
from zennas.space.cost import Cost, cost
from zennas.space.network import build
from zennas.tasks.table import task_of
from zennas.tasks.task import Data, Head
from zennas.track import check_output
from zennas.train.checkpoints import COMMON
from zennas.train.request import Request

MAX_WORKERS = 8  # decoding processes of a rank, where the plan leaves it open


@dataclasses.dataclass(frozen=True)
class Job:
    """A training made ready."""

    request: Request
    data: Data
    network: nn.Module
    head: Head
    teacher: Any  # the task's, or None
    sets: tuple  # the task's, on the first rank
    steps_per_epoch: int
    num_steps: int
    num_workers: int
    autocast: torch.dtype | None


def check_fit(request: Request) -> Cost:
    """The Cost of the winner; UserError where its track does not take it: what it puts out, or its size.

    With --any-size every winner fits.
    """
    space, limits, candidate = request.space, request.track.limits, request.candidate
    spent = cost(candidate, space.shape)
    if request.any_size:
        return spent
    check_output(request.track, space)
    if limits.max_mb is not None and spent.megabytes > limits.max_mb:
        raise UserError(
            f"{candidate.text} takes {spent.megabytes:.0f} MB; track {request.track.name} allows at most "
            f"{limits.max_mb:g} MB; "
            "--any-size trains it all the same (a teacher)"
        )
    return spent


def open_sets(request: Request, ranks: Ranks) -> tuple:
    """The --verify sets, on the first rank; UserError for one that cannot be used, or a --from that is no
    checkpoint.
    """
    task, sets = task_of(request.task), []

    def open_them():
        if request.start is not None and not (request.start / COMMON).is_file():
            raise UserError(
                f"--from {request.start}: no checkpoint; give a folder such as OUT/checkpoints/step-000000840, or the "
                "file of a network"
            )
        sets.extend(task.open_set(request, text) for text in request.verify)

    ranks.on_first(open_them)
    return tuple(sets)


def noticed(request: Request, data: Data, sets: tuple, progress) -> Data:
    """The Data with what is odd about each of the opened --verify sets: its own `notices`, where it has any, and a
    sentence where it holds what is trained on, too."""
    trained_on, told = task_of(request.task).trained_on, []
    for text, the_set in zip(request.verify if sets else (), sets, strict=True):  # only the first rank has sets
        told += [f"--verify {text}: {notice}" for notice in getattr(the_set, "notices", ())]
        told += trained_on(data, the_set, text, progress) if trained_on else []
    return dataclasses.replace(data, notices=(*data.notices, *told))


def check_batches(request: Request, data: Data, teacher, ranks: Ranks, progress) -> None:
    """UserError where nothing can be trained on these data in these batches; `data` and `teacher` (or None) are
    opened."""
    plan, task = request.plan, task_of(request.task)
    if plan.batch % (ranks.num_ranks * plan.accumulate):
        raise UserError(
            f"batch {plan.batch} cannot be shared out over {ranks.num_ranks} ranks in {plan.accumulate} "
            f"micro-batches each; allowed: a multiple of {ranks.num_ranks * plan.accumulate}"
        )
    if plan.batch // (ranks.num_ranks * plan.accumulate) < 2:
        raise UserError(f"batch {plan.batch}: a micro-batch of one image has no statistics for the norms; at least 2")
    task.check_data(request, data, teacher, ranks, progress)


def prepare(request: Request, data: Data, teacher, ranks: Ranks, progress, *, sets: tuple = ()) -> Job:
    """The Job of a Request; `data`, `teacher` (or None) and `sets` are opened. What takes long comes last."""
    plan, task = request.plan, task_of(request.task)
    check_batches(request, data, teacher, ranks, progress)
    autocast = autocast_of(plan.precision, ranks.device)
    epoch_steps = task.steps_per_epoch(plan, data)
    num_steps, num_warmup = plan.num_steps(epoch_steps), plan.schedule.num_warmup(epoch_steps)
    # Where both are in one unit, the plan has seen to it.
    if num_warmup >= num_steps and (plan.steps is None) != (plan.schedule.warmup_steps is None):
        raise UserError(
            f"the warm-up ({num_warmup:,} steps) must be shorter than the training ({num_steps:,} steps; "
            f"{epoch_steps:,} are an epoch)"
        )
    network = begun_network(request)
    check_arithmetic(network, autocast, ranks.device)
    head = task.head(request, data, network, teacher, ranks, progress)
    return Job(
        request=request,
        data=data,
        network=network.to(ranks.device),
        head=head,
        teacher=teacher,
        sets=sets,
        steps_per_epoch=epoch_steps,
        num_steps=num_steps,
        num_workers=_num_workers(plan, ranks),
        autocast=autocast,
    )


def _num_workers(plan, ranks):
    """Decoding processes of a rank: on a GPU its share of the machine's cores; on a processor one, beside the training
    itself.
    """
    if plan.data.workers is not None:
        return plan.data.workers
    if ranks.device.type == "cuda":
        return max(1, min(MAX_WORKERS, num_cores() // ranks.num_local))
    return int(num_cores() > 1)


def begun_network(request: Request) -> nn.Module:
    """The Network as a training begins: drawn from its seed, or with the weights that --from names. UserError where
    their file has changed since it was checked."""
    network = initial_network(request.candidate, request.space, seed=request.plan.seed)
    if request.initial is not None:
        kept = load_network(request.initial)
        if fingerprint_of(kept) != request.initial_print:
            raise UserError(f"--from {request.initial}: holds other weights than when this training was asked for")
        network.load_state_dict(kept.state_dict())
    return network


def initial_network(candidate, space, *, seed):
    """The Network as training begins, in training mode.

    Its fully connected layer begins as torch's does, as in insightface's recipe, not with the Gaussians that untrained
    networks are compared with: behind it stands a norm, so its length decides nothing but how fast it turns.
    """
    generator = torch.Generator().manual_seed(seed)
    network = build(candidate, space.shape, generator=generator)
    for layer in network.head_layers():
        bound = layer.in_features**-0.5
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
    return network.train()
