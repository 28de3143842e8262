"""The order in which samples are seen, and the stream of batches. The same for any number of ranks and workers.

B images of this rank's share of a batch, N images of the source, C identities, K images of each side by side
"""

import contextlib
import functools
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch

from zennas.data.groups import Groups, grouped_steps, people_of_batch
from zennas.data.images import CorruptImageError, augment, check_augmentations
from zennas.data.sources import AnySource
from zennas.pool import ahead_of
from zennas.records import UserError
from zennas.space.shape import height_and_width

ORDER, AUGMENT, MASK = 0, 1, 2  # what a random stream is for, so that no two share one
MAX_CORRUPT_IN_A_ROW = 1000  # then it is not an image that is broken but the data


class Batch(NamedTuple):
    """This rank's share of a global step: labelled images."""

    step: int
    epoch: int
    image_BHW3: torch.Tensor  # uint8 RGB
    label_B: torch.Tensor  # int64
    index_B: torch.Tensor  # int64, of the images in the source
    corrupt: list  # (where, why) of the images that did not decode and were replaced
    gone: list = []  # (identity, why) of people without an image that decodes, in groups; others stand in for them

    def micro(self, number: int, num: int) -> "Batch":
        """The part `number` of `num` equal ones."""
        size = len(self.label_B) // num
        part = slice(number * size, (number + 1) * size)
        return self._replace(image_BHW3=self.image_BHW3[part], label_B=self.label_B[part], index_B=self.index_B[part])


def epoch_order(label_N: np.ndarray, *, seed: int, epoch: int, images_per_identity: int | None = None) -> np.ndarray:
    """The images of an epoch (int64 indices) in the order in which they are seen.

    A permutation of all of them; or, with images_per_identity, that many of every identity that has any, drawn without
    replacement. Where an identity has fewer, images repeat; their counts differ by at most one.

    >>> sorted(epoch_order(np.array([0, 0, 0, 1]), seed=0, epoch=0, images_per_identity=2).tolist())[-2:]
    [3, 3]
    """
    rng = np.random.default_rng([seed, epoch, ORDER])
    order_N = rng.permutation(len(label_N))
    if images_per_identity is None:
        return order_N
    grouped_N = order_N[np.argsort(label_N[order_N], kind="stable")]  # random within each identity
    count_C = np.bincount(label_N)
    count_C = count_C[count_C > 0]
    start_C1 = (np.cumsum(count_C) - count_C)[:, None]
    place_CK = start_C1 + np.arange(images_per_identity) % count_C[:, None]
    return rng.permutation(grouped_N[place_CK.ravel()])


def steps_per_epoch(
    source: AnySource, batch: int, *, images_per_identity: int | None = None, together: int | None = None
) -> int:
    """Batches in an epoch; UserError where there is not one.

    They are whole, and the images that are left take their chance in the next epoch. together: as image_stream; then
    nobody is left.
    """
    if together is not None:
        return grouped_steps(source, batch, together)
    num_identities = source.num_identities - source.num_empty_identities
    num_images = num_identities * images_per_identity if images_per_identity else source.num_images
    if batch > num_images:
        raise UserError(
            f"{source.path}: batch {batch} is larger than an epoch of {num_images} images"
            + (f" ({images_per_identity} of each of {num_identities} identities)" if images_per_identity else "")
            + f" that are trained on; allowed: a batch of {num_images} at most"
        )
    return num_images // batch


