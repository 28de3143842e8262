"""The losses over class centres: what a row of cosines becomes before the softmax. A new loss is one row of LOSSES.

B faces, C class centres of this shard or chunk of it, K sub-centres of a class. Embeddings and centres have length 1, so a
product is a cosine; label_B is the column of a face's own centre, or -1 where that column lies elsewhere. A row's `logits`
sees one chunk of columns at a time: what it needs of the whole row stands in the State, so that any cut gives the same loss.
"""

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from zennas.records import UserError, suggestion


class State(NamedTuple):
    """What a row of logits needs beside its own columns."""

    buffers: dict[str, Tensor]  # running values, after this batch's update
    target_B: Tensor  # cosine of each face to the centre of its label, detached, the same on every shard
    log_count_C: Tensor | None = None  # log of the number of images of each of these C classes
    epoch: float = 0.0


@dataclasses.dataclass(frozen=True)
class Loss:
    """One row of LOSSES. Every keyword-only argument of its functions is a knob."""

    logits: Callable  # (cosine_BC, label_B, norm_B, state, *, knobs) -> logits_BC, scaled
    update: Callable | None = None  # (buffers, target_B, norm_B, *, knobs) -> buffers; once per batch, before logits
    buffers: dict[str, float] = dataclasses.field(default_factory=dict)  # the values that `update` begins from
    relabel: Callable | None = None  # (target_B, hardest_B, *, knobs) -> bool_B: take the hardest other class as label
    penalty: Callable | None = (
        None  # (target_B, hardest_B, *, knobs) -> penalty_B >= 0, of the labels after relabelling
    )
    needs_counts: bool = False  # whether State.log_count_C must be there
    subcentres: int = 1  # default of the knob that every loss has: centres of a class, of which the nearest counts
    start_epoch: float | None = (
        None  # default of the knob that a row with relabel or penalty has: both hold from there on
    )


def softmax(cosine_BC, label_B, norm_B, state, *, scale=64.0):
    """Normalised softmax: the cosines times `scale`.

    No biases and no lengths: a test compares angles alone, and a length would let the loss fall without turning anything.
    The scale is needed in their place, as cosines alone cannot become a sharp distribution over many classes.
    Source: Wang et al. 2017, arXiv:1704.06369, as recalled; 64 as in insightface's arcface_torch.
    """
    return scale * cosine_BC


def cosface(cosine_BC, label_B, norm_B, state, *, margin=0.40, scale=64.0):
    """Logits in which each face must beat its own class by `margin`, a cosine.

    Source: Wang et al. 2018, arXiv:1801.09414, eq. 4; defaults of insightface's arcface_torch.

    >>> cosface(torch.tensor([[.5, .25]]), torch.tensor([0]), None, None, margin=.25, scale=2.).tolist()
    [[0.5, 0.5]]
    """
    return _margined(cosine_BC, label_B, scale, lambda own_B1: own_B1 - margin)


def arcface(cosine_BC, label_B, norm_B, state, *, margin_rad=0.5, easy_margin=False, scale=64.0):
    """Logits in which each face stands `margin_rad` further from its own centre than it does.

    cos(theta + m) rises again beyond theta = pi - m. There the target is cos(theta) - m sin(m), which goes on falling, as
    CurricularFace's and FaceX-Zoo's code has it (arcface_torch has no such branch); with easy_margin, the margin holds
    for faces within 90 degrees of their centre alone.
    Source: Deng et al. 2019, arXiv:1801.07698, eq. 3.
    """
    return _margined(cosine_BC, label_B, scale, lambda own_B1: _arc_target(own_B1, margin_rad, easy_margin))


def combined(cosine_BC, label_B, norm_B, state, *, m1=1.0, m2_rad=0.3, m3=0.2, scale=64.0):
    """Logits whose target is cos(m1 theta + m2) - m3: a factor, an angle and a cosine in one.

    Beyond an angle of pi the cosine is continued downwards as SphereFace does it: (-1)^k cos(angle) - 2k with
    k = floor(angle / pi), which is continuous and has no minimum; (m1, 0, 0) is SphereFace without its annealing.
    Source: Deng et al. 2019, arXiv:1801.07698, eq. 4; defaults of insightface's mxnet config `combined`.
    """

    def modified(own_B1):
        sine_B1 = _sine(own_B1)
        theta_B1 = torch.atan2(sine_B1, own_B1)  # acos, but finite in its slope at both ends
        extra_B1 = (m1 - 1) * theta_B1 + m2_rad
        turns_B1 = ((theta_B1 + extra_B1) / math.pi).detach().floor()
        cosine_B1 = own_B1 * extra_B1.cos() - sine_B1 * extra_B1.sin()
        return (1 - 2 * (turns_B1 % 2)) * cosine_B1 - 2 * turns_B1 - m3

    return _margined(cosine_BC, label_B, scale, modified)


