"""Every machine's tables: which are known here, what stands in one, and how another machine's is brought here."""

import csv
import io
import math
import pathlib
import re
from typing import NamedTuple, get_args

from zennas.latency.backends import BACKENDS
from zennas.latency.inputs import IMAGES, INPUTS, NOISE
from zennas.latency.table import COLUMNS, LatencyTable, kept_folder, middle, part_cells, table_name
from zennas.provenance import machine_name
from zennas.records import MEASURED, UserError, data_root, shortened, some, suggestion
from zennas.run_folder import explaining, write_atomically
from zennas.space.parts import Part
from zennas.space.shape import parsed_px
from zennas.track import Precision, Protocol

NEEDED = COLUMNS[:6]  # a part and its milliseconds; the other columns say how they came about
FILE_NAME = re.compile(
    r"(?P<backend>.+?)-(?P<threads>\d+)t-batch(?P<batch>\d+)(?P<slow>-denormals)?"
    rf"(-(?P<precision>{'|'.join(get_args(Precision))}))?(-(?P<input>{'|'.join(INPUTS)}|{IMAGES}-[0-9a-f]{{12}}))?"
)
FILE_AT_RUNTIME = re.compile(r"(.*\.csv)(?:@(.*))?")
MACHINE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


class Row(NamedTuple):
    """One measured part, as a table's file holds it; what a file does not say is None or ""."""

    part: Part
    ms: float
    spread_pct: float | None
    raw_ms: str
    machine: str
    date: str
    runtime: str


class KnownTable(NamedTuple):
    """What one machine measured by one rule and one version of its runtime."""

    machine: str
    protocol: (
        Protocol | None
    )  # backend, threads, batch, denormals and precision are the table's; None where nobody says
    runtime: str  # the version; "" where the file does not say
    rows: dict[Part, Row]
    origins: tuple[str, ...]  # "shipped", "kept", or the path of a file

    @property
    def name(self) -> str:
        """What the commands call it."""
        rule = table_name(self.protocol).removesuffix(".csv") if self.protocol else "rule unknown"
        return f"{self.machine or pathlib.Path(self.origins[0]).stem}/{rule}" + (
            f"@{self.runtime}" if self.runtime else ""
        )

    @property
    def dates(self) -> tuple[str, str]:
        """(first, last) day of its measurements; ("", "") where no row says."""
        days = sorted(row.date[:10] for row in self.rows.values() if row.date)
        return (days[0], days[-1]) if days else ("", "")


def known_tables() -> list[KnownTable]:
    """The KnownTables of all machines, shipped and kept, sorted by name. Of a part in both, the kept row counts."""
    known = {}
    for origin, root in (("shipped", data_root() / MEASURED), ("kept", kept_folder("any").parent)):
        for path in sorted(root.glob("*/*.csv")):
            protocol = protocol_of(path.name)
            if protocol is None:  # another file that somebody put there
                continue
            for (machine, runtime), rows in _by_origin(read_rows(path, lenient=True)).items():
                if machine != path.parent.name:
                    continue
                key = (machine, table_name(protocol), runtime)
                before = known.get(key, KnownTable(machine, protocol, runtime, {}, ()))
                origins = tuple(dict.fromkeys([*before.origins, origin]))
                known[key] = before._replace(rows=before.rows | rows, origins=origins)
    return [known[key] for key in sorted(known)]


def find_table(name: str, protocol: Protocol | None = None) -> KnownTable:
    """The KnownTable that a name stands for.

    name: MACHINE, MACHINE/RULE, MACHINE/RULE@VERSION, any part of these that only one table has, or the path of a .csv
    (of its several versions one: FILE.csv@VERSION). protocol: narrows what fits to tables of its rule, and says the
    rule of a file whose name does not. UserError where none or several fit.
    """
    if (file := FILE_AT_RUNTIME.fullmatch(name)) is not None:
        return _only(tables_in(file[1], protocol), name, runtime=file[2])
    tables = known_tables()
    fitting = [table for table in tables if name in (table.machine, table.name, table.name.partition("@")[0])]
    fitting = fitting or [table for table in tables if name in table.name]
    if protocol is not None:
        of_rule = [table for table in fitting if _rule(table.protocol) == _rule(protocol)]
        fitting = [table for table in of_rule if table.protocol.input == protocol.input] or of_rule or fitting
    if not fitting:
        raise UserError(
            f"latency table '{name}' is not known; {suggestion(name, [table.name for table in tables])}; or give the "
            f"path of a .csv"
        )
    return _only(fitting, name)