class Stream:
    """Iterates the batch of every global step from first_step to last_step - 1.

    batch: samples of a global step; rank r of num_ranks gets its r-th share, in which nothing depends on their number.
    order: epoch -> the samples of an epoch in the order in which they are seen, at least steps_per_epoch * batch.
    reader: (step, epoch, start, index_B) -> what the stream gives for these samples, the first of which is number
    `start` of the epoch's order. Readers of several workers are forked or pickled. pin_memory: of what it gives, which
    a GPU then takes while this process goes on.
    """

    def __init__(
        self,
        reader: Callable,
        order: Callable,
        *,
        batch: int,
        steps_per_epoch: int,
        seed: int,
        last_step: int,
        first_step: int = 0,
        rank: int = 0,
        num_ranks: int = 1,
        num_workers: int = 0,
        pin_memory: bool = False,
    ):
        if batch % num_ranks:
            raise UserError(f"batch {batch} cannot be shared by {num_ranks} ranks; allowed: a multiple of {num_ranks}")
        self.batch, self.steps_per_epoch, self.order = batch, steps_per_epoch, order
        self.rank, self.num_ranks = rank, num_ranks
        self.first_step, self.last_step = first_step, last_step
        self._reader, self._num_workers, self._pin_memory = reader, num_workers, pin_memory

    def __len__(self):
        return max(0, self.last_step - self.first_step)

    def __iter__(self) -> Iterator[Any]:
        return self.batches()

    def batches(self, *, say: Callable[[str], None] | None = None) -> Iterator[Any]:
        """What `iter` gives. Closing it ends the decoding processes. say(text): told when they are waited for long.

        UserError where the reader raises one; ProcessLostError where a decoding process dies.
        """
        if not self._num_workers:
            for share in self._shares():
                yield self._pinned(self._reader(*share))
            return
        packed = ahead_of(
            _Packed(self._reader),
            self._shares(),
            num_workers=self._num_workers,
            what="a decoding process",
            instead="--set data.workers=0",
            begin=_quiet_worker,
            say=say,
        )
        with contextlib.closing(packed):
            for content in packed:
                yield self._pinned(pickle.loads(content))

    def _shares(self):
        """What to load, step by step. The order of an epoch exists once, here, not in the workers."""
        order, order_of = None, None
        share = self.batch // self.num_ranks
        for step in range(self.first_step, self.last_step):
            epoch, place = divmod(step, self.steps_per_epoch)
            if epoch != order_of:
                order_of, order = epoch, self.order(epoch)
            start = place * self.batch + self.rank * share
            yield step, epoch, start, order[start : start + share].copy()

    def _pinned(self, batch):
        if not self._pin_memory:
            return batch
        return batch._replace(
            **{name: value.pin_memory() for name, value in batch._asdict().items() if isinstance(value, torch.Tensor)}
        )


class _Packed:
    """What a reader gives, as the bytes of a pickle: torch sends tensors to another process by shared memory and
    sockets."""

    def __init__(self, reader):
        self.reader = reader

    def __call__(self, *share):
        content = io.BytesIO()
        _Pickler(content, protocol=5).dump(self.reader(*share))
        return content.getvalue()


class _Pickler(pickle.Pickler):
    """Pickles tensors as the arrays that they hold."""

    def reducer_override(self, value):
        return (torch.from_numpy, (value.numpy(),)) if type(value) is torch.Tensor else NotImplemented


def image_stream(
    source: AnySource,
    *,
    batch: int,
    image_px: int | tuple[int, int],  # a side, or (height, width)
    seed: int,
    augmentations: dict | None = None,
    masker: Callable | None = None,
    images_per_identity: int | None = None,
    together: int | None = None,
    camera_N: np.ndarray | None = None,
    **steps: Any,
) -> Stream:
    """The Stream of a Source's labelled images, as Batches; `steps`: as Stream's first_step, last_step, rank, ...

    augmentations: name -> knobs; their randomness hangs on seed, epoch and place in the epoch's order. masker:
    (image_HW3, rng) -> image_HW3, asked before them, with a random stream of its own. images_per_identity: as
    epoch_order. together: the batch is of groups, of so many images of a person side by side, nobody twice; see Groups.
    camera_N: whole numbers, by which groups are of several cameras where they can be; those below zero are one.
    """
    assert images_per_identity is None or together is None, "an epoch is either drawn image by image or in groups"
    num_steps = steps_per_epoch(source, batch, images_per_identity=images_per_identity, together=together)
    checked = check_augmentations(augmentations or {}, "augmentations")
    if together is None:
        reader = ImageReader(source, image_px, seed, checked, masker)

        def order(epoch):
            return epoch_order(source.label_N, seed=seed, epoch=epoch, images_per_identity=images_per_identity)

    else:
        people = people_of_batch(batch, together, num_ranks=steps.get("num_ranks", 1))
        reader = GroupReader(
            source, image_px, seed, checked, masker, together=together, people=people, camera_N=camera_N
        )

        def order(epoch):
            return reader.groups.order(epoch)

    return Stream(reader, order, batch=batch, steps_per_epoch=num_steps, seed=seed, **steps)


