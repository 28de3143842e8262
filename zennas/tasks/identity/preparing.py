"""From what a user gives to what a training of identities runs on, or one clear error before the first step."""

from typing import Any

import numpy as np
import torch

from zennas.data.images import CorruptImageError, decode
from zennas.data.inputs import first_inputs
from zennas.data.left_out import line_of
from zennas.data.outlines import odd_outlines
from zennas.data.sources import AnySource, open_source
from zennas.data.stream import Stream, image_stream
from zennas.data.twins import twins
from zennas.devices import autocast_of, free_memory
from zennas.embed.model import Model
from zennas.embed.named import open_named
from zennas.records import UserError
from zennas.space.shape import height_and_width, px_text, sides
from zennas.tasks.identity.centres import CENTRE_OPTIMIZERS, centre_knobs
from zennas.tasks.identity.distill import DISTILLATIONS
from zennas.tasks.identity.distill import knobs_of as distill_knobs_of
from zennas.tasks.identity.guide import Guide
from zennas.tasks.identity.losses import knobs_of
from zennas.tasks.identity.partial_fc import PartialFC
from zennas.tasks.identity.plan import LossPlan
from zennas.tasks.task import Data

NUM_FIRST = 10  # images that are looked at before training: one of them must decode
CENTRE_MARGIN = 0.9  # of the machine's free memory that class centres and their optimizer may take


def check_distillation(plan, where: str) -> None:
    """UserError for a distillation, or a knob of it, that no table knows, or that the rest of the plan excludes."""
    distill_knobs_of(plan.distill.name, plan.distill.knobs, where=f"{where}: train.distill")
    if DISTILLATIONS[plan.distill.name].needs == "neighbours_BKD" and not plan.distill.precompute:
        raise UserError(
            f"{where}: train.distill: '{plan.distill.name}' mines the teacher's embeddings before training: "
            "precompute must be true"
        )
    if plan.compile and DISTILLATIONS[plan.distill.name].needs == "attention":
        raise UserError(
            f"{where}: train.compile: attention maps are read by hooks, which compiling passes by; set it to false"
        )


def open_images(request, progress) -> AnySource:
    """The Source of --data, --identities and --labels, its first image looked at."""
    progress.begin(f"opening {request.data}")
    source = open_source(
        request.data, identities=request.identities, labels=request.labels, progress=progress.counting("images")
    )
    progress.end()
    _check_first_images(request.data, source)
    return source


