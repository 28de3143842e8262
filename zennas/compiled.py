"""A function under torch.compile where that works, and as it is where not: not every machine has a compiler."""

import warnings
from collections.abc import Callable

import torch

from zennas.records import first_line


class Compiled:
    """Calls the function compiled; as it is from the first time that compiling fails on, with a warning that names
    `what`.
    """

    def __init__(self, function: Callable, *, what: str, **options):
        self.function, self.what, self.compiled = function, what, torch.compile(function, **options)

    def __call__(self, *arguments):
        if self.compiled is not None:
            try:
                return self.compiled(*arguments)
            except torch._dynamo.exc.TorchDynamoException as error:  # it has no public name
                warnings.warn(f"{self.what} not compiled, which is slower: {first_line(error)}", stacklevel=2)
                self.compiled = None
        return self.function(*arguments)
