"""The losses over class centres: what cosines become before the softmax. One row of LOSSES is all that a new loss
takes.

B images, C class centres of this shard or chunk of it, K sub-centres of a class. Embeddings and centres have length 1,
so a product is a cosine. A loss is two functions: `target`, of the cosine with the own class, and `negatives`, of every
other one, pointwise, with its slope at hand. What they need of the whole row stands in the State, so that any cut gives
the same loss, and a chunk of a million classes takes a few passes over memory, or one where torch.compile fuses them.
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
    """What a loss needs of a batch beside the cosines it is given."""

    buffers: dict[str, Tensor]  # running values, after this batch's update
    target_B: Tensor  # cosine of each image to the centre of its label, detached, the same on every shard


def unchanged(cosine_BC, state):
    """The negatives of most losses: as they are. A slope of None is one everywhere."""
    return cosine_BC, None


@dataclasses.dataclass(frozen=True)
class Loss:
    """One row of LOSSES. Every keyword-only argument of its functions is a knob. Logits are `scale` times what they
    give.
    """

    # (own_B, norm_B, state, *, knobs) -> what the cosine to the own class becomes; any slope that autograd knows
    target: Callable
    # (cosine_BC, state, *, knobs) -> (what cosines to other classes become, slope_BC or None)
    negatives: Callable = unchanged
    # (buffers, target_B, norm_B, *, knobs) -> buffers; once per micro-batch, before the others
    update: Callable | None = None
    buffers: dict[str, float] = dataclasses.field(default_factory=dict)  # the values that `update` begins from
    relabel: Callable | None = None  # (target_B, hardest_B, *, knobs) -> bool_B: take the hardest other class as label
    # (target_B, hardest_B, *, knobs) -> penalty_B >= 0, of the labels after relabelling
    penalty: Callable | None = None
    needs_counts: bool = False  # balanced: log of a class's number of images is added to its logits
    scale: float = 64.0  # default of the knob that every loss has; arcface_torch's
    subcentres: int = 1  # likewise: centres of a class, of which the nearest counts
    # Default of the knob that a row with relabel or penalty has: both hold from there on.
    start_epoch: float | None = None


def softmax(own_B, norm_B, state):
    """Normalised softmax: the cosine as it is.

    No biases and no lengths: a test compares angles alone, and a length would let the loss fall without turning
    anything. The scale is needed in their place, as cosines alone cannot become a sharp distribution over many classes.
    Source: Wang et al. 2017, arXiv:1704.06369, as recalled; 64 as in insightface's arcface_torch.
    """
    return own_B


def cosface(own_B, norm_B, state, *, margin=0.40):
    """Each image must beat its own class by `margin`, a cosine.

    Source: Wang et al. 2018, arXiv:1801.09414, eq. 4; the default of insightface's arcface_torch.

    >>> cosface(torch.tensor([.5]), None, None, margin=.25).tolist()
    [0.25]
    """
    return own_B - margin


def arcface(own_B, norm_B, state, *, margin_rad=0.5, easy_margin=False):
    """Each image stands `margin_rad` further from its own centre than it does.

    cos(theta + m) rises again beyond theta = pi - m. There the target is cos(theta) - m sin(m), which goes on falling,
    as CurricularFace's and FaceX-Zoo's code has it (arcface_torch has no such branch); with easy_margin, the margin
    holds for images within 90 degrees of their centre alone.
    Source: Deng et al. 2019, arXiv:1801.07698, eq. 3.
    """
    if easy_margin:
        return torch.where(own_B > 0, _arc(own_B, margin_rad), own_B)
    falling_B = own_B - margin_rad * math.sin(margin_rad)
    return torch.where(own_B > -math.cos(margin_rad), _arc(own_B, margin_rad), falling_B)


def combined(own_B, norm_B, state, *, m1=1.0, m2_rad=0.3, m3=0.2):
    """cos(m1 theta + m2) - m3: a factor, an angle and a cosine in one.

    Beyond an angle of pi the cosine is continued downwards as SphereFace does it: (-1)^k cos(angle) - 2k with
    k = floor(angle / pi), which is continuous and has no minimum; (m1, 0, 0) is SphereFace without its annealing.
    Source: Deng et al. 2019, arXiv:1801.07698, eq. 4; the defaults are its CM1, as recalled.
    """
    sine_B = _sine(own_B)
    theta_B = torch.atan2(sine_B, own_B)  # acos, but finite in its slope at both ends
    extra_B = (m1 - 1) * theta_B + m2_rad
    turns_B = ((theta_B + extra_B) / math.pi).detach().floor()
    cosine_B = own_B * extra_B.cos() - sine_B * extra_B.sin()
    return (1 - 2 * (turns_B % 2)) * cosine_B - 2 * turns_B - m3


def unified(own_B, norm_B, state, *, m1=1.0, m2_rad=0.3, m3=0.2, s_p=64.0):
    """s_p (cos(m1 theta + m2) - m3): `combined`, with a scale of its own.

    Source: the loss space {m1, m2, m3, s_p, s_n} of Comprehensive Search (ECCV 2022, arXiv:2208.13600),
    whose slides name the five. That s_p multiplies the target and s_n the negatives, that the angle is continued beyond
    pi, and the defaults are our reading. With s_p = s_n it is `combined`.
    """
    return s_p * combined(own_B, norm_B, state, m1=m1, m2_rad=m2_rad, m3=m3)


def unified_negatives(cosine_BC, state, *, s_n=64.0):
    """s_n c: other classes count less or more than the own one.

    >>> unified_negatives(torch.tensor([[.5, -.5]]), None, s_n=32.)[0].tolist()
    [[16.0, -16.0]]
    """
    return s_n * cosine_BC, cosine_BC.new_full((), s_n).expand_as(cosine_BC)


def misclassified(cosine_BC, state, *, margin_rad=0.35, t=0.2, fixed=False):
    """A cosine c above cos(theta_y + m) becomes (t + 1) c + t; with `fixed`, c + t.

    Source: MV-Arc-Softmax, Wang et al. 2020, arXiv:1912.00833 (number as recalled); form and defaults of its
    fc_layers.py.
    """
    hard_BC = cosine_BC > _arc(state.target_B, margin_rad)[:, None]
    factor = 1.0 if fixed else 1.0 + t
    return torch.where(hard_BC, factor * cosine_BC + t, cosine_BC), 1.0 + (factor - 1.0) * hard_BC


def mv_arc(own_B, norm_B, state, *, margin_rad=0.35, easy_margin=True):
    """`arcface` with the defaults of MV-Arc-Softmax's fc_layers.py."""
    return arcface(own_B, norm_B, state, margin_rad=margin_rad, easy_margin=easy_margin)


