"""What `zennas gallery` returns: what was done, what was found, and what the gallery holds."""

from typing import Literal

from zennas.records import Record


class Searching(Record):
    """How a gallery is searched."""

    way: Literal["exact", "cells"]  # every vector compared, or those of the nearest cells
    num_compared: int  # vectors that each query is compared with one by one: all, or those behind the cells
    cells: int | None = None
    probes: int | None = None  # cells that are looked into
    recall: float | None = None  # share of the nearest `recall_at`, by exact search, that are found; None: exact
    recall_at: int | None = None
    recall_asked: int | None = None  # pictures of the gallery that were asked about


class Summary(Record):
    """What a gallery holds."""

    folder: str
    holds: Literal["faces", "people"]
    network: str
    fingerprint: str
    embedding_size: int
    flip: bool
    num_images: int
    num_identities: int
    num_cameras: int  # that are known to have taken a picture
    num_deleted: int
    sources: tuple[str, ...]
    searching: Searching


class Unusable(Record):
    """A picture that could not be used."""

    image: str
    why: str


class Enrolled(Record):
    """What became of the pictures of --enrol."""

    num_given: int
    num_added: int
    num_there: int  # there already, under the same identity
    num_replaced: int  # of those added: took the place of one of their name and source
    num_unusable: int
    unusable: tuple[Unusable, ...]  # the first of them


class Kept(Record):
    """A picture of a gallery."""

    image: str
    identity: str
    source: str
    camera: str | None  # that took it; None where that is not known


class Hit(Kept):
    """A picture of a ranked list."""

    rank: int  # from 1
    cosine: float


class Ranked(Record):
    """A ranked list."""

    query: tuple[str, ...]  # the picture that was asked about, or all of them with --together
    not_cameras: tuple[str, ...]  # whose pictures --not-camera passed over
    hits: tuple[Hit, ...]


class Outcome(Record):
    """All that a call did and found."""

    gallery: Summary
    num_deleted: int
    enrolled: Enrolled | None
    ranked: tuple[Ranked, ...]
    failures: tuple[Unusable, ...]  # pictures of --query
    look: tuple[Kept, ...]
    page: str | None
    table: str | None
