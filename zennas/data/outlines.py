"""What is odd about the sizes of images, before they are all made of one size."""

import numpy as np

from zennas.data.image_set import ImageSet, spread_over
from zennas.data.images import CorruptImageError, decode
from zennas.records import some
from zennas.space.shape import sides

NUM_LOOKED_AT = 16
TINY_PX = 8  # a side of fewer shows nobody
STRETCHED = 1.8  # times; images that a network is made for differ by less


def odd_outlines(images: ImageSet, hw: tuple[int, int]) -> list[str]:
    """Sentences about a sample of images that are tiny, or stretched where a network takes (height, width).

    A word and no refusal: who trains or judges on such images may know why.
    """
    if images.cut is not None:  # what is cut out has the right outline
        return []
    seen_hw, tiny = [], []
    for image in spread_over(images.num_images, NUM_LOOKED_AT):
        try:
            image_hw = decode(images.read(image)).shape[:2]
        except CorruptImageError:  # counted where they are used
            continue
        seen_hw.append(image_hw)
        if min(image_hw) < TINY_PX:
            tiny.append(f"{images.where(image)} ({sides(image_hw)})")
    if not seen_hw:
        return []
    told = []
    if tiny:
        told.append(
            f"{len(tiny)} of {len(seen_hw)} images that were looked at have a side of less than {TINY_PX} pixels and "
            f"show nobody: {some(tiny)}"
        )
    height, width = np.median(np.array(seen_hw), axis=0)
    times = (height / width) / (hw[0] / hw[1])
    if max(times, 1 / times) > STRETCHED:
        told.append(
            f"the images are about {height:.0f} x {width:.0f} and the network takes {sides(hw)}: they are "
            f"stretched {max(times, 1 / times):.1f} times; is it one for such images?"
        )
    return told
