"""A connection to Ray, made alike by all rooms: to a private Ray of this process, or to a cluster and its workers."""

import logging
import os
import pathlib
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray

from zennas.names import shown
from zennas.ray_address import check_address
from zennas.records import ProcessLostError, UserError, first_line
from zennas.signals import handling

AHEAD = 3  # parts that wait for each worker, so that none waits for its next one
# Bytes of a socket's name that the system allows, and those that Ray adds to its folder:
# /ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store, and some for what it calls them next.
TMP, MAX_SOCKET, SESSION = "/tmp", 107, 72
PATIENCE_S = 60.0  # of waiting in silence for what a cluster does
STARTS = 3  # of a private Ray, whose processes may be too slow for each other on a machine that is busy


def connect(address: str | None, *, say: Callable[[str], object], log_to_driver: bool = False, **private: Any) -> None:
    """Connect this process to the Ray cluster at `address`; None: to a private one on loopback, started with options
    `private`.

    say(text): told where a private one is started again. UserError where a cluster cannot be reached, ProcessLostError
    where a private one does not come up.
    """
    # Ray warns about metrics exporters and accelerators that a private one does not have; errors still come through.
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    check_address(address)
    if ray.is_initialized():
        raise RuntimeError("this process is connected to a Ray already")
    if address is None and (odd := [path for path in (os.getcwd(), *sys.path) if shown(path) != path]):
        raise UserError(f"{odd[0]}: Ray cannot start in a folder whose name is no text; begin in another one")
    if address is None:
        options = {"address": "local", "include_dashboard": False, "_node_ip_address": "127.0.0.1"} | private
        options |= _short_folder()
        _keep_token()
        where, tries = "a local Ray", STARTS
    else:
        options, where, tries = {"address": address}, f"the Ray cluster at '{address}'", 1
    for attempt in range(1, tries + 1):
        try:
            with handling(None):  # Ray puts handlers of its own in place, which dump a stack and exit
                ray.init(log_to_driver=log_to_driver, configure_logging=False, **options)
            break
        except Exception as error:  # noqa: BLE001 - Ray raises bare Exceptions, too, where its processes do not come up
            ray.shutdown()
            if address is not None:
                raise UserError(f"{where} could not be reached: {first_line(error)}") from None
            if attempt == tries:
                raise ProcessLostError(
                    f"{where} did not come up in {tries} tries: {first_line(error)} Nothing is wrong with what "
                    "was given, and what was done is kept: give the same command again when this machine has less to do"
                ) from None
            say(f"{where} did not come up ({first_line(error)}): started again")


def _short_folder() -> dict[str, str]:
    """The folder of a private Ray, where the usual one has a name too long for the sockets in it, as a cluster's TMPDIR
    may have. UserError where no other one can be written.
    """
    variable = "RAY_TMPDIR" if "RAY_TMPDIR" in os.environ else "TMPDIR"
    usual = os.environ.get(variable, TMP)
    if len(os.fsencode(usual)) + SESSION <= MAX_SOCKET:
        return {}
    if not os.access(TMP, os.W_OK):
        raise UserError(
            f"{variable}={usual}: has {len(os.fsencode(usual))} bytes, and Ray's sockets in it would pass the "
            f"{MAX_SOCKET} that the system allows; set RAY_TMPDIR to a folder of at most {MAX_SOCKET - SESSION}"
        )
    return {"_temp_dir": f"{TMP}/ray-{os.getuid()}"}


def _keep_token() -> None:
    """Give a private Ray its token where Ray cannot write it into ~/.ray: it need not outlive this process."""
    if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        return
    try:
        folder = pathlib.Path.home() / ".ray"
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK)
    except (RuntimeError, OSError):
        writable = False
    if not writable:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def keep_off_standard_output() -> None:
    """Keep what Ray says of processes that died off this process's standard output, where --json has its own.

    Ray prints some twenty lines for each of them, from a thread that listens to its errors, whatever `log_to_driver`
    says. There is no public setting for it, so the function that prints is replaced: a part of Ray that is private,
    spoken to from here alone.
    """
    ray._private.worker.print_to_stdstream = lambda *arguments, **keywords: None


def why_lost(error: Exception) -> str:
    """What happened to a worker, in a few words."""
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "a worker was ended because its machine ran out of memory"
    gone = ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError, ray.exceptions.TaskUnschedulableError
    if isinstance(error, gone):
        return "a node of the cluster was lost"
    if isinstance(error, ray.exceptions.WorkerCrashedError):
        return "a worker died or had to be stopped"
    return f"a worker was lost ({type(error).__name__}: {first_line(error)})"


def result_of(task: ray.ObjectRef, what: str, say: Callable[[str], object]) -> Any:
    """What a task gives; raises what it raises. say(text): told each minute that `what` is waited for."""
    begun = time.monotonic()
    while not ray.wait([task], timeout=PATIENCE_S)[0]:
        say(f"waiting for {what} for {time.monotonic() - begun:.0f} s")
    return ray.get(task)


class RayPool:
    """The workers of a Ray cluster, for pool.py."""

    def __init__(self, address: str, *, shared: tuple = (), say: Callable = print):
        """shared: values that every function is given first. say(text): told how the connection goes."""
        keep_off_standard_output()
        connect(address, say=say)
        self.num_workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._shared, self._say = [ray.put(value) for value in shared], say

    def results(self, function: Callable, first: tuple, parts: Sequence[tuple]) -> Iterator[tuple[int, Any]]:
        """(number of the part, function(*first, *shared, *part)), as they are done. Ray gives the part of a worker that
        died to another one, three times."""
        remote, under_way, todo = ray.remote(num_cpus=1, max_retries=3)(function), {}, list(range(len(parts)))[::-1]
        try:
            while todo or under_way:
                while todo and len(under_way) < AHEAD * self.num_workers:
                    number = todo.pop()
                    under_way[remote.remote(*first, *self._shared, *parts[number])] = number
                begun = time.monotonic()
                while not (done := ray.wait(list(under_way), num_returns=1, timeout=PATIENCE_S)[0]):
                    waited_s = time.monotonic() - begun
                    self._say(f"waiting for the cluster for {waited_s:.0f} s: others may hold its processors")
                (task,) = done
                number = under_way.pop(task)
                yield number, _result(task, number)
        finally:
            for task in under_way:
                ray.cancel(task, force=True)

    def close(self):
        """End the connection."""
        ray.shutdown()


def _result(task, number):
    """What a task gave; UserError where it cannot be done."""
    try:
        return ray.get(task)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, UserError | OSError):
            raise UserError(
                f"a worker: {first_line(error.cause)}; with --address every node must see the data, --out and "
                "ZENNAS_CACHE under the same paths"
            ) from None
        raise
    except ray.exceptions.RayError as error:
        raise ProcessLostError(
            f"{why_lost(error)}, four times at part {number}; the same command goes on from there"
        ) from None
