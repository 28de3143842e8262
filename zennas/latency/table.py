"""The table of block latencies: measured once per machine and protocol, kept, and summed to predict a candidate.

A prediction takes microseconds.

A candidate's prediction is the sum over its stem, its blocks and its neck. A block that repeats is measured as the
difference between a stack of three and one alone, and one that stands alone less what a call of a network that does
nothing takes: a network is called once, which is in its stem's time. Between two runs of a part others pass through the
caches, as inside a network: so much is written as PASSING parts of its size hold. Widths between the measured ones are
interpolated in milliseconds per multiply-accumulate, which are nearly a constant and a share in proportion to the
inverse of the width, that of norms and depthwise convolutions; a stage's first block, whose two widths are free, is
fitted.

A burst of other work falls on one part, not on those beside it: a part that is not what the others of its place say is
measured twice more, and the middle one of three counts.
"""

import csv
import functools
import itertools
import math
import pathlib
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from zennas.export.onnx_file import INPUT_NAME, fold
from zennas.latency.backends import as_timed, library_version
from zennas.latency.inputs import NOISE, before_part
from zennas.latency.protocol import Measurement, measure
from zennas.latency.quiet import scoring
from zennas.provenance import machine_name, versions
from zennas.records import MEASURED, UserError, data_root
from zennas.run_folder import cache_folder
from zennas.space import network as networks
from zennas.space.blocks import NECKS, STEMS
from zennas.space.candidate import Candidate
from zennas.space.cost import build_part, part_cost
from zennas.space.families.table import layout_of_space
from zennas.space.parts import Part, first_at, neck_at, parts_of, repeated_at, stem_at
from zennas.space.shape import Shape, parsed_px, px_text
from zennas.space.space import Space
from zennas.track import Protocol

QUANTUM = 16  # channels a vector register block holds; widths off it are interpolated among themselves
MAX_REPEAT_WIDTHS, MAX_OFF_WIDTHS, MAX_FIRST_WIDTHS, MAX_STEM_WIDTHS = 13, 6, 4, 8
NUM_TERMS = 5  # of a first block's time, see _terms
TABLE_RUNS = 8  # of each part; an experiment's search.table_runs replaces it
STACK = 3  # blocks in the tall stack; the difference to a single one is two blocks without the cost of a call
# Written between runs: as much as so many parts hold, weights and maps, and no more than would evict any cache that we
# know. To evict all makes parts of networks that a cache holds far too slow; of larger ones both are right.
PASSING, CACHE_BYTES, FLOAT_BYTES = 4, 64 * 2**20, 4
SHORT_PART_MS, MORE_RUNS = 1.0, 8  # a part below this is measured by so many times the runs
DOUBTED, TIMES = 0.1, 3  # a part so far from what those beside it say is measured so often in all
LEAST_OF_CALL = 0.05  # of what a part takes alone, where the call seems to be all of it

COLUMNS = (
    "kind",
    "in_channels",
    "out_channels",
    "stride",
    "in_px",  # of the maps that the part sees: the side, or HEIGHTxWIDTH
    "ms",
    "spread_pct",
    "raw_ms",
    "machine",
    "date",
    "runtime",
)


def parts_of_space(space: Space) -> list[Part]:
    """The parts to measure so that every candidate of the space can be predicted."""
    layout, block, at_boundaries = layout_of_space(space), space.block, (space.stem, *space.widths)
    stems = dict.fromkeys(map(_on_quantum, [*_grid(space.stem, MAX_STEM_WIDTHS), space.stem.high]))
    parts = [stem_at(end, width) for end in layout.stems for width in stems]
    for widths, places, behind in zip(space.widths, layout.stages, layout.before, strict=True):
        before = at_boundaries[behind]
        parts += [
            first_at(place, block, *pair) for place in places for pair in _first_widths(before, widths, place.stride)
        ]
        repeated = _grid(widths, MAX_REPEAT_WIDTHS) + _grid(widths, MAX_OFF_WIDTHS, on_quantum=False)
        parts += [repeated_at(place, block, width) for place in places for width in repeated]
    parts += [neck_at(end, width) for end in layout.necks for width in _grid(space.widths[end.behind], 3)]
    return list(dict.fromkeys(parts))


