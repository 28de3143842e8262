"""What a search asks of the toy: it varies beta and the backbone; its reward is how little the network is off."""

import html
from typing import Annotated, Any, ClassVar, NamedTuple

import numpy as np
import pydantic

from tests.tasks import toy
from zennas.records import Record, UserError
from zennas.tasks.judging import Unit
from zennas.tasks.table import TASKS
from zennas.tasks.tuning import Best, Trained, Tuning, TuningPage
from zennas.tune_plan import Positive, Span, TunePlan


class LossSpace(Record):
    """What the loss is searched over."""

    beta: Span | Positive = Span(low=0.01, high=2.0, log=True)


class ToyTunePlan(TunePlan):
    """The search for networks that see how bright a picture is."""

    FACTORS: ClassVar[dict[str, tuple[str, ...]]] = {"loss": ("beta",)}

    loss: LossSpace | None = LossSpace()
    held_out_share: Annotated[float, pydantic.Field(gt=0, lt=0.5)] = 0.25  # and as much for the test

    def __setstate__(self, state: dict[Any, Any]) -> None:
        # A worker of Ray that is sent a search finds the toy's row, as it finds those of the package.
        super().__setstate__(state)
        TASKS.setdefault("toy", toy.ROW)


class Parts(NamedTuple):
    """Numbers of pictures."""

    trained: np.ndarray
    held_out: np.ndarray
    test: np.ndarray


LEVELS = Unit(times=1.0, sign="", name="", differences="levels")


def check(options, plan, recipe):
    for name in ("embeddings_from", "held_out", "test"):
        if (value := getattr(options, name)) is not None:
            raise UserError(f"--{name.replace('_', '-')} {value}: is not for pictures")


def split(plan, source):
    num = len(source.image_NHW)
    part = round(plan.held_out_share * num)
    order = np.random.default_rng(plan.seed).permutation(num)
    return Parts(order[2 * part :], order[:part], order[part : 2 * part])


def kept(source, groups, folder):
    """{field of a training's Request: the pictures that may be trained on}."""
    path = folder / "pictures.npz"
    np.savez(path, image_NHW=source.image_NHW[groups.trained], target_N2=source.target_N2[groups.trained])
    return {"data": path}


def trained(request, source, groups, prepared, knobs, folder):
    return Trained(kept(source, groups, folder), {"num_kept_back": len(source.image_NHW) - len(groups.trained)})


def judge(request, source, network, group, *, device, autocast=None):
    pictures = toy.Pictures("a part", source.image_NHW[group], source.target_N2[group])
    error = toy.judge(request, network, pictures, device=device).record.error
    return {"reward": -error, "off": error}


TOY_TUNING = Tuning(
    check=check,
    recipe=lambda plan: f"beta {plan.beta:g}",
    changes=lambda knobs: (f"beta={knobs['beta']!r}",) if "beta" in knobs else (),
    open_source=lambda request, progress: toy.opened(request.data),
    split=lambda request, source: split(request.tune, source),
    open_model=lambda request: None,
    settings=lambda source, groups, model: {"data": f"{source.target_N2.sum():.6f}"},
    prepare=lambda request, source, model, progress: None,
    trained=trained,
    judge=judge,
    title=lambda name: "Off by" if name == "off" else None,
    reward=lambda plan: "minus the error",
    described=lambda plan, groups: {"held_out": len(groups.held_out), "test": len(groups.test)},
    announced=lambda request, groups: {"train": f"{len(groups.trained)} pictures"},
    handed_on=(),
    best=lambda knobs: Best({}, {}),
    write_best=lambda request, source, groups, prepared, knobs: None,
    page=TuningPage(
        subtitle="Beta, depth against width",
        reward=lambda summary: html.escape(f"The reward is {summary['reward']}, on {summary['held_out']} pictures."),
        facts=lambda summary: [("Reward on", f"{summary['held_out']} pictures")],
        notes=lambda entries: [],
        knobs={"beta": "beta of the loss"},
        counts=("num_pictures",),
        counts_of={"beta": ("num_kept_back",)},
        chosen_by="the pictures it was chosen by",
        unseen="pictures nobody had looked at",
        unchosen="pictures by which nothing was chosen",
        tested="The test is of other pictures.",
        meaning=("<b>It is a toy.</b>",),
    ),
    unit=LEVELS,
)