def curricular(cosine_BC, state, *, margin_rad=0.5):
    """A cosine c above cos(theta_y + m) becomes c (t + c): such negatives gain weight as training goes on.

    t is the running mean of the cosines to the own centre (`curricular_update`), near 0 at first, where hard ones are
    damped. The threshold is the bare cosine, as in the paper's code, also where theta + m is beyond pi.
    Source: CurricularFace, Huang et al. 2020, arXiv:2004.00288 (number as recalled); its metrics.py.
    """
    hard_BC = cosine_BC > _arc(state.target_B, margin_rad)[:, None]
    sum_BC = cosine_BC + state.buffers["t"]
    return torch.where(hard_BC, cosine_BC * sum_BC, cosine_BC), (sum_BC + cosine_BC).masked_fill(~hard_BC, 1.0)


def curricular_update(buffers, target_B, norm_B, *, t_alpha=0.01):
    """t, moved by the share `t_alpha` to the mean of target_B over the whole micro-batch, of all ranks."""
    return {"t": torch.lerp(buffers["t"], target_B.detach().mean().to(buffers["t"]), t_alpha)}


def adaface(own_B, norm_B, state, *, margin=0.4, h=0.333):
    """The margin follows the image's quality, of which the length of its embedding before normalising is the sign.

    z = clip(h (length - mean) / (std + 0.001), -1, 1); the target is cos(theta - margin z) - (margin + margin z):
    CosFace with twice the margin turned forward for sharp images, ArcFace for blurred ones. `margin` is radians in the
    first place and a cosine in the second. norm_B > 0 takes no gradient.
    Source: Kim et al. 2022, arXiv:2204.00964 (number as recalled); its head.py, whose clip of all cosines to
    0.999 is for the arc cosine and stands on the target alone here, as the others have none.
    """
    mean, std = state.buffers["mean"], state.buffers["std"]
    z_B = ((_safe_norm(norm_B) - mean) / (std + ADAFACE_EPS) * h).clamp(-1, 1)
    theta_B = own_B.clamp(-1 + ADAFACE_EPS, 1 - ADAFACE_EPS).acos() - margin * z_B
    return theta_B.clamp(ADAFACE_EPS, math.pi - ADAFACE_EPS).cos() - margin * (1 + z_B)


