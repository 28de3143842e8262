"""Parts of a head that more than one task has: the student, and a teacher beside the losses of its labels."""

# B images of this rank, C channels, H height, W width, D embedding size

import torch
from torch import nn

from zennas.data.inputs import normalised
from zennas.records import UserError
from zennas.tasks.identity.guide import Guide
from zennas.tasks.task import Step


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


def images_seen(network: nn.Module, guide: Guide | None, micro, step: Step, device: torch.device) -> torch.Tensor:
    """image_BCHW of a micro-batch as the student sees them."""
    channels = network.shape.channels
    image_BCHW = normalised(micro.image_BHW3, device, channels=channels, channels_last=step.channels_last)
    return image_BCHW if guide is None else guide.seen_by_student(image_BCHW, micro.step)


def distilled(guide: Guide, projected_BD: torch.Tensor, maps: tuple, micro, step: Step) -> torch.Tensor:
    """What the teacher adds to the loss of a micro-batch, as its share of the step's."""
    return (guide.weight / step.num_micro) * guide.loss(projected_BD.float(), maps, micro)


def shared_state(projection: nn.Module | None, guide: Guide | None, num_identities: int) -> dict:
    """What a checkpoint holds of a distillation, and of how many identities it is."""
    return {
        "projection": {} if projection is None else projection.state_dict(),
        "guide": guide.state() if guide else {},
        "num_identities": num_identities,
    }


def restore_shared(shared: dict, projection: nn.Module | None, guide: Guide | None, num_identities: int) -> None:
    """Take what `shared_state` gave; UserError where that was of other data."""
    if shared["num_identities"] != num_identities:
        raise UserError(f"of {shared['num_identities']} identities; the data has {num_identities} now")
    if projection is not None:
        projection.load_state_dict(shared["projection"])
    if guide:
        guide.restore(shared["guide"])
