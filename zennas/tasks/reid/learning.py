"""LEARNING: what `zennas learn` asks of the re-identification of people: people whom nobody trains on, and how well
they are found."""

from zennas.data.sources import AnySource
from zennas.tasks.identity.people import Group, People, listed
from zennas.tasks.identity.trained import trained, trained_short, trained_text
from zennas.tasks.learning import Learning
from zennas.tasks.reid.groups import TITLES, described, measures_of, open_images, split_people, text_of
from zennas.tasks.reid.learn_plan import ReidLearnPlan


def split_groups(request, source: AnySource) -> People:
    """The People of a learning: those of --held-out and --test, or shares that its seed draws."""
    plan = request.learn
    return split_people(request, source, plan, seed=plan.seed, where="learn", max_people=plan.max_people)


def judge(request, source: AnySource, network, group: Group, *, device, autocast=None) -> dict[str, float]:
    """{"reward": what the plan measures, "map", "rank_1"} of a Group; shares in [0, 1]."""
    numbers = measures_of(request, source, network, group, device=device, autocast=autocast)
    return {"reward": numbers[request.learn.measure]} | numbers


def measure(plan: ReidLearnPlan) -> str:
    """What is measured, in words.

    >>> measure(ReidLearnPlan())
    'mAP'
    """
    return TITLES[plan.measure]


def announced(request, people: People) -> dict[str, str]:
    """Lines on who is in which group."""
    return {
        "train": trained_text(request, people),
        "measure": f"{measure(request.learn)}: {text_of(people.held_out)}",
        "test": "nobody" if people.test is None else f"{text_of(people.test)}, when all is chosen",
    }


LEARNING = Learning(
    open_source=open_images,
    split=split_groups,
    judge=judge,
    title=TITLES.get,
    described=lambda plan, people: described(people),
    announced=announced,
    trained=trained,
    trained_short=trained_short,
    settings=lambda source, people: {"data": source.images.fingerprint} | listed(people),
    measure=measure,
)
