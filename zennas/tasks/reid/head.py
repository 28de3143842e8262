"""ReidHead: what a network for people is trained through: classifiers, losses within the batch, centres, a teacher."""

# b images of this micro-batch, N of the step and of all ranks, D size of a vector, C people

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from zennas.records import UserError, some
from zennas.tasks.identity.guide import Guide, attention_maps_of
from zennas.tasks.identity.head import distilled, images_seen, restore_shared, shared_state
from zennas.tasks.identity.partial_fc import PartialFC
from zennas.tasks.reid.centre import Centres
from zennas.tasks.reid.losses import (
    ALIKE,
    CLASSIFIERS,
    MINED,
    classifier,
    classifier_knobs_of,
    cross_entropy,
    mined_knobs_of,
    pairs_of,
    share_alike,
)
from zennas.tasks.reid.plan import ReidPlan
from zennas.tasks.reid.whole_step import WholeStep
from zennas.tasks.task import HeadState, Step

KINDS = ("wide", "whole", "stripes", "embedding")  # of vectors, in the order in which they are told
COLLAPSED = 0.5  # of the images, if they lie where another person's lies, in one of the vectors that are compared
PATIENCE = 50  # such steps in a row, then it is said


class Seen(NamedTuple):
    """What a student makes of images."""

    vectors: dict[str, list[Tensor]]  # kind -> vectors_bD
    logits: list[Tensor]  # logits_bC of the classifiers
    projected_bD: Tensor  # the embedding, as the teacher is followed


def vectors_of(network: nn.Module, image_bCHW: Tensor) -> dict[str, list[Tensor]]:
    """{kind: vectors_bD}: those of `network.vectors`; of a network without it its embedding, as whatever it can be."""
    if hasattr(network, "vectors"):
        given = network.vectors(image_bCHW)
        return {kind: [given[kind]] if kind == "embedding" else list(given[kind]) for kind in KINDS}
    embedding_bD = network(image_bCHW)
    return {"wide": [embedding_bD], "whole": [embedding_bD], "stripes": [], "embedding": [embedding_bD]}


def black_seen(network: nn.Module) -> dict[str, list[Tensor]]:
    """vectors_of two black images, with their gradient: what sizes they have, and which weights they come from."""
    training = network.training
    image_BCHW = torch.zeros(2, *network.input_shape, device=next(network.parameters()).device)
    try:
        return vectors_of(network.eval(), image_BCHW)
    finally:
        network.train(training)


class ReidStudent(nn.Module):
    """The network with what is trained beside it by the same optimizer. kinds: of the vectors of its classifiers."""

    def __init__(
        self, network: nn.Module, classifiers: nn.ModuleList, kinds: tuple[str, ...], projection: nn.Module | None
    ):
        super().__init__()
        self.network, self.classifiers, self.projection, self.kinds = network, classifiers, projection, kinds

    def forward(self, image_bCHW: Tensor) -> Seen:
        vectors = vectors_of(self.network, image_bCHW)
        (embedding_bD,) = vectors["embedding"]
        with torch.autocast(image_bCHW.device.type, enabled=False):
            chosen = [vector_bD.float() for vector_bD in _chosen(vectors, self.kinds)]
            logits = [layers(vector_bD) for layers, vector_bD in zip(self.classifiers, chosen, strict=True)]
            projected_bD = embedding_bD if self.projection is None else self.projection(embedding_bD.float())
        return Seen(vectors, logits, projected_bD)


