"""Tar shards, read in place: an index of where each image lies in them. Nothing is extracted, no link leads out."""

import array
import pathlib
import posixpath
import tarfile
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from zennas.data.index import CollectedNames, Names
from zennas.data.left_out import DEAD_LINK, EMPTY, HIDDEN, NO_IMAGE, REPLACED, UNREADABLE, LeftOut, is_hidden
from zennas.data.listing import IMAGE_SUFFIXES, below, is_image
from zennas.data.people import people_of
from zennas.records import UserError, some

MAX_CLS_BYTES = 32  # a class number with its newline
MAX_LINKS = 8  # of links that lead to links
SAY_EVERY = 10_000  # members


class Members(NamedTuple):
    """The images of a set of shards."""

    shard_N: np.ndarray
    offset_N: np.ndarray  # of the image's first byte in its shard
    size_N: np.ndarray
    names: Names
    label_N: np.ndarray
    identities: Names | None  # None: labels are the numbers in the .cls members
    left_out: LeftOut
    notices: list[str]


class _Collected:
    """The images while their number is not known; a folder is a number."""

    def __init__(self):
        self.column = {name: array.array("q") for name in ("shard", "offset", "size", "folder", "path", "class")}
        self.names, self.number_of, self.left_out = CollectedNames(), {}, LeftOut()
        self.trees = []  # of every shard: (numbers of the folders in which images lie, all folders)

    def add(self, shard, name, path, place):
        folder = self.number_of.setdefault(path.rpartition("/")[0], len(self.number_of))
        for column, value in zip(self.column.values(), (shard, *place, folder, hash(path), -1), strict=True):
            column.append(value)
        self.names.append(name)

    def array(self, name):
        return np.array(self.column[name], np.int64)


def list_members(paths: Sequence[pathlib.Path | str], *, progress: Callable[[int, int], None] | None = None) -> Members:
    """The Members of tar files, in the order of `paths` and of the files.

    An image's label is the number in the member `KEY.cls` beside it (WebDataset), else its folder (people.py). Of two
    members of one name in a file the later counts, as where it is unpacked. A link to an image of the same file is that
    image. progress(done, total) counts bytes. UserError for a file that is no plain tar, is cut short, labels only some
    of its images, or holds a name of another file: these are no shards of one data set.
    """
    collected, done = _Collected(), 0
    total = sum(pathlib.Path(path).stat().st_size for path in paths)
    for shard, path in enumerate(paths):
        _list_shard(collected, shard, path, progress and (lambda offset, done=done: progress(done + offset, total)))
        done += pathlib.Path(path).stat().st_size
    names, kept_N = collected.names.names(), _newest(collected)
    for image in np.flatnonzero(~kept_N):
        collected.left_out.add(REPLACED, names[image])
    if not kept_N.any():
        raise UserError(
            f"{paths[0]}: no image among the members{collected.left_out.aside()}; expected names ending in "
            + ", ".join(IMAGE_SUFFIXES)
        )
    class_N, folder_N, shard_N = (collected.array(name) for name in ("class", "folder", "shard"))
    if (class_N[kept_N] < 0).any():
        without = int(np.flatnonzero(kept_N & (class_N < 0))[0])
        where = f"{paths[shard_N[without]]}, member {names[without]}"
        if (class_N[kept_N] >= 0).any():
            raise UserError(f"{where}: has no .cls member beside it, while other images have; label all or none")
        _check_distinct(collected, names, kept_N, paths)
        folders = list(collected.number_of)
        people = people_of([tuple({folders[number] for number in part} for part in tree) for tree in collected.trees])
        if not people.names:
            raise UserError(
                f"{where}: has neither a .cls member nor a folder to name its identity (Name/Name_0001.jpg)"
            )
        for image in np.flatnonzero(kept_N & np.isin(folder_N, [collected.number_of[name] for name in people.why_not])):
            collected.left_out.add(people.why_not[folders[folder_N[image]]], names[image])
        label_N = np.array([people.label_of.get(folder, -1) for folder in folders], np.int64)[folder_N]
        kept_N &= label_N >= 0
        identities, notices = (
            Names.of(people.names),
            people.notices + _spread(folder_N[kept_N], shard_N[kept_N], folders),
        )
    else:
        label_N, identities, notices = class_N, None, []
    if not kept_N.all():
        names = names.taken(np.flatnonzero(kept_N))
    return Members(
        shard_N[kept_N],
        collected.array("offset")[kept_N],
        collected.array("size")[kept_N],
        names,
        label_N[kept_N],
        identities,
        collected.left_out,
        notices,
    )


