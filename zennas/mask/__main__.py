"""The command `mask`: python -m zennas.mask --data D --ratio 0.15 --out DIR, the same as: zennas mask ..."""

import json
import pathlib
from typing import Annotated

import typer

from zennas import commands
from zennas.train.__main__ import DATA_HELP

HELP = """Render masks onto faces: a 3-D face is fitted to the landmarks, the mask is draped over it, lit as the skin
is lit, and written into a training set that `zennas train --data OUT` reads.

Masked images are encoded anew, all others are written byte for byte, in the order and with the identities of the
data. An image in which no face can be fitted is written as it is (not with --only-masked) and listed; a damaged
record, which has no image to hand on, is left out and listed. The same seed gives the same images, with any number of
workers. Kinds: surgical_blue, surgical_green, surgical_white, cloth_plain, cloth_patterned, n95, kn95, black. For
templates of your own, --layout FILE draws what to paint on. Ctrl-C and kill -9 lose no more than the parts under way:
give the same command again.

Under --out: train.rec, train.idx, property; identities.txt (names, where the data has some), masks.parquet (what was
done with every image), passed-over.csv, report.html, run.json, mask.log.

Exit codes: 0 masked; 1 written, but no image could be masked; 2 something given cannot be used; 130 stopped by
Ctrl-C.
"""


def mask(
    data: Annotated[pathlib.Path | None, typer.Option(help=f"{DATA_HELP} [required but for --layout]")] = None,
    out: Annotated[
        pathlib.Path | None, typer.Option(help="Folder of the masked set. [required but for --layout]")
    ] = None,
    ratio: Annotated[float, typer.Option(help="Share of the images that are masked, 0 to 1.")] = 0.15,
    kinds: Annotated[
        str | None, typer.Option(help="Kinds of mask, with commas between. [default: all eight; none with --textures]")
    ] = None,
    textures: Annotated[
        pathlib.Path | None, typer.Option(help="Folder of RGBA templates of your own, in the layout of --layout.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of who is masked, with what and how.")] = 0,
    only_masked: Annotated[bool, typer.Option("--only-masked", help="Write the masked images alone.")] = False,
    faces: Annotated[
        str,
        typer.Option(
            help="Where faces stand: aligned (112 x 112 crops), detect (photographs), auto (a crop where an image is a "
            "square of at most 256 pixels whose face stands where an aligned one does, else a photograph)."
        ),
    ] = "auto",
    knob: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE",
            help="How far masks vary: angle_deg (4), size (0.05), height (0.015), blur_px (0.3), exposure (0.12); "
            "repeatable.",
        ),
    ] = None,
    identities: Annotated[
        pathlib.Path | None, typer.Option(help="Text file of identities, one a line: these alone.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes. [default: one per processor core]")] = None,
    layout: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE.png",
            help="Write the layout on which templates are painted, a square picture of the unrolled face, and end.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a masking; an error where there is none.")
    ] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move a masking that is there aside and begin anew.")] = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the summary as JSON on standard output; all else on standard error.")
    ] = False,
):
    """See HELP."""
    # Imported here, so that --help answers at once.
    from zennas.mask.run import PASSED_OVER, REPORT, Options, go
    from zennas.mask.textures import write_layout
    from zennas.progress import console_for
    from zennas.records import UserError

    console = console_for(json_output=json_output)
    if layout is not None:
        write_layout(layout)
        console.print(f"written: {layout}", markup=False, soft_wrap=True)
        return
    for name, given in (("--data", data), ("--out", out)):
        if given is None:
            raise UserError(f"{name} is missing; see --help")
    if resume and fresh:
        raise UserError("--resume and --fresh exclude each other")
    options = Options(
        data=data,
        out=out,
        ratio=ratio,
        kinds=_kinds(kinds),
        textures=textures,
        seed=seed,
        only_masked=only_masked,
        faces=faces,
        knobs=_knobs(knob or ()),
        identities=identities,
        workers=workers,
        resume=resume,
        fresh=fresh,
    )
    try:
        summary = go(options, console)
    except KeyboardInterrupt:
        console.print(
            f"stopped; finished parts are kept in {out}: give the same command again to go on",
            markup=False,
            soft_wrap=True,
        )
        raise
    if json_output:
        print(json.dumps(summary, indent=2))
    console.print(
        f"masked {summary['num_masked']:,} of {summary['num_images']:,} images, passed over "
        f"{summary['num_passed_over']:,} "
        f"({out / PASSED_OVER}); {summary['num_written']:,} written to {out}\n"
        f"Next:\n  open {out / REPORT}\n  python -m zennas.train --data {out} ...",
        markup=False,
        soft_wrap=True,
    )
    if summary["num_chosen"] and not summary["num_masked"]:
        console.print("no image could be masked", style="yellow")
        raise typer.Exit(1)


def _kinds(text):
    return None if text is None else tuple(filter(None, (word.strip() for word in text.split(","))))


def _knobs(words):
    from zennas.records import UserError

    found = {}
    for word in words:
        name, equals, value = word.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not equals:
            raise UserError(f"--knob {word}: expected NAME=NUMBER, such as angle_deg=8")
    return found


main = commands.function_command(mask, help=HELP)

if __name__ == "__main__":
    main()
