"""What a network sees while it is timed. One row of INPUTS is all that a new input takes.

How long a network takes depends on the values: ONNX Runtime's PReLU goes by the sign of every number, and is faster
where neighbours agree, as they do behind a face. Behind noise whole networks took up to a third longer
(experiments/latency-input). So a protocol names its input, and untrained networks and their parts get norms that fit.

B of a batch, N images, C channels, H height, W width
"""

import hashlib
import io
import math
import pathlib
import re
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from zennas.data.images import LUMA_3, CorruptImageError, decode, resized
from zennas.data.listing import IMAGE_SUFFIXES, is_users_image
from zennas.records import UserError, suggestion
from zennas.run_folder import cache_folder, write_atomically
from zennas.space.blocks import BLOCKS, STEMS, block, ends, stem, stem_stride
from zennas.space.network import calibrate, initialise
from zennas.space.parts import Part
from zennas.track import Protocol

NOISE, FACE, IMAGES = "noise", "face", "images"
FACE_FILE = pathlib.Path(__file__).parent / "face.png"  # zennas.mask.synthetic's, of nobody
INPUT_SEED = 7
KEPT = re.compile(rf"{IMAGES}:[0-9a-f]{{12}}")
NUM_KEPT = 8  # of the images that a user gives: enough to set norms by
MOST_LOOKED_AT = 64
# Of the small network that leads to a part: the largest side of its image, its channels, and how many images it sees.
LEAD_PX, LEAD_CHANNELS, LEAD_IMAGES = 112, 32, 2


