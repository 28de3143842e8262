import pytest
import torch
from torch import nn

from zennas.space.blocks import BLOCKS, STEMS, stride_of
from zennas.space.cost import build_part
from zennas.space.residual import deployed
from zennas.space.undrawn import undrawn


@pytest.fixture
def states():
    """A function that gives the state of torch's global generator, which is put back."""
    state = torch.get_rng_state()
    yield torch.get_rng_state
    torch.set_rng_state(state)


def test_nothing_is_drawn(states):
    before = states()
    with undrawn("cpu"):
        layers = nn.Conv2d(3, 4, 3), nn.Linear(3, 4), nn.BatchNorm2d(4), nn.PReLU(4)
    assert torch.equal(before, states())
    assert [tuple(layer.weight.shape) for layer in layers] == [(4, 3, 3, 3), (4, 3), (4,), (4,)]
    assert layers[2].weight.tolist() == [1.0] * 4  # what is no draw is done
    nn.Conv2d(3, 4, 3)
    assert not torch.equal(before, states())


def test_to_ask_for_a_stride_draws_nothing(states):
    before = states()
    stride_of.cache_clear()
    assert {stride_of(kind) for kind in STEMS} == {1, 2, 4} and torch.equal(before, states())


@pytest.mark.parametrize("kind", BLOCKS)
def test_it_has_the_shapes_of_what_is_drawn(kind, states):
    with undrawn():
        counted = deployed(build_part(kind, 8, 16, 2, 8, 8), copied=False)
    drawn = deployed(build_part(kind, 8, 16, 2, 8, 8))
    shapes = [{name: tuple(value.shape) for name, value in module.named_parameters()} for module in (counted, drawn)]
    assert shapes[0] == shapes[1] and {value.device.type for value in counted.parameters()} == {"meta"}
