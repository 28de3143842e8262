"""CleanPlan: how identities are cleaned. Every threshold is a cosine of unit embeddings, but for DBSCAN's."""

from typing import Annotated, Literal

import pydantic

from zennas.records import Record

Cosine = Annotated[float, pydantic.Field(gt=-1, lt=1)]
# inter-intra: merge, clean between identities, then within them, so that centres are fresh; intra-inter: CAST's.
Order = Literal["inter-intra", "intra-inter"]


class CleanPlan(Record):
    """One round of cleaning. A threshold of None: that step is left out.

    Source: mind_ft (the steps, their order, tau_intra 0.25: 0.05 cleans too little,
    0.50 throws hard images out) and CAST (WebFace260M, recalled: tau_merge 0.7, tau_duplicate 0.95, the other order).
    Nobody publishes DBSCAN's two values nor tau_other: ours are what served best on planted noise
    (experiments/cleaning), and belong to one kind of network.
    """

    order: Order = "inter-intra"
    # Cosine distance within which two images are neighbours,
    # and how many (itself one of them) make the core of a cluster.
    dbscan_eps: Annotated[float, pydantic.Field(gt=0, lt=2)] = 0.6
    dbscan_min_samples: Annotated[int, pydantic.Field(ge=1)] = 2
    tau_merge: Cosine | None = 0.7  # identities whose centres are more alike are one person
    tau_duplicate: Cosine | None = 0.95  # images of two identities that are more alike are one picture
    # An image nearer to another identity's centre than to its own's, and at least so near, is not of its own.
    tau_other: Cosine | None = 0.5
    tau_intra: Cosine | None = 0.25  # an image no nearer to its identity's centre is of somebody else
    move: bool = False  # give images to the identity that they are nearer to, instead of leaving them out
    min_images: Annotated[int, pydantic.Field(ge=1)] = 1  # identities with fewer images left are left out
