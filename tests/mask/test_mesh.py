"""The canonical face, its poses, and the shell that lies on it."""

import numpy as np
import pytest

from zennas.mask import mesh
from zennas.mask.textures import KINDS, texture

POSES = [(0, 0, 0), (40, 0, 0), (-60, 10, 5), (10, -30, -20), (0, 25, 170)]


@pytest.mark.parametrize(("yaw", "pitch", "roll"), POSES)
def test_a_pose_is_found_again(yaw, pitch, roll):
    given = mesh.pose_of(mesh.turn(yaw, pitch, roll), 3.7, np.array([40.0, 70.0, 2.0]))
    found = mesh.fit_pose(mesh.posed(mesh.face().position_V3, given))
    assert (found.yaw_deg, found.pitch_deg, found.roll_deg) == pytest.approx(
        (yaw, pitch, roll), abs=0.01
    )  # float32 vertices
    assert found.scale_px_per_cm == pytest.approx(3.7, rel=1e-4)
    assert found.shift_3 == pytest.approx((40, 70, 2), abs=0.01)


def test_angles_mean_what_they_say():
    nose, brow = np.array([[0, 0, 1.0]]), np.array([[0, 1.0, 0]])

    def seen(vector, **angles):
        return mesh.posed(vector, mesh.pose_of(mesh.turn(**angles), 1.0, np.zeros(3)))[0]

    assert seen(nose, yaw_deg=30)[0] > 0.4  # to the right of the image
    assert seen(nose, pitch_deg=30)[1] < -0.4  # up: y of an image grows downwards
    assert seen(brow, roll_deg=30)[0] > 0.4  # clockwise: the top goes to the right


def test_an_open_mouth_is_no_nod():
    """Vertices of the jaw move by centimetres; a pose that took them in would pitch by more than ten degrees."""
    moved_V3 = mesh.face().position_V3.copy()
    jaw = mesh.face().uv_V2[:, 1] > 0.7
    moved_V3[jaw, 1] -= 2.0
    found = mesh.fit_pose(mesh.posed(moved_V3, mesh.pose_of(np.eye(3), 5.0, np.zeros(3))))
    assert abs(found.pitch_deg) < 0.01


def test_the_grid_lies_on_the_face():
    """Where the canonical face is smooth, the nodes that the weights make lie on it: nearer than half a centimetre."""
    grid, face = mesh.grid(), mesh.face()
    inside = np.linalg.norm(grid.beyond_G3, axis=1) < 1e-3
    assert inside.sum() > 300
    away = np.linalg.norm(grid.skin_G3[inside, None] - face.position_V3, axis=2).min(1)
    assert np.median(away) < 0.6 and away.max() < 1.6  # a node may lie in the middle of the largest triangle
    assert np.allclose(grid.weight_GV.sum(1), 1, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mask_stands_off_the_skin_and_never_cuts_it(kind):
    one = texture(kind, 0, seed=0)
    base_G3 = mesh.grid().weight_GV @ mesh.face().position_V3
    radius_G = np.linalg.norm(base_G3 + one.shell.offset_G3 - mesh.CENTRE_3, axis=1)
    skin_G = np.linalg.norm(mesh.grid().skin_G3 - mesh.CENTRE_3, axis=1)
    assert (radius_G - skin_G).min() > 0.9 * mesh.RIM_GAP_CM
    mouth = np.argmin(np.linalg.norm(mesh.grid().skin_G3 - mesh.face().position_V3[13], axis=1))
    assert radius_G[mouth] - skin_G[mouth] > 0.5  # bridged between nose and chin
    assert (one.shell.normal_G3[mouth] @ (0, 0, 1)) > 0.9


def test_the_cloth_is_taut(monkeypatch):
    drawn = np.zeros((mesh.GRID_ROWS, mesh.GRID_COLUMNS), bool)
    drawn[6:24, 10:31] = True
    before = mesh.drape(drawn.ravel()).offset_G3
    monkeypatch.setattr(mesh, "DRAPE_ROUNDS", 2 * mesh.DRAPE_ROUNDS)
    assert (
        np.linalg.norm(mesh.drape(drawn.ravel()).offset_G3 - before, axis=1).max() < 0.03
    )  # centimetres, as is said there
