"""TUNING: what a comprehensive search asks of the re-identification of people: margin and weight of the loss of
distances, label smoothing, the reward on people held out."""

from typing import Any

from zennas.data.sources import AnySource
from zennas.records import UserError
from zennas.tasks.identity import trained as labelled
from zennas.tasks.identity.people import Group, People, listed
from zennas.tasks.identity.tuning_page import group_facts, people_page
from zennas.tasks.reid.groups import TITLES, described, measures_of, open_images, split_people, text_of
from zennas.tasks.reid.losses import mined_knobs_of
from zennas.tasks.reid.plan import ReidPlan
from zennas.tasks.reid.tune_plan import ReidTunePlan
from zennas.tasks.tuning import Best, Trained, Tuning
from zennas.tune_plan import Span

# knob: what of a ReidPlan it is
KEYS = {
    "margin": "triplet.knobs.margin",
    "triplet_weight": "triplet.weight",
    "smoothing": "softmax.knobs.smoothing",
}


def check(options, plan: ReidTunePlan, recipe: ReidPlan) -> None:
    """UserError for a network that is to clean, which is not searched here, and for a term that the recipe does not
    have, or whose values it does not take: every trial would fail."""
    for name in plan.FACTORS:
        if getattr(plan, name) is not None and getattr(recipe, name) is None:
            others = [
                f"--only {other}" for other in (*plan.FACTORS, "backbone") if getattr(recipe, other, 1) is not None
            ]
            raise UserError(
                f"tune.{name}: is searched, and the recipe has no such term ({name}: null); give it one "
                f"(--set {name}={{}} has its defaults), or leave it out: {' '.join(others)}"
            )
    if plan.triplet is not None and recipe.triplet is not None:
        margin, loss = plan.triplet.margin, recipe.triplet.name
        for value in (margin.low, margin.high) if isinstance(margin, Span) else (margin,):
            mined_knobs_of(loss, {"margin": value}, where=f"tune.triplet.margin {value:g}: triplet")
    if options.embeddings_from is not None:
        raise UserError(
            f"--embeddings-from {options.embeddings_from}: is for cleaning thresholds, which the task 'reid' does not "
            "search; leave it out (zennas clean cleans people, too)"
        )


def recipe(plan) -> str:
    """The losses of a ReidPlan, in words."""
    terms = {"softmax": plan.softmax, "triplet": plan.triplet}
    return ", ".join(f"{term.name} {dict(term.knobs)}" for term in terms.values() if term is not None) or "neither"


def changes(knobs: dict[str, float]) -> tuple[str, ...]:
    """KEY=VALUE of a ReidPlan.

    >>> changes({"margin": 0.3, "triplet_weight": 2.0, "smoothing": 0.1})
    ('triplet.knobs.margin=0.3', 'triplet.weight=2.0', 'softmax.knobs.smoothing=0.1')
    """
    return tuple(f"{KEYS[name]}={knobs[name]!r}" for name in KEYS if name in knobs)


def split_groups(request, source: AnySource) -> People:
    """The People of a search: those of --held-out and --test, or shares that its seed draws."""
    plan = request.tune
    return split_people(request, source, plan.reward, seed=plan.seed, where="tune.reward")


def trained(request, source: AnySource, people: People, prepared, knobs: dict[str, float], folder) -> Trained:
    """The labels of a trial: of the people who may be trained on."""
    return Trained(labelled.trained(request, source, people, folder), {})


def judge(request, source: AnySource, network, group: Group, *, device, autocast=None) -> dict[str, float]:
    """{"reward": mAP, "map", "rank_1"} of a Group; shares in [0, 1]."""
    numbers = measures_of(request, source, network, group, device=device, autocast=autocast)
    return {"reward": numbers["map"]} | numbers


def announced(request, people: People) -> dict[str, str]:
    """Lines on who is in which group."""
    return {
        "train": f"{labelled.counted(people.label_N)} of {request.data}",
        "reward": f"mAP: {text_of(people.held_out)}",
        "test": "nobody" if people.test is None else f"{text_of(people.test)}, when the search is over",
    }


def reward_text(summary: dict[str, Any]) -> str:
    """What the reward is, for the page."""
    held_out = summary["held_out"]
    return f"""The reward is the mean average precision over {held_out["num_images"]:,} images of
{held_out["num_identities"]:,} people that no trial trains on, each asked for among the others, after
{summary["epochs"]} epochs, in per cent."""


def facts(summary: dict[str, Any]) -> list[tuple[str, str]]:
    """How much the groups are, for the top of the page."""
    return group_facts(summary, lambda group: f"{group['num_images']:,} images of {group['num_identities']:,} people")


PAGE = people_page(
    subtitle="Loss of distances, label smoothing, depth against width: searched together",
    reward=reward_text,
    facts=facts,
    notes=lambda summary: [],
    knobs={
        "margin": "margin, a distance (circle: of cosines)",
        "triplet_weight": "weight of the loss of distances",
        "smoothing": "smoothing, a share",
    },
    counts_of={},
    meaning=("<b>A margin belongs to one length of vectors.</b> Of another network's it is more or less.",),
)

TUNING = Tuning(
    check=check,
    recipe=recipe,
    changes=changes,
    open_source=open_images,
    split=split_groups,
    open_model=lambda request: None,
    settings=lambda source, people, model: {"data": source.images.fingerprint} | listed(people),
    prepare=lambda request, source, model, progress: None,
    trained=trained,
    judge=judge,
    title=TITLES.get,
    reward=lambda plan: plan.reward.model_dump(mode="json"),
    described=lambda plan, people: described(people),
    announced=announced,
    handed_on=(),
    best=lambda knobs: Best({}, {}),
    write_best=lambda request, source, people, prepared, knobs: None,
    page=PAGE,
)
