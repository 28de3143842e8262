"""Finding: pictures that are asked about -> ranked lists."""

# Q queries, B pictures, K of a list, D embedding size

from typing import Any, NamedTuple

import numpy as np

from zennas.data.image_set import ImageSet
from zennas.embed.embeddings import BATCH, in_batches
from zennas.embed.named import Named
from zennas.gallery.given import prepared, to_find
from zennas.gallery.network import network_of, unit_rows, why_not
from zennas.gallery.options import Options
from zennas.gallery.outcome import Hit, Ranked, Unusable
from zennas.gallery.search import ranked_identities, search
from zennas.gallery.store import Entry, Gallery
from zennas.names import shown
from zennas.progress import Progress
from zennas.records import UserError, suggestion

OWN = "own"  # the camera of a query itself


class Found(NamedTuple):
    """The ranked lists of --query, and what a page shows of them."""

    ranked: tuple[Ranked, ...]
    failures: tuple[Unusable, ...]
    images: ImageSet  # all that were asked about
    image_of: list[list[int]]  # of each list: the images that it is of
    entries: list[list[Entry]]  # of each list


def find(options: Options, gallery: Gallery, named: Named | None, *, device: str, progress: Progress) -> Found:
    """The Found of --query. named: the network, where it is open already.

    UserError for an empty gallery, another network, and where none of the pictures can be used.
    """
    settings = gallery.settings
    if not gallery.num_images:
        raise UserError(f"{options.folder}: the gallery is empty, so nothing can be found in it; --enrol some pictures")
    images, camera = to_find(options.query)
    named = named or network_of(options.model, settings, folder=options.folder, device=device)
    given = str(options.query[0])
    try:
        images = prepared(images, settings.holds, options.faces, where=given, then=lambda out: f"--query {out}")
    except UserError as error:
        raise UserError(f"--query {given}: {error}") from None
    progress.begin("searching")
    try:
        unit_QD, image_Q, failures = _embedded(images, named.model, settings.flip, progress.counting("pictures"))
        if not image_Q:
            raise UserError(f"--query {failures[0].image}: cannot be used: {failures[0].why}")
        image_of = [[image] for image in image_Q]
        if options.together:
            mean_1D, is_good = unit_rows(unit_QD.mean(axis=0, keepdims=True))
            if not is_good[0]:
                raise UserError("--together: the mean of these pictures has no direction; ask about each by itself")
            unit_QD, image_of = mean_1D, [image_Q]
        passed_over = [_not_by(gallery, options.not_camera, images, numbers, camera) for numbers in image_of]
        lists = _lists(gallery, unit_QD, options, passed_over)
    finally:
        progress.end()
    queries = [tuple(shown(images.where(image)) for image in numbers) for numbers in image_of]
    ranked = tuple(
        Ranked(
            query=query, not_cameras=cameras, hits=tuple(_hit(rank, *found) for rank, found in enumerate(one, start=1))
        )
        for query, cameras, one in zip(queries, passed_over, lists, strict=True)
    )
    return Found(ranked, tuple(failures), images, image_of, [[entry for entry, _ in one] for one in lists])


def _embedded(images, model, flip, counting):
    """(unit_QD, the images that they are of, why others cannot be used)."""
    units, image_Q, failures = [], [], []
    everything, batch = range(images.num_images), BATCH[model.device.type]
    for image_B, pixels_B, row_BD in in_batches(model, images, everything, flip=flip, batch=batch):
        unit_BD, good_B = unit_rows(row_BD)
        units.append(unit_BD[good_B])
        for image, pixels, good in zip(image_B, pixels_B, good_B, strict=True):
            if good:
                image_Q.append(image)
            else:
                failures.append(Unusable(image=shown(images.where(image)), why=why_not(pixels)))
        counting(image_B[-1] + 1, images.num_images)
    return np.concatenate(units), image_Q, failures


def _not_by(gallery, given, images, numbers, camera):
    """The cameras of which a list has no picture: of --not-camera, for a query of these images."""
    if given is None:
        return ()
    known = gallery.cameras
    if not known:
        raise UserError(f"--not-camera: of no picture of {gallery.folder} the camera is known")
    if given == OWN:
        cameras = {shown(camera(image)) for image in numbers}
        if "" in cameras:
            where = next(shown(images.where(image)) for image in numbers if not camera(image))
            raise UserError(
                f"--not-camera {OWN}: {where}: names no camera, as c3_0001.jpg does; give --not-camera NAME"
            )
        return tuple(sorted(cameras))
    if given not in known:
        raise UserError(f"--not-camera {given}: took no picture of {gallery.folder}; {suggestion(given, known[:20])}")
    return (given,)


def _lists(gallery, unit_QD, options, passed_over):
    """[(Entry, cosine), the most alike first] of each query. passed_over: of each, the cameras that are left out."""
    known = {}

    def entry(number):
        if number not in known:
            known[number] = gallery.entry(number)
            if known[number] is None:
                raise UserError(f"{gallery.folder}: holds a vector ({number}) of nobody: it is damaged; enrol anew")
        return known[number]

    found: list = [None] * len(unit_QD)
    for cameras in dict.fromkeys(passed_over):  # queries that leave out the same are looked for together
        places = [place for place, those in enumerate(passed_over) if those == cameras]
        without = gallery.taken_by(cameras) if cameras else None
        if options.identities:
            ranked = [
                ranked_identities(
                    gallery,
                    unit_QD[place],
                    options.top,
                    lambda number: entry(number).identity,
                    without=without,
                    whole=options.exact,
                )
                for place in places
            ]
        else:
            ranked = zip(
                *search(gallery, unit_QD[places], options.top, without=without, whole=options.exact), strict=True
            )
        for place, one in zip(places, ranked, strict=True):
            found[place] = one
    least = -np.inf if options.at_least is None else options.at_least
    return [
        [
            (entry(number), float(np.clip(cosine, -1, 1)))
            for number, cosine in zip(number_K.tolist(), cosine_K.tolist(), strict=True)
            if cosine >= least
        ]
        for number_K, cosine_K in found
    ]


def _hit(rank, entry, cosine):
    return Hit(rank=rank, cosine=round(cosine, 6), **said_of(entry))


def said_of(entry: Entry) -> dict[str, Any]:
    """The fields of a Kept of an entry."""
    return {
        "image": entry.name,
        "identity": entry.identity,
        "source": entry.source,
        "camera": entry.camera or None,
    }
