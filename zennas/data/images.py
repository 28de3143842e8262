"""Encoded bytes to pixels, and the augmentations. One row of AUGMENTATIONS is all that a new augmentation takes.

An augmentation is (image_HW3 uint8 RGB, rng, *, p, **knobs) -> image_HW3 of the same size, whatever height and width;
with probability 1 - p it is the image itself. Values are normalised later, on the device, to (x - 127.5) / 127.5.
"""

import base64
import inspect
import math
import os
from collections.abc import Callable
from typing import Annotated, NamedTuple

import cv2
import numpy as np

from zennas.records import UserError, first_line, suggestion
from zennas.space.shape import height_and_width

MOST_PIXELS = "OPENCV_IO_MAX_IMAGE_PIXELS"  # of one image, as zennas.data sets it
GREY = 127  # nearest to zero after normalisation
NOISE, MEAN = "noise", "mean"  # what a rectangle may be filled with, beside colours
MEAN_3 = (124, 116, 104)  # red, green and blue of ImageNet's mean: 255 times 0.485, 0.456 and 0.406
LUMA_3 = (0.299, 0.587, 0.114)  # of red, green and blue in grey: ITU-R BT.601, as OpenCV has it
JPEG_QUALITY = 95  # of what goes into a data set
JPEG_START, JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
INTERPOLATIONS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


class CorruptImageError(ValueError):
    """Bytes that do not decode to an image."""


class UnreadableImageError(CorruptImageError):
    """Bytes that cannot be had now: the disk's fault, or the network's, which may pass."""


def decode(encoded: bytes, *, image_px: int | tuple[int, int] | None = None) -> np.ndarray:
    """The RGB image_HW3 (uint8, contiguous) in `encoded` bytes.

    image_px: a side or (height, width) to which it is resized; the resize does not keep the aspect ratio.
    CorruptImageError where the bytes are no image or end too soon; damage inside a JPEG that still decodes cannot be
    told.
    """
    if not encoded:
        raise CorruptImageError("no bytes")
    # OpenCV 4 fills what a cut JPEG lacks with grey and says nothing; OpenCV 5 refuses it.
    if encoded[:3] == JPEG_START and encoded.rfind(JPEG_END) < 0:
        raise CorruptImageError(f"a JPEG of {len(encoded)} bytes without its end: cut short")
    try:
        image_HW3 = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR_RGB)
    except cv2.error as error:
        raise CorruptImageError(_why(error)) from None
    if image_HW3 is None:
        raise CorruptImageError(f"{len(encoded)} bytes that are no image, or only part of one")
    return image_HW3 if image_px is None else resized(image_HW3, height_and_width(image_px))


def _why(error):
    """What OpenCV says of bytes that it refuses; in words where they hold too many pixels."""
    if MOST_PIXELS.removeprefix("OPEN") not in str(error):
        return first_line(error)
    return f"more pixels than {int(os.environ[MOST_PIXELS]):,}; {MOST_PIXELS} in the environment allows more"


def resized(image_HW3: np.ndarray, height_width: tuple[int, int]) -> np.ndarray:
    """The image at (height, width); itself where it is so already."""
    height, width = height_width
    if image_HW3.shape[:2] == (height, width):
        return image_HW3
    smaller = image_HW3.shape[0] >= height and image_HW3.shape[1] >= width
    return cv2.resize(image_HW3, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)


def encode(image_HW3: np.ndarray, suffix: str) -> bytes:
    """The bytes of an RGB image for a data set: ".png", or ".jpg" of full colour."""
    image_HW3 = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR)
    if suffix == ".png":
        return cv2.imencode(".png", image_HW3)[1].tobytes()
    settings = [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY]
    settings += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return cv2.imencode(".jpg", image_HW3, settings)[1].tobytes()


def as_jpeg(image_HW3: np.ndarray, *, quality: int = 85) -> bytes:
    """The bytes of an RGB image as a JPEG, for a page."""
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def data_uri(image_HW3: np.ndarray) -> str:
    """An RGB image as a data URI, for a page."""
    return "data:image/jpeg;base64," + base64.b64encode(as_jpeg(image_HW3)).decode("ascii")


