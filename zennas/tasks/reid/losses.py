"""What tells people apart in training: CLASSIFIERS over all people, MINED losses of distances within a batch. One row
is all that a new loss takes.

Everything here is float32, outside autocast: in half precision the distances of near vectors are noise.
"""

# N images of a batch (of all ranks), D size of a vector, C people, A anchors that have a positive and a negative

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zennas.records import UserError, suggestion

ALIKE = 0.01  # of a vector's length: nearer than that another person's image is the same to the network
CLASSIFIER_STD = 0.001  # of a classifier's first weights, as in BoT and levyfan's MGN


class Pairs(NamedTuple):
    """Who is what to whom in a batch; row: the anchor."""

    positive_NN: Tensor  # bool: another image of the same person
    negative_NN: Tensor  # bool: an image of another person

    @property
    def anchor_N(self) -> Tensor:
        """bool: whoever has a positive and a negative. The others have nothing to compare, and are left out."""
        return self.positive_NN.any(1) & self.negative_NN.any(1)


def pairs_of(label_N: Tensor, index_N: Tensor) -> Pairs:
    """The Pairs of a batch. index_N: which image each is; a label below zero is nobody's, and pairs with nothing.

    An image is no positive of itself, nor of its copy, which fills up the group of a person with few images: their
    distance is augmentation alone, and a person with one image would seem to have a positive.

    >>> pairs_of(torch.tensor([5, 5, 7]), torch.tensor([0, 1, 2])).positive_NN.int().tolist()
    [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    known_NN = (label_N >= 0)[:, None] & (label_N >= 0)
    same_NN = label_N[:, None] == label_N
    return Pairs(known_NN & same_NN & (index_N[:, None] != index_N), known_NN & ~same_NN)


def distances(vector_ND: Tensor) -> Tensor:
    """Euclidean distances_NN, float32, not squared; the slope of a distance of zero is zero, not infinite.

    By differences: |a|^2 + |b|^2 - 2ab cancels where two images are alike, and its root has an infinite slope at 0.

    >>> distances(torch.tensor([[0., 0.], [3., 4.], [3., 4.]])).tolist()
    [[0.0, 5.0, 5.0], [5.0, 0.0, 0.0], [5.0, 0.0, 0.0]]
    """
    with torch.autocast(vector_ND.device.type, enabled=False):
        vector_ND = vector_ND.float()
        return torch.cdist(vector_ND, vector_ND, compute_mode="donot_use_mm_for_euclid_dist")


def share_alike(vector_ND: Tensor, pairs: Pairs) -> Tensor:
    """The share of the anchors whose nearest negative lies within ALIKE of their own length; a zero vector's on it.

    Of each anchor, not of means: behind a ReLU a few vectors that are not zero yet would hide that all others are.

    >>> pairs = pairs_of(torch.tensor([3, 3, 4, 4]), torch.arange(4))
    >>> share_alike(torch.tensor([[5.], [0.], [0.], [0.]]), pairs).item()
    0.75
    """
    with torch.no_grad():
        near_N = distances(vector_ND).masked_fill(~pairs.negative_NN, torch.inf).amin(1)
        alike_N = pairs.anchor_N & (near_N <= ALIKE * vector_ND.float().norm(dim=1))
        return alike_N.sum() / pairs.anchor_N.sum().clamp(min=1)


class Mined(NamedTuple):
    """What a loss within the batch comes to."""

    loss: Tensor  # the mean; 0 where there is nothing to compare
    numbers: dict[str, Tensor]  # beside it, for the journal


def batch_hard(vector_ND: Tensor, pairs: Pairs, *, margin: float = 1.2, active_only: bool = False) -> Mined:
    """Mean over anchors of [margin + distance to the farthest positive - distance to the nearest negative]_+.

    margin: a Euclidean distance of vectors as they are; they are not normalised, on the unit sphere 1.2 would be much.
    active_only: the mean is over the anchors whose loss is not 0, which weighs the last hard ones more as training goes
    on. Source: Hermans et al. 2017, arXiv:1703.07737, eq. 5; 1.2 is MGN's.
    """
    far_N, near_N, numbers = _hardest(distances(vector_ND), pairs)
    gap_N = far_N - near_N
    return _mean((margin + gap_N).clamp(min=0), pairs.anchor_N, margin + gap_N > 0, active_only, numbers)


def batch_hard_soft(vector_ND: Tensor, pairs: Pairs) -> Mined:
    """`batch_hard` with ln(1 + exp(x)) in the place of [margin + x]_+: no margin, and no end of pulling.

    Active is an anchor whose farthest positive is not nearer than its nearest negative.
    Source: Hermans et al. 2017, section 3.2.
    """
    far_N, near_N, numbers = _hardest(distances(vector_ND), pairs)
    gap_N = far_N - near_N
    return _mean(functional.softplus(gap_N), pairs.anchor_N, gap_N >= 0, False, numbers)


def all_pairs(vector_ND: Tensor, pairs: Pairs, *, margin: float = 1.2, active_only: bool = False) -> Mined:
    """Mean over all pairs of an anchor and a positive of [margin + their distance - that to the nearest negative]_+.

    Of K images of everyone K (K - 1) pairs a person: milder than `batch_hard`, which takes the farthest positive alone.
    """
    distance_NN = distances(vector_ND)
    _, near_N, numbers = _hardest(distance_NN, pairs)
    gap_NN = distance_NN - near_N[:, None]
    used_NN = pairs.positive_NN & pairs.anchor_N[:, None]
    return _mean((margin + gap_NN).clamp(min=0), used_NN, margin + gap_NN > 0, active_only, numbers)


def circle(vector_ND: Tensor, pairs: Pairs, *, margin: float = 0.25, scale: float = 128.0) -> Mined:
    """Circle loss of all pairs of an anchor, by cosine: each pair weighs by how far it is from where it should be.

    With m, the margin (a difference of cosines, below 1):
    ln(1 + sum_n exp(scale a_n (s_n - m)) sum_p exp(-scale a_p (s_p - 1 + m))), a_n = [s_n + m]_+, a_p = [1 + m - s_p]_+
    without slope; the mean over anchors. Active is an anchor with a negative more alike than its least positive.
    Source: Sun et al. 2020, arXiv:2002.10857, eq. 6; the defaults as recalled for re-identification.
    """
    with torch.autocast(vector_ND.device.type, enabled=False):
        unit_ND = functional.normalize(vector_ND.float())
        cosine_NN = unit_ND @ unit_ND.T
    fixed_NN = cosine_NN.detach()
    own_NN = -scale * (1 + margin - fixed_NN).clamp(min=0) * (cosine_NN - (1 - margin))
    other_NN = scale * (fixed_NN + margin).clamp(min=0) * (cosine_NN - margin)
    # A finite number in the place of minus infinity: a row without any would be NaN, and its slope, too.
    sums_N = [
        torch.logsumexp(logit_NN.masked_fill(~chosen_NN, -1e9), 1)
        for logit_NN, chosen_NN in ((own_NN, pairs.positive_NN), (other_NN, pairs.negative_NN))
    ]
    *_, numbers = _hardest(distances(vector_ND.detach()), pairs)
    loss_N = functional.softplus(sums_N[0] + sums_N[1])
    least_N = fixed_NN.masked_fill(~pairs.positive_NN, 2.0).amin(1)
    most_N = fixed_NN.masked_fill(~pairs.negative_NN, -2.0).amax(1)
    return _mean(loss_N, pairs.anchor_N, most_N >= least_N, False, numbers)


# name -> (vector_ND, pairs, *, knobs) -> Mined
MINED: dict[str, Callable[..., Mined]] = {
    "batch_hard": batch_hard,
    "batch_hard_soft": batch_hard_soft,
    "all_pairs": all_pairs,
    "circle": circle,
}


def _hardest(distance_NN, pairs):
    """(distance to the farthest positive, that to the nearest negative, 0 where either is missing; means of both)."""
    anchor_N = pairs.anchor_N
    far_N = distance_NN.masked_fill(~pairs.positive_NN, -torch.inf).amax(1)
    near_N = distance_NN.masked_fill(~pairs.negative_NN, torch.inf).amin(1)
    # Before the difference: what is chosen by `where` behind it would still send NaN back through infinities.
    far_N, near_N = (torch.where(anchor_N, value_N, torch.zeros_like(value_N)) for value_N in (far_N, near_N))
    num = anchor_N.sum().clamp(min=1)
    numbers = {"farthest_own": far_N.detach().sum() / num, "nearest_other": near_N.detach().sum() / num}
    return far_N, near_N, numbers | {"left_out": (~anchor_N).sum().float()}


def _mean(loss_X, used_X, active_X, active_only, numbers):
    """The Mined of losses of which some are used. X: any axes."""
    active_X = active_X & used_X
    counted = (active_X if active_only else used_X).sum().clamp(min=1)
    loss = torch.where(used_X, loss_X, torch.zeros_like(loss_X)).sum() / counted
    return Mined(loss, {"active": active_X.sum() / used_X.sum().clamp(min=1)} | numbers)


# --- over all people


def cross_entropy(logits_NC: Tensor, label_N: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """The mean cross-entropy; `smoothing` of the probability is shared out over all people alike. Labels below zero
    count for nothing.

    >>> round(cross_entropy(torch.tensor([[2., 0.], [0., 9.]]), torch.tensor([0, -1]), smoothing=0.5).item(), 3)
    0.627
    """
    known_N = label_N >= 0
    loss_N = functional.cross_entropy(
        logits_NC.float(), label_N.clamp(min=0), label_smoothing=smoothing, reduction="none"
    )
    return torch.where(known_N, loss_N, torch.zeros_like(loss_N)).sum() / known_N.sum().clamp(min=1)


class Classifier(NamedTuple):
    """One row of CLASSIFIERS: the cross-entropy of a linear layer without bias."""

    has_neck: bool = False  # a norm without shift between the vector and the layer, so that both losses have their own
    smoothing: float = 0.0  # default of the knob


CLASSIFIERS = {
    "softmax": Classifier(),
    # Szegedy et al. 2016, arXiv:1512.00567; 0.1 as BoT has it
    "label_smoothing": Classifier(smoothing=0.1),
    # Luo et al. 2019, arXiv:1903.07071 (BoT). `vectors: [embedding]` of a network that ends with such a neck is the
    # same.
    "bnneck": Classifier(has_neck=True, smoothing=0.1),
}


def classifier(row: Classifier, size: int, num_people: int, *, generator: torch.Generator) -> nn.Sequential:
    """The layers vector_ND -> logits_NC of a row of CLASSIFIERS."""
    layer = nn.Linear(size, num_people, bias=False)
    nn.init.normal_(layer.weight, std=CLASSIFIER_STD, generator=generator)
    if not row.has_neck:
        return nn.Sequential(layer)
    # It is left behind with the layer, so nobody will ask for running statistics.
    norm = nn.BatchNorm1d(size, track_running_stats=False)
    norm.register_parameter("bias", None)
    return nn.Sequential(norm, layer)


# --- knobs

# By the name of a knob, or (row, knob) where a row's own is another.
_RANGES: dict[str | tuple[str, str], tuple[type, Callable[[Any], bool], str]] = {
    "margin": (float, lambda value: 0 <= value < math.inf, "a distance from 0 on"),
    ("circle", "margin"): (float, lambda value: 0 <= value < 1, "a difference of cosines from 0 to below 1"),
    "active_only": (bool, lambda value: True, "true or false"),
    "scale": (float, lambda value: 0 < value < math.inf, "a number above 0"),
    "smoothing": (float, lambda value: 0 <= value < 1, "a share from 0 to below 1"),
}


def mined_knobs_of(name: str, given: dict | None = None, *, where: str = "triplet") -> dict[str, Any]:
    """Every knob of a row of MINED: its defaults, changed by `given`. UserError for what is not known or allowed.

    >>> mined_knobs_of("batch_hard", {"margin": 0.3})
    {'margin': 0.3, 'active_only': False}
    """
    _check_row(MINED, name, where)
    return _changed({row: _defaults(loss) for row, loss in MINED.items()}, name, given, where)


def classifier_knobs_of(name: str, given: dict | None = None, *, where: str = "softmax") -> dict[str, Any]:
    """The same of a row of CLASSIFIERS."""
    _check_row(CLASSIFIERS, name, where)
    return _changed({row: {"smoothing": loss.smoothing} for row, loss in CLASSIFIERS.items()}, name, given, where)


def _check_row(table, name, where):
    if name not in table:
        raise UserError(f"{where}: loss '{name}' is not known; {suggestion(str(name), list(table))}")


@functools.cache
def _signature(function):
    return inspect.signature(function)


def _defaults(function):
    parameters = _signature(function).parameters.values()
    return {knob.name: knob.default for knob in parameters if knob.kind is knob.KEYWORD_ONLY}


def _changed(knobs_of, name, given, where):
    knobs = dict(knobs_of[name])
    for knob, value in (given or {}).items():
        if knob not in knobs:
            others = [row for row, theirs in knobs_of.items() if knob in theirs]
            who = f"; {knob} is a knob of {', '.join(others)}" if others else ""
            known = suggestion(str(knob), list(knobs)) if knobs else "it has none"
            raise UserError(f"{where}: knob '{knob}' of {name} is not known; {known}{who}")
        kind, allowed, words = _RANGES.get((name, knob)) or _RANGES[knob]
        is_flag = isinstance(value, bool)
        fits = is_flag if kind is bool else isinstance(value, int | float) and not is_flag
        if not fits or not allowed(value):
            raise UserError(f"{where}: {knob} of {name}: given {value!r}, allowed: {words}")
        knobs[knob] = kind(value)
    return knobs
