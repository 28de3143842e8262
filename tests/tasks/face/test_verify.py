"""What a network in training is judged on: sets that can be used, and the same embeddings whatever the batch."""

import pickle
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from zennas.records import UserError
from zennas.tasks.face.task import FACE
from zennas.tasks.face.verify import embed, open_set
from zennas.track import load_track

PX = 6


def png(value):
    return cv2.imencode(".png", np.full((PX, PX, 3), value, np.uint8))[1].tobytes()


@pytest.fixture
def set_of(tmp_path):
    """set_of(images, same) -> the path of a set of pairs."""

    def written(images, same):
        path = tmp_path / "pairs.bin"
        path.write_bytes(pickle.dumps((images, same), 3))
        return str(path)

    return written


def test_a_set_whose_first_image_is_none_is_refused_before_any_training(set_of):
    with pytest.raises(UserError, match=r"pairs: pairs.bin, image 0: 8 bytes that are no image"):
        open_set(set_of([b"no image", *map(png, range(3))], [True, False]))


@pytest.mark.parametrize("batch", [1, 3, 4, 100])
def test_an_embedding_is_that_of_the_image_and_its_mirror_and_a_corrupt_image_has_none(set_of, batch):
    values = (10, 20, 30, 40, 50)
    images = [*map(png, values), b"no image", png(70), png(80)]
    pair_set, counts = open_set(set_of(images, [True, True, False, False])), []

    def embed_batch(image_BHW3):
        assert len(image_BHW3) <= batch
        return image_BHW3.float().mean((1, 2))

    embedding_ND, corrupt = embed(
        pair_set.images, embed_batch, image_px=PX, batch=batch, progress=lambda *count: counts.append(count)
    )
    expected = torch.tensor([*values, 0, 70, 80]) * 2.0
    assert corrupt == [5] and torch.equal(embedding_ND, expected[:, None].expand(-1, 3))
    assert counts == [(min(start + batch, 8), 8) for start in range(0, 8, batch)]


def test_the_next_command_judges_on_the_sets_that_were_verified_on():
    request = SimpleNamespace(asked_track="webface-sfr", track=load_track("webface-sfr"), out="runs/a")
    evaluate = FACE.next_commands(request, ("my.csv@faces", "cfp.bin"))[0]
    assert evaluate[5:] == ["--set", "my.csv@faces", "--set", "cfp.bin", "--track", "webface-sfr"]
    assert FACE.next_commands(request)[0][5:7] == ["--set", "lfw.bin"]
