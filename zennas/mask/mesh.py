"""The 3-D face: its canonical mesh, the pose of a fitted one, and the shell on which a mask lies.

V = 468 vertices of the face, T triangles, G nodes of the shell's grid (GRID_ROWS x GRID_COLUMNS).
Face space: centimetres, x to the right of the image, y up, z towards the viewer.
Image space: pixels, x right, y down, z away.
"""

import functools
import math
import pathlib
from typing import NamedTuple

import numpy as np

ASSETS = pathlib.Path(__file__).parent / "assets"
GRID_ROWS, GRID_COLUMNS = 29, 41
# Of the canonical texture coordinates: from the eyes down, and beyond ears and chin.
GRID_V, GRID_U = (0.33, 1.13), (-0.07, 1.07)
CENTIMETRES_OF_U = 18.0  # of one unit of a texture coordinate, near the face's border
CENTRE_3 = np.array([0.0, -3.5, -1.0])  # inside the head: seen from it, the lower face has no overhang
RIM_GAP_CM = 0.08  # between the skin and what lies on it
SMOOTHING_NODES = 1.5  # deviation with which lips and nostrils are taken out of the surface under a mask
RISE_NODES = 4.5  # of the grid, from a mask's rim to where it stands off as far as it does
# That cloth bridges a hollow by, for each node from its rim: there wire and loops pull it to the skin.
MOST_TENT_CM = 0.25
DRAPE_ROUNDS = 300  # until the cloth is taut; 600 move no node by more than 0.3 mm
CHIN_V = 0.70  # canonical: below it, the surface goes on under the chin rather than to the ears
# Where nothing but bone moves the face: an open mouth must not look like a nod.
RIGID_V = 0.60
# From canonical coordinates to the layout of textures, which has room round the face.
UV_SCALE, UV_SHIFT_2 = 0.86, np.array([0.07, 0.0])


class Face(NamedTuple):
    """The canonical face."""

    position_V3: np.ndarray  # face space
    uv_V2: np.ndarray  # canonical texture coordinates in [0, 1], v downwards
    triangle_T3: np.ndarray  # int32
    normal_V3: np.ndarray  # outwards, of length 1


class Grid(NamedTuple):
    """The surface of the lower face and a little beyond it, as a regular grid, of any face with these vertices.

    Its nodes lie at weight_GV @ (vertices of the face) + beyond_G3 (turned and scaled with the face).
    """

    weight_GV: np.ndarray
    beyond_G3: np.ndarray  # face space
    skin_G3: np.ndarray  # of the canonical face, not smoothed
    layout_G2: np.ndarray  # u, v in the layout of textures
    triangle_T3: np.ndarray


class Shell(NamedTuple):
    """How a mask lies on the canonical face: what it adds to the nodes of the grid, and where it then looks."""

    offset_G3: np.ndarray
    normal_G3: np.ndarray


class Pose(NamedTuple):
    """image space = scale_px_per_cm * (turn_33 @ face space) + shift_3, with y and z of the image turned over.

    yaw_deg > 0: the face looks to the right of the image; pitch_deg > 0: up; roll_deg > 0: turned clockwise, as seen.
    """

    turn_33: np.ndarray
    scale_px_per_cm: float
    shift_3: np.ndarray
    yaw_deg: float
    pitch_deg: float
    roll_deg: float


@functools.cache
def face() -> Face:
    """The canonical Face."""
    with np.load(ASSETS / "face_mesh.npz") as kept:
        position_V3, uv_V2, triangle_T3 = kept["position_V3"], kept["uv_V2"], kept["triangle_T3"]
    return Face(position_V3, uv_V2, triangle_T3, normals(position_V3, triangle_T3))


def normals(position_V3: np.ndarray, triangle_T3: np.ndarray) -> np.ndarray:
    """Unit normals of the vertices of a mesh: of its triangles, weighted by their areas."""
    a, b, c = (position_V3[triangle_T3[:, corner]] for corner in range(3))
    normal_T3 = np.cross(b - a, c - a)
    normal_V3 = np.zeros_like(position_V3)
    for corner in range(3):
        np.add.at(normal_V3, triangle_T3[:, corner], normal_T3)
    return normal_V3 / np.maximum(np.linalg.norm(normal_V3, axis=1, keepdims=True), 1e-9)


