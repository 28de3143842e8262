"""The table of block latencies: measured once per machine and protocol, kept, and summed to predict a candidate in microseconds.

A candidate's prediction is the sum over its stem, its blocks and its neck. Parts are measured with cold caches, as they run
inside a network larger than the cache: a block that repeats as the difference between a stack of three and one alone.
Widths between the measured ones are interpolated in milliseconds per multiply-accumulate, which changes slowly; a stage's
first block, whose two widths are free, is fitted.
"""

import csv
import functools
import os
import pathlib
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from zennas.export import fold, to_onnx
from zennas.latency.backends import takes_network
from zennas.latency.protocol import measure
from zennas.provenance import machine_name, versions
from zennas.records import MEASURED, UserError, data_root
from zennas.space import network as networks
from zennas.space.cost import build_part, part_cost

QUANTUM = 16  # channels a vector register block holds; widths off it are interpolated among themselves
MAX_REPEAT_WIDTHS, MAX_OFF_WIDTHS, MAX_FIRST_WIDTHS, MAX_STEM_WIDTHS = 13, 6, 4, 8
TABLE_RUNS = 8  # of each part; an experiment's search.table_runs replaces it
STACK = 3  # blocks in the tall stack; the difference to a single one is two blocks without the cost of a call
CACHE_BYTES = (
    64 * 2**20
)  # more than the last-level cache of the machines we know; written between runs to evict weights

COLUMNS = (
    "kind",
    "in_channels",
    "out_channels",
    "stride",
    "in_px",
    "ms",
    "spread_pct",
    "raw_ms",
    "machine",
    "date",
    "runtime",
)


class Part(NamedTuple):
    """One part of a network: a block of BLOCKS, the 'stem', or the 'neck' (whose out_channels is the embedding size)."""

    kind: str
    in_channels: int
    out_channels: int
    stride: int
    in_px: int

    @property
    def macs(self):
        return part_cost(*self).macs


def parts_of(candidate, *, image_px=112, embedding_size=512):
    """{Part: how often it occurs} of a candidate."""
    last_px = image_px >> len(candidate.widths)
    parts = {
        Part("stem", 3, candidate.stem, 1, image_px): 1,
        Part("neck", candidate.widths[-1], embedding_size, 1, last_px): 1,
    }
    for shape in networks.block_shapes(candidate, image_px):
        part = Part(candidate.block, *shape)
        parts[part] = parts.get(part, 0) + 1
    return parts


def parts_of_space(space):
    """The parts to measure so that every candidate of the space can be predicted."""
    px, before = space.image_px, space.stem
    stems = dict.fromkeys(map(_on_quantum, [*_grid(space.stem, MAX_STEM_WIDTHS), space.stem.high]))
    parts = [Part("stem", 3, width, 1, px) for width in stems]
    for widths in space.widths:
        parts += [
            Part(space.block, wide_in, wide_out, 2, px)
            for wide_in in _grid(before, MAX_FIRST_WIDTHS)
            for wide_out in _grid(widths, MAX_FIRST_WIDTHS)
        ]
        px //= 2
        repeated = _grid(widths, MAX_REPEAT_WIDTHS) + _grid(widths, MAX_OFF_WIDTHS, on_quantum=False)
        parts += [Part(space.block, width, width, 1, px) for width in repeated]
        before = widths
    parts += [Part("neck", width, space.embedding_size, 1, px) for width in _grid(space.widths[-1], 3)]
    return list(dict.fromkeys(parts))


def _grid(span, most, *, on_quantum=True):
    """At most `most` of a range's widths, evenly spread, ends included; those on the quantum, or those off it."""
    wanted = [width for width in span.values() if (width % QUANTUM == 0) == on_quantum]
    if on_quantum and not wanted:
        wanted = list(span.values())
    indices = np.unique(np.linspace(0, len(wanted) - 1, min(most, len(wanted))).round().astype(int)) if wanted else []
    return [wanted[index] for index in indices]


