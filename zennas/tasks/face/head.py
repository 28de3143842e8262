"""FaceHead: what a network for faces is trained through: class centres, and a teacher where there is one."""

import torch
from torch import nn

from zennas.tasks.face.plan import FacePlan
from zennas.tasks.identity.guide import Guide, attention_maps_of
from zennas.tasks.identity.head import Student, distilled, images_seen, restore_shared, shared_state
from zennas.tasks.identity.partial_fc import PartialFC
from zennas.tasks.task import HeadState, Step


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
        image_BCHW = images_seen(self.network, self.guide, micro, step, self.device)
        with attention_maps_of(self.network, self.guide) as maps:
            embedding_BD, projected_BD = forward(image_BCHW)
            weight = self.class_weight / step.num_micro
            loss = self.classifier(embedding_BD, micro.label_B.to(self.device), weight=weight, epoch=step.epoch)
            if self.guide is not None:
                loss = loss + distilled(self.guide, projected_BD, maps.take(), micro, step)
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
        state = self.classifier.state()
        shared = shared_state(self.student.projection, self.guide, self.classifier.num_identities)
        return HeadState({"head": state["shared"]} | shared, state["per_class"], self.classifier.first)

    def restore(self, shared, read) -> None:
        """As tasks.task.Head."""
        restore_shared(shared, self.student.projection, self.guide, self.classifier.num_identities)
        self.classifier.restore(shared["head"], read)
