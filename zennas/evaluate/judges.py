"""What each protocol says of a set: functions (EvaluationSet, embedding_ND, JudgeTools) -> Assessment."""

# N images, P pairs, D embedding size

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from zennas.evaluate.assessment import NUM_LISTS, NUM_PAIRS, Assessment, Curve, Histogram, Metric, Pair, RankedList
from zennas.evaluate.sets import RACES, SCENES, EvaluationSet
from zennas.metrics.all_to_all import all_to_all
from zennas.metrics.likeness import unit_rows
from zennas.metrics.reranking import expanded, reciprocal_distances
from zennas.metrics.retrieval import identify, reidentify, single_shot
from zennas.metrics.templates import pool_templates, tars_at_nearest_fars, template_pairs
from zennas.metrics.verification import (
    grid_accuracy,
    roc,
    tars_at_fars,
    ten_fold_accuracy,
    thresholds_at_fars,
)
from zennas.records import NAMED, some

PAIR_FARS = (1e-3, 1e-2)  # of sets with thousands of pairs
IJB_FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
ALL_FARS = (1e-6, 1e-5, 1e-4, 1e-3)
MASK_FAR, CHILDREN_FAR, RACE_FAR = 1e-4, 1e-4, 1e-6  # of the InsightFace tracks' README
MASK_WEIGHT, ALL_WEIGHT = 0.25, 0.75  # of the ranking, since 2021-06-17
WEBFACE_FMR = 1e-5  # recalled, not found in writing, as are the names of its subsets
IJB_HEADLINE, ALL_HEADLINE = 1e-4, 1e-4
RANKS = (1, 5, 10)
NUM_LISTED = 10  # images of a ranked list that are shown
NO_ANSWER = "no query has a right answer in the gallery"
NUM_BINS, NUM_POINTS = 200, 200
CHUNK = 65536  # pairs at a time


@dataclasses.dataclass(frozen=True)
class JudgeTools:
    """Where a judge computes, what it keeps meanwhile, and whom it tells how far it is."""

    device: str = "cpu"
    kept: Callable = lambda subset: None  # subset -> where the state of its pairs is kept, or None
    counting: Callable = lambda what: None  # what is counted -> progress(done, total), or None


def judge_pairs(the_set: EvaluationSet, embedding_ND: np.ndarray, tools: JudgeTools) -> Assessment:
    """Ten-fold accuracy and TAR at FARs over given pairs."""
    column = the_set.column
    similarity_P = similarities(embedding_ND, column["first_P"], column["second_P"])
    same_P, fold_P = column["same_P"], column["fold_P"]
    counts = _counts(same_P)
    if len(np.unique(fold_P)) < 2:
        note = "one pair or fold: no threshold can be chosen"
        metrics = [Metric(name="accuracy", value=None, headline=True, note=note, **counts)]
    else:
        ours, grid = ten_fold_accuracy(similarity_P, same_P, fold_P=fold_P), grid_accuracy(similarity_P, same_P, fold_P)
        one_kind = (
            None if same_P.any() and not same_P.all() else "pairs of one kind only: any network can be right on them"
        )
        metrics = [
            _accuracy("accuracy", ours, counts, headline=True, note=one_kind),
            _accuracy("accuracy, thresholds in steps of 0.01", grid, counts, note="as insightface publishes it"),
        ]
    tars = tars_at_fars(similarity_P, same_P, PAIR_FARS)
    thresholds = thresholds_at_fars(similarity_P, same_P, PAIR_FARS)
    metrics += [
        _tar(far, tar, counts, threshold=threshold)
        for far, tar, threshold in zip(PAIR_FARS, tars, thresholds, strict=True)
    ]
    return Assessment(metrics, *_pictures(similarity_P, same_P, column["first_P"], column["second_P"]))


