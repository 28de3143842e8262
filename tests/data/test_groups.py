"""Groups: K images of each of P people side by side, everybody and every image in turn, whole whatever is broken."""

import itertools
import pickle
import tracemalloc

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zennas.data import stream as stream_module
from zennas.data.groups import Groups, People, people_in, people_of_batch
from zennas.data.images import AUGMENTATIONS, decode
from zennas.data.recordio import RecordWriter
from zennas.data.sources import open_source
from zennas.data.stream import image_stream, steps_per_epoch
from zennas.records import UserError

COUNTS = [5, 1, 3, 12, 4, 2, 7, 4, 9]  # images per person
LABEL_N = np.repeat(np.arange(9), COUNTS)
NUM_IMAGES = sum(COUNTS)
FIRST = np.cumsum(COUNTS) - COUNTS  # of each person's images
K, P = 4, 4
BATCH = K * P
STEPS = 3  # 9 people in batches of 4: the last one is filled up with 3
ALL = {name: {"p": 0.5} for name in AUGMENTATIONS}


def encoded(number):
    image_HW3 = np.random.default_rng(number).integers(256, size=(16, 8, 3), dtype=np.uint8)
    return cv2.imencode(".png", image_HW3)[1].tobytes()


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZENNAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def written(tmp_path_factory, cache):
    """written(bad) -> the Source of all images, those of `bad` without a picture in them."""

    def made(bad=()):
        with RecordWriter(tmp_path_factory.mktemp("people")) as writer:
            for number, label in enumerate(LABEL_N):
                writer.add(b"not an image" if number in bad else encoded(number), int(label))
        return open_source(writer.folder)

    return made


@pytest.fixture(scope="module")
def source(written):
    return written()


def stream(source, **options):
    given = {"batch": BATCH, "image_px": (16, 8), "seed": 1, "last_step": 2 * STEPS, "together": K}
    return image_stream(source, **given | options)


def flat(batches):
    return [
        (batch.step, batch.epoch, batch.image_BHW3.numpy().tobytes(), batch.label_B.tolist(), batch.index_B.tolist())
        for batch in batches
    ]


# --- the order -------------------------------------------------------------------------------------------------------

people = st.tuples(
    st.lists(st.integers(0, 9), min_size=8, max_size=30).filter(lambda counts: sum(map(bool, counts)) >= 5),
    st.integers(1, 6),
    st.integers(2, 5),
    st.integers(0, 2**31 - 1),
)


def some_cameras(label_N, seed, known=True):
    """Of which image; rare ones and common ones."""
    return np.random.default_rng(seed).geometric(0.5, len(label_N)) - 1 if known else None


