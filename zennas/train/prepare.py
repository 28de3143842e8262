"""From what a user asks for to everything a training needs, or one clear error before the first step."""

import dataclasses

import numpy as np
import torch
from torch import nn

from zennas.data.images import CorruptImageError, check_augmentations, decode
from zennas.data.sources import Source, open_source
from zennas.data.stream import steps_per_epoch
from zennas.embed.model import open_model, sides
from zennas.mask.masker import check_mask_plan
from zennas.provenance import num_cores
from zennas.records import UserError
from zennas.space.cost import cost
from zennas.space.network import build
from zennas.tasks.face.centres import CENTRE_OPTIMIZERS, centre_knobs
from zennas.tasks.face.distill import DISTILLATIONS
from zennas.tasks.face.distill import knobs_of as distill_knobs_of
from zennas.tasks.face.guide import Guide
from zennas.tasks.face.losses import knobs_of
from zennas.tasks.face.partial_fc import PartialFC
from zennas.tasks.face.verify import check_images, open_set
from zennas.train.checkpoints import COMMON
from zennas.train.options import Options

MAX_WORKERS = 8  # decoding processes of a rank, where the plan leaves it open
CENTRE_MARGIN = 0.9  # of the machine's free memory that class centres and their optimizer may take


@dataclasses.dataclass(frozen=True)
class Job:
    """A training made ready."""

    options: Options
    source: Source
    network: nn.Module
    head: PartialFC
    guide: Guide | None
    sets: tuple
    steps_per_epoch: int
    num_steps: int
    num_workers: int
    autocast: torch.dtype | None


def check_fit(options):
    """UserError where the winner is none for its track: its embedding, size or block."""
    space, limits, candidate = options.space, options.track.limits, options.candidate
    spent = cost(candidate, image_px=space.image_px, embedding_size=space.embedding_size)
    if options.any_size:
        return spent
    if limits.max_embedding_size is not None and space.embedding_size > limits.max_embedding_size:
        raise UserError(
            f"space {space.name} has embeddings of {space.embedding_size} numbers; "
            f"track {options.track.name} allows at most {limits.max_embedding_size}"
        )
    if limits.max_mb is not None and spent.megabytes > limits.max_mb:
        raise UserError(
            f"{candidate.text} takes {spent.megabytes:.0f} MB; track {options.track.name} allows at most "
            f"{limits.max_mb:g} MB; "
            "--any-size trains it all the same (a teacher)"
        )
    return spent


def check_plan(plan, where):
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


def open_data(options, progress):
    """The Source of the faces, its first image looked at."""
    progress.begin(f"opening {options.data}")
    source = open_source(
        options.data, identities=options.identities, labels=options.labels, progress=progress.counting("images")
    )
    progress.end()
    for number in range(source.num_images):
        try:
            decode(source.read(number))
            break
        except CorruptImageError as error:
            if number == 9:
                raise UserError(f"{options.data}: the first ten images are corrupt; the last: {error}") from None
    return source


def open_sets(options, ranks):
    """The verification sets, on the first rank; UserError for one that cannot be used, or a --from that is no
    checkpoint.
    """
    sets = []

    def open_them():
        if options.start is not None and not (options.start / COMMON).is_file():
            raise UserError(
                f"--from {options.start}: no checkpoint; give a folder such as OUT/checkpoints/step-000000840"
            )
        sets.extend(open_set(text) for text in options.verify)
        for pair_set in sets:
            check_images(pair_set)

    ranks.on_first(open_them)
    return tuple(sets)


