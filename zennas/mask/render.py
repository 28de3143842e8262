"""A mask on a face: `masked`, the whole path from fitted vertices to pixels.

V vertices of the face, G nodes of the mask's shell, N both, T triangles;
H, W pixels of an image, h, w those of the rendering
"""

import functools
import math
from typing import Annotated, NamedTuple

import cv2
import numpy as np

from zennas.data.images import Within
from zennas.mask import mesh
from zennas.mask.knobs import KNOBS
from zennas.mask.lighting import blur_px, light_on
from zennas.mask.textures import TEXTURE_PX, Texture

FAR_PX = 1e5  # of the camera: OpenCV's has a perspective, which from so far away is none
DEPTH_PX = 1e4  # in front of and behind the face that is drawn
MOST_SHADING = 4.0  # carried as a colour, which must stay within [0, 1]
# Faces up to so many pixels wide are drawn so many times finer.
SAMPLES_OF_FACE = ((110.0, 3), (300.0, 2), (math.inf, 1))
FACE_CM = 15.4  # the canonical face's width
TEXELS_PER_CM = TEXTURE_PX * mesh.UV_SCALE / mesh.CENTIMETRES_OF_U
ABOVE_GRID_V = 0.37  # canonical: triangles of the face down to here are drawn beside the shell, which is the face below
SHADOW, SHADOW_CM = 0.38, 0.35  # how dark it is beside a mask's edge, and how far
MIDDLE_2 = mesh.in_layout(np.array([0.5, 0.72]))  # what a mask is turned and sized about
OWN_BLUR = 0.35  # of a rendered pixel: its area is the eye of a camera already


class Variation(NamedTuple):
    """How a mask differs from one that sits straight: turn, size, height (down, of the layout),
    further blur and brightness.
    """

    angle_deg: float
    size: float
    height: float
    blur_px: float
    exposure: float


class MaskedFace(NamedTuple):
    """A masked face: the image, how much of each pixel is mask, the pose and the variation, and what its light was."""

    image_HW3: np.ndarray
    alpha_HW: np.ndarray  # float32 in [0, 1]
    pose: mesh.Pose
    variation: Variation
    bluish: bool


def vary(
    rng: np.random.Generator,
    *,
    angle_deg: Annotated[float, Within(0, 20)] = KNOBS["angle_deg"],
    size: Annotated[float, Within(0, 0.25)] = KNOBS["size"],
    height: Annotated[float, Within(0, 0.08)] = KNOBS["height"],
    blur_px: Annotated[float, Within(0, 5)] = KNOBS["blur_px"],
    exposure: Annotated[float, Within(0, 0.6)] = KNOBS["exposure"],
) -> Variation:
    """A Variation drawn within these knobs, each evenly on both sides of none (blur: on one).

    angle_deg: turned; size: larger or smaller, of its size; height: up or down, of the layout's side (0.01 is 2 mm);
    blur_px: beside the picture's own, for a face of 100 pixels; exposure: brighter or darker, of its light.
    """
    turned, sized, shifted, blurred, exposed = (float(share) for share in rng.uniform(-1, 1, size=5))
    return Variation(
        angle_deg * turned, 1 + size * sized, height * shifted, blur_px * abs(blurred), 1 + exposure * exposed
    )