def judge_ijb(the_set: EvaluationSet, embedding_ND: np.ndarray, tools: JudgeTools) -> Assessment:
    """TAR at the FAR nearest to 1e-6 ... 1e-1 over pairs of templates: N1D1F1 of insightface.

    Images that cannot be used are left out of their templates; a template without any other is like nobody.
    """
    column, used_N = the_set.column, embedding_ND.any(axis=1)
    template_T = np.unique(column["template_N"])
    pooled_TD = np.zeros((len(template_T), embedding_ND.shape[1]), np.float32)
    if used_N.any():
        used = {name: column[name][used_N] for name in ("template_N", "media_N", "score_N")}
        used_T, used_TD = pool_templates(
            embedding_ND[used_N], used["template_N"], used["media_N"], score_N=used["score_N"]
        )
        pooled_TD[np.searchsorted(template_T, used_T)] = used_TD
    similarity_P = template_pairs(pooled_TD, template_T, column["first_P"], column["second_P"])
    counts = _counts(column["same_P"])
    tars = tars_at_nearest_fars(similarity_P, column["same_P"], IJB_FARS)
    metrics = [_tar(far, tar, counts, headline=far == IJB_HEADLINE) for far, tar in zip(IJB_FARS, tars, strict=True)]
    empty = template_T[~pooled_TD.any(axis=1)]
    notices = [f"{len(empty)} templates have no image that can be used: {some(empty)}"] if len(empty) else []
    # A template is shown by the first of its images.
    _, first_T = np.unique(column["template_N"], return_index=True)
    of_P = (first_T[np.searchsorted(template_T, column[name])] for name in ("first_P", "second_P"))
    return Assessment(metrics, *_pictures(similarity_P, column["same_P"], *of_P), notices)


def judge_all(the_set: EvaluationSet, embedding_ND: np.ndarray, tools: JudgeTools) -> Assessment:
    """TAR at FARs over all pairs of the images."""
    return _joined([_all_pairs(the_set, embedding_ND, np.arange(len(embedding_ND)), None, ALL_FARS, "", tools)])


def judge_mfr(the_set: EvaluationSet, embedding_ND: np.ndarray, tools: JudgeTools) -> Assessment:
    """TAR of masked against unmasked faces at FAR 1e-4, children's at 1e-4,
    each race's and all races' at 1e-6; the ranking.
    """
    subset_N, masked_N = the_set.column["subset_N"], the_set.column["masked_N"]
    parts, values = [], {}

    def part(subset, image_M, against_M, far):
        result = _all_pairs(the_set, embedding_ND, image_M, against_M, (far,), subset, tools)
        parts.append(result)
        values[subset] = result.metrics[0].value

    where = {subset: np.flatnonzero(subset_N == subset) for subset in np.unique(subset_N).tolist()}
    if "mask" in where:
        image_M = where["mask"]
        part("mask", image_M[masked_N[image_M]], image_M[~masked_N[image_M]], MASK_FAR)
    if "children" in where:
        part("children", where["children"], None, CHILDREN_FAR)
    races = [race for race in RACES if race in where]
    for race in races:
        part(race, where[race], None, RACE_FAR)
    if races:
        part("MR-ALL", np.flatnonzero(np.isin(subset_N, RACES)), None, RACE_FAR)
    mask, all_races = values.get("mask"), values.get("MR-ALL")
    missing = [race for race in RACES if race not in where] if races else []
    note = f"{MASK_WEIGHT} x mask + {ALL_WEIGHT} x MR-ALL, the ranking of the InsightFace tracks"
    note += f"; MR-ALL is without {', '.join(missing)}" if missing else ""
    both = mask is not None and all_races is not None
    if not both:  # then what there is of its parts is what people look at
        heads = {"mask", "MR-ALL"} & set(values) or set(values)
        parts = [part._replace(metrics=[_headlined(metric, heads) for metric in part.metrics]) for part in parts]
    score = MASK_WEIGHT * mask + ALL_WEIGHT * all_races if both else None
    note = note if both else "needs both mask and MR-ALL"
    joined = _joined(parts)
    return joined._replace(
        metrics=[Metric(name="ranking score", value=score, headline=both, note=note), *joined.metrics]
    )


def judge_webface(the_set: EvaluationSet, embedding_ND: np.ndarray, tools: JudgeTools) -> Assessment:
    """FNMR at FMR 1e-5 of masked against standard faces, of each scene's masked ones,
    and of standard faces alone (SFR).
    """
    column = the_set.column
    masked_M, standard_M = np.flatnonzero(column["masked_N"]), np.flatnonzero(~column["masked_N"])
    parts = []
    if len(masked_M):
        parts.append(("All-Masked", masked_M, standard_M))
        for scene in SCENES if "scene_N" in column else ():
            inside_M = masked_M[column["scene_N"][masked_M] == scene]
            if len(inside_M):
                parts.append((f"{scene.capitalize()}-Masked", inside_M, standard_M))
    parts.append(("SFR", standard_M, None))
    results = [
        _all_pairs(the_set, embedding_ND, image_M, against_M, (WEBFACE_FMR,), subset, tools, fnmr=True)
        for subset, image_M, against_M in parts
    ]
    return _joined(results, headlines=("All-Masked", "SFR"))