def mv_arc_softmax(
    cosine_BC, label_B, norm_B, state, *, margin_rad=0.35, t=0.2, fixed=False, easy_margin=True, scale=32.0
):
    """ArcFace whose misclassified vectors weigh more: a cosine c above cos(theta_y + m) becomes (t + 1) c + t.

    fixed: it becomes c + t instead. easy_margin as in `arcface`.
    Source: Wang et al. 2020, arXiv:1912.00833 (number as recalled); form and defaults of its fc_layers.py.
    """
    easy_BC = _easy_negatives(cosine_BC, label_B, state, margin_rad)
    hard_BC = cosine_BC + t if fixed else (1 + t) * cosine_BC + t
    return _margined(
        cosine_BC,
        label_B,
        scale,
        lambda own_B1: _arc_target(own_B1, margin_rad, easy_margin),
        torch.where(easy_BC, cosine_BC, hard_BC),
    )


def curricularface(cosine_BC, label_B, norm_B, state, *, margin_rad=0.5, scale=64.0):
    """ArcFace whose hard negatives gain weight as training goes on: a cosine c above cos(theta_y + m) becomes c (t + c).

    t is the running mean of the cosines to the own centre (`curricular_update`), near 0 at first, where hard ones are damped.
    Source: Huang et al. 2020, arXiv:2004.00288 (number as recalled); its metrics.py, also for the target beyond pi.
    """
    easy_BC = _easy_negatives(cosine_BC, label_B, state, margin_rad)
    factor_BC = (cosine_BC + state.buffers["t"]).masked_fill_(easy_BC, 1.0)
    return _margined(
        cosine_BC, label_B, scale, lambda own_B1: _arc_target(own_B1, margin_rad, False), cosine_BC * factor_BC
    )


def curricular_update(buffers, target_B, norm_B, *, t_alpha=0.01):
    """t, moved by the share `t_alpha` to the mean of target_B over the whole batch."""
    return {"t": torch.lerp(buffers["t"], target_B.detach().mean().to(buffers["t"]), t_alpha)}


def adaface(cosine_BC, label_B, norm_B, state, *, margin=0.4, h=0.333, scale=64.0):
    """Logits whose margin follows the face's quality, of which the length of its embedding before normalising is the sign.

    z = clip(h (length - mean) / (std + 0.001), -1, 1); the target is cos(theta - margin z) - (margin + margin z): CosFace
    with twice the margin turned forward for sharp faces, ArcFace for blurred ones. `margin` is radians in the first place
    and a cosine in the second. norm_B > 0 takes no gradient.
    Source: Kim et al. 2022, arXiv:2204.00964 (number as recalled); its head.py, whose clip of all cosines to
    0.999 is for the arc cosine and stands on the target alone here, as the others have none.
    """
    mean, std = state.buffers["mean"], state.buffers["std"]
    z_B1 = ((_safe_norm(norm_B) - mean) / (std + ADAFACE_EPS) * h).clamp(-1, 1)[:, None]

    def modified(own_B1):
        theta_B1 = own_B1.clamp(-1 + ADAFACE_EPS, 1 - ADAFACE_EPS).acos() - margin * z_B1
        return theta_B1.clamp(ADAFACE_EPS, math.pi - ADAFACE_EPS).cos() - margin * (1 + z_B1)

    return _margined(cosine_BC, label_B, scale, modified)


def adaface_update(buffers, target_B, norm_B, *, t_alpha=0.01):
    """Mean and deviation of the lengths, moved by the share `t_alpha` to the batch's; one face alone leaves the deviation.

    0.01 is what the paper trains with; head.py's own default, 1, remembers nothing.
    """
    norm_B, kept = _safe_norm(norm_B), buffers["std"]
    std = norm_B.std().to(kept) if len(norm_B) > 1 else kept
    return {
        "mean": torch.lerp(buffers["mean"], norm_B.mean().to(kept), t_alpha),
        "std": torch.lerp(kept, std, t_alpha),
    }


