"""Red and blue exchanged: said where it is so, and only there."""

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from zennas.clean.colour import LEAST, colour_notice
from zennas.data.sources import open_source
from zennas.embed.model import open_model

PX = 16


class Red(nn.Module):
    """Looks at the red channel alone."""

    def forward(self, image_B3HW):
        return image_B3HW[:, 0].flatten(1)


class Grey(nn.Module):
    """Looks at all channels alike."""

    def forward(self, image_B3HW):
        return image_B3HW.mean(dim=1).flatten(1)


def people(folder, num, *, channel):
    """Folders of two images each; who it is stands in one channel (of RGB), all else is noise."""
    rng = np.random.default_rng(0)
    for number in range(num):
        pattern_HW = rng.integers(0, 256, (PX, PX))
        for image in range(2):
            image_HW3 = rng.integers(0, 256, (PX, PX, 3), dtype=np.uint8)
            image_HW3[..., channel] = pattern_HW
            path = folder / f"p{number:02d}" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), cv2.cvtColor(image_HW3, cv2.COLOR_RGB2BGR))
    return open_source(folder)


@pytest.mark.parametrize(("network", "channel", "said"), [(Red, 2, True), (Red, 0, False), (Grey, 2, False)])
def test_it_is_said_where_the_other_order_is_plainly_better(tmp_path, network, channel, said):
    source = people(tmp_path / "faces", 30, channel=channel)
    notice = colour_notice(open_model(network(), image_px=PX), source)
    assert (notice is not None) == said
    if said:
        assert "30 pairs" in notice and ",colour=bgr" in notice


def test_of_few_people_nothing_is_said(tmp_path):
    source = people(tmp_path / "faces", LEAST - 1, channel=2)
    assert colour_notice(open_model(Red(), image_px=PX), source) is None


def test_images_that_do_not_decode_take_no_part(tmp_path):
    people(tmp_path / "faces", LEAST + 2, channel=2)
    (tmp_path / "faces" / "p00" / "0.png").write_bytes(b"no image")
    source = open_source(tmp_path / "faces")
    assert f"{LEAST + 1} pairs" in colour_notice(open_model(Red(), image_px=PX), source)


def test_no_random_numbers_are_taken_from_others(tmp_path):
    source = people(tmp_path / "faces", LEAST, channel=2)
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    colour_notice(open_model(Red(), image_px=PX), source)
    assert (np.random.get_state()[1] == state).all() and torch.equal(torch.get_rng_state(), torch_state)
