"""The order, and that a batch does not know how many ranks and workers there are."""

import multiprocessing
import signal

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zennas.data import stream as stream_module
from zennas.data.images import AUGMENTATIONS, decode
from zennas.data.recordio import RecordWriter
from zennas.data.sources import open_source
from zennas.data.stream import epoch_order, image_stream, steps_per_epoch
from zennas.records import UserError

COUNTS = [5, 1, 3, 12]  # images per identity
NUM_IMAGES = sum(COUNTS)
LABEL_N = np.repeat(np.arange(4), COUNTS)
ALL = {name: {"p": 0.5} for name in AUGMENTATIONS}


def encoded(number):
    image_HW3 = np.random.default_rng(number).integers(256, size=(16, 16, 3), dtype=np.uint8)
    return cv2.imencode(".png", image_HW3)[1].tobytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZENNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory, cache):
    with RecordWriter(tmp_path_factory.mktemp("faces")) as writer:
        for number, label in enumerate(LABEL_N):
            writer.add(encoded(number), int(label))
    return open_source(writer.folder)


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, cache):
    """Images 3, 4 and the last one do not decode."""
    with RecordWriter(tmp_path_factory.mktemp("damaged")) as writer:
        for number, label in enumerate(LABEL_N):
            writer.add(b"not an image" if number in (3, 4, NUM_IMAGES - 1) else encoded(number), int(label))
    return open_source(writer.folder)


def stream(source, **options):
    return image_stream(source, **{"batch": 8, "image_px": 16, "seed": 1, "last_step": 6, **options})


def flat(batches):
    return [
        (batch.step, batch.epoch, batch.image_BHW3.numpy().tobytes(), batch.label_B.tolist(), batch.index_B.tolist())
        for batch in batches
    ]


@given(st.integers(0, 2**31 - 1), st.integers(0, 1000))
def test_an_epoch_is_a_permutation(seed, epoch):
    order_N = epoch_order(LABEL_N, seed=seed, epoch=epoch)
    assert order_N.dtype == np.int64 and sorted(order_N) == list(range(NUM_IMAGES))
    assert (order_N == epoch_order(LABEL_N, seed=seed, epoch=epoch)).all()
    assert (order_N != epoch_order(LABEL_N, seed=seed, epoch=epoch + 1)).any()


@given(st.integers(0, 1000), st.integers(1, 7))
def test_a_balanced_epoch_has_as_many_of_each(seed, per_identity):
    label_N = np.random.default_rng(seed).permutation(np.repeat([0, 1, 3, 4], COUNTS))  # identity 2 has none
    order = epoch_order(label_N, seed=seed, epoch=2, images_per_identity=per_identity)
    assert np.bincount(label_N[order]).tolist() == [per_identity, per_identity, 0, per_identity, per_identity]
    times = np.bincount(order, minlength=NUM_IMAGES)
    for label, count in zip([0, 1, 3, 4], COUNTS, strict=True):
        of_it = times[label_N == label]
        # Without replacement where it can be; else each as often as the others but for one.
        assert of_it.max() - of_it.min() <= 1 and (of_it.max() == 1 or count < per_identity)


def test_a_balanced_epoch_draws_other_images_in_the_next_and_is_shuffled():
    orders = [epoch_order(LABEL_N, seed=0, epoch=epoch, images_per_identity=2) for epoch in range(200)]
    drawn = np.bincount(np.concatenate(orders), minlength=NUM_IMAGES)[LABEL_N == 3]
    assert drawn.min() > 0 and drawn.max() < 60  # 33 expected of 12 equal ones; sigma 5.3
    first = np.bincount(LABEL_N[[order[0] for order in orders]], minlength=4)
    assert first.min() > 25 and first.max() < 80  # 50 expected; sigma 6.1


def test_batches_follow_the_order(source):
    batches = list(stream(source))
    assert [batch.step for batch in batches] == list(range(6)) and [batch.epoch for batch in batches] == [
        0,
        0,
        1,
        1,
        2,
        2,
    ]
    assert steps_per_epoch(source, 8) == 2
    for batch in batches:
        order = epoch_order(LABEL_N, seed=1, epoch=batch.epoch)
        index_B = order[batch.step % 2 * 8 :][:8]
        assert batch.index_B.tolist() == index_B.tolist() and batch.label_B.tolist() == LABEL_N[index_B].tolist()
        expected = np.stack([decode(encoded(int(index))) for index in index_B])
        assert (batch.image_BHW3.numpy() == expected).all() and batch.corrupt == []
    assert batches[0].image_BHW3.dtype == torch.uint8 and batches[0].label_B.dtype == torch.int64
    assert batches[0].index_B.dtype == torch.int64


