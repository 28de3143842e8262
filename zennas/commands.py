"""How every command of zennas behaves: a command line made of its declared options, one clear line for a user's
mistake, documented exit codes, no traceback.
"""

import ast
import importlib
import inspect
import json
import pathlib
import signal
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any

import typer

from zennas import COMMANDS
from zennas.api import work
from zennas.flags import CommandOptions, Option, spelled
from zennas.names import print_any_name
from zennas.ray_address import keep_ray_on_loopback  # noqa: F401 - scripts of 0.1.0 import it from here
from zennas.records import EXPERIMENTS, SPACES, ProcessLostError, UserError, names
from zennas.signals import always_answered, handling

WRONG_INPUT, LOST, INTERRUPTED = 2, 3, 130
SETTINGS: dict[str, Any] = {"add_completion": False, "pretty_exceptions_enable": False, "rich_markup_mode": None}


def score_names() -> list[str]:
    """The rows of SCORES, read from its file: to import it takes the seconds of torch."""
    path = pathlib.Path(__file__).parent / "score" / "scores.py"
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "SCORES":
            return list(ast.literal_eval(ast.Dict(node.value.keys, node.value.keys)))  # type: ignore[attr-defined]
    raise AssertionError(f"{path} has no table SCORES")


# What a shell offers for an option that names something.
VALUES: dict[str, Callable[[], list[str]]] = {
    "experiments": lambda: names(EXPERIMENTS),
    "search_spaces": lambda: names(SPACES),
    "backends": lambda: ["onnxruntime-cpu", "onnxruntime-cuda", "onnxruntime-tensorrt", "torch-cuda"],
    "scores": score_names,
}


def command(room: str) -> Callable[..., None]:
    """The main(arguments=None) of a room's command, generated from the Options of its file options.py."""

    def main(arguments: list[str] | None = None, prog_name: str | None = None) -> None:
        app = typer.Typer(**SETTINGS)
        add_command(app, room)
        run_program(app, arguments, prog_name)

    return main


def add_command(app: typer.Typer, room: str) -> None:
    """Add a room's command to a typer program."""
    options = importlib.import_module(f"{room}.options").Options
    name = room.rpartition(".")[2]
    app.command(name, cls=_Once, help=inspect.getdoc(options), short_help=COMMANDS[name])(_typed(options))