def open_table(name: str, protocol: Protocol | None = None) -> LatencyTable:
    """The LatencyTable of any machine, by a name or path as `find_table` takes them.

    It predicts; what it lacks only its own machine can measure (UserError). With a protocol, its table must be of that
    rule: backend, threads, batch, denormals, precision. What was seen may differ: older tables saw noise.
    UserError where none or several fit.
    """
    return predictor(find_table(name, protocol), protocol)


def predictor(known: KnownTable, protocol: Protocol | None = None) -> LatencyTable:
    """The LatencyTable of a KnownTable; `open_table` says what it can do, and which UserErrors there are."""
    if known.protocol is None:
        raise UserError(f"{known.origins[0]}: its name does not say by which rule it was measured; {_how_to_name()}")
    if protocol is not None and _rule(protocol) != _rule(known.protocol):
        raise UserError(
            f"latency table {known.name} was measured by another rule: {_rule(known.protocol)}, "
            f"wanted {_rule(protocol)}"
        )
    machine = known.name.partition("/")[0]  # never this machine's, where a file names none
    return LatencyTable(
        protocol or known.protocol, machine=machine, rows={part: row.ms for part, row in known.rows.items()}
    )


def _rule(protocol):
    """What two tables must have in common to be compared: all but what the networks saw."""
    return table_name(protocol.model_copy(update={"input": NOISE})).removesuffix(".csv")


def import_table(
    path: pathlib.Path | str, *, machine: str | None = None, protocol: Protocol | None = None
) -> tuple[pathlib.Path, list[KnownTable]]:
    """(where it is kept now, its KnownTables): another machine's table, its file copied to that machine's folder.

    machine: its name here; needed where the file names none, several, or this machine. protocol: the rule it was
    measured by, where its file name does not say. The file has one line per part, with at least the columns NEEDED.
    UserError for everything else.
    """
    here = machine_name()
    tables = tables_in(path, protocol)
    machines = sorted({table.machine for table in tables})
    if machine in machines or len(machines) == 1:
        tables = [table for table in tables if machine not in machines or table.machine == machine]
    else:
        raise UserError(f"{path}: holds rows of several machines: {some(machines)}; say which with --machine")
    machine = machine or machines[0]
    if not machine:
        raise UserError(f"{path}: its rows do not name their machine; give it a name with --machine")
    if not MACHINE_NAME.fullmatch(machine):
        raise UserError(
            f"--machine '{machine}': allowed: small letters, digits, '-', '_' and '.', as a folder is called"
        )
    if machine == here:
        raise UserError(
            f"{path}: {machine} is this machine's own name, and its table is measured here; give the other one a "
            f"name of its own "
            "with --machine"
        )
    protocol = tables[0].protocol
    if protocol is None:
        raise UserError(f"{path}: its name does not say by which rule it was measured; {_how_to_name()}")
    tables = [table._replace(machine=machine) for table in tables]
    target, content = kept_folder(machine) / table_name(protocol), _as_csv(tables)
    if target.exists() and target.read_text(encoding="utf-8") != content:
        raise UserError(
            f"{target}: another table of {machine} is kept already; delete it, or give this one another name with "
            f"--machine"
        )
    with explaining(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, content)
    return target, tables


def tables_in(path: pathlib.Path | str, protocol: Protocol | None = None) -> list[KnownTable]:
    """The KnownTables in a file, one for each machine and version. `protocol`: their rule, where its name says none."""
    path = pathlib.Path(path)
    rule, found = protocol_of(path.name) or protocol, _by_origin(read_rows(path))
    return [
        KnownTable(machine, rule, runtime, found[machine, runtime], (str(path),)) for machine, runtime in sorted(found)
    ]


def _by_origin(rows):
    """{(machine, runtime): {Part: Row}} of a file's Rows; of a part that was measured several times the middle one."""
    taken = {}
    for row in rows:
        taken.setdefault((row.machine, row.runtime), {}).setdefault(row.part, []).append(row)
    return {origin: {part: _middle_row(several) for part, several in parts.items()} for origin, parts in taken.items()}


def _middle_row(rows):
    middle_ms = middle([row.ms for row in rows])
    return next(row for row in rows if row.ms == middle_ms)


