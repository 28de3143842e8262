"""From what a user gives to what a training of faces runs on, or one clear error before the first step."""

import pathlib

import numpy as np
import torch

from zennas.data.images import CorruptImageError, check_augmentations, decode
from zennas.data.inputs import first_inputs
from zennas.data.sources import open_source
from zennas.data.stream import Stream, image_stream, steps_per_epoch
from zennas.devices import autocast_of, free_memory
from zennas.embed.model import Model, sides
from zennas.embed.named import open_named
from zennas.mask.masker import check_mask_plan, masker_of
from zennas.records import UserError
from zennas.space.shape import height_and_width, px_text
from zennas.tasks.face.centres import CENTRE_OPTIMIZERS, centre_knobs
from zennas.tasks.face.crops import AUTO, source_of_crops
from zennas.tasks.face.distill import DISTILLATIONS
from zennas.tasks.face.distill import knobs_of as distill_knobs_of
from zennas.tasks.face.guide import Guide
from zennas.tasks.face.head import FaceHead
from zennas.tasks.face.losses import knobs_of
from zennas.tasks.face.partial_fc import PartialFC
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.task import Data

NUM_FIRST = 10  # images that are looked at before training: one of them must decode
CENTRE_MARGIN = 0.9  # of the machine's free memory that class centres and their optimizer may take


def check_plan(plan: FacePlan, where: str) -> None:
    """UserError for a name or a knob that its table does not know."""
    knobs_of(plan.loss.name, plan.loss.knobs, where=f"{where}: train.loss")
    distill_knobs_of(plan.distill.name, plan.distill.knobs, where=f"{where}: train.distill")
    check_augmentations(plan.data.augment, f"{where}: train.data.augment")
    check_mask_plan(plan.data.mask, f"{where}: train.data.mask")
    if DISTILLATIONS[plan.distill.name].needs == "neighbours_BKD" and not plan.distill.precompute:
        raise UserError(
            f"{where}: train.distill: '{plan.distill.name}' mines the teacher's embeddings before training: "
            "precompute must be true"
        )
    if plan.compile and DISTILLATIONS[plan.distill.name].needs == "attention":
        raise UserError(
            f"{where}: train.compile: attention maps are read by hooks, which compiling passes by; set it to false"
        )


def look(data: pathlib.Path, progress) -> None:
    """UserError where a sample of the images at `data` looks like photographs."""
    progress.begin(f"looking at {data}")
    try:
        source_of_crops(open_source(data, progress=progress.counting("images")), AUTO, data)
    finally:
        progress.end()


def open_data(request, progress) -> Data:
    """The Data of the faces, its first image looked at."""
    progress.begin(f"opening {request.data}")
    source = open_source(
        request.data, identities=request.identities, labels=request.labels, progress=progress.counting("images")
    )
    progress.end()
    _check_first_images(request.data, source)
    source = source_of_crops(source, request.faces, request.data)
    # What of the data is trained on, where that is not all of it.
    chosen = "".join(f", as {path} has them" for path in (request.labels or request.identities,) if path)
    return Data(
        source,
        source.images.fingerprint,
        {"num_images": source.num_images, "num_identities": source.num_identities},
        f"{source.num_images:,} images of {source.num_identities:,} identities{chosen}",
        tuple(source.notices),
    )


def _check_first_images(path, source) -> None:
    """UserError where none of the first images (NUM_FIRST, or all of a smaller source) can be decoded."""
    num = min(NUM_FIRST, source.num_images)
    for number in range(num):
        try:
            decode(source.read(number))
            return
        except CorruptImageError as error:
            last = error
    if num:
        which = "the first ten" if num == NUM_FIRST else f"all {num}"
        raise UserError(f"{path}: {which} images are corrupt; the last: {last}")


def check_data(request, data: Data, teacher: Model | None, ranks, progress) -> None:
    """UserError where nothing can be learnt of these faces on this machine; a warning where some can teach little."""
    plan, source = request.plan, data.source
    if source.num_identities < 2:
        raise UserError(f"{request.data}: {source.num_identities} identity; telling faces apart takes at least 2")
    if source.num_empty_identities:
        progress.say(
            f"warning: {source.num_empty_identities} of {source.num_identities} identities of {request.data} have no "
            "image; their centres are only ever negatives",
            style="yellow",
        )
    if teacher is None and not plan.distill.class_weight:
        raise UserError(
            "distill.class_weight 0 leaves the labels out, and without --teacher nothing is left to learn from"
        )
    epoch_steps(plan, data)
    _check_memory(request, source, ranks)


