"""Budgets that travel: what a track's time limit is worth on this machine, through a network measured on both."""

import json
import pathlib
import re
from collections.abc import Callable

import filelock
import torch

from zennas.checker import precision_of
from zennas.export.onnx_file import Export, export, fold
from zennas.latency.backends import check_precision, device_of, fix_input_px, missing, takes_network
from zennas.latency.inputs import calibration, check_input, given_images, images_of
from zennas.latency.protocol import Measurement, measure_calmly, ms_text
from zennas.latency.table import kept_folder, runtime_of, table_name
from zennas.progress import Progress
from zennas.provenance import machine_name, versions
from zennas.records import Record, UserError, first_line
from zennas.run_folder import write_atomically
from zennas.space.candidate import Candidate
from zennas.space.families.table import graph_of
from zennas.space.network import build, calibrate, calibrate_embedding
from zennas.space.shape import Shape, Sized
from zennas.track import Protocol, Track

CANDIDATE_TEXT = re.compile(r"(?P<kind>[\w/+.]+)-(?P<stem>\d+)(?P<stages>(-\d+x\d+)+)")  # Candidate.text


class LocalBudget(Record):
    """The milliseconds that the recognition network may take on this machine, and how they came about."""

    budget_ms: float
    origin: str  # a sentence
    stand_in: str | None  # a sentence where another kind of device stands in for the track's
    scale: float | None  # this machine's milliseconds per millisecond of the track's machine; None with --budget-ms
    reference_ms: float | None  # the reference network, measured here


class JudgedLatency(Record):
    """A network's latency beside the budget, as results.json, winners.json and result.json have it; milliseconds."""

    measured_ms: float  # the run that the protocol counts
    median_ms: float
    spread_pct: float  # the distance between the quartiles, of the median
    budget_ms: float
    within_budget: bool
    stand_in: str | None  # a sentence where another kind of device stands in for the track's
    warning: str | None  # a sentence where the runs spread too far to trust the value
    raw_ms: tuple[float, ...]  # in the order in which they were taken
    protocol: Protocol
    machine: str
    date: str
    versions: dict[str, str]
    load_average: float


def choose_protocol(
    track: Track, backend: str | None = None, *, images: pathlib.Path | None = None, batch: int | None = None
) -> tuple[Protocol, str | None]:
    """(Protocol to measure by here, the sentence that says it is a stand-in or None).

    `backend` overrides the track's, and must run here. Without it a GPU track on a machine without a GPU runs on the
    processor as a stand-in. images: a file or folder of images that networks see in place of the track's input.
    batch: images at once, in place of the track's.
    """
    wanted = track.protocol
    try:
        device = device_of(wanted.backend)
        check_input(wanted.input)
        if images is None:  # those that are kept for it may be gone
            images_of(wanted.input)
    except UserError as error:
        raise UserError(f"latency/tracks/{track.name}.yaml: {error}") from None
    if images is not None:
        wanted = wanted.model_copy(update={"input": given_images(images)})
    if batch is not None:
        wanted = wanted.model_copy(update={"batch": batch})
    if backend is not None:
        wanted = wanted.model_copy(update={"backend": backend})
        if reason := missing(backend):
            raise UserError(reason)
    elif missing(wanted.backend):
        wanted = wanted.model_copy(update={"backend": "onnxruntime-cpu"})
    check_precision(wanted)
    # A share of the reference's time is one on every kind of device.
    if device_of(wanted.backend) == device or track.budget.reference_share is not None:
        return wanted, None
    return wanted, (
        f"stand-in: track {track.name} is measured on {track.budget.machine} with {track.protocol.backend}; "
        f"here {wanted.backend} stands in for it, and the ranking of latencies may differ there"
    )


