"""Scorers and the measuring device, on Ray: the only file of the search that imports it.

Locally a private Ray of this process, with one processor per scorer; with an address the cluster that runs there. Latency
is measured on nodes with the resource 'latency_device' (locally: this machine), one measurement at a time.
"""

import functools
import logging
import math
import os
import signal

import ray
import torch

from zennas.records import UserError, first_line
from zennas.score.scores import Scored, score_batch

DEVICE_RESOURCE = "latency_device"
TASK_RETRIES = 3  # of a batch whose worker process died, before its candidates count as failed


class Workers:
    """A connection to Ray. `submit` gives handles; results are taken in the order in which the caller asks for them."""

    def __init__(self, num_workers, *, address=None):
        self.local = address is None
        # Ray warns about metrics exporters and accelerators that a local run does not have; errors still come through.
        logging.getLogger("ray").setLevel(logging.ERROR)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        try:
            if self.local:
                ray.init(
                    address="local",
                    num_cpus=num_workers,
                    resources={DEVICE_RESOURCE: 1},
                    include_dashboard=False,
                    log_to_driver=False,
                    configure_logging=False,
                    _node_ip_address="127.0.0.1",
                )
            else:
                ray.init(address=address, log_to_driver=False, configure_logging=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = "a local Ray" if self.local else f"the Ray cluster at '{address}'"
            raise UserError(f"{where} could not be reached: {first_line(error)}") from None
        signal.signal(signal.SIGTERM, on_sigterm)  # Ray puts its own in place, which dumps a stack and exits
        if not ray.cluster_resources().get(DEVICE_RESOURCE):
            ray.shutdown()
            raise UserError(
                f"no node of the cluster carries the resource '{DEVICE_RESOURCE}', on which latency is measured; "
                f"start the node that owns the device with: ray start --resources '{{\"{DEVICE_RESOURCE}\": 1}}' ..."
            )
        self.num_workers = num_workers
        gpus = ray.cluster_resources().get("GPU", 0)
        share = {"num_gpus": 1 / math.ceil(num_workers / gpus)} if gpus else {}
        self._score = ray.remote(num_cpus=1, max_retries=TASK_RETRIES, **share)(_score_batch)
        self._on_device = ray.remote(num_cpus=0, max_retries=1, resources={DEVICE_RESOURCE: 1})(_call)

    def warm_up(self):
        """Start the scorers' processes and their imports, so that neither falls into a measurement."""
        ray.get([self._score.remote([], None, 0, None) for _ in range(self.num_workers)])

    def submit(self, candidates, plan, *, seed, repeats=None):
        """A handle on [Scored] of these candidates."""
        return self._score.remote(candidates, plan, seed, repeats)

    def results(self, handle, num):
        """[Scored] of the `num` candidates behind a handle, waiting for them.

        Where their worker died again and again, that is what every one of them failed with.
        """
        try:
            return ray.get(handle)
        except ray.exceptions.RayError as error:
            reason = f"the worker died {TASK_RETRIES + 1} times: {first_line(error)}"
            return [Scored(None, 0.0, 0.0, "score", reason)] * num

    def ready(self, handle):
        """Whether `results` would not have to wait."""
        return bool(ray.wait([handle], timeout=0)[0])

    def wait(self, handle, seconds):
        """Wait for a handle, at most this long."""
        ray.wait([handle], timeout=seconds)

    def on_device(self, function, *arguments, **keywords):
        """function(*arguments, **keywords), run on the node that owns the latency device; raises what it raises."""
        try:
            return ray.get(self._on_device.remote(function, arguments, keywords))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            raise RuntimeError(f"the measuring process died: {first_line(error)}") from None

    def measure_file(self, measure, path, protocol):
        """measure(onnx, protocol) on the device: by path where the device is this machine, else the file travels."""
        return self.on_device(measure, str(path) if self.local else path.read_bytes(), protocol)

    def close(self):
        ray.shutdown()


@functools.cache
def _prepare():
    torch.set_num_threads(1)  # Ray sets OMP_NUM_THREADS=1, which a user's environment may override
    return "cuda" if torch.cuda.is_available() else "cpu"


def _score_batch(candidates, plan, seed, repeats):
    return score_batch(candidates, plan, seed=seed, repeats=repeats, device=_prepare())


def _call(function, arguments, keywords):
    return function(*arguments, **keywords)