def _first_widths(before, widths, stride):
    """The (in_channels, out_channels) to measure of a stage's first block."""
    pairs = list(itertools.product(_grid(before, MAX_FIRST_WIDTHS), _grid(widths, MAX_FIRST_WIDTHS)))
    # Of stride 1, those of two equal widths are blocks that are repeated, and say nothing of a first block: where few
    # are left, ends and widths off the quantum are measured, too.
    if stride == 1 and sum(wide_in != wide_out for wide_in, wide_out in pairs) < NUM_TERMS:
        ends = [(before.low, before.high), (widths.low, widths.high)]
        off = [
            (*_grid(span, MAX_FIRST_WIDTHS), *_grid(span, MAX_FIRST_WIDTHS, on_quantum=False))
            for span in (before, widths)
        ]
        more = itertools.chain(itertools.product(*ends), itertools.product(*off))
        pairs += [(wide_in, wide_out) for wide_in, wide_out in more if wide_in != wide_out]
    return pairs


def _grid(span, most, *, on_quantum=True):
    """At most `most` of a range's widths, evenly spread, ends included; those on the quantum, or those off it."""
    wanted = [width for width in span.values() if (width % QUANTUM == 0) == on_quantum]
    if on_quantum and not wanted:
        wanted = list(span.values())
    indices = np.unique(np.linspace(0, len(wanted) - 1, min(most, len(wanted))).round().astype(int)) if wanted else []
    return [wanted[index] for index in indices]


