"""Everything that is read from YAML: one frozen base class, one kind of error, one way to find a file by its name."""

import difflib
import os
import pathlib
import typing
from collections.abc import Collection, Sequence
from typing import Any, Self

import pydantic
import yaml

if typing.TYPE_CHECKING:  # without it --help answers sooner
    import numpy as np

# The folders beside the package that ship inside the wheel, and what a name in each stands for.
SPACES, TRACKS, EXPERIMENTS, MEASURED = "search_spaces", "latency/tracks", "experiments", "latency/measured"
NAMED = 5  # of many wrong things, a message names so many
KNOWN = 40  # of the names that are known, where another one was given
REPEATED = 100_000  # values of a YAML file that aliases may add to those that stand in it
GIVEN = 80  # characters of a value that was given
# What pydantic calls a type -> what a user writes.
IN_YAML = {"a valid tuple": "a list", "a valid list": "a list", "a valid dictionary": "keys and values"}
SHOWN = 300  # characters of what a stranger says
FILE_OF_NAME = {SPACES: "{}.yaml", TRACKS: "{}.yaml", EXPERIMENTS: "{}/experiment.yaml"}


class UserError(ValueError):
    """What the user gave cannot be used: the message says what was given, what is allowed and where.

    It is never a bug of ours.
    """


class ProcessLostError(UserError):
    """A process that worked for this one died, or cannot begin: no fault of what was given, but nothing to go on with.
    What was computed before is kept. A command ends with an exit code of its own.
    """


class Record(pydantic.BaseModel):
    """A frozen value that refuses unknown keys, and says in which file, at which key, what was wrong."""

    model_config = pydantic.ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, values: object, where: object) -> Self:
        """The record that `values` (a mapping) describes; `where` names their origin in the UserError of a bad one, or
        is a function that does, of the keys that lead to what is wrong (none of them: several values together)."""
        if not isinstance(values, dict):
            place = where(()) if callable(where) else where
            raise UserError(
                f"{place}: expected keys and values ({', '.join(cls.model_fields)}), got {type(values).__name__}"
            )
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise UserError("\n".join(_explain(detail, cls, values, where) for detail in error.errors())) from None

    @classmethod
    def annotation_of(cls, field: str, values: Any) -> Any:
        """The type of one of the fields, in a record of these values: another one where a field decides on it."""
        return cls.model_fields[field].annotation

    @classmethod
    def load(cls, path: pathlib.Path | str) -> Self:
        """The record in the YAML file at `path`."""
        return cls.parse(read_yaml(path), path)


def _explain(detail, cls, values, where):
    at = ".".join(str(part) for part in detail["loc"])
    given = repr(detail.get("input"))
    is_whole = detail["type"] == "value_error" and isinstance(detail["input"], dict)
    if callable(where):
        where = where(detail["loc"])
        is_said = at in where  # as in --set optimizer.lr=-1
    else:
        is_said = not at
    if detail["type"] == "extra_forbidden":
        known = _fields_at(cls, values, detail["loc"][:-1])
        return f"{where}: key '{at}' is not known; {suggestion(str(detail['loc'][-1]), known)}"
    if detail["type"] == "missing":
        return f"{where}: key '{at}' is missing"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    message = IN_YAML.get(message.partition(" or instance of")[0], message)
    place = where if is_said else f"{where}: {at}"
    if is_whole and (is_said or len(given) > GIVEN):  # of several values together, and the message names those it means
        return f"{place}: allowed: {message}"
    return f"{place}: given {shortened(given, GIVEN)}, allowed: {message}"


def _fields_at(annotation, values, loc):
    """The field names that are known where an unknown one stood."""
    for part in loc:
        model, inside = _model_in(annotation), getattr(annotation, "__args__", ())
        if typing.get_origin(annotation) in (list, tuple, dict):
            annotation = inside[-1] if typing.get_origin(annotation) is dict else inside[0]
        elif model is not None and part in model.model_fields:
            annotation = model.annotation_of(part, values)
    model = _model_in(annotation)
    return list(model.model_fields) if model is not None else []


