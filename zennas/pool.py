"""A pool: a function done over many parts, by this process, by processes of this machine, or by a Ray cluster; and
processes that work ahead of this one, over parts without an end (`ahead_of`).

A worker of a pool that dies is replaced and its parts are done again. Ctrl-C ends the workers at once, and so does
the end of the run that started them, however it ends. `kept` keeps every part as a file: what was done is not done
again.
"""

import collections
import contextlib
import functools
import itertools
import multiprocessing
import os
import pathlib
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing import connection, reduction
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from zennas.progress import Progress
from zennas.records import ProcessLostError, UserError, first_line
from zennas.run_folder import explaining
from zennas.signals import STOP

AHEAD = 2  # parts that wait for each process that works ahead
PATIENCE_S = 60.0  # of waiting in silence for another process
ENDING_S = 10.0  # that a process which was killed, or died, takes to be gone
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
        self._ray = None
        self._given: dict[_Worker, collections.deque[int]] = {}  # the numbers of the parts of each worker, in order

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.close()

    def results(self, function: Callable, parts: Sequence[tuple], *, here: bool = False) -> Iterator[tuple[int, Any]]:
        """(number of the part, function(*shared, *part)) of each part, in the order in which they are done.

        here: done by this process, whoever else could do it.
        UserError where a worker says so or cannot read or write a file; ProcessLostError where workers die MAX_DEATHS
        times in a row.
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

    def close(self) -> None:
        """End the workers, with whatever they are doing; parts are written whole or not at all."""
        if self._ray is not None:
            self._ray.close()
            self._ray = None
        self._end(list(self._given))

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
        todo, deaths, beside = collections.deque(range(len(parts))), 0, set()
        try:
            while todo or any(self._given.values()):
                self._give(function, parts, todo, deaths)
                for worker in self._answering():
                    numbers = self._given[worker]
                    try:
                        result = worker.receive()
                    except ProcessLostError as error:
                        # What ends several at once, as a lack of memory does, counts once.
                        deaths += worker not in beside
                        beside |= {busy for busy, given in self._given.items() if given}
                        todo.append(numbers.popleft())  # at this part it died: the others have a chance before it
                        todo.extendleft(reversed(numbers))
                        self._end([worker])
                        if deaths == MAX_DEATHS:
                            raise ProcessLostError(
                                f"{error}; workers died {deaths} times in a row, perhaps for want of memory; finished "
                                "parts are kept: give the same command again, with fewer --workers"
                            ) from None
                        self._say(f"{error}: what it was doing is done again")
                        continue
                    deaths = 0
                    beside.discard(worker)
                    yield numbers.popleft(), result
        finally:
            self._end([worker for worker, numbers in self._given.items() if numbers])

    def _give(self, function, parts, todo, deaths):
        """Give the workers some of what is left to do, after so many deaths in a row.

        From the second death on a part is tried alone, from either end, so that one that always kills its worker does
        not keep the others from being done; alone it also has the memory to itself.
        """
        if deaths >= MAX_DEATHS - 2:
            if not any(self._given.values()):
                self._end(list(self._given))
                self._give_one(self._begin(), function, parts, todo.popleft if deaths < MAX_DEATHS - 1 else todo.pop)
            return
        num_busy = sum(map(bool, self._given.values()))
        while len(self._given) < min(self.num_workers, num_busy + len(todo)):  # all begin before one is waited for
            self._begin()
        for num_given in range(AHEAD):
            for worker, numbers in self._given.items():
                # Near the end none waits behind another: a worker without work would look on.
                if len(numbers) == num_given and len(todo) > num_given * self.num_workers:
                    self._give_one(worker, function, parts, todo.popleft)

    def _give_one(self, worker, function, parts, take):
        number = take()
        self._given[worker].append(number)
        worker.give((function, parts[number]))

    def _begin(self):
        """A further worker. Its process is begun anew, not forked: this process has threads."""
        begin = functools.partial(_keep, self.num_threads, self.shared)
        with _beginning("a worker", "--workers 1"):
            worker = _Worker(_do, begin, "a worker", multiprocessing.get_context("spawn"))
        self._given[worker] = collections.deque()
        return worker

    def _answering(self):
        """The workers that have a result, or are gone. Says each minute that they are waited for."""
        worker_of = {worker.results: worker for worker, numbers in self._given.items() if numbers}
        begun = time.monotonic()
        while not (ready := connection.wait(list(worker_of), PATIENCE_S)):
            waited_s = time.monotonic() - begun
            self._say(f"waiting for {len(worker_of)} worker process(es) for {waited_s:.0f} s, which have a part each")
        return [worker_of[results] for results in ready]

    def _end(self, workers):
        for worker in workers:
            del self._given[worker]
            worker.end()

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


def ahead_of(
    function: Callable,
    parts: Iterable[tuple],
    *,
    num_workers: int,
    what: str,
    instead: str,
    begin: Callable[[], None],
    say: Callable[[str], None] | None = None,
) -> Iterator[Any]:
    """function(*part) of each part, in the order of the parts, done by processes that keep a little ahead of whoever
    takes them; they end when the iterator is closed, with whatever they are doing.

    what: the processes in a word, instead: how to do without them, both for messages. begin: called first in each.
    say(text): told when one is waited for long. Ctrl-C and SIGTERM are this process's to answer.
    UserError where the function raises one or cannot read a file; ProcessLostError where a process dies or cannot
    begin.
    """
    workers, todo, given = [], iter(parts), collections.deque()
    try:
        with _beginning(what, instead):
            for _ in range(num_workers):
                workers.append(_Worker(function, begin, what, multiprocessing.get_context()))
        for worker, part in zip(AHEAD * workers, todo):  # noqa: B905 - there may be fewer parts
            worker.give(part)
            given.append(worker)
        while given:
            worker = given.popleft()
            result = worker.take(say)
            for part in itertools.islice(todo, 1):
                worker.give(part)
                given.append(worker)
            yield result
    finally:
        for worker in workers:
            worker.end()


class _Worker:
    """A process that does a function over the parts that it is given, one after the other.

    It has two pipes of its own, of which this process keeps one end each. So nothing goes through shared memory, of
    which a container may have little, or a socket in a folder with a long name; and a death is seen at once, also in
    the middle of a result: an executor of concurrent.futures, whose workers share a pipe, would wait for the rest.
    """

    def __init__(self, function, begin, what, context):
        self.what = what
        parts, self._parts = context.Pipe(duplex=False)
        self.results, results = context.Pipe(duplex=False)
        # A forked process has these ends, too. If it kept them it would not see this one end.
        inherited = (self._parts, self.results) if context.get_start_method() == "fork" else ()
        given = (parts, results, inherited, function, begin)
        self._process = context.Process(target=_work, args=given, daemon=True)
        try:
            with _without_script():
                self._process.start()
        finally:
            parts.close()
            results.close()

    def give(self, part):
        with contextlib.suppress(OSError):  # it died: whoever takes its result is told
            self._parts.send(part)

    def take(self, say):
        """What came of the part that it was given first. Says each minute that it is waited for."""
        begun = time.monotonic()
        while not self.results.poll(PATIENCE_S):
            if say:
                waited_s = time.monotonic() - begun
                say(f"waiting for {self.what} for {waited_s:.0f} s: does the storage of the data answer?")
        return self.receive()

    def receive(self):
        """As `take`, where there is something to receive: a result or the end of the process."""
        try:
            kind, value = self.results.recv()
        except (EOFError, OSError):
            self._process.join(ENDING_S)
            code = self._process.exitcode
            how = "does not answer" if code is None else how_it_ended(code)
            raise ProcessLostError(f"{self.what} ({self._process.pid}) {how}") from None
        if kind is UserError:
            raise UserError(value)
        if kind is OSError:
            raise UserError(f"{self.what}: {value}")
        if kind is MemoryError:
            raise ProcessLostError(f"{self.what} ({self._process.pid}) has no memory left: {value}")
        if kind is not None:  # a mistake of ours
            raise RuntimeError(f"in {self.what}:\n{value}")
        return value

    def end(self):
        """End it, whatever it is doing."""
        self._process.kill()
        self._process.join(ENDING_S)
        self._parts.close()
        self.results.close()


def _work(parts, results, inherited, function, begin):
    """The whole life of a _Worker's process."""
    for end in inherited:
        end.close()
    for number in STOP:
        signal.signal(number, signal.SIG_IGN)
    waiting = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(parts, waiting), daemon=True).start()
    begin()
    while True:
        answer = _answer(function, waiting.get())
        try:
            results.send_bytes(answer)
        except OSError:
            os._exit(1)