def in_layout(uv_N2: np.ndarray) -> np.ndarray:
    """Canonical texture coordinates in the layout of textures.

    >>> in_layout(np.array([[0.5, 0.0], [1.0, 1.0]])).round(2).tolist()
    [[0.5, 0.0], [0.93, 0.86]]
    """
    return uv_N2 * UV_SCALE + UV_SHIFT_2


def fit_pose(point_V3: np.ndarray) -> Pose:
    """The Pose of fitted vertices in image space: the similarity that carries the upper part of the canonical face
    nearest to them. Source: Umeyama 1991. Landmarks of one picture know the depth only roughly, so yaw and pitch are
    good to a few degrees.
    """
    canonical = face()
    rigid = canonical.uv_V2[:, 1] < RIGID_V
    target_N3 = _turned_over(np.asarray(point_V3, np.float64)[rigid])
    source_N3 = canonical.position_V3[rigid].astype(np.float64)
    source_mean_3, target_mean_3 = source_N3.mean(0), target_N3.mean(0)
    u, stretch_3, vt = np.linalg.svd((target_N3 - target_mean_3).T @ (source_N3 - source_mean_3) / len(source_N3))
    keep_3 = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    turn_33 = (u * keep_3) @ vt
    scale = float((stretch_3 * keep_3).sum() / ((source_N3 - source_mean_3) ** 2).sum(1).mean())
    return pose_of(turn_33, scale, _turned_over(target_mean_3 - scale * turn_33 @ source_mean_3))


def pose_of(turn_33: np.ndarray, scale_px_per_cm: float, shift_3: np.ndarray) -> Pose:
    """The Pose with its angles read from the turn."""
    # Read from the turn as `turn` makes it: roll @ pitch @ yaw.
    yaw = math.atan2(-turn_33[2, 0], turn_33[2, 2])
    pitch = math.asin(max(-1.0, min(1.0, -turn_33[2, 1])))
    roll = math.atan2(turn_33[0, 1], turn_33[1, 1])
    return Pose(
        turn_33, scale_px_per_cm, np.asarray(shift_3), *(math.degrees(angle_rad) for angle_rad in (yaw, pitch, roll))
    )


def posed(position_N3: np.ndarray, pose: Pose) -> np.ndarray:
    """Points of face space in image space, float32."""
    return (_turned_over(position_N3 @ (pose.scale_px_per_cm * pose.turn_33.T)) + pose.shift_3).astype(np.float32)


def directions(vector_N3: np.ndarray, pose: Pose) -> np.ndarray:
    """Directions of face space as they look in the picture: x right, y up, z towards the viewer."""
    return vector_N3 @ pose.turn_33.T


def turn(yaw_deg: float = 0.0, pitch_deg: float = 0.0, roll_deg: float = 0.0) -> np.ndarray:
    """The turn_33 of a pose with these angles (see Pose).

    >>> pose = pose_of(turn(30, -10, 5), 1.0, np.zeros(3))
    >>> round(pose.yaw_deg), round(pose.pitch_deg), round(pose.roll_deg)
    (30, -10, 5)
    """
    yaw, pitch, roll = (math.radians(angle_deg) for angle_deg in (yaw_deg, pitch_deg, roll_deg))
    turn_y = np.array([[math.cos(yaw), 0, math.sin(yaw)], [0, 1, 0], [-math.sin(yaw), 0, math.cos(yaw)]])
    turn_x = np.array([[1, 0, 0], [0, math.cos(pitch), math.sin(pitch)], [0, -math.sin(pitch), math.cos(pitch)]])
    turn_z = np.array([[math.cos(roll), math.sin(roll), 0], [-math.sin(roll), math.cos(roll), 0], [0, 0, 1]])
    return turn_z @ turn_x @ turn_y