def local_budget(
    track: Track,
    reference: Measurement | None,
    stand_in: str | None,
    *,
    budget_ms: float | None = None,
    detector_ms: float | None = None,
    batch: int | None = None,
) -> LocalBudget:
    """The LocalBudget of a track, from the Measurement of its reference network here (not needed with budget_ms, nor
    where the track has none).

    `detector_ms`: a detector measured here, in place of the track's reserve for detection.
    batch: of the protocol, where the track's milliseconds are those of one image and no reference carries them over.
    UserError where nothing is left for the recognition network.
    """
    if budget_ms is not None:
        origin = f"--budget-ms {budget_ms:g}, milliseconds of this machine, unscaled"
        return LocalBudget(budget_ms=budget_ms, origin=origin, stand_in=stand_in, scale=None, reference_ms=None)
    budget, official = track.budget, track.budget.reference
    if official is None:
        num = batch or track.protocol.batch
        origin = f"{budget.total_ms:g} ms of {budget.machine}, unscaled" + (f", for each of {num} images" * (num > 1))
        return LocalBudget(
            budget_ms=num * budget.total_ms, origin=origin, stand_in=stand_in, scale=None, reference_ms=None
        )
    if budget.reference_share is not None:
        origin = (
            f"{budget.reference_share:g} of what {official.candidate.text} takes here, {reference.measured_ms:.1f} ms "
            f"at {official.shape.text}"
        )
        return LocalBudget(
            budget_ms=round(budget.reference_share * reference.measured_ms, 3),
            origin=origin,
            stand_in=stand_in,
            scale=None,
            reference_ms=reference.measured_ms,
        )
    scale = reference.measured_ms / official.latency_ms
    reserved = budget.alignment_ms * scale + (budget.detection_ms * scale if detector_ms is None else detector_ms)
    left_ms = budget.total_ms * scale - reserved
    origin = f"{budget.total_ms:g} ms on {official.machine}"
    if detector_ms is not None:
        origin += (
            f", less the detector measured here ({detector_ms:.1f} ms) and {budget.alignment_ms:g} ms there "
            f"for alignment"
        )
    elif reserved:
        origin += (
            f", less a reserve of {budget.detection_ms:g} + {budget.alignment_ms:g} ms there for detection and "
            f"alignment"
        )
    origin += (
        f"; carried here by {official.candidate.text}, which takes {official.latency_ms:g} ms there and "
        f"{reference.measured_ms:.1f} ms here (x {scale:.3f})"
    )
    if left_ms <= 0:
        raise UserError(f"nothing is left for the recognition network: {origin} leaves {left_ms:.1f} ms")
    return LocalBudget(
        budget_ms=round(left_ms, 3), origin=origin, stand_in=stand_in, scale=scale, reference_ms=reference.measured_ms
    )


def kept_reference(track: Track, protocol: Protocol, *, machine: str | None = None) -> Measurement | None:
    """The Measurement of the track's reference network that is kept on this machine under this protocol, or None."""
    reference = track.budget.reference
    assert reference is not None, "asked of tracks that have one"
    return kept_network(reference.candidate, protocol, reference.shape, machine=machine)


def keep_reference(track: Track, measurement: Measurement) -> None:
    """Write the Measurement of the track's reference network where `kept_reference` finds it."""
    keep_network(track.budget.reference.candidate, measurement, track.budget.reference.shape)


def reference_here(
    track: Track, protocol: Protocol, progress: Progress, *, on_device: Callable | None = None
) -> Measurement | None:
    """The Measurement of the track's reference network on this machine: the kept one, or one that is taken now and
    kept. None where the track has no reference network.

    on_device(function, *arguments) calls it on the machine that measures, where that is not this process.
    """
    if track.budget.reference is None:
        return None
    on_device = on_device or (lambda function, *arguments: function(*arguments))
    reference = kept_reference(track, protocol, machine=on_device(machine_name))
    if reference is not None:
        return reference
    candidate = track.budget.reference.candidate
    progress.begin(f"measuring the reference network {candidate.text}, once for this machine")
    progress.update({})
    reference = on_device(measure_network, candidate, protocol, track.budget.reference.shape)
    progress.end()
    keep_reference(track, reference)
    progress.say(f"reference {ms_text(reference.measured_ms)} measured, and kept for this machine")
    if reference.warning:
        progress.say(f"warning: {reference.warning}; delete the kept reference to measure it again", style="yellow")
    return reference


def kept_network(
    candidate: Candidate, protocol: Protocol, shape: Shape, *, machine: str | None = None, few: bool = False
) -> Measurement | None:
    """The Measurement of a whole network of this Shape that is kept on this machine under this protocol, or None.

    few: one of fewer runs will do.
    """
    path = _networks_path(protocol, machine or machine_name())
    if not path.is_file():
        return None
    try:
        kept = json.loads(path.read_text(encoding="utf-8")).get(_network_key(candidate, shape))
    except ValueError:
        raise UserError(f"{path}: not valid JSON; delete the file to measure again") from None
    measurement = Measurement.parse(kept, path) if kept else None
    wanted = protocol.with_runs(measurement.protocol.num_runs) if measurement and few else protocol
    current = measurement and measurement.protocol == wanted and runtime_of(protocol, measurement.versions)
    return measurement if current and current == runtime_of(protocol, versions()) else None


def kept_networks(protocol: Protocol, shape: Shape) -> list[tuple[Candidate, Measurement]]:
    """[(Candidate, Measurement)] of the whole networks of this Shape that are kept on this machine under this
    protocol.
    """
    path, kept = _networks_path(protocol, machine_name()), []
    if not path.is_file():
        return kept
    try:
        keys = list(json.loads(path.read_text(encoding="utf-8")))
    except ValueError:
        raise UserError(f"{path}: not valid JSON; delete the file to measure again") from None
    for key in keys:
        named = CANDIDATE_TEXT.match(key)
        if named is None:
            continue
        stages = [stage.split("x") for stage in named["stages"].split("-")[1:]]
        widths, depths = zip(*stages, strict=True)
        candidate = Candidate.of_kind(named["kind"], stem=named["stem"], widths=widths, depths=depths)
        if key != _network_key(candidate, shape):
            continue
        measurement = kept_network(candidate, protocol, shape)
        if measurement is not None:
            kept.append((candidate, measurement))
    return kept


