"""KINDS_OF_PAINT: what each kind of mask looks like, as its edge, its paint and its shape;
textures.py makes KINDS of it.

A paint is (sheet, rng) -> (rgb_HW3 in [0, 1], colour of the straps): the mask's own colour under even light,
with the small shadows of pleats, seams and creases, which are finer than the mesh.
Sizes are texels of 512: about 26 to the face's centimetre.
"""

import colorsys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from zennas.mask.textures import Sheet

Colour = Sequence[float] | np.ndarray  # red, green and blue in [0, 1]
Paint = Callable[["Sheet", np.random.Generator], tuple[np.ndarray, Colour]]
CREASE_TEXELS = 22.0  # of the folds of worn cloth
STRAP_WHITE, STRAP_YELLOW = (0.90, 0.90, 0.89), (0.86, 0.74, 0.30)
# Where a surgical mask folds, in the middle and at its sides, in canonical texture coordinates.
PLEATS = ((0.615, 0.605), (0.725, 0.665), (0.835, 0.715))


def surgical(colour: tuple[float, float, float], *, spread: float) -> Paint:
    """The paint of a pleated mask of about this RGB colour."""

    def paint(sheet, rng):
        rgb = _varied(colour, rng, spread)
        light_HW = 1 + _creases(rng, stretch=3.0, depth=0.05) + _grain(rng, 0.012)
        slack_HW = 0.006 * np.sin(5 * sheet.across_HW + rng.uniform(0, 6))
        for middle, side in PLEATS:  # straighter than the edges: they do not know of the nose
            pleat_HW = middle + (side - middle) * sheet.across_HW**2
            below_HW = (sheet.y_HW / (512 * 0.86) - pleat_HW - slack_HW) * 1.8
            light_HW -= 0.20 * np.exp(-((below_HW / 0.012) ** 2))  # the fold itself
            light_HW -= 0.10 * np.exp(-np.maximum(below_HW, 0) / 0.05) * (below_HW > 0)  # the shadow beneath it
            light_HW += 0.05 * np.exp(-(((below_HW + 0.03) / 0.02) ** 2))  # the light on its brim
        rgb_HW3 = rgb * light_HW[..., None]
        hem = np.asarray(rgb) * 0.35 + 0.62
        band_HW = (sheet.down_HW < 0.055) | (sheet.down_HW > 0.955) | (np.abs(sheet.across_HW) > 0.955)
        rgb_HW3[band_HW] = (hem * (1 + _grain(rng, 0.015))[..., None])[band_HW]
        seam_HW = _line(sheet.down_HW - 0.058, 0.004) + _line(np.abs(sheet.across_HW) - 0.953, 0.004)
        rgb_HW3 *= (1 - 0.14 * seam_HW)[..., None]
        wire_HW = _line(sheet.down_HW - 0.085, 0.012) * (np.abs(sheet.across_HW) < 0.34)
        rgb_HW3 *= (1 - 0.06 * wire_HW)[..., None]
        return _rounded_edge(rgb_HW3, sheet), STRAP_WHITE

    return paint


def cloth_plain(sheet: "Sheet", rng: np.random.Generator) -> tuple[np.ndarray, Colour]:
    """One colour, woven, with a seam down the middle."""
    rgb = _cloth_colour(rng)
    rgb_HW3 = np.ones((*sheet.x_HW.shape, 3)) * rgb
    return _sewn(rgb_HW3, sheet, rng), _strap_of(rgb)


def cloth_patterned(sheet: "Sheet", rng: np.random.Generator) -> tuple[np.ndarray, Colour]:
    """Two colours: dots, stripes, checks or patches, as the seed has it."""
    ground, figure = _cloth_colour(rng), _cloth_colour(rng)
    while np.abs(np.subtract(ground, figure)).sum() < 0.5:
        figure = _cloth_colour(rng)
    step, turn = rng.uniform(22, 52), rng.uniform(-0.8, 0.8)
    x_HW = np.cos(turn) * sheet.x_HW + np.sin(turn) * sheet.y_HW
    y_HW = np.cos(turn) * sheet.y_HW - np.sin(turn) * sheet.x_HW
    which = ("dots", "stripes", "checks", "patches")[int(rng.integers(4))]
    if which == "dots":
        row_HW = np.floor(y_HW / step)
        away_HW = np.hypot((x_HW + row_HW % 2 * step / 2) % step - step / 2, y_HW % step - step / 2)
        share_HW = _edge(step * rng.uniform(0.2, 0.33) - away_HW)
    elif which == "stripes":
        share_HW = _edge(step * rng.uniform(0.15, 0.3) - np.abs(x_HW % step - step / 2))
    elif which == "checks":
        share_HW = 0.5 * ((x_HW % step < step / 2).astype(float) + (y_HW % step < step / 2))
    else:
        share_HW = _edge(step * (_smooth_noise(rng, step / 2.5) - 0.25))
    rgb_HW3 = np.asarray(ground) + share_HW[..., None] * np.subtract(figure, ground)
    return _sewn(rgb_HW3, sheet, rng), _strap_of(ground)


