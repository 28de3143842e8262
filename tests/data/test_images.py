"""Decoding, and the contract of every augmentation."""

import collections
import io
import subprocess
import sys
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from zennas.data import images
from zennas.data.images import AUGMENTATIONS, CorruptImageError, augment, check_augmentations, decode, knobs_of
from zennas.records import UserError

each_augmentation = pytest.mark.parametrize("name", AUGMENTATIONS)


def face(height=112, width=112, seed=0):
    """A smooth image with colours and a left that differs from its right."""
    small = np.random.default_rng(seed).integers(256, size=(7, 6, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def encoded(image_HW3, kind="JPEG"):
    stream = io.BytesIO()
    Image.fromarray(image_HW3).save(stream, kind, **({"quality": 95} if kind == "JPEG" else {}))
    return stream.getvalue()


def test_decodes_as_pillow_does():
    data = encoded(face())
    image_HW3 = decode(data)
    assert image_HW3.dtype == np.uint8 and image_HW3.flags.c_contiguous
    # Two decoders round the inverse transform and the colours differently, by two grey levels at most on smooth images.
    assert np.abs(image_HW3.astype(int) - np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))).max() <= 3


def test_channels_are_red_green_blue():
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    assert (decode(encoded(red, "PNG")) == red).all()


def test_grey_and_palette_become_rgb():
    for mode in ("L", "P", "RGBA"):
        stream = io.BytesIO()
        Image.fromarray(face()).convert(mode).save(stream, "PNG")
        assert decode(stream.getvalue()).shape == (112, 112, 3)


def test_more_pixels_than_a_memory_should_hold_are_said_in_words():
    data = bytearray(encoded(face(), "PNG"))
    data[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height, and the checksum of both with what follows
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    with pytest.raises(CorruptImageError, match=r"^more pixels than 67,108,864; OPENCV_IO_MAX_IMAGE_PIXELS in the env"):
        decode(bytes(data))


def test_resizing():
    big = face(224, 224)
    # By a factor of two the mean over areas is the mean of 2 x 2 pixels, rounded.
    mean = big.reshape(112, 2, 112, 2, 3).mean((1, 3))
    assert np.abs(decode(encoded(big, "PNG"), image_px=112) - mean).max() <= 0.5
    assert decode(encoded(face(92, 112), "PNG"), image_px=112).shape == (112, 112, 3)
    assert (decode(encoded(face(), "PNG"), image_px=112) == face()).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_cut_image_is_corrupt(kind, share):
    data = encoded(face(), kind)
    with pytest.raises(CorruptImageError):
        decode(data[: int(len(data) * share)])


@pytest.mark.parametrize("data", [b"", b"\0", b"no image", b"\xff\xd8\xff\xd9" * 9])
def test_no_image_is_corrupt(data):
    with pytest.raises(CorruptImageError):
        decode(data)


def test_a_cut_jpeg_is_told_even_where_opencv_fills_it(monkeypatch):
    """OpenCV 4 returns an image for it."""
    data = encoded(face())
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: face())
    assert decode(data) is not None
    with pytest.raises(CorruptImageError, match="without its end"):
        decode(data[:-2])


@each_augmentation
@pytest.mark.parametrize("shape", [(112, 112), (5, 9), (1, 1)])
def test_contract(name, shape):
    before = face(*shape)
    image_HW3 = before.copy()
    image_HW3.flags.writeable = False
    for seed in range(20):
        after = AUGMENTATIONS[name](image_HW3, np.random.default_rng(seed), p=1.0)
        assert after.shape == before.shape and after.dtype == np.uint8
        assert (after == AUGMENTATIONS[name](image_HW3, np.random.default_rng(seed), p=1.0)).all()
        assert (AUGMENTATIONS[name](image_HW3, np.random.default_rng(seed), p=0.0) == before).all()
    assert (image_HW3 == before).all()


