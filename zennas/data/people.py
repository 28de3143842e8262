"""Which folders are identities: those on the level where the first images lie, below what all have in common."""

import collections
import itertools
from collections.abc import Collection, Sequence
from typing import NamedTuple

from zennas.data.left_out import DEEPER, LOOSE
from zennas.records import some


class People(NamedTuple):
    """The identities of a data set."""

    label_of: dict[str, int]  # folder -> label
    names: list[str]  # of every label: the folder's last name, or its path where that name stands in several places
    why_not: dict[str, str]  # folder of other images -> LOOSE or DEEPER
    notices: list[str]

    def with_all(self, root: str) -> "People":
        """The People in which every folder of images is an identity, those outside the level called by their paths;
        root: the name of the folder above all.

        >>> people_of([({"", "lfw/Ada", "lfw/Zoe"}, set())]).with_all("photographs").label_of
        {'lfw/Ada': 0, 'lfw/Zoe': 1, '': 2}
        """
        outside = sorted(self.why_not)
        label_of = self.label_of | {folder: len(self.names) + number for number, folder in enumerate(outside)}
        return People(label_of, [*self.names, *(folder or root for folder in outside)], {}, self.notices)


def people_of(trees: Sequence[tuple[Collection[str], Collection[str]]]) -> People:
    """The People of folder trees, one tree for a folder or for each tar of a set.

    trees: (folders in which images lie, all folders), their paths parted by '/'. Folders of one path in several trees
    are one identity, as in shards of one data set. Folders of one last name in different places are not.

    >>> people_of([({"lfw/Zoe", "lfw/Ada", "lfw", "lfw/Ada/old"}, set())])[:2]
    ({'lfw/Ada': 0, 'lfw/Zoe': 1}, ['Ada', 'Zoe'])
    >>> people_of([({"sets/casia/001", "sets/asian/001", "sets/asian/Max"}, set())]).names
    ['Max', 'asian/001', 'casia/001']
    """
    identities, why_not = set(), {}
    for with_images, folders in filter(lambda tree: tree[0], trees):
        root, level = _root_and_level(with_images)
        if level is None:
            why_not |= dict.fromkeys(with_images, LOOSE)
            continue
        inside = "/".join(root) + "/" if root else ""
        identities.update(folder for folder in folders if _depth(folder) == level and folder.startswith(inside))
        for folder in with_images:
            depth = _depth(folder)
            if depth == level:
                identities.add(folder)
            else:
                why_not[folder] = DEEPER if depth > level else LOOSE
    if len(trees) > 1:  # a shard may hold nothing but what lies deeper
        torn = {folder for folder in identities if not identities.isdisjoint(_above(folder))}
        identities -= torn
        why_not |= dict.fromkeys(torn, DEEPER)
    names, notices = _names(identities)
    order = sorted(identities, key=names.__getitem__)
    label_of = {folder: label for label, folder in enumerate(order)}
    why_not = {folder: why for folder, why in why_not.items() if folder not in identities}
    return People(label_of, [names[folder] for folder in order], why_not, notices)


def _root_and_level(with_images):
    """(parts of the path that all have in common, how deep the identities' folders lie; None where there is none)."""
    root = _common(folder.split("/") if folder else [] for folder in (min(with_images), max(with_images)))
    if "/".join(root) in with_images and root:
        inside = "/".join(root) + "/"
        inner = {folder[len(inside) :].partition("/")[0] for folder in with_images if folder.startswith(inside)}
        if len(inner) < 2:  # a single identity, not a set with loose images
            root = root[:-1]
    return root, min((depth for depth in map(_depth, with_images) if depth > len(root)), default=None)


def _common(paths):
    """The parts with which all paths begin."""
    return [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, zip(*paths, strict=False))]


def _depth(folder):
    return folder.count("/") + 1 if folder else 0


def _above(folder):
    while "/" in folder:
        folder = folder.rpartition("/")[0]
        yield folder


def _names(identities):
    """({folder: name}, sentences about them)."""
    counts = collections.Counter(folder.rpartition("/")[2] for folder in identities)
    twice = [folder for folder in identities if counts[folder.rpartition("/")[2]] > 1]
    names = {folder: folder.rpartition("/")[2] for folder in identities}
    if not twice:
        return names, []
    cut = sum(
        len(part) + 1 for part in _common(folder.split("/")[:-1] for folder in (min(identities), max(identities)))
    )
    names |= {folder: folder[cut:] for folder in twice}
    num = len({folder.rpartition("/")[2] for folder in twice})
    paths = sorted((names[folder] for folder in twice), key=lambda path: (path.rpartition("/")[2], path))
    return names, [
        f"{num:,} folder names stand in several places; each such folder is an identity of its own, named by its "
        f"path: {some(paths)}"
    ]
