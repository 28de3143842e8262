"""ReidPlan: how a network learns to find a person again. The `train:` part of an experiment whose task is reid.

What of it is about identities of any kind stands in zennas/tasks/identity/plan.py. Names resolve in losses.py beside
this file, in losses.py and distill.py of zennas/tasks/identity, and in zennas/data/images.py (augmentations).
"""

from typing import Annotated, Literal

import pydantic

from zennas.records import Record
from zennas.tasks.identity.plan import DistillPlan, IdentityOptimizerPlan, LossPlan
from zennas.train_plan import Count, DataPlan, Knobs, Positive, TrainPlan

# Vectors of a network, as its family gives them: `wide` of whole images before their reduction, `whole` after it, of
# `stripes`, and the `embedding`, which is what is deployed. A network of one vector alone has it as all but stripes.
Vectors = tuple[Literal["wide", "whole", "stripes", "embedding"], ...]


class TermPlan(Record):
    """A part of the loss: one term for each vector that it looks at, all with the same weight. The loss is their
    sum."""

    weight: Positive = 1.0
    knobs: Knobs = {}
    vectors: Vectors

    @pydantic.field_validator("vectors")
    @classmethod
    def _looks_at_something(cls, vectors):
        if not vectors or len(set(vectors)) < len(vectors):
            raise ValueError(f"vectors names different ones, one at least; given {list(vectors)}")
        return vectors


class SoftmaxPlan(TermPlan):
    """A classifier over all people for each vector, left behind after training."""

    name: str = "softmax"  # a row of CLASSIFIERS
    vectors: Vectors = ("wide", "stripes")


class TripletPlan(TermPlan):
    """A loss of distances within the batch. Never on stripes, the paper says: their backgrounds are alike."""

    name: str = "batch_hard"  # a row of MINED
    vectors: Vectors = ("whole",)


class CentrePlan(TermPlan):
    """The pull of each image towards its person's centre. 0.001 is BoT's 0.0005, whose squares are not halved."""

    weight: Positive = 1e-3
    vectors: Vectors = ("wide",)


class MarginPlan(LossPlan):
    """A margin loss over class centres that are shared out over ranks and sampled, on the embedding: Partial FC."""

    name: str = "cosface"
    weight: Positive = 1.0


class ReidOptimizerPlan(IdentityOptimizerPlan):
    """How weights and centres move."""

    lr: Positive = 0.01  # MGN's
    lr_batch: Count = 64


class ReidDataPlan(DataPlan):
    """What becomes of an image before the network sees it, and which images come."""

    augment: dict[str, Knobs] = {"flip": {"p": 0.5}}  # rows of AUGMENTATIONS, in order, with their knobs
    # K images of each person side by side in a batch, of P = batch / K people; None: every image once an epoch, in any
    # order.
    images_per_person: Annotated[int, pydantic.Field(ge=2, le=100_000)] | None = 4


class ReidPlan(TrainPlan):
    """The training of one network that finds people again. A term of None is none."""

    batch: Count = 64
    softmax: SoftmaxPlan | None = SoftmaxPlan()
    triplet: TripletPlan | None = TripletPlan()
    centre: CentrePlan | None = None
    margin: MarginPlan | None = None
    distill: DistillPlan = DistillPlan()  # in force where --teacher is given
    optimizer: ReidOptimizerPlan = ReidOptimizerPlan()
    data: ReidDataPlan = ReidDataPlan()

    @pydantic.model_validator(mode="after")
    def _something_is_learnt(self):
        if self.softmax is None and self.triplet is None and self.margin is None:
            raise ValueError("softmax, triplet and margin not all null: nothing would tell people apart")
        return self

    @pydantic.model_validator(mode="after")
    def _holds_people(self):
        each = self.data.images_per_person
        if each is not None and (self.batch % each or self.batch < 2 * each):
            raise ValueError(
                f"a batch of two people or more with data.images_per_person {each} images each, a multiple of {each} "
                f"from {2 * each} on; given {self.batch}"
            )
        if each is None and self.triplet is not None:
            raise ValueError(
                "triplet needs data.images_per_person: without it a batch holds one image of most people, and no pair"
            )
        return self