@each_augmentation
def test_happens_as_often_as_p_says(name):
    rng, image_HW3 = np.random.default_rng(1), face()
    changed = [AUGMENTATIONS[name](image_HW3, rng, p=0.3) is not image_HW3 for _ in range(400)]
    assert 0.3 - 4 * 0.023 < np.mean(changed) < 0.3 + 4 * 0.023  # sqrt(.3 x .7 / 400) = 0.023: four sigmas


@each_augmentation
def test_changes_an_image_and_its_knobs_are_known(name):
    rng = np.random.default_rng(0)
    assert any((AUGMENTATIONS[name](face(), rng, p=1.0) != face()).any() for _ in range(5))
    known = knobs_of(AUGMENTATIONS[name])
    assert "p" in known and all(default in within for default, within in known.values())
    assert AUGMENTATIONS[name].__doc__ and "ource" in AUGMENTATIONS[name].__doc__


def test_flip_and_grey():
    image_HW3, rng = face(), np.random.default_rng(0)
    assert (images.flip(image_HW3, rng, p=1.0) == image_HW3[:, ::-1]).all()
    grey_HW3 = images.grey(image_HW3, rng, p=1.0)
    luma = image_HW3 @ [0.299, 0.587, 0.114]  # ITU-R BT.601
    assert np.abs(grey_HW3 - luma[..., None]).max() <= 1


def test_crop_leaves_a_rectangle_in_its_place():
    image_HW3 = np.random.default_rng(0).integers(1, 256, size=(60, 50, 3), dtype=np.uint8)
    tops = set()
    for seed in range(100):
        after = images.crop(image_HW3, np.random.default_rng(seed), p=1.0, min_area=0.2, max_area=0.5)
        row, column = np.nonzero(after[..., 0])
        height, width = np.ptp(row) + 1, np.ptp(column) + 1
        assert len(row) == height * width and (after[row, column] == image_HW3[row, column]).all()
        tops.add(int(row.min()))
        assert 0.2 * 3000 * 0.93 < len(row) < 0.5 * 3000 * 1.07  # both sides are rounded to pixels
    assert len(tops) > 10


def test_cutout_erases_a_grey_square():
    image_HW3 = np.zeros((40, 40, 3), np.uint8)
    sizes = [
        (images.cutout(image_HW3, np.random.default_rng(seed), p=1.0, side=0.25)[..., 0] == 127).sum()
        for seed in range(60)
    ]
    assert max(sizes) == 100 and min(sizes) >= 25  # whole inside; a quarter of it in a corner


QUANTILES = [0.05, 0.25, 0.5, 0.75, 0.95]
# Of 20,000 draws of torchvision 0.28.0's RandomErasing.get_params(scale=(0.02, 0.1), ratio=(0.3, 1 / 0.3)): the area,
# the logarithm of height over width, and the top's place in the span that it may have.
TORCHVISION = {
    (256, 128): (
        [0.024, 0.040, 0.060, 0.079, 0.096],
        [-1.086, -0.606, 0, 0.606, 1.083],
        [0.05, 0.248, 0.495, 0.748, 0.948],
    ),
    (112, 112): (
        [0.024, 0.040, 0.060, 0.080, 0.096],
        [-1.081, -0.606, 0, 0.606, 1.082],
        [0.043, 0.244, 0.494, 0.747, 0.942],
    ),
}


def erased(hw, num, **knobs):
    """(top, left, height, width) of `num` rectangles."""
    black_HW3, found = np.zeros((*hw, 3), np.uint8), []
    for seed in range(num):
        after = images.random_erasing(black_HW3, np.random.default_rng(seed), p=1.0, fill=255, **knobs)[..., 0] > 0
        row, column = np.flatnonzero(after.any(1)), np.flatnonzero(after.any(0))
        assert after.sum() == len(row) * len(column)
        found.append((row[0], column[0], len(row), len(column)))
    return np.array(found, float).T


