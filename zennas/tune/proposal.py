"""Proposal: one point of the comprehensive search, and what it makes of a recipe."""

import hashlib
from typing import Any, Self

from zennas.records import Record
from zennas.tune_plan import Span

THRESHOLDS = ("tau_inter", "tau_intra")
MARGIN = ("m1", "m2_rad", "m3", "s_p", "s_n")
SHAPE = "shape"
KNOBS = (*THRESHOLDS, *MARGIN, SHAPE)
FACTORS = {"cleaning": THRESHOLDS, "margin": MARGIN, "backbone": (SHAPE,)}
LOSS = "unified_margin"


class Proposal(Record):
    """What differs from the recipe as it stands. None: as there; so Proposal() is the recipe itself."""

    tau_inter: float | None = None
    tau_intra: float | None = None
    m1: float | None = None
    m2_rad: float | None = None
    m3: float | None = None
    s_p: float | None = None
    s_n: float | None = None
    shape: int | None = None  # place among the candidates of equal cost, the shallowest first

    @property
    def plain(self) -> dict[str, Any]:
        """Only what differs.

        >>> Proposal(tau_intra=0.2).plain
        {'tau_intra': 0.2}
        """
        return self.model_dump(exclude_none=True)

    @property
    def key(self) -> str:
        """A short name that equal proposals share; 'recipe' for the recipe as it stands."""
        text = self.model_dump_json(exclude_none=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12] if self.plain else "recipe"

    def only(self, factor: str) -> Self:
        """The Proposal with what it says of one of FACTORS alone.

        >>> Proposal(tau_intra=0.2, shape=3).only("backbone")
        Proposal(tau_inter=None, tau_intra=None, m1=None, m2_rad=None, m3=None, s_p=None, s_n=None, shape=3)
        """
        return type(self)(**{name: value for name, value in self.plain.items() if name in FACTORS[factor]})

    @property
    def changes(self) -> tuple[str, ...]:
        """KEY=VALUE of the recipe, as --set takes them.

        >>> Proposal(m1=1.0, m2_rad=0.3, m3=0.0, s_p=32.0, s_n=32.0).changes
        ('loss.name=unified_margin', 'loss.knobs={m1: 1.0, m2_rad: 0.3, m3: 0.0, s_p: 32.0, s_n: 32.0}')
        """
        knobs = {name: value for name in MARGIN if (value := getattr(self, name)) is not None}
        if not knobs:
            return ()
        return f"loss.name={LOSS}", f"loss.knobs={{{', '.join(f'{name}: {value!r}' for name, value in knobs.items())}}}"


def spans(plan: Any, num_shapes: int) -> dict[str, Any]:
    """{knob: its Span, a number that is not searched, or the range of shapes} of a TunePlan."""
    searched = {}
    for names, space in ((THRESHOLDS, plan.cleaning), (MARGIN, plan.margin)):
        if space is not None:
            searched |= {name: value for name in names if (value := getattr(space, name)) is not None}
    if plan.backbone is not None:
        searched[SHAPE] = range(num_shapes)
    return searched


def suggest(plan: Any, num_shapes: int, trial: Any) -> dict[str, Any]:
    """The knobs of a Proposal, those that are searched by the `suggest_` of a trial of Optuna's."""
    knobs = {}
    for name, span in spans(plan, num_shapes).items():
        if isinstance(span, Span):
            knobs[name] = round(trial.suggest_float(name, span.low, span.high, log=span.log), 6)
        elif isinstance(span, range):
            knobs[name] = trial.suggest_int(name, span.start, span.stop - 1)
        else:
            knobs[name] = span
    return knobs