@functools.cache
def grid() -> Grid:
    """The Grid of the lower face."""
    canonical = face()
    v_G, u_G = (
        coordinate.ravel()
        for coordinate in np.meshgrid(
            np.linspace(*GRID_V, GRID_ROWS), np.linspace(*GRID_U, GRID_COLUMNS), indexing="ij"
        )
    )
    uv_G2 = np.stack([u_G, v_G], axis=1)
    weight_GV, outside_G = _barycentric(uv_G2, canonical)
    beyond_G3 = _beyond(uv_G2, weight_GV @ canonical.uv_V2, outside_G)
    smooth_GG = np.kron(_smoothing(GRID_ROWS), _smoothing(GRID_COLUMNS))
    return Grid(
        (smooth_GG @ weight_GV).astype(np.float32),
        smooth_GG @ beyond_G3,
        weight_GV @ canonical.position_V3 + beyond_G3,
        in_layout(uv_G2).astype(np.float32),
        _grid_triangles(),
    )


def drape(covered_G: np.ndarray, *, gap_cm: float = 0.15, dome_cm: float = 0.0, ridge_cm: float = 0.0) -> Shell:
    """The Shell of a mask that covers these nodes: taut as cloth between nose, cheeks and chin,
    tight at its rim and beyond.

    gap_cm: what it keeps from the skin; dome_cm: how far it stands out besides, as a moulded cup does; ridge_cm: the
    same along the middle alone, as of a mask that folds there.
    """
    the_grid = grid()
    out_G3 = the_grid.skin_G3 - CENTRE_3
    skin_G = np.linalg.norm(out_G3, axis=1)
    out_G3 /= skin_G[:, None]
    rise_G = _distance_inside(covered_G.reshape(GRID_ROWS, GRID_COLUMNS)).ravel()
    least_G = skin_G + np.where(covered_G, gap_cm * np.minimum(1.0, rise_G / RISE_NODES), 0.0) + RIM_GAP_CM
    radius_G = least_G.copy()
    for _ in range(DRAPE_ROUNDS):  # a membrane over an obstacle, by projected relaxation
        place = (radius_G[:, None] * out_G3).reshape(GRID_ROWS, GRID_COLUMNS, 3)
        edge = np.pad(place, ((1, 1), (1, 1), (0, 0)), mode="edge")
        mean_G3 = ((edge[:-2, 1:-1] + edge[2:, 1:-1] + edge[1:-1, :-2] + edge[1:-1, 2:]) / 4).reshape(-1, 3)
        taut_G = np.minimum((mean_G3 * out_G3).sum(1), least_G + MOST_TENT_CM * rise_G)
        radius_G = np.where(covered_G, np.maximum(least_G, taut_G), least_G)
    bump_G = 1 - np.exp(-((rise_G / RISE_NODES) ** 2))
    across_G = np.abs(the_grid.layout_G2[:, 0] - 0.5)
    radius_G += dome_cm * bump_G + ridge_cm * bump_G * np.maximum(0.0, 1 - across_G / 0.30)
    place_G3 = CENTRE_3 + radius_G[:, None] * out_G3
    base_G3 = the_grid.weight_GV @ face().position_V3 + the_grid.beyond_G3
    return Shell(place_G3 - base_G3 + the_grid.beyond_G3, normals(place_G3, the_grid.triangle_T3))


def on_face(shell: Shell, point_V3: np.ndarray, pose: Pose) -> np.ndarray:
    """The nodes of a Shell on a fitted face, image space, float32 G3."""
    offset_G3 = _turned_over(shell.offset_G3 @ (pose.scale_px_per_cm * pose.turn_33.T))
    return grid().weight_GV @ point_V3.astype(np.float32) + offset_G3.astype(np.float32)


def _turned_over(point_N3):
    return point_N3 * np.array([1.0, -1.0, -1.0])