@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("images_per_identity", [None, 3])
def test_ranks_share_the_same_batches(source, num_ranks, images_per_identity):
    options = {"augmentations": ALL, "images_per_identity": images_per_identity}
    whole = list(stream(source, **options))
    parts = [list(stream(source, rank=rank, num_ranks=num_ranks, **options)) for rank in range(num_ranks)]
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        assert (torch.cat([share.image_BHW3 for share in shares]) == batch.image_BHW3).all()
        assert torch.cat([share.label_B for share in shares]).tolist() == batch.label_B.tolist()


def test_workers_change_nothing(source):
    alone = flat(stream(source, augmentations=ALL))
    assert flat(stream(source, augmentations=ALL, num_workers=2)) == alone


def test_a_stream_goes_on_where_it_stopped(source):
    whole = flat(stream(source, augmentations=ALL))
    assert flat(stream(source, augmentations=ALL, first_step=3)) == whole[3:]
    assert list(stream(source, first_step=6)) == [] and len(stream(source, first_step=4)) == 2


def test_augmentation_is_new_in_every_epoch_and_for_every_repetition(source):
    options = {"augmentations": {"random_erasing": {"p": 1.0}}, "images_per_identity": 4, "batch": 16}
    only = [  # identity 1 has one image, which stands four times in each epoch
        image.numpy().tobytes()
        for batch in stream(source, last_step=2, **options)
        for image, index in zip(batch.image_BHW3, batch.index_B, strict=True)
        if index == 5
    ]
    assert len(only) == 8 == len(set(only))
    other = flat(stream(source, last_step=2, **options | {"seed": 2}))
    assert other != flat(stream(source, last_step=2, **options))


def test_the_global_generators_are_left_alone(source):
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(5)
    np.random.seed(5)
    list(stream(source, augmentations=ALL))
    assert (torch.rand(1), np.random.rand()) == expected


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_corrupt_image_is_replaced_and_reported(damaged, num_workers):
    seen = {}
    for batch in stream(damaged, batch=NUM_IMAGES, last_step=1, num_workers=num_workers):
        order = epoch_order(LABEL_N, seed=1, epoch=0)
        for wanted, got in zip(order.tolist(), batch.index_B.tolist(), strict=True):
            seen[wanted] = got
        assert batch.label_B.tolist() == LABEL_N[batch.index_B].tolist()
        assert (batch.image_BHW3[batch.index_B.tolist().index(5)].numpy() == decode(encoded(5))).all()
        # Image 4 is met twice: in its own place, and on the way from 3.
        assert (
            sorted(where for where, _ in batch.corrupt)
            == ["train.rec, record 21"] + ["train.rec, record 4"] + ["train.rec, record 5"] * 2
        )
        assert all("no image" in why for _, why in batch.corrupt)
    assert seen == {number: number for number in range(NUM_IMAGES)} | {3: 5, 4: 5, NUM_IMAGES - 1: 0}


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="the worker must inherit the probe")
def test_workers_leave_cores_and_interrupts_alone(source, monkeypatch):
    def probe(*_, **__):
        ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        return np.full((16, 16, 3), 10 * cv2.getNumThreads() + ignored, np.uint8), 0

    monkeypatch.setattr(stream_module.ImageReader, "_decoded", probe)
    (batch,) = stream(source, last_step=1, num_workers=1)
    assert batch.image_BHW3.unique().tolist() == [11]  # OpenCV counts the calling thread


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_without_one_good_image_stops(tmp_path, cache, num_workers):
    with RecordWriter(tmp_path) as writer:
        for _ in range(4):
            writer.add(b"not an image", 0)
    with pytest.raises(UserError, match=r"4 images in a row do not decode; the last is train.rec, record") as caught:
        list(stream(open_source(tmp_path), batch=2, last_step=1, num_workers=num_workers))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 22}, "batch 22 is larger than an epoch of 21 images"),
        ({"batch": 10, "images_per_identity": 2}, r"an epoch of 8 images \(2 of each of 4 identities\)"),
        ({"num_ranks": 3}, "batch 8 cannot be shared by 3 ranks; allowed: a multiple of 3"),
        ({"augmentations": {"flop": {}}}, "augmentation 'flop' is not known; did you mean 'flip'"),
    ],
)
def test_what_cannot_be_streamed_is_said(source, options, says):
    with pytest.raises(UserError, match=says):
        stream(source, **options)
