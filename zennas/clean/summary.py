"""What a cleaning found, as run.json keeps it: each of its rounds, and the summary of them all."""

from typing import Any, Literal

from zennas.clean.plan import CleanPlan
from zennas.provenance import Provenance
from zennas.records import Record


class Round(Record):
    """One round; its State and its labels lie in its folder."""

    number: int  # from 1
    start: Literal["raw", "previous"]  # the labels that it began with: the data's, or those that the last round left
    embeddings_from: str  # a network, as a user names it, or a file of embeddings
    kept: int  # images
    identities: int  # that still have images
    notices: list[str]
    counts: dict[str, int]  # images by the reason for which they were changed


class ImageCounts(Record):
    """Images before the cleaning, and what became of them."""

    before: int
    kept: int
    merged: int
    moved: int
    dropped: int


class IdentityCounts(Record):
    """Identities before and after, and the pairs that became one."""

    before: int
    after: int
    merges: int


class TakenBackCounts(Record):
    """What the user took back."""

    images: int
    identities: int


class Change(Record):
    """A number before and after."""

    before: int
    after: int


class Sizes(Record):
    """[least images, most images, identities of so many] before and after, by powers of two."""

    before: list[tuple[int, int, int]]
    after: list[tuple[int, int, int]]


class MergedPair(Record):
    """Two identities that became one: their numbers, the cosine of their centres, a few images of each."""

    numbers: tuple[int, int]
    cosine: float
    images: tuple[list[int], list[int]]


class Summary(Record):
    """What was decided: counts, histograms, and examples by the numbers of their images."""

    data: str
    data_notices: list[str] = []  # what of it is not used, and how it was read
    has_cameras: bool = False  # people seen by cameras, not faces
    embeddings_from: list[str]  # of each round
    plan: CleanPlan
    start: Literal["raw", "previous"]  # of the rounds after the first
    rounds: list[Round]
    taken_back: TakenBackCounts
    images: ImageCounts
    identities: IdentityCounts
    reasons: dict[str, int]  # images by reason
    of_one_image: Change  # identities of a single image
    largest: Change  # images of the largest identity
    sizes: Sizes
    own_cosine: dict[str, list[int]]  # what became of an image -> histogram of the cosine to its own centre
    kept_at: list[int]  # images that each threshold within identities would keep
    examples: dict[str, list[int]]  # kind -> images
    merged: list[MergedPair]  # the least alike first, then the most alike
    made_by: Provenance

    def plain(self) -> dict[str, Any]:
        """What JSON says of it."""
        return self.model_dump(mode="json")
