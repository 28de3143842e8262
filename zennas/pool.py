"""A pool: a function done over many parts, by this process, by processes of this machine, or by a Ray cluster.

A worker that dies is replaced and its parts are done again. Ctrl-C ends the workers at once, and so does the end of
the run that started them, however it ends. `kept` keeps every part as a file: what was done is not done again.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from zennas.progress import Progress
from zennas.records import UserError, first_line
from zennas.run_folder import explaining

MAX_DEATHS = 4  # of workers, without a part done between them; then the run ends


class Pool:
    """Workers that do functions over parts; `with` ends them.

    num_workers: processes on this machine; 1: this process alone. address: of a Ray cluster, whose workers do it
    instead. num_threads: of each worker; None: as many as its libraries take, which may change the last digit of a
    product of matrices. shared: values that every function is given before those of its part; a process is sent them
    once.
    The functions are found by their names in a worker: they stand at the top of a module, not in the script that runs.
    """

    def __init__(
        self,
        num_workers: int = 1,
        *,
        address: str | None = None,
        num_threads: int | None = None,
        shared: tuple = (),
        progress: Progress | None = None,
    ):
        self.num_workers, self.address, self.num_threads = num_workers, address, num_threads
        self.shared, self.progress = shared, progress
        self._executor = self._life = self._ray = None

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close(at_once=error is not None)

    def results(self, function: Callable, parts: Sequence[tuple], *, here: bool = False) -> Iterator[tuple[int, Any]]:
        """(number of the part, function(*shared, *part)) of each part, in the order in which they are done.

        here: done by this process, whoever else could do it.
        UserError where a worker says so, cannot read or write a file, or dies MAX_DEATHS times in a row.
        """
        if here or (self.num_workers == 1 and self.address is None):
            return ((number, function(*self.shared, *part)) for number, part in enumerate(parts))
        return self._by_processes(function, parts) if self.address is None else self._by_ray(function, parts)

    def kept(
        self, name: str, function: Callable, parts: Sequence[tuple], *, folder: pathlib.Path, here: bool = False
    ) -> list[dict]:
        """[dict of arrays] that `function` gives for each part, in order.

        Each is kept in `folder` under `name` and its number. What is there already is read and not done again.
        """
        paths = [pathlib.Path(folder) / f"{name.replace(' ', '-')}-{number:06d}.npz" for number in range(len(parts))]
        results = {number: _load(path) for number, path in enumerate(paths) if path.is_file()}
        todo = [number for number in range(len(parts)) if number not in results]
        count = self._counting(name)
        done = len(parts) - len(todo)
        for place, result in self.results(function, [parts[number] for number in todo], here=here):
            number = todo[place]
            _save(paths[number], result)
            results[number] = {key: np.asarray(value) for key, value in result.items()}
            done += 1
            count(done, len(parts))
        if self.progress:
            self.progress.end()
        return [results[number] for number in range(len(parts))]

    def close(self, *, at_once: bool = False) -> None:
        """End the workers. at_once: with whatever they are doing."""
        if self._ray is not None:
            self._ray.close()
            self._ray = None
        self._end_processes(at_once=at_once)

    def _counting(self, name):
        if not self.progress:
            return lambda done, total: None
        self.progress.begin(name)
        return self.progress.counting("parts")

    def _say(self, text):
        if self.progress:
            self.progress.say(text, style="yellow")

    # --- processes of this machine

    def _by_processes(self, function, parts):
        todo, deaths = set(range(len(parts))), 0
        try:
            while todo:
                numbers = _after(deaths, sorted(todo))
                with _without_script():  # the executor begins a process when it is given something to do
                    futures = {self._process_pool().submit(_do, function, parts[number]): number for number in numbers}
                is_broken = False
                for future in concurrent.futures.as_completed(futures):
                    try:
                        result = future.result()
                    except BrokenProcessPool:  # one process died, and took the parts of all the others with it
                        is_broken = True
                        continue
                    except OSError as error:
                        raise UserError(f"a worker: {first_line(error)}") from None
                    deaths = 0
                    todo.remove(futures[future])
                    yield futures[future], result
                if is_broken:
                    self._end_processes(at_once=True)
                    deaths += 1
                    if deaths == MAX_DEATHS:
                        raise UserError(
                            f"a worker process died {deaths} times in a row, perhaps for want of memory; finished "
                            "parts are kept: give the same command again, with fewer --workers"
                        )
                    self._say("a worker process died: what it was doing is done again")
        finally:
            if todo:
                self._end_processes(at_once=True)

    def _process_pool(self):
        """The executor. Its processes are begun anew, not forked: this process has threads."""
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            life, self._life = context.Pipe(duplex=False)
            self._executor = concurrent.futures.ProcessPoolExecutor(
                self.num_workers, mp_context=context, initializer=_begin, initargs=(life, self.num_threads, self.shared)
            )
        return self._executor

    def _end_processes(self, *, at_once=False):
        """End the processes. at_once: with whatever they are doing; parts are written whole or not at all."""
        if self._executor is None:
            return
        if at_once:
            self._life.close()
        self._executor.shutdown(wait=True, cancel_futures=True)
        self._life.close()
        self._executor = self._life = None

    # --- a Ray cluster

    def _by_ray(self, function, parts):
        if self._ray is None:
            from zennas.ray_connection import RayPool  # ray takes seconds to import

            self._ray = RayPool(self.address, shared=self.shared, say=self._say)
        return self._ray.results(_limited, (self.num_threads, function), parts)


@contextlib.contextmanager
def _without_script():
    """A process that is begun meanwhile does not import the script that was run, as multiprocessing has it do.

    A script that calls zennas.mask(...) would be run again by each worker, but for an `if __name__ == "__main__":`.
    """
    main = sys.modules["__main__"]
    script = main.__dict__.pop("__file__", None) if getattr(main, "__spec__", None) is None else None
    try:
        yield
    finally:
        if script is not None:
            main.__file__ = script


def _after(deaths, numbers):
    """What of these parts is tried next, after so many deaths in a row.

    A death takes the parts beside it along. From the second one on a part is tried alone, from either end, so that one
    that always kills its worker does not keep the others from being done; alone it also has the memory to itself.
    """
    if deaths < MAX_DEATHS - 2:
        return numbers
    return numbers[:1] if deaths < MAX_DEATHS - 1 else numbers[-1:]


def _limited(num_threads, function, *values):
    """function(*values), by so many threads. Only here the function's module is there, and the libraries it uses."""
    if num_threads is not None:
        threadpool_limits(num_threads)
    return function(*values)


_process: list[Any] = []  # of a worker process: the threads that it may use, and the values that its pool shares


def _begin(life, num_threads, shared):
    """Begin a worker process. Ctrl-C is for the run to answer.

    life: a pipe that the run holds open; it closes when the run ends the worker and when the run itself is killed.
    """
    _process[:] = num_threads, shared
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(life,), daemon=True).start()


def _end_with(life):
    with contextlib.suppress(OSError):
        life.poll(None)
    os._exit(1)


def _do(function, part):
    num_threads, shared = _process
    return _limited(num_threads, function, *shared, *part)


def _load(path):
    with np.load(path) as file:
        return dict(file)


def _save(path, arrays):
    """Write arrays to a file that is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    with explaining(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, path)
