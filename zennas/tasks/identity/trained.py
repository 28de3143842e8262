"""What the short trainings of a learning train on: labels that leave out whom it judges by.

N images of the source, C identities
"""

from typing import Any

import numpy as np

from zennas.data.labels import DROPPED, write_labels
from zennas.data.sources import AnySource
from zennas.tasks.identity.people import People

LABELS, SHORT_LABELS = "labels.npz", "short-labels.npz"


def trained(request, source: AnySource, people: People, folder) -> dict[str, Any]:
    """The labels of a training: of the people who may be trained on."""
    path = folder / LABELS
    write_labels(path, source, people.label_N)
    return {"labels": path}


def trained_short(request, source: AnySource, people: People, folder) -> dict[str, Any]:
    """The labels of a short training: of identities drawn of those, with short_images of the plan at most."""
    path = folder / SHORT_LABELS
    write_labels(path, source, sampled(people.label_N, request.learn))
    return {"labels": path}


def trained_text(request, people: People) -> str:
    """How much the short trainings of a learning train on, in words, and of how much that is drawn."""
    whole, short = (counted(label_N) for label_N in (people.label_N, sampled(people.label_N, request.learn)))
    more = "" if short == whole else f", drawn of {whole} (learn.short_images)"
    return f"{short} of {request.data}{more}"


def sampled(label_N: np.ndarray, plan: Any) -> np.ndarray:
    """label_N with the identities alone that the plan's seed draws: as many as have short_images together, at least
    two.

    >>> from types import SimpleNamespace
    >>> sampled(np.array([0, 0, 1, -1, 2, 2, 3]), SimpleNamespace(seed=0, short_images=3)).tolist()
    [0, 0, -1, -1, -1, -1, 3]
    """
    label_C, count_C = np.unique(label_N[label_N >= 0], return_counts=True)
    if plan.short_images is None or count_C.sum() <= plan.short_images:
        return label_N
    order_C = np.random.default_rng((plan.seed, 1)).permutation(len(label_C))
    num = max(2, int((count_C[order_C].cumsum() <= plan.short_images).sum()))
    return np.where(np.isin(label_N, label_C[order_C[:num]]), label_N, DROPPED)


def counted(label_N: np.ndarray) -> str:
    """How many images of how many identities these labels train on, in words."""
    trained_N = label_N[label_N >= 0]
    return f"{len(trained_N):,} images of {len(np.unique(trained_N)):,} identities"
