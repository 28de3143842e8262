"""The work of `zennas export`."""

import dataclasses
import json
import pathlib
from typing import Any

import torch
import yaml

from zennas.embed.checkpoint import NETWORK, Checkpoint, file_of, read_checkpoint, save_network
from zennas.embed.model import fingerprint_of
from zennas.embed.named import name_of
from zennas.export.onnx_file import Export, Proof, export, fold
from zennas.export.options import Options
from zennas.latency.backends import takes_network
from zennas.latency.budget import JudgedLatency, choose_protocol, judged
from zennas.latency.inputs import calibration
from zennas.latency.protocol import measure_calmly
from zennas.progress import Progress, silent
from zennas.provenance import Provenance, provenance
from zennas.records import Record, UserError, first_line
from zennas.run_folder import lock_folder, open_run, write_atomically
from zennas.space.cost import cost
from zennas.space.families.family import BuiltNetwork
from zennas.space.space import Space
from zennas.tasks.table import task_of
from zennas.track import Track, load_experiment
from zennas.train.finish import MODEL, budget_here, zero_tiny

CANDIDATE, RECORD = "candidate.yaml", "export.json"
OURS = "a zennas checkpoint"


@dataclasses.dataclass(frozen=True)
class Request:
    """An export as it is done."""

    model: pathlib.Path  # a file
    asked_track: str  # as the user gave it
    track: Track
    space: Space  # the experiment's, for whose images other commands take candidates
    task: str  # a row of TASKS
    out: pathlib.Path
    colour: str
    latency: bool
    budget_ms: float | None
    backend: str | None
    fresh: bool


class Exported(Record):
    """What `export` returns, and export.json holds."""

    model: str
    read_as: str  # what its weights are named as
    place: str  # where in the file they lie; empty: they are all of it
    left_aside: tuple[str, ...]  # what else the file holds
    track: str
    candidate: dict[str, Any]
    text: str  # the candidate's
    params: int
    macs: int
    num_blocks: int
    megabytes: float  # of model.onnx
    image: tuple[int, int, int]  # channels, height, width
    embedding_size: int
    colour: str  # that it was trained on; what is written takes RGB
    proof: Proof  # that model.onnx answers as PyTorch does
    zeroed_weights: int  # that were nearer to zero than what slows a processor down
    checker: tuple[str, ...]  # why the track's challenge would refuse model.onnx
    latency: JudgedLatency | None
    budget_origin: str | None  # how the budget came about
    files: dict[str, str]  # what for -> path
    next: tuple[tuple[str, ...], ...]  # commands, as words, that judge it, hand it in, train it further and score it
    made_by: Provenance


def check(options: Options) -> Request:
    """The Request of these options; UserError for what cannot be used. No weight is read, nothing is written."""
    experiment, track, space = load_experiment(options.track)
    choose_protocol(track, options.backend)
    if not options.latency and (options.budget_ms is not None or options.backend is not None):
        raise UserError("--budget-ms and --backend are about the latency; leave --no-latency out")
    try:
        file = file_of(options.model)
    except UserError as error:
        raise UserError(f"--model {error}") from None
    return Request(
        model=file,
        asked_track=options.track,
        track=track,
        space=space,
        task=experiment.task,
        out=options.out or pathlib.Path("runs") / f"{name_of(file)}-exported",
        colour=options.colour,
        latency=options.latency,
        budget_ms=options.budget_ms,
        backend=options.backend,
        fresh=options.fresh,
    )


def run(options: Options, *, progress: Progress | None = None) -> Exported:
    """Read a network, write it in every form, and measure it."""
    progress = progress or silent()
    request = check(options)
    lock = lock_folder(request.out)
    try:
        return _export(request, progress)
    finally:
        progress.end()
        lock.release()


