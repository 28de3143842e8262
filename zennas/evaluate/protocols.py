"""PROTOCOLS: how each kind of set is opened, embedded and judged. One row is all that a new protocol takes."""

import dataclasses
from collections.abc import Callable

from zennas.evaluate.judges import (
    judge_all,
    judge_identification,
    judge_ijb,
    judge_mfr,
    judge_pairs,
    judge_reid,
    judge_webface,
)
from zennas.evaluate.sets import (
    open_all,
    open_identification,
    open_ijb,
    open_mfr,
    open_pairs,
    open_reid,
    open_webface,
)


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
    """How one kind of set is opened, embedded and judged."""

    open: Callable  # (where, progress) -> EvaluationSet
    judge: (
        Callable  # (EvaluationSet, embedding_ND with rows of zeros for what could not be used, JudgeTools) -> Judgement
    )
    flip: bool  # whether the mirrored image's embedding is added
    how: str  # what is done, for people


# name -> how such a set is opened, embedded and judged; the first is what a set without a name is
PROTOCOLS: dict[str, EvaluationProtocol] = {
    "pairs": EvaluationProtocol(
        open_pairs,
        judge_pairs,
        flip=True,
        how="Pairs of images. Accuracy: the share told right, same person or not, by a threshold chosen on the "
        "other folds; behind ± the standard deviation over the folds. TAR@FAR over all pairs, nothing "
        "interpolated.",
    ),
    "ijb": EvaluationProtocol(
        open_ijb,
        judge_ijb,
        flip=True,
        how="Templates of several images, N1D1F1 as insightface counts it: embeddings are weighted by the "
        "detector's score and not normalised before pooling, averaged over each medium, summed over the "
        "template; then cosines of the listed pairs, and the TAR at that FAR of the curve which is nearest to"
        " the one asked for. A template is shown by its first image.",
    ),
    "mfr": EvaluationProtocol(
        open_mfr,
        judge_mfr,
        flip=False,
        how="Every image against every other of its subset; in mask, masked against unmasked; in MR-ALL, all "
        "races together. A pair is counted once, not in both orders.",
    ),
    "webface": EvaluationProtocol(
        open_webface,
        judge_webface,
        flip=False,
        how="All-Masked: every masked image against every unmasked one; SFR: every unmasked image against every "
        "other. FNMR is the share of same pairs that are missed. (FMR 1e-5 and the subsets are recalled, not found "
        "in writing.)",
    ),
    "reid": EvaluationProtocol(
        open_reid,
        judge_reid,
        flip=False,
        how="Each query against the gallery. Images of the same identity by the same camera, and junk, are passed"
        " over; mAP is the plain mean of average precision, rank-k the share of queries whose first right "
        "answer is among the first k.",
    ),
    "identification": EvaluationProtocol(
        open_identification,
        judge_identification,
        flip=False,
        how="Each probe against the gallery (1:N). Ranks are of identities, each as similar as its best image. "
        "TPIR@FPIR counts probes that are found at rank 1 above a threshold that hardly any stranger passes.",
    ),
    "all": EvaluationProtocol(
        open_all,
        judge_all,
        flip=False,
        how="Every image against every other.",
    ),
}
