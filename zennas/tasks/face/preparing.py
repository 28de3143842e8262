"""From what a user gives to what a training of faces runs on, or one clear error before the first step."""

import pathlib
from typing import Any

from zennas.data.images import check_augmentations
from zennas.data.sources import open_source
from zennas.data.stream import Stream, steps_per_epoch
from zennas.embed.model import Model
from zennas.mask.masker import check_mask_plan, masker_of
from zennas.tasks.face.crops import AUTO, source_of_crops
from zennas.tasks.face.head import FaceHead
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.identity.losses import knobs_of
from zennas.tasks.identity.preparing import (
    check_distillation,
    check_identities,
    check_memory,
    classifier_of,
    data_of,
    guide_of,
    images_each,
    open_images,
    stream_of,
)
from zennas.tasks.task import Data


def check_plan(plan: FacePlan, where: str) -> None:
    """UserError for a name or a knob that its table does not know."""
    knobs_of(plan.loss.name, plan.loss.knobs, where=f"{where}: train.loss")
    check_distillation(plan, where)
    check_augmentations(plan.data.augment, f"{where}: train.data.augment")
    check_mask_plan(plan.data.mask, f"{where}: train.data.mask")


def look(data: pathlib.Path, shape, progress) -> None:
    """UserError where a sample of the images at `data` looks like photographs."""
    progress.begin(f"looking at {data}")
    try:
        source_of_crops(open_source(data, progress=progress.counting("images")), AUTO, data)
    finally:
        progress.end()


def open_data(request, progress) -> Data:
    """The Data of the faces, its first image looked at."""
    source = source_of_crops(open_images(request, progress), request.faces, request.data)
    return data_of(request, source)


def check_data(request, data: Data, teacher: Model | None, ranks, progress) -> None:
    """UserError where nothing can be learnt of these faces on this machine; a warning where some can teach little."""
    check_identities(request, data.source, teacher, progress, what="faces")
    epoch_steps(request.plan, data)
    check_memory(request.plan.loss, request, data.source, ranks)


def epoch_steps(plan: FacePlan, data: Data) -> int:
    """The steps of an epoch."""
    return steps_per_epoch(data.source, plan.batch, images_per_identity=plan.data.images_per_identity)


def stream(request, data: Data, **steps: Any) -> Stream:
    """The batches of a training. steps: as `stream_of` takes them."""
    plan = request.plan
    masker = masker_of(plan.data.mask, seed=plan.seed)
    return stream_of(request, data, masker=masker, images_per_identity=plan.data.images_per_identity, **steps)


def head(request, data: Data, network, teacher: Model | None, ranks, progress) -> FaceHead:
    """The FaceHead of a training. The teacher's embeddings of all faces are made here, which takes long."""
    plan, source = request.plan, data.source
    count_C = images_each(source, plan.data.images_per_identity)
    classifier = classifier_of(plan.loss, request, source, ranks, count_C=count_C)
    return FaceHead(network, classifier, guide_of(request, source, network, teacher, ranks, progress), plan)
