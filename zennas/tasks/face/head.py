"""FaceHead: what a network for faces is trained through: class centres, and a teacher where there is one."""

import torch
from torch import nn

from zennas.data.inputs import normalised
from zennas.records import UserError
from zennas.tasks.face.guide import Guide, attention_maps_of
from zennas.tasks.face.partial_fc import PartialFC
from zennas.tasks.face.plan import FacePlan
from zennas.tasks.task import HeadState, Step


class Student(nn.Module):
    """The network with what distillation hangs on it, so that one wrapper trains both: (embedding, projected
    embedding).
    """

    def __init__(self, network: nn.Module, projection: nn.Module | None):
        super().__init__()
        self.network, self.projection = network, projection

    def forward(self, image_BCHW):
        embedding_BD = self.network(image_BCHW)
        return embedding_BD, embedding_BD if self.projection is None else self.projection(embedding_BD)


class FaceHead:
    """A tasks.task.Head: the margin loss over class centres, and the distillation beside it."""

    def __init__(self, network: nn.Module, classifier: PartialFC, guide: Guide | None, plan: FacePlan):
        self.network, self.classifier, self.guide = network, classifier, guide
        self.class_weight = plan.distill.class_weight if guide else 1.0
        self.centre_lr = plan.optimizer.centre_lr
        self.device = classifier.ranks.device
        self.student = Student(network, guide.projection if guide else None)

    def begin(self, batch):
        """Sample the class centres of a step."""
        self.classifier.begin(batch.label_B.to(self.device))

    def loss(self, forward, micro, step: Step) -> dict[str, torch.Tensor]:
        """As tasks.task.Head."""
        image_BCHW = normalised(
            micro.image_BHW3, self.device, channels=self.network.shape.channels, channels_last=step.channels_last
        )
        if self.guide is not None:
            image_BCHW = self.guide.seen_by_student(image_BCHW, micro.step)
        with attention_maps_of(self.network, self.guide) as maps:
            embedding_BD, projected_BD = forward(image_BCHW)
            weight = self.class_weight / step.num_micro
            loss = self.classifier(embedding_BD, micro.label_B.to(self.device), weight=weight, epoch=step.epoch)
            if self.guide is not None:
                distilled = self.guide.loss(projected_BD.float(), maps.take(), micro)
                loss = loss + (self.guide.weight / step.num_micro) * distilled
        return {"loss": loss}

    def step(self, lr: float) -> None:
        """Move the class centres."""
        self.classifier.step(lr * self.centre_lr)

    def discard(self) -> None:
        """Leave the class centres where they are."""
        self.classifier.discard()

    def numbers(self) -> dict[str, float]:
        """Running values of the loss."""
        return {name: float(value) for name, value in self.classifier.buffers.items()}

    def state(self) -> HeadState:
        """As tasks.task.Head. The names are those of the first checkpoints."""
        state, projection = self.classifier.state(), self.student.projection
        shared = {
            "head": state["shared"],
            "projection": {} if projection is None else projection.state_dict(),
            "guide": self.guide.state() if self.guide else {},
            "num_identities": self.classifier.num_identities,
        }
        return HeadState(shared, state["per_class"], self.classifier.first)

    def restore(self, shared, read) -> None:
        """As tasks.task.Head."""
        if shared["num_identities"] != self.classifier.num_identities:
            raise UserError(
                f"of {shared['num_identities']} identities; the data has {self.classifier.num_identities} now"
            )
        if self.student.projection is not None:
            self.student.projection.load_state_dict(shared["projection"])
        if self.guide:
            self.guide.restore(shared["guide"])
        self.classifier.restore(shared["head"], read)
