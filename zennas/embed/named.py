"""Any network by what a user says of it: FILE[,key=value...]."""

import math
import os
import pathlib
from typing import Any, NamedTuple

from zennas import checker
from zennas.embed.checkpoint import ACCEPTED, file_of, is_of_zennas
from zennas.embed.model import in_words, kind_of, open_model
from zennas.records import UserError, suggestion
from zennas.space.shape import parsed_px, sides

IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
_PLAIN = {name: ((mean,) * 3, (std,) * 3) for name, (mean, std) in checker.NORMALISATIONS.items()}
# name -> (mean, std) of RGB channels in 0..255: (image - mean) / std
RGB_NORMALISATIONS = {
    "insightface": _PLAIN["insightface"],
    "imagenet": IMAGENET,
    "unit": ((0.0,) * 3, (255.0,) * 3),
    "none": _PLAIN["none"],
}
OURS = "insightface"  # what every network of ours is trained on
SPELLING = (
    "FILE[,name=NAME][,normalise="
    + "|".join(RGB_NORMALISATIONS)
    + "|MEAN/STD|M/M/M:S/S/S][,colour=rgb|bgr][,px=SIDE|HEIGHTxWIDTH]"
    "[,trusted=yes]"
)
TEXT_KEYS = {"image_px": "px", "bgr": "colour"}  # what open_model calls them -> what a user does
MAX_PX = 4096  # of a side
GENERIC = ("network.pt", "model.onnx", "backbone.pth")  # ours, ours, arcface_torch's
KEYS = ("name", "normalise", "colour", "px", "trusted")


class Named(NamedTuple):
    """A Model as a user named it."""

    name: str
    file: pathlib.Path
    kind: str  # a row of embed.model.ORIGINS
    normalisation: str  # for people
    model: object
    guessed: bool  # whether nobody said how images are normalised

    @property
    def notice(self) -> str | None:
        """A sentence where its normalisation was guessed; None where it is known."""
        text = (
            f"{self.name} was fed with {self.normalisation}, for nothing said what it was trained on; the wrong one "
            f"costs "
            "accuracy: say it with ,normalise="
        )
        return text if self.guessed else None


def open_named(
    text: str, *, device: str = "cpu", option: str = "--model", unless_named: dict[str, Any] | None = None
) -> Named:
    """The Named model that `option` TEXT says, in SPELLING.

    Without `normalise`: the normalisation that the checker would detect in the ONNX file; for other files
    (x - 127.5) / 127.5.
    unless_named: what open_model is given instead where the text does not say it (image_px, trusted; mean and std,
    which a file that zennas wrote knows better), and more that a text cannot say (dtype). UserError where the model
    cannot be opened, or a key or value is not known.
    """
    unless_named = unless_named or {}
    path, given = _parsed(text, option)
    try:
        file = file_of(path)
        kind = kind_of(file)
        if "normalise" in given or "mean" not in unless_named:
            mean, std, normalisation, guessed = _normalisation(given.get("normalise"), file, kind)
        elif is_ours(file, kind):
            mean, std, normalisation, guessed = *RGB_NORMALISATIONS[OURS], f"{OURS}, as every network of zennas", False
        else:
            mean, std = unless_named["mean"], unless_named["std"]
            normalisation, guessed = f"{in_words(mean, std)}, as the recipe has it", False
        asked = {
            "bgr": _one_of(given, "colour", ("rgb", "bgr")) == "bgr",
            "image_px": _px(given.get("px")),
            "trusted": _one_of(given, "trusted", ("no", "yes")) == "yes",
        }
        asked |= {name: value for name, value in unless_named.items() if TEXT_KEYS.get(name, name) not in given}
        model = open_model(path, device=device, **asked | {"mean": mean, "std": std})
    except UserError as error:
        raise UserError(f"{option} {error}") from None
    if "px" in given and model.input_hw != _px(given["px"]):
        raise UserError(f"{option} {text}: takes images of {sides(model.input_hw)} itself; leave px out")
    colour = ", BGR" if given.get("colour") == "bgr" else ""
    return Named(given.get("name") or name_of(file), file, kind, normalisation + colour, model, guessed)


