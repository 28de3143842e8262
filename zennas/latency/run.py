"""The work of `zennas latency`."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

from zennas.flags import spelled
from zennas.latency import tables
from zennas.latency.backends import device_of
from zennas.latency.budget import (
    choose_protocol,
    keep_reference,
    local_budget,
    measure_network,
    measure_onnx_file,
    reference_here,
)
from zennas.latency.comparison import Comparison, compare
from zennas.latency.options import Options
from zennas.latency.predicted import Prediction, measure_some, page, predict_kept
from zennas.latency.protocol import Measurement
from zennas.latency.table import COLUMNS, LatencyTable
from zennas.progress import Progress, silent
from zennas.records import Record, UserError
from zennas.run_folder import explaining, write_atomically
from zennas.space.candidate import read_candidates
from zennas.space.shape import px_cell
from zennas.space.space import Space
from zennas.track import Experiment, Protocol, Track, load_experiment, load_space

MODES = ("table", "show", "compare", "import_", "predicted")  # the options that say what to do


@dataclasses.dataclass(frozen=True)
class Measured:
    """The networks that were measured, by name."""

    networks: tuple[tuple[str, Measurement], ...]

    def plain(self) -> list[dict[str, Any]]:
        """What JSON says of them."""
        return [
            {
                "name": name,
                "measured_ms": measurement.measured_ms,
                "spread_pct": measurement.spread_pct,
                **measurement.model_dump(mode="json"),
            }
            for name, measurement in self.networks
        ]


@dataclasses.dataclass(frozen=True)
class Tables:
    """The tables that are known here, or those that were imported."""

    tables: tuple[tables.KnownTable, ...]
    kept_in: pathlib.Path | None = None  # where those that were imported lie now

    def plain(self) -> list[dict[str, Any]]:
        """What JSON says of them."""
        return [_plain(table) for table in self.tables]


@dataclasses.dataclass(frozen=True)
class OneTable:
    """One table, with its parts."""

    table: tables.KnownTable

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        return _plain(self.table) | {"parts": [_plain_row(row) for row in self.table.rows.values()]}


@dataclasses.dataclass(frozen=True)
class Predicted:
    """Predictions beside measurements, and the page that shows them."""

    prediction: Prediction
    page: pathlib.Path

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        return self.prediction.model_dump(mode="json") | {"page": str(self.page)}


Result = Measured | Tables | OneTable | Comparison | Predicted


class Opened(Record):
    """What the options name, loaded."""

    mode: str | None  # one of MODES; None: measure what is named
    experiment: Experiment
    track: Track
    space: Space


def check(options: Options) -> Opened:
    """What the options name; UserError for what does not go together or is not known."""
    mode = _mode(options)
    experiment, track, space = load_experiment(options.track)
    space = load_space(options.space) if options.space else space
    if options.backend is not None:
        device_of(options.backend)
    return Opened(mode=mode, experiment=experiment, track=track, space=space)


def run(options: Options, *, progress: Progress | None = None) -> Result:
    """Measure networks, or fill, show, compare, import or judge tables: what the options say."""
    progress = progress or silent()
    opened = check(options)
    if opened.mode in ("show", "compare", "import_"):
        return _of_tables(opened, options)
    return _measured(opened, options, progress)


def _mode(options: Options) -> str | None:
    """The one option that says what to do. UserError where the rest does not go with it."""
    what = options.what
    given = [name for name in MODES if getattr(options, name)]
    if len(given) > 1:
        first, second = (spelled(name) for name in given[:2])
        raise UserError(f"{first} and {second} exclude each other")
    mode = given[0] if given else None
    for option, value, needed, why in (
        ("--folder", options.folder, "table", "says where --table keeps the table"),
        ("--machine", options.machine, "import_", "names the machine of a table that --import brings here"),
        ("--measure", options.measure, "predicted", "says how many networks --predicted measures first"),
        ("--out", options.out, "predicted", "says where --predicted writes its page"),
    ):
        if value is not None and mode != needed:
            raise UserError(f"{option} {why}; give both")
    allowed = {"show": (0, 1), "compare": (2, 2), "import_": (1, 1), "predicted": (0, 0)}.get(mode or "")
    if mode and allowed and not allowed[0] <= len(what) <= allowed[1]:
        wanted = {"show": "at most one table", "compare": "two tables", "import_": "one file"}.get(mode, "no file")
        raise UserError(f"{spelled(mode)} takes {wanted}; given {len(what)}: {', '.join(what) or 'none'}")
    return mode


# --- what is measured here


def _measured(opened: Opened, options: Options, progress: Progress) -> Measured | Predicted:
    track, space = opened.track, opened.space
    protocol, stand_in = choose_protocol(track, options.backend, images=options.images, batch=options.batch)
    if stand_in:
        progress.say(stand_in, style="yellow")
    if opened.mode in ("table", "predicted"):
        latency_table = LatencyTable(protocol, folder=options.folder)
        _fill(latency_table, opened, progress)
        if opened.mode == "predicted":
            return _predicted(opened, options, latency_table, stand_in, progress)
    networks = []
    if opened.mode is None and not options.what:
        official = track.budget.reference
        if official is None:
            raise UserError(
                f"nothing to measure: track {track.name} has no reference network; give files of networks or "
                "candidates, or --table"
            )
        reference = measure_network(official.candidate, protocol, official.shape)
        keep_reference(track, reference)
        networks.append(("reference " + official.candidate.text, reference))
    for name, measure in _things_to_measure(options.what, space):
        progress.begin(f"measuring {name}")
        progress.update({})
        networks.append((name, measure(protocol)))
        progress.end()
    return Measured(tuple(networks))


def _fill(latency_table: LatencyTable, opened: Opened, progress: Progress) -> None:
    """Measure what the table lacks of the space."""
    parts = latency_table.parts_for(opened.space)
    missing = latency_table.missing(parts)
    progress.begin("measuring the latency table")
    latency_table.ensure(parts, num_runs=opened.experiment.search.table_runs, progress=progress.counting("blocks"))
    progress.end()
    if missing or opened.mode == "table":
        progress.say(
            f"{len(missing)} block measurements added, {len(latency_table.rows)} known; kept in {latency_table.path}"
        )


def _predicted(
    opened: Opened, options: Options, latency_table: LatencyTable, stand_in: str | None, progress: Progress
) -> Predicted:
    protocol, space = latency_table.protocol, opened.space
    out = options.out or pathlib.Path(f"runs/{opened.experiment.name}-latency.html")
    with explaining(out.parent):  # before minutes of measuring
        out.parent.mkdir(parents=True, exist_ok=True)
    if options.measure:
        reference = reference_here(opened.track, protocol, progress)
        budget = local_budget(opened.track, reference, stand_in, batch=protocol.batch)
        progress.begin("measuring candidates whole")
        measure_some(
            space,
            latency_table,
            protocol,
            options.measure,
            budget_ms=budget.budget_ms,
            counting=progress.counting("networks"),
        )
        progress.end()
    title = f"{opened.experiment.name}: {latency_table.path.stem} on {latency_table.machine}"
    prediction = predict_kept(space, latency_table, protocol, title=title, stand_in=stand_in)
    write_atomically(out, page(prediction))
    return Predicted(prediction, out)


def _things_to_measure(files: tuple[str, ...], space: Space) -> list[tuple[str, Callable[[Protocol], Measurement]]]:
    """[(name, protocol -> Measurement)] of ONNX files and of candidates in files."""
    things: list[tuple[str, Callable[[Protocol], Measurement]]] = []
    for file in files:
        if file.endswith(".onnx"):
            things.append((file, functools.partial(measure_onnx_file, file)))
            continue
        for name, candidate in read_candidates(file):
            measure = functools.partial(measure_network, candidate, shape=space.shape)
            things.append((name, measure))
    return things


# --- tables


def _of_tables(opened: Opened, options: Options) -> Tables | OneTable | Comparison:
    protocol = opened.track.protocol  # as it is: another machine's table needs no device here
    if options.backend is not None:
        protocol = protocol.model_copy(update={"backend": options.backend})
    if options.batch is not None:
        protocol = protocol.model_copy(update={"batch": options.batch})
    if opened.mode == "show" and not options.what:
        return Tables(tuple(tables.known_tables()))
    if opened.mode == "show":
        return OneTable(tables.find_table(options.what[0], protocol))
    if opened.mode == "compare":
        first, second = (tables.find_table(name, protocol) for name in options.what)
        return compare(first, second, opened.space)
    path, imported = tables.import_table(options.what[0], machine=options.machine, protocol=protocol)
    return Tables(tuple(imported), kept_in=path)


def _plain(table: tables.KnownTable) -> dict[str, Any]:
    keys = ("backend", "threads", "batch", "flush_denormals", "precision")
    rule = {key: getattr(table.protocol, key, None) for key in keys}
    first, last = table.dates
    return {
        "table": table.name,
        "machine": table.machine,
        **rule,
        "version": table.runtime,
        "num_parts": len(table.rows),
        "first": first,
        "last": last,
        "origins": list(table.origins),
    }


def _plain_row(row: Any) -> dict[str, Any]:
    return dict(zip(COLUMNS, (*row.part[:4], px_cell(row.part.in_hw)), strict=False)) | {
        "ms": row.ms,
        "spread_pct": row.spread_pct,
        "gmacs_per_s": gmacs_per_s(row),
        "date": row.date,
    }


def gmacs_per_s(row: Any) -> float:
    """How many billion multiply-accumulates a part does in a second."""
    return round(row.part.macs / row.ms / 1e6, 3)