def epoch_steps(plan: FacePlan, data: Data) -> int:
    """The steps of an epoch."""
    return steps_per_epoch(data.source, plan.batch, images_per_identity=plan.data.images_per_identity)


def stream(request, data: Data, *, first_step: int, last_step: int, ranks, num_workers: int) -> Stream:
    """The batches of a training, from first_step on."""
    plan = request.plan
    return image_stream(
        data.source,
        batch=plan.batch,
        image_px=request.space.shape.hw,
        seed=plan.seed,
        augmentations=plan.data.augment,
        masker=masker_of(plan.data.mask, seed=plan.seed),
        images_per_identity=plan.data.images_per_identity,
        first_step=first_step,
        last_step=last_step,
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        num_workers=num_workers,
        pin_memory=ranks.device.type == "cuda",
    )


def some_inputs(request, data: Data, num: int) -> torch.Tensor:
    """What the network sees of the first faces that decode."""
    return first_inputs(data.source.images, request.space.shape, num)


def head(request, data: Data, network, teacher: Model | None, ranks, progress) -> FaceHead:
    """The FaceHead of a training. The teacher's embeddings of all faces are made here, which takes long."""
    plan, source = request.plan, data.source
    # What is seen in an epoch, not what there is: with identity-balanced sampling everyone is seen equally often.
    count_C = np.bincount(source.label_N, minlength=source.num_identities)
    if num_each := plan.data.images_per_identity:
        count_C = np.where(count_C > 0, num_each, 0)
    classifier = PartialFC(
        source.num_identities,
        request.space.embedding_size,
        loss=plan.loss.name,
        knobs=plan.loss.knobs,
        optimizer=plan.optimizer.name,
        optimizer_knobs=centre_knobs(plan.optimizer),
        sampling_rate=plan.loss.sampling_rate,
        count_C=count_C,
        filter_threshold=plan.loss.filter_threshold,
        correct_sampling=plan.loss.correct_sampling,
        seed=plan.seed,
        ranks=ranks,
    )
    guide = None
    if teacher is not None:
        guide = Guide(
            plan.distill,
            teacher,
            source,
            network,
            ranks=ranks,
            folder=request.shared or request.out,
            seed=plan.seed,
            progress=progress,
        )
    return FaceHead(network, classifier, guide, plan)


def open_teacher(request, ranks) -> Model | None:
    """The Model that --teacher names, or None. UserError where it cannot see what it is to be shown."""
    if request.teacher is None:
        return None
    plan, hw = request.plan.distill, request.space.shape.hw
    live = not plan.precompute or DISTILLATIONS[plan.name].needs == "attention"
    dtype = autocast_of("auto", ranks.device) or torch.float32
    recipe = {
        "mean": plan.teacher.mean,
        "std": plan.teacher.std,
        "image_px": plan.teacher.image_px or hw,
        "dtype": dtype,
        "trusted": True,  # the user's own, as --help says
    }
    teacher = open_named(request.teacher, device=ranks.device, option="--teacher", unless_named=recipe).model
    takes = f"{request.teacher}: takes images of {sides(teacher.input_hw)}"
    if plan.teacher.image_px is not None and teacher.input_hw != height_and_width(plan.teacher.image_px):
        raise UserError(f"{takes}; distill.teacher.image_px says {px_text(height_and_width(plan.teacher.image_px))}")
    if live and teacher.input_hw != hw:
        raise UserError(
            f"{takes}, the student of {sides(hw)}; a teacher that sees the augmented images must take the same "
            "(distill.precompute: true asks it about the images as they are, at its own size)"
        )
    return teacher


def _check_memory(request, source, ranks):
    """UserError where the class centres of this rank cannot fit, before hours are spent on reaching that."""
    states = sum(CENTRE_OPTIMIZERS[request.plan.optimizer.name][1].values())
    subcentres = knobs_of(request.plan.loss.name, request.plan.loss.knobs)["subcentres"]
    mine = -(-source.num_identities // ranks.num_ranks) * subcentres
    rate = request.plan.loss.sampling_rate
    faces = request.plan.batch / request.plan.accumulate
    needed = 4 * request.space.embedding_size * mine * (1 + states + 2 * rate) + 4 * faces * mine * rate
    free = free_memory(ranks.device)
    if free is not None and ranks.device.type == "cpu":
        free /= ranks.num_local
    if free is not None and needed > CENTRE_MARGIN * free:
        raise UserError(
            f"{mine:,} class centres of {request.space.embedding_size} numbers take {needed / 2**30:.1f} GiB a step "
            f"on this rank, and {free / 2**30:.1f} GiB are free; give more ranks, or a lower loss.sampling_rate (now "
            f"{rate:g})"
        )
