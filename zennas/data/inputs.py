"""What a network sees of images: numbers about zero, on its device."""

# B images, H height, W width

import contextlib

import torch

from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError


def normalised(image_BHW3: torch.Tensor, device: torch.device, *, channels_last: bool = False) -> torch.Tensor:
    """What the network sees: float32 B3HW, (x - 127.5) / 127.5 as insightface and the challenge's checker have it."""
    image_B3HW = image_BHW3.to(device, non_blocking=True).permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)
    return image_B3HW.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def first_inputs(images: ImageSet, size: int | tuple[int, int], num: int) -> torch.Tensor:
    """The first `num` images that decode, as a network sees them, on the processor."""
    pixels = []
    for number in range(images.num_images):
        with contextlib.suppress(CorruptImageError):
            pixels.append(torch.from_numpy(images.pixels(number, size)))
        if len(pixels) == num:
            break
    return normalised(torch.stack(pixels), torch.device("cpu"))