class LatencyTable:
    """The kept table of one machine and protocol. `predict` needs the parts that `ensure` has measured."""

    def __init__(self, protocol, *, folder=None, machine=None):
        machine = machine or machine_name()
        self.protocol = protocol
        self.path = (pathlib.Path(folder) if folder else kept_folder(machine)) / table_name(protocol)
        shipped = data_root() / MEASURED / machine / table_name(protocol)
        runtime = runtime_of(protocol, versions())
        self.rows = {**_read(shipped, machine, runtime), **_read(self.path, machine, runtime)}
        self._part_ms = functools.cache(self._part_ms_uncached)

    def missing(self, parts):
        """Those of the parts that are not in the table yet."""
        return [part for part in parts if part not in self.rows]

    def missing_for(self, space):
        """The parts that are missing to predict every candidate and baseline of a space."""
        parts = parts_of_space(space)
        for baseline in space.baselines.values():
            if baseline.block != space.block:  # another block's: its own parts, measured just as they are
                parts += parts_of(baseline, image_px=space.image_px, embedding_size=space.embedding_size)
        return self.missing(dict.fromkeys(parts))

    def ensure(self, parts, *, num_runs=TABLE_RUNS, progress=None, measure_one=None):
        """Measure the missing parts and keep each at once; `progress(done, total)` is called after every one.

        `measure_one` replaces `measure_part` where the device is another machine's.
        """
        missing = self.missing(parts)
        for index, part in enumerate(missing):
            ms, measurement = (measure_one or measure_part)(part, self.protocol, num_runs=num_runs)
            self._keep(part, ms, measurement)
            if progress:
                progress(index + 1, len(missing))
        self._part_ms.cache_clear()

    def predict(self, candidate, *, image_px=112, embedding_size=512):
        """Predicted latency of a candidate in ms. KeyError where a part was never measured nor can be interpolated."""
        parts = parts_of(candidate, image_px=image_px, embedding_size=embedding_size)
        return sum(times * self._part_ms(part) for part, times in parts.items())

    def covers(self, candidate, *, image_px=112, embedding_size=512):
        """Whether `predict` has what it needs for this candidate."""
        try:
            self.predict(candidate, image_px=image_px, embedding_size=embedding_size)
        except KeyError:
            return False
        return True

    def _part_ms_uncached(self, part):
        if part in self.rows:
            return self.rows[part]
        siblings = [
            row for row in self.rows if (row.kind, row.stride, row.in_px) == (part.kind, part.stride, part.in_px)
        ]
        if part.stride == 2:
            return _fitted(part, siblings, self.rows)
        axis = "in_channels" if part.kind == "neck" else "out_channels"
        width, rounds_up = getattr(part, axis), part.kind == "stem"
        off = bool(width % QUANTUM) and part.kind != "neck"
        chosen = [row for row in siblings if part.kind == "neck" or bool(getattr(row, axis) % QUANTUM) == off]
        if off and (rounds_up or not chosen):  # a width off the quantum costs what the next one on it does
            wider = {"out_channels": _on_quantum(width)} | ({} if rounds_up else {"in_channels": _on_quantum(width)})
            return self._part_ms(part._replace(**wider))
        known = sorted((getattr(row, axis), self.rows[row] / row.macs) for row in chosen)
        if not known or not known[0][0] - QUANTUM < width < known[-1][0] + QUANTUM:
            raise KeyError(part)
        return float(np.interp(width, *zip(*known, strict=True))) * part.macs

    def _keep(self, part, ms, measurement):
        self.rows[part] = ms
        new = not self.path.exists() or self.path.stat().st_size == 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if new:
                    writer.writerow(COLUMNS)
                raw_ms = " ".join(map(str, measurement.raw_ms))
                measured = round(ms, 5), round(measurement.spread_pct, 2), raw_ms
                runtime = runtime_of(self.protocol, measurement.versions)
                writer.writerow((*part, *measured, measurement.machine, measurement.date, runtime))
        except OSError as error:
            raise UserError(
                f"{self.path}: the latency table cannot be kept: {error.strerror}; set ZENNAS_CACHE to a writable folder"
            ) from None