def _barycentric(uv_G2, canonical):
    """(weight_GV with which the vertices make the surface at these texture coordinates,
    whether they lie outside the face).

    Outside it, that of the nearest place on its border.
    """
    corner_T32 = canonical.uv_V2[canonical.triangle_T3].astype(np.float64)
    weight_GV, outside_G = np.zeros((len(uv_G2), len(canonical.uv_V2))), np.zeros(len(uv_G2), bool)
    origin_T2, edge_T22 = corner_T32[:, 0], corner_T32[:, 1:] - corner_T32[:, :1]
    inverse_T22 = np.linalg.pinv(edge_T22)
    border = _border(canonical.triangle_T3, canonical.uv_V2)
    for node, uv_2 in enumerate(uv_G2):
        two_T2 = np.einsum("te,tef->tf", uv_2 - origin_T2, inverse_T22)
        share_T3 = np.column_stack([1 - two_T2.sum(1), two_T2])
        best = int(np.argmax(share_T3.min(1)))
        if share_T3[best].min() > -1e-6:
            weight_GV[node, canonical.triangle_T3[best]] = share_T3[best]
            continue
        a_B2, b_B2 = canonical.uv_V2[border[:, 0]], canonical.uv_V2[border[:, 1]]
        along_B = np.clip(((uv_2 - a_B2) * (b_B2 - a_B2)).sum(1) / ((b_B2 - a_B2) ** 2).sum(1), 0, 1)
        near = int(np.argmin(((a_B2 + along_B[:, None] * (b_B2 - a_B2) - uv_2) ** 2).sum(1)))
        weight_GV[node, border[near]] = 1 - along_B[near], along_B[near]
        outside_G[node] = True
    return weight_GV, outside_G


def _border(triangle_T3, uv_V2):
    """The edges of the face's outline: those of one triangle alone, but for holes (eyes and mouth,
    where the mesh has any).
    """
    edge_E2 = np.sort(np.concatenate([triangle_T3[:, [0, 1]], triangle_T3[:, [1, 2]], triangle_T3[:, [2, 0]]]), axis=1)
    edge_B2, count_B = np.unique(edge_E2, axis=0, return_counts=True)
    edge_B2 = edge_B2[count_B == 1]
    middle_B2 = uv_V2[edge_B2].mean(1) - (0.5, 0.53)
    return edge_B2[(middle_B2**2).sum(1) > 0.3**2]


def _beyond(uv_G2, border_G2, outside_G):
    """How far nodes outside the face lie from its border, face space:
    back to the ears, and under the chin towards the neck.
    """
    far_G = np.linalg.norm(uv_G2 - border_G2, axis=1) * CENTIMETRES_OF_U * outside_G
    chin_G = np.clip((border_G2[:, 1] - CHIN_V) / 0.15, 0, 1)
    way_G3 = np.stack([np.zeros_like(chin_G), -0.35 * chin_G, np.full_like(chin_G, -1.0)], axis=1)
    return far_G[:, None] * way_G3 / np.linalg.norm(way_G3, axis=1, keepdims=True)


def _smoothing(num):
    """A num x num matrix that smooths along one axis of the grid."""
    distance = np.arange(num)[:, None] - np.arange(num)
    weight = np.exp(-0.5 * (distance / SMOOTHING_NODES) ** 2)
    return weight / weight.sum(1, keepdims=True)


def _grid_triangles():
    node = np.arange(GRID_ROWS * GRID_COLUMNS).reshape(GRID_ROWS, GRID_COLUMNS)
    a, b, c, d = (corner.ravel() for corner in (node[:-1, :-1], node[:-1, 1:], node[1:, :-1], node[1:, 1:]))
    return np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)]).astype(np.int32)


def _distance_inside(covered_RC):
    """Steps from each covered node to the nearest one that is not, 0 outside, along rows, columns and diagonals."""
    distance_RC, inside_RC = np.zeros(covered_RC.shape), covered_RC
    while inside_RC.any():
        distance_RC += inside_RC
        edge = np.pad(inside_RC, 1)
        inside_RC = inside_RC & edge[:-2, 1:-1] & edge[2:, 1:-1] & edge[1:-1, :-2] & edge[1:-1, 2:]
    return distance_RC
