"""Decoding, and the contract of every augmentation."""

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
