"""Masks a share of the images, for training and for `zennas mask`."""

import hashlib
import pathlib
from typing import NamedTuple, Protocol

import numpy as np

from zennas.data.images import check_knobs
from zennas.mask.landmarks import Landmarker
from zennas.mask.render import MaskedFace, masked, vary
from zennas.mask.textures import Wardrobe, load_templates, wardrobe
from zennas.records import UserError, suggestion
from zennas.tasks.face.crops import ALIGNED, FACES

TEXTURES = "data.mask.textures"  # of a recipe


class Worn(NamedTuple):
    """What became of an image that was to be masked: the name of its texture and variant, the MaskedFace and the score
    of its mesh; `masked` is None where it was passed over, and `why` says why."""

    kind: str
    variant: int
    score: float
    masked: MaskedFace | None
    why: str = ""


class Masks(Protocol):
    """What a MaskPlan (zennas/tasks/face/plan.py) says."""

    @property
    def ratio(self) -> float: ...
    @property
    def kinds(self) -> tuple[str, ...] | None: ...
    @property
    def textures(self) -> str | None: ...
    @property
    def faces(self) -> str: ...
    @property
    def knobs(self) -> dict[str, float]: ...


class Masker:
    """Callable (image_HW3 uint8 RGB, rng) -> image_HW3: masked with probability `ratio`
    where a face is fitted, else as it is.

    All randomness is the rng's, from which an image that stays as it is takes one number. It may be pickled or forked.
    """

    def __init__(
        self, dressing: Wardrobe, *, ratio: float = 0.15, look: str = ALIGNED, knobs: dict[str, float] | None = None
    ):
        self.dressing, self.ratio, self.knobs = dressing, ratio, knobs or {}
        self.landmarker = Landmarker(look)

    def __call__(self, image_HW3: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if rng.random() >= self.ratio:
            return image_HW3
        worn = self.worn(image_HW3, rng)
        return image_HW3 if worn.masked is None else worn.masked.image_HW3

    def worn(self, image_HW3: np.ndarray, rng: np.random.Generator) -> Worn:
        """The Worn of an image, whatever the ratio."""
        texture = self.dressing.draw(rng)
        face = self.landmarker.find(image_HW3)
        if face.point_V3 is None:
            return Worn(texture.name, texture.variant, face.score, None, face.why)
        done = masked(image_HW3, face.point_V3, texture, rng, knobs=self.knobs)
        if not done.alpha_HW.any():
            return Worn(texture.name, texture.variant, face.score, None, "the mask lies outside the image")
        return Worn(texture.name, texture.variant, face.score, done)


def masker_of(plan: Masks | None, *, seed: int) -> Masker | None:
    """The Masker of a MaskPlan (zennas/tasks/face/plan.py), or None where it masks nothing."""
    if plan is None or plan.ratio == 0:
        return None
    dressing = wardrobe(plan.kinds, plan.textures, seed=seed, where="data.mask.kinds", textures_where=TEXTURES)
    return Masker(dressing, ratio=plan.ratio, look=plan.faces, knobs=plan.knobs)


def check_mask_plan(plan: Masks | None, where: str) -> None:
    """UserError for a kind, a knob or a template of a MaskPlan that cannot be used."""
    if plan is None:
        return
    check_look(plan.faces, f"{where}.faces")
    check_knobs(vary, plan.knobs, f"{where}.knobs")
    wardrobe(plan.kinds, plan.textures, where=f"{where}.kinds", textures_where=f"{where}.textures")


def check_look(look: str, where: str) -> None:
    """UserError for a way to look at images that is not known."""
    if look not in FACES:
        raise UserError(f"{where}: '{look}' is not known; {suggestion(str(look), list(FACES))}")


def templates_fingerprint(folder: pathlib.Path | str, *, where: str = "--textures") -> str:
    """What a folder of templates holds, as 16 hexadecimal digits: the same wherever it lies.
    UserError where it holds none.
    """
    digest = hashlib.sha256()
    for template in load_templates(folder, where=where):
        digest.update(template.name.encode() + b"\0")
        digest.update(template.rgba_HW4.tobytes())
    return digest.hexdigest()[:16]
