"""FacePlan: how a network learns to tell faces apart. The `train:` part of an experiment whose task is face.

What of it is about identities of any kind stands in zennas/tasks/identity/plan.py. Names resolve in losses.py and
distill.py beside that, in zennas/data/images.py (augmentations) and zennas/mask.
"""

from typing import Annotated

import pydantic

from zennas.records import Record
from zennas.tasks.identity.plan import DistillPlan, IdentityOptimizerPlan, LossPlan
from zennas.train_plan import DataPlan, Knobs, TrainPlan


class MaskPlan(Record):
    """Masks rendered onto faces, before the augmentations."""

    ratio: Annotated[float, pydantic.Field(ge=0, le=1)] = 0.15  # of the images, drawn anew every epoch; mind_ft's
    kinds: tuple[str, ...] | None = None  # rows of KINDS; None: all, or none where there are textures
    textures: str | None = None  # a folder of templates of one's own
    # Where a face stands in its image.
    # aligned: on the template
    # detect: anywhere
    # auto: aligned if the image is a small square and the face fits the template
    faces: str = "aligned"
    knobs: Knobs = {}  # how far masks vary: those of mask.render.vary


class FaceDataPlan(DataPlan):
    """What becomes of an image before the network sees it, and which images come."""

    augment: dict[str, Knobs] = {"flip": {"p": 0.5}}  # rows of AUGMENTATIONS, in order, with their knobs
    mask: MaskPlan | None = None  # None: nobody is masked
    # Identity-balanced: so many of everyone an epoch; None: every image once.
    images_per_identity: Annotated[int, pydantic.Field(ge=1, le=100_000)] | None = None


class FacePlan(TrainPlan):
    """The training of one network that tells faces apart."""

    loss: LossPlan = LossPlan()
    distill: DistillPlan = DistillPlan()  # in force where --teacher is given
    optimizer: IdentityOptimizerPlan = IdentityOptimizerPlan()
    data: FaceDataPlan = FaceDataPlan()

    def of_the_run(self) -> dict:
        """As TrainPlan; templates of masks are what they hold, not where they lie."""
        values = super().of_the_run()
        mask = values["data"].pop("mask")
        if mask is not None:  # a run without masks is what it was before there were any
            if mask["textures"] is not None:
                from zennas.mask.masker import TEXTURES, templates_fingerprint

                mask["textures"] = templates_fingerprint(mask["textures"], where=TEXTURES)
            values["data"]["mask"] = mask
        return values
