"""A trained network in all the forms that the other commands take: candidate, checkpoint, ONNX, measured latency."""

import importlib
from typing import Any

from zennas.api import make_callable


def __getattr__(name: str) -> Any:
    """What `zennas.export` held while it was one file: onnx_file.py holds it now."""
    if name.startswith("_"):
        raise AttributeError(f"module 'zennas.export' has no attribute '{name}'")
    return getattr(importlib.import_module("zennas.export.onnx_file"), name)


make_callable(__name__)