def n95(sheet: "Sheet", rng: np.random.Generator) -> tuple[np.ndarray, Colour]:
    """A moulded cup with a metal clip over the nose, some with a valve."""
    rgb = _varied((0.93, 0.92, 0.89), rng, 0.02)
    light_HW = 1 + _grain(rng, 0.03) + _creases(rng, stretch=1.0, depth=0.02)
    light_HW -= 0.10 * _line(sheet.edge_HW - 11, 1.5) + 0.05 * _line(sheet.edge_HW - 16, 1.2)  # the rim's weld
    light_HW -= 0.06 * _line(sheet.down_HW - 0.30 - 0.05 * sheet.across_HW**2, 0.008)
    light_HW -= 0.06 * _line(sheet.down_HW - 0.70 + 0.05 * sheet.across_HW**2, 0.008)
    rgb_HW3 = rgb * light_HW[..., None]
    clip_HW = _edge(0.022 - np.abs(sheet.down_HW - 0.085), 0.004) * _edge(0.38 - np.abs(sheet.across_HW), 0.02)
    rgb_HW3 += clip_HW[..., None] * (np.array([0.66, 0.67, 0.69]) - rgb_HW3) * 0.8
    if rng.random() < 0.35:
        away_HW = np.hypot(sheet.x_HW - 256 - rng.choice((-52, 52)), sheet.y_HW - 345)
        rgb_HW3 += _edge(26 - away_HW)[..., None] * (np.array([0.80, 0.81, 0.82]) - rgb_HW3)
        rgb_HW3 *= (1 - 0.25 * _line(away_HW - 26, 2.0) - 0.15 * _line(away_HW - 17, 1.5))[..., None]
    else:  # what is printed on it, too small to read
        rgb_HW3 *= (1 - 0.35 * _print(sheet, rng, x=256, y=330))[..., None]
    return _rounded_edge(rgb_HW3, sheet), STRAP_YELLOW if rng.random() < 0.5 else STRAP_WHITE


def kn95(sheet: "Sheet", rng: np.random.Generator) -> tuple[np.ndarray, Colour]:
    """Folded down the middle, its layers welded along the edges."""
    rgb = _varied((0.94, 0.94, 0.93), rng, 0.015)
    light_HW = 1 + _grain(rng, 0.015) + _creases(rng, stretch=1.0, depth=0.035)
    dots_HW = 0.5 + 0.5 * np.sin(sheet.y_HW * 1.3) * np.sin(sheet.x_HW * 1.3)
    light_HW -= (0.13 * _line(sheet.edge_HW - 9, 1.6) + 0.10 * _line(sheet.edge_HW - 15, 1.6)) * dots_HW
    light_HW -= 0.10 * _line(sheet.x_HW - 256, 2.0)
    light_HW -= 0.05 * (sheet.x_HW > 256) * np.exp(-np.maximum(sheet.x_HW - 256, 0) / 25)
    rgb_HW3 = rgb * light_HW[..., None]
    clip_HW = _edge(0.018 - np.abs(sheet.down_HW - 0.10), 0.004) * _edge(0.33 - np.abs(sheet.across_HW), 0.02)
    rgb_HW3 += clip_HW[..., None] * (np.array([0.72, 0.73, 0.75]) - rgb_HW3) * 0.7
    rgb_HW3 *= (1 - 0.3 * _print(sheet, rng, x=345, y=330))[..., None]
    return _rounded_edge(rgb_HW3, sheet), STRAP_WHITE


