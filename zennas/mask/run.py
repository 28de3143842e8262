"""The whole path of `zennas mask`: read `run` first."""

import contextlib
import csv
import io
import pathlib
import shutil
from typing import Any, NamedTuple

import pyarrow.compute as pc

from zennas.data.images import CorruptImageError, check_knobs, decode
from zennas.data.parts import do_all, spans_of, told_when_stopped
from zennas.data.recordio import RecordWriter
from zennas.data.sources import open_source
from zennas.flags import spelled
from zennas.mask.masker import Masker, templates_fingerprint
from zennas.mask.options import Options
from zennas.mask.parts import Masking, do_part
from zennas.mask.render import vary
from zennas.mask.report import rows_of, write_report
from zennas.mask.textures import Wardrobe, wardrobe, write_layout
from zennas.progress import Progress, silent
from zennas.records import Record, UserError
from zennas.run_folder import explaining, lock_folder, open_run, save_run, write_atomically
from zennas.space.shape import DEFAULT_HW
from zennas.tasks.face.crops import AUTO, check_crops

TABLE, PASSED_OVER, IDENTITIES, REPORT, LOG, PARTS = (
    "masks.parquet",
    "passed-over.csv",
    "identities.txt",
    "report.html",
    "mask.log",
    "parts",
)
FEW = 20  # masked faces below which their colours say nothing of the colour order


class Masked(Record):
    """What `mask` returns: how many images there are, and what became of them."""

    num_images: int
    num_chosen: int
    num_masked: int
    num_written: int
    num_passed_over: int
    num_undecodable: int
    num_damaged: int  # chosen or not
    num_bluish: int
    kinds: dict[str, int]
    data_notices: list[str] = []  # what of the data is not used, and how it was read


class WrittenLayout(Record):
    """What `mask` returns of --layout."""

    layout: pathlib.Path


class Request(NamedTuple):
    """A masking as it is done."""

    options: Options  # `out` absolute, like the one below
    data: pathlib.Path
    out: pathlib.Path
    dressing: Wardrobe  # what masks are made of


def check(options: Options) -> Request:
    """The Request of a masking; UserError for what cannot be used."""
    data, out = options.data, options.out
    if data is None or out is None:
        raise UserError(f"{spelled('data' if data is None else 'out')} is missing; see --help")
    if options.only_masked and not options.ratio:
        raise UserError("--only-masked: of --ratio 0 nothing is left to write; give a ratio above 0")
    check_knobs(vary, options.knob, "--knob")
    dressing, out = wardrobe(options.kinds, options.textures, seed=options.seed), out.absolute()
    return Request(options.model_copy(update={"out": out}), data, out, dressing)


def run(options: Options, *, progress: Progress | None = None) -> Masked | WrittenLayout:
    """Write the masked set, or the layout that is asked for."""
    progress = progress or silent()
    if options.layout is not None:
        write_layout(options.layout)
        return WrittenLayout(layout=options.layout)
    request = check(options)
    with told_when_stopped(request.out, progress):
        return _run(request, progress)


def _run(request: Request, progress: Progress) -> Masked:
    """What became of the images, as run.json keeps it."""
    options, data, out, dressing = request
    lock = lock_folder(out)
    try:
        progress.begin(f"opening {data}")
        source = open_source(data, identities=options.identities, progress=progress.counting("images"))
        progress.end()
        if options.faces == AUTO:
            check_crops(
                source.images,
                f"--data {data}",
                data,
                then=lambda out: f"--data {out}",
                detect="masks the photographs as they are",
            )
        if out.resolve() == data.resolve():
            raise UserError(f"--out {out}: holds the data itself; choose another folder")
        state, goes_on = open_run(
            out,
            _settings(options, source),
            start={"summary": None},
            resume=options.resume,
            fresh=options.fresh,
            seed=options.seed,
        )
        progress.log_to(out / LOG)
        if state["summary"] is not None and (out / "train.rec").is_file():
            progress.say(f"{out}: this masking is done; --fresh does it again")
            return Masked.parse(state["summary"], f"{out}/run.json: summary")
        masker = Masker(dressing, ratio=options.ratio, look=options.faces, knobs=options.knob)
        masking = Masking(source, masker, options.seed, options.only_masked, out / PARTS)
        return _mask(masking, options, state, goes_on, progress)
    finally:
        progress.end()  # who made it closes it
        lock.release()


def _settings(options: Options, source: Any) -> dict[str, Any]:
    """What makes this run this run."""
    return {
        "data": source.fingerprint,
        "num_images": source.num_images,
        "ratio": options.ratio,
        "kinds": list(options.kinds) if options.kinds is not None else None,
        "textures": templates_fingerprint(options.textures) if options.textures is not None else None,
        "seed": options.seed,
        "only_masked": options.only_masked,
        "faces": options.faces,
        "knobs": options.knob,
    }


