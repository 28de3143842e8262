"""The images of a search of recipes or of a learning for faces, and the reward of the former.

M images of a group, D embedding size
"""

import math
from collections.abc import Callable
from typing import Any

from zennas.data.sources import AnySource, open_source
from zennas.metrics.all_to_all import all_to_all
from zennas.progress import Progress
from zennas.tasks.face.crops import source_of_crops
from zennas.tasks.identity.embedding import embed
from zennas.tasks.identity.people import Group


def open_images(request: Any, progress: Progress) -> AnySource:
    """The Source of --data."""
    source = open_source(request.data, progress=progress.counting("images"))
    return source_of_crops(source, request.faces, request.data)


def rewards(
    group: Group, source: AnySource, embed_batch: Callable, plan: Any, *, image_px: int | tuple[int, int]
) -> dict[str, float]:
    """{"reward": the weighted mean of TPRs, "tpr@FPR": each of them} over all pairs of a Group, mirrored images added.

    embed_batch: as identity's `embed` takes it. UserError where an embedding is not finite.
    Source: the reward of Comprehensive Search (arXiv:2208.13600): TPR at FPR 1e-3, 1e-4 and 1e-5 weighted 0.5, 0.25,
    0.25, there on MegaFace.
    """
    embedding_MD, _ = embed(source.some(group.index_M), embed_batch, image_px=image_px)
    comparison = all_to_all(embedding_MD.numpy(), group.label_M, plan.fprs, num_hardest=0)
    tprs = [point.tar for point in comparison.points]
    reward = math.fsum(weight * tpr for weight, tpr in zip(plan.weights, tprs, strict=True)) / math.fsum(plan.weights)
    return {"reward": reward} | {f"tpr@{fpr:g}": tpr for fpr, tpr in zip(plan.fprs, tprs, strict=True)}
