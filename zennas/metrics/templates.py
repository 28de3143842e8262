"""Faces compared by sets of images, as IJB-B and IJB-C do: templates pooled, pairs of them, TAR at the nearest FAR.

N images of several media (a still, a video) in T templates; P pairs of templates; D embedding size
"""

import math
from collections.abc import Sequence

import numpy as np

from zennas.metrics.likeness import unit_rows
from zennas.metrics.verification import checked
from zennas.records import UserError, some

NUM_ROWS = 16384  # pooled at once, and what is turned into float64 at once


def pool_templates(
    embedding_ND: np.ndarray, template_N: np.ndarray, media_N: np.ndarray, *, score_N: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(template_T, their numbers in ascending order; embedding_TD, their unit rows in float32).

    embedding_ND: one row per image, of any length; the caller adds that of the mirror image (F1) and does not normalise
    (N1): a clear face has a longer embedding and counts more. score_N: the detector's score of each image, by which its
    row is multiplied (D1). Images of one media are averaged, the media of a template summed; a media's number means
    something within its template only. A template whose sum is zero stays a row of zeros. UserError for counts that do
    not match, numbers that are no integers, or rows and scores that are not finite.
    Source: insightface's onnx_ijbc.py, its setting N1D1F1 (arcface_torch).

    >>> pool_templates([[2, 0], [4, 0], [0, 3], [0, -7]], [8, 8, 8, 5], [1, 1, 2, 1])[1].tolist()  # 3 right, 3 up; down
    [[0.0, -1.0], [0.7071067690849304, 0.7071067690849304]]
    """
    embedding_ND = np.asanyarray(embedding_ND)
    if embedding_ND.ndim != 2 or not embedding_ND.size:
        raise UserError(f"embeddings of shape {embedding_ND.shape}; expected a row of numbers per image, one at least")
    num_images = len(embedding_ND)
    template_N = _integers("a template", template_N, num_images, "images")
    media_N = _integers("a media", media_N, num_images, "images")
    score_N = np.ones(num_images) if score_N is None else np.asarray(score_N, np.float64)
    if score_N.shape != (num_images,) or not np.isfinite(score_N).all():
        raise UserError(f"{num_images} images with scores of shape {score_N.shape}; expected one finite score each")

    image_N = np.lexsort((media_N, template_N))
    template_N, media_N = template_N[image_N], media_N[image_N]
    new_template_N = np.append(True, np.diff(template_N) != 0)
    new_media_N = new_template_N | np.append(True, np.diff(media_N) != 0)
    bound_T = np.append(np.flatnonzero(new_template_N), num_images)
    sum_TD = np.empty((len(bound_T) - 1, embedding_ND.shape[1]))
    first = 0
    while first < len(sum_TD):  # whole templates, of NUM_ROWS images together, or a larger one alone
        last = max(first + 1, int(np.searchsorted(bound_T, bound_T[first] + NUM_ROWS, side="right")) - 1)
        rows = slice(bound_T[first], bound_T[last])
        image_B = image_N[rows]
        row_BD = np.asarray(embedding_ND[image_B], np.float64)
        if len(bad := np.flatnonzero(~np.isfinite(row_BD).all(axis=1))):
            raise UserError(f"image {image_B[bad].min()} of {num_images}: the embedding is not finite")
        media_M = np.flatnonzero(new_media_N[rows])
        mean_MD = np.add.reduceat(row_BD * score_N[image_B, None], media_M, axis=0)
        mean_MD /= np.diff(np.append(media_M, len(image_B)))[:, None]
        template_B = np.searchsorted(media_M, bound_T[first:last] - bound_T[first])
        sum_TD[first:last] = np.add.reduceat(mean_MD, template_B, axis=0)
        first = last
    return template_N[bound_T[:-1]], unit_rows("template", sum_TD)


def template_pairs(
    embedding_TD: np.ndarray,
    template_T: np.ndarray,
    first_P: np.ndarray,
    second_P: np.ndarray,
    *,
    chunk: int = NUM_ROWS,
) -> np.ndarray:
    """cosine_P (float64) of pairs of templates, given by their numbers.

    embedding_TD, template_T: as pool_templates gives them; a row of zeros has a cosine of 0 with everything. chunk:
    pairs at a time; float32 rows are multiplied and summed in float64, so that it does not matter to the result.
    UserError for counts that do not match, template numbers that do not ascend, and pairs that name a template which
    is not there.

    >>> template_pairs(np.float32([[1, 0], [0.6, 0.8]]), [5, 8], [5, 8], [8, 8]).round(4).tolist()
    [0.6, 1.0]
    """
    embedding_TD = np.asarray(embedding_TD)
    if embedding_TD.ndim != 2:
        raise UserError(f"embeddings of shape {embedding_TD.shape}; expected a row per template")
    template_T = _integers("a template", template_T, len(embedding_TD), "rows")
    if (np.diff(template_T) <= 0).any():
        raise UserError("template numbers do not ascend; expected each once, in order, as pool_templates gives them")
    first_P = _integers("a first template", first_P, len(first_P), "pairs")
    second_P = _integers("a second template", second_P, len(first_P), "pairs")
    asked = np.union1d(first_P, second_P)
    if len(missing := np.setdiff1d(asked, template_T)):
        raise UserError(f"pairs name {len(missing)} of {len(asked)} templates that are not there: {some(missing)}")
    cosine_P = np.empty(len(first_P))
    for start in range(0, len(first_P), chunk):
        part = slice(start, start + chunk)
        first_BD = embedding_TD[np.searchsorted(template_T, first_P[part])].astype(np.float64)
        first_BD *= embedding_TD[np.searchsorted(template_T, second_P[part])]
        cosine_P[part] = first_BD.sum(axis=1)
    return cosine_P


def tar_at_nearest_far(similarity_P: np.ndarray, same_P: np.ndarray, far: float) -> float:
    """The TAR at the point of the ROC curve whose FAR is nearest to `far`, as in insightface's IJB tables.

    That FAR may lie above `far`; tar_at_far is the strict one, which never accepts a larger share. The points are those
    of scikit-learn's roc_curve as it is called there: of points on one straight line, evenly spaced, the two ends
    alone. So where `far` lies within a run of different pairs, the nearer end of the run counts, though there are
    points between. Of equally near points that with the larger FAR counts, and at one FAR that with the larger TAR. NaN
    where there are no same pairs or no different ones. UserError as tar_at_far.
    Source: insightface's onnx_ijbc.py (arcface_torch).

    >>> pairs = [.9, .6, .3, .7, .2, .1, .0], [True] * 3 + [False] * 4
    >>> tar_at_nearest_far(*pairs, 0.13)  # tar_at_far accepts none of the four different pairs, and so 1 of 3
    1.0
    """
    return tars_at_nearest_fars(similarity_P, same_P, [far])[0]


def tars_at_nearest_fars(similarity_P: np.ndarray, same_P: np.ndarray, fars: Sequence[float]) -> list[float]:
    """tar_at_nearest_far of each FAR, in the time of one."""
    similarity_P, same_P = checked(similarity_P, same_P, fars=fars)
    if same_P.all() or not same_P.any():
        return [math.nan] * len(fars)
    # Similarities are sorted by themselves and same pairs found among them, which takes half the time of their order.
    value_P = np.sort(similarity_P)
    first = np.flatnonzero(np.append(True, np.diff(value_P) != 0))  # pairs of equal similarity are accepted together
    same_V = np.bincount(np.searchsorted(value_P[first], np.sort(similarity_P[same_P])), minlength=len(first))
    num_same = np.cumsum(same_V[::-1])
    num_different = (len(value_P) - first)[::-1] - num_same
    corner = np.diff(num_same, 2) != 0
    corner |= np.diff(num_different, 2) != 0
    kept = np.concatenate([[True], corner, [True]])[: len(num_same)]
    far_K = np.append(0, num_different[kept]) / num_different[-1]
    tar_K = np.append(0, num_same[kept]) / num_same[-1]
    return [float(tar_K[len(far_K) - 1 - int(np.argmin(np.abs(far_K - far)[::-1]))]) for far in fars]


def _integers(what, value_N, num, things):
    value_N = np.asarray(value_N)
    if value_N.shape != (num,) or (num and value_N.dtype.kind not in "iu"):
        raise UserError(
            f"{num} {things}, and {what} number of shape {value_N.shape}, {value_N.dtype}; expected an integer each"
        )
    return value_N.astype(np.int64)
