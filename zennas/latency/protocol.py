"""Measurement: a latency as it was taken, with every raw time; `measure` takes one."""

import contextlib
import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

from zennas.latency.backends import Seen, open_backend
from zennas.latency.quiet import measuring, scoring
from zennas.provenance import machine_name, provenance, versions
from zennas.records import Record
from zennas.track import Protocol

SPREAD_WARNING_PCT = 5.0  # quiet machines stay under 2; at 5 two networks that differ by 2 per cent change places
# Above what was predicted: a table is off by some per cent, a machine that shares its cores by a hundred, evenly.
UNLIKELY_PCT = 25.0
FEW_UNLIKELY_PCT = 5.0  # the same of a few runs: they last seconds, other work no longer
# Runs that last less in all may fall into one burst of other work, slow from the first to the last: more are taken.
SHORT_MS, MOST_AGAIN = 200.0, 5
FEW_RUNS = 6  # that are looked at before the others are taken, where less than an exact value is asked


def ms_text(ms: float) -> str:
    """Milliseconds in words: two decimals, or three digits where these would be fewer.

    >>> ms_text(333.876), ms_text(0.8761), ms_text(0.0001)
    ('333.88 ms', '0.876 ms', '0.0001 ms')
    """
    return f"{ms:.2f} ms" if ms >= 1 else f"{ms:.3g} ms"


class Measurement(Record):
    """The latency of one network on one machine under one protocol; times in milliseconds."""

    raw_ms: tuple[float, ...]  # in the order in which they were taken
    protocol: Protocol
    machine: str
    date: str
    versions: dict[str, str]
    load_average: float  # processes running on the machine, averaged over the minute before

    @property
    def measured_ms(self) -> float:
        """The value that counts: the k-th fastest run."""
        return sorted(self.raw_ms)[self.protocol.kth_fastest - 1]

    @property
    def median_ms(self) -> float:
        return statistics.median(self.raw_ms)

    @property
    def spread_pct(self) -> float:
        """Distance between the quartiles, in per cent of the median."""
        if len(self.raw_ms) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.raw_ms, n=4, method="inclusive")
        return 100 * (high - low) / self.median_ms

    @property
    def warning(self) -> str | None:
        """A sentence where the spread is too wide to trust the value; None otherwise."""
        if self.spread_pct <= SPREAD_WARNING_PCT:
            return None
        return (
            f"the runs spread by {self.spread_pct:.1f} % of their median: "
            f"something else was running (load {self.load_average:.1f})"
        )


def measure(
    model: Any,
    protocol: Protocol,
    *,
    seen: Seen = None,
    between_runs: Callable | None = None,
    enough: Callable[[Measurement], bool] | None = None,
    progress: Callable | None = None,
) -> Measurement:
    """The Measurement of an ONNX file (bytes) or a network under a Protocol.

    seen: {name of an input: one batch} in place of the input that the protocol names (the maps before a part).
    enough(the Measurement of the first FEW_RUNS): whether they say all that is asked; then no others are taken.
    The clock runs only around finished work (the backends synchronise). `between_runs()` is called outside the clock;
    `progress(done, total)` too. Whatever of ours scores on this machine stands aside meanwhile (quiet.py).
    """
    with scoring():  # opening it is work, which disturbs what another process times
        run_once = open_backend(model, protocol, seen)
    raw_ms: list[float] = []
    with measuring(), _no_garbage_collection():
        load_average = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        for _ in range(protocol.warmup_runs):
            run_once()
        for index in range(protocol.num_runs):
            if between_runs:
                between_runs()
            start_ns = time.perf_counter_ns()
            run_once()
            raw_ms.append((time.perf_counter_ns() - start_ns) / 1e6)
            if progress:
                progress(index + 1, protocol.num_runs)
            if enough and len(raw_ms) == FEW_RUNS < protocol.num_runs:
                few = _taken(raw_ms, protocol.with_runs(FEW_RUNS), load_average)
                if enough(few):
                    return few
    return _taken(raw_ms, protocol, load_average)


def _taken(raw_ms, protocol, load_average):
    return Measurement(
        raw_ms=tuple(round(value, 4) for value in raw_ms),
        protocol=protocol,
        machine=machine_name(),
        date=provenance().date,
        versions=versions(),
        load_average=round(load_average, 2),
    )


def measure_calmly(
    model: Any,
    protocol: Protocol,
    *,
    attempts: int = 2,
    expected_ms: float | None = None,
    enough: Callable[[Measurement], bool] | None = None,
    decided: Callable[[Measurement], bool] | None = None,
    progress: Callable | None = None,
) -> Measurement:
    """The calmest of up to `attempts` Measurements: taken again only while the spread is too wide to trust.

    enough: as `measure` has it. decided(a Measurement of wide spread): whether a calmer one would decide nothing else.
    expected_ms: what was predicted. A Measurement far above it is taken again too, `attempts` times, and the fastest
    counts: other work on the machine only adds time, and spreads nothing where it lasts longer than all runs. For the
    same reason runs that last less than SHORT_MS in all are taken again, MOST_AGAIN times at most; the fastest count.
    """
    taken = []
    for _ in range(1 + attempts):
        taken.append(_calmest(model, protocol, attempts, decided, {"enough": enough, "progress": progress}))
        unlikely_pct = UNLIKELY_PCT if _is_whole(taken[-1], protocol) else FEW_UNLIKELY_PCT
        if expected_ms is None or taken[-1].measured_ms <= expected_ms * (1 + unlikely_pct / 100):
            break
    lasted_ms = sum(sum(measurement.raw_ms) for measurement in taken)
    for _ in range(MOST_AGAIN):
        if lasted_ms >= SHORT_MS:
            break
        taken.append(measure(model, protocol, enough=enough, progress=progress))
        lasted_ms += sum(taken[-1].raw_ms)
    return min(taken, key=lambda measurement: measurement.measured_ms)


def _calmest(model, protocol, attempts, decided, how):
    taken = []
    for _ in range(attempts):
        taken.append(measure(model, protocol, **how))
        is_calm = taken[-1].warning is None or not _is_whole(taken[-1], protocol)
        if is_calm or (decided and decided(taken[-1])):
            break
    return min(taken, key=lambda measurement: measurement.spread_pct)


def _is_whole(measurement, protocol):
    """Whether all runs were taken: a few had not been enough."""
    return len(measurement.raw_ms) >= protocol.num_runs


@contextlib.contextmanager
def _no_garbage_collection():
    gc.disable()  # not collected first: with torch imported that takes a tenth of a second, more than most runs
    try:
        yield
    finally:
        gc.enable()