class _Once(typer.core.TyperCommand):
    """A command that refuses an option of a single value that is given twice, of which the last would silently hold."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:  # of a shell that completes a line
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            single = [option for option in given if not option.multiple and not option.is_eager]
            for option in (option for option in single if option.param_type_name == "option"):
                if single.count(option) > 1:
                    raise UserError(f"{option.opts[0]} is given {single.count(option)} times, and takes one value")
        return super().parse_args(ctx, args)


def program(rooms: Iterable[str], *, help: str) -> typer.Typer:
    """A typer program of many commands, which can install its completion into a shell."""
    app = typer.Typer(**(SETTINGS | {"add_completion": True}), help=help)
    for room in rooms:
        add_command(app, room)
    return app


def run_program(app: typer.Typer, arguments: list[str] | None, prog_name: str | None) -> None:
    """Run a typer program: UserError ends it with exit code 2, a process that was lost with 3, Ctrl-C and SIGTERM with
    130.
    """

    def interrupt(number: int, frame: Any) -> None:
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process, whatever it is doing
        raise KeyboardInterrupt

    print_any_name()
    try:
        with always_answered(INTERRUPTED), handling(interrupt, [signal.SIGTERM]):
            click_command = typer.main.get_command(app)
            code = click_command.main(args=arguments, prog_name=prog_name, standalone_mode=False)
        sys.exit(code or 0)
    except ProcessLostError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(LOST)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(WRONG_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the command line, whatever library raised it
            print(f"error: {error.format_message()}; see --help", file=sys.stderr)
            sys.exit(WRONG_INPUT)
        raise


def _typed(options: type[CommandOptions]) -> Callable[..., int]:
    """The function from whose signature typer makes the command line."""

    def body(**given: Any) -> int:
        chosen = [name for name in options.OUTPUTS if given.pop(f"as_{name}")]
        if len(chosen) > 1:
            raise UserError(f"{spelled(chosen[0])} and {spelled(chosen[1])} exclude each other")
        asked = options.of(**{name: value for name, value in given.items() if value is not None}).as_typed()
        return _run(asked, chosen[0] if chosen else None)

    declared = list(options.declared().values())
    parameters = [_parameter(option) for option in declared]
    for name, text in options.OUTPUTS.items():
        shown = typer.Option(spelled(name), help=text)
        parameters.append(_keyword(f"as_{name}", Annotated[bool, shown], default=False))
    body.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    body.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return body


def _run(options: CommandOptions, output: str | None) -> int:
    """Do the work of a command and show what came out; its exit code."""
    # Imported here, so that --help answers at once.
    from zennas.progress import Progress, ReaderLeftError, console_for, leave_output

    apart = len(options.OUTPUTS) > 1
    console = console_for(json_output=output is not None)
    progress = Progress(console_for(json_output=output is not None or apart))
    try:
        result = work(options, progress)
    finally:
        progress.close()
    try:
        code = _shown(result, options, output, None if output is not None and apart else console)
        if sys.stdout is not None:
            sys.stdout.flush()
    except (BrokenPipeError, ReaderLeftError):  # zennas ... | head: all is done, and nobody wants to read it
        leave_output(sys.stdout)
        code = 0
    return code


def _shown(result: Any, options: CommandOptions, output: str | None, console: Any) -> int:
    """Show what came out of a command; its exit code."""
    if output == "json":
        # Of several ranks the first alone has a result; the others print nothing.
        if (content := plain(result)) is not None:
            print(json.dumps(content, indent=2))
    elif output is not None:
        getattr(result, f"print_{output}")()
    show = importlib.import_module(f"{options.room()}.show").show
    return show(result, options, console) or 0


def plain(result: Any) -> Any:
    """What JSON says of what a command returns."""
    return result.plain() if hasattr(result, "plain") else result.model_dump(mode="json")


def _parameter(option: Option) -> inspect.Parameter:
    """The parameter that typer makes an option of."""
    is_positional = option.extra.get("positional", False)
    help = " ".join(filter(None, (option.help, _allowed(option), _default(option))))
    kind = option.kind
    if option.many:
        kind = list[kind]  # type: ignore[valid-type]
    settings: dict[str, Any] = {"help": help, "metavar": option.extra.get("metavar")}
    if values := option.extra.get("values"):
        separator = option.extra.get("separator")
        settings["autocompletion"] = lambda incomplete: _offered(_names_of(values), incomplete, separator)
    elif option.choices:
        settings["autocompletion"] = lambda incomplete: [name for name in option.choices if name.startswith(incomplete)]
    if option.kind is pathlib.Path:
        settings["parser"] = path
    if is_positional:
        shown = typer.Argument(**settings)
    elif kind is bool:
        settings.pop("metavar")
        both = option.default is not False
        shown = typer.Option(f"{option.spelled}/--no-{option.spelled[2:]}" if both else option.spelled, **settings)
    else:
        shown = typer.Option(option.spelled, **settings)
    default = option.default
    if option.many:
        default = list(default) if default else None
    optional = default is None and not option.required
    return _keyword(
        option.name,
        Annotated[kind | None if optional else kind, shown],
        default=inspect.Parameter.empty if option.required else default,
    )


def path(text: pathlib.Path | str) -> Any:
    """A path of the command line; an empty one stays a text, which an option refuses. typer calls its kind PATH."""
    return pathlib.Path(text) if text else ""


def _names_of(values: str) -> list[str]:
    """The names that `values` of a flag stands for. A table's module is imported only when a shell asks."""
    module, colon, table = values.partition(":")
    return list(getattr(importlib.import_module(module), table)) if colon else VALUES[values]()


def _offered(names: list[str], incomplete: str, separator: str | None) -> list[str]:
    """The words that a shell offers: of an option that holds many values, what is typed already and one name more.

    >>> _offered(["n95", "kn95"], "n95,k", ",")
    ['n95,kn95']
    """
    typed, comma, last = incomplete.rpartition(separator) if separator else ("", "", incomplete)
    return [typed + comma + name for name in names if name.startswith(last)]


def _keyword(name: str, annotation: Any, *, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def _allowed(option: Option) -> str:
    return f"[allowed: {option.allowed}]" if option.limits else ""


def _default(option: Option) -> str:
    """What holds where the option is left out; typer says so of a default that is a value."""
    return f"[default: {option.extra['unset']}]" if "unset" in option.extra else ""