@given(people, st.integers(0, 1000), st.booleans())
def test_an_epoch_is_everybody_once_and_nobody_twice_in_a_batch(drawn, epoch, known):
    counts, together, num, seed = drawn
    label_N = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(counts)), counts))
    cameras = some_cameras(label_N, seed, known)
    groups = Groups(label_N, together=together, people=num, seed=seed, camera_N=cameras)
    order = groups.order(epoch)
    assert order.dtype == np.int64 and (order == groups.order(epoch)).all()
    label_SPK = label_N[order].reshape(-1, num, together)
    assert (label_SPK == label_SPK[..., :1]).all()
    everybody = {label for label, count in enumerate(counts) if count}
    assert len(label_SPK) == groups.num_steps == -(-len(everybody) // num)
    for label_PK in label_SPK:
        assert len(set(label_PK[:, 0])) == num
    times = np.bincount(label_SPK[..., 0].ravel(), minlength=len(counts))
    assert {label for label in everybody if times[label]} == everybody and times.max() <= 2
    for image_K, label in zip(order.reshape(-1, together), label_SPK[..., 0].ravel(), strict=True):
        each = np.unique(image_K, return_counts=True)[1]
        # Different ones where there are as many; else all of them, equally often but for one.
        assert len(each) == min(together, counts[label]) and np.ptp(each) <= 1
    places = [set(label_SPK[:, place, 0]) for place in range(num)]
    assert sum(map(len, places)) == len(set.union(*places))  # who may stand in at a place stands nowhere else


@given(people, st.booleans())
def test_every_image_of_everybody_comes_in_a_round(drawn, known):
    """Counted: in ceil(n / K) epochs each of the n images once or twice, or evenly where there are few. Who fills up a
    last batch is not counted here: that is more than it takes."""
    counts, together, num, seed = drawn
    label_N = np.repeat(np.arange(len(counts)), counts)
    cameras = some_cameras(label_N, seed, known)
    groups = Groups(label_N, together=together, people=num, seed=seed, camera_N=cameras)
    everybody = sum(map(bool, counts))
    seen = [np.bincount(groups.order(epoch)[: everybody * together], minlength=len(label_N)) for epoch in range(2 * 9)]
    for label, count in enumerate(counts):
        turns = -(-count // together)
        for first in range(0, 18 - 2 * turns + 1, max(1, turns)) if count else ():
            times = sum(seen[first : first + turns])[label_N == label]
            assert times.min() >= 1 and np.ptp(times) <= 1


def test_images_are_seen_equally_often_and_any_two_of_a_person_meet():
    groups = Groups(LABEL_N, together=K, people=P, seed=0)
    times, met = np.zeros(NUM_IMAGES, int), set()
    for epoch in range(300):
        order_GK = groups.order(epoch).reshape(-1, K)
        times += np.bincount(order_GK.ravel(), minlength=NUM_IMAGES)
        met |= {pair for group in order_GK.tolist() for pair in itertools.combinations(sorted(group), 2)}
    for label, count in enumerate(COUNTS):
        of_it = np.flatnonzero(label == LABEL_N)
        # Everybody comes 300 times, and a third of the time once more (3 of 9 people fill up): 400 groups of K.
        mean = 400 * K / count
        assert abs(times[of_it] / mean - 1).max() < 0.15
        assert set(itertools.combinations(of_it.tolist(), 2)) <= met


def test_the_cameras_of_a_person_are_spread_over_the_groups():
    """Counted by hand: of person 0 (4 cameras, 3 images each) every group has one of each; of person 1 (6 and 2 images)
    every group has both cameras; of the others (one camera) nothing is asked. The order within a camera is drawn."""
    label_N = np.repeat([0, 1, 2, 3], [12, 8, 8, 4])
    camera_N = np.array([*np.tile([5, 1, 0, 7], 3), 2, 2, 0, 2, 2, 0, 2, 2, *[3] * 12])
    groups = Groups(label_N, together=4, people=2, seed=0, camera_N=camera_N)
    seen = set()
    for epoch in range(60):
        for group in groups.order(epoch).reshape(-1, 4):
            num = len(set(camera_N[group]))
            assert num == {0: 4, 1: 2, 2: 1, 3: 1}[label_N[group[0]]]
            seen.add(tuple(sorted(group.tolist())))
    assert sum(label_N[group[0]] == 0 for group in seen) > 40  # of 3^4 = 81 that there are
    without = Groups(label_N, together=4, people=2, seed=0)
    drawn = [group for epoch in range(60) for group in without.order(epoch).reshape(-1, 4) if label_N[group[0]] == 1]
    assert np.mean([len(set(camera_N[group])) == 2 for group in drawn]) < 0.9  # 11 of 14 by chance


def test_people_meet_other_people_in_every_epoch():
    groups = Groups(LABEL_N, together=K, people=P, seed=0)
    first = np.array([LABEL_N[groups.order(epoch)[0]] for epoch in range(900)])
    assert abs(np.bincount(first) - 100).max() < 4 * 9.5  # sqrt(900 / 9 * 8 / 9) = 9.4: four sigmas
    other = Groups(LABEL_N, together=K, people=P, seed=1)
    assert (other.order(0) != groups.order(0)).any()


def test_who_fills_up_the_last_batch_shows_other_images():
    label_N = np.repeat(np.arange(3), 8)
    for epoch in range(6):
        order_GK = Groups(label_N, together=4, people=2, seed=3).order(epoch).reshape(-1, 4)
        first, again = order_GK[1], order_GK[3]
        assert label_N[first[0]] == label_N[again[0]] and not set(first) & set(again)


@pytest.mark.slow
def test_a_million_people():
    """Of 1 to 100 images, ten millions in all: nothing is a Python object of each, and nothing is long."""
    rng = np.random.default_rng(0)
    label_N = np.repeat(np.arange(1_000_000, dtype=np.int32), rng.geometric(0.1, 1_000_000).clip(max=100))
    tracemalloc.start()
    groups = Groups(label_N, together=4, people=256, seed=0)
    order = groups.order(5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 40 * len(label_N)  # bytes an image, sorting included
    assert len(order) == 4 * 256 * -(-1_000_000 // 256) and len(pickle.dumps(order)) < 33_000_000
    label_SPK = label_N[order].reshape(-1, 256, 4)
    assert (label_SPK == label_SPK[..., :1]).all()
    assert (np.diff(np.sort(label_SPK[..., 0], axis=1)) > 0).all()
    assert len(np.unique(label_SPK)) == 1_000_000


def test_people_are_counted_by_what_they_can_be_used_for():
    camera_N = np.zeros(NUM_IMAGES, int)
    camera_N[FIRST[3] : FIRST[3] + 2] = 7
    camera_N[FIRST[6]] = 7
    counted = people_in(LABEL_N, K, camera_N=camera_N)
    assert counted == People(4, num_people=9, num_short=3, num_single=1, num_one_camera=6)
    assert counted.text == (
        "3 of 9 people have fewer than 4 images, which repeat; 1 of them with one image, so without a positive; "
        "6 of 9 people have several images of one camera alone"
    )
    assert people_in(np.repeat([0, 2], 4), K) == People(4, 2, 0, 0, None) and people_in(np.repeat([0], 4), K).text == ""


# --- the stream ------------------------------------------------------------------------------------------------------


def test_batches_follow_the_order(source):
    groups = Groups(LABEL_N, together=K, people=P, seed=1)
    batches = list(stream(source))
    assert steps_per_epoch(source, BATCH, together=K) == STEPS
    assert [batch.epoch for batch in batches] == [0] * STEPS + [1] * STEPS
    for batch in batches:
        place = batch.step % STEPS * BATCH
        index_B = groups.order(batch.epoch)[place : place + BATCH]
        assert batch.index_B.tolist() == index_B.tolist() and batch.label_B.tolist() == LABEL_N[index_B].tolist()
        assert (batch.image_BHW3.numpy() == np.stack([decode(encoded(int(index))) for index in index_B])).all()
        assert batch.corrupt == [] == batch.gone


def test_any_step_can_be_begun_with(source):
    whole = flat(stream(source, augmentations=ALL))
    for step in range(2 * STEPS):
        assert flat(stream(source, augmentations=ALL, first_step=step)) == whole[step:]


@pytest.mark.parametrize("bad", [(), (0, 1, 17, 40), range(FIRST[6], FIRST[7])], ids=["whole", "corrupt", "a person"])
@pytest.mark.parametrize("num_ranks", [2, 4])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_ranks_and_workers_change_nothing(written, bad, num_ranks, num_workers):
    source = written(bad)
    whole = list(stream(source, augmentations=ALL))
    parts = [
        list(stream(source, augmentations=ALL, rank=rank, num_ranks=num_ranks, num_workers=num_workers))
        for rank in range(num_ranks)
    ]
    for step, batch in enumerate(whole):
        shares = [part[step] for part in parts]
        for share in shares:
            label_PK = share.label_B.reshape(-1, K)
            assert len(label_PK) == P // num_ranks and (label_PK == label_PK[:, :1]).all()
        assert torch.equal(torch.cat([share.image_BHW3 for share in shares]), batch.image_BHW3)
        assert torch.cat([share.index_B for share in shares]).tolist() == batch.index_B.tolist()
        assert [*itertools.chain(*(share.corrupt for share in shares))] == batch.corrupt
        assert [*itertools.chain(*(share.gone for share in shares))] == batch.gone


def test_micro_batches_hold_whole_people(source):
    (batch,) = stream(source, last_step=1)
    halves = [batch.micro(number, 2) for number in range(2)]
    assert all((half.label_B.reshape(-1, K) == half.label_B[::K, None]).all() for half in halves)
    assert torch.equal(torch.cat([half.index_B for half in halves]), batch.index_B)


# --- what does not decode --------------------------------------------------------------------------------------------


def places_of(batches):
    return [index for batch in batches for index in batch.index_B.tolist()]


def test_a_corrupt_image_is_replaced_by_another_of_the_same_person(source, written):
    """Of the 12 of person 3 three are broken, of the 5 of person 0 one; of the 4 of person 4 one, so another repeats;
    of the 2 of person 5 one, so the other stands alone."""
    bad = {FIRST[3], FIRST[3] + 5, FIRST[3] + 6, FIRST[0] + 4, FIRST[4] + 1, FIRST[5]}
    damaged = written(bad)
    last_step = 8 * STEPS
    asked, batches = places_of(stream(source, last_step=last_step)), list(stream(damaged, last_step=last_step))
    got, seen = places_of(batches), set()
    for first in range(0, len(asked), K):
        wanted, chosen = asked[first : first + K], got[first : first + K]
        label = LABEL_N[wanted[0]]
        assert (LABEL_N[chosen] == label).all() and not bad & set(chosen)
        # What decodes stays at its place.
        assert [index for index in wanted if index not in bad] == [
            now for now, then in zip(chosen, wanted, strict=True) if then not in bad
        ]
        num_good = sum(LABEL_N[index] == label for index in range(NUM_IMAGES) if index not in bad)
        times = np.unique(chosen, return_counts=True)[1]
        assert len(times) == min(K, num_good) and np.ptp(times) <= 1
        seen |= set(chosen)
    assert seen == set(range(NUM_IMAGES)) - bad
    told = {where for batch in batches for where, _ in batch.corrupt}
    assert told == {f"train.rec, record {index + 1}" for index in bad} and not any(batch.gone for batch in batches)
    for batch in batches:
        assert (
            batch.image_BHW3.numpy() == np.stack([decode(encoded(index)) for index in batch.index_B.tolist()])
        ).all()


@pytest.mark.parametrize("num", [2, 3, 4])
def test_a_person_without_an_image_leaves_and_is_told(source, written, num):
    """By batches of so many people. Of 9 people two have no image: in batches of 4 both may be of one column."""
    damaged, left = written([*range(FIRST[6], FIRST[7]), FIRST[1]]), 0
    options = {"batch": num * K, "last_step": 30 * -(-9 // num)}
    for asked, batch in zip(stream(source, **options), stream(damaged, **options), strict=True):
        label_P, wanted_P = batch.label_B[::K].tolist(), asked.label_B[::K].tolist()
        assert (batch.label_B.reshape(num, K) == batch.label_B[::K, None]).all()
        assert len(set(label_P)) == num or num == 4
        missing = {1, 6} & set(wanted_P)
        assert all(now == then for now, then in zip(label_P, wanted_P, strict=True) if then not in missing)
        assert {1, 6}.isdisjoint(label_P)
        assert {f"identity {label}" for label in missing} <= {who for who, _ in batch.gone}
        assert all(why == "none of its images decodes" for _, why in batch.gone)
        left += len(missing)
    assert left > 50


def test_where_nobody_is_free_somebody_stands_twice(written):
    damaged = written(range(FIRST[6], FIRST[7]))
    (batch,) = stream(damaged, batch=9 * K, last_step=1)
    assert sorted(np.bincount(batch.label_B, minlength=9).tolist()) == [0, *[K] * 7, 2 * K]
    assert batch.gone == [("identity 6", "none of its images decodes")]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_data_without_one_good_image_stops(written, num_workers):
    damaged = written(range(NUM_IMAGES))
    with pytest.raises(UserError, match=r"\d+ images in a row do not decode; the last is train.rec, record"):
        list(stream(damaged, last_step=1, num_workers=num_workers))


def test_data_with_many_broken_images_stops_early(written, monkeypatch):
    monkeypatch.setattr(stream_module, "MAX_CORRUPT_IN_A_ROW", 10)
    damaged = written(range(1, NUM_IMAGES))
    with pytest.raises(UserError, match=r"1\d images in a row do not decode") as caught:
        list(stream(damaged, last_step=3 * STEPS))
    assert "identity" not in str(caught.value)


def test_a_reader_travels_without_the_groups(source):
    reader = stream(source)._reader
    order = reader.groups.order(0)
    again = pickle.loads(pickle.dumps(reader))
    assert "groups" not in vars(again) and (again.groups.order(0) == order).all()


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_cameras_reach_the_batches(source, num_ranks):
    camera_N = some_cameras(LABEL_N, 0)
    groups = Groups(LABEL_N, together=K, people=P, seed=1, camera_N=camera_N)
    shares = [stream(source, camera_N=camera_N, rank=rank, num_ranks=num_ranks) for rank in range(num_ranks)]
    got = [torch.cat([batch.index_B for batch in step]).tolist() for step in zip(*shares, strict=True)]
    assert np.concatenate(got).tolist() == [*groups.order(0).tolist(), *groups.order(1).tolist()]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch": 18}, "batch 18 cannot hold 4 images of each; allowed: a multiple of 4"),
        ({"batch": 4}, "batch 4 with 4 images of each is one person; allowed: at least 8"),
        ({"batch": 40}, "a batch of 40 images, 4 of each, takes 10 people; there are 9"),
        (
            {"num_ranks": 3},
            "batch 16 is 4 people of 4 images, who cannot be shared out whole over 3 ranks; allowed: a m",
        ),
    ],
)
def test_what_cannot_be_grouped_is_said(source, options, says):
    with pytest.raises(UserError, match=says):
        stream(source, **options)


def test_micro_batches_that_would_part_people_are_refused():
    assert people_of_batch(64, 4, num_ranks=4, accumulate=2) == 16
    with pytest.raises(
        UserError, match=r"16 people of 4 images, .* over 4 ranks in 8 micro-batches each; allowed: a multi"
    ):
        people_of_batch(64, 4, num_ranks=4, accumulate=8)