def _export(request: Request, progress: Progress) -> Exported:
    progress.begin(f"reading {request.model}")
    progress.update({})
    checkpoint = read(request)
    network, out = checkpoint.network, request.out
    settings = {"command": "export", "network": fingerprint_of(network)}
    open_run(out, settings, start={}, fresh=request.fresh)
    num_tiny = zero_tiny(network)
    progress.begin(f"exporting {network.candidate.text}")
    progress.update({})
    exported = _as_onnx(request, network)
    write_atomically(out / CANDIDATE, yaml.safe_dump(network.candidate.plain(), sort_keys=False))
    save_network(out / NETWORK, network)
    write_atomically(out / MODEL, exported.onnx_bytes)
    latency, origin = _latency(request, network, exported, progress) if request.latency else (None, None)
    spent, backbone = cost(network.candidate, network.shape), checkpoint.backbone
    record = Exported(
        model=str(request.model),
        read_as=backbone.naming.title if backbone else OURS,
        place=backbone.place if backbone else "",
        left_aside=backbone.left_aside if backbone else (),
        track=request.track.name,
        candidate=network.candidate.plain(),
        text=network.candidate.text,
        params=spent.params,
        macs=spent.macs,
        num_blocks=network.candidate.num_blocks,
        megabytes=round(exported.megabytes, 2),
        image=network.shape.image,
        embedding_size=network.shape.embedding_size,
        colour=request.colour,
        proof=exported.proof,
        zeroed_weights=num_tiny,
        checker=tuple(task_of(request.task).problems(request.track, exported.onnx_bytes)),
        latency=latency,
        budget_origin=origin,
        files={"candidate": str(out / CANDIDATE), "checkpoint": str(out / NETWORK), "onnx": str(out / MODEL)},
        next=_next(request, network),
        made_by=provenance(),
    )
    write_atomically(out / RECORD, json.dumps(record.model_dump(mode="json"), indent=2) + "\n")
    return record


def _next(request: Request, network: BuiltNetwork) -> tuple[tuple[str, ...], ...]:
    """Commands to go on with, as words: those that take a candidate at the track's own images, where it is for such."""
    out, track = request.out, ["--track", request.asked_track]
    commands = [*task_of(request.task).next_commands(request)]
    if network.shape.image == request.space.shape.image:
        commands += [
            ["python", "-m", "zennas.train", *track, "--from", str(out / NETWORK), "--data", "DATA"],
            ["python", "-m", "zennas.score", str(out / CANDIDATE), *track],
        ]
    return tuple(map(tuple, commands))


def read(request: Request) -> Checkpoint:
    """The Checkpoint in a file, its network turned round to RGB where it was trained on BGR."""
    try:
        checkpoint = read_checkpoint(request.model)
    except UserError as error:
        raise UserError(f"--model {error}") from None
    network = checkpoint.network
    if request.colour == "bgr":
        if network.shape.channels != 3:
            raise UserError(f"--colour bgr: {request.model} takes images of {network.shape.channels} channel(s)")
        first = next(layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d))
        with torch.no_grad():
            first.weight.copy_(first.weight.flip(1))
    return checkpoint


def _as_onnx(request: Request, network: BuiltNetwork) -> Export:
    """The Export of a network in the precision of the track."""
    protocol, _ = choose_protocol(request.track, request.backend)
    metadata = {
        "zennas": json.dumps(provenance().model_dump()),
        "candidate": network.candidate.text,
        "trained": "yes",
    }
    try:
        return export(
            network,
            network.shape,
            metadata=metadata,
            precision=protocol.precision,
            calibration_BCHW=calibration(protocol.input, network.shape.image),
        )
    except RuntimeError as error:
        raise UserError(f"--model {request.model}: cannot be exported: {first_line(error)}") from None


def _latency(
    request: Request, network: BuiltNetwork, exported: Export, progress: Progress
) -> tuple[JudgedLatency, str]:
    """The network's latency by the track's rule, and how the budget beside it came about."""
    protocol, budget = budget_here(request, progress)
    progress.begin(f"measuring {network.candidate.text}")
    measurement = measure_calmly(
        fold(network) if takes_network(protocol.backend) else exported.onnx_bytes,
        protocol,
        progress=progress.counting("runs"),
    )
    progress.end()
    return judged(measurement, budget), budget.origin