def _model_in(annotation):
    if hasattr(annotation, "model_fields"):
        return annotation
    return next(filter(None, map(_model_in, getattr(annotation, "__args__", ()))), None)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, shortened, or its type where it has none.

    >>> first_line(MemoryError())
    'MemoryError'
    """
    return shortened(next(iter(str(error).strip().splitlines()), type(error).__name__))


def shortened(text: str, most: int = SHOWN) -> str:
    """A text of a stranger for a message: whole up to so many characters, else how many more there are.

    >>> shortened("x" * 5, 5), shortened("x" * 50, 5)
    ('xxxxx', 'xxxxx... (45 more characters)')
    """
    # What says that something is left out is not longer than what it leaves out.
    return text if len(text) <= most + 24 else f"{text[:most]}... ({len(text) - most:,} more characters)"


def some(names: "Sequence[object] | np.ndarray", num: int | None = None, *, most: int = NAMED) -> str:
    """The first few of them and how many more there are, for a message; num: of how many, where `names` are not all.

    >>> some(["a", "b"]), some([1, 2, 3, 4, 5, 6])
    ('a, b', '1, 2, 3, 4, 5 and 1 more')
    """
    named = names[:most]
    more = (len(names) if num is None else num) - len(named)
    return ", ".join(map(str, named)) + (f" and {more:,} more" if more > 0 else "")


def suggestion(given: str, known: Collection[str]) -> str:
    """The half-sentence that helps after an unknown name: "did you mean 'x'? known: x, y".

    >>> suggestion("webface-srf", ["webface-main", "webface-sfr"])
    "did you mean 'webface-sfr'? known: webface-main, webface-sfr"
    """
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
    return (f"did you mean '{near[0]}'? " if near else "") + "known: " + (some(sorted(known), most=KNOWN) or "none")


class Line(typing.NamedTuple):
    """A line of a text that is not blank."""

    number: int  # from 1
    text: str


def read_lines(path: pathlib.Path | str) -> list[Line]:
    """The Lines of a user's text in UTF-8, with or without a byte order mark; a byte that is no text is kept, as
    os.fsdecode keeps it. UserError where it cannot be read.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return [Line(number, line) for number, line in enumerate(text.splitlines(), start=1) if line.strip()]


def read_yaml(path: pathlib.Path | str) -> Any:
    """What the YAML file holds; UserError with file and line where it is broken, missing or unreadable."""
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    return parse_yaml(text, path)


def parse_yaml(text: str, where: object) -> Any:
    """The value of a YAML (or JSON) text; `where` names it in the UserError of a broken one."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_node(node, {}, where)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except UserError:
        raise
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        kind = "JSON" if str(where).endswith(".json") else "YAML"
        raise UserError(f"{where}{line}: not valid {kind}: {getattr(error, 'problem', None) or error}") from None
    except (ValueError, RecursionError) as error:  # a 13th month, a number of 5,000 digits, brackets without end
        raise UserError(f"{where}: holds what cannot be read: {first_line(error)}") from None


def _check_node(node, sizes, where):
    """How many values a node of YAML stands for; UserError for a key that is given twice in a mapping, for what holds
    itself, and for aliases (*name) that repeat too much: a few lines may stand for more than a memory holds.

    sizes: of the nodes so far, by their id; None of those that the walk is inside of.
    """
    line = f"{where}, line {node.start_mark.line + 1}"
    if id(node) in sizes:
        if sizes[id(node)] is None:
            raise UserError(f"{line}: holds itself, by an alias (*name); write it out")
        return sizes[id(node)]
    sizes[id(node)], size, inside = None, 1, node.value
    if isinstance(node, yaml.MappingNode):
        keys = set()
        for key, _ in inside:
            if isinstance(key, yaml.ScalarNode) and (key.tag, key.value) in keys:
                at = f"{where}, line {key.start_mark.line + 1}"
                raise UserError(f"{at}: key '{key.value}' is given twice in one mapping; give it once")
            keys.add((key.tag, key.value) if isinstance(key, yaml.ScalarNode) else key)
        inside = [part for pair in inside for part in pair]
    if not isinstance(node, yaml.ScalarNode):
        for part in inside:
            size += _check_node(part, sizes, where)
    if size > len(sizes) + REPEATED:
        raise UserError(f"{line}: its aliases (*name) stand for more than {REPEATED:,} values; write them out")
    sizes[id(node)] = size
    return size


def data_root() -> pathlib.Path:
    """The folder that holds search_spaces/, latency/ and experiments/.

    It is $ZENNAS_HOME, the installed wheel's, or the checkout's. UserError where $ZENNAS_HOME holds none of them.
    """
    package = pathlib.Path(__file__).parent
    if home := os.environ.get("ZENNAS_HOME"):
        if not (pathlib.Path(home) / SPACES).is_dir():
            raise UserError(
                f"ZENNAS_HOME={home}: has no folder '{SPACES}'; it must hold search_spaces/, latency/ and experiments/"
            )
        return pathlib.Path(home)
    return package / "_data" if (package / "_data").is_dir() else package.parent


def names(kind: str) -> list[str]:
    """The names known in one of the folders, sorted.

    >>> "webface-sfr" in names(TRACKS)
    True
    """
    pattern = FILE_OF_NAME[kind].format("*")
    return sorted(path.parent.name if "/" in pattern else path.stem for path in (data_root() / kind).glob(pattern))


def resolve(kind: str, name: str) -> pathlib.Path:
    """The file that a name of this kind stands for; a path stands for itself. UserError where there is no such file.

    A path is anything with a slash, or ending in .yaml.
    """
    if "/" in name or os.sep in name or name.endswith((".yaml", ".yml")):
        path = pathlib.Path(name)
        path = path / "experiment.yaml" if kind == EXPERIMENTS and path.is_dir() else path
        if not path.is_file():
            raise UserError(f"{name}: no such file; a name works too: {', '.join(names(kind))}")
        return path
    if name not in names(kind):
        what = {SPACES: "search space", TRACKS: "track", EXPERIMENTS: "track or experiment"}[kind]
        raise UserError(
            f"{what} '{name}' is not known; {suggestion(name, names(kind))}; or give the path of a YAML file"
        )
    return data_root() / kind / FILE_OF_NAME[kind].format(name)