class ReidHead:
    """A tasks.task.Head: terms over the vectors of a network, each with its weight, and their sum."""

    def __init__(
        self,
        network: nn.Module,
        plan: ReidPlan,
        *,
        num_people: int,
        ranks,
        margin: PartialFC | None = None,
        guide: Guide | None = None,
        say: Callable[[str], None] = lambda text: None,
    ):
        """margin: of the plan's margin loss. say(text): told when a training collapses."""
        self.network, self.plan, self.ranks, self.num_people = network, plan, ranks, num_people
        self.margin, self.guide, self.device, self._say = margin, guide, ranks.device, say
        self.class_weight = plan.distill.class_weight if guide else 1.0
        black = black_seen(network)
        terms = {
            name: getattr(plan, name) for name in ("softmax", "triplet", "centre") if getattr(plan, name) is not None
        }
        _check_vectors(terms, black)
        looked_at = [vector_BD for term in terms.values() for vector_BD in _chosen(black, term.vectors)]
        self.num_terms = len(looked_at) + (margin is not None)
        _check_reached(network, looked_at + black["embedding"] * (margin is not None or guide is not None))
        sizes = {kind: [vector_BD.shape[1] for vector_BD in vectors] for kind, vectors in black.items()}
        generator, softmax = torch.Generator().manual_seed(plan.seed), plan.softmax
        classifiers = nn.ModuleList()
        if softmax is not None:
            row = CLASSIFIERS[softmax.name]
            self.softmax_knobs = classifier_knobs_of(softmax.name, softmax.knobs)
            classifiers.extend(
                classifier(row, size, num_people, generator=generator) for size in _chosen(sizes, softmax.vectors)
            )
        if plan.triplet is not None:
            self.mined, self.mined_knobs = (
                MINED[plan.triplet.name],
                mined_knobs_of(plan.triplet.name, plan.triplet.knobs),
            )
        self.centres = [
            Centres(num_people, size, device=ranks.device)
            for size in (_chosen(sizes, plan.centre.vectors) if plan.centre is not None else ())
        ]
        kinds = softmax.vectors if softmax is not None else ()
        self.student = ReidStudent(network, classifiers, kinds, guide.projection if guide else None).to(ranks.device)
        self.num_collapsed, self._step = 0, None

    def begin(self, batch) -> None:
        """As tasks.task.Head."""
        self._step = WholeStep(batch, self.ranks)
        if self.margin is not None:
            self.margin.begin(batch.label_B.to(self.device))

    def loss(self, forward, micro, step: Step) -> dict[str, Tensor]:
        """As tasks.task.Head. Beside the loss: each part of it, without its weight; what of the batch is active, and
        how far people are from one another, in the vectors that triplets are made of."""
        assert self._step is not None, "begin comes first"
        if self.plan.triplet is not None or self.plan.centre is not None:
            self._step.prepare(
                step.num_micro, lambda part: self._within_batch(forward(self._images(part, step))), self.student
            )
        label_b, share = micro.label_B.to(self.device), 1 / step.num_micro
        with attention_maps_of(self.network, self.guide) as maps:
            seen = forward(self._images(micro, step))
            taught = maps.take()
        numbers: dict[str, Tensor] = {}
        total = seen.projected_bD.new_zeros((), dtype=torch.float32)
        if self.plan.softmax is not None:
            mine = sum(cross_entropy(logits_bC, label_b, **self.softmax_knobs) for logits_bC in seen.logits)
            # Of all ranks' images, as it is logged; the gradient is the mean of the ranks' anyway.
            numbers["softmax"] = self.ranks.sum_(mine.detach().clone()) / self.ranks.num_ranks
            total = total + self.plan.softmax.weight * share * (numbers["softmax"] + (mine - mine.detach()))
        if within := self._within_batch(seen):
            total = total + self._mined(self._step.vectors(within), numbers, step.num_micro)
        total = self.class_weight * total
        if self.margin is not None:
            (embedding_bD,) = seen.vectors["embedding"]
            # The weight is given, not multiplied: class centres have their gradient by another way than autograd's.
            weight = self.class_weight * self.plan.margin.weight
            loss = self.margin(embedding_bD, label_b, epoch=step.epoch, weight=weight * share)
            numbers["margin"] = loss.detach() / (weight * share) if weight else torch.zeros_like(loss)
            total = total + loss
        if self.guide is not None:
            total = total + distilled(self.guide, seen.projected_bD, taught, micro, step)
        return {"loss": total, **numbers}

    def _images(self, micro, step):
        return images_seen(self.network, self.guide, micro, step, self.device)

    def _within_batch(self, seen: Seen) -> list[Tensor]:
        """The vectors that are compared within the batch, those of triplets first."""
        terms = [term for term in (self.plan.triplet, self.plan.centre) if term is not None]
        return [vector_bD for term in terms for vector_bD in _chosen(seen.vectors, term.vectors)]

    def _mined(self, vectors: list[Tensor], numbers: dict, num_micro: int) -> Tensor:
        """The losses of all images of the step, as this micro-batch's share; what there is to tell joins `numbers`."""
        whole, triplet, total = self._step, self.plan.triplet, 0.0
        num_mined = len(vectors) - len(self.centres)
        if triplet is not None:
            pairs = pairs_of(whole.label_N, whole.index_N)
            mined = [self.mined(vector_ND, pairs, **self.mined_knobs) for vector_ND in vectors[:num_mined]]
            loss = sum(term.loss for term in mined)
            numbers |= {"triplet": loss.detach()}
            numbers |= {name: sum(term.numbers[name] for term in mined) / len(mined) for name in mined[0].numbers}
            self._watch(vectors[:num_mined], pairs, numbers)
            total = total + triplet.weight * whole.shared(loss, num_micro)
        if self.centres:
            pulled = zip(self.centres, vectors[num_mined:], strict=True)
            loss = sum(centres.loss(vector_ND, whole.label_N) for centres, vector_ND in pulled)
            numbers |= {"centre": loss.detach()}
            total = total + self.plan.centre.weight * whole.shared(loss, num_micro)
        return total

    def _watch(self, vectors, pairs, numbers):
        """Count the steps in which most people are one, and say so once there are many in a row."""
        numbers["length"] = sum(vector_ND.detach().norm(dim=1).mean() for vector_ND in vectors) / len(vectors)
        alike_V = torch.stack([share_alike(vector_ND.detach(), pairs) for vector_ND in vectors])
        numbers["alike"] = alike_V.mean()
        if self._step.num_done > 1:  # another micro-batch of the same step
            return
        num = int((alike_V > COLLAPSED).sum())
        self.num_collapsed = self.num_collapsed + 1 if num else 0
        if self.num_collapsed == PATIENCE and self.ranks.is_first:
            self._say(
                f"warning: for {PATIENCE} steps most images lie within {100 * ALIKE:g} % of their vectors' lengths of "
                f"another person's, in {num} of the {len(vectors)} vectors under triplets: these have collapsed, all "
                "look alike to them; a lower optimizer.lr or triplet.weight, a longer warm-up, fewer people a batch or "
                "a larger embedding helps; are the labels right?"
            )

    def step(self, lr: float) -> None:
        """As tasks.task.Head."""
        self._step = None
        for centres in self.centres:
            centres.step()
        if self.margin is not None:
            self.margin.step(lr * self.plan.optimizer.centre_lr)

    def discard(self) -> None:
        """As tasks.task.Head."""
        self._step = None
        for centres in self.centres:
            centres.discard()
        if self.margin is not None:
            self.margin.discard()

    def numbers(self) -> dict[str, float]:
        """As tasks.task.Head."""
        return {} if self.margin is None else {name: float(value) for name, value in self.margin.buffers.items()}

    def state(self) -> HeadState:
        """As tasks.task.Head."""
        margin = None if self.margin is None else self.margin.state()
        shared = {
            "classifiers": self.student.classifiers.state_dict(),
            "centres": {str(number): centres.centre_CD for number, centres in enumerate(self.centres)},
            "head": {} if margin is None else margin["shared"],
            **shared_state(self.student.projection, self.guide, self.num_people),
        }
        rows = {} if margin is None else margin["per_class"]
        return HeadState(shared, rows, 0 if self.margin is None else self.margin.first)

    def restore(self, shared: dict[str, Any], read: Callable) -> None:
        """As tasks.task.Head."""
        restore_shared(shared, self.student.projection, self.guide, self.num_people)
        try:
            self.student.classifiers.load_state_dict(shared["classifiers"])
        except RuntimeError:
            raise UserError("of other vectors: softmax.vectors or the network has changed since") from None
        for number, centres in enumerate(self.centres):
            centres.centre_CD.copy_(shared["centres"][str(number)])
        if self.margin is not None:
            self.margin.restore(shared["head"], read)


def _chosen(of_kinds: dict[str, list], kinds: tuple[str, ...]) -> Iterator:
    """What there is of these kinds, in the order of KINDS."""
    return (item for kind in KINDS if kind in kinds for item in of_kinds[kind])


def _check_vectors(terms, black):
    """UserError for a term that finds none of its vectors in the network."""
    for name, term in terms.items():
        if not list(_chosen(black, term.vectors)):
            have = ", ".join(kind for kind in KINDS if black[kind])
            raise UserError(f"train.{name}.vectors: this network has no {' or '.join(term.vectors)}; it has {have}")


def _check_reached(network, looked_at):
    """UserError where no term looks at what some weights of the network make: they would stay as they were drawn."""
    named = {name: weight for name, weight in network.named_parameters() if weight.requires_grad}
    slopes = torch.autograd.grad(sum(vector_BD.sum() for vector_BD in looked_at), named.values(), allow_unused=True)
    if idle := [name for name, slope in zip(named, slopes, strict=True) if slope is None]:
        raise UserError(
            f"train: no loss looks at what {len(idle)} of the network's {len(named)} weights make ({some(idle)}); "
            "let softmax.vectors or triplet.vectors name more of wide, whole, stripes, embedding"
        )