def adaface_update(buffers, target_B, norm_B, *, t_alpha=0.01):
    """Mean and deviation of the lengths, moved by the share `t_alpha` to the batch's; one image alone leaves the
    deviation.

    0.01 is what the paper trains with; head.py's own default, 1, remembers nothing.
    """
    norm_B, kept = _safe_norm(norm_B), buffers["std"]
    std = norm_B.std().to(kept) if len(norm_B) > 1 else kept
    return {
        "mean": torch.lerp(buffers["mean"], norm_B.mean().to(kept), t_alpha),
        "std": torch.lerp(kept, std, t_alpha),
    }


def boundaryface(own_B, norm_B, state, *, margin_rad=0.5):
    """`arcface`: BoundaryFace is about labels and a penalty, see `crosses_boundary`.

    Source: Wu and Gong 2022, arXiv:2210.04567; its train.py.
    """
    return arcface(own_B, norm_B, state, margin_rad=margin_rad)


def crosses_boundary(target_B, hardest_B, *, margin_rad=0.5):
    """Which images stand nearer to another class than to their own, by more than the margin: their label is taken for
    noise.

    hardest_B is the largest cosine to another class, as it is; BoundaryFace's code has zeros in the place of the own
    class and so never sees one below zero.
    """
    return arcface(hardest_B, None, None, margin_rad=margin_rad) > target_B


def boundary_penalty(target_B, hardest_B, *, margin_rad=0.5, penalty_weight=math.pi):
    """How far each image's nearest other class intrudes on its own class's margin, times `penalty_weight`.

    pi suits clean labels: its authors report that it collapsed on raw MS1M, where 0 (boundaryface_f1) did not.
    """
    return penalty_weight * (hardest_B - arcface(target_B, None, None, margin_rad=margin_rad)).clamp(min=0)