def judge_reid(the_set: EvaluationSet, embedding_ND: np.ndarray, tools: JudgeTools) -> Assessment:
    """Mean average precision, CMC and mINP of queries in a gallery: plain, re-ranked by k-reciprocal neighbours, and of
    queries and gallery expanded by their neighbours. Where one image of each person is drawn, mAP and CMC over all
    draws.
    """
    column = the_set.column
    query_Q, gallery_G = np.flatnonzero(column["first_N"]), np.flatnonzero(~column["first_N"])
    camera_N = column.get("camera_N")
    known = [
        (column["label_N"][image_M], None if camera_N is None else camera_N[image_M])
        for image_M in (query_Q, gallery_G)
    ]
    rows = embedding_ND[query_Q], embedding_ND[gallery_G]
    if the_set.single_shot:
        drawn = single_shot(rows[0], *known[0], rows[1], *known[1], ranks=RANKS, progress=tools.counting("queries"))
        return _of_draws(the_set, drawn, query_Q)
    judge = functools.partial(
        reidentify, images=(column["image_N"][query_Q], column["image_N"][gallery_G]), ranks=RANKS
    )
    counting = tools.counting("queries")
    again = functools.partial(reciprocal_distances, progress=tools.counting("images, to re-rank"))
    plain = judge(rows[0], *known[0], rows[1], *known[1], num_listed=NUM_LISTED, progress=counting)
    ranked = judge(rows[0], *known[0], rows[1], *known[1], rerank=again, progress=counting)
    kept_G = known[1][0] >= 0  # junk is nobody's neighbour
    rows = rows[0].copy(), rows[1].copy()
    rows[0][:], rows[1][kept_G] = expanded(rows[0], rows[1][kept_G], progress=tools.counting("images, to expand"))
    grown = judge(rows[0], *known[0], rows[1], *known[1], progress=counting)
    metrics, curves = [], []
    for subset, ranking in (("", plain), ("re-ranked", ranked), ("expanded", grown)):
        num = ranking.num_queries - len(ranking.unanswerable)
        counts = {"subset": subset, "num_same": num, "note": None if num else NO_ANSWER}
        metrics.append(Metric(name="mAP", value=_known(ranking.mean_ap), headline=subset == "", **counts))
        metrics += [
            Metric(name=f"rank-{rank}", value=_known(share), **counts) for rank, share in ranking.at_rank.items()
        ]
        metrics.append(Metric(name="mINP", value=_known(ranking.mean_inp), **counts))
        curves += [_cmc(ranking.cmc, subset)] if num else []
    notices = _unanswerable(the_set, plain, query_Q)
    return Assessment(metrics, curves, notices=notices, lists=_worst_lists(plain, query_Q, gallery_G))


def _of_draws(the_set, drawn, query_Q):
    num = drawn.num_queries - len(drawn.unanswerable)
    counts = {"num_same": num, "note": "mean over all draws of one image of each person" if num else NO_ANSWER}
    metrics = [
        Metric(name=f"rank-{rank}", value=_known(share), headline=rank == 1, **counts)
        for rank, share in drawn.at_rank.items()
    ]
    metrics.append(Metric(name="mAP", value=_known(drawn.mean_ap), **counts))
    named = [the_set.images.where(int(query_Q[query])) for query in drawn.unanswerable[:NAMED]]
    num_without = len(drawn.unanswerable)
    notices = [
        f"{num_without} of {drawn.num_queries} queries have no image by another camera: {some(named, num_without)}"
    ]
    return Assessment(metrics, [_cmc(drawn.cmc, "")] if num else [], notices=notices if named else [])


def _unanswerable(the_set, ranking, query_Q):
    """A sentence about the queries without a right answer, with the reasons, or none."""
    if not len(ranking.unanswerable):
        return []
    by_camera = np.setdiff1d(ranking.unanswerable, ranking.missing)
    told = []
    for queries, why in (
        (ranking.missing, "show people who are not in the gallery"),
        (by_camera, "show people whom only the query's own camera took, junk aside"),
    ):
        if len(queries):
            named = [the_set.images.where(int(query_Q[query])) for query in queries[:NAMED]]
            told.append(f"{len(queries)} {why}: {some(named, len(queries))}")
    return [
        f"{len(ranking.unanswerable)} of {ranking.num_queries} queries have no right answer and are in no mean; "
        + "; ".join(told)
    ]