class LatencyTable:
    """The kept table of one machine and protocol. `predict` needs the parts that `ensure` has measured."""

    def __init__(self, protocol, *, folder=None, machine=None, rows=None):
        """rows: {Part: ms} of a table that another machine measured (tables.open_table), in place of the kept ones."""
        self.machine, self.protocol = machine or machine_name(), protocol
        self.path = (pathlib.Path(folder) if folder else kept_folder(self.machine)) / table_name(protocol)
        shipped = data_root() / MEASURED / self.machine / table_name(protocol)
        runtime = runtime_of(protocol, versions())
        # What was measured here, each time; what came with zennas or from elsewhere cannot be measured again.
        self._taken = _read(self.path, self.machine, runtime) if rows is None else {}
        if rows is None:
            here = {part: middle(taken) for part, taken in self._taken.items()}
            rows = {part: middle(taken) for part, taken in _read(shipped, self.machine, runtime).items()} | here
        self.rows = dict(rows)
        self._part_ms, self._fit = functools.cache(self._part_ms_uncached), functools.cache(self._fit_uncached)

    def missing(self, parts: Iterable[Part]) -> list[Part]:
        """Those of the parts that are not in the table yet."""
        return [part for part in parts if part not in self.rows]

    def parts_for(self, space: Space) -> list[Part]:
        """The parts to measure so that every candidate and baseline of a space can be predicted."""
        parts = parts_of_space(space)
        for baseline in space.baselines.values():
            if baseline.kind != space.kind:  # another block's: its own parts, measured just as they are
                parts += parts_of(baseline, space.shape)
        return list(dict.fromkeys(parts))

    def missing_for(self, space: Space) -> list[Part]:
        """Those of them that are not in the table yet."""
        return self.missing(self.parts_for(space))

    def ensure(
        self,
        parts: Iterable[Part],
        *,
        num_runs: int = TABLE_RUNS,
        progress: Callable | None = None,
        measure_one: Callable | None = None,
    ) -> None:
        """Measure the missing parts, and those of all that are doubted, and keep each at once; `progress(done, total)`
        is called after every one.

        `measure_one` replaces `measure_part` where the device is another machine's.
        """
        done = 0
        for todo in self.rounds(list(parts)):
            total = done + len(todo)
            count = progress and (lambda index, before=done, total=total: progress(before + index, total))
            self.measure(todo, num_runs=num_runs, progress=count, measure_one=measure_one)
            done = total

    def rounds(self, parts: Sequence[Part]) -> Iterator[list[Part]]:
        """What of the parts is to be measured, list after list, each when the one before is measured: the missing, then
        the doubted until none is."""
        if todo := self.missing(parts):
            yield todo
        while todo := self.doubted(parts):
            yield todo

    def measure(
        self,
        parts: Sequence[Part],
        *,
        num_runs: int = TABLE_RUNS,
        progress: Callable | None = None,
        measure_one: Callable | None = None,
    ) -> None:
        """Measure each of these parts, known or not, as `ensure` does; `progress(done)`."""
        try:
            for index, part in enumerate(parts):
                ms, measurement = (measure_one or measure_part)(part, self.protocol, num_runs=num_runs)
                self._keep(part, ms, measurement)
                if progress:
                    progress(index + 1)
        finally:
            self._part_ms.cache_clear()
            self._fit.cache_clear()

    def doubted(self, parts: Iterable[Part]) -> list[Part]:
        """Those of the parts that are to be measured again: measured here fewer than TIMES, and DOUBTED off what the
        others of their place say, or already measured again for that."""
        return [part for part in dict.fromkeys(parts) if self._is_doubted(part)]

    def _is_doubted(self, part):
        times = len(self._taken.get(part, ()))
        if times != 1:
            return 1 < times < TIMES
        ms, expected_ms = self.rows[part], self._by_others(part)
        return expected_ms is not None and max(ms, expected_ms) > (1 + DOUBTED) * min(ms, expected_ms)

    def _by_others(self, part):
        """What the others of its place say of a part, in ms; None where there are none."""
        if part.is_block and not part.keeps_shape:
            return self._first_ms(part)
        known = [at for at in self._known_along(part) if at[0] != part[_axis(part)]]
        return _along(known, part) if len(known) > 1 else None

    def predict(self, candidate: Candidate, shape: Shape) -> float:
        """Predicted latency of a candidate's network for a Shape, in ms. KeyError where a part was never measured nor
        can be interpolated."""
        parts = parts_of(candidate, shape)
        return sum(times * self._part_ms(part) for part, times in parts.items())

    def part_ms(self, part: Part) -> float:
        """Predicted latency of one Part inside a network, in ms. KeyError as `predict`."""
        return self._part_ms(part)

    def covers(self, candidate: Candidate, shape: Shape) -> bool:
        """Whether `predict` has what it needs for this candidate."""
        try:
            self.predict(candidate, shape)
        except KeyError:
            return False
        return True

    def _part_ms_uncached(self, part):
        if part in self.rows:
            return self.rows[part]
        if part.is_block and not part.keeps_shape:
            return self._first_ms(part)
        width = part[_axis(part)]
        known, off = self._known_along(part), _is_off(part)
        if off and (part.kind in STEMS or not known):  # a width off the quantum costs what the next one on it does
            both = {} if part.kind in STEMS else {"in_channels": _on_quantum(width)}
            return self._part_ms(part._replace(out_channels=_on_quantum(width), **both))
        if not known or not known[0][0] - QUANTUM < width < known[-1][0] + QUANTUM:
            raise KeyError(part)
        return _along(known, part)

    def _first_ms(self, part):
        weights, least_ms = self._fit(part.place)
        return max(float(_terms(part) @ weights), least_ms)

    def _known_along(self, part):
        """[(width, ms per multiply-accumulate)] of the measured parts that differ from one, no first block, in its
        width alone, in order."""
        siblings = [row for row in self._siblings(part.place) if row.keeps_shape == part.keeps_shape]
        if part.kind in NECKS:
            chosen = [row for row in siblings if row.out_channels == part.out_channels]
        else:
            chosen = [row for row in siblings if _is_off(row) == _is_off(part)]
        return sorted((row[_axis(row)], self.rows[row] / row.macs) for row in chosen if row.macs)

    def _siblings(self, place):
        """The measured parts that differ in their widths alone."""
        return [row for row in self.rows if row.place == place]

    def _fit_uncached(self, place):
        """(weights of `_terms`, the least a prediction may be) of a stage's first block, whose two widths are free.

        Least squares over the measured ones, relative errors. KeyError where none was measured.
        """
        siblings = [row for row in self._siblings(place) if not row.keeps_shape]
        if not siblings:
            raise KeyError(place)
        terms, ms = np.array([_terms(row) for row in siblings]), np.array([self.rows[row] for row in siblings])
        weights = np.linalg.lstsq(terms / ms[:, None], np.ones(len(ms)), rcond=None)[0]
        return weights, float(ms.min()) / 2

    def _keep(self, part, ms, measurement):
        if measurement.machine != self.machine:  # one machine's milliseconds say nothing in another's table
            raise UserError(
                f"the latency table of {self.machine} lacks {part}, which only that machine can measure; this is "
                f"{measurement.machine}: fill the table there, and import it here"
            )
        self._taken.setdefault(part, []).append(ms)
        self.rows[part] = middle(self._taken[part])
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
                writer.writerow((*part_cells(part), *measured, measurement.machine, measurement.date, runtime))
        except OSError as error:
            raise UserError(
                f"{self.path}: the latency table cannot be kept: {error.strerror}; set ZENNAS_CACHE to a writable "
                f"folder"
            ) from None


