"""Images by the names that a list has for them: files below a folder, members of tar shards, records of RecordIO."""

# N names of a list

import collections
import hashlib
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from zennas.data.image_set import ImageSet, changed_at, read_file
from zennas.data.left_out import is_hidden
from zennas.data.listing import below, is_image, leads_out
from zennas.data.sources import Source, open_source
from zennas.records import UserError, some

TRIED = 50  # names that tell whether a list's paths begin elsewhere


class Lookup(NamedTuple):
    """Where images are looked up by their paths: what lies at a path, and what does but for its suffix."""

    at: Callable[[str], Any]  # path -> place, or None
    beside: Callable[[str], list]  # path without its suffix -> places of all images with that stem


def find_images(
    path: pathlib.Path,
    name_N: Sequence[str],
    images: pathlib.Path | Source,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> ImageSet:
    """The ImageSet of the images that the list at `path` names, in its order.

    images: a folder, to which the names are relative; a .tar, a folder of .tar shards, where they are members; or
    RecordIO, where they are the numbers of records. Where a name is not there, the one image of that path with another
    suffix is taken (a photograph 1.jpg that was aligned to 1.png); where the names of a list are not there, they are
    looked for without their first folders, as many of all, and without the folders that all images have in common.
    UserError for names that lead out of the folder, are not there, or fit several images, counted and named.
    """
    if isinstance(images, Source):
        return _in_source(path, name_N, images)
    if not os.path.exists(images):
        raise UserError(f"{path}: its images: {images}: no such file or folder")
    if is_plain_folder(images):
        return in_folder(path, name_N, images)
    return _in_source(path, name_N, open_source(images, progress=progress))


def is_plain_folder(path: pathlib.Path | str) -> bool:
    """Whether files are to be named below it: a folder that holds neither RecordIO nor tar shards."""
    path = pathlib.Path(path)
    return path.is_dir() and not any(
        name == "train.rec" or name.lower().endswith(".tar") for name in os.listdir(path) if not is_hidden(name)
    )


def in_folder(path: pathlib.Path, name_N: Sequence[str], folder: pathlib.Path) -> ImageSet:
    """The ImageSet of the files that `path` names below a folder, as `find_images` finds them."""
    folder = pathlib.Path(folder)
    if outside := [name for name in name_N if leads_out(name)]:
        raise UserError(f"{path}: {len(outside)} paths lead out of {folder}: {some(outside)}")
    place = _placed(path, name_N, [_below(folder)], f"{folder}")
    file_N = [place[name] for name in name_N]
    digest = hashlib.sha256(str(folder.resolve()).encode(errors="surrogateescape"))
    for file in file_N:
        digest.update(f"{file}\n{changed_at(folder / file)}\n".encode(errors="surrogateescape"))
    return ImageSet(
        len(file_N), lambda image: read_file(folder / file_N[image]), file_N.__getitem__, digest.hexdigest()[:16]
    )


def _in_source(path, name_N, source):
    if source.name(0) is None:
        numbers = {str(source.record(number)): number for number in range(source.num_images)}
        lookups, near = [Lookup(numbers.get, lambda stem: [])], f"records go by number there: {source.record(0)}"
    else:
        members = [source.name(number) for number in range(source.num_images)]
        lookups, near = list(_among(members)), f"a name there: {members[0]}"
    place = _placed(path, name_N, lookups, f"{source.path}", near=f"; {near}")
    return source.some([place[name] for name in name_N])


def _below(folder):
    """The Lookup of the files below a folder."""
    stems = {}  # folder -> stem -> files

    def beside(stem):
        head, _, base = stem.rpartition("/")
        if head not in stems:
            try:
                files = sorted(os.listdir(folder / head))
            except OSError:
                files = []
            stems[head] = _by_stem((file, file) for file in files)
        return [below(head, file) for file in stems[head].get(base, [])]

    return Lookup(lambda name: None if changed_at(folder / name) == "missing" else name, beside)


def _among(members):
    """The Lookup of the members of a source; then those without the first folders that all of them have in common."""
    while True:
        places = _plain_places(members)
        stems = _by_stem((member, number) for number, member in enumerate(members))
        yield Lookup(places.get, lambda stem, stems=stems: stems.get(stem, []))
        heads = {member.removeprefix("./").partition("/")[0] for member in members}
        members = [member.removeprefix("./").partition("/")[2] for member in members]
        if len(heads) > 1 or not all(members):
            return


def _plain_places(members):
    """member -> number, also without the ./ that some tars have before all."""
    places = {member.removeprefix("./"): number for number, member in enumerate(members)}
    return places | {member: number for number, member in enumerate(members)}


def _by_stem(places):
    """stem -> places of (path, place) with a suffix of images."""
    by_stem = collections.defaultdict(list)
    for path, place in places:
        if is_image(path):
            by_stem[os.path.splitext(path.removeprefix("./"))[0]].append(place)
    return by_stem


def _placed(path, name_N, lookups, where, *, near=""):
    """{name: place} of every name; UserError for those without one, or with several."""
    names, best = list(dict.fromkeys(name_N)), None
    for dropped, lookup in _ways(names, lookups):
        if dropped is None or (best is not None and not any(_looked_up(dropped[:TRIED], lookup).values())):
            continue
        places = _looked_up(dropped, lookup)
        num_placed = sum(len(of_name) == 1 for of_name in places.values())
        if best is None or num_placed > best[0]:
            best = num_placed, [places[name] for name in dropped]
        if num_placed == len(names):
            break
    place = dict(zip(names, best[1] if best else [], strict=True))
    if torn := [name for name, places in place.items() if len(places) > 1]:
        raise UserError(f"{path}: {len(torn)} of {len(names)} images fit several in {where}: {some(torn)}")
    if missing := [name for name in name_N if not place[name]]:
        raise UserError(f"{path}: {len(missing)} of {len(name_N)} images are not in {where}: {some(missing)}{near}")
    return {name: places[0] for name, places in place.items()}


def _ways(names, lookups):
    """(the names without their first folders, or None where two of them would be one; a Lookup), the least changed
    first."""
    depth = min((name.count("/") for name in names), default=0)
    for total in range(depth + len(lookups)):
        for common in range(min(total + 1, len(lookups))):
            if total - common <= depth:
                dropped = [name.split("/", total - common)[-1] for name in names]
                yield dropped if len(set(dropped)) == len(names) else None, lookups[common]


def _looked_up(names, lookup):
    """{name: its places}: one, several that differ in their suffixes, or none."""
    place = {name: lookup.at(name) for name in names}
    taken = {exact for exact in place.values() if exact is not None}
    places = {}
    for name, exact in place.items():
        # A suffix is a suffix only where the path goes by it: of Ada_0001 and J.R._0001 nothing is taken away at first.
        near = [] if exact is not None else lookup.beside(name) or lookup.beside(os.path.splitext(name)[0])
        # What the list names itself is not another name's image, too.
        places[name] = [exact] if exact is not None else [other for other in near if other not in taken]
    return places


def from_its_folder(name: str) -> str:
    """A path without what leads to its first folder from elsewhere, as the lists of other tools have it.

    >>> from_its_folder("../Data/Images/1.jpg"), from_its_folder("/data/1.jpg"), from_its_folder("./1.jpg")
    ('Data/Images/1.jpg', 'data/1.jpg', '1.jpg')
    """
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    while parts and parts[0] == "..":
        parts = parts[1:]
    return "/".join(parts)