def black(sheet: "Sheet", rng: np.random.Generator) -> tuple[np.ndarray, Colour]:
    """Fitted foam or knit that runs out into its own loops."""
    rgb = _varied((0.125, 0.125, 0.135), rng, 0.03)
    light_HW = 1 + _grain(rng, 0.05) + _creases(rng, stretch=1.2, depth=0.10)
    light_HW -= 0.25 * _line(sheet.x_HW - 256, 1.6) + 0.2 * _line(sheet.edge_HW - 7, 1.5)
    light_HW += 0.12 * _line(sheet.x_HW - 251, 1.5)
    return _rounded_edge(rgb * light_HW[..., None], sheet), np.asarray(rgb) * 0.95


# --- what paints are made of


def _varied(rgb, rng, spread):
    """The colour with hue, saturation and brightness moved a little; spread: how far, of 1."""
    hue, saturation, value = colorsys.rgb_to_hsv(*rgb)
    hue += rng.uniform(-0.6, 0.6) * spread
    saturation *= 1 + rng.uniform(-4, 4) * spread
    value *= 1 + rng.uniform(-1.2, 0.6) * spread
    return np.array(colorsys.hsv_to_rgb(hue % 1, min(max(saturation, 0), 1), min(max(value, 0), 0.97)))


def _cloth_colour(rng):
    """A colour that cloth is dyed in: mostly muted, a fifth grey to white."""
    if rng.random() < 0.2:
        return np.full(3, rng.uniform(0.25, 0.9)) * (1.0, 0.99, 0.97)
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(0.2, 0.7), rng.uniform(0.25, 0.8)))


def _strap_of(rgb):
    """Loops of the cloth's own colour where that is dark, else white."""
    return np.asarray(rgb) * 0.9 if np.mean(rgb) < 0.4 else np.array(STRAP_WHITE)


def _sewn(rgb_HW3, sheet, rng):
    """Cloth: weave, creases, a seam down the middle and a stitched hem."""
    weave_HW = 0.025 * np.sin(sheet.x_HW * 1.6) * np.sin(sheet.y_HW * 1.6)
    light_HW = 1 + weave_HW + _grain(rng, 0.03) + _creases(rng, stretch=1.5, depth=0.09)
    light_HW -= 0.16 * _line(sheet.x_HW - 256, 1.6) - 0.05 * _line(sheet.x_HW - 261, 3.0)
    stitches_HW = 0.5 + 0.5 * np.sign(np.sin((sheet.x_HW + sheet.y_HW) * 0.7))
    light_HW -= 0.14 * _line(sheet.edge_HW - 9, 1.2) * stitches_HW + 0.05 * _line(sheet.edge_HW - 11, 2.5)
    return _rounded_edge(rgb_HW3 * light_HW[..., None], sheet)


def _rounded_edge(rgb_HW3, sheet):
    """Darker towards the edge, where the cloth turns away."""
    return rgb_HW3 * (1 - 0.22 * np.exp(-np.maximum(sheet.edge_HW, 0) / 2.2))[..., None]


def _line(distance_HW, width):
    """1 on a line, falling off to 0 beside it."""
    return np.exp(-((distance_HW / width) ** 2))


def _edge(inside_HW, width=1.0):
    """0 outside, 1 inside, in between over `width` on each side."""
    return np.clip(0.5 + 0.5 * inside_HW / width, 0, 1)


def _grain(rng, depth):
    """The fine structure of a material."""
    noise_HW = rng.standard_normal((512, 512)).astype(np.float32)
    return depth * cv2.GaussianBlur(noise_HW, (0, 0), 0.8) * 2


def _smooth_noise(rng, texels):
    """Noise of deviation 1 without detail finer than this."""
    small = max(8, round(512 / texels))
    noise = cv2.resize(
        rng.standard_normal((small, small)).astype(np.float32), (512, 512), interpolation=cv2.INTER_CUBIC
    )
    return noise / max(float(noise.std()), 1e-6)


def _creases(rng, *, stretch, depth):
    """Soft folds, `stretch` times as wide as high: light on one side, shadow on the other."""
    height_HW = cv2.GaussianBlur(_smooth_noise(rng, CREASE_TEXELS), (0, 0), sigmaX=6 * stretch, sigmaY=6)
    slope_HW = height_HW - np.roll(height_HW, 6, axis=0)
    return depth * slope_HW / max(float(slope_HW.std()), 1e-6) * 0.5