def measure_part(part: Part, protocol: Protocol, *, num_runs: int = TABLE_RUNS) -> tuple[float, Measurement]:
    """(milliseconds of one such part inside a network, the Measurement behind it).

    It stands aside while another process of this machine times something, so several may be measured side by side: all
    but the timing overlaps.
    """
    with scoring():
        map_BCHW = before_part(protocol.input, part)
        single = as_timed(_part_network(part, 1, map_BCHW), protocol)
        stack = as_timed(_part_network(part, STACK, map_BCHW), protocol) if part.keeps_shape else None
    seen = None if map_BCHW is None else {INPUT_NAME: map_BCHW.numpy()}
    protocol = protocol.with_runs(num_runs).model_copy(update={"io": "device", "warmup_runs": 1})
    passing = _passing_bytes(part, protocol.batch)
    alone = _timed(single, protocol, seen, passing)
    if part.kind in STEMS:
        return alone.measured_ms, alone
    call_ms = _call_ms(protocol, passing)
    if stack is None:
        return _without_call(alone, call_ms), alone
    stacked = _timed(stack, protocol, seen, passing)
    # Below zero only where noise is larger than the part; then the stack itself is the better bound.
    marginal_ms = (stacked.measured_ms - alone.measured_ms) / (STACK - 1)
    return max(marginal_ms, _without_call(stacked, call_ms) / STACK / 2), stacked


def _timed(model, protocol, seen, passing):
    """The Measurement of a part; a short one is measured again by more runs, and the faster counts: all its runs may
    fall into one burst of other work.
    """
    how = {"seen": seen, "between_runs": functools.partial(_pass, passing)}
    taken = measure(model, protocol, **how)
    if taken.measured_ms >= SHORT_PART_MS:
        return taken
    again = measure(model, protocol.with_runs(MORE_RUNS * protocol.num_runs), **how)
    return min(taken, again, key=lambda measurement: measurement.measured_ms)


@functools.cache
def _call_ms(protocol, passing):
    """What a call takes under a protocol, whatever the network: measured as parts are, on one that does nothing.

    Nothing beside a large network's parts, and a large share of the time of those of a network of one millisecond.
    """
    nothing = nn.ReLU()
    nothing.input_shape = (1, 1, 1)
    return _timed(as_timed(nothing, protocol), protocol, None, passing).measured_ms


def _without_call(alone, call_ms):
    return max(alone.measured_ms - call_ms, alone.measured_ms * LEAST_OF_CALL)


def kept_folder(machine: str) -> pathlib.Path:
    """Where what was measured on a machine is kept: $ZENNAS_CACHE or ~/.cache/zennas, then measured/MACHINE."""
    return cache_folder("measured") / machine


def table_name(protocol: Protocol) -> str:
    """The file name of a protocol's table."""
    denormals = "" if protocol.flush_denormals else "-denormals"
    precision = "" if protocol.precision == "float32" else f"-{protocol.precision}"
    seen = "" if protocol.input == NOISE else f"-{protocol.input.replace(':', '-')}"
    return f"{protocol.backend}-{protocol.threads}t-batch{protocol.batch}{denormals}{precision}{seen}.csv"


