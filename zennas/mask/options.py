"""What a user asks of `zennas mask`."""

import pathlib
from typing import Annotated, ClassVar, Literal

from zennas.flags import ALIGNED, RESUME_OR_FRESH, CommandOptions, Workers, flag
from zennas.mask.knobs import KNOBS


class Options(CommandOptions):
    """Render masks onto faces: a 3-D face is fitted to the landmarks, the mask is draped over it, lit as the skin is
    lit, and written into a training set that `zennas train --data OUT` reads.

    It takes aligned crops (--faces says more).
    Masked images are encoded anew, all others are written byte for byte, in the order and with the identities of the
    data. An image in which no face can be fitted is written as it is (not with --only-masked) and listed; a damaged
    record, which has no image to hand on, is left out and listed. The same seed gives the same images, with any number
    of workers. Kinds: surgical_blue, surgical_green, surgical_white, cloth_plain, cloth_patterned, n95, kn95, black.
    For templates of your own, --layout FILE draws what to paint on. Ctrl-C and kill -9 lose no more than the parts
    under way: give the same command again.

    Under --out: train.rec, train.idx, property; identities.txt (names, where the data has some), masks.parquet (what
    was done with every image), passed-over.csv, report.html, run.json, mask.log.

    Exit codes: 0 masked; 1 written, but no image could be masked; 2 something given cannot be used; 3 a process
    that it began died, or could not begin (what was done is kept); 130 stopped by Ctrl-C.
    """

    EXCLUSIVE: ClassVar[tuple[tuple[str, str], ...]] = RESUME_OR_FRESH
    data: Annotated[pathlib.Path | None, flag(f"{ALIGNED} [required but for --layout]")] = None
    out: Annotated[pathlib.Path | None, flag("Folder of the masked set. [required but for --layout]")] = None
    ratio: Annotated[float, flag("Share of the images that are masked.", ge=0, le=1)] = 0.15
    kinds: Annotated[
        tuple[str, ...] | None,
        flag(
            "Kinds of mask: with commas between, or repeated.",
            metavar="NAME[,NAME]...",
            unset="all eight; none with --textures",
            values="zennas.mask.paints:KINDS_OF_PAINT",
            separator=",",
        ),
    ] = None
    textures: Annotated[
        pathlib.Path | None, flag("Folder of RGBA templates of your own, in the layout of --layout.")
    ] = None
    seed: Annotated[int, flag("Seed of who is masked, with what and how.", ge=0, le=2**31 - 1)] = 0
    only_masked: Annotated[bool, flag("Write the masked images alone.")] = False
    faces: Annotated[
        Literal["auto", "aligned", "detect"],
        flag(
            "Where faces stand: aligned (crops on ArcFace's template), detect (photographs, masked as they are), auto "
            "(aligned; a sample is looked at first, and photographs are refused. A single image whose face stands "
            "elsewhere is looked at as a photograph)."
        ),
    ] = "auto"
    knob: Annotated[
        dict[str, float],
        flag(
            f"How far masks vary: {', '.join(f'{name} ({value:g})' for name, value in KNOBS.items())}; repeatable.",
            metavar="NAME=VALUE",
            example="angle_deg=8",
        ),
    ] = {}
    identities: Annotated[pathlib.Path | None, flag("Text file of identities, one a line: these alone.")] = None
    workers: Workers = None
    layout: Annotated[
        pathlib.Path | None,
        flag(
            "Write the layout on which templates are painted, a square picture of the unrolled face, and end.",
            metavar="FILE.png",
        ),
    ] = None
    resume: Annotated[bool, flag("Go on with a masking; an error where there is none.")] = False
    fresh: Annotated[bool, flag("Move a masking that is there aside and begin anew.")] = False