class Within(NamedTuple):
    """The values that a knob may take."""

    low: float
    high: float

    def __contains__(self, value):
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def allowed(self) -> str:
        """The same in words."""
        return f"a number in [{self.low}, {self.high}]"


class Whole(NamedTuple):
    """The whole numbers that a knob may be."""

    low: int
    high: int

    def __contains__(self, value):
        return isinstance(value, int) and not isinstance(value, bool) and self.low <= value <= self.high

    @property
    def allowed(self) -> str:
        """The same in words."""
        return f"a whole number from {self.low} to {self.high}"


class Colour(NamedTuple):
    """The colours that a knob may be: one of the words, a level of all three channels, or [red, green, blue]."""

    words: tuple[str, ...]

    def __contains__(self, value):
        if isinstance(value, list | tuple):
            return len(value) == 3 and all(level in Within(0, 255) for level in value)
        return value in self.words if isinstance(value, str) else value in Within(0, 255)

    @property
    def allowed(self) -> str:
        """The same in words."""
        return f"{', '.join(self.words)}, a number in [0, 255], or [red, green, blue]"


Share = Annotated[float, Within(0.0, 1.0)]
Portion = Annotated[float, Within(0.01, 1.0)]  # of a side or an area; never nothing


def flip(image_HW3: np.ndarray, rng: np.random.Generator, *, p: Share = 0.5) -> np.ndarray:
    """Left and right exchanged. Source: insightface, whose only augmentation it is."""
    return image_HW3 if rng.random() >= p else cv2.flip(image_HW3, 1)


def crop(
    image_HW3: np.ndarray,
    rng: np.random.Generator,
    *,
    p: Share = 0.2,
    min_area: Portion = 0.2,
    max_area: Portion = 1.0,
    max_aspect: Annotated[float, Within(1, 10)] = 4 / 3,
) -> np.ndarray:
    """A random rectangle stays where it is, everything round it turns black.

    Source: AdaFace and CVLFace (p read there, the knobs recalled). max_aspect: of the longer side to the shorter.
    """
    if rng.random() >= p:
        return image_HW3
    top, left, height, width = _rectangle(image_HW3, rng, min_area, max_area, max_aspect)
    black_HW3 = np.zeros_like(image_HW3)
    inside = slice(top, top + height), slice(left, left + width)
    black_HW3[inside] = image_HW3[inside]
    return black_HW3


def photometric(
    image_HW3: np.ndarray,
    rng: np.random.Generator,
    *,
    p: Share = 0.2,
    brightness: Share = 0.5,
    contrast: Share = 0.5,
    saturation: Share = 0.5,
) -> np.ndarray:
    """Brightness, contrast and saturation each times a factor in [1 - knob, 1 + knob].

    Contrast is about the mean grey, saturation about each pixel's grey. Source: AdaFace and CVLFace (p read there, the
    knobs recalled); the order is fixed here.
    """
    if rng.random() >= p:
        return image_HW3
    bright, strong, vivid = (1 + knob * (2 * rng.random() - 1) for knob in (brightness, contrast, saturation))
    value = np.clip(np.arange(256) * bright, 0, 255)
    grey_HW = cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY)
    mean = cv2.mean(cv2.LUT(grey_HW, value))[0]
    table = np.clip(mean + strong * (value - mean), 0, 255).round().astype(np.uint8)
    image_HW3 = cv2.LUT(image_HW3, table)
    return cv2.addWeighted(image_HW3, vivid, _grey3(image_HW3), 1 - vivid, 0)


def low_resolution(
    image_HW3: np.ndarray,
    rng: np.random.Generator,
    *,
    p: Share = 0.2,
    min_side: Portion = 0.2,
    max_side: Portion = 1.0,
) -> np.ndarray:
    """Shrunk to a random part of its side and enlarged again, each with a random interpolation.

    Source: AdaFace and CVLFace (p read there, the knobs recalled).
    """
    if rng.random() >= p:
        return image_HW3
    height, width = image_HW3.shape[:2]
    side = rng.uniform(min_side, max_side)
    down, up = rng.integers(len(INTERPOLATIONS), size=2)
    small = cv2.resize(
        image_HW3, (max(1, round(width * side)), max(1, round(height * side))), interpolation=INTERPOLATIONS[down]
    )
    return cv2.resize(small, (width, height), interpolation=INTERPOLATIONS[up])


