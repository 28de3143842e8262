"""The people whom a search or a learning judges by, and how well a network finds them.

M images of a group
"""

from typing import Any

from zennas.data.sources import AnySource, open_source
from zennas.progress import Progress
from zennas.records import UserError
from zennas.tasks.identity.embedding import embed, in_eval
from zennas.tasks.identity.people import Group, People, split
from zennas.tasks.reid.look import check_upright
from zennas.tasks.reid.verify import PeopleSet, answerable, cameras_of, ranked, why_unanswerable

TITLES = {"map": "mAP", "rank_1": "Rank 1"}  # of the measures


def open_images(request: Any, progress: Progress) -> AnySource:
    """The Source of --data; UserError where it holds faces rather than people."""
    source = open_source(request.data, progress=progress.counting("images"))
    check_upright(source, request.data, request.space.shape)
    return source


def split_people(request: Any, source: AnySource, plan: Any, *, seed: int, where: str, max_people: int | None = None):
    """The People of --held-out and --test, or of shares that `seed` draws. plan: has held_out_share, test_share and
    max_images; where: it stands in an experiment.

    UserError where nobody of a group can be found among the others.
    """
    given = {"held_out": request.held_out, "test": request.test}
    people = split(source, plan, seed=seed, max_people=max_people, where=where, **given)
    for name, group in (("held-out", people.held_out), ("test", people.test)):
        if group is None:
            continue
        camera_M = cameras_of(source, group.index_M)
        if not answerable(group.label_M, camera_M).any():
            raise UserError(
                f"{source.path}: none of the {len(group.index_M)} images of the {name} people has a right answer among "
                f"the others: {why_unanswerable(group.label_M, camera_M)}"
            )
    return people


def measures_of(request: Any, source: AnySource, network, group: Group, *, device, autocast=None) -> dict[str, float]:
    """{"map", "rank_1"}, shares in [0, 1]: each image of a Group is asked for among all its others, mirrored images
    added.

    UserError where an embedding is not finite.
    """
    embed_batch = in_eval(network, device, autocast=autocast)
    images = source.some(group.index_M)
    embedding_MD, _ = embed(images, embed_batch, image_px=request.space.shape.hw)
    people = PeopleSet("group", images, group.label_M, cameras_of(source, group.index_M))
    ranking = ranked(embedding_MD.numpy(), people)
    return {"map": ranking.mean_ap, "rank_1": ranking.at_rank[1]}


def counts_of(group: Group | None) -> dict[str, int] | None:
    """How much a Group is, for run.json."""
    return None if group is None else {"num_images": len(group.index_M), "num_identities": group.num_identities}


def text_of(group: Group) -> str:
    """The same in words."""
    return f"{len(group.index_M):,} images of {group.num_identities:,} others, each asked for among the rest"


def described(people: People) -> dict[str, Any]:
    """How much there is in each group."""
    return {"held_out": counts_of(people.held_out), "test": counts_of(people.test)}
