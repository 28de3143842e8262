"""LEARNING: what `zennas learn` asks of the recognition of faces: people whom nobody trains on, and AUC or TAR over all
pairs of their images."""

from typing import Any

from zennas.data.sources import AnySource
from zennas.metrics.all_to_all import all_to_all
from zennas.metrics.auc import all_pairs_auc
from zennas.tasks.face.learn_plan import FaceLearnPlan
from zennas.tasks.face.people import open_images
from zennas.tasks.identity.embedding import embed, in_eval
from zennas.tasks.identity.people import Group, People, few_pairs, listed, split
from zennas.tasks.identity.trained import trained, trained_short, trained_text
from zennas.tasks.learning import Learning


def split_people(request, source: AnySource) -> People:
    """The People of a learning: those of --held-out and --test, or shares that its seed draws."""
    plan = request.learn
    return split(
        source,
        plan,
        seed=plan.seed,
        held_out=request.held_out,
        test=request.test,
        max_people=plan.max_people,
        where="learn",
    )


def judge(request, source: AnySource, network, group: Group, *, device, autocast=None) -> dict[str, float]:
    """{"reward": AUC, or TAR at the plan's FAR} over all pairs of a Group, mirrored images added; shares in [0, 1].

    All pairs: LFW's 6,000 tell networks of equal latency apart with a reliability of 0.17, all pairs of as many people
    with 0.88. UserError where an embedding is not finite.
    """
    plan, images = request.learn, source.some(group.index_M)
    embed_batch = in_eval(network, device, autocast=autocast)
    embedding_MD, _ = embed(images, embed_batch, image_px=request.space.shape.hw)
    if plan.measure == "auc":
        return {"reward": all_pairs_auc(embedding_MD.numpy(), group.label_M).auc}
    (point,) = all_to_all(embedding_MD.numpy(), group.label_M, [plan.far], num_hardest=0).points
    return {"reward": point.tar}


def measure(plan: FaceLearnPlan) -> str:
    """What is measured, in words.

    >>> measure(FaceLearnPlan()), measure(FaceLearnPlan(measure="tar", far=1e-4))
    ('AUC', 'TAR at FAR 0.0001')
    """
    return "AUC" if plan.measure == "auc" else f"TAR at FAR {plan.far:g}"


def described(plan: FaceLearnPlan, people: People) -> dict[str, Any]:
    """How many images, people and pairs there are in each group, and what so few pairs cannot tell."""
    return {
        "held_out": people.held_out.counts,
        "test": None if people.test is None else people.test.counts,
        "few_pairs": few_pairs(people.held_out, (plan.far,)) if plan.measure == "tar" else [],
    }


def announced(request, people: People) -> dict[str, str]:
    """Lines on who is in which group."""
    return {
        "train": trained_text(request, people),
        "measure": f"{measure(request.learn)} over all pairs: {people.held_out.text}",
        "test": "nobody" if people.test is None else f"{people.test.text}, asked when all is chosen",
    }


LEARNING = Learning(
    open_source=open_images,
    split=split_people,
    judge=judge,
    title=lambda name: None,  # there is no number beside the reward
    described=described,
    announced=announced,
    trained=trained,
    trained_short=trained_short,
    settings=lambda source, people: {"data": source.images.fingerprint} | listed(people),
    measure=measure,
)
