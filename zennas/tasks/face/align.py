"""Alignment of a face: its five landmarks are moved to those of ArcFace's template."""

import cv2
import numpy as np

from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError

# Left eye, right eye, tip of the nose, left and right corner of the mouth (as seen) at 112 x 112. Source: insightface.
TEMPLATE_52 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def align(image_HW3: np.ndarray, points_52: np.ndarray, height_width: tuple[int, int] = (112, 112)) -> np.ndarray:
    """The face at (height, width), its landmarks moved to those of ArcFace's template; what lies outside the image is
    black.

    points_52: x, y in pixels of the eyes, the tip of the nose and the corners of the mouth, left ones first. Rotation,
    scale and shift are those with the least squared distance to the template; another size than 112 scales the
    template. CorruptImageError for landmarks that are not finite or all in one place.
    Source: insightface's face_align.py (template) and Umeyama 1991 (without its reflections, which faces do not have).
    """
    points_52 = np.asarray(points_52, np.float64)
    height, width = height_width
    template_52 = TEMPLATE_52 * (width / 112, height / 112)
    centred_52 = points_52 - points_52.mean(axis=0)
    spread = float((centred_52**2).sum())
    if not np.isfinite(spread) or spread < 1e-6:
        raise CorruptImageError(f"landmarks {points_52.round(1).tolist()} place no face")
    # As complex numbers a similarity is one factor and one shift.
    x, y = (values[:, 0] + 1j * values[:, 1] for values in (centred_52, template_52 - template_52.mean(axis=0)))
    factor = (x.conj() * y).sum() / spread
    turn_22 = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    shift_2 = template_52.mean(axis=0) - turn_22 @ points_52.mean(axis=0)
    return cv2.warpAffine(image_HW3, np.column_stack([turn_22, shift_2]), (width, height), borderValue=0.0)


def aligned(images: ImageSet, points_N52: np.ndarray, fingerprint: str) -> ImageSet:
    """The same images, each aligned by its landmarks; fingerprint: of images and landmarks."""
    return images._replace(
        fingerprint=fingerprint,
        cut=lambda image_HW3, image, height_width: align(image_HW3, points_N52[image], height_width),
    )
