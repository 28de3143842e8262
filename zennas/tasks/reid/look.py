"""Whether images may show whole people, by their outlines: aligned faces are square, people stand upright."""

import pathlib

from zennas.data.image_set import spread_over
from zennas.data.images import CorruptImageError, decode
from zennas.data.sources import AnySource, open_source
from zennas.records import UserError
from zennas.space.shape import Shape, sides

NUM_LOOKED_AT = 32  # spread over all images: the same ones each time
TALL = 1.5  # height by width of a network from which on a square would be drawn out of shape; people's have 2 or 3
LEAST_PX = 64  # of a side; smaller squares are thumbnails of anything, aligned faces have 112 and more


def look(data: pathlib.Path, shape: Shape, progress) -> None:
    """UserError where a sample of the images at `data` shows that they are not what a network of this Shape takes."""
    progress.begin(f"looking at {data}")
    try:
        check_upright(open_source(data, progress=progress.counting("images")), data, shape)
    finally:
        progress.end()


def check_upright(source: AnySource, data: pathlib.Path, shape: Shape) -> None:
    """UserError where each image of a sample is a square, as aligned faces are, and the network takes upright ones.

    Sets that name cameras are of what was seen by them, whatever its outline, and are not looked at.
    """
    if source.camera_N is not None or shape.height < TALL * shape.width or not source.num_images:
        return
    seen_px = set()
    for image in spread_over(source.num_images, NUM_LOOKED_AT):
        try:
            height, width = decode(source.read(image)).shape[:2]
        except CorruptImageError:  # counted where it is trained on
            continue
        if height != width or height < LEAST_PX:
            return
        seen_px.add(height)
    if seen_px:
        px = " to ".join(str(side) for side in sorted({min(seen_px), max(seen_px)}))
        raise UserError(
            f"--data {data}: holds squares ({px} px, all that were looked at), as aligned faces are; the network takes "
            f"whole people, {sides(shape.hw)}; faces are for an experiment whose task is face (--track); "
            "for other squares choose a --space of square images"
        )