def _worst_lists(ranking, query_Q, gallery_G):
    """The RankedLists of the queries of least average precision."""
    worst = np.argsort(ranking.ap_Q, kind="stable")[: min(NUM_LISTS, int(np.isfinite(ranking.ap_Q).sum()))]
    lists = []
    for query in worst:
        shown_L = ranking.listed_QL[query] >= 0
        lists.append(
            RankedList(
                query=int(query_Q[query]),
                average_precision=float(ranking.ap_Q[query]),
                first_rank=int(ranking.first_rank_Q[query]),
                images=tuple(gallery_G[ranking.listed_QL[query][shown_L]].tolist()),
                right=tuple(ranking.right_QL[query][shown_L].tolist()),
            )
        )
    return lists


def judge_identification(the_set: EvaluationSet, embedding_ND: np.ndarray, tools: JudgeTools) -> Assessment:
    """Closed-set rank-k and open-set TPIR at FPIRs of probes in a gallery."""
    column = the_set.column
    probe_P, gallery_G = np.flatnonzero(column["first_N"]), np.flatnonzero(~column["first_N"])
    ranking = identify(
        embedding_ND[probe_P],
        column["label_N"][probe_P],
        embedding_ND[gallery_G],
        column["label_N"][gallery_G],
        images=(column["image_N"][probe_P], column["image_N"][gallery_G]),
        ranks=RANKS,
        progress=tools.counting("probes"),
    )
    no_mated = None if ranking.num_mated else "no probe's identity is in the gallery"
    metrics = [
        Metric(name=f"rank-{rank}", value=_known(share), headline=rank == 1, num_same=ranking.num_mated, note=no_mated)
        for rank, share in ranking.at_rank.items()
    ]
    for point in ranking.points:
        counts = {"num_same": ranking.num_mated, "num_different": ranking.num_non_mated}
        note = no_mated or (
            None if ranking.num_non_mated else "every probe's identity is in the gallery: nobody can be wrongly found"
        )
        metrics.append(
            Metric(
                name=f"TPIR@FPIR={power(point.fpir)}",
                value=_known(point.tpir),
                threshold=_known(point.threshold),
                note=note,
                **counts,
            )
        )
    mated_P = np.flatnonzero(ranking.rank_P > 0)
    hard = mated_P[np.argsort(ranking.own_P[mated_P], kind="stable")][:NUM_PAIRS]
    pairs = [
        Pair("", True, float(ranking.own_P[probe]), int(probe_P[probe]), int(gallery_G[ranking.own_image_P[probe]]))
        for probe in hard
    ]
    with_other_P = np.flatnonzero(ranking.other_image_P >= 0)
    hard = with_other_P[np.argsort(-ranking.other_P[with_other_P], kind="stable")][:NUM_PAIRS]
    pairs += [
        Pair(
            "", False, float(ranking.other_P[probe]), int(probe_P[probe]), int(gallery_G[ranking.other_image_P[probe]])
        )
        for probe in hard
    ]
    return Assessment(metrics, [_cmc(ranking.cmc, "")] if ranking.num_mated else [], [], pairs)


class Parts(NamedTuple):
    """What all pairs of a subset gave."""

    metrics: list
    curves: list
    histograms: list
    pairs: list


def _all_pairs(the_set, embedding_ND, image_M, against_M, fars, subset, tools, *, fnmr=False):
    label_N = the_set.column["label_N"]
    against = None if against_M is None else (embedding_ND[against_M], label_N[against_M])
    if not len(image_M) or (against_M is not None and not len(against_M)):
        note = "no masked images" if not len(image_M) else "no unmasked images"
        return Parts([Metric(name=_name(far, fnmr), subset=subset, value=None, note=note) for far in fars], [], [], [])
    comparison = all_to_all(
        embedding_ND if len(image_M) == len(embedding_ND) else embedding_ND[image_M],
        label_N[image_M],
        fars,
        against=against,
        device=tools.device,
        kept=tools.kept(subset),
        progress=tools.counting(f"{subset} pairs".strip()),
        num_hardest=NUM_PAIRS,
    )
    counts = {"num_same": comparison.num_same, "num_different": comparison.num_different}
    metrics = []
    for point in comparison.points:
        tar, note = _known(point.tar), _why_not(point.far, comparison.num_same, comparison.num_different)
        value = None if tar is None else 1 - tar if fnmr else tar
        metrics.append(
            Metric(
                name=_name(point.far, fnmr),
                subset=subset,
                value=value,
                better="lower" if fnmr else "higher",
                threshold=_known(point.threshold),
                note=note,
                headline=not fnmr and point.far == ALL_HEADLINE and subset == "",
                **counts,
            )
        )
    other_M = image_M if against_M is None else against_M
    pairs = [
        Pair(subset, same, float(similarity), int(image_M[first]), int(other_M[second]))
        for same, hardest in ((True, comparison.hardest_same), (False, comparison.hardest_different))
        for similarity, first, second in hardest
    ]
    has_both = comparison.num_same and comparison.num_different
    curves = [Curve("roc", subset, comparison.far_K, comparison.tar_K, comparison.exact_up_to)] if has_both else []
    edge_B1, same_B, different_B = comparison.histogram
    histogram = Histogram(subset, edge_B1, same_B / max(1, same_B.sum()), different_B)
    return Parts(metrics, curves, [histogram], pairs)


