"""What a rendered mask must be like: where it lies, what hides it, how it is lit; and the rasteriser against a naive
one.
"""

import cv2
import numpy as np
import pytest

from zennas.data.images import check_knobs, knobs_of
from zennas.mask import mesh
from zennas.mask.lighting import blur_px, light_on
from zennas.mask.render import FACE_CM, masked, rasterised, vary
from zennas.mask.textures import KINDS, texture
from zennas.records import UserError

NOSE_TIP, LIPS, CHIN, EYES = 4, (13, 14, 61, 291), 199, (159, 145, 386, 374)
STILL = dict.fromkeys(knobs_of(vary), 0.0)
POSES = [{}, {"yaw_deg": 28}, {"yaw_deg": -28}, {"pitch_deg": 14}, {"pitch_deg": -14, "roll_deg": 8}]


def worn(face, kind="surgical_blue", *, seed=0, knobs=None, variant=0):
    return masked(
        face.image_HW3, face.point_V3, texture(kind, variant, seed=0), np.random.default_rng(seed), knobs=knobs
    )


def at(image, point_V3, vertices):
    """The values of an image at these vertices."""
    x, y = np.asarray(point_V3)[list(vertices), :2].round().astype(int).T
    return image[np.clip(y, 0, image.shape[0] - 1), np.clip(x, 0, image.shape[1] - 1)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pose", POSES, ids=str)
def test_every_kind_covers_nose_and_mouth_and_no_eye_at_every_pose(fitted, kind, pose):
    face = fitted(**pose)
    for seed in range(3):
        done = worn(face, kind, seed=seed, variant=seed)
        assert at(done.alpha_HW, face.true_V3, (NOSE_TIP, *LIPS)).min() > 0.8
        assert at(done.alpha_HW, face.true_V3, EYES).max() < 0.05
        assert done.image_HW3.shape == face.image_HW3.shape and done.image_HW3.dtype == np.uint8
        untouched = cv2.dilate((done.alpha_HW > 0).astype(np.uint8), np.ones((25, 25))) == 0
        assert np.array_equal(done.image_HW3[untouched], face.image_HW3[untouched]) and untouched[:20].all()


def naive(point_N3, triangle_T3, carried_N3, shape):
    """Every pixel's middle against every triangle: the nearest in depth wins."""
    seen, depth = np.zeros((*shape, 3)), np.full(shape, np.inf)
    for triangle in triangle_T3:
        (ax, ay, az), (bx, by, bz), (cx, cy, cz) = point_N3[triangle].astype(float)
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0:
            continue
        for row in range(shape[0]):
            for column in range(shape[1]):
                x, y = column + 0.5, row + 0.5
                b = ((x - ax) * (cy - ay) - (y - ay) * (cx - ax)) / area
                c = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / area
                z = az + b * (bz - az) + c * (cz - az)
                if min(b, c, 1 - b - c) >= 0 and z < depth[row, column]:
                    depth[row, column] = z
                    seen[row, column] = (1 - b - c) * carried_N3[triangle[0]] + b * carried_N3[triangle[1]]
                    seen[row, column] += c * carried_N3[triangle[2]]
    return seen


def test_the_rasteriser_against_a_naive_one():
    """Triangles of both windings that cut through each other, partly outside; pixels on an edge may fall either way."""
    rng = np.random.default_rng(3)
    point_N3 = (rng.uniform(-6, 38, (30, 3)) * (1, 1, 0.5)).astype(np.float32)
    carried_N3 = rng.uniform(0.05, 1, (30, 3)).astype(np.float32)
    triangle_T3 = rng.permutation(30).reshape(10, 3).astype(np.int32)
    expected = naive(point_N3, triangle_T3, carried_N3, (32, 28))
    found = rasterised(point_N3, triangle_T3, carried_N3, (32, 28))
    differing = np.abs(found - expected).max(2) > 0.01
    assert (expected.sum(2) > 0).mean() > 0.5 and differing.mean() < 0.01


def test_the_far_cheek_is_hidden_at_60_degrees(fitted):
    """By the face's own geometry, true vertices: the network is not asked about a profile. A spot on the mask of the
    far cheek is seen from the front, and not from the side; that of the near cheek is seen from both."""
    spots = {}
    for side, u in (("left", 0.36), ("right", 0.64)):
        one = texture("cloth_plain", 0, seed=0)
        x, y = (mesh.in_layout(np.array([u, 0.60])) * 512).astype(int)
        one.rgba_HW4[y - 9 : y + 9, x - 9 : x + 9, :3] = (255, 0, 0)
        spots[side] = one
    seen = {}
    for yaw in (0, 60):
        face = fitted(yaw_deg=yaw)
        for side, one in spots.items():
            plain = texture("cloth_plain", 0, seed=0)
            pair = [
                masked(face.image_HW3, face.true_V3, which, np.random.default_rng(0), knobs=STILL).image_HW3.astype(int)
                for which in (one, plain)
            ]
            seen[side, yaw] = int((np.abs(pair[0] - pair[1]).sum(2) > 60).sum())
    assert seen["left", 0] > 4 and seen["right", 0] > 4
    assert seen["right", 60] == 0, "the far cheek of a face that looks to the right"
    assert seen["left", 60] > 4


def test_a_darker_face_wears_a_darker_mask(fitted):
    bright, dark = fitted(), fitted(brightness=0.5)
    tone = [
        at(worn(face, "surgical_white", knobs=STILL).image_HW3, face.true_V3, LIPS).mean() for face in (bright, dark)
    ]
    assert tone[1] < 0.7 * tone[0] and tone[0] > 150


@pytest.mark.parametrize("kind", ["surgical_white", "n95", "cloth_plain"])
def test_light_from_the_left_lights_the_left_of_the_mask(fitted, kind):
    def difference(light_x):
        face = fitted(light_3=(light_x, 0.2, 0.5), ambient=0.2)
        image = worn(face, kind, knobs=STILL).image_HW3.astype(float)
        return at(image, face.true_V3, (207, 187, 214)).mean() - at(image, face.true_V3, (427, 411, 434)).mean()

    assert difference(-1.0) > 15 and difference(1.0) < -15


def test_the_light_is_read_from_the_skin(fitted):
    for light_x in (-0.9, 0.9):
        face = fitted(light_3=(light_x, 0.0, 0.6), ambient=0.2)
        light = light_on(face.image_HW3, face.true_V3, mesh.fit_pose(face.true_V3))
        assert np.sign(light.slope_3[0]) == np.sign(light_x) and abs(light.slope_3[0]) > 0.2
        assert light.shading(np.array([[0.0, 0.0, 1.0]]))[0] == pytest.approx(1)


def test_a_grey_picture_stays_grey(fitted):
    face = fitted()
    grey_HW3 = cv2.cvtColor(cv2.cvtColor(face.image_HW3, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    done = masked(grey_HW3, face.point_V3, texture("surgical_blue", 0, seed=0), np.random.default_rng(0))
    assert np.ptp(done.image_HW3.astype(int), axis=2).max() <= 2 and done.alpha_HW.max() > 0.9


def test_exchanged_colours_are_noticed(fitted):
    face = fitted()
    assert not worn(face).bluish
    exchanged = face._replace(image_HW3=np.ascontiguousarray(face.image_HW3[..., ::-1]))
    assert worn(exchanged).bluish


def test_a_blurred_picture_has_a_blurred_mask(fitted):
    """Known blur is measured to a fifth of it (a face has lines, too, not edges alone), and the mask is as soft: its
    steepest step is much lower."""
    face = fitted(image_px=224)
    steps = []
    for sigma in (0.0, 2.0):
        image_HW3 = cv2.GaussianBlur(face.image_HW3, (0, 0), sigma) if sigma else face.image_HW3
        pose = mesh.fit_pose(face.point_V3)
        found = blur_px(image_HW3, pose)
        assert (found < 0.8) if not sigma else found == pytest.approx(sigma, rel=0.2)
        alpha_HW = masked(
            image_HW3, face.point_V3, texture("black", 0, seed=0), np.random.default_rng(0), knobs=STILL
        ).alpha_HW
        steps.append(np.abs(np.diff(alpha_HW, axis=0)).max())
    assert steps[1] < 0.6 * steps[0]


def test_the_same_seed_gives_the_same_mask_and_another_another(fitted):
    face = fitted()
    first, again, other = (worn(face, seed=seed).image_HW3 for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_the_image_given_is_not_changed(fitted):
    face = fitted()
    before = face.image_HW3.copy()
    worn(face)
    assert np.array_equal(before, face.image_HW3)


def test_knobs_move_what_they_say(fitted):
    """The upper edge, the area and the light of masks against those of one that sits straight."""
    face = fitted()

    def draws(kind, **knobs):
        return [worn(face, kind, seed=seed, knobs=STILL | knobs) for seed in range(6)]

    straight = worn(face, "black", knobs=STILL)

    def top(done):
        return int(np.flatnonzero(done.alpha_HW[:, 56] > 0.5)[0])

    for done in draws("black", height=0.06):
        assert abs(done.variation.height) < 0.015 or np.sign(top(done) - top(straight)) == np.sign(
            done.variation.height
        )
    for done in draws("black", size=0.2):
        larger = done.alpha_HW.sum() > straight.alpha_HW.sum()
        assert abs(done.variation.size - 1) < 0.03 or larger == (done.variation.size > 1)
    for done in draws("black", angle_deg=15):
        left, right = (np.flatnonzero(done.alpha_HW[:, column] > 0.5)[0] for column in (40, 72))
        assert abs(done.variation.angle_deg) < 6 or (left < right) == (done.variation.angle_deg > 0)  # clockwise
    bright = sorted((done.variation.exposure, float(done.image_HW3.mean())) for done in draws("n95", exposure=0.5))
    assert bright == sorted(bright, key=lambda one: one[1])


def test_no_knob_without_its_effect_in_a_variation():
    for knob, (_, within) in knobs_of(vary).items():
        still = vary(np.random.default_rng(0), **STILL)
        moved = vary(np.random.default_rng(0), **(STILL | {knob: within.high}))
        assert sum(one != other for one, other in zip(still, moved, strict=True)) == 1, knob


@pytest.mark.parametrize(
    ("knobs", "said"),
    [({"angel_deg": 1}, "did you mean 'angle_deg'"), ({"size": 2}, "[0, 0.25]"), ({"size": "a"}, "number")],
)
def test_a_knob_that_cannot_be_used(knobs, said):
    with pytest.raises(UserError, match=r"here") as error:
        check_knobs(vary, knobs, "here")
    assert said in str(error.value)


def test_a_face_that_is_mostly_outside_its_picture(fitted):
    """A crop that ends above the mouth, or beside the face: whatever is left is masked, or nothing is."""
    face = fitted()
    for rows, columns in ((slice(0, 40), slice(0, 112)), (slice(0, 112), slice(0, 30)), (slice(0, 30), slice(0, 30))):
        image_HW3 = np.ascontiguousarray(face.image_HW3[rows, columns])
        done = masked(image_HW3, face.point_V3, texture("n95", 0, seed=0), np.random.default_rng(0))
        assert done.image_HW3.shape == image_HW3.shape


def test_a_large_face_of_which_few_rows_are_seen(fitted):
    """The shadow of its mask reaches further down than there are rows of its picture to draw on, from one row to all it
    needs.
    """
    face, one = fitted(), texture("kn95", 0, seed=0)
    large_HW3, point_V3 = cv2.resize(face.image_HW3, (896, 896)), 8 * face.point_V3
    pose = mesh.fit_pose(point_V3)
    first = mesh.on_face(one.shell, point_V3, pose)[:, 1].min() - 0.06 * FACE_CM * pose.scale_px_per_cm
    for last in range(int(first), int(first) + 12, 2):
        image_HW3 = np.ascontiguousarray(large_HW3[:last])
        done = masked(image_HW3, point_V3, one, np.random.default_rng(0), knobs=STILL)
        assert done.image_HW3.shape == image_HW3.shape
