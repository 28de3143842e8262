"""Guide: what a teacher gives its student, step by step: embeddings computed before, or its own answers; the bank."""

import hashlib
import pathlib

import numpy as np
import torch

from zennas.data.inputs import normalised
from zennas.embed.embeddings import precompute
from zennas.embed.features import Features, attention_of
from zennas.embed.model import Model
from zennas.progress import Progress
from zennas.ranks import Ranks
from zennas.tasks.identity.distill import (
    DISTILLATIONS,
    Bank,
    knobs_of,
    projection,
    prototypes,
    similar_identities,
    unit,
)
from zennas.tasks.identity.plan import DistillPlan

NUM_NEIGHBOURS = 100  # CoupleFace's K
TEACHER_BATCH = {"cpu": 64, "cuda": 512}  # images that a teacher is asked about at a time


class Guide:
    """A distillation made ready for one training: `loss` of a batch, `projection` to train with the student."""

    def __init__(
        self,
        plan: DistillPlan,
        teacher: Model,
        source,
        network: torch.nn.Module,
        *,
        ranks: Ranks,
        folder: pathlib.Path,
        seed: int,
        progress: Progress,
    ):
        self.plan, self.teacher, self.ranks, self.seed = plan, teacher, ranks, seed
        self.knobs = knobs_of(plan.name, plan.knobs, where="distill")
        self.row = DISTILLATIONS[plan.name]
        self.weight = self.row.weight if plan.weight is None else plan.weight
        self.uses_attention, needs_bank = self.row.needs == "attention", self.row.needs == "neighbours_BKD"
        self.embedding_ND = self.bank = None
        self._check(network)
        name = hashlib.sha256(f"{teacher.fingerprint} {source.images.fingerprint}".encode()).hexdigest()[:12]
        if plan.precompute and not self.uses_attention:
            self.embedding_ND = _precomputed(teacher, source, ranks, folder / f"teacher-{name}.npy", progress)
        if needs_bank:
            self.bank = _bank(self.embedding_ND, source, ranks, folder, name, progress)
        generator, self.projection = torch.Generator().manual_seed(seed), None
        if not self.uses_attention:  # a weight that no loss reads would keep parallel training waiting for its gradient
            student_size = network.shape.embedding_size
            self.projection = projection(student_size, teacher.embedding_size, generator=generator).to(ranks.device)

    def _check(self, network):
        """UserError where the student's attention maps do not pair with the teacher's: two black images show it."""
        if not self.uses_attention:
            return
        black_BHW3 = torch.zeros(2, *network.input_shape[1:], 3, dtype=torch.uint8)
        training = network.training
        with torch.no_grad(), attention_of(network.eval()) as maps:
            embedding_BD = network(normalised(black_BHW3, torch.device("cpu"), channels=network.shape.channels))
            student = Features(embedding_BD, maps.take())
        network.train(training)
        teacher = self.teacher(black_BHW3)
        teacher = Features(teacher.embedding_BD.cpu(), tuple(values.cpu() for values in teacher.attention))
        self.row(student, teacher, **self.knobs)

    def loss(self, embedding_bD: torch.Tensor, maps: tuple, batch) -> torch.Tensor:
        """The distillation of a Batch: the student's embeddings of it (projected) and its attention maps."""
        if self.embedding_ND is not None:
            rows_bD = torch.from_numpy(np.asarray(self.embedding_ND[batch.index_B.numpy()], dtype=np.float32))
            rows_bD = rows_bD.to(embedding_bD.device)
            # An image that could not be read when the teacher was asked has a row of NaN: there is nothing to learn
            # from it.
            teacher = Features(torch.where(rows_bD.isfinite(), rows_bD, embedding_bD.detach()))
        else:
            teacher = self.teacher(batch.image_BHW3)
        if self.bank is not None:
            label_b = batch.label_B.to(embedding_bD.device)
            self.bank.update(self.ranks.gather(label_b), self.ranks.gather(teacher.embedding_BD))
            teacher = teacher._replace(neighbours_BKD=self.bank.neighbours(label_b))
        return self.row(Features(embedding_bD, maps), teacher, **self.knobs)

    def seen_by_student(self, image_B3HW: torch.Tensor, step: int) -> torch.Tensor:
        """The images as the student sees them: with a short side of one of student_px, drawn for the step, and back,
        while the teacher sees all.

        Nearest neighbours both ways, as in A-SKD's code, whose images are square.
        """
        if not self.plan.student_px:
            return image_B3HW
        px = np.random.default_rng((self.seed, step)).choice(self.plan.student_px)
        hw = image_B3HW.shape[2:]
        small_B3HW = torch.nn.functional.interpolate(image_B3HW, size=[round(side * int(px) / min(hw)) for side in hw])
        return torch.nn.functional.interpolate(small_B3HW, size=hw)

    def state(self) -> dict:
        """What a checkpoint holds of it beside the projection."""
        return {} if self.bank is None else self.bank.state_dict()

    def restore(self, state: dict) -> None:
        """Take what `state` gave."""
        if self.bank is not None:
            self.bank.load_state_dict(state)


def attention_maps_of(network, guide):
    """A context in which `take()` gives the network's attention maps, if the guide asks for them."""
    return attention_of(network if guide is not None and guide.uses_attention else torch.nn.Module())


def _precomputed(teacher, source, ranks, path, progress):
    """The teacher's embeddings of all images, made by the first rank; the others read its file."""

    def make():
        progress.begin("the teacher's embeddings, once")
        batch = TEACHER_BATCH[teacher.device.type]
        precompute(teacher, source.images, path, batch=batch, progress=progress.counting("images"))
        progress.end()

    ranks.on_first(make)
    return np.load(path, mmap_mode="r")


def _bank(embedding_ND, source, ranks, folder, name, progress):
    """CoupleFace's bank. Prototypes and who is similar to whom are found by the first rank, and kept; at two million
    identities that takes a GPU."""
    similar, first = folder / f"similar-identities-{name}.npy", folder / f"prototypes-{name}.npy"

    def mine():
        if similar.is_file() and first.is_file():
            return
        progress.begin("similar identities, once")
        prototype_CD = prototypes(embedding_ND, source.label_N, source.num_identities).to(ranks.device)
        count = progress.counting("identities")
        similar_CK = similar_identities(prototype_CD, NUM_NEIGHBOURS, progress=count).numpy()
        for path, values in ((first, unit(prototype_CD).half().cpu().numpy()), (similar, similar_CK)):
            np.save(path.with_suffix(".tmp.npy"), values)
            path.with_suffix(".tmp.npy").replace(path)
        progress.end()

    ranks.on_first(mine)
    similar_CK, prototype_CD = torch.from_numpy(np.load(similar)), torch.from_numpy(np.load(first))
    return Bank(similar_CK, embedding_ND.shape[1], prototype_CD=prototype_CD, device=ranks.device)