class ImageReader:
    """(step, epoch, place of the first image in the epoch, index_B) -> Batch.

    A corrupt image is replaced by the next one in the source that decodes, and reported.
    """

    def __init__(self, source, image_px, seed, augmentations, masker):
        self.source, self.hw, self.seed = source, height_and_width(image_px), seed
        self.augmentations, self.masker = augmentations, masker

    def __call__(self, step, epoch, start, index_B):
        image_BHW3 = np.empty((len(index_B), *self.hw, 3), np.uint8)
        corrupt, gone = [], []
        for number, (image_HW3, index) in enumerate(self._readable(epoch, start, index_B.tolist(), corrupt, gone)):
            index_B[number] = index
            if self.masker is not None:
                image_HW3 = self.masker(image_HW3, np.random.default_rng([self.seed, epoch, MASK, start + number]))
            if self.augmentations:
                rng = np.random.default_rng([self.seed, epoch, AUGMENT, start + number])
                image_HW3 = augment(image_HW3, self.augmentations, rng=rng)
            image_BHW3[number] = image_HW3
        label_B = torch.from_numpy(self.source.label_N[index_B].astype(np.int64))
        return Batch(step, epoch, torch.from_numpy(image_BHW3), label_B, torch.from_numpy(index_B), corrupt, gone)

    def _readable(self, epoch, start, indices, corrupt, gone):
        """(image_HW3, its index) for each of the indices, or for what takes its place."""
        return (self._decoded(index, corrupt) for index in indices)

    def _decoded(self, index, corrupt):
        """(image_HW3, its index) of the first image from `index` on that decodes; those before it join `corrupt`."""
        for _ in range(min(MAX_CORRUPT_IN_A_ROW, self.source.num_images)):
            if (image_HW3 := self._pixels(index, corrupt)) is not None:
                return image_HW3, index
            index = (index + 1) % self.source.num_images
        raise self._too_many(corrupt, len(corrupt))

    def _pixels(self, index, corrupt):
        """The image, or None where it does not decode: then it joins `corrupt`."""
        try:
            return self.source.images.pixels(index, self.hw)
        except CorruptImageError as error:
            corrupt.append((self.source.where(index), str(error)))
            return None

    def _too_many(self, corrupt, num):
        where, why = corrupt[-1]
        return UserError(f"{self.source.path}: {num} images in a row do not decode; the last is {where}: {why}")


class GroupReader(ImageReader):
    """The same of a batch of groups, which stay whole.

    A corrupt image is replaced by another one of the same person, that the group does not hold yet; where there is
    none, by one that it holds. A person without an image that decodes leaves, and another one comes instead, on every
    number of ranks the same one: Groups.stand_ins.
    """

    def __init__(self, *given, **groups):
        """groups: together, people and camera_N, as Groups takes them."""
        super().__init__(*given)
        self.together, self._groups = groups["together"], groups

    @functools.cached_property
    def groups(self):
        """The Groups: in a worker made once it is needed, for it may be large."""
        return Groups(self.source.label_N, seed=self.seed, **self._groups)

    def __getstate__(self):
        return {name: value for name, value in vars(self).items() if name != "groups"}

    def _readable(self, epoch, start, indices, corrupt, gone):
        for first in range(0, len(indices), self.together):
            group = indices[first : first + self.together]
            yield from self._group(group, corrupt) or self._stand_in(epoch, start + first, group, corrupt, gone)

    def _group(self, group, corrupt):
        """[(image_HW3, its index)] of a person, as many as asked for; [] where none of the person's images decodes."""
        images, before = {}, len(corrupt)
        for index in group:
            if index not in images:
                images[index] = self._pixels(index, corrupt)
        chosen = [index if images[index] is not None else None for index in group]
        others = iter(self._others(group) if None in chosen else ())
        while None in chosen and (index := next(others, None)) is not None:
            if (image_HW3 := self._pixels(index, corrupt)) is not None:
                images[index], chosen[chosen.index(None)] = image_HW3, index
            if len(corrupt) - before >= MAX_CORRUPT_IN_A_ROW and set(chosen) == {None}:
                raise self._too_many(corrupt, len(corrupt) - before)
        good = [index for index in dict.fromkeys(chosen) if index is not None]
        while good and None in chosen:
            chosen[chosen.index(None)] = min(good, key=chosen.count)
        return [(images[index], index) for index in chosen if index is not None]

    def _others(self, group):
        """The person's images that are not in the group, those behind its first one first."""
        index_M = np.flatnonzero(self.source.label_N == self.source.label_N[group[0]])
        index_M = np.roll(index_M, -int(np.searchsorted(index_M, group[0])))
        return index_M[~np.isin(index_M, group)].tolist()

    def _stand_in(self, epoch, start, group, corrupt, gone):
        """What `_group` gives of the first person who can stand in for this one."""
        label, before = int(self.source.label_N[group[0]]), len(corrupt)
        tried = [label]
        for other in self.groups.stand_ins(epoch, start // self.together):
            if (stands_in := int(self.source.label_N[other[0]])) in tried:
                continue
            if readable := self._group(other, corrupt):
                gone.extend((self._name(one), "none of its images decodes") for one in tried)
                return readable
            tried.append(stands_in)
            if len(corrupt) - before >= MAX_CORRUPT_IN_A_ROW:
                break
        raise self._too_many(corrupt, len(corrupt))

    def _name(self, label):
        names = self.source.identity_names
        return f"identity {label if names is None else names[label]}"


def _quiet_worker():
    """OpenCV's and torch's own threads would fight with the other workers for the cores."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