def prepare(options, source, teacher, ranks, progress, *, sets=()):
    """The Job of these Options; `source`, `teacher` (or None) and `sets` are opened. What takes long comes last."""
    plan, space = options.plan, options.space
    if plan.batch % (ranks.num_ranks * plan.accumulate):
        raise UserError(
            f"batch {plan.batch} cannot be shared out over {ranks.num_ranks} ranks in {plan.accumulate} "
            f"micro-batches each; "
            f"allowed: a multiple of {ranks.num_ranks * plan.accumulate}"
        )
    if plan.batch // (ranks.num_ranks * plan.accumulate) < 2:
        raise UserError(f"batch {plan.batch}: a micro-batch of one image has no statistics for the norms; at least 2")
    if source.num_identities < 2:
        raise UserError(f"{options.data}: {source.num_identities} identity; telling faces apart takes at least 2")
    if source.num_empty_identities:
        progress.say(
            f"warning: {source.num_empty_identities} of {source.num_identities} identities of {options.data} have no "
            f"image; "
            "their centres are only ever negatives",
            style="yellow",
        )
    if teacher is None and not plan.distill.class_weight:
        raise UserError(
            "distill.class_weight 0 leaves the labels out, and without --teacher nothing is left to learn from"
        )
    autocast = autocast_of(plan.precision, ranks.device)
    each = plan.data.images_per_identity
    epoch_steps = steps_per_epoch(source, plan.batch, images_per_identity=each)
    _check_memory(options, source, ranks)
    # What is seen in an epoch, not what there is: with identity-balanced sampling everyone is seen equally often.
    count_C = np.bincount(source.label_N, minlength=source.num_identities)
    if each:
        count_C = np.where(count_C > 0, each, 0)
    head = PartialFC(
        source.num_identities,
        space.embedding_size,
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
    network = initial_network(options.candidate, space, seed=plan.seed)
    guide = None
    if teacher is not None:
        guide = Guide(
            plan.distill,
            teacher,
            source,
            network,
            ranks=ranks,
            folder=options.out,
            seed=plan.seed,
            progress=progress,
        )
    return Job(
        options=options,
        source=source,
        network=network.to(ranks.device),
        head=head,
        guide=guide,
        sets=sets,
        steps_per_epoch=epoch_steps,
        num_steps=max(1, round(plan.epochs * epoch_steps)),
        num_workers=_num_workers(plan, ranks),
        autocast=autocast,
    )


def _num_workers(plan, ranks):
    """Decoding processes of a rank: on a GPU its share of the machine's cores; on a processor one, beside the training
    itself.
    """
    if plan.data.workers is not None:
        return plan.data.workers
    if ranks.device.type == "cuda":
        return max(1, min(MAX_WORKERS, num_cores() // ranks.num_local))
    return int(num_cores() > 1)


def initial_network(candidate, space, *, seed):
    """The Network as training begins, in training mode.

    Its fully connected layer begins as torch's does, as in insightface's recipe, not with the Gaussians that untrained
    networks are compared with: behind it stands a norm, so its length decides nothing but how fast it turns.
    """
    generator = torch.Generator().manual_seed(seed)
    network = build(candidate, image_px=space.image_px, embedding_size=space.embedding_size, generator=generator)
    for layer in network.neck:
        if isinstance(layer, nn.Linear):
            bound = layer.in_features**-0.5
            with torch.no_grad():
                layer.weight.uniform_(-bound, bound, generator=generator)
    return network.train()


def autocast_of(precision, device):
    """The dtype of autocast, or None for float32. UserError where the device has no such arithmetic."""
    if precision == "auto":
        if device.type != "cuda":
            return None
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision fp16 is for GPUs; on a processor: fp32 or bf16")
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def open_teacher_of(options, ranks):
    """The Model that --teacher names, or None. UserError where it cannot see what it is to be shown."""
    if options.teacher is None:
        return None
    plan, px = options.plan.distill, options.space.image_px
    live = not plan.precompute or DISTILLATIONS[plan.name].needs == "attention"
    dtype = autocast_of("auto", ranks.device) or torch.float32
    try:
        teacher = open_model(
            options.teacher,
            mean=plan.teacher.mean,
            std=plan.teacher.std,
            device=ranks.device,
            image_px=plan.teacher.image_px or px,
            dtype=dtype,
            trusted=True,  # the user's own, as --help says
        )
    except UserError as error:
        raise UserError(f"--teacher {error}") from None
    takes = f"{options.teacher}: takes images of {sides(teacher.input_hw)}"
    if plan.teacher.image_px is not None and teacher.input_hw != (plan.teacher.image_px,) * 2:
        raise UserError(f"{takes}; distill.teacher.image_px says {plan.teacher.image_px}")
    if live and teacher.input_hw != (px, px):
        raise UserError(
            f"{takes}, the student of {px} x {px}; a teacher that sees the augmented images must take the same "
            "(distill.precompute: true asks it about the images as they are, at its own size)"
        )
    return teacher


def _check_memory(options, source, ranks):
    """UserError where the class centres of this rank cannot fit, before hours are spent on reaching that."""
    states = sum(CENTRE_OPTIMIZERS[options.plan.optimizer.name][1].values())
    subcentres = knobs_of(options.plan.loss.name, options.plan.loss.knobs)["subcentres"]
    mine = -(-source.num_identities // ranks.num_ranks) * subcentres
    rate = options.plan.loss.sampling_rate
    faces = options.plan.batch / options.plan.accumulate
    needed = 4 * options.space.embedding_size * mine * (1 + states + 2 * rate) + 4 * faces * mine * rate
    free = free_memory(ranks.device)
    if free is not None and ranks.device.type == "cpu":
        free /= ranks.num_local
    if free is not None and needed > CENTRE_MARGIN * free:
        raise UserError(
            f"{mine:,} class centres of {options.space.embedding_size} numbers take {needed / 2**30:.1f} GiB a step "
            f"on this "
            f"rank, and {free / 2**30:.1f} GiB are free; give more ranks, or a lower loss.sampling_rate (now {rate:g})"
        )


def free_memory(device):
    """Bytes that are free on a device, or None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            values = dict(line.split(":") for line in file)
        return int(values["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
