"""Scorers and the measuring device, on Ray: the only file of the search that imports it.

Locally a private Ray of this process, with one processor per scorer; with an address the cluster that runs there.
Latency is measured on one node that carries the resource 'latency_device' (or 'latency_device:NAME'; locally: this
machine), one measurement at a time (for the node's GPUs and all of its tags are held), and nothing scores on that
machine beside it (latency/quiet.py).
"""

import contextlib
import math
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from zennas.latency.protocol import Measurement
from zennas.latency.quiet import scoring, trouble
from zennas.provenance import machine_name, num_cores
from zennas.ray_connection import PATIENCE_S, connect, keep_off_standard_output, result_of, why_lost
from zennas.records import UserError, first_line
from zennas.score.limits import memory_limit
from zennas.score.scores import Scored, score_batch
from zennas.space.candidate import Candidate
from zennas.space.shape import Shape
from zennas.track import Protocol, ScorePlan, SearchPlan

DEVICE_RESOURCE = "latency_device"
# A worker that dies takes its batch with it. Once is an accident, and the batch is scored again; at the second time it
# is split, down to the candidate that kills, which three deaths in all convict.
ACCIDENTS, CONVICTED, SPLIT = 1, 3, 8
LOST_NODES = 20  # that a batch may lose its workers to, which says nothing against its candidates
MEASURING_TRIES = 3
WARM_UP_S = 0.5  # that a first task holds its scorer, so that the next one wants another
LEAST_MEMORY_BYTES = 2**31  # a scorer at work takes a few hundred megabytes


class MeasuringError(RuntimeError):
    """The process that measured died again and again."""


class Piece:
    """Some of a job's candidates in one task of Ray."""

    def __init__(self, places: Sequence[int], *, deaths: int = 0, alone: bool = False):
        self.places, self.deaths, self.lost, self.alone, self.kind, self.task = places, deaths, 0, alone, None, None


class Job:
    """Candidates on their way: what `submit` gives and `results` takes."""

    def __init__(self, candidates: list[Candidate], arguments: tuple):
        self.candidates, self.arguments = candidates, arguments
        self.scored = [None] * len(candidates)
        self.pieces = [Piece(range(len(candidates)))]


class Kind:
    """Scorers of one kind: on a processor, or on a share of a GPU."""

    def __init__(self, device: str, num: int, **options: Any):
        self.device, self.num, self.under_way = device, num, 0
        self.run = ray.remote(num_cpus=1, max_retries=0, **options)(_score_batch)


