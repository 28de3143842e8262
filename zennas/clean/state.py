"""What is known of every image while identities are cleaned.

N images, P pairs of identities
"""

from typing import NamedTuple, Self

import numpy as np

from zennas.data.labels import DROPPED

# Why an image is not what it was. The number is what arrays hold; the text stands in tables.
REASONS = (
    "",
    "no embedding",
    "identity merged",
    "duplicate in another identity",
    "nearer to another identity",
    "far from its identity",
    "identity too small",
    "taken back",
)
NONE, UNUSABLE, MERGED, DUPLICATE, NEARER, FAR, SMALL, TAKEN_BACK = range(len(REASONS))
KEPT, MOVED, DROP = "kept", "moved", "dropped"  # decisions; "merged" is a reason of images that are kept


class Merges(NamedTuple):
    """Pairs of identities that were found to be one person: numbers, cosine of their centres, round."""

    one_P: np.ndarray
    other_P: np.ndarray
    cosine_P: np.ndarray
    round_P: np.ndarray

    @classmethod
    def none(cls) -> Self:
        """No pair."""
        return cls(*(np.empty(0, dtype) for dtype in (np.int64, np.int64, np.float32, np.int16)))

    def joined_with(self, one_P: np.ndarray, other_P: np.ndarray, cosine_P: np.ndarray, number: int) -> Self:
        """These, and those of round `number`."""
        round_P = np.full(len(one_P), number, np.int16)
        added = (one_P, other_P, cosine_P, round_P)
        return type(self)(*(np.append(old, new).astype(old.dtype) for old, new in zip(self, added, strict=True)))


class State(NamedTuple):
    """label_N: the identity that an image counts as, or DROPPED. Cosines are NaN where nothing was compared."""

    label_N: np.ndarray  # int32
    reason_N: np.ndarray  # uint8, a place in REASONS
    round_N: np.ndarray  # int16, in which the reason was given; 0: none was
    own_N: np.ndarray  # float32, to the centre of its identity when it was last judged
    other_N: np.ndarray  # float32, to the nearest centre of another identity
    nearest_N: np.ndarray  # int32, that identity; -1 where none
    twin_N: np.ndarray  # int64, the image that it is a duplicate of; -1 where none
    moved_N: np.ndarray  # int32, the identity that it was moved to; -1 where none
    merges: Merges = Merges.none()

    @classmethod
    def of(cls, label_N: np.ndarray) -> Self:
        """Images of which nothing is known but whom they are said to show."""
        num = len(label_N)
        nothing = np.full(num, np.nan, np.float32)
        return cls(
            np.array(label_N, np.int32),
            np.zeros(num, np.uint8),
            np.zeros(num, np.int16),
            nothing,
            nothing.copy(),
            np.full(num, -1, np.int32),
            np.full(num, -1, np.int64),
            np.full(num, -1, np.int32),
        )

    def judged(self, image_M: np.ndarray, reason: int, number: int, *, label: int | np.ndarray = DROPPED) -> Self:
        """The State in which round `number` gave images a reason and another label (one, or one each)."""
        label_N, reason_N, round_N = self.label_N.copy(), self.reason_N.copy(), self.round_N.copy()
        label_N[image_M], reason_N[image_M], round_N[image_M] = label, reason, number
        return self._replace(label_N=label_N, reason_N=reason_N, round_N=round_N)

    def compared(self, image_M: np.ndarray, **columns: np.ndarray) -> Self:
        """The State with other values of some images in these columns."""
        changed = {}
        for name, values in columns.items():
            changed[name] = getattr(self, name).copy()
            changed[name][image_M] = values
        return self._replace(**changed)
