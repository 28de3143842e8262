"""A new list for training: which identity every image of a source counts as, or that it is left out.

N images of the source, M of them that are kept
"""

import hashlib
import io
import pathlib
import zipfile
from typing import TYPE_CHECKING

import numpy as np

from zennas.data.image_set import ImageSet
from zennas.data.index import Names
from zennas.records import UserError
from zennas.run_folder import write_atomically

if TYPE_CHECKING:
    from zennas.data.sources import AnySource  # which imports this file

DROPPED = -1


def write_labels(path: pathlib.Path | str, source: "AnySource", label_N: np.ndarray) -> None:
    """Write the labels of a Source's images (whole numbers; DROPPED: left out) to an .npz, whole or not at all.

    A label is the number of an identity of the source; images of several that have one label become one identity, and
    numbers beyond the source's are identities of their own.
    """
    with io.BytesIO() as content:
        np.savez_compressed(content, label_N=np.asarray(label_N, np.int32), source=source.fingerprint)
        write_atomically(path, content.getvalue())


def relabelled(source: "AnySource", path: pathlib.Path | str) -> "Relabelled":
    """The Relabelled source that the file at `path` describes. UserError where it is none, or of another source."""
    path = pathlib.Path(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            label_N, fingerprint = file["label_N"], str(file["source"])
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, AttributeError):
        raise UserError(
            f"{path}: holds no labels; expected an .npz with label_N and source, as zennas writes"
        ) from None
    _check_bound(path, fingerprint, label_N, source)
    if label_N.dtype.kind not in "iu" or (label_N.size and label_N.min() < DROPPED):
        raise UserError(f"{path}: labels are whole numbers from 0 on, or {DROPPED} for an image that is left out")
    if not (label_N >= 0).any():
        raise UserError(f"{path}: leaves out all {label_N.size} images")
    return Relabelled(source, label_N)


def _check_bound(path, fingerprint, label_N, source):
    """UserError where labels were made of other images."""
    layout, _, content = source.fingerprint.partition("-")
    given_layout, _, given_content = fingerprint.partition("-")
    if given_layout != layout or label_N.shape != (source.num_images,):
        raise UserError(
            f"{path}: labels of other images ({label_N.size} images, {fingerprint}); "
            f"{source.path} has {source.num_images} ({source.fingerprint})"
        )
    # Labels of versions before 0.2 know names and places alone.
    if given_content and given_content != content:
        raise UserError(
            f"{path}: labels of other images: those of {source.path} have the same names, but some were replaced since "
            f"({fingerprint}, now {source.fingerprint}); make the labels anew"
        )


class Relabelled:
    """A Source with other labels and fewer images: what data/sources.Source offers, and nothing copied but labels.

    Identities are numbered from 0 in the order of their labels; none is empty.
    """

    num_empty_identities = 0

    def __init__(self, source, label_N: np.ndarray):
        label_N = np.asarray(label_N)
        self._source, self.path = source, source.path
        self.left_out, self.notices = source.left_out, source.notices
        self._which_M = np.flatnonzero(label_N >= 0)
        number_C, label_M = np.unique(label_N[self._which_M], return_inverse=True)
        self.label_N = label_M.astype(np.int32)
        self.num_images, self.num_identities = len(label_M), len(number_C)
        self.camera_N = None if source.camera_N is None else source.camera_N[self._which_M]
        names = source.identity_names
        numbers = number_C.tolist()
        named = [names[label] if names is not None and label < len(names) else str(label) for label in numbers]
        self.identity_names = Names.of(named)
        layout, _, content = source.fingerprint.partition("-")
        digest = hashlib.sha256(f"relabelled {layout}".encode())
        for column in (self._which_M, self.label_N):
            digest.update(np.ascontiguousarray(column).data)
        self.fingerprint = f"{digest.hexdigest()[:16]}-{content}"

    @property
    def content_N(self) -> np.ndarray:
        """As Source."""
        return self._source.content_N[self._which_M]

    def read(self, index: int) -> bytes:
        """As Source."""
        return self._source.read(int(self._which_M[index]))

    def where(self, index: int) -> str:
        """As Source."""
        return self._source.where(int(self._which_M[index]))

    def name(self, index: int) -> str | None:
        """As Source."""
        return self._source.name(int(self._which_M[index]))

    def record(self, index: int) -> int | None:
        """As Source."""
        return self._source.record(int(self._which_M[index]))

    @property
    def images(self) -> ImageSet:
        """As Source."""
        return ImageSet(self.num_images, self.read, self.where, self.fingerprint)

    def some(self, index_M: np.ndarray) -> ImageSet:
        """As Source."""
        return self._source.some(self._which_M[np.asarray(index_M, np.int64)])
