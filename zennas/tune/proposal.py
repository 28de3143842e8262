"""Proposal: one point of the comprehensive search, as the knobs of its task's plan."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, Self

import pydantic

from zennas.tune_plan import Span, TunePlan

BACKBONE, SHAPE = "backbone", "shape"  # every plan's factor, and its knob
Knob = float | int
# As pydantic spells numbers: a trial's folder is called after its knobs, and an old search must find its own.
JSON = pydantic.TypeAdapter(dict[str, Knob])


def factors_of(plan: TunePlan) -> dict[str, tuple[str, ...]]:
    """{factor: its knobs} of a plan, whether searched or not: the task's own, then the backbone.

    >>> factors_of(TunePlan())
    {'backbone': ('shape',)}
    """
    return plan.FACTORS | {BACKBONE: (SHAPE,)}


def knobs_of(plan: TunePlan) -> tuple[str, ...]:
    """The knobs of all factors of a plan, in order."""
    return tuple(knob for knobs in factors_of(plan).values() for knob in knobs)


@dataclasses.dataclass(frozen=True)
class Proposal:
    """What differs from the recipe as it stands; so Proposal() is the recipe itself.

    The `shape` of a knob is its place among the candidates of equal cost, the shallowest first.
    """

    knobs: tuple[tuple[str, Knob], ...] = ()  # (name, value), in the order of the plan's

    @classmethod
    def of(cls, plan: TunePlan, values: Mapping[str, Knob | None]) -> Self:
        """The Proposal of these values of the plan's knobs, in whatever order. None: as the recipe has it.

        >>> Proposal.of(TunePlan(), {"shape": 3})
        Proposal(knobs=(('shape', 3),))
        """
        names = knobs_of(plan)
        assert values.keys() <= set(names), (values, names)
        return cls(tuple((name, value) for name in names if (value := values.get(name)) is not None))

    @property
    def plain(self) -> dict[str, Knob]:
        """Only what differs.

        >>> Proposal((("shape", 3),)).plain
        {'shape': 3}
        """
        return dict(self.knobs)

    @property
    def key(self) -> str:
        """A short name that equal proposals share; 'recipe' for the recipe as it stands."""
        return hashlib.sha256(JSON.dump_json(self.plain)).hexdigest()[:12] if self.knobs else "recipe"

    def only(self, names: tuple[str, ...]) -> Self:
        """The Proposal with what it says of these knobs alone.

        >>> Proposal((("rate", 1.0), ("shape", 3))).only(("shape",))
        Proposal(knobs=(('shape', 3),))
        """
        return type(self)(tuple((name, value) for name, value in self.knobs if name in names))


def spans(plan: TunePlan, num_shapes: int) -> dict[str, Span | range | Knob]:
    """{knob: its Span, a number that is not searched, or the range of shapes} of what a plan searches."""
    searched = {}
    for factor, names in plan.FACTORS.items():
        if (space := getattr(plan, factor)) is not None:
            searched |= {name: value for name in names if (value := getattr(space, name)) is not None}
    if plan.backbone is not None:
        searched[SHAPE] = range(num_shapes)
    return searched


# Ray keeps this function's name and its first two arguments with a search: a search that was killed goes on by them.
def suggest(plan: TunePlan, num_shapes: int, trial: Any) -> dict[str, Knob]:
    """The knobs of a Proposal, those that are searched by the `suggest_` of a trial of Optuna's."""
    knobs: dict[str, Knob] = {}
    for name, span in spans(plan, num_shapes).items():
        if isinstance(span, Span):
            knobs[name] = round(trial.suggest_float(name, span.low, span.high, log=span.log), 6)
        elif isinstance(span, range):
            knobs[name] = trial.suggest_int(name, span.start, span.stop - 1)
        else:
            knobs[name] = span
    return knobs
