"""How a command declares its options: once, as the fields of one record.

Everything else comes from it: the command line and its help (commands.py), the keyword arguments of the Python API
(api.py), the JSON schema, and the words of a command to go on with.
"""

import inspect
import math
import pathlib
import shlex
import textwrap
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, Self

import annotated_types
import pydantic
import yaml

from zennas.records import Record, UserError, suggestion

PAIR = "KEY=VALUE"  # the metavar of options in which each key may stand once
TEXT_WIDTH = 116  # characters of a line of what Python says of an option


def flag(
    help: str,
    *,
    unit: str | None = None,
    metavar: str | None = None,
    unset: str | None = None,
    example: str | None = None,
    values: str | None = None,
    separator: str | None = None,
    positional: bool = False,
    **limits: Any,
) -> Any:
    """What stands beside the type of an option: Annotated[TYPE, flag("What it says.")].

    unset: what holds where an option with default None is left out. example: a NAME=NUMBER, for an option that holds
    numbers by name. values: what it names, for completion: a key of commands.VALUES, or MODULE:TABLE. separator: one
    word of the command line holds many values ("zen,naswot"). positional: an argument without a name. limits: gt, ge,
    lt, le, as pydantic.Field takes them.
    """
    extra = {
        "unit": unit,
        "metavar": metavar,
        "unset": unset,
        "example": example,
        "values": values,
        "separator": separator,
        "positional": positional or None,
    }
    given: dict[str, Any] = {key: value for key, value in extra.items() if value is not None}
    return pydantic.Field(description=help, json_schema_extra=given, **limits)


class Option(typing.NamedTuple):
    """One declared option, as the command line has it."""

    name: str  # of the field, and of the keyword argument
    kind: Any  # bool, int, float, str or pathlib.Path: one word of it
    many: str | None  # None, "repeated", "separated" (by `extra["separator"]`) or "named" (NAME=NUMBER, repeated)
    choices: tuple[str, ...]  # of a Literal; empty: any
    help: str
    default: Any
    required: bool
    optional: bool  # whether it may be None
    extra: dict[str, Any]
    limits: dict[str, float]
    wider: tuple[Any, ...]  # the kinds that Python may give, where there are several; else empty

    @property
    def spelled(self) -> str:
        return self.name.rstrip("_").upper() if self.extra.get("positional") else spelled(self.name)

    @property
    def allowed(self) -> str:
        """Its limits in words, or the empty string.

        >>> class Options(CommandOptions):
        ...     workers: Annotated[int, flag("Processes.", ge=1, le=4096)] = 1
        >>> Options.declared()["workers"].allowed
        '1 to 4096'
        """
        low, high = self.limits.get("ge"), self.limits.get("le")
        if low is not None and high is not None:
            return f"{_word(low)} to {_word(high)}"
        words = {"gt": "more than {}", "ge": "{} or more", "lt": "less than {}", "le": "at most {}"}
        return " and ".join(words[name].format(_word(limit)) for name, limit in self.limits.items())


def spelled(name: str) -> str:
    """The name of an option on the command line.

    >>> spelled("budget_ms"), spelled("from_")
    ('--budget-ms', '--from')
    """
    return "--" + name.rstrip("_").replace("_", "-")


