"""The whole path of `zennas align`: read `run` first."""

import collections
import csv
import hashlib
import io
import pathlib
import shutil
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zennas.align.lists import known_identities, known_landmarks
from zennas.align.options import Options
from zennas.align.parts import ACCEPTED, DOUBTFUL, PART_PHOTOGRAPHS, REFUSED, Aligning, do_part
from zennas.align.report import write_report
from zennas.align.sinks import SINKS, Names
from zennas.data.named_images import is_plain_folder
from zennas.data.parts import do_all, spans_of, told_when_stopped
from zennas.data.sources import AnySource, open_source
from zennas.flags import spelled
from zennas.names import shown, text_path
from zennas.progress import Progress, silent
from zennas.records import Record, UserError
from zennas.run_folder import explaining, lock_folder, open_run, save_run, write_atomically
from zennas.space.shape import parsed_px, px_text
from zennas.tasks.face.detect import Detector

TABLE, PASSED_OVER, REPORT, LOG, PARTS = (
    "faces.parquet",
    "passed-over.csv",
    "report.html",
    "align.log",
    "parts",
)
LEAST_PX, MOST_PX = 16, 2048  # of a side of the aligned faces


class Aligned(Record):
    """What `align` returns: how many photographs there are, and what became of them and their faces."""

    num_photographs: int
    num_identities: int
    num_accepted: int  # faces
    num_doubtful: int
    num_refused: int
    num_written: int
    num_undecodable: int  # photographs
    whys: dict[str, int]  # reasons that faces are doubtful or refused
    format: str
    is_flat: bool  # the photographs lie in no folders of identities
    data_notices: list[str] = []  # what of the data is not used, and how it was read


class Request(NamedTuple):
    """An alignment as it is done."""

    options: Options  # `out` absolute
    height_width: tuple[int, int]
    detector: Detector


def check(options: Options) -> Request:
    """The Request of an alignment; UserError for what cannot be used."""
    try:
        height_width = parsed_px(options.size)
    except ValueError as error:
        raise UserError(f"--size: {error}") from None
    if not all(LEAST_PX <= side <= MOST_PX for side in height_width):
        raise UserError(f"--size {options.size}: allowed: sides of {LEAST_PX} to {MOST_PX} pixels")
    for name in ("landmarks", "identity_of", "detector"):
        path = getattr(options, name)
        if path is not None and not path.is_file():
            raise UserError(f"{spelled(name)} {path}: no such file")
    detector = Detector(options.detector)
    detector.open()
    return Request(options.model_copy(update={"out": options.out.absolute()}), height_width, detector)


def run(options: Options, *, progress: Progress | None = None) -> Aligned:
    """Write the aligned faces."""
    progress = progress or silent()
    request = check(options)
    with told_when_stopped(request.options.out, progress):
        return _run(request, progress)


def _run(request: Request, progress: Progress) -> Aligned:
    """What became of the photographs, as run.json keeps it."""
    options = request.options
    data, out = options.data.resolve(), options.out.resolve()
    if out == data:
        raise UserError(f"--out {options.out}: holds the data itself; choose another folder")
    if out.is_relative_to(data) and is_plain_folder(data):
        raise UserError(
            f"--out {options.out}: lies in the data, where its faces would count as photographs; choose another folder"
        )
    lock = lock_folder(options.out)
    try:
        progress.begin(f"opening {options.data}")
        source = open_source(options.data, loose=True, progress=progress.counting("images"))
        progress.end()
        format = _format(options, source)
        state, goes_on = open_run(
            options.out,
            _settings(request, source, format),
            start={"summary": None},
            resume=options.resume,
            fresh=options.fresh,
        )
        progress.log_to(options.out / LOG)
        if state["summary"] is not None and (options.out / TABLE).is_file():
            progress.say(f"{options.out}: this alignment is done; --fresh does it again")
            return Aligned.parse(state["summary"], f"{options.out}/run.json: summary")
        return _align(request, source, format, state, goes_on, progress)
    finally:
        progress.end()  # who made it closes it
        lock.release()


def is_flat(source: AnySource) -> bool:
    """Whether the photographs lie in no folders of identities."""
    name = source.name(0)
    return source.num_identities == 1 and name is not None and "/" not in name.removeprefix("./")


def _format(options, source):
    """The name of the sink."""
    if options.format is None:
        return "recordio" if source.name(0) is None else "folder"
    if options.format != "folder" and is_flat(source) and options.identity_of is None:
        raise UserError(
            f"--format {options.format}: {options.data} has no folders of identities; give them by --identity-of, or "
            "leave --format out"
        )
    return options.format


def _settings(request: Request, source: AnySource, format: str) -> dict[str, Any]:
    """What makes this run this run."""
    options = request.options
    return {
        "data": source.fingerprint,
        "num_images": source.num_images,
        "format": format,
        "size": px_text(request.height_width),
        "detector": request.detector.fingerprint,
        "all": options.all,
        "landmarks": _digest(options.landmarks),
        "identity_of": _digest(options.identity_of),
        "only_accepted": options.only_accepted,
        "complete": options.complete,
    }


