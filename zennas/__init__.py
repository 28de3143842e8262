"""zennas: the best recognition backbone within a measured latency budget, found without training a single candidate.

Every command is a function here, too: zennas.search(track="webface-sfr", minutes=5) does what `zennas search --track
webface-sfr --minutes 5` does, and returns what it found. zennas/__init__.pyi lists them with their options.
"""

import importlib
from typing import Any

__version__ = "0.2.0"
# The rooms that have a command, in the order in which a user meets them.
COMMANDS = ("search", "clean", "mask", "train", "tune", "run", "evaluate", "score", "latency", "submit")
__all__ = ["__version__", *COMMANDS]  # noqa: PLE0604 - names of rooms


def __getattr__(name: str) -> Any:
    """A room, imported when it is first asked for: `import zennas` answers at once."""
    if name in COMMANDS:
        return importlib.import_module(f"zennas.{name}")
    raise AttributeError(f"module 'zennas' has no attribute '{name}'")