def balanced_softmax(cosine_BC, label_B, norm_B, state, *, scale=64.0):
    """`softmax` with every class weighted by its number of images n: log n is added to its scaled cosine.

    Source: Ren et al. 2020, arXiv:2007.10740 (number as recalled); its BalancedSoftmaxLoss.py.
    """
    return softmax(cosine_BC, label_B, norm_B, state, scale=scale).add_(state.log_count_C)


def balanced_curricular(cosine_BC, label_B, norm_B, state, *, margin_rad=0.5, scale=64.0):
    """`curricularface` with every class weighted by its number of images n: log n is added to its scaled logit.

    Source: mind_ft's solution, whose formula is published as an image; its text says that the idea of the balanced softmax
    enters the curricular loss. This reading, and CurricularFace's margin and scale, are our choice.
    """
    logits_BC = curricularface(cosine_BC, label_B, norm_B, state, margin_rad=margin_rad, scale=scale)
    return logits_BC.add_(state.log_count_C)


def boundaryface(cosine_BC, label_B, norm_B, state, *, margin_rad=0.5, scale=32.0):
    """`arcface` at the scale of BoundaryFace, which is about labels and a penalty: see `crosses_boundary`.

    Source: Wu and Gong 2022, arXiv:2210.04567; its train.py.
    """
    return arcface(cosine_BC, label_B, norm_B, state, margin_rad=margin_rad, scale=scale)


def crosses_boundary(target_B, hardest_B, *, margin_rad=0.5):
    """Which faces stand nearer to another class than to their own, by more than the margin: their label is taken for noise.

    hardest_B is the largest cosine to another class, as it is; BoundaryFace's code has zeros in the place of the own class
    and so never sees one below zero.
    """
    return _arc_target(hardest_B, margin_rad, False) > target_B


def boundary_penalty(target_B, hardest_B, *, margin_rad=0.5, penalty_weight=math.pi):
    """How far each face's nearest other class intrudes on its own class's margin, times `penalty_weight`.

    pi suits clean labels: its authors report that it collapsed on raw MS1M, where 0 (boundaryface_f1) did not.
    """
    return penalty_weight * (hardest_B - _arc_target(target_B, margin_rad, False)).clamp(min=0)


LOSSES = {
    "softmax": Loss(softmax),
    "cosface": Loss(cosface),
    "arcface": Loss(arcface),
    "combined": Loss(combined),
    # Deng et al. 2020 (ECCV). Their second training, without faces beyond 75 degrees of the dominant centre, is no loss.
    "subcenter_arcface": Loss(arcface, subcentres=3),
    "mv_arc_softmax": Loss(mv_arc_softmax),
    "curricularface": Loss(curricularface, curricular_update, {"t": 0.0}),
    "adaface": Loss(adaface, adaface_update, {"mean": 20.0, "std": 100.0}),
    "balanced_softmax": Loss(balanced_softmax, needs_counts=True),
    "balanced_curricular": Loss(balanced_curricular, curricular_update, {"t": 0.0}, needs_counts=True),
    # Epoch 7 as on CASIA; 10 on MS1M.
    "boundaryface_f1": Loss(boundaryface, relabel=crosses_boundary, start_epoch=7.0),
    "boundaryface": Loss(boundaryface, relabel=crosses_boundary, penalty=boundary_penalty, start_epoch=7.0),
}

# What a knob may be: its type, the test and the words for it.
_ANGLE = (float, lambda value: 0 <= value < math.pi, "radians from 0 to below pi")
_COSINE = (float, lambda value: 0 <= value <= 2, "a difference of cosines from 0 to 2")
_FLAG = (bool, lambda value: True, "true or false")
_NOT_NEGATIVE = (float, lambda value: 0 <= value < math.inf, "a number from 0 on")
_POSITIVE = (float, lambda value: 0 < value < math.inf, "a number above 0")
KNOBS = {
    "scale": _POSITIVE,
    "margin_rad": _ANGLE,
    "margin": _COSINE,
    "m1": _POSITIVE,
    "m2_rad": _ANGLE,
    "m3": _COSINE,
    "easy_margin": _FLAG,
    "t": _NOT_NEGATIVE,
    "fixed": _FLAG,
    "t_alpha": (float, lambda value: 0 < value <= 1, "a share above 0 and up to 1"),
    "h": _POSITIVE,
    "penalty_weight": _NOT_NEGATIVE,
    "start_epoch": _NOT_NEGATIVE,
    "subcentres": (int, lambda value: value >= 1, "an integer from 1 on"),
}