def _print(sheet, rng, *, x, y):
    """Three short lines that look like letters from afar."""
    found_HW = np.zeros_like(sheet.x_HW)
    for line in range(3):
        width = rng.uniform(18, 34)
        letters = (np.sin(sheet.x_HW * rng.uniform(0.9, 1.4)) > -0.3) * (np.abs(sheet.x_HW - x) < width)
        found_HW += letters * (np.abs(sheet.y_HW - y - 11 * line) < 2.5)
    return found_HW


# --- the rows: name -> (edge as textures.Outline, paint, how it stands on the face as mesh.drape). Distances of the
# edges are in canonical texture coordinates; the tip of the nose lies at 0.55, the corners of the eyes at 0.38, the
# chin at 0.95.

_SURGICAL = {
    "top": ((0, 0.430), (0.05, 0.458), (0.11, 0.497), (0.21, 0.520), (0.335, 0.545)),
    "bottom": ((0, 1.035), (0.10, 1.015), (0.20, 0.935), (0.28, 0.85), (0.335, 0.765)),
    "straps": (((0.32, 0.555), (0.44, 0.52), (0.57, 0.47)), ((0.32, 0.755), (0.44, 0.67), (0.57, 0.56))),
    "strap_texels": 5.5,
}
_CLOTH = {
    "top": ((0, 0.430), (0.05, 0.457), (0.12, 0.502), (0.25, 0.525), (0.40, 0.565)),
    "bottom": ((0, 1.045), (0.12, 1.005), (0.22, 0.905), (0.32, 0.79), (0.40, 0.69)),
    "straps": (((0.385, 0.575), (0.48, 0.53), (0.57, 0.47)), ((0.385, 0.68), (0.48, 0.63), (0.57, 0.57))),
    "strap_texels": 7.0,
}
_N95 = {
    "top": ((0, 0.420), (0.05, 0.448), (0.12, 0.494), (0.20, 0.535), (0.265, 0.59), (0.295, 0.66)),
    "bottom": ((0, 1.02), (0.09, 1.00), (0.17, 0.945), (0.245, 0.86), (0.285, 0.78), (0.295, 0.66)),
    "straps": (((0.265, 0.615), (0.40, 0.50), (0.57, 0.385)), ((0.27, 0.79), (0.40, 0.74), (0.57, 0.69))),
    "strap_texels": 7.0,
}
_KN95 = {
    "top": ((0, 0.420), (0.07, 0.464), (0.16, 0.517), (0.36, 0.575)),
    "bottom": ((0, 1.05), (0.10, 1.00), (0.24, 0.87), (0.36, 0.735)),
    "straps": (((0.345, 0.59), (0.45, 0.54), (0.57, 0.48)), ((0.345, 0.725), (0.45, 0.65), (0.57, 0.565))),
    "strap_texels": 5.5,
    "straight": True,
}
_BLACK = {
    "top": ((0, 0.435), (0.06, 0.466), (0.14, 0.512), (0.28, 0.530), (0.46, 0.505)),
    "bottom": ((0, 1.025), (0.12, 0.985), (0.22, 0.885), (0.34, 0.755), (0.46, 0.635)),
    "straps": (((0.44, 0.520), (0.50, 0.50), (0.555, 0.46)), ((0.44, 0.625), (0.50, 0.605), (0.555, 0.575))),
    "strap_texels": 11.0,
}
KINDS_OF_PAINT = {
    "surgical_blue": (_SURGICAL, surgical((0.60, 0.77, 0.87), spread=0.06), {"gap_cm": 0.35, "dome_cm": 0.35}),
    "surgical_green": (_SURGICAL, surgical((0.61, 0.80, 0.71), spread=0.06), {"gap_cm": 0.35, "dome_cm": 0.35}),
    "surgical_white": (_SURGICAL, surgical((0.93, 0.94, 0.94), spread=0.02), {"gap_cm": 0.35, "dome_cm": 0.35}),
    "cloth_plain": (_CLOTH, cloth_plain, {"gap_cm": 0.25, "dome_cm": 0.1, "ridge_cm": 0.35}),
    "cloth_patterned": (_CLOTH, cloth_patterned, {"gap_cm": 0.25, "dome_cm": 0.1, "ridge_cm": 0.35}),
    "n95": (_N95, n95, {"gap_cm": 0.4, "dome_cm": 1.1}),
    "kn95": (_KN95, kn95, {"gap_cm": 0.4, "dome_cm": 0.3, "ridge_cm": 1.3}),
    "black": (_BLACK, black, {"gap_cm": 0.2, "dome_cm": 0.05, "ridge_cm": 0.3}),
}
