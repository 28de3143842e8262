"""The order in which faces are seen, and the stream of batches. The same for any number of ranks and workers.

B images of this rank's share of a batch, N images of the source, C identities
"""

import signal
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from zennas.data.images import CorruptImageError, augment, check_augmentations, decode
from zennas.records import UserError

ORDER, AUGMENT, MASK = 0, 1, 2  # what a random stream is for, so that no two share one
MAX_CORRUPT_IN_A_ROW = 1000  # then it is not an image that is broken but the data


class Batch(NamedTuple):
    """This rank's share of a global step."""

    step: int
    epoch: int
    image_BHW3: torch.Tensor  # uint8 RGB
    label_B: torch.Tensor  # int64
    index_B: torch.Tensor  # int64, of the images in the source
    corrupt: list  # (where, why) of the images that did not decode and were replaced


def epoch_order(label_N, *, seed, epoch, images_per_identity=None):
    """The images of an epoch (int64 indices) in the order in which they are seen.

    A permutation of all of them; or, with images_per_identity, that many of every identity that has any, drawn without
    replacement, and where it has fewer, each of its images equally often but for one.

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


def steps_per_epoch(source, batch, *, images_per_identity=None):
    """Whole batches in an epoch; UserError where there is not one."""
    num_identities = source.num_identities - source.num_empty_identities
    num_images = num_identities * images_per_identity if images_per_identity else source.num_images
    if batch > num_images:
        raise UserError(
            f"{source.path}: batch {batch} is larger than an epoch of {num_images} images"
            + (f" ({images_per_identity} of each of {num_identities} identities)" if images_per_identity else "")
        )
    return num_images // batch


class FaceStream:
    """Iterates the Batch of every global step from first_step to last_step - 1.

    batch: the global one; rank r of num_ranks gets its r-th share, in which nothing depends on their number.
    augmentations: name -> knobs; their randomness hangs on seed, epoch and place in the epoch's order. masker:
    (image_HW3, rng) -> image_HW3, asked before them, with a random stream of its own. A corrupt image is replaced by
    the next one in the source that decodes, and reported. Sources (and maskers) of several workers are forked or
    pickled.
    """

    def __init__(
        self,
        source,
        *,
        batch,
        image_px,
        seed,
        last_step,
        augmentations=None,
        masker=None,
        first_step=0,
        rank=0,
        num_ranks=1,
        num_workers=0,
        images_per_identity=None,
        pin_memory=False,
    ):
        if batch % num_ranks:
            raise UserError(f"batch {batch} cannot be shared by {num_ranks} ranks; allowed: a multiple of {num_ranks}")
        self.source, self.batch, self.seed = source, batch, seed
        self.rank, self.num_ranks, self.images_per_identity = rank, num_ranks, images_per_identity
        self.first_step, self.last_step = first_step, last_step
        self.steps_per_epoch = steps_per_epoch(source, batch, images_per_identity=images_per_identity)
        augmentations = check_augmentations(augmentations or {}, "augmentations")
        self._loader = DataLoader(
            _Batches(source, image_px, seed, augmentations, masker),
            batch_size=None,
            sampler=_Tasks(self),
            collate_fn=_unchanged,
            num_workers=num_workers,
            worker_init_fn=_quiet_worker,
            pin_memory=pin_memory,
            generator=torch.Generator().manual_seed(seed),  # else a draw from the global one, which is not ours
        )

    def __len__(self):
        return max(0, self.last_step - self.first_step)

    def __iter__(self):
        for batch in self._loader:
            if isinstance(batch, _Refused):
                raise UserError(batch.message)
            yield batch


class _Tasks:
    """What to load, step by step. The order of an epoch exists once, here, not in the workers."""

    def __init__(self, stream):
        self.stream = stream

    def __len__(self):
        return len(self.stream)

    def __iter__(self):
        stream, order, order_of = self.stream, None, None
        share = stream.batch // stream.num_ranks
        for step in range(stream.first_step, stream.last_step):
            epoch, place = divmod(step, stream.steps_per_epoch)
            if epoch != order_of:
                order_of = epoch
                order = epoch_order(
                    stream.source.label_N,
                    seed=stream.seed,
                    epoch=epoch,
                    images_per_identity=stream.images_per_identity,
                )
            start = place * stream.batch + stream.rank * share
            yield step, epoch, start, order[start : start + share].copy()


class _Refused(NamedTuple):
    """A UserError on its way out of a worker, which would bury it in a traceback."""

    message: str


class _Batches(Dataset):
    """(step, epoch, place of the first image in the epoch, index_B) -> Batch."""

    def __init__(self, source, image_px, seed, augmentations, masker):
        self.source, self.image_px, self.seed = source, image_px, seed
        self.augmentations, self.masker = augmentations, masker

    def __getitem__(self, task):
        step, epoch, start, index_B = task
        image_BHW3 = np.empty((len(index_B), self.image_px, self.image_px, 3), np.uint8)
        corrupt = []
        for number, index in enumerate(index_B):
            try:
                image_HW3, index_B[number] = self._decoded(int(index), corrupt)
            except UserError as error:
                return _Refused(str(error))
            if self.masker is not None:
                image_HW3 = self.masker(image_HW3, np.random.default_rng([self.seed, epoch, MASK, start + number]))
            if self.augmentations:
                rng = np.random.default_rng([self.seed, epoch, AUGMENT, start + number])
                image_HW3 = augment(image_HW3, self.augmentations, rng=rng)
            image_BHW3[number] = image_HW3
        label_B = torch.from_numpy(self.source.label_N[index_B].astype(np.int64))
        return Batch(step, epoch, torch.from_numpy(image_BHW3), label_B, torch.from_numpy(index_B), corrupt)

    def _decoded(self, index, corrupt):
        """(image_HW3, its index) of the first image from `index` on that decodes; those before it join `corrupt`."""
        for _ in range(min(MAX_CORRUPT_IN_A_ROW, self.source.num_images)):
            try:
                return decode(self.source.read(index), image_px=self.image_px), index
            except CorruptImageError as error:
                corrupt.append((self.source.where(index), str(error)))
                index = (index + 1) % self.source.num_images
        where, why = corrupt[-1]
        raise UserError(f"{self.source.path}: {len(corrupt)} images in a row do not decode; the last is {where}: {why}")


def _unchanged(batch):
    return batch


def _quiet_worker(_):
    """Ctrl-C, and SIGTERM to the whole group, are the parent's to answer: it still has a step to end. OpenCV's own
    threads would fight with the other workers for the cores."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