@pytest.mark.parametrize("hw", TORCHVISION, ids=str)
def test_random_erasing_is_torchvisions_where_every_rectangle_fits(hw):
    top, _, tall, wide = erased(hw, 2000, max_area=0.1)
    found = tall * wide / np.prod(hw), np.log(tall / wide), top / (hw[0] - tall + 1)
    # Four standard errors of a median of 2,000: 2 / sqrt(2000) of the width of an even distribution, and rounding.
    for values, expected, width in zip(found, TORCHVISION[hw], (0.08, 2 * np.log(10 / 3), 1.0), strict=True):
        assert np.abs(np.quantile(values, QUANTILES) - expected).max() < 2 / 2000**0.5 * width


def test_random_erasing_has_even_areas_where_rectangles_would_not_fit():
    """torchvision's median is 0.18 there (counted as above), as it draws again: 0.21 is the middle of 0.02 to 0.4."""
    _, _, tall, wide = erased((256, 128), 2000)
    area = tall * wide / (256 * 128)
    assert np.abs(np.quantile(area, QUANTILES) - (0.02 + 0.38 * np.array(QUANTILES))).max() < 2 / 2000**0.5 * 0.38
    assert wide.max() == 128


@pytest.mark.parametrize(
    ("fill", "expected"),
    [("mean", [124, 116, 104]), (0, [0, 0, 0]), (127.4, [127] * 3), ([1, 2.6, 255], [1, 3, 255])],
)
def test_a_rectangle_and_a_border_take_a_colour(fill, expected):
    image_HW3, rng = np.full((30, 20, 3), 77, np.uint8), np.random.default_rng(0)
    for after in (
        images.random_erasing(image_HW3, rng, p=1.0, fill=fill),
        images.pad_crop(image_HW3, rng, p=1.0, pad_px=9, fill=fill),
    ):
        assert {tuple(pixel) for pixel in after.reshape(-1, 3).tolist()} == {(77, 77, 77), tuple(expected)}


def test_erasing_with_noise_is_what_it_was():
    """To the last bit, so that recipes of before give what they gave."""
    erased = [images.random_erasing(face(48, 20), np.random.default_rng(seed), p=1.0) for seed in range(3)]
    assert [zlib.crc32(image_HW3.tobytes()) for image_HW3 in erased] == [684313317, 1196643499, 2421207058]


@pytest.mark.parametrize("hw", [(24, 10), (10, 24), (3, 3), (2, 30)], ids=str)
def test_pad_crop_is_a_border_and_a_crop(hw):
    """Every shift of up to 3 px either way, equally often: a naive pad, and every crop of it."""
    image_HW3 = np.random.default_rng(0).integers(1, 256, size=(*hw, 3), dtype=np.uint8)
    padded = np.pad(image_HW3, ((3, 3), (3, 3), (0, 0)))
    crops = [padded[top : top + hw[0], left : left + hw[1]].tobytes() for top in range(7) for left in range(7)]
    rng, num = np.random.default_rng(1), 4900
    found = collections.Counter(images.pad_crop(image_HW3, rng, pad_px=3).tobytes() for _ in range(num))
    expected = {crop: 100 * times for crop, times in collections.Counter(crops).items()}  # empty ones are alike
    assert set(found) == set(expected)
    assert all(abs(found[crop] - times) < 5 * times**0.5 for crop, times in expected.items())