def protocol_of(file_name: str) -> Protocol | None:
    """The Protocol whose table has this file name, as far as a table depends on it; None where it is no table's name.

    >>> protocol_of("onnxruntime-cpu-1t-batch8-int8.csv").precision, protocol_of("jetson.csv")
    ('int8', None)
    """
    match = FILE_NAME.fullmatch(file_name.removesuffix(".csv"))
    if match is None or match["backend"] not in BACKENDS:
        return None
    try:
        return Protocol(
            backend=match["backend"],
            threads=match["threads"],
            batch=match["batch"],
            flush_denormals=not match["slow"],
            precision=match["precision"] or "float32",
            input=(match["input"] or NOISE).replace(f"{IMAGES}-", f"{IMAGES}:"),
        )
    except ValueError:
        return None


def read_rows(path: pathlib.Path | str, *, lenient: bool = False) -> list[Row]:
    """The Rows of a table's file, in order. UserError says which line is wrong; lenient: lines that are no rows are
    left out, such as the last one after a power cut, which `LatencyTable` measures again.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'it is no text'}") from None
    lines = list(csv.reader(io.StringIO(text)))
    names = lines[0] if lines else []
    if missing := [name for name in NEEDED if name not in names]:
        if lenient:
            return []
        given = f"given: {shortened(', '.join(names))}" if names else "the file is empty"
        raise UserError(f"{path}: not a latency table: column(s) {', '.join(missing)} missing; {given}")
    rows = []
    for number, values in enumerate(lines[1:], start=2):
        torn = number == len(lines) and not text.endswith("\n")
        if not values or (lenient and (torn or len(values) != len(names))):
            continue
        try:
            rows.append(_row(dict(zip(names, values, strict=True))))
        except ValueError as error:
            if not lenient:
                raise UserError(f"{path}, line {number}: not a row of a latency table: {_said(error)}") from None
    if not rows and not lenient:
        raise UserError(f"{path}: the table has no rows")
    return rows


def _row(values):
    numbers = {}
    for name in NEEDED[1:4]:
        numbers[name] = int(values[name]) if values[name].strip().isdigit() else 0
        if numbers[name] < 1:
            raise UserError(f"{name}: given '{values[name]}', allowed: a whole number, 1 or more")
    try:
        height, width = parsed_px(values["in_px"])
    except ValueError as error:
        raise UserError(f"in_px: {error}") from None
    part = Part(values["kind"], **numbers, in_height=height, in_width=width)
    _ = part.macs  # builds it, and so refuses a kind of block that there is none of
    return Row(
        part=part,
        ms=_positive("ms", values["ms"]),
        spread_pct=_positive("spread_pct", values["spread_pct"], least=0.0) if values.get("spread_pct") else None,
        raw_ms=values.get("raw_ms", ""),
        machine=values.get("machine", ""),
        date=values.get("date", ""),
        runtime=values.get("runtime", ""),
    )


def _positive(name, text, *, least=1e-9):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least):
        raise UserError(f"{name}: given '{text}', allowed: a number {'of 0 or more' if not least else 'above 0'}")
    return value


def _said(error):
    """The first line of what is wrong with a row; Python's own words are of no use."""
    return str(error) if isinstance(error, UserError) else "it has more or fewer fields than the first line"


def _as_csv(tables):
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for table in tables:
        for row in table.rows.values():
            spread = "" if row.spread_pct is None else f"{row.spread_pct:g}"
            writer.writerow(
                (*part_cells(row.part), f"{row.ms:.9g}", spread, row.raw_ms, table.machine, row.date, row.runtime)
            )
    return out.getvalue()


def _only(tables, name, *, runtime=None):
    """The one table there is, of this version where one is asked for."""
    fitting = [table for table in tables if runtime is None or table.runtime == runtime]
    if not fitting:
        raise UserError(f"{name}: no row was measured with version '{runtime}'; known: {_versions(tables)}")
    if len(fitting) > 1:
        names = some([table.name for table in fitting])
        raise UserError(f"'{name}' may be any of {len(fitting)} latency tables: {names}")
    return fitting[0]


def _versions(tables):
    return ", ".join(sorted({table.runtime or "not said" for table in tables}))


def _how_to_name():
    return "call the file as zennas does, for example onnxruntime-cpu-1t-batch1.csv (backend, threads, batch)"
