"""zennas/__init__.pyi: the functions of the Python API as type checkers and editors see them, made of each command's
Options.
"""

import importlib
import inspect
import json
import pathlib
import textwrap
import types
import typing
from collections.abc import Iterable

from zennas.flags import CommandOptions, Option, documented

HEAD = '''"""The functions of the Python API, one for each command. Made by python -m zennas.schemas --write."""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, Literal

{imports}
from zennas.records import UserError as UserError

__version__: str
COMMANDS: dict[str, str]
'''
WIDTH = 120


def stub(rooms: Iterable[str]) -> str:
    """The text of the stub: a function for each room, named as its command."""
    functions, imports = [], {"zennas.progress": {"Progress"}}
    for room in rooms:
        options: type[CommandOptions] = importlib.import_module(f"{room}.options").Options
        result = inspect.signature(importlib.import_module(f"{room}.run").run).return_annotation
        for kind in _members(result):
            if kind.__module__ != "builtins":
                imports.setdefault(kind.__module__, set()).add(kind.__qualname__)
        functions.append(_function(room.rpartition(".")[2], options, _name(result)))
    lines = [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(imports.items())]
    return HEAD.format(imports="\n".join(lines)) + "".join(functions)


def _function(name: str, options: type[CommandOptions], result: str) -> str:
    declared = options.declared().values()
    # What must be given stands first, for the reader; all are given by name.
    parameters = [_parameter(option) for option in sorted(declared, key=lambda option: not option.required)]
    parameters.append("progress: Progress | None = None")
    doc = documented(options).replace("\\", "\\\\")
    body = textwrap.indent(f'"""{doc}\n"""', "    ", lambda line: bool(line.strip()))
    listed = "".join(f"    {parameter},\n" for parameter in parameters)
    return f"\ndef {name}(\n    *,\n{listed}) -> {result}:\n{body}\n"


def _parameter(option: Option) -> str:
    kind = "str | PathLike[str]" if option.kind is pathlib.Path else option.kind.__name__
    if option.choices:
        kind = f"Literal[{', '.join(map(json.dumps, option.choices))}]"
    if option.many == "named":
        kind = "Mapping[str, float]"
    elif option.many:
        kind = f"Sequence[{kind}]" + (" | PathLike[str]" if option.kind is pathlib.Path else "")
        kind += " | str" if option.kind is pathlib.Path else ""
        kind += " | Mapping[str, Any]" if option.extra.get("metavar") == "KEY=VALUE" else ""
    elif option.wider:
        kind = " | ".join(kind.__name__ for kind in option.wider)
    optional = " | None" if option.optional else ""
    default = "" if option.required else f" = {_default(option)}"
    return f"{option.name}: {kind}{optional}{default}"


def _default(option: Option) -> str:
    return repr(str(option.default) if isinstance(option.default, pathlib.Path) else option.default).replace("'", '"')


def _members(annotation: typing.Any) -> tuple[typing.Any, ...]:
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if is_union else (annotation,)


def _name(annotation: typing.Any) -> str:
    names = [kind.__name__ for kind in _members(annotation)]
    return " | ".join("None" if name == "NoneType" else name for name in names)