def keep_network(candidate: Candidate, measurement: Measurement, shape: Shape) -> None:
    """Write the Measurement of a whole network of this Shape where `kept_network` finds it."""
    path = _networks_path(measurement.protocol, measurement.machine)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_name(f".{path.name}.lock")):  # two runs of one machine may keep theirs at once
            kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
            kept[_network_key(candidate, shape)] = measurement.model_dump()
            write_atomically(path, json.dumps(kept, indent=1))
    except (OSError, UserError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path}: the measurement cannot be kept: {why}; set ZENNAS_CACHE to a writable folder"
        ) from None


def judged(measurement: Measurement, budget: LocalBudget) -> JudgedLatency:
    """The JudgedLatency of a Measurement beside a LocalBudget."""
    return JudgedLatency(
        measured_ms=measurement.measured_ms,
        median_ms=round(measurement.median_ms, 4),
        spread_pct=round(measurement.spread_pct, 2),
        budget_ms=budget.budget_ms,
        within_budget=measurement.measured_ms <= budget.budget_ms,
        stand_in=budget.stand_in,
        warning=measurement.warning,
        **dict(measurement),
    )


def measure_network(candidate: Candidate, protocol: Protocol, shape: Shape) -> Measurement:
    """The Measurement of a candidate's network for a Shape as a whole: from its exported ONNX file, or its folded
    network on a torch backend."""
    if takes_network(protocol.backend):
        return measure_calmly(timed_network(candidate, shape, protocol), protocol)
    exported = export_candidate(candidate, shape, protocol)
    return measure_calmly(exported.onnx_bytes, protocol)


def export_candidate(
    candidate: Candidate, shape: Shape, protocol: Protocol, *, metadata: dict[str, str] | None = None
) -> Export:
    """The Export of a candidate's untrained network in a Protocol's precision, its norms calibrated on what the
    protocol lets it see.
    """
    # What its norms are set by also tells the ranges of its activations, and is what the proof is taken on: noise is
    # far from a face's norms, and what a network of a hundred blocks answers there is mostly rounding.
    return export(
        _untrained(candidate, shape, protocol),
        shape,
        metadata=metadata,
        precision=protocol.precision,
        calibration_BCHW=calibration(protocol.input, shape.image),
    )


def timed_network(candidate: Candidate, shape: Shape, protocol: Protocol) -> torch.nn.Module:
    """The graph of a candidate as a torch backend times it: untrained, calibrated, norms folded as in the ONNX file."""
    graph = graph_of(_untrained(candidate, shape, protocol))
    folded = fold(graph.module)
    folded.inputs = graph.inputs
    return folded


def _untrained(candidate, shape, protocol):
    generator = torch.Generator().manual_seed(0)
    network = build(candidate, shape, generator=generator)
    image_BCHW, noise_BCHW = calibration(protocol.input, shape.image), torch.randn(4, *shape.image, generator=generator)
    if image_BCHW is None:
        return calibrate(network, noise_BCHW)
    return calibrate_embedding(calibrate(network, image_BCHW), torch.cat([image_BCHW[:2], noise_BCHW[:2]]))


def measure_detector(
    path: pathlib.Path | str, protocol: Protocol, *, input_px: int, onnx_bytes: bytes | None = None
) -> Measurement:
    """The Measurement of a detector's ONNX file on one random image (input_px square where its size is symbolic).

    onnx_bytes: what the file holds, where the machine that measures has not got it.
    """
    try:
        return measure_onnx_file(
            path, protocol, onnx_bytes=onnx_bytes, prepare=lambda onnx_bytes: fix_input_px(onnx_bytes, input_px)
        )
    except UserError as error:
        raise UserError(f"--detector {error}") from None


def measure_onnx_file(
    path: pathlib.Path | str,
    protocol: Protocol,
    *,
    prepare: Callable[[bytes], bytes] = lambda onnx_bytes: onnx_bytes,
    onnx_bytes: bytes | None = None,
) -> Measurement:
    """The Measurement of a user's ONNX file; `prepare` changes its bytes first. UserError where it is none that runs.

    A file is timed in the precision that it has, and the Measurement's protocol says which that is.
    """
    onnx_bytes = read_bytes(path) if onnx_bytes is None else onnx_bytes
    try:
        protocol = protocol.model_copy(update={"precision": precision_of(onnx_bytes)})
        return measure_calmly(prepare(onnx_bytes), protocol)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # noqa: BLE001 - onnx and ONNX Runtime raise a dozen unrelated types for what is no network
        raise UserError(f"{path}: not an ONNX network that ONNX Runtime can run: {first_line(error)}") from None


def read_bytes(path: pathlib.Path | str) -> bytes:
    """What a user's file holds. UserError where it cannot be read."""
    try:
        return pathlib.Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None


def _network_key(candidate, shape):
    """What a kept network is found by: its text alone for the shape that files of old do not name."""
    return candidate.text if shape == Sized().shape else f"{candidate.text} at {shape.text}"


def _networks_path(protocol, machine):
    return kept_folder(machine) / table_name(protocol).replace(".csv", "-networks.json")
