"""Assessment: what an evaluation says of one network on one set."""

# K points of a curve, B bins of a histogram

import dataclasses
from typing import Annotated, Literal, NamedTuple

import numpy as np
import pydantic

from zennas.records import Record

NUM_PAIRS = 24  # of each kind that an assessment shows
NUM_LISTS = 12  # ranked lists that it shows
# In results.json of six digits, which are enough for a picture.
Numbers = Annotated[
    np.ndarray,
    pydantic.PlainValidator(lambda values: np.array([float(f"{value:.6g}") for value in values])),
    pydantic.PlainSerializer(lambda values: values.tolist()),
]


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


@dataclasses.dataclass(frozen=True)
class Curve:
    """A line for a picture."""

    kind: Literal["roc", "cmc"]
    subset: str
    x_K: Numbers  # FAR in (0, 1], or rank from 1
    y_K: Numbers  # TAR, or the share of probes answered within that rank
    exact_up_to: float | None = None  # FARs beyond are from a sample of the different pairs; None: all are exact


@dataclasses.dataclass(frozen=True)
class Histogram:
    """How similarities are distributed; shares that sum to 1, or to 0 where there are no such pairs."""

    subset: str
    edge_B1: Numbers  # of the cosine
    same_B: Numbers
    different_B: Numbers


@dataclasses.dataclass(frozen=True)
class Pair:
    """A pair that was hard: a same one that looks different, or a different one that looks the same."""

    subset: str
    same: bool
    similarity: float | None  # None is of an old results.json
    first: int  # numbers in the set's ImageSet
    second: int


@dataclasses.dataclass(frozen=True)
class RankedList:
    """A query that was hard, and what the gallery gave first."""

    query: int  # numbers in the set's ImageSet
    average_precision: float
    first_rank: int  # of the first right answer
    images: tuple[int, ...]  # as they were ranked, what is passed over left out
    right: tuple[bool, ...]  # of each, whether it is a right answer


class Assessment(NamedTuple):
    """One network on one set."""

    metrics: list[Metric]
    curves: tuple[Curve, ...] | list[Curve] = ()
    histograms: tuple[Histogram, ...] | list[Histogram] = ()
    pairs: tuple[Pair, ...] | list[Pair] = ()  # hardest first
    notices: tuple[str, ...] | list[str] = ()  # what was wrong with the data, counted and named
    lists: tuple[RankedList, ...] | list[RankedList] = ()  # hardest first