def masked(
    image_HW3: np.ndarray,
    point_V3: np.ndarray,
    texture: Texture,
    rng: np.random.Generator,
    *,
    knobs: dict[str, float] | None = None,
) -> MaskedFace:
    """The MaskedFace of an RGB image (uint8) with a mask of this Texture; the image given is not changed.

    point_V3: the vertices of its face (landmarks.Landmarker). The mask is draped over the fitted face, turned with it,
    hidden where the face hides it, lit as the face's skin is lit, and as sharp as the picture. rng: of `vary`, whose
    knobs are `knobs`.
    """
    variation = vary(rng, **(knobs or {}))
    pose = mesh.fit_pose(point_V3)
    light = light_on(image_HW3, point_V3, pose)
    rows, columns, layer_HW4 = _layer(image_HW3.shape[:2], point_V3, texture, pose, light, variation)
    result_HW3, alpha_HW = image_HW3.copy(), np.zeros(image_HW3.shape[:2], np.float32)
    if layer_HW4 is None:
        return MaskedFace(result_HW3, alpha_HW, pose, variation, light.bluish)
    sigma = blur_px(image_HW3, pose) + variation.blur_px * FACE_CM * pose.scale_px_per_cm / 100
    if sigma > OWN_BLUR:
        sigma = math.sqrt(sigma**2 - OWN_BLUR**2)
        layer_HW4 = cv2.GaussianBlur(layer_HW4, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    part_HW1 = layer_HW4[..., 3:]
    below_HW3 = image_HW3[rows, columns].astype(np.float32)
    below_HW3 *= 1 - _shadow(part_HW1[..., 0], pose)[..., None]
    blended_HW3 = below_HW3 * (1 - part_HW1) + layer_HW4[..., :3]
    changed_HW = part_HW1[..., 0] > 1 / 512
    result_HW3[rows, columns] = np.clip(blended_HW3 + 0.5, 0, 255).astype(np.uint8)
    alpha_HW[rows, columns] = part_HW1[..., 0] * changed_HW
    return MaskedFace(result_HW3, alpha_HW, pose, variation, light.bluish)


def _layer(height_width, point_V3, texture, pose, light, variation):
    """(rows, columns, layer_HW4: red, green, blue times alpha in 0..255, alpha in 0..1) of the part of the image with
    mask on it; None for the layer where all of it lies outside."""
    face_px = FACE_CM * pose.scale_px_per_cm
    samples = next(num for up_to, num in SAMPLES_OF_FACE if face_px <= up_to)
    node_G3 = mesh.on_face(texture.shell, point_V3, pose)
    low_2, high_2 = node_G3[:, :2].min(0), node_G3[:, :2].max(0)
    room = max(3.0, 0.06 * face_px)  # for blur and shadow
    height, width = height_width
    x0, y0 = (max(0, math.floor(low - room)) for low in low_2)
    x1, y1 = (min(most, math.ceil(low + room)) for low, most in zip(high_2, (width, height), strict=True))
    rows, columns = slice(y0, y1), slice(x0, x1)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return rows, columns, None
    level = int(np.clip(round(math.log2(TEXELS_PER_CM / (pose.scale_px_per_cm * samples))), 0, 4))
    colour_hw4, shading_hw = _rendered(
        texture.level(level),
        _worn(variation),
        texture.shell,
        node_G3,
        point_V3,
        pose,
        light,
        shape=((y1 - y0) * samples, (x1 - x0) * samples),
        corner_xy=(x0, y0),
        samples=samples,
    )
    # Light is multiplied; of values that are its square root, so is the root of the factor.
    bright_hw = np.sqrt(shading_hw * (light.level * variation.exposure))
    alpha_hw = colour_hw4[..., 3] * (shading_hw > 0)
    shown_hw3 = colour_hw4[..., :3].astype(np.float32)
    grey_hw1 = (shown_hw3 @ np.array([0.299, 0.587, 0.114], np.float32))[..., None]
    shown_hw3 = (grey_hw1 + np.float32(light.colour) * (shown_hw3 - grey_hw1)) * light.tint_3.astype(np.float32)
    shown_hw3 = np.minimum(shown_hw3 * bright_hw[..., None], alpha_hw[..., None])
    layer_hw4 = np.dstack([shown_hw3, alpha_hw.astype(np.float32) / 255])
    if samples > 1:
        layer_hw4 = cv2.resize(layer_hw4, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    return rows, columns, layer_hw4


def _rendered(level_HW4, worn_23, shell, node_G3, point_V3, pose, light, *, shape, corner_xy, samples):
    """(texture colours times alpha, uint8 hw4, shading_hw: 0 where there is no shell) as the camera sees them."""
    layout_G2 = mesh.grid().layout_G2 @ worn_23[:, :2].T + worn_23[:, 2]
    shading_G = light.shading(mesh.directions(shell.normal_G3, pose)) / MOST_SHADING
    point_N3 = np.concatenate([node_G3, point_V3]).astype(np.float32)
    point_N3[:, :2] = (point_N3[:, :2] - corner_xy + 0.5) * samples
    point_N3[:, 2] *= samples
    carried_N3 = np.zeros_like(point_N3)
    carried_N3[: len(node_G3), :2] = np.clip(layout_G2, 0, 1)
    carried_N3[: len(node_G3), 2] = shading_G
    carried_hw3 = rasterised(point_N3, _triangles(), carried_N3, shape)
    side = level_HW4.shape[0]
    place_hw2 = carried_hw3[..., :2] * side - 0.5
    colour_hw4 = cv2.remap(level_HW4, place_hw2, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return colour_hw4, carried_hw3[..., 2] * MOST_SHADING


def rasterised(
    point_N3: np.ndarray, triangle_T3: np.ndarray, carried_N3: np.ndarray, shape: tuple[int, int]
) -> np.ndarray:
    """What of the triangles is seen: the values carried by their corners, between them, float32 hw3;
    zeros where there is none.

    point_N3: x, y in pixels from the upper left corner of the first one, so that its middle is (0.5, 0.5), and z away
    from the viewer, of which the nearest is seen. carried_N3: three values in [0, 1]. shape: (height, width).
    """
    height, width = shape
    # OpenCV's camera looks along -z, y upwards, and turns the image over; both sides of a triangle are drawn.
    place_N3 = np.empty_like(point_N3, np.float32)
    place_N3[:, 0] = (point_N3[:, 0] - width / 2) * (1 + point_N3[:, 2] / FAR_PX)
    place_N3[:, 1] = (height / 2 - point_N3[:, 1]) * (1 + point_N3[:, 2] / FAR_PX)
    place_N3[:, 2] = -point_N3[:, 2] - FAR_PX
    seen_hw3 = np.zeros((height, width, 3), np.float32)
    depth_hw = np.full((height, width), FAR_PX + DEPTH_PX, np.float32)
    cv2.triangleRasterize(
        place_N3,
        triangle_T3,
        carried_N3.astype(np.float32),
        seen_hw3,
        depth_hw,
        np.eye(4, dtype=np.float32),
        2 * math.atan(height / 2 / FAR_PX),
        FAR_PX - DEPTH_PX,
        FAR_PX + DEPTH_PX,
        _settings(),
    )
    return seen_hw3


@functools.cache
def _settings():
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    return settings


@functools.cache
def _triangles():
    """Those of the shell, then those of the upper face, which hide what is behind them.

    Below the eyes the shell itself is the face's surface, and a transparent part of it hides as skin does: the face's
    own triangles there could only poke through a mask, where a mouth is open.
    """
    grid, face = mesh.grid(), mesh.face()
    upper_T = (face.uv_V2[face.triangle_T3, 1] < ABOVE_GRID_V).all(1)
    return np.concatenate([grid.triangle_T3, face.triangle_T3[upper_T] + len(grid.layout_G2)]).astype(np.int32)


def _worn(variation):
    """The 2x3 map from a place on the face to the place in the texture that lies there."""
    angle, scale = math.radians(variation.angle_deg), 1 / variation.size
    cos, sin = scale * math.cos(angle), scale * math.sin(angle)
    turn_22, worn_2 = np.array([[cos, sin], [-sin, cos]]), MIDDLE_2 + np.array([0.0, variation.height])
    return np.column_stack([turn_22, MIDDLE_2 - turn_22 @ worn_2])


def _shadow(alpha_HW, pose):
    """How much light the mask takes from what is beside its edge, most of it below."""
    sigma = max(0.6, SHADOW_CM * pose.scale_px_per_cm)
    soft_HW = cv2.GaussianBlur(alpha_HW, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    down = min(round(0.4 * sigma), len(alpha_HW) - 1)  # of a face mostly outside its picture there are few rows
    if down:
        soft_HW = np.concatenate([np.repeat(soft_HW[:1], down, axis=0), soft_HW[:-down]])
    return SHADOW * soft_HW
