"""What every score of a module needs: the module as it came afterwards, and a number that is one."""

import contextlib
import math
from collections.abc import Iterator

from torch import nn

from zennas.space.candidate import Candidate


@contextlib.contextmanager
def given_back(module: nn.Module) -> Iterator[nn.Module]:
    """A module to change at will: at the end it has the weights, statistics, modes and flags again that it came with.

    In train mode, without gradients in its weights and without activations that overwrite their input.
    """
    kept = {name: value.detach().clone() for name, value in module.state_dict().items()}
    modes = {part: (part.training, getattr(part, "inplace", None)) for part in module.modules()}
    wanted = {parameter: parameter.requires_grad for parameter in module.parameters()}
    try:
        for part, (_, inplace) in modes.items():
            part.training = True
            if inplace:
                part.inplace = False
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield module
    finally:
        for part, (training, inplace) in modes.items():
            part.training = training
            if inplace:
                part.inplace = inplace
        for parameter, flag in wanted.items():
            parameter.requires_grad_(flag)
        module.load_state_dict(kept)


def candidate_of(network: Candidate | nn.Module, name: str) -> Candidate:
    """The Candidate itself, or a Network's. ValueError, with the score's name, for any other module."""
    candidate = network if isinstance(network, Candidate) else getattr(network, "candidate", None)
    if candidate is None:
        raise ValueError(f"{name} needs a Candidate or a Network of zennas, not any module")
    return candidate


def finite(value: float, name: str) -> float:
    """The value as a float. FloatingPointError names the score where it is not finite."""
    value = float(value)
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{name} is {value}: the activations of this network overflow or vanish, or are all alike"
        )
    return value
