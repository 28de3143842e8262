"""Parts of a step, done in this process or by workers on Ray (the only file of the room that imports it), and kept
until the round is over: what a kill -9 costs is the parts under way."""

import os
import pathlib

import numpy as np

from zennas.clean.index import use_threads
from zennas.provenance import num_cores
from zennas.records import UserError, first_line
from zennas.run_folder import explaining

AHEAD = 3  # parts a worker that wait for it
WORTH_RAY = 200_000  # images from which on workers pay for the seconds in which Ray starts


class Work:
    """Runs functions over parts. `folder`: where the results are kept, which everyone who works must see."""

    def __init__(self, folder, *, num_workers=1, address=None, progress=None):
        """num_workers: processes on this machine; 1: this one alone. address: of a Ray cluster instead."""
        self.folder, self.num_workers, self.address, self.progress = (
            pathlib.Path(folder),
            num_workers,
            address,
            progress,
        )
        self._ray = None
        with explaining(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def map(self, name, function, parts, *, here=False):
        """[dict of arrays] of function(*part) for every part, in order; what is kept under `name` is not done again.

        here: by this process, whoever else could work.
        """
        found = [self._kept(name, place) for place in range(len(parts))]
        todo = [place for place, result in enumerate(found) if result is None]
        if self.progress:
            self.progress.begin(name)
            count = self.progress.counting("parts")
        done = len(parts) - len(todo)
        for place, result in self._results(function, parts, todo, here):
            found[place] = self._keep(name, place, result)
            done += 1
            if self.progress:
                count(done, len(parts))
        if self.progress:
            self.progress.end()
        return found

    def _results(self, function, parts, todo, here):
        """(place, result) as they come."""
        if here or (self.num_workers == 1 and self.address is None):
            use_threads(num_cores())
            yield from ((place, function(*parts[place])) for place in todo)
            return
        ray = self._connected()
        run, under_way, todo = ray.remote(num_cpus=1, max_retries=3)(_on_worker), {}, list(todo)[::-1]
        try:
            while todo or under_way:
                while todo and len(under_way) < AHEAD * self.num_workers:
                    place = todo.pop()
                    under_way[run.remote(function, parts[place])] = place
                (task,), _ = ray.wait(list(under_way), num_returns=1)
                place = under_way.pop(task)
                try:
                    yield place, ray.get(task)
                except ray.exceptions.RayTaskError as error:
                    if isinstance(error.cause, UserError | OSError):
                        raise UserError(
                            f"a worker: {first_line(error.cause)}; with --address every node must see the data, "
                            f"--out and "
                            "ZENNAS_CACHE under the same paths"
                        ) from None
                    raise
                except ray.exceptions.RayError as error:
                    raise UserError(
                        f"a worker died four times at part {place}: {first_line(error)}; the same command goes on "
                        f"from there"
                    ) from None
        finally:
            for task in under_way:
                ray.cancel(task, force=True)

    def _connected(self):
        if self._ray is None:
            import ray

            from zennas.ray_connection import connect

            connect(self.address, say=self.progress.say if self.progress else print, num_cpus=self.num_workers)
            if self.address is not None:
                self.num_workers = max(1, int(ray.cluster_resources().get("CPU", 1)))
            self._ray = ray
        return self._ray

    def close(self):
        """End what was started."""
        if self._ray is not None:
            self._ray.shutdown()
            self._ray = None

    def _path(self, name, place):
        return self.folder / f"{name.replace(' ', '-')}-{place:06d}.npz"

    def _kept(self, name, place):
        path = self._path(name, place)
        if not path.is_file():
            return None
        with np.load(path) as file:
            return dict(file)

    def _keep(self, name, place, result):
        path = self._path(name, place)
        temporary = path.with_name(f".{path.name}.tmp")
        with explaining(self.folder):
            with open(temporary, "wb") as file:
                np.savez(file, **result)
            os.replace(temporary, path)
        return {key: np.asarray(value) for key, value in result.items()}


def _on_worker(function, part):
    use_threads(1)
    return function(*part)


def wanted_workers(num, num_images):
    """How many processes are worth their start: all cores where nobody says, and one for what takes seconds."""
    if num is not None:
        return num
    return num_cores() if num_images >= WORTH_RAY else 1
