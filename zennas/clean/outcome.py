"""What a cleaning leaves behind: the summary, decisions.parquet, labels.npz for zennas train, the page."""

import numpy as np

from zennas.clean.decisions import DECISIONS, TABLE, TakenBack, decision_N, names_of, write_table
from zennas.clean.report import NEAR_THE_THRESHOLD, write_report
from zennas.clean.request import Request
from zennas.clean.state import DUPLICATE, FAR, KEPT, MERGED, NEARER, NONE, REASONS, SMALL, State
from zennas.clean.summary import (
    Change,
    IdentityCounts,
    ImageCounts,
    MergedPair,
    Round,
    Sizes,
    Summary,
    TakenBackCounts,
)
from zennas.data.labels import write_labels
from zennas.data.sources import AnySource
from zennas.progress import Progress
from zennas.provenance import provenance

LABELS, REPORT = "labels.npz", "report.html"
COSINE_EDGES = np.linspace(-1, 1, 201)
SHOWN = 12  # examples of each kind on the page


def summary_of(request: Request, source: AnySource, state: State, rounds: list[Round], taken: TakenBack) -> Summary:
    """The Summary of a cleaning. state: after the last round, without what was taken back."""
    label_N = np.asarray(source.label_N)
    before_C = np.bincount(label_N, minlength=source.num_identities)
    after_C = np.bincount(state.label_N[state.label_N >= 0], minlength=source.num_identities)
    decided_N = decision_N(state)
    decided = {name: int((decided_N == place).sum()) for place, name in enumerate(DECISIONS)}
    return Summary(
        data=str(request.data),
        data_notices=source.notices,
        has_cameras=source.camera_N is not None,
        embeddings_from=[entry.embeddings_from for entry in rounds],
        plan=request.plan,
        start=request.start,
        rounds=rounds,
        taken_back=TakenBackCounts(images=len(taken.image_M), identities=len(taken.number_C)),
        images=ImageCounts(before=len(label_N), **decided),
        identities=IdentityCounts(
            before=int((before_C > 0).sum()), after=int((after_C > 0).sum()), merges=len(state.merges.one_P)
        ),
        reasons=reason_counts(state),
        of_one_image=Change(before=int((before_C == 1).sum()), after=int((after_C == 1).sum())),
        largest=Change(before=int(before_C.max(initial=0)), after=int(after_C.max(initial=0))),
        sizes=Sizes(before=_sizes(before_C), after=_sizes(after_C)),
        own_cosine=_histograms(state),
        kept_at=_kept_at(state),
        examples=_examples(state),
        merged=_merged(state, source),
        made_by=provenance(command=request.command),
    )


def reason_counts(state: State) -> dict[str, int]:
    """{reason: images that were given it}."""
    return {name: int((state.reason_N == place).sum()) for place, name in enumerate(REASONS) if place}


def write_outcome(request: Request, source: AnySource, state: State, summary: Summary, progress: Progress) -> None:
    """Write decisions.parquet, labels.npz and report.html."""
    progress.begin("writing the table of decisions")
    progress.update({})
    write_table(request.out / TABLE, state, source, np.asarray(source.label_N))
    write_labels(request.out / LABELS, source, state.label_N)
    write_report(request.out / REPORT, summary, source.images, names_of(source), np.asarray(source.label_N), state)
    progress.end()


def _sizes(count_C):
    """[(least, most, identities)] by powers of two."""
    count_C, sizes, least = count_C[count_C > 0], [], 1
    while least <= count_C.max(initial=0):
        most = 2 * least - 1
        sizes.append((least, most, int(((count_C >= least) & (count_C <= most)).sum())))
        least *= 2
    return sizes


def _histograms(state):
    """{what became of an image: counts over COSINE_EDGES of its cosine to its own centre}."""
    groups = {KEPT: (NONE, MERGED), **{REASONS[reason]: (reason,) for reason in (FAR, NEARER, DUPLICATE)}}
    known_N = np.isfinite(state.own_N)
    histograms = {}
    for name, reasons in groups.items():
        chosen_N = known_N & np.isin(state.reason_N, reasons)
        histograms[name] = np.histogram(state.own_N[chosen_N], COSINE_EDGES)[0].tolist()
    return histograms


def _kept_at(state):
    """[images whose own cosine is above each of COSINE_EDGES], of those
    that the threshold within identities decides on.
    """
    judged_N = np.isfinite(state.own_N) & np.isin(state.reason_N, (NONE, MERGED, FAR, SMALL))
    own_M = np.sort(state.own_N[judged_N])
    return (len(own_M) - np.searchsorted(own_M, COSINE_EDGES, side="right")).tolist()


def _examples(state):
    """{kind: numbers of images}: of each reason the clearest and the least clear, and what was just kept."""
    examples = {}
    margin_N = state.other_N - state.own_N
    orders = {
        REASONS[FAR]: (state.reason_N == FAR, state.own_N),
        REASONS[NEARER]: (state.reason_N == NEARER, -margin_N),
        REASONS[DUPLICATE]: (state.reason_N == DUPLICATE, -state.own_N),
        NEAR_THE_THRESHOLD: (np.isin(state.reason_N, (NONE, MERGED)) & (state.label_N >= 0), state.own_N),
    }
    for name, (chosen_N, key_N) in orders.items():
        image_M = np.flatnonzero(chosen_N & np.isfinite(key_N))
        image_M = image_M[np.argsort(key_N[image_M], kind="stable")]
        ends = (
            image_M[:SHOWN]
            if name == NEAR_THE_THRESHOLD
            else np.append(image_M[: SHOWN // 2], image_M[SHOWN // 2 :][-SHOWN // 2 :])
        )
        examples[name] = list(dict.fromkeys(ends.tolist()))
    return examples


def _merged(state, source):
    """[MergedPair] of some pairs: the least alike first, then the most alike."""
    merges = state.merges
    order_P = np.argsort(merges.cosine_P, kind="stable")
    chosen = dict.fromkeys([*order_P[: SHOWN // 2].tolist(), *order_P[::-1][: SHOWN // 2].tolist()])
    label_N = np.asarray(source.label_N)
    merged = []
    for place in chosen:
        numbers = int(merges.one_P[place]), int(merges.other_P[place])
        images = tuple(np.flatnonzero(label_N == number)[:3].tolist() for number in numbers)
        merged.append(MergedPair(numbers=numbers, cosine=float(merges.cosine_P[place]), images=images))
    return merged
