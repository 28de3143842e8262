"""What a student learns from its teacher. One row of DISTILLATIONS is all that a new distillation takes.

Every function computes in float32 whatever autocast is on, sends no gradient to the teacher, and gives neither NaN nor
gradient for an embedding of zeros, which has no direction. What a sum over rows is divided by is the number of images.
"""

# B images of a batch, N of the source, D embedding size, C identities, K identities similar to one
# R and S rows of a block

import dataclasses
import functools
import inspect
import math
import pathlib
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from zennas.embed.features import Features
from zennas.embed.largest import largest
from zennas.records import UserError, suggestion
from zennas.track import lookup

SHORTEST = 1e-8  # a vector shorter than this has no direction


def unit(x: torch.Tensor) -> torch.Tensor:
    """x / |x| along the last axis; zeros, without gradient, where |x| is zero.

    >>> unit(torch.tensor([[3., 4.], [0., 0.]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x / torch.where(length > SHORTEST, length, torch.inf)


def _in_float32(function, *, needs_equal_sizes=True):
    """The function on float32 features, outside autocast, with a detached teacher.

    needs_equal_sizes: whether the embeddings of student and teacher must have the same size.
    """

    @functools.wraps(function)
    def wrapped(student, teacher, **knobs):
        if needs_equal_sizes and student.embedding_BD.shape != teacher.embedding_BD.shape:
            raise UserError(
                f"distillation '{function.__name__}': the student's embeddings are {_shape(student.embedding_BD)}, the "
                f"teacher's {_shape(teacher.embedding_BD)}; they must agree: lead the student's through a projection"
            )
        with torch.autocast(student.embedding_BD.device.type, enabled=False):
            return function(_map(student, torch.Tensor.float), _map(teacher, lambda x: x.detach().float()), **knobs)

    return wrapped


def _map(features, change):
    neighbours_BKD = features.neighbours_BKD
    return Features(
        change(features.embedding_BD),
        tuple(change(map_BX) for map_BX in features.attention),
        None if neighbours_BKD is None else change(neighbours_BKD),
    )


def _shape(x):
    return " x ".join(str(size) for size in x.shape)


def _one_minus_cosine(x, y):
    # Half the squared distance of unit vectors is the same number, with digits left when x and y nearly agree.
    return (unit(x) - unit(y)).square().sum(-1) / 2


@_in_float32
def l2(student: Features, teacher: Features) -> torch.Tensor:
    """Mean over images of the squared distance of the embeddings as they are.

    Source: the mind_ft article (L2 distillation of features beside the Balanced Curricular loss); whether its
    embeddings were normalised and its weight are not published. As they are is our choice; `feature_consistency` is the
    other reading.

    >>> one, two = (Features(torch.tensor([[x, 0.], [0., 1.]])) for x in (1., 4.))
    >>> l2(one, two).item()
    4.5
    """
    return (student.embedding_BD - teacher.embedding_BD).square().sum(1).mean()


@_in_float32
def feature_consistency(student: Features, teacher: Features) -> torch.Tensor:
    """Mean over images of the squared distance of the unit embeddings: 2 - 2 cos.

    Source: L_fcd of CoupleFace (Liu et al. 2022, arXiv:2204.05502).
    """
    return (unit(student.embedding_BD) - unit(teacher.embedding_BD)).square().sum(1).mean()


@_in_float32
def angular(student: Features, teacher: Features) -> torch.Tensor:
    """Mean over images of (1 - cos)^2, the angle being that between student and teacher.

    Source: ShrinkTeaNet (Duong et al. 2019, arXiv:1905.10620), recalled and not checked. Kakao's entry to WebFace260M
    adds an angular distillation to CosFace with weight 9.
    """
    return _one_minus_cosine(student.embedding_BD, teacher.embedding_BD).square().mean()


# Attention is compared map by map, so embeddings of another size do not matter.
@functools.partial(_in_float32, needs_equal_sizes=False)
def attention(student: Features, teacher: Features) -> torch.Tensor:
    """Sum over all attention maps of the mean over images of 1 - cos between the student's map and the teacher's.

    Maps are taken before the sigmoid and flattened; a block with CBAM has two, channels and positions; a block with
    squeeze-excitation one. UserError where the maps do not pair. The images may be of another resolution, scaled to one
    size.
    Source: A-SKD (Shin et al. 2022, arXiv:2209.14498) and its code, with weight 5, summed over the blocks of one
    network.
    """
    if not student.attention or not teacher.attention:
        without = "student" if not student.attention else "teacher"
        raise UserError(
            f"distillation 'attention': the {without} has no attention maps; allowed: blocks with attention (ir_cbam, "
            f"ir_se), "
            "and a teacher that is a zennas checkpoint or a torch module with such blocks"
        )
    given, wanted = ([tuple(values.shape[1:]) for values in features.attention] for features in (student, teacher))
    if given != wanted:
        differing = next((pair for pair in zip(given, wanted, strict=False) if pair[0] != pair[1]), None)
        difference = (
            f"{len(given)} and {len(wanted)} maps" if differing is None else f"{differing[0]} and {differing[1]}"
        )
        raise UserError(
            f"distillation 'attention': the maps of student and teacher do not pair: {difference}; "
            "allowed: the same block, widths, depths and input size"
        )
    pairs = zip(student.attention, teacher.attention, strict=True)
    return sum(_one_minus_cosine(*(values.flatten(1) for values in pair)).mean() for pair in pairs)


# How a gap between the student's and the teacher's relation counts: (student's minus teacher's cosine, tolerance).
RELATION_FORMS = {
    "hinge": lambda gap, tolerance: (gap.abs() - tolerance).clamp_min(0),
    # Only where the student finds another identity more similar than the teacher does.
    "one_sided": lambda gap, tolerance: (gap - tolerance).clamp_min(0),
}


@_in_float32
def coupleface(
    student: Features, teacher: Features, *, alpha: float = 1.0, tolerance: float = 0.03, form: str = "hinge"
) -> torch.Tensor:
    """feature_consistency + alpha * how far the student's relations to similar identities are from the teacher's.

    The relation is the cosine between an image's embedding and what the teacher last saw of an identity that it finds
    similar to the image's own: teacher.neighbours_BKD, from the Bank (zeros, which do not count, where it saw none
    yet). It is the student's embedding that is related to the *teacher's* neighbours. The mean is over images and
    neighbours.
    Source: CoupleFace (Liu et al. 2022, arXiv:2204.05502), alpha 1 and q = 0.03; beta, the weight of the classification
    loss beside it, is 0, and 0.01 after 100,000 steps (CoupleFace+). How q enters was not found: `form` is our choice,
    hinge = max(0, |gap| - tolerance), one_sided = max(0, gap - tolerance).
    """
    if teacher.neighbours_BKD is None:
        raise UserError("distillation 'coupleface': needs the neighbours of each image from the teacher's Bank")
    count = lookup(RELATION_FORMS, form, "distillation 'coupleface': form")
    student_BD, teacher_BD, bank_BKD = (
        unit(x) for x in (student.embedding_BD, teacher.embedding_BD, teacher.neighbours_BKD)
    )
    gap_BK = torch.einsum("bd,bkd->bk", student_BD - teacher_BD, bank_BKD)
    known_BK = bank_BKD.any(2)
    relation = (count(gap_BK, tolerance) * known_BK).sum() / known_BK.sum().clamp_min(1)
    return (student_BD - teacher_BD).square().sum(1).mean() + alpha * relation


@dataclasses.dataclass(frozen=True)
class Distillation:
    """One row of DISTILLATIONS: called as its function."""

    function: Callable  # (student Features, teacher Features, *, knobs) -> scalar
    needs: str | None = None  # the field of Features that it reads beside the embedding
    weight: float = 1.0  # published, beside the classification loss; 1 is our choice where none is

    def __call__(self, student, teacher, **knobs):
        return self.function(student, teacher, **knobs)


DISTILLATIONS = {
    "l2": Distillation(l2),
    "feature_consistency": Distillation(feature_consistency),
    "angular": Distillation(angular, weight=9.0),
    "attention": Distillation(attention, needs="attention", weight=5.0),
    "coupleface": Distillation(coupleface, needs="neighbours_BKD"),
}


def knobs_of(name: str, given: dict | None = None, where: str = "distillation") -> dict:
    """All knobs of a distillation: its defaults, changed by `given`.

    UserError for an unknown distillation or knob, or a value that is not a number >= 0 (for `form`: a row of
    RELATION_FORMS).
    """
    row = lookup(DISTILLATIONS, name, f"{where}: distillation")
    parameters = inspect.signature(row.function).parameters.values()
    defaults = {knob.name: knob.default for knob in parameters if knob.kind is knob.KEYWORD_ONLY}
    for knob, value in (given or {}).items():
        if knob not in defaults:
            raise UserError(f"{where}: {name}: knob '{knob}' is not known; {suggestion(str(knob), list(defaults))}")
        if knob == "form":
            lookup(RELATION_FORMS, str(value), f"{where}: {name}: form")
        elif isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise UserError(f"{where}: {name}: {knob}: given {value!r}, allowed: a number of at least 0")
    return {**defaults, **(given or {})}


def projection(student_size: int, teacher_size: int, *, generator: torch.Generator | None = None) -> nn.Module:
    """The learned map from the student's embeddings to the teacher's size; the identity where the sizes agree.

    It is trained with the student and left behind with the teacher. Drawn so that lengths stay about the same.
    """
    if student_size == teacher_size:
        return nn.Identity()
    linear = nn.Linear(student_size, teacher_size, bias=False)
    nn.init.normal_(linear.weight, 0.0, teacher_size**-0.5, generator=generator)
    return linear


def prototypes(
    embedding_ND: np.ndarray, label_N: np.ndarray, num_identities: int, *, block: int = 65536
) -> torch.Tensor:
    """prototype_CD, float32: the mean teacher embedding of each identity; zeros where it has none.

    embedding_ND may be memory-mapped, of any float type: it is read `block` rows at a time. Rows with NaN (images that
    do not decode) do not count. Source: r_m of CoupleFace.
    """
    total_CD = torch.zeros(num_identities, embedding_ND.shape[1])
    count_C = torch.zeros(num_identities)
    for start in range(0, len(label_N), block):
        rows_RD = torch.from_numpy(np.asarray(embedding_ND[start : start + block], dtype=np.float32))
        label_R = torch.from_numpy(np.asarray(label_N[start : start + block], dtype=np.int64))
        finite_R = rows_RD.isfinite().all(1)
        total_CD.index_add_(0, label_R[finite_R], rows_RD[finite_R])
        count_C += torch.bincount(label_R[finite_R], minlength=num_identities)
    return total_CD / count_C.clamp_min(1)[:, None]


def similar_identities(
    prototype_CD: torch.Tensor, k: int = 100, *, block: int = 4096, progress: Callable | None = None
) -> torch.Tensor:
    """similar_CK, int32: for each identity the k others whose prototypes have the largest cosine to its own, largest
    first.

    K is smaller where there are not k others. block^2 cosines are held at a time, on the device of prototype_CD;
    progress(done, total) counts identities. Source: H_m of CoupleFace, K = 100.
    """
    unit_CD = unit(prototype_CD.float())
    num_identities = len(unit_CD)
    k = min(k, num_identities - 1)
    similar_CK = torch.empty(num_identities, k, dtype=torch.int32)
    for start in range(0, num_identities, block):
        _, index_RK = largest(_cosines_to_others(unit_CD, start, block), k)
        similar_CK[start : start + block] = index_RK.to("cpu", torch.int32)
        if progress:
            progress(min(start + block, num_identities), num_identities)
    return similar_CK


def _cosines_to_others(unit_CD, start, block):
    """(first column, cosine_RS) of a block of rows with all rows, block by block; -inf with itself."""
    rows_RD = unit_CD[start : start + block]
    for left in range(0, len(unit_CD), block):
        cosine_RS = rows_RD @ unit_CD[left : left + block].T
        if left == start:
            cosine_RS.fill_diagonal_(-torch.inf)
        yield left, cosine_RS


class Bank:
    """What the teacher last saw of each identity, and the identities that are similar to each: CoupleFace's feature
    bank.

    similar_CK: from `similar_identities`. prototype_CD: what it holds before anything was seen (without: zeros, which
    count as not seen). Unit vectors in float16, because only their directions are asked for: 2 D bytes per identity on
    `device`, or in a memory-mapped file at `path`. Where several ranks train, each gives `update` the labels and
    embeddings of all.
    """

    def __init__(
        self,
        similar_CK: torch.Tensor,
        embedding_size: int,
        *,
        prototype_CD: torch.Tensor | None = None,
        device: str | torch.device = "cpu",
        path: pathlib.Path | str | None = None,
    ):
        size = len(similar_CK), embedding_size
        if path is None:
            self.feature_CD = torch.zeros(size, dtype=torch.float16, device=device)
        else:
            file = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=size)
            self.feature_CD = torch.from_numpy(file)
        self.similar_CK = similar_CK.to(self.feature_CD.device)
        if prototype_CD is not None:
            self.feature_CD.copy_(unit(prototype_CD.float()))

    @torch.no_grad()
    def update(self, label_B: torch.Tensor, embedding_BD: torch.Tensor) -> None:
        """Keep the teacher's embedding of each image as its identity's; of an identity that is there twice, the last
        one.

        An embedding with NaN or infinity changes nothing.
        """
        device = self.feature_CD.device
        label_B = label_B.to(device)
        # Every row of an identity writes what its last row holds: the result does not depend on who writes last, as it
        # would on a GPU.
        sorted_B, order_B = label_B.sort(stable=True)
        last_B = order_B[torch.searchsorted(sorted_B, label_B, right=True) - 1]
        new_BD = unit(embedding_BD.to(device).float()).half()[last_B]
        finite_B1 = new_BD.isfinite().all(1, keepdim=True)
        self.feature_CD[label_B] = torch.where(finite_B1, new_BD, self.feature_CD[label_B])

    def neighbours(self, label_B: torch.Tensor) -> torch.Tensor:
        """neighbours_BKD, float32 unit vectors on the device of label_B: what was last seen of the identities that are
        similar to each image's; zeros where none was seen."""
        similar_BK = self.similar_CK[label_B.to(self.similar_CK.device)].long()
        return self.feature_CD[similar_BK].to(label_B.device).float()

    def state_dict(self) -> dict:
        """What a checkpoint keeps: the features. The similar identities follow from the prototypes."""
        return {"feature_CD": self.feature_CD}

    def load_state_dict(self, state: dict) -> None:
        """Take over what a checkpoint kept; UserError where it is of other sizes."""
        kept_CD = state["feature_CD"]
        if kept_CD.shape != self.feature_CD.shape:
            raise UserError(
                f"the checkpoint's feature bank is {_shape(kept_CD)} (identities x embedding size), this run's "
                f"{_shape(self.feature_CD)}; resume with the data and the teacher of the checkpoint"
            )
        self.feature_CD.copy_(kept_CD)