def _digest(path: pathlib.Path | None) -> str | None:
    """Of a file's content."""
    return None if path is None else hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _align(request, source, format, state, goes_on, progress):
    """Align what is not aligned yet, then write all of it; the summary."""
    options = request.options
    aligning, identities, notices = _aligning(request, source)
    spans, parts = spans_of(source.num_images, part_images=PART_PHOTOGRAPHS), aligning.parts
    text = f"aligning {source.num_images:,} photographs to {px_text(request.height_width)} pixels"
    do_all(
        do_part,
        aligning,
        spans,
        workers=options.workers,
        goes_on=goes_on,
        doing="aligning",
        says=lambda num_workers: f"{text}, {num_workers} process(es)",
        notices=notices,
        unit="photographs",
        progress=progress,
    )
    progress.begin("writing the faces")
    num_identities = len(identities) if identities is not None else source.num_identities
    names = Names(source, identities)
    with (
        explaining(options.out),
        SINKS[format](options.out, names, num_identities=num_identities, height_width=request.height_width) as sink,
    ):
        parts.write_table(
            spans,
            options.out / TABLE,
            changed=lambda span: _written(parts, span, sink),
            progress=progress.counting("parts"),
        )
    progress.end()
    summary = _summary(
        options.out / TABLE, source, num_identities, format, notices, is_flat=identities is None and is_flat(source)
    )
    _write_passed_over(options.out)
    warnings = warnings_of(summary)
    write_report(options.out / REPORT, summary, aligning, spans, options, state["made_by"], warnings=warnings)
    for warning in warnings:
        progress.say(f"warning: {warning}", style="yellow")
    save_run(options.out, state | {"summary": summary.model_dump(mode="json")})
    shutil.rmtree(parts.folder, ignore_errors=True)
    return summary


def _aligning(request, source):
    """(the Aligning, names of the identities of --identity-of or None, sentences on the data)."""
    options, notices = request.options, list(source.notices)
    points_N52 = label_N = identities = None
    if options.landmarks is not None:
        points_N52, told = known_landmarks(source, options.landmarks)
        notices += told
    if options.identity_of is not None:
        label_N, identities, told = known_identities(source, options.identity_of)
        notices += told
    aligning = Aligning(
        source,
        request.detector,
        options.out / PARTS,
        request.height_width,
        points_N52,
        label_N,
        every=options.all,
        only_accepted=options.only_accepted,
        complete=options.complete,
    )
    return aligning, identities, notices


def _written(parts, span, sink):
    """The table of a part, with where each of its faces was written by now."""
    table = parts.rows_of(span)
    rows = table.select(["photograph", "identity", "face"]).to_pylist()
    written = [
        None if encoded is None else shown(sink.add(encoded, row))
        for row, encoded in zip(rows, parts.images_of(span), strict=True)
    ]
    return table.set_column(table.column_names.index("written"), "written", pa.array(written, pa.string()))


def _write_passed_over(folder):
    """passed-over.csv: the photographs and faces that are not accepted, and why."""
    text, columns = io.StringIO(), ["photograph", "where", "name", "face", "verdict", "why", "written"]
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    over = pq.read_table(text_path(folder / TABLE), columns=columns, filters=pc.field("verdict") != ACCEPTED)
    for batch in over.to_batches(max_chunksize=10_000):
        writer.writerows(row.values() for row in batch.to_pylist())
    write_atomically(folder / PASSED_OVER, text.getvalue())


def _summary(path, source, num_identities, format, notices, *, is_flat):
    table = pq.read_table(text_path(path), columns=["verdict", "why", "written"])
    verdicts = collections.Counter(_counted(table["verdict"]))
    whys = collections.Counter()
    for why, num in _counted(table["why"].drop_null()).items():
        whys[why.partition(":")[0]] += num
    return Aligned(
        num_photographs=source.num_images,
        num_identities=num_identities,
        num_accepted=verdicts[ACCEPTED],
        num_doubtful=verdicts[DOUBTFUL],
        num_refused=verdicts[REFUSED],
        num_written=table.num_rows - table["written"].null_count,
        num_undecodable=whys["does not decode"],
        whys=dict(sorted(whys.items())),
        format=format,
        is_flat=is_flat,
        data_notices=notices,
    )


def _counted(column):
    """{value: how often}; a Python object for every value alone, not for every row."""
    return {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}


def warnings_of(summary: Aligned) -> list[str]:
    """What a user must not miss, one line each."""
    warnings = []
    num_faces = summary.num_accepted + summary.num_doubtful
    if summary.num_undecodable:
        warnings.append(
            f"{summary.num_undecodable:,} of {summary.num_photographs:,} photographs do not decode ({PASSED_OVER} says "
            "which)"
        )
    if summary.num_refused > summary.num_photographs / 10:
        warnings.append(f"{summary.num_refused:,} of {summary.num_photographs:,} photographs are refused")
    if summary.num_doubtful > num_faces / 4:
        warnings.append(
            f"{summary.num_doubtful:,} of {num_faces:,} faces are doubtful: look at {REPORT}; --only-accepted leaves "
            "them out"
        )
    return warnings
