"""From what a user gives to what a training of people runs on, or one clear error before the first step."""

import dataclasses
from typing import Any

from zennas.data.groups import people_in, people_of_batch
from zennas.data.images import check_augmentations
from zennas.data.stream import Stream, steps_per_epoch
from zennas.embed.model import Model
from zennas.records import UserError
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
from zennas.tasks.reid.head import ReidHead
from zennas.tasks.reid.look import check_upright
from zennas.tasks.reid.losses import classifier_knobs_of, mined_knobs_of
from zennas.tasks.reid.plan import ReidPlan
from zennas.tasks.reid.verify import cameras_of
from zennas.tasks.task import Data


def check_plan(plan: ReidPlan, where: str) -> None:
    """UserError for a name or a knob that its table does not know."""
    if plan.softmax is not None:
        classifier_knobs_of(plan.softmax.name, plan.softmax.knobs, where=f"{where}: train.softmax")
    if plan.triplet is not None:
        mined_knobs_of(plan.triplet.name, plan.triplet.knobs, where=f"{where}: train.triplet")
    if plan.centre is not None and plan.centre.knobs:
        raise UserError(f"{where}: train.centre.knobs: given {plan.centre.knobs}, allowed: none, it has no knobs")
    if plan.margin is not None:
        knobs_of(plan.margin.name, plan.margin.knobs, where=f"{where}: train.margin")
    check_distillation(plan, where)
    check_augmentations(plan.data.augment, f"{where}: train.data.augment")


def open_data(request, progress) -> Data:
    """The Data of the people, its first image looked at; who has few images is counted in a notice."""
    source = open_images(request, progress)
    check_upright(source, request.data, request.space.shape)
    data, each = data_of(request, source), request.plan.data.images_per_person
    text = "" if each is None else people_in(source.label_N, each, camera_N=cameras_of(source)).text
    return dataclasses.replace(data, notices=(*data.notices, *filter(None, [text])))


def check_data(request, data: Data, teacher: Model | None, ranks, progress) -> None:
    """UserError where nothing can be learnt of these people on this machine; a warning where some can teach little."""
    check_identities(request, data.source, teacher, progress, what="people")
    epoch_steps(request.plan, data)
    plan = request.plan
    if each := plan.data.images_per_person:
        people_of_batch(plan.batch, each, num_ranks=ranks.num_ranks, accumulate=plan.accumulate)
        people = people_in(data.source.label_N, each)
        if plan.triplet is not None and people.num_single == people.num_people:
            raise UserError(
                f"{request.data}: each of its {people.num_people:,} people has one image, and triplets are of two: are "
                "the labels right? triplet=null trains without"
            )
    if plan.margin is not None:
        check_memory(plan.margin, request, data.source, ranks)


def epoch_steps(plan: ReidPlan, data: Data) -> int:
    """The steps of an epoch."""
    return steps_per_epoch(data.source, plan.batch, together=plan.data.images_per_person)


def stream(request, data: Data, **steps: Any) -> Stream:
    """The batches of a training. steps: as `stream_of` takes them."""
    each = request.plan.data.images_per_person
    return stream_of(request, data, together=each, camera_N=data.source.camera_N, **steps)


def head(request, data: Data, network, teacher: Model | None, ranks, progress) -> ReidHead:
    """The ReidHead of a training. The teacher's embeddings of all images are made here, which takes long."""
    plan, source = request.plan, data.source
    margin = None
    if plan.margin is not None:
        count_C = images_each(source, plan.data.images_per_person)
        margin = classifier_of(plan.margin, request, source, ranks, count_C=count_C)
    return ReidHead(
        network,
        plan,
        num_people=source.num_identities,
        ranks=ranks,
        margin=margin,
        guide=guide_of(request, source, network, teacher, ranks, progress),
        say=lambda text: progress.say(text, style="yellow"),
    )
