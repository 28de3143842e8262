"""What a user asks of `zennas align`."""

import pathlib
from typing import Annotated, ClassVar, Literal

from zennas.flags import RESUME_OR_FRESH, CommandOptions, Workers, flag


class Options(CommandOptions):
    """Find the faces of photographs and align them: eyes, nose and mouth are moved to ArcFace's template, as every
    other command of zennas takes faces.

    The largest and most central face of each photograph counts. Images may be of any size and kind that OpenCV reads;
    EXIF's rotation is heeded. Every face is accepted, doubtful (and why) or refused: no face, no image. Doubtful ones
    are written, too, unless --only-accepted leaves them out. A name keeps its path, with the suffix .jpg, so that lists
    of pairs find their images in --out. Ctrl-C and kill -9 lose no more than the parts under way: give the same command
    again.

    Under --out: the faces as --format says; faces.parquet (of every face its box, landmarks, score, pose, sharpness,
    verdict and reason), passed-over.csv (those not accepted), report.html, run.json, align.log.

    Exit codes: 0 aligned; 1 written, but no face was found in any photograph; 2 something given cannot be used;
    3 a process that it began died, or could not begin (what was done is kept); 130 stopped by Ctrl-C.
    """

    EXCLUSIVE: ClassVar[tuple[tuple[str, str], ...]] = (*RESUME_OR_FRESH, ("all", "landmarks"))
    data: Annotated[
        pathlib.Path,
        flag(
            "Photographs: a folder, with a sub-folder for each identity or without; a .tar or a folder of .tar shards; "
            "a folder with train.rec."
        ),
    ]
    out: Annotated[pathlib.Path, flag("Folder of the aligned faces.")]
    format: Annotated[
        Literal["folder", "tar", "recordio"] | None,
        flag(
            "folder: files with the names of the photographs; tar: the same in shards; recordio: train.rec, for large "
            "trainings, without names.",
            unset="folder; recordio where --data is",
        ),
    ] = None
    size: Annotated[str, flag("Side of the aligned faces, or HEIGHTxWIDTH.", unit="px", metavar="PX")] = "112"
    detector: Annotated[
        pathlib.Path | None,
        flag("Another detector: a YuNet in ONNX, as in OpenCV's zoo.", unset="the YuNet that ships"),
    ] = None
    all: Annotated[bool, flag("Every face of a photograph; the further ones are called NAME-2.jpg, ...")] = False
    landmarks: Annotated[
        pathlib.Path | None,
        flag(
            "Landmarks that are known: lines of a name and ten numbers, x and y of the left eye (as seen), the right "
            "eye, the nose, the left and right corner of the mouth, as CelebA has them. A photograph without a line is "
            "looked at."
        ),
    ] = None
    identity_of: Annotated[
        pathlib.Path | None,
        flag(
            "Lines of a name and its identity, as CelebA has them, in place of the folders. Photographs without a "
            "line are refused."
        ),
    ] = None
    only_accepted: Annotated[bool, flag("Leave out doubtful faces.")] = False
    complete: Annotated[
        bool,
        flag(
            "An image for every photograph: where no face is found, its middle stands in. For lists of "
            "pairs, which name all of a set."
        ),
    ] = False
    workers: Workers = None
    resume: Annotated[bool, flag("Go on with an alignment; an error where there is none.")] = False
    fresh: Annotated[bool, flag("Move an alignment that is there aside and begin anew.")] = False
