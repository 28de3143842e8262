"""What a user asks of `zennas gallery`."""

import pathlib
from typing import Annotated, Literal

from zennas.flags import CommandOptions, Device, Faces, Network, flag


class Options(CommandOptions):
    """Enrol people or faces into an index, and find them again by a picture: a ranked list.

    A network embeds each picture once. FOLDER keeps the embeddings, with the name and the identity of each, and an
    index of them; pictures stay where they are. One call may do several things, in this order: --delete, --enrol,
    --rebuild, --query, --look, --table. Without any it tells what the gallery holds.

    \b
    --enrol takes
      a folder of folders, one per identity; a .tar; a folder with train.rec
      a folder of pictures: each is an identity of its own, called as its file is, without suffix
      a set of people seen by cameras, as --data takes it (Market-1501, CUHK03, MSMT17, query/ and gallery/): its
      gallery, or the part whose folder is named
      LIST@IMAGES: a table with the columns image and label, perhaps camera and role, and where the images lie

    What is there already is not embedded again: the same command goes on where it was stopped. What was said to be
    enrolled is there after a kill -9. One process changes a gallery at a time; others may query it meanwhile.

    A gallery belongs to the network that made it: queries by another one are refused. It holds faces, which are
    looked at first (--faces), or people, whose pictures are taken as they are (--holds).

    Exit codes: 0 done; 1 a picture that was asked about cannot be used, the others were; 2 something given cannot be
    used; 3 a process that it began died, or could not begin; 130 stopped by Ctrl-C (the same command goes on).
    """

    folder: Annotated[pathlib.Path, flag("The folder of the gallery; --enrol makes it.", positional=True)]
    enrol: Annotated[tuple[str, ...], flag("Pictures to add, as above; may be repeated.", metavar="WHERE")] = ()
    query: Annotated[
        tuple[pathlib.Path, ...],
        flag(
            "A picture to look for, a folder of them, or a set of people: its queries; may be repeated.", metavar="PATH"
        ),
    ] = ()
    model: Annotated[
        Network,
        flag("Network that embeds, as zennas evaluate takes it: FILE[,normalise=...][,px=...].", unset="the gallery's"),
    ] = None
    holds: Annotated[
        Literal["faces", "people"] | None,
        flag("What a new gallery holds.", unset="people where the network's images are taller than wide, else faces"),
    ] = None
    flip: Annotated[
        bool, flag("Of a new gallery: add the mirrored image's embedding, here and for queries. Twice the time.")
    ] = False
    faces: Faces = "auto"
    top: Annotated[int, flag("Length of a ranked list.", ge=1, le=10_000)] = 10
    at_least: Annotated[
        float | None, flag("Cosine below which nothing is listed.", unset="all are listed", ge=-1, le=1)
    ] = None
    not_camera: Annotated[
        str | None,
        flag(
            "List no picture that this camera took; own: the one that took the query, by its name or the set's table.",
            metavar="CAMERA",
            unset="those of all cameras are listed",
        ),
    ] = None
    identities: Annotated[bool, flag("Rank identities, each by the picture of it that is most alike.")] = False
    exact: Annotated[
        bool, flag("Compare all pictures of a large gallery, too: nothing is missed, and it takes longer.")
    ] = False
    together: Annotated[bool, flag("All pictures of --query are of one person: one list, by their mean.")] = False
    page: Annotated[
        pathlib.Path | None, flag("Write the ranked lists as a page (HTML).", metavar="FILE", unset="no page")
    ] = None
    pictures: Annotated[bool, flag("Show pictures on the page of --page; without, it has names alone.")] = False
    delete: Annotated[
        tuple[str, ...],
        flag("image:NAME or identity:NAME to delete, wiped from the disk; may be repeated.", metavar="KIND:NAME"),
    ] = ()
    rebuild: Annotated[bool, flag("Make the index again, of the embeddings that lie beside it.")] = False
    look: Annotated[
        str | None, flag("Tell what is known of image:NAME or identity:NAME.", metavar="KIND:NAME", unset="nothing")
    ] = None
    table: Annotated[
        pathlib.Path | None,
        flag("Write a table of all pictures (CSV): image, label, camera, source.", metavar="FILE", unset="no table"),
    ] = None
    device: Device = None