def file_named(text: str, option: str) -> pathlib.Path:
    """The path in FILE[,KEY=VALUE...]. UserError where a key is not known."""
    return _parsed(text, option)[0]


def resolved(text: str, option: str) -> str:
    """The same FILE[,KEY=VALUE...] with a path that holds in any working folder."""
    path, given = _parsed(text, option)
    return "".join([str(path.resolve()), *(f",{key}={value}" for key, value in given.items())])


def _parsed(text, option):
    """(path, {key: value}); a comma that no key follows belongs to the path."""
    path, given = text, {}
    while "," in path and not os.path.exists(path):  # a folder may be called lr=0.1,wd=5e-4
        head, _, last = path.rpartition(",")
        key, equals, value = last.partition("=")
        if not equals or not key.isidentifier():
            break
        if key not in KEYS:
            raise UserError(
                f"{option} {text}: '{key}' is not known; {suggestion(key, list(KEYS))}; spelling: {SPELLING}"
            )
        if key in given:
            raise UserError(f"{option} {text}: says {key} twice")
        if not value:
            raise UserError(f"{option} {text}: {key}= says nothing; spelling: {SPELLING}")
        path, given[key] = head, value
    if not path:
        raise UserError(f"{option} {text!r}: names no file; spelling: {SPELLING}")
    return pathlib.Path(path), given


def name_of(file: pathlib.Path) -> str:
    """What a network is called where nobody says it: by its file; by its folder, where the file has a name that every
    training gives.

    >>> name_of(pathlib.Path("runs/r50/backbone.pth")), name_of(pathlib.Path("r50.onnx"))
    ('r50', 'r50')
    """
    generic = file.name in GENERIC and file.absolute().parent.name
    return file.absolute().parent.name if generic else file.stem


def is_ours(file: pathlib.Path, kind: str) -> bool:
    """Whether zennas wrote a file of a kind of ORIGINS, by training or as `zennas export`: then it takes images
    normalised as OURS. UserError for a damaged one."""
    if kind == "onnx":
        return checker.needed_normalisation(_parsed_onnx(file)) is not None
    return kind == "checkpoint" and is_of_zennas(file)


def _one_of(given, key, allowed):
    value = given.get(key, allowed[0])
    if value not in allowed:
        raise UserError(f"{key}={value}: allowed: {' or '.join(allowed)}")
    return value


def _px(text):
    """(height, width); None where nothing is said."""
    if text is None:
        return None
    try:
        height_width = parsed_px(text)
    except ValueError:
        height_width = None
    if height_width is None or max(height_width) > MAX_PX:
        raise UserError(f"px={text}: allowed: SIDE or HEIGHTxWIDTH in pixels, such as 112 or 256x128")
    return height_width


def _normalisation(text, file, kind):
    """(mean, std, in words, whether it was guessed)."""
    if text is None:
        if kind != "onnx":
            return *RGB_NORMALISATIONS[OURS], OURS, False
        network = _parsed_onnx(file)
        name = checker.detected_normalisation(network.graph, "insightface")
        return (
            *RGB_NORMALISATIONS[name],
            f"{name}, as the challenge's checker takes it to be",
            checker.needed_normalisation(network) is None,
        )
    if text in RGB_NORMALISATIONS:
        return *RGB_NORMALISATIONS[text], text, False
    means, _, stds = text.partition(":") if ":" in text else text.partition("/")
    try:
        mean, std = (_three(part) for part in (means, stds))
    except ValueError:
        raise UserError(
            f"normalise={text}: allowed: {', '.join(RGB_NORMALISATIONS)}, MEAN/STD, or M/M/M:S/S/S for R, G and B "
            "in 0..255"
        ) from None
    return mean, std, in_words(mean, std), False


def _parsed_onnx(file):
    try:
        return checker.parse(file.read_bytes())
    except UserError as error:
        raise UserError(f"{file}: {error}; allowed: {ACCEPTED}") from None


def _three(text):
    values = [float(part) for part in text.split("/")]
    if len(values) not in (1, 3) or not all(map(math.isfinite, values)):
        raise ValueError(text)
    return tuple(values * 3 if len(values) == 1 else values)
