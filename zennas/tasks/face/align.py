"""Alignment of a face: its five landmarks are moved to those of ArcFace's template."""

import math

import cv2
import numpy as np

from zennas.data.image_set import ImageSet
from zennas.data.images import CorruptImageError, resized

# Left eye, right eye, tip of the nose, left and right corner of the mouth (as seen) at 112 x 112. Source: insightface.
TEMPLATE_52 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def align(
    image_HW3: np.ndarray, points_52: np.ndarray, height_width: tuple[int, int] = (112, 112), *, smooth: bool = False
) -> np.ndarray:
    """The face at (height, width), its landmarks moved to those of ArcFace's template; what lies outside the image is
    black.

    points_52: x, y in pixels of the eyes, the tip of the nose and the corners of the mouth, left ones first. Rotation,
    scale and shift are those with the least squared distance to the template; another size than 112 scales the
    template. smooth: a face that becomes less than half as large is averaged, as a camera would; without it pixels are
    left out, as insightface does. CorruptImageError for landmarks that are not finite or all in one place.
    Source: insightface's face_align.py (template) and Umeyama 1991 (without its reflections, which faces do not have).
    """
    height, width = height_width
    to_template_23 = similarity(points_52, template(height_width))
    if smooth:
        return warped(image_HW3, to_template_23, height_width)
    return cv2.warpAffine(image_HW3, to_template_23, (width, height), borderValue=0.0)


def template(height_width: tuple[int, int]) -> np.ndarray:
    """ArcFace's template (points_52) in an image of (height, width)."""
    height, width = height_width
    return TEMPLATE_52 * (width / 112, height / 112)


def similarity(points_52: np.ndarray, target_52: np.ndarray) -> np.ndarray:
    """The 2 x 3 map (rotation, scale and shift) that carries points nearest to target points, in least squares.

    CorruptImageError for points that are not finite or all in one place.

    >>> square = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    >>> similarity(square, 2 * square + 3).round(9).tolist()
    [[2.0, -0.0, 3.0], [0.0, 2.0, 3.0]]
    """
    points_52 = np.asarray(points_52, np.float64)
    centred_52 = points_52 - points_52.mean(axis=0)
    spread = float((centred_52**2).sum())
    if not np.isfinite(spread) or spread < 1e-6:
        raise CorruptImageError(f"landmarks {points_52.round(1).tolist()} place no face")
    # As complex numbers a similarity is one factor and one shift.
    x, y = (values[:, 0] + 1j * values[:, 1] for values in (centred_52, target_52 - target_52.mean(axis=0)))
    factor = (x.conj() * y).sum() / spread
    turn_22 = np.array([[factor.real, -factor.imag], [factor.imag, factor.real]])
    return np.column_stack([turn_22, target_52.mean(axis=0) - turn_22 @ points_52.mean(axis=0)])


def warped(image_HW3: np.ndarray, map_23: np.ndarray, height_width: tuple[int, int]) -> np.ndarray:
    """The image at (height, width) after a similarity; black outside. A map that shrinks takes means, leaves out none.

    A linear warp looks at four pixels, so what becomes less than half as large is shrunk by a whole factor first.
    """
    height, width = height_width
    factor = int(1 / max(math.hypot(map_23[0, 0], map_23[1, 0]), 1e-6))
    if factor >= 2:
        tall, wide = (max(1, round(side / factor)) for side in image_HW3.shape[:2])
        # Centres of pixels: x of the whole is (x of the small + 0.5) * wider - 0.5.
        wider_2 = np.array([image_HW3.shape[1] / wide, image_HW3.shape[0] / tall])
        image_HW3 = resized(image_HW3, (tall, wide))
        map_23 = np.column_stack([map_23[:, :2] * wider_2, map_23[:, 2] + map_23[:, :2] @ (0.5 * wider_2 - 0.5)])
    return cv2.warpAffine(image_HW3, map_23, (width, height), borderValue=0.0)


def off_template(points_52: np.ndarray, height_width: tuple[int, int]) -> float:
    """How far aligning moves a face whose landmarks are points_52: of eyes, nose and mouth of the template, root mean
    square, as a share of the image's sides. An aligned face stays where it is, also one whose own landmarks are not the
    template's, such as one that looks aside. Infinite where the landmarks place no face.

    >>> round(off_template(TEMPLATE_52 * 2, (224, 224)), 9), round(off_template(TEMPLATE_52 + 11.2, (112, 112)), 3)
    (0.0, 0.141)
    """
    height, width = height_width
    target_52 = template(height_width)
    try:
        back_23 = cv2.invertAffineTransform(similarity(points_52, target_52))
    except CorruptImageError:
        return math.inf
    moved_52 = target_52 @ back_23[:, :2].T + back_23[:, 2] - target_52
    return float(np.sqrt(((moved_52 / (width, height)) ** 2).sum(1).mean()))


def aligned(images: ImageSet, points_N52: np.ndarray, fingerprint: str) -> ImageSet:
    """The same images, each aligned by its landmarks; fingerprint: of images and landmarks."""
    return images._replace(
        fingerprint=fingerprint,
        cut=lambda image_HW3, image, height_width: align(image_HW3, points_N52[image], height_width),
    )
