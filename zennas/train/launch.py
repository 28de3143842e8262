"""How a training is started: in this process, by torchrun, or by Ray Train (the only file that imports ray for
training).
"""

import dataclasses
import os
import pathlib

import torch

from zennas.embed.named import resolved
from zennas.progress import Progress, console_for, silent
from zennas.provenance import num_cores
from zennas.ranks import TIMEOUT, another_is_lost, join, say_on_standard_error
from zennas.ray_address import keep_ray_on_loopback
from zennas.records import ProcessLostError, UserError, first_line
from zennas.tasks.table import task_of
from zennas.train.rank import train_on
from zennas.train.request import PATHS


def launch(request, progress, *, num_ray_workers=None, address=None):
    """The result of a training, or None on every rank but the first.

    num_ray_workers: so many ranks on the Ray cluster at `address` (None: a private one on this machine). --out, --data
    and the teacher must then be seen by every node.
    """
    if num_ray_workers is not None:
        return _on_ray(request, progress, num_ray_workers, address)
    ranks = join(request.device, say=progress.say if is_first_process() else say_on_standard_error)
    try:
        return train_on(request, ranks, progress if ranks.is_first else silent())
    except RuntimeError as error:
        if not another_is_lost(error):
            raise
        raise ProcessLostError(
            f"another rank is gone ({first_line(error)}); the same command goes on from the last checkpoint"
        ) from None
    finally:
        ranks.close()


def is_first_process():
    """Whether this process is the one that speaks, before the ranks have met."""
    return int(os.environ.get("RANK", "0")) == 0


def _on_ray(request, progress, num_workers, address):
    if address is None:
        keep_ray_on_loopback()
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from zennas.ray_connection import connect

    os.environ.setdefault("RAY_TRAIN_ENABLE_V2", "1")
    connect(address, say=progress.say, log_to_driver=True, num_cpus=max(num_cores(), num_workers + 1))
    try:
        use_gpu = request.device == "cuda" or (request.device is None and ray.cluster_resources().get("GPU", 0) > 0)
        kind = "GPU" if use_gpu else "CPU"
        if num_workers > (have := int(ray.cluster_resources().get(kind, 0))):
            raise UserError(f"--ray {num_workers}: the cluster has {have} {kind}(s); give at most so many")
        folder = request.out.resolve()
        trainer = TorchTrainer(
            _on_ray_worker,
            train_loop_config={"request": _absolute(request), "num_workers": num_workers, "local": address is None},
            scaling_config=ScalingConfig(num_workers=num_workers, use_gpu=use_gpu),
            torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=int(TIMEOUT.total_seconds())),
            run_config=RunConfig(name="run", storage_path=str(folder.with_name(f".{folder.name}.ray"))),
        )
        progress.say(f"{num_workers} rank(s) on Ray, a {kind} each; they speak through Ray's log")
        try:
            return trainer.fit().return_value
        except Exception as error:
            if mistake := next((cause for cause in _causes(error) if isinstance(cause, UserError)), None):
                raise type(mistake)(str(mistake)) from None
            # A rank died. Its own messages are in Ray's log, above.
            raise ProcessLostError(
                f"the training on Ray failed: {first_line(error)}; the same command goes on from its checkpoint"
            ) from error
    finally:
        ray.shutdown()


def _causes(error):
    """All errors inside an error of Ray's, however deep: its causes, and the failures that it lists for each worker."""
    seen, todo = [], [error]
    while todo:
        cause = todo.pop()
        if isinstance(cause, BaseException) and cause not in seen:
            seen.append(cause)
            todo += [cause.__cause__, getattr(cause, "cause", None), *getattr(cause, "worker_failures", {}).values()]
    return seen


def _absolute(request):
    """The Request with paths that hold in the working folder of a worker."""
    changes = {name: pathlib.Path(path).resolve() for name in PATHS if (path := getattr(request, name)) is not None}
    if request.teacher is not None:
        changes["teacher"] = resolved(request.teacher, "--teacher")
    task = task_of(request.task)
    sets = tuple(
        task.join_set(str(pathlib.Path(path).resolve()) for path in task.set_paths(text)) for text in request.verify
    )
    return dataclasses.replace(request, verify=sets, **changes)


def _on_ray_worker(config):
    """One rank, as a worker of Ray Train runs it. Its error ends the other ranks; the driver reports it."""
    if config["local"]:  # Ray gives a worker of one core one thread
        torch.set_num_threads(max(1, num_cores() // config["num_workers"]))
    ranks = join(config["request"].device)
    # Ray carries standard error to the driver's. Standard output may have to be JSON alone.
    progress = Progress(console_for(json_output=True)) if ranks.is_first else silent()
    try:
        return train_on(config["request"], ranks, progress)
    finally:
        progress.close()
