"""zennas: the best recognition backbone within a measured latency budget, found without training a single candidate.

Every command is a function here, too: zennas.search(track="webface-sfr", minutes=5) does what `zennas search --track
webface-sfr --minutes 5` does, and returns what it found. zennas/__init__.pyi lists them with their options.
"""

import importlib
from typing import Any

__version__ = "0.2.0"
# The rooms that have a command, in the order in which a user meets them, and what each does.
COMMANDS = {
    "search": "find the best backbones within a latency budget, without training any",
    "align": "find the faces of photographs and align them; a set that every other command takes",
    "clean": "clean identities: merge those that are one person, leave out what is of somebody else",
    "mask": "render masks onto faces, through a fitted 3-D face; a training set with so many of them masked",
    "train": "train a winner: margin loss, Partial FC, distillation; export it and measure it again",
    "learn": "learn from a few trainings on your own data which networks are the better ones; search by that",
    "tune": "search the recipe: cleaning thresholds, margin loss, depth against width, all together",
    "run": "search, then train the best winner; or learn, search, train the winners and crown the best",
    "export": "take over a trained network, such as backbone.pth of insightface: candidate, checkpoint, ONNX, latency",
    "evaluate": "how good a network is: LFW, IJB, MFR, WebFace, re-identification, 1:N; several side by side",
    "gallery": "enrol people or faces into an index; a picture of one gives a ranked list",
    "score": "score candidates of your own: Zen-Score, size, latency against a track's budget",
    "latency": "measure by a track's rule; fill, show, compare and import latency tables",
    "submit": "would the challenge accept it? Every rule with its verdict, then the zip it asks for",
}
__all__ = ["UserError", "__version__", *COMMANDS]  # noqa: PLE0604 - names of rooms


def __getattr__(name: str) -> Any:
    """A room, imported when it is first asked for: `import zennas` answers at once."""
    if name in COMMANDS:
        return importlib.import_module(f"zennas.{name}")
    if name == "UserError":  # what every command raises for what cannot be used
        return importlib.import_module("zennas.records").UserError
    raise AttributeError(f"module 'zennas' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
