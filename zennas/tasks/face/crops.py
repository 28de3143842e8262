"""Crops: the aligned faces that commands take; looked at first, or found in photographs and aligned on the way."""

import hashlib
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError
from zennas.data.sources import AnySource
from zennas.flags import line
from zennas.records import UserError
from zennas.tasks.face.align import align
from zennas.tasks.face.detect import Detector
from zennas.tasks.face.look import look_at

AUTO, ALIGNED, DETECT = "auto", "aligned", "detect"
FACES = (AUTO, ALIGNED, DETECT)  # what --faces says


class Detected:
    """A Source of photographs whose images are the aligned faces in them, found as each is read.

    Labels are of the photographs: its fingerprint is theirs. That of its `images` is of the faces as they are found, so
    that what is computed of these is told from what was computed of the whole photographs.
    """

    def __init__(self, source: AnySource, detector: Detector):
        self._source, self._detector = source, detector

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in ("_source", "_detector"):  # while it is unpickled
            raise AttributeError(name)
        return getattr(self._source, name)

    @property
    def images(self) -> ImageSet:
        """As Source."""
        return detected(self._source.images, self._detector)

    def some(self, index_M: np.ndarray) -> ImageSet:
        """As Source."""
        return detected(self._source.some(index_M), self._detector)


def detected(images: ImageSet, detector: Detector) -> ImageSet:
    """The ImageSet of the faces in photographs, aligned at the size that is asked for. Of several faces the largest and
    most central one counts; a photograph without any is a corrupt image, and so is counted and named.
    """

    def cut(image_HW3, image, height_width):
        face = detector.face(image_HW3)
        if face is None:
            raise CorruptImageError("no face was found")
        return align(image_HW3, face.points_52, height_width, smooth=True)

    key = f"{images.fingerprint} as {detector.fingerprint} finds the faces"
    return images._replace(cut=cut, fingerprint=hashlib.sha256(key.encode()).hexdigest()[:24])


def source_of_crops(source: AnySource, faces: str, data: pathlib.Path) -> AnySource:
    """A Source of --data as --faces says: itself, or with DETECT the Detected. UserError with AUTO for photographs, and
    for whole people."""
    if faces == DETECT:
        return Detected(source, Detector())  # type: ignore[return-value]  # it offers what a Source does
    if faces == AUTO:
        # The look below may call them photographs, which to align is no help.
        if source.camera_N is not None:
            raise UserError(
                f"--data {data}: holds people seen by cameras, not aligned faces; an experiment whose task is reid "
                f"takes them (--track); --faces {ALIGNED} takes the images as they are"
            )
        check_crops(source.images, f"--data {data}", data, then=lambda out: f"--data {out}")
    return source


def set_of_crops(
    images: ImageSet, faces: str, *, given: str, where: str | None, is_listed: bool, then: Callable[[str], str]
) -> ImageSet:
    """The same for the ImageSet of an option such as --set: `given` ("" where that is said already), whose images lie
    at `where`, and where a list names them if is_listed.
    """
    if faces == DETECT:
        return detected(images, Detector())
    if faces == AUTO:
        check_crops(images, given, where, is_listed=is_listed, then=then)
    return images


def check_crops(
    images: ImageSet,
    given: str,
    where: pathlib.Path | str | None,
    *,
    then: Callable[[str], str],
    is_listed: bool = False,
    detect: str = "finds and aligns them on the way",
) -> None:
    """UserError with the command to type where a sample of the images looks like photographs.

    given: the option and its value, or "". where: what zennas align takes, or None where it takes none of it. then: the
    path of aligned faces -> the option with them. is_listed: whether a list names them, and wants all. detect: what
    --faces detect does.
    """
    look = look_at(images)
    if not look.has_photographs:
        return
    first = f"--faces {DETECT} {detect}"
    if where is not None:
        out = str(pathlib.Path("runs") / f"{pathlib.Path(where).absolute().stem}-aligned")
        more = ["--complete"] if is_listed else []
        command = line("zennas.align", ["--data", str(where), "--out", out, *more])
        first = f"align them first, {command}, and give {then(out)}; or {first}"
    raise UserError(
        f"{f'{given}: ' if given else ''}holds photographs, not aligned faces: {look.says}; {first}; "
        f"--faces {ALIGNED} takes the images as they are"
    )