def test_photometric_by_hand(monkeypatch):
    """Saturation alone, factor 0: grey. Brightness alone, factor 1.5: times 1.5, clipped."""

    class Rng:
        def __init__(self, *values):
            self.values = list(values)

        def random(self):
            return self.values.pop(0)

    image_HW3 = face()
    options = {"p": 1.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0}
    grey_HW3 = images.photometric(image_HW3, Rng(0.5, 0.5, 0.5, 0.0), **options | {"saturation": 1.0})
    assert np.ptp(grey_HW3.astype(int), axis=2).max() == 0
    bright_HW3 = images.photometric(image_HW3, Rng(0.5, 1.0, 0.5, 0.5), **options | {"brightness": 0.5})
    assert np.abs(bright_HW3 - np.minimum(image_HW3 * 1.5, 255)).max() <= 0.5
    flat_HW3 = images.photometric(image_HW3, Rng(0.5, 0.5, 0.0, 0.5), **options | {"contrast": 1.0})
    assert np.ptp(flat_HW3) == 0


def test_low_resolution_loses_detail():
    noise = np.random.default_rng(0).integers(256, size=(64, 64, 3), dtype=np.uint8)
    after = images.low_resolution(noise, np.random.default_rng(0), p=1.0, min_side=0.2, max_side=0.2)
    colours = {tuple(pixel) for pixel in after.reshape(-1, 3).tolist()}
    assert after.shape == noise.shape and len(colours) < 64 * 64


def test_a_plan_is_applied_in_its_order():
    image_HW3 = face()
    plan = check_augmentations({"grey": {"p": 1.0}, "cutout": {"p": 1, "side": 0.5}}, "x")
    rng = np.random.default_rng(3)
    expected = images.cutout(images.grey(image_HW3, rng, p=1.0), rng, p=1, side=0.5)
    assert (augment(image_HW3, plan, rng=np.random.default_rng(3)) == expected).all()
    assert check_augmentations({"flip": None}, "x") == {"flip": {}}


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        ({"flp": {}}, "x.yaml: augmentation 'flp' is not known; did you mean 'flip'"),
        ({"flip": {"q": 0.5}}, "x.yaml.flip: knob 'q' is not known; known: p"),
        ({"flip": {"p": 1.5}}, r"x.yaml.flip.p: given 1.5, allowed: a number in \[0.0, 1.0\]"),
        ({"flip": {"p": "half"}}, "x.yaml.flip.p: given 'half'"),
        ({"flip": {"p": True}}, "x.yaml.flip.p: given True"),
        ({"flip": {"p": float("nan")}}, "x.yaml.flip.p: given nan"),
        ({"flip": 0.5}, "x.yaml.flip: expected knobs with values"),
        (
            {"random_erasing": {"fill": "black"}},
            r"fill: given 'black', allowed: noise, mean, a number in \[0, 255\], or",
        ),
        ({"random_erasing": {"fill": [1, 2]}}, r"fill: given \[1, 2\], allowed: .* or \[red, green, blue\]"),
        ({"pad_crop": {"fill": "noise"}}, "fill: given 'noise', allowed: mean, a number in"),
        ({"pad_crop": {"fill": 256}}, "fill: given 256, allowed: "),
        ({"pad_crop": {"pad_px": 2.5}}, "x.yaml.pad_crop.pad_px: given 2.5, allowed: a whole number from 1 to 1000"),
        ({"crop": {"min_area": 0.9, "max_area": 0.5}}, "min_area 0.9 must not exceed max_area 0.5"),
        (["flip"], "x.yaml: expected names with knobs"),
    ],
)
def test_a_wrong_plan_is_refused(plan, says):
    with pytest.raises(UserError, match=says):
        check_augmentations(plan, "x.yaml")


def test_a_picture_that_would_be_gigabytes_is_refused(tmp_path):
    """OpenCV reads its limit when it is imported: so in a process of its own. 9,000 squared are 81 million pixels."""
    (tmp_path / "bomb.png").write_bytes(cv2.imencode(".png", np.zeros((9_000, 9_000), np.uint8))[1].tobytes())
    script = "import sys; from zennas.data.images import decode; decode(open(sys.argv[1], 'rb').read())"
    ended = subprocess.run(
        [sys.executable, "-c", script, tmp_path / "bomb.png"], capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == 1 and "zennas.data.images.CorruptImageError" in ended.stderr