def random_erasing(
    image_HW3: np.ndarray,
    rng: np.random.Generator,
    *,
    p: Share = 0.5,
    min_area: Portion = 0.02,
    max_area: Portion = 0.4,
    max_aspect: Annotated[float, Within(1, 10)] = 10 / 3,
    fill: Annotated[float | str | list[float], Colour((NOISE, MEAN))] = NOISE,
) -> np.ndarray:
    """A random rectangle of noise, of ImageNet's mean colour, or of another one.

    Source: Zhong et al. 2020, arXiv:1708.04896; knobs as in reid-strong-baseline. The aspect's logarithm is drawn
    evenly, as in torchvision (reid-strong-baseline: the aspect itself, so tall ones prevail). Where a rectangle would
    not fit, all of them draw another one, on the whole a smaller one; here the aspect gives way, and areas stay even.
    reid-strong-baseline erases normalised images with a mean of levels: half a deviation brighter than their mean.
    """
    if rng.random() >= p:
        return image_HW3
    top, left, height, width = _rectangle(image_HW3, rng, min_area, max_area, max_aspect)
    image_HW3 = image_HW3.copy()
    inside = rng.integers(256, size=(height, width, 3), dtype=np.uint8) if fill == NOISE else _levels(fill)
    image_HW3[top : top + height, left : left + width] = inside
    return image_HW3


def pad_crop(
    image_HW3: np.ndarray,
    rng: np.random.Generator,
    *,
    p: Share = 1.0,
    pad_px: Annotated[int, Whole(1, 1000)] = 10,
    fill: Annotated[float | str | list[float], Colour((MEAN,))] = 0,
) -> np.ndarray:
    """A border all round, then a random crop of the old size: the image is shifted by up to pad_px either way.

    Source: torchvision's RandomCrop(size, padding), which reid-strong-baseline and fast-reid have with 10 px of black
    round 256 x 128.
    """
    if rng.random() >= p:
        return image_HW3
    down, right = (int(shift) for shift in rng.integers(-pad_px, pad_px + 1, size=2))
    height, width = image_HW3.shape[:2]
    tall, wide = max(0, height - abs(down)), max(0, width - abs(right))
    shifted_HW3 = np.empty_like(image_HW3)
    shifted_HW3[...] = _levels(fill)
    to_row, to_column, row, column = max(0, down), max(0, right), max(0, -down), max(0, -right)
    shifted_HW3[to_row : to_row + tall, to_column : to_column + wide] = image_HW3[
        row : row + tall, column : column + wide
    ]
    return shifted_HW3


def cutout(image_HW3: np.ndarray, rng: np.random.Generator, *, p: Share = 0.5, side: Portion = 0.25) -> np.ndarray:
    """A grey square of `side` times the image's side, its centre anywhere in it, so that it may stick out.

    Source: DeVries & Taylor 2017, arXiv:1708.04552 (recalled); p and side are our choice.
    """
    if rng.random() >= p:
        return image_HW3
    height, width = image_HW3.shape[:2]
    size = max(1, round(side * min(height, width)))
    top, left = rng.integers(height) - size // 2, rng.integers(width) - size // 2
    image_HW3 = image_HW3.copy()
    image_HW3[max(0, top) : top + size, max(0, left) : left + size] = GREY
    return image_HW3


def blur(
    image_HW3: np.ndarray,
    rng: np.random.Generator,
    *,
    p: Share = 0.2,
    min_sigma_px: Annotated[float, Within(0.05, 20)] = 0.1,
    max_sigma_px: Annotated[float, Within(0.05, 20)] = 2.0,
) -> np.ndarray:
    """Gaussian blur of random width. Source: arcface_torch's DALI option (p); the widths, at 112 px, are our choice."""
    if rng.random() >= p:
        return image_HW3
    return cv2.GaussianBlur(image_HW3, (0, 0), rng.uniform(min_sigma_px, max_sigma_px))


