"""What a user asks of `zennas clean`."""

import pathlib
from typing import Annotated, ClassVar, Literal

from zennas.clean.plan import CleanPlan, Order
from zennas.flags import (
    RESUME_OR_FRESH,
    Address,
    Changes,
    CommandOptions,
    Data,
    Device,
    Faces,
    Network,
    flag,
)

THRESHOLD = "Cosine, or none to leave the step out. "


def _planned(name: str) -> str:
    """What a CleanPlan holds where an option is left out."""
    return f"{CleanPlan.model_fields[name].default}"


class Options(CommandOptions):
    """Clean identities: find those that are one person, images that are of somebody else,
    pictures that stand in two of them.

    It takes aligned crops (--faces says more), and people seen by cameras, as Market-1501's.
    A network embeds all images; the centre of an identity is that of its largest cluster (DBSCAN). Identities whose
    centres are alike are merged; then images nearer to another identity's centre and duplicates over identities are
    left out, then, by fresh centres, images far from their own. With --rounds N a network is trained on what is left,
    by the recipe of --track, and cleans again.

    Nothing is deleted: OUT/decisions.parquet says of every image what was decided and why, OUT/labels.npz is the new
    list for `zennas train --labels`, --look shows an identity and --take-back undoes a decision. Ctrl-C and kill -9
    lose no more than the parts under way: give the same command again.

    Exit codes: 0 cleaned; 2 something given cannot be used; 3 a process that it began died, or could not begin
    (what was done is kept); 130 stopped by Ctrl-C.
    """

    EXCLUSIVE: ClassVar[tuple[tuple[str, str], ...]] = RESUME_OR_FRESH
    data: Data
    faces: Faces = "auto"
    embeddings_from: Annotated[
        Network, flag("Network that embeds, as zennas evaluate takes it: FILE[,normalise=...][,px=...].")
    ] = None
    embeddings: Annotated[
        pathlib.Path | None,
        flag("An .npy of a row for each image, in the order of the data, instead of a network."),
    ] = None
    out: Annotated[pathlib.Path | None, flag("Folder of the run.", unset="runs/DATA-clean")] = None
    rounds: Annotated[int, flag("Rounds; between two of them a network is trained.", ge=1)] = 1
    start: Annotated[
        Literal["raw", "previous"],
        flag("Of the rounds after the first: raw (all images are judged anew), or previous (what is left)."),
    ] = "raw"
    track: Annotated[
        str | None,
        flag("Experiment whose recipe trains between rounds.", unset="webface-sfr", values="experiments"),
    ] = None
    winner: Annotated[pathlib.Path | None, flag("Candidate (YAML) to train.", unset="runs/TRACK/winner-1.yaml")] = None
    set: Changes = ()
    order: Annotated[
        Order | None,
        flag("inter-intra (merge, between identities, within them) or intra-inter (CAST's).", unset=_planned("order")),
    ] = None
    tau_merge: Annotated[
        str | float | None,
        flag(f"{THRESHOLD}Identities whose centres are more alike are one person.", unset=_planned("tau_merge")),
    ] = None
    tau_duplicate: Annotated[
        str | float | None,
        flag(f"{THRESHOLD}Images of two identities that are more alike are one.", unset=_planned("tau_duplicate")),
    ] = None
    tau_other: Annotated[
        str | float | None,
        flag(
            f"{THRESHOLD}Images nearer to another identity's centre, and at least so near, are of it.",
            unset=_planned("tau_other"),
        ),
    ] = None
    tau_intra: Annotated[
        str | float | None,
        flag(
            f"{THRESHOLD}Images with at most this cosine to their centre show somebody else.",
            unset=_planned("tau_intra"),
        ),
    ] = None
    dbscan_eps: Annotated[
        float | None, flag("Cosine distance within which images are neighbours.", unset=_planned("dbscan_eps"))
    ] = None
    dbscan_min_samples: Annotated[
        int | None, flag("Neighbours that make the core of a cluster.", unset=_planned("dbscan_min_samples"))
    ] = None
    min_images: Annotated[
        int | None, flag("Identities with fewer images left are left out.", unset=_planned("min_images"))
    ] = None
    move: Annotated[bool, flag("Give images to the identity they are nearer to, instead of leaving them out.")] = False
    take_back: Annotated[
        tuple[str, ...],
        flag("Undo a decision: image:NAME (or its number) stays, identity:NAME is nobody else; may be repeated."),
    ] = ()
    look: Annotated[
        str | None,
        flag("Write OUT/look-NAME.html: all images of an identity, and what was decided.", metavar="NAME"),
    ] = None
    workers: Annotated[
        int | None,
        flag("Processes.", unset="one per core from 200,000 images on, else this one alone", ge=1, le=4096),
    ] = None
    device: Annotated[Device, flag("Of the network: cpu or cuda.", unset="cuda where there is a GPU")] = None
    address: Address = None
    resume: Annotated[bool, flag("Go on with a cleaning; an error where there is none.")] = False
    fresh: Annotated[bool, flag("Move a cleaning that is there aside and begin anew.")] = False
