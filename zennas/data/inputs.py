"""What a network sees of images: numbers about zero, on its device."""

# B images, H height, W width

import contextlib

import torch

from zennas.data.image_set import ImageSet
from zennas.data.images import LUMA_3, CorruptImageError
from zennas.records import UserError
from zennas.space.shape import Shape


def normalised(
    image_BHW3: torch.Tensor, device: torch.device, *, channels: int = 3, channels_last: bool = False
) -> torch.Tensor:
    """What the network sees: float32 BCHW, (x - 127.5) / 127.5 as insightface and the challenge's checker have it.

    channels: 3, or 1 for a network of grey images.
    """
    image_B3HW = image_BHW3.to(device, non_blocking=True).permute(0, 3, 1, 2).float().sub_(127.5).div_(127.5)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return in_channels(image_B3HW, channels).contiguous(memory_format=memory_format)


def in_channels(image_B3HW: torch.Tensor, channels: int) -> torch.Tensor:
    """RGB images as a network of so many channels sees them: as they are, or in grey. UserError for another number."""
    if channels not in (1, 3):
        raise UserError(f"images are RGB, or seen in grey: channels given {channels}, allowed: 3 or 1")
    if channels == 3:
        return image_B3HW
    return (image_B3HW * image_B3HW.new_tensor(LUMA_3).view(3, 1, 1)).sum(1, keepdim=True)


def first_inputs(images: ImageSet, shape: Shape, num: int) -> torch.Tensor:
    """The first `num` images that decode, as a network for this Shape sees them, on the processor.

    CorruptImageError where none does.
    """
    pixels = []
    for number in range(images.num_images):
        with contextlib.suppress(CorruptImageError):
            pixels.append(torch.from_numpy(images.pixels(number, shape.hw)))
        if len(pixels) == num:
            break
    if not pixels:
        raise CorruptImageError(f"none of {images.num_images} images decodes")
    return normalised(torch.stack(pixels), torch.device("cpu"), channels=shape.channels)