def data_of(request, source: AnySource) -> Data:
    """The Data that a Source is."""
    # What of the data is trained on, where that is not all of it.
    chosen = "".join(f", as {path} has them" for path in (request.labels or request.identities,) if path)
    return Data(
        source,
        source.images.fingerprint,
        {"num_images": source.num_images, "num_identities": source.num_identities},
        f"{source.num_images:,} images of {source.num_identities:,} identities{chosen}",
        (*source.notices, *odd_outlines(source.images, request.space.shape.hw)),
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
        what = f"{which} images are" if num > 1 else "the one image is"
        raise UserError(f"{path}: {what} corrupt; the last: {last}")


def trained_on(data: Data, the_set, text: str, progress) -> list[str]:
    """A sentence on images of a set, opened for --verify `text`, that are trained on, too; or none.

    A word and no refusal: a few of a million are no reason to train nothing, and whoever tries a recipe out may
    verify on what it trains on. It stands in result.json and in the report, beside the figures.
    """
    progress.begin(f"looking for images of {the_set.name} in {data.source.path}")
    found = twins(data.source, the_set.images, progress=progress.counting("images"))
    progress.end()
    if not len(found.image_T):
        return []
    first = f"{the_set.images.where(int(found.image_T[0]))} = {data.source.where(int(found.index_T[0]))}"
    some_only = (
        f"; {found.num_compared:,} of the {data.source.num_images:,} images of --data were compared, so it may be more"
        if found.num_compared < data.source.num_images
        else ""
    )
    return [
        f"--verify {text}: {len(found.image_T):,} of its {the_set.images.num_images:,} images are trained on, too, the "
        f"first: {first}; its figures are better than they would be on people who are new{some_only}"
    ]


def check_identities(request, source: AnySource, teacher: Model | None, progress, *, what: str) -> None:
    """UserError where nothing can be learnt of these identities; a warning where some can teach little. what: they are,
    in words: "people"."""
    if source.num_identities < 2:
        line = line_of(source.left_out)
        raise UserError(
            f"{request.data}: {source.num_identities} identity{f' ({line})' if line else ''}; telling {what} apart "
            "takes at least 2"
        )
    if source.num_empty_identities:
        progress.say(
            f"warning: {source.num_empty_identities} of {source.num_identities} identities of {request.data} have no "
            "image; their centres are only ever negatives",
            style="yellow",
        )
    if teacher is None and not request.plan.distill.class_weight:
        raise UserError(
            "distill.class_weight 0 leaves the labels out, and without --teacher nothing is left to learn from"
        )


def stream_of(request, data: Data, *, first_step: int, last_step: int, ranks, num_workers: int, **own: Any) -> Stream:
    """The batches of a training, from first_step on. own: what of `image_stream` the task has itself: its groups, its
    masks.
    """
    plan = request.plan
    return image_stream(
        data.source,
        batch=plan.batch,
        image_px=request.space.shape.hw,
        seed=plan.seed,
        augmentations=plan.data.augment,
        first_step=first_step,
        last_step=last_step,
        rank=ranks.rank,
        num_ranks=ranks.num_ranks,
        num_workers=num_workers,
        pin_memory=ranks.device.type == "cuda",
        **own,
    )


def some_inputs(request, data: Data, num: int) -> torch.Tensor:
    """What the network sees of the first images that decode."""
    return first_inputs(data.source.images, request.space.shape, num)


def classifier_of(loss: LossPlan, request, source: AnySource, ranks, *, count_C: np.ndarray) -> PartialFC:
    """The PartialFC of a margin loss over the identities of a Source. count_C: images of each in an epoch."""
    plan = request.plan
    return PartialFC(
        source.num_identities,
        request.space.embedding_size,
        loss=loss.name,
        knobs=loss.knobs,
        optimizer=plan.optimizer.name,
        optimizer_knobs=centre_knobs(plan.optimizer),
        sampling_rate=loss.sampling_rate,
        count_C=count_C,
        filter_threshold=loss.filter_threshold,
        correct_sampling=loss.correct_sampling,
        seed=plan.seed,
        ranks=ranks,
    )


def images_each(source: AnySource, num_each: int | None) -> np.ndarray:
    """count_C: how many images of each identity an epoch shows: all there are or, where the plan says so, as many of
    everyone.

    What is seen, not what there is: with identity-balanced sampling everyone is seen equally often.
    """
    count_C = np.bincount(source.label_N, minlength=source.num_identities)
    return np.where(count_C > 0, num_each, 0) if num_each else count_C


def guide_of(request, source: AnySource, network, teacher: Model | None, ranks, progress) -> Guide | None:
    """The Guide of a training with a teacher, whose embeddings of all images may be made here, which takes long."""
    if teacher is None:
        return None
    return Guide(
        request.plan.distill,
        teacher,
        source,
        network,
        ranks=ranks,
        folder=request.shared or request.out,
        seed=request.plan.seed,
        progress=progress,
    )


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


def check_memory(loss: LossPlan, request, source: AnySource, ranks) -> None:
    """UserError where the class centres of this rank cannot fit, before hours are spent on reaching that."""
    states = sum(CENTRE_OPTIMIZERS[request.plan.optimizer.name][1].values())
    subcentres = knobs_of(loss.name, loss.knobs)["subcentres"]
    mine = -(-source.num_identities // ranks.num_ranks) * subcentres
    rate = loss.sampling_rate
    images = request.plan.batch / request.plan.accumulate
    needed = 4 * request.space.embedding_size * mine * (1 + states + 2 * rate) + 4 * images * mine * rate
    free = free_memory(ranks.device)
    if free is not None and ranks.device.type == "cpu":
        free /= ranks.num_local
    if free is not None and needed > CENTRE_MARGIN * free:
        raise UserError(
            f"{mine:,} class centres of {request.space.embedding_size} numbers take {needed / 2**30:.1f} GiB a step "
            f"on this rank, and {free / 2**30:.1f} GiB are free; give more ranks, or a lower loss.sampling_rate (now "
            f"{rate:g})"
        )
