"""The masks as they are drawn, and templates of a user's own."""

import cv2
import numpy as np
import pytest

from zennas.mask import mesh
from zennas.mask.masker import Masker, check_mask_plan, masker_of, templates_fingerprint
from zennas.mask.textures import (
    KINDS,
    TEXTURE_PX,
    covered_nodes,
    layout_guide,
    load_templates,
    texture,
    wardrobe,
    write_layout,
)
from zennas.records import UserError
from zennas.tasks.face.plan import MaskPlan


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_by_its_seed(kind):
    one, again, other = texture(kind, 0, seed=1), texture(kind, 0, seed=1), texture(kind, 1, seed=1)
    assert one.rgba_HW4.shape == (TEXTURE_PX, TEXTURE_PX, 4) and one.rgba_HW4.dtype == np.uint8
    assert np.array_equal(one.rgba_HW4, again.rgba_HW4) and not np.array_equal(one.rgba_HW4, other.rgba_HW4)
    assert np.array_equal(one.rgba_HW4[..., 3], other.rgba_HW4[..., 3])  # the cut is the kind's
    alpha_HW = one.rgba_HW4[..., 3]
    assert np.abs(alpha_HW.astype(int) - alpha_HW[:, ::-1]).mean() < 1.5  # a quarter of a texel along its edge
    assert alpha_HW[[0, -1]].max() == 0 and alpha_HW[:, [0, -1]].max() == 0  # beyond the layout there is nothing
    shares = covered_nodes(alpha_HW).mean()
    assert 0.15 < shares < 0.6


def test_kinds_look_like_what_they_are_called():
    def colour(kind):
        rgba_HW4 = texture(kind, 0, seed=0).rgba_HW4
        return rgba_HW4[rgba_HW4[..., 3] == 255][:, :3].mean(0)

    red, green, blue = colour("surgical_blue")
    assert blue > green > red
    red, green, blue = colour("surgical_green")
    assert green > max(red, blue)
    for white in ("surgical_white", "n95", "kn95"):
        assert colour(white).min() > 190 and np.ptp(colour(white)) < 25
    assert colour("black").max() < 45
    assert len(KINDS) == 8


def test_smaller_copies_keep_colour_and_cover():
    one = texture("surgical_blue", 0, seed=0)
    for number in range(1, 5):
        level_HW4 = one.level(number)
        assert level_HW4.shape[0] == TEXTURE_PX >> number
        assert level_HW4.reshape(-1, 4).mean(0) == pytest.approx(
            one.level(0).reshape(-1, 4).mean(0), abs=0.6
        )  # rounding
        assert (level_HW4[..., :3].max(2) <= level_HW4[..., 3].astype(int) + 1).all()


def test_a_wardrobe_draws_every_name_about_equally_often():
    dressing, rng = wardrobe(("n95", "black", "kn95"), seed=0), np.random.default_rng(0)
    names = [dressing.draw(rng).name for _ in range(600)]
    for name in dressing.names:
        assert abs(names.count(name) - 200) < 5 * (600 * 2 / 9) ** 0.5  # five deviations of a binomial


def write_template(path, *, size=TEXTURE_PX, alpha=True, kind="surgical_blue"):
    rgba_HW4 = cv2.resize(texture(kind, 0, seed=0).rgba_HW4, (size, size), interpolation=cv2.INTER_AREA)
    image = cv2.cvtColor(rgba_HW4, cv2.COLOR_RGBA2BGRA if alpha else cv2.COLOR_RGBA2BGR)
    path.write_bytes(cv2.imencode(".png", image)[1].tobytes())


def test_templates_are_worn_as_they_were_drawn(tmp_path, fitted):
    """A kind's own drawing, given as a template of half the size: the masked face is nearly the same."""
    write_template(tmp_path / "mine.png", size=256)
    dressing, face = wardrobe(folder=tmp_path), fitted(yaw_deg=10)
    assert dressing.names == ("mine",)
    done = Masker(dressing).worn(face.image_HW3, np.random.default_rng(0))
    assert done.kind == "mine" and done.masked.alpha_HW.max() > 0.95
    red, green, blue = done.masked.image_HW3[done.masked.alpha_HW > 0.95].mean(0)
    assert blue > green > red  # not exchanged on the way from the file
    both = wardrobe(("n95",), tmp_path)
    assert both.names == ("n95", "mine")


