"""What results.json holds of an evaluation: its networks, its sets, each network on each set, and what failed."""

import dataclasses
from collections.abc import Iterable
from typing import Annotated, Any, Self

import pydantic

from zennas.evaluate.assessment import Assessment, Curve, Histogram, Metric, Pair, RankedList
from zennas.latency.budget import JudgedLatency, LocalBudget
from zennas.provenance import Provenance
from zennas.records import Record


def _null_is_empty(values: Any) -> Any:
    return () if values is None else values


NullIsEmpty = pydantic.BeforeValidator(_null_is_empty)


class EvaluatedModel(Record):
    """A network that is evaluated."""

    name: str  # no two have the same
    file: str
    kind: str
    fingerprint: str = ""
    embedding_size: int | None
    input: tuple[int, int] | None  # height, width in pixels
    normalisation: str | None
    megabytes: float | None
    latency: JudgedLatency | None
    notice: str | None = None  # what is odd about how it is fed


class EvaluatedSet(Record):
    """A set that networks are evaluated on."""

    name: str  # no two have the same
    protocol: str
    num_images: int
    flip: bool  # whether the mirrored image's embedding is added
    given: str
    how: str  # what is done, for people


class Result(Record):
    """One network on one set."""

    model: str
    set: str
    metrics: tuple[Metric, ...]
    curves: Annotated[tuple[Curve, ...], NullIsEmpty] = ()
    histograms: Annotated[tuple[Histogram, ...], NullIsEmpty] = ()
    pairs: Annotated[tuple[Pair, ...], NullIsEmpty] = ()  # hardest first
    lists: Annotated[tuple[RankedList, ...], NullIsEmpty] = ()  # hardest first
    notices: Annotated[tuple[str, ...], NullIsEmpty] = ()
    where: dict[str, str] = {}  # number of an image of the pairs and lists, as text -> where it lies
    num_unusable: int = 0  # images
    seconds: float = 0.0

    @classmethod
    def of(cls, assessment: Assessment, **more: Any) -> Self:
        """The Result of an Assessment; `more`: its other fields."""

        def plain(values: Iterable[Any]) -> list[dict[str, Any]]:
            return [dataclasses.asdict(value) for value in values]

        return cls(
            metrics=tuple(assessment.metrics),
            curves=plain(assessment.curves),
            histograms=plain(assessment.histograms),
            pairs=plain(assessment.pairs),
            lists=plain(assessment.lists),
            notices=tuple(assessment.notices),
            **more,
        )


class Failure(Record):
    """A network that could not be evaluated on a set."""

    model: str
    set: str
    error: str


class Evaluation(Record):
    """What `evaluate` returns, and results.json holds."""

    made_by: Provenance
    track: str | None
    budget: LocalBudget | None
    models: tuple[EvaluatedModel, ...]
    sets: tuple[EvaluatedSet, ...]
    results: tuple[Result, ...]  # of each model on each set
    failures: tuple[Failure, ...]

    @property
    def timed(self) -> dict[str, JudgedLatency]:
        """{model: its latency} of those that were timed."""
        return {model.name: model.latency for model in self.models if model.latency is not None}

    def on(self, name: str) -> list[Result]:
        """The results on the set of this name."""
        return [result for result in self.results if result.set == name]
