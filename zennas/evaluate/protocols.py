"""PROTOCOLS: how each kind of set is opened, embedded and judged. One row is all that a new protocol takes here.

The table names its rows' functions and imports none of them:
`zennas evaluate --help` lists the protocols and answers at once.
"""

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any


@dataclasses.dataclass(frozen=True)
class EvaluationProtocol:
    """How one kind of set is opened, embedded and judged."""

    opener: str  # MODULE:FUNCTION, (where, progress) -> EvaluationSet
    # MODULE:FUNCTION, (EvaluationSet, embedding_ND with rows of zeros for what could not be used,
    # JudgeTools) -> Assessment
    judging: str
    sets: dict[str, str]  # as `--set` has it -> what comes out, for --help
    flip: bool  # whether the mirrored image's embedding is added
    how: str  # what is done, for people
    of_faces: bool = True  # whether its images are aligned faces; IJB's are aligned by the landmarks that come with it
    has_lists: bool = False  # whether its assessments hold ranked lists, which are shown as pictures where asked for
    parts: str | None = None  # MODULE:FUNCTION, where -> each set that it means, as `--set` has one; None: itself

    @property
    def open(self) -> Callable[..., Any]:
        return _loaded(self.opener)

    @property
    def judge(self) -> Callable[..., Any]:
        return _loaded(self.judging)

    def sets_of(self, where: str) -> list[str]:
        """The sets that a user's word means."""
        return [where] if self.parts is None else _loaded(self.parts)(where)


def _loaded(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def protocol_lines() -> list[str]:
    """What `--set` takes and what comes out, a line each.

    >>> protocol_lines()[2]
    'ijb:FOLDER                      IJB-B, IJB-C by templates: TAR at FAR 1e-6 to 1e-1'
    """
    lines = [line for row in PROTOCOLS.values() for line in row.sets.items()]
    return [f"{given:30}  {text}" for given, text in lines]


# name -> how such a set is opened, embedded and judged; the first is what a set without a name is
PROTOCOLS: dict[str, EvaluationProtocol] = {
    "pairs": EvaluationProtocol(
        "zennas.evaluate.sets:open_pairs",
        "zennas.evaluate.judges:judge_pairs",
        sets={
            "SET.bin": "InsightFace's pairs (lfw.bin): ten folds, the flipped image added",
            "PAIRS@IMAGES": "the same for LFW's pairs.txt, a CSV of two paths and 1 or 0, CFP's Protocol",
        },
        flip=True,
        how="Pairs of images. Accuracy: the share told right, same person or not, by a threshold chosen on the "
        "other folds; behind ± the standard deviation over the folds. TAR@FAR over all pairs, nothing "
        "interpolated.",
        parts="zennas.tasks.face.pairs:sets_of",
    ),
    "ijb": EvaluationProtocol(
        "zennas.evaluate.sets:open_ijb",
        "zennas.evaluate.judges:judge_ijb",
        sets={
            "ijb:FOLDER": "IJB-B, IJB-C by templates: TAR at FAR 1e-6 to 1e-1",
        },
        of_faces=False,
        flip=True,
        how="Templates of several images, N1D1F1 as insightface counts it: embeddings are weighted by the "
        "detector's score and not normalised before pooling, averaged over each medium, summed over the "
        "template; then cosines of the listed pairs, and the TAR at that FAR of the curve which is nearest to"
        " the one asked for. A template is shown by its first image.",
    ),
    "mfr": EvaluationProtocol(
        "zennas.evaluate.sets:open_mfr",
        "zennas.evaluate.judges:judge_mfr",
        sets={
            "mfr:LIST.csv@IMAGES": "the InsightFace tracks' MFR: masks, children, races, all; their ranking",
        },
        flip=False,
        how="Every image against every other of its subset; in mask, masked against unmasked; in MR-ALL, all "
        "races together. A pair is counted once, not in both orders.",
    ),
    "webface": EvaluationProtocol(
        "zennas.evaluate.sets:open_webface",
        "zennas.evaluate.judges:judge_webface",
        sets={
            "webface:LIST.csv@IMAGES": "the WebFace260M tracks: FNMR at FMR 1e-5, masked and standard",
        },
        flip=False,
        how="All-Masked: every masked image against every unmasked one; SFR: every unmasked image against every "
        "other. FNMR is the share of same pairs that are missed. (FMR 1e-5 and the subsets are recalled, not found "
        "in writing.)",
    ),
    "reid": EvaluationProtocol(
        "zennas.evaluate.sets:open_reid",
        "zennas.evaluate.judges:judge_reid",
        sets={
            "reid:LIST.csv@IMAGES": "re-identification: mAP, mINP, CMC, re-ranked and expanded too",
            "reid:FOLDER": "the same of Market-1501, CUHK03, MSMT17, or query/ and gallery/",
        },
        of_faces=False,
        has_lists=True,
        flip=False,
        how="Each query against the gallery. Images of the same identity by the same camera, and junk, are passed"
        " over, and so is the query's own image; mAP is the plain mean of average precision, rank-k the share of "
        "queries whose first right answer is among the first k, mINP the mean share of right answers in the list that "
        "ends with the last of them. Re-ranked: by k-reciprocal neighbours. Expanded: to each image come its nine "
        "nearest, weighted by the third power of the cosine. Both look at all queries at once. In a classic split of "
        "CUHK03 the gallery has one image of each person by the other camera: the mean over all draws.",
    ),
    "identification": EvaluationProtocol(
        "zennas.evaluate.sets:open_identification",
        "zennas.evaluate.judges:judge_identification",
        sets={
            "identification:LIST.csv@IMAGES": "1:N: rank-k, TPIR at FPIR",
        },
        flip=False,
        how="Each probe against the gallery (1:N), its own image left out. Ranks are of identities, each as similar "
        "as its best image. "
        "TPIR@FPIR counts probes that are found at rank 1 above a threshold that hardly any stranger passes.",
    ),
    "all": EvaluationProtocol(
        "zennas.evaluate.sets:open_all",
        "zennas.evaluate.judges:judge_all",
        sets={
            "all:LIST.csv@IMAGES or all:FACES": "TAR at FAR over all pairs, exact",
        },
        flip=False,
        how="Every image against every other.",
    ),
}