class Workers:
    """A connection to Ray. `submit` gives jobs; the caller takes their results in the order that it likes."""

    def __init__(
        self,
        num_workers: int | None = None,
        *,
        address: str | None = None,
        device: str | None = None,
        plan: SearchPlan | None = None,
        say: Callable[[str], None] | None = None,
    ):
        """device: measure on nodes that carry 'latency_device:DEVICE'. plan: says what a candidate may take.

        say(text): told of every worker and node that died.
        """
        self.local, self.say, self.plan = address is None, say or (lambda text: None), plan
        keep_off_standard_output()  # `say` says in one line that a process died
        tag = device_resource(device)
        if self.local:
            num_workers = num_workers or num_cores()
        connect(address, say=self.say, num_cpus=num_workers, resources={tag: 1})
        self.tag, self._nodes, self._machines = tag, {}, {}
        self._waited_s = self._told_s = 0.0  # since a scorer last answered; of it until this was said
        try:
            self._on_device = ray.remote(max_retries=0)(_call)
            self._beside = ray.remote(num_cpus=1, max_retries=0)(_aside)
            self._find_device(tag)
            self.kinds = self._scorers(num_workers)
            self.num_workers = sum(kind.num for kind in self.kinds)
            if why := trouble():
                self.say(f"other runs on this machine may score beside a measurement: {why}")
        except BaseException:  # nobody holds these workers yet, and a process that stays connected cannot search again
            ray.shutdown()
            raise

    # --- scoring --------------------------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Start the scorers' processes, and import what they need, so that no measurement is disturbed by it.

        UserError where they cannot run zennas, as on a node without it.
        """
        tasks = [
            kind.run.remote([], None, None, 0, None, kind.device, None) for kind in self.kinds for _ in range(kind.num)
        ]
        for number, task in enumerate(tasks):
            try:
                result_of(task, f"scorers to begin ({number} of {len(tasks)} did)", self.say)
            except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
                raise UserError(
                    f"a worker cannot run zennas: {first_line(getattr(error, 'cause', None) or error)}; every node of "
                    "a cluster needs the same zennas and Python, or a runtime environment that brings them"
                ) from None
            except ray.exceptions.RayError as error:  # what it is given to do is given to another
                self.say(f"{why_lost(error)} before its first task")

    def submit(
        self, candidates: Iterable[Candidate], plan: ScorePlan, *, shape: Shape, seed: int, repeats: int | None = None
    ) -> Job:
        """A Job on [Scored] of these candidates, whose networks are for a Shape."""
        job = Job(list(candidates), (plan, shape, seed, repeats))
        self._send(job, job.pieces[0])
        return job

    def results(self, job: Job, num: int) -> list[Scored]:
        """Wait for the `num` candidates of a Job: [Scored].

        A candidate whose worker died or did not come to an end is scored again. If that happens again and again, the
        candidate failed, and the reason is in its row.
        """
        while not self.ready(job):
            self.wait(job, 1.0)
        assert len(job.scored) == num
        return job.scored

    def ready(self, job: Job) -> bool:
        """Whether `results` would give an answer at once."""
        for piece in list(job.pieces):
            if ray.wait([piece.task], timeout=0)[0]:
                self._receive(job, piece)
        return not job.pieces

    def wait(self, job: Job, seconds: float) -> None:
        """Wait for some of a Job, at most this long. Says each minute that no scorer answers."""
        if job.pieces:
            begun = time.monotonic()
            ray.wait([piece.task for piece in job.pieces], timeout=max(0, seconds))
            self._waited_s += time.monotonic() - begun
            if self._waited_s - self._told_s >= PATIENCE_S:
                self._told_s = self._waited_s
                self.say(
                    f"waiting for a scorer for {self._waited_s:.0f} s: another run that measures, or holds the "
                    "processors, makes it wait, too"
                )

    def _send(self, job, piece):
        piece.kind = min(self.kinds, key=lambda kind: kind.under_way / kind.num)
        piece.kind.under_way += 1
        candidates = [job.candidates[place] for place in piece.places]
        limits = {"alone": piece.alone, "limit_s": self.plan and self.plan.candidate_timeout_s}
        limits |= {"memory_bytes": self._memory_bytes}
        piece.task = piece.kind.run.remote(candidates, *job.arguments, piece.kind.device, limits)

    def _receive(self, job, piece):
        piece.kind.under_way -= 1
        self._waited_s = self._told_s = 0.0
        try:
            scored = ray.get(piece.task)
        except ray.exceptions.RayTaskError as error:
            scored = [Scored(None, 0.0, 0.0, "score", f"{type(error.cause).__name__}: {first_line(error.cause)}")]
            scored *= len(piece.places)
        except ray.exceptions.RayError as error:
            self._again(job, piece, error)
            return
        job.pieces.remove(piece)
        for place, result in zip(piece.places, scored, strict=True):
            job.scored[place] = result

    def _again(self, job, piece, error):
        """Send a piece again whose worker died: whole, in smaller pieces, or no more."""
        num, reason = len(piece.places), why_lost(error)
        innocent = isinstance(error, (ray.exceptions.NodeDiedError, ray.exceptions.ObjectLostError))
        piece.deaths, piece.lost = piece.deaths + (not innocent), piece.lost + innocent
        if piece.deaths < (CONVICTED if num == 1 else 1 + ACCIDENTS) and piece.lost <= LOST_NODES:
            self.say(f"{reason} while {_counted(num)} were scored: they are scored again")
            self._send(job, piece)
            return
        job.pieces.remove(piece)
        if num == 1 or piece.lost > LOST_NODES:
            text = f"WorkerDied: {reason}, {piece.deaths + piece.lost} times"
            for place in piece.places:
                job.scored[place] = Scored(None, 0.0, 0.0, "score", text)
            return
        self.say(f"{reason} again while {_counted(num)} were scored: they are scored in smaller parts, each alone")
        size = math.ceil(num / SPLIT)
        for places in _batched(piece.places, size):
            smaller = Piece(places, deaths=ACCIDENTS, alone=True)
            job.pieces.append(smaller)
            self._send(job, smaller)

    def _scorers(self, num_workers):
        """[Kind] of the scorers.

        Locally they are `num_workers` that share the GPUs; in a cluster they are its GPUs and processors.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        self._memory_bytes = self._memory_of(nodes)
        if self.local:
            gpus = int(nodes[0].get("GPU", 0))
            share = {"num_gpus": 1 / math.ceil(num_workers / gpus)} if gpus else {}
            return [Kind("cuda" if gpus else "cpu", num_workers, **share)]
        per_gpu = self.plan.scorers_per_gpu
        cpus = sum(int(node.get("CPU", 0)) for node in nodes)
        # A scorer on a GPU holds a processor of the same node.
        on_gpus = sum(min(int(node.get("GPU", 0)) * per_gpu, int(node.get("CPU", 0))) for node in nodes)
        on_gpus = min(on_gpus, num_workers or on_gpus)
        on_cpus = max(0, (num_workers or cpus) - on_gpus)
        if not cpus:
            raise UserError(
                "the Ray cluster has no processor for a scorer; give its nodes some with: ray start --num-cpus N"
            )
        # Round the nodes: Ray otherwise fills the one it is asked on first, and short tasks never leave it.
        spread = {"scheduling_strategy": "SPREAD"}
        kinds = [Kind("cuda", on_gpus, num_gpus=1 / per_gpu, **spread)] if on_gpus else []
        return kinds + ([Kind("cpu", on_cpus, **spread)] if on_cpus else [])

    def _memory_of(self, nodes):
        """The bytes that a scorer may take: its share of the smallest node, as Ray knows it, containers included."""
        if self.plan and self.plan.candidate_memory_gb:
            return int(self.plan.candidate_memory_gb * 2**30)
        shares = [node["memory"] / node["CPU"] for node in nodes if node.get("CPU") and node.get("memory")]
        return max(LEAST_MEMORY_BYTES, int(min(shares, default=0)))

    # --- measuring ------------------------------------------------------------------------------------------------

    @property
    def machine(self) -> str:
        """The name of the machine that measures the run's own latency."""
        return self._machines[self.tag]

    def has_device(self, name: str) -> bool:
        """Whether a node of the cluster owns a further device of this name."""
        return not self.local and bool(self._owners(device_resource(name)))

    def machine_of(self, name: str) -> str:
        """The name of the machine that owns a further device."""
        self._find_device(device_resource(name))
        return self._machines[device_resource(name)]

    def on_device(self, function: Callable, *arguments: Any, device: str | None = None, **keywords: Any) -> Any:
        """function(*arguments, **keywords), run on the node that owns the latency device, alone; raises what it raises.

        device: the name of a further one, in place of the run's own.
        """
        return self._on_node(self.tag if device is None else device_resource(device), function, arguments, keywords)

    def _on_node(self, tag, function, arguments, keywords):
        for attempt in range(1, MEASURING_TRIES + 1):
            has = self._nodes[tag]["Resources"]
            tags = {name: amount for name, amount in has.items() if _is_tag(name)}  # two on one node exclude each other
            # In a cluster no processors: a task that wants all of a node's waits for as long as other drivers keep some
            # busy, and what scores there stands aside by quiet.py. Alone it takes them, and so one of the scorers'
            # processes.
            held = {
                "num_cpus": has.get("CPU", 0) if self.local else 0,
                "num_gpus": has.get("GPU", 0),
                "resources": tags,
            }
            only_there = NodeAffinitySchedulingStrategy(self._nodes[tag]["NodeID"], soft=False)
            task = self._on_device.options(**held, scheduling_strategy=only_there)
            machine = self._machines.get(tag, f"the node with '{tag}'")
            what = f"a measurement on {machine}, which is long or waits until another run leaves the device"
            try:
                return result_of(task.remote(function, arguments, keywords), what, self.say)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                reason = why_lost(error)
                if attempt == MEASURING_TRIES:
                    raise MeasuringError(f"the measuring process died {attempt} times: {reason}") from None
                self.say(f"{reason} while it measured: measured again")
                self._find_device(tag)

    def at_once(self, function: Callable, calls: Sequence[tuple], *, measures: bool = False) -> list[Any]:
        """[function(*arguments), or the exception that it raised] of each call, side by side on this machine's
        processors. One after the other in this process where the workers are a cluster's, which may lack its files.

        measures: it times something itself, and stands aside itself where it does not.
        """
        if not self.local:
            return [_answer(function, arguments) for arguments in calls]
        tasks = [self._beside.remote(function, arguments, measures) for arguments in calls]
        answers = []
        for arguments, task in zip(calls, tasks, strict=True):
            try:
                answers.append(result_of(task, "what is made beside the search", self.say))
            except ray.exceptions.RayError as error:  # the process died; ours may live
                self.say(f"{why_lost(error)} beside the search: done again here")
                answers.append(_answer(function, arguments))
        return answers

    def measure_file(
        self, measure: Callable, path: pathlib.Path, protocol: Protocol, *, device: str | None = None
    ) -> Measurement:
        """measure(onnx, protocol) on the device. Where the device is not this machine, the file travels."""
        return self.on_device(measure, str(path) if self.local else path.read_bytes(), protocol, device=device)

    @staticmethod
    def _owners(tag):
        return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get(tag)]

    def _find_device(self, tag):
        """Choose the node to measure on. After the first measurement it stays that node, or one of the same kind."""
        nodes = self._owners(tag)
        if not nodes:
            has = sorted({name for node in ray.nodes() if node["Alive"] for name in node["Resources"] if _is_tag(name)})
            raise UserError(
                f"no node of the cluster carries the resource '{tag}', on which latency is measured "
                f"(there: {', '.join(has) or 'none'}); start the node that owns the device with: "
                f"ray start --resources '{{\"{tag}\": 1}}' --num-cpus 0 ..."
            )
        if tag in self._nodes and self._nodes[tag]["NodeID"] in {node["NodeID"] for node in nodes}:
            return
        self._nodes[tag] = min(nodes, key=lambda node: node["NodeID"])
        before, machine = self._machines.get(tag), self._on_node(tag, machine_name, (), {})
        if before not in (None, machine):
            raise UserError(
                f"the node that measured ({before}) is gone, and {machine}, which carries '{tag}' too, is another "
                "kind of machine: what they measure cannot be compared; start the first one again, then the same "
                "command"
            )
        self._machines[tag] = machine

    def close(self) -> None:
        ray.shutdown()