def face() -> np.ndarray:
    """The synthetic face that ships, as image_NHW3 (uint8): first as it is, then mirrored, darker and nearer, for the
    norms.
    """
    face_HW3 = decode(FACE_FILE.read_bytes())
    side = len(face_HW3)
    near = slice(side // 8, side - side // 8)
    darker_HW3 = (face_HW3 * 0.6).astype(np.uint8)
    return np.stack([face_HW3, face_HW3[:, ::-1], darker_HW3, resized(face_HW3[near, near], (side, side))])


# name -> image_NHW3 (uint8 RGB): the first of them are timed, all of them set the norms of untrained networks. None:
# Gaussian noise.
INPUTS: dict[str, Callable[[], np.ndarray] | None] = {NOISE: None, FACE: face}


def check_input(name: str) -> str:
    """The name of an input, where it is a row of INPUTS or stands for kept images. UserError names those there are."""
    if name not in INPUTS and not KEPT.fullmatch(name):
        raise UserError(f"input '{name}' is not known; {suggestion(name, list(INPUTS))}; images of yours: --images")
    return name


def given_images(path: pathlib.Path | str) -> str:
    """The input that stands for images of the user: a file, or a folder of files. They are kept.

    UserError where there is none that decodes.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise UserError(f"--images {path}: is not there")
    # Only files: to read a pipe would wait for ever.
    below = (file for file in path.rglob("*") if is_users_image(file.relative_to(path)) and file.is_file())
    files = [path] if path.is_file() else sorted(below)
    images, why = [], f"no file ends in {', '.join(IMAGE_SUFFIXES)}"
    for file in files:
        try:
            images.append(decode(file.read_bytes()))
        except (CorruptImageError, OSError) as error:
            why = f"{file.name}: {getattr(error, 'strerror', None) or error}"
        if len(images) == MOST_LOOKED_AT:
            break
    if not images:
        raise UserError(f"--images {path}: holds no image: {why}")
    return keep_images([_to_unit(image_HW3) for image_HW3 in images])


def keep_images(images: Sequence[np.ndarray]) -> str:
    """The input that stands for these image_CHW (float32, as a network sees them), of any sizes; they are kept, at the
    first one's size, under what they hold.

    One of middling contrast comes first: it is the one that is timed.
    """
    contrast_N = np.array([float(image_CHW.std()) for image_CHW in images])
    order_N = np.argsort(np.abs(contrast_N - np.median(contrast_N)), kind="stable")[:NUM_KEPT]
    hw = images[order_N[0]].shape[1:]
    image_NCHW = np.stack([_sized(images[at], hw) for at in order_N]).astype(np.float16)
    digest = hashlib.sha256(image_NCHW.tobytes() + repr(image_NCHW.shape).encode()).hexdigest()
    name = f"{IMAGES}:{digest[:12]}"
    if not _kept_path(name).is_file():
        hold_images(name, image_NCHW)
    return name


def seeing(protocol: Protocol, image_BCHW: torch.Tensor) -> Protocol:
    """The Protocol under which networks see these images, as their network sees them, in place of its own input. One
    whose rule is noise stays as it is.
    """
    if protocol.input == NOISE:
        return protocol
    return protocol.model_copy(update={"input": keep_images(list(image_BCHW.cpu().float().numpy()))})


def hold_images(name: str, image_NCHW: np.ndarray) -> None:
    """Keep images under the input that stands for them already: those of another machine, which is to measure."""
    path, content = _kept_path(name), io.BytesIO()
    np.save(content, image_NCHW)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, content.getvalue())
    except (OSError, UserError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: the images cannot be kept: {why}; set ZENNAS_CACHE to a writable folder") from None


def images_of(name: str) -> np.ndarray | None:
    """image_NCHW (float32, numbers about zero) of an input; None for noise. UserError where kept ones are gone."""
    if name in INPUTS:
        make = INPUTS[name]
        return None if make is None else np.stack([_to_unit(image_HW3) for image_HW3 in make()])
    check_input(name)
    path = _kept_path(name)
    try:
        return np.load(path).astype(np.float32)
    except (OSError, ValueError):
        raise UserError(f"{path}: the images of input '{name}' are gone; give them again with --images") from None


def sample(name: str, shape: Sequence[int]) -> np.ndarray:
    """One batch (float32) of an input, of the shape that is timed: (B, C, H, W) of images, or of anything else, which
    is noise whatever the input.
    """
    images_NCHW = images_of(name) if _is_of_images(shape[1:]) else None
    if images_NCHW is None:
        return np.random.default_rng(INPUT_SEED).standard_normal(shape, dtype=np.float32)
    return np.stack([_seen(images_NCHW[at % len(images_NCHW)], shape[1:]) for at in range(shape[0])])


def calibration(name: str, shape: Sequence[int]) -> torch.Tensor | None:
    """image_BCHW of an input, as a network of `shape` (C, H, W) sees it, that sets the norms of an untrained one; None
    for noise, and for what is no image.
    """
    images_NCHW = images_of(name) if _is_of_images(shape) else None
    if images_NCHW is None:
        return None
    return _batch(_for_norms(images_NCHW), shape)


def before_part(name: str, part: Part) -> torch.Tensor | None:
    """map_BCHW that a part of a network sees where the network sees an input; None for noise.

    They come from the images through a small network with calibrated norms: a stem, narrow blocks of the part's kind
    that halve the maps until they are the part's, and a 1x1 convolution that makes them as many.
    """
    images_NCHW = images_of(name)
    if images_NCHW is None:
        return None
    images_NCHW = _for_norms(images_NCHW)[:LEAD_IMAGES]
    if part.kind in STEMS:
        return _batch(images_NCHW, (part.in_channels, *part.in_hw))
    kind = part.kind if part.kind in BLOCKS else "ir"
    by, channels = stem_stride(kind), images_NCHW.shape[1]
    halvings = max(0, int(math.log2(LEAD_PX / by / max(part.in_hw))))
    image_BCHW = _batch(images_NCHW, (channels, *(side * by * 2**halvings for side in part.in_hw)))
    with torch.device("meta"):
        lead = nn.Sequential(
            stem(channels, LEAD_CHANNELS, ends(kind).stem),
            *(block(kind, LEAD_CHANNELS, LEAD_CHANNELS, 2) for _ in range(halvings)),
            nn.Conv2d(LEAD_CHANNELS, part.in_channels, 1, bias=False),
            nn.BatchNorm2d(part.in_channels),
        )
    with torch.no_grad():
        return calibrate(initialise(lead), image_BCHW)(image_BCHW)


def _for_norms(images_NCHW):
    """The images, and a single one mirrored, too: behind the pooling, where a map is one number, one image has no
    spread that a norm could be set by.
    """
    return np.concatenate([images_NCHW, images_NCHW[..., ::-1]]) if len(images_NCHW) == 1 else images_NCHW


def _is_of_images(shape):
    """Whether (C, H, W) may be an image: grey or RGB."""
    return len(shape) == 3 and shape[0] in (1, 3)


def _to_unit(image_HW3):
    """image_CHW as networks see it: (x - 127.5) / 127.5."""
    return ((image_HW3.astype(np.float32) - 127.5) / 127.5).transpose(2, 0, 1)


def _sized(image_CHW, hw):
    return np.ascontiguousarray(resized(image_CHW.transpose(1, 2, 0), hw).reshape(*hw, -1).transpose(2, 0, 1))


def _batch(images_NCHW, shape):
    return torch.from_numpy(np.stack([_seen(image_CHW, shape) for image_CHW in images_NCHW]))


def _seen(image_CHW, shape):
    """An image as a network of `shape` (C, H, W) sees it."""
    image_CHW = _sized(image_CHW, shape[1:])
    if len(image_CHW) == shape[0]:
        return image_CHW
    grey_HW = np.tensordot(np.float32(LUMA_3), image_CHW, 1) if len(image_CHW) == 3 else image_CHW[0]
    return np.repeat(grey_HW[None], shape[0], axis=0)


def _kept_path(name):
    return cache_folder("inputs") / f"{name.removeprefix(f'{IMAGES}:')}.npy"