def _joined(parts, headlines=()):
    metrics = [metric for part in parts for metric in part.metrics]
    if headlines:
        metrics = [_headlined(metric, headlines) for metric in metrics]
    return Assessment(
        metrics, *([item for part in parts for item in getattr(part, name)] for name in Parts._fields[1:])
    )


def _headlined(metric, subsets):
    return metric.model_copy(update={"headline": metric.subset in subsets})


def _name(far, fnmr=False):
    return f"FNMR@FMR={power(far)}" if fnmr else f"TAR@FAR={power(far)}"


def power(share: float) -> str:
    """
    >>> power(1e-4), power(0.1)
    ('1e-4', '1e-1')
    """
    return f"{share:.0e}".replace("e-0", "e-")


def _why_not(far, num_same, num_different):
    """Why a TAR is none, or what to keep in mind of it; None where there is nothing."""
    if not num_same:
        return "the set has no pair of the same person"
    if not num_different:
        return "the set has no pair of different people"
    if far * num_different < 1:
        return f"{power(far)} of {num_different:,} different pairs is less than one: none of them is accepted"
    return None


def _counts(same_P):
    return {"num_same": int(same_P.sum()), "num_different": int((~same_P).sum())}


def _accuracy(name, accuracy, counts, **details):
    return Metric(name=name, value=accuracy.mean, std=accuracy.std, threshold=accuracy.threshold, **counts, **details)


def _tar(far, tar, counts, *, threshold=None, headline=False):
    value = _known(tar)
    note = _why_not(far, counts["num_same"], counts["num_different"])
    threshold = None if value is None else _known(threshold)
    return Metric(name=_name(far), value=value, threshold=threshold, note=note, headline=headline, **counts)


def _known(value):
    return None if value is None or not math.isfinite(value) else float(value)


def similarities(embedding_ND: np.ndarray, first_P: np.ndarray, second_P: np.ndarray) -> np.ndarray:
    """Cosines of pairs in float64, some at a time; zero where an image has none."""
    unit_ND, similarity_P = unit_rows("set", embedding_ND), np.empty(len(first_P))
    for start in range(0, len(first_P), CHUNK):
        part = slice(start, start + CHUNK)
        similarity_P[part] = np.einsum(
            "pd,pd->p", unit_ND[first_P[part]].astype(np.float64), unit_ND[second_P[part]].astype(np.float64)
        )
    return similarity_P


def _pictures(similarity_P, same_P, first_P, second_P):
    """(curves, histograms, pairs) of given pairs."""
    curves = []
    if same_P.any() and not same_P.all():
        far_K, tar_K = roc(similarity_P, same_P, num_points=NUM_POINTS)
        curves = [Curve("roc", "", far_K, tar_K)]
    edge_B1 = np.linspace(-1, 1, NUM_BINS + 1)
    shares = []
    for same in (True, False):
        count_B, _ = np.histogram(np.clip(similarity_P[same_P == same], -1, 1), edge_B1)
        shares.append(count_B / max(1, count_B.sum()))
    pairs = []
    for same in (True, False):
        place_P = np.flatnonzero(same_P == same)
        order = np.argsort(similarity_P[place_P] * (1 if same else -1), kind="stable")[:NUM_PAIRS]
        pairs += [
            Pair("", same, float(similarity_P[pair]), int(first_P[pair]), int(second_P[pair]))
            for pair in place_P[order]
        ]
    return curves, [Histogram("", edge_B1, *shares)], pairs


def _cmc(share_K, subset):
    return Curve("cmc", subset, np.arange(1, len(share_K) + 1), np.asarray(share_K))