def device_resource(name: str | None) -> str:
    """The name of the Ray resource of a node that owns a latency device.

    >>> device_resource(None), device_resource("xeon")
    ('latency_device', 'latency_device:xeon')
    """
    return DEVICE_RESOURCE if name is None else f"{DEVICE_RESOURCE}:{name}"


def _is_tag(name):
    return name.split(":")[0] == DEVICE_RESOURCE


def _counted(num):
    return f"{num} candidate{'s' * (num != 1)}"


def _batched(values, size):
    return [values[at : at + size] for at in range(0, len(values), size)]


def _score_batch(candidates, plan, shape, seed, repeats, device, limits):
    torch.set_num_threads(1)  # Ray sets OMP_NUM_THREADS=1, which a user's environment may override
    if not candidates:
        time.sleep(WARM_UP_S)
        return []
    # A GPU's driver reserves addresses by the hundred gigabytes.
    with scoring(), memory_limit(limits["memory_bytes"] if device == "cpu" else None):
        return score_batch(
            candidates,
            plan,
            shape,
            seed=seed,
            repeats=repeats,
            device=device,
            limit_s=limits["limit_s"],
            alone=limits["alone"],
        )


def _aside(function, arguments, measures):
    """As `_answer`, on one processor, and not while anything on this machine is measured."""
    torch.set_num_threads(1)
    with contextlib.nullcontext() if measures else scoring():
        return _answer(function, arguments)


def _answer(function, arguments):
    """What a call gives, or the exception that it raises: one that fails takes no other with it."""
    try:
        return function(*arguments)
    except Exception as error:  # noqa: BLE001 - handed to the caller
        return error


def _call(function, arguments, keywords):
    return function(*arguments, **keywords)
