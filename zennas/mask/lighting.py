"""How a face is lit and how sharp its picture is, read from its own skin: what a mask on it must look like.

V vertices of the face, S those of them on skin, N directions.
Directions are as in the picture: x right, y up, z to the viewer.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from zennas.mask import mesh
from zennas.mask.mesh import Pose

# A picture's values are taken as square roots of light: a gamma of 2 where sRGB has about 2.2, and no table to look up.
# Of the light that fair skin in good light, and the brightest of a good picture, send back.
LIGHT_SKIN, WHITE = 0.36, 0.80
SKIN_POWER, WHITE_POWER = 0.35, 0.50  # how far either says how much light there is: skins differ, and so do backgrounds
LEAST_LIGHT, MOST_LIGHT = 0.03, 1.15
RIDGE = 0.6  # holds the slope of the light back where few directions are seen
ROUNDS, OUTLIER = 4, 2.0  # of the robust fit; deviations from which on a place is hair, shadow or a highlight
FACING = 0.25  # cosine to the viewer from which on skin is looked at
DARKEST, BRIGHTEST = 0.30, 1.60  # of the shading, in light, where 1 is what faces the viewer
FAIR_SKIN = np.array([1.27, 0.95, 0.78])  # red, green and blue of skin under white light, over their mean
TINT_POWER, MOST_TINT = 0.35, 0.18  # how much of a colour cast a mask takes, at most
COLOURFUL = 0.12  # chroma of skin from which on a picture is one in full colour
SHARPEST_PX, BLURREST_PX, KNOWN_BLUR_PX = 0.3, 3.0, 2.0


class Light(NamedTuple):
    """Light on a face: ambient, slope_3 (shading = ambient + slope_3 . normal, 1 towards the viewer), level (1: good
    light), tint_3 (factors of red, green and blue), colour (0 in a grey picture, 1 in a coloured one), bluish: whether
    the skin is more blue than red, as where red and blue were exchanged."""

    ambient: float
    slope_3: np.ndarray
    level: float
    tint_3: np.ndarray
    colour: float
    bluish: bool

    def shading(self, normal_N3: np.ndarray) -> np.ndarray:
        """The light that surfaces with these normals send back, as a share of what one that faces the viewer does."""
        return np.clip(self.ambient + normal_N3 @ self.slope_3, DARKEST, BRIGHTEST)


@functools.cache
def skin_vertices() -> np.ndarray:
    """The numbers of the vertices that lie on skin: no eyes, brows, lips or nostrils, not where hair hangs."""
    u_V, v_V = np.abs(mesh.face().uv_V2[:, 0] - 0.5), mesh.face().uv_V2[:, 1]
    eyes = (u_V > 0.05) & (u_V < 0.30) & (v_V > 0.24) & (v_V < 0.44)
    lips = (u_V < 0.15) & (v_V > 0.62) & (v_V < 0.78)
    nostrils = (u_V < 0.07) & (v_V > 0.55) & (v_V < 0.63)
    return np.flatnonzero(~(eyes | lips | nostrils) & (u_V < 0.42) & (v_V > 0.17))


def light_on(image_HW3: np.ndarray, point_V3: np.ndarray, pose: Pose) -> Light:
    """The Light on a fitted face in an RGB image (uint8)."""
    skin_S = skin_vertices()
    normal_S3 = mesh.directions(mesh.face().normal_V3[skin_S], pose)
    height, width = image_HW3.shape[:2]
    place_S2 = point_V3[skin_S, :2]
    seen_S = (normal_S3[:, 2] > FACING) & ((place_S2 >= 0) & (place_S2 <= (width - 1, height - 1))).all(1)
    soft_HW3 = cv2.blur(image_HW3, (3, 3))
    if seen_S.sum() < 12:  # a face that is mostly outside its picture
        normal_S3, place_S2 = np.tile([0.0, 0.0, 1.0], (1, 1)), np.array([[width / 2, height / 2]])
        seen_S = np.array([True])
    x_S, y_S = place_S2[seen_S].round().astype(int).T
    rgb_S3 = soft_HW3[np.clip(y_S, 0, height - 1), np.clip(x_S, 0, width - 1)] / 255.0
    light_S = (rgb_S3 @ (0.299, 0.587, 0.114)) ** 2
    ambient, slope_3 = _fitted(light_S, normal_S3[seen_S])
    front = max(ambient + slope_3[2], 1e-3)
    small = soft_HW3[:: max(1, height // 64), :: max(1, width // 64)]
    brightest = (np.percentile(small.max(axis=2), 98) / 255.0) ** 2
    level = (max(front, 1e-3) / LIGHT_SKIN) ** SKIN_POWER * (max(brightest, 1e-3) / WHITE) ** WHITE_POWER
    rgb_3 = np.median(rgb_S3, axis=0)
    chroma = float((rgb_3.max() - rgb_3.min()) / max(rgb_3.max(), 1e-3))
    colour = min(1.0, chroma / COLOURFUL)
    tint_3 = (np.maximum(rgb_3 / max(rgb_3.mean(), 1e-3), 0.05) / FAIR_SKIN) ** TINT_POWER
    tint_3 = 1 + colour * (np.clip(tint_3 / tint_3.mean(), 1 - MOST_TINT, 1 + MOST_TINT) - 1)
    bluish = bool(rgb_3[2] > 1.08 * rgb_3[0] and chroma > COLOURFUL / 2)
    return Light(
        ambient / front, slope_3 / front, float(np.clip(level, LEAST_LIGHT, MOST_LIGHT)), tint_3, colour, bluish
    )


def _fitted(light_S, normal_S3):
    """(ambient, slope_3) with light = ambient + slope . normal, least squares with few wild places left out.

    Source: Basri & Jacobs 2003, of whose nine harmonics of the light the first four carry
    nearly all that matt skin shows.
    """
    basis_S4 = np.column_stack([np.ones(len(light_S)), normal_S3 - (0, 0, 0.7)])
    weight_S = np.ones(len(light_S))
    ridge_44 = np.diag([1e-9, *[RIDGE * 0.1 * len(light_S) / 4] * 3])
    for _ in range(ROUNDS):
        weighted_S4 = basis_S4 * weight_S[:, None]
        light_4 = np.linalg.solve(weighted_S4.T @ basis_S4 + ridge_44, weighted_S4.T @ light_S)
        error_S = np.abs(light_S - basis_S4 @ light_4)
        weight_S = np.maximum(1e-3, 1 - (error_S / max(OUTLIER * 1.48 * float(np.median(error_S)), 1e-4)) ** 2) ** 2
        weight_S *= error_S < OUTLIER * 1.48 * max(float(np.median(error_S)), 1e-4) + 1e-9
        weight_S += 1e-4
    ambient, slope_3 = float(light_4[0] - 0.7 * light_4[3]), light_4[1:]
    length, most = float(np.linalg.norm(slope_3)), max(0.9 * abs(light_4[0]), 1e-6)
    return ambient, slope_3 if length <= most else slope_3 * (most / length)


def blur_px(image_HW3: np.ndarray, pose: Pose) -> float:
    """How blurred the picture of a face is: the deviation, in pixels, of the Gaussian that its edges have gone through.

    An edge of deviation s has squared gradients in proportion to 1/s; one more blur of known size tells s.
    """
    height, width = image_HW3.shape[:2]
    x, y = pose.shift_3[:2]
    half = max(8.0, 9 * pose.scale_px_per_cm)
    rows = slice(max(0, int(y - half)), min(height, int(y + half) + 1))
    columns = slice(max(0, int(x - half)), min(width, int(x + half) + 1))
    inside_HW3 = image_HW3[rows, columns]
    if min(inside_HW3.shape[:2]) < 8:
        inside_HW3 = image_HW3
    grey_HW = cv2.cvtColor(inside_HW3, cv2.COLOR_RGB2GRAY).astype(np.float32)
    sharp, soft = (
        _edge_energy(picture_HW) for picture_HW in (grey_HW, cv2.GaussianBlur(grey_HW, (0, 0), KNOWN_BLUR_PX))
    )
    if sharp < 1e-6 or sharp <= soft * 1.001:
        return BLURREST_PX if sharp > 1e-6 else SHARPEST_PX
    return float(np.clip(KNOWN_BLUR_PX / np.sqrt((sharp / soft) ** 2 - 1), SHARPEST_PX, BLURREST_PX))


def _edge_energy(grey_HW):
    across, down = np.diff(grey_HW, axis=1), np.diff(grey_HW, axis=0)
    return float((across * across).mean() + (down * down).mean())
