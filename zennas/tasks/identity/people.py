"""Who is trained on, whom the reward is taken on, and whom nobody looks at until the search is over.

N images of the source, M of them
"""

import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from zennas.data.labels import DROPPED
from zennas.data.sources import AnySource
from zennas.metrics.verification import num_allowed
from zennas.names import printable, unshown
from zennas.records import NAMED, UserError, read_lines, shortened, some

FEW = 10  # different pairs that set a threshold; fewer, and one wrong label moves it


class Group(NamedTuple):
    """Images of some people: their numbers in the source and who they show."""

    index_M: np.ndarray
    label_M: np.ndarray

    @property
    def num_identities(self) -> int:
        return len(np.unique(self.label_M))

    @property
    def num_pairs(self) -> tuple[int, int]:
        """(of the same person, of different people)."""
        count_C = np.unique(self.label_M, return_counts=True)[1].astype(int)
        same, total = int((count_C * (count_C - 1) // 2).sum()), len(self.label_M) * (len(self.label_M) - 1) // 2
        return same, total - same

    @property
    def counts(self) -> dict[str, int]:
        """How much it is, for run.json."""
        same, different = self.num_pairs
        return {
            "num_images": len(self.index_M),
            "num_identities": self.num_identities,
            "same_pairs": same,
            "different_pairs": different,
        }

    @property
    def text(self) -> str:
        """The same in words."""
        same, different = self.num_pairs
        return (
            f"{len(self.index_M):,} images of {self.num_identities:,} others, "
            f"{same:,} pairs of one person, {different:,} of two"
        )


class People(NamedTuple):
    """label_N: identity of the images that may be trained on, DROPPED for all others. test: None where there is
    nobody."""

    label_N: np.ndarray
    held_out: Group
    test: Group | None


def listed(people: People) -> dict[str, list[int] | None]:
    """Who is in which group, for the settings of a run."""
    groups = {"held_out": people.held_out, "test": people.test}
    return {name: None if group is None else sorted(set(group.label_M.tolist())) for name, group in groups.items()}


def split(
    source: AnySource,
    plan: Any,
    *,
    seed: int,
    held_out: pathlib.Path | None = None,
    test: pathlib.Path | None = None,
    max_people: int | None = None,
    where: str = "tune.reward",
) -> People:
    """The People of a Source. held_out, test: files of identities, one a line; without, plan's shares of all, drawn by
    `seed`, at most max_people of them.

    plan: has held_out_share, test_share and max_images (of an identity); where: it stands in an experiment. No identity
    is in two groups. UserError for names that are not there, or a group without a pair of one kind.
    """
    rng = np.random.default_rng(seed)
    label_N = np.asarray(source.label_N)
    order_C = rng.permutation(np.unique(label_N))
    most = len(order_C) if max_people is None else max_people
    shares = (plan.held_out_share, plan.test_share)
    sizes = (min(most, max(2, round(share * len(order_C)))) if share else 0 for share in shares)
    paths = {"held-out": held_out, "test": test}
    sets = {name: set(_named(path, source)) for name, path in paths.items() if path}
    taken = set().union(*sets.values())
    if both := len(sets.get("held-out", ())) + len(sets.get("test", ())) - len(taken):
        raise UserError(f"--test {test}: {both} of its identities are held out, too; a test is of others")
    for name, size in zip(paths, sizes, strict=True):  # whom a file names is drawn for nothing else
        if name not in sets:
            free = [number for number in order_C.tolist() if number not in taken]
            sets[name] = set(free[:size])
            taken |= sets[name]
    groups = {}
    for name in paths:
        numbers = sets[name]
        groups[name] = _group(label_N, numbers, plan.max_images, rng) if numbers else None
        if numbers and 0 in (pairs := groups[name].num_pairs):
            raise UserError(
                f"{source.path}: the {len(numbers)} {name} identities have {pairs[0]} pairs of one person and "
                f"{pairs[1]} of two; "
                f"a reward needs both: name others, or raise the share in {where}"
            )
    trained_N = np.where(np.isin(label_N, list(taken)), DROPPED, label_N)
    if len(np.unique(trained_N[trained_N >= 0])) < 2:
        raise UserError(f"{source.path}: fewer than 2 identities are left to train on, beside those held out")
    return People(trained_N, groups["held-out"], groups["test"])


def _named(path, source):
    """Numbers of the identities in a file."""
    wanted = list(dict.fromkeys(unshown(line.text.strip()) for line in read_lines(path)))
    names = source.identity_names if source.identity_names is not None else map(str, range(source.num_identities))
    numbers = {name: number for number, name in enumerate(names)}
    if missing := [name for name in wanted if name not in numbers]:
        raise UserError(
            f"{path}: {len(missing)} of {len(wanted)} identities are not in {source.path}: "
            f"{some([shortened(printable(name), 40) for name in missing[:NAMED]], len(missing))}"
        )
    if not wanted:
        raise UserError(f"{path}: names no identity; expected one per line")
    return [numbers[name] for name in wanted]


def _group(label_N, numbers, max_images, rng):
    """The Group of these identities, at most max_images of each, drawn."""
    image_M = rng.permutation(np.flatnonzero(np.isin(label_N, list(numbers))))
    order_M = image_M[np.argsort(label_N[image_M], kind="stable")]
    label_M = label_N[order_M]
    starts_M = np.searchsorted(label_M, label_M)
    kept_M = np.sort(order_M[np.arange(len(order_M)) - starts_M < max_images])
    return Group(kept_M, label_N[kept_M].astype(np.int64))


def few_pairs(group: Group, fprs: Iterable[float]) -> list[str]:
    """Sentences on FPRs that so few pairs cannot tell."""
    _, different = group.num_pairs
    return [
        f"FPR {fpr:g}: {num_allowed(fpr, different)} of {different:,} pairs of different people may be accepted; "
        f"below {FEW} the TPR there hangs on single images"
        for fpr in fprs
        if num_allowed(fpr, different) < FEW
    ]
