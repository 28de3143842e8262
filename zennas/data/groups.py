"""Batches of P people with K images each, side by side: who stands in them and with which images.

N images of the source, C identities that have any, K images of each, P people of a batch, G groups of an epoch
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from zennas.data.sources import AnySource
from zennas.records import UserError

# What the random streams are for. An order without groups has 0, and so have the people of an epoch.
PEOPLE, IMAGES = 0, 3
BLOCK = 65_536  # people whose images are shuffled at once: bounds the memory, not the result's quality


def people_of_batch(batch: int, together: int, *, num_ranks: int = 1, accumulate: int = 1) -> int:
    """P, the people of a batch of `batch` images with `together` of each.

    UserError where whole people cannot fill the batch, or be shared out over ranks and micro-batches.

    >>> people_of_batch(64, 4, num_ranks=8)
    16
    """
    if batch % together:
        raise UserError(f"batch {batch} cannot hold {together} images of each; allowed: a multiple of {together}")
    people = batch // together
    if people < 2:
        raise UserError(f"batch {batch} with {together} images of each is one person; allowed: at least {2 * together}")
    if people % (num_ranks * accumulate):
        shares = f"{num_ranks} ranks" + (f" in {accumulate} micro-batches each" if accumulate > 1 else "")
        raise UserError(
            f"batch {batch} is {people} people of {together} images, who cannot be shared out whole over {shares}; "
            f"allowed: a multiple of {num_ranks * accumulate * together}"
        )
    return people


def grouped_steps(source: AnySource, batch: int, together: int) -> int:
    """The steps of an epoch in which everybody comes once; UserError where a batch has more people than there are."""
    people, num = people_of_batch(batch, together), source.num_identities - source.num_empty_identities
    if people > num:
        helps = f"a batch of {num * together} at most, or " if num > 1 else ""
        raise UserError(
            f"{source.path}: a batch of {batch} images, {together} of each, takes {people} people; there are {num}; "
            f"give {helps}more people"
        )
    return -(-num // people)


class Groups:
    """The groups of every epoch, from plain arrays; any epoch can be asked for, as nothing is kept of those before.

    - An epoch is everybody once, with K images, in a random order. Where P does not divide their number, the last batch
      is filled up with people who stood in the first one, with other images where they have them.
    - Nobody stands twice in a batch (but see stand_ins).
    - The images of a person with n of them come in rounds of ceil(n / K) epochs, each in an order of its own. A round
      shows every image once; where K does not divide n, some twice: never two in one group.
    - With fewer than K images, the same ones repeat, their counts differ by at most one.
    - Where cameras are known, those of a person are spread evenly over a round: a positive by another camera, which is
      what a judge asks for, stands in as many groups as there can be. fast-reid draws other cameras first, and so shows
      images of rare cameras more often; here every image still comes as often as the others.

    So nothing is dropped, other than by the samplers of torchreid and BoT (the rest of everybody's images, the last
    people) and fast-reid (people beyond whole batches).
    """

    def __init__(
        self, label_N: np.ndarray, *, together: int, people: int, seed: int, camera_N: np.ndarray | None = None
    ):
        """together: K. people: P. label_N: from 0; numbers that nobody has are allowed. camera_N: whole numbers."""
        count = np.bincount(label_N)
        identity_C = np.flatnonzero(count)
        turns_C = -(-count[identity_C] // together)
        # People with rounds of one length lie side by side: their rounds begin in the same epoch.
        by_turns = np.argsort(turns_C, kind="stable")
        self.turns_C, identity_C = turns_C[by_turns], identity_C[by_turns]
        self.count_C = count[identity_C]
        self.start_C = np.cumsum(self.count_C) - self.count_C
        place = np.zeros(len(count), np.int32)
        place[identity_C] = np.arange(len(identity_C), dtype=np.int32)
        self.image_N = np.argsort(place[label_N], kind="stable").astype(np.int32)
        self.together, self.people, self.seed, self.camera_N = together, people, seed, camera_N
        self.num_steps = -(-len(identity_C) // people)

    def order(self, epoch: int) -> np.ndarray:
        """The images of an epoch (int64 indices), batch by batch, group by group: num_steps x P x K of them.

        >>> order = Groups(np.array([0, 0, 0, 1, 2]), together=2, people=2, seed=0).order(0)
        >>> len(order), sorted(set(order.tolist()) - {0, 1, 2})
        (8, [3, 4])
        """
        num = len(self.count_C)
        person_C = np.random.default_rng([self.seed, epoch, PEOPLE]).permutation(num)
        lacking = self.num_steps * self.people - num
        # Who fills the last batch up stood at the same places of the first one. So every place of a batch has people
        # of its own in an epoch: whoever stands in for another at that place (column) stands nowhere else.
        person_G = np.concatenate([person_C, person_C[self.people - lacking : self.people]])
        first_G = epoch % self.turns_C[person_G] * self.together
        first_G[num:] += self.together
        at_GK = (first_G[:, None] + np.arange(self.together)) % self.count_C[person_G, None]
        at_GK += self.start_C[person_G, None]
        return self._shuffled(epoch)[at_GK.ravel()].astype(np.int64)

    def stand_ins(self, epoch: int, group: int) -> Iterator[list[int]]:
        """The groups that may come instead of number `group` of the epoch, the best one first.

        Those at the same place of the other batches, from the next one on: they stand nowhere else in this batch. Where
        none of them can be had (a column of few people), all groups behind this one: then somebody may stand twice.
        """
        order_GK = self.order(epoch).reshape(-1, self.together)
        step, place = divmod(group, self.people)
        for other_GK in (np.roll(order_GK[place :: self.people], -step, axis=0), np.roll(order_GK, -group, axis=0)):
            yield from (other_K.tolist() for other_K in other_GK[1:])

    def _shuffled(self, epoch):
        """image_N, each person's images in the order of the round that this epoch is of."""
        shuffled_N = np.empty_like(self.image_N)
        for first, last in self._blocks():
            images = slice(self.start_C[first], self.start_C[last - 1] + self.count_C[last - 1])
            rng = np.random.default_rng([self.seed, epoch // int(self.turns_C[first]), IMAGES, first])
            person = np.repeat(np.arange(last - first, dtype=np.uint64), self.count_C[first:last])
            key = rng.integers(2**32, size=len(person), dtype=np.uint64) | person << np.uint64(32)
            # Stable: equal keys must fall the same way on every machine.
            shuffled = self.image_N[images][np.argsort(key, kind="stable")]
            if self.camera_N is not None:
                shuffled = shuffled[_spread(person, self.camera_N[shuffled], rng)]
            shuffled_N[images] = shuffled
        return shuffled_N

    def _blocks(self):
        """(first, last) of people that are shuffled at once: with rounds of one length, and not too many."""
        ends = np.flatnonzero(np.diff(self.turns_C)) + 1
        for first, last in zip([0, *ends], [*ends, len(self.turns_C)], strict=True):
            for begin in range(first, last, BLOCK):
                yield int(begin), int(min(begin + BLOCK, last))


def _spread(person, camera, rng):
    """The order in which those of each camera of a person stand as far apart as can be; `person` rises."""
    by_pair = np.lexsort((camera, person))  # stable: within a camera as they come
    is_first = np.ones(len(person), bool)
    is_first[1:] = (np.diff(person[by_pair]) != 0) | (np.diff(camera[by_pair].astype(np.int64)) != 0)
    first = np.flatnonzero(is_first)
    num = np.diff(np.append(first, len(person)))
    # The i-th of n of a camera comes at (i + u) / n of the way, u being the camera's own.
    way = np.empty(len(person))
    way[by_pair] = (np.arange(len(person)) - np.repeat(first - rng.random(len(first)), num)) / np.repeat(num, num)
    return np.lexsort((way, person))


class People(NamedTuple):
    """How many people can be how well used in groups of `together` images."""

    together: int
    num_people: int  # that have an image
    num_short: int  # with fewer than `together` images, which repeat
    num_single: int  # with one image: they have no positive, as only the same picture stands beside it
    num_one_camera: int | None  # with several images, all of one camera; None: the cameras are not known

    @property
    def text(self) -> str:
        """The same for people; "" where there is nothing to say."""
        of = f"of {self.num_people:,} people"
        lines = [
            (self.num_short, f"{self.num_short:,} {of} have fewer than {self.together} images, which repeat"),
            (self.num_single, f"{self.num_single:,} of them with one image, so without a positive"),
            (self.num_one_camera, f"{self.num_one_camera or 0:,} {of} have several images of one camera alone"),
        ]
        return "; ".join(text for num, text in lines if num)


def people_in(label_N: np.ndarray, together: int, *, camera_N: np.ndarray | None = None) -> People:
    """Counts the People of these labels (from 0); camera_N: whole numbers, where they are known.

    >>> people_in(np.array([0, 0, 0, 1, 2, 2]), 3, camera_N=np.array([1, 1, 2, 1, 5, 5]))
    People(together=3, num_people=3, num_short=2, num_single=1, num_one_camera=1)
    """
    count = np.bincount(label_N)
    one_camera = None
    if camera_N is not None:
        lowest, highest = np.full((2, len(count)), np.iinfo(np.int64).max)
        np.minimum.at(lowest, label_N, camera_N)
        np.minimum.at(highest, label_N, -np.asarray(camera_N, np.int64))
        one_camera = int(((lowest == -highest) & (count > 1)).sum())
    return People(
        together,
        int((count > 0).sum()),
        int(((count > 0) & (count < together)).sum()),
        int((count == 1).sum()),
        one_camera,
    )
