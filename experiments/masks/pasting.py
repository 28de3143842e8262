"""The baseline: a flat picture of a mask pasted by a homography of six landmarks, as 2-D tools do (MaskTheFace's way).

V vertices of the face
"""

import cv2
import numpy as np

from zennas.mask import mesh
from zennas.mask.textures import STRAP_TEXELS, TEXTURE_PX

# Vertices by which a flat mask is placed: bridge of the nose, chin, cheekbones left and right, jaw left and right.
PLACED_BY = (197, 152, 177, 401, 136, 365)


def pasted(image_HW3, point_V3, texture):
    """(The RGB image with the texture's mask on it, how much of each pixel is mask): no pose in depth, no light, no
    occlusion.
    """
    source_62 = (mesh.in_layout(mesh.face().uv_V2[list(PLACED_BY)]) * TEXTURE_PX).astype(np.float32)
    target_62 = np.asarray(point_V3, np.float32)[list(PLACED_BY), :2]
    placed_33, _ = cv2.findHomography(source_62, target_62, 0)
    height, width = image_HW3.shape[:2]
    scale = np.linalg.norm(target_62[2] - target_62[3]) / np.linalg.norm(source_62[2] - source_62[3])
    level = int(np.clip(round(-np.log2(max(scale, 1e-3))), 0, 4))
    shrunk_33 = np.diag([2.0**level, 2.0**level, 1.0])
    # Without its loops, as the pictures of those tools are: flat, they would stick out into the air.
    flat_HW4 = texture.level(level) * _body(texture.level(level)[..., 3])[..., None]
    layer_HW4 = cv2.warpPerspective(flat_HW4, placed_33 @ shrunk_33, (width, height), flags=cv2.INTER_LINEAR)
    alpha_HW1 = layer_HW4[..., 3:].astype(np.float32) / 255
    blended_HW3 = image_HW3 * (1 - alpha_HW1) + layer_HW4[..., :3]
    return np.clip(blended_HW3 + 0.5, 0, 255).astype(np.uint8), alpha_HW1[..., 0]


def _body(alpha_HW):
    """1 where more than a loop is opaque."""
    side = max(3, round(2 * STRAP_TEXELS * alpha_HW.shape[0] / TEXTURE_PX) | 1)
    body_HW = cv2.morphologyEx((alpha_HW > 0).astype(np.uint8), cv2.MORPH_OPEN, np.ones((side, side), np.uint8))
    return cv2.dilate(body_HW, None)
