"""Images that stand in a set and in what is trained on: found by their bytes in every layout, without reading the
source."""

import types

import numpy as np
import pytest

from tests.data.test_content import NAMES, each_layout
from zennas.data import sources, twins
from zennas.data.image_set import ImageSet
from zennas.data.images import UnreadableImageError
from zennas.data.labels import DROPPED, write_labels
from zennas.data.sources import open_source

ADA, MAX, ZOE = b"Ada" * 30, b"Max" * 30, b"Zoe" * 20


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ZENNAS_CACHE", str(tmp_path / "cache"))


def set_of(*images):
    """An ImageSet of bytes; an error stands for what cannot be read."""

    def read(image):
        if isinstance(images[image], Exception):
            raise images[image]
        return images[image]

    return ImageSet(len(images), read, str, "")


def found(source, *images):
    """{image of the set: image of the source}"""
    same = twins.twins(source, set_of(*images))
    return dict(zip(same.image_T.tolist(), same.index_T.tolist(), strict=True))


@each_layout
def test_they_are_found_in_every_layout(layout, tmp_path):
    source = open_source(layout(tmp_path / "set", (ADA, MAX, MAX)))
    assert [source.read(image) for image in range(len(NAMES))] == [ADA, MAX, MAX]
    assert found(source, ZOE, MAX, b"", ADA, MAX) == {1: 1, 3: 0, 4: 1}
    assert found(source, ZOE) == {}


def test_what_labels_leave_out_is_not_trained_on(tmp_path):
    source = open_source(each_layout.args[1][0](tmp_path / "set", (ADA, MAX, ZOE)))
    write_labels(tmp_path / "labels.npz", source, np.array([0, DROPPED, 1]))
    kept = open_source(tmp_path / "set", labels=tmp_path / "labels.npz")
    assert found(kept, ADA, MAX, ZOE) == {0: 0, 2: 1}


def test_what_the_digest_of_a_large_image_passes_over_is_compared(tmp_path):
    """Of more than 64 kB four pieces are looked at."""
    large = bytearray(np.random.default_rng(0).bytes(200_000))
    other = large.copy()
    other[30_000] ^= 1
    source = open_source(each_layout.args[1][0](tmp_path / "set", (ADA, bytes(large), MAX)))
    assert found(source, bytes(other), bytes(large)) == {1: 1}


def test_what_cannot_be_read_is_nobodys_twin(tmp_path):
    """The digest of both would be that of the fault."""
    folder = each_layout.args[1][0](tmp_path / "set", (ADA, MAX, ZOE))
    source = open_source(folder)
    (folder / NAMES[1]).unlink()
    assert found(source, UnreadableImageError("gone"), MAX, ADA) == {2: 0}


def test_of_a_large_tar_a_sample_is_compared_and_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "MOST_IMAGES", 2)
    source = open_source(each_layout.args[1][1](tmp_path / "set", (ADA, MAX, ZOE)))
    same = twins.twins(source, set_of(ZOE, MAX, ADA))
    assert (same.image_T.tolist(), same.index_T.tolist(), same.num_compared) == ([0, 2], [2, 0], 2)


def test_a_million_images_are_not_read(monkeypatch):
    """Against a plain loop over digests, in pieces; of the source what is the same is read alone."""
    monkeypatch.setattr(twins, "ROWS", 7)
    digests = np.array([twins.digest_of_bytes(b"%d" % (number % 40)) for number in range(100)], np.uint64)
    read = []
    source = types.SimpleNamespace(
        num_images=100, content_N=digests, read=lambda image: read.append(image) or b"%d" % (image % 40)
    )
    images = [b"%d" % number for number in range(30, 60)]
    first = {place: images.index(b"%d" % place) for place in range(30, 40)}
    assert found(source, *images) == {image: place for place, image in first.items()}
    assert sorted(read) == list(range(30, 40))
