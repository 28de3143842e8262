"""Judgement: what an evaluation says of one network on one set."""

# K points of a curve, B bins of a histogram

from typing import Any, Literal, NamedTuple

import numpy as np

from zennas.records import Record

NUM_PAIRS = 24  # of each kind that a judgement shows


class Metric(Record):
    """One number, and what it rests on."""

    name: str  # as people know it: "accuracy", "TAR@FAR=1e-06", "FNMR@FMR=1e-05", "mAP", "rank-1"
    value: float | None  # a share in [0, 1]; None where the set does not have it: `note` says why
    subset: str = ""  # of the set: "mask", "african"
    better: Literal["higher", "lower"] = "higher"
    std: float | None = None  # over the folds
    threshold: float | None = None  # the cosine above which a pair counts as the same
    num_same: int | None = None  # pairs (or probes) that it is a share of
    num_different: int | None = None  # pairs that its threshold rests on
    headline: bool = False  # the number that the set is known for
    note: str | None = None


class Curve(NamedTuple):
    """A line for a picture."""

    kind: Literal["roc", "cmc"]
    subset: str
    x_K: np.ndarray  # FAR in (0, 1], or rank from 1
    y_K: np.ndarray  # TAR, or the share of probes answered within that rank
    exact_up_to: float | None = None  # FARs beyond are from a sample of the different pairs; None: all are exact


class Histogram(NamedTuple):
    """How similarities are distributed; shares that sum to 1, or to 0 where there are no such pairs."""

    subset: str
    edge_B1: np.ndarray  # of the cosine
    same_B: np.ndarray
    different_B: np.ndarray


class Pair(NamedTuple):
    """A pair that was hard: a same one that looks different, or a different one that looks the same."""

    subset: str
    same: bool
    similarity: float
    first: int  # numbers in the set's ImageSet
    second: int


class Judgement(NamedTuple):
    """One network on one set."""

    metrics: list[Metric]
    curves: tuple[Curve, ...] | list[Curve] = ()
    histograms: tuple[Histogram, ...] | list[Histogram] = ()
    pairs: tuple[Pair, ...] | list[Pair] = ()  # hardest first
    notices: tuple[str, ...] | list[str] = ()  # what was wrong with the data, counted and named

    def plain(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "metrics": [metric.model_dump() for metric in self.metrics],
            "curves": [_plain(curve) for curve in self.curves],
            "histograms": [_plain(histogram) for histogram in self.histograms],
            "pairs": [pair._asdict() for pair in self.pairs],
            "notices": list(self.notices),
        }


def _plain(values):
    """A named tuple as a dict, arrays as lists of six digits: enough for a picture."""
    return {
        name: [float(f"{number:.6g}") for number in value] if isinstance(value, np.ndarray) else value
        for name, value in values._asdict().items()
    }
