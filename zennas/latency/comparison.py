"""Two latency tables beside each other: how well one device stands in for another."""

import math
import statistics
from typing import Any

import numpy as np

from zennas.latency.tables import KnownTable, predictor
from zennas.records import Record
from zennas.space.shape import px_cell
from zennas.space.space import Space

NUM_CANDIDATES, SEED = 500, 0  # drawn from the space, the same for any two tables
NEAR = 1.10  # two candidates whose latencies differ by less are near: among such a search chooses


class Ratio(Record):
    """How much longer the second device takes over some parts: geometric mean, least and most of the ratios."""

    num: int
    mean: float
    low: float
    high: float


class Stage(Record):
    """The ratio of the parts of one kind at one place of a network."""

    kind: str
    stride: int
    in_px: int | str  # of the maps there: the side, or HEIGHTxWIDTH
    ratio: Ratio


class Agreement(Record):
    """What two tables predict for the same candidates of a space."""

    num: int  # candidates that both can predict
    ratio: Ratio  # of the predictions
    tau: float | None  # Kendall's tau-b between them; None where one of them is all ties
    num_near_pairs: int
    tau_near: float | None  # of the pairs that are near on the first device alone; None where there are none
    mean_abs_pct: float  # the error of the second's predictions as the first's times the mean ratio
    max_abs_pct: float


class Comparison(Record):
    """The second table against the first."""

    one: str
    other: str
    num_only_one: int  # parts that the other lacks
    num_only_other: int
    parts: Ratio | None  # of those in both; None where there is none
    stages: tuple[Stage, ...]
    space: str
    agreement: Agreement | None  # None where they can predict fewer than two candidates


def compare(first: KnownTable, second: KnownTable, space: Space, *, num_candidates: int = NUM_CANDIDATES) -> Comparison:
    """The Comparison of two KnownTables, over the parts that both have and over candidates drawn from a space."""
    common = [part for part in first.rows if part in second.rows]
    ratio_of = {part: second.rows[part].ms / first.rows[part].ms for part in common}
    places = dict.fromkeys(sorted(part.place for part in common))
    stages = [
        Stage(
            kind=kind,
            stride=stride,
            in_px=px_cell(in_hw),
            ratio=_ratio([ratio_of[part] for part in common if part.place == (kind, stride, in_hw)]),
        )
        for kind, stride, in_hw in sorted(places, key=lambda place: (place[0], [-px for px in place[2]], -place[1]))
    ]
    return Comparison(
        one=first.name,
        other=second.name,
        num_only_one=len(first.rows) - len(common),
        num_only_other=len(second.rows) - len(common),
        parts=_ratio(ratio_of.values()) if common else None,
        stages=tuple(stages),
        space=space.name,
        agreement=_agreement(first, second, space, num_candidates),
    )


def kendall_tau(first_N: Any, second_N: Any, *, counts: np.ndarray | None = None) -> float | None:
    """Kendall's tau-b of two rankings: 1 where they order every pair alike, -1 where none; None where one is all ties.

    counts: an N x N mask of the pairs that count, symmetric; all of them without it. A pair that is tied in one ranking
    is neither alike nor unlike. Source: Kendall 1945, The treatment of ties in ranking problems, Biometrika 33.

    >>> kendall_tau([1, 2, 3, 4], [1, 2, 4, 3])
    0.6666666666666666
    """
    first_N, second_N = np.asarray(first_N, float), np.asarray(second_N, float)
    upper_NN = np.triu(np.ones((len(first_N),) * 2, bool), 1)
    pairs_NN = upper_NN if counts is None else upper_NN & counts
    first_P, second_P = (np.sign(value_N[:, None] - value_N)[pairs_NN] for value_N in (first_N, second_N))
    untied = float(np.abs(first_P).sum()) * float(np.abs(second_P).sum())
    return float((first_P * second_P).sum()) / math.sqrt(untied) if untied else None


def _ratio(ratios):
    logs = [math.log(ratio) for ratio in ratios]
    return Ratio(
        num=len(logs), mean=math.exp(statistics.fmean(logs)), low=math.exp(min(logs)), high=math.exp(max(logs))
    )


def _ms(table, candidate, shape):
    """Predicted to a picosecond: sums of the same parts in another order are the same latency, not a pair to rank."""
    return round(table.predict(candidate, shape), 9)


def _agreement(first, second, space, num_candidates):
    shape = space.shape
    rng = np.random.default_rng(SEED)
    candidates = list(dict.fromkeys(space.sample(rng) for _ in range(num_candidates)))
    tables = [predictor(known) for known in (first, second)]
    covered = [candidate for candidate in candidates if all(table.covers(candidate, shape) for table in tables)]
    if len(covered) < 2:
        return None
    one_N, other_N = (np.array([_ms(table, candidate, shape) for candidate in covered]) for table in tables)
    ratio = _ratio(other_N / one_N)
    off_pct_N = 100 * np.abs(one_N * ratio.mean / other_N - 1)
    near_NN = np.abs(np.log(one_N[:, None] / one_N)) < math.log(NEAR)
    return Agreement(
        num=len(covered),
        ratio=ratio,
        tau=kendall_tau(one_N, other_N),
        num_near_pairs=int(np.triu(near_NN, 1).sum()),
        tau_near=kendall_tau(one_N, other_N, counts=near_NN),
        mean_abs_pct=float(off_pct_N.mean()),
        max_abs_pct=float(off_pct_N.max()),
    )
