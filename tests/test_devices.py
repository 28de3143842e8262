"""What a device can do, and what it gets wrong."""

import pytest
import torch
from torch import nn

from zennas.devices import check_arithmetic
from zennas.records import UserError

CPU = torch.device("cpu")


def network(*layers, hw):
    whole = nn.Sequential(*layers)
    whole.input_shape = (layers[0].in_channels, *hw)
    return whole


def strided(groups=1, kernel=3):
    return nn.Conv2d(16, 16, kernel, 2, kernel // 2, groups=groups)


@pytest.mark.parametrize("layers, hw", [([strided()], (6, 2)), ([strided(), strided(8, 5)], (24, 4))])
def test_a_processor_s_bfloat16_is_refused_where_maps_become_one_pixel_wide(layers, hw):
    narrow = network(*layers, hw=hw)
    with pytest.raises(UserError, match=r"precision bf16: .* from maps of \d+ x 2 to \d+ x 1, .*; allowed: fp32"):
        check_arithmetic(narrow, torch.bfloat16, CPU)
    assert narrow.training and not any(layer._forward_hooks for layer in narrow)
    check_arithmetic(narrow, None, CPU)
    check_arithmetic(narrow, torch.bfloat16, torch.device("cuda"))


@pytest.mark.parametrize(
    "layer, hw", [(strided(), (6, 3)), (strided(), (2, 2)), (strided(16), (6, 2)), (strided(kernel=1), (6, 2))]
)
def test_what_it_gets_right_is_not(layer, hw):
    check_arithmetic(network(layer, hw=hw), torch.bfloat16, CPU)
    image = torch.randn(2, 16, *hw)
    with torch.no_grad():
        expected = layer(image)
        for _ in range(3):
            torch.full((2_000_000,), torch.nan)  # lies in memory then
            with torch.autocast("cpu", torch.bfloat16):
                assert torch.allclose(layer(image).float(), expected, atol=0.05)
