"""Look: whether the images of a data set are aligned faces, by a sample of them."""

from typing import NamedTuple

import numpy as np

from zennas.data.image_set import ImageSet, spread_over
from zennas.data.images import CorruptImageError, decode
from zennas.tasks.face.align import off_template
from zennas.tasks.face.detect import Detector

NUM_LOOKED_AT = 32
# An aligned face stands where ArcFace's template has it, so that aligning it again hardly moves it: by 0.022 of the
# image's side in the median of 150 faces of LFW, by 0.05 at most. Raw crops of AT&T, in which a head fills the picture,
# have 0.075, MTCNN's with a margin of 44 pixels 0.084, photographs more; aligned faces in masks at most 0.053 in a
# sample of 32. A median tells; a single image does not.
MAX_MEDIAN_OFF = 0.06
# Landmarks of poor aligned faces are off, too: enlarged from 10 pixels 0.057 in the median, from 8 0.07. The detector's
# score tells them: below this one for most of these, above it for 95 % of LFW and AT&T.
MIN_SHARP_SCORE = 0.89
SURELY_OFF = 0.1  # the median of all faces, poor ones too
MAX_OFF = 0.12  # of a single image
MAX_ALIGNED_PX = 256  # the longer side of an aligned image; a larger one without a face that is found is a photograph
FEW_FACES = 3  # below, they say little of the data


class Look(NamedTuple):
    """What a sample of images shows. How far a face is off is a share of its image's sides, as `off_template` has it;
    medians are nan where there is no such face.
    """

    num_images: int  # looked at
    num_faces: int  # images in which a face was found
    num_sharp: int  # of them, those that the detector has no doubt of
    num_large: int  # images larger than an aligned one, and no face was found
    num_undecodable: int
    median_off: float
    median_sharp_off: float

    @property
    def has_photographs(self) -> bool:
        """Whether the images are photographs rather than aligned faces. Images that show no face are neither: noise of
        a test, or crops too poor for the detector.
        """
        if 2 * self.num_large > self.num_images or self.median_off > SURELY_OFF:
            return True
        sharp_tell = self.num_sharp >= FEW_FACES and 2 * self.num_sharp >= self.num_images
        return sharp_tell and self.median_sharp_off > MAX_MEDIAN_OFF

    @property
    def says(self) -> str:
        """What was seen, in words."""
        if not self.num_faces:
            return f"none of the {self.num_images} images looked at shows a face"
        return (
            f"of {self.num_images} images looked at, {self.num_faces} show a face, {self.median_off:.1%} of the side "
            f"away from where aligned faces stand (allowed: {MAX_MEDIAN_OFF:.0%})"
        )


def look_at(images: ImageSet, *, detector: Detector | None = None, num: int = NUM_LOOKED_AT) -> Look:
    """A Look at `num` images, spread over all of them: the same ones each time. Of aligned images it takes a fifth of a
    second.
    """
    detector = detector or Detector()
    sample = spread_over(images.num_images, num)
    off, is_sharp, num_large, num_undecodable = [], [], 0, 0
    for image in sample:
        try:
            image_HW3 = decode(images.read(image))
        except CorruptImageError:
            num_undecodable += 1
            continue
        faces = detector.faces(image_HW3)
        if faces:
            off.append(off_template(faces[0].points_52, image_HW3.shape[:2]))
            is_sharp.append(faces[0].score >= MIN_SHARP_SCORE)
        else:
            num_large += max(image_HW3.shape[:2]) > MAX_ALIGNED_PX
    off_F, is_sharp_F = np.array(off), np.array(is_sharp, bool)
    return Look(
        num_images=len(sample),
        num_faces=len(off),
        num_sharp=int(is_sharp_F.sum()),
        num_large=num_large,
        num_undecodable=num_undecodable,
        median_off=_median(off_F),
        median_sharp_off=_median(off_F[is_sharp_F]),
    )


def _median(off_F):
    return float(np.median(off_F)) if len(off_F) else float("nan")