def bad_template(folder, what):
    path = folder / "bad.png"
    if what == "no file":
        return
    if what == "no alpha":
        write_template(path, alpha=False)
    elif what == "grey":
        path.write_bytes(cv2.imencode(".png", np.zeros((64, 64), np.uint8))[1].tobytes())
    elif what == "noise":
        path.write_bytes(b"\x89PNG and no more")
    elif what == "oblong":
        path.write_bytes(cv2.imencode(".png", np.zeros((64, 32, 4), np.uint8))[1].tobytes())
    elif what == "empty":
        path.write_bytes(cv2.imencode(".png", np.zeros((64, 64, 4), np.uint8))[1].tobytes())
    elif what == "full":
        path.write_bytes(cv2.imencode(".png", np.full((64, 64, 4), 255, np.uint8))[1].tobytes())
    elif what == "forehead":
        image = np.zeros((512, 512, 4), np.uint8)
        image[10:120, 100:400] = 255
        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
    elif what == "16 bits":
        path.write_bytes(cv2.imencode(".png", np.zeros((64, 64, 4), np.uint16))[1].tobytes())
    elif what == "twice":
        write_template(path)
        (folder / "bad.webp").write_bytes(path.read_bytes())


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("no file", "holds no template"),
        ("no alpha", "3 channel"),
        ("grey", "1 channel"),
        ("noise", "does not decode"),
        ("oblong", "32 x 64"),
        ("empty", "0.0 %"),
        ("full", "100 %"),
        ("forehead", "--layout"),
        ("16 bits", "uint16"),
        ("twice", "two templates are called bad"),
    ],
)
def test_templates_that_cannot_be_used(tmp_path, what, said):
    bad_template(tmp_path, what)
    with pytest.raises(UserError) as error:
        load_templates(tmp_path)
    assert said in str(error.value) and str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(UserError, match=r"--textures .*none: no such folder"):
        load_templates(tmp_path / "none")


@pytest.mark.parametrize("what", ["no folder", "no file", "noise", "twice"])
def test_an_error_names_the_recipes_key_where_that_was_given(tmp_path, what):
    folder = tmp_path / "none" if what == "no folder" else tmp_path
    bad_template(tmp_path, what)
    plan = MaskPlan(textures=str(folder))
    for refuse in (lambda: check_mask_plan(plan, "web.yaml: train.data.mask"), lambda: masker_of(plan, seed=0)):
        with pytest.raises(UserError, match=r"data\.mask\.textures") as error:
            refuse()
        assert "--textures" not in str(error.value)


def test_a_fingerprint_is_of_what_templates_hold(tmp_path):
    write_template(tmp_path / "mine.png")
    before = templates_fingerprint(tmp_path)
    (tmp_path / "notes.txt").write_text("of no concern")
    assert templates_fingerprint(tmp_path) == before
    write_template(tmp_path / "mine.png", kind="n95")
    assert templates_fingerprint(tmp_path) != before


@pytest.mark.parametrize(
    ("kinds", "said"),
    [(("surgical-blue",), "did you mean 'surgical_blue'"), (("n95", "n95"), "twice"), ((), "no kind of mask is given")],
)
def test_kinds_that_cannot_be_used(kinds, said):
    with pytest.raises(UserError) as error:
        wardrobe(kinds)
    assert said in str(error.value)


def test_the_layout_shows_where_the_mouth_is(tmp_path):
    """Every vertex of the face stands on a drawn line, where in_layout says."""
    guide_HW3 = layout_guide()
    x, y = (mesh.in_layout(mesh.face().uv_V2) * guide_HW3.shape[0]).round().astype(int).T
    assert (guide_HW3[y, x].min(1) < 250).mean() > 0.99
    write_layout(tmp_path / "layout.png")
    assert cv2.imread(str(tmp_path / "layout.png")).shape == guide_HW3.shape
    with pytest.raises(UserError, match=r"\.png"):
        write_layout(tmp_path / "layout.jpg")
