"""The console script `zennas`: each room that has a command answers to its name, as `python -m zennas.ROOM` does."""

import importlib
import os
import sys

import zennas
from zennas import COMMANDS
from zennas.records import suggestion

COMPLETION = "zennas --install-completion lets your shell complete commands and options; --show-completion prints how."


def main():
    """Dispatch to a room's command; without one, list them."""
    arguments = sys.argv[1:]
    if "_ZENNAS_COMPLETE" in os.environ or arguments[:1] in (["--install-completion"], ["--show-completion"]):
        _complete(arguments)
    elif not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:10}{what}" for name, what in COMMANDS.items()]
        _say("\n".join(["usage: zennas COMMAND ...   (zennas COMMAND --help says more)", "", *lines, "", COMPLETION]))
    elif arguments[0] == "--version":
        _say(zennas.__version__)
    elif arguments[0] in COMMANDS:
        room = importlib.import_module(f"zennas.{arguments[0]}.__main__")
        room.main(arguments[1:], prog_name=f"zennas {arguments[0]}")
    else:
        print(
            f"error: command '{arguments[0]}' is not known; {suggestion(arguments[0], list(COMMANDS))}", file=sys.stderr
        )
        sys.exit(2)


def _complete(arguments):
    """Answer a shell that asks how a line goes on, or install what asks so."""
    from zennas.commands import program, run_program

    rooms = [f"zennas.{name}" for name in COMMANDS]
    run_program(program(rooms, help="\n".join(COMMANDS.values())), arguments, "zennas")


def _say(text):
    """Print, also into a pipe that nobody reads to its end (zennas --help | head)."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # what Python flushes at its end has somewhere to go


if __name__ == "__main__":
    main()