class CommandOptions(Record):
    """The base of a command's `Options`: what a user asks of it, one field for each option. The docstring of an Options
    class is the help of its command. Numbers are finite, and no path is empty: that would be the working folder.
    """

    model_config = pydantic.ConfigDict(allow_inf_nan=False)

    # Outputs of the command beside what it prints for people: {name of the option: help}. Further ones than json are
    # methods print_NAME of what its `run` returns; where there are some, standard output is for results alone.
    OUTPUTS: ClassVar[dict[str, str]] = {
        "json": "Print the result as JSON on standard output; all else on standard error."
    }
    EXCLUSIVE: ClassVar[tuple[tuple[str, str], ...]] = ()  # pairs of options that cannot be given together

    @classmethod
    def of(cls, **given: Any) -> Self:
        """The options with these values; UserError, by the option's name, for what cannot be used."""
        for name in given:
            if name not in cls.model_fields:
                raise UserError(f"option '{name}' is not known; {suggestion(name, list(cls.model_fields))}")
        try:
            return cls.model_validate(given)
        except pydantic.ValidationError as error:
            raise UserError("; ".join(_explain(cls, detail) for detail in error.errors())) from None

    def room(self) -> str:
        """The room that does what is asked, such as zennas.score: its own, unless an option asks for the work of
        another.
        """
        return type(self).__module__.rpartition(".")[0]

    def as_typed(self) -> Self:
        """The same options as the command line means them: another value may hold there where one is left out."""
        return self

    @classmethod
    def declared(cls) -> dict[str, Option]:
        """Its options by name, in order."""
        return {name: _option(name, field) for name, field in cls.model_fields.items()}

    @pydantic.model_validator(mode="before")
    @classmethod
    def _from_words(cls, given: Any) -> Any:
        """Words as the command line has them, and single values in place of a sequence."""
        if not isinstance(given, dict):
            return given
        declared = cls.declared()
        return {
            name: value if name not in declared or value is None else _value(declared[name], value)
            for name, value in given.items()
        }

    @pydantic.model_validator(mode="after")
    def _exclude(self) -> Self:
        for first, second in self.EXCLUSIVE:
            if getattr(self, first) and getattr(self, second):
                raise UserError(f"{spelled(first)} and {spelled(second)} exclude each other")
        return self


def words(options: CommandOptions, **changes: Any) -> list[str]:
    """The words of a command line that asks for these options: those that differ from their defaults, and `changes`.

    None as a change leaves an option out.
    """
    asked = {name: value for name, value in options if value != type(options).model_fields[name].default}
    return spell(type(options), **(asked | changes))


def spell(cls: type[CommandOptions], **given: Any) -> list[str]:
    """The words of a command line that gives these values, as they are. What is None, False or empty is left out,
    unless the default is another.

    >>> class Options(CommandOptions):
    ...     files: Annotated[tuple[str, ...], flag("Files.", positional=True)] = ()
    ...     set: Annotated[tuple[str, ...], flag("KEY=VALUE.")] = ()
    ...     latency: Annotated[bool, flag("Predict latency.")] = True
    >>> spell(Options, set=["a=1", "b=2"], latency=False, files=["one.yaml"])
    ['one.yaml', '--set', 'a=1', '--set', 'b=2', '--no-latency']
    """
    declared = cls.declared()
    assert given.keys() <= declared.keys(), (cls, given)
    positional, named = [], []
    for name, value in given.items():
        option = declared[name]
        if option.kind is bool:
            if value is not None and value != option.default:
                named.append(spelled(name) if value else "--no-" + spelled(name)[2:])
        elif value is not None:
            values = _many(option, value) if option.many else [_word(value)]
            if option.extra.get("positional"):
                positional += values
            else:
                named += [word for value in values for word in (spelled(name), value)]
    return positional + named


def line(room: str, arguments: Sequence[str]) -> str:
    """The command of a room as a user types it.

    >>> line("zennas.score", ["winner 1.yaml", "--measure"])
    "python -m zennas.score 'winner 1.yaml' --measure"
    """
    return shlex.join(["python", "-m", room, *arguments])


def documented(options: type[CommandOptions]) -> str:
    """What the function of a command does, and each of its options."""
    doc = (inspect.getdoc(options) or "").replace("\b\n", "").rpartition("\n\nExit codes:")[0]
    told = [_told(option) for option in options.declared().values()]
    told.append("progress: told how far it is; without one nothing is printed.")
    about = "\n".join(textwrap.fill(text, TEXT_WIDTH, subsequent_indent="    ") for text in told)
    return f"{doc}\n\n{about}"


