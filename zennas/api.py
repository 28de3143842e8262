"""The Python API: a room is called by its name, with the options of its command as keyword arguments.

    >>> import zennas
    >>> zennas.score(track="nowhere")
    Traceback (most recent call last):
    zennas.records.UserError: track or experiment 'nowhere' is not known; known: ...

A room is a package, too: zennas.score.zen is one of its files. So its module is made callable, as the Python reference
describes (Data model, "Customizing module attribute access").
"""

import importlib
import inspect
import sys
import types
from typing import Any

from zennas.flags import CommandOptions, documented
from zennas.records import UserError


class Room(types.ModuleType):
    """A package that does the work of its command when it is called."""

    def __call__(self, *values: Any, progress: Any = None, **options: Any) -> Any:
        """Check the options, do the work and return what came out. UserError for what cannot be used.

        progress: a zennas.progress.Progress that is told how far it is; without one nothing is printed.
        """
        declared = self._options()
        if values:
            named = ", ".join(f"{name}=..." for name in list(declared.model_fields)[:3])
            raise UserError(f"{self.__name__} takes its options by name: {named}; given {values[0]!r} without one")
        return work(declared.of(**options), progress)

    @property
    def __signature__(self) -> inspect.Signature:
        progress = inspect.Parameter("progress", inspect.Parameter.KEYWORD_ONLY, default=None)
        return inspect.Signature([*inspect.signature(self._options()).parameters.values(), progress])

    @property
    def __doc__(self) -> str:  # type: ignore[override] # help(zennas.score) tells its options
        return f"{vars(self).get('__doc__') or ''}\n\n{documented(self._options())}"

    def _options(self) -> type[CommandOptions]:
        return importlib.import_module(f"{self.__name__}.options").Options

    def __reduce__(self) -> Any:  # as any module is pickled by cloudpickle, which knows them by their exact type
        return importlib.import_module, (self.__name__,)


def work(options: Any, progress: Any) -> Any:
    """What the room of these options returns: its file run.py does it."""
    if hasattr(options, "address") and options.address is None:
        from zennas.ray_address import keep_ray_on_loopback

        keep_ray_on_loopback()
    return importlib.import_module(f"{options.room()}.run").run(options, progress=progress)


def make_callable(name: str) -> None:
    """Let the package of this name be called; its __init__.py says so of itself."""
    sys.modules[name].__class__ = Room