def knobs_of(name, given=None, *, where="loss"):
    """Every knob of the loss of that name: its defaults, changed by `given`.

    UserError, with `where` in front, for a loss or knob that is not known and for a value that a knob cannot have.

    >>> knobs_of("cosface", {"margin": 0.35})
    {'margin': 0.35, 'scale': 64.0, 'subcentres': 1}
    """
    if name not in LOSSES:
        raise UserError(f"{where}: loss '{name}' is not known; {suggestion(str(name), list(LOSSES))}")
    loss = LOSSES[name]
    knobs = {}
    for function in filter(None, (loss.logits, loss.update, loss.relabel, loss.penalty)):
        knobs |= _defaults(function)
    if loss.start_epoch is not None:
        knobs["start_epoch"] = loss.start_epoch
    knobs["subcentres"] = loss.subcentres
    for knob, value in (given or {}).items():
        if knob not in knobs:
            raise UserError(f"{where}: knob '{knob}' of {name} is not known; {suggestion(str(knob), list(knobs))}")
        knobs[knob] = _checked(knob, value, f"{where}: {knob} of {name}")
    return knobs


def call(function, knobs, *args):
    """function(*args) with those of the knobs that it has."""
    return function(*args, **{name: knobs[name] for name in _defaults(function)})


def applies(knobs, epoch):
    """Whether relabelling and penalty hold in this epoch, counted from 0; never for a loss that has neither."""
    return "start_epoch" in knobs and epoch >= knobs["start_epoch"]


def initial_buffers(name, *, device=None):
    """The running values that a loss begins with: 0-dimensional float32 tensors by name."""
    return {key: torch.tensor(value, device=device) for key, value in LOSSES[name].buffers.items()}


def unsharded_loss(name, cosine, label_B, norm_B, *, buffers=None, count_C=None, epoch=0.0, knobs=None, training=True):
    """(loss, buffers after this batch): the whole of it on one device, to which the sharded way is held.

    cosine_BC, or cosine_BCK with K sub-centres; it is clamped to [-1, 1] and taken to float32 (float64 stays), also under
    autocast. norm_B: length of the embeddings before normalising, or None where no adaface asks. count_C: images of each class.
    Not `training`: the buffers stay, labels are taken as they are, and there is no penalty. UserError as by `knobs_of`.
    """
    knobs = knobs_of(name, knobs)
    loss = LOSSES[name]
    buffers = initial_buffers(name, device=cosine.device) if buffers is None else buffers
    if loss.needs_counts and count_C is None:
        raise UserError(f"loss {name}: needs the number of images of each class, and was given none")
    with torch.autocast(cosine.device.type, enabled=False):
        cosine_BC = cosine.to(torch.promote_types(cosine.dtype, torch.float32)).clamp(-1, 1)
        if cosine.ndim == 3:
            cosine_BC = cosine_BC.max(dim=2).values  # not amax, which shares the gradient among equals
        rectifying = training and applies(knobs, epoch)
        if training and loss.update:
            with torch.no_grad():
                buffers = call(loss.update, knobs, buffers, _own(cosine_BC, label_B), norm_B)
        if rectifying and loss.relabel:
            with torch.no_grad():
                hardest_B, other_B = _others(cosine_BC, label_B).max(dim=1)
                noisy_B = call(loss.relabel, knobs, _own(cosine_BC, label_B), hardest_B)
                label_B = torch.where(noisy_B, other_B, label_B)
        target_B = _own(cosine_BC, label_B)
        log_count_C = None if count_C is None else count_C.to(cosine_BC).log()
        state = State(buffers, target_B.detach(), log_count_C, epoch)
        logits_BC = call(loss.logits, knobs, cosine_BC, label_B, norm_B, state)
        value = functional.cross_entropy(logits_BC, label_B)
        if rectifying and loss.penalty:
            hardest_B = _others(cosine_BC, label_B).max(dim=1).values
            value = value + call(loss.penalty, knobs, target_B, hardest_B).mean()
    return value, buffers


ADAFACE_EPS = 1e-3  # of head.py
# Below 1 - c^2 of every float32 c within (-1, 1), so that it stands for the two ends alone.
_SINE_EPS = 1e-12


