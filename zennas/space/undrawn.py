"""Modules whose weights nobody draws: their shapes are all that is asked, or the weights are set afterwards."""

import contextlib
from collections.abc import Iterator

import torch
from torch.overrides import TorchFunctionMode

DRAWS = {"kaiming_uniform_", "normal_", "trunc_normal_", "uniform_"}


class _Undrawn(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.__name__ in DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


@contextlib.contextmanager
def undrawn(device: str = "meta") -> Iterator[None]:
    """What is built on a device within has weights of any value; torch's generators stay where they are.

    To draw on the meta device has no result, but torch imports sympy for it: a second of every process that opens a
    space.
    """
    with torch.device(device), _Undrawn():
        yield