def _part_network(part, copies, map_BCHW):
    """A part (or a stack of it) as a network that knows its input_shape; a backend exports it where it runs files.

    map_BCHW: what sets its norms; None: noise.
    """
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        stack = nn.Sequential(*(build_part(*part) for _ in range(copies)))
    module = networks.initialise(stack, generator=generator)
    shape = (part.in_channels, *part.in_hw)
    networks.calibrate(module, torch.randn(2, *shape, generator=generator) if map_BCHW is None else map_BCHW)
    folded = fold(module)
    folded.input_shape = shape
    return folded


def _passing_bytes(part, batch):
    """How much passes through the caches between two runs of a part: a power of two, so that few calls are measured."""
    height, width = part.in_hw
    maps = height * width * (part.in_channels + part.out_channels / part.stride**2)
    held = FLOAT_BYTES * (part_cost(*part).params + batch * maps)
    return min(CACHE_BYTES, 1 << round(math.log2(PASSING * held)))


@functools.cache
def _cache_filler():
    return np.zeros(CACHE_BYTES, dtype=np.uint8)


def _pass(num_bytes):
    _cache_filler()[:num_bytes].fill(1)


def middle(values: Sequence[float]) -> float:
    """The middle one of some values; of an even number of them, the lower of the two.

    >>> middle([3.0, 9.0, 2.0]), middle([3.0, 9.0])
    (3.0, 3.0)
    """
    return statistics.median_low(values)


def _axis(part):
    """The place in a Part of the width along which parts are interpolated."""
    return 1 if part.kind in NECKS else 2


def _is_off(part):
    return bool(part.out_channels % QUANTUM) and part.kind not in NECKS


def _along(known, part):
    """ms of a part between those whose (width, ms per multiply-accumulate) are known, in order."""
    # Over the inverse of the width: that misses a measured width between two others by 3 % on inverted residuals,
    # where the width misses it by 7; on IR-SE both by 2 to 5 %, and off the quantum without the 2 % that the other
    # has too much.
    inverse = [(1 / width, ms_per_mac) for width, ms_per_mac in reversed(known)]
    return float(np.interp(1 / part[_axis(part)], *zip(*inverse, strict=True))) * part.macs


def _on_quantum(width):
    return -(-width // QUANTUM) * QUANTUM


def _terms(part):
    """What the time of a stage's first block is a sum of: its convolutions, its norms and a constant.

    A convolution reads the input, or the block's own channels. A width off the quantum costs what the next one on it
    does: widths are rounded up.
    """
    wide_in, wide_out = _on_quantum(part.in_channels), _on_quantum(part.out_channels)
    return np.array([wide_in * wide_out, wide_out * wide_out, wide_in, wide_out, 1.0])


def runtime_of(protocol: Protocol, installed: dict[str, str]) -> str:
    """The version, among those found, of the library that a protocol's backend runs on; latencies do not outlive it."""
    return library_version(protocol.backend, installed)


def part_cells(part: Part) -> tuple:
    """The first five COLUMNS of a Part. A map that is no square has its two sides in in_px: 48x16."""
    return (*part[:4], px_text(part.in_hw))


def part_of(cells: dict[str, str]) -> Part:
    """The Part in a row {column: text}; KeyError, TypeError or ValueError where there is none."""
    return Part(cells["kind"], *(int(cells[name]) for name in COLUMNS[1:4]), *parsed_px(cells["in_px"]))


def _read(path, machine, runtime):
    """{Part: [ms, each time]} of the kept rows that this machine's runtime took; rows of another version do not hold
    here."""
    if not path.is_file():
        return {}
    rows = {}
    with open(path, newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            try:
                if row["machine"] == machine and row["runtime"] == runtime:
                    rows.setdefault(part_of(row), []).append(float(row["ms"]))
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{path}, line {number}: not a row of a latency table; delete the file to measure again"
                ) from None
    return rows