def _answer(function, part):
    """(None, what the function gives) or (kind of its error, what it says), pickled."""
    try:
        return reduction.ForkingPickler.dumps((None, function(*part)))
    except (UserError, OSError, MemoryError) as error:
        kind = next(kind for kind in (UserError, OSError, MemoryError) if isinstance(error, kind))
        answer = kind, str(error) if kind is UserError else first_line(error)
    except Exception:  # noqa: BLE001 - the run raises it
        answer = Exception, traceback.format_exc()
    return reduction.ForkingPickler.dumps(answer)


def _receive(parts, waiting):
    """Take parts in at any time, so that no run waits to give one to a worker that waits to give a result. Ends the
    process where the run has ended, however it did."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            waiting.put(parts.recv())
    os._exit(1)


@contextlib.contextmanager
def _beginning(what, instead):
    """ProcessLostError where a process cannot begin in the block."""
    try:
        yield
    except OSError as error:
        raise ProcessLostError(f"{what} cannot begin: {first_line(error)}; make room, or give {instead}") from None


def how_it_ended(code: int) -> str:
    """What became of a process, by the exit code that subprocess and multiprocessing give it.

    >>> how_it_ended(3), how_it_ended(-9)
    ('ended with exit code 3', 'was killed (SIGKILL), as the system does where memory runs out')
    """
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    hints = {
        "SIGKILL": ", as the system does where memory runs out",
        "SIGBUS": ", as where a disk or /dev/shm is full or a file that is read becomes shorter",
        "SIGSEGV": ": a library crashed",
        "SIGABRT": ": a library gave up",
        "SIGILL": ": a library was built for another processor",
    }
    return f"was killed ({name}){hints.get(name, '')}"


def _limited(num_threads, function, *values):
    """function(*values), by so many threads. Only here the function's module is there, and the libraries it uses."""
    if num_threads is not None:
        threadpool_limits(num_threads)
    return function(*values)


_process: list[Any] = []  # of a worker process: the threads that it may use, and the values that its pool shares


def _keep(num_threads, shared):
    _process[:] = num_threads, shared


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