def _told(option: Option) -> str:
    unset = f" [default: {option.extra['unset']}]" if "unset" in option.extra else ""
    allowed = f" [allowed: {option.allowed}]" if option.limits else ""
    return f"{option.name}: {option.help}{allowed}{unset}"


def _word(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) and f"{value:g}" == f"{value:.12g}" else str(value)


def _many(option: Option, value: Any) -> list[str]:
    """The words of an option that holds many values."""
    if option.many == "named":
        return [f"{name}={_word(number)}" for name, number in value.items()]
    parts = [_word(part) for part in ([value] if isinstance(value, str | pathlib.Path) else value)]
    return [option.extra["separator"].join(parts)] if option.many == "separated" and parts else parts


def _option(name: str, field: Any) -> Option:
    kinds = [kind for kind in _members(field.annotation) if kind is not types.NoneType]
    kind, many, choices = kinds[0], None, ()
    extra = dict(field.json_schema_extra or {})
    if typing.get_origin(kind) is tuple:
        kind, many = typing.get_args(kind)[0], "separated" if "separator" in extra else "repeated"
    elif typing.get_origin(kind) is dict:
        kind, many = str, "named"
    if typing.get_origin(kind) is Literal:
        kind, choices = str, typing.get_args(kind)
    names = {
        annotated_types.Gt: "gt",
        annotated_types.Ge: "ge",
        annotated_types.Lt: "lt",
        annotated_types.Le: "le",
    }
    limits = {
        names[type(limit)]: getattr(limit, names[type(limit)]) for limit in field.metadata if type(limit) in names
    }
    return Option(
        name=name,
        kind=kind,
        many=many,
        choices=choices,
        help=field.description or "",
        default=None if field.is_required() else field.get_default(),
        required=field.is_required(),
        optional=types.NoneType in _members(field.annotation),
        extra=extra,
        limits=limits,
        wider=tuple(kinds) if len(kinds) > 1 else (),
    )