LOSSES = {
    "softmax": Loss(softmax),
    "cosface": Loss(cosface),
    "arcface": Loss(arcface),
    "combined": Loss(combined),
    "unified_margin": Loss(unified, unified_negatives, scale=1.0),  # s_p and s_n are its scales
    # Deng et al. 2020 (ECCV): three centres; the second training without what lies far from the dominant one is
    # clean/'s.
    "subcenter_arcface": Loss(arcface, subcentres=3),
    "mv_arc_softmax": Loss(mv_arc, misclassified, scale=32.0),
    "curricularface": Loss(arcface, curricular, curricular_update, {"t": 0.0}),
    "adaface": Loss(adaface, update=adaface_update, buffers={"mean": 20.0, "std": 100.0}),
    # Ren et al. 2020, arXiv:2007.10740 (number as recalled); its BalancedSoftmaxLoss.py.
    "balanced_softmax": Loss(softmax, needs_counts=True),
    # mind_ft's solution: its formula is published as an image, and its text says that the idea of the balanced softmax
    # enters the curricular loss. This reading, and CurricularFace's margin and scale, are our choice.
    "balanced_curricular": Loss(arcface, curricular, curricular_update, {"t": 0.0}, needs_counts=True),
    # Epoch 7 as on CASIA; 10 on MS1M.
    "boundaryface_f1": Loss(boundaryface, relabel=crosses_boundary, start_epoch=7.0, scale=32.0),
    "boundaryface": Loss(boundaryface, relabel=crosses_boundary, penalty=boundary_penalty, start_epoch=7.0, scale=32.0),
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
    "s_p": _POSITIVE,
    "s_n": _POSITIVE,
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
    for function in filter(None, (loss.target, loss.negatives, loss.update, loss.relabel, loss.penalty)):
        knobs |= _defaults(function)
    knobs["scale"] = loss.scale
    if loss.start_epoch is not None:
        knobs["start_epoch"] = loss.start_epoch
    knobs["subcentres"] = loss.subcentres
    for knob, value in (given or {}).items():
        if knob not in knobs:
            raise UserError(f"{where}: knob '{knob}' of {name} is not known; {suggestion(str(knob), list(knobs))}")
        knobs[knob] = _checked(knobs[knob], KNOBS.get(knob), value, f"{where}: {knob} of {name}")
    return knobs


def bound(function, knobs):
    """The function with those of the knobs that it has."""
    return functools.partial(function, **{name: knobs[name] for name in _defaults(function)})


def call(function, knobs, *args):
    """function(*args) with those of the knobs that it has."""
    return bound(function, knobs)(*args)


def logits_of(loss, knobs, cosine_BC, label_B, norm_B, state, *, log_count_C=None):
    """logits_BC of some columns, by plain autograd; label_B is -1 where the own column is none of them.

    log_count_C: log of the number of images of each of these classes, for a balanced loss.
    """
    logits_BC = knobs["scale"] * call(loss.negatives, knobs, cosine_BC, state)[0]
    column_B1, here_B1 = label_B.clamp(min=0)[:, None], (label_B >= 0)[:, None]
    own_B1 = knobs["scale"] * call(loss.target, knobs, cosine_BC.gather(1, column_B1)[:, 0], norm_B, state)[:, None]
    logits_BC = logits_BC.scatter(1, column_B1, torch.where(here_B1, own_B1, logits_BC.gather(1, column_B1)))
    return logits_BC if log_count_C is None else logits_BC + log_count_C


def applies(knobs, epoch):
    """Whether relabelling and penalty hold in this epoch, counted from 0; never for a loss that has neither."""
    return "start_epoch" in knobs and epoch >= knobs["start_epoch"]


def initial_buffers(name, *, device=None):
    """The running values that a loss begins with: 0-dimensional float32 tensors by name."""
    return {key: torch.tensor(value, device=device) for key, value in LOSSES[name].buffers.items()}


def unsharded_loss(name, cosine, label_B, norm_B, *, buffers=None, count_C=None, epoch=0.0, knobs=None, training=True):
    """(loss, buffers after this batch): the whole of it on one device, to which the sharded way is held.

    cosine_BC, or cosine_BCK with K sub-centres; it is clamped to [-1, 1] and taken to float32 (float64 stays), also
    under autocast. norm_B: length of the embeddings before normalising, or None where no adaface asks. count_C: images
    of each class; one that has none counts as if it had one, as log 0 would take it out of the softmax.
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
        state = State(buffers, target_B.detach())
        log_count_C = count_C.clamp(min=1).to(cosine_BC).log() if loss.needs_counts else None
        logits_BC = logits_of(loss, knobs, cosine_BC, label_B, norm_B, state, log_count_C=log_count_C)
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


def _safe_norm(norm_B):
    return norm_B.detach().float().clamp(1e-3, 100)


def _own(cosine_BC, label_B):
    return cosine_BC.gather(1, label_B[:, None]).squeeze(1)


def _others(cosine_BC, label_B):
    return cosine_BC.scatter(1, label_B[:, None], -math.inf)


@functools.cache
def _signature(function):
    parameters = inspect.signature(function).parameters.values()
    return tuple((knob.name, knob.default) for knob in parameters if knob.kind is knob.KEYWORD_ONLY)


def _defaults(function):
    return dict(_signature(function))


def _checked(default, row, value, where):
    """The value as its row of KNOBS has it; without a row, any value of the kind of the default is allowed."""
    if row is None:
        row = _FLAG if isinstance(default, bool) else (type(default), math.isfinite, "a finite number")
    kind, allowed, words = row
    known = isinstance(value, bool) if kind is bool else isinstance(value, (int, kind)) and not isinstance(value, bool)
    if not known or not allowed(value):
        raise UserError(f"{where}: given {value!r}, allowed: {words}")
    return kind(value)