def _list_shard(collected, shard, path, progress):
    """Add what one tar holds."""
    first, left_out = len(collected.column["shard"]), collected.left_out
    classes, pending, links, folders, hidden = {}, [], [], set(), set()  # a sample's members lie in one shard
    for number, member in enumerate(_members(path)):
        name = posixpath.normpath(member.name)
        if nobodys := _hidden_part(name):
            # A folder counts once, as where it is unpacked; a tar lists it and all that lies in it.
            is_folder = nobodys != name or member.isdir()
            if not is_folder or nobodys not in hidden:
                left_out.add(HIDDEN, nobodys)
            if is_folder:
                hidden.add(nobodys)
            continue
        head, _, base = name.rpartition("/")
        key, _, suffix = base.partition(".")
        if member.isdir():
            folders.add("" if name == "." else name)
        elif suffix.lower() == "cls" and member.isreg():
            classes[head, key] = _class_number(path, member)
        elif not is_image(base):
            left_out.add(DEAD_LINK if member.issym() or member.islnk() else NO_IMAGE, name)
        elif member.issym() or member.islnk():
            links.append((member.name, name, _target(member, head)))
        elif not member.isreg() or member.issparse():
            left_out.add(UNREADABLE, name)
        elif member.size == 0:
            left_out.add(EMPTY, name)
        else:
            pending.append((head, key))
            collected.add(shard, member.name, name, (member.offset_data, member.size))
        if progress and number % SAY_EVERY == 0:
            progress(member.offset)
    pending += _add_links(collected, shard, first, links)
    collected.column["class"][first:] = array.array("q", (classes.get(key, -1) for key in pending))
    with_images = set(collected.column["folder"][first:])
    folders = {collected.number_of.setdefault(folder, len(collected.number_of)) for folder in folders}
    if with_images:
        collected.trees.append((with_images, folders | with_images))


def _hidden_part(name):
    """The path up to the first part that is nobody's; None where there is none."""
    end = 0
    for part in name.split("/"):
        end += len(part) + 1
        if is_hidden(part):
            return name[: end - 1]
    return None


def _target(member, head):
    """The path that a link leads to."""
    return posixpath.normpath(member.linkname if member.islnk() else below(head, member.linkname))


def _add_links(collected, shard, first, links):
    """Add the links to images of the same shard, also through other links; [(head, key)] of those."""
    if not links:
        return []
    place_of = {path: at for at, path in enumerate(collected.column["path"][first:], start=first)}
    target_of, added = {path: target for _, path, target in links}, []
    for name, path, target in links:
        for _ in range(MAX_LINKS):
            target = target_of.get(target, target)
        if (at := place_of.get(hash(target))) is None:
            collected.left_out.add(DEAD_LINK, path)
            continue
        collected.add(shard, name, path, (collected.column["offset"][at], collected.column["size"][at]))
        head, _, base = path.rpartition("/")
        added.append((head, base.partition(".")[0]))
    return added


def _newest(collected):
    """kept_N: which images no later one of their shard and name replaces."""
    shard_N, path_N = collected.array("shard"), collected.array("path")
    kept_N = np.ones(len(path_N), bool)
    order = np.lexsort((np.arange(len(path_N)), path_N, shard_N))  # the last of equal ones is the newest
    same = (np.diff(path_N[order]) == 0) & (np.diff(shard_N[order]) == 0)
    kept_N[order[:-1][same]] = False
    return kept_N


def _check_distinct(collected, names, kept_N, paths):
    """UserError where two shards hold one name: their folders are those of different people."""
    if len(paths) == 1:
        return
    which_M = np.flatnonzero(kept_N)
    path_M = collected.array("path")[which_M]
    order = np.argsort(path_M, kind="stable")
    twice = np.flatnonzero(np.diff(path_M[order]) == 0)
    if len(twice):
        pair = which_M[order[twice[0] : twice[0] + 2]]
        first, second = (pathlib.Path(paths[collected.column["shard"][image]]).name for image in pair)
        where = f"{pathlib.Path(paths[0]).parent}: {first} and {second}"
        raise UserError(
            f"{where} both hold {names[int(pair[0])]} ({len(twice):,} such names): shards of one data set have "
            "no name in common, and people of two sets must not become one; pack each set under a folder of its own "
            "(set-a/Name/..., set-b/Name/...), or give one set"
        )


def _spread(folder_M, shard_M, folders):
    """A sentence on identities of several shards, where there are any."""
    pair_2K = np.unique(np.stack([folder_M, shard_M]), axis=1)
    several = np.unique(pair_2K[0][1:][np.diff(pair_2K[0]) == 0])
    if not len(several):
        return []
    named = some([folders[folder] for folder in several[:6]], len(several))
    return [f"{len(several):,} folders lie in several shards, an identity each: {named}"]


def _members(path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar, one after another. UserError where the bytes of a file are not all there."""
    size = pathlib.Path(path).stat().st_size
    try:
        with tarfile.open(path, "r:", encoding="utf-8", errors="surrogateescape") as tar:
            for member in tar:
                tar.members = []  # tarfile keeps every member; millions are gigabytes
                if member.isreg() and not member.issparse() and member.offset_data + member.size > size:
                    raise UserError(f"{path}, member {member.name}: the file ends inside it; it was cut short")
                yield member
    except (tarfile.TarError, EOFError) as error:
        raise UserError(
            f"{path}: not a plain tar file, or cut short ({error}); a compressed one must be unpacked"
        ) from None


def _class_number(path, member):
    text = b""
    if member.size <= MAX_CLS_BYTES:
        with open(path, "rb") as file:
            file.seek(member.offset_data)
            text = file.read(member.size).strip()
    if not text.isdigit() or int(text) >= 2**31:
        raise UserError(
            f"{path}, member {member.name}: expected an identity's number from 0, got {text!r} ({member.size} bytes)"
        )
    return int(text)