def measure_part(part, protocol, *, num_runs=TABLE_RUNS):
    """(milliseconds of one such part inside a network, the Measurement behind it)."""
    protocol = protocol.with_runs(num_runs).model_copy(update={"io": "device", "warmup_runs": 1})
    single = measure(_part_model(part, 1, protocol.backend), protocol, between_runs=_evict_caches)
    if part.kind in ("stem", "neck") or part.stride != 1:
        return single.measured_ms, single
    stack = measure(_part_model(part, STACK, protocol.backend), protocol, between_runs=_evict_caches)
    # Below zero only where noise is larger than the part; then the stack itself is the better bound.
    marginal_ms = (stack.measured_ms - single.measured_ms) / (STACK - 1)
    return max(marginal_ms, stack.measured_ms / STACK / 2), stack


def kept_folder(machine):
    """Where what was measured on a machine is kept: $ZENNAS_CACHE or ~/.cache/zennas, then measured/MACHINE."""
    cache = os.environ.get("ZENNAS_CACHE") or pathlib.Path.home() / ".cache" / "zennas"
    return pathlib.Path(cache) / "measured" / machine


def table_name(protocol):
    """The file name of a protocol's table."""
    denormals = "" if protocol.flush_denormals else "-denormals"
    return f"{protocol.backend}-{protocol.threads}t-batch{protocol.batch}{denormals}.csv"


def _part_model(part, copies, backend):
    """The exported bytes of a part (or a stack of it), or the module itself for a backend that runs modules."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        stack = nn.Sequential(*(build_part(*part) for _ in range(copies)))
    module = networks.initialise(stack, generator=generator)
    shape = (part.in_channels, part.in_px, part.in_px)
    networks.calibrate(module, torch.randn(2, *shape, generator=generator))
    folded = fold(module)
    folded.input_shape = shape
    return folded if takes_network(backend) else to_onnx(folded, shape)


@functools.cache
def _cache_filler():
    return np.zeros(CACHE_BYTES, dtype=np.uint8)


def _evict_caches():
    _cache_filler().fill(1)


def _on_quantum(width):
    return -(-width // QUANTUM) * QUANTUM


def _fitted(part, siblings, ms_of):
    """A stage's first block, whose two widths are free: least squares over the measured ones, relative errors.

    The terms are its two 3x3 convolutions, its norms and a constant; a width off the quantum costs what the next one on it does.
    """
    if not siblings:
        raise KeyError(part)
    terms, ms = np.array([_terms(row) for row in siblings]), np.array([ms_of[row] for row in siblings])
    weights = np.linalg.lstsq(terms / ms[:, None], np.ones(len(ms)), rcond=None)[0]
    return max(float(_terms(part) @ weights), float(ms.min()) / 2)


def _terms(part):
    wide_in, wide_out = _on_quantum(part.in_channels), _on_quantum(part.out_channels)
    return np.array([wide_in * wide_out, wide_out * wide_out, wide_in, wide_out, 1.0])


def runtime_of(protocol, found):
    """The version, among those found, of the runtime that a protocol's backend times; latencies do not outlive it."""
    if takes_network(protocol.backend):
        return found.get("torch", "")
    return found.get("onnxruntime-gpu") or found.get("onnxruntime", "")


def _read(path, machine, runtime):
    """{Part: ms} of the kept rows that this machine's runtime took; rows of another version do not hold here."""
    if not path.is_file():
        return {}
    rows = {}
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                if row["machine"] == machine and row["runtime"] == runtime:
                    rows[Part(row["kind"], *(int(row[name]) for name in COLUMNS[1:5]))] = float(row["ms"])
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{path}, line {number}: not a row of a latency table; delete the file to measure again"
                ) from None
    return rows