def _sine(cosine_B):
    """sin(theta) of cos(theta), theta in [0, pi]; at the ends, where its slope is infinite, the slope is taken as 0."""
    return ((1 - cosine_B) * (1 + cosine_B)).clamp(min=_SINE_EPS).sqrt()


def _arc(cosine_B, margin_rad):
    """cos(theta + margin_rad)."""
    return cosine_B * math.cos(margin_rad) - _sine(cosine_B) * math.sin(margin_rad)


def _arc_target(cosine_B, margin_rad, easy_margin):
    """`_arc`, kept from rising again beyond pi: see `arcface`."""
    if easy_margin:
        return torch.where(cosine_B > 0, _arc(cosine_B, margin_rad), cosine_B)
    falling_B = cosine_B - margin_rad * math.sin(margin_rad)
    return torch.where(cosine_B > -math.cos(margin_rad), _arc(cosine_B, margin_rad), falling_B)


def _easy_negatives(cosine_BC, label_B, state, margin_rad):
    """Where a cosine is at most cos(theta_y + m) of its row, and at the own class; as in the papers' code, even beyond pi."""
    easy_BC = cosine_BC.detach() <= _arc(state.target_B, margin_rad)[:, None]
    column_B1, here_B1 = _columns(label_B)
    return easy_BC.scatter_(1, column_B1, easy_BC.gather(1, column_B1) | here_B1)


def _safe_norm(norm_B):
    return norm_B.detach().float().clamp(1e-3, 100)


def _own(cosine_BC, label_B):
    return cosine_BC.gather(1, label_B[:, None]).squeeze(1)


def _others(cosine_BC, label_B):
    return cosine_BC.scatter(1, label_B[:, None], -math.inf)


def _columns(label_B):
    """(column_B1, here_B1): a column that can be read in any case, and whether it is the own one."""
    return label_B.clamp(min=0)[:, None], (label_B >= 0)[:, None]


def _margined(cosine_BC, label_B, scale, modify, negative_BC=None):
    """scale * negative_BC, with scale * modify(own cosine) at each row's own column.

    modify: own_B1 -> target_B1, of any slope that autograd knows. negative_BC: the cosines after what is done to the
    negatives; at the own column it must still be the cosine.
    """
    column_B1, here_B1 = _columns(label_B)
    own_B1 = cosine_BC.detach().gather(1, column_B1)
    slope_B1 = torch.ones_like(own_B1)
    if torch.is_grad_enabled() and cosine_BC.requires_grad:
        target_B1 = modify(own_B1.requires_grad_())
        (slope_B1,) = torch.autograd.grad(target_B1.sum(), own_B1)
    else:
        target_B1 = modify(own_B1)
    negative_BC = cosine_BC if negative_BC is None else negative_BC
    target_B1 = torch.where(here_B1, target_B1.detach(), negative_BC.detach().gather(1, column_B1))
    slope_B1 = torch.where(here_B1, slope_B1, 1.0)
    return _Scaled.apply(negative_BC, column_B1, target_B1, slope_B1, scale)


class _Scaled(torch.autograd.Function):
    """scale * x_BC, with one entry of each row replaced and its slope given.

    By gather and scatter alone, autograd would fill a matrix of zeros and add it, for one entry of each row.
    """

    @staticmethod
    def forward(ctx, x_BC, column_B1, target_B1, slope_B1, scale):
        ctx.save_for_backward(column_B1, slope_B1)
        ctx.scale = scale
        return (scale * x_BC).scatter_(1, column_B1, scale * target_B1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_BC):
        column_B1, slope_B1 = ctx.saved_tensors
        own_B1 = ctx.scale * slope_B1 * grad_BC.gather(1, column_B1)
        return (ctx.scale * grad_BC).scatter_(1, column_B1, own_B1), None, None, None, None


@functools.cache
def _signature(function):
    parameters = inspect.signature(function).parameters.values()
    return tuple((one.name, one.default) for one in parameters if one.kind is one.KEYWORD_ONLY)


def _defaults(function):
    return dict(_signature(function))


def _checked(knob, value, where):
    kind, allowed, words = KNOBS[knob]
    known = isinstance(value, bool) if kind is bool else isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not known or not allowed(value):
        raise UserError(f"{where}: given {value!r}, allowed: {words}")
    return kind(value)