def grey(image_HW3: np.ndarray, rng: np.random.Generator, *, p: Share = 0.1) -> np.ndarray:
    """Colour taken out. Source: arcface_torch's DALI option."""
    return image_HW3 if rng.random() >= p else _grey3(image_HW3)


# (image_HW3, rng, *, p, **knobs) -> image_HW3
AUGMENTATIONS = {
    "flip": flip,
    "crop": crop,
    "photometric": photometric,
    "low_resolution": low_resolution,
    "random_erasing": random_erasing,
    "pad_crop": pad_crop,
    "cutout": cutout,
    "blur": blur,
    "grey": grey,
}


def augment(image_HW3: np.ndarray, augmentations: dict[str, dict], *, rng: np.random.Generator) -> np.ndarray:
    """The image after each of `augmentations` (name -> knobs), in their order; the input is not changed."""
    for name, knobs in augmentations.items():
        image_HW3 = AUGMENTATIONS[name](image_HW3, rng, **knobs)
    return image_HW3


def check_augmentations(augmentations: dict, where: str) -> dict[str, dict]:
    """The same plan (name -> knobs), with no knobs as {}.

    UserError naming `where` for a name, knob or value that is not known.
    """
    if not isinstance(augmentations, dict):
        raise UserError(f"{where}: expected names with knobs ({', '.join(AUGMENTATIONS)}), got {augmentations!r}")
    checked = {}
    for name, knobs in augmentations.items():
        if name not in AUGMENTATIONS:
            raise UserError(
                f"{where}: augmentation '{name}' is not known; {suggestion(str(name), list(AUGMENTATIONS))}"
            )
        function = AUGMENTATIONS[name]
        knobs = {} if knobs is None else knobs
        at = f"{where}.{name}"
        if not isinstance(knobs, dict):
            raise UserError(f"{at}: expected knobs with values ({', '.join(knobs_of(function))}), got {knobs!r}")
        check_knobs(function, knobs, at)
        values = {knob: default for knob, (default, _) in knobs_of(function).items()} | knobs
        for knob in values:
            upper = knob.replace("min_", "max_", 1)
            if knob.startswith("min_") and values[knob] > values[upper]:
                raise UserError(f"{at}: {knob} {values[knob]} must not exceed {upper} {values[upper]}")
        checked[name] = dict(knobs)
    return checked


def check_knobs(function: Callable, knobs: dict, where: str) -> None:
    """UserError naming `where` for a knob that the function does not have, or a value out of its span."""
    known = knobs_of(function)
    for knob, value in knobs.items():
        if knob not in known:
            raise UserError(f"{where}: knob '{knob}' is not known; {suggestion(str(knob), list(known))}")
        _, within = known[knob]
        if value not in within:
            raise UserError(f"{where}.{knob}: given {value!r}, allowed: {within.allowed}")


def knobs_of(function: Callable) -> dict[str, tuple]:
    """{knob: (default, Within or its like)} of an augmentation, or of another function whose signature states them so.

    >>> knobs_of(flip)
    {'p': (0.5, Within(low=0.0, high=1.0))}
    """
    parameters = inspect.signature(function).parameters.values()
    return {
        parameter.name: (parameter.default, parameter.annotation.__metadata__[0])
        for parameter in parameters
        if parameter.kind == inspect.Parameter.KEYWORD_ONLY
    }


def _levels(fill):
    """Red, green and blue of a Colour."""
    return np.round(MEAN_3 if fill == MEAN else fill).astype(np.uint8)


def _grey3(image_HW3):
    return cv2.cvtColor(cv2.cvtColor(image_HW3, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


def _rectangle(image_HW3, rng, min_area, max_area, max_aspect):
    """(top, left, height, width) of a random rectangle inside; its aspect gives way where it would not fit."""
    height, width = image_HW3.shape[:2]
    area = rng.uniform(min_area, max_area) * height * width
    aspect = math.exp(rng.uniform(-1, 1) * math.log(max_aspect))
    tall = min(height, max(1, round(math.sqrt(area * aspect)), math.ceil(area / width)))
    wide = min(width, max(1, round(area / tall)))
    return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
