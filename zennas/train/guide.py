"""Guide: what a student hears of its teacher, step by step: precomputed embeddings or the teacher itself, and the bank."""

import hashlib

import numpy as np
import torch

from zennas.records import UserError
from zennas.train.distill import (
    DISTILLATIONS,
    NEEDS,
    Bank,
    Features,
    attention_of,
    knobs_of,
    projection,
    prototypes,
    similar_identities,
)
from zennas.train.teacher import precompute
from zennas.train.verify import normalised

NUM_NEIGHBOURS = 100  # CoupleFace's K


class Guide:
    """A distillation made ready for one training: `loss` of a batch, `projection` to train with the student."""

    def __init__(self, plan, teacher, source, *, student_size, ranks, folder, seed, progress):
        self.plan, self.teacher, self.ranks = plan, teacher, ranks
        self.knobs = knobs_of(plan.name, plan.knobs, where="distill")
        self.function, need = DISTILLATIONS[plan.name], NEEDS.get(plan.name)
        self.uses_attention, needs_bank = need == "attention", need == "neighbours_BKD"
        self.embedding_ND = self.bank = None
        if needs_bank and not plan.precompute:
            raise UserError(
                f"distill: '{plan.name}' mines the teacher's embeddings before training: precompute must be true"
            )
        if plan.precompute and not self.uses_attention:
            self.embedding_ND = _precomputed(teacher, source, ranks, folder, progress)
        if needs_bank:
            self.bank = _bank(self.embedding_ND, source, ranks, folder, progress)
        generator = torch.Generator().manual_seed(seed)
        self.projection = projection(student_size, teacher.embedding_size, generator=generator).to(ranks.device)

    def check(self, network, *, image_px):
        """UserError where the student's attention maps do not pair with the teacher's: two black faces show it."""
        if not self.uses_attention:
            return
        black_BHW3 = torch.zeros(2, image_px, image_px, 3, dtype=torch.uint8)
        training = network.training
        with torch.no_grad(), attention_of(network.eval()) as maps:
            embedding_BD = network(normalised(black_BHW3, torch.device("cpu")))
            student = Features(self.projection.cpu()(embedding_BD), maps.take())
        self.projection.to(self.ranks.device)
        network.train(training)
        teacher = self.teacher(black_BHW3)
        teacher = Features(teacher.embedding_BD.cpu(), tuple(one.cpu() for one in teacher.attention))
        self.function(student, teacher, **self.knobs)

    def loss(self, embedding_bD, maps, batch):
        """The distillation of some faces: the student's embeddings (projected), its attention maps, and their Batch."""
        if self.embedding_ND is not None:
            rows_bD = np.asarray(self.embedding_ND[batch.index_B.numpy()], dtype=np.float32)
            teacher = Features(torch.from_numpy(rows_bD).to(embedding_bD.device))
        else:
            teacher = self.teacher(batch.image_BHW3)
        if self.bank is not None:
            label_b = batch.label_B.to(embedding_bD.device)
            self.bank.update(self.ranks.gather(label_b), self.ranks.gather(teacher.embedding_BD))
            teacher = teacher._replace(neighbours_BKD=self.bank.neighbours(label_b))
        return self.function(Features(embedding_bD, maps), teacher, **self.knobs)

    def state(self):
        """What a checkpoint holds of it beside the projection."""
        return {} if self.bank is None else self.bank.state_dict()

    def restore(self, state):
        """Take what `state` gave."""
        if self.bank is not None:
            self.bank.load_state_dict(state)


def attention_maps_of(network, guide):
    """A context in which `take()` gives the network's attention maps, if the guide asks for them."""
    return attention_of(network if guide is not None and guide.uses_attention else torch.nn.Module())


def _precomputed(teacher, source, ranks, folder, progress):
    """The teacher's embeddings of all images, made by the first rank; the others read its file."""
    name = hashlib.sha256(f"{teacher.fingerprint} {source.fingerprint}".encode()).hexdigest()[:12]
    path = folder / f"teacher-{name}.npy"

    def make():
        progress.begin("the teacher's embeddings, once")
        precompute(teacher, source, path, progress=progress.counting("images"))
        progress.end()

    ranks.on_first(make)
    return np.load(path, mmap_mode="r")


def _bank(embedding_ND, source, ranks, folder, progress):
    """CoupleFace's bank; who is similar to whom is found by the first rank and kept."""
    path = folder / "similar-identities.npy"
    prototype_CD = prototypes(embedding_ND, source.label_N, source.num_identities)

    def mine():
        if not path.is_file():
            progress.begin("similar identities, once")
            on_device_CD = prototype_CD.to(ranks.device)
            similar_CK = similar_identities(on_device_CD, NUM_NEIGHBOURS, progress=progress.counting("identities"))
            np.save(path.with_suffix(".tmp.npy"), similar_CK.numpy())
            path.with_suffix(".tmp.npy").replace(path)
            progress.end()

    ranks.on_first(mine)
    similar_CK = torch.from_numpy(np.load(path))
    return Bank(similar_CK, embedding_ND.shape[1], prototype_CD=prototype_CD, device=ranks.device)