def _members(annotation: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _value(option: Option, value: Any) -> Any:
    """A value as its field takes it."""
    if option.kind is pathlib.Path and (value == "" if isinstance(value, str) else "" in _words_in(value)):
        raise UserError(f"{option.spelled}: given '', allowed: a path; the working folder is .")
    if option.many == "named" and not isinstance(value, Mapping):
        return _numbers(option, [value] if isinstance(value, str) else value)
    if option.many == "separated" and isinstance(value, str | list | tuple):
        return _separated([value] if isinstance(value, str) else value, option.extra["separator"])
    if option.many == "repeated" and isinstance(value, Mapping):
        return tuple(
            f"{key}={yaml.safe_dump(part, default_flow_style=True, width=math.inf).splitlines()[0]}"
            for key, part in value.items()
        )
    if option.many == "repeated" and isinstance(value, str | pathlib.PurePath):
        value = (value,)
    if option.many == "repeated" and option.kind is str and isinstance(value, list | tuple):
        value = tuple(str(part) if isinstance(part, pathlib.PurePath) else part for part in value)
        return _each_once(option, value) if option.extra.get("metavar") == PAIR else value
    return str(value) if option.kind is str and isinstance(value, pathlib.PurePath) else value


def _words_in(value: Any) -> list[str]:
    """The texts of a sequence."""
    return [part for part in value if isinstance(part, str)] if isinstance(value, list | tuple) else []


def _separated(values: Sequence[Any], separator: str) -> tuple[Any, ...]:
    """All values, those of one word that holds many too; each once."""
    parts: list[Any] = []
    for value in values:
        parts += [part.strip() for part in value.split(separator)] if isinstance(value, str) else [value]
    return tuple(dict.fromkeys(part for part in parts if part != ""))


def _each_once(option: Option, pairs: tuple[Any, ...]) -> tuple[Any, ...]:
    """KEY=VALUE words as they are; UserError where two have the same key."""
    seen: dict[str, str] = {}
    for pair in (pair for pair in pairs if isinstance(pair, str)):
        key = pair.partition("=")[0]
        if key in seen:
            raise UserError(f"{option.spelled} {pair}: {seen[key]} is given already; give {key} once")
        seen[key] = pair
    return pairs


def _numbers(option: Option, texts: Sequence[str]) -> dict[str, float]:
    """{name: number} of NAME=NUMBER words."""
    numbers: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition("=")
        if name in numbers:
            raise UserError(f"{option.spelled} {text}: {name} is {numbers[name]:g} already; give it once")
        try:
            numbers[name] = float(number)
        except ValueError:
            equals = ""
        if not equals or not name:
            example = option.extra.get("example", "NAME=1.5")
            raise UserError(f"{option.spelled} {text}: expected NAME=NUMBER, such as {example}")
    return numbers


def _explain(cls: type[CommandOptions], detail: Any) -> str:
    """What was given, what is allowed, and at which option."""
    error = detail.get("ctx", {}).get("error")
    if isinstance(error, UserError) or not detail["loc"]:
        return str(error or detail["msg"])
    option = cls.declared()[detail["loc"][0]]
    if detail["type"] == "missing":
        return f"{option.spelled} is missing; see --help"
    given = detail["input"]
    given = _word(given) if isinstance(given, float | int) else f"'{given}'"
    if detail["type"].startswith(("greater_than", "less_than")):
        allowed = option.allowed
    elif option.choices:
        allowed = ", ".join(option.choices)
    else:
        allowed = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{option.spelled}: given {given}, allowed: {allowed}"


# --- options that several commands share

Experiment = Annotated[
    str, flag("Experiment: a name under experiments/, or a path.", values="experiments", metavar="NAME")
]
Space = Annotated[
    str | None, flag("Search space: a name or path.", unset="the experiment's", values="search_spaces", metavar="NAME")
]
BudgetMs = Annotated[float | None, flag("Budget in milliseconds of this machine, unscaled.", unit="ms", gt=0)]
Backend = Annotated[
    str | None, flag("Latency backend.", unset="the track's; CPU stands in without a GPU", values="backends")
]
Batch = Annotated[
    int | None,
    flag(
        "Images at once while a network is timed; --budget-ms and all milliseconds are then those of so many.",
        unset="the track's",
        ge=1,
        le=4096,
    ),
]
Images = Annotated[
    pathlib.Path | None,
    flag(
        "Time networks on this image, or on those of this folder, as networks see them (faces: aligned): a latency "
        "depends on what is seen.",
        metavar="PATH",
        unset="the track's input",
    ),
]
Device = Annotated[Literal["cpu", "cuda"] | None, flag("cpu or cuda.", unset="cuda where there is a GPU")]
Address = Annotated[
    str | None, flag("Address of a Ray cluster ('auto' inside one).", unset="a private local Ray", metavar="HOST:PORT")
]
SOURCES = "a folder with train.rec, a .tar, a folder of .tar shards, or a folder of folders, one per identity"
ALIGNED = f"Aligned faces: {SOURCES}."
Data = Annotated[
    pathlib.Path,
    flag(
        f"Aligned faces, or whole people for a track of re-identification: {SOURCES}; Market-1501, CUHK03, MSMT17 as "
        "published; a table."
    ),
]
FACES = (
    "What the faces are: aligned (crops on ArcFace's template, as zennas align writes them), detect (photographs; each "
    "face is found and aligned on the way), auto (aligned; a sample is looked at first, and photographs are refused)."
)
Faces = Annotated[Literal["auto", "aligned", "detect"], flag(FACES)]
RESUME_OR_FRESH = (("resume", "fresh"),)
Network = Annotated[
    str | None, flag("Network, as zennas evaluate takes it: FILE[,normalise=...][,px=...].", metavar="FILE[,KEY=VALUE]")
]
Changes = Annotated[tuple[str, ...], flag("KEY=VALUE of the recipe; may be repeated.", metavar=PAIR)]
Workers = Annotated[int | None, flag("Processes.", unset="one per processor core", ge=1, le=4096)]
