"""The console script `zennas`: each room that has a command answers to its name, as `python -m zennas.ROOM` does."""

import importlib
import os
import sys

import zennas
from zennas.records import suggestion

COMMANDS = {
    "search": "find the best backbones within a latency budget, without training any",
    "clean": "clean identities: merge those that are one person, leave out what is of somebody else",
    "mask": "render masks onto faces, through a fitted 3-D face; a training set with so many of them masked",
    "train": "train a winner: margin loss, Partial FC, distillation; export it and measure it again",
    "tune": "search the recipe: cleaning thresholds, margin loss, depth against width, all together",
    "run": "search, then train the best winner",
    "evaluate": "how good a network is: LFW, IJB, MFR, WebFace, re-identification, 1:N; several side by side",
    "score": "score candidates of your own: Zen-Score, size, latency against a track's budget",
    "latency": "measure by a track's rule; fill, show, compare and import latency tables",
    "submit": "would the challenge accept it? Every rule with its verdict, then the zip it asks for",
}


def main():
    """Dispatch to a room's command; without one, list them."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:10}{what}" for name, what in COMMANDS.items()]
        _say("usage: zennas COMMAND ...   (zennas COMMAND --help says more)\n\n" + "\n".join(lines))
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