def _mask(masking, options, state, goes_on, progress):
    """Mask what is not masked yet, then write all of it; the summary."""
    source, spans = masking.source, spans_of(masking.source.num_images)
    text = (
        f"masking {options.ratio:.0%} of {source.num_images:,} images of {source.num_identities:,} identities with "
        f"{', '.join(masking.masker.dressing.names)}"
    )
    do_all(
        do_part,
        masking,
        spans,
        workers=options.workers,
        goes_on=goes_on,
        doing="masking",
        says=lambda num_workers: f"{text}; {num_workers} process(es), seed {options.seed}",
        notices=source.notices,
        unit="images",
        progress=progress,
    )
    progress.begin("writing the records")
    num_written = _write_records(masking, spans, options.out, progress.counting("parts"))
    progress.end()
    table = _write_table(masking, spans, options.out)
    summary = _summary(table, num_written, source.notices)
    warnings = warnings_of(summary)
    _write_names(source, options.out)
    write_report(options.out / REPORT, summary, table, source, options, state["made_by"], warnings=warnings)
    for warning in warnings:
        progress.say(f"warning: {warning}", style="yellow")
    save_run(options.out, state | {"summary": summary.model_dump(mode="json")})
    shutil.rmtree(masking.folder, ignore_errors=True)
    return summary


def _write_records(masking, spans, folder, progress):
    """train.rec, .idx and property from the parts, in the order of the data; the number of images written."""
    source, num = masking.source, 0
    with (
        explaining(folder),
        RecordWriter(folder, num_classes=source.num_identities, image_px=_image_hw(source)) as writer,
    ):
        for span in spans:
            for image, encoded in enumerate(masking.parts.images_of(span), start=span.first):
                if encoded is not None:
                    writer.add(encoded, int(source.label_N[image]))
                    num += 1
            progress(span.number + 1, len(spans))
    return num


def _image_hw(source):
    """(height, width) of the first image that decodes, for `property`."""
    for image in range(min(source.num_images, 100)):
        with contextlib.suppress(CorruptImageError):
            return decode(source.read(image)).shape[:2]
    return DEFAULT_HW


def _write_table(masking, spans, folder):
    """The path of masks.parquet of all parts; and passed-over.csv of the images that could not be masked."""
    masking.parts.write_table(spans, folder / TABLE)
    text = io.StringIO()
    writer, columns = csv.writer(text, lineterminator="\n"), ["image", "where", "name", "written", "why"]
    writer.writerow(columns)
    over = rows_of(folder / TABLE, columns, where=pc.field("why").is_valid())
    for batch in over.to_batches(max_chunksize=10_000):
        writer.writerows(row.values() for row in batch.to_pylist())
    write_atomically(folder / PASSED_OVER, text.getvalue())
    return folder / TABLE


def _write_names(source, folder):
    """identities.txt: line n is the name of identity n, which RecordIO does not keep."""
    if source.identity_names is not None:
        write_atomically(folder / IDENTITIES, "".join(f"{name}\n" for name in source.identity_names))


def _summary(path, num_written, notices):
    every = rows_of(path, ["chosen", "masked", "damaged"])
    masked = rows_of(path, ["kind", "bluish"], where=pc.field("masked"))
    why = rows_of(path, ["why"], where=pc.field("why").is_valid())["why"]
    kinds = masked["kind"].value_counts().to_pylist()

    def num(flag):
        return pc.sum(flag).as_py() or 0

    return Masked(
        num_images=every.num_rows,
        num_chosen=num(every["chosen"]),
        num_masked=masked.num_rows,
        num_written=num_written,
        num_passed_over=num(pc.and_not(every["chosen"], every["masked"])),
        num_undecodable=num(pc.starts_with(why, "does not decode")),
        num_damaged=num(every["damaged"]),  # chosen or not
        num_bluish=num(masked["bluish"]),
        kinds={entry["values"]: entry["counts"] for entry in sorted(kinds, key=lambda entry: entry["values"])},
        data_notices=notices,
    )


def warnings_of(summary: Masked) -> list[str]:
    """What a user must not miss, one line each."""
    warnings, masked, chosen = [], summary.num_masked, summary.num_chosen
    if masked >= FEW and summary.num_bluish > masked / 2:
        warnings.append(
            f"on {summary.num_bluish:,} of {masked:,} masked faces the skin is more blue than red: "
            "red and blue seem to be exchanged in the data (images are RGB once decoded); write the images anew, "
            "or masks have wrong colours"
        )
    if chosen and summary.num_passed_over > chosen / 2:
        warnings.append(
            f"{summary.num_passed_over:,} of {chosen:,} chosen images were passed over ({PASSED_OVER} says why); "
            "--faces aligned is for crops, --faces detect for photographs"
        )
    if summary.num_damaged:
        warnings.append(
            f"{summary.num_damaged:,} of {summary.num_images:,} records are damaged ({PASSED_OVER} "
            "says which): they hold no image to hand on, and are left out"
        )
    return warnings
