"""A face that is nobody's: the canonical mesh with a painted skin, at a known pose under a known light.

It shows what masks look like where no real face may be shown, and tests the landmarks against vertices that are known.
V vertices; H, W pixels
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from zennas.mask import mesh
from zennas.mask.landmarks import FIVE
from zennas.mask.render import rasterised
from zennas.tasks.face.align import TEMPLATE_52

SIDE = 1024  # of the painted skin
SAMPLES = 3
PX_PER_CM = 5.35 / 112  # of the image's side: as large as ArcFace's template has faces
# Vertices along brows, eyes, lips and nostrils; the other side has its own.
BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
)
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
MOUTH = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)  # where the lips meet
NOSTRILS = ((20, 242, 99, 60), (250, 462, 328, 290))
SKIN, HAIR, LIP, IRIS, CLOTHES = (214, 168, 142), (58, 42, 34), (176, 96, 92), (84, 62, 44), (70, 84, 104)


class Scene(NamedTuple):
    """Pose (as mesh.Pose has it), light and looks of a synthetic face.

    light_3: where the light comes from (x right, y up, z towards the viewer); ambient: its share that comes from
    everywhere; brightness: of all of it; skin: factor on the skin's colour.
    """

    yaw_deg: float = 0.0
    pitch_deg: float = 0.0
    roll_deg: float = 0.0
    light_3: tuple[float, float, float] = (0.3, 0.5, 1.0)
    ambient: float = 0.45
    brightness: float = 1.0
    skin: float = 1.0
    background: tuple[int, int, int] = (146, 152, 158)
    seed: int = 0


def synthetic_face(scene: Scene = Scene(), *, image_px: int = 112) -> tuple[np.ndarray, np.ndarray]:  # noqa: B008 - a Scene is frozen
    """(image_HW3 uint8 RGB of image_px x image_px, its point_V3 in image space):
    a head where ArcFace's template has it.
    """
    canonical, big = mesh.face(), image_px * SAMPLES
    turn_33 = mesh.turn(scene.yaw_deg, scene.pitch_deg, scene.roll_deg)
    pose = mesh.pose_of(turn_33, PX_PER_CM * image_px, np.zeros(3))
    point_V3 = mesh.posed(canonical.position_V3, pose)
    five_52 = np.array([point_V3[list(vertices), :2].mean(0) for vertices in FIVE])
    shift_2 = (TEMPLATE_52 * image_px / 112).mean(0) - five_52.mean(0)
    pose = pose._replace(shift_3=np.append(shift_2, 0.0))
    point_V3[:, :2] += shift_2
    light = np.array(scene.light_3) / np.linalg.norm(scene.light_3)
    lit_V = scene.ambient + (1 - scene.ambient) * np.maximum(mesh.directions(canonical.normal_V3, pose) @ light, 0)
    carried_V3 = np.column_stack([canonical.uv_V2, np.clip(lit_V * scene.brightness / 2, 0.01, 1)])
    place_V3 = (point_V3 + np.array([0.5, 0.5, 0.0])) * SAMPLES
    seen_hw3 = rasterised(place_V3.astype(np.float32), canonical.triangle_T3, carried_V3, (big, big))
    skin_hw3 = cv2.remap(_skin(scene.seed), seen_hw3[..., :2] * SIDE - 0.5, None, cv2.INTER_LINEAR).astype(np.float32)
    skin_hw3 *= scene.skin * (2 * seen_hw3[..., 2:])
    behind_hw3 = _behind(scene, pose, light, big)
    face_hw1 = (seen_hw3[..., 2:] > 0).astype(np.float32)
    face_hw1 = cv2.GaussianBlur(face_hw1, (0, 0), 0.02 * big)[..., None] * face_hw1  # hair and skin run into each other
    whole_hw3 = behind_hw3 * (1 - face_hw1) + skin_hw3 * face_hw1
    small_HW3 = cv2.resize(whole_hw3, (image_px, image_px), interpolation=cv2.INTER_AREA)
    noise_HW3 = np.random.default_rng([scene.seed, 1]).normal(0, 1.2, small_HW3.shape)
    return np.clip(small_HW3 + noise_HW3 + 0.5, 0, 255).astype(np.uint8), point_V3


def _behind(scene, pose, light, big):
    """Background, shoulders, neck, ears and hair, as flat shapes round places of the head, float32 hw3."""
    behind = np.empty((big, big, 3), np.float32)
    behind[:] = np.asarray(scene.background) * scene.brightness * np.linspace(1.06, 0.90, big)[:, None, None]
    scale, shade = pose.scale_px_per_cm * SAMPLES, scene.brightness * (0.75 + 0.25 * light[2])

    def ellipse(place_3, wide_cm, high_cm, colour):
        centre_2 = (mesh.posed(np.array([place_3]), pose)[0, :2] + 0.5) * SAMPLES
        axes = (round(wide_cm * scale), round(high_cm * scale))
        colour = tuple(float(channel * shade) for channel in colour)
        cv2.ellipse(
            behind, centre_2.round().astype(int).tolist(), axes, scene.roll_deg, 0, 360, colour, -1, cv2.LINE_AA
        )

    skin = np.asarray(SKIN) * scene.skin
    ellipse((0, -22, -6), 22, 10, CLOTHES)
    ellipse((0, -13, -4), 5.6, 9, skin * 0.72)
    ellipse((0, 2.5, -5), 9.2, 10.5, HAIR)
    for side in (-1, 1):
        ellipse((side * 7.9, -0.5, -4), 1.3, 2.9, skin * 0.85)
    ellipse((0, 5.5, -1), 8.8, 6.6, HAIR)
    return cv2.GaussianBlur(behind, (0, 0), 0.012 * big)


@functools.lru_cache(maxsize=8)
def _skin(seed):
    """The painted skin in canonical texture coordinates, uint8 RGB."""
    uv_V2 = mesh.face().uv_V2
    rng = np.random.default_rng([seed, 0])
    skin = np.empty((SIDE, SIDE, 3), np.float32)
    skin[:] = SKIN
    for depth, texels in ((0.36, 12), (0.06, 1.5)):  # blotches, pores
        noise = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
        skin *= 1 + depth * cv2.GaussianBlur(noise, (0, 0), texels)[..., None]

    def blend(colour, strength, polygons, soft):
        cover = np.zeros((SIDE, SIDE), np.float32)
        for polygon in polygons:
            cv2.fillPoly(cover, [(np.asarray(polygon) * SIDE).round().astype(np.int32)], 1.0, cv2.LINE_AA)
        cover = cv2.GaussianBlur(cover, (0, 0), soft)[..., None] * strength
        skin[:] = skin * (1 - cover) + np.asarray(colour, np.float32) * cover

    def around(vertices, factor=1.0):
        place_N2 = uv_V2[list(vertices)]
        return place_N2.mean(0) + factor * (place_N2 - place_N2.mean(0))

    for cheek in (50, 280):
        blend((216, 128, 112), 0.30, [disc(uv_V2[cheek], 0.06, 0.05)], 34)
    blend((206, 132, 116), 0.25, [disc(uv_V2[1], 0.03, 0.03)], 16)
    for eye in EYES:
        blend((120, 84, 72), 0.55, [around(eye, 1.5)], 12)
        blend((228, 222, 216), 1.0, [around(eye)], 2.5)
        middle_2 = around(eye).mean(0)
        blend(IRIS, 1.0, [disc(middle_2, 0.021, 0.024)], 1.5)
        blend((14, 10, 10), 1.0, [disc(middle_2, 0.010, 0.011)], 1.0)
        blend((250, 250, 250), 0.9, [disc(middle_2 + np.array([0.006, -0.008]), 0.004, 0.004)], 0.8)
        lid = around(eye[:9])
        blend((44, 30, 26), 0.9, [band(lid, 0.006, 0.004)], 1.5)
    for brow in BROWS:
        blend(HAIR, 0.85, [around(brow)], 5)
    for nostril in NOSTRILS:
        blend((70, 36, 32), 0.9, [around(nostril, 1.2)], 4)
    blend(LIP, 0.9, [around(LIPS)], 4)
    meet = around(MOUTH)
    blend((84, 34, 36), 0.9, [band(meet, 0.003, 0.004)], 2)
    blend((150, 108, 92), 0.35, [disc(uv_V2[17] + np.array([0.0, 0.035]), 0.05, 0.012)], 10)
    return np.clip(skin, 0, 255).astype(np.uint8)


def band(line_N2: np.ndarray, up: float, down: float) -> np.ndarray:
    """The outline of a band along a line, from so far above it to so far below."""
    return np.concatenate([line_N2 - np.array([0.0, up]), line_N2[::-1] + np.array([0.0, down])])


def disc(centre_2: np.ndarray, wide: float, high: float, num: int = 40) -> np.ndarray:
    """The outline of an ellipse, N2."""
    angle_N = np.linspace(0, 2 * np.pi, num, endpoint=False)
    return np.asarray(centre_2) + np.column_stack([wide * np.cos(angle_N), high * np.sin(angle_N)])
